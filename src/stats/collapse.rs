//! Does the agreement of labels with a model collapse, and are the labels or the world to blame?

use serde::{Deserialize, Serialize};

use super::beta::beta_upper_quantile;
use super::beta::ln_binomial_probability;

/// Edges between the bins of confidence.
const EDGES: [f64; 3] = [0.6, 0.8, 0.95];
/// What the model says of itself counts as much as so many labels.
const CLAIM: f64 = 8.0;
/// An older label counts this much of the next one in its bin.
const DISCOUNT: f64 = 0.97;
/// The true chance is below its level with this probability, given what was seen.
const CONFIDENCE: f64 = 0.85;
/// No level is nearer to 0 or 1.
const MARGIN: f64 = 0.02;

/// How often labels contradict a model, by how sure the model was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Levels {
    /// Labels and contradictions per bin, discounted.
    bins: [(f64, f64); EDGES.len() + 1],
}

impl Levels {
    fn bin(sure: f64) -> usize {
        EDGES.iter().filter(|edge| sure >= **edge).count()
    }

    /// The level that the chance of a contradiction is expected to stay below, for a row on which the model gives its class
    /// the probability `sure`: the upper 85 % limit of a beta posterior whose prior is the model's own claim.
    pub(crate) fn chance(&self, sure: f64) -> f64 {
        let sure = sure.clamp(0.0, 1.0);
        let (labels, contradicted) = self.bins[Self::bin(sure)];
        let (a, b) = (contradicted + CLAIM * (1.0 - sure), labels - contradicted + CLAIM * sure);
        // A beta distribution needs a little of both.
        beta_upper_quantile(1.0 - CONFIDENCE, a.max(0.05), b.max(0.05)).clamp(MARGIN, 1.0 - MARGIN)
    }

    /// The expected chance of a contradiction, if what is not known yet is like `prior`.
    pub(crate) fn mean(&self, sure: f64, prior: f64) -> f64 {
        let (labels, contradicted) = self.bins[Self::bin(sure.clamp(0.0, 1.0))];
        ((contradicted + CLAIM * prior) / (labels + CLAIM)).clamp(MARGIN, 1.0 - MARGIN)
    }

    /// Counts a label.
    pub(crate) fn observe(&mut self, sure: f64, contradicts: bool) {
        let (labels, contradicted) = &mut self.bins[Self::bin(sure)];
        *labels = *labels * DISCOUNT + 1.0;
        *contradicted = *contradicted * DISCOUNT + f64::from(u8::from(contradicts));
    }

    /// The world has changed: in the bins of these rows only they count from now on. The other bins keep what they know, although
    /// that opens further checks of the same drift: where they were told of it, swapped labels that came after it were missed.
    pub(crate) fn restart(&mut self, rows: &[(f64, bool)]) {
        for &(sure, _) in rows {
            self.bins[Self::bin(sure)] = (0.0, 0.0);
        }
        for &(sure, contradicts) in rows {
            self.observe(sure, contradicts);
        }
    }
}

/// Natural logarithm of the likelihood ratio of "half of the agreement is lost" to "the chance of a contradiction is
/// `level`", for one label.
///
/// Its sum, restarted at 0 whenever it falls below, is a CUSUM (Page 1954). If every chance is at most its level, each
/// factor has an expectation of at most 1 given the past, so at least c labels pass on average until the sum first
/// reaches ln c (e-detectors: Shin, Ramdas and Rinaldo 2024).
pub(crate) fn ln_collapse(level: f64, contradicts: bool) -> f64 {
    ln_ratio(collapsed(level), level, contradicts)
}

/// The chance of a contradiction where half of the agreement that goes with `level` is lost.
pub(crate) fn collapsed(level: f64) -> f64 {
    f64::midpoint(1.0, level)
}

/// Natural logarithm of the likelihood ratio of chance `first` to chance `second` of a contradiction, for one label.
pub(crate) fn ln_ratio(first: f64, second: f64, contradicts: bool) -> f64 {
    if contradicts { (first / second).ln() } else { ((1.0 - first) / (1.0 - second)).ln() }
}

/// The chance that of `asked` second opinions at least `contradicted` contradict right labels, if each is wrong with
/// probability `error`.
pub(crate) fn chance_by_mistakes(asked: u64, contradicted: u64, error: f64) -> f64 {
    let probability = |k: u64| ln_binomial_probability(k as f64, asked as f64, error, 1.0 - error).exp();
    if contradicted == 0 {
        return 1.0;
    }
    (contradicted..=asked).map(probability).sum::<f64>().min(1.0)
}

/// What second opinions say of the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondOpinions {
    /// The labels are wrong.
    Fault,
    /// The labels are right: the world has changed.
    Drift,
    /// More opinions are needed.
    Ask,
}

/// Second opinions asked for at first.
pub(crate) const FIRST_LOOK: u64 = 3;
/// The chance of calling right labels wrong, over both looks: half of it is for the first.
pub(crate) const FALSE_FAULT: f64 = 0.01;

/// Judges `answered` second opinions, `contradicted` of which contradict the first ones. `last`: no more will come.
///
/// Two looks, exact: if the labels are right and a second opinion is wrong with probability `error`, independently of the
/// others, the chance of *Fault* is at most 1 %. The first look, at three opinions, may take half of that, and what it
/// leaves is for the last one. If none of three contradicts, it is *Drift* at once.
pub(crate) fn judge(answered: u64, contradicted: u64, error: f64, last: bool) -> SecondOpinions {
    if answered >= FIRST_LOOK && contradicted == 0 {
        return SecondOpinions::Drift;
    }
    let first = FALSE_FAULT / 2.0;
    let level = if last && answered > FIRST_LOOK {
        let chances = (1..=FIRST_LOOK).map(|k| chance_by_mistakes(FIRST_LOOK, k, error));
        FALSE_FAULT - chances.filter(|chance| *chance <= first).fold(0.0, f64::max)
    } else {
        first
    };
    match chance_by_mistakes(answered, contradicted, error) <= level {
        true => SecondOpinions::Fault,
        false if last => SecondOpinions::Drift,
        false => SecondOpinions::Ask,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
