//! Predictions unlike those on the training data, by what the model says.

use std::ops::Range;

use super::{ConformalDetector, NoveltyModel, NoveltyScore, RowView};
use crate::error::{BoxError, message};
use crate::reference::References;
use crate::schema::{Slot, Target};
use crate::stage::Blind;
use crate::stats::uncertainty::Uncertainty;

/// Predictions that the model is less sure of than of held-out training rows (Hendrycks and Gimpel 2017), with a conformal
/// threshold: see [`ConformalDetector`] for the guarantee.
///
/// The score is 1 − the largest probability, 1 − the margin (Scheffer et al. 2001), or the entropy in units of ln K
/// (Shannon 1948). Other than [`LowConfidence`](crate::LowConfidence) it asks for a rate of flags, not for a probability that means something.
///
/// **Needs** the model's out-of-sample outputs in the training reference; without them, or with those of another model, it is
/// blind. Rate and threshold follow from the calibration half; nothing is fitted.
///
/// **Missing**: an output with a probability that is negative or not finite, or with a sum further than 0.001 from 1, is not
/// scored, and never flagged: leave it to `LowConfidence`. Memory: none but the calibration scores.
///
/// # Examples
/// ```
/// use feedloop::UnusualOutput;
/// let unsure = UnusualOutput::probability().false_alarm_rate(0.01);
/// let torn = UnusualOutput::margin();
/// # let _ = (unsure, torn);
/// ```
pub type UnusualOutput = ConformalDetector<OutputScore>;

/// The settings of [`UnusualOutput`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputScore(Uncertainty);

impl UnusualOutput {
    /// The largest probability is unusually small. Named `unusual_probability`.
    pub fn probability() -> Self {
        ConformalDetector::new(OutputScore(Uncertainty::Probability))
    }

    /// The two largest probabilities are unusually close. Named `unusual_margin`.
    pub fn margin() -> Self {
        ConformalDetector::new(OutputScore(Uncertainty::Margin))
    }

    /// The entropy of the probabilities is unusually large. Named `unusual_entropy`.
    pub fn entropy() -> Self {
        ConformalDetector::new(OutputScore(Uncertainty::Entropy))
    }
}

impl NoveltyScore for OutputScore {
    fn name(&self) -> &str {
        match self.0 {
            Uncertainty::Probability => "unusual_probability",
            Uncertainty::Margin => "unusual_margin",
            Uncertainty::Entropy => "unusual_entropy",
        }
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        let reference = &references.training;
        if *reference.schema().target() == Target::Value {
            return Err(message("probabilities need classes as the target"));
        }
        if reference.model() != references.model {
            blind.push(Blind::all("the training reference has no outputs of the model that is served"));
            return Ok(None);
        }
        if reference.sample().all(|row| row.output.is_empty()) {
            blind.push(Blind::all("the training reference has no outputs"));
            return Ok(None);
        }
        Ok(Some(Box::new(*self)))
    }
}

impl NoveltyModel for OutputScore {
    fn score(&self, row: RowView<'_>, _: &mut Vec<f64>) -> f64 {
        self.0.of(row.output).unwrap_or(f64::NAN)
    }
}

/// Inputs on which the logits of a classifier are unusually small altogether: its energy (Liu, Wang, Owens and Li 2020), with a
/// conformal threshold: see [`ConformalDetector`] for the guarantee.
///
/// The score is −ln Σ exp(logit) over a field of the schema that holds the logits: an embedding, or one number. Log it with each
/// prediction, and have it in the training reference. Probabilities do not do: they have lost what the energy measures.
///
/// **Missing**: a row of which one logit is missing or infinite is not scored, and never flagged. If the training data have
/// no usable logits, there is nothing to calibrate on, and it shows as blind. Memory: none but the calibration scores.
///
/// # Examples
/// ```
/// use feedloop::Energy;
/// let unusual = Energy::of("logits").false_alarm_rate(0.01);
/// # let _ = unusual;
/// ```
pub type Energy = ConformalDetector<LogitEnergy>;

/// The settings of [`Energy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogitEnergy {
    field: String,
}

impl Energy {
    /// The energy of the logits in this field.
    pub fn of(field: impl Into<String>) -> Self {
        ConformalDetector::new(LogitEnergy { field: field.into() })
    }
}

impl NoveltyScore for LogitEnergy {
    fn name(&self) -> &str {
        "energy"
    }

    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
        let schema = references.training.schema();
        match schema.field_index(&self.field).map(|field| schema.slot(field)) {
            Some(Slot::Values { .. }) if references.training.model() != references.model => {
                blind
                    .push(Blind::all("the logits in the training reference are not those of the model that is served"));
                Ok(None)
            }
            Some(Slot::Values { at, len, .. }) => Ok(Some(Box::new(Logits(at..at + len)))),
            Some(_) => {
                Err(message(format!("field `{}` holds no numbers: logits are an embedding or a number", self.field)))
            }
            None => {
                Err(message(format!("the schema has no field `{}`: name the one that holds the logits", self.field)))
            }
        }
    }
}

/// The columns that hold the logits.
struct Logits(Range<usize>);

impl NoveltyModel for Logits {
    fn score(&self, row: RowView<'_>, _: &mut Vec<f64>) -> f64 {
        let logits = row.values.get(self.0.clone()).unwrap_or(&[]);
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return f64::NAN;
        }
        let largest = logits.iter().copied().fold(f64::MIN, f64::max);
        -(largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln())
    }
}

#[cfg(test)]
mod tests;
