#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, Noise, World};
use crate::detector::testing::{self, beta_binomial_upper, numeric};
use crate::detector::{Detector, Findings};
use crate::event::{Observation, PredictionId};
use crate::sample::Flag;
use crate::schema::{Row, Schema, Target};
use crate::stage::Stage;

#[test]
fn passes_the_suite() {
    conformance::detector(|| Mahalanobis::default().false_alarm_rate(0.05));
    conformance::detector(|| Mahalanobis::default().threshold(Threshold::ChiSquare).covariance(Covariance::Empirical));
    conformance::detector(|| Mahalanobis::default().named("blind for want of rows"));
    conformance::detector(|| Mahalanobis::default().covariance(Covariance::Oas).false_alarm_rate(0.05));
    conformance::detector(|| Mahalanobis::default().by_class().false_alarm_rate(0.05));
}

/// Flags of `rows` fresh rows after a reference of `training` rows.
fn flags(name: &str, detector: Mahalanobis, training: usize, rows: usize, shift: f64) -> usize {
    let mut world = World::regression(name);
    world.missing = 0.1;
    let mut detector = detector;
    detector.rebase(&world.references(training)).unwrap();
    world.shift = shift;
    world.run(&mut detector, rows).flags().len()
}

#[test]
fn the_false_alarm_rate_holds_over_calibration_draws() {
    let (mut total, cases) = (0, 40);
    for case in 0..cases {
        let name = format!("conformal rate {case}");
        let mut world = World::regression(&name);
        world.missing = 0.1;
        let calibration = world.references(400).training.half(Half::Calibration).count();
        let found = flags(&name, Mahalanobis::default().false_alarm_rate(0.05), 400, 500, 0.0);
        let chance = beta_binomial_upper(found, 500, calibration, 0.05);
        assert!(chance > 1e-6, "{found} of 500 flagged: chance {chance}");
        total += found;
    }
    // over calibration draws the rate lies in (0.05 − 1/(m+1), 0.05]; one draw spreads by about 0.018
    let rate = f64::from(total as u32) / (500.0 * f64::from(cases));
    let spread = 5.0 * 0.018 / f64::from(cases).sqrt();
    assert!((0.045 - spread..0.05 + spread).contains(&rate), "{rate}");
}

#[test]
fn the_rate_holds_with_the_robust_covariance() {
    let (mut total, cases) = (0, 20);
    for case in 0..cases {
        let robust = Mahalanobis::default().covariance(Covariance::MinCovDet(Support::Half)).false_alarm_rate(0.05);
        total += flags(&format!("robust rate {case}"), robust, 400, 300, 0.0);
    }
    // as above: one draw of the calibration rows spreads by about 0.018, its 300 rows by 0.013
    let rate = f64::from(total as u32) / (300.0 * f64::from(cases));
    let spread = 5.0 * 0.022 / f64::from(cases).sqrt();
    assert!((0.045 - spread..0.05 + spread).contains(&rate), "{rate}");
}

#[test]
fn the_rate_holds_with_few_rows_per_column() {
    // calibrated on the rows that it was fitted on, it would flag several times too much here
    let mut total = 0;
    for case in 0..20 {
        let mut noise = Noise::new(&format!("few rows per column {case}"));
        let mut row = || (0..25).map(|_| noise.normal()).collect::<Vec<f64>>();
        let references = numeric(&(0..160).map(|_| row()).collect::<Vec<_>>());
        let mut detector = Mahalanobis::default().false_alarm_rate(0.1).covariance(Covariance::Empirical);
        detector.rebase(&references).unwrap();
        total += (0..50).filter(|_| score(&mut detector, &references, &row()).is_some()).count();
    }
    // one draw of about 80 calibration rows spreads by 0.033, its 50 rows by 0.042
    let rate = total as f64 / 1_000.0;
    assert!((0.04..0.16).contains(&rate), "{rate}");
}

#[test]
fn rows_far_from_the_training_data_are_flagged() {
    for detector in [
        Mahalanobis::default().false_alarm_rate(0.01),
        Mahalanobis::default().threshold(Threshold::ChiSquare),
        Mahalanobis::default().false_alarm_rate(0.01).covariance(Covariance::Empirical),
    ] {
        let mut world = World::classification("far rows");
        let mut detector = detector;
        detector.rebase(&world.references(1_000)).unwrap();
        world.shift = 6.0;
        let findings = world.run(&mut detector, 200);
        assert_eq!(findings.flags().len(), 200);
        for flag in findings.flags() {
            assert!((1..=3).contains(&flag.causes.len()) && flag.score > flag.threshold);
            assert!(flag.causes.is_sorted_by(|a, b| a.share >= b.share));
        }
        // `b` follows `a`: where it does not happen to follow, it may share the blame
        let named = findings.flags().iter().filter(|flag| flag.causes[0].column == "a").count();
        assert!(named >= 190, "{named} of 200");
    }
}

#[test]
fn with_too_few_calibration_rows_it_is_blind_and_flags_nothing() {
    let mut world = World::classification("too few rows");
    let mut detector = Mahalanobis::default();
    detector.rebase(&world.references(1_500)).unwrap();
    let blind = detector.blind();
    assert!(blind[0].column.is_none() && blind[0].reason.contains("needs 999 calibration rows"), "{}", blind[0].reason);
    assert!(detector.guard().is_none());
    world.shift = 1e6;
    assert!(world.run(&mut detector, 50).flags().is_empty());
    detector.rebase(&world.references(2_400)).unwrap();
    assert!(detector.blind().iter().all(|blind| blind.column.is_some()));
}

#[test]
fn constant_columns_are_blind_and_the_rest_is_scored() {
    let mut world = World::classification("constant column");
    let mut detector = Mahalanobis::default().false_alarm_rate(0.05);
    detector.rebase(&world.references(300)).unwrap();
    let blind: Vec<_> = detector.blind().into_iter().map(|blind| blind.column).collect();
    assert_eq!(blind, [Some("still".to_owned())]);
    world.shift = 8.0;
    assert_eq!(world.run(&mut detector, 20).flags().len(), 20);
}

fn score(detector: &mut Mahalanobis, references: &References, row: &[f64]) -> Option<f64> {
    flag(detector, references, row).map(|flag| flag.score)
}

fn flag(detector: &mut Mahalanobis, references: &References, row: &[f64]) -> Option<Flag> {
    let schema = references.training.schema();
    let mut observation = Observation::new(schema);
    observation.id = PredictionId::from_uuid(uuid::Uuid::from_u128(1));
    observation.row = Row::from_values(schema, row).unwrap();
    let mut buffer = ChunkBuffer::new(schema);
    buffer.push(0, &observation);
    let mut findings = Findings::new();
    detector.inspect(&buffer.view(schema), &mut findings).unwrap();
    findings.flags().first().cloned()
}

#[test]
fn a_duplicated_column_still_scores() {
    let mut noise = Noise::new("duplicated column");
    let rows: Vec<_> = (0..400)
        .map(|_| {
            let (x, y) = (noise.normal(), noise.normal());
            vec![x, x, y, f64::NAN]
        })
        .collect();
    let references = numeric(&rows);
    for covariance in [Covariance::LedoitWolf, Covariance::Empirical] {
        let mut detector = Mahalanobis::default().false_alarm_rate(0.02).covariance(covariance);
        detector.rebase(&references).unwrap();
        assert!(score(&mut detector, &references, &[6.0, 6.0, 0.0, 0.0]).is_some(), "{covariance:?}");
        assert!(score(&mut detector, &references, &[0.0, 0.0, 6.0, 0.0]).is_some(), "{covariance:?}");
        assert_eq!(score(&mut detector, &references, &[0.1, 0.1, 0.1, 0.0]), None);
        assert_eq!(score(&mut detector, &references, &[f64::NAN; 4]), None, "missing cells say nothing");
    }
}

#[test]
fn units_do_not_matter() {
    let mut noise = Noise::new("units");
    let rows: Vec<Vec<f64>> = (0..300).map(|_| vec![noise.normal(), noise.normal(), noise.normal()]).collect();
    let scaled: Vec<Vec<f64>> = rows.iter().map(|row| vec![row[0] * 1e-6, row[1], row[2] * 1e6]).collect();
    let mut scores = Vec::new();
    for (rows, unit) in [(rows, 1.0), (scaled, 1e-6)] {
        let references = numeric(&rows);
        let mut detector = Mahalanobis::default().threshold(Threshold::ChiSquare);
        detector.rebase(&references).unwrap();
        scores.push(score(&mut detector, &references, &[6.0 * unit, 0.0, 0.0]).unwrap());
    }
    // the halves are drawn by content and differ; without scaling, shrinkage makes the small column invisible
    assert!((scores[0] / scores[1] - 1.0).abs() < 0.25, "{scores:?}");
}

#[test]
fn the_chi_square_threshold_is_that_of_the_tables() {
    // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4
    for (degrees, upper, expected) in [(1, 0.05, 3.841), (10, 0.01, 23.209), (100, 0.001, 149.449)] {
        let mut noise = Noise::new("chi-square");
        let rows: Vec<Vec<f64>> = (0..20).map(|_| (0..degrees).map(|_| noise.normal()).collect()).collect();
        let references = numeric(&rows);
        let mut detector = Mahalanobis::default().threshold(Threshold::ChiSquare).false_alarm_rate(upper);
        detector.rebase(&references).unwrap();
        let flag = flag(&mut detector, &references, &vec![1e6; degrees]).unwrap();
        assert!((flag.threshold - expected).abs() < 5e-4, "{} {expected}", flag.threshold);
        assert!(flag.p_value.is_some_and(|p| p < 1e-300));
    }
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(20);
    for rate in [0.0, -0.1, 0.6, f64::NAN, f64::INFINITY] {
        assert!(Mahalanobis::default().false_alarm_rate(rate).rebase(&references).is_err());
    }
}

#[test]
fn every_estimate_holds_the_rate_finds_far_rows_and_bears_odd_columns() {
    for covariance in
        [Covariance::Oas, Covariance::MinCovDet(Support::Half), Covariance::MinCovDet(Support::ThreeQuarters)]
    {
        let make = || Mahalanobis::default().covariance(covariance);
        testing::far_rows_are_found(make(), 6.0, 0.01, 200);
        testing::odd_columns_do_no_harm(make());
        testing::rows_do_not_influence_each_other(make());
    }
    testing::the_rate_holds("oas", || Mahalanobis::default().covariance(Covariance::Oas));
    testing::far_rows_are_found(Mahalanobis::default().by_class(), 6.0, 0.01, 200);
    testing::rows_do_not_influence_each_other(Mahalanobis::default().by_class());
    testing::the_rate_holds("by class", || Mahalanobis::default().by_class());
}

#[test]
fn a_robust_estimate_sees_outliers_like_those_in_its_training_data() {
    let mut noise = Noise::new("outliers in the training data");
    let outlier = |noise: &mut Noise| (0..4).map(|_| 8.0 + 0.1 * noise.normal()).collect::<Vec<f64>>();
    let row = |i: u32, noise: &mut Noise| {
        if i.is_multiple_of(5) { outlier(noise) } else { (0..4).map(|_| noise.normal()).collect() }
    };
    let rows: Vec<_> = (0..600).map(|i| row(i, &mut noise)).collect();
    let references = numeric(&rows);
    let relative = |covariance: Covariance| {
        let mut detector = Mahalanobis::default().covariance(covariance);
        detector.rebase(&references).unwrap();
        let score = |values: &[f64]| detector.score(RowView { values, ..RowView::default() }).unwrap();
        score(&[8.0; 4]) / score(&[2.0, -2.0, 0.0, 0.0])
    };
    assert!(relative(Covariance::MinCovDet(Support::Half)) > 10.0);
    assert!(relative(Covariance::Empirical) < 1.0, "the plain estimate is drawn to the outliers");
}

#[test]
fn by_class_sees_the_void_between_the_classes() {
    let schema = Arc::new(Schema::numeric(2, Target::classes(["left", "right"])).unwrap());
    let mut noise = Noise::new("classes apart");
    let mut builder = Reference::builder(schema.clone());
    for i in 0..800_u32 {
        let centre = if i % 2 == 0 { -10.0 } else { 10.0 };
        let row = Row::from_values(&schema, &[centre + noise.normal(), noise.normal()]).unwrap();
        builder.push(&row, None, Some(crate::event::Label::Class(i % 2))).unwrap();
    }
    let references = References::starting_with(Arc::new(builder.finish()));
    let p_value = |detector: Mahalanobis, values: &[f64]| {
        let mut detector = detector;
        detector.rebase(&references).unwrap();
        detector.p_value(detector.score(RowView { values, ..RowView::default() }).unwrap()).unwrap()
    };
    assert!(p_value(Mahalanobis::default().by_class(), &[0.0, 0.0]) < 0.01);
    assert!(p_value(Mahalanobis::default(), &[0.0, 0.0]) > 0.5, "to one cloud it is the middle");
    assert!(p_value(Mahalanobis::default().by_class(), &[f64::NAN, 0.0]) > 0.5, "a hole is no distance");
}

#[test]
fn by_class_needs_classes_and_labels() {
    assert!(Mahalanobis::default().by_class().rebase(&World::regression("values").references(50)).is_err());
    let schema = Arc::new(Schema::numeric(1, Target::classes(["a", "b"])).unwrap());
    let mut builder = Reference::builder(schema.clone());
    for i in 0..50 {
        builder.push(&Row::from_values(&schema, &[f64::from(i)]).unwrap(), None, None).unwrap();
    }
    let mut detector = Mahalanobis::default().by_class();
    detector.rebase(&References::starting_with(Arc::new(builder.finish()))).unwrap();
    assert!(detector.blind()[0].reason.contains("no labelled rows"));
}
