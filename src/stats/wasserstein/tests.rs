use super::*;
use crate::stats::binomial;
use crate::stats::golden::{assert_close, cases, number, numbers};
use crate::stats::pooled::sorted;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// ∫ |F − G|, straight from the definition.
fn plain(x: &[f64], y: &[f64]) -> f64 {
    let mut all = [x, y].concat();
    all.sort_unstable_by(f64::total_cmp);
    let share = |sample: &[f64], at: f64| sample.iter().filter(|&&v| v <= at).count() as f64 / sample.len() as f64;
    all.windows(2).map(|pair| (share(x, pair[0]) - share(y, pair[0])).abs() * (pair[1] - pair[0])).sum()
}

#[test]
fn golden_distances_match_scipy_evidently_nannyml_and_frouros() {
    let mut checked = 0;
    let mut check = |x: &[f64], y: &[f64], expected: f64, what: &str| {
        let (x, y) = (sorted(x), sorted(y));
        assert_close(distance(&x, &y), expected, 1e-12, 1e-15, what);
        assert_close(distance(&y, &x), expected, 1e-12, 1e-15, what);
        let test = test(&Pooled::new(&x, &y).unwrap(), 1.0, 0.05, 1);
        assert_close(test.statistic, expected, 1e-12, 1e-15, what);
        checked += 1;
    };
    for case in cases("divergences").iter().filter(|case| case.inputs["x"].is_array() && case.inputs["wx"].is_null()) {
        let expected = number(&case.outputs["wasserstein_1"]);
        check(&numbers(&case.inputs["x"]), &numbers(&case.inputs["y"]), expected, &case.name);
    }
    for case in cases("frouros_data").iter().filter(|case| case.name == "distances") {
        check(&numbers(&case.inputs["ref"]), &numbers(&case.inputs["cur"]), number(&case.outputs["EMD"]), "frouros");
    }
    for case in cases("nannyml_univariate").iter().filter(|case| !case.outputs["wasserstein"].is_null()) {
        let expected = number(&case.outputs["wasserstein"]);
        check(&numbers(&case.inputs["ref"]), &numbers(&case.inputs["cur"]), expected, "nannyml");
    }
    assert!(checked >= 6);
    for case in cases("evidently_stattests").iter().filter(|case| case.inputs["feature"] == "num") {
        let (x, y) = (sorted(&numbers(&case.inputs["ref"])), sorted(&numbers(&case.inputs["cur"])));
        let found = test(&Pooled::new(&x, &y).unwrap(), scale(&x).unwrap(), 0.05, 1);
        assert_close(found.effect, number(&case.outputs["wasserstein"]["score"]), 1e-12, 0.0, &case.name);
    }
}

#[test]
fn a_large_offset_costs_no_digits() {
    let x: Vec<f64> = (0..100).map(|i| 1e9 + f64::from(i) / 128.0).collect();
    let y: Vec<f64> = (0..70).map(|i| 1e9 + 0.5 + f64::from(i) / 64.0).collect();
    let move_back = |v: &[f64]| -> Vec<f64> { v.iter().map(|v| v - 1e9).collect() };
    assert_close(distance(&x, &y), distance(&move_back(&x), &move_back(&y)), 1e-14, 0.0, "offset");
}

#[test]
fn the_scale_survives_what_has_no_variance() {
    assert_eq!(scale(&[2.0, 4.0]), Some(1.0));
    assert_eq!(scale(&[3.0; 5]), None);
    assert_eq!(scale(&[]), None);
    assert!(scale(&[-1e200, -1.0, -1.0, 0.0, 1.0, 2.0, 1e200]).unwrap() < 3.0);
}

#[test]
fn permutation_p_matches_all_arrangements() {
    let (x, y) = (sorted(&[1.0, 2.0, 2.0, 5.0, 9.0]), sorted(&[2.0, 6.0, 9.0, 9.5]));
    let all = [x.clone(), y.clone()].concat();
    let observed = distance(&x, &y);
    let splits: Vec<f64> = (0_u32..1 << 9)
        .filter(|bits| bits.count_ones() == 5)
        .map(|bits| {
            let side = |one| -> Vec<f64> { (0..9).filter(|i| (bits >> i & 1 == 1) == one).map(|i| all[i]).collect() };
            plain(&side(true), &side(false))
        })
        .collect();
    let p = splits.iter().filter(|&&d| d >= observed - 1e-12).count() as f64 / splits.len() as f64;
    let pooled = Pooled::new(&x, &y).unwrap();
    let inverse = (0..400).map(|seed| 1.0 / test(&pooled, 1.0, 0.01, seed).p_value).sum::<f64>() / 400.0;
    assert_close(1.0 / inverse, p, 0.05, 0.0, "p");
}

fn calibrated(sizes: &[(usize, usize)], runs: u64) {
    for &(n, m) in sizes {
        for (name, rounding) in [("continuous", 0.0), ("rounded", 0.5)] {
            let mut random = StdRng::seed_from_u64((n * 31 + m) as u64);
            let mut sample = |size: usize, shift: f64| -> Vec<f64> {
                let mut one = || shift - (1.0 - random.random::<f64>()).ln();
                let all: Vec<f64> = (0..size).map(|_| one()).collect();
                sorted(
                    &all.iter().map(|&v| if rounding > 0.0 { (v / rounding).round() } else { v }).collect::<Vec<_>>(),
                )
            };
            let mut p_values = |shift: f64, runs: u64| -> Vec<f64> {
                (0..runs)
                    .map(|run| {
                        let pooled = Pooled::new(&sample(n, 0.0), &sample(m, shift)).unwrap();
                        test(&pooled, 1.0, 0.01, run).p_value
                    })
                    .collect()
            };
            let null = p_values(0.0, runs);
            for level in [0.05, 0.01] {
                let hits = null.iter().filter(|&&p| p <= level).count() as u64;
                assert!(binomial::lower(hits, runs, 0.9999) <= level, "{name} {n} {m}: {hits} of {runs} at {level}");
            }
            let shift = 4.0 * (1.0 / n as f64 + 1.0 / m as f64).sqrt();
            let found = p_values(shift, 100).iter().filter(|&&p| p <= 0.05).count();
            assert!(found >= 70, "{name} {n} {m}: power {found} %");
        }
    }
}

#[test]
fn holds_its_level_and_has_power() {
    calibrated(&[(20, 20), (100, 30)], 600);
}

#[test]
#[ignore = "heavy simulation"]
fn holds_its_level_and_has_power_at_all_sizes() {
    calibrated(&[(20, 20), (20, 2_000), (200, 200), (2_000, 100)], 10_000);
    calibrated(&[(20_000, 20_000)], 500);
}

proptest! {
    #[test]
    fn equals_the_plain_integral(
        x in prop::collection::vec(prop_oneof![-4.0..4.0_f64, (-4..4_i32).prop_map(f64::from)], 1..40),
        y in prop::collection::vec(prop_oneof![-4.0..4.0_f64, (-4..4_i32).prop_map(f64::from)], 1..40),
        scale in 0.1..10.0_f64,
    ) {
        let (a, b) = (sorted(&x), sorted(&y));
        let found = distance(&a, &b);
        prop_assert!((found - plain(&x, &y)).abs() < 1e-12);
        prop_assert!((found - distance(&b, &a)).abs() < 1e-12);
        let test = test(&Pooled::new(&a, &b).unwrap(), 1.0, 0.05, 1);
        prop_assert!((found - test.statistic).abs() < 1e-12);
        prop_assert!(test.p_value > 0.0 && test.p_value <= 1.0);
        let moved = |v: &[f64]| -> Vec<f64> { v.iter().map(|v| v * scale + 3.0).collect() };
        prop_assert!((distance(&moved(&a), &moved(&b)) - found * scale).abs() < 1e-12 * scale.max(1.0));
    }
}
