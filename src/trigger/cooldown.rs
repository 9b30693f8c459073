//! A least distance between runs.

use chrono::TimeDelta;

use super::limit::{Limit, limited};
use super::{Decision, LoopStatus, Memory, RetrainTrigger, span};
use crate::error::BoxError;

/// A trigger that stays quiet for a while after every run; see [`TriggerExt::cooldown`](crate::TriggerExt::cooldown).
#[derive(Debug, Clone)]
pub struct Cooldown<T> {
    inner: T,
    gap: TimeDelta,
}

impl<T> Cooldown<T> {
    pub(super) fn new(inner: T, gap: TimeDelta) -> Self {
        Cooldown { inner, gap }
    }

    fn limit(&self, status: &LoopStatus) -> Limit {
        let Some(last) = status.last_run else { return Limit::Open("no run so far".to_owned()) };
        let ready = last.checked_add_signed(self.gap).unwrap_or(last);
        if status.now >= ready {
            return Limit::Open(format!("over since {}", ready.format("%F %T UTC")));
        }
        Limit::Holds(format!("quiet until {}, {} left", ready.format("%F %T UTC"), span(ready - status.now)))
    }
}

impl<T: RetrainTrigger> RetrainTrigger for Cooldown<T> {
    fn name(&self) -> &str {
        "cooldown"
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
    use crate::trigger::{TriggerExt, hours, new_labels, schedule};

    fn after_run(now: &str) -> LoopStatus {
        LoopStatus { now: at(now), last_run: Some(at("2026-01-01T13:00:00Z")), labels: 9, ..status() }
    }

    #[test]
    fn stays_quiet_for_the_gap_after_a_run() {
        let trigger = new_labels(5).cooldown(hours(6));
        let waits = evaluate(&trigger, &after_run("2026-01-01T18:29:00Z"));
        assert!(!waits.fires());
        assert_eq!(
            waits.why().to_string(),
            "cooldown: quiet until 2026-01-01 19:00:00 UTC, 31 min 0 s left [new_labels: 9 of 5 labels]"
        );
        assert!(!evaluate(&trigger, &after_run("2026-01-01T18:59:59Z")).fires());
        let fires = evaluate(&trigger, &after_run("2026-01-01T19:00:00Z"));
        assert!(fires.fires());
        assert_eq!(fires.why().text, "over since 2026-01-01 19:00:00 UTC");
        let first = evaluate(&trigger, &LoopStatus { labels: 9, ..status() });
        assert_eq!((first.fires(), first.why().text.as_str()), (true, "no run so far"));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_end_it() {
        assert!(!evaluate(&new_labels(5).cooldown(hours(6)), &after_run("2026-01-01T09:00:00Z")).fires());
    }

    #[test]
    fn a_due_time_within_the_gap_is_not_lost() {
        let (trigger, mut memory) = (schedule("0 15 * * *").unwrap().cooldown(hours(6)), Memory::default());
        assert!(!trigger.evaluate(&after_run("2026-01-01T15:00:00Z"), &mut memory).unwrap().fires());
        assert!(trigger.evaluate(&after_run("2026-01-01T19:00:00Z"), &mut memory).unwrap().fires());
        assert!(!trigger.evaluate(&after_run("2026-01-01T19:01:00Z"), &mut memory).unwrap().fires());
    }
}
