//! Drift of the outputs: what the model says, window against reference.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::window::{Columns, Floats, Levels, Numbers, Settings, Window, WindowState};
use super::{Detector, Findings};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::{Label, predicted_label, top_class};
use crate::reference::{ReferenceRow, References};
use crate::schema::{MISSING_CODE, Target};
use crate::stage::{Blind, Snapshot, Stage};

const FORMAT: u32 = 1;

/// Drift of the outputs: a window of predictions against those of the serving reference.
///
/// Classification: homogeneity of the predicted classes (Pearson's chi-square 1900 over common classes, Fisher's exact
/// test 1922 for each class), and the two-sample Kolmogorov–Smirnov test on the largest probability. Regression:
/// Kolmogorov–Smirnov on the value, and the share of unusable values. Each pair shares the level (Bonferroni). The effect is
/// the total variation, the distance D, or the change of the unusable share.
///
/// **Baseline**: the outputs kept in the reference's sample; they should be out-of-sample predictions, otherwise the
/// model looks surer there than it ever will again. If it has none, or those of another model, it is blind ("the
/// reference has no outputs") until `window` observations of the model came, and compares with those from then on: what was
/// already wrong then stays unseen.
///
/// **Unusable outputs** are a class of their own, or a mass of their own. **Memory**: one window, and the baseline.
/// **Guarantee**: as [`KsDrift`](super::KsDrift): the rate per test, for independent observations that are distributed as the
/// baseline's, on average over baselines.
#[derive(Debug, Clone)]
pub struct OutputDrift {
    name: Cow<'static, str>,
    settings: Settings,
    target: Option<Target>,
    source: Source,
    window: Option<Window>,
    codes: Vec<u32>,
    values: Vec<f64>,
}

/// Where the baseline comes from.
#[derive(Debug, Clone)]
enum Source {
    Reference,
    /// The first outputs of the model.
    Live(Baseline),
}

/// Outputs that a window is compared with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Baseline {
    codes: Vec<u32>,
    #[serde(with = "crate::schema::row_floats")]
    values: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct State {
    live: Option<(Vec<u32>, Floats)>,
    window: Option<WindowState>,
}

impl Default for OutputDrift {
    /// Windows of 1,000, a false-alarm rate of 0.01 per test, effects of at least 0.05.
    fn default() -> Self {
        OutputDrift {
            name: "output_drift".into(),
            settings: Settings::default(),
            target: None,
            source: Source::Reference,
            window: None,
            codes: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl OutputDrift {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Observations per window, at least 2; 1,000 unless told.
    pub fn window(mut self, observations: usize) -> Self {
        self.settings.window = observations;
        self
    }

    /// Tests the last window each time `every` observations have come (1 to the window), instead of once per window.
    pub fn sliding(mut self, every: usize) -> Self {
        self.settings.sliding(every);
        self
    }

    /// Chance of a false alarm per test of the window: above 0, at most 0.5.
    pub fn false_alarm_rate(mut self, per_test: f64) -> Self {
        self.settings.per_test(per_test);
        self
    }

    /// Expected false alarms per day; see [`KsDrift::false_alarms_per_day`](super::KsDrift::false_alarms_per_day).
    pub fn false_alarms_per_day(mut self, rate: f64) -> Self {
        self.settings.per_day(rate);
        self
    }

    /// Smallest effect worth an alarm, from 0 to below 1; 0.05 unless told.
    pub fn minimum_effect(mut self, effect: f64) -> Self {
        self.settings.minimum_effect = effect;
        self
    }

    fn compare_with(&self, baseline: Baseline) -> Option<Window> {
        let rows = baseline.values.len() as u64;
        let missing = baseline.values.iter().filter(|value| !value.is_finite()).count() as u64;
        let (numbers, levels) = match self.target.as_ref()? {
            Target::Classes(names) => {
                // an output without a largest probability is a class of its own already: rows = 0 leaves out that test
                let (probability, _) = Numbers::new("largest probability", self.settings.window, baseline.values, 0, 0);
                let codes = baseline.codes.into_iter().map(|code| (code, 1));
                (probability, vec![Levels::new("predicted class", names.len(), codes)])
            }
            Target::Value => {
                (Numbers::new("predicted value", self.settings.window, baseline.values, missing, rows).0, Vec::new())
            }
        };
        Some(Window::new(self.settings.clone(), vec![numbers], levels))
    }
}

/// The predicted class (missing if unusable) and largest probability, or no class and the value (NaN if unusable).
fn read(target: &Target, output: &[f64]) -> (u32, f64) {
    match predicted_label(target, output) {
        Some(Label::Class(class)) => (class, top_class(output).map_or(f64::NAN, |(_, probability)| probability)),
        Some(Label::Value(value)) => (MISSING_CODE, value),
        None => (MISSING_CODE, f64::NAN),
    }
}

impl Baseline {
    fn push(&mut self, code: u32, value: f64) {
        self.codes.push(code);
        self.values.push(value);
    }
}

impl Stage for OutputDrift {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.settings.check()?;
        let target = references.serving.schema().target().clone();
        let mut baseline = Baseline::default();
        // Outputs of another model differ from this one's without any drift.
        let same = references.serving.model() == references.model;
        let usable = |row: &&ReferenceRow| same && row.output.len() == target.output_width();
        for row in references.serving.sample().filter(usable) {
            let (code, value) = read(&target, &row.output);
            baseline.push(code, value);
        }
        self.target = Some(target);
        if baseline.values.is_empty() {
            (self.source, self.window) = (Source::Live(baseline), None);
        } else {
            (self.source, self.window) = (Source::Reference, self.compare_with(baseline));
        }
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        match (&self.source, &self.window) {
            (Source::Live(baseline), None) => vec![Blind::all(format!(
                "the reference has no outputs; {} of the first {} outputs of the model are there to compare with",
                baseline.values.len(),
                self.settings.window
            ))],
            (_, Some(window)) if window.tests() == 0 => vec![Blind::all("the baseline has no usable output")],
            _ => Vec::new(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let live = match &self.source {
            Source::Reference => None,
            Source::Live(baseline) => Some((baseline.codes.clone(), Floats(baseline.values.clone()))),
        };
        Snapshot::save(FORMAT, &State { live, window: self.window.as_ref().map(Window::save) })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let mut window = match (&self.source, state.live) {
            (Source::Reference, None) => self.window.clone(),
            // the reference has outputs by now, or has lost them: what was compared with the other is worth nothing
            (Source::Reference, Some(_)) | (Source::Live(_), None) => return Ok(()),
            (Source::Live(_), Some((codes, Floats(values)))) => {
                let baseline = Baseline { codes, values };
                if baseline.codes.len() != baseline.values.len() || baseline.values.len() > self.settings.window {
                    return Err(message("the saved baseline is longer than a window, or uneven"));
                }
                let full = baseline.values.len() == self.settings.window;
                self.source = Source::Live(baseline.clone());
                if full { self.compare_with(baseline) } else { None }
            }
        };
        match (&mut window, state.window) {
            (Some(window), Some(state)) => window.load(state)?,
            (None, None) => {}
            _ => return Err(message("the saved window and its baseline do not belong together")),
        }
        self.window = window;
        Ok(())
    }
}

impl Detector for OutputDrift {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let target = self.target.as_ref().ok_or_else(|| message("rebase comes before inspect"))?;
        self.codes.clear();
        self.values.clear();
        for row in 0..chunk.len() {
            let (code, value) = read(target, chunk.output(row));
            self.codes.push(code);
            self.values.push(value);
        }
        let mut from = 0;
        if let (Source::Live(baseline), None) = (&mut self.source, &self.window) {
            from = chunk.len().min(self.settings.window - baseline.values.len());
            for (&code, &value) in self.codes.iter().zip(&self.values).take(from) {
                baseline.push(code, value);
            }
            if baseline.values.len() == self.settings.window {
                let baseline = baseline.clone();
                self.window = self.compare_with(baseline);
            }
        }
        if let Some(window) = &mut self.window {
            let (values, codes) = (self.values.as_slice(), self.codes.as_slice());
            let (times, sequence) = (chunk.times(), chunk.sequence());
            window.push(from, &Columns { values: |_| values, codes: |_| codes, times, sequence }, findings);
        }
        Ok(())
    }

    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        self.settings.budget(false_alarms_per_day)
    }
}

#[cfg(test)]
mod tests;
