//! Retrain when the new labels speak for what was flagged.

pub(crate) mod tracker;

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fewest flagged samples and fewest labels.
const FEWEST: (u64, u64) = (50, 30);

/// Fires when the labels since the last batch cover a share of what was flagged since then.
///
/// A flagged sample is covered when a label lies within the distance of its fifth nearest neighbour among the samples
/// that the same detector flagged with the same predicted class (Euclidean distance, whitened by the training
/// covariance). At least 50 flagged samples and 30 labels are needed, and half the share in every cell that holds a
/// tenth of the samples. Random labels on 10, 20 and 30 % of the samples cover about .48, .75 and .89.
///
/// # Examples
/// ```
/// use feedloop::{Coverage, TriggerExt, any, drift};
/// let trigger = any([drift(), Coverage::at(0.7).boxed()]);
/// # let _ = trigger;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    share: f64,
}

impl Coverage {
    /// Fires at a covered share of `share`, from 0 to 1; what is no number counts as 1.
    pub fn at(share: f64) -> Self {
        Coverage { share: if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) } }
    }
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage::at(0.7)
    }
}

impl RetrainTrigger for Coverage {
    fn name(&self) -> &str {
        "coverage"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        let coverage = &status.coverage;
        let weakest = coverage.cells.iter().copied().fold(1.0, f64::min);
        let part = |found: f64, needed: f64| if found >= needed { 1.0 } else { found / needed };
        let progress = [
            part(coverage.covered, self.share),
            part(weakest, self.share / 2.0),
            part(coverage.flagged as f64, FEWEST.0 as f64),
            part(coverage.labels as f64, FEWEST.1 as f64),
        ];
        let text = format!(
            "{:.2} of {:.2} covered, {weakest:.2} of {:.2} in the weakest cell; {} of {} flagged samples, {} of {} labels",
            coverage.covered,
            self.share,
            self.share / 2.0,
            coverage.flagged,
            FEWEST.0,
            coverage.labels,
            FEWEST.1,
        );
        Ok(settle(self.name(), status, progress.into_iter().fold(1.0, f64::min), text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{evaluate, status};
    use super::*;
    use crate::trigger::CoverageStatus;

    fn decide(covered: f64, flagged: u64, labels: u64, cells: &[f64]) -> Decision {
        let coverage = CoverageStatus { covered, flagged, labels, cells: cells.to_vec() };
        evaluate(&Coverage::at(0.7), &LoopStatus { coverage, ..status() })
    }

    #[test]
    fn fires_when_share_cells_samples_and_labels_suffice() {
        assert!(decide(0.7, 50, 30, &[0.35, 0.9]).fires());
        assert!(!decide(0.69, 50, 30, &[0.35, 0.9]).fires());
        assert!(!decide(0.7, 49, 30, &[0.35, 0.9]).fires());
        assert!(!decide(0.7, 50, 29, &[0.35, 0.9]).fires());
        assert!(!decide(0.7, 50, 30, &[0.34, 0.9]).fires());
    }

    #[test]
    fn says_what_is_missing() {
        let waits = decide(0.35, 60, 15, &[0.35]);
        let text = "0.35 of 0.70 covered, 0.35 of 0.35 in the weakest cell; 60 of 50 flagged samples, 15 of 30 labels";
        assert_eq!((waits.why().text.as_str(), waits.progress()), (text, 0.5));
    }

    #[test]
    fn nothing_flagged_is_not_covered() {
        assert!(!evaluate(&Coverage::at(0.0), &status()).fires());
    }
}
