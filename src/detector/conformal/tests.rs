#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::{self, World};

/// The first column; a row without it cannot be scored.
struct First;

impl NoveltyScore for First {
    fn name(&self) -> &str {
        "first"
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        if references.training.rows() == 0 {
            blind.push(Blind::all("no rows"));
            return Ok(None);
        }
        Ok(Some(Box::new(First)))
    }
}

impl NoveltyModel for First {
    fn score(&self, row: RowView<'_>, _: &mut Vec<f64>) -> f64 {
        row.values[0]
    }

    fn causes(&self, _: RowView<'_>, chunk: &Chunk<'_>) -> Vec<Cause> {
        let share = |share: f64, column: &str| Cause { column: column.into(), share };
        let mut causes =
            vec![share(f64::NAN, "nan"), share(-1.0, "negative"), share(0.2, "little"), share(0.5, "much")];
        causes.extend(chunk.schema().value_columns().iter().map(|name| share(0.1, name)));
        causes
    }
}

#[test]
fn passes_the_suite() {
    conformance::detector(|| ConformalDetector::new(First).false_alarm_rate(0.05));
}

#[test]
fn p_values_are_ranks_among_the_calibration_rows() {
    let mut world = World::regression("conformal p-values");
    let references = world.references(400);
    let mut detector = ConformalDetector::new(First).false_alarm_rate(0.05);
    assert_eq!(detector.p_value(0.0), None);
    detector.rebase(&references).unwrap();
    let rows: Vec<_> = references.training.half(Half::Calibration).map(|row| row.values[0]).collect();
    let scores: Vec<_> = rows.into_iter().filter(|score| !score.is_nan()).collect();
    for &score in &scores {
        let above = scores.iter().filter(|&&other| other >= score).count() as f64;
        assert_eq!(detector.p_value(score), Some((1.0 + above) / (1.0 + scores.len() as f64)));
    }
    assert_eq!(detector.p_value(f64::INFINITY), Some(1.0 / (1.0 + scores.len() as f64)), "never 0");
    assert_eq!(detector.p_value(-1e9), Some(1.0));
}

#[test]
fn a_flag_carries_its_p_value_and_its_causes_in_order() {
    let mut world = World::regression("conformal flag");
    let mut detector = ConformalDetector::new(First).false_alarm_rate(0.01);
    detector.rebase(&world.references(1_000)).unwrap();
    world.shift = 50.0;
    let findings = world.run(&mut detector, 100);
    let flag = findings.flags().first().expect("a shift of 50 standard deviations");
    let names: Vec<_> = flag.causes.iter().map(|cause| cause.column.as_str()).collect();
    assert_eq!(names[..2], ["much", "little"]);
    assert_eq!(names.len(), 3);
    assert!(flag.p_value.unwrap() <= 0.01 && flag.score > flag.threshold);
    assert_eq!(flag.p_value, detector.p_value(flag.score));
}

/// Infinite on a fifth of the rows.
struct Endless;

impl NoveltyScore for Endless {
    fn name(&self) -> &str {
        "endless"
    }

    fn fit(&self, _: &References, _: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        Ok(Some(Box::new(Endless)))
    }
}

impl NoveltyModel for Endless {
    fn score(&self, row: RowView<'_>, _: &mut Vec<f64>) -> f64 {
        if row.values[0] > 0.84 { f64::INFINITY } else { 0.0 }
    }
}

#[test]
fn infinite_scores_of_ordinary_rows_are_not_flagged() {
    let mut world = World::regression("endless scores");
    let mut detector = ConformalDetector::new(Endless).false_alarm_rate(0.05);
    detector.rebase(&world.references(1_000)).unwrap();
    assert!(world.run(&mut detector, 500).flags().is_empty());
}

#[test]
fn a_row_that_cannot_be_scored_is_neither_flagged_nor_calibrated_on() {
    let mut world = World::regression("conformal missing");
    world.missing = 1.0;
    let mut detector = ConformalDetector::new(First).false_alarm_rate(0.05);
    detector.rebase(&world.references(400)).unwrap();
    assert!(detector.blind()[0].reason.contains("there are 0"), "{:?}", detector.blind());
    assert_eq!(detector.score(RowView { values: &[f64::NAN], ..RowView::default() }), None);
    let mut world = World::regression("conformal, some missing");
    detector.rebase(&world.references(400)).unwrap();
    world.missing = 1.0;
    assert!(world.run(&mut detector, 200).flags().is_empty());
}
