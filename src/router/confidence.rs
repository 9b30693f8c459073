//! The router that trusts the model where audits say that it may be trusted.

mod audits;
mod route;
mod status;

use serde::{Deserialize, Serialize};

use self::audits::{Cohort, Promise, Window};
use super::budget::{Bucket, Budget};
use super::query::{Query, QueryStrategy};
use crate::event::ModelVersion;

pub use status::ConfidenceStatus;

const FORMAT: u32 = 2;
const SEED: u64 = 0x6175_6469_7465_6421;
/// Auto-labels a sample if the model is confident enough and audits certify what that confidence is worth; asks people
/// otherwise.
///
/// **From which confidence on.** Every blind or true label of a sample whose prediction is known is an audit ([`learn`]);
/// the newest 2,000 count, those of the model at hand only. Ten fixed thresholds from 0.5 to 0.999 are tried; the
/// lowest is used for which the upper Clopper–Pearson limit of the error, at the confidence corrected for ten looks
/// (Bonferroni), is at most `max_error`. Without one nothing is auto-labelled: for 0.02 at 95 % that takes 263 audits
/// without an error. Rows of the random and comparison lanes are no audits: they are no sample of what is routed here.
///
/// **The promise.** Auto-labels are provisional. A share of them, chosen by a keyed hash of the id, is asked of people
/// all the same, blind; only those answers judge the cohort ([`cohort`]). It is released when they certify an error
/// of at most `max_error`. The cohort is looked at after every answer, so the permitted miss is spread over the number
/// of errors found (½, ¼, ⅛ …): 183 audits without an error for 0.02 at 95 %, where one look at a number fixed
/// beforehand would take 149. It is rejected when the lower limit exceeds `max_error`; then all audits are forgotten
/// and auto-labelling stops until new ones certify it again. Guarantee: a cohort whose error is above `max_error` is
/// released with a probability of at most 1 − `confidence`. It does not hold if people see the model's opinion, leave
/// the hard audits unanswered or err themselves, nor for labels made since a drift began that no answer has reached
/// yet: those are at most [`max_exposure`](ConfidenceRouter::max_exposure). While an alarm is open nothing is
/// auto-labelled and no cohort released.
///
/// **The cap.** Of the labels routed for a predicted class at most the share `cap` is automatic, at every moment.
///
/// **Priorities.** Rows that judge models 3, audits 2, unusable outputs 1, the rest 1 − confidence. Regression is never
/// auto-labelled; its priority is the width of the predictive interval beside the value, or by how much the score
/// exceeded the detector's threshold.
///
/// Memory: about 150 KB, and 40 bytes per audit of the present cohort.
///
/// [`learn`]: crate::LabelRouter::learn
/// [`cohort`]: crate::LabelRouter::cohort
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
    standing: Option<Standing>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    model: ModelVersion,
    window: Window,
    cohort: Cohort,
    bucket: Bucket,
    /// Auto-labels that the questions so far permit, per predicted class.
    credit: Vec<f64>,
    alarm: bool,
    released: u64,
    rejected: u64,
}

/// What follows from the audits; kept until the next one.
#[derive(Debug, Clone, Copy)]
struct Standing {
    model: ModelVersion,
    threshold: Option<f64>,
}

impl ConfidenceRouter {
    /// Releases auto-labels with an error of at most `max_error`; above 0 and below 1. Unless told otherwise at 95 %
    /// confidence, with 5 % audited, at most half of a class automatic, and no limit to the questions.
    pub fn max_error(max_error: f64) -> Self {
        ConfidenceRouter {
            promise: Promise { error: max_error, confidence: 0.95 },
            audit: 0.05,
            budget: Budget::unlimited(),
            cap: 0.5,
            overlap: 1,
            max_exposure: 20_000,
            seed: SEED,
            query: None,
            state: State {
                model: ModelVersion::FIRST,
                window: Window::default(),
                cohort: Cohort::default(),
                bucket: Bucket::full(),
                credit: Vec::new(),
                alarm: false,
                released: 0,
                rejected: 0,
            },
            standing: None,
        }
    }

    /// Confidence of the promise; above 0 and below 1.
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.promise.confidence = confidence;
        self
    }

    /// Share of the auto-labels that people audit, blind; above 0 and at most 1.
    pub fn audit(mut self, share: f64) -> Self {
        self.audit = share;
        self
    }

    /// How many questions people can take. Questions that judge models are asked in any case, and counted.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Chooses by this strategy whom people are asked about, among those that the model does not label. Unless told, all of
    /// them are asked about while the budget lasts, the reserve while an alarm is open.
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

    /// Seed of the choice of audits.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

#[cfg(test)]
mod tests;
