//! Inputs unlike the training data: the distance to the nearest training rows.

use std::num::NonZeroUsize;

use super::conformal::{column_shares, fit_rows, report_blind};
use super::{ConformalDetector, NoveltyModel, NoveltyScore, RowView};
use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::reference::References;
use crate::sample::Cause;
use crate::stage::Blind;
use crate::stats::neighbours::Neighbours;

/// Out-of-distribution inputs by the distance to their k-th nearest row of the training data (Ramaswamy, Rastogi and Shim 2000),
/// with a conformal threshold: see [`ConformalDetector`] for the guarantee.
///
/// The score is the Euclidean distance over the numeric columns, each scaled to mean 0 and standard deviation 1. The rows
/// are those of the fit half of the reference's sample, about 2,048 at most; the search among them is exact. A flag
/// names the (at most) three columns with the largest share of the squared distances to the k nearest rows.
///
/// **Assumes** that the scaled columns matter alike; no shape of the data. Many columns of noise hide the others.
///
/// **Missing** and infinite cells are left out and the squared distance is scaled up to all columns (Dixon 1979); where the
/// training rows lack a cell, the mean stands there. A row without any cell is not scored, and never flagged. Columns
/// that do not vary in the training data are blind. Category, text and time columns are not looked at.
///
/// **Memory**: 4 bytes per cell of the sample and an eighth of that for its index. **Time** per row: 0.01 ms at 32 columns that have nothing to do with
/// each other, a third of it where they are correlated.
///
/// # Examples
/// ```
/// use std::num::NonZeroUsize;
/// use feedloop::NearestNeighbours;
/// let unusual = NearestNeighbours::default().neighbours(NonZeroUsize::new(10).unwrap()).false_alarm_rate(0.001);
/// # let _ = unusual;
/// ```
pub type NearestNeighbours = ConformalDetector<NeighbourDistance>;

/// The settings of [`NearestNeighbours`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourDistance {
    neighbours: NonZeroUsize,
}

impl Default for NeighbourDistance {
    /// Five neighbours.
    fn default() -> Self {
        NeighbourDistance { neighbours: const { NonZeroUsize::new(5).unwrap() } }
    }
}

impl NearestNeighbours {
    /// Which neighbour's distance is the score; the fifth unless told.
    pub fn neighbours(mut self, neighbours: NonZeroUsize) -> Self {
        self.score.neighbours = neighbours;
        self
    }
}

impl NoveltyScore for NeighbourDistance {
    fn name(&self) -> &str {
        "nearest_neighbours"
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        let reference = &references.training;
        let (rows, k) = (fit_rows(reference), self.neighbours.get());
        let model = Neighbours::new(&rows, reference.schema().value_columns().len(), k);
        if !report_blind(reference, model.blind(), model.dimension(), blind) {
            return Ok(None);
        }
        if rows.len() < k {
            let text = format!("{k} neighbours need as many rows to fit on, there are {}", rows.len());
            blind.insert(0, Blind::all(text));
            return Ok(None);
        }
        Ok(Some(Box::new(model)))
    }
}

impl NoveltyModel for Neighbours {
    fn score(&self, row: RowView<'_>, scratch: &mut Vec<f64>) -> f64 {
        self.distance(row.values, scratch)
    }

    fn causes(&self, row: RowView<'_>, chunk: &Chunk<'_>) -> Vec<Cause> {
        column_shares(&self.contributions(row.values), chunk)
    }
}

#[cfg(test)]
mod tests;
