#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::gate::testing::id;

const PROMISE: Promise = Promise { error: 0.02, confidence: 0.95 };

fn cohort(errors: u64, audits: u64) -> Cohort {
    let mut cohort = Cohort::default();
    for n in 0..audits {
        cohort.add(id(n.into()), true);
        cohort.judge(id(n.into()), n >= errors);
    }
    cohort
}

fn window(errors: u128, audits: u128) -> Window {
    let mut window = Window::default();
    for n in 0..audits {
        window.push(Judged { sample: id(n), model: ModelVersion(3), confidence: 0.96, correct: n >= errors });
    }
    window
}

#[test]
fn the_numbers_of_audits_are_those_of_the_exact_binomial() {
    // ln(miss) / ln(1 − error), rounded up: 149 for one look, 183 for the first of all looks, 263 over ten thresholds.
    assert_eq!(PROMISE.needed(0, 0, 0.05), 149);
    assert_eq!(Cohort::default().needed(PROMISE), 183);
    assert_eq!(Window::default().needed(ModelVersion(3), PROMISE), 263);
    assert_eq!(cohort(0, 183).verdict(PROMISE), Some(CohortVerdict::Release));
    assert_eq!(cohort(0, 182).verdict(PROMISE), None);
    assert_eq!(window(0, 263).threshold(ModelVersion(3), PROMISE), Some(0.5));
    assert_eq!(window(0, 262).threshold(ModelVersion(3), PROMISE), None);
    assert_eq!(window(0, 262).needed(ModelVersion(3), PROMISE), 1);
}

#[test]
fn certified_means_that_the_clopper_pearson_limit_is_within_the_promise() {
    for (errors, audits) in (0..12).flat_map(|k| (0..600).step_by(7).map(move |n| (k, n))).filter(|(k, n)| k <= n) {
        for miss in [0.05, 0.005, 0.0001] {
            let limit = crate::stats::binomial::upper(errors, audits, 1.0 - miss);
            let certified = PROMISE.certified(errors, audits, miss);
            let low = crate::stats::binomial::lower(errors, audits, 1.0 - miss);
            assert_eq!(PROMISE.broken(errors, audits, miss), low > PROMISE.error, "{errors} of {audits}: {low}");
            assert_eq!(certified, audits > 0 && limit <= PROMISE.error, "{errors} of {audits}, {miss}: {limit}");
        }
    }
}

#[test]
fn errors_cost_audits_and_then_the_cohort() {
    let needed: Vec<u64> = (0..4).map(|errors| errors + cohort(errors, errors).needed(PROMISE)).collect();
    assert!(needed.windows(2).all(|pair| pair[0] < pair[1]), "{needed:?}");
    assert_eq!(cohort(1, 183).verdict(PROMISE), None);
    assert_eq!(cohort(10, 100).verdict(PROMISE), Some(CohortVerdict::Reject));
    assert_eq!(cohort(0, 0).verdict(PROMISE), None);
}

/// The chance that a cohort whose error is just too large is ever released, over all looks: exact, by dynamic programming.
#[test]
fn looking_after_every_answer_misses_no_more_often_than_promised() {
    for error in [0.02, 0.05, 0.2] {
        let promise = Promise { error, confidence: 0.95 };
        let limits: Vec<u64> = (0..12).map(|k| k + promise.needed(k, k, share(promise, k))).collect();
        let (mut alive, mut released) = (vec![1.0_f64], 0.0);
        for n in 1..=limits[11] {
            let mut next = vec![0.0; alive.len() + 1];
            for (k, p) in alive.iter().enumerate() {
                next[k] += p * (1.0 - error);
                next[k + 1] += p * error;
            }
            for (k, p) in next.iter_mut().enumerate().take(12) {
                if n >= limits[k] {
                    released += std::mem::take(p);
                }
            }
            alive = next;
        }
        assert!(released <= 0.05, "error {error}: {released}");
        assert!(released > 0.03, "error {error}: {released} is wasteful");
    }
}

#[test]
fn only_audits_of_the_asked_model_count_and_the_window_is_bounded() {
    assert_eq!(window(0, 300).threshold(ModelVersion(4), PROMISE), None);
    let mut window = window(0, 10_000);
    assert_eq!(window.len(ModelVersion(3)), WINDOW as u64);
    window.push(Judged { sample: id(9_999), model: ModelVersion(3), confidence: 0.96, correct: false });
    assert_eq!(window.len(ModelVersion(3)), WINDOW as u64, "an answer that was changed counts once");
    assert_eq!(window.counts(ModelVersion(3))[0], (1, WINDOW as u64));
}

#[test]
fn the_lowest_certified_threshold_is_chosen() {
    let mut window = Window::default();
    for n in 0..1_000_u128 {
        let confidence = 0.5 + 0.0005 * n as f64;
        let correct = confidence >= 0.7 || n % 5 != 0;
        window.push(Judged { sample: id(n), model: ModelVersion(0), confidence, correct });
    }
    assert_eq!(window.threshold(ModelVersion(0), PROMISE), Some(0.7));
}

#[test]
fn an_answer_to_a_sample_that_was_not_chosen_changes_no_cohort() {
    let mut cohort = cohort(0, 5);
    cohort.add(id(50), false);
    cohort.judge(id(50), false);
    cohort.judge(id(60), false);
    assert_eq!((cohort.counts(), cohort.labels), ((0, 5), 6));
    cohort.judge(id(3), false);
    assert_eq!(cohort.counts(), (1, 5), "a corrected answer counts as corrected");
}
