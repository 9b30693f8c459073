//! The Wasserstein-1 distance of two samples (Kantorovich 1942; Vallender 1974) and its permutation test.

use super::permutation::Compared;
use super::pooled::Pooled;
use super::quantile::quantile;

/// The exact distance of two samples in ascending order without NaN, in the unit of the values; 0 when a sample is empty.
///
/// The mean gap between the quantile functions: sums only positive terms, so that an offset costs no digits.
pub(crate) fn distance(sorted_reference: &[f64], sorted_window: &[f64]) -> f64 {
    let (n, m) = (sorted_reference.len() as u64, sorted_window.len() as u64);
    if n == 0 || m == 0 {
        return 0.0;
    }
    if n == m {
        let gaps = sorted_reference.iter().zip(sorted_window).map(|(x, y)| (x - y).abs());
        return gaps.sum::<f64>() / n as f64;
    }
    // probability in units of 1/(n·m): value i of the reference ends at (i + 1)·m, value j of the window at (j + 1)·n;
    // which of the two ends first depends on n and m alone, so that the processor can guess it
    let (mut x, mut y) = (sorted_reference.iter(), sorted_window.iter());
    let (Some(mut a), Some(mut b)) = (x.next(), y.next()) else { return 0.0 };
    let (mut left_a, mut left_b) = (m, n);
    let mut sum = 0.0;
    loop {
        let gap = (a - b).abs();
        let step = left_a.min(left_b);
        sum += gap * step as f64;
        left_a -= step;
        left_b -= step;
        if left_a == 0 {
            let Some(next) = x.next() else { break };
            (a, left_a) = (next, m);
        }
        if left_b == 0 {
            let Some(next) = y.next() else { break };
            (b, left_b) = (next, n);
        }
    }
    sum / (n as f64 * m as f64)
}

/// The permutation test of the distance: exact under ties, valid at every level from
/// [`SMALLEST_LEVEL`](super::permutation::SMALLEST_LEVEL) up.
///
/// The effect is the distance in units of `scale`, see [`scale`].
pub(crate) fn test(pooled: &Pooled, scale: f64, level: f64, seed: u64) -> Compared {
    let gaps: Vec<f64> = pooled.values.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (all, m) = ((pooled.n + pooled.m) as i64, pooled.m as i64);
    let unit = 1.0 / (pooled.n as f64 * pooled.m as f64);
    let statistic = |window: &[u32]| {
        // all·(share of the window below − share of all below)·m
        let mut lead = 0_i64;
        let mut sum = 0.0;
        for ((&gap, &here), &both) in gaps.iter().zip(window).zip(&pooled.counts) {
            lead += i64::from(here) * all - i64::from(both) * m;
            sum += lead.unsigned_abs() as f64 * gap;
        }
        sum * unit
    };
    let found = statistic(&pooled.window);
    let p_value = pooled.permutation_p(level, seed, statistic);
    Compared { statistic: found, p_value, effect: found / scale }
}

/// What a distance is measured by: the standard deviation of the reference, in ascending order; where it overflows, the
/// one that a normal distribution of its interquartile range would have. `None` for a constant or empty reference.
pub(crate) fn scale(sorted_reference: &[f64]) -> Option<f64> {
    let n = sorted_reference.len() as f64;
    let mean = sorted_reference.iter().map(|value| value / n).sum::<f64>();
    let variance = sorted_reference.iter().map(|value| (value - mean) * (value - mean) / n).sum::<f64>();
    Some(variance.sqrt()).filter(|sd| sd.is_finite() && *sd > 0.0).or_else(|| {
        // 1.349: the interquartile range of the standard normal distribution
        let range = quantile(sorted_reference, 0.75) - quantile(sorted_reference, 0.25);
        Some(range / 1.349).filter(|sd| sd.is_finite() && *sd > 0.0)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
