//! Drift of the outputs: what the model says, window against reference.

use super::window::WindowDrift;
use super::window::marginals::Marginals;
use super::window::rows::Floats;
use super::window::source::{Baseline, Levels, Numbers, Restored, Source};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::{Label, predicted_label, top_class};
use crate::reference::{ReferenceRow, References};
use crate::schema::{MISSING_CODE, Target};

/// Drift of the outputs: a window of predictions against those of the serving reference.
///
/// Classification: homogeneity of the predicted classes (Pearson's chi-square 1900 over common classes, Fisher's exact
/// test 1922 for each class), and the two-sample Kolmogorov–Smirnov test on the largest probability (Rabanser et al. 2019).
/// Regression: Kolmogorov–Smirnov on the value, and the share of unusable values. Other tests:
/// [`NumericTest`](crate::NumericTest), [`CategoryTest`](crate::CategoryTest). Windows, rates and the guarantee:
/// [`WindowDrift`].
///
/// **Baseline**: the outputs kept in the reference's sample; they should be out-of-sample predictions, otherwise the
/// model looks surer there than it ever will again. If it has none, or those of another model, it is blind ("the
/// reference has no outputs") until `window` observations of the model came, and compares with those from then on: what was
/// already wrong then stays unseen.
///
/// **Unusable outputs** are a class of their own, or a mass of their own.
///
/// **Memory**: that of one numeric and one category column of [`KsDrift`](crate::KsDrift).
pub type OutputDrift = WindowDrift<Outputs>;

/// The outputs of the model; see [`OutputDrift`].
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    target: Option<Target>,
    /// The first outputs of the model, if the reference has none.
    live: Option<Shown>,
    /// Those of the newest chunk.
    chunk: Shown,
}

/// Outputs, as they are compared.
#[derive(Debug, Clone, Default)]
struct Shown {
    codes: Vec<u32>,
    values: Vec<f64>,
}

impl Shown {
    /// Adds the predicted class (missing if unusable) and largest probability, or no class and the value (NaN if unusable).
    fn push(&mut self, target: &Target, output: &[f64]) {
        let (code, value) = match predicted_label(target, output) {
            Some(Label::Class(class)) => (class, top_class(output).map_or(f64::NAN, |(_, probability)| probability)),
            Some(Label::Value(value)) => (MISSING_CODE, value),
            None => (MISSING_CODE, f64::NAN),
        };
        self.codes.push(code);
        self.values.push(value);
    }

    fn baseline(&self, target: &Target) -> Baseline {
        let rows = self.values.len() as u64;
        let missing = self.values.iter().filter(|value| !value.is_finite()).count() as u64;
        let numbers =
            |name: &str, rows| vec![Numbers { name: name.into(), values: self.values.clone(), missing, rows }];
        match target {
            Target::Classes(names) => {
                let codes = self.codes.iter().map(|&code| (code, 1));
                let levels = vec![Levels::new("predicted class", names.len(), codes)];
                // an output without a largest probability is a class of its own already: rows = 0 leaves out that test
                Baseline { numbers: numbers("largest probability", 0), levels, blind: Vec::new() }
            }
            Target::Value => Baseline { numbers: numbers("predicted value", rows), ..Baseline::default() },
        }
    }
}

impl Source for Outputs {
    const NAME: &'static str = "output_drift";
    const FORMAT: u32 = 2;
    type Tests = Marginals;
    type State = Option<(Vec<u32>, Floats)>;

    fn rebase(&mut self, references: &References) -> Result<Option<Baseline>, BoxError> {
        let target = references.serving.schema().target().clone();
        let mut shown = Shown::default();
        // Outputs of another model differ from this one's without any drift.
        let same = references.serving.model() == references.model;
        let usable = |row: &&ReferenceRow| same && row.output.len() == target.output_width();
        for row in references.serving.sample().filter(usable) {
            shown.push(&target, &row.output);
        }
        let baseline = (!shown.values.is_empty()).then(|| shown.baseline(&target));
        self.live = baseline.is_none().then_some(shown);
        self.target = Some(target);
        Ok(baseline)
    }

    fn read(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError> {
        let target = self.target.as_ref().ok_or_else(|| message("rebase comes before inspect"))?;
        self.chunk.codes.clear();
        self.chunk.values.clear();
        for row in 0..chunk.len() {
            self.chunk.push(target, chunk.output(row));
        }
        Ok(())
    }

    fn values<'a>(&'a self, _: &Chunk<'a>, _: usize) -> &'a [f64] {
        &self.chunk.values
    }

    fn codes<'a>(&'a self, _: &Chunk<'a>, _: usize) -> &'a [u32] {
        &self.chunk.codes
    }

    fn learn(&mut self, rows: usize) -> (usize, Option<Baseline>) {
        let (Some(live), Some(target)) = (&mut self.live, &self.target) else { return (0, None) };
        let taken = self.chunk.values.len().min(rows - live.values.len());
        live.codes.extend_from_slice(&self.chunk.codes[..taken]);
        live.values.extend_from_slice(&self.chunk.values[..taken]);
        (taken, (live.values.len() == rows).then(|| live.baseline(target)))
    }

    fn waits_for(&self, rows: usize) -> String {
        let shown = self.live.as_ref().map_or(0, |live| live.values.len());
        format!(
            "the reference has no outputs; {shown} of the first {rows} outputs of the model are there to compare with"
        )
    }

    fn save(&self) -> Self::State {
        self.live.as_ref().map(|live| (live.codes.clone(), Floats(live.values.clone())))
    }

    fn load(&mut self, state: Self::State, rows: usize) -> Result<Restored, BoxError> {
        match (&mut self.live, &self.target, state) {
            (None, _, None) => Ok(Restored::Same),
            (Some(live), Some(target), Some((codes, Floats(values)))) => {
                if codes.len() != values.len() || values.len() > rows {
                    return Err(message("the saved baseline is longer than a window, or uneven"));
                }
                *live = Shown { codes, values };
                Ok(Restored::Own((live.values.len() == rows).then(|| live.baseline(target))))
            }
            // the reference has outputs by now, or has lost them: what was compared with the other is worth nothing
            _ => Ok(Restored::Void),
        }
    }
}

#[cfg(test)]
mod tests;
