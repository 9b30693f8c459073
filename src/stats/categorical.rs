//! Two-sample comparison of category counts: Pearson's chi-square and the likelihood ratio.

use statrs::function::gamma::checked_gamma_ur;

/// Result of a two-sample chi-square test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Homogeneity {
    /// Pearson's statistic, without Yates's correction.
    pub(crate) statistic: f64,
    /// Degrees of freedom: levels present − 1.
    pub(crate) degrees_of_freedom: usize,
    /// Upper tail of the chi-square distribution: an approximation that needs about 5 expected
    /// counts per cell.
    pub(crate) p_value: f64,
    /// Effect size: half the summed absolute difference of the shares, 0 (same) to 1 (disjoint).
    pub(crate) total_variation: f64,
}

/// Tests whether two count vectors over the same levels come from one distribution (Pearson 1900).
///
/// Levels empty in both are dropped; a level beyond the end of the shorter vector counts 0 there.
/// `None` when a sample is empty or fewer than two levels are left: then nothing can be compared.
pub(crate) fn homogeneity(reference: &[u64], window: &[u64]) -> Option<Homogeneity> {
    let levels = reference.len().max(window.len());
    let count = |counts: &[u64], i: usize| counts.get(i).copied().unwrap_or(0) as f64;
    let n: f64 = (0..levels).map(|i| count(reference, i)).sum();
    let m: f64 = (0..levels).map(|i| count(window, i)).sum();
    if n == 0.0 || m == 0.0 {
        return None;
    }
    let (mut present, mut statistic, mut variation) = (0_usize, 0.0, 0.0);
    for i in 0..levels {
        let (a, b) = (count(reference, i), count(window, i));
        if a + b == 0.0 {
            continue;
        }
        present += 1;
        variation += (a / n - b / m).abs();
        // both cells of a level: (a·m − b·n)² / (n·m·(a + b))
        let difference = a * m - b * n;
        statistic += difference / n * (difference / m) / (a + b);
    }
    if present < 2 {
        return None;
    }
    Some(Homogeneity {
        statistic,
        degrees_of_freedom: present - 1,
        p_value: chi_square_upper(statistic, present - 1),
        total_variation: (0.5 * variation).min(1.0),
    })
}

/// The likelihood-ratio statistic G of the same comparison (Wilks 1938); its p-value is the upper tail of the same chi-square
/// distribution, under the same condition of enough counts. `None` as for [`homogeneity`].
pub(crate) fn likelihood_ratio(reference: &[u64], window: &[u64]) -> Option<Homogeneity> {
    let pearson = homogeneity(reference, window)?;
    let (n, m) = (reference.iter().sum::<u64>() as f64, window.iter().sum::<u64>() as f64);
    let levels = reference.len().max(window.len());
    let count = |counts: &[u64], i: usize| counts.get(i).copied().unwrap_or(0) as f64;
    let term = |found: f64, expected: f64| if found > 0.0 { found * (found / expected).ln() } else { 0.0 };
    let sum: f64 = (0..levels)
        .map(|i| {
            let (a, b) = (count(reference, i), count(window, i));
            let share = (a + b) / (n + m);
            term(a, n * share) + term(b, m * share)
        })
        .sum();
    let statistic = (2.0 * sum).max(0.0);
    Some(Homogeneity { statistic, p_value: chi_square_upper(statistic, pearson.degrees_of_freedom), ..pearson })
}

/// Cramér's V of two samples of `total` values together (Cramér 1946), 0 to 1: the effect size that belongs to Pearson's
/// statistic.
pub(crate) fn cramers_v(pearson: f64, total: u64) -> f64 {
    (pearson / total.max(1) as f64).clamp(0.0, 1.0).sqrt()
}

/// P(chi-square with the given degrees of freedom > statistic); 1 at or below 0.
pub(crate) fn chi_square_upper(statistic: f64, degrees_of_freedom: usize) -> f64 {
    if statistic <= 0.0 || degrees_of_freedom == 0 {
        return 1.0;
    }
    // the function refuses an infinite argument, whose tail is 0
    checked_gamma_ur(0.5 * degrees_of_freedom as f64, 0.5 * statistic).unwrap_or(0.0).clamp(0.0, 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};

    #[test]
    fn golden_tables_match_scipy() {
        let mut checked = 0;
        for case in cases("chi2_contingency") {
            let Some(table) = case.inputs["table"].as_array().filter(|t| t.len() == 2) else {
                continue;
            };
            let counts =
                |i: usize| -> Vec<u64> { table[i].as_array().unwrap().iter().map(|c| c.as_u64().unwrap()).collect() };
            let found = homogeneity(&counts(0), &counts(1)).unwrap();
            let expected = &case.outputs["pearson_correction_False"];
            assert_close(found.statistic, number(&expected["statistic"]), 1e-11, 0.0, &case.name);
            assert_close(found.p_value, number(&expected["pvalue"]), 1e-9, 0.0, &case.name);
            assert_eq!(Some(found.degrees_of_freedom as u64), expected["dof"].as_u64());
            let total = counts(0).iter().chain(&counts(1)).sum();
            assert_close(
                cramers_v(found.statistic, total),
                number(&case.outputs["cramers_v"]),
                1e-11,
                1e-15,
                &case.name,
            );
            let ratio = likelihood_ratio(&counts(0), &counts(1)).unwrap();
            let expected = &case.outputs["log-likelihood_correction_False"];
            assert_close(ratio.statistic, number(&expected["statistic"]), 1e-11, 1e-12, &case.name);
            assert_close(ratio.p_value, number(&expected["pvalue"]), 1e-9, 0.0, &case.name);
            checked += 1;
        }
        assert!(checked > 0);
    }

    #[test]
    fn levels_empty_in_both_change_nothing() {
        let dense = homogeneity(&[10, 20, 5], &[7, 9, 11]);
        assert_eq!(homogeneity(&[10, 0, 20, 5, 0], &[7, 0, 9, 11]), dense);
    }

    #[test]
    fn golden_tails_match_scipy() {
        let mut checked = 0;
        for case in cases("special").iter().filter(|case| case.name.starts_with("chi2_")) {
            let freedom = number(&case.inputs["df"]) as usize;
            for (x, expected) in numbers(&case.inputs["x"]).into_iter().zip(numbers(&case.outputs["sf"])) {
                assert_close(chi_square_upper(x, freedom), expected, 1e-9, 1e-290, &format!("{} {x}", case.name));
                checked += 1;
            }
        }
        assert!(checked > 100);
    }

    #[test]
    fn degenerate_counts_are_not_compared() {
        assert_eq!(homogeneity(&[], &[]), None);
        assert_eq!(homogeneity(&[0, 0], &[3, 4]), None);
        assert_eq!(homogeneity(&[9, 0], &[4, 0]), None);
    }

    #[test]
    fn disjoint_samples_have_total_variation_one() {
        let found = homogeneity(&[50, 0], &[0, 70]).unwrap();
        assert_eq!(found.total_variation, 1.0);
        assert!((found.statistic - 120.0).abs() < 1e-9);
        assert_eq!(chi_square_upper(f64::INFINITY, 3), 0.0);
    }
}
