//! What each detector costs per observation, in full chunks against a reference of 4,096 rows; and a guard, row by row.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use common::{Stream, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    ChunkBuffer, Detector, Ecod, Feedback, Findings, GuardVerdict, Heard, IsolationForest, KsDrift, Label,
    LowConfidence, Mahalanobis, MmdDrift, ModelVersion, NearestNeighbours, NumericTest, Observation, Opinion,
    OutputDrift, PredictionError, References, Schema, Stage, Truth, UserFeedback, predicted_label,
};

/// Enough chunks that windows of 1,000 end at all places of a chunk.
const CHUNKS: usize = 125;
/// Values of a long window: 391 chunks, so that each time through them ends one.
const LONG: usize = 391 * 256;

fn inspect(
    c: &mut Criterion<ThreadTime>,
    mut detector: impl Detector,
    schema: &Schema,
    references: &References,
    chunks: &[ChunkBuffer],
) {
    detector.rebase(references).expect("the reference suits");
    let (width, mut findings, mut next) = (schema.value_columns().len(), Findings::new(), 0);
    let elements = |chunk: &ChunkBuffer| {
        let chunk = chunk.view(schema);
        chunk.len().max(chunk.truths().len()).max(chunk.feedback().len()) as u64
    };
    let mut group = c.benchmark_group("detectors");
    group.throughput(Throughput::Elements(elements(&chunks[0])));
    let name = format!("{}/{width}", detector.name());
    group.bench_function(name, |b| {
        b.iter(|| {
            findings.clear();
            detector.inspect(&chunks[next].view(schema), &mut findings).expect("the detector works");
            next = (next + 1) % chunks.len();
            findings.flags().len()
        });
    });
}

/// Chunks of truths: one in 64 predictions was wrong.
fn truths(stream: &mut Stream) -> Vec<ChunkBuffer> {
    let schema = stream.schema.clone();
    let mut sequence = 0;
    let mut chunk = || {
        let mut buffer = ChunkBuffer::new(&schema);
        for row in 0..256 {
            sequence += 1;
            let made = stream.observation();
            let predicted = predicted_label(schema.target(), made.output());
            let label = if row % 64 == 0 { predicted.map(other_class) } else { predicted };
            buffer.push_truth(Truth {
                sequence,
                prediction: made.id,
                model: ModelVersion::FIRST,
                predicted,
                score: None,
                lane: None,
                label,
                replaces: None,
                predicted_at: made.time,
                time: made.time,
            });
        }
        buffer
    };
    (0..CHUNKS).map(|_| chunk()).collect()
}

fn other_class(label: Label) -> Label {
    Label::Class(u32::from(label == Label::Class(0)))
}

/// Chunks of ratings: one in 64 is bad.
fn ratings(stream: &mut Stream) -> Vec<ChunkBuffer> {
    let schema = stream.schema.clone();
    let mut chunk = || {
        let mut buffer = ChunkBuffer::new(&schema);
        for row in 0..256 {
            let opinion = Opinion::Rating(if row % 64 == 0 { 0.0 } else { 1.0 });
            let feedback = Feedback { prediction: stream.id(), user: "ann".into(), opinion };
            buffer.push_feedback(Heard { sequence: row, feedback, predicted: Some(Label::Class(0)) });
        }
        buffer
    };
    (0..CHUNKS).map(|_| chunk()).collect()
}

fn detectors(c: &mut Criterion<ThreadTime>) {
    for width in [8, 32, 128] {
        let mut stream = Stream::new(width);
        let (schema, references, chunks) = (stream.schema.clone(), stream.references(), stream.chunks(CHUNKS));
        inspect(c, LowConfidence::below(0.6), &schema, &references, &chunks);
        inspect(c, OutputDrift::default(), &schema, &references, &chunks);
        inspect(c, NearestNeighbours::default(), &schema, &references, &chunks);
        inspect(c, IsolationForest::default(), &schema, &references, &chunks);
        inspect(c, Ecod::default(), &schema, &references, &chunks);
        inspect(c, KsDrift::default(), &schema, &references, &chunks);
        inspect(c, MmdDrift::default(), &schema, &references, &chunks);
        inspect(c, PredictionError::default(), &schema, &references, &truths(&mut stream));
        inspect(c, UserFeedback::default(), &schema, &references, &ratings(&mut stream));
    }
}

/// The distance by the chunk, and of one row as the host's own thread asks for it; over 4,096 rows.
fn mahalanobis(c: &mut Criterion<ThreadTime>) {
    for width in [8, 32, 128, 512] {
        let mut stream = Stream::new(width);
        let (schema, references) = (stream.schema.clone(), stream.references());
        let chunks = stream.chunks(16);
        inspect(c, Mahalanobis::default(), &schema, &references, &chunks);
        let rows: Vec<_> = (0..256).map(|_| stream.observation()).collect();
        let mut detector = Mahalanobis::default();
        detector.rebase(&references).expect("the reference suits");
        let guard = detector.guard().expect("it has a threshold");
        let mut group = c.benchmark_group("guards");
        group.throughput(Throughput::Elements(rows.len() as u64));
        let flagged = |row: &&Observation| matches!(guard.check(row), GuardVerdict::Flag { .. });
        group.bench_function(format!("mahalanobis/{width}"), |b| b.iter(|| rows.iter().filter(flagged).count()));
    }
}

/// The tests of a numeric column; of those by permutation at a level that one column can have.
fn tests(c: &mut Criterion<ThreadTime>) {
    let mut stream = Stream::new(1);
    let (schema, references, chunks) = (stream.schema.clone(), stream.references(), stream.chunks(CHUNKS));
    for test in [
        NumericTest::KolmogorovSmirnov,
        NumericTest::KolmogorovSmirnovTies,
        NumericTest::CramerVonMises,
        NumericTest::Wasserstein,
        NumericTest::PopulationStability,
        NumericTest::JensenShannon,
        NumericTest::Hellinger,
    ] {
        let drift = KsDrift::default().numeric_test(test).named(format!("{test:?}"));
        inspect(c, drift, &schema, &references, &chunks);
    }
    // a p-value in every window, and a distance without its p-value
    let always = KsDrift::default().minimum_effect(0.0).false_alarm_rate(0.5).named("KolmogorovSmirnov with p-value");
    inspect(c, always, &schema, &references, &chunks);
    for test in [NumericTest::PopulationStability, NumericTest::JensenShannon, NumericTest::Hellinger] {
        let distance = KsDrift::default().numeric_test(test).minimum_effect(0.9);
        inspect(c, distance.named(format!("{test:?} alone")), &schema, &references, &chunks);
    }
    // tested again at every value
    for window in [100, 1_000] {
        let sliding = KsDrift::default().window(window).sliding(1).average_run_length(1e6);
        let name = format!("KolmogorovSmirnov of the last {window}");
        inspect(c, sliding.named(name), &schema, &references, &chunks);
    }
}

/// One Wasserstein distance of 100,000 values without its permutation test, the sorting of the values included.
fn long_wasserstein(c: &mut Criterion<ThreadTime>) {
    let mut stream = Stream::new(1);
    let (schema, references) = (stream.schema.clone(), stream.references());
    let buffers = stream.chunks(LONG / 256);
    let mut detector = KsDrift::default().numeric_test(NumericTest::Wasserstein).minimum_effect(0.9).window(LONG);
    detector.rebase(&references).expect("the reference suits");
    let mut findings = Findings::new();
    let mut group = c.benchmark_group("detectors");
    group.throughput(Throughput::Elements(LONG as u64)).sample_size(10);
    group.bench_function("Wasserstein of 100,000 alone/1", |b| {
        b.iter(|| {
            findings.clear();
            for chunk in &buffers {
                detector.inspect(&chunk.view(&schema), &mut findings).expect("the detector works");
            }
            findings.alarms().len()
        });
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = detectors, mahalanobis, tests, long_wasserstein }
criterion_main!(benches);
