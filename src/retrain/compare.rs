//! What two models say of the same row.

use serde::{Deserialize, Serialize};

use crate::event::{Label, predicted_label};
use crate::schema::Target;
use crate::stats::{evidence, mcnemar};

/// Largest number of missing decisive rows that is still told.
const FORESEEABLE: u64 = 1 << 16;

/// How one model did against another on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Only the first is right, or it is nearer to the value.
    Win,
    /// Only the second is right, or it is nearer to the value.
    Loss,
    /// Both are right, both are wrong, or both are equally near.
    Tie,
}

impl Comparison {
    /// Compares two models' outputs for a row with its label. An unusable output is wrong, and infinitely far from
    /// every value.
    pub fn of(target: &Target, first: &[f64], second: &[f64], label: Label) -> Self {
        let miss = |output: &[f64]| match (predicted_label(target, output), label) {
            (Some(Label::Class(said)), Label::Class(truth)) => f64::from(said != truth),
            (Some(Label::Value(said)), Label::Value(truth)) => (said - truth).abs(),
            _ => f64::INFINITY,
        };
        let worst = if matches!(target, Target::Classes(_)) { 1.0 } else { f64::INFINITY };
        let (first, second) = (miss(first).min(worst), miss(second).min(worst));
        if first < second {
            Comparison::Win
        } else if first > second {
            Comparison::Loss
        } else {
            Comparison::Tie
        }
    }
}

/// The decisive rows of a paired comparison: those where exactly one of two models is right (or, for values, nearer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Paired {
    /// Rows for the first model.
    pub wins: u64,
    /// Rows against it.
    pub losses: u64,
}

impl Paired {
    /// Counts one comparison.
    pub fn count(&mut self, comparison: Comparison) {
        match comparison {
            Comparison::Win => self.wins += 1,
            Comparison::Loss => self.losses += 1,
            Comparison::Tie => {}
        }
    }

    /// Comparisons of unequal weight, as so many rows of equal weight as tell the same (Kish 1965: the square of the sum over
    /// the sum of the squares), rounded.
    pub(crate) fn weighted(comparisons: impl Iterator<Item = (Comparison, f64)>) -> Paired {
        let (mut wins, mut losses, mut squares) = (0.0, 0.0, 0.0);
        for (comparison, weight) in comparisons {
            match comparison {
                Comparison::Win => wins += weight,
                Comparison::Loss => losses += weight,
                Comparison::Tie => continue,
            }
            squares += weight * weight;
        }
        if squares <= 0.0 {
            return Paired::default();
        }
        let each = (wins + losses) / squares;
        Paired { wins: (wins * each).round() as u64, losses: (losses * each).round() as u64 }
    }

    /// Number of decisive rows.
    pub fn decisive(&self) -> u64 {
        self.wins + self.losses
    }

    /// E-value for "the first model is better": if it is not, the chance that this ever reaches c is at most 1/c.
    pub fn e_value(&self) -> f64 {
        evidence::paired_e_value(self.wins, self.losses)
    }

    /// E-value for "the second model is better".
    pub fn mirrored_e_value(&self) -> f64 {
        evidence::paired_e_value(self.losses, self.wins)
    }

    /// Two-sided p-value of the exact test of McNemar (1947), for a number of rows that was fixed beforehand. Looking again
    /// and again is what [`e_value`](Self::e_value) is for: no verdict rests on this one.
    pub fn p_value(&self) -> f64 {
        mcnemar::p_value(self.wins, self.losses)
    }

    /// Posterior probability, from a uniform prior, that the first model wins more than half of the decisive rows; not
    /// an error guarantee.
    pub fn posterior_better(&self) -> f64 {
        evidence::posterior_better(self.wins, self.losses)
    }

    /// The share of wins to go by: that seen so far, by the rule of succession.
    fn rate(&self) -> f64 {
        (self.wins as f64 + 1.0) / (self.decisive() as f64 + 2.0)
    }

    /// How it stands after so many `more` decisive rows, if wins go on at the [rate](Self::rate) seen so far.
    fn foreseen(&self, more: u64) -> Paired {
        let wins = (more as f64 * self.rate()).round() as u64;
        Paired { wins: self.wins + wins, losses: self.losses + more - wins }
    }

    /// Decisive rows that are still missing until [`e_value`](Self::e_value) reaches `bound`, if wins go on at the rate
    /// seen so far (by the rule of succession); `None` if that is not foreseeable.
    pub fn missing(&self, bound: f64) -> Option<u64> {
        let reached = |more: u64| self.foreseen(more).e_value() >= bound;
        if reached(0) {
            return Some(0);
        }
        if self.rate() <= 0.5 || !reached(FORESEEABLE) {
            return None;
        }
        let (mut low, mut high) = (0, FORESEEABLE);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if reached(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }
}

/// Share of rows on which two models say different things; 0 without rows.
///
/// For values, a difference counts if it exceeds a twentieth of the standard deviation of the first model's values. Of
/// two unusable outputs neither differs from the other.
pub(crate) fn changed_share(target: &Target, first: &[f64], second: &[f64]) -> f64 {
    let width = target.output_width();
    let said =
        |outputs: &[f64]| -> Vec<_> { outputs.chunks_exact(width).map(|o| predicted_label(target, o)).collect() };
    let (first, second) = (said(first), said(second));
    let values: Vec<f64> = first.iter().flatten().map(|label| label.number()).collect();
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let differ = |pair: &(&Option<Label>, &Option<Label>)| match pair {
        (Some(Label::Value(a)), Some(Label::Value(b))) => (a - b).abs() > spread / 20.0,
        (a, b) => a != b,
    };
    first.iter().zip(&second).filter(differ).count() as f64 / first.len().max(1) as f64
}
