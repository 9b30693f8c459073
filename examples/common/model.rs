//! Real models behind one small type: logistic regression (linfa) and a random forest (smartcore).
//!
//! Both crates train; what they learned is kept in plain fields of ours, so that a model is `Send + Sync`, survives a
//! restart as JSON, and predicts one row without allocating. Fitting never fails: what cannot be trained (no rows, one
//! class, an optimiser that gives up) becomes the best simpler model, and [`Model::describe`] says which.

use std::fmt;
use std::str::FromStr;
use std::thread;

use linfa::DatasetBase;
use linfa::prelude::Fit;
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use ndarray_016::{Array1, Array2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use smartcore::ensemble::random_forest_classifier::{RandomForestClassifier, RandomForestClassifierParameters};
use smartcore::linalg::basic::matrix::DenseMatrix;

/// Trees in a forest.
const TREES: u64 = 25;
/// Trees that one thread grows. A constant, so that the same forest grows on any number of cores.
const TREES_PER_THREAD: u64 = 5;
/// Standardised features are clipped to this many standard deviations, so that one wild value cannot decide alone.
const CLIP: f64 = 10.0;
/// Added to every standard deviation, so that a constant column can be divided by it.
const SMALLEST_DEVIATION: f64 = 1e-9;
/// The penalty of scikit-learn's `LogisticRegression(C=1.0)`: the summed log loss plus half the squared weights.
const PENALTY: f64 = 1.0;
/// Most steps of the optimiser.
const ITERATIONS: u64 = 100;
/// The optimiser stops when the gradient per row is shorter than this.
const GRADIENT_PER_ROW: f64 = 1e-4;

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

/// Logistic regression on standardised features: a softmax over the classes seen in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    scaler: Scaler,
    classes: usize,
    /// The classes seen in training, ascending.
    seen: Vec<usize>,
    /// One weight per feature (outer) and seen class (inner).
    weights: Vec<Exact>,
    /// One per seen class.
    intercepts: Vec<Exact>,
}

impl Logistic {
    fn fit(scaler: Scaler, rows: &[&[f64]], labels: &[usize], shares: &Constant, penalty: f64) -> Option<Self> {
        let seen = shares.seen();
        let mut values = Vec::with_capacity(rows.len() * scaler.width());
        for row in rows {
            values.extend(scaler.standardised(row));
        }
        let records = Array2::from_shape_vec((rows.len(), scaler.width()), values).ok()?;
        let targets = Array1::from_iter(labels.iter().copied());
        let data = DatasetBase::new(records, targets);
        let (weights, intercepts) = optimise(&data, &seen, penalty)?;
        let finite = weights.iter().chain(&intercepts).all(|w| w.is_finite());
        finite.then_some(Self {
            scaler,
            classes: shares.classes(),
            seen,
            weights: weights.into_iter().map(Exact).collect(),
            intercepts: intercepts.into_iter().map(Exact).collect(),
        })
    }

    fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.classes, 0.0);
        for (&class, &intercept) in self.seen.iter().zip(&self.intercepts) {
            out[class] = intercept.0;
        }
        let per_feature = self.weights.chunks_exact(self.seen.len());
        for (value, weights) in self.scaler.standardised(row).zip(per_feature) {
            for (&class, weight) in self.seen.iter().zip(weights) {
                out[class] += weight.0 * value;
            }
        }
        let highest = self.seen.iter().map(|&class| out[class]).fold(f64::NEG_INFINITY, f64::max);
        for &class in &self.seen {
            out[class] = (out[class] - highest).exp();
        }
        normalise(out);
    }

    fn is_sound(&self) -> bool {
        self.seen.len() >= 2
            && self.seen.iter().all(|&class| class < self.classes)
            && self.intercepts.len() == self.seen.len()
            && self.scaler.mean.len() == self.scaler.deviation.len()
            && self.weights.len() == self.seen.len() * self.scaler.width()
    }
}

/// Minimises the penalised log loss. linfa adds up the loss over the rows and takes half of `penalty` times the squared
/// weights, which is scikit-learn's objective with `penalty = 1/C`; the intercept is free.
///
/// Its line search can give up, and then discards what it had. The steps before that are deterministic, so running
/// again with half as many ends before the failure and keeps most of the progress. `None` if not even one step works.
fn optimise(
    data: &DatasetBase<Array2<f64>, Array1<usize>>,
    seen: &[usize],
    penalty: f64,
) -> Option<(Vec<f64>, Vec<f64>)> {
    let tolerance = GRADIENT_PER_ROW * data.records.nrows() as f64;
    let mut iterations = ITERATIONS;
    while iterations > 0 {
        let solved = if let &[_, second] = seen {
            LogisticRegression::default()
                .alpha(penalty)
                .max_iterations(iterations)
                .gradient_tolerance(tolerance)
                .fit(data)
                .ok()
                .map(|fitted| {
                    // linfa calls the more frequent class positive; ours is the second one, and the first has weight 0.
                    let sign = if fitted.labels().pos.class == second { 1.0 } else { -1.0 };
                    let weights = fitted.params().iter().flat_map(|w| [0.0, sign * w]);
                    (weights.collect(), vec![0.0, sign * fitted.intercept()])
                })
        } else {
            MultiLogisticRegression::default()
                .alpha(penalty)
                .max_iterations(iterations)
                .gradient_tolerance(tolerance)
                .fit(data)
                .ok()
                .map(|fitted| {
                    let weights = fitted.params().iter().copied();
                    (weights.collect(), fitted.intercept().to_vec())
                })
        };
        if solved.is_some() {
            return solved;
        }
        iterations /= 2;
    }
    None
}

/// A random forest: the probability of a class is its share of the trees' votes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    scaler: Scaler,
    classes: usize,
    /// Each tree's nodes, the root first, children after their parent.
    trees: Vec<Vec<Node>>,
}

/// A node of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Node {
    /// Votes for this class.
    #[serde(rename = "l")]
    Leaf(usize),
    /// Compares a feature with a threshold: feature, threshold, node if not above, node if above.
    #[serde(rename = "s")]
    Split(usize, Exact, usize, usize),
}

impl Forest {
    fn fit(scaler: Scaler, rows: &[&[f64]], labels: &[usize], shares: &Constant, seed: u64) -> Option<Self> {
        let seen = shares.seen();
        // A split draws a few columns and gives up if none of them can split, so constant ones must not be drawn.
        let mut columns = Vec::new();
        let mut values = Vec::with_capacity(rows.len() * scaler.width());
        for column in 0..scaler.width() {
            let start = values.len();
            values.extend(rows.iter().map(|row| {
                let value = row.get(column).copied().unwrap_or(f64::NAN);
                scaler.imputed(column, value)
            }));
            if values[start..].iter().all(|value| *value == values[start]) {
                values.truncate(start);
            } else {
                columns.push(column);
            }
        }
        let records = DenseMatrix::new(rows.len(), columns.len(), values, true).ok()?;
        let targets = labels.to_vec();
        let drawn = scaler.width().isqrt().clamp(1, columns.len().max(1));
        let grow = |group: u64| {
            let seed = seed.wrapping_mul(TREES).wrapping_add(group * TREES_PER_THREAD);
            grow(&records, &targets, drawn, seed)
        };
        let groups: Vec<Option<Vec<StoredTree>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..TREES / TREES_PER_THREAD).map(|group| scope.spawn(move || grow(group))).collect();
            // A thread that panicked counts as one that could not train.
            threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
        });
        let mut trees = Vec::new();
        for tree in groups.into_iter().collect::<Option<Vec<_>>>()?.concat() {
            let nodes = tree.nodes.iter().map(|node| node.convert(&columns, &seen));
            trees.push(nodes.collect::<Option<Vec<_>>>()?);
        }
        let forest = Self { scaler, classes: shares.classes(), trees };
        forest.is_sound().then_some(forest)
    }

    fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.classes, 0.0);
        for tree in &self.trees {
            let mut at = 0;
            loop {
                match tree[at] {
                    Node::Leaf(class) => {
                        out[class] += 1.0;
                        break;
                    }
                    Node::Split(feature, threshold, not_above, above) => {
                        let value = row.get(feature).copied().unwrap_or(f64::NAN);
                        let value = self.scaler.imputed(feature, value);
                        at = if value <= threshold.0 { not_above } else { above };
                    }
                }
            }
        }
        normalise(out);
    }

    /// Every walk down a tree stays inside it and ends.
    fn is_sound(&self) -> bool {
        let sound = |tree: &Vec<Node>| {
            !tree.is_empty()
                && tree.iter().enumerate().all(|(at, node)| match *node {
                    Node::Leaf(class) => class < self.classes,
                    Node::Split(feature, _, not_above, above) => {
                        let child = |next: usize| next > at && next < tree.len();
                        feature < self.scaler.width() && child(not_above) && child(above)
                    }
                })
        };
        !self.trees.is_empty() && self.trees.iter().all(sound)
    }
}

/// Grows a part of a forest with smartcore; every split draws `drawn` columns. smartcore predicts only the winner of the
/// vote and keeps its trees private, but what it serialises has them.
fn grow(records: &DenseMatrix<f64>, targets: &Vec<usize>, drawn: usize, seed: u64) -> Option<Vec<StoredTree>> {
    let parameters = RandomForestClassifierParameters::default()
        .with_n_trees(TREES_PER_THREAD as u16)
        .with_min_samples_leaf(1)
        .with_m(drawn)
        .with_seed(seed);
    let fitted = RandomForestClassifier::fit(records, targets, parameters).ok()?;
    let stored: StoredForest = serde_json::from_value(serde_json::to_value(&fitted).ok()?).ok()?;
    Some(stored.trees)
}

/// The parts of smartcore's serialised forest that we keep.
#[derive(Deserialize)]
struct StoredForest {
    trees: Vec<StoredTree>,
}

#[derive(Clone, Deserialize)]
struct StoredTree {
    nodes: Vec<StoredNode>,
}

#[derive(Clone, Deserialize)]
struct StoredNode {
    output: usize,
    split_feature: usize,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

impl StoredNode {
    /// `columns` and `seen` map smartcore's columns and classes to ours.
    fn convert(&self, columns: &[usize], seen: &[usize]) -> Option<Node> {
        match (self.split_value, self.true_child, self.false_child) {
            (Some(threshold), Some(not_above), Some(above)) => {
                Some(Node::Split(*columns.get(self.split_feature)?, Exact(threshold), not_above, above))
            }
            _ => seen.get(self.output).copied().map(Node::Leaf),
        }
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
