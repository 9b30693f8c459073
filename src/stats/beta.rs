//! The binomial probability and the regularised incomplete beta function, to almost full precision.
//!
//! `statrs` stops its continued fraction after 140 steps and takes differences of log-gammas, which
//! costs digits from about n = 10,000 on; here both hold for any n that fits a window.

use std::f64::consts::PI;

/// ln n! − ln of Stirling's formula, for real `n` ≥ 0 (Loader 2000, "Fast and accurate computation
/// of binomial probabilities").
fn stirling_error(n: f64) -> f64 {
    if n < 16.0 {
        if n == 0.0 {
            return 0.0; // never used alone: callers treat 0 apart
        }
        return statrs::function::gamma::ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let nn = n * n;
    let series = 1.0 / 1680.0 - (1.0 / 1188.0 - (691.0 / 360_360.0 - 1.0 / 156.0 / nn) / nn) / nn;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - series / nn) / nn) / nn) / n
}

/// Deviance term x·ln(x/m) + m − x without cancellation (Loader 2000), for x > 0, m > 0.
fn deviance(x: f64, m: f64) -> f64 {
    if (x - m).abs() < 0.1 * (x + m) {
        let v = (x - m) / (x + m);
        let mut sum = (x - m) * v;
        let mut term = 2.0 * x * v;
        for j in 1..1000 {
            term *= v * v;
            let next = sum + term / f64::from(2 * j + 1);
            if next == sum {
                return next;
            }
            sum = next;
        }
        return sum;
    }
    x * (x / m).ln() + m - x
}

/// ln of C(n, k)·p^k·q^(n−k) for real 0 ≤ k ≤ n, p + q = 1 (Loader 2000).
///
/// `p` and `q` are both given so that a tiny one keeps its digits.
pub(crate) fn ln_binomial_probability(k: f64, n: f64, p: f64, q: f64) -> f64 {
    if p <= 0.0 {
        return if k == 0.0 { 0.0 } else { f64::NEG_INFINITY };
    }
    if q <= 0.0 {
        return if k == n { 0.0 } else { f64::NEG_INFINITY };
    }
    let ln_power = |base: f64, other: f64| {
        if base > 0.5 { (-other).ln_1p() } else { base.ln() }
    };
    if k == 0.0 {
        return n * ln_power(q, p);
    }
    if k == n {
        return n * ln_power(p, q);
    }
    let rest = n - k;
    stirling_error(n) - stirling_error(k) - stirling_error(rest) - deviance(k, n * p) - deviance(rest, n * q)
        + 0.5 * (n / (2.0 * PI * k * rest)).ln()
}

/// Both tails of the Beta(a, b) distribution at x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tails {
    /// ln P(Beta(a, b) ≤ x).
    pub(crate) ln_lower: f64,
    /// ln P(Beta(a, b) > x).
    pub(crate) ln_upper: f64,
}

/// Both tails of Beta(`a`, `b`) at `x`, with `y` = 1 − x; a, b > 0, 0 ≤ x ≤ 1.
///
/// Continued fraction by the modified Lentz method (Press et al. 2007, section 6.4); the smaller
/// tail keeps its relative precision.
pub(crate) fn beta_tails(a: f64, b: f64, x: f64, y: f64) -> Tails {
    if x <= 0.0 {
        return Tails { ln_lower: f64::NEG_INFINITY, ln_upper: 0.0 };
    }
    if y <= 0.0 {
        return Tails { ln_lower: 0.0, ln_upper: f64::NEG_INFINITY };
    }
    // x^a y^b / B(a, b) = ab/(a+b) · binomial probability of a in a+b
    let ln_front = (a * b / (a + b)).ln() + ln_binomial_probability(a, a + b, x, y);
    if x < (a + 1.0) / (a + b + 2.0) {
        let ln_lower = (ln_front - a.ln() + fraction(a, b, x).ln()).min(0.0);
        Tails { ln_lower, ln_upper: ln_complement(ln_lower) }
    } else {
        let ln_upper = (ln_front - b.ln() + fraction(b, a, y).ln()).min(0.0);
        Tails { ln_lower: ln_complement(ln_upper), ln_upper }
    }
}

/// ln(1 − e^value) for value ≤ 0.
fn ln_complement(value: f64) -> f64 {
    if value > -std::f64::consts::LN_2 { (-value.exp_m1()).ln() } else { (-value.exp()).ln_1p() }
}

/// Continued fraction of the incomplete beta function.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    // steps needed grow as sqrt(max(a, b)); the cap is only a safety net
    for step in 1..100_000_u32 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a - 1.0 + 2.0 * m) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 1.0 + 2.0 * m));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        let change = d * c;
        h *= change;
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

/// The x with P(Beta(a, b) ≤ x) = `probability`, for a, b > 0; clamps the probability to [0, 1].
///
/// Newton steps on the tail, kept inside a bracket by bisection.
pub(crate) fn beta_quantile(probability: f64, a: f64, b: f64) -> f64 {
    solve(probability, a, b, |tails| tails.ln_lower, 1.0)
}

/// The x with P(Beta(a, b) > x) = `probability`; precise for small probabilities.
pub(crate) fn beta_upper_quantile(probability: f64, a: f64, b: f64) -> f64 {
    solve(probability, a, b, |tails| tails.ln_upper, -1.0)
}

fn solve(probability: f64, a: f64, b: f64, ln_tail: impl Fn(Tails) -> f64, sign: f64) -> f64 {
    if probability.is_nan() {
        return f64::NAN;
    }
    if probability <= 0.0 || probability >= 1.0 {
        return if (probability <= 0.0) == (sign > 0.0) { 0.0 } else { 1.0 };
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = a / (a + b);
    for _ in 0..200 {
        let tail = ln_tail(beta_tails(a, b, x, 1.0 - x)).exp();
        let error = sign * (tail - probability); // rises with x
        if error == 0.0 {
            return x;
        }
        if error > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let ln_density =
            (a * b / (a + b)).ln() + ln_binomial_probability(a, a + b, x, 1.0 - x) - x.ln() - (1.0 - x).ln();
        let newton = x - error / ln_density.exp();
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        if (next - x).abs() <= 1e-16 * x || next == x {
            return next;
        }
        x = next;
    }
    x
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};
    use proptest::prelude::*;

    #[test]
    fn golden_tails_and_quantiles_match_scipy() {
        let mut checked = 0;
        for case in cases("special").iter().filter(|case| case.name.starts_with("beta_")) {
            let (a, b) = (number(&case.inputs["a"]), number(&case.inputs["b"]));
            for (x, expected) in numbers(&case.inputs["x"]).into_iter().zip(numbers(&case.outputs["cdf"])) {
                let found = beta_tails(a, b, x, 1.0 - x).ln_lower.exp();
                assert_close(found, expected, 1e-9, 1e-300, &format!("{} {x}", case.name));
            }
            for (q, expected) in numbers(&case.inputs["q"]).into_iter().zip(numbers(&case.outputs["ppf"])) {
                // near one the upper tail is the one with digits
                let found = if q < 0.5 { beta_quantile(q, a, b) } else { beta_upper_quantile(1.0 - q, a, b) };
                assert_close(found, expected, 1e-9, 1e-15, &format!("{} {q}", case.name));
                checked += 1;
            }
        }
        assert!(checked > 50);
    }

    #[test]
    fn binomial_probabilities_sum_to_one() {
        for (n, p) in [(1, 0.3), (20, 0.5), (1000, 0.01), (30_000, 0.7)] {
            let n_f = f64::from(n);
            let sum: f64 = (0..=n).map(|k| ln_binomial_probability(f64::from(k), n_f, p, 1.0 - p).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-12, "n {n}: {sum}");
        }
    }

    #[test]
    fn integer_parameters_agree_with_the_binomial_sum() {
        for (k, n, p) in [(3, 10, 0.2), (500, 1000, 0.49), (49_900, 100_000, 0.5)] {
            let (k_f, n_f) = (f64::from(k), f64::from(n));
            let upper: f64 = (k..=n).map(|i| ln_binomial_probability(f64::from(i), n_f, p, 1.0 - p).exp()).sum();
            let tails = beta_tails(k_f, n_f - k_f + 1.0, p, 1.0 - p);
            assert!((tails.ln_lower.exp() / upper - 1.0).abs() < 1e-11, "{k} of {n}");
        }
    }

    proptest! {
        #[test]
        fn quantile_inverts_the_tail(a in 0.5..3000.0_f64, b in 0.5..3000.0_f64, p in 1e-9..0.999_f64) {
            let x = beta_quantile(p, a, b);
            let back = beta_tails(a, b, x, 1.0 - x).ln_lower.exp();
            prop_assert!((back / p - 1.0).abs() < 1e-8, "{back} {p}");
            let mirrored = 1.0 - beta_upper_quantile(p, b, a);
            prop_assert!((mirrored - x).abs() < 1e-9);
        }
    }
}
