#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::stats::golden::{assert_close, cases, matrix, number, numbers};
use crate::stats::mahalanobis::Whitener;
use rand::RngExt;

fn slices(rows: &[Vec<f64>]) -> Vec<&[f64]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// The smallest determinant is what counts: where the search finds a smaller one than scikit-learn's, the raw estimate is
/// another and better one, and the final one must be near.
#[test]
fn golden_estimates_match_scikit_learn() {
    let mut same = 0;
    for case in cases("mincovdet") {
        let rows = matrix(&case.inputs["X"]);
        let rows: Vec<&[f64]> = rows.rows().into_iter().map(|row| row.to_slice().unwrap()).collect();
        let found = MinCovDet::new(&rows, rows[0].len(), case.inputs["support_fraction"].as_f64()).unwrap();
        let widths: f64 = found.scale.width.iter().map(|width| 2.0 * width.ln()).sum();
        let ahead = number(&case.outputs["raw_det"]).ln() - found.raw.log_determinant() - widths;
        assert!(ahead > -1e-9, "{}: log determinant larger by {}", case.name, -ahead);
        same += usize::from(ahead < 1e-9);
        let tolerance = if ahead < 1e-9 { 1e-9 } else { 0.1 };
        let expected = matrix(&case.outputs["covariance"]);
        for ((i, j), &found) in found.covariance.indexed_iter() {
            let scale = (expected[[i, i]] * expected[[j, j]]).sqrt();
            assert_close(found, expected[[i, j]], 0.0, tolerance * scale, &case.name);
        }
        for (i, e) in numbers(&case.outputs["location"]).into_iter().enumerate() {
            assert_close(found.location[i], e, 0.0, tolerance * expected[[i, i]].sqrt(), &case.name);
        }
        let whitener = Whitener::new(&found.location, found.covariance.view()).unwrap();
        let points = matrix(&case.inputs["T"]);
        for (point, e) in points.rows().into_iter().zip(numbers(&case.outputs["dist_of_T"])) {
            assert_close(whitener.distance_squared(&point.to_vec(), &mut Vec::new()), e, tolerance, 0.0, &case.name);
        }
    }
    assert!(same >= 2);
}

fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[test]
fn it_is_consistent_for_normal_rows_and_a_third_of_outliers_cannot_move_it() {
    let mut rng = StdRng::seed_from_u64(11);
    for outliers in [0, 300] {
        let mut rows: Vec<Vec<f64>> =
            (0..600).map(|_| (0..5).map(|j| normal(&mut rng) * f64::from(j + 1)).collect()).collect();
        rows.extend((0..outliers).map(|_| (0..5).map(|_| 40.0 + normal(&mut rng)).collect()));
        let found = MinCovDet::new(&slices(&rows), 5, None).unwrap();
        for j in 0..5 {
            let (mean, variance) = (found.location[j], found.covariance[[j, j]]);
            let expected = f64::from((j as u32 + 1).pow(2));
            // 600 rows: one standard error is 0.041 of the deviation, 0.058 of the variance
            assert!(mean.abs() < 0.2 * expected.sqrt(), "{outliers}: mean {j} is {mean}");
            assert!((variance / expected - 1.0).abs() < 0.25, "{outliers}: variance {j} is {variance}, not {expected}");
        }
    }
}

#[test]
fn factors_are_those_of_the_literature() {
    // chi-square with 2 degrees of freedom is exponential: q = −2 ln(.025), P(χ²₄ ≤ q) = 1 − .025(1 + q/2)
    let half = -f64::ln(0.025);
    assert_close(consistency(2, 0.975), 0.975 / (1.0 - 0.025 * (1.0 + half)), 1e-12, 0.0, "two columns");
    assert_eq!(consistency(3, 1.0), 1.0);
    // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4
    for (degrees, upper, expected) in [(1, 0.05, 3.841), (10, 0.01, 23.209), (100, 0.001, 149.449)] {
        assert_close(chi_square_quantile(upper, degrees), expected, 0.0, 5e-4, "table");
    }
}

#[test]
fn wide_rows_leave_enough_for_every_start() {
    let mut rng = StdRng::seed_from_u64(5);
    let rows: Vec<Vec<f64>> = (0..620).map(|_| (0..240).map(|_| normal(&mut rng)).collect()).collect();
    assert!(MinCovDet::new(&slices(&rows), 240, Some(0.75)).is_some());
}

#[test]
fn odd_columns_do_no_harm() {
    let mut rng = StdRng::seed_from_u64(3);
    let row = |i: usize| {
        let x = normal(&mut rng);
        let rare = if i.is_multiple_of(10) { 1.0 } else { 0.0 };
        vec![x, x, f64::NAN, 4.0, rare, if i.is_multiple_of(7) { f64::NAN } else { normal(&mut rng) }]
    };
    let rows: Vec<Vec<f64>> = (0..200).map(row).collect();
    let found = MinCovDet::new(&slices(&rows), 6, None).unwrap();
    let whitener = Whitener::new(&found.location, found.covariance.view()).unwrap();
    assert_eq!(whitener.blind(), [2, 3], "missing, constant");
    let distance = |row: &[f64]| whitener.distance_squared(row, &mut Vec::new());
    assert!(distance(&[6.0, 6.0, 0.0, 0.0, 0.0, 0.0]) > 20.0);
    // nine rows in ten have a 0 in the fifth column, of variance 0.09: a 1 is a thousand times as far as by its variance
    let (rare, common) = (distance(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), distance(&[0.0; 6]));
    assert_close(rare - common, 1e6 / 0.09, 1e-9, 0.0, "exact fit");
    let only: Vec<Vec<f64>> = rows.iter().map(|row| vec![row[4]]).collect();
    assert!(MinCovDet::new(&slices(&only), 1, None).is_some());
    assert!(MinCovDet::new(&slices(&rows[..9]), 6, None).is_none());
    assert!(MinCovDet::new(&slices(&rows[..10]), 6, None).is_some());
}
