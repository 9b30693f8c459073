#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calibration;
mod edge_cases;
mod golden;
mod sliding;

use std::time::Duration;

use super::testing::{Plain, every_seconds, holds};
use super::*;
use crate::conformance::{self, Noise, World};
use crate::{KsDrift, Level, OutputDrift};

const NUMERIC: [NumericTest; 7] = [
    NumericTest::KolmogorovSmirnov,
    NumericTest::KolmogorovSmirnovTies,
    NumericTest::CramerVonMises,
    NumericTest::Wasserstein,
    NumericTest::PopulationStability,
    NumericTest::JensenShannon,
    NumericTest::Hellinger,
];

const CATEGORY: [CategoryTest; 4] =
    [CategoryTest::ChiSquare, CategoryTest::GTest, CategoryTest::PopulationStability, CategoryTest::JensenShannon];

fn shifted(noise: &mut Noise) -> f64 {
    noise.normal() + 1.0
}

fn hour() -> Duration {
    Duration::from_secs(3_600)
}

#[test]
fn every_kind_of_window_and_rate_passes_the_suite() {
    // a second lies between two observations of the suite
    conformance::detector(|| KsDrift::default().time_window(Duration::from_secs(300)).false_alarm_rate(0.2));
    conformance::detector(|| KsDrift::default().time_window(Duration::from_secs(400)).window(60).warnings(5.0));
    conformance::detector(|| KsDrift::default().window(150).average_run_length(2_000.0).warnings(10.0));
    conformance::detector(|| KsDrift::default().window(200).correction(Correction::BenjaminiHochberg));
    conformance::detector(|| OutputDrift::default().time_window(Duration::from_secs(500)).average_run_length(5_000.0));
}

#[test]
fn every_test_passes_the_suite() {
    for test in NUMERIC {
        conformance::detector(|| KsDrift::default().numeric_test(test).window(200).false_alarm_rate(0.1));
        conformance::detector(|| OutputDrift::default().numeric_test(test).window(200).sliding(90));
    }
    for test in CATEGORY {
        conformance::detector(|| KsDrift::default().category_test(test).window(200).false_alarm_rate(0.1));
        conformance::detector(|| OutputDrift::default().category_test(test).window(200).warnings(3.0));
    }
}

#[test]
fn permutations_that_cannot_prove_the_level_are_blind_and_name_it() {
    let mut plain = Plain::new("starved", 8);
    let references = plain.references(500, Noise::normal);
    let reasons = |drift: &KsDrift| drift.blind().into_iter().map(|blind| blind.reason).collect::<Vec<_>>();
    // sixteen tests share the rate: a distribution and a missing share for each column
    let psi = KsDrift::default().numeric_test(NumericTest::PopulationStability).window(100);
    let mut fixed = psi.clone().false_alarm_rate(0.001);
    fixed.rebase(&references).unwrap();
    assert_eq!(reasons(&fixed).len(), 8);
    assert!(
        reasons(&fixed)[0].contains("needs a level of 0.0001 per column, here it has 6.3e-5"),
        "{:?}",
        fixed.blind()
    );
    // the missing shares are still tested
    let holes = plain.observations(100, |noise| if noise.chance(0.5) { f64::NAN } else { noise.normal() + 1.0 });
    let alarms = plain.show(&mut fixed, &holes);
    assert_eq!(alarms[0].readings.len(), 8);
    assert!(alarms[0].text.contains("missing"));
    let mut enough = psi.clone().false_alarm_rate(0.01);
    enough.rebase(&references).unwrap();
    assert_eq!(reasons(&enough), [""; 0]);
    // a level that follows the time: blind as long as the last test had too little
    let mut daily = psi.false_alarms_per_day(0.1);
    daily.rebase(&references).unwrap();
    assert_eq!(reasons(&daily), [""; 0], "nobody knows yet");
    let mut observations = plain.observations(200, shifted);
    every_seconds(&mut observations, 0, 1.0);
    assert!(plain.show(&mut daily, &observations[..100]).is_empty());
    assert_eq!(reasons(&daily).len(), 8);
    let mut again = daily.clone();
    again.rebase(&references).unwrap();
    again.restore(&daily.snapshot().unwrap()).unwrap();
    assert_eq!(reasons(&again).len(), 8, "a restart does not hide it");
    every_seconds(&mut observations, 86_400, 1.0);
    assert_eq!(plain.show(&mut daily, &observations[100..]).len(), 1);
    assert_eq!(reasons(&daily), [""; 0]);
}

#[test]
fn time_windows_are_tested_when_they_end() {
    let mut plain = Plain::new("time windows", 2);
    let mut drift = KsDrift::default().time_window(hour());
    drift.rebase(&plain.references(500, Noise::normal)).unwrap();
    // from 23:30 to 01:30, one observation in 20 seconds
    let mut observations = plain.observations(90, Noise::normal);
    observations.extend(plain.observations(180, shifted));
    observations.extend(plain.observations(90, Noise::normal));
    every_seconds(&mut observations, 86_400 - 1_800, 20.0);
    let alarms = plain.show(&mut drift, &observations);
    // the hour from midnight to one is known when the observation at one arrives, but is named by its own last one
    assert_eq!(alarms.iter().map(|alarm| alarm.sequence).collect::<Vec<_>>(), [269]);
    assert!(alarms[0].text.starts_with("2 of 2 columns differ from the reference in 180 observations"));
}

#[test]
fn a_late_observation_belongs_to_the_window_that_is_open() {
    let alarms = |late: i64| {
        let mut plain = Plain::new("late", 1);
        let mut drift = KsDrift::default().time_window(hour());
        drift.rebase(&plain.references(500, Noise::normal)).unwrap();
        let mut observations = plain.observations(101, shifted);
        every_seconds(&mut observations, 3_600, 1.0);
        observations[50].time -= chrono::TimeDelta::seconds(late);
        observations[100].time += chrono::TimeDelta::hours(1);
        plain.show(&mut drift, &observations)
    };
    assert_eq!(alarms(0).len(), 1);
    assert_eq!(alarms(86_400), alarms(0));
}

#[test]
fn a_time_window_with_few_observations_goes_on_and_says_so() {
    let mut plain = Plain::new("few", 1);
    let mut drift = KsDrift::default().time_window(hour()).minimum_effect(0.0);
    drift.rebase(&plain.references(500, Noise::normal)).unwrap();
    let mut observations = plain.observations(60, shifted);
    every_seconds(&mut observations, 0, 240.0); // 15 an hour
    assert!(plain.show(&mut drift, &observations[..20]).is_empty());
    assert!(drift.blind()[0].reason.contains("fewer than 20"), "{:?}", drift.blind());
    assert!(drift.last_readings().is_empty());
    let alarms = plain.show(&mut drift, &observations[20..]);
    assert_eq!(alarms.iter().map(|alarm| alarm.sequence).collect::<Vec<_>>(), [29]);
    assert!(drift.blind()[0].reason.contains("fewer than 20"), "the third hour has begun, the fourth is to come");
}

#[test]
fn a_busy_time_window_keeps_a_uniform_sample() {
    let mut plain = Plain::new("busy", 1);
    let mut drift = KsDrift::default().time_window(hour()).window(300).false_alarm_rate(1e-6).minimum_effect(0.0);
    drift.rebase(&plain.references(3_000, Noise::uniform)).unwrap();
    // the value is the place in the window: only a uniform sample has the distribution of the reference
    let mut number = 0.0;
    let mut observations = plain.observations(5_000, |_| {
        number += 1.0;
        number / 5_000.0
    });
    every_seconds(&mut observations, 0, 0.7);
    let mut next = plain.observations(1, Noise::uniform);
    every_seconds(&mut next, 3_600, 0.0);
    plain.show(&mut drift, &observations);
    let Snapshot::State { state, .. } = drift.snapshot().unwrap() else { panic!("a state") };
    assert_eq!(state["window"]["rows"]["len"], 300, "memory is bounded");
    assert!(plain.show(&mut drift, &next).is_empty());
    let reading = &drift.last_readings()[0];
    assert!(reading.p_value.unwrap() > 1e-3, "{reading:?}");
    // and one that has changed is found, and says how many there were
    let mut observations = plain.observations(5_000, |noise| 0.5 * noise.uniform());
    every_seconds(&mut observations, 3_600, 0.7);
    plain.show(&mut drift, &observations);
    every_seconds(&mut next, 7_200, 0.0);
    let alarms = plain.show(&mut drift, &next);
    assert!(alarms[0].text.contains("in 5001 observations"), "{}", alarms[0].text);
}

#[test]
fn rates_per_day_and_run_lengths_follow_the_time_and_the_number_of_observations() {
    let level =
        |drift: KsDrift, days: f64, observations: u64| drift.settings.level(settings::Passed { days, observations });
    let per_day = KsDrift::default().false_alarms_per_day(0.1);
    assert_eq!(level(per_day.clone(), 0.25, 7), 0.025);
    assert_eq!(level(per_day.clone(), 0.0, 7), 0.0);
    assert_eq!(level(per_day, 9.0, 7), 0.05);
    let run = KsDrift::default().average_run_length(100_000.0);
    assert_eq!(level(run.clone(), 3.0, 1_000), 0.01);
    assert_eq!(level(run, 3.0, 1_000_000), 0.05);
    assert_eq!(level(KsDrift::default().false_alarm_rate(0.2), 3.0, 5), 0.2);
}

#[test]
fn the_average_run_length_holds() {
    // 400 tests of 50 observations each: at most 20 false alarms are expected
    let mut found = 0;
    for case in 0..20 {
        let mut plain = Plain::new(&format!("run length {case}"), 2);
        let mut drift = KsDrift::default().window(50).average_run_length(1_000.0).minimum_effect(0.0);
        found += plain.alarms(&mut drift, 500, 1_000, Noise::normal, Noise::normal).len();
    }
    assert!(holds(found, 400, 0.05), "{found} of 400");
    assert!(found > 0, "never an alarm: far too strict");
}

#[test]
fn warnings_come_earlier_and_give_way_to_drift() {
    let levels = |shift: f64, rate: f64| {
        let mut plain = Plain::new("warnings", 1);
        let mut drift = KsDrift::default().window(200).false_alarm_rate(rate).warnings(1e5);
        let live = move |noise: &mut Noise| noise.normal() + shift;
        let alarms = plain.alarms(&mut drift, 1_000, 200, Noise::normal, live);
        alarms.iter().map(|alarm| alarm.level).collect::<Vec<_>>()
    };
    assert_eq!(levels(0.25, 1e-7), [Level::Warning]);
    assert_eq!(levels(1.0, 1e-7), [Level::Drift]);
    assert_eq!(levels(0.0, 1e-7), []);
}

#[test]
fn every_test_can_be_read_as_a_metric() {
    let mut world = World::classification("metrics");
    let mut drift = KsDrift::default().window(300);
    drift.rebase(&world.references(600)).unwrap();
    assert!(drift.last_readings().is_empty());
    assert!(world.run(&mut drift, 300).alarms().is_empty());
    let readings = drift.last_readings();
    let columns: Vec<_> = readings.iter().map(|reading| reading.column.as_str()).collect();
    assert_eq!(columns, ["a", "a", "b", "b", "c", "c", "still", "kind"]);
    assert!(readings.iter().all(|reading| reading.p_value.is_some_and(|p| p > 0.001)), "{readings:?}");
    world.shift = 2.0;
    let alarms = world.run(&mut drift, 300).alarms().to_vec();
    assert_eq!(drift.last_readings()[0], alarms[0].readings[0]);
}

#[test]
fn corrections_bound_what_is_behind_an_alarm() {
    // 10 of 40 columns change a little
    let behind = |correction: Correction| {
        let mut plain = Plain::new("corrections", 40);
        let mut drift =
            KsDrift::default().window(200).false_alarm_rate(0.05).correction(correction).minimum_effect(0.0);
        let mut column = 0;
        let live = |noise: &mut Noise| {
            column = (column + 1) % 40;
            noise.normal() + if column < 10 { 0.35 } else { 0.0 }
        };
        let alarms = plain.alarms(&mut drift, 1_000, 200, Noise::normal, live);
        alarms[0].readings.len()
    };
    let (bonferroni, holm) = (behind(Correction::Bonferroni), behind(Correction::Holm));
    let hochberg = behind(Correction::BenjaminiHochberg);
    assert!(bonferroni <= holm && holm < hochberg, "{bonferroni} {holm} {hochberg}");
    assert!((6..=12).contains(&hochberg), "{hochberg}");
}

#[test]
fn a_state_of_the_format_before_is_refused() {
    let mut plain = Plain::new("old format", 1);
    let mut drift = KsDrift::default();
    drift.rebase(&plain.references(100, Noise::normal)).unwrap();
    let old = serde_json::json!({ "columns": ["x0"], "filled": 0, "values": [[]], "codes": [], "tested_at": null });
    let error = drift.restore(&Snapshot::State { format: 1, state: old }).unwrap_err();
    assert_eq!(error.to_string(), "the state has format 1, this release reads format 2");
}

#[test]
fn a_state_of_another_kind_of_window_is_refused() {
    let mut world = World::classification("kinds of windows");
    let references = world.references(50);
    let make = |drift: KsDrift| {
        let mut drift = drift.window(100);
        drift.rebase(&references).unwrap();
        drift
    };
    let (mut counted, mut timed) = (make(KsDrift::default()), make(KsDrift::default().time_window(hour())));
    world.run(&mut counted, 60);
    world.run(&mut timed, 60);
    assert!(timed.restore(&counted.snapshot().unwrap()).is_err());
    assert!(counted.restore(&timed.snapshot().unwrap()).is_err());
}

#[test]
fn mistakes_in_windows_and_rates_are_reported_by_rebase() {
    let references = World::classification("mistakes in windows").references(20);
    for wrong in [
        KsDrift::default().time_window(Duration::ZERO),
        KsDrift::default().time_window(hour()).window(10),
        KsDrift::default().time_window(hour()).sliding(10),
        KsDrift::default().average_run_length(0.0),
        KsDrift::default().warnings(1.0),
        KsDrift::default().warnings(f64::NAN),
        KsDrift::default().warnings(f64::INFINITY),
    ] {
        assert!(wrong.clone().rebase(&references).is_err(), "{wrong:?}");
    }
}
