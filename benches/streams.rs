//! What each stream detector costs per value, on streams without change.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use common::{Stream, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    Adwin, Change, ChangeDetector, ConformalMartingale, Cusum, Ddm, EDetector, Eddm, HddmA, HddmW, Kswin, PageHinkley,
};

const VALUES: usize = 100_000;

fn update(c: &mut Criterion<ThreadTime>, mut detector: impl ChangeDetector, values: &[f64]) {
    detector.rebase(&values[..1_000]).expect("the settings are valid");
    let mut group = c.benchmark_group("streams");
    group.throughput(Throughput::Elements(values.len() as u64));
    let name = detector.name().to_owned();
    group.bench_function(name, |b| {
        b.iter(|| values.iter().filter(|&&value| detector.update(value) == Change::Drift).count());
    });
}

fn streams(c: &mut Criterion<ThreadTime>) {
    let noise = &mut Stream::new(1).noise;
    let numbers: Vec<f64> = (0..VALUES).map(|_| noise.normal()).collect();
    let errors: Vec<f64> = (0..VALUES).map(|_| f64::from(u8::from(noise.uniform() < 0.1))).collect();
    update(c, Adwin::default(), &numbers);
    update(c, PageHinkley::default(), &numbers);
    update(c, Cusum::default(), &numbers);
    update(c, Kswin::default(), &numbers);
    update(c, ConformalMartingale::default(), &numbers);
    update(c, Ddm::default(), &errors);
    update(c, Eddm::default(), &errors);
    update(c, HddmA::default(), &errors);
    update(c, HddmW::default(), &errors);
    update(c, EDetector::default(), &errors);
}

criterion_group! { name = benches; config = common::criterion(); targets = streams }
criterion_main!(benches);
