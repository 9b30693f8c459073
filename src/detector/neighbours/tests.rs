#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::{self, World};
use crate::detector::testing;
use crate::stage::Stage;

#[test]
fn passes_the_suite() {
    conformance::detector(|| NearestNeighbours::default().false_alarm_rate(0.05));
    conformance::detector(|| NearestNeighbours::default().named("blind for want of rows"));
}

#[test]
fn the_false_alarm_rate_holds_over_calibration_draws() {
    testing::the_rate_holds("nearest_neighbours", NearestNeighbours::default);
}

#[test]
fn rows_far_from_the_training_data_are_flagged() {
    testing::far_rows_are_found(NearestNeighbours::default(), 8.0, 0.01, 200);
}

#[test]
fn odd_columns_do_no_harm() {
    testing::odd_columns_do_no_harm(NearestNeighbours::default());
}

#[test]
fn rows_do_not_influence_each_other() {
    testing::rows_do_not_influence_each_other(NearestNeighbours::default());
}

#[test]
fn with_fewer_rows_than_neighbours_it_is_blind() {
    let mut detector = NearestNeighbours::default().neighbours(NonZeroUsize::new(300).unwrap());
    detector.rebase(&World::regression("few rows").references(400)).unwrap();
    assert!(detector.blind()[0].reason.contains("300 neighbours need"), "{:?}", detector.blind());
}

#[test]
fn a_gap_in_the_middle_is_found() {
    let mut noise = conformance::Noise::new("gap");
    let rows: Vec<_> =
        (0..800).map(|i| [0, 1].map(|_| if i % 2 == 0 { 5.0 } else { -5.0 } + noise.normal()).to_vec()).collect();
    let mut detector = NearestNeighbours::default();
    detector.rebase(&testing::numeric(&rows)).unwrap();
    let score = detector.score(RowView { values: &[0.0, 0.0], ..RowView::default() }).unwrap();
    assert!(detector.p_value(score).unwrap() < 0.01);
}
