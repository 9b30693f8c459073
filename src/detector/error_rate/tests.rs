#![allow(clippy::unwrap_used, clippy::expect_used)]

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, World};

fn id(number: u64) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u64_pair(7, number))
}

fn truth(number: u64, predicted: u32, label: Option<u32>, replaces: Option<u32>) -> Truth {
    let predicted_at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(number as i64);
    Truth {
        sequence: number,
        prediction: id(number),
        model: ModelVersion::FIRST,
        predicted: Some(Label::Class(predicted)),
        score: Some(0.9),
        lane: None,
        label: label.map(Label::Class),
        replaces: replaces.map(Label::Class),
        predicted_at,
        time: predicted_at,
    }
}

fn tell(world: &World, detector: &mut PredictionError, truths: &[Truth]) -> Findings {
    let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(world.schema()));
    truths.iter().for_each(|truth| buffer.push_truth(*truth));
    detector.inspect(&buffer.view(world.schema()), &mut findings).unwrap();
    findings
}

fn counts(detector: &PredictionError) -> (u64, u64) {
    detector.error_rate().map_or((0, 0), |rate| (rate.errors, rate.truths))
}

#[test]
fn passes_the_suite() {
    conformance::detector(PredictionError::default);
    conformance::detector(|| PredictionError::default().tolerance(0.5).window(50).harm_above(0.1).named("errors"));
}

#[test]
fn wrong_predictions_are_flagged_and_counted() {
    let world = World::classification("wrong");
    let mut detector = PredictionError::default();
    assert_eq!(detector.error_rate(), None);
    let findings = tell(&world, &mut detector, &[truth(1, 0, Some(0), None), truth(2, 0, Some(1), None)]);
    assert_eq!(findings.flags().iter().map(|flag| flag.prediction).collect::<Vec<_>>(), [id(2)]);
    let rate = detector.error_rate().unwrap();
    assert_eq!((rate.errors, rate.truths), (1, 2));
    // Clopper–Pearson for 1 of 2 at 95 %: 1 − √0.975 and √0.975
    assert!((rate.low - (1.0 - 0.975_f64.sqrt())).abs() < 1e-9 && (rate.high - 0.975_f64.sqrt()).abs() < 1e-9);
    let unusable = Truth { predicted: None, ..truth(3, 0, Some(0), None) };
    assert_eq!(tell(&world, &mut detector, &[unusable]).flags()[0].score, f64::MAX);
    assert_eq!(counts(&detector), (2, 3));
}

#[test]
fn corrections_and_retractions_keep_the_count_right() {
    let world = World::classification("corrections");
    let mut detector = PredictionError::default();
    tell(&world, &mut detector, &[truth(1, 0, Some(1), None), truth(2, 0, Some(0), None)]);
    let right = tell(&world, &mut detector, &[truth(1, 0, Some(0), Some(1))]);
    assert!(right.flags().is_empty(), "a correction that makes it right");
    assert_eq!(counts(&detector), (0, 2));
    assert_eq!(tell(&world, &mut detector, &[truth(2, 0, Some(2), Some(0))]).flags().len(), 1);
    assert!(tell(&world, &mut detector, &[truth(2, 0, Some(1), Some(2))]).flags().is_empty(), "known to be wrong");
    assert_eq!(counts(&detector), (1, 2));
    assert!(tell(&world, &mut detector, &[truth(2, 0, None, Some(1))]).flags().is_empty());
    assert_eq!(counts(&detector), (0, 1));
    tell(&world, &mut detector, &[truth(9, 0, Some(0), Some(1))]);
    assert_eq!(counts(&detector), (0, 1), "a correction of one that is not in the window");
    assert!(tell(&world, &mut detector, &[truth(4, 0, Some(77), None)]).flags().is_empty());
    assert_eq!((counts(&detector), detector.ignored()), ((0, 1), 1), "a class that there is not");
}

#[test]
fn values_are_judged_by_the_tolerance() {
    let mut world = World::regression("tolerance");
    let mut detector = PredictionError::default().tolerance(0.5);
    assert!(PredictionError::default().rebase(&world.references(5)).is_err());
    detector.rebase(&world.references(5)).unwrap();
    let value = |number, predicted, label| Truth {
        predicted: Some(Label::Value(predicted)),
        label: Some(Label::Value(label)),
        ..truth(number, 0, None, None)
    };
    let truths = [value(1, 1.0, 1.5), value(2, 1.0, 1.75), value(3, f64::MAX, -f64::MAX), value(4, 0.0, f64::NAN)];
    let findings = tell(&world, &mut detector, &truths);
    let found: Vec<_> = findings.flags().iter().map(|flag| (flag.score, flag.threshold)).collect();
    assert_eq!(found, [(0.75, 0.5), (f64::MAX, 0.5)]);
    assert_eq!((counts(&detector), detector.ignored()), ((2, 3), 1));
}

#[test]
fn the_window_is_bounded_and_models_are_counted_apart() {
    let world = World::classification("window");
    let mut detector = PredictionError::default().window(10);
    for number in 0..100 {
        tell(&world, &mut detector, &[truth(number, 0, Some(u32::from(number < 95)), None)]);
    }
    assert_eq!(counts(&detector), (5, 10));
    let second = Truth { model: ModelVersion(1), ..truth(200, 0, Some(0), None) };
    let late = truth(101, 0, Some(1), None);
    tell(&world, &mut detector, &[second, late]);
    assert_eq!(detector.error_rate().map(|rate| (rate.model, rate.truths)), Some((ModelVersion(1), 1)));
    assert_eq!(detector.error_rate_of(ModelVersion::FIRST).truths, 9);
}

/// Alarms in `windows` windows of 50 truths with this error probability, against a stated rate of 0.2.
fn alarms(name: &str, windows: u64, error: f64) -> usize {
    let mut world = World::classification(name);
    let mut detector = PredictionError::default().window(50).harm_above(0.2);
    let truths: Vec<_> =
        (0..50 * windows).map(|number| truth(number, 0, Some(world.noise().chance(error).into()), None)).collect();
    tell(&world, &mut detector, &truths).alarms().len()
}

#[test]
fn harm_alarms_hold_their_level_and_find_harm() {
    let found = alarms("harmless", 4_000, 0.2);
    assert!(crate::stats::binomial::lower(found as u64, 4_000, 1.0 - 1e-6) <= 0.01, "{found} of 4000");
    assert!(found > 0, "never alarming is no guarantee");
    let found = alarms("harmful", 100, 0.5);
    assert!(found >= 90, "{found} of 100");
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(5);
    assert!(PredictionError::default().window(0).rebase(&references).is_err());
    assert!(PredictionError::default().harm_above(1.0).rebase(&references).is_err());
    assert!(PredictionError::default().harm_above(f64::NAN).rebase(&references).is_err());
    assert!(PredictionError::default().tolerance(-0.1).rebase(&references).is_err());
}
