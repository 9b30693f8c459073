//! What it costs to find labels that are likely wrong, and what many answers together say.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::{Noise, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::chrono::DateTime;
use feedloop::ndarray::Array2;
use feedloop::uuid::Uuid;
use feedloop::{
    Annotation, Annotator, Expect, Fence, Indexed, IssueRule, Key, Kind, Label, MemoryStore, PooledLabels,
    PredictionId, ReviewQueue, Store, SystemClock, Target, Write, label_issues,
};

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

/// Five answers each to 5,000 tasks of five classes, by twenty people who know the truth with probability `knows` and
/// otherwise guess.
fn answers(knows: f64) -> Vec<Annotation> {
    const TASKS: u64 = 5_000;
    const PEOPLE: usize = 20;
    let mut noise = Noise(92);
    let mut answers = Vec::new();
    for task in 0..TASKS {
        let mut draw = |from: usize| (noise.uniform() * from as f64) as usize;
        let (truth, first) = (draw(5), draw(PEOPLE));
        let apart = [1, 3, 7, 9][draw(4)]; // no factor in common with 20: five different people
        for nth in 0..5 {
            let class = if noise.uniform() < knows { truth } else { (noise.uniform() * 5.0) as usize };
            answers.push(Annotation {
                sample: PredictionId::from_uuid(Uuid::from_u64_pair(task, 1)),
                label: Some(Label::Class(class as u32)),
                annotator: Annotator::Human(format!("p{}", (first + nth * apart) % PEOPLE)),
                time: DateTime::UNIX_EPOCH,
                confidence: 1.0,
                seconds: None,
                blind: true,
            });
        }
    }
    answers
}

/// By the model of Dawid and Skene, which takes as many steps as it needs: 5 for people who know three truths in four, and
/// exactly 20 for those who know two in five (counted with `DawidSkene::fit` alone: its result after 20 steps is the one
/// that it stops with).
fn pooled_labels(c: &mut Criterion<ThreadTime>) {
    for (name, knows) in [("25000", 0.75), ("25000, 20 steps", 0.4)] {
        let answers = answers(knows);
        pool(c, name, &answers);
        let given = answers.iter().map(|answer| match (&answer.annotator, answer.label) {
            (Annotator::Human(name), Some(Label::Class(class))) => (answer.sample, name.as_str(), class),
            _ => unreachable!("people said what class it is"),
        });
        let mut group = c.benchmark_group("labels");
        group.throughput(Throughput::Elements(answers.len() as u64));
        group.bench_function(format!("PooledLabels/{name}"), |b| {
            b.iter(|| PooledLabels::of(black_box(given.clone()), 5).expect("classes"));
        });
        group.finish();
    }
}

/// The answers are read from a store in memory, which is part of the time.
fn pool(c: &mut Criterion<ThreadTime>, name: &str, answers: &[Annotation]) {
    let pipeline: Arc<str> = "bench".into();
    let write = |(n, answer): (usize, &Annotation)| Write {
        kind: Kind::Annotation,
        key: Key::new(&pipeline, format!("{n:08}")),
        expect: Expect::Absent,
        indexed: Indexed { state: "applied", rank: n as i64, due: None },
        body: serde_json::to_vec(answer).expect("an annotation").into(),
    };
    let writes: Vec<Write> = answers.iter().enumerate().map(write).collect();
    let store = Arc::new(MemoryStore::default());
    store.commit(&[&writes], &Fence::None, &mut Vec::new()).expect("room");
    let target = Target::classes(["a", "b", "c", "d", "e"]);
    let queue = ReviewQueue::open(store, pipeline.clone(), target, Arc::new(SystemClock));
    assert_eq!(queue.pooled_labels().expect("answers").tasks.len(), answers.len() / 5);
    let mut group = c.benchmark_group("labels");
    group.throughput(Throughput::Elements(answers.len() as u64));
    group.bench_function(format!("pooled_labels/{name}"), |b| {
        b.iter(|| black_box(queue.pooled_labels().expect("answers")));
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = confident_learning, pooled_labels }
criterion_main!(benches);
