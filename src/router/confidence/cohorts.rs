//! Provisional auto-labels: cohorts that wait for their audits, and what these say.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::audits::Promise;
use super::compact::{decode, encode, fingerprint};
use crate::event::PredictionId;
use crate::router::CohortVerdict;
use crate::stats::audit::{LnWealth, Release, first_passage, ln_excess_e_value, ln_mean};

/// Audits after which a cohort takes no more labels.
pub(super) const COHORT_AUDITS: usize = 20;
/// So does one that is as old as this.
const COHORT_AGE: TimeDelta = TimeDelta::days(1);
/// Nobody waits for more audits than this.
const MOST_NEEDED: u64 = 1_000_000;
/// Audits of the random lane that are kept for the stop.
const MOST_OUTSIDE: usize = 1_000;
/// Audits looked at when the time until a stop is computed.
const MOST_LOOKED_AT: u64 = 3_000;

/// Who was chosen to be audited, and what the answer was; `None` until somebody answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Audits(BTreeMap<u64, Option<bool>>);

impl Audits {
    /// Errors and audits answered.
    fn counts(&self) -> (u64, u64) {
        let answers = self.0.values().flatten();
        answers.fold((0, 0), |(errors, audits), correct| (errors + u64::from(!correct), audits + 1))
    }

    fn waiting(&self) -> u64 {
        self.0.values().filter(|answer| answer.is_none()).count() as u64
    }
}

impl From<Audits> for String {
    fn from(audits: Audits) -> Self {
        let mut bytes = Vec::with_capacity(audits.0.len() * 9);
        for (sample, answer) in &audits.0 {
            bytes.extend(sample.to_le_bytes());
            bytes.push(answer.map_or(2, u8::from));
        }
        encode(&bytes)
    }
}

impl TryFrom<String> for Audits {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let bytes = decode(&text).ok_or("the audits of a cohort are not base64")?;
        let one = |record: &[u8]| {
            let (sample, answer) = record.split_first_chunk::<8>().filter(|(_, rest)| rest.len() == 1)?;
            Some((u64::from_le_bytes(*sample), (answer[0] < 2).then_some(answer[0] == 1)))
        };
        let audits: Option<_> = bytes.chunks(9).map(one).collect();
        audits.map(Audits).ok_or("an audit of a cohort is cut off")
    }
}

/// Auto-labels that are released or rejected together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cohort {
    number: u64,
    labels: u64,
    opened: DateTime<Utc>,
    /// Since when it takes no more labels.
    closed: Option<DateTime<Utc>>,
    audits: Audits,
}

/// The cohorts that are not decided yet, and the evidence of those that are.
///
/// Labels of one *epoch*, which lasts until a stop, form one sequence. Released is a prefix of it, whole cohorts with
/// every chosen audit answered, when [`Release`] reaches the level of the epoch: the k-th one has the share 1/(k(k + 1)) of the
/// miss, so that all of them together miss as often as promised. What the evidence exceeds the level by is dropped at a release:
/// the next release needs audits that are good themselves, and many good labels of the past cannot pay for bad ones
/// of today. A stop rejects every label of the epoch that is not released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cohorts {
    promise: Promise,
    audit: f64,
    next: u64,
    open: VecDeque<Cohort>,
    wealth: LnWealth,
    pub(super) stops: u64,
    /// Audits of the random lane since the last release or stop: they may stop, never release.
    outside: Audits,
    verdicts: Vec<(u64, CohortVerdict)>,
    pub(super) released: u64,
    pub(super) rejected: u64,
}

impl Cohorts {
    pub(super) fn new(promise: Promise, audit: f64) -> Self {
        Cohorts {
            promise,
            audit,
            next: 0,
            open: VecDeque::new(),
            wealth: LnWealth::default(),
            stops: 0,
            outside: Audits::default(),
            verdicts: Vec::new(),
            released: 0,
            rejected: 0,
        }
    }

    /// Goes on under a promise; labels that wait under another one go to people.
    pub(super) fn adopt(&mut self, promise: Promise, audit: f64) {
        if (self.promise, self.audit) != (promise, audit) {
            (self.promise, self.audit) = (promise, audit);
            self.reject();
        }
    }

    /// Adds a label; returns the number of its cohort.
    pub(super) fn add(&mut self, sample: PredictionId, audited: bool, now: DateTime<Utc>) -> u64 {
        self.close_aged(now);
        if self.open.back().is_none_or(|cohort| cohort.closed.is_some()) {
            let audits = Audits::default();
            self.open.push_back(Cohort { number: self.next, labels: 0, opened: now, closed: None, audits });
            self.next += 1;
        }
        let Some(cohort) = self.open.back_mut() else { return self.next };
        cohort.labels += 1;
        if audited {
            cohort.audits.0.entry(fingerprint(sample)).or_insert(None);
        }
        if cohort.audits.0.len() >= COHORT_AUDITS {
            cohort.closed = Some(now);
        }
        cohort.number
    }

    /// The cohort that takes labels takes no more of them.
    pub(super) fn close(&mut self, now: DateTime<Utc>) {
        if let Some(cohort) = self.open.back_mut() {
            cohort.closed.get_or_insert(now);
        }
    }

    fn close_aged(&mut self, now: DateTime<Utc>) {
        if self.open.back().is_some_and(|cohort| now - cohort.opened >= COHORT_AGE) {
            self.close(now);
        }
    }

    /// What time alone changes: cohorts close, and audits that nobody answered within `patience` of that count as errors.
    pub(super) fn age(&mut self, now: DateTime<Utc>, patience: TimeDelta) {
        self.close_aged(now);
        for cohort in &mut self.open {
            if cohort.closed.is_some_and(|closed| now - closed >= patience) {
                cohort.audits.0.values_mut().for_each(|answer| *answer = answer.or(Some(false)));
            }
        }
    }

    /// Notes an answer, if the sample was chosen to be audited and its cohort is not decided.
    pub(super) fn judge(&mut self, sample: PredictionId, correct: bool) {
        let sample = fingerprint(sample);
        for cohort in &mut self.open {
            if let Some(answer) = cohort.audits.0.get_mut(&sample) {
                *answer = Some(correct);
            }
        }
    }

    /// Notes what a row of the random lane says that the model would have labelled.
    pub(super) fn judge_outside(&mut self, sample: PredictionId, correct: bool) {
        if self.outside.0.len() < MOST_OUTSIDE {
            self.outside.0.insert(fingerprint(sample), Some(correct));
        }
    }

    /// Decides what can be decided. `true`: the audits say that the error is above the promise; every label that waits
    /// is rejected. With `hold` nothing is released.
    pub(super) fn decide(&mut self, hold: bool) -> bool {
        let (errors, audits) = self.counts();
        let (more_errors, more) = self.outside.counts();
        let level = -self.promise.miss().ln();
        if errors + more_errors > 0
            && ln_excess_e_value(errors + more_errors, audits + more, self.promise.error) >= level
        {
            self.reject();
            return true;
        }
        if !hold {
            self.release();
        }
        false
    }

    fn release(&mut self) {
        let (release, level) = (Release::new(self.promise.error, self.audit), self.level());
        let (mut wealth, mut audits, mut prefix) = (self.wealth, 0, None);
        let complete = self.open.iter().take_while(|cohort| cohort.closed.is_some() && cohort.audits.waiting() == 0);
        for (at, cohort) in complete.enumerate() {
            let (errors, answered) = cohort.audits.counts();
            audits += answered;
            release.add(&mut wealth, errors, answered);
            if audits > 0 && ln_mean(&wealth) >= level {
                prefix = Some((at + 1, wealth));
            }
        }
        let Some((count, wealth)) = prefix else { return };
        let surplus = ln_mean(&wealth) - level;
        self.wealth = wealth.map(|ln| ln - surplus);
        self.outside = Audits::default();
        for cohort in self.open.drain(..count) {
            self.released += cohort.labels;
            self.verdicts.push((cohort.number, CohortVerdict::Release));
        }
    }

    /// Rejects every label that waits; the next ones begin a new epoch.
    pub(super) fn reject(&mut self) {
        self.stops += 1;
        self.wealth = LnWealth::default();
        self.outside = Audits::default();
        for cohort in self.open.drain(..) {
            self.rejected += cohort.labels;
            self.verdicts.push((cohort.number, CohortVerdict::Reject));
        }
    }

    /// Logarithm of the evidence that releases in this epoch.
    fn level(&self) -> f64 {
        let epoch = self.stops as f64 + 1.0;
        // The surplus is subtracted with rounding.
        (epoch * (epoch + 1.0) / self.promise.miss()).ln() - 1e-9
    }

    /// The verdicts since the last call.
    pub(super) fn take_verdicts(&mut self) -> Vec<(u64, CohortVerdict)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Labels that wait.
    pub(super) fn exposure(&self) -> u64 {
        self.open.iter().map(|cohort| cohort.labels).sum()
    }

    /// Cohorts that wait.
    pub(super) fn count(&self) -> u64 {
        self.open.len() as u64
    }

    /// Errors and audits answered of the labels that wait.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = self.open.iter().map(|cohort| cohort.audits.counts());
        counts.fold((0, 0), |(errors, audits), (more_errors, more)| (errors + more_errors, audits + more))
    }

    /// Audits asked and not answered.
    pub(super) fn waiting(&self) -> u64 {
        self.open.iter().map(|cohort| cohort.audits.waiting()).sum()
    }

    /// How many more audits, all without an error, release what waits.
    pub(super) fn needed(&self) -> u64 {
        let (errors, audits) = self.counts();
        let release = Release::new(self.promise.error, self.audit);
        let mut wealth = self.wealth;
        release.add(&mut wealth, errors, audits);
        release.needed(&wealth, self.level(), MOST_NEEDED)
    }
}

/// Audits until a stop if the true error is `error`: the number that the share `share` of all drifts does not exceed. `None` if it is
/// more than thousands, as it is when the error is hardly above the promise.
pub(super) fn audits_until_stop(promise: Promise, error: f64, share: f64) -> Option<u64> {
    let level = -promise.miss().ln();
    let stops = |errors, audits| errors > 0 && ln_excess_e_value(errors, audits, promise.error) >= level;
    if error <= promise.error { None } else { first_passage(error, share, MOST_LOOKED_AT, stops) }
}

/// Audits without an error after which the first labels are released.
pub(super) fn audits_until_release(promise: Promise, audit: f64) -> u64 {
    Cohorts::new(promise, audit).needed()
}

#[cfg(test)]
mod tests;
