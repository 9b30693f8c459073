#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, Noise, World};
use crate::event::PredictionId;
use crate::reference::Reference;
use crate::schema::{Row, Schema};
use crate::stats::binomial;

fn id(number: u64) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u64_pair(7, number))
}

fn truth(number: u64, wrong: bool) -> Truth {
    let predicted_at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(number as i64);
    Truth {
        sequence: number,
        prediction: id(number),
        model: ModelVersion::FIRST,
        predicted: Some(Label::Class(0)),
        score: Some(0.9),
        lane: Some(Lane::Random),
        label: Some(Label::Class(u32::from(wrong))),
        replaces: None,
        predicted_at,
        time: predicted_at,
    }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::numeric(1, Target::classes(["good", "bad"])).unwrap())
}

/// A reference of `rows` labelled outputs, wrong with probability `error`.
fn references(noise: &mut Noise, rows: u32, error: f64) -> References {
    let schema = schema();
    let mut builder = Reference::builder(schema.clone());
    for number in 0..rows {
        let row = Row::from_values(&schema, &[f64::from(number)]).unwrap();
        builder.push(&row, Some(&[0.9, 0.1]), Some(Label::Class(noise.chance(error).into()))).unwrap();
    }
    References::starting_with(Arc::new(builder.finish()))
}

fn tell(monitor: &mut HarmMonitor, truths: impl IntoIterator<Item = Truth>) -> Findings {
    let (schema, mut findings) = (schema(), Findings::new());
    let mut buffer = ChunkBuffer::new(&schema);
    truths.into_iter().for_each(|truth| buffer.push_truth(truth));
    monitor.inspect(&buffer.view(&schema), &mut findings).unwrap();
    findings
}

#[test]
fn passes_the_suite() {
    conformance::detector(|| HarmMonitor::default().all_truths().wrong_beyond(0.5));
    // the truths of the suite are wrong far more often than this
    conformance::detector(|| HarmMonitor::default().baseline_error(0.1).wrong_beyond(0.5).named("stated"));
}

/// Of `runs` runs, those with an alarm within 2,000 truths of error probability `live`, after a reference of `rows` rows with
/// error probability 0.05.
fn runs_with_alarm(name: &str, runs: u64, rows: u32, live: f64, monitor: impl Fn() -> HarmMonitor) -> u64 {
    let mut noise = Noise::new(name);
    let alarmed = |_: &u64| {
        let mut monitor = monitor();
        monitor.rebase(&references(&mut noise, rows, 0.05)).unwrap();
        let truths = (0..2_000).map(|number| truth(number, noise.chance(live)));
        !tell(&mut monitor, truths).alarms().is_empty()
    };
    (0..runs).filter(alarmed).count() as u64
}

#[test]
fn harm_is_hardly_ever_claimed_where_there_is_none() {
    let runs = 300;
    for (name, rows, live) in [("no rise", 300, 0.05), ("benign", 300, 0.07), ("benign, short reference", 60, 0.07)] {
        let found = runs_with_alarm(name, runs, rows, live, HarmMonitor::default);
        println!("{name}: {found} of {runs} runs alarmed");
        assert!(binomial::lower(found, runs, 1.0 - 1e-4) <= 0.05, "{name}: {found} of {runs}");
    }
    let found = runs_with_alarm("benign, stated", runs, 1, 0.07, || HarmMonitor::default().baseline_error(0.05));
    println!("benign, stated baseline: {found} of {runs} runs alarmed");
    assert!(binomial::lower(found, runs, 1.0 - 1e-4) <= 0.05 && found > 0, "{found} of {runs}");
}

#[test]
fn a_true_rise_is_found() {
    for (live, least) in [(0.15, 190), (0.3, 199)] {
        let found = runs_with_alarm("rise", 200, 1_000, live, HarmMonitor::default);
        println!("0.05 → {live}: {found} of 200 runs alarmed");
        assert!(found >= least, "{live}: {found} of 200");
    }
}

#[test]
fn the_alarm_tells_how_far_the_error_rose() {
    let mut monitor = HarmMonitor::default();
    monitor.rebase(&references(&mut Noise::new("alarm"), 1_000, 0.05)).unwrap();
    let findings = tell(&mut monitor, (0..1_000).map(|number| truth(number, number % 3 == 0)));
    let status = monitor.status().unwrap();
    assert!(findings.alarms().len() > 1, "harm that goes on alarms again");
    let alarm = &findings.alarms()[0];
    let reading = &alarm.readings[0];
    assert!((status.limit..1.0 / 3.0).contains(&reading.statistic), "{alarm:?}");
    assert!((reading.effect - (reading.statistic - status.baseline - 0.02)).abs() < 1e-12 && reading.effect > 0.0);
    assert!(alarm.text.contains("of model v0 has risen to at least"), "{}", alarm.text);
    assert!(alarm.sequence < 200, "{alarm:?}");
    assert!(status.truths < 1_000 && status.needed == 40.0, "{status:?}");
}

#[test]
fn only_the_random_lane_of_the_served_model_counts() {
    let mut monitor = HarmMonitor::default().baseline_error(0.05);
    monitor.rebase(&references(&mut Noise::new("lane"), 1, 0.0)).unwrap();
    let lanes = [None, Some(Lane::Comparison), Some(Lane::Flagged), Some(Lane::Outcome)];
    tell(&mut monitor, lanes.into_iter().zip(0..).map(|(lane, number)| Truth { lane, ..truth(number, true) }));
    tell(&mut monitor, [Truth { model: ModelVersion(1), ..truth(9, true) }]);
    tell(&mut monitor, [Truth { label: Some(Label::Class(7)), ..truth(10, true) }]);
    assert_eq!(monitor.status().unwrap().truths, 0);
    tell(&mut monitor, [truth(11, true), Truth { predicted: None, ..truth(12, false) }]);
    assert_eq!(monitor.status().map(|status| (status.truths, status.errors)), Some((2, 2)));
    let mut all = HarmMonitor::default().baseline_error(0.05).all_truths();
    all.rebase(&references(&mut Noise::new("lane"), 1, 0.0)).unwrap();
    tell(&mut all, [Truth { lane: None, ..truth(1, true) }]);
    assert_eq!(all.status().unwrap().truths, 1);
}

#[test]
fn corrections_and_retractions_do_not_undo_a_bet_nor_count_twice() {
    let mut monitor = HarmMonitor::default().baseline_error(0.05);
    monitor.rebase(&references(&mut Noise::new("revised"), 1, 0.0)).unwrap();
    tell(&mut monitor, [truth(1, true), truth(2, false)]);
    let before = monitor.status().unwrap();
    let was = Some(Label::Class(1));
    tell(&mut monitor, [Truth { replaces: was, ..truth(1, false) }]);
    tell(&mut monitor, [Truth { replaces: was, label: None, ..truth(2, false) }]);
    tell(&mut monitor, [truth(2, true)]);
    assert_eq!(monitor.status().unwrap(), HarmStatus { revised: 2, ..before });
}

#[test]
fn blind_without_a_baseline_and_afresh_on_another() {
    let mut world = World::classification("blind");
    let mut monitor = HarmMonitor::default();
    let without = References::starting_with(Arc::new(world.reference_without_outputs(300)));
    monitor.rebase(&without).unwrap();
    assert!(monitor.blind()[0].reason.contains("no baseline"));
    assert_eq!(monitor.status(), None);
    monitor.rebase(&references(&mut Noise::new("few"), 2, 0.9)).unwrap();
    assert_eq!(monitor.blind().len(), 1, "an error of up to 1 leaves nothing to find");
    let usual = references(&mut Noise::new("usual"), 1_000, 0.05);
    monitor.rebase(&usual).unwrap();
    assert!(monitor.blind().is_empty());
    tell(&mut monitor, (0..10).map(|number| truth(number, false)));
    monitor.rebase(&usual).unwrap();
    assert_eq!(monitor.status().unwrap().truths, 10, "the same references change nothing");
    let saved = monitor.snapshot().unwrap();
    monitor.rebase(&references(&mut Noise::new("other"), 1_000, 0.1)).unwrap();
    monitor.restore(&saved).unwrap();
    assert_eq!(monitor.status().unwrap().truths, 0, "bets against another baseline are worth nothing");
}

#[test]
fn the_first_truths_are_the_baseline_where_the_reference_has_none() {
    let mut world = World::classification("promoted");
    let without = References::starting_with(Arc::new(world.reference_without_outputs(300)));
    let mut noise = Noise::new("after a promotion");
    let mut monitor = HarmMonitor::default();
    monitor.rebase(&without).unwrap();
    let mut truths = |range: std::ops::Range<u64>, error: f64| -> Vec<Truth> {
        range.map(|number| truth(number, noise.chance(error))).collect()
    };
    tell(&mut monitor, truths(0..60, 0.05));
    assert!(monitor.blind()[0].reason.contains("60 of the first 100 truths"), "{}", monitor.blind()[0].reason);
    let half = monitor.snapshot().unwrap();
    let mut other = HarmMonitor::default();
    other.rebase(&without).unwrap();
    other.restore(&half).unwrap();
    for truth in truths(60..150, 0.05) {
        tell(&mut monitor, [truth]);
        tell(&mut other, [truth]);
    }
    assert!(monitor.blind().is_empty());
    let status = monitor.status().unwrap();
    assert_eq!((other.status(), status.truths), (Some(status), 50), "the baseline's truths are not judged");
    monitor.rebase(&without).unwrap();
    assert_eq!(monitor.status(), Some(status), "another baseline window of the same model changes nothing");
    other.restore(&monitor.snapshot().unwrap()).unwrap();
    assert_eq!(other.status(), Some(status));
    assert!(tell(&mut monitor, truths(150..1_150, 0.05)).alarms().is_empty());
    assert!(!tell(&mut monitor, truths(1_150..1_650, 0.5)).alarms().is_empty());
    let next = References { model: ModelVersion(2), ..without };
    monitor.rebase(&next).unwrap();
    assert!(monitor.blind()[0].reason.contains("0 of the first 100"), "a new model starts afresh");
}

#[test]
fn a_harm_that_stands_is_told_now_and_then() {
    let mut monitor = HarmMonitor::default().baseline_error(0.05);
    monitor.rebase(&references(&mut Noise::new("standing"), 10, 0.05)).unwrap();
    let found = tell(&mut monitor, (0..1_000).map(|number| truth(number, true)));
    let at: Vec<u64> = found.alarms().iter().map(|alarm| alarm.sequence).collect();
    assert!(at[0] < 10, "{at:?}");
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] == 100), "{at:?}");
    assert_eq!(at.len(), 10);
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(5);
    let refused = |monitor: HarmMonitor| monitor.clone().rebase(&references).is_err();
    assert!(refused(HarmMonitor::default().tolerance(-0.1)) && refused(HarmMonitor::default().tolerance(f64::NAN)));
    assert!(
        refused(HarmMonitor::default().false_alarm_rate(0.0)) && refused(HarmMonitor::default().baseline_error(1.0))
    );
    assert!(refused(HarmMonitor::default().baseline_error(0.0).tolerance(0.0)));
    assert!(refused(HarmMonitor::default().wrong_beyond(-1.0)));
    let values = World::regression("mistakes").references(5);
    assert!(HarmMonitor::default().rebase(&values).unwrap_err().to_string().contains("wrong_beyond"));
}

#[test]
fn its_metric_is_the_error_rate_of_the_last_truths() {
    let mut monitor = HarmMonitor::default().baseline_error(0.1);
    monitor.rebase(&references(&mut Noise::new("metric"), 100, 0.1)).unwrap();
    assert_eq!((monitor.metrics(), monitor.alarm_kind()), (Vec::new(), AlarmKind::Harm));
    tell(&mut monitor, (0..8).map(|number| truth(number, number < 2)));
    assert_eq!(monitor.metrics(), [LiveMetric { name: "error_rate".into(), value: 0.25, rows: 8 }]);
    tell(&mut monitor, (8..108).map(|number| truth(number, false)));
    assert_eq!(monitor.metrics(), [LiveMetric { name: "error_rate".into(), value: 0.0, rows: 100 }]);
}
