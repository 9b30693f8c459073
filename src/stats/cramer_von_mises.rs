//! The two-sample Cramér–von Mises test (Anderson 1962).

use super::permutation::Compared;
use super::pooled::Pooled;
use std::f64::consts::PI;

/// Fewest values of the smaller sample for which the limit distribution is used instead of permutations.
pub(crate) const LIMIT: u64 = 50;

/// The test of two pooled samples.
///
/// The statistic is Anderson's T, by midranks under ties. The p-value is that of the limit distribution at the standardised
/// T (as SciPy's `asymptotic`) when both samples have at least 50 values and at most one pooled value in 20 repeats another;
/// else it is by permutation, valid under ties and for small samples, and cannot fall below what `level` asks for.
///
/// The effect is the root mean square of the difference of the two distribution functions, 0 to 0.58 (1/√3, disjoint samples
/// of many values).
pub(crate) fn test(pooled: &Pooled, level: f64, seed: u64) -> Compared {
    let (n, m) = (pooled.n, pooled.m);
    let (found, effect) = statistic_and_effect(pooled);
    let p_value = if n.min(m) >= LIMIT && !tied(pooled.values.len() as u64, n + m) {
        asymptotic_p(found, n, m)
    } else {
        pooled.permutation_p(level, seed, |window| statistic(&pooled.counts, window, n, m))
    };
    Compared { statistic: found, p_value, effect }
}

/// Does more than one value in 20 repeat another, if `distinct` of all are distinct?
pub(crate) fn tied(distinct: u64, all: u64) -> bool {
    all - distinct > all / 20
}

/// What [`test`] says of the samples, without the p-value.
pub(crate) fn statistic_and_effect(pooled: &Pooled) -> (f64, f64) {
    (statistic(&pooled.counts, &pooled.window, pooled.n, pooled.m), effect(pooled))
}

fn effect(pooled: &Pooled) -> f64 {
    let (n, m) = (pooled.n as f64, pooled.m as f64);
    let (mut first, mut second, mut sum) = (0.0, 0.0, 0.0);
    for (&all, &b) in pooled.counts.iter().zip(&pooled.window) {
        first += f64::from(all - b) / n;
        second += f64::from(b) / m;
        sum += f64::from(all) * (first - second) * (first - second);
    }
    (sum / (n + m)).sqrt()
}

/// Anderson's T of the second sample's counts `window` per distinct value among `counts`.
///
/// With midranks the squared rank differences of a block of ties sum in closed form.
fn statistic(counts: &[u32], window: &[u32], n: u64, m: u64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let (mut first, mut second) = (0.0, 0.0); // values of either sample before the block
    let (mut sum_first, mut sum_second) = (0.0, 0.0);
    for (&all, &b) in counts.iter().zip(window) {
        let (a, b) = (f64::from(all - b), f64::from(b));
        let (middle_first, middle_second) = (first + 0.5 * a, second + 0.5 * b);
        sum_first += a * middle_second * middle_second + a * (a * a - 1.0) / 12.0;
        sum_second += b * middle_first * middle_first + b * (b * b - 1.0) / 12.0;
        first += a;
        second += b;
    }
    (sum_first / m + sum_second / n) / (n + m) - (4.0 * n * m - 1.0) / (6.0 * (n + m))
}

/// Upper tail of T, standardised by its mean and variance without ties (Anderson 1962).
fn asymptotic_p(statistic: f64, n: u64, m: u64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let all = n + m;
    let mean = (1.0 + 1.0 / all) / 6.0;
    let variance =
        (all + 1.0) * (4.0 * n * m * all - 3.0 * (n * n + m * m) - 2.0 * n * m) / (45.0 * all * all * 4.0 * n * m);
    limit_upper(1.0 / 6.0 + (statistic - mean) / (45.0 * variance).sqrt())
}

/// Nodes of the quadrature over one half-period.
const NODES: usize = 64;

/// P(ω² > x) of the limit distribution, by Smirnov's alternating sum of integrals (Anderson and Darling 1952); all digits of
/// a small tail are kept.
fn limit_upper(x: f64) -> f64 {
    if x.is_nan() || x < 0.003 {
        return 1.0; // the lower tail is below 1e-16
    }
    // (2/π)·Σ (−1)^(j+1) ∫ exp(−x·u²/2) / √(−u·sin u) du over u from (2j−1)π to 2jπ; with u = (2j−1)π + π(1−cos θ)/2 the
    // roots at both ends cancel and the midpoint rule converges geometrically
    let (mut sum, mut sign) = (0.0, 1.0);
    for j in 1..200_u32 {
        let start = f64::from(2 * j - 1) * PI;
        if 0.5 * x * start * start > 745.0 {
            break;
        }
        let mut part = 0.0;
        for node in 0..NODES {
            let theta = PI * (node as f64 + 0.5) / NODES as f64;
            let v = PI * (0.5 * theta).sin().powi(2);
            // sin v, near v = π by the distance from there
            let sine = v.min(PI * (0.5 * theta).cos().powi(2)).sin();
            let u = start + v;
            part += (-0.5 * x * u * u).exp() * theta.sin() / (u * sine).sqrt();
        }
        let part = part * (0.5 * PI) * PI / NODES as f64;
        sum += sign * part;
        sign = -sign;
        if part < sum.abs() * 1e-17 {
            break;
        }
    }
    (2.0 / PI * sum).clamp(0.0, 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
