//! The label-fault check in the loop: it holds runs and survives a restart, and a check that nobody answers ends in
//! something safe.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use feedloop::chrono::TimeDelta;
use feedloop::{FnTrainer, Label, LabelFaults, PipelineBuilder, Profile, Sample, SampleState, TrainJob, new_labels};
use support::host::Host;
use support::{Rng, evaluator, fit};

fn loop_of(profile: Profile) -> impl Fn(PipelineBuilder) -> PipelineBuilder {
    move |builder| {
        builder
            .trigger(new_labels(40))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(profile.clone()))
            .label_faults(LabelFaults::default())
    }
}

fn other(label: Label) -> Label {
    Label::Class(1 - label.number() as u32)
}

/// First answers are swapped if `fault`; second ones are right but for one in ten.
fn swapped(fault: bool, rng: &mut Rng) -> impl FnMut(&str, u32, Label) -> Option<Label> {
    move |_, overlap, truth| {
        let wrong = if overlap > 1 { rng.chance(0.1) } else { fault };
        Some(if wrong { other(truth) } else { truth })
    }
}

fn samples(host: &Host, mut is: impl FnMut(&Sample) -> bool) -> Vec<Sample> {
    let mut found = Vec::new();
    host.pipeline
        .each_sample(|sample| {
            if is(&sample) {
                found.push(sample);
            }
            Ok(())
        })
        .unwrap();
    found
}

fn quarantined(host: &Host) -> Vec<Sample> {
    let why = |sample: &Sample| sample.history.last().is_some_and(|step| step.reason.code == "label_fault");
    samples(host, |sample| sample.state == SampleState::Quarantined && why(sample))
}

/// Is the label that is trained on the truth of concept 0.5?
fn is_wrong(sample: &Sample, concept: f64) -> bool {
    sample.sealed.is_some_and(|label| label != support::truth(sample.observation.row.values(), concept))
}

#[test]
fn an_open_check_holds_runs_and_survives_a_restart() {
    let build = loop_of(Profile::adaptive());
    let mut rng = Rng(1);
    let mut host = Host::new(&build);
    for _ in 0..6 {
        host.turn_with(60, 0.5, swapped(false, &mut rng));
    }
    // Nobody gives a second opinion yet.
    let first_only = |_: &str, overlap: u32, truth: Label| (overlap == 1).then(|| other(truth));
    host.turn_with(60, 0.5, first_only);
    let before = host.pipeline.status().unwrap();
    let check = before.label_check.clone().expect("the labels are suspect");
    assert!(check.asked >= 4 && check.waiting >= 4, "{check:?}");
    assert!(host.pipeline.retrain_now("the test").is_ok() || before.run.is_some());
    host.turn_with(60, 0.5, first_only);
    host.restart(&build);
    let held = host.pipeline.status().unwrap();
    assert_eq!(held.label_check.as_ref().map(|check| check.asked), Some(check.asked), "{held:?}");
    assert_eq!((held.promotions, held.rollbacks), (before.promotions, before.rollbacks));
    assert!(held.run.is_none_or(|run| run.batch.is_none()), "nothing is sealed while the check is open");
    for _ in 0..3 {
        host.turn_with(60, 0.5, swapped(true, &mut rng));
        host.restart(&build);
    }
    let status = host.pipeline.status().unwrap();
    assert!(status.label_checks.faults > 0, "{:?}", status.label_checks);
    assert!(samples(&host, |sample| is_wrong(sample, 0.5)).len() <= 8);
    for _ in 0..8 {
        host.turn_with(60, 0.5, swapped(false, &mut rng));
    }
    assert!(host.pipeline.status().unwrap().label_check.is_none());
}

#[test]
fn a_check_that_nobody_answers_ends_unresolved_and_the_labels_stay_out() {
    let build = |builder: PipelineBuilder| {
        let rules = LabelFaults { patience: TimeDelta::hours(2), ..LabelFaults::default() };
        loop_of(Profile::adaptive())(builder).label_faults(rules)
    };
    let mut host = Host::new(build);
    let mut rng = Rng(2);
    for _ in 0..6 {
        host.turn_with(60, 0.5, swapped(false, &mut rng));
    }
    // One person labels, and their labels swap.
    let alone = |who: &str, overlap: u32, truth: Label| (who == "ann" && overlap == 1).then(|| other(truth));
    for _ in 0..20 {
        host.turn_with(60, 0.5, alone);
    }
    let status = host.pipeline.status().unwrap();
    assert!(status.label_checks.unresolved > 0, "{:?}", status.label_checks);
    assert_eq!(status.label_checks.faults, 0);
    let wrong = samples(&host, |sample| is_wrong(sample, 0.5)).len();
    assert!(wrong <= 4, "{wrong} wrong labels were trained on");
    let asked = status.label_checks.second_opinions;
    assert!(asked <= status.counters.human_labels / 10 + 16, "{asked} second opinions");
    // A person looked into it, and lets the labels count.
    let before = quarantined(&host).len();
    let trusted = host.pipeline.trust_labels("the operator").unwrap();
    assert!(trusted > 0);
    assert!(quarantined(&host).len() < before, "some of them come back from quarantine");
    assert!(host.pipeline.status().unwrap().label_check.is_none());
}
