//! Logistic regression by linfa.

use linfa::DatasetBase;
use linfa::prelude::Fit;
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use ndarray_016::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{Constant, Exact, Scaler, normalise};

/// Most steps of the optimiser.
const ITERATIONS: u64 = 100;
/// The optimiser stops when the gradient per row is shorter than this.
const GRADIENT_PER_ROW: f64 = 1e-4;

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
    pub(super) fn fit(
        scaler: Scaler,
        rows: &[&[f64]],
        labels: &[usize],
        shares: &Constant,
        penalty: f64,
    ) -> Option<Self> {
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

    pub(super) fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
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

    pub(super) fn is_sound(&self) -> bool {
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
