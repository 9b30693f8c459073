//! The two-sample two-sided Kolmogorov–Smirnov test (Kolmogorov 1933, Smirnov 1939).

use super::kolmogorov::kolmogorov_upper;

/// Largest n·m for which [`Method::Auto`] computes the exact p-value: some 10 ms at worst.
const EXACT_CELLS: u64 = 4_000_000;

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
/// at a nominal 5 % heavily tied data reject about 0.6 %.
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
    if exact { exact_p(n, m, d.min(1.0)) } else { asymptotic_p(n, m, d.min(1.0)) }
}

/// Upper tail of the one-sample distribution at the harmonic sample size.
fn asymptotic_p(n: u64, m: u64, d: f64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let size = (n * (m / (n + m))).round_ties_even();
    // at size 0 (n = m = 1) nothing is known
    if size < 1.0 { 1.0 } else { kolmogorov_upper(size as u64, d) }
}

/// Share of the lattice paths from (0, 0) to (n, m) that reach |x/n − y/m| ≥ d.
///
/// p(x, y) = (x·p(x−1, y) + y·p(x, y−1)) / (x + y), with p = 1 outside the band (the recursion of
/// Hodges 1958 on probabilities, as SciPy's `_compute_outer_prob_inside_method`): all terms are
/// positive, so the relative error stays near (n + m) rounding errors even for tiny p. Walks along
/// anti-diagonals, inside the band only; memory grows with the smaller sample.
fn exact_p(n: u64, m: u64, d: f64) -> f64 {
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
    for s in 1..=short + long {
        // inside the band: s·step_y − limit < x·(step_x + step_y) < s·step_y + limit
        let band_low = (s * step_y - limit).div_euclid(both) + 1;
        let band_high = (s * step_y + limit - 1).div_euclid(both);
        let low = band_low.max(s - long).max(0) as usize;
        let high = band_high.min(s).min(short);
        if high < low as i64 {
            return 1.0; // the band is closed: every path leaves it
        }
        let high = high as usize;
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
        if low > 0 {
            new[low - 1] = 1.0; // has just left the band, or is never read again
        }
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
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};

    /// |F − G| at one value.
    fn distance(x: &[f64], y: &[f64], at: f64) -> f64 {
        let share = |s: &[f64]| s.iter().filter(|&&v| v <= at).count() as f64 / s.len() as f64;
        (share(x) - share(y)).abs()
    }

    #[test]
    fn golden_two_sample_matches_scipy() {
        let mut checked = 0;
        for case in cases("ks_2samp") {
            if case.inputs["alternative"].as_str() != Some("two-sided") {
                continue;
            }
            let mut x = numbers(&case.inputs["x"]);
            let mut y = numbers(&case.inputs["y"]);
            x.sort_unstable_by(f64::total_cmp);
            y.sort_unstable_by(f64::total_cmp);
            let found = statistic(&x, &y);
            for (key, method) in [("exact", Method::Exact), ("asymp", Method::Asymptotic)] {
                let what = format!("{} {key}", case.name);
                let expected = &case.outputs[key];
                assert_close(found.d, number(&expected["statistic"]), 1e-13, 1e-15, &what);
                assert!((distance(&x, &y, found.location) - found.d).abs() < 1e-12, "{what}");
                let p = p_value(x.len() as u64, y.len() as u64, found.d, method);
                if !expected["pvalue"].is_null() {
                    assert_close(p, number(&expected["pvalue"]), 1e-9, 1e-300, &what);
                }
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    #[test]
    fn golden_p_values_match_scipy() {
        for case in cases("ks_2samp_pvalues") {
            let (n, m) = (case.inputs["n"].as_u64().unwrap(), case.inputs["m"].as_u64().unwrap());
            let d = number(&case.inputs["d"]);
            if case.outputs["exact_ok"].as_bool() != Some(false) {
                let p = p_value(n, m, d, Method::Exact);
                assert_close(p, number(&case.outputs["exact"]), 1e-9, 0.0, &case.name);
            }
            if !case.outputs["asymp"].is_null() {
                let p = p_value(n, m, d, Method::Asymptotic);
                assert_close(p, number(&case.outputs["asymp"]), 1e-9, 1e-300, &case.name);
            }
        }
    }

    #[test]
    fn exact_matches_the_count_of_all_orderings() {
        for (n, m) in [(1_u32, 1_u32), (2, 3), (4, 4), (5, 2), (6, 4)] {
            // every ordering of n + m values is a bit pattern with n ones
            let patterns: Vec<f64> = (0_u32..1 << (n + m))
                .filter(|bits| bits.count_ones() == n)
                .map(|bits| {
                    let split = |one: bool| -> Vec<f64> {
                        (0..n + m).filter(|i| (bits >> i & 1 == 1) == one).map(f64::from).collect()
                    };
                    statistic(&split(true), &split(false)).d
                })
                .collect();
            for &d in &patterns {
                let share = patterns.iter().filter(|&&e| e >= d - 1e-12).count() as f64;
                let p = p_value(n.into(), m.into(), d, Method::Exact);
                assert_close(p, share / patterns.len() as f64, 1e-13, 0.0, &format!("{n} {m} {d}"));
            }
        }
    }

    #[test]
    fn never_leaves_the_unit_interval() {
        for method in [Method::Auto, Method::Exact, Method::Asymptotic] {
            for (n, m) in [(0, 5), (1, 1), (1, 1000), (997, 1009), (3000, 10)] {
                for d in [f64::NAN, -1.0, 0.0, 1e-300, 0.01, 0.5, 1.0, 7.0, f64::INFINITY] {
                    let p = p_value(n, m, d, method);
                    assert!((0.0..=1.0).contains(&p), "{method:?} {n} {m} {d}: {p}");
                    assert!(d > 0.0 || p == 1.0);
                }
            }
        }
        assert!((0.0..=1.0).contains(&p_value(1 << 40, 1 << 40, 1e-7, Method::Auto)));
    }

    #[test]
    fn unexpected_nan_does_not_hang() {
        let nan = [f64::NAN, f64::NAN];
        assert_eq!(statistic(&nan, &nan).d, 0.0);
        assert!(statistic(&[1.0, 2.0, f64::NAN], &[1.5, f64::NAN]).d <= 1.0);
    }

    #[test]
    fn empty_samples_do_not_differ() {
        assert_eq!(statistic(&[], &[1.0]).d, 0.0);
        assert!(statistic(&[], &[]).location.is_nan());
    }
}
