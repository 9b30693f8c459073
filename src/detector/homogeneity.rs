//! Two-sample tests of counts that hold their level where counts are small: plain functions.

use statrs::function::factorial::ln_binomial;

use crate::stats::categorical::Homogeneity;

/// Fewest expected counts of a cell that the chi-square approximation may rest on. At 5 the tail beyond 1e-4 is
/// several times too light (Poisson(5) reaches the critical count in 7e-4 of the cases).
const EXPECTED: f64 = 20.0;

/// Two-sided exact test of one share in two samples: `k` of `n` against `l` of `m` (Fisher 1922), the smaller tail
/// doubled. 1 when a sample is empty or the share is 0 or 1 in both.
pub(super) fn fisher(k: u64, n: u64, l: u64, m: u64) -> f64 {
    let (marked, all) = (k + l, n + m);
    if n == 0 || m == 0 || marked == 0 || marked >= all {
        return 1.0;
    }
    let first = (ln_binomial(marked, l) + ln_binomial(all - marked, m - l) - ln_binomial(all, m)).exp();
    let (marked_f, m_f, rest) = (marked as f64, m as f64, (all - marked) as f64 - m as f64);
    let above = l as f64 * all as f64 >= marked_f * m_f;
    let (mut x, mut term, mut tail) = (l as f64, first, first);
    // away from the mean the terms fall, so that the sum may stop early
    loop {
        term *= if above {
            (marked_f - x) * (m_f - x) / ((x + 1.0) * (rest + x + 1.0))
        } else {
            x * (rest + x) / ((marked_f - x + 1.0) * (m_f - x + 1.0))
        };
        x += if above { 1.0 } else { -1.0 };
        if term <= tail * 1e-17 || term.is_nan() {
            return (2.0 * tail).clamp(0.0, 1.0);
        }
        tail += term;
    }
}

/// Two samples of levels compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Levels {
    /// The statistic of the diffuse test over all levels.
    pub(super) statistic: f64,
    /// Half the summed absolute difference of the shares.
    pub(super) total_variation: f64,
    /// See [`levels`].
    pub(super) p_value: f64,
}

/// Tests whether two count vectors over the same levels come from one distribution; `None` if there is nothing to compare.
///
/// Twice the smaller of two p-values: a `diffuse` test (Pearson's chi-square 1900, or G) over the levels with at least 20
/// expected counts in both samples, the others pooled; and the exact test of each level for itself, times their number (Bonferroni).
/// The first sees a diffuse change, the second a rare or new level. The p-value is 1 without being computed where the total
/// variation is below `minimum_effect`.
pub(super) fn levels(
    reference: &[u64],
    window: &[u64],
    minimum_effect: f64,
    diffuse: impl Fn(&[u64], &[u64]) -> Option<Homogeneity>,
) -> Option<Levels> {
    let all = diffuse(reference, window)?;
    let found = Levels { statistic: all.statistic, total_variation: all.total_variation, p_value: 1.0 };
    if found.total_variation < minimum_effect {
        return Some(found);
    }
    let (n, m) = (reference.iter().sum::<u64>(), window.iter().sum::<u64>());
    let smaller = n.min(m) as f64 / (n + m) as f64;
    let solid = |a: u64, b: u64| (a + b) as f64 * smaller >= EXPECTED;
    let (mut left, mut right, mut pool, mut present, mut exact) = (Vec::new(), Vec::new(), (0, 0), 0_u64, 1.0_f64);
    for (&a, &b) in reference.iter().zip(window).filter(|&(&a, &b)| a + b > 0) {
        present += 1;
        exact = exact.min(fisher(a, n, b, m));
        if solid(a, b) {
            left.push(a);
            right.push(b);
        } else {
            pool = (pool.0 + a, pool.1 + b);
        }
    }
    if solid(pool.0, pool.1) {
        left.push(pool.0);
        right.push(pool.1);
    }
    // of two levels, one says what the other says
    let exact = exact * if present == 2 { 1.0 } else { present as f64 };
    // whether there is a second test follows from the totals of the levels, which both tests take as given
    let p_value = diffuse(&left, &right).map_or(exact, |diffuse| 2.0 * exact.min(diffuse.p_value));
    Some(Levels { p_value: p_value.min(1.0), ..found })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::categorical::homogeneity;

    #[test]
    fn fisher_sums_the_hypergeometric_tail() {
        // Fisher's tea tasting, 3 of 4 right: P(X >= 3) = 17/70; scipy.stats.fisher_exact([[3,1],[1,3]]) = 34/70
        assert!((fisher(1, 4, 3, 4) - 34.0 / 70.0).abs() < 1e-12);
        assert!((fisher(3, 4, 1, 4) - 34.0 / 70.0).abs() < 1e-12);
        // 0 of 4096 against 5 of 1000: the tail is C(1000,5)/C(5096,5)
        let tail: f64 = (0..5).map(|i| (1000.0 - f64::from(i)) / (5096.0 - f64::from(i))).product();
        assert!((fisher(0, 4096, 5, 1000) / (2.0 * tail) - 1.0).abs() < 1e-9);
        assert_eq!(fisher(0, 10, 0, 10), 1.0);
        assert_eq!(fisher(10, 10, 10, 10), 1.0);
        assert_eq!(fisher(0, 0, 1, 10), 1.0);
    }

    #[test]
    fn fisher_holds_every_level_exactly() {
        // all outcomes of two samples of 12 and 9 with a common share, weighted by their probability
        for share in [0.05_f64, 0.3, 0.5, 0.9] {
            let mass = |k: u64, n: u64| {
                (ln_binomial(n, k) + k as f64 * share.ln() + (n - k) as f64 * (1.0 - share).ln()).exp()
            };
            for level in [0.01, 0.05, 0.2] {
                let size: f64 = (0..=12)
                    .flat_map(|k| (0..=9).map(move |l| (k, l)))
                    .filter(|&(k, l)| fisher(k, 12, l, 9) <= level)
                    .map(|(k, l)| mass(k, 12) * mass(l, 9))
                    .sum();
                assert!(size <= level + 1e-12, "share {share}: size {size} at level {level}");
            }
        }
    }

    #[test]
    fn few_counts_are_left_to_the_exact_test() {
        // three of a new level in 1,000: the exact tail is (1000/5096)³ = 0.0076; chi-square says 4.6e-4
        let found = levels(&[4096, 0], &[997, 3], 0.0, homogeneity).unwrap();
        assert!((0.0075..0.05).contains(&found.p_value), "{found:?}");
    }

    #[test]
    fn a_new_level_and_a_diffuse_change_are_both_seen() {
        let reference = [500, 500, 500, 500, 0];
        assert!(levels(&reference, &[100, 100, 100, 90, 10], 0.0, homogeneity).unwrap().p_value < 1e-4);
        assert!(levels(&reference, &[130, 70, 125, 75, 0], 0.0, homogeneity).unwrap().p_value < 1e-4);
        assert_eq!(levels(&reference, &[100, 100, 100, 100, 0], 0.0, homogeneity).unwrap().p_value, 1.0);
        assert!(levels(&reference, &[0, 0, 0, 0, 0], 0.0, homogeneity).is_none());
    }
}
