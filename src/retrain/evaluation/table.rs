//! Models beside one another: every metric with its interval, over all rows and in slices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::{Figures, Group, Mean};
use super::metric::{CostMatrix, Metric};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion};
use crate::schema::Target;
use crate::stats::bootstrap::{Resampler, acceleration, bias_corrected, percentile};

/// Confidence of the intervals.
const LEVEL: f64 = 0.95;
/// Share of the repetitions in which a metric may be undefined.
const MOST_UNDEFINED: f64 = 0.05;
/// A repetition that is closer to the estimate than this share of the spread equals it: the rest is rounding.
const ROUNDING: f64 = 1e-9;
/// Most slices of a table.
const MOST_SLICES: usize = 100;

/// A figure, with its 95 % interval; or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What is measured.
    pub metric: Metric,
    /// The figure; `None` if the rows do not determine it.
    pub value: Option<f64>,
    /// Its 95 % interval by the bootstrap; `None` if it was not asked for, or more than one resample in twenty does not determine
    /// the figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// Why there is no figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The figures of one model, or of the first model less this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    /// The model.
    pub model: ModelVersion,
    /// Its figures, in the order of the table's metrics.
    pub figures: Vec<Measured>,
}

/// Models beside one another on the same rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SliceFigures {
    /// Number of rows.
    pub rows: u64,
    /// Each model, the first of them the one that is judged.
    pub models: Vec<ModelFigures>,
    /// The first model less each of the others, paired: both are measured on the same resamples.
    pub differences: Vec<ModelFigures>,
}

impl SliceFigures {
    /// A figure of a model.
    pub fn of(&self, model: ModelVersion, metric: Metric) -> Option<&Measured> {
        find(&self.models, model, metric)
    }

    /// The first model less `other`.
    pub fn difference(&self, other: ModelVersion, metric: Metric) -> Option<&Measured> {
        find(&self.differences, other, metric)
    }
}

fn find(figures: &[ModelFigures], model: ModelVersion, metric: Metric) -> Option<&Measured> {
    figures.iter().find(|figures| figures.model == model)?.figures.iter().find(|measured| measured.metric == metric)
}

/// A table of [`Metric`]s: over all rows, and in every slice with enough of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MetricTable {
    /// Over all rows.
    pub all: SliceFigures,
    /// In the slices, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slices: BTreeMap<String, SliceFigures>,
    /// Slices that were left out because they have too few rows, or because there are more than a hundred.
    #[serde(default)]
    pub slices_left_out: u64,
}

/// Rows with their labels and weights, and which of them make up a slice; a row may be in several.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LabelledRows {
    /// The label of each row.
    pub labels: Vec<Label>,
    /// The weight of each row: the inverse of its inclusion probability, or 1.
    pub weights: Vec<f64>,
    /// Rows of each slice, by index.
    pub slices: BTreeMap<String, Vec<usize>>,
}

/// Measures models on the same labelled rows.
///
/// Intervals are by the bootstrap over whole rows (Efron 1979), 95 %: bias-corrected and accelerated (Efron 1987) for what is
/// plainly a mean over rows (accuracy, log loss, Brier score, cost, mean absolute error) and its differences, percentiles
/// otherwise. All rows are resampled together, so that models and slices are compared on the same resamples. They assume
/// independent rows, hold approximately, from about 30 rows on, and for one look: they are no error claim over many looks.
///
/// Memory: 8 bytes per metric, model, row and slice that the row is in, and 8 per repetition, metric, model and slice.
///
/// # Examples
/// ```
/// use feedloop::{Label, LabelledRows, Metric, ModelVersion, Tabulate, Target};
/// let rows = LabelledRows {
///     labels: [0, 1, 1, 0].map(Label::Class).to_vec(),
///     weights: vec![1.0; 4],
///     ..LabelledRows::default()
/// };
/// let (new, old) = ([0.9, 0.1, 0.2, 0.8, 0.3, 0.7, 0.6, 0.4], [0.4, 0.6, 0.2, 0.8, 0.3, 0.7, 0.6, 0.4]);
/// let tabulate = Tabulate::new(Target::classes(["no", "yes"]));
/// let table = tabulate.table(&rows, &[(ModelVersion(1), &new), (ModelVersion(0), &old)])?;
/// assert_eq!(table.all.of(ModelVersion(1), Metric::Accuracy).and_then(|found| found.value), Some(1.0));
/// assert_eq!(table.all.difference(ModelVersion(0), Metric::Accuracy).and_then(|found| found.value), Some(0.25));
/// # Ok::<(), feedloop::BoxError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tabulate {
    target: Target,
    metrics: Vec<Metric>,
    costs: Option<CostMatrix>,
    repetitions: u32,
    fewest: u64,
    seed: u64,
}

impl Tabulate {
    /// Every metric that fits the target, 1,000 repetitions of the bootstrap, slices of at least 30 rows.
    pub fn new(target: Target) -> Self {
        let metrics = Metric::all(&target, None);
        Tabulate { target, metrics, costs: None, repetitions: 1_000, fewest: 30, seed: 0 }
    }

    /// Measures these instead.
    pub fn metrics(mut self, metrics: impl Into<Vec<Metric>>) -> Self {
        self.metrics = metrics.into();
        self
    }

    /// Measures these too.
    pub fn also(mut self, metrics: impl IntoIterator<Item = Metric>) -> Self {
        for metric in metrics {
            if !self.metrics.contains(&metric) {
                self.metrics.push(metric);
            }
        }
        self
    }

    /// Measures the cost of the decisions too.
    pub fn costs(mut self, costs: CostMatrix) -> Self {
        self.costs = Some(costs);
        self.also([Metric::Cost])
    }

    /// Repetitions of the bootstrap; 0 gives no intervals.
    pub fn repetitions(mut self, repetitions: u32) -> Self {
        self.repetitions = repetitions;
        self
    }

    /// Fewest rows of a slice that is shown.
    pub fn fewest_rows(mut self, fewest: u64) -> Self {
        self.fewest = fewest;
        self
    }

    /// Seed of the resamples.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Measures each model. `outputs` are rows × [`Target::output_width`].
    ///
    /// # Errors
    /// A metric does not fit the target; a label does not fit it, a weight is not a finite number of at least 0, a slice
    /// names a row that there is not, or the numbers of labels, weights and outputs differ.
    pub fn table(&self, rows: &LabelledRows, models: &[(ModelVersion, &[f64])]) -> Result<MetricTable, BoxError> {
        self.check(rows, models)?;
        let width = self.target.output_width();
        let outputs: Vec<Vec<&[f64]>> = models.iter().map(|(_, all)| all.chunks_exact(width).collect()).collect();
        let (large, small): (Vec<_>, Vec<_>) =
            rows.slices.iter().partition(|(_, members)| members.len() as u64 >= self.fewest.max(1));
        let mut slices = large;
        slices.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
        let left_out = small.len() + slices.len().saturating_sub(MOST_SLICES);
        slices.truncate(MOST_SLICES);
        let everything: Vec<usize> = (0..rows.labels.len()).collect();
        let members = || std::iter::once(&everything).chain(slices.iter().map(|(_, members)| *members));
        let mut parts: Vec<Part> = members().map(|members| Part::new(self, rows, &outputs, members)).collect();
        parts[0].whole = true;
        let mut resampler = Resampler::new(self.seed);
        let mut counts = vec![0; rows.labels.len()];
        for _ in 0..self.repetitions {
            resampler.draw(&mut counts);
            for (part, members) in parts.iter_mut().zip(members()) {
                part.repeat(&counts, members);
            }
        }
        let versions: Vec<ModelVersion> = models.iter().map(|(version, _)| *version).collect();
        let mut figures = parts.into_iter().map(|part| part.finish(&self.metrics, &versions));
        let all = figures.next().unwrap_or_default();
        let slices = slices.iter().map(|(name, _)| (*name).clone()).zip(figures).collect();
        Ok(MetricTable { all, slices, slices_left_out: left_out as u64 })
    }

    fn check(&self, rows: &LabelledRows, models: &[(ModelVersion, &[f64])]) -> Result<(), BoxError> {
        self.metrics.iter().try_for_each(|metric| metric.check(&self.target, self.costs.as_ref()))?;
        let count = rows.labels.len();
        if let Some(label) = rows.labels.iter().find(|label| !label.fits(&self.target)) {
            return Err(message(format!("the label {label:?} does not fit the target")));
        }
        if rows.weights.len() != count {
            return Err(message(format!("{} weights for {count} labels", rows.weights.len())));
        }
        if let Some(weight) = rows.weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(message(format!("the weight {weight} is not a finite number of at least 0")));
        }
        if let Some(row) = rows.slices.values().flatten().find(|row| **row >= count) {
            return Err(message(format!("a slice names row {row} of {count}")));
        }
        let expected = count * self.target.output_width();
        match models.iter().find(|(_, outputs)| outputs.len() != expected) {
            Some((version, outputs)) => {
                Err(message(format!("{version}: {} numbers of output, {expected} are expected", outputs.len())))
            }
            None => Ok(()),
        }
    }
}

/// All rows, or a slice, while it is resampled.
struct Part {
    group: Group,
    models: Vec<Figures>,
    /// Is it all rows, in order?
    whole: bool,
    counts: Vec<u16>,
    metrics: usize,
    /// Estimates: models × metrics.
    estimates: Vec<f64>,
    /// The same of each resample, one after the other.
    repeated: Vec<f64>,
}

impl Part {
    fn new(settings: &Tabulate, rows: &LabelledRows, outputs: &[Vec<&[f64]>], members: &[usize]) -> Self {
        let (target, metrics) = (&settings.target, &settings.metrics);
        let labels = members.iter().map(|row| rows.labels[*row]).collect();
        let group = Group::new(target, labels, members.iter().map(|row| rows.weights[*row]).collect());
        let models: Vec<Figures> = outputs
            .iter()
            .map(|outputs| {
                let outputs: Vec<&[f64]> = members.iter().map(|row| outputs[*row]).collect();
                Figures::new(target, &group, &outputs, metrics, settings.costs.as_ref())
            })
            .collect();
        let counts = vec![1; members.len()];
        let width = models.len() * metrics.len();
        let mut part = Part {
            group,
            models,
            whole: false,
            counts,
            metrics: metrics.len(),
            estimates: vec![f64::NAN; width],
            repeated: Vec::with_capacity(width * settings.repetitions as usize),
        };
        let mut estimates = std::mem::take(&mut part.estimates);
        part.measure(&part.counts, &mut estimates);
        part.estimates = estimates;
        part
    }

    fn measure(&self, counts: &[u16], out: &mut [f64]) {
        let weight = self.group.weight(counts);
        for (model, out) in self.models.iter().zip(out.chunks_exact_mut(self.metrics.max(1))) {
            model.measure(&self.group, counts, weight, out);
        }
    }

    /// Takes a resample of all rows.
    fn repeat(&mut self, all: &[u16], members: &[usize]) {
        let at = self.repeated.len();
        self.repeated.resize(at + self.estimates.len(), f64::NAN);
        let mut repeated = std::mem::take(&mut self.repeated);
        if self.whole {
            self.measure(all, &mut repeated[at..]);
        } else {
            let mut counts = std::mem::take(&mut self.counts);
            counts.iter_mut().zip(members).for_each(|(count, row)| *count = all[*row]);
            self.measure(&counts, &mut repeated[at..]);
            self.counts = counts;
        }
        self.repeated = repeated;
    }

    fn finish(self, metrics: &[Metric], versions: &[ModelVersion]) -> SliceFigures {
        let rows = self.group.rows();
        let figures = |model: usize, less: Option<usize>| {
            let measured = metrics.iter().enumerate().map(|(slot, metric)| self.measured(*metric, slot, model, less));
            ModelFigures { model: versions[less.unwrap_or(model)], figures: measured.collect() }
        };
        SliceFigures {
            rows: rows as u64,
            models: (0..versions.len()).map(|model| figures(model, None)).collect(),
            differences: (1..versions.len()).map(|other| figures(0, Some(other))).collect(),
        }
    }

    /// A metric of `model`, less that of another one.
    fn measured(&self, metric: Metric, slot: usize, model: usize, less: Option<usize>) -> Measured {
        let at = |model: usize| model * self.metrics + slot;
        let of = |all: &[f64]| all[at(model)] - less.map_or(0.0, |other| all[at(other)]);
        let value = of(&self.estimates);
        if !value.is_finite() {
            let unusable = self.models[model].unusable.max(less.map_or(0, |other| self.models[other].unusable));
            let undefined = || metric.undefined(self.group.rows(), unusable);
            let reason = if value.is_nan() { undefined() } else { "it is too large for a number".into() };
            return Measured { metric, value: None, interval: None, reason: Some(reason) };
        }
        let width = self.estimates.len().max(1);
        let mut sorted: Vec<f64> = self.repeated.chunks_exact(width).map(of).filter(|x| x.is_finite()).collect();
        let resamples = self.repeated.len() / width;
        let enough = sorted.len() as f64 >= (1.0 - MOST_UNDEFINED) * resamples as f64;
        sorted.sort_unstable_by(f64::total_cmp);
        let interval = (resamples > 0 && enough).then(|| {
            let close = ROUNDING * (sorted[sorted.len() - 1] - sorted[0]);
            sorted.iter_mut().filter(|x| (**x - value).abs() <= close).for_each(|x| *x = value);
            let corrected = self
                .acceleration(slot, model, less, value)
                .and_then(|acceleration| bias_corrected(&sorted, value, acceleration, LEVEL));
            corrected.unwrap_or_else(|| percentile(&sorted, LEVEL))
        });
        Measured { metric, value: Some(value), interval, reason: None }
    }

    /// The acceleration of what is plainly a mean.
    fn acceleration(&self, slot: usize, model: usize, less: Option<usize>, value: f64) -> Option<f64> {
        let mean = |model: usize| -> Option<&Mean> {
            self.models[model].means.iter().find(|mean| mean.slot() == slot && mean.is_plain())
        };
        let first = &mean(model)?.figures;
        let second = less.map(&mean).map(|other| other.map(|other| &other.figures));
        let second = match second {
            Some(None) => return None,
            Some(Some(figures)) => Some(figures),
            None => None,
        };
        let weights = self.group.weights();
        let distance = |row: usize| first[row] - second.map_or(0.0, |second| second[row]) - weights[row] * value;
        Some(acceleration((0..weights.len()).map(distance)))
    }
}
