//! Mean and covariance of a stream of rows, mergeable without loss.

use super::error::StatsError;
use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};
use serde::{Deserialize, Serialize};

/// Rows gathered before they enter the sums as one matrix product.
const BLOCK: usize = 256;

/// Pairwise shifted sums over `dim` columns.
///
/// A missing cell (NaN or infinite) contributes no deviation, as if the column's mean stood there;
/// the covariance divides by all n rows. It is therefore positive semidefinite by construction, and
/// shrinks towards 0 in columns with many missing cells.
///
/// Every sum is taken around a shift near the data (the median of a column's first block), which
/// keeps the digits of a column far from 0 (Chan, Golub and LeVeque 1983). Merging is exact algebra
/// on the sums: the parts give the whole up to rounding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub(crate) struct Moments {
    dim: usize,
    /// Rows in the sums; those in the buffer come on top.
    rows: u64,
    /// s_j; NaN while no value of column j has entered the sums.
    shift: Vec<f64>,
    /// Σ (x_i − s_i)(x_j − s_j) over rows with both present.
    products: Array2<f64>,
    /// [i, j]: Σ (x_i − s_i) over rows with both present.
    sums: Array2<f64>,
    /// Rows with both present; the diagonal counts one column.
    pairs: Array2<f64>,
    /// Up to 255 rows, row by row; NaN = missing.
    buffer: Vec<f64>,
    /// Rows of the buffer (a row of no columns takes no space).
    buffered: usize,
}

/// The stored form of [`Moments`].
#[derive(Serialize, Deserialize)]
struct State {
    dim: usize,
    rows: u64,
    shift: Vec<Option<f64>>,
    products: Vec<f64>,
    sums: Vec<f64>,
    pairs: Vec<f64>,
    buffer: Vec<Option<f64>>,
    buffered: usize,
}

impl Moments {
    /// No rows yet, of `dim` columns.
    pub(crate) fn new(dim: usize) -> Self {
        let zeros = Array2::zeros((dim, dim));
        Self {
            dim,
            rows: 0,
            shift: vec![f64::NAN; dim],
            products: zeros.clone(),
            sums: zeros.clone(),
            pairs: zeros,
            buffer: Vec::new(),
            buffered: 0,
        }
    }

    /// Adds a row; NaN and infinite cells are missing, as are cells that a short row lacks. Cells
    /// beyond `dim` are ignored.
    pub(crate) fn push(&mut self, row: &[f64]) {
        debug_assert_eq!(row.len(), self.dim);
        let finite = |v: &f64| if v.is_finite() { *v } else { f64::NAN };
        self.buffer.extend(row.iter().take(self.dim).map(finite));
        self.buffered += 1;
        self.buffer.resize(self.buffered * self.dim, f64::NAN);
        if self.buffered == BLOCK {
            self.flush();
        }
    }

    /// Rows that have not entered the sums yet.
    pub(crate) fn rows_gathered(&self) -> usize {
        self.buffered
    }

    /// Rows added so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows + self.buffered as u64
    }

    /// Rows in which `column` is present; 0 for an unknown column.
    pub(crate) fn present(&self, column: usize) -> u64 {
        if column >= self.dim {
            return 0;
        }
        let waiting = self.buffer.iter().skip(column).step_by(self.dim);
        self.pairs[[column, column]] as u64 + waiting.filter(|v| !v.is_nan()).count() as u64
    }

    /// Adds all rows of `other`.
    ///
    /// # Errors
    /// [`StatsError::Dimensions`] when the numbers of columns differ; nothing is changed then.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), StatsError> {
        if other.dim != self.dim {
            return Err(StatsError::Dimensions { expected: self.dim, found: other.dim });
        }
        self.flush();
        let other = other.flushed();
        for (own, &theirs) in self.shift.iter_mut().zip(&other.shift) {
            if own.is_nan() {
                *own = theirs;
            }
        }
        // x − s = (x − s') + (s' − s); a column that other never saw has empty sums there
        let delta: Vec<f64> = other
            .shift
            .iter()
            .zip(&self.shift)
            .map(|(theirs, own)| if theirs.is_nan() { 0.0 } else { theirs - own })
            .collect();
        for i in 0..self.dim {
            for j in 0..self.dim {
                let (ij, ji) = ([i, j], [j, i]);
                self.products[ij] += other.products[ij]
                    + delta[j] * other.sums[ij]
                    + delta[i] * other.sums[ji]
                    + delta[i] * delta[j] * other.pairs[ij];
                self.sums[ij] += other.sums[ij] + delta[i] * other.pairs[ij];
                self.pairs[ij] += other.pairs[ij];
            }
        }
        self.rows += other.rows;
        Ok(())
    }

    /// Mean of each column over its present cells; NaN where none is.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let all = self.flushed();
        (0..self.dim).map(|i| all.shift[i] + all.shifted_mean(i)).collect()
    }

    /// Mean-imputed covariance, `dim` × `dim`: C_ij = (1/n)·Σ (x_i − μ_i)(x_j − μ_j) over rows with
    /// both present. Zeros where a column is all missing or there are no rows.
    pub(crate) fn covariance(&self) -> Array2<f64> {
        let all = self.flushed();
        let n = all.rows.max(1) as f64;
        let mean: Vec<f64> = (0..self.dim).map(|i| all.shifted_mean(i)).collect();
        let mean: Vec<f64> = mean.into_iter().map(|m| if m.is_nan() { 0.0 } else { m }).collect();
        let mut covariance = Array2::zeros((self.dim, self.dim));
        for i in 0..self.dim {
            for j in 0..=i {
                let (ij, ji) = ([i, j], [j, i]);
                let value = (all.products[ij] - mean[j] * all.sums[ij] - mean[i] * all.sums[ji]
                    + mean[i] * mean[j] * all.pairs[ij])
                    / n;
                let value = if i == j { f64::max(value, 0.0) } else { value };
                covariance[ij] = value;
                covariance[ji] = value;
            }
        }
        covariance
    }

    /// Mean of column `i` less its shift; NaN when the column is all missing.
    fn shifted_mean(&self, i: usize) -> f64 {
        self.sums[[i, i]] / self.pairs[[i, i]]
    }

    /// A copy whose buffer has entered the sums.
    fn flushed(&self) -> Self {
        let mut copy = self.clone();
        copy.flush();
        copy
    }

    /// Moves the buffered rows into the sums.
    pub(crate) fn flush(&mut self) {
        let (count, dim) = (self.buffered, self.dim);
        self.buffered = 0;
        self.rows += count as u64;
        let mut block = std::mem::take(&mut self.buffer);
        if block.is_empty() {
            return;
        }
        for column in 0..dim {
            if self.shift[column].is_nan() {
                self.shift[column] = median(block.iter().skip(column).step_by(dim));
            }
        }
        let mut mask = Vec::new();
        if block.iter().any(|v| v.is_nan()) {
            mask = block.iter().map(|v| f64::from(u8::from(!v.is_nan()))).collect();
        }
        for row in block.chunks_exact_mut(dim) {
            for (value, shift) in row.iter_mut().zip(&self.shift) {
                *value = if value.is_nan() { 0.0 } else { *value - shift };
            }
        }
        if let Ok(x) = ArrayView2::from_shape((count, dim), &block) {
            general_mat_mul(1.0, &x.t(), &x, 1.0, &mut self.products);
            match ArrayView2::from_shape((count, dim), &mask) {
                Ok(present) => {
                    general_mat_mul(1.0, &x.t(), &present, 1.0, &mut self.sums);
                    general_mat_mul(1.0, &present.t(), &present, 1.0, &mut self.pairs);
                }
                // no mask: a complete block
                Err(_) => {
                    for (column, mut sums) in x.columns().into_iter().zip(self.sums.rows_mut()) {
                        let sum = column.sum();
                        sums.mapv_inplace(|s| s + sum);
                    }
                    self.pairs.mapv_inplace(|p| p + count as f64);
                }
            }
        }
        block.clear();
        self.buffer = block;
    }
}

/// Median of the values present; NaN when there are none.
fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut present: Vec<f64> = values.copied().filter(|v| !v.is_nan()).collect();
    if present.is_empty() {
        return f64::NAN;
    }
    let middle = present.len() / 2;
    *present.select_nth_unstable_by(middle, f64::total_cmp).1
}

impl From<Moments> for State {
    fn from(m: Moments) -> Self {
        let optional = |v: Vec<f64>| v.into_iter().map(|v| Some(v).filter(|v| !v.is_nan())).collect();
        Self {
            dim: m.dim,
            rows: m.rows,
            shift: optional(m.shift),
            products: m.products.iter().copied().collect(),
            sums: m.sums.iter().copied().collect(),
            pairs: m.pairs.iter().copied().collect(),
            buffer: optional(m.buffer),
            buffered: m.buffered,
        }
    }
}

impl TryFrom<State> for Moments {
    type Error = StatsError;

    fn try_from(s: State) -> Result<Self, StatsError> {
        let dim = s.dim;
        let cells = s.buffered.checked_mul(dim);
        if s.shift.len() != dim || s.buffered >= BLOCK || cells != Some(s.buffer.len()) {
            return Err(StatsError::State { what: "moments: lengths do not fit the columns" });
        }
        let square = |v: Vec<f64>| {
            Array2::from_shape_vec((dim, dim), v)
                .map_err(|_| StatsError::State { what: "moments: sums do not fit the columns" })
        };
        let values = |v: Vec<Option<f64>>| v.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect();
        Ok(Self {
            dim,
            rows: s.rows,
            shift: values(s.shift),
            products: square(s.products)?,
            sums: square(s.sums)?,
            pairs: square(s.pairs)?,
            buffer: values(s.buffer),
            buffered: s.buffered,
        })
    }
}

#[cfg(test)]
mod tests;
