//! Quantiles of a sample, and the conformal threshold.

/// Quantile `q` (type 7 of Hyndman and Fan 1996: the straight line between neighbours) in [0, 1] (clamped) of values `sorted` in ascending order; NaN when empty or when
/// `q` is NaN.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    let position = (sorted.len() - 1) as f64 * q.clamp(0.0, 1.0);
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    let t = position - position.floor();
    if low == high {
        low // also keeps equal infinities
    } else if t < 0.5 {
        low + (high - low) * t
    } else {
        high - (high - low) * (1.0 - t)
    }
}

/// Smallest threshold t among the `sorted` scores so that flagging `score > t` flags a new exchangeable row
/// with marginal probability at most `alpha` (split conformal: Papadopoulos et al. 2002, Vovk et
/// al. 2005). Marginal: over the draw of the m calibration scores too.
///
/// t is the score of rank ⌈(1−α)(m+1)⌉; `None` when m < ⌈1/α⌉ − 1, where no score is high enough. Scores are not NaN.
pub(crate) fn conformal_threshold(sorted: &[f64], alpha: f64) -> Option<f64> {
    let m = sorted.len();
    // scores that may lie above t; the tiny factor undoes the rounding of products such as 0.29·100
    let above = (alpha * (m as f64 + 1.0) * (1.0 + 1e-12)).floor();
    if above.is_nan() || above < 1.0 {
        return None;
    }
    if above > m as f64 {
        return Some(f64::NEG_INFINITY);
    }
    sorted.get(m - above as usize).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};
    use proptest::prelude::*;

    #[test]
    fn golden_quantiles_match_numpy() {
        for case in cases("quantiles") {
            let mut x = numbers(&case.inputs["x"]);
            x.sort_unstable_by(f64::total_cmp);
            let Some(expected) = case.outputs["linear"].as_array() else { continue };
            for (q, e) in numbers(&case.inputs["q"]).into_iter().zip(expected) {
                assert_close(quantile(&x, q), number(e), 1e-12, 1e-15, &format!("{} {q}", case.name));
            }
        }
    }

    #[test]
    fn needs_one_over_alpha_minus_one_rows() {
        for (alpha, needed) in [(0.5, 1), (0.1, 9), (0.05, 19), (0.3, 3), (0.01, 99), (0.001, 999)] {
            let scores: Vec<f64> = (0..needed).map(f64::from).collect();
            let top = f64::from(needed) - 1.0;
            assert_eq!(conformal_threshold(&scores[1..], alpha), None, "{alpha}");
            assert_eq!(conformal_threshold(&scores, alpha), Some(top), "{alpha}");
        }
        assert_eq!(conformal_threshold(&[1.0; 1000], 0.0), None);
        assert_eq!(conformal_threshold(&[1.0; 1000], f64::NAN), None);
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(conformal_threshold(&[], 0.5), None);
    }

    proptest! {
        #[test]
        fn threshold_is_the_smallest_that_holds(
            mut scores in prop::collection::hash_set(0..10_000_i32, 1..200)
                .prop_map(|s| s.into_iter().map(f64::from).collect::<Vec<_>>()),
            alpha in 0.005..0.9_f64,
        ) {
            scores.sort_unstable_by(f64::total_cmp);
            let m = scores.len() as f64;
            // with t at a score, a new row of random rank exceeds t with this probability
            let chance = |t: f64, s: &[f64]|
                (s.iter().filter(|&&x| x > t).count() as f64 + 1.0) / (m + 1.0);
            match conformal_threshold(&scores, alpha) {
                None => prop_assert!(1.0 / (m + 1.0) > alpha),
                Some(t) => {
                    prop_assert!(chance(t, &scores) <= alpha + 1e-9);
                    let lower = scores.iter().copied().filter(|&s| s < t).fold(f64::MIN, f64::max);
                    if lower > f64::MIN {
                        prop_assert!(chance(lower, &scores) > alpha);
                    }
                }
            }
        }
    }
}
