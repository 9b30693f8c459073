//! Performance without labels: what the outputs themselves promise.

use std::borrow::Cow;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Findings, Level, Reading};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, top_class};
use crate::reference::{Half, ReferenceRow, References};
use crate::schema::{Target, row_floats};
use crate::stage::{Blind, LiveMetric, Snapshot, Stage};
use crate::stats::cbpe::{Calibrations, Row};
use crate::stats::metrics::Metrics;

const FORMAT: u32 = 1;
const SEED: u64 = 0x6573_7469_6d61_7465;

/// Fewest rows with outputs and labels of either half of the reference.
const FEWEST: usize = 50;
/// Random splits that reach the observed difference before the test stops.
const HITS: u64 = 10;

/// Estimates the performance of a classifier from its outputs alone, and raises an alarm when the estimate falls.
///
/// Confidence-based performance estimation (CBPE, NannyML): the probabilities of each class are calibrated on the fit half of
/// the reference (isotonic regression, only where it improves the Brier score out of sample); then a probability is an
/// expected label, and accuracy, precision, recall, F1 and AUROC follow from expected counts. With more than two classes the
/// accuracy comes from the calibrated largest probability, and the others are means over classes, each against the rest.
///
/// **It says nothing about concept drift.** If the same output has come to mean another chance of being right, the estimate does
/// not move, however wrong the model is. An alarm is a reason to audit; an estimate is never evidence for a promotion.
///
/// **Alarm**: the mean estimated probability of being right, of a window of `window` usable outputs, is below that of the
/// reference's calibration half by at least the [`minimum_effect`](EstimatedPerformance::minimum_effect), and a permutation test
/// (with early stopping, Besag and Clifford 1991) finds that at the stated rate. **Guarantee**: if the outputs of the window and of
/// the calibration half are exchangeable, a window alarms with a probability of at most the stated rate, exactly, at any window
/// size and whatever the ties; on average over references.
///
/// **Reading**: the statistic is the estimated accuracy, the effect is that minus the reference's (negative: worse).
/// **Reference**: rows of the serving reference (or else the training reference) with an out-of-sample output of the served model
/// and a label; blind with fewer than 50 in either half, and so after a promotion, whose references have no such rows. **Unusable outputs** (a probability that is not finite) are left out and
/// counted. **Memory**: the outputs of one window, and one number per row of the calibration half.
#[derive(Debug, Clone)]
pub struct EstimatedPerformance {
    name: Cow<'static, str>,
    window: usize,
    rate: f64,
    minimum_effect: f64,
    model: ModelVersion,
    fitted: Result<Fitted, String>,
    state: State,
    pool: Vec<f64>,
}

#[derive(Debug, Clone)]
struct Fitted {
    calibrations: Calibrations,
    classes: usize,
    /// Estimated probabilities of being right, of the calibration half.
    baseline: Vec<f64>,
    reference: Metrics,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    model: ModelVersion,
    /// Outputs of the open window.
    #[serde(with = "row_floats")]
    outputs: Vec<f64>,
    ignored: u64,
    newest: Option<Estimates>,
}

/// Estimated performance of one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    /// The model.
    pub model: ModelVersion,
    /// Position in the stream of the last output of the window.
    pub sequence: u64,
    /// Outputs in the window.
    pub observations: usize,
    /// What the metrics are expected to be.
    pub metrics: Metrics,
    /// The same, of the reference's calibration half.
    pub reference: Metrics,
}

impl Default for EstimatedPerformance {
    /// Windows of 1,000, a false-alarm rate of 0.01 per window, falls of at least 0.01.
    fn default() -> Self {
        EstimatedPerformance {
            name: "estimated_performance".into(),
            window: 1_000,
            rate: 0.01,
            minimum_effect: 0.01,
            model: ModelVersion::FIRST,
            fitted: Err("not fitted".into()),
            state: State::default(),
            pool: Vec::new(),
        }
    }
}

impl EstimatedPerformance {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Usable outputs per window, at least 2; 1,000 unless told.
    pub fn window(mut self, outputs: usize) -> Self {
        self.window = outputs;
        self
    }

    /// Chance of a false alarm per window: from 0.001 (a smaller one would need too many random splits) to 0.5.
    pub fn false_alarm_rate(mut self, per_window: f64) -> Self {
        self.rate = per_window;
        self
    }

    /// Smallest fall of the estimated accuracy worth an alarm, from 0 to below 1; 0.01 unless told.
    pub fn minimum_effect(mut self, fall: f64) -> Self {
        self.minimum_effect = fall;
        self
    }

    /// The estimates of the newest full window of the served model.
    pub fn estimates(&self) -> Option<Estimates> {
        self.state.newest
    }

    /// How many outputs were not usable.
    pub fn ignored(&self) -> u64 {
        self.state.ignored
    }

    fn test(&mut self, sequence: u64, findings: &mut Findings) {
        let Ok(fitted) = &self.fitted else { return };
        let rows = self.state.outputs.chunks_exact(fitted.classes).filter_map(usable);
        let metrics = fitted.calibrations.estimate(rows.clone());
        let (model, observations, reference) = (self.model, self.window, fitted.reference);
        self.state.newest = Some(Estimates { model, sequence, observations, metrics, reference });
        self.pool.clear();
        self.pool.extend(rows.map(|row| fitted.calibrations.correctness(row)));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (now, before) = (mean(&self.pool), mean(&fitted.baseline));
        if before - now < self.minimum_effect {
            return;
        }
        self.pool.extend(&fitted.baseline);
        let Some(p_value) = permutation(&mut self.pool, self.window, self.rate, SEED ^ sequence) else { return };
        let text = format!(
            "estimated accuracy {now:.3} in {observations} observations, {before:.3} on the reference (p {p_value:.1e}): audit it"
        );
        let (p_value, effect) = (Some(p_value), now - before);
        let reading = Reading { column: "estimated accuracy".into(), statistic: now, p_value, effect };
        let (detector, level, readings) = (String::new(), Level::Drift, vec![reading]);
        findings.alarm(Alarm { detector, level, sequence, text, readings });
    }

    fn fit(&self, references: &References) -> Result<Fitted, String> {
        let target = references.serving.schema().target();
        let rows = references.judged();
        let of = |half: Half| -> Vec<(Row<'_>, usize)> {
            let rows = rows.iter().filter(|row| row.half == half);
            rows.filter_map(|row| Some((usable(&row.output)?, class(row)?))).collect()
        };
        let (fit, calibration) = (of(Half::Fit), of(Half::Calibration));
        if fit.len().min(calibration.len()) < FEWEST {
            return Err(format!(
                "the reference has {} and {} rows with an output of this model and a label in its halves, {FEWEST} in each are \
                 needed",
                fit.len(),
                calibration.len()
            ));
        }
        let calibrations = Calibrations::fit(&fit);
        let baseline = calibration.iter().map(|(row, _)| calibrations.correctness(*row)).collect();
        let reference = calibrations.estimate(calibration.iter().map(|(row, _)| *row));
        Ok(Fitted { calibrations, classes: target.output_width(), baseline, reference })
    }
}

fn class(row: &ReferenceRow) -> Option<usize> {
    match row.label {
        Some(Label::Class(class)) => Some(class as usize),
        _ => None,
    }
}

/// The row, if its probabilities are finite.
fn usable(output: &[f64]) -> Option<Row<'_>> {
    let (predicted, _) = top_class(output).filter(|_| output.iter().all(|p| p.is_finite()))?;
    Some((predicted as usize, output))
}

/// Permutation test of whether the mean of the first `count` values of `pool` is below that of the others: the p-value, if it is
/// at most `level`; stops as soon as it cannot be. Shuffles the pool.
fn permutation(pool: &mut [f64], count: usize, level: f64, seed: u64) -> Option<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let all: f64 = pool.iter().sum();
    let first: f64 = pool[..count].iter().sum();
    // sums in another order differ in their last digits: a tie counts as reached
    let slack = 1e-9 * (1.0 + all.abs());
    // it is enough to draw the smaller part
    let (drawn, reaches): (usize, &dyn Fn(f64) -> bool) = match pool.len() - count {
        others if others < count => (others, &|sum| sum >= all - first - slack),
        _ => (count, &|sum| sum <= first + slack),
    };
    let splits = (HITS as f64 / level).ceil() as u64 - 1;
    let mut hits = 0;
    for _ in 0..splits {
        let mut sum = 0.0;
        for at in 0..drawn {
            pool.swap(at, rng.random_range(at..pool.len()));
            sum += pool[at];
        }
        hits += u64::from(reaches(sum));
        if hits == HITS {
            return None;
        }
    }
    Some((hits + 1) as f64 / (splits + 1) as f64)
}

impl Stage for EstimatedPerformance {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if matches!(references.serving.schema().target(), Target::Value) {
            return Err(message("estimated performance needs class probabilities, the target is a value"));
        }
        if self.window < 2 {
            return Err(message(format!("the window is {}, at least 2 outputs are needed", self.window)));
        }
        if !(0.001..=0.5).contains(&self.rate) {
            return Err(message(format!("the false-alarm rate is {}, from 0.001 to 0.5 is allowed", self.rate)));
        }
        if !(0.0..1.0).contains(&self.minimum_effect) {
            let text = format!("the minimum effect is {}, from 0 to below 1 is allowed", self.minimum_effect);
            return Err(message(text));
        }
        self.fitted = self.fit(references);
        if self.model != references.model {
            self.state = State { model: references.model, ..State::default() };
        }
        self.model = references.model;
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        self.fitted.as_ref().err().map(Blind::all).into_iter().collect()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let Ok(fitted) = &self.fitted else { return Ok(()) };
        // outputs of another model say nothing about this one
        if state.model != self.model {
            return Ok(());
        }
        let (found, classes) = (state.outputs.len(), fitted.classes);
        if !found.is_multiple_of(classes) || found / classes >= self.window {
            return Err(message(format!(
                "the saved window holds {found} probabilities, fewer than {} outputs of {classes} classes are expected",
                self.window
            )));
        }
        self.state = state;
        Ok(())
    }
}

impl Detector for EstimatedPerformance {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let Ok(fitted) = &self.fitted else { return Ok(()) };
        let full = fitted.classes * self.window;
        if chunk.model() != self.model {
            return Ok(());
        }
        for (row, &sequence) in chunk.sequence().iter().enumerate() {
            let output = chunk.output(row);
            if usable(output).is_none() {
                self.state.ignored += 1;
                continue;
            }
            self.state.outputs.extend_from_slice(output);
            if self.state.outputs.len() == full {
                self.test(sequence, findings);
                self.state.outputs.clear();
            }
        }
        Ok(())
    }

    /// What the metrics are expected to be in the newest full window.
    fn metrics(&self) -> Vec<LiveMetric> {
        let newest = self.state.newest.iter();
        let metric = |name: &str, value, rows| LiveMetric { name: name.to_owned(), value, rows: rows as u64 };
        newest
            .flat_map(|found| found.metrics.named().map(move |(name, value)| metric(name, value, found.observations)))
            .filter(|metric| metric.value.is_finite())
            .collect()
    }
}

#[cfg(test)]
mod tests;
