//! The exact test of McNemar.

use super::beta::beta_tails;

/// Two-sided p-value of the exact test of McNemar (1947): the chance that at least as uneven a split of the
/// `wins + losses` decisive rows comes of a fair coin; 1 without any.
///
/// It holds for a number of rows that was fixed beforehand: who looks again and again finds something. For that there is
/// the [e-value](super::evidence::paired_e_value).
pub(crate) fn p_value(wins: u64, losses: u64) -> f64 {
    let (few, all) = (wins.min(losses) as f64, (wins + losses) as f64);
    // P(Binomial(n, 1/2) ≤ k) = P(Beta(k + 1, n − k) > 1/2)
    let tail = |few: f64| beta_tails(few + 1.0, all - few, 0.5, 0.5).ln_upper.exp();
    if wins == losses { 1.0 } else { (2.0 * tail(few)).min(1.0) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number};

    #[test]
    fn golden_p_values_match_scipy() {
        let cases = cases("mcnemar_exact");
        assert!(cases.len() >= 8);
        for case in cases {
            let count = |key: &str| case.inputs[key].as_u64().unwrap();
            let expected = number(&case.outputs["exact_pvalue"]);
            assert_close(p_value(count("b"), count("c")), expected, 1e-11, 0.0, &case.name);
        }
    }
}
