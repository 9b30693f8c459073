//! The whole pipeline through `ingest`: one thread, d = 32, two classes, all default detectors, three gates and a router.
//!
//! Filling a buffer with the row (what `record` does on the host's thread) is part of the time.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::sync::Arc;

use common::{Stream, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    ConfidenceRouter, Deduplicate, Event, GuardVerdict, KsDrift, LabelConsistency, LowConfidence, Mahalanobis,
    MemoryStore, Output, OutputDrift, Pipeline, PipelineBuilder, PredictionError, Reference, SchemaGate, Store,
    UserFeedback,
};

const WIDTH: usize = 32;
/// Events per call of `ingest`: as many as the worker takes at once.
const BURST: usize = 1_024;
const ROWS: usize = 50 * BURST;

struct Feed {
    stream: Stream,
    reference: Arc<Reference>,
    rows: Vec<(Vec<f64>, [f64; 2])>,
    next: usize,
}

impl Feed {
    fn new() -> Self {
        let mut stream = Stream::new(WIDTH);
        let reference = stream.reference();
        let rows = (0..ROWS).map(|_| (stream.values(), stream.probabilities())).collect();
        Feed { stream, reference, rows, next: 0 }
    }

    /// Leaves out the rows that a detector would flag.
    fn quieten(&mut self) {
        let guard = detectors(self.builder(MemoryStore::default())).build().expect("a pipeline").guard();
        let mut observation = self.stream.observation();
        self.rows.retain(|(values, probabilities)| {
            observation.row.copy_values(values).expect("as wide as the schema");
            observation.set_output(Output::Probabilities(probabilities));
            guard.check(&observation) == GuardVerdict::Pass
        });
    }

    fn builder(&self, store: impl Store + 'static) -> PipelineBuilder {
        Pipeline::builder("bench", self.stream.schema.clone()).reference(self.reference.clone()).store(store)
    }

    fn ingest(&mut self, pipeline: &mut Pipeline) -> usize {
        let mut events = Vec::with_capacity(BURST);
        for _ in 0..BURST {
            let (values, probabilities) = &self.rows[self.next];
            self.next = (self.next + 1) % self.rows.len();
            let mut observation = pipeline.observation();
            observation.id = self.stream.id();
            observation.row.copy_values(values).expect("as wide as the schema");
            observation.set_output(Output::Probabilities(probabilities));
            events.push(Event::Prediction(observation));
        }
        pipeline.ingest(events).expect("the store works").kept
    }

    fn measure(&mut self, c: &mut Criterion<ThreadTime>, name: &str, builder: PipelineBuilder) {
        let mut pipeline = builder.build().expect("a pipeline");
        let mut group = c.benchmark_group("pipeline");
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(name, |b| b.iter(|| self.ingest(&mut pipeline)));
    }
}

fn detectors(builder: PipelineBuilder) -> PipelineBuilder {
    builder
        .detect(LowConfidence::below(0.6))
        .detect(OutputDrift::default())
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
}

fn whole(builder: PipelineBuilder) -> PipelineBuilder {
    detectors(builder)
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .gate(LabelConsistency::default())
        .route(ConfidenceRouter::max_error(0.02))
}

fn pipeline(c: &mut Criterion<ThreadTime>) {
    let mut feed = Feed::new();
    let builder = whole(feed.builder(MemoryStore::default()));
    feed.measure(c, "memory/one in a thousand flagged", builder);
    feed.quieten();
    let builder = feed.builder(MemoryStore::default());
    feed.measure(c, "memory/no detectors", builder);
    let builder = whole(feed.builder(MemoryStore::default()));
    feed.measure(c, "memory/nothing flagged", builder);
    sqlite(c, &mut feed);
}

#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
fn sqlite(c: &mut Criterion<ThreadTime>, feed: &mut Feed) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = feedloop::SqliteStore::open(directory.path().join("quiet.db")).expect("a store");
    let builder = whole(feed.builder(store));
    feed.measure(c, "sqlite/nothing flagged", builder);
    let mut feed = Feed::new();
    let store = feedloop::SqliteStore::open(directory.path().join("flags.db")).expect("a store");
    let builder = whole(feed.builder(store));
    feed.measure(c, "sqlite/one in a thousand flagged", builder);
}

#[cfg(not(any(feature = "sqlite", feature = "sqlite-system")))]
fn sqlite(_: &mut Criterion<ThreadTime>, _: &mut Feed) {}

criterion_group! { name = benches; config = common::criterion(); targets = pipeline }
criterion_main!(benches);
