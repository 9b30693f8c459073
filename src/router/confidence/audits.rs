//! What audits say about auto-labels: from which confidence on the model may be trusted, and whether a cohort may go.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use crate::event::{ModelVersion, PredictionId};
use crate::router::CohortVerdict;
use crate::stats::beta::beta_tails;

/// Thresholds that are tried, lowest first.
pub(super) const GRID: [f64; 10] = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.999];
/// Audits that the threshold is learned from: the newest ones.
pub(super) const WINDOW: usize = 2_000;
/// Nobody waits for more audits than this.
const MOST_NEEDED: u64 = 1_000_000;

/// The promise: the error is at most `error` with this `confidence`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Promise {
    pub(super) error: f64,
    pub(super) confidence: f64,
}

impl Promise {
    /// Is the upper Clopper–Pearson limit at 1 − `miss` within the promise? That is: were the error larger, so few errors
    /// would have at most the chance `miss`. Asking for the chance is cheaper than solving for the limit.
    fn certified(self, errors: u64, audits: u64, miss: f64) -> bool {
        // The limit is never below the share found: a cheap look before the exact one.
        if audits == 0 || errors >= audits || errors as f64 > self.error * audits as f64 {
            return false;
        }
        let (right, wrong) = ((audits - errors) as f64, errors as f64);
        beta_tails(right, wrong + 1.0, 1.0 - self.error, self.error).ln_lower.exp() <= miss
    }

    /// Is the lower Clopper–Pearson limit beyond the promise: would so many errors have at most the chance `miss`?
    fn broken(self, errors: u64, audits: u64, miss: f64) -> bool {
        if errors as f64 <= self.error * audits as f64 {
            return false;
        }
        let (right, wrong) = ((audits - errors) as f64, errors as f64);
        beta_tails(right + 1.0, wrong, 1.0 - self.error, self.error).ln_upper.exp() < miss
    }

    /// How many more audits, all without an error, certify; 0 if it is certified.
    fn needed(self, errors: u64, audits: u64, miss: f64) -> u64 {
        if self.certified(errors, audits, miss) {
            return 0;
        }
        let (mut low, mut high) = (0, 64);
        while !self.certified(errors, audits + high, miss) {
            if high >= MOST_NEEDED {
                return MOST_NEEDED;
            }
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.certified(errors, audits + middle, miss) { high = middle } else { low = middle }
        }
        high
    }

    fn miss(self) -> f64 {
        1.0 - self.confidence
    }
}

/// One label of the model that somebody else judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Judged {
    pub(super) sample: PredictionId,
    pub(super) model: ModelVersion,
    pub(super) confidence: f64,
    pub(super) correct: bool,
}

/// Errors and audits from each threshold on.
type Counts = [(u64, u64); GRID.len()];

/// The newest audits of all models, one per sample.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Judged>", into = "Vec<Judged>")]
pub(super) struct Window {
    judged: VecDeque<Judged>,
    samples: HashSet<PredictionId>,
    counts: BTreeMap<ModelVersion, Counts>,
}

impl From<Window> for Vec<Judged> {
    fn from(window: Window) -> Self {
        window.judged.into()
    }
}

impl From<Vec<Judged>> for Window {
    fn from(judged: Vec<Judged>) -> Self {
        let mut window = Window::default();
        judged.into_iter().for_each(|judged| window.push(judged));
        window
    }
}

impl Window {
    /// Adds an audit, or takes over what a sample's audit has become.
    pub(super) fn push(&mut self, judged: Judged) {
        if !self.samples.insert(judged.sample) {
            if let Some(at) = self.judged.iter().position(|known| known.sample == judged.sample) {
                let before = std::mem::replace(&mut self.judged[at], judged);
                self.count(before, |count, one| *count -= one);
                self.count(judged, |count, one| *count += one);
            }
            return;
        }
        if self.judged.len() >= WINDOW
            && let Some(oldest) = self.judged.pop_front()
        {
            self.samples.remove(&oldest.sample);
            self.count(oldest, |count, one| *count -= one);
        }
        self.judged.push_back(judged);
        self.count(judged, |count, one| *count += one);
    }

    fn count(&mut self, judged: Judged, change: impl Fn(&mut u64, u64)) {
        let counts = self.counts.entry(judged.model).or_default();
        for (_, (errors, audits)) in GRID.iter().zip(&mut *counts).filter(|(least, _)| judged.confidence >= **least) {
            change(errors, u64::from(!judged.correct));
            change(audits, 1);
        }
        if counts[0].1 == 0 {
            self.counts.remove(&judged.model);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Window::default();
    }

    pub(super) fn len(&self, model: ModelVersion) -> u64 {
        self.judged.iter().filter(|judged| judged.model == model).count() as u64
    }

    fn counts(&self, model: ModelVersion) -> Counts {
        self.counts.get(&model).copied().unwrap_or_default()
    }

    /// The lowest threshold that the audits of `model` certify; the miss is shared by all thresholds (Bonferroni).
    pub(super) fn threshold(&self, model: ModelVersion, promise: Promise) -> Option<f64> {
        let miss = promise.miss() / GRID.len() as f64;
        let counts = self.counts(model);
        let mut certified = GRID.iter().zip(counts).filter(|(_, (errors, n))| promise.certified(*errors, *n, miss));
        certified.next().map(|(threshold, _)| *threshold)
    }

    /// How many more audits, all without an error and of the highest confidence, certify a threshold.
    pub(super) fn needed(&self, model: ModelVersion, promise: Promise) -> u64 {
        let miss = promise.miss() / GRID.len() as f64;
        let counts = self.counts(model).into_iter();
        counts.map(|(errors, audits)| promise.needed(errors, audits, miss)).min().unwrap_or(MOST_NEEDED)
    }
}

/// The auto-labels that wait for release together, and what their audits say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Cohort {
    /// Auto-labels made.
    pub(super) labels: u64,
    /// Those chosen to be audited; `None` until somebody answers.
    audits: BTreeMap<PredictionId, Option<bool>>,
}

impl Cohort {
    pub(super) fn add(&mut self, sample: PredictionId, audited: bool) {
        self.labels += 1;
        if audited {
            self.audits.entry(sample).or_insert(None);
        }
    }

    /// Notes an answer, if the sample was chosen to be audited.
    pub(super) fn judge(&mut self, sample: PredictionId, correct: bool) {
        if let Some(answer) = self.audits.get_mut(&sample) {
            *answer = Some(correct);
        }
    }

    /// Errors and audits answered.
    pub(super) fn counts(&self) -> (u64, u64) {
        let answers = self.audits.values().flatten();
        answers.fold((0, 0), |(errors, audits), correct| (errors + u64::from(!correct), audits + 1))
    }

    /// A cohort is looked at after every answer. With k errors so far it is certified by the share 2^−(k+1) of the
    /// miss, so that all looks together miss as often as promised: a bad cohort passes only if for some k it has at
    /// most k errors among the n(k) audits that certify k, and that has at most k's share of the miss.
    pub(super) fn verdict(&self, promise: Promise) -> Option<CohortVerdict> {
        let (errors, audits) = self.counts();
        if promise.certified(errors, audits, share(promise, errors)) {
            Some(CohortVerdict::Release)
        } else if promise.broken(errors, audits, promise.miss()) {
            Some(CohortVerdict::Reject)
        } else {
            None
        }
    }

    /// How many more audits, all without an error, release the cohort.
    pub(super) fn needed(&self, promise: Promise) -> u64 {
        let (errors, audits) = self.counts();
        promise.needed(errors, audits, share(promise, errors))
    }
}

fn share(promise: Promise, errors: u64) -> f64 {
    promise.miss() * 0.5_f64.powi(errors.saturating_add(1).min(1_000) as i32)
}

#[cfg(test)]
mod tests;
