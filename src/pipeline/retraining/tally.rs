//! Counts of runs and labels that the trigger looks at, and that survive with the state of the loop.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::retrain::RunState;
use crate::sample::Annotator;
use crate::trigger::{DAY, LoopStatus, MOST_RECENT};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tally {
    /// When runs were requested: those of the last day, and maybe earlier ones.
    requested: VecDeque<DateTime<Utc>>,
    failed_runs: u32,
    last_failed_run: Option<DateTime<Utc>>,
    sealed: u64,
    sealed_independent: u64,
    /// Answered samples that went into quarantine since the last batch.
    quarantined: u64,
}

impl Tally {
    pub(super) fn run_requested(&mut self, now: DateTime<Utc>) {
        while self.requested.front().is_some_and(|first| self.requested.len() >= MOST_RECENT || now - *first >= DAY) {
            self.requested.pop_front();
        }
        self.requested.push_back(now);
    }

    pub(super) fn run_ended(&mut self, state: RunState, now: DateTime<Utc>) {
        if state == RunState::Failed {
            (self.failed_runs, self.last_failed_run) = (self.failed_runs.saturating_add(1), Some(now));
        } else {
            self.failed_runs = 0;
        }
    }

    /// A batch of labels of these annotators was sealed.
    pub(super) fn sealed<'a>(&mut self, annotators: impl Iterator<Item = &'a Annotator>) {
        for annotator in annotators {
            self.sealed += 1;
            self.sealed_independent += u64::from(annotator.is_independent());
        }
        self.quarantined = 0;
    }

    pub(super) fn label_quarantined(&mut self) {
        self.quarantined += 1;
    }

    /// Puts the counts into a status.
    pub(super) fn fill(&self, status: &mut LoopStatus) {
        status.recent_runs = self.requested.iter().copied().filter(|run| status.now - *run < DAY).collect();
        (status.failed_runs, status.last_failed_run) = (self.failed_runs, self.last_failed_run);
        (status.sealed_labels, status.sealed_independent_labels) = (self.sealed, self.sealed_independent);
        status.label_quality.quarantined = self.quarantined;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn filled(tally: &Tally, now: DateTime<Utc>) -> LoopStatus {
        let mut status = LoopStatus::new(now);
        tally.fill(&mut status);
        status
    }

    #[test]
    fn runs_of_the_last_day_are_told_and_no_more_than_a_thousand() {
        let (start, mut tally) = (DateTime::UNIX_EPOCH, Tally::default());
        for minute in 0..3_000 {
            tally.run_requested(start + TimeDelta::minutes(minute));
        }
        let now = start + TimeDelta::minutes(2_999);
        let runs = filled(&tally, now).recent_runs;
        assert_eq!((runs.len(), runs.last()), (MOST_RECENT, Some(&now)));
        assert_eq!(filled(&tally, now + TimeDelta::minutes(1_439)).recent_runs, [now]);
        assert!(filled(&tally, now + DAY).recent_runs.is_empty());
    }

    #[test]
    fn failures_in_a_row_end_with_a_run_that_does_not_fail() {
        let (now, mut tally) = (DateTime::UNIX_EPOCH + DAY, Tally::default());
        tally.run_ended(RunState::Failed, DateTime::UNIX_EPOCH);
        tally.run_ended(RunState::Failed, now);
        assert_eq!((filled(&tally, now).failed_runs, filled(&tally, now).last_failed_run), (2, Some(now)));
        tally.run_ended(RunState::Rejected, now + DAY);
        assert_eq!((filled(&tally, now).failed_runs, filled(&tally, now).last_failed_run), (0, Some(now)));
    }

    #[test]
    fn a_state_of_an_earlier_release_has_counted_nothing() {
        assert_eq!(serde_json::from_str::<Tally>("{}").unwrap(), Tally::default());
    }
}
