//! The label-fault check in the loop: wrong labels are found and kept out, a drift is not taken for a fault, nothing is
//! lost over a restart, and a check that nobody answers ends in something safe.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use feedloop::chrono::TimeDelta;
use feedloop::{
    FnTrainer, Kind, Label, LabelFaults, Manifest, ModelVersion, PipelineBuilder, PredictionId, Profile, Sample,
    SampleState, TrainJob, new_labels,
};
use support::host::Host;
use support::{Rng, evaluator, fit, records};

fn loop_of(profile: Profile) -> impl Fn(PipelineBuilder) -> PipelineBuilder {
    retraining_on(40, profile)
}

fn retraining_on(labels: u64, profile: Profile) -> impl Fn(PipelineBuilder) -> PipelineBuilder {
    move |builder| {
        builder
            .trigger(new_labels(labels))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(profile.clone()))
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
fn swapped_labels_are_quarantined_and_the_loop_goes_on_without_them() {
    for profile in [Profile::adaptive(), Profile::confirm()] {
        for seed in 0..3 {
            let mut rng = Rng(seed);
            let mut host = Host::new(loop_of(profile.clone()));
            for _ in 0..6 {
                host.turn_with(60, 0.5, swapped(false, &mut rng));
            }
            for _ in 0..4 {
                host.turn_with(60, 0.5, swapped(true, &mut rng));
            }
            let status = host.pipeline.status().unwrap();
            assert!(status.label_checks.faults > 0, "{:?}", status.label_checks);
            let check = status.label_check.expect("the people are distrusted");
            assert_eq!(check.distrusted, Some(BTreeSet::new()), "everybody was wrong");
            let alarms = host.pipeline.alarms(None, 100).unwrap();
            assert!(alarms.iter().any(|alarm| alarm.alarm.text.starts_with("label_fault")), "{alarms:?}");
            for _ in 0..8 {
                host.turn_with(60, 0.5, swapped(false, &mut rng));
            }
            let status = host.pipeline.status().unwrap();
            assert_eq!(status.label_check.map(|check| check.asked), None, "they are believed again");
            let put_aside = quarantined(&host).len();
            assert!(put_aside > 100, "{put_aside} of about 240 labels were quarantined");
            let trained: Vec<Sample> = samples(&host, |sample| sample.sealed.is_some());
            let wrong = trained.iter().filter(|sample| is_wrong(sample, 0.5)).count();
            assert!(wrong <= 12, "{wrong} of {} labels in batches are wrong", trained.len());
            let served = host.slot.get().model;
            assert!((served - 0.5).abs() < 0.15, "the served model says {served}, the truth is 0.5");
        }
    }
}

/// What the batches say of samples in earlier ones: the number of the annotation that counts, or that none does.
fn corrected(host: &Host) -> BTreeMap<PredictionId, Option<u32>> {
    let batches = records(&*host.store, "closed", Kind::Batch);
    let mut manifests: Vec<Manifest> =
        batches.iter().map(|record| serde_json::from_slice(&record.body).unwrap()).collect();
    manifests.sort_by_key(|manifest| manifest.sealed);
    manifests.into_iter().flat_map(|manifest| manifest.corrected).collect()
}

/// Where labels come one by one, the first wrong ones are in batches before there is enough to ask about.
#[test]
fn labels_that_were_sealed_before_the_fault_was_found_are_taken_back_and_can_be_trusted_again() {
    let build = retraining_on(1, Profile::adaptive());
    let mut taken_back = 0;
    for seed in 0..6 {
        let mut rng = Rng(seed);
        let mut host = Host::new(&build);
        for _ in 0..6 {
            host.turn_with(60, 0.5, swapped(false, &mut rng));
        }
        for _ in 0..60 {
            if host.pipeline.status().unwrap().label_checks.faults == 0 {
                host.turn_with(2, 0.5, swapped(true, &mut rng));
            }
        }
        host.restart(&build);
        host.turn_with(60, 0.5, swapped(false, &mut rng));
        assert!(host.pipeline.status().unwrap().label_checks.faults > 0, "seed {seed}");
        let why = |sample: &Sample| sample.history.last().is_some_and(|step| step.reason.code == "label_fault");
        let doubted = samples(&host, |sample| sample.state == SampleState::Batched && why(sample));
        taken_back += doubted.len();
        let said = corrected(&host);
        for sample in &doubted {
            assert_eq!((&sample.label, said.get(&sample.id())), (&None, Some(&None)), "seed {seed}: {sample:?}");
        }

        host.pipeline.trust_labels("ada").unwrap();
        host.turn_with(60, 0.5, swapped(false, &mut rng));
        let said = corrected(&host);
        for sample in &doubted {
            let now = samples(&host, |other| other.id() == sample.id()).remove(0);
            assert_eq!((now.label.unwrap().label, said[&sample.id()]), (sample.sealed, Some(0)), "seed {seed}");
        }
    }
    assert!(taken_back >= 6, "{taken_back} labels in six runs");
}

#[test]
fn without_the_check_the_same_labels_are_learned() {
    let mut rng = Rng(0);
    let mut host = Host::new(|builder| loop_of(Profile::adaptive())(builder).without_label_faults());
    for fault in [false, true] {
        for _ in 0..6 {
            host.turn_with(60, 0.5, swapped(fault, &mut rng));
        }
    }
    let wrong = samples(&host, |sample| is_wrong(sample, 0.5)).len();
    assert!(wrong > 200, "{wrong} wrong labels are in batches: the test above would see a leak");
    assert_eq!(host.pipeline.status().unwrap().label_checks, Default::default());
}

#[test]
fn a_drift_opens_a_check_and_is_learned() {
    for profile in [Profile::adaptive(), Profile::confirm()] {
        let mut rng = Rng(4);
        let mut host = Host::new(loop_of(profile));
        for _ in 0..5 {
            host.turn_with(60, 0.5, swapped(false, &mut rng));
        }
        // Most of the rows have another class now. Under `confirm` the first candidates are of mostly old labels, and
        // judging each takes its time.
        for _ in 0..36 {
            host.turn_with(60, 0.0, swapped(false, &mut rng));
        }
        let status = host.pipeline.status().unwrap();
        assert!(status.label_checks.drifts > 0 && status.label_checks.faults == 0, "{:?}", status.label_checks);
        assert_ne!(status.champion, ModelVersion::FIRST, "{:?}", host.run_states());
        let served = host.slot.get().model;
        assert!(served < 0.2, "the served model says {served}, the truth is 0");
    }
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
    assert!(check.asked >= 3 && check.waiting >= 5, "{check:?}");
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

/// One person answers everything but second opinions; `fault`: with swapped classes.
fn alone(fault: bool) -> impl FnMut(&str, u32, Label) -> Option<Label> {
    move |who, overlap, truth| (who == "ann" && overlap == 1).then(|| if fault { other(truth) } else { truth })
}

fn impatient(builder: PipelineBuilder) -> PipelineBuilder {
    let rules = LabelFaults { patience: TimeDelta::hours(1), ..LabelFaults::default() };
    loop_of(Profile::adaptive())(builder).label_faults(rules)
}

fn alarms(host: &Host, code: &str) -> usize {
    let alarms = host.pipeline.alarms(None, 1_000).unwrap();
    alarms.iter().filter(|alarm| alarm.alarm.text.starts_with(code)).count()
}

#[test]
fn while_nobody_gives_second_opinions_labels_in_doubt_stay_out_and_none_waits_for_ever() {
    let mut host = Host::new(impatient);
    let mut rng = Rng(2);
    for _ in 0..6 {
        host.turn_with(60, 0.5, swapped(false, &mut rng));
    }
    let mut first_only = |_: &str, overlap: u32, truth: Label| (overlap == 1).then(|| other(truth));
    for _ in 0..30 {
        host.turn_with(60, 0.5, &mut first_only);
    }
    let status = host.pipeline.status().unwrap();
    assert!(status.label_checks.unresolved > 1, "{:?}", status.label_checks);
    assert_eq!(status.label_checks.faults, 0);
    let wrong = samples(&host, |sample| is_wrong(sample, 0.5)).len();
    assert!(wrong <= 12, "{wrong} wrong labels were trained on");
    let (asked, labels) = (status.label_checks.second_opinions, status.counters.human_labels);
    assert!(asked <= labels / 10 + 16, "{asked} second opinions of {labels} labels");
    assert!(alarms(&host, "label_check_unresolved") > 1);
    // A person looked into it, and lets the labels count.
    let before = quarantined(&host).len();
    assert!(before > 0 && host.pipeline.trust_labels("the operator").unwrap() > 0);
    assert!(quarantined(&host).len() < before, "some of them come back from quarantine");
    assert!(host.pipeline.status().unwrap().label_check.is_none());
}

#[test]
fn who_is_left_alone_with_a_drift_is_believed_after_one_check() {
    let mut host = Host::new(impatient);
    let mut rng = Rng(3);
    for _ in 0..6 {
        host.turn_with(60, 0.5, swapped(false, &mut rng));
    }
    for _ in 0..30 {
        host.turn_with(60, 0.0, alone(false));
    }
    let status = host.pipeline.status().unwrap();
    assert_eq!((status.label_checks.unresolved, status.label_check), (1, None), "{:?}", status.label_checks);
    assert!(status.label_checks.quarantined > 0);
    let served = host.slot.get().model;
    assert!(served < 0.2, "the served model says {served}, the truth is 0");
}

#[test]
fn labels_of_one_person_never_wait_and_a_collapse_is_told() {
    let mut host = Host::new(impatient);
    for concept in [0.5, 0.0] {
        for _ in 0..8 {
            host.turn_with(60, concept, alone(false));
            assert!(host.pipeline.status().unwrap().label_check.is_none());
        }
    }
    let status = host.pipeline.status().unwrap();
    assert_eq!(status.label_checks, Default::default());
    assert_eq!((alarms(&host, "label_check_alone"), quarantined(&host).len()), (1, 0));
    let served = host.slot.get().model;
    assert!(served < 0.2, "the served model says {served}, the truth is 0");
}
