//! The loop as a whole: auto-labels reach training only after their audit; `confirm` promotes what is better and nothing
//! else; a promotion that turns out worse is rolled back; modes and the light version do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use feedloop::chrono::{DateTime, Utc};
use feedloop::{
    Annotator, Artifact, BoxError, CohortVerdict, ConfidenceRouter, FnTrainer, LabelRouter, Lane, Mode, Profile,
    PromotionKind, Reason, Route, RouteContext, RunId, RunState, Sample, SampleState, Stage, TrainJob, new_labels,
    predicted_label,
};
use support::host::Host;
use support::{evaluator, fit};

#[test]
fn auto_labels_are_trained_on_only_after_people_have_audited_their_cohort() {
    let mut host = Host::new(|builder| {
        builder
            .route(ConfidenceRouter::max_error(0.05).audit(0.3).cap(0.8))
            .trigger(new_labels(400))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    let (mut waited, mut released) = (0, 0);
    for _ in 0..25 {
        host.turn(120, 0.5);
        let status = host.pipeline.status().unwrap();
        waited = waited.max(status.samples.get(&SampleState::AutoLabelled).copied().unwrap_or(0));
        released = 0;
        host.pipeline
            .each_sample(|sample| {
                let by_model =
                    sample.label.as_ref().is_some_and(|label| matches!(label.annotator, Annotator::Model(_)));
                assert!(!(by_model && sample.lane == Lane::Random), "a row of the random lane was auto-labelled");
                if by_model && matches!(sample.state, SampleState::Labelled | SampleState::Batched) {
                    assert!(sample.history.iter().any(|step| step.reason.code == "released"), "{sample:?}");
                    released += 1;
                }
                Ok(())
            })
            .unwrap();
    }
    let status = host.pipeline.status().unwrap();
    assert!(status.counters.auto_labels > 100, "only {} auto-labels", status.counters.auto_labels);
    assert!(waited > 0 && released > 50, "{waited} waited at most, {released} were released");
}

/// Labels everything itself and releases it at once; only the cap on a batch is left.
struct Generous;

impl Stage for Generous {
    fn name(&self) -> &str {
        "generous"
    }
}

impl LabelRouter for Generous {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        let label = predicted_label(context.schema.target(), sample.observation.output()).ok_or("no class")?;
        Ok(Route::Auto { label, confidence: 0.9, audit: None, cohort: 0, why: Reason::new("generous", "always") })
    }

    fn cohorts(&mut self, _: DateTime<Utc>, _: bool) -> Vec<(u64, CohortVerdict)> {
        vec![(0, CohortVerdict::Release)]
    }

    fn auto_share(&self) -> f64 {
        0.4
    }
}

#[test]
fn no_label_of_a_batch_is_automatic_beyond_the_routers_share() {
    let mut host = Host::new(|builder| {
        builder
            .route(Generous)
            .trigger(new_labels(100))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    for _ in 0..15 {
        host.turn(120, 0.5);
    }
    let mut batches: BTreeMap<(String, u64), (u64, u64)> = BTreeMap::new();
    let mut left = 0;
    host.pipeline
        .each_sample(|sample| {
            let by_model = sample.label.as_ref().is_some_and(|label| matches!(label.annotator, Annotator::Model(_)));
            left += u64::from(by_model && sample.state == SampleState::Labelled);
            if let (Some(batch), Some(label)) = (&sample.batch, sample.sealed) {
                let (auto, all) = batches.entry((batch.to_string(), label.number() as u64)).or_default();
                (*auto, *all) = (*auto + u64::from(by_model), *all + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(batches.values().all(|(auto, all)| *auto as f64 <= 0.4 * *all as f64 + 1e-9), "{batches:?}");
    assert!(batches.values().any(|(auto, all)| *auto as f64 > 0.3 * *all as f64), "{batches:?}");
    assert!(left > 0, "the others wait for a later batch");
}

#[test]
fn confirm_promotes_a_better_candidate_on_paired_evidence() {
    let mut host = Host::new(|builder| {
        builder
            .trigger(new_labels(60))
            .compare(1.0)
            .train(FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(b"0.8".to_vec()))))
            .evaluate(evaluator(Profile::confirm()))
    });
    for _ in 0..12 {
        host.turn(80, 0.8);
    }
    let notes = |id| host.pipeline.run(RunId(id)).unwrap().map(|run| run.notes);
    assert!(host.pipeline.champion().0 > 0, "{:?} {:?}", host.run_states(), (1..5).map(notes).collect::<Vec<_>>());
    assert_eq!(*host.slot.get().model.to_string(), *"0.8");
    let promotions = host.pipeline.promotions().unwrap();
    assert_eq!(promotions[0].kind, PromotionKind::Promotion);
    assert!(promotions[0].reason.detail.contains("e-value"), "{}", promotions[0].reason);
}

#[test]
fn confirm_promotes_neither_a_worse_nor_an_equal_candidate() {
    for candidate in ["0.9", "0.5"] {
        let mut host = Host::new(|builder| {
            builder
                .trigger(new_labels(60))
                .compare(1.0)
                .train(FnTrainer::inline(move |_: &TrainJob| Ok(Artifact::Inline(candidate.into()))))
                .evaluate(evaluator(Profile::confirm()))
        });
        for _ in 0..15 {
            host.turn(80, 0.5);
        }
        let states = host.run_states();
        assert_eq!(host.pipeline.champion().0, 0, "{candidate}: {states:?}");
        assert!(!states.is_empty() && host.pipeline.promotions().unwrap().is_empty());
    }
}

#[test]
fn a_promotion_that_the_world_turns_against_is_rolled_back() {
    let mut host = Host::new(|builder| {
        builder
            .trigger(new_labels(60))
            .compare(1.0)
            .train(FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(b"0.8".to_vec()))))
            .evaluate(evaluator(Profile::confirm()))
    });
    while host.pipeline.champion().0 == 0 && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    let promoted = host.pipeline.champion();
    assert!(promoted.0 > 0);
    // Before the watch ends, the old concept comes back.
    for _ in 0..6 {
        host.turn(80, 0.5);
    }
    let changes = host.pipeline.promotions().unwrap();
    let back = changes.iter().find(|change| change.kind == PromotionKind::Rollback).expect("no rollback");
    assert_eq!((back.from, back.to.0), (promoted, 0));
    assert!(host.run_states().contains(&RunState::RolledBack));
    let lineage = host.pipeline.lineage(promoted).unwrap();
    assert!(lineage.to_string().contains("rollback"));
}

#[test]
fn advisory_and_approval_leave_the_decision_to_people() {
    for mode in [Mode::Advisory, Mode::Approval] {
        let mut host = Host::new(|builder| {
            builder
                .mode(mode)
                .trigger(new_labels(60))
                .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
                .evaluate(evaluator(Profile::adaptive()))
        });
        for _ in 0..4 {
            host.turn(80, 0.8);
        }
        assert_eq!(host.pipeline.champion().0, 0, "{mode:?}");
        if mode == Mode::Approval {
            assert!(host.run_states().contains(&RunState::AwaitingApproval));
            host.pipeline.approve("ada").unwrap();
            host.pipeline.poll().unwrap();
            assert!(host.pipeline.champion().0 > 0);
        }
    }
}
