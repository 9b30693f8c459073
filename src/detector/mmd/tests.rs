#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::window::testing::{Plain, holds};
use super::*;
use crate::conformance::{self, Noise, World};
use crate::{KsDrift, Stage};

#[test]
fn passes_the_suite() {
    conformance::detector(|| MmdDrift::default().window(200).false_alarm_rate(0.1));
    conformance::detector(|| MmdDrift::default().window(300).sliding(110).false_alarms_per_day(20.0).warnings(2.0));
    conformance::detector(|| MmdDrift::default().time_window(std::time::Duration::from_secs(300)));
}

/// Alarms of `trials` windows, each with a reference of its own.
fn alarms(case: &str, detector: &MmdDrift, columns: usize, trials: usize, cells: [fn(&mut Noise) -> f64; 2]) -> usize {
    let mut plain = Plain::new(case, columns);
    let window = detector.clone();
    (0..trials).filter(|_| !plain.alarms(&mut window.clone(), 300, 100, cells[0], cells[1]).is_empty()).count()
}

#[test]
fn the_rate_holds_and_a_shift_is_found() {
    let drift = |rate: f64| MmdDrift::default().window(100).false_alarm_rate(rate).minimum_effect(0.0);
    let holes = |noise: &mut Noise| if noise.chance(0.2) { f64::NAN } else { noise.normal() };
    let rounded = |noise: &mut Noise| (noise.normal() * 2.0).round();
    let shifted = |noise: &mut Noise| noise.normal() + 0.7;
    for columns in [1, 8] {
        for (name, cell) in [("normal", Noise::normal as fn(&mut Noise) -> f64), ("holes", holes), ("rounded", rounded)]
        {
            let found = alarms(&format!("{name} {columns}"), &drift(0.2), columns, 200, [cell, cell]);
            assert!(holds(found, 200, 0.2), "{name}, {columns} columns: {found} of 200");
            assert!(found > 10, "{name}, {columns} columns: {found} of 200, far too strict");
        }
        let found = alarms(&format!("shift {columns}"), &drift(0.001), columns, 20, [Noise::normal, shifted]);
        assert!(found >= 19, "{columns} columns: {found} of 20");
        let found = alarms(&format!("more holes {columns}"), &drift(0.001), columns, 20, [Noise::normal, holes]);
        assert!(found >= 19, "{columns} columns, missing values: {found} of 20");
    }
}

#[test]
#[ignore = "minutes: the full grid of sizes and columns"]
fn the_rate_holds_on_the_full_grid() {
    for (reference, window, trials) in
        [(50, 20, 1_000), (4_000, 20, 300), (500, 200, 1_000), (4_000, 2_000, 300), (4_000, 20_000, 60)]
    {
        for columns in [1, 8, 64] {
            for missing in [0.0, 0.2] {
                for step in [0.0, 0.5] {
                    let cell = |noise: &mut Noise| {
                        let value = noise.normal();
                        let value = if step > 0.0 { (value / step).round() * step } else { value };
                        if noise.chance(missing) { f64::NAN } else { value }
                    };
                    let case = format!("mmd {reference} {window} {columns} {missing} {step}");
                    let mut plain = Plain::new(&case, columns);
                    let trials = if columns == 64 { trials / 5 } else { trials };
                    let found = (0..trials)
                        .filter(|_| {
                            let mut drift =
                                MmdDrift::default().window(window).false_alarm_rate(0.05).minimum_effect(0.0);
                            !plain.alarms(&mut drift, reference, window, cell, cell).is_empty()
                        })
                        .count();
                    println!("{case}: {found} of {trials}");
                    assert!(holds(found, trials, 0.05), "{case}: {found} of {trials}");
                }
            }
        }
    }
}

#[test]
fn a_change_of_the_correlation_is_seen_that_no_column_shows() {
    let pairs = |correlation: f64| {
        let mut first = f64::NAN;
        move |noise: &mut Noise| {
            let own = noise.normal();
            if first.is_nan() {
                first = own;
                return own;
            }
            let before = std::mem::replace(&mut first, f64::NAN);
            correlation * before + (1.0 - correlation * correlation).sqrt() * own
        }
    };
    let mut plain = Plain::new("correlation", 2);
    let mut together = MmdDrift::default().window(500);
    let alarms = plain.alarms(&mut together, 1_000, 500, pairs(0.8), pairs(-0.8));
    assert_eq!(alarms.len(), 1);
    assert!(
        alarms[0]
            .text
            .starts_with("the columns together differ from the reference in 500 observations: numeric columns (MMD"),
        "{}",
        alarms[0].text
    );
    let mut apart = KsDrift::default().window(500);
    assert!(plain.alarms(&mut apart, 1_000, 500, pairs(0.8), pairs(-0.8)).is_empty());
}

#[test]
fn what_it_cannot_see_is_named() {
    let mut world = World::classification("mmd blind");
    let mut drift = MmdDrift::default();
    drift.rebase(&world.references(200)).unwrap();
    let blind: Vec<_> = drift.blind().into_iter().filter_map(|blind| blind.column).collect();
    assert_eq!(blind, ["kind", "still"]);
    let mut plain = Plain::categories("mmd without numbers", 2, 3);
    drift.rebase(&plain.references(50, Noise::uniform)).unwrap();
    assert_eq!(drift.blind()[0].column, None, "nothing is left to compare");
}

#[test]
fn the_newest_reading_is_there_without_an_alarm() {
    let mut plain = Plain::new("mmd readings", 3);
    let mut drift = MmdDrift::default().window(100);
    assert!(plain.alarms(&mut drift, 300, 100, Noise::normal, Noise::normal).is_empty());
    let readings = drift.last_readings();
    assert_eq!(readings.len(), 1);
    assert!(readings[0].p_value.unwrap() > 0.01 && readings[0].statistic > 0.0, "{readings:?}");
}
