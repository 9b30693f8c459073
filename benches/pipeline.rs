//! The whole pipeline through `ingest`: one thread, d = 32, two classes, all default detectors, three gates and a router.
//!
//! Filling a buffer with the row (what `record` does on the host's thread) is part of the time.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use common::ThreadTime;
use common::feed::{BURST, Feed, whole};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{MemoryStore, PipelineBuilder};

fn measure(feed: &mut Feed, c: &mut Criterion<ThreadTime>, name: &str, builder: PipelineBuilder) {
    let mut pipeline = builder.build().expect("a pipeline");
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function(name, |b| b.iter(|| feed.ingest(&mut pipeline)));
}

fn pipeline(c: &mut Criterion<ThreadTime>) {
    let mut feed = Feed::new();
    let builder = whole(feed.builder(MemoryStore::default()));
    measure(&mut feed, c, "memory/one in a thousand flagged", builder);
    feed.quieten();
    let builder = feed.builder(MemoryStore::default());
    measure(&mut feed, c, "memory/no detectors", builder);
    let builder = whole(feed.builder(MemoryStore::default()));
    measure(&mut feed, c, "memory/nothing flagged", builder);
    sqlite(c, &mut feed);
}

#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
fn sqlite(c: &mut Criterion<ThreadTime>, feed: &mut Feed) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = feedloop::SqliteStore::open(directory.path().join("quiet.db")).expect("a store");
    let builder = whole(feed.builder(store));
    measure(feed, c, "sqlite/nothing flagged", builder);
    let mut feed = Feed::new();
    let store = feedloop::SqliteStore::open(directory.path().join("flags.db")).expect("a store");
    let builder = whole(feed.builder(store));
    measure(&mut feed, c, "sqlite/one in a thousand flagged", builder);
}

#[cfg(not(any(feature = "sqlite", feature = "sqlite-system")))]
fn sqlite(_: &mut Criterion<ThreadTime>, _: &mut Feed) {}

criterion_group! { name = benches; config = common::criterion(); targets = pipeline }
criterion_main!(benches);
