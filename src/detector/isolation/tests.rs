#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::{self, World};
use crate::detector::testing;
use crate::stage::Stage;

#[test]
fn passes_the_suite() {
    conformance::detector(|| IsolationForest::default().false_alarm_rate(0.05));
    conformance::detector(|| IsolationForest::default().named("blind for want of rows"));
}

#[test]
fn the_false_alarm_rate_holds_over_calibration_draws() {
    testing::the_rate_holds("isolation_forest", IsolationForest::default);
}

#[test]
fn rows_far_from_the_training_data_are_flagged() {
    testing::far_rows_are_found(IsolationForest::default(), 8.0, 0.05, 100);
}

#[test]
fn odd_columns_do_no_harm() {
    testing::odd_columns_do_no_harm(IsolationForest::default());
}

#[test]
fn rows_do_not_influence_each_other() {
    testing::rows_do_not_influence_each_other(IsolationForest::default());
}

#[test]
fn the_seed_makes_the_forest() {
    let references = World::regression("seeds").references(400);
    let score = |seed: u64| {
        let mut detector = IsolationForest::default().seed(seed);
        detector.rebase(&references).unwrap();
        detector.score(RowView { values: &[12.0, 500.0, 3.0, 3.0], ..RowView::default() }).unwrap()
    };
    assert!(score(1) == score(1) && score(1) != score(2) && score(1) > 0.3 && score(1) < 0.8);
}
