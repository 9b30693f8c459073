//! What a budget can show, and by when.

use serde::{Deserialize, Serialize};

use super::ConfidenceRouter;
use super::audits::Window;
use super::cohorts::{COHORT_AUDITS, audits_until_release};
use super::status::DriftExposure;
use crate::stats::audit::first_passage;
use crate::stats::beta::beta_tails;
use crate::stats::evidence::ln_paired_e_value;

/// Decisive labels that are looked at when a sample size is computed.
const MOST: u64 = 20_000;

/// What comes in a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Samples that the router is asked about.
    pub samples_per_day: f64,
    /// The share of them on which the model is sure enough to be trusted; half of them, say, before it is known.
    pub sure: f64,
    /// Questions that people answer.
    pub answers_per_day: f64,
    /// Days from a question to its answer.
    pub delay_days: f64,
}

/// When auto-labelling can start, and what it risks. Times are in days from an empty start, if no audit finds an error;
/// infinite if the traffic or the people never suffice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AutoLabelPlan {
    /// Audits without an error that certify a threshold.
    pub calibration_audits: u64,
    /// When that many are answered.
    pub starts_after_days: f64,
    /// Audits without an error, of auto-labels, after which the first ones are released.
    pub release_audits: u64,
    /// When the first ones are.
    pub released_after_days: f64,
    /// Auto-labels a day from then on; what waits at most, caps and people permitting.
    pub labels_per_day: f64,
    /// Days from then on from an auto-label to its release.
    pub release_takes_days: f64,
    /// What a drift costs; see [`ConfidenceStatus::drift`](crate::ConfidenceStatus::drift).
    pub drift: Option<DriftExposure>,
}

impl ConfidenceRouter {
    /// What this router can do with such a traffic, and by when.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{ConfidenceRouter, Traffic};
    /// let traffic = Traffic { samples_per_day: 4_000.0, sure: 0.6, answers_per_day: 150.0, delay_days: 0.5 };
    /// let plan = ConfidenceRouter::max_error(0.02).audit(0.05).plan(&traffic);
    /// assert_eq!(plan.calibration_audits, 263);
    /// assert!(plan.starts_after_days < 5.0);
    /// ```
    pub fn plan(&self, traffic: &Traffic) -> AutoLabelPlan {
        let Traffic { samples_per_day, sure, answers_per_day, delay_days } = *traffic;
        let sure_per_day = samples_per_day * sure;
        // Before it starts sure samples are asked like all others, as far as people go.
        let calibration_audits = Window::default().needed(self.promise);
        let asked = sure_per_day.min(answers_per_day * sure);
        let starts_after_days = delay_days + calibration_audits as f64 / asked;
        let labels_per_day = (sure_per_day.min(samples_per_day * self.cap)).min(answers_per_day / self.audit);
        let release_audits = audits_until_release(self.promise, self.audit);
        let audits_per_day = labels_per_day * self.audit;
        let cohort = (COHORT_AUDITS as f64 / audits_per_day).min(1.0);
        AutoLabelPlan {
            calibration_audits,
            starts_after_days,
            release_audits,
            released_after_days: starts_after_days + delay_days + release_audits as f64 / audits_per_day,
            labels_per_day,
            release_takes_days: delay_days + cohort,
            drift: self.drift_exposure(),
        }
    }
}

/// Labels that find out which of two models is better, and how long they take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PromotionPlan {
    /// Labels on rows where the two disagree: of an exact one-sided McNemar test at level 0.05 with a power of 80 %.
    pub disagreements: u64,
    /// Labels on random rows that contain as many.
    pub random: u64,
    /// Decisive labels in the median until *Confirmed*: the e-value reaches 20 times the number of candidates.
    pub confirmed: u64,
    /// Days to that many `disagreements`, if the comparison lane gets all labels and finds rows enough.
    pub disagreement_days: f64,
    /// Days to that many `random` labels.
    pub random_days: f64,
    /// Days to `confirmed`.
    pub confirmed_days: f64,
}

/// What it takes to find that a candidate is better by `difference` (0.02 for two points) when the two models disagree on the
/// share `disagreement` of the rows, with `labels_per_day` and so many `candidates`; one of the two is right where they
/// disagree. `None` if there is nothing to find: no difference, more difference than disagreement, or more than 20,000 labels.
///
/// # Examples
/// ```
/// let plan = feedloop::plan_promotion(0.02, 0.1, 50.0, 1).unwrap();
/// assert_eq!((plan.disagreements, plan.random), (158, 1_580));
/// assert!((plan.disagreement_days - 3.16).abs() < 1e-9);
/// ```
pub fn plan_promotion(
    difference: f64,
    disagreement: f64,
    labels_per_day: f64,
    candidates: u64,
) -> Option<PromotionPlan> {
    if !(difference > 0.0 && difference <= disagreement && disagreement <= 1.0) {
        return None;
    }
    let wins = 0.5 + 0.5 * difference / disagreement;
    let disagreements = (1..=MOST).find(|n| power(*n, wins) >= 0.8)?;
    let random = (disagreements as f64 / disagreement).round() as u64;
    let level = (20.0 * candidates.max(1) as f64).ln();
    let confirmed = first_passage(wins, 0.5, MOST, |wins, n| ln_paired_e_value(wins, n - wins) >= level)?;
    let days = |labels: u64| labels as f64 / labels_per_day;
    Some(PromotionPlan {
        disagreements,
        random,
        confirmed,
        disagreement_days: days(disagreements),
        random_days: days(random),
        confirmed_days: days(confirmed),
    })
}

/// Power of the exact one-sided sign test at level 0.05 if one model wins a decisive row with chance `wins`.
fn power(n: u64, wins: f64) -> f64 {
    // P(X ≥ k) = P(Beta(k, n − k + 1) < p)
    let at_least = |k: u64, p: f64| {
        if k == 0 { 1.0 } else { beta_tails(k as f64, (n - k + 1) as f64, p, 1.0 - p).ln_lower.exp() }
    };
    let (mut low, mut high) = (n / 2, n + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if middle > n || at_least(middle, 0.5) <= 0.05 { high = middle } else { low = middle + 1 }
    }
    if low > n { 0.0 } else { at_least(low, wins) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// The numbers that the project's statistics state.
    #[test]
    fn promotions_take_the_labels_that_are_stated() {
        let two = plan_promotion(0.02, 0.1, 10.0, 1).unwrap();
        let five = plan_promotion(0.05, 0.1, 10.0, 1).unwrap();
        assert_eq!((two.disagreements, two.random), (158, 1_580));
        assert_eq!((five.disagreements, five.random), (23, 230));
        assert!((five.random_days - 23.0).abs() < 1e-12);
        assert!((18..=30).contains(&five.confirmed), "{}", five.confirmed);
        assert!(two.confirmed > five.confirmed);
    }

    #[test]
    fn nothing_to_find_is_said() {
        for (difference, disagreement) in
            [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1), (f64::NAN, 0.1), (0.1, 1.5), (1e-6, 0.1)]
        {
            assert_eq!(plan_promotion(difference, disagreement, 10.0, 1), None, "{difference} of {disagreement}");
        }
    }

    #[test]
    fn auto_labelling_starts_after_263_audits_and_later_with_fewer_people() {
        let router = ConfidenceRouter::max_error(0.02);
        let mut traffic = Traffic { samples_per_day: 10_000.0, sure: 0.5, answers_per_day: 200.0, delay_days: 1.0 };
        let plan = router.plan(&traffic);
        assert_eq!(plan.calibration_audits, 263);
        assert!((plan.starts_after_days - 3.63).abs() < 1e-9, "{plan:?}");
        assert_eq!(plan.labels_per_day, 4_000.0);
        assert!(plan.release_audits > 149 && plan.release_audits < 350, "{plan:?}");
        let drift = plan.drift.unwrap();
        assert!((40..=56).contains(&drift.audits), "{drift}");
        traffic.answers_per_day = 20.0;
        assert!(router.plan(&traffic).released_after_days > 5.0 * plan.released_after_days);
        traffic.answers_per_day = 0.0;
        assert!(router.plan(&traffic).starts_after_days.is_infinite());
    }
}
