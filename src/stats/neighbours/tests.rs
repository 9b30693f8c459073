#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Clustered rows with holes, rounded so that there are ties.
fn sample(n: usize, d: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut row = || {
        let cluster = f64::from(rng.random_range(0..3_u8));
        let mut cell = |j: usize| match rng.random_range(0..30_u8) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            _ => 5.0 * cluster * (j % 2) as f64 + (rng.random::<f64>() * 8.0).round() * 10_f64.powi(j as i32 % 3),
        };
        (0..d).map(&mut cell).collect()
    };
    (0..n).map(|_| row()).collect()
}

fn slices(rows: &[Vec<f64>]) -> Vec<&[f64]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// The definition, word by word.
fn plain(rows: &[&[f64]], columns: usize, k: usize, row: &[f64]) -> f64 {
    let scale = Scale::new(rows, columns);
    let standard = |row: &[f64]| {
        let mut out = Vec::new();
        scale.standardise(|column| row.get(column).copied(), &mut out);
        out
    };
    let query = standard(row);
    let present = query.iter().filter(|x| !x.is_nan()).count();
    let distance = |row: &&[f64]| -> f64 {
        let cells = standard(row).into_iter().map(|x| if x.is_nan() { 0.0 } else { x });
        cells.zip(&query).filter(|(_, q)| !q.is_nan()).map(|(x, q)| (x - q) * (x - q)).sum()
    };
    let mut distances: Vec<f64> = rows.iter().map(distance).collect();
    distances.sort_unstable_by(f64::total_cmp);
    if present == 0 {
        return f64::NAN;
    }
    (distances[k.min(rows.len()) - 1] * (query.len() as f64 / present as f64)).sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_distance_is_that_of_the_definition(n in 2..400_usize, d in 1..20_usize, k in 1..12_usize, seed: u64) {
        let rows = sample(n, d, seed);
        let rows = slices(&rows);
        let neighbours = Neighbours::new(&rows, d, k);
        let mut scratch = Vec::new();
        for query in sample(20, d, seed ^ 1) {
            let (found, expected) = (neighbours.distance(&query, &mut scratch), plain(&rows, d, k, &query));
            let near = (found - expected).abs() <= 1e-5 * expected + 1e-6;
            prop_assert!(near || (found.is_nan() && expected.is_nan()), "{found} {expected}");
        }
    }

    #[test]
    fn contributions_sum_to_the_mean_squared_distance(n in 20..200_usize, d in 2..10_usize, seed: u64) {
        let rows = sample(n, d, seed);
        let rows = slices(&rows);
        let query: Vec<f64> = (0..d).map(|j| 100.0 * j as f64).collect();
        let nearest = |k| plain(&rows, d, k, &query).powi(2);
        let expected = (1..=5).map(nearest).sum::<f64>() / 5.0;
        let parts = Neighbours::new(&rows, d, 5).contributions(&query);
        let sum: f64 = parts.iter().map(|part| part.1).sum();
        prop_assert!((sum - expected).abs() <= 1e-5 * expected, "{sum} {expected}");
    }
}

#[test]
fn columns_that_do_not_vary_and_rows_without_cells() {
    let rows = [[1.0, 7.0, f64::NAN], [2.0, 7.0, f64::NAN], [3.0, 7.0, f64::NAN]];
    let rows: Vec<&[f64]> = rows.iter().map(|row| &row[..]).collect();
    let neighbours = Neighbours::new(&rows, 3, 5);
    assert_eq!((neighbours.blind(), neighbours.dimension()), (&[1, 2][..], 1));
    let mut scratch = Vec::new();
    // with three rows the third is the furthest: 4 − 1, in units of √(2/3)
    let far = neighbours.distance(&[4.0, 1e9, 1e9], &mut scratch);
    assert!((far - 3.0 / (2.0_f64 / 3.0).sqrt()).abs() < 1e-6);
    assert!(neighbours.distance(&[f64::NAN, 7.0, 1.0], &mut scratch).is_nan());
    let none = Neighbours::new(&[], 2, 5);
    assert_eq!(none.dimension(), 0);
    assert!(none.distance(&[1.0, 2.0], &mut scratch).is_nan());
    assert!(neighbours.distance(&[f64::MAX, 0.0, 0.0], &mut scratch) > 1e14);
}
