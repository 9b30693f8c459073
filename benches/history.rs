//! What the SQLite store costs as its history grows: a table, one line per size. Times are the least and the median of some
//! repetitions on the wall; `cpu` is processor time of the committing thread.
//!
//!     cargo bench --bench history -- 10000 100000 1000000 body=300
//!
//! `random` makes ids as a host does that names its predictions itself: they do not rise with time.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use common::{Stream, ThreadTime};
use feedloop::{Expect, Fence, Indexed, Key, Kind, Pipeline, Scan, SqliteStore, Store, Write};

/// Samples of one commit, as a burst of the worker makes them.
const GROUP: usize = 1_000;
const TASKS: usize = 1_000;

struct History {
    pipeline: Arc<str>,
    body: usize,
    random: bool,
    next: u64,
}

impl History {
    fn id(&self, n: u64) -> String {
        let n = if self.random { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { n };
        format!("{:08x}-{:04x}-7000-8000-{:012x}", n >> 32, (n >> 16) & 0xffff, n & 0xffff)
    }

    fn write(&mut self, kind: Kind, state: &'static str) -> Write {
        self.next += 1;
        Write { expect: Expect::Absent, ..self.rewrite(self.next - 1, kind, state) }
    }

    fn rewrite(&self, n: u64, kind: Kind, state: &'static str) -> Write {
        let (id, pipeline) = (self.id(n), &self.pipeline);
        let body = format!("{{\"id\":\"{id}\",\"row\":\"{:x<1$}\"}}", "", self.body.saturating_sub(55)).into_bytes();
        let indexed = Indexed { state, rank: n as i64, due: None };
        Write { kind, key: Key::new(pipeline, id), expect: Expect::Any, indexed, body: body.into() }
    }

    fn commit(&mut self, store: &dyn Store, samples: usize) -> (Duration, Duration) {
        let writes: Vec<Write> = (0..samples).map(|_| self.write(Kind::Sample, "skipped")).collect();
        let units: Vec<&[Write]> = writes.chunks(1).collect();
        let (start, cpu) = (Instant::now(), ThreadTime::now());
        store.commit(&units, &Fence::None, &mut Vec::new()).expect("a commit");
        (start.elapsed(), ThreadTime::now().saturating_sub(cpu))
    }
}

/// The least and the median.
struct Times(Vec<Duration>);

impl Times {
    fn of(repetitions: usize, mut work: impl FnMut(usize)) -> Self {
        Times::taken((0..repetitions).map(|n| {
            let start = Instant::now();
            work(n);
            start.elapsed()
        }))
    }

    fn taken(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        Times(times)
    }

    fn least(&self) -> f64 {
        self.0[0].as_secs_f64() * 1e6
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2].as_secs_f64() * 1e6
    }

    fn micros(&self) -> String {
        format!("{:.0} / {:.0}", self.least(), self.median())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let body = arguments.iter().find_map(|text| text.strip_prefix("body=")?.parse().ok()).unwrap_or(300);
    let random = arguments.iter().any(|text| text == "random");
    let mut sizes: Vec<u64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000];
    }
    // Not in /tmp, which may be memory: flushes are what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("feedloop.db");
    let mut history = History { pipeline: "fraud".into(), body, random, next: 0 };
    println!("bodies of {body} bytes, {} ids; times in µs, least / median", if random { "random" } else { "rising" });
    println!(
        "| samples | file, MB | open | raw fdatasync | commit of 1 | commit of {GROUP} | samples/s | cpu | claim of 10 | get | count \
         | first page | last page | pipeline, build and poll |"
    );
    println!("|{}", "--:|".repeat(14));
    for size in sizes {
        line(&path, &mut history, size);
    }
}

fn line(path: &Path, history: &mut History, size: u64) {
    let store = SqliteStore::open(path).expect("a store");
    while history.next < size {
        history.commit(&store, GROUP.min((size - history.next) as usize));
    }
    drop(store);
    let mut store = None;
    let open = Times::of(5, |_| {
        store = None;
        store = Some(SqliteStore::open(path).expect("a store"));
    });
    let store = Arc::new(store.expect("it was opened"));
    let samples = history.next;

    let mut raw = File::create(path.with_extension("raw")).expect("a file");
    let (mut flushes, mut ones) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let start = Instant::now();
        raw.write_all(&[7; 4096]).and_then(|()| raw.sync_data()).expect("a flush");
        flushes.push(start.elapsed());
        ones.push(history.commit(&*store, 1).0);
    }
    let (flushes, ones) = (Times::taken(flushes.into_iter()), Times::taken(ones.into_iter()));
    let groups: Vec<(Duration, Duration)> = (0..60).map(|_| history.commit(&*store, GROUP)).collect();
    let total: Duration = groups.iter().map(|(wall, _)| *wall).sum();
    let cpu = Times::taken(groups.iter().map(|(_, cpu)| *cpu));
    let groups = Times::taken(groups.iter().map(|(wall, _)| *wall));

    let tasks: Vec<Write> = (0..TASKS).map(|_| history.write(Kind::Task, "open")).collect();
    store.commit(&[&tasks], &Fence::None, &mut Vec::new()).expect("a commit");
    let name = &history.pipeline;
    let claim = Times::of(50, |_| {
        let now = Utc::now();
        let until = now + TimeDelta::days(1);
        assert_eq!(store.claim(name, Kind::Task, 10, now, until, "ann", &|_| false).expect("a claim").len(), 10);
    });
    // Answered: a claim looks at every lease that runs and ranks before what it finds, and history is not made of those.
    let answered: Vec<Write> =
        (history.next - TASKS as u64..history.next).map(|n| history.rewrite(n, Kind::Task, "done")).collect();
    store.commit(&[&answered], &Fence::None, &mut Vec::new()).expect("a commit");
    let step = samples / 1_000;
    let get = Times::of(1_000, |n| {
        let id = history.id(n as u64 * step);
        store.get(name, Kind::Sample, &id).expect("a read");
    });
    let count = Times::of(1_000, |_| assert!(store.count(name, Kind::Sample, Some("skipped")).expect("a count") > 0));
    let page = |after| {
        let scan = Scan { pipeline: name, kind: Kind::Sample, state: Some("skipped"), after, limit: 100 };
        Times::of(100, |_| assert_eq!(store.scan(&scan).expect("a page").len(), 100))
    };
    let (head, tail) = (page(None), page(Some((samples as i64 - 200, ""))));

    let mut stream = Stream::new(8);
    let reference = stream.reference();
    let pipeline = Times::of(3, |n| {
        let builder = Pipeline::builder(&**name, stream.schema.clone()).reference(reference.clone());
        let mut pipeline = builder.store(store.clone()).build().expect("a pipeline");
        pipeline.poll().unwrap_or_else(|error| panic!("poll {n}: {error}"));
    });
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    println!(
        "| {samples} | {} | {} | {} | {} | {} | {:.0} | {:.2} / {:.2} | {} | {:.1} / {:.1} | {:.1} / {:.1} | {} | {} | {} |",
        bytes >> 20,
        open.micros(),
        flushes.micros(),
        ones.micros(),
        groups.micros(),
        60.0 * GROUP as f64 / total.as_secs_f64(),
        cpu.least() / GROUP as f64,
        cpu.median() / GROUP as f64,
        claim.micros(),
        get.least(),
        get.median(),
        count.least(),
        count.median(),
        head.micros(),
        tail.micros(),
        pipeline.micros(),
    );
}
