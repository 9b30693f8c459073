//! Laws of [`Moments`].
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Mean and mean-imputed covariance by their definitions, in two passes.
fn by_definition(rows: &[Vec<f64>], dim: usize) -> (Vec<f64>, Array2<f64>) {
    let mean: Vec<f64> = (0..dim)
        .map(|j| {
            let kept: Vec<f64> = rows.iter().map(|r| r[j]).filter(|v| v.is_finite()).collect();
            let first = kept.first().copied().unwrap_or(f64::NAN);
            first + kept.iter().map(|v| v - first).sum::<f64>() / kept.len() as f64
        })
        .collect();
    let deviation = |r: &Vec<f64>, j: usize| {
        if r[j].is_finite() { r[j] - mean[j] } else { 0.0 }
    };
    let covariance = Array2::from_shape_fn((dim, dim), |(i, j)| {
        let sum: f64 = rows.iter().map(|r| deviation(r, i) * deviation(r, j)).sum();
        sum / rows.len().max(1) as f64
    });
    (mean, covariance)
}

fn fill(rows: &[Vec<f64>], dim: usize) -> Moments {
    let mut moments = Moments::new(dim);
    rows.iter().for_each(|r| moments.push(r));
    moments
}

/// Largest difference of two covariances, relative to the standard deviations of `scale`.
fn distance(a: &Array2<f64>, b: &Array2<f64>, scale: &Array2<f64>) -> f64 {
    let deviation = |i: usize| scale[[i, i]].sqrt().max(1e-9);
    a.indexed_iter().map(|((i, j), v)| (v - b[[i, j]]).abs() / (deviation(i) * deviation(j))).fold(0.0, f64::max)
}

fn random_rows(n: usize, dim: usize, offset: f64, missing: f64, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let common: f64 = rng.random();
            let mut cell = |_| {
                let value = offset + common + rng.random::<f64>();
                if rng.random::<f64>() < missing { f64::NAN } else { value }
            };
            (0..dim).map(&mut cell).collect()
        })
        .collect()
}

#[test]
fn keeps_nine_digits_far_from_zero() {
    for missing in [0.0, 0.1] {
        let rows = random_rows(5_000, 6, 1e6, missing, 3);
        let (mean, covariance) = by_definition(&rows, 6);
        let moments = fill(&rows, 6);
        assert!(distance(&moments.covariance(), &covariance, &covariance) < 1e-9);
        for (found, expected) in moments.mean().iter().zip(mean) {
            assert!((found / expected - 1.0).abs() < 1e-14);
        }
    }
}

#[test]
fn an_outlier_in_the_first_row_costs_no_digits() {
    let mut rows = random_rows(3_000, 2, 0.0, 0.0, 4);
    rows[0] = vec![1e9, -1e9];
    rows.truncate(2_000);
    let mut later = random_rows(100_000, 2, 0.0, 0.0, 5);
    later.splice(0..0, rows);
    let (_, covariance) = by_definition(&later, 2);
    assert!(distance(&fill(&later, 2).covariance(), &covariance, &covariance) < 1e-9);
}

#[test]
fn a_column_without_values_is_nan_and_zero() {
    let moments = fill(&random_rows(700, 3, 0.0, 1.0, 1), 3);
    assert!(moments.mean().iter().all(|m| m.is_nan()));
    assert!(moments.covariance().iter().all(|&c| c == 0.0));
    assert_eq!((moments.rows(), moments.present(2), moments.present(9)), (700, 0, 0));
    assert!(Moments::new(0).mean().is_empty());
    assert_eq!(Moments::new(2).covariance(), Array2::<f64>::zeros((2, 2)));
}

#[test]
fn different_columns_do_not_merge() {
    let mut moments = fill(&random_rows(10, 3, 0.0, 0.0, 1), 3);
    let before = serde_json::to_string(&moments).unwrap();
    let error = moments.merge(&Moments::new(2)).unwrap_err();
    assert_eq!(error, StatsError::Dimensions { expected: 3, found: 2 });
    assert_eq!(serde_json::to_string(&moments).unwrap(), before);
}

#[test]
fn stored_state_that_does_not_fit_is_refused() {
    let mut json = serde_json::to_value(fill(&random_rows(300, 2, 0.0, 0.1, 1), 2)).unwrap();
    assert!(serde_json::from_value::<Moments>(json.clone()).is_ok());
    json["dim"] = 3.into();
    assert!(serde_json::from_value::<Moments>(json).is_err());
}

fn cell() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -10.0..10.0_f64,
        1 => Just(f64::NAN),
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn parts_merge_to_the_whole(
        rows in prop::collection::vec(prop::collection::vec(cell(), 3), 0..700),
        cuts in (0..700_usize, 0..700_usize),
        offset in prop::sample::select(vec![0.0, 1e3, 1e6]),
    ) {
        let rows: Vec<Vec<f64>> =
            rows.iter().map(|r| r.iter().map(|v| v + offset).collect()).collect();
        let (a, b) = (cuts.0.min(cuts.1).min(rows.len()), cuts.0.max(cuts.1).min(rows.len()));
        let mut merged = fill(&rows[..a], 3);
        merged.merge(&fill(&rows[a..b], 3)).unwrap();
        merged.merge(&fill(&rows[b..], 3)).unwrap();
        let (mean, covariance) = by_definition(&rows, 3);
        for found in [&merged, &fill(&rows, 3)] {
            prop_assert_eq!(found.rows(), rows.len() as u64);
            prop_assert!(distance(&found.covariance(), &covariance, &covariance) < 1e-9);
            for j in 0..3 {
                let present = rows.iter().filter(|r| r[j].is_finite()).count() as u64;
                prop_assert_eq!(found.present(j), present);
                let m = found.mean()[j];
                prop_assert!(m.is_nan() && present == 0 || (m - mean[j]).abs() <= 1e-9 * (1.0 + offset));
            }
        }
    }

    #[test]
    fn storing_halfway_changes_nothing(
        rows in prop::collection::vec(prop::collection::vec(cell(), 2), 0..400),
        cut in 0..400_usize,
    ) {
        let (left, right) = rows.split_at(cut.min(rows.len()));
        let stored = serde_json::to_string(&fill(left, 2)).unwrap();
        let mut restored: Moments = serde_json::from_str(&stored).unwrap();
        right.iter().for_each(|r| restored.push(r));
        let whole = fill(&rows, 2);
        prop_assert_eq!(restored.rows(), whole.rows());
        let covariance = whole.covariance();
        prop_assert!(distance(&restored.covariance(), &covariance, &covariance) < 1e-12);
    }
}
