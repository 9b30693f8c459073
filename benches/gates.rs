//! What gates and router cost per sample, and per row of a batch; d = 32.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;

use common::{Stream, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::chrono::DateTime;
use feedloop::{
    Annotation, Annotator, Audited, BatchDraft, ConfidenceRouter, Deduplicate, DraftRow, GateContext, Label,
    LabelConsistency, LabelRouter, Lane, QualityGate, References, Relevance, Route, RouteContext, Sample, SchemaGate,
    Stage, predicted_label,
};

const WIDTH: usize = 32;
const SAMPLES: usize = 4_096;
const BATCH: usize = 1_000;

struct World {
    stream: Stream,
    references: References,
    samples: Vec<Sample>,
}

impl World {
    fn new() -> Self {
        let mut stream = Stream::new(WIDTH);
        let references = stream.references();
        let samples = (0..SAMPLES as u64).map(|n| sample(&mut stream, n)).collect();
        World { stream, references, samples }
    }

    fn context(&self) -> GateContext<'_> {
        GateContext { schema: &self.stream.schema, references: &self.references, now: DateTime::UNIX_EPOCH }
    }

    fn predicted(&self, sample: &Sample) -> Label {
        predicted_label(self.stream.schema.target(), sample.observation.output()).expect("a usable output")
    }
}

/// A flagged sample whose label came from a person.
fn sample(stream: &mut Stream, sequence: u64) -> Sample {
    let mut sample = Sample::new(stream.observation(), sequence, Lane::Flagged, 1.0);
    sample.label = Some(Annotation {
        sample: sample.id(),
        label: predicted_label(stream.schema.target(), sample.observation.output()),
        annotator: Annotator::Human("ann".into()),
        time: DateTime::UNIX_EPOCH,
        confidence: 1.0,
        seconds: None,
        blind: true,
    });
    sample
}

fn admit(c: &mut Criterion<ThreadTime>, world: &World, name: &str, mut gate: impl QualityGate) {
    gate.rebase(&world.references).expect("the reference suits");
    let (context, mut samples) = (world.context(), world.samples.iter().cycle());
    let mut group = c.benchmark_group("gates");
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |b| {
        b.iter(|| gate.admit(black_box(samples.next().expect("a cycle")), &context).expect("the gate works"));
    });
}

fn audit(c: &mut Criterion<ThreadTime>, world: &World, name: &str, mut gate: impl QualityGate) {
    gate.rebase(&world.references).expect("the reference suits");
    let (context, mut batches) = (world.context(), world.samples.chunks_exact(BATCH).cycle());
    let mut group = c.benchmark_group("gates");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("{name}/{BATCH}"), |b| {
        b.iter(|| {
            let batch = batches.next().expect("a cycle").iter();
            let rows: Vec<_> =
                batch.map(|sample| DraftRow { sample, label: world.predicted(sample), weight: 1.0 }).collect();
            gate.audit(&BatchDraft { rows: &rows }, &context).expect("the gate works")
        });
    });
}

fn gates(c: &mut Criterion<ThreadTime>) {
    let world = World::new();
    admit(c, &world, "schema", SchemaGate::default());
    // half the room that the samples need: each one is new, and pushes an old one out
    admit(c, &world, "deduplicate", Deduplicate::exact().capacity(SAMPLES / 2));
    // each sample is compared with the 2,048 before it, and is near none of them
    let near = Deduplicate::exact().capacity(SAMPLES / 2).near(0.1).near_capacity(SAMPLES / 2);
    admit(c, &world, "deduplicate_near", near);
    audit(c, &world, "label_consistency", LabelConsistency::default());
    audit(c, &world, "relevance", Relevance::default());
}

/// Most are auto-labelled, as audits find no error; one in ten is audited and answered at once.
fn router(c: &mut Criterion<ThreadTime>) {
    let world = World::new();
    let mut router = ConfidenceRouter::max_error(0.02).audit(0.1).cap(1.0);
    router.rebase(&world.references).expect("the reference suits");
    let time = DateTime::UNIX_EPOCH;
    let answer = |router: &mut ConfidenceRouter, sample: &Sample| {
        let auto = world.predicted(sample);
        router.learn(&Audited { sample, auto, confidence: 0.9, human: auto, time }).expect("the router works");
    };
    world.samples[..1_000].iter().for_each(|sample| answer(&mut router, sample));
    let context = RouteContext {
        schema: &world.stream.schema,
        references: &world.references,
        now: time,
        waiting: 0,
        alarm: false,
        standing: false,
    };
    let mut samples = world.samples.iter().cycle();
    let mut group = c.benchmark_group("router");
    group.throughput(Throughput::Elements(1));
    group.bench_function("confidence", |b| {
        b.iter(|| {
            let sample = black_box(samples.next().expect("a cycle"));
            if let Route::Auto { audit: Some(_), .. } = router.route(sample, &context).expect("the router works") {
                answer(&mut router, sample);
                black_box(router.cohorts(time, false));
            }
        });
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = gates, router }
criterion_main!(benches);
