//! Retrain when enough new labels are there.

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fires when enough labels are new; see [`new_labels`].
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

/// Fires when `count` labels are new: those that wait to enter a batch, and those of batches that were corrected or taken
/// back since.
pub fn new_labels(count: u64) -> Box<dyn RetrainTrigger> {
    Box::new(NewLabels::at_least(count))
}

impl RetrainTrigger for NewLabels {
    fn name(&self) -> &str {
        "new_labels"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        let labels = status.labels + status.corrected_labels;
        let mut text = format!("{labels} of {} labels", self.count);
        if status.corrected_labels > 0 {
            text += &format!(", {} of them corrected", status.corrected_labels);
        }
        Ok(settle(self.name(), status, labels as f64 / self.count as f64, text))
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
    fn a_correction_is_a_new_label() {
        let corrected = LoopStatus { labels: 3, corrected_labels: 2, ..status() };
        let fires = evaluate(&new_labels(5), &corrected);
        assert_eq!((fires.fires(), &*fires.why().text), (true, "5 of 5 labels, 2 of them corrected"));
        assert!(!evaluate(&new_labels(6), &corrected).fires());
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
