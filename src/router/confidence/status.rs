//! How the router stands, for people and dashboards.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::cohorts::{COHORT_AUDITS, audits_until_stop};
use super::{ConfidenceRouter, State};
use crate::event::ModelVersion;

/// The drift that the exposure is stated for.
const DRIFT: f64 = 0.1;

/// How a [`ConfidenceRouter`] stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceStatus {
    /// The model that the last routed sample came from.
    pub model: ModelVersion,
    /// The lowest confidence from which on that model is trusted with some class; `None`: nothing is auto-labelled.
    pub threshold: Option<f64>,
    /// Audits of that model since the last stop.
    pub audits: u64,
    /// More audits, all without an error, until a threshold is certified; 0 if one is.
    pub audits_needed: u64,
    /// Provisional labels that wait for release.
    pub exposure: u64,
    /// The most that may wait.
    pub max_exposure: u64,
    /// Cohorts that they form.
    pub cohorts: u64,
    /// Audits of them that were answered.
    pub cohort_audits: u64,
    /// Errors among these.
    pub cohort_errors: u64,
    /// Audits of them that nobody has answered yet.
    pub cohort_audits_waiting: u64,
    /// More audits, all without an error, until they are released.
    pub cohort_audits_needed: u64,
    /// Auto-labels released so far, those that people have audited included.
    pub released: u64,
    /// Auto-labels rejected so far.
    pub rejected: u64,
    /// Stops so far: the audits showed an error above the promise.
    pub stops: u64,
    /// What a drift would cost; `None` if a drift to its error is too small to be seen within thousands of audits.
    pub drift: Option<DriftExposure>,
    /// Questions left; `None` without a limit.
    pub questions_left: Option<f64>,
}

/// What a sudden drift costs under a [`ConfidenceRouter`]'s settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriftExposure {
    /// True error of the auto-labels after the onset: 10 %, or twice the promise if that is more.
    pub error: f64,
    /// Audits answered until the stop, in the median.
    pub audits: u64,
    /// Labels released after the onset are at most so many, with the confidence of the promise.
    pub labels: u64,
}

impl std::fmt::Display for DriftExposure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DriftExposure { error, audits, labels } = self;
        let percent = 100.0 * error;
        write!(
            f,
            "at {percent:.0} % true error a stop takes a median of {audits} audits; at most {labels} labels are released after the onset"
        )
    }
}

impl ConfidenceRouter {
    /// How the router stands at `now`.
    pub fn status(&self, now: DateTime<Utc>) -> ConfidenceStatus {
        let State { model, window, thresholds, cohorts, bucket, .. } = &self.state;
        let (cohort_errors, cohort_audits) = cohorts.counts();
        let mut thresholds = thresholds.clone();
        thresholds.renew(window.thresholds(self.promise));
        let threshold = thresholds.lowest();
        ConfidenceStatus {
            model: *model,
            threshold,
            audits: window.len(),
            audits_needed: if threshold.is_some() { 0 } else { window.needed(self.promise) },
            exposure: cohorts.exposure(),
            max_exposure: self.max_exposure,
            cohorts: cohorts.count(),
            cohort_audits,
            cohort_errors,
            cohort_audits_waiting: cohorts.waiting(),
            cohort_audits_needed: cohorts.needed(),
            released: cohorts.released,
            rejected: cohorts.rejected,
            stops: cohorts.stops,
            drift: self.drift_exposure(),
            questions_left: bucket.left(self.budget, now),
        }
    }

    /// What a sudden drift costs under these settings.
    pub fn drift_exposure(&self) -> Option<DriftExposure> {
        let error = DRIFT.max(2.0 * self.promise.error).min(1.0);
        let audits = audits_until_stop(self.promise, error, 0.5)?;
        let most = audits_until_stop(self.promise, error, self.promise.confidence)?;
        // Audits are answered late, but only answered ones release; the cohort of the onset comes on top.
        let labels = ((most + COHORT_AUDITS as u64) as f64 / self.audit).ceil() as u64;
        Some(DriftExposure { error, audits, labels })
    }
}
