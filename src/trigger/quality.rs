//! Retrain when the labels are good, or when they are not.

use super::{Decision, LabelQualityStatus, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fewest samples behind a share, unless told.
const FEWEST: u64 = 30;

/// Fires on the [quality of the labels](LoopStatus::label_quality) since the last batch.
///
/// [`reaches`](LabelQuality::reaches) retrains on fewer labels where people agree on them: quality instead of volume.
/// [`falls`](LabelQuality::falls) starts a run when they do not, because a run audits the base and every batch again. Only
/// samples that two or more people answered tell how far they agree: have a share of the questions
/// [answered twice](crate::Ask::overlap).
///
/// # Examples
/// ```
/// use feedloop::{LabelQuality, TriggerExt, all, any, new_labels};
/// let good = all([new_labels(100), LabelQuality::reaches(0.95, 0.9).boxed()]);
/// let trigger = any([new_labels(500), good, LabelQuality::falls(0.7, 0.2).boxed()]);
/// # let _ = trigger;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LabelQuality {
    side: Side,
    agreement: f64,
    share: f64,
    labels: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Reaches,
    Falls,
}

impl LabelQuality {
    /// Fires when a share of at least `agreement` of the answers say what most people say of the sample, and at least
    /// `adjudicated` of the samples that came into doubt have a label again. Both from 0 to 1; what is no number counts as 1.
    pub fn reaches(agreement: f64, adjudicated: f64) -> Self {
        let share = |asked: f64| if asked.is_nan() { 1.0 } else { asked };
        LabelQuality { side: Side::Reaches, agreement: share(agreement), share: share(adjudicated), labels: FEWEST }
    }

    /// Fires when a share of less than `agreement` of the answers say what most people say of the sample, or more than
    /// `doubtful` of the answered samples are in doubt or went into quarantine. Both from 0 to 1; what is no number fires on nothing.
    pub fn falls(agreement: f64, doubtful: f64) -> Self {
        LabelQuality { side: Side::Falls, agreement, share: doubtful, labels: FEWEST }
    }

    /// Fewest samples behind a share, at least 1; 30 unless told. Behind the agreement they are those that two or more
    /// people answered.
    pub fn labels(mut self, least: u64) -> Self {
        self.labels = least.max(1);
        self
    }

    fn reached(&self, quality: &LabelQualityStatus) -> (f64, String) {
        let agreement = quality.agreement.unwrap_or(0.0);
        let settled = if quality.doubted == 0 { 1.0 } else { quality.settled as f64 / quality.doubted as f64 };
        let part = |found: f64, needed: f64| if found >= needed { 1.0 } else { found / needed };
        let progress = [
            part(quality.compared as f64, self.labels as f64),
            part(agreement, self.agreement),
            part(settled, self.share),
        ];
        let progress = progress.into_iter().fold(1.0, f64::min);
        let text = format!(
            "{} of {} samples answered twice, {agreement:.2} of {:.2} agreement, {} of {} doubted labels settled ({:.2} needed)",
            quality.compared, self.labels, self.agreement, quality.settled, quality.doubted, self.share
        );
        (progress, text)
    }

    fn fallen(&self, quality: &LabelQualityStatus) -> (f64, String) {
        let open = quality.doubted.saturating_sub(quality.settled);
        let (doubtful, answered) = (open + quality.quarantined, quality.labels + open + quality.quarantined);
        let share = if answered == 0 { 0.0 } else { doubtful as f64 / answered as f64 };
        let disagree = quality.compared >= self.labels && quality.agreement.is_some_and(|found| found < self.agreement);
        let doubted = answered >= self.labels && share > self.share;
        let text = format!(
            "agreement {} ({:.2} at least, {} of {} samples answered twice), {share:.2} in doubt or quarantined ({:.2} at \
             most, {answered} of {} samples)",
            quality.agreement.map_or("not known".to_owned(), |found| format!("{found:.2}")),
            self.agreement,
            quality.compared,
            self.labels,
            self.share,
            self.labels,
        );
        (if disagree || doubted { 1.0 } else { 0.0 }, text)
    }
}

impl RetrainTrigger for LabelQuality {
    fn name(&self) -> &str {
        "label_quality"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        let (progress, text) = match self.side {
            Side::Reaches => self.reached(&status.label_quality),
            Side::Falls => self.fallen(&status.label_quality),
        };
        Ok(settle(self.name(), status, progress, text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{evaluate, status};
    use super::*;

    fn decide(trigger: &LabelQuality, label_quality: LabelQualityStatus) -> Decision {
        evaluate(trigger, &LoopStatus { label_quality, ..status() })
    }

    fn good() -> LabelQualityStatus {
        LabelQualityStatus { labels: 40, compared: 30, agreement: Some(0.95), doubted: 5, settled: 4, quarantined: 0 }
    }

    #[test]
    fn reaches_needs_samples_agreement_and_settled_doubts() {
        let trigger = LabelQuality::reaches(0.95, 0.8);
        assert!(decide(&trigger, good()).fires());
        assert!(decide(&trigger, LabelQualityStatus { doubted: 0, settled: 0, ..good() }).fires());
        assert!(!decide(&trigger, LabelQualityStatus { compared: 29, ..good() }).fires());
        assert!(decide(&trigger.clone().labels(29), LabelQualityStatus { compared: 29, ..good() }).fires());
        assert!(!decide(&trigger, LabelQualityStatus { agreement: Some(0.94), ..good() }).fires());
        assert!(!decide(&trigger, LabelQualityStatus { settled: 3, ..good() }).fires());
        let waits = decide(&trigger, LabelQualityStatus { compared: 15, ..good() });
        assert_eq!(waits.progress(), 0.5);
        assert_eq!(
            waits.why().text,
            "15 of 30 samples answered twice, 0.95 of 0.95 agreement, 4 of 5 doubted labels settled (0.80 needed)"
        );
        assert!(!decide(&LabelQuality::reaches(f64::NAN, 0.0), good()).fires());
        assert!(
            !decide(&LabelQuality::falls(f64::NAN, f64::NAN), LabelQualityStatus { quarantined: 99, ..good() }).fires()
        );
        assert!(!decide(&LabelQuality::reaches(0.0, 0.0).labels(0), LabelQualityStatus::default()).fires());
    }

    #[test]
    fn falls_on_disagreement_or_on_a_share_in_doubt() {
        let trigger = LabelQuality::falls(0.9, 0.2);
        assert!(!decide(&trigger, good()).fires());
        assert!(decide(&trigger, LabelQualityStatus { agreement: Some(0.89), ..good() }).fires());
        assert!(!decide(&trigger, LabelQualityStatus { agreement: Some(0.1), compared: 29, ..good() }).fires());
        // 1 in doubt and 10 quarantined of 51, and one more.
        assert!(decide(&trigger, LabelQualityStatus { quarantined: 10, ..good() }).fires());
        assert!(!decide(&trigger, LabelQualityStatus { quarantined: 9, ..good() }).fires());
        let few = LabelQualityStatus { labels: 19, doubted: 0, settled: 0, quarantined: 10, ..good() };
        assert!(!decide(&trigger, few.clone()).fires());
        assert!(decide(&trigger, LabelQualityStatus { labels: 20, ..few }).fires());
        let nothing = decide(&trigger, LabelQualityStatus::default());
        assert!(!nothing.fires());
        assert_eq!(
            nothing.why().text,
            "agreement not known (0.90 at least, 0 of 30 samples answered twice), 0.00 in doubt or quarantined (0.20 at \
             most, 0 of 30 samples)"
        );
    }
}
