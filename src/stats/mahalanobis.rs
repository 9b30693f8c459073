//! The squared Mahalanobis distance (Mahalanobis 1936), by a packed triangular factor.

use super::cholesky::{invert_lower, ridged_cholesky};
use super::error::StatsError;
use super::panels::{GROUP, PANEL, centre, centred, split, square, squares, times};
use ndarray::{Array2, ArrayView2};

/// Groups of rows that share one pass over W.
const GROUPS: usize = 8;

/// Below this share of the mean square a variance is rounding noise: a standard deviation of 1e-12
/// of the typical magnitude.
const NEGLIGIBLE: f64 = 1e-24;

/// Maps a row x to W(x − μ) with WᵀW = Σ⁻¹, so that the squared length is the squared distance.
///
/// Columns without variance are *blind*: left out and reported. A missing cell (NaN or infinite)
/// counts as the location and adds nothing. W = L⁻¹ (Σ = LLᵀ, Cholesky) is kept in panels of 8
/// rows, stored column by column and padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Whitener {
    kept: Vec<usize>,
    blind: Vec<usize>,
    location: Vec<f64>,
    panels: Vec<[f64; PANEL]>,
    #[cfg(test)]
    ridge: f64,
}

impl Whitener {
    /// From a location and covariance of d columns.
    ///
    /// The covariance is scaled to a correlation first. If that is singular in floating point, the
    /// smallest of the ridges 1e-12, 1e-10, … (relative to each variance) that makes the Cholesky
    /// factor exist is added.
    ///
    /// # Errors
    /// [`StatsError::Dimensions`] when the shapes differ, [`StatsError::NotFinite`] when a
    /// covariance between kept columns is not finite, [`StatsError::NotPositiveDefinite`] when the
    /// matrix is so far from a covariance that no ridge helps.
    pub(crate) fn new(location: &[f64], covariance: ArrayView2<'_, f64>) -> Result<Self, StatsError> {
        let d = location.len();
        for found in [covariance.nrows(), covariance.ncols()] {
            if found != d {
                return Err(StatsError::Dimensions { expected: d, found });
            }
        }
        let sighted = |&i: &usize| {
            let (mean, variance) = (location[i], covariance[[i, i]]);
            mean.is_finite() && variance.is_finite() && variance > NEGLIGIBLE * (mean * mean + variance)
        };
        let (kept, blind): (Vec<usize>, Vec<usize>) = (0..d).partition(sighted);
        let deviation: Vec<f64> = kept.iter().map(|&i| covariance[[i, i]].sqrt()).collect();
        let mut correlation = Array2::zeros((kept.len(), kept.len()));
        for (i, &row) in kept.iter().enumerate() {
            for (j, &column) in kept.iter().enumerate() {
                let value = covariance[[row, column]];
                if !value.is_finite() {
                    return Err(StatsError::NotFinite { row, column, value });
                }
                correlation[[i, j]] = value / deviation[i] / deviation[j];
            }
        }
        let (factor, _ridge) = ridged_cholesky(&correlation)?;
        let inverse = invert_lower(&factor);
        Ok(Self {
            location: kept.iter().map(|&i| location[i]).collect(),
            panels: pack(&inverse, &deviation),
            kept,
            blind,
            #[cfg(test)]
            ridge: _ridge,
        })
    }

    /// Columns left out, ascending: location or variance not finite, or the variance at most 1e-24 of
    /// the mean square (a standard deviation of 1e-12 of the magnitude: rounding noise).
    pub(crate) fn blind(&self) -> &[usize] {
        &self.blind
    }

    /// Columns that count, ascending.
    pub(crate) fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// Number of columns that count: the degrees of freedom of the squared distance.
    pub(crate) fn dimension(&self) -> usize {
        self.kept.len()
    }

    /// The ridge that was needed, relative to each variance; 0 when none.
    #[cfg(test)]
    pub(crate) fn ridge(&self) -> f64 {
        self.ridge
    }

    /// Squared distance of one `row` of all columns; bit-identical to
    /// [`distances_squared`](Self::distances_squared). Allocates only while `scratch` grows.
    pub(crate) fn distance_squared(&self, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
        self.distance_squared_to(row, &self.location, scratch)
    }

    /// The same to another `centre`, of the kept columns.
    pub(crate) fn distance_squared_to(&self, row: &[f64], centre: &[f64], scratch: &mut Vec<f64>) -> f64 {
        self.centre(row, centre, scratch);
        settle(square(&self.panels, scratch))
    }

    /// W(x − μ) of one `row`, padded with zeros, in the memory of `scratch`.
    pub(crate) fn whiten<'a>(&self, row: &[f64], scratch: &'a mut Vec<f64>) -> &'a [f64] {
        self.centre(row, &self.location, scratch);
        let d = scratch.len();
        scratch.resize(d + d.next_multiple_of(PANEL), 0.0);
        let (centred, whitened) = scratch.split_at_mut(d);
        let (slots, _) = whitened.as_chunks_mut::<PANEL>();
        for (slot, panel) in slots.iter_mut().zip(self.panels()) {
            *slot = times(panel, centred);
        }
        whitened
    }

    /// Squared distances of a chunk: `columns(j)[i]` is value j of row i, `out[i]` receives row i.
    /// A column shorter than `out` is missing from its end on.
    pub(crate) fn distances_squared<'a>(
        &self,
        columns: impl Fn(usize) -> &'a [f64],
        scratch: &mut Vec<f64>,
        out: &mut [f64],
    ) {
        let width = self.kept.len();
        scratch.clear();
        scratch.resize(width * GROUPS * GROUP, 0.0);
        let (groups, _) = scratch.as_chunks_mut::<GROUP>();
        for (tile, out) in out.chunks_mut(GROUPS * GROUP).enumerate() {
            let start = tile * GROUPS * GROUP;
            let groups = &mut groups[..width * out.len().div_ceil(GROUP)];
            for (j, (&column, &mean)) in self.kept.iter().zip(&self.location).enumerate() {
                let source = columns(column).get(start..).unwrap_or(&[]);
                centre(&source[..source.len().min(out.len())], mean, j, width, groups);
            }
            let mut totals = [[0.0; GROUP]; GROUPS];
            squares(&self.panels, width, groups, &mut totals);
            for (distance, &total) in out.iter_mut().zip(totals.as_flattened()) {
                *distance = settle(total);
            }
        }
    }

    /// Share of each sighted column in the squared distance of `row`: (x − μ)_j·(Σ⁻¹(x − μ))_j with
    /// the column's index, in column order. They sum to the squared distance; a share is negative
    /// when the column makes a joint deviation less surprising.
    pub(crate) fn contributions(&self, row: &[f64], out: &mut Vec<(usize, f64)>) {
        self.contributions_to(row, &self.location, out);
    }

    /// The same for the distance to another `centre`, of the kept columns.
    pub(crate) fn contributions_to(&self, row: &[f64], centre: &[f64], out: &mut Vec<(usize, f64)>) {
        let mut centred = Vec::new();
        self.centre(row, centre, &mut centred);
        let mut gradient = vec![0.0; centred.len()];
        for panel in self.panels() {
            let whitened = times(panel, &centred);
            for (slot, column) in gradient.iter_mut().zip(panel) {
                *slot += column.iter().zip(&whitened).map(|(w, y)| w * y).sum::<f64>();
            }
        }
        out.clear();
        let shares = centred.iter().zip(&gradient).map(|(c, g)| c * g);
        out.extend(self.kept.iter().copied().zip(shares));
    }

    /// x − μ of the kept columns.
    fn centre(&self, row: &[f64], location: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.extend(
            self.kept
                .iter()
                .zip(location)
                .map(|(&column, &mean)| row.get(column).map_or(0.0, |&value| centred(value, mean))),
        );
    }

    fn panels(&self) -> impl Iterator<Item = &[[f64; PANEL]]> {
        split(&self.panels, self.kept.len())
    }
}

/// A sum that overflowed both ways is infinitely far.
fn settle(total: f64) -> f64 {
    if total.is_nan() { f64::INFINITY } else { total }
}

/// Packs W in panels, scaling column j by 1 / deviation j.
fn pack(inverse: &Array2<f64>, deviation: &[f64]) -> Vec<[f64; PANEL]> {
    let d = deviation.len();
    let mut panels = Vec::new();
    for first in (0..d).step_by(PANEL) {
        for j in 0..(first + PANEL).min(d) {
            let mut column = [0.0; PANEL];
            for (slot, i) in column.iter_mut().zip(first..d) {
                *slot = inverse[[i, j]] / deviation[j];
            }
            panels.push(column);
        }
    }
    panels
}

#[cfg(test)]
mod tests;
