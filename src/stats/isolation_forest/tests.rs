#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::stats::golden::assert_close;
use proptest::prelude::*;

fn sample(n: usize, d: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cell = |j: usize| match rng.random_range(0..30_u8) {
        0 => f64::NAN,
        1 => f64::NEG_INFINITY,
        _ if j.is_multiple_of(3) => f64::from(rng.random_range(0..3_u8)),
        _ => rng.random::<f64>().powi(3) * 10_f64.powi(j as i32 % 5),
    };
    (0..n).map(|_| (0..d).map(&mut cell).collect()).collect()
}

fn slices(rows: &[Vec<f64>]) -> Vec<&[f64]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// The mean path of a row from the nodes alone, with branches.
fn plain_length(forest: &IsolationForest, row: &[f64]) -> f64 {
    let d = forest.kept.len();
    let size = 1 << forest.depth;
    let mut total = 0.0;
    for tree in 0..TREES {
        let mut place = 1;
        while place < size {
            let node = forest.nodes[tree * size + place];
            let (position, mirrored) = (node.cell as usize % d, node.cell as usize >= d);
            let x = cell(row, forest.kept[position]);
            let second = if x.is_nan() {
                false
            } else if mirrored {
                x <= (-node.cut).next_down()
            } else {
                x > node.cut
            };
            place = 2 * place + usize::from(second);
        }
        total += forest.lengths[tree * size + place - size];
    }
    total / TREES as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn one_row_and_a_chunk_agree_bit_for_bit(n in 2..400_usize, d in 1..9_usize, seed: u64) {
        let rows = sample(n, d, seed);
        let forest = IsolationForest::new(&slices(&rows), d, seed);
        prop_assume!(forest.dimension() > 0);
        let columns: Vec<Vec<f64>> = (0..d).map(|j| rows.iter().map(|row| row[j]).collect()).collect();
        let (mut out, mut scratch) = (vec![0.0; n], Vec::new());
        forest.scores(|j| &columns[j], &mut scratch, &mut out);
        for (row, batch) in rows.iter().zip(out) {
            let single = forest.score(row, &mut scratch);
            prop_assert_eq!(single.to_bits(), batch.to_bits());
            if !single.is_nan() {
                assert_close(single, 2_f64.powf(-plain_length(&forest, row) / forest.typical), 1e-12, 0.0, "plain twin");
            }
        }
    }

    #[test]
    fn a_missing_cell_goes_where_more_rows_went(seed: u64) {
        let rows = sample(200, 1, seed).into_iter().map(|row| vec![row[0].powi(2)]).collect::<Vec<_>>();
        let forest = IsolationForest::new(&slices(&rows), 1, seed);
        let present: Vec<f64> = rows.iter().map(|row| row[0]).filter(|x| x.is_finite()).collect();
        prop_assume!(forest.dimension() > 0);
        // a subsample of all rows: the root of every tree splits them all
        for tree in 0..TREES {
            let node = forest.nodes[(tree << forest.depth) + 1];
            let second = present.iter().filter(|&&x| if node.cell == 1 { -x > node.cut } else { x > node.cut }).count();
            prop_assert!(second > 0 && 2 * second <= present.len());
        }
    }
}

#[test]
fn expected_lengths_are_those_of_the_definition() {
    // 2·H(n−1) − 2(n−1)/n with the harmonic number itself
    for (n, tolerance) in [(3, 0.3), (10, 0.03), (256, 1e-3)] {
        let harmonic: f64 = (1..n).map(|i| 1.0 / f64::from(i)).sum();
        let exact = 2.0 * harmonic - 2.0 * f64::from(n - 1) / f64::from(n);
        assert_close(expected_length(n as usize), exact, tolerance, 0.0, "harmonic");
    }
    assert_eq!((expected_length(0), expected_length(1), expected_length(2)), (0.0, 0.0, 1.0));
    // c(256) of the authors' own text, 10.244…
    assert_close(expected_length(256), 10.244, 1e-4, 0.0, "c(256)");
}

#[test]
fn a_row_apart_scores_higher_and_its_column_is_named() {
    let mut rng = StdRng::seed_from_u64(5);
    let rows: Vec<Vec<f64>> = (0..1_000).map(|_| (0..6).map(|_| rng.random::<f64>()).collect()).collect();
    let forest = IsolationForest::new(&slices(&rows), 6, 1);
    let mut scratch = Vec::new();
    let mut scores: Vec<f64> = rows.iter().map(|row| forest.score(row, &mut scratch)).collect();
    scores.sort_unstable_by(f64::total_cmp);
    let mut far = [0.5; 6];
    (far[1], far[4]) = (-2.0, 3.0);
    let apart = forest.score(&far, &mut scratch);
    assert!(forest.score(&[0.5; 6], &mut scratch) < scores[100] && apart > scores[600], "{apart} {}", scores[600]);
    let parts = forest.contributions(&far);
    let least = parts[1].1.min(parts[4].1);
    assert!([0, 2, 3, 5].iter().all(|&i: &usize| parts[i].1 < 0.5 * least), "{parts:?}");
    assert_eq!(IsolationForest::new(&slices(&rows), 6, 1).score(&far, &mut scratch).to_bits(), apart.to_bits());
    assert_ne!(IsolationForest::new(&slices(&rows), 6, 2).score(&far, &mut scratch), apart);
}

#[test]
fn blind_columns_and_rows_without_cells() {
    let rows: Vec<Vec<f64>> = (0..50).map(|i| vec![7.0, f64::from(i), f64::NAN]).collect();
    let forest = IsolationForest::new(&slices(&rows), 3, 0);
    assert_eq!((forest.blind(), forest.dimension()), (&[0, 2][..], 1));
    let mut scratch = Vec::new();
    assert!(forest.score(&[7.0, f64::INFINITY, 1.0], &mut scratch).is_nan());
    assert!(forest.score(&[], &mut scratch).is_nan());
    assert_eq!(forest.score(&[9.0, 25.0, 9.0], &mut scratch), forest.score(&[7.0, 25.0, 0.0], &mut scratch));
    assert_eq!(IsolationForest::new(&[], 3, 0).dimension(), 0);
    let huge = [vec![-f64::MAX], vec![0.0], vec![1e-300]];
    assert!(IsolationForest::new(&slices(&huge), 1, 0).blind() == [0], "its variance is not finite");
}
