//! Longer and longer waits after runs that failed.

use chrono::TimeDelta;

use super::limit::{Limit, limited};
use super::{Decision, LoopStatus, Memory, RetrainTrigger, span};
use crate::error::BoxError;

/// A trigger that waits after failed runs; see [`TriggerExt::back_off`](crate::TriggerExt::back_off).
#[derive(Debug, Clone)]
pub struct BackOff<T> {
    inner: T,
    base: TimeDelta,
    most: TimeDelta,
}

impl<T> BackOff<T> {
    pub(super) fn new(inner: T, base: TimeDelta, most: TimeDelta) -> Self {
        BackOff { inner, base, most }
    }

    /// The wait after so many failures in a row.
    fn wait(&self, failures: u32) -> TimeDelta {
        let doubled = 1_i32.checked_shl(failures.saturating_sub(1)).filter(|times| *times > 0);
        let longer = doubled.and_then(|times| self.base.checked_mul(times));
        longer.map_or(self.most, |wait| wait.min(self.most)).max(TimeDelta::zero())
    }

    fn limit(&self, status: &LoopStatus) -> Limit {
        let (failures, last) = match (status.failed_runs, status.last_failed_run) {
            (0, _) | (_, None) => return Limit::Open("the last run did not fail".to_owned()),
            (failures, Some(last)) => (failures, last),
        };
        let ready = last.checked_add_signed(self.wait(failures)).unwrap_or(last);
        let text = format!("{failures} failed run(s) in a row");
        if status.now >= ready {
            return Limit::Open(format!("{text}; the wait is over since {}", ready.format("%F %T UTC")));
        }
        let left = span(ready - status.now);
        Limit::Holds(format!("{text}; waits until {}, {left} left", ready.format("%F %T UTC")))
    }
}

impl<T: RetrainTrigger> RetrainTrigger for BackOff<T> {
    fn name(&self) -> &str {
        "back_off"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        limited(self.name(), self.limit(status), &self.inner, status, memory)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;
    use crate::trigger::{TriggerExt, hours, minutes, new_labels};

    fn after(failed_runs: u32, now: &str) -> LoopStatus {
        let last_failed_run = Some(at("2026-01-01T13:00:00Z"));
        LoopStatus { now: at(now), labels: 9, failed_runs, last_failed_run, ..status() }
    }

    #[test]
    fn the_wait_doubles_with_every_failure_in_a_row_up_to_the_most() {
        let trigger = BackOff::new(new_labels(5), minutes(10), hours(2));
        let waits: Vec<i64> = (1..=6).map(|failures| trigger.wait(failures).num_minutes()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 120, 120]);
        assert_eq!([trigger.wait(31), trigger.wait(32), trigger.wait(u32::MAX)], [hours(2); 3]);
    }

    #[test]
    fn waits_after_a_failure_and_says_until_when() {
        let trigger = new_labels(5).back_off(minutes(10), hours(2));
        let waits = evaluate(&trigger, &after(2, "2026-01-01T13:19:00Z"));
        assert!(!waits.fires());
        assert_eq!(waits.why().text, "2 failed run(s) in a row; waits until 2026-01-01 13:20:00 UTC, 1 min 0 s left");
        assert!(evaluate(&trigger, &after(2, "2026-01-01T13:20:00Z")).fires());
        let none = evaluate(&trigger, &after(0, "2026-01-01T13:00:01Z"));
        assert_eq!((none.fires(), none.why().text.as_str()), (true, "the last run did not fail"));
    }

    #[test]
    fn a_wait_below_nothing_is_none() {
        assert!(evaluate(&new_labels(5).back_off(-hours(1), -hours(1)), &after(3, "2026-01-01T13:00:00Z")).fires());
    }
}
