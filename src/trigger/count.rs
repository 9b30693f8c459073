//! Retrain when enough new labels are there.

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fires when enough labels wait to enter a batch; see [`new_labels`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLabels {
    count: u64,
}

impl NewLabels {
    /// Fires at `count` labels; 0 counts as 1.
    pub fn at_least(count: u64) -> Self {
        NewLabels { count: count.max(1) }
    }
}

/// Fires when `count` labels wait to enter a batch.
pub fn new_labels(count: u64) -> Box<dyn RetrainTrigger> {
    Box::new(NewLabels::at_least(count))
}

impl RetrainTrigger for NewLabels {
    fn name(&self) -> &str {
        "new_labels"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        let text = format!("{} of {} labels", status.labels, self.count);
        Ok(settle(self.name(), status, status.labels as f64 / self.count as f64, text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{evaluate, status};
    use super::*;

    #[test]
    fn says_how_many_labels_are_missing() {
        let trigger = new_labels(500);
        let waits = evaluate(&trigger, &LoopStatus { labels: 212, ..status() });
        assert_eq!((waits.fires(), waits.progress()), (false, 0.424));
        assert_eq!(waits.why().to_string(), "new_labels: 212 of 500 labels");
        let fires = evaluate(&trigger, &LoopStatus { labels: 500, ..status() });
        assert_eq!((fires.fires(), fires.why().fired), (true, true));
    }

    #[test]
    fn waits_for_the_run_in_flight() {
        let waits = evaluate(&new_labels(5), &LoopStatus { labels: 9, running: true, ..status() });
        assert_eq!(waits.why().text, "9 of 5 labels; waits for the run in flight");
        assert!(!waits.fires());
    }

    #[test]
    fn nothing_never_suffices() {
        assert!(!evaluate(&new_labels(0), &status()).fires());
    }
}
