//! From which confidence on audits say that the model may be trusted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::compact::{decode, encode, fingerprint};
use crate::event::PredictionId;
use crate::stats::beta::beta_tails;

/// Thresholds that are tried, lowest first.
pub(super) const GRID: [f64; 10] = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.999];
/// Audits that the threshold is learned from: the newest ones.
pub(super) const WINDOW: usize = 1_500;
/// Nobody waits for more audits than this.
const MOST_NEEDED: u64 = 1_000_000;

/// The promise: the error is at most `error` with this `confidence`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Promise {
    pub(super) error: f64,
    pub(super) confidence: f64,
}

impl Promise {
    /// Is the upper Clopper–Pearson limit at 1 − `miss` within the promise? That is: were the error larger, so few errors
    /// would have at most the chance `miss`. Asking for the chance is cheaper than solving for the limit.
    fn certified(self, errors: u64, audits: u64, miss: f64) -> bool {
        self.ln_chance(errors, audits).is_some_and(|ln| ln.exp() <= miss)
    }

    /// Logarithm of the chance of so few errors, were the error that of the promise; `None` if there are too many in any case.
    fn ln_chance(self, errors: u64, audits: u64) -> Option<f64> {
        // The limit is never below the share found: a cheap look before the exact one.
        if audits == 0 || errors >= audits || errors as f64 > self.error * audits as f64 {
            return None;
        }
        let (right, wrong) = ((audits - errors) as f64, errors as f64);
        Some(beta_tails(right, wrong + 1.0, 1.0 - self.error, self.error).ln_lower)
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

    /// How many audits without an error certify.
    fn clean(self, miss: f64) -> u64 {
        (miss.ln() / (-self.error).ln_1p()).ceil() as u64
    }

    pub(super) fn miss(self) -> f64 {
        1.0 - self.confidence
    }
}

/// One label of the model that somebody else judged.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged {
    /// The sample, by the first 32 bits of its fingerprint.
    sample: u32,
    class: u16,
    /// How many thresholds its confidence reaches.
    reached: u8,
    correct: bool,
}

/// Errors and audits from each threshold on.
type Counts = [(u64, u64); GRID.len()];

/// The newest audits of one model, one per sample.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Window {
    judged: VecDeque<Judged>,
    samples: BTreeSet<u32>,
    counts: BTreeMap<u16, Counts>,
}

/// From which confidence on which classes are trusted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Thresholds {
    /// Of the classes that are not judged alone, taken together.
    pub(super) pooled: Option<f64>,
    /// Of those that have audits enough.
    pub(super) alone: BTreeMap<u16, Option<f64>>,
}

impl Thresholds {
    pub(super) fn of(&self, class: u32) -> Option<f64> {
        self.alone.get(&short(class)).copied().unwrap_or(self.pooled)
    }

    /// Is this class judged by its own audits only?
    pub(super) fn is_alone(&self, class: u32) -> bool {
        self.alone.contains_key(&short(class))
    }

    /// Takes over what newer audits certify. What was certified holds until a stop: the loss of a certificate by an error
    /// or two is no evidence that the error is too large.
    pub(super) fn renew(&mut self, newer: Thresholds) {
        self.pooled = newer.pooled.or(self.pooled);
        for (class, threshold) in newer.alone {
            let known = self.alone.entry(class).or_default();
            *known = threshold.or(*known);
        }
    }

    /// The lowest one of any class.
    pub(super) fn lowest(&self) -> Option<f64> {
        self.alone.values().copied().chain([self.pooled]).flatten().reduce(f64::min)
    }
}

impl Window {
    /// Adds an audit, or takes over what a sample's audit has become. Below the lowest threshold it says nothing.
    pub(super) fn push(&mut self, sample: PredictionId, class: u32, confidence: f64, correct: bool) {
        let reached = GRID.iter().take_while(|least| confidence >= **least).count() as u8;
        if reached > 0 {
            self.add(Judged { sample: fingerprint(sample) as u32, class: short(class), reached, correct });
        }
    }

    fn add(&mut self, judged: Judged) {
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
        let counts = self.counts.entry(judged.class).or_default();
        for (errors, audits) in counts.iter_mut().take(judged.reached.into()) {
            change(errors, u64::from(!judged.correct));
            change(audits, 1);
        }
        if counts[0].1 == 0 {
            self.counts.remove(&judged.class);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Window::default();
    }

    pub(super) fn len(&self) -> u64 {
        self.judged.len() as u64
    }

    /// The thresholds that the audits certify most strongly, or the newest few of them if all together certify none; the miss
    /// is shared by all thresholds (Bonferroni). Most strongly, because a cohort is released the sooner the more evidence a
    /// routed row brings: the lowest certified threshold often lies where the error is close to the promise, and what it
    /// labels is never released. A class whose own audits certify a threshold, or show that it errs too
    /// often for that of the others, is judged alone, the others together.
    pub(super) fn thresholds(&self, promise: Promise) -> Thresholds {
        let found = self.certify(promise);
        if found.lowest().is_some() {
            return found;
        }
        let few = 3 * promise.clean(promise.miss() / GRID.len() as f64) as usize;
        let mut newest = Window::default();
        self.judged.iter().skip(self.judged.len().saturating_sub(few)).for_each(|judged| newest.add(*judged));
        newest.certify(promise)
    }

    fn certify(&self, promise: Promise) -> Thresholds {
        let miss = promise.miss() / GRID.len() as f64;
        let enough = promise.clean(miss);
        let strongest = |counts: &Counts| {
            let chances = counts.iter().map(|(errors, audits)| promise.ln_chance(*errors, *audits)).enumerate();
            let certified = chances.filter_map(|(at, ln)| ln.filter(|ln| ln.exp() <= miss).map(|ln| (at, ln)));
            certified.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
        };
        let mut alone: BTreeMap<u16, Option<f64>> = BTreeMap::new();
        for (class, counts) in self.counts.iter().filter(|(_, counts)| counts[0].1 >= enough) {
            if let Some(at) = strongest(counts) {
                alone.insert(*class, Some(GRID[at]));
            }
        }
        // A class that spoils the pool is taken out of it, and the rest is looked at again.
        while let Some(at) = strongest(&self.pooled(|class| !alone.contains_key(&class))) {
            let spoils = |(class, counts): (&u16, &Counts)| {
                let (errors, audits) = counts[at];
                (!alone.contains_key(class) && promise.broken(errors, audits, miss)).then_some(*class)
            };
            let Some(class) = self.counts.iter().find_map(spoils) else {
                return Thresholds { pooled: Some(GRID[at]), alone };
            };
            alone.insert(class, None);
        }
        Thresholds { pooled: None, alone }
    }

    /// Errors and audits of these classes together.
    fn pooled(&self, which: impl Fn(u16) -> bool) -> Counts {
        let mut pooled = Counts::default();
        for (_, counts) in self.counts.iter().filter(|(class, _)| which(**class)) {
            for (sum, one) in pooled.iter_mut().zip(counts) {
                *sum = (sum.0 + one.0, sum.1 + one.1);
            }
        }
        pooled
    }

    /// How many more audits, all without an error and of the highest confidence, certify a threshold, the classes pooled.
    pub(super) fn needed(&self, promise: Promise) -> u64 {
        let miss = promise.miss() / GRID.len() as f64;
        let counts = self.pooled(|_| true).into_iter();
        counts.map(|(errors, audits)| promise.needed(errors, audits, miss)).min().unwrap_or(MOST_NEEDED)
    }
}

/// Classes beyond the first 65,535 are one.
fn short(class: u32) -> u16 {
    u16::try_from(class).unwrap_or(u16::MAX)
}

/// Per audit 7 bytes: sample, class, thresholds reached and whether it was right.
const RECORD: usize = 7;

impl From<Window> for String {
    fn from(window: Window) -> Self {
        let mut bytes = Vec::with_capacity(window.judged.len() * RECORD);
        for judged in &window.judged {
            bytes.extend(judged.sample.to_le_bytes());
            bytes.extend(judged.class.to_le_bytes());
            bytes.push(judged.reached << 1 | u8::from(judged.correct));
        }
        encode(&bytes)
    }
}

impl TryFrom<String> for Window {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let bytes = decode(&text).ok_or("the audits are not base64")?;
        let mut window = Window::default();
        for record in bytes.chunks(RECORD) {
            let &[a, b, c, d, e, f, last] = record else { return Err("an audit is cut off") };
            let (sample, class) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
            window.add(Judged { sample, class, reached: last >> 1, correct: last & 1 == 1 });
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests;
