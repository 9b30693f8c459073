//! What an evaluation costs: two models on 100,000 labelled rows, 1,000 repetitions of the bootstrap, 20 slices.
//! `evaluation_scipy.py` beside this file does the same work with SciPy.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;

use common::{Noise, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{Label, LabelledRows, Metric, ModelVersion, Tabulate, Target};

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

criterion_group! { name = benches; config = common::criterion(); targets = evaluation }
criterion_main!(benches);
