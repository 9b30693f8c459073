use super::super::tests::{at, status};
use super::*;
use crate::trigger::{Coverage, TriggerExt, any, days, drift, hours, minutes, new_labels, schedule};

mod storms;

/// A status `minutes` after the start, with so many labels.
fn after(minutes: i64, labels: u64) -> LoopStatus {
    LoopStatus { now: status().now + TimeDelta::minutes(minutes), labels, ..status() }
}

/// Minutes after the start at which `trigger` fires, and the labels that its runs take.
fn firings(trigger: &dyn RetrainTrigger, log: &[LoopStatus], takes: TimeDelta) -> Vec<(i64, u64)> {
    let found = simulate(trigger, log, takes).unwrap();
    found.iter().map(|firing| ((firing.time - status().now).num_minutes(), firing.labels)).collect()
}

#[test]
fn a_run_takes_the_labels_that_wait_whatever_the_recorded_loop_did() {
    // The recorded loop never retrained.
    let log: Vec<LoopStatus> = (0..10).map(|hour| after(hour * 60, 30 * hour as u64)).collect();
    assert_eq!(firings(&new_labels(60), &log, minutes(1)), [(120, 60), (240, 60), (360, 60), (480, 60)]);
    // It retrained after five hours, with 150 labels.
    let sealed = |mut entry: LoopStatus| {
        if entry.labels >= 150 {
            (entry.labels, entry.sealed_labels) = (entry.labels - 150, 150);
            entry.last_run = Some(at("2026-01-01T17:00:00Z"));
        }
        entry
    };
    let log: Vec<LoopStatus> = log.into_iter().map(sealed).collect();
    assert_eq!(firings(&new_labels(60), &log, minutes(1)), [(120, 60), (240, 60), (360, 60), (480, 60)]);
    assert_eq!(firings(&new_labels(200), &log, minutes(1)), [(420, 210)]);
}

#[test]
fn nothing_fires_while_the_simulated_run_is_in_flight() {
    let log: Vec<LoopStatus> = (0..10).map(|hour| after(hour * 60, 30 * hour as u64)).collect();
    assert_eq!(firings(&new_labels(60), &log, hours(3)), [(120, 60), (300, 90), (480, 90)]);
}

#[test]
fn time_passes_between_the_entries() {
    let log = [after(0, 5), after(3 * 24 * 60, 5)];
    let nightly = schedule("0 3 * * *").unwrap();
    // The only five labels are gone after the first night.
    assert_eq!(firings(&nightly, &log, hours(1)), [(15 * 60, 5)]);
    let fed: Vec<LoopStatus> = (0..3).map(|day| after(day * 24 * 60, 5 * (day + 1) as u64)).collect();
    assert_eq!(firings(&nightly, &fed, hours(1)), [(15 * 60, 5), (39 * 60, 5)]);
    let cooled = any([new_labels(1)]).cooldown(hours(12));
    assert_eq!(firings(&cooled, &[after(0, 1), after(1, 2), after(24 * 60, 2)], minutes(1)), [(0, 1), (12 * 60, 1)]);
}

#[test]
fn the_day_has_its_budget_and_counts_what_was_recorded_before_the_log() {
    let recent_runs = vec![at("2026-01-01T11:00:00Z")];
    let mut log: Vec<LoopStatus> = (0..40).map(|hour| after(hour * 60, hour as u64)).collect();
    assert_eq!(
        firings(&new_labels(1).daily_budget(2), &log, minutes(1)),
        [(60, 1), (120, 1), (25 * 60, 23), (26 * 60, 1)]
    );
    log[0].recent_runs = recent_runs;
    // The recorded run leaves the 24 hours at 23 hours after the start.
    assert_eq!(firings(&new_labels(1).daily_budget(2), &log, minutes(1)), [(60, 1), (23 * 60, 22), (25 * 60, 2)]);
}

#[test]
fn an_alarm_stays_open_until_a_simulated_run_or_a_person_takes_note_of_it() {
    let alarmed = |minutes, open_alarms, labels, sealed_labels| LoopStatus {
        open_alarms,
        last_alarm: (open_alarms > 0).then(|| status().now + TimeDelta::minutes(60)),
        sealed_labels,
        ..after(minutes, labels)
    };
    // The recorded run seals at two hours; the policy wants the alarm and ten labels.
    let policy = crate::trigger::all([drift(), new_labels(10)]);
    let by_run = [alarmed(0, 0, 0, 0), alarmed(60, 1, 5, 0), alarmed(120, 0, 0, 5), alarmed(180, 0, 5, 5)];
    assert_eq!(firings(&policy, &by_run, minutes(1)), [(180, 10)]);
    let by_person = [alarmed(0, 0, 0, 0), alarmed(60, 1, 5, 0), alarmed(120, 0, 5, 0), alarmed(180, 0, 10, 0)];
    assert_eq!(firings(&policy, &by_person, minutes(1)), []);
    // It stays open in the record, and does not fire again.
    let open = [alarmed(60, 1, 5, 0), alarmed(120, 1, 9, 0), alarmed(180, 1, 12, 0)];
    assert_eq!(firings(&drift(), &open, minutes(1)), [(60, 5)]);
}

#[test]
fn coverage_counts_from_the_simulated_run_on() {
    let covered = |minutes, flagged, labels, sealed_labels| LoopStatus {
        coverage: CoverageStatus { covered: 0.9, flagged, labels, cells: vec![0.9] },
        sealed_labels,
        ..after(minutes, labels)
    };
    let log = [covered(0, 60, 40, 0), covered(60, 100, 60, 0), covered(120, 120, 70, 0), covered(180, 55, 35, 70)];
    assert_eq!(firings(&Coverage::default(), &log, minutes(1)), [(0, 40), (120, 30), (180, 35)]);
}

#[test]
fn nothing_is_made_of_nothing_and_a_failure_is_told() {
    assert!(simulate(&new_labels(1), &[], hours(1)).unwrap().is_empty());
    let broken = crate::trigger::trigger_fn("mine", |_, _| Err(crate::error::message("no connection")));
    let error = simulate(&broken, &[after(0, 1)], hours(1)).unwrap_err();
    assert_eq!((error.stage.as_str(), error.source.to_string().as_str()), ("mine", "no connection"));
}

#[test]
fn a_clock_that_went_back_and_a_long_gap_end() {
    let log = [after(600, 1), after(0, 2), after(60 * 24 * 365 * 10, 3)];
    let found = firings(&new_labels(1).cooldown(days(3_000)), &log, minutes(1));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], (600, 1));
}
