//! Predictions that the truth proved wrong, and how many there are of them.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Findings, Level, Reading};
use crate::chunk::{Chunk, Truth};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, PredictionId};
use crate::reference::References;
use crate::schema::Target;
use crate::stage::{Snapshot, Stage};
use crate::stats::binomial::{interval, lower};

const FORMAT: u32 = 1;

/// Confidence of the interval in [`ErrorRate`].
const CONFIDENCE: f64 = 0.95;

/// How often a model was wrong lately.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorRate {
    /// The model: the one with the most recent prediction in the window.
    pub model: ModelVersion,
    /// Wrong predictions in the window.
    pub errors: u64,
    /// Predictions in the window whose truth is known.
    pub truths: u64,
    /// Lower end of the 95 % interval of the error probability (Clopper and Pearson 1934).
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Flags a past prediction when its truth arrives and it was wrong, and keeps the error rate of a window of truths.
///
/// Wrong is another class, an unusable output, or a value further than the [tolerance](PredictionError::tolerance) from the
/// truth. The score is 1 with threshold 0 for a class, the absolute error with the tolerance for a value, [`f64::MAX`] for an
/// unusable output. A correction flags only a prediction that was not known to be wrong before, never one that it makes
/// right; a retraction takes the truth out of the window. Truths that do not fit the target are left out and counted.
///
/// A truth is an outcome, or what people agree on about a row of the random lane (see [`Truth`]).
///
/// **Window**: the last `window` predictions whose truth arrived, of any model, each counted for the model that made it.
/// A correction of one that has left the window no longer counts. **Memory**: the window.
///
/// **Alarm**, only with [`harm_above`](PredictionError::harm_above): looked at once per `window` new truths, so that no
/// truth counts twice. If the error probability is at most the stated rate and truths are independent, a look alarms with a
/// probability of at most 0.01 (one-sided Clopper–Pearson limit). Truths that arrive earlier for errors than for successes
/// break that, and bias the rate.
#[derive(Debug, Clone)]
pub struct PredictionError {
    name: Cow<'static, str>,
    tolerance: Option<f64>,
    harm: Option<f64>,
    window: usize,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    known: VecDeque<Known>,
    /// Truths since the last look.
    fresh: usize,
    ignored: u64,
}

/// A prediction whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Known {
    prediction: PredictionId,
    model: ModelVersion,
    predicted_at: chrono::DateTime<chrono::Utc>,
    wrong: bool,
}

/// Score and threshold of a wrong prediction.
type Wrong = (f64, f64);

impl Default for PredictionError {
    /// A window of 500 truths, no alarm.
    fn default() -> Self {
        PredictionError {
            name: "prediction_error".into(),
            tolerance: None,
            harm: None,
            window: 500,
            state: State::default(),
        }
    }
}

impl PredictionError {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Regression: a value at most this far from the truth is right (at least 0, in units of the target). Without it, a
    /// pipeline for values cannot be built.
    pub fn tolerance(mut self, difference: f64) -> Self {
        self.tolerance = Some(difference);
        self
    }

    /// Truths in the window, at least 1; 500 unless told.
    pub fn window(mut self, truths: usize) -> Self {
        self.window = truths;
        self
    }

    /// Raises a drift alarm when the windowed error is above `rate` (0 to below 1) beyond doubt.
    pub fn harm_above(mut self, rate: f64) -> Self {
        self.harm = Some(rate);
        self
    }

    /// The error rate of the model with the most recent prediction in the window; `None` without truths.
    pub fn error_rate(&self) -> Option<ErrorRate> {
        let latest = self.state.known.iter().max_by_key(|known| known.predicted_at)?;
        Some(self.error_rate_of(latest.model))
    }

    /// The error rate of one model in the window; without truths, everything from 0 to 1 is possible.
    pub fn error_rate_of(&self, model: ModelVersion) -> ErrorRate {
        let (errors, truths) = self.count(model);
        let bounds = interval(errors, truths, CONFIDENCE);
        ErrorRate { model, errors, truths, low: bounds.low, high: bounds.high }
    }

    /// How many truths did not fit the target.
    pub fn ignored(&self) -> u64 {
        self.state.ignored
    }

    fn count(&self, model: ModelVersion) -> (u64, u64) {
        let of_model = self.state.known.iter().filter(|known| known.model == model);
        of_model.fold((0, 0), |(errors, truths), known| (errors + u64::from(known.wrong), truths + 1))
    }

    /// Is `predicted` wrong if `truth` is right?
    fn wrong(&self, predicted: Option<Label>, truth: Label) -> Option<Wrong> {
        match (predicted, truth) {
            (Some(Label::Value(predicted)), Label::Value(truth)) => {
                let (error, tolerance) = ((predicted - truth).abs().min(f64::MAX), self.tolerance.unwrap_or(0.0));
                (error > tolerance).then_some((error, tolerance))
            }
            (Some(predicted), truth) => (predicted != truth).then_some((1.0, 0.0)),
            (None, _) => Some((f64::MAX, self.tolerance.unwrap_or(0.0))),
        }
    }

    fn hear(&mut self, truth: &Truth, target: &Target, findings: &mut Findings) {
        let at = truth.replaces.and_then(|_| {
            // corrections mostly come soon
            self.state.known.iter().rposition(|known| known.prediction == truth.prediction)
        });
        let Some(label) = truth.label else {
            at.and_then(|at| self.state.known.remove(at));
            return;
        };
        if !label.fits(target) {
            self.state.ignored += 1;
            return;
        }
        let wrong = self.wrong(truth.predicted, label);
        let before = truth.replaces.filter(|before| before.fits(target));
        let known_wrong = before.is_some_and(|before| self.wrong(truth.predicted, before).is_some());
        if let Some((score, threshold)) = wrong.filter(|_| !known_wrong) {
            findings.flag(truth.prediction, score, threshold);
        }
        match at.and_then(|at| self.state.known.get_mut(at)) {
            Some(known) => known.wrong = wrong.is_some(),
            None if before.is_some() => {}
            None => self.learn(truth, wrong.is_some(), findings),
        }
    }

    fn learn(&mut self, truth: &Truth, wrong: bool, findings: &mut Findings) {
        let &Truth { prediction, model, predicted_at, .. } = truth;
        if self.state.known.len() == self.window {
            self.state.known.pop_front();
        }
        self.state.known.push_back(Known { prediction, model, predicted_at, wrong });
        self.state.fresh += 1;
        if self.state.fresh >= self.window {
            self.state.fresh = 0;
            self.look(truth, findings);
        }
    }

    fn look(&self, truth: &Truth, findings: &mut Findings) {
        let (Some(harm), Some(rate)) = (self.harm, self.error_rate()) else { return };
        let low = lower(rate.errors, rate.truths, 0.99);
        if low > harm {
            let found = rate.errors as f64 / rate.truths as f64;
            let text = format!(
                "model {} was wrong in {} of {} predictions: at least {low:.3} at 99 % confidence, {harm} was stated",
                rate.model, rate.errors, rate.truths
            );
            let reading = Reading { column: "error rate".into(), statistic: low, p_value: None, effect: found - harm };
            let (level, sequence) = (Level::Drift, truth.sequence);
            findings.alarm(Alarm { detector: String::new(), level, sequence, text, readings: vec![reading] });
        }
    }
}

impl Stage for PredictionError {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let regression = matches!(references.serving.schema().target(), Target::Value);
        match self.tolerance {
            None if regression => {
                return Err(message("a value is never exactly right: say `PredictionError::default().tolerance(…)`"));
            }
            Some(tolerance) if !(tolerance >= 0.0 && tolerance.is_finite()) => {
                return Err(message(format!(
                    "the tolerance is {tolerance}, a finite number of at least 0 is expected"
                )));
            }
            _ => {}
        }
        if let Some(harm) = self.harm.filter(|harm| !(0.0..1.0).contains(harm)) {
            return Err(message(format!(
                "harm above an error rate of {harm} was asked, from 0 to below 1 is expected"
            )));
        }
        if self.window == 0 {
            return Err(message("the window is 0, at least 1 truth is needed"));
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        if state.known.len() > self.window {
            let (found, window) = (state.known.len(), self.window);
            return Err(message(format!("the saved window holds {found} truths, at most {window} are expected")));
        }
        self.state = state;
        Ok(())
    }
}

impl Detector for PredictionError {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        for truth in chunk.truths() {
            self.hear(truth, chunk.schema().target(), findings);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
