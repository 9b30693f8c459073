use super::*;
use crate::stats::binomial;
use crate::stats::golden::{assert_close, cases, number, numbers};
use crate::stats::pooled::sorted;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn pool(x: &[f64], y: &[f64]) -> Pooled {
    Pooled::new(&sorted(x), &sorted(y)).unwrap()
}

fn t(x: &[f64], y: &[f64]) -> f64 {
    test(&pool(x, y), 0.05, 1).statistic
}

/// From the definition with midranks (Conover 1999).
fn plain(x: &[f64], y: &[f64]) -> f64 {
    let (n, m) = (x.len() as f64, y.len() as f64);
    let rank = |v: f64| {
        let count = |keep: &dyn Fn(f64) -> bool| x.iter().chain(y).filter(|&&w| keep(w)).count() as f64;
        count(&|w| w < v) + 0.5 * (count(&|w| w == v) + 1.0)
    };
    let squares = |sample: &[f64]| -> f64 {
        let ranks = sorted(sample).into_iter().map(rank);
        ranks.enumerate().map(|(i, r)| (r - (i as f64 + 1.0)).powi(2)).sum()
    };
    let u = n * squares(x) + m * squares(y);
    u / (n * m * (n + m)) - (4.0 * n * m - 1.0) / (6.0 * (n + m))
}

#[test]
fn golden_statistics_and_p_values_match_scipy() {
    let mut checked = 0;
    for case in cases("divergences").iter().filter(|case| !case.outputs["cvm_statistic"].is_null()) {
        let (x, y) = (numbers(&case.inputs["x"]), numbers(&case.inputs["y"]));
        let found = t(&x, &y);
        assert_close(found, number(&case.outputs["cvm_statistic"]), 1e-12, 0.0, &case.name);
        // SciPy's series stops at terms of 1e-7
        let p = asymptotic_p(found, x.len() as u64, y.len() as u64);
        assert_close(p, number(&case.outputs["cvm_asymp_pvalue"]), 1e-9, 1e-9, &case.name);
        checked += 1;
    }
    for case in cases("evidently_stattests").iter().filter(|case| case.inputs["feature"] == "num") {
        let (x, y) = (numbers(&case.inputs["ref"]), numbers(&case.inputs["cur"]));
        let found = test(&pool(&x, &y), 0.05, 1);
        let expected = number(&case.outputs["cramer_von_mises"]["score"]);
        assert_close(found.p_value, expected, 1e-9, 1e-9, &case.name);
        checked += 1;
    }
    assert!(checked >= 6);
}

#[test]
fn the_limit_has_its_published_quantiles() {
    // Anderson and Darling (1952), table 1
    for (x, upper) in [(0.02480, 0.99), (0.03656, 0.95), (0.11888, 0.5), (0.34730, 0.1), (0.46136, 0.05)] {
        assert_close(limit_upper(x), upper, 0.0, 6e-5, "quantile");
    }
    for (x, upper) in [(0.74346, 0.01), (1.16786, 0.001)] {
        assert_close(limit_upper(x), upper, 1e-3, 0.0, "quantile");
    }
    let tails: Vec<f64> = (1..4_000).map(|i| limit_upper(f64::from(i) / 200.0)).collect();
    assert!(tails.is_sorted_by(|a, b| a >= b) && tails.iter().all(|&p| p > 0.0));
    assert!(limit_upper(0.005) > 1.0 - 1e-9);
    assert_eq!((limit_upper(f64::NAN), limit_upper(1e9)), (1.0, 0.0));
}

#[test]
fn the_limit_is_its_weighted_sum_of_chi_squares() {
    // weights 1/(kπ)²; the mean of what is cut off moves x
    let kept = 4_000;
    let weights: Vec<f64> = (1..=kept).map(|k| (f64::from(k) * PI).powi(-2)).collect();
    let cut = 1.0 / 6.0 - weights.iter().sum::<f64>();
    for x in [0.05, 0.3, 0.75, 2.0, 5.468] {
        let expected = crate::stats::quadratic_form::upper_tail(&weights, x - cut);
        assert_close(limit_upper(x), expected, 1e-6, 0.0, &format!("{x}"));
    }
}

#[test]
fn permutation_p_matches_all_arrangements() {
    for (x, y) in [
        (vec![1.0, 2.0, 3.0, 5.5, 9.0], vec![4.0, 6.0, 7.0, 9.5, 11.0]),
        (vec![1.0, 1.0, 2.0, 2.0, 3.0], vec![2.0, 3.0, 3.0, 4.0]),
    ] {
        let all = [x.clone(), y.clone()].concat();
        let size = all.len();
        let observed = plain(&x, &y);
        let splits: Vec<f64> = (0_u32..1 << size)
            .filter(|bits| bits.count_ones() as usize == x.len())
            .map(|bits| {
                let side =
                    |one| -> Vec<f64> { (0..size).filter(|i| (bits >> i & 1 == 1) == one).map(|i| all[i]).collect() };
                plain(&side(true), &side(false))
            })
            .collect();
        let p = splits.iter().filter(|&&s| s >= observed - 1e-12).count() as f64 / splits.len() as f64;
        let pooled = pool(&x, &y);
        let inverse = (0..400).map(|seed| 1.0 / test(&pooled, 0.01, seed).p_value).sum::<f64>() / 400.0;
        assert_close(1.0 / inverse, p, 0.06, 0.0, "p");
    }
}

#[test]
fn one_value_in_all_is_no_difference() {
    let found = test(&pool(&[3.0; 9], &[3.0; 4]), 0.05, 1);
    assert!(found.effect < 1e-15, "{found:?}");
    assert_eq!(found.p_value, 1.0);
    // disjoint samples: ∫ (F − G)² dH = (1 + 1/(2·n²))/3 for n = m
    let apart = test(&pool(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.05, 1);
    assert!((apart.effect * apart.effect - (1.0 + 1.0 / 18.0) / 3.0).abs() < 1e-12);
}

fn calibrated(sizes: &[(usize, usize)], runs: u64) {
    for &(n, m) in sizes {
        for (name, rounding) in [("continuous", 0.0), ("rounded", 0.5)] {
            let mut random = StdRng::seed_from_u64((n * 31 + m) as u64);
            let mut p_values = |shift: f64, runs: u64| -> Vec<f64> {
                let mut sample = |size: usize, shift: f64| -> Vec<f64> {
                    let one = |v: f64| if rounding > 0.0 { (v / rounding).round() } else { v };
                    (0..size).map(|_| one(shift - (1.0 - random.random::<f64>()).ln())).collect()
                };
                (0..runs).map(|run| test(&pool(&sample(n, 0.0), &sample(m, shift)), 0.01, run).p_value).collect()
            };
            let null = p_values(0.0, runs);
            for level in [0.05, 0.01] {
                let hits = null.iter().filter(|&&p| p <= level).count() as u64;
                assert!(binomial::lower(hits, runs, 0.9999) <= level, "{name} {n} {m}: {hits} of {runs} at {level}");
                assert!(binomial::upper(hits, runs, 0.9999) >= 0.8 * level, "{name} {n} {m}: {hits} of {runs}: blind");
            }
            let shift = 4.0 * (1.0 / n as f64 + 1.0 / m as f64).sqrt();
            let found = p_values(shift, 100).iter().filter(|&&p| p <= 0.05).count();
            assert!(found >= 80, "{name} {n} {m}: power {found} %");
        }
    }
}

#[test]
fn holds_its_level_and_has_power() {
    calibrated(&[(20, 20), (100, 60)], 1_000);
}

#[test]
#[ignore = "heavy simulation"]
fn holds_its_level_and_has_power_at_all_sizes() {
    calibrated(&[(20, 20), (20, 2_000), (50, 50), (50, 2_000), (200, 200), (2_000, 2_000)], 10_000);
    calibrated(&[(20_000, 20_000)], 500);
}

proptest! {
    #[test]
    fn equals_the_definition(
        x in prop::collection::vec(prop_oneof![-4.0..4.0_f64, (-4..4_i32).prop_map(f64::from)], 1..40),
        y in prop::collection::vec(prop_oneof![-4.0..4.0_f64, (-4..4_i32).prop_map(f64::from)], 1..40),
    ) {
        let found = t(&x, &y);
        prop_assert!((found - plain(&x, &y)).abs() < 1e-12 * (1.0 + found) * 40.0);
        prop_assert!((found - t(&y, &x)).abs() < 1e-11);
        let p = test(&pool(&x, &y), 0.05, 1).p_value;
        prop_assert!(p > 0.0 && p <= 1.0);
    }
}
