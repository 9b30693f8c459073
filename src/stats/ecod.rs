//! Outliers by empirical cumulative distributions (ECOD; Li, Zhao, Hu, Botta, Ionescu and Chen 2022).

use super::scale::{Scale, finite};

/// How far out a row lies in each column of a sample: Σ_j max(left tail, right tail).
///
/// A tail is −ln of the share of the sample at or beyond the value, on the left or on the right; beyond the sample it
/// counts half a row. Of the three aggregates of ECOD the third takes one of the two tails by the sign of the skewness;
/// taken column by column, as pyod does it, the maximum of the three is that of the tails. The score is a
/// function of the row and the sample: rows scored beside it do not enter the distributions.
///
/// A missing cell (NaN or infinite) adds nothing, here and in the sample; a row without any cell has no score. Columns that
/// do not vary are blind.
#[derive(Clone, Debug)]
pub(crate) struct Ecod {
    columns: Vec<Column>,
    blind: Vec<usize>,
    /// ln c of a count c; that of half a row at 0.
    logarithms: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Column {
    at: usize,
    sorted: Vec<f64>,
}

impl Ecod {
    /// Of a sample of `rows` with `columns` cells each.
    pub(crate) fn new(rows: &[&[f64]], columns: usize) -> Self {
        let scale = Scale::new(rows, columns);
        let column = |&at: &usize| {
            let mut sorted = Vec::with_capacity(rows.len());
            sorted.extend(finite(rows, at));
            sorted.sort_unstable_by(f64::total_cmp);
            Column { at, sorted }
        };
        let logarithm = |count: usize| if count == 0 { 0.5_f64.ln() } else { (count as f64).ln() };
        Ecod {
            columns: scale.kept().iter().map(column).collect(),
            blind: scale.blind().to_vec(),
            logarithms: (0..=rows.len()).map(logarithm).collect(),
        }
    }

    /// Columns left out, ascending.
    pub(crate) fn blind(&self) -> &[usize] {
        &self.blind
    }

    /// Number of columns that count.
    pub(crate) fn dimension(&self) -> usize {
        self.columns.len()
    }

    /// The score of `row`; NaN if no cell that counts is there.
    pub(crate) fn score(&self, row: &[f64]) -> f64 {
        let parts = self.columns.iter().filter_map(|column| self.part(column, row.get(column.at).copied()?));
        parts.reduce(|a, b| a + b).unwrap_or(f64::NAN)
    }

    /// The scores of a chunk, bit-identical to [`score`](Self::score): `columns(j)[i]` is value j of row i.
    pub(crate) fn scores<'a>(&self, columns: impl Fn(usize) -> &'a [f64], out: &mut [f64]) {
        out.fill(f64::NAN);
        for column in &self.columns {
            for (out, &value) in out.iter_mut().zip(columns(column.at)) {
                if let Some(part) = self.part(column, value) {
                    *out = if out.is_nan() { part } else { *out + part };
                }
            }
        }
    }

    /// What each column that is there adds to the score, with the column's index, in column order.
    pub(crate) fn contributions(&self, row: &[f64]) -> Vec<(usize, f64)> {
        let part = |column: &Column| Some((column.at, self.part(column, row.get(column.at).copied()?)?));
        self.columns.iter().filter_map(part).collect()
    }

    fn part(&self, column: &Column, value: f64) -> Option<f64> {
        if !value.is_finite() {
            return None;
        }
        let sorted = column.sorted.as_slice();
        let below = sorted.partition_point(|&x| x < value);
        let up_to = match sorted.get(below) {
            Some(&x) if x == value => below + sorted[below..].partition_point(|&x| x == value),
            _ => below,
        };
        // the larger tail is that of the fewer rows
        let fewer = up_to.min(sorted.len() - below);
        Some(self.logarithms[sorted.len()] - self.logarithms[fewer])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, matrix, numbers};
    use proptest::prelude::*;

    /// The training scores of pyod's ECOD. Its scores of new rows are left out on purpose: they put the new rows, all of
    /// them, into the distributions, so that a row's score depends on the rows beside it (pyod#604).
    #[test]
    fn golden_training_scores_match_pyod() {
        let mut checked = 0;
        for case in cases("pyod").into_iter().filter(|case| case.name == "ECOD") {
            let rows = matrix(&case.inputs["X"]);
            let rows: Vec<&[f64]> = rows.rows().into_iter().map(|row| row.to_slice().unwrap()).collect();
            let ecod = Ecod::new(&rows, rows[0].len());
            for (row, expected) in rows.iter().zip(numbers(&case.outputs["train_scores"])) {
                assert_close(ecod.score(row), expected, 1e-12, 0.0, &case.name);
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    #[test]
    fn tails_count_the_sample_and_nothing_else() {
        let rows: Vec<Vec<f64>> = [1.0, 2.0, 2.0, 9.0].iter().map(|&x| vec![x, 5.0]).collect();
        let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let ecod = Ecod::new(&rows, 3);
        assert_eq!((ecod.blind(), ecod.dimension()), (&[1, 2][..], 1));
        for (x, fewer) in [(0.0, 0.5), (1.0, 1.0), (2.0, 3.0), (5.0, 1.0), (9.0, 1.0), (10.0, 0.5)] {
            assert_close(ecod.score(&[x]), -f64::ln(fewer / 4.0), 1e-12, 0.0, &x.to_string());
            assert_eq!(ecod.contributions(&[x, 1.0]), [(0, ecod.score(&[x]))]);
        }
        let mirrored: Vec<Vec<f64>> = rows.iter().map(|row| vec![-row[0]]).collect();
        let mirrored = Ecod::new(&mirrored.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
        assert_eq!(mirrored.score(&[-9.0]), ecod.score(&[9.0]));
        assert!(ecod.score(&[f64::NAN, 5.0]).is_nan() && ecod.score(&[f64::INFINITY, 5.0]).is_nan());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_row_and_a_chunk_agree_bit_for_bit(
            cells in prop::collection::vec(prop_oneof![-3.0..3.0_f64, (-3..3_i32).prop_map(f64::from), Just(f64::NAN)], 12..300),
        ) {
            let rows: Vec<&[f64]> = cells.chunks_exact(3).collect();
            let ecod = Ecod::new(&rows[..rows.len() / 2], 3);
            let columns: Vec<Vec<f64>> = (0..3).map(|j| rows.iter().map(|row| row[j]).collect()).collect();
            let mut out = vec![0.0; rows.len()];
            ecod.scores(|j| &columns[j], &mut out);
            for (row, score) in rows.iter().zip(out) {
                prop_assert_eq!(ecod.score(row).to_bits(), score.to_bits());
            }
        }
    }
}
