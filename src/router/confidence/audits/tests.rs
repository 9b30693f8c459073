#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::gate::testing::id;

const PROMISE: Promise = Promise { error: 0.02, confidence: 0.95 };

fn window(errors: u128, audits: u128) -> Window {
    let mut window = Window::default();
    for n in 0..audits {
        window.push(id(n), 3, 0.96, n >= errors);
    }
    window
}

#[test]
fn the_numbers_of_audits_are_those_of_the_exact_binomial() {
    // ln(miss) / ln(1 − error), rounded up: 149 for one look, 263 over ten thresholds.
    assert_eq!((PROMISE.needed(0, 0, 0.05), PROMISE.clean(0.05), PROMISE.clean(0.005)), (149, 149, 263));
    assert_eq!(Window::default().needed(PROMISE), 263);
    assert_eq!(window(0, 263).thresholds(PROMISE).of(3), Some(0.5));
    assert_eq!(window(0, 262).thresholds(PROMISE).of(3), None);
    assert_eq!(window(0, 262).needed(PROMISE), 1);
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
fn the_window_is_bounded_and_a_changed_answer_counts_once() {
    let mut window = window(0, 10_000);
    assert_eq!(window.len(), WINDOW as u64);
    window.push(id(9_999), 3, 0.96, false);
    assert_eq!(window.len(), WINDOW as u64);
    assert_eq!(window.counts[&3][0], (1, WINDOW as u64));
    let text = String::from(window.clone());
    assert_eq!(Window::try_from(text.clone()).unwrap(), window);
    assert!(Window::try_from(text[..text.len() - 3].to_owned()).is_err());
}

#[test]
fn the_lowest_certified_threshold_is_chosen() {
    let mut window = Window::default();
    for n in 0..1_000_u128 {
        let confidence = 0.5 + 0.0005 * n as f64;
        window.push(id(n), 0, confidence, confidence >= 0.7 || n % 5 != 0);
    }
    assert_eq!(window.thresholds(PROMISE).lowest(), Some(0.7));
}

#[test]
fn classes_are_pooled_until_their_audits_suffice() {
    let audits = |each: u128, errors_of_2: u128| {
        let mut window = Window::default();
        (0..3 * each).for_each(|n| window.push(id(n), (n % 3) as u32, 0.999, n % 3 != 2 || n / 3 >= errors_of_2));
        window.thresholds(PROMISE)
    };
    let few = audits(100, 0);
    assert_eq!((few.of(0), few.of(2), few.of(7), few.is_alone(0)), (Some(0.5), Some(0.5), Some(0.5), false));
    assert_eq!(audits(100, 5).of(0), None, "errors of one class count against all of the pool");
    let many = audits(300, 30);
    assert_eq!((many.of(0), many.of(1), many.of(2), many.of(7)), (Some(0.5), Some(0.5), None, None));
    assert!(many.is_alone(0) && !many.is_alone(7));
    // The pool certifies although one class errs far more than the rest: that one is taken out.
    let mut window = Window::default();
    (0..1_000).for_each(|n| window.push(id(n), (n % 40) as u32, 0.96, n % 40 != 7 || n % 3 != 0));
    let spoiled = window.thresholds(Promise { error: 0.05, ..PROMISE });
    assert_eq!((spoiled.of(3), spoiled.of(7)), (Some(0.5), None));
}

#[test]
fn a_certificate_holds_until_a_stop_but_a_class_of_its_own_needs_its_own() {
    let mut thresholds = Thresholds { pooled: Some(0.9), alone: BTreeMap::new() };
    thresholds.renew(Thresholds { pooled: None, alone: BTreeMap::from([(1, None), (2, Some(0.8))]) });
    assert_eq!((thresholds.of(0), thresholds.of(1), thresholds.of(2)), (Some(0.9), None, Some(0.8)));
    thresholds.renew(Thresholds { pooled: Some(0.7), alone: BTreeMap::from([(1, Some(0.95)), (2, None)]) });
    assert_eq!((thresholds.of(0), thresholds.of(1), thresholds.of(2)), (Some(0.7), Some(0.95), Some(0.8)));
    assert_eq!(thresholds.lowest(), Some(0.7));
}

#[test]
fn after_a_bad_time_the_newest_audits_certify_before_the_old_ones_are_gone() {
    let mut window = Window::default();
    (0..600).for_each(|n| window.push(id(n), 0, 0.96, n % 2 == 0));
    assert_eq!(window.thresholds(PROMISE).lowest(), None);
    (600..1_389).for_each(|n| window.push(id(n), 0, 0.96, true));
    assert_eq!(window.thresholds(PROMISE).lowest(), Some(0.5), "789 audits are three times those that certify");
}
