//! The two-sample two-sided Kolmogorov–Smirnov test (Kolmogorov 1933, Smirnov 1939).

use super::kolmogorov::kolmogorov_upper;
#[cfg(test)]
use super::permutation::Compared;
use super::permutation::{Arrangements, MonteCarlo};
use super::pooled::Pooled;

/// Largest n·m for which [`Method::Auto`] computes the exact p-value: some 10 ms at worst.
const EXACT_CELLS: u64 = 4_000_000;

/// Largest n·m for which [`p_value_with_ties`] is exact: the band of paths is narrow unless the samples differ clearly, then it
/// takes some 20 ms at worst.
pub(crate) const EXACT_TIED_CELLS: u64 = 40_000_000;

/// The largest distance between two empirical distribution functions.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KsStatistic {
    /// The distance, 0 to 1; 0 when a sample is empty.
    pub(crate) d: f64,
    /// A value of either sample at which the distance is reached; NaN when a sample is empty.
    pub(crate) location: f64,
}

#[cfg(test)]
impl KsStatistic {
    /// Nothing to compare.
    pub(crate) const EMPTY: Self = Self { d: 0.0, location: f64::NAN };
}

/// How a p-value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Exact while n·m ≤ 4,000,000, else asymptotic. (The rule ignores d, so that p never rises
    /// with d.)
    Auto,
    /// Exact for continuous data; conservative under ties. (Asymptotic above 2³⁰ values.)
    #[cfg(test)]
    Exact,
    /// The one-sample distribution at n·m / (n + m) values, rounded (as SciPy's `asymp`).
    Asymptotic,
}

/// The statistic of two samples sorted in ascending order, without NaN; infinities are values.
///
/// Ties within and between the samples count once each side has passed them. The plain form that the window is tested
/// against.
#[cfg(test)]
pub(crate) fn statistic(sorted_reference: &[f64], sorted_window: &[f64]) -> KsStatistic {
    let (n, m) = (sorted_reference.len(), sorted_window.len());
    if n == 0 || m == 0 {
        return KsStatistic::EMPTY;
    }
    let (mut i, mut j) = (0, 0);
    let (mut largest, mut location) = (0, sorted_reference[0].min(sorted_window[0]));
    while i < n && j < m {
        let value = sorted_reference[i].min(sorted_window[j]);
        if value.is_nan() {
            break; // a broken promise must not hang
        }
        while i < n && sorted_reference[i] <= value {
            i += 1;
        }
        while j < m && sorted_window[j] <= value {
            j += 1;
        }
        // |i/n − j/m| in whole numbers, so that equal distances compare equal
        let distance = (i as u128 * m as u128).abs_diff(j as u128 * n as u128);
        if distance > largest {
            (largest, location) = (distance, value);
        }
    }
    KsStatistic { d: largest as f64 / (n as f64 * m as f64), location }
}

/// P(D ≥ d) for two samples of `n` and `m` values from one continuous distribution.
///
/// Always in [0, 1]; 1 when d ≤ 0, d is NaN or a sample is empty. Under ties it is conservative:
/// at a nominal 5 % heavily tied data reject about 0.6 %; then use [`p_value_with_ties`].
pub(crate) fn p_value(n: u64, m: u64, d: f64, method: Method) -> f64 {
    if n == 0 || m == 0 || d.is_nan() || d <= 0.0 {
        return 1.0;
    }
    let exact = match method {
        #[cfg(test)]
        // beyond this the walk may take hours and its whole numbers could overflow
        Method::Exact => n.max(m) <= 1 << 30,
        Method::Asymptotic => false,
        Method::Auto => n.saturating_mul(m) <= EXACT_CELLS,
    };
    if exact {
        exact_p(n, m, d.min(1.0), std::iter::repeat_n(1, (n + m) as usize))
    } else {
        asymptotic_p(n, m, d.min(1.0))
    }
}

/// P(D ≥ d) given the tie structure: `counts` holds how often each distinct value occurs in both samples together, in the
/// order of the values; every arrangement of the pooled values over samples of `n` and `m` is equally likely.
///
/// Exact while n·m ≤ 40,000,000 (Schröer and Trenkler 1995), else by permutation, which cannot fall below what `level`
/// asks for; without ties as [`p_value`]. Always in [0, 1]; 1 when d ≤ 0, d is NaN, a sample is empty, or the counts do not
/// sum to n + m.
pub(crate) fn p_value_with_ties(counts: &[u32], n: u64, m: u64, d: f64, level: f64, seed: u64) -> f64 {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if n == 0 || m == 0 || d.is_nan() || d <= 0.0 || total != n.saturating_add(m) {
        return 1.0;
    }
    if counts.iter().all(|&count| count <= 1) {
        p_value(n, m, d, Method::Auto)
    } else if n.saturating_mul(m) <= EXACT_TIED_CELLS {
        exact_p(n, m, d.min(1.0), counts.iter().copied())
    } else {
        permutation_p(counts, n, m, d, level, seed)
    }
}

/// The distance D of two pooled samples.
pub(crate) fn distance(pooled: &Pooled) -> f64 {
    let (n, m) = (pooled.n, pooled.m);
    largest_lead(&pooled.counts, &pooled.window, n, m) as f64 / (n as f64 * m as f64)
}

/// The test of two pooled samples; the effect is the distance D itself.
#[cfg(test)]
pub(crate) fn test(pooled: &Pooled, level: f64, seed: u64) -> Compared {
    let d = distance(pooled);
    let p_value = p_value_with_ties(&pooled.counts, pooled.n, pooled.m, d, level, seed);
    Compared { statistic: d, p_value, effect: d }
}

/// n·m·D of the second sample's counts `window` among the pooled `counts`.
fn largest_lead(counts: &[u32], window: &[u32], n: u64, m: u64) -> u64 {
    let (all, m) = ((n + m) as i64, m as i64);
    let mut lead = 0_i64;
    let leads = counts.iter().zip(window).map(|(&both, &here)| {
        lead += i64::from(here) * all - i64::from(both) * m;
        lead.unsigned_abs()
    });
    leads.max().unwrap_or(0)
}

fn permutation_p(counts: &[u32], n: u64, m: u64, d: f64, level: f64, seed: u64) -> f64 {
    let Some(mut arrangements) = Arrangements::new(counts.to_vec(), m, seed) else {
        return p_value(n, m, d, Method::Asymptotic); // beyond 2³² values
    };
    // distances are whole multiples of 1/(n·m)
    let observed = (d * (n as f64 * m as f64)).round();
    MonteCarlo::for_level(level).p_value(observed, || largest_lead(counts, arrangements.draw(), n, m) as f64)
}

/// Upper tail of the one-sample distribution at the harmonic sample size.
fn asymptotic_p(n: u64, m: u64, d: f64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let size = (n * (m / (n + m))).round_ties_even();
    // at size 0 (n = m = 1) nothing is known
    if size < 1.0 { 1.0 } else { kolmogorov_upper(size as u64, d) }
}

/// Share of the lattice paths from (0, 0) to (n, m) that reach |x/n − y/m| ≥ d at the end of a block of ties, given the sizes
/// of the blocks.
///
/// p(x, y) = (x·p(x−1, y) + y·p(x, y−1)) / (x + y), with p = 1 outside the band (the recursion of
/// Hodges 1958 on probabilities, as SciPy's `_compute_outer_prob_inside_method`): all terms are
/// positive, so the relative error stays near (n + m) rounding errors even for tiny p. Walks along
/// anti-diagonals, inside the band only; memory grows with the smaller sample. Inside a block a path may
/// leave the band and come back: there the band only widens by what is within reach.
fn exact_p(n: u64, m: u64, d: f64, blocks: impl Iterator<Item = u32>) -> f64 {
    let (short, long) = (n.min(m), n.max(m));
    let divisor = greatest_common_divisor(short, long);
    // a path at (x, y), x ≤ short, y ≤ long, is outside when |x·step_x − y·step_y| ≥ limit
    let (step_x, step_y) = ((long / divisor) as i64, (short / divisor) as i64);
    let limit = (d * (short as f64 * (long / divisor) as f64)).round() as i64;
    if limit <= 0 {
        return 1.0;
    }
    let (short, long) = (short as i64, long as i64);
    let index: Vec<f64> = (0..=short).map(|x| x as f64).collect();
    let mut old = vec![1.0_f64; index.len() + 1];
    let mut new = old.clone();
    old[0] = 0.0;
    let both = step_x + step_y;
    let (mut s, mut low, mut high) = (0_i64, 0_usize, 0_usize);
    for left_in_block in blocks.flat_map(|block| (0..block).rev()) {
        s += 1;
        low = low.max((s - long).max(0) as usize);
        high = (high + 1).min(short as usize);
        if left_in_block == 0 {
            // inside the band: s·step_y − limit < x·(step_x + step_y) < s·step_y + limit
            let band_low = (s * step_y - limit).div_euclid(both) + 1;
            let band_high = (s * step_y + limit - 1).div_euclid(both);
            if band_high.min(high as i64) < band_low.max(low as i64) {
                return 1.0; // the band is closed: every path leaves it
            }
            (low, high) = (low.max(band_low.max(0) as usize), high.min(band_high as usize));
        }
        let s_f = s as f64;
        let inverse = 1.0 / s_f;
        if low == 0 {
            new[0] = old[0];
        }
        let first = low.max(1);
        if first <= high {
            let cells = new[first..=high].iter_mut().zip(&index[first..=high]);
            for ((cell, &x), (&left, &below)) in cells.zip(old[first - 1..high].iter().zip(&old[first..=high])) {
                *cell = (x * left + (s_f - x) * below) * inverse;
            }
        }
        // what lies beside the row has left the band, or is never read again
        if low > 0 {
            new[low - 1] = 1.0;
        }
        new[high + 1] = 1.0;
        std::mem::swap(&mut old, &mut new);
    }
    old[short as usize].clamp(0.0, 1.0)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
