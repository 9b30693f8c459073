//! Distances between two discrete distributions, and the test that calibrates them.

use super::permutation::{Arrangements, Compared};
use std::f64::consts::LN_2;

/// Kullback–Leibler divergence of `p` from `q` in nats (Kullback and Leibler 1951); infinite where `q` is 0 and `p` is not.
pub(crate) fn kullback_leibler(p: &[f64], q: &[f64]) -> f64 {
    sum(p, q, kullback_leibler_term)
}

/// Jensen–Shannon distance, 0 to 1: the root of the divergence in bits (Lin 1991; Endres and Schindelin 2003).
pub(crate) fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    jensen_shannon_distance(sum(p, q, jensen_shannon_term))
}

/// Hellinger distance, 0 to 1 (Hellinger 1909).
pub(crate) fn hellinger(p: &[f64], q: &[f64]) -> f64 {
    hellinger_distance(sum(p, q, hellinger_term))
}

/// Total variation distance, 0 to 1: half the summed absolute difference.
pub(crate) fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    (0.5 * sum(p, q, total_variation_term)).min(1.0)
}

/// Population stability index, the symmetric form of Kullback and Leibler (Jeffreys 1946); infinite where only one of the
/// two is 0.
pub(crate) fn psi(p: &[f64], q: &[f64]) -> f64 {
    sum(p, q, psi_term)
}

fn sum(p: &[f64], q: &[f64], term: fn(f64, f64) -> f64) -> f64 {
    p.iter().zip(q).map(|(&p, &q)| term(p, q)).sum()
}

fn kullback_leibler_term(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * (p / q).ln() } else { 0.0 }
}

fn jensen_shannon_term(p: f64, q: f64) -> f64 {
    let middle = 0.5 * (p + q);
    0.5 * (kullback_leibler_term(p, middle) + kullback_leibler_term(q, middle))
}

fn hellinger_term(p: f64, q: f64) -> f64 {
    let difference = p.sqrt() - q.sqrt();
    difference * difference
}

fn total_variation_term(p: f64, q: f64) -> f64 {
    (p - q).abs()
}

fn psi_term(p: f64, q: f64) -> f64 {
    if p == q { 0.0 } else { (q - p) * (q / p).ln() }
}

fn jensen_shannon_distance(nats: f64) -> f64 {
    (nats / LN_2).clamp(0.0, 1.0).sqrt()
}

fn hellinger_distance(squares: f64) -> f64 {
    (0.5 * squares).clamp(0.0, 1.0).sqrt()
}

/// A distance between the counts of two samples over the same cells.
///
/// Cells that are empty in both samples are left out. [`Psi`](Distance::Psi) and
/// [`KullbackLeibler`](Distance::KullbackLeibler) add half a count to every other cell, so that an empty one leaves them
/// finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// Population stability index; 0 upwards.
    Psi,
    /// Jensen–Shannon distance, 0 to 1.
    JensenShannon,
    /// Divergence of the window from the reference in nats; 0 upwards.
    KullbackLeibler,
    /// Hellinger distance, 0 to 1.
    Hellinger,
    /// Total variation distance, 0 to 1.
    TotalVariation,
}

impl Distance {
    /// The distance; `None` when a sample is empty. A missing tail of the shorter slice counts 0.
    pub(crate) fn between(self, reference: &[u64], window: &[u64]) -> Option<f64> {
        let cells = reference.len().max(window.len());
        let count = |counts: &[u64], cell: usize| counts.get(cell).copied().unwrap_or(0) as f64;
        let pairs = (0..cells).map(|cell| (count(reference, cell), count(window, cell)));
        let (n, m) = pairs.clone().fold((0.0, 0.0), |(n, m), (a, b)| (n + a, m + b));
        let filled = pairs.clone().filter(|&(a, b)| a + b > 0.0);
        (n > 0.0 && m > 0.0).then(|| self.of(filled.clone().count(), n, m, filled))
    }

    /// Over the counts of `cells` filled cells of samples of `n` and `m` values.
    fn of(self, cells: usize, n: f64, m: f64, counts: impl Iterator<Item = (f64, f64)>) -> f64 {
        let half = 0.5 * cells as f64;
        let (n_inverse, m_inverse) = (1.0 / n, 1.0 / m);
        let (n_smooth, m_smooth) = (1.0 / (n + half), 1.0 / (m + half));
        let shares = |(a, b): (f64, f64)| (a * n_inverse, b * m_inverse);
        let smooth = |(a, b): (f64, f64)| ((a + 0.5) * n_smooth, (b + 0.5) * m_smooth);
        match self {
            Distance::Psi => counts.map(smooth).map(|(p, q)| psi_term(p, q)).sum(),
            Distance::KullbackLeibler => {
                counts.map(smooth).map(|(p, q)| kullback_leibler_term(q, p)).sum::<f64>().max(0.0)
            }
            Distance::JensenShannon => {
                jensen_shannon_distance(counts.map(shares).map(|(p, q)| jensen_shannon_term(p, q)).sum())
            }
            Distance::Hellinger => hellinger_distance(counts.map(shares).map(|(p, q)| hellinger_term(p, q)).sum()),
            Distance::TotalVariation => {
                (0.5 * counts.map(shares).map(|(p, q)| total_variation_term(p, q)).sum::<f64>()).min(1.0)
            }
        }
    }
}

/// Tests whether two count vectors over the same cells come from one distribution, by a distance; the effect is the distance.
///
/// Given the pooled counts, the window's counts are multivariate hypergeometric under the null: the p-value is a sequential
/// Monte Carlo one over such draws, valid for all counts. It needs cells that were fixed without the counted values:
/// [`Bins::split`](super::bins::Bins::split).
///
/// `level` is where p must be able to get; below [`SMALLEST_LEVEL`](super::permutation::SMALLEST_LEVEL) it cannot. `None`
/// when a sample is empty or there are more than 2³² − 1 values.
pub(crate) fn binned_p_value(
    distance: Distance,
    reference: &[u64],
    window: &[u64],
    level: f64,
    seed: u64,
) -> Option<Compared> {
    let statistic = distance.between(reference, window)?;
    let (n, m) = (reference.iter().sum::<u64>(), window.iter().sum::<u64>());
    let cells = reference.len().max(window.len());
    let count = |counts: &[u64], cell: usize| counts.get(cell).copied().unwrap_or(0);
    let filled = (0..cells).map(|cell| (count(reference, cell), count(window, cell))).filter(|&(a, b)| a + b > 0);
    let narrow = |count: u64| u32::try_from(count).ok();
    let pooled: Vec<u32> = filled.clone().map(|(a, b)| narrow(a + b)).collect::<Option<_>>()?;
    let observed: Vec<u32> = filled.map(|(_, b)| narrow(b)).collect::<Option<_>>()?;
    let mut arrangements = Arrangements::new(pooled.clone(), m, seed)?;
    let p_value = arrangements.p_value(level, &observed, |window| {
        let counts = pooled.iter().zip(window).map(|(&all, &b)| (f64::from(all - b), f64::from(b)));
        distance.of(pooled.len(), n as f64, m as f64, counts)
    });
    Some(Compared { statistic, p_value, effect: statistic })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
