//! Confidence intervals of a proportion.

use super::beta::{beta_quantile, beta_upper_quantile};

/// A confidence interval inside [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

/// Two-sided interval for the probability behind `k` successes in `n` trials at confidence `level`
/// (Clopper and Pearson 1934); [0, 1] when n = 0. `k` above `n` counts as `n`.
pub(crate) fn interval(k: u64, n: u64, level: f64) -> Interval {
    let one_sided = 1.0 - (1.0 - level) / 2.0;
    Interval { low: lower(k, n, one_sided), high: upper(k, n, one_sided) }
}

/// One-sided upper limit: the true probability is below it with at least `confidence`
/// (Clopper and Pearson 1934); 1 when k = n.
pub(crate) fn upper(k: u64, n: u64, confidence: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    beta_upper_quantile(1.0 - confidence, k as f64 + 1.0, (n - k) as f64)
}

/// One-sided lower limit: the true probability is above it with at least `confidence`
/// (Clopper and Pearson 1934); 0 when k = 0.
pub(crate) fn lower(k: u64, n: u64, confidence: f64) -> f64 {
    let k = k.min(n);
    if k == 0 {
        return 0.0;
    }
    beta_quantile(1.0 - confidence, k as f64, (n - k) as f64 + 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number};

    #[test]
    fn golden_intervals_match_scipy() {
        let mut checked = 0;
        for case in cases("binomial_ci") {
            let (k, n) = (case.inputs["k"].as_u64().unwrap(), case.inputs["n"].as_u64().unwrap());
            for (key, expected) in case.outputs.as_object().unwrap() {
                let (method, level) = key.split_once('_').unwrap();
                let level: f64 = level.parse().unwrap();
                let found = match method {
                    "exact" => interval(k, n, level),
                    _ => continue,
                };
                let what = format!("{} {key}", case.name);
                assert_close(found.low, number(&expected["low"]), 1e-9, 1e-15, &what);
                assert_close(found.high, number(&expected["high"]), 1e-9, 1e-15, &what);
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    #[test]
    fn rule_of_three_needs_149_clean_rows_for_two_percent() {
        assert!(upper(0, 149, 0.95) < 0.02);
        assert!(upper(0, 148, 0.95) > 0.02);
    }

    #[test]
    fn no_trials_leave_the_whole_range() {
        assert_eq!(interval(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
    }
}
