//! Inputs unlike the training data: the Mahalanobis distance with a conformal threshold.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use ndarray::Array2;

use super::{Detector, Findings, Guard, GuardVerdict};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::Observation;
use crate::reference::{Half, Reference, References};
use crate::sample::Cause;
use crate::stage::{Blind, Stage};
use crate::stats::categorical::chi_square_upper;
use crate::stats::covariance::{ledoit_wolf_shrinkage, shrink};
use crate::stats::mahalanobis::Whitener;
use crate::stats::quantile::conformal_threshold;

/// Most columns that a flag names.
const CAUSES: usize = 3;

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

/// Out-of-distribution inputs by their squared Mahalanobis distance (1936) from the training data.
///
/// Fitted on the fit half of the training reference, calibrated on the other half. The score is the squared distance over
/// the numeric columns; it is flagged if it exceeds the threshold. A flag names the (at most) three columns with the
/// largest share of the squared distance, (x − μ)_j (Σ⁻¹(x − μ))_j. A score is a function of the row and the reference
/// only, and the [guard](Detector::guard) gives the same to the bit.
///
/// **Assumes** one cloud of roughly elliptic shape for power; the false-alarm rate does not need that.
///
/// **Missing** and infinite cells contribute nothing, as if the mean stood there (that is also how calibration rows are
/// scored); a row of missing cells only is never flagged: leave those to a gate. Columns that do not vary in the training data
/// are blind; the others are still scored. Category, text and time columns are not looked at.
///
/// **Guarantee**, conformal: a row that is exchangeable with the calibration rows is flagged with a probability of at
/// most the rate, marginally over the draw of these rows. With m calibration rows in the reference's sample the smallest rate
/// is 1/(m+1): below, the detector flags nothing and shows as blind with the number of rows it needs. It does not hold
/// after a drift, nor for references of in-sample duplicates. Chi-square: approximate, for normal data only.
///
/// **Memory**: d²/2 numbers for d columns; nothing grows with the stream, nothing is allocated unless a row is flagged.
///
/// # Examples
/// ```
/// use feedloop::{Covariance, Mahalanobis};
/// let unusual = Mahalanobis::default().false_alarm_rate(0.001).covariance(Covariance::LedoitWolf);
/// # let _ = unusual;
/// ```
#[derive(Debug, Clone)]
pub struct Mahalanobis {
    name: Cow<'static, str>,
    rate: f64,
    covariance: Covariance,
    threshold: Threshold,
    fitted: Option<Arc<Fitted>>,
    blind: Vec<Blind>,
    columns: Vec<&'static [f64]>,
    scratch: Vec<f64>,
    distances: Vec<f64>,
}

#[derive(Debug)]
struct Fitted {
    whitener: Whitener,
    /// `None`: nothing is ever flagged.
    threshold: Option<f64>,
}

impl Default for Mahalanobis {
    /// A false-alarm rate of 0.001, Ledoit–Wolf covariance, conformal threshold.
    fn default() -> Self {
        Mahalanobis {
            name: "mahalanobis".into(),
            rate: 0.001,
            covariance: Covariance::default(),
            threshold: Threshold::default(),
            fitted: None,
            blind: Vec::new(),
            columns: Vec::new(),
            scratch: Vec::new(),
            distances: Vec::new(),
        }
    }
}

impl Mahalanobis {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Share of ordinary rows that may be flagged: above 0, at most 0.5; 0.001 unless told.
    pub fn false_alarm_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// How the covariance is estimated.
    pub fn covariance(mut self, covariance: Covariance) -> Self {
        self.covariance = covariance;
        self
    }

    /// Where the threshold comes from.
    pub fn threshold(mut self, threshold: Threshold) -> Self {
        self.threshold = threshold;
        self
    }

    fn find_threshold(&self, reference: &Reference, whitener: &Whitener) -> Result<f64, String> {
        if whitener.dimension() == 0 {
            return Err("no numeric column varies in the training data".into());
        }
        match self.threshold {
            Threshold::ChiSquare => Ok(chi_square_quantile(self.rate, whitener.dimension())),
            Threshold::Conformal => {
                let mut scratch = Vec::new();
                let rows = reference.half(Half::Calibration);
                let mut scores: Vec<_> = rows.map(|row| whitener.distance_squared(&row.values, &mut scratch)).collect();
                let threshold = conformal_threshold(&mut scores, self.rate).map(|threshold| threshold.min(f64::MAX));
                threshold.ok_or_else(|| {
                    let needed = (1.0 / self.rate - 1e-9).ceil() - 1.0;
                    format!(
                        "a false-alarm rate of {} needs {needed} calibration rows (about half of the training rows), there are {}",
                        self.rate,
                        scores.len()
                    )
                })
            }
        }
    }
}

/// Where the chi-square distribution leaves `upper` above, by bisection.
fn chi_square_quantile(upper: f64, degrees_of_freedom: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while chi_square_upper(high, degrees_of_freedom) > upper {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if chi_square_upper(middle, degrees_of_freedom) > upper { low = middle } else { high = middle }
    }
    high
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

impl Stage for Mahalanobis {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if !(self.rate > 0.0 && self.rate <= 0.5) {
            let text = format!("the false-alarm rate is {}, above 0 and at most 0.5 is allowed", self.rate);
            return Err(message(text));
        }
        let reference = &references.training;
        let (location, mut covariance, rows) = reference.moments(Half::Fit);
        if self.covariance == Covariance::LedoitWolf {
            covariance = shrink_scaled(reference, &location, &covariance, rows);
        }
        let whitener = Whitener::new(&location, covariance.view())?;
        let threshold = self.find_threshold(reference, &whitener);
        let names = reference.schema().value_columns();
        let column =
            |&column: &usize| Blind::column(&names[column], "not computed: it does not vary in the training data");
        self.blind = whitener.blind().iter().map(column).collect();
        if let Err(reason) = &threshold {
            self.blind.insert(0, Blind::all(reason));
        }
        self.fitted = Some(Arc::new(Fitted { whitener, threshold: threshold.ok() }));
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        self.blind.clone()
    }
}

impl Detector for Mahalanobis {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let fitted = self.fitted.as_ref().ok_or_else(|| message("rebase comes before inspect"))?;
        let Some(threshold) = fitted.threshold else { return Ok(()) };
        let mut columns: Vec<&[f64]> = std::mem::take(&mut self.columns);
        columns.extend((0..fitted.whitener.columns()).map(|column| chunk.values(column)));
        self.distances.resize(chunk.len(), 0.0);
        fitted.whitener.distances_squared(&columns, &mut self.scratch, &mut self.distances);
        for (row, (&id, &distance)) in chunk.ids().iter().zip(&self.distances).enumerate() {
            if distance > threshold {
                let values: Vec<f64> = columns.iter().map(|column| column[row]).collect();
                let causes = causes(&fitted.whitener, &values, chunk.schema().value_columns());
                findings.flag_with(id, distance.min(f64::MAX), threshold, causes);
            }
        }
        // the memory is kept although the borrow ends: an empty vector collected in place
        columns.clear();
        self.columns = columns.into_iter().map(|_| -> &'static [f64] { &[] }).collect();
        Ok(())
    }

    fn guard(&self) -> Option<Arc<dyn Guard>> {
        let fitted = self.fitted.as_ref().filter(|fitted| fitted.threshold.is_some())?;
        Some(Arc::clone(fitted) as Arc<dyn Guard>)
    }
}

/// The columns with the largest shares of the squared distance.
fn causes(whitener: &Whitener, row: &[f64], names: &[String]) -> Vec<Cause> {
    let mut parts = Vec::new();
    whitener.contributions(row, &mut parts);
    let total: f64 = parts.iter().map(|(_, part)| part).sum();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    parts
        .into_iter()
        .map(|(column, part)| Cause { column: names[column].clone(), share: part / total })
        .filter(|cause| cause.share.is_finite() && cause.share > 0.0)
        .take(CAUSES)
        .collect()
}

thread_local! {
    static SCRATCH: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

impl Guard for Fitted {
    fn check(&self, observation: &Observation) -> GuardVerdict {
        let Some(threshold) = self.threshold else { return GuardVerdict::Pass };
        let score = SCRATCH
            .with_borrow_mut(|scratch| self.whitener.distance_squared(observation.row.values(), scratch).min(f64::MAX));
        if score > threshold { GuardVerdict::Flag { score, threshold } } else { GuardVerdict::Pass }
    }
}

#[cfg(test)]
mod tests;
