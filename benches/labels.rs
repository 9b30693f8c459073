//! What it costs to find labels that are likely wrong.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;

use common::{Noise, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::ndarray::Array2;
use feedloop::{IssueRule, label_issues};

/// Rows of ten classes with the logit of the true one raised by 2.5, and labels of which 8 % are drawn at random.
fn labelled(rows: usize, classes: usize) -> (Vec<u32>, Array2<f64>) {
    let mut noise = Noise(91);
    let mut probabilities = Array2::from_shape_simple_fn((rows, classes), || noise.normal());
    let mut labels = Vec::with_capacity(rows);
    for mut row in probabilities.rows_mut() {
        let mut class = || (noise.uniform() * classes as f64) as usize;
        let (truth, other) = (class(), class());
        row[truth] += 2.5;
        row.mapv_inplace(f64::exp);
        row /= row.sum();
        labels.push(if noise.uniform() < 0.08 { other } else { truth } as u32);
    }
    (labels, probabilities)
}

fn confident_learning(c: &mut Criterion<ThreadTime>) {
    let (labels, probabilities) = labelled(50_000, 10);
    let mut group = c.benchmark_group("labels");
    group.throughput(Throughput::Elements(labels.len() as u64));
    for (name, rule) in
        [("prune_by_noise_rate", IssueRule::PruneByNoiseRate), ("confident_learning", IssueRule::ConfidentLearning)]
    {
        group.bench_function(format!("label_issues/{name}/50000x10"), |b| {
            b.iter(|| label_issues(black_box(&labels), probabilities.view(), rule).expect("labels are classes"));
        });
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = confident_learning }
criterion_main!(benches);
