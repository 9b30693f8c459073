//! People are asked within the budget, with the lane, the probability and the reason kept; also when the process restarts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use feedloop::{
    Budget, FnTrainer, HumanRouter, Lane, PipelineBuilder, PredictionId, Profile, QueryStrategy, SampleState, TrainJob,
    new_labels,
};
use support::host::Host;
use support::{evaluator, fit};

const PER_DAY: u32 = 288;

fn human(builder: PipelineBuilder) -> PipelineBuilder {
    let strategy = QueryStrategy::margin().agreement(0.2);
    builder
        .explore(0.01)
        .route(HumanRouter::new(Budget::per_day(PER_DAY)).strategy(strategy))
        .trigger(new_labels(1_000_000))
        .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
        .evaluate(evaluator(Profile::adaptive()))
}

/// Lane, probability, number of people and reason of every sample: 100 turns of 10 minutes with 50 rows each.
fn played(restart_every: Option<usize>) -> BTreeMap<PredictionId, (Lane, f64, u32, String)> {
    let mut host = Host::new(human);
    for turn in 0..100 {
        host.turn(50, 0.5);
        if restart_every.is_some_and(|every| turn % every == every - 1) {
            host.restart(human);
        }
    }
    let mut found = BTreeMap::new();
    host.pipeline
        .each_sample(|sample| {
            let routed = sample.history.iter().find(|step| step.by == "human").expect("every sample was routed");
            assert_eq!(
                routed.to == SampleState::Skipped,
                ["not_drawn", "budget"].contains(&routed.reason.code.as_str())
            );
            let why = routed.reason.to_string();
            match sample.lane {
                Lane::Uncertain | Lane::Diverse => {
                    assert_eq!(routed.reason.code, sample.lane.as_str());
                    assert!(why.contains(&format!("probability {:.4}", sample.inclusion)), "{why}");
                    assert!(sample.inclusion > 0.0 && sample.inclusion < 1.0);
                }
                Lane::Random => assert_eq!(sample.inclusion, 0.01),
                lane => assert_eq!((lane, sample.inclusion), (Lane::Flagged, 1.0)),
            }
            found.insert(sample.id(), (sample.lane, sample.inclusion, sample.overlap, why));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn drawn_questions_keep_lane_probability_and_reason_and_the_budget_survives_restarts() {
    let whole = played(None);
    assert_eq!(whole.len(), 5_000);
    let asked = |lane: Lane| whole.values().filter(move |sample| sample.0 == lane);
    let questions = |lane: Lane| asked(lane).map(|sample| sample.2).sum::<u32>();
    let (unsure, far) = (questions(Lane::Uncertain), questions(Lane::Diverse));
    assert!(unsure > 80 && far > 30, "{unsure} uncertain, {far} diverse");
    assert!(unsure + far + asked(Lane::Random).count() as u32 <= PER_DAY);
    assert!(asked(Lane::Uncertain).any(|sample| sample.2 == 2));
    assert_eq!(played(Some(7)), whole, "a restart changes nothing");
}
