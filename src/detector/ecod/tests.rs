#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance;
use crate::detector::testing;

#[test]
fn passes_the_suite() {
    conformance::detector(|| Ecod::default().false_alarm_rate(0.05));
    conformance::detector(|| Ecod::default().named("blind for want of rows"));
}

#[test]
fn the_false_alarm_rate_holds_over_calibration_draws() {
    testing::the_rate_holds("ecod", Ecod::default);
}

#[test]
fn rows_far_from_the_training_data_are_flagged() {
    testing::far_rows_are_found(Ecod::default(), 8.0, 0.05, 100);
}

#[test]
fn odd_columns_do_no_harm() {
    testing::odd_columns_do_no_harm(Ecod::default());
}

#[test]
fn rows_do_not_influence_each_other() {
    testing::rows_do_not_influence_each_other(Ecod::default());
}
