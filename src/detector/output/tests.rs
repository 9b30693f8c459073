#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::conformance::{self, World};
use crate::stats::binomial;
use crate::{Detector, Stage};

fn worlds(name: &str) -> [World; 2] {
    [World::classification(name), World::regression(name)]
}

#[test]
fn passes_the_suite() {
    conformance::detector(|| OutputDrift::default().window(200).false_alarm_rate(0.1));
    conformance::detector(|| {
        OutputDrift::default().window(250).sliding(60).false_alarms_per_day(20.0).named("outputs")
    });
}

#[test]
fn passes_the_cuts_and_restarts_of_a_live_baseline() {
    for mut world in worlds("live baseline, cut") {
        let references = References::starting_with(Arc::new(world.reference_without_outputs(50)));
        let fresh = || {
            let mut detector = OutputDrift::default().window(100);
            detector.rebase(&references).unwrap();
            detector
        };
        let mut observations: Vec<_> = (0..150).map(|_| world.observation()).collect();
        world.shift = 2.0;
        observations.extend((0..250).map(|_| world.observation()));
        let whole = world.show(&mut fresh(), &observations).alarms().len();
        assert!(whole >= 2);
        for cut in [1, 40, 99, 100, 101, 230] {
            let (mut first, mut second) = (fresh(), fresh());
            let mut found = world.show(&mut first, &observations[..cut]).alarms().len();
            second.restore(&first.snapshot().unwrap()).unwrap();
            found += world.show(&mut second, &observations[cut..]).alarms().len();
            assert_eq!(found, whole, "cut at {cut}");
        }
    }
}

#[test]
fn without_outputs_it_is_blind_until_the_model_has_shown_some() {
    for mut world in worlds("blind") {
        let references = References::starting_with(Arc::new(world.reference_without_outputs(50)));
        let mut detector = OutputDrift::default().window(100);
        detector.rebase(&references).unwrap();
        assert!(detector.blind()[0].reason.contains("the reference has no outputs; 0 of the first 100"));
        world.run(&mut detector, 99);
        assert!(detector.blind()[0].reason.contains("99 of the first 100"));
        world.run(&mut detector, 1);
        assert!(detector.blind().is_empty());
        world.shift = 2.0;
        assert_eq!(world.run(&mut detector, 100).alarms().len(), 1);
        detector.rebase(&references).unwrap();
        assert!(detector.blind()[0].reason.contains("0 of the first 100"), "a baseline of another model");
    }
}

#[test]
fn outputs_of_another_model_are_no_baseline() {
    for mut world in worlds("another model") {
        let mut references = References::starting_with(Arc::new(world.reference(50)));
        let mut detector = OutputDrift::default().window(100);
        detector.rebase(&references).unwrap();
        assert!(detector.blind().is_empty());
        references.model = crate::ModelVersion(7);
        detector.rebase(&references).unwrap();
        assert!(detector.blind()[0].reason.contains("0 of the first 100"));
    }
}

#[test]
fn the_rate_holds_and_a_shift_is_found() {
    for (kind, shift, unusable) in [(0, 1.75, 0.02), (1, 1.0, 0.02), (0, 0.0, 0.3), (1, 0.0, 0.3)] {
        let (mut found, mut missed) = (0, 0);
        for case in 0..150 {
            let mut world = worlds(&format!("level and power {case}"))[kind].clone();
            world.unusable = 0.02;
            let mut detector = OutputDrift::default().window(150).false_alarm_rate(0.1).minimum_effect(0.0);
            detector.rebase(&world.references(150)).unwrap();
            found += world.run(&mut detector, 150).alarms().len();
            (world.shift, world.unusable) = (shift, unusable);
            missed += 1 - world.run(&mut detector, 150).alarms().len();
        }
        assert!(binomial::lower(found as u64, 150, 1.0 - 1e-6) <= 0.1, "{found} of 150 false alarms, kind {kind}");
        assert!(missed <= 3, "{missed} of 150 missed, kind {kind}, shift {shift}, unusable {unusable}");
    }
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(20);
    assert!(OutputDrift::default().window(0).rebase(&references).is_err());
    assert!(OutputDrift::default().false_alarm_rate(0.9).rebase(&references).is_err());
}

#[test]
fn a_share_of_the_budget_is_as_if_it_were_stated_and_a_stated_rate_goes_before() {
    let alarms = |mut detector: OutputDrift, share: Option<f64>, takes: bool| {
        let mut world = World::classification("share of the budget");
        if let Some(share) = share {
            // The last share counts.
            assert_eq!((detector.alarm_budget(7.0), detector.alarm_budget(share)), (takes, takes));
        }
        detector.rebase(&world.references(500)).unwrap();
        world.shift = 1.0;
        world.run(&mut detector, 3_000).alarms().to_vec()
    };
    let drift = || OutputDrift::default().window(100);
    let mut counts = Vec::new();
    for share in [1e-6, 1.0, 1_000.0] {
        let stated = alarms(drift().false_alarms_per_day(share), None, true);
        assert_eq!(alarms(drift(), Some(share), true), stated);
        assert_eq!(
            alarms(drift().false_alarms_per_day(1.0), Some(share), false),
            alarms(drift().false_alarms_per_day(1.0), None, false)
        );
        assert_eq!(
            alarms(drift().false_alarm_rate(0.02), Some(share), false),
            alarms(drift().false_alarm_rate(0.02), None, false)
        );
        counts.push(stated.len());
    }
    assert!(counts[0] < counts[1] && counts[1] < counts[2], "the share is the level: {counts:?}");
}
