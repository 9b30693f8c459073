#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::Noise;
use crate::stats::binomial::lower;

/// May `found` of `trials` come of a probability of at most `rate`? Wrong once in a million runs.
fn holds(found: usize, trials: usize, rate: f64) -> bool {
    lower(found as u64, trials as u64, 1.0 - 1e-6) <= rate
}

/// Runs that alarm within `length` values, each after a baseline of 300 of its own.
fn alarms(
    name: &str,
    runs: usize,
    length: usize,
    detector: &EDetector,
    mut value: impl FnMut(&mut Noise, usize) -> f64,
) -> usize {
    let mut noise = Noise::new(name);
    let mut run = |_: &usize| {
        let mut detector = detector.clone();
        let baseline: Vec<f64> = (0..300).map(|_| value(&mut noise, 0)).collect();
        detector.rebase(&baseline).unwrap();
        assert_eq!(detector.blind(), None);
        (1..=length).any(|at| detector.update(value(&mut noise, at)) == Change::Drift)
    };
    (0..runs).filter(&mut run).count()
}

fn error(noise: &mut Noise, rate: f64) -> f64 {
    f64::from(u8::from(noise.chance(rate)))
}

/// The limit fails for 5 % of baselines, and a run of n values then alarms with a probability of at most n / length.
#[test]
fn the_run_length_holds_for_errors_and_for_other_values() {
    let detector = EDetector::default().average_run_length(1e4);
    let rate = 0.05 + 0.1;
    for probability in [0.02, 0.1, 0.5] {
        let found = alarms("null errors", 400, 1_000, &detector, |noise, _| error(noise, probability));
        assert!(holds(found, 400, rate), "{found} of 400 at {probability}");
    }
    let both = detector.clone().direction(Direction::Both);
    let found = alarms("null values", 400, 1_000, &both, |noise, _| noise.uniform().powi(2));
    assert!(holds(found, 400, rate), "{found} of 400");
}

/// A detector that never fires holds every rate: near the limit it does fire.
#[test]
fn the_run_length_is_not_far_from_the_stated_one() {
    let detector = EDetector::default().average_run_length(100.0);
    let found = alarms("short runs", 300, 4_000, &detector, |noise, _| error(noise, 0.1));
    assert!(found >= 15, "{found} of 300");
}

#[test]
fn finds_a_doubled_error_rate_upwards_only() {
    let up = EDetector::default();
    let doubled = |noise: &mut Noise, at: usize| error(noise, if at == 0 { 0.2 } else { 0.4 });
    let halved = |noise: &mut Noise, at: usize| error(noise, if at == 0 { 0.4 } else { 0.2 });
    assert!(alarms("doubled", 100, 500, &up, doubled) >= 95);
    assert_eq!(alarms("halved", 100, 500, &up, halved), 0);
    for direction in [Direction::Down, Direction::Both] {
        assert!(alarms("halved", 100, 500, &up.clone().direction(direction), halved) >= 95);
    }
}

#[test]
fn the_effect_is_in_units_of_the_range_and_has_a_sign() {
    let mut detector = EDetector::default().range(0.0, 50.0).direction(Direction::Both);
    let baseline: Vec<f64> = (0..400).map(|at| f64::from(at % 10)).collect();
    for (value, sign) in [(30.0, 1.0), (-1e3, -1.0)] {
        detector.rebase(&baseline).unwrap();
        let changes = (0..5_000).map(|_| detector.update(value));
        assert!(changes.take_while(|&change| change == Change::None).count() < 5_000);
        let effect = detector.evidence().effect;
        assert!(effect * sign > 0.0 && effect.abs() < 50.0, "{effect}");
    }
}

#[test]
fn without_a_baseline_the_stream_gives_one() {
    let mut detector = EDetector::default();
    detector.rebase(&[0.0; 100]).unwrap();
    assert!(detector.blind().unwrap().contains("100 of the 300"));
    for _ in 0..200 {
        assert_eq!(detector.update(0.0), Change::None);
    }
    assert_eq!(detector.blind(), None);
    let delay = (1..).find(|_| detector.update(1.0) == Change::Drift).unwrap();
    assert!(delay < 20, "{delay}");
    detector.update(1.0);
    assert!(detector.blind().unwrap().contains("1 of the 300"), "after an alarm it learns anew");
    // where all is wrong already, nothing can become worse
    detector.rebase(&[1.0; 300]).unwrap();
    assert!(detector.blind().is_some());
}

#[test]
fn a_state_of_another_baseline_is_not_taken_over() {
    let (mut first, mut second) = (EDetector::default(), EDetector::default());
    first.rebase(&[0.0; 300]).unwrap();
    first.update(1.0);
    second.rebase(&[0.0; 301]).unwrap();
    second.restore(&first.snapshot().unwrap()).unwrap();
    assert_eq!(second.evidence().statistic, 0.0);
}

/// How often the true mean lies above the limit.
#[test]
fn limits_of_bounded_means_hold() {
    let mut noise = Noise::new("limits");
    let failures = |noise: &mut Noise, value: fn(f64) -> f64, mean: f64| {
        let failed = |_: &usize| {
            let values: Vec<f64> = (0..60).map(|_| value(noise.uniform())).collect();
            upper_limit(&values, 0.05) < mean
        };
        (0..2_000).filter(failed).count()
    };
    let found = failures(&mut noise, |u| f64::from(u8::from(u < 0.1)), 0.1);
    assert!(holds(found, 2_000, 0.05), "{found} of 2000 for errors");
    let found = failures(&mut noise, |u| u.powi(3), 0.25);
    assert!(holds(found, 2_000, 0.05), "{found} of 2000 for skewed values");
    let narrow: Vec<f64> = (0..500).map(|at| 0.1 + f64::from(at % 2) * 0.001).collect();
    assert!(upper_limit(&narrow, 0.05) < 0.13, "the empirical Bernstein limit knows a small spread");
}
