//! How the router stands, for people and dashboards.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ConfidenceRouter, State};
use crate::event::ModelVersion;

/// How a [`ConfidenceRouter`] stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceStatus {
    /// The model that the last routed sample came from.
    pub model: ModelVersion,
    /// Confidence from which on that model is trusted; `None`: nothing is auto-labelled.
    pub threshold: Option<f64>,
    /// Audits of that model.
    pub audits: u64,
    /// More audits, all without an error, until a threshold is certified; 0 if one is.
    pub audits_needed: u64,
    /// Provisional labels that wait for release.
    pub exposure: u64,
    /// Audits of those that were answered.
    pub cohort_audits: u64,
    /// Errors among them.
    pub cohort_errors: u64,
    /// More audits, all without an error, until they are released.
    pub cohort_audits_needed: u64,
    /// Auto-labels released so far.
    pub released: u64,
    /// Auto-labels rejected so far.
    pub rejected: u64,
    /// Questions left; `None` without a limit.
    pub questions_left: Option<f64>,
}

impl ConfidenceRouter {
    /// How the router stands at `now`.
    pub fn status(&self, now: DateTime<Utc>) -> ConfidenceStatus {
        let State { model, window, cohort, bucket, released, rejected, .. } = &self.state;
        let (cohort_errors, cohort_audits) = cohort.counts();
        ConfidenceStatus {
            model: *model,
            threshold: window.threshold(*model, self.promise),
            audits: window.len(*model),
            audits_needed: window.needed(*model, self.promise),
            exposure: cohort.labels,
            cohort_audits,
            cohort_errors,
            cohort_audits_needed: cohort.needed(self.promise),
            released: *released,
            rejected: *rejected,
            questions_left: bucket.left(self.budget, now),
        }
    }
}
