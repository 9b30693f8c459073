//! Predictions that the model itself is not sure of.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Detector, Findings, Guard, GuardVerdict};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::Observation;
use crate::reference::References;
use crate::schema::Target;
use crate::stage::{Blind, Snapshot, Stage};
use crate::stats::uncertainty::Uncertainty;

const FORMAT: u32 = 1;

/// What is measured, and from where on it is too little or too much.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Measure {
    Probability(f64),
    Margin(f64),
    Entropy(f64),
    Width(f64),
}

/// What an output says of the model's confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reading {
    Sure,
    /// Score and threshold.
    Unsure(f64, f64),
    /// The model gave no interval.
    NoInterval,
}

/// Flags predictions that the model itself is not sure of.
///
/// Scores rise with uncertainty and are finite: 1 − largest probability, 1 − margin (Scheffer et al. 2001), entropy in
/// units of ln K (Shannon 1948), or the width of the interval; the threshold is written likewise, and a score at the
/// threshold itself is not flagged. It assumes that the model's confidence means something: calibrate it first.
///
/// **Unusable outputs** are always flagged, with the score [`f64::MAX`]: a probability that is negative or not finite, a
/// sum further than 0.001 from 1, a value that is not finite, an interval upside down or with one end. An
/// output without any interval is not judged, but counted and shown as blind.
///
/// A threshold outside its range is refused by `build()`. Memory: none but that counter. No statistical guarantee is made.
///
/// # Examples
/// ```
/// use feedloop::LowConfidence;
/// let unsure = LowConfidence::below(0.6);
/// let torn = LowConfidence::margin_below(0.1);
/// # let _ = (unsure, torn);
/// ```
#[derive(Debug, Clone)]
pub struct LowConfidence {
    name: Cow<'static, str>,
    measure: Measure,
    without_interval: u64,
}

impl LowConfidence {
    fn new(name: &'static str, measure: Measure) -> Self {
        LowConfidence { name: name.into(), measure, without_interval: 0 }
    }

    /// The largest probability is below `probability` (0 to 1). Named `low_confidence`.
    pub fn below(probability: f64) -> Self {
        LowConfidence::new("low_confidence", Measure::Probability(probability))
    }

    /// The two largest probabilities differ by less than `margin` (0 to 1). Named `low_margin`.
    pub fn margin_below(margin: f64) -> Self {
        LowConfidence::new("low_margin", Measure::Margin(margin))
    }

    /// The entropy of the probabilities, divided by the logarithm of the number of classes, is above `share` (0 to 1).
    /// Named `high_entropy`.
    pub fn entropy_above(share: f64) -> Self {
        LowConfidence::new("high_entropy", Measure::Entropy(share))
    }

    /// Regression: the predictive interval is wider than `width` (at least 0, in units of the target). Named
    /// `wide_interval`.
    pub fn interval_wider_than(width: f64) -> Self {
        LowConfidence::new("wide_interval", Measure::Width(width))
    }

    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// How many outputs came without an interval although one was to be judged.
    pub fn without_interval(&self) -> u64 {
        self.without_interval
    }
}

impl Measure {
    fn read(self, output: &[f64]) -> Reading {
        match self {
            Measure::Width(limit) => read_interval(output, limit),
            _ => self.read_probabilities(output),
        }
    }

    fn read_probabilities(self, probabilities: &[f64]) -> Reading {
        let (uncertainty, threshold) = match self {
            Measure::Probability(least) => (Uncertainty::Probability, 1.0 - least),
            Measure::Margin(least) => (Uncertainty::Margin, 1.0 - least),
            Measure::Entropy(most) | Measure::Width(most) => (Uncertainty::Entropy, most),
        };
        match uncertainty.of(probabilities) {
            None => Reading::Unsure(f64::MAX, threshold),
            Some(score) if score > threshold => Reading::Unsure(score, threshold),
            Some(_) => Reading::Sure,
        }
    }

    fn check(self, target: &Target) -> Result<(), BoxError> {
        let (value, range) = match self {
            Measure::Probability(value) => (value, "the least probability is"),
            Measure::Margin(value) => (value, "the least margin is"),
            Measure::Entropy(value) => (value, "the largest share of the entropy is"),
            Measure::Width(value) => (value, "the largest width is"),
        };
        match (self, target) {
            (Measure::Width(_), Target::Classes(_)) => {
                Err(message("interval widths need a value as the target; for classes use `LowConfidence::below`"))
            }
            (Measure::Width(width), Target::Value) if !(width >= 0.0 && width.is_finite()) => {
                Err(message(format!("{range} {value}, a finite number of at least 0 is expected")))
            }
            (Measure::Width(_), Target::Value) => Ok(()),
            (_, Target::Value) => Err(message(
                "probabilities need classes as the target; for a value use `LowConfidence::interval_wider_than`",
            )),
            _ if (0.0..=1.0).contains(&value) => Ok(()),
            _ => Err(message(format!("{range} {value}, from 0 to 1 is expected"))),
        }
    }
}

fn read_interval(output: &[f64], limit: f64) -> Reading {
    match *output {
        [value, low, high] if value.is_finite() && low.is_nan() && high.is_nan() => Reading::NoInterval,
        // an end that is NaN makes the comparison false
        [value, low, high] if value.is_finite() && low <= high => {
            let width = (high - low).min(f64::MAX);
            if width > limit { Reading::Unsure(width, limit) } else { Reading::Sure }
        }
        _ => Reading::Unsure(f64::MAX, limit),
    }
}

impl Stage for LowConfidence {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.measure.check(references.serving.schema().target())
    }

    fn blind(&self) -> Vec<Blind> {
        match self.without_interval {
            0 => Vec::new(),
            count => vec![Blind::all(format!("{count} outputs had no interval; the model has to give one"))],
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.without_interval)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.without_interval = snapshot.load(FORMAT)?;
        Ok(())
    }
}

impl Detector for LowConfidence {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        for (row, &id) in chunk.ids().iter().enumerate() {
            match self.measure.read(chunk.output(row)) {
                Reading::Sure => {}
                Reading::Unsure(score, threshold) => findings.flag(id, score, threshold),
                Reading::NoInterval => self.without_interval += 1,
            }
        }
        Ok(())
    }

    fn guard(&self) -> Option<Arc<dyn Guard>> {
        Some(Arc::new(ConfidenceGuard { measure: self.measure }))
    }
}

struct ConfidenceGuard {
    measure: Measure,
}

impl Guard for ConfidenceGuard {
    fn check(&self, observation: &Observation) -> GuardVerdict {
        match self.measure.read(observation.output()) {
            Reading::Unsure(score, threshold) => GuardVerdict::Flag { score, threshold },
            Reading::Sure | Reading::NoInterval => GuardVerdict::Pass,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::conformance::{self, World};

    #[test]
    fn every_measure_passes_the_suite() {
        conformance::detector(|| LowConfidence::below(0.6));
        conformance::detector(|| LowConfidence::margin_below(0.2).named("torn"));
        conformance::detector(|| LowConfidence::entropy_above(0.9));
        conformance::detector(|| LowConfidence::interval_wider_than(1.0));
    }

    fn score(measure: Measure, output: &[f64]) -> Option<f64> {
        match measure.read(output) {
            Reading::Unsure(score, _) => Some(score),
            _ => None,
        }
    }

    #[test]
    fn scores_are_those_of_the_definitions() {
        assert_eq!(score(Measure::Probability(0.6), &[0.5, 0.25, 0.25]), Some(0.5));
        assert_eq!(score(Measure::Probability(0.6), &[0.6, 0.4]), None);
        assert_eq!(score(Measure::Margin(0.5), &[0.25, 0.5, 0.25]), Some(0.75));
        assert_eq!(score(Measure::Margin(0.25), &[0.25, 0.5, 0.25]), None);
        assert_eq!(score(Measure::Margin(0.1), &[0.5, 0.5]), Some(1.0));
        assert_eq!(score(Measure::Entropy(0.5), &[0.25; 4]), Some(1.0));
        assert_eq!(score(Measure::Entropy(0.5), &[1.0, 0.0]), None);
        assert_eq!(score(Measure::Width(2.0), &[0.0, -1.5, 1.5]), Some(3.0));
        assert_eq!(score(Measure::Width(2.0), &[0.0, -1.0, 1.0]), None);
    }

    #[test]
    fn unusable_outputs_are_flagged_by_every_measure() {
        for measure in [Measure::Probability(0.0), Measure::Margin(0.0), Measure::Entropy(1.0)] {
            for output in [[f64::NAN, 1.0], [-0.2, 1.2], [0.5, 0.4], [f64::INFINITY, 0.0], [0.0, 0.0], [0.9, 0.9]] {
                assert_eq!(score(measure, &output), Some(f64::MAX), "{measure:?} {output:?}");
            }
            assert_eq!(score(measure, &[0.5005, 0.5]), None, "a rounding error is no fault");
        }
        let infinite = [0.0, f64::NEG_INFINITY, f64::INFINITY];
        for output in [[f64::NAN, 0.0, 1.0], [0.0, 1.0, -1.0], [0.0, f64::NAN, 1.0], infinite] {
            assert_eq!(score(Measure::Width(1e9), &output), Some(f64::MAX), "{output:?}");
        }
    }

    #[test]
    fn a_model_without_intervals_shows_as_blind_instead_of_flooding() {
        let mut world = World::regression("a model without intervals");
        world.intervals = false;
        let mut detector = LowConfidence::interval_wider_than(0.1);
        detector.rebase(&world.references(50)).unwrap();
        let findings = world.run(&mut detector, 40);
        assert_eq!((findings.flags().len(), detector.without_interval()), (0, 40));
        assert_eq!(detector.blind().len(), 1);
    }

    #[test]
    fn mistakes_are_reported_by_rebase() {
        let classes = World::classification("mistakes").references(10);
        let value = World::regression("mistakes").references(10);
        for wrong in [f64::NAN, -0.1, 1.1, f64::INFINITY] {
            assert!(LowConfidence::below(wrong).rebase(&classes).is_err());
            assert!(LowConfidence::entropy_above(wrong).rebase(&classes).is_err());
        }
        assert!(LowConfidence::below(0.5).rebase(&value).unwrap_err().to_string().contains("interval_wider_than"));
        assert!(LowConfidence::interval_wider_than(1.0).rebase(&classes).is_err());
        assert!(LowConfidence::interval_wider_than(-1.0).rebase(&value).is_err());
    }
}
