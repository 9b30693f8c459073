//! What an evaluation costs: two models on 100,000 labelled rows, 1,000 repetitions of the bootstrap, 20 slices; and what
//! it costs to estimate the performance of 100,000 outputs without labels, in ten windows.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;

use std::sync::Arc;

use common::{Noise, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    ChunkBuffer, Detector, EstimatedPerformance, Findings, Label, LabelledRows, Metric, ModelVersion, Observation,
    Output, Reference, References, Row, Schema, Stage, Tabulate, Target,
};

const ROWS: usize = 100_000;
const SLICES: usize = 20;

fn world() -> (LabelledRows, Vec<f64>, Vec<f64>) {
    let mut noise = Noise(42);
    let mut rows = LabelledRows { weights: vec![1.0; ROWS], ..LabelledRows::default() };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for row in 0..ROWS {
        let p = noise.uniform();
        let q = (p + 0.4 * (noise.uniform() - 0.5)).clamp(0.001, 0.999);
        rows.labels.push(Label::Class(u32::from(noise.uniform() < p)));
        rows.slices.entry(format!("{}", (noise.uniform() * SLICES as f64) as usize)).or_default().push(row);
        first.extend([1.0 - p, p]);
        second.extend([1.0 - q, q]);
    }
    (rows, first, second)
}

fn evaluation(criterion: &mut Criterion<ThreadTime>) {
    let (rows, first, second) = world();
    let models = [(ModelVersion(1), &first[..]), (ModelVersion(0), &second[..])];
    let mut group = criterion.benchmark_group("evaluation");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    let tabulate = Tabulate::new(Target::classes(["no", "yes"]));
    let cases = [
        ("accuracy", vec![Metric::Accuracy]),
        ("log loss", vec![Metric::LogLoss]),
        ("AUROC", vec![Metric::Auroc]),
        ("all seven metrics", Metric::all(&Target::classes(["no", "yes"]), None)),
    ];
    for (name, metrics) in cases {
        let tabulate = tabulate.clone().metrics(metrics);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(tabulate.table(&rows, &models).expect("a table")));
        });
    }
    group.finish();
}

/// A calibrated model's probability, and whether it comes true.
fn promise(noise: &mut Noise) -> ([f64; 2], Label) {
    let p = noise.uniform();
    ([1.0 - p, p], Label::Class(u32::from(noise.uniform() < p)))
}

fn estimated_performance(criterion: &mut Criterion<ThreadTime>) {
    let (mut noise, schema) = (Noise(42), Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).expect("valid")));
    let mut reference = Reference::builder(schema.clone());
    for _ in 0..ROWS {
        let (output, label) = promise(&mut noise);
        reference.push(&Row::new(&schema), Some(&output), Some(label)).expect("a row of the schema");
    }
    let mut chunks = vec![ChunkBuffer::new(&schema)];
    for sequence in 0..ROWS as u64 {
        let mut observation = Observation::new(&schema);
        observation.set_output(Output::Probabilities(&promise(&mut noise).0));
        if !chunks[chunks.len() - 1].accepts(&observation) {
            chunks.push(ChunkBuffer::new(&schema));
        }
        let newest = chunks.len() - 1;
        chunks[newest].push(sequence, &observation);
    }
    let mut estimator = EstimatedPerformance::default().window(ROWS / 10);
    estimator.rebase(&References::starting_with(Arc::new(reference.finish()))).expect("the reference suits");
    let mut findings = Findings::new();
    let mut group = criterion.benchmark_group("evaluation");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("estimated performance", |bencher| {
        bencher.iter(|| {
            for chunk in &chunks {
                estimator.inspect(&chunk.view(&schema), &mut findings).expect("the detector works");
            }
            black_box(estimator.estimates().expect("a full window"))
        });
    });
    assert!(findings.alarms().is_empty(), "the outputs promise what they did");
}

criterion_group! { name = benches; config = common::criterion(); targets = evaluation, estimated_performance }
criterion_main!(benches);
