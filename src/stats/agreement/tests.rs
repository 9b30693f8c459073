#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::stats::golden::{assert_close, cases, matrix, number, numbers};
use proptest::prelude::*;

const WEIGHTS: [(Weights, &str); 3] =
    [(Weights::Unweighted, "kappa_None"), (Weights::Linear, "kappa_linear"), (Weights::Quadratic, "kappa_quadratic")];
const SCALES: [(Scale, &str); 4] = [
    (Scale::Nominal, "alpha_nominal"),
    (Scale::Ordinal, "alpha_ordinal"),
    (Scale::Interval, "alpha_interval"),
    (Scale::Ratio, "alpha_ratio"),
];

#[test]
fn golden_kappas_match_scikit_learn() {
    for case in cases("cohen_kappa") {
        let class = |x: f64| x as usize;
        let (a, b) = (numbers(&case.inputs["a"]), numbers(&case.inputs["b"]));
        let pairs: Vec<_> = a.into_iter().map(class).zip(b.into_iter().map(class)).collect();
        for (weights, name) in WEIGHTS {
            let found = cohen_kappa(&pairs, case.inputs["labels"].as_array().unwrap().len(), weights).unwrap();
            assert_close(found, number(&case.outputs[name]), 1e-12, 1e-14, &format!("{} {name}", case.name));
        }
    }
}

#[test]
fn golden_alphas_match_krippendorff_and_with_them_the_kappa_of_fleiss() {
    for case in cases("krippendorff") {
        let raters = matrix(&case.inputs["ratings_by_rater"]);
        let units: Vec<Vec<f64>> = raters.columns().into_iter().map(|unit| unit.to_vec()).collect();
        for (scale, name) in SCALES {
            let found = krippendorff_alpha(&units, scale).unwrap();
            assert_close(found, number(&case.outputs[name]), 1e-12, 1e-14, &format!("{} {name}", case.name));
        }
        if let Some(fleiss) = case.outputs["fleiss"].as_f64() {
            // complete ratings: alpha = kappa + (1 − kappa) / n
            let expected = fleiss + (1.0 - fleiss) / raters.len() as f64;
            let found = krippendorff_alpha(&units, Scale::Nominal).unwrap();
            assert_close(found, expected, 1e-12, 0.0, &format!("{} fleiss", case.name));
        }
    }
}

#[test]
fn what_could_not_disagree_has_no_kappa() {
    for (weights, _) in WEIGHTS {
        assert_eq!(cohen_kappa(&[], 3, weights), None);
        assert_eq!(cohen_kappa(&[(1, 1), (1, 1)], 3, weights), None);
        assert_eq!(cohen_kappa(&[(1, 1), (3, 0), (0, 7)], 3, weights), None, "others are left out");
        assert_eq!(cohen_kappa(&[(0, 0)], 0, weights), None);
        // each rater knows one class, but not the same: what chance gives
        assert_eq!(cohen_kappa(&[(0, 2), (0, 2)], 3, weights), Some(0.0));
    }
}

#[test]
fn what_could_not_disagree_has_no_alpha() {
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    for (scale, _) in SCALES {
        let alpha = |units: &[&[f64]]| krippendorff_alpha(units, scale);
        assert_eq!(alpha(&[]), None);
        assert_eq!(alpha(&[&[], &[1.0], &[2.0, nan], &[infinite, 3.0]]), None, "nothing pairable");
        assert_eq!(alpha(&[&[0.1; 3], &[0.1; 7], &[5.0]]), None, "one value only");
        assert_eq!(alpha(&[&[1.0, 1.0, nan], &[2.0, 2.0], &[9.0]]), Some(1.0));
    }
    assert_eq!(krippendorff_alpha([[1.0, -1.0], [2.0, 2.0]], Scale::Ratio), None);
    assert_eq!(krippendorff_alpha([[0.0, 0.0], [2.0, 2.0]], Scale::Ratio), Some(1.0));
    assert_eq!(krippendorff_alpha([[1e200, -1e200], [2.0, 2.0]], Scale::Interval), None);
}

proptest! {
    #[test]
    fn agreement_is_symmetric_and_never_beyond_one(
        pairs in prop::collection::vec((0..4_usize, 0..4_usize), 0..40),
        units in prop::collection::vec(prop::collection::vec(0..5_u8, 0..5), 0..20),
    ) {
        for (weights, _) in WEIGHTS {
            let swapped: Vec<_> = pairs.iter().rev().map(|(a, b)| (*b, *a)).collect();
            match (cohen_kappa(&pairs, 4, weights), cohen_kappa(&swapped, 4, weights)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-12 && a <= 1.0),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
        let given: Vec<Vec<f64>> = units.iter().map(|unit| unit.iter().map(|x| f64::from(*x)).collect()).collect();
        let turned: Vec<Vec<f64>> = given.iter().rev().map(|unit| unit.iter().rev().copied().collect()).collect();
        for (scale, _) in SCALES {
            match (krippendorff_alpha(&given, scale), krippendorff_alpha(&turned, scale)) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-12 && a <= 1.0),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
        // an order is all that an ordinal scale knows, a zero and a unit nothing to an interval scale
        let warped: Vec<Vec<f64>> = given.iter().map(|unit| unit.iter().map(|x| x.exp() - 9.0).collect()).collect();
        let (a, b) = (krippendorff_alpha(&given, Scale::Ordinal), krippendorff_alpha(&warped, Scale::Ordinal));
        prop_assert_eq!(a, b);
        let moved: Vec<Vec<f64>> = given.iter().map(|unit| unit.iter().map(|x| 3.0 * x - 7.0).collect()).collect();
        let (a, b) = (krippendorff_alpha(&given, Scale::Interval), krippendorff_alpha(&moved, Scale::Interval));
        prop_assert!(a.is_some() == b.is_some() && a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 1e-9));
    }
}
