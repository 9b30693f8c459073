//! Adjusted p-values of several tests.
//!
//! A test is rejected at level α when its adjusted p-value is at most α. A p-value that is NaN (a test that was not computed)
//! counts as 1: it takes part in the number of tests.

/// How the level is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adjustment {
    /// Chance of any false rejection (Bonferroni; Dunn 1961), whatever the dependence.
    Bonferroni,
    /// The same, uniformly more powerful (Holm 1979).
    Holm,
    /// Expected share of false rejections among all (Benjamini and Hochberg 1995), for independent or positively dependent tests.
    BenjaminiHochberg,
    /// The same under any dependence (Benjamini and Yekutieli 2001).
    BenjaminiYekutieli,
}

/// The adjusted p-values, in the order given, each in [0, 1].
pub(crate) fn adjust(p_values: &[f64], adjustment: Adjustment) -> Vec<f64> {
    let tests = p_values.len() as f64;
    let clean = |p: f64| if p.is_nan() { 1.0 } else { p.clamp(0.0, 1.0) };
    if adjustment == Adjustment::Bonferroni {
        return p_values.iter().map(|&p| (clean(p) * tests).min(1.0)).collect();
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| clean(p_values[a]).total_cmp(&clean(p_values[b])));
    let mut adjusted = vec![1.0; p_values.len()];
    if adjustment == Adjustment::Holm {
        let mut largest = 0.0_f64;
        for (rank, &at) in order.iter().enumerate() {
            largest = largest.max((clean(p_values[at]) * (tests - rank as f64)).min(1.0));
            adjusted[at] = largest;
        }
    } else {
        let harmonic = (1..=p_values.len()).map(|i| 1.0 / i as f64).sum::<f64>();
        let penalty = if adjustment == Adjustment::BenjaminiYekutieli { harmonic } else { 1.0 };
        let mut smallest = 1.0_f64;
        for (rank, &at) in order.iter().enumerate().rev() {
            smallest = smallest.min(clean(p_values[at]) * tests * penalty / (rank as f64 + 1.0));
            adjusted[at] = smallest;
        }
    }
    adjusted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, numbers};
    use Adjustment::{BenjaminiHochberg, BenjaminiYekutieli, Bonferroni, Holm};
    use proptest::prelude::*;

    #[test]
    fn golden_adjustments_match_scipy_and_statsmodels() {
        let mut checked = 0;
        for case in
            cases("fdr").into_iter().chain(cases("statsmodels").into_iter().filter(|c| c.name == "multipletests"))
        {
            let p = numbers(&case.inputs["p"]);
            let keys = [
                (["bh", "fdr_bh"], BenjaminiHochberg),
                (["by", "fdr_by"], BenjaminiYekutieli),
                (["bonferroni", "bonferroni"], Bonferroni),
                (["holm", "holm"], Holm),
            ];
            for (names, adjustment) in keys {
                let Some(expected) = names.iter().find_map(|&name| case.outputs.get(name)) else { continue };
                for (found, expected) in adjust(&p, adjustment).into_iter().zip(numbers(expected)) {
                    assert_close(found, expected, 1e-12, 0.0, &format!("{} {adjustment:?}", case.name));
                }
                checked += 1;
            }
        }
        assert!(checked >= 24, "{checked}");
    }

    #[test]
    fn tests_not_computed_are_never_rejected_but_counted() {
        for adjustment in [Bonferroni, Holm, BenjaminiHochberg, BenjaminiYekutieli] {
            let found = adjust(&[f64::NAN, 0.01], adjustment);
            assert!(found[0] == 1.0 && found[1] >= 0.02, "{found:?}");
            assert!(adjust(&[], adjustment).is_empty());
        }
    }

    proptest! {
        #[test]
        fn keep_the_order_and_rank_by_strictness(p in prop::collection::vec(0.0..=1.0_f64, 1..30)) {
            let [bonferroni, holm, bh, by] =
                [Bonferroni, Holm, BenjaminiHochberg, BenjaminiYekutieli].map(|a| adjust(&p, a));
            for i in 0..p.len() {
                prop_assert!(bonferroni[i] >= holm[i] && holm[i] >= p[i]);
                prop_assert!(holm[i] >= bh[i] - 1e-15 && by[i] >= bh[i] && bh[i] >= p[i] - 1e-15);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || (holm[i] <= holm[j] && bh[i] <= bh[j]));
                }
            }
        }
    }
}
