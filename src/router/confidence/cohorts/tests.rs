#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::gate::testing::{at, id};

const PROMISE: Promise = Promise { error: 0.02, confidence: 0.95 };

/// Labels of which every 20th is audited, answered at once; those at `errors` wrongly.
fn labels(cohorts: &mut Cohorts, from: u128, to: u128, errors: &[u128]) {
    for n in from..to {
        cohorts.add(id(n), n % 20 == 0, at(0));
        if n % 20 == 0 {
            cohorts.judge(id(n), !errors.contains(&n));
            cohorts.decide(false);
        }
    }
}

#[test]
fn clean_audits_release_the_first_labels_and_then_cohort_by_cohort() {
    let mut cohorts = Cohorts::new(PROMISE, 0.05);
    let needed = u128::from(cohorts.needed());
    labels(&mut cohorts, 0, 20 * (needed / 20 * 20), &[]);
    assert_eq!(cohorts.take_verdicts(), []);
    labels(&mut cohorts, 20 * (needed / 20 * 20), 20 * (needed / 20 * 20 + 20), &[]);
    let first = cohorts.take_verdicts();
    assert_eq!(first.len() as u128, needed / 20 + 1);
    assert!(first.iter().enumerate().all(|(n, verdict)| *verdict == (n as u64, CohortVerdict::Release)));
    labels(&mut cohorts, 100_000, 100_400, &[]);
    assert_eq!(cohorts.take_verdicts().len(), 1);
    // An error must be paid for by later audits; good cohorts of the past have no surplus left.
    labels(&mut cohorts, 200_000, 200_400, &[200_100]);
    assert_eq!(cohorts.take_verdicts(), []);
    let needed = u128::from(cohorts.needed());
    assert!((20..200).contains(&needed), "{needed}");
    labels(&mut cohorts, 300_000, 300_000 + 20 * (needed + 20), &[]);
    assert!(cohorts.take_verdicts().len() > 1);
    assert_eq!((cohorts.stops, cohorts.rejected), (0, 0));
}

#[test]
fn a_stop_rejects_all_that_waits_and_makes_the_next_release_dearer() {
    let mut cohorts = Cohorts::new(PROMISE, 0.05);
    let before = cohorts.needed();
    labels(&mut cohorts, 0, 600, &(0..600).collect::<Vec<_>>());
    assert!(cohorts.stops >= 1);
    assert!(cohorts.take_verdicts().iter().all(|(_, verdict)| *verdict == CohortVerdict::Reject));
    assert_eq!(cohorts.released, 0);
    let mut once = Cohorts::new(PROMISE, 0.05);
    let mut n = 0;
    while once.stops == 0 {
        labels(&mut once, n, n + 20, &[n]);
        n += 20;
    }
    assert!((2..6).contains(&(n / 20)), "{} errors at once", n / 20);
    assert!(once.needed() > before, "{} after {before}", once.needed());
}

#[test]
fn a_cohort_closes_by_age_and_a_late_answer_takes_the_place_of_the_error() {
    let mut cohorts = Cohorts::new(PROMISE, 0.05);
    assert_eq!(cohorts.add(id(1), true, at(0)), 0);
    assert_eq!(cohorts.add(id(2), false, at(86_399)), 0);
    assert_eq!(cohorts.add(id(3), false, at(86_400)), 1);
    cohorts.age(at(86_400 + 3_600), TimeDelta::hours(1));
    assert_eq!(cohorts.counts(), (1, 1));
    cohorts.judge(id(1), true);
    cohorts.judge(id(2), false);
    assert_eq!(cohorts.counts(), (0, 1), "only chosen audits count");
    assert_eq!((cohorts.exposure(), cohorts.count(), cohorts.waiting()), (3, 2, 0));
}

#[test]
fn nothing_is_released_without_an_audit() {
    let mut cohorts = Cohorts::new(PROMISE, 0.05);
    cohorts.wealth = [10.0; 3];
    labels(&mut cohorts, 1, 19, &[]);
    cohorts.close(at(0));
    cohorts.decide(false);
    assert_eq!((cohorts.take_verdicts(), cohorts.exposure()), (vec![], 18));
    labels(&mut cohorts, 20, 21, &[]);
    cohorts.close(at(0));
    cohorts.decide(false);
    assert_eq!(cohorts.take_verdicts(), [(0, CohortVerdict::Release), (1, CohortVerdict::Release)]);
}

#[test]
fn a_saved_cohort_is_the_same() {
    let mut cohorts = Cohorts::new(PROMISE, 0.05);
    labels(&mut cohorts, 0, 1_000, &[40]);
    cohorts.add(id(5_000), true, at(7));
    cohorts.judge_outside(id(6_000), false);
    let text = serde_json::to_string(&cohorts).unwrap();
    assert_eq!(serde_json::from_str::<Cohorts>(&text).unwrap(), cohorts);
    assert!(Audits::try_from("AAAA".to_owned()).is_err());
}
