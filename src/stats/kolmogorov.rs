//! The distribution of the one-sample Kolmogorov–Smirnov statistic under its null.
//!
//! The choice of method by region follows Simard and L'Ecuyer (2011), "Computing the two-sided
//! Kolmogorov–Smirnov distribution", as SciPy does. Only the upper tail is offered.

use super::beta::ln_binomial_probability;
use std::f64::consts::PI;

/// Largest n whose one-sided sum of n terms is computed (some tens of milliseconds).
const SMIRNOV_MOST: u64 = 1_000_000;

/// P(D_n > d) of the two-sided statistic with `n` values; 1 for d ≤ 1/(2n) or NaN, 0 for d ≥ 1.
///
/// Agrees with SciPy to 1e-9 relative. Above n = 1,000,000 the tail is the corrected limit, good to
/// 1e-4 relative down to 1e-8.
pub(crate) fn kolmogorov_upper(n: u64, d: f64) -> f64 {
    if n == 0 || d.is_nan() || d <= 0.0 {
        return 1.0;
    }
    if d >= 1.0 {
        return 0.0;
    }
    let n_f = n as f64;
    let t = n_f * d;
    let upper = if t <= 0.5 {
        1.0
    } else if t <= 1.0 {
        // Ruben and Gambino (1982): n!·(2d − 1/n)^n
        let ln_lower = (1..=n.min(100_000)).map(|i| (i as f64 / n_f * (2.0 * t - 1.0)).ln()).sum::<f64>();
        1.0 - ln_lower.exp()
    } else if t >= n_f - 1.0 {
        2.0 * (n_f * (-d).ln_1p()).exp()
    } else if d >= 0.5 {
        2.0 * smirnov_upper(n, d)
    } else if n <= 140 {
        // beyond n·d² = 4 the two one-sided events practically exclude each other
        if t * d <= 4.0 { 1.0 - durbin_lower(n, d) } else { 2.0 * smirnov_upper(n, d) }
    } else if t * d >= 2.2 {
        if n > SMIRNOV_MOST { vrbik_upper(n_f, d) } else { 2.0 * smirnov_upper(n, d) }
    } else if n <= 10_000 && t * d.sqrt() <= 1.4 {
        // above n = 10,000 this costs too much, and 1 − P is below 1e-5 there
        1.0 - durbin_lower(n, d)
    } else {
        pelz_good_upper(n_f, d)
    };
    upper.clamp(0.0, 1.0)
}

/// P(√n·D_n > x) in the limit n → ∞ (Kolmogorov 1933).
pub(crate) fn kolmogorov_limit_upper(x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 1.0;
    }
    if x < 0.82 {
        // theta series of the lower tail
        let sum: f64 = (0..20).map(|k| (-f64::from(2 * k + 1).powi(2) * PI * PI / (8.0 * x * x)).exp()).sum();
        return 1.0 - (2.0 * PI).sqrt() / x * sum;
    }
    let sum: f64 = (1..20)
        .map(|k: i32| {
            let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
            sign * (-2.0 * f64::from(k).powi(2) * x * x).exp()
        })
        .sum();
    sum.clamp(0.0, 1.0)
}

/// P(D_n > d) by the limit at a corrected argument (Vrbik 2018), for large n.
fn vrbik_upper(n: f64, d: f64) -> f64 {
    let x = n.sqrt() * d;
    kolmogorov_limit_upper(x + 1.0 / (6.0 * n.sqrt()) + (x - 1.0) / (4.0 * n))
}

/// P(D_n⁺ ≥ d) of the one-sided statistic (Smirnov 1944; Birnbaum and Tingey 1951), a sum of
/// positive terms: d·Σ C(n, j)·(d + j/n)^(j−1)·(1 − d − j/n)^(n−j).
pub(crate) fn smirnov_upper(n: u64, d: f64) -> f64 {
    if n == 0 || d.is_nan() || d <= 0.0 {
        return 1.0;
    }
    if d >= 1.0 {
        return 0.0;
    }
    let n_f = n as f64;
    let mut sum = 0.0;
    for j in 0..n {
        let j_f = j as f64;
        let p = d + j_f / n_f;
        let q = (n_f - j_f) / n_f - d;
        if q <= 0.0 {
            break;
        }
        sum += d / p * ln_binomial_probability(j_f, n_f, p, q).exp();
    }
    sum.clamp(0.0, 1.0)
}

/// P(D_n ≤ d) by Durbin's matrix (Marsaglia, Tsang and Wang 2003).
///
/// Only one entry of the n-th power is needed, so a vector is multiplied n times.
fn durbin_lower(n: u64, d: f64) -> f64 {
    let n_f = n as f64;
    let t = n_f * d;
    let k = t.ceil() as usize;
    let h = k as f64 - t;
    let m = 2 * k - 1;
    let mut inverse_factorial = vec![1.0; m + 1];
    for i in 1..=m {
        inverse_factorial[i] = inverse_factorial[i - 1] / i as f64;
    }
    let mut matrix = vec![0.0; m * m];
    for row in 0..m {
        for column in 0..m.min(row + 2) {
            let order = row + 1 - column;
            let mut value = 1.0;
            if column == 0 {
                value -= h.powi(row as i32 + 1);
            }
            if row == m - 1 {
                value -= h.powi((m - column) as i32);
                if column == 0 && h > 0.5 {
                    value += (2.0 * h - 1.0).powi(m as i32);
                }
            }
            matrix[row * m + column] = value * inverse_factorial[order];
        }
    }
    let mut vector = vec![0.0; m];
    let mut next = vec![0.0; m];
    vector[k - 1] = 1.0;
    let mut ln_scale = 0.0;
    for step in 1..=n {
        for (value, row) in next.iter_mut().zip(matrix.chunks_exact(m)) {
            *value = row.iter().zip(&vector).map(|(a, b)| a * b).sum();
        }
        // the factor n!/nⁿ enters step by step; the largest entry is kept near 1
        let factor = step as f64 / n_f;
        let largest = next.iter().fold(0.0, |a: f64, &b| a.max(b * factor));
        if largest <= 0.0 {
            return 0.0;
        }
        let scale = if (1e-100..1e100).contains(&largest) { 1.0 } else { largest };
        ln_scale += scale.ln();
        for (value, new) in vector.iter_mut().zip(&next) {
            *value = new * factor / scale;
        }
    }
    if ln_scale == 0.0 { vector[k - 1] } else { (vector[k - 1].ln() + ln_scale).exp() }
}

/// P(D_n > d) by the expansion of Pelz and Good (1976) to order n^(−3/2).
fn pelz_good_upper(n: f64, d: f64) -> f64 {
    let z = n.sqrt() * d;
    let (z2, z4, z6, z8) = (z.powi(2), z.powi(4), z.powi(6), z.powi(8));
    let (pi2, pi4, pi6) = (PI.powi(2), PI.powi(4), PI.powi(6));
    let ln_q = -pi2 / 8.0 / z2;
    if ln_q < -708.0 {
        return 1.0;
    }
    let mut sums = [0.0; 4];
    let terms = (16.0 * z / PI).ceil() as i32;
    for k in (1..=terms).rev() {
        let m2 = f64::from(2 * k - 1).powi(2);
        let (m4, m6) = (m2 * m2, m2 * m2 * m2);
        let coefficients = [
            1.0,
            -z2 + pi2 / 4.0 * m2,
            6.0 * z6 + 2.0 * z4 + (2.0 * z4 - 5.0 * z2) * pi2 / 4.0 * m2 + pi4 * (1.0 - 2.0 * z2) / 16.0 * m4,
            -30.0 * z6 - 90.0 * z8
                + pi2 * (135.0 * z4 - 96.0 * z6) / 4.0 * m2
                + pi4 * (-60.0 * z2 + 212.0 * z4) / 16.0 * m4
                + pi6 * (5.0 - 30.0 * z2) / 64.0 * m6,
        ];
        let power = (ln_q * 8.0 * f64::from(k)).exp();
        for (sum, coefficient) in sums.iter_mut().zip(coefficients) {
            *sum = *sum * power + coefficient;
        }
    }
    let front = ln_q.exp() * (2.0 * PI).sqrt();
    let divisors = [z, 6.0 * z4, 72.0 * z.powi(7), 6480.0 * z.powi(10)];
    for (sum, divisor) in sums.iter_mut().zip(divisors) {
        *sum *= front / divisor;
    }
    let (mut extra2, mut extra3) = (0.0, 0.0);
    for k in (1..=terms).rev() {
        let k2 = f64::from(k).powi(2);
        let power = (-pi2 / 2.0 / z2 * k2).exp();
        extra2 += k2 * power;
        extra3 += (3.0 * z2 - pi2 * k2) * k2 * power;
    }
    let front = pi2 * (2.0 * PI).sqrt();
    sums[2] -= extra2 * front / (36.0 * z.powi(3));
    sums[3] += extra3 * front / (216.0 * z6);
    let root = n.sqrt();
    (1.0 - sums[0]) - sums[1] / root - sums[2] / n - sums[3] / (n * root)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, numbers};

    #[test]
    fn golden_distribution_matches_scipy() {
        let mut checked = 0;
        for case in cases("kolmogorov") {
            if case.outputs["sf"].is_null() {
                continue;
            }
            let expected = numbers(&case.outputs["sf"]);
            if let Some(n) = case.inputs["n"].as_u64() {
                let one_sided = case.outputs["smirnov_one_sided"].as_array();
                for (i, d) in numbers(&case.inputs["d"]).into_iter().enumerate() {
                    let what = format!("{} d {d}", case.name);
                    assert_close(kolmogorov_upper(n, d), expected[i], 1e-9, 1e-300, &what);
                    if let Some(e) = one_sided {
                        let e = crate::stats::golden::number(&e[i]);
                        assert_close(smirnov_upper(n, d), e, 1e-9, 1e-300, &what);
                    }
                    checked += 1;
                }
            } else {
                for (x, e) in numbers(&case.inputs["x"]).into_iter().zip(expected) {
                    assert_close(kolmogorov_limit_upper(x), e, 1e-11, 0.0, &case.name);
                    checked += 1;
                }
            }
        }
        assert!(checked > 0);
    }

    #[test]
    fn corrected_limit_continues_the_exact_tail() {
        let n = SMIRNOV_MOST;
        for d in [0.0015, 0.002, 0.003] {
            assert_close(vrbik_upper(n as f64, d), kolmogorov_upper(n, d), 1e-4, 0.0, "tail");
        }
        assert_eq!(kolmogorov_upper(1 << 40, 0.4), 0.0);
    }

    #[test]
    fn falls_with_the_statistic_across_all_regions() {
        for n in [1, 2, 7, 140, 141, 1000, 20_000] {
            let mut last = 1.0;
            for i in 0..=400 {
                let p = kolmogorov_upper(n, f64::from(i) / 400.0);
                assert!((0.0..=1.0).contains(&p));
                assert!(p <= last + 1e-9, "n {n}, d {i}/400: {p} after {last}");
                last = p;
            }
            assert_eq!(last, 0.0);
        }
    }
}
