//! Inputs unlike the training data: the Mahalanobis distance.

use ndarray::{Array2, ArrayView2};

use super::conformal::{column_shares, fit_rows, report_blind};
use super::{ConformalDetector, NoveltyModel, NoveltyScore, RowView, Scratch};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::Label;
use crate::reference::{Half, Reference, References};
use crate::sample::Cause;
use crate::schema::Target;
use crate::stage::Blind;
use crate::stats::categorical::chi_square_upper;
use crate::stats::covariance::{ledoit_wolf_shrinkage, oracle_shrinkage, shrink};
use crate::stats::mahalanobis::Whitener;
use crate::stats::mincovdet::MinCovDet;
use crate::stats::tied_classes::{TiedClasses, Within, residual_covariance};

/// How the covariance of the training data is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Covariance {
    /// Shrunk towards independent columns (Ledoit and Wolf 2004). The columns are scaled to variance 1 first, so that their
    /// units do not matter.
    #[default]
    LedoitWolf,
    /// Shrunk likewise, with the weight that is best for normal data (oracle approximating shrinkage, Chen, Wiesel, Eldar and
    /// Hero 2010).
    Oas,
    /// Location and covariance of the rows that belong together (minimum covariance determinant; Rousseeuw and Van Driessen
    /// 1999), reweighted: for training data that hold outliers themselves. Fitted on the rows of the reference's sample, of
    /// which it needs two per column and two more. Skewed columns make many ordinary rows look far. A column with one
    /// value in most rows has no robust spread: it enters with its plain variance, uncorrelated.
    MinCovDet(Support),
    /// As it is; with few rows per column it calls too much unusual.
    Empirical,
}

/// How many rows [`Covariance::MinCovDet`] takes to be free of outliers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Support {
    /// Half of them and a few: ⌈(n + p + 1)/2⌉ of n rows with p columns.
    #[default]
    Half,
    /// Three quarters: more precise, bears a quarter of outliers.
    ThreeQuarters,
}

impl Support {
    fn fraction(self) -> Option<f64> {
        match self {
            Support::Half => None,
            Support::ThreeQuarters => Some(0.75),
        }
    }
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
/// **Assumes** one cloud of roughly elliptic shape for power; the false-alarm rate does not need that. With
/// [`by_class`](Self::by_class) it is one cloud per class, all of one shape: the score is then the distance to the nearest
/// class mean (Lee, Lee, Lee and Shin 2018).
///
/// **Missing** and infinite cells contribute nothing, as if the mean stood there (that is also how calibration rows are
/// scored; by class, the mean of the class stands there); a row of missing cells only is never flagged: leave those to a gate. Columns that do not vary in the training data
/// are blind; the others are still scored. Category, text and time columns are not looked at.
///
/// **Memory**: d²/2 numbers for d columns, 2d for each class, and 1 KB per column for the rows in work.
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
    by_class: bool,
}

struct FittedDistance {
    centres: Centres,
    threshold: Threshold,
}

enum Centres {
    One(Whitener),
    Classes(TiedClasses),
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

    /// The distance to the nearest class instead of that to the mean of all rows. The means are those of the labelled rows
    /// of the fit half's sample, the covariance is that around them. A class without such rows has no mean, and its rows
    /// look unusual; without any labelled row the detector is blind. The chi-square threshold is then an upper limit.
    ///
    /// A target that is a value is refused.
    pub fn by_class(mut self) -> Self {
        self.score.by_class = true;
        self
    }
}

/// Shrinks the covariance on the scale on which every column that varies has variance 1, by a weight that `weigh` finds from
/// the correlation and the mean fourth power of the length of a row.
fn shrink_scaled(
    rows: &[&[f64]],
    location: &[f64],
    covariance: &Array2<f64>,
    weigh: impl Fn(ArrayView2<'_, f64>, f64) -> f64,
) -> Array2<f64> {
    let usable = |&column: &usize| location[column].is_finite() && covariance[[column, column]] > 0.0;
    let kept: Vec<usize> = (0..location.len()).filter(usable).collect();
    let deviation: Vec<f64> = kept.iter().map(|&column| covariance[[column, column]].sqrt()).collect();
    let correlation = Array2::from_shape_fn((kept.len(), kept.len()), |(i, j)| {
        covariance[[kept[i], kept[j]]] / deviation[i] / deviation[j]
    });
    let fourth = |row: &&[f64]| {
        let squares = kept.iter().zip(&deviation).map(|(&column, deviation)| {
            let scaled = (row[column] - location[column]) / deviation;
            if scaled.is_finite() { scaled * scaled } else { 0.0 }
        });
        squares.sum::<f64>().powi(2)
    };
    let mean_fourth = rows.iter().map(fourth).sum::<f64>() / rows.len().max(1) as f64;
    let weight = weigh(correlation.view(), mean_fourth);
    let shrunk = shrink(correlation, weight);
    let mut result = covariance.clone();
    for (i, &row) in kept.iter().enumerate() {
        for (j, &column) in kept.iter().enumerate() {
            result[[row, column]] = shrunk[[i, j]] * deviation[i] * deviation[j];
        }
    }
    result
}

/// Location and covariance.
type Estimate = (Vec<f64>, Array2<f64>);

impl Covariance {
    /// The estimate from a sample of `rows` and the plain estimate of `count` rows; `None`, with the reason, if there is none.
    fn estimate(self, rows: &[&[f64]], plain: Estimate, count: u64, blind: &mut Vec<Blind>) -> Option<Estimate> {
        let (location, covariance) = plain;
        let covariance = match self {
            Covariance::Empirical => covariance,
            Covariance::LedoitWolf => shrink_scaled(rows, &location, &covariance, |correlation, fourth| {
                ledoit_wolf_shrinkage(correlation, fourth, count)
            }),
            Covariance::Oas => {
                shrink_scaled(rows, &location, &covariance, |correlation, _| oracle_shrinkage(correlation, count))
            }
            Covariance::MinCovDet(support) => {
                let (found, columns) = (rows.len(), location.len());
                let robust = MinCovDet::new(rows, columns, support.fraction());
                if robust.is_none() {
                    let needed = 2 * (columns + 1);
                    let text =
                        format!("a minimum covariance determinant needs {needed} rows to fit on, there are {found}");
                    blind.push(Blind::all(text));
                }
                return robust.map(|robust| (robust.location, robust.covariance));
            }
        };
        Some((location, covariance))
    }
}

impl MahalanobisDistance {
    fn centres(&self, reference: &Reference, blind: &mut Vec<Blind>) -> Result<Option<Centres>, BoxError> {
        let (location, covariance, count) = reference.moments(Half::Fit);
        if !self.by_class {
            let estimate = self.covariance.estimate(&fit_rows(reference), (location, covariance), count, blind);
            let whitener = estimate.map(|(location, covariance)| Whitener::new(&location, covariance.view()));
            return Ok(whitener.transpose()?.map(Centres::One));
        }
        let Target::Classes(classes) = reference.schema().target() else {
            return Err(message("distances by class need classes as the target"));
        };
        let labelled = reference.half(Half::Fit).filter_map(|row| match row.label {
            Some(Label::Class(class)) => Some((class as usize, row.values.as_slice())),
            _ => None,
        });
        let within = Within::new(&labelled.collect::<Vec<_>>(), location.len(), classes.len());
        if within.residuals.is_empty() {
            blind.push(Blind::all("the training reference has no labelled rows to tell the classes by"));
            return Ok(None);
        }
        let residuals: Vec<&[f64]> = within.residuals.iter().map(Vec::as_slice).collect();
        let plain = (vec![0.0; location.len()], residual_covariance(&within.residuals, location.len()));
        let means: Vec<&[f64]> = within.means.iter().flatten().map(Vec::as_slice).collect();
        let estimate = self.covariance.estimate(&residuals, plain, residuals.len() as u64, blind);
        let tied = estimate.map(|(_, covariance)| TiedClasses::new(&means, &location, covariance.view()));
        Ok(tied.transpose()?.map(Centres::Classes))
    }
}

impl NoveltyScore for MahalanobisDistance {
    fn name(&self) -> &str {
        "mahalanobis"
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        let reference = &references.training;
        let Some(centres) = self.centres(reference, blind)? else { return Ok(None) };
        let (columns, dimension) = match &centres {
            Centres::One(whitener) => (whitener.blind(), whitener.dimension()),
            Centres::Classes(tied) => (tied.blind(), tied.dimension()),
        };
        if !report_blind(reference, columns, dimension, blind) {
            return Ok(None);
        }
        Ok(Some(Box::new(FittedDistance { centres, threshold: self.threshold })))
    }
}

impl NoveltyModel for FittedDistance {
    fn score(&self, row: RowView<'_>, scratch: &mut Vec<f64>) -> f64 {
        match &self.centres {
            Centres::One(whitener) => whitener.distance_squared(row.values, scratch),
            Centres::Classes(tied) => tied.distance_squared(row.values, scratch),
        }
    }

    fn scores(&self, chunk: &Chunk<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        match &self.centres {
            Centres::One(whitener) => whitener.distances_squared(|column| chunk.values(column), &mut scratch.work, out),
            Centres::Classes(_) => scratch.each_row(chunk, |row, work| self.score(row, work), out),
        }
    }

    fn causes(&self, row: RowView<'_>, chunk: &Chunk<'_>) -> Vec<Cause> {
        let mut parts = Vec::new();
        match &self.centres {
            Centres::One(whitener) => whitener.contributions(row.values, &mut parts),
            Centres::Classes(tied) => tied.contributions(row.values, &mut parts),
        }
        column_shares(&parts, chunk)
    }

    fn tail(&self, score: f64) -> Option<f64> {
        let dimension = match &self.centres {
            Centres::One(whitener) => whitener.dimension(),
            Centres::Classes(tied) => tied.dimension(),
        };
        (self.threshold == Threshold::ChiSquare).then(|| chi_square_upper(score, dimension))
    }
}

#[cfg(test)]
mod tests;
