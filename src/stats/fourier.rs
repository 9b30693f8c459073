//! The kernel two-sample test in linear time: mean embeddings by random Fourier features.

use super::eigen::symmetric_eigenvalues;
use super::permutation::Compared;
use super::quadratic_form::upper_tail;
use ndarray::{Array2, ArrayView2};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::f64::consts::PI;

/// Reference rows whose distances give the bandwidth.
const BANDWIDTH_ROWS: usize = 256;

/// Random Fourier features of a Gaussian kernel (Rahimi and Recht 2007) on standardised columns.
///
/// A cell that is not finite is its column's mean, and sets an indicator of its column that the kernel sees as one more
/// column. A column that is constant in the reference is seen by its indicator only.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FourierFeatures {
    mean: Vec<f64>,
    /// 1 / standard deviation; 0 for a constant column.
    inverse: Vec<f64>,
    /// Column by column: a weight per frequency for the standardised value.
    value_weights: Array2<f64>,
    /// Column by column: a weight per frequency for a missing cell.
    missing_weights: Array2<f64>,
}

impl FourierFeatures {
    /// `frequencies` random frequencies for rows like those of `reference`; the bandwidth is the median distance between the
    /// rows of a subsample (Gretton et al. 2012). `None` without two rows, a column or a frequency.
    pub(crate) fn fit(reference: ArrayView2<'_, f64>, frequencies: usize, seed: u64) -> Option<Self> {
        let (rows, columns) = reference.dim();
        if rows < 2 || columns == 0 || frequencies == 0 {
            return None;
        }
        let (mut mean, mut inverse) = (Vec::with_capacity(columns), Vec::with_capacity(columns));
        for column in reference.columns() {
            let finite = || column.iter().copied().filter(|value| value.is_finite());
            let count = finite().count().max(1) as f64;
            let middle = finite().map(|value| value / count).sum::<f64>();
            let spread = finite().map(|value| (value - middle).powi(2) / count).sum::<f64>().sqrt();
            // rounding of the mean leaves a constant column some 1e-16 of spread
            let constant = spread.is_nan() || spread <= middle.abs() * 1e-12;
            mean.push(middle);
            inverse.push(if constant { 0.0 } else { 1.0 / spread });
        }
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let empty = Array2::zeros((columns, frequencies));
        let mut features = FourierFeatures { mean, inverse, value_weights: empty.clone(), missing_weights: empty };
        let bandwidth = features.median_distance(reference, &mut random);
        let mut draw = || normal(&mut random) / bandwidth;
        features.value_weights.iter_mut().for_each(|weight| *weight = draw());
        features.missing_weights.iter_mut().for_each(|weight| *weight = draw());
        Some(features)
    }

    /// Median distance of pairs of randomly chosen rows; 1 if that is 0.
    fn median_distance(&self, reference: ArrayView2<'_, f64>, random: &mut Xoshiro256PlusPlus) -> f64 {
        let mut distances: Vec<f64> = (0..BANDWIDTH_ROWS * 4)
            .map(|_| {
                let [a, b] = [0; 2].map(|_| reference.row(random.random_range(0..reference.nrows())));
                let cells = a.iter().zip(b.iter()).zip(&self.inverse);
                let squares = cells.map(|((&a, &b), inverse)| match (a.is_finite(), b.is_finite()) {
                    (true, true) => ((a - b) * inverse).powi(2),
                    (false, false) => 0.0,
                    _ => 1.0, // the indicator; the value counts as the mean
                });
                squares.sum::<f64>().sqrt()
            })
            .filter(|&distance| distance > 0.0)
            .collect();
        let middle = distances.len() / 2;
        if distances.is_empty() { 1.0 } else { *distances.select_nth_unstable_by(middle, f64::total_cmp).1 }
    }

    /// Numbers of an embedding: a cosine and a sine per frequency.
    pub(crate) fn width(&self) -> usize {
        2 * self.value_weights.ncols()
    }

    /// The embedding of a row with the columns of the reference, into `out` of [`width`](Self::width) numbers; its norm is 1.
    pub(crate) fn embed(&self, row: &[f64], out: &mut [f64]) {
        let frequencies = self.value_weights.ncols();
        let (angles, sines) = out.split_at_mut(frequencies);
        angles.fill(0.0);
        for (column, &value) in row.iter().enumerate().take(self.mean.len()) {
            let (weights, by) = if value.is_finite() {
                (self.value_weights.row(column), (value - self.mean[column]) * self.inverse[column])
            } else {
                (self.missing_weights.row(column), 1.0)
            };
            // beyond this an angle has no digits left
            let by = by.clamp(-1e6, 1e6);
            angles.iter_mut().zip(weights).for_each(|(angle, weight)| *angle += weight * by);
        }
        let scale = (1.0 / frequencies as f64).sqrt();
        for (angle, sine) in angles.iter_mut().zip(sines) {
            let (s, c) = angle.sin_cos();
            (*angle, *sine) = (c * scale, s * scale);
        }
    }
}

/// The reference side of the test: its mean embedding and the null distribution.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MeanEmbedding {
    mean: Vec<f64>,
    rows: u64,
    /// Eigenvalues of the covariance of the embeddings.
    eigenvalues: Vec<f64>,
}

impl MeanEmbedding {
    /// Of the rows of a reference; `None` for less than two rows, or if all rows embed alike.
    pub(crate) fn fit(features: &FourierFeatures, reference: ArrayView2<'_, f64>) -> Option<Self> {
        let (rows, width) = (reference.nrows(), features.width());
        if rows < 2 {
            return None;
        }
        let mut embedded = Array2::zeros((rows, width));
        for (mut out, row) in embedded.rows_mut().into_iter().zip(reference.rows()) {
            features.embed(&row.to_vec(), out.as_slice_mut()?);
        }
        let mean = embedded.mean_axis(ndarray::Axis(0))?;
        embedded -= &mean;
        let covariance = embedded.t().dot(&embedded) / (rows as f64 - 1.0);
        let eigenvalues = symmetric_eigenvalues(&covariance)?;
        let spread = eigenvalues.iter().sum::<f64>();
        (spread > 1e-12).then(|| MeanEmbedding { mean: mean.to_vec(), rows: rows as u64, eigenvalues })
    }

    /// Tests a window of `m` rows by the mean of their embeddings; `None` when m = 0.
    ///
    /// The statistic is the squared maximum mean discrepancy · n·m/(n + m) (Gretton et al. 2012). Under the null it is a sum
    /// of chi-square variables weighted by the eigenvalues of the embeddings' covariance, by the central limit theorem: an
    /// approximation that wants some 50 rows on both sides. The effect is the discrepancy without what chance adds to it,
    /// 0 (same) to √2.
    pub(crate) fn test(&self, window_mean: &[f64], m: u64) -> Option<Compared> {
        if m == 0 {
            return None;
        }
        let square: f64 = self.mean.iter().zip(window_mean).map(|(a, b)| (a - b) * (a - b)).sum();
        let chance = 1.0 / self.rows as f64 + 1.0 / m as f64;
        let statistic = square / chance;
        let spread = self.eigenvalues.iter().sum::<f64>();
        let effect = (square - spread * chance).max(0.0).sqrt();
        Some(Compared { statistic, p_value: upper_tail(&self.eigenvalues, statistic), effect })
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (2.0 * PI * random.random::<f64>()).cos()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
