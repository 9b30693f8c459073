//! A change detector as a stage of the pipeline.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector};
use crate::chunk::{Chunk, Truth};
use crate::detector::retracted::Retracted;
use crate::detector::{Alarm, AlarmKind, Detector, Findings, Level, Reading};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, predicted_label, top_class};
use crate::reference::{Reference, ReferenceRow, References};
use crate::schema::Target;
use crate::stage::{Blind, Snapshot, Stage};

const FORMAT: u32 = 1;

/// The signal that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Each first truth about a prediction of the served model: 1 if it was wrong, 0 if it was right; for values, the
    /// absolute error. Corrections and retractions do not count, nor does a truth that is stated again after
    /// its retraction (one of the last 256).
    Error,
    /// Classes: 1 − the largest probability of each output.
    Confidence,
    /// Regression: the predicted value.
    Value,
    /// A numeric column.
    Column(String),
}

/// Puts a [`ChangeDetector`] on a signal of the stream.
///
/// Raises an alarm when the detector finds a drift, and one when it begins to warn. Values that are missing or not
/// finite, and outputs and truths that cannot be used, are left out. The baseline is what the serving reference has of
/// the signal: a column's values always; outputs and errors only if they are those of the served model.
///
/// # Examples
/// ```
/// use feedloop::{Adwin, ConformalMartingale, Direction, StreamDrift};
/// let errors = StreamDrift::errors(ConformalMartingale::default().direction(Direction::Up));
/// let amount = StreamDrift::column(Adwin::default(), "amount");
/// # let _ = (errors, amount);
/// ```
#[derive(Debug, Clone)]
pub struct StreamDrift<C> {
    name: Cow<'static, str>,
    detector: C,
    signal: Signal,
    /// Index of the watched column.
    column: usize,
    model: ModelVersion,
    warned: bool,
    retracted: Retracted,
}

#[derive(Serialize, Deserialize)]
struct State {
    detector: Snapshot,
    warned: bool,
    retracted: Retracted,
}

impl<C: ChangeDetector> StreamDrift<C> {
    /// Watches `signal`; the stage is called after detector and signal, as in "adwin_error".
    pub fn new(detector: C, signal: Signal) -> Self {
        let name = Cow::Owned(format!("{}_{}", detector.name(), signal.name()));
        StreamDrift {
            name,
            detector,
            signal,
            column: 0,
            model: ModelVersion::FIRST,
            warned: false,
            retracted: Retracted::default(),
        }
    }

    /// Watches the errors.
    pub fn errors(detector: C) -> Self {
        StreamDrift::new(detector, Signal::Error)
    }

    /// Watches a numeric column.
    pub fn column(detector: C, name: impl Into<String>) -> Self {
        StreamDrift::new(detector, Signal::Column(name.into()))
    }

    /// Another name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// The detector.
    pub fn detector(&self) -> &C {
        &self.detector
    }

    fn feed(&mut self, value: f64, sequence: u64, findings: &mut Findings) {
        if !value.is_finite() {
            return;
        }
        let change = self.detector.update(value);
        if change != Change::None {
            self.report(change, sequence, findings);
        }
        self.warned = change == Change::Warning;
    }

    fn report(&self, change: Change, sequence: u64, findings: &mut Findings) {
        let level = match change {
            Change::Drift => Level::Drift,
            Change::Warning if !self.warned => Level::Warning,
            _ => return,
        };
        let (evidence, signal) = (self.detector.evidence(), self.signal.name());
        let text = format!(
            "{} {signal} by {}: {:.4} against {:.4}",
            if level == Level::Drift { "change of" } else { "maybe a change of" },
            self.detector.name(),
            evidence.statistic,
            evidence.threshold,
        );
        let (statistic, effect) = (evidence.statistic, evidence.effect);
        let reading = Reading { column: signal.into(), statistic, p_value: None, effect };
        findings.alarm(Alarm { detector: String::new(), level, sequence, text, readings: vec![reading] });
    }

    /// Values of the signal in the reference.
    fn baseline(&self, references: &References) -> Vec<f64> {
        let reference: &Reference = &references.serving;
        let target = reference.schema().target();
        // outputs of another model differ from this one's without any drift
        let same = reference.model() == references.model;
        let usable = |row: &&ReferenceRow| same && row.output.len() == target.output_width();
        let outputs = reference.sample().filter(usable);
        let values: Vec<f64> = match &self.signal {
            Signal::Column(_) => reference.column(self.column),
            Signal::Confidence | Signal::Value => outputs.map(|row| self.signal.of_output(&row.output)).collect(),
            Signal::Error => {
                outputs.filter_map(|row| error(target, predicted_label(target, &row.output), row.label?)).collect()
            }
        };
        values.into_iter().filter(|value| value.is_finite()).collect()
    }
}

impl Signal {
    /// Short, for the name of a stage.
    fn name(&self) -> &str {
        match self {
            Signal::Error => "error",
            Signal::Confidence => "confidence",
            Signal::Value => "value",
            Signal::Column(name) => name,
        }
    }

    /// NaN if the output is not usable.
    fn of_output(&self, output: &[f64]) -> f64 {
        match self {
            Signal::Confidence => top_class(output).map_or(f64::NAN, |(_, probability)| 1.0 - probability),
            _ => output.first().copied().unwrap_or(f64::NAN),
        }
    }
}

/// How wrong a prediction was; an unusable one is wrong as a class, and not measurable as a value.
fn error(target: &Target, predicted: Option<Label>, truth: Label) -> Option<f64> {
    match (predicted, truth) {
        (_, truth) if !truth.fits(target) => None,
        (Some(Label::Value(predicted)), Label::Value(truth)) => Some((predicted - truth).abs()),
        (None, Label::Value(_)) => None,
        (predicted, truth) => Some(f64::from(u8::from(predicted != Some(truth)))),
    }
}

impl<C: ChangeDetector> Stage for StreamDrift<C> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let schema = references.serving.schema();
        match (&self.signal, schema.target()) {
            (Signal::Confidence, Target::Value) => {
                return Err(message(
                    "a model of values states no probability: watch `Signal::Value` or `Signal::Error`",
                ));
            }
            (Signal::Value, Target::Classes(_)) => {
                return Err(message(
                    "a model of classes states no value: watch `Signal::Confidence` or `Signal::Error`",
                ));
            }
            (Signal::Column(name), _) => {
                let column = schema.value_columns().iter().position(|column| column == name);
                self.column = column.ok_or_else(|| message(format!("there is no numeric column `{name}`")))?;
            }
            _ => {}
        }
        (self.model, self.warned, self.retracted) = (references.model, false, Retracted::default());
        let baseline = self.baseline(references);
        self.detector.rebase(&baseline)
    }

    fn blind(&self) -> Vec<Blind> {
        let reason = self.detector.blind();
        reason.into_iter().map(|reason| Blind::column(self.signal.name(), reason)).collect()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let (detector, retracted) = (self.detector.snapshot()?, self.retracted.clone());
        Snapshot::save(FORMAT, &State { detector, warned: self.warned, retracted })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let State { detector, warned, retracted } = snapshot.load(FORMAT)?;
        if !retracted.is_sound() {
            return Err(message("the saved state holds more retracted truths than it may"));
        }
        self.detector.restore(&detector)?;
        (self.warned, self.retracted) = (warned, retracted);
        Ok(())
    }
}

impl<C: ChangeDetector> Detector for StreamDrift<C> {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        match &self.signal {
            Signal::Error => {
                let (target, model) = (chunk.schema().target(), self.model);
                for truth in chunk.truths().iter().filter(|truth| truth.model == model) {
                    let &Truth { predicted, sequence, .. } = truth;
                    let first = self.retracted.is_first(truth).then_some(truth.label).flatten();
                    if let Some(value) = first.and_then(|label| error(target, predicted, label)) {
                        self.feed(value, sequence, findings);
                    }
                }
            }
            Signal::Confidence | Signal::Value => {
                for (row, &sequence) in chunk.sequence().iter().enumerate() {
                    self.feed(self.signal.of_output(chunk.output(row)), sequence, findings);
                }
            }
            Signal::Column(_) => {
                for (&value, &sequence) in chunk.values(self.column).iter().zip(chunk.sequence()) {
                    self.feed(value, sequence, findings);
                }
            }
        }
        Ok(())
    }

    fn alarm_kind(&self) -> AlarmKind {
        if self.signal == Signal::Error { AlarmKind::Harm } else { AlarmKind::Stream }
    }
}

#[cfg(test)]
mod tests;
