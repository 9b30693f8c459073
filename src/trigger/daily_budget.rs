//! A most number of runs a day.

use chrono::{DateTime, TimeDelta, Utc};

use super::limit::{Limit, limited};
use super::{Decision, LoopStatus, Memory, RetrainTrigger, span};
use crate::error::BoxError;

/// Runs of the last day that a [`LoopStatus`] tells of.
pub(crate) const MOST_RECENT: usize = 1_000;
/// The length of a day.
pub(crate) const DAY: TimeDelta = TimeDelta::days(1);

/// A trigger that stays quiet once so many runs were requested in 24 hours; see
/// [`TriggerExt::daily_budget`](crate::TriggerExt::daily_budget).
#[derive(Debug, Clone)]
pub struct DailyBudget<T> {
    inner: T,
    runs: usize,
}

impl<T> DailyBudget<T> {
    pub(super) fn new(inner: T, runs: u32) -> Self {
        DailyBudget { inner, runs: (runs as usize).clamp(1, MOST_RECENT) }
    }

    fn limit(&self, status: &LoopStatus) -> Limit {
        let recent: Vec<DateTime<Utc>> =
            status.recent_runs.iter().copied().filter(|run| status.now - *run < DAY).collect();
        let text = format!("{} of {} runs in 24 hours", recent.len(), self.runs);
        match recent.len().checked_sub(self.runs).and_then(|over| recent.get(over)) {
            None => Limit::Open(text),
            Some(oldest) => {
                let free = oldest.checked_add_signed(DAY).unwrap_or(*oldest);
                let left = span(free - status.now);
                Limit::Holds(format!("{text}; the next one from {} on, {left} left", free.format("%F %T UTC")))
            }
        }
    }
}

impl<T: RetrainTrigger> RetrainTrigger for DailyBudget<T> {
    fn name(&self) -> &str {
        "daily_budget"
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
    use crate::trigger::{TriggerExt, new_labels};

    fn after(runs: &[&str], now: &str) -> LoopStatus {
        LoopStatus { now: at(now), labels: 9, recent_runs: runs.iter().map(|run| at(run)).collect(), ..status() }
    }

    #[test]
    fn no_more_runs_than_the_budget_in_any_24_hours() {
        let trigger = new_labels(5).daily_budget(2);
        let runs = ["2026-01-01T13:00:00Z", "2026-01-01T20:00:00Z"];
        let one = evaluate(&trigger, &after(&runs[..1], "2026-01-01T20:00:00Z"));
        assert_eq!((one.fires(), one.why().text.as_str()), (true, "1 of 2 runs in 24 hours"));
        let waits = evaluate(&trigger, &after(&runs, "2026-01-02T12:00:00Z"));
        assert!(!waits.fires());
        assert_eq!(
            waits.why().text,
            "2 of 2 runs in 24 hours; the next one from 2026-01-02 13:00:00 UTC on, 1 h 0 min left"
        );
        assert!(!evaluate(&trigger, &after(&runs, "2026-01-02T12:59:59Z")).fires());
        assert!(evaluate(&trigger, &after(&runs, "2026-01-02T13:00:00Z")).fires());
    }

    #[test]
    fn it_waits_until_enough_of_many_runs_are_a_day_old() {
        let runs = ["2026-01-01T13:00:00Z", "2026-01-01T14:00:00Z", "2026-01-01T15:00:00Z"];
        let waits = evaluate(&new_labels(5).daily_budget(2), &after(&runs, "2026-01-01T16:00:00Z"));
        assert!(waits.why().text.contains("from 2026-01-02 14:00:00 UTC on"), "{}", waits.why());
    }

    #[test]
    fn a_budget_of_nothing_is_one() {
        assert!(evaluate(&new_labels(5).daily_budget(0), &after(&[], "2026-01-01T16:00:00Z")).fires());
    }
}
