//! Inputs unlike the training data: the Mahalanobis distance.

use ndarray::Array2;

use super::conformal::shares;
use super::{ConformalDetector, NoveltyModel, NoveltyScore, RowView, Scratch};
use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::reference::{Half, Reference, References};
use crate::sample::Cause;
use crate::stage::Blind;
use crate::stats::categorical::chi_square_upper;
use crate::stats::covariance::{ledoit_wolf_shrinkage, shrink};
use crate::stats::mahalanobis::Whitener;

/// How the covariance of the training data is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Covariance {
    /// Shrunk towards independent columns (Ledoit and Wolf 2004). The columns are scaled to variance 1 first, so that their
    /// units do not matter.
    #[default]
    LedoitWolf,
    /// As it is; with few rows per column it calls too much unusual.
    Empirical,
}

/// Where the threshold of [`Mahalanobis`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Threshold {
    /// A rank of the calibration half's distances (split conformal, Papadopoulos et al. 2002): holds for any distribution.
    #[default]
    Conformal,
    /// The quantile of the chi-square distribution: needs no calibration rows, but normal data and many rows.
    ChiSquare,
}

/// Out-of-distribution inputs by their squared Mahalanobis distance (1936) from the training data, with a conformal threshold:
/// see [`ConformalDetector`] for the guarantee.
///
/// The score is the squared distance over the numeric columns. A flag names the (at most) three columns with the
/// largest share of the squared distance, (x − μ)_j (Σ⁻¹(x − μ))_j.
///
/// **Assumes** one cloud of roughly elliptic shape for power; the false-alarm rate does not need that.
///
/// **Missing** and infinite cells contribute nothing, as if the mean stood there (that is also how calibration rows are
/// scored); a row of missing cells only is never flagged: leave those to a gate. Columns that do not vary in the training data
/// are blind; the others are still scored. Category, text and time columns are not looked at.
///
/// **Memory**: d²/2 numbers for d columns.
///
/// # Examples
/// ```
/// use feedloop::{Covariance, Mahalanobis};
/// let unusual = Mahalanobis::default().false_alarm_rate(0.001).covariance(Covariance::LedoitWolf);
/// # let _ = unusual;
/// ```
pub type Mahalanobis = ConformalDetector<MahalanobisDistance>;

/// The settings of [`Mahalanobis`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MahalanobisDistance {
    covariance: Covariance,
    threshold: Threshold,
}

struct FittedDistance {
    whitener: Whitener,
    threshold: Threshold,
}

impl Mahalanobis {
    /// How the covariance is estimated; Ledoit–Wolf unless told.
    pub fn covariance(mut self, covariance: Covariance) -> Self {
        self.score.covariance = covariance;
        self
    }

    /// Where the threshold comes from; conformal unless told.
    pub fn threshold(mut self, threshold: Threshold) -> Self {
        self.score.threshold = threshold;
        self
    }
}

/// Shrinks the covariance on the scale on which every column that varies has variance 1.
fn shrink_scaled(reference: &Reference, location: &[f64], covariance: &Array2<f64>, rows: u64) -> Array2<f64> {
    let usable = |&column: &usize| location[column].is_finite() && covariance[[column, column]] > 0.0;
    let kept: Vec<usize> = (0..location.len()).filter(usable).collect();
    let deviation: Vec<f64> = kept.iter().map(|&column| covariance[[column, column]].sqrt()).collect();
    let correlation = Array2::from_shape_fn((kept.len(), kept.len()), |(i, j)| {
        covariance[[kept[i], kept[j]]] / deviation[i] / deviation[j]
    });
    let (mut fourth, mut count) = (0.0, 0_u64);
    for row in reference.half(Half::Fit) {
        let squares = kept.iter().zip(&deviation).map(|(&column, deviation)| {
            let scaled = (row.values[column] - location[column]) / deviation;
            if scaled.is_finite() { scaled * scaled } else { 0.0 }
        });
        fourth += squares.sum::<f64>().powi(2);
        count += 1;
    }
    let weight = ledoit_wolf_shrinkage(correlation.view(), fourth / count.max(1) as f64, rows);
    let shrunk = shrink(correlation, weight);
    let mut result = covariance.clone();
    for (i, &row) in kept.iter().enumerate() {
        for (j, &column) in kept.iter().enumerate() {
            result[[row, column]] = shrunk[[i, j]] * deviation[i] * deviation[j];
        }
    }
    result
}

impl NoveltyScore for MahalanobisDistance {
    fn name(&self) -> &str {
        "mahalanobis"
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        let reference = &references.training;
        let (location, mut covariance, rows) = reference.moments(Half::Fit);
        if self.covariance == Covariance::LedoitWolf {
            covariance = shrink_scaled(reference, &location, &covariance, rows);
        }
        let whitener = Whitener::new(&location, covariance.view())?;
        let names = reference.schema().value_columns();
        let column =
            |&column: &usize| Blind::column(&names[column], "not computed: it does not vary in the training data");
        blind.extend(whitener.blind().iter().map(column));
        if whitener.dimension() == 0 {
            blind.insert(0, Blind::all("no numeric column varies in the training data"));
            return Ok(None);
        }
        Ok(Some(Box::new(FittedDistance { whitener, threshold: self.threshold })))
    }
}

impl NoveltyModel for FittedDistance {
    fn score(&self, row: RowView<'_>, scratch: &mut Vec<f64>) -> f64 {
        self.whitener.distance_squared(row.values, scratch)
    }

    fn scores(&self, chunk: &Chunk<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        self.whitener.distances_squared(|column| chunk.values(column), &mut scratch.work, out);
    }

    fn causes(&self, row: RowView<'_>, chunk: &Chunk<'_>) -> Vec<Cause> {
        let (names, mut parts) = (chunk.schema().value_columns(), Vec::new());
        self.whitener.contributions(row.values, &mut parts);
        shares(parts.iter().map(|&(column, part)| (&names[column], part)))
    }

    fn tail(&self, score: f64) -> Option<f64> {
        let chi_square = self.threshold == Threshold::ChiSquare;
        chi_square.then(|| chi_square_upper(score, self.whitener.dimension()))
    }
}

#[cfg(test)]
mod tests;
