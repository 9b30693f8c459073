//! What it costs to keep things: commits of flagged samples, claims, and reads.
#![allow(clippy::expect_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{TimeDelta, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{Expect, Fence, Indexed, Key, Kind, MemoryStore, Scan, SqliteStore, Store, Write};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A flagged sample of 1 KB with a new id that, as those of predictions, rises with time.
fn sample(pipeline: &Arc<str>) -> Write {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let indexed = Indexed { state: "flagged", rank: n as i64, due: None };
    let id = format!("01900000-0000-7000-8000-{n:012x}");
    let body = format!("{{\"id\":\"{id}\",\"row\":\"{:x<960}\"}}", "").into_bytes();
    Write { kind: Kind::Sample, key: Key::new(pipeline, id), expect: Expect::Absent, indexed, body: body.into() }
}

fn stores(directory: &Path) -> Vec<(&'static str, Arc<dyn Store>)> {
    let sqlite = SqliteStore::open(directory.join("feedloop.db")).expect("a store");
    vec![("memory", Arc::new(MemoryStore::default())), ("sqlite", Arc::new(sqlite))]
}

fn store(criterion: &mut Criterion) {
    // Not in /tmp, which may be memory: flushes are what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let stores = stores(directory.path());
    let pipeline: Arc<str> = "fraud".into();
    let mut group = criterion.benchmark_group("store");

    for (name, store) in &stores {
        for units in [1_usize, 100, 1_000] {
            group.throughput(Throughput::Elements(units as u64));
            group.bench_function(BenchmarkId::new(format!("commit/{name}"), units), |bencher| {
                let mut out = Vec::new();
                bencher.iter_batched(
                    || (0..units).map(|_| sample(&pipeline)).collect::<Vec<_>>(),
                    |samples| {
                        let units: Vec<&[Write]> = samples.chunks(1).collect();
                        store.commit(&units, &Fence::None, &mut out).expect("a commit");
                        samples
                    },
                    criterion::BatchSize::PerIteration,
                );
            });
        }

        let tasks: Vec<Write> =
            (0..1_000).map(|_| sample(&pipeline)).map(|write| Write { kind: Kind::Task, ..write }).collect();
        let tasks: Vec<Write> = tasks
            .into_iter()
            .map(|write| Write { indexed: Indexed { state: "open", ..write.indexed }, ..write })
            .collect();
        store.commit(&[&tasks], &Fence::None, &mut Vec::new()).expect("a commit");

        group.throughput(Throughput::Elements(10));
        group.bench_function(format!("claim/{name}/10"), |bencher| {
            let now = Utc::now();
            bencher.iter(|| {
                // Leases that have ended, so that the queue never runs dry.
                store
                    .claim(&pipeline, Kind::Task, 10, now, now - TimeDelta::days(1), "ann", &|_| false)
                    .expect("a claim")
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("get/{name}"), |bencher| {
            let id = &tasks[500].key.id;
            bencher.iter(|| store.get(&pipeline, Kind::Task, id).expect("a record"));
        });
        group.bench_function(format!("count/{name}"), |bencher| {
            bencher.iter(|| store.count(&pipeline, Kind::Sample, Some("flagged")).expect("a count"));
        });
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("scan/{name}/100"), |bencher| {
            let scan =
                Scan { pipeline: &pipeline, kind: Kind::Sample, state: Some("flagged"), after: None, limit: 100 };
            bencher.iter(|| store.scan(&scan).expect("a page"));
        });
    }
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
