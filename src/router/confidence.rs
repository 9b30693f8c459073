//! The router that trusts the model where audits say that it may be trusted.

mod audits;
mod cohorts;
mod compact;
mod plan;
mod route;
mod status;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use self::audits::{Promise, Thresholds, Window};
use self::cohorts::Cohorts;
use super::budget::{Bucket, Budget};
use super::query::{Query, QueryStrategy};
use crate::event::ModelVersion;

pub use plan::{AutoLabelPlan, PromotionPlan, Traffic, plan_promotion};
pub use status::{ConfidenceStatus, DriftExposure};

const FORMAT: u32 = 2;
const SEED: u64 = 0x6175_6469_7465_6421;

/// Auto-labels a sample if the model is confident enough and audits certify what that confidence is worth; asks people
/// otherwise.
///
/// **From which confidence on.** Every blind or true label of a routed sample is an audit ([`learn`]); the newest 1,500 count,
/// of the model at hand and since the last stop only. Ten fixed thresholds from 0.5 to 0.999 are tried. Of those for
/// which the upper Clopper–Pearson limit of the error, at the confidence corrected for ten looks (Bonferroni), is at
/// most `max_error` (for 0.02 at 95 % that takes 263 audits without an error) the one is used that its audits speak for most
/// strongly: the lowest would give more labels, but with an error so close to `max_error` that they are never released. A class that has as many is judged alone,
/// the others are pooled. Doubtful samples may be asked more often than sure ones; that makes the threshold too
/// careful, never too bold, if the model errs more where it is less sure. A threshold holds
/// until a stop, unless newer audits certify a better one. It promises nothing.
///
/// **The promise** is held by cohorts. Auto-labels are provisional. A share of them, `audit`, chosen by a keyed hash of the id, is
/// asked of people all the same, blind. A cohort takes no more labels after 20 such audits, after a day, when the model
/// changes or when an alarm opens; several may wait. Cohorts are released in order, when every chosen audit before the end of the
/// last of them is answered and an anytime-valid test on those answers says that the labels which nobody audited have an error of at most
/// `max_error` from the last stop on. Guarantee: with the stated `confidence`, at no time in the life of the pipeline is
/// the error of all released labels since the last stop, or of any such stretch before, above `max_error`; with drift as
/// well as without, with autocorrelated errors, with any delay of the answers, and however badly the confidences are
/// calibrated. It does not hold if people see the model's opinion or err themselves. An audit that is not answered
/// holds its cohort; one not answered within [`patience`](ConfidenceRouter::patience) counts as an error.
///
/// **The stop.** When the audits of the labels that wait, and those labels of the random lane that the model would have given
/// itself, show an error above `max_error` (e-value ≥ 1/(1 − `confidence`), Robbins 1970), all labels that wait are rejected and go
/// to people, and only samples that come later certify a threshold again. After a drift to 10 % errors, at 0.02 and 5 % audits, a
/// stop takes a median of about 50 audits; labels released after the onset are at most those of
/// [`ConfidenceStatus::drift`] with the stated confidence, those that wait at most
/// [`max_exposure`](ConfidenceRouter::max_exposure). When so many wait and every audit of theirs is answered, no answer will decide
/// about them: they are rejected likewise. While an alarm is open nothing is auto-labelled and nothing released; its audits
/// start afresh. Every stop makes the next release dearer: the k-th stretch has the share 1/(k(k + 1)) of the permitted miss.
///
/// **The cap.** Of the labels routed for a predicted class at most the share `cap` is automatic, at every moment.
///
/// **Priorities.** Rows that judge models 3, audits of auto-labels 2, unusable outputs 1, the rest 1 − confidence times a
/// random factor (median 1, mostly between .6 and 1.6, fixed by the id), below 1; a question that only calibrates gets a
/// random doubt in place of its own, so that these do not crowd out the others where people have little time. Regression is never
/// auto-labelled; its priority is the width of the predictive interval beside the value, or by how much the score
/// exceeded the detector's threshold.
///
/// Memory: about 100 KB, and 50 bytes per audit that waits; saved in at most 20 KB and 12 bytes per audit that waits.
///
/// [`learn`]: crate::LabelRouter::learn
///
/// # Examples
/// ```
/// use feedloop::{Budget, ConfidenceRouter};
/// let router = ConfidenceRouter::max_error(0.02).confidence(0.95).audit(0.05).budget(Budget::per_day(200)).cap(0.5);
/// # let _ = router;
/// ```
#[derive(Debug, Clone)]
pub struct ConfidenceRouter {
    promise: Promise,
    audit: f64,
    budget: Budget,
    cap: f64,
    overlap: u32,
    max_exposure: u64,
    seed: u64,
    query: Option<Query>,
    state: State,
    patience: TimeDelta,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    model: ModelVersion,
    window: Window,
    /// In force.
    thresholds: Thresholds,
    /// The window has changed since they were renewed.
    audited: bool,
    cohorts: Cohorts,
    bucket: Bucket,
    /// Auto-labels that the questions so far permit, per predicted class.
    credit: Vec<f64>,
    alarm: bool,
    /// Position of the newest routed sample.
    newest: u64,
    /// Only samples from this position on are audits of a threshold.
    since: u64,
}

impl ConfidenceRouter {
    /// Releases auto-labels with an error of at most `max_error`; above 0 and below 1. Unless told otherwise at 95 %
    /// confidence, with 5 % audited, at most half of a class automatic, and no limit to the questions.
    pub fn max_error(max_error: f64) -> Self {
        let (promise, audit) = (Promise { error: max_error, confidence: 0.95 }, 0.05);
        ConfidenceRouter {
            promise,
            audit,
            budget: Budget::unlimited(),
            cap: 0.5,
            overlap: 1,
            max_exposure: 20_000,
            seed: SEED,
            query: None,
            state: State {
                model: ModelVersion::FIRST,
                window: Window::default(),
                thresholds: Thresholds::default(),
                audited: false,
                cohorts: Cohorts::new(promise, audit),
                bucket: Bucket::full(),
                credit: Vec::new(),
                alarm: false,
                newest: 0,
                since: 0,
            },
            patience: TimeDelta::days(7),
        }
    }

    /// Confidence of the promise; above 0 and below 1.
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.promise.confidence = confidence;
        self.state.cohorts = Cohorts::new(self.promise, self.audit);
        self
    }

    /// Share of the auto-labels that people audit, blind; above 0 and at most one half.
    pub fn audit(mut self, share: f64) -> Self {
        self.audit = share;
        self.state.cohorts = Cohorts::new(self.promise, self.audit);
        self
    }

    /// How many questions people can take. Questions that judge models are asked in any case, and counted.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Chooses by this strategy whom people are asked about, among those that the model does not label. Unless told, all of
    /// them are asked about while the budget lasts, the reserve while an alarm stands.
    pub fn strategy(mut self, strategy: QueryStrategy) -> Self {
        self.query = Some(Query::new(strategy));
        self
    }

    /// Largest share of auto-labels among the labels routed for one predicted class; from 0 to 1.
    pub fn cap(mut self, share: f64) -> Self {
        self.cap = share;
        self
    }

    /// How many different people answer each question; 1 unless told.
    pub fn overlap(mut self, people: u32) -> Self {
        self.overlap = people;
        self
    }

    /// At most so many provisional labels wait for release; 20,000 unless told.
    pub fn max_exposure(mut self, labels: u64) -> Self {
        self.max_exposure = labels;
        self
    }

    /// An audit that nobody has answered so long after its cohort took the last label counts as an error; 7 days unless told.
    pub fn patience(mut self, patience: TimeDelta) -> Self {
        self.patience = patience;
        self
    }

    /// Seed of the choice of audits.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;
