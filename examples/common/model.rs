//! Real models behind one small type: logistic regression (linfa) and a random forest (smartcore).
//!
//! Both crates train; what they learned is kept in plain fields of ours, so that a model is `Send + Sync`, survives a
//! restart as JSON, and predicts one row without allocating. Fitting never fails: what cannot be trained (no rows, one
//! class, an optimiser that gives up) becomes the best simpler model, and [`Model::describe`] says which.

mod forest;
mod logistic;

use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use forest::Forest;
use logistic::Logistic;

/// Standardised features are clipped to this many standard deviations, so that one wild value cannot decide alone.
const CLIP: f64 = 10.0;
/// Added to every standard deviation, so that a constant column can be divided by it.
const SMALLEST_DEVIATION: f64 = 1e-9;
/// The penalty of scikit-learn's `LogisticRegression(C=1.0)`: the summed log loss plus half the squared weights.
const PENALTY: f64 = 1.0;

/// Which model to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Multinomial logistic regression with an L2 penalty.
    Logistic,
    /// A random forest of 25 fully grown trees.
    Forest,
}

impl Kind {
    /// The name that [`FromStr`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::Forest => "forest",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Logistic, Self::Forest]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("unknown model '{name}', expected logistic or forest"))
    }
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Model {
    /// Logistic regression.
    Logistic(Logistic),
    /// A random forest.
    Forest(Forest),
    /// The same probabilities for every row.
    Constant(Constant),
}

impl Model {
    /// Trains a model on `rows` (all of one length; NaN = missing) with `labels` in `0..classes`.
    ///
    /// Neither crate's classifier takes weights, so `weights` become multiplicities: rows are drawn by systematic
    /// resampling to the same number of rows, and the logistic penalty is rescaled so that the expected objective stays
    /// that of the weighted loss. Weights that are negative or not finite count as zero. `seed` decides the resampling
    /// and the forest. Missing features take their training mean.
    ///
    /// Falls back to [`Constant`] (the shares of the classes) with fewer than two classes or if training fails.
    /// A row whose label is not in `0..classes` is left out.
    pub fn fit(
        kind: Kind,
        rows: &[&[f64]],
        labels: &[usize],
        weights: Option<&[f64]>,
        classes: usize,
        seed: u64,
    ) -> Self {
        let (chosen, mean_weight) = match weights {
            Some(weights) => resample(weights, rows.len(), seed),
            None => ((0..rows.len()).collect(), 1.0),
        };
        let (sample, targets): (Vec<&[f64]>, Vec<usize>) = chosen
            .into_iter()
            .filter_map(|i| Some((*rows.get(i)?, *labels.get(i)?)))
            .filter(|&(_, label)| label < classes)
            .unzip();
        let constant = Constant::fit(&targets, classes);
        if constant.seen().len() < 2 {
            return Self::Constant(constant);
        }
        let trained = match kind {
            Kind::Logistic => Logistic::fit(Scaler::fit(rows), &sample, &targets, &constant, PENALTY / mean_weight)
                .map(Self::Logistic),
            Kind::Forest => Forest::fit(Scaler::fit(rows), &sample, &targets, &constant, seed).map(Self::Forest),
        };
        trained.unwrap_or(Self::Constant(constant))
    }

    /// The blend of `members`, each with its share, if they are forests: their trees vote together. `rows` are what a blend
    /// would be fitted to. `None` of other models, which [`Model::fit`] blends better.
    pub fn blend(members: &[(f64, Model)], rows: &[&[f64]]) -> Option<Self> {
        let forests = members.iter().map(|(share, model)| match model {
            Self::Forest(forest) => Some((*share, forest)),
            _ => None,
        });
        Forest::together(&forests.collect::<Option<Vec<_>>>()?, rows).map(Self::Forest)
    }

    /// Writes the probability of each class into `out` (its length becomes `classes`); zero for a class that was not
    /// seen in training. A missing feature counts as its training mean.
    pub fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        match self {
            Self::Logistic(model) => model.probabilities(row, out),
            Self::Forest(model) => model.probabilities(row, out),
            Self::Constant(model) => {
                out.clear();
                out.extend(model.shares.iter().map(|share| share.0));
            }
        }
    }

    /// The most probable class (the first of equals); `scratch` holds the probabilities afterwards.
    pub fn predict(&self, row: &[f64], scratch: &mut Vec<f64>) -> usize {
        self.probabilities(row, scratch);
        most_probable(scratch)
    }

    /// What was really trained, for reports.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Logistic(_) => "logistic",
            Self::Forest(_) => "forest",
            Self::Constant(_) => "constant",
        }
    }

    /// The model as JSON.
    ///
    /// # Errors
    /// If serde_json refuses, which no model built by [`Model::fit`] provokes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        serde_json::to_vec(self).map_err(ModelError::Json)
    }

    /// Reads back what [`Model::to_bytes`] wrote.
    ///
    /// # Errors
    /// If the bytes are no model, or one that would not predict safely.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let model: Self = serde_json::from_slice(bytes).map_err(ModelError::Json)?;
        let sound = match &model {
            Self::Logistic(model) => model.is_sound(),
            Self::Forest(model) => model.is_sound(),
            Self::Constant(_) => true,
        };
        if sound { Ok(model) } else { Err(ModelError::Inconsistent) }
    }
}

/// The index of the largest probability, the first of equals; 0 if there is none.
pub fn most_probable(probabilities: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, &probability) in probabilities.iter().enumerate() {
        if probability > best.1 {
            best = (class, probability);
        }
    }
    best.0
}

/// Why a stored model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes are not the JSON of a model.
    #[error("not the JSON of a model")]
    Json(#[source] serde_json::Error),
    /// The JSON is a model, but its parts do not fit together.
    #[error("the parts of the stored model do not fit together; train it again")]
    Inconsistent,
}

/// Draws `n` row numbers with the given weights by systematic resampling: one random offset, then equal steps along
/// the cumulated weights, so that a row of weight `w` comes floor or ceil of `n·w/Σw` times. Also returns the mean
/// weight. All rows once, if no weight is positive.
fn resample(weights: &[f64], n: usize, seed: u64) -> (Vec<usize>, f64) {
    let usable = |weight: f64| {
        if weight.is_finite() { weight.max(0.0) } else { 0.0 }
    };
    let total: f64 = weights.iter().take(n).copied().map(usable).sum();
    if n == 0 || total <= 0.0 || !total.is_finite() {
        return ((0..n).collect(), 1.0);
    }
    let step = total / n as f64;
    let mut mark = StdRng::seed_from_u64(seed).random::<f64>() * step;
    let mut chosen = Vec::with_capacity(n);
    let mut reached = 0.0;
    for (row, &weight) in weights.iter().take(n).enumerate() {
        reached += usable(weight);
        while mark < reached && chosen.len() < n {
            chosen.push(row);
            mark += step;
        }
    }
    (chosen, step)
}

/// A finite number that is stored as text and so comes back with every bit; serde_json's own numbers may come back one
/// bit off unless its feature `float_roundtrip` is on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Exact(f64);

impl From<Exact> for String {
    fn from(number: Exact) -> Self {
        format!("{:?}", number.0)
    }
}

impl TryFrom<String> for Exact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if f64::is_finite(number) => Ok(Self(number)),
            _ => Err(format!("expected a finite number, found '{text}'")),
        }
    }
}

/// The mean and standard deviation of each feature over its finite values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scaler {
    mean: Vec<Exact>,
    deviation: Vec<Exact>,
}

impl Scaler {
    fn fit(rows: &[&[f64]]) -> Self {
        let width = rows.first().map_or(0, |row| row.len());
        let (mut mean, mut deviation) = (Vec::new(), Vec::new());
        for column in 0..width {
            let finite = || rows.iter().filter_map(|row| row.get(column).copied()).filter(|value| value.is_finite());
            let n = finite().count().max(1) as f64;
            let centre = finite().sum::<f64>() / n;
            let variance = finite().map(|value| (value - centre).powi(2)).sum::<f64>() / n;
            // Values near the end of the range overflow; the column then counts as constant.
            let usable = centre.is_finite() && variance.is_finite();
            mean.push(Exact(if usable { centre } else { 0.0 }));
            deviation.push(Exact(if usable { variance.sqrt() + SMALLEST_DEVIATION } else { f64::MAX }));
        }
        Self { mean, deviation }
    }

    fn width(&self) -> usize {
        self.mean.len()
    }

    /// The value, or the training mean where it is missing; finite, and so is the sum of two.
    fn imputed(&self, column: usize, value: f64) -> f64 {
        const LARGEST: f64 = f64::MAX / 4.0;
        let known = if value.is_nan() { self.mean[column].0 } else { value };
        known.clamp(-LARGEST, LARGEST)
    }

    /// The features in standard deviations from the training mean, clipped; a missing one is 0.
    fn standardised<'a>(&'a self, row: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let scale = self.mean.iter().zip(&self.deviation);
        row.iter().zip(scale).map(|(&value, (mean, deviation))| {
            if value.is_nan() { 0.0 } else { ((value - mean.0) / deviation.0).clamp(-CLIP, CLIP) }
        })
    }
}

/// The same probabilities for every row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    shares: Vec<Exact>,
}

impl Constant {
    /// The shares of the classes in `labels`; equal shares if there is no label.
    fn fit(labels: &[usize], classes: usize) -> Self {
        let mut shares = vec![0.0; classes];
        for &label in labels {
            shares[label] += 1.0;
        }
        if labels.is_empty() {
            shares.fill(1.0);
        }
        normalise(&mut shares);
        Self { shares: shares.into_iter().map(Exact).collect() }
    }

    /// How many classes there are, seen or not.
    fn classes(&self) -> usize {
        self.shares.len()
    }

    /// The classes with a share, ascending.
    fn seen(&self) -> Vec<usize> {
        (0..self.shares.len()).filter(|&class| self.shares[class].0 > 0.0).collect()
    }
}

/// Scales non-negative values to a sum of 1.
fn normalise(values: &mut [f64]) {
    let total: f64 = values.iter().sum();
    if total > 0.0 {
        for value in values {
            *value /= total;
        }
    }
}
