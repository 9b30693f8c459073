//! Laws of [`Whitener`]; its golden values are checked beside the covariance.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A random positive definite covariance and location of d columns of very different scales.
fn random_fit(d: usize, seed: u64) -> (Vec<f64>, Array2<f64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let scale: Vec<f64> = (0..d).map(|_| 10_f64.powf(rng.random::<f64>() * 6.0 - 3.0)).collect();
    let root = Array2::from_shape_fn((d, d + 5), |_| rng.random::<f64>() - 0.5);
    let mut covariance = root.dot(&root.t());
    for ((i, j), c) in covariance.indexed_iter_mut() {
        *c *= scale[i] * scale[j];
    }
    ((0..d).map(|j| (rng.random::<f64>() - 0.5) * 4.0 * scale[j]).collect(), covariance)
}

fn random_rows(location: &[f64], covariance: &Array2<f64>, n: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cell = |j: usize| match rng.random_range(0..40) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => -1e300,
        _ => location[j] + (rng.random::<f64>() - 0.5) * 6.0 * covariance[[j, j]].sqrt(),
    };
    (0..n).map(|_| (0..location.len()).map(&mut cell).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn one_row_and_a_chunk_agree_bit_for_bit(d in 1..40_usize, n in 0..150_usize, seed: u64) {
        let (location, mut covariance) = random_fit(d, seed);
        if seed % 3 == 0 {
            covariance.row_mut(d / 2).fill(0.0);
            covariance.column_mut(d / 2).fill(0.0);
        }
        let whitener = Whitener::new(&location, covariance.view()).unwrap();
        let rows = random_rows(&location, &covariance, n, seed ^ 1);
        let columns: Vec<Vec<f64>> =
            (0..d).map(|j| rows.iter().map(|r| r[j]).collect()).collect();
        let columns: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let mut out = vec![f64::NAN; n];
        let mut scratch = Vec::new();
        whitener.distances_squared(|j| columns[j], &mut scratch, &mut out);
        for (row, batch) in rows.iter().zip(out) {
            let single = whitener.distance_squared(row, &mut scratch);
            prop_assert_eq!(single.to_bits(), batch.to_bits());
        }
    }

    #[test]
    fn contributions_sum_to_the_distance(d in 1..30_usize, seed: u64) {
        let (location, covariance) = random_fit(d, seed);
        let whitener = Whitener::new(&location, covariance.view()).unwrap();
        let (mut scratch, mut shares) = (Vec::new(), Vec::new());
        let row: Vec<f64> = location.iter().enumerate()
            .map(|(j, m)| m + covariance[[j, j]].sqrt() * ((seed >> (j % 60)) % 5) as f64)
            .collect();
        let distance = whitener.distance_squared(&row, &mut scratch);
        whitener.contributions(&row, &mut shares);
        let size: f64 = shares.iter().map(|s| s.1.abs()).sum();
        let sum: f64 = shares.iter().map(|s| s.1).sum();
        prop_assert!((sum - distance).abs() <= 1e-10 * size, "{sum} {distance}");
        prop_assert_eq!(shares.iter().map(|s| s.0).collect::<Vec<_>>(), (0..d).collect::<Vec<_>>());
    }

    #[test]
    fn units_do_not_matter(d in 1..12_usize, seed: u64) {
        let (location, covariance) = random_fit(d, seed);
        let row: Vec<f64> =
            location.iter().enumerate().map(|(j, m)| m + covariance[[j, j]].sqrt()).collect();
        let factor: Vec<f64> = (0..d).map(|j| 10_f64.powi(j as i32 % 5 * 3 - 6)).collect();
        let scaled = |v: &[f64]| -> Vec<f64> { v.iter().zip(&factor).map(|(v, f)| v * f).collect() };
        let covariance_scaled =
            Array2::from_shape_fn((d, d), |(i, j)| covariance[[i, j]] * factor[i] * factor[j]);
        let plain = Whitener::new(&location, covariance.view()).unwrap();
        let other = Whitener::new(&scaled(&location), covariance_scaled.view()).unwrap();
        let a = plain.distance_squared(&row, &mut Vec::new());
        let b = other.distance_squared(&scaled(&row), &mut Vec::new());
        prop_assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn a_short_column_is_missing_from_its_end_on() {
    let whitener = Whitener::new(&[0.0, 0.0], Array2::eye(2).view()).unwrap();
    let (long, short) = (vec![3.0; 150], vec![4.0; 70]);
    let mut out = vec![f64::NAN; 150];
    whitener.distances_squared(|j| [&long[..], &short[..]][j], &mut Vec::new(), &mut out);
    assert!(out[..70].iter().all(|&d| d == 25.0) && out[70..].iter().all(|&d| d == 9.0));
    whitener.distances_squared(|j| [&long[..], &[]][j], &mut Vec::new(), &mut out);
    assert!(out.iter().all(|&d| d == 9.0));
}

#[test]
fn columns_without_variance_are_blind() {
    let mut covariance = Array2::eye(4);
    covariance[[1, 1]] = 0.0;
    covariance[[3, 3]] = f64::NAN;
    let whitener = Whitener::new(&[0.0, 5.0, 0.0, 0.0], covariance.view()).unwrap();
    assert_eq!((whitener.blind(), whitener.dimension()), (&[1, 3][..], 2));
    let mut scratch = Vec::new();
    assert_eq!(whitener.distance_squared(&[3.0, 99.0, 4.0, 99.0], &mut scratch), 25.0);
    assert_eq!(whitener.distance_squared(&[3.0, 99.0, f64::NAN, 99.0], &mut scratch), 9.0);
}

#[test]
fn rounding_noise_around_a_constant_is_blind_and_a_far_mean_is_not() {
    let noise = 0.1 * f64::EPSILON;
    let covariance = ndarray::arr2(&[[noise * noise, 0.0], [0.0, 0.6]]);
    let whitener = Whitener::new(&[0.1, 1e6], covariance.view()).unwrap();
    assert_eq!(whitener.blind(), [0]);
}

#[test]
fn all_blind_means_distance_zero() {
    let whitener = Whitener::new(&[1.0, f64::NAN], Array2::zeros((2, 2)).view()).unwrap();
    let mut scratch = Vec::new();
    assert_eq!(whitener.dimension(), 0);
    assert_eq!(whitener.distance_squared(&[7.0, 7.0], &mut scratch), 0.0);
    let mut out = [f64::NAN; 3];
    whitener.distances_squared(|j| [&[1.0; 3][..], &[2.0; 3][..]][j], &mut scratch, &mut out);
    assert_eq!(out, [0.0; 3]);
    assert!(Whitener::new(&[], Array2::zeros((0, 0)).view()).is_ok());
}

#[test]
fn a_copied_column_takes_the_smallest_ridge() {
    let (location, base) = random_fit(3, 9);
    let source = [0, 1, 2, 1];
    let covariance = Array2::from_shape_fn((4, 4), |(i, j)| base[[source[i], source[j]]]);
    let location: Vec<f64> = source.iter().map(|&i| location[i]).collect();
    let whitener = Whitener::new(&location, covariance.view()).unwrap();
    assert_eq!(whitener.ridge(), 1e-12);
    // a row on the common line is as far as without the copy
    let plain = Whitener::new(&location[..3], base.view()).unwrap();
    let row: Vec<f64> = location.iter().enumerate().map(|(j, m)| m + covariance[[j, j]].sqrt()).collect();
    let (a, b) = (whitener.distance_squared(&row, &mut Vec::new()), plain.distance_squared(&row[..3], &mut Vec::new()));
    assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
}

#[test]
fn what_is_no_covariance_is_refused() {
    let shape = Whitener::new(&[0.0; 3], Array2::eye(2).view()).unwrap_err();
    assert_eq!(shape, StatsError::Dimensions { expected: 3, found: 2 });
    let mut broken = Array2::eye(2);
    broken[[0, 1]] = f64::NAN;
    let error = Whitener::new(&[0.0; 2], broken.view()).unwrap_err();
    assert!(matches!(error, StatsError::NotFinite { row: 0, column: 1, .. }));
    let wild = ndarray::arr2(&[[1.0, 1e9], [1e9, 1.0]]);
    let error = Whitener::new(&[0.0; 2], wild.view()).unwrap_err();
    assert_eq!(error, StatsError::NotPositiveDefinite { ridge: 1e4 });
}

/// Prints ns per row; run with `cargo test --release --lib stats -- --ignored --nocapture timing`.
#[test]
#[ignore = "a measurement, not a law"]
fn timing_of_one_row_and_of_a_chunk() {
    use std::{hint::black_box, time::Instant};
    for d in [8, 32, 128] {
        let (location, covariance) = random_fit(d, 1);
        let whitener = Whitener::new(&location, covariance.view()).unwrap();
        let columns: Vec<Vec<f64>> = (0..d).map(|j| vec![location[j] + 1.0; 4096]).collect();
        let columns: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let row: Vec<f64> = location.iter().map(|m| m + 1.0).collect();
        let (mut scratch, mut out) = (Vec::new(), vec![0.0; 4096]);
        let (mut single, mut batch) = (f64::MAX, f64::MAX);
        for _ in 0..30 {
            let start = Instant::now();
            for _ in 0..4096 {
                black_box(whitener.distance_squared(black_box(&row), &mut scratch));
            }
            single = single.min(start.elapsed().as_nanos() as f64 / 4096.0);
            let start = Instant::now();
            whitener.distances_squared(|j| black_box(&columns)[j], &mut scratch, &mut out);
            black_box(&out);
            batch = batch.min(start.elapsed().as_nanos() as f64 / 4096.0);
        }
        println!("d {d}: {single:.0} ns one row, {batch:.0} ns a row in chunks");
    }
}
