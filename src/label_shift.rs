//! Label shift: the shares of the classes have changed, what each class looks like has not.

mod correction;

use ndarray::Array2;
use thiserror::Error;

use crate::event::{Label, predicted_label};
use crate::reference::Reference;
use crate::schema::Target;
use crate::stats::singular::singular;

pub use correction::PriorCorrection;

/// Why class shares cannot be estimated.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum LabelShiftError {
    /// The target is a value.
    #[error("label shift is about classes, the target is a value")]
    NotClasses,
    /// No row of a class has both a label and a usable output.
    #[error("class {class} has no row with a label and an output in the reference: add some, or leave the class out")]
    NoRows {
        /// Name of the class.
        class: String,
    },
    /// The model tells the classes apart too badly for the rows that there are.
    #[error(
        "the smallest singular value of the confusion matrix is {value:.4}, above {needed:.4} (its sampling error) is \
         expected: use more labelled rows, or a model that tells the classes apart"
    )]
    Singular {
        /// The smallest singular value of P(predicted class | class).
        value: f64,
        /// Its sampling error.
        needed: f64,
    },
    /// Predicted classes were counted for another number of classes.
    #[error("found {found} counts of predicted classes, expected {expected}: one per class")]
    Classes {
        /// Counts given.
        found: usize,
        /// Classes of the schema.
        expected: usize,
    },
    /// There is no prediction to learn from.
    #[error("no prediction was counted, at least 1 is needed")]
    NoPredictions,
}

/// Estimates how the shares of the classes have changed, from predictions alone (black-box shift estimation, Lipton, Wang
/// and Smola 2018).
///
/// With C\[i\]\[j\] = P(predicted i | class j) on the reference, and q the shares of predicted classes in live traffic, the
/// shares π of the classes solve C·π = q. **Assumes** that rows of one class look as they did (label shift); under any other
/// change the result means nothing, and it cannot tell. Outputs of the reference must be out-of-sample and of the model whose
/// predictions are counted. Rows without a label or a usable output are left out.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use feedloop::{Label, LabelShift, Reference, Row, Schema, Target};
///
/// # fn main() -> Result<(), feedloop::BoxError> {
/// let schema = Arc::new(Schema::numeric(1, Target::classes(["good", "fraud"]))?);
/// let mut builder = Reference::builder(schema.clone());
/// for i in 0..1_000_u32 {
///     // one in ten is a fraud; nine of ten predictions are right
///     let (class, right) = (u32::from(i % 10 == 0), i / 10 % 10 != 0);
///     let p = if (class == 1) == right { 0.9 } else { 0.1 };
///     builder.push(&Row::from_values(&schema, &[f64::from(i)])?, Some(&[1.0 - p, p]), Some(Label::Class(class)))?;
/// }
/// let weights = LabelShift::fit(&builder.finish())?.weights(&[500, 500])?;
/// assert!((weights.shares()[1] - 0.5).abs() < 1e-12);
/// let mut output = [0.9, 0.1]; // odds of a fraud are 9 times what they were
/// weights.correct(&mut output);
/// assert!((output[1] - 0.5).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LabelShift {
    /// P(predicted | class): a column per class.
    confusion: Array2<f64>,
    /// Shares of the classes in the reference.
    shares: Vec<f64>,
    /// How often each class was predicted on those rows.
    predicted: Vec<u64>,
}

/// What became of the classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    weights: Vec<f64>,
    shares: Vec<f64>,
}

impl LabelShift {
    /// Learns the confusion matrix from the rows of the reference's sample that have an output and a label.
    ///
    /// # Errors
    /// The target is no class; a class has no row; or the smallest singular value of the confusion matrix is below its
    /// sampling error, √Σ 1/n over the classes' rows n: classes are then not told apart well enough.
    pub fn fit(reference: &Reference) -> Result<Self, LabelShiftError> {
        let target = reference.schema().target();
        let Target::Classes(names) = target else { return Err(LabelShiftError::NotClasses) };
        let mut confusion: Array2<f64> = Array2::zeros((names.len(), names.len()));
        for row in reference.sample() {
            let label = row.label.filter(|label| label.fits(target));
            if let (Some(Label::Class(predicted)), Some(Label::Class(class))) =
                (predicted_label(target, &row.output).filter(|predicted| predicted.fits(target)), label)
            {
                confusion[(predicted as usize, class as usize)] += 1.0;
            }
        }
        let predicted = confusion.rows().into_iter().map(|row| row.sum() as u64).collect();
        let counts: Vec<f64> = confusion.columns().into_iter().map(|column| column.sum()).collect();
        if let Some(class) = counts.iter().position(|&count| count == 0.0) {
            return Err(LabelShiftError::NoRows { class: names[class].clone() });
        }
        confusion.columns_mut().into_iter().zip(&counts).for_each(|(mut column, count)| column /= *count);
        let value = singular(&confusion).smallest();
        // the expected squared distance of the estimated columns from the true ones is at most this, squared
        let needed = counts.iter().map(|count| 1.0 / count).sum::<f64>().sqrt();
        if value <= needed {
            return Err(LabelShiftError::Singular { value, needed });
        }
        let rows: f64 = counts.iter().sum();
        Ok(LabelShift { confusion, shares: counts.iter().map(|count| count / rows).collect(), predicted })
    }

    /// The shares of the classes behind these predictions, and what they are relative to the reference: `predicted[k]` is how
    /// often class `k` was predicted. Negative estimates become 0, the rest is scaled to a sum of 1.
    ///
    /// # Errors
    /// There is not one count per class, or no prediction.
    pub fn weights(&self, predicted: &[u64]) -> Result<Weights, LabelShiftError> {
        if predicted.len() != self.shares.len() {
            return Err(LabelShiftError::Classes { found: predicted.len(), expected: self.shares.len() });
        }
        let all = predicted.iter().map(|&count| count as f64).sum::<f64>();
        if all == 0.0 {
            return Err(LabelShiftError::NoPredictions);
        }
        let counted: Vec<_> = predicted.iter().map(|&count| count as f64 / all).collect();
        let mut shares = singular(&self.confusion).solve(&counted);
        // columns of the confusion matrix sum to 1, so the shares do: one of them is positive
        shares.iter_mut().for_each(|share| *share = share.max(0.0));
        let sum: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        let weights = shares.iter().zip(&self.shares).map(|(now, before)| now / before).collect();
        Ok(Weights { weights, shares })
    }
}

impl Weights {
    /// Share now by share in the reference, per class: the importance weight of a training row of that class.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Estimated shares of the classes now.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Re-weights class probabilities for the new shares (Saerens, Latinne and Decaestecker 2002). An output of another
    /// width, or that leaves nothing to scale to 1 (not finite, all 0), stays as it is.
    pub fn correct(&self, probabilities: &mut [f64]) {
        let sum: f64 = probabilities.iter().zip(&self.weights).map(|(p, weight)| p * weight).sum();
        if probabilities.len() == self.weights.len() && sum > 0.0 && sum.is_finite() {
            probabilities.iter_mut().zip(&self.weights).for_each(|(p, weight)| *p *= weight / sum);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::conformance::Noise;
    use crate::schema::{Row, Schema};
    use std::sync::Arc;

    /// P(predicted | class), a row per class.
    const CLASSIFIER: [[f64; 3]; 3] = [[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8]];

    fn draw(noise: &mut Noise, shares: &[f64]) -> usize {
        let mut left = noise.uniform();
        shares
            .iter()
            .position(|share| {
                (left < *share) || {
                    left -= share;
                    false
                }
            })
            .unwrap_or(shares.len() - 1)
    }

    fn output(predicted: usize) -> [f64; 3] {
        std::array::from_fn(|class| if class == predicted { 0.8 } else { 0.1 })
    }

    fn reference(noise: &mut Noise, rows: u32, classifier: &[[f64; 3]; 3]) -> Reference {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["a", "b", "c"])).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for i in 0..rows {
            let class = draw(noise, &[0.5, 0.3, 0.2]);
            let predicted = draw(noise, &classifier[class]);
            let row = Row::from_values(&schema, &[f64::from(i)]).unwrap();
            builder.push(&row, Some(&output(predicted)), Some(Label::Class(class as u32))).unwrap();
        }
        builder.finish()
    }

    /// Largest error of an estimated share, over `runs` runs with live traffic of shares .1, .2, .7.
    fn worst(rows: u32, live: u32, runs: u32) -> f64 {
        let mut noise = Noise::new("label shift");
        let truth = [0.1, 0.2, 0.7];
        (0..runs).fold(0.0, |worst, _| {
            let fitted = LabelShift::fit(&reference(&mut noise, rows, &CLASSIFIER)).unwrap();
            let mut counts = [0; 3];
            for _ in 0..live {
                let class = draw(&mut noise, &truth);
                counts[draw(&mut noise, &CLASSIFIER[class])] += 1;
            }
            let found = fitted.weights(&counts).unwrap();
            assert!((found.shares().iter().sum::<f64>() - 1.0).abs() < 1e-12);
            found.shares().iter().zip(truth).fold(worst, |worst: f64, (share, truth)| worst.max((share - truth).abs()))
        })
    }

    #[test]
    fn estimated_shares_converge_to_the_true_ones() {
        // σ_min of this classifier is about .55; one standard error of a share is then at most √(Σ1/n + 1/live) / .55:
        // .12 for 400 and 400 rows, .037 for 4,000 and 4,000. Four of them, over 60 shares.
        let (few, many) = (worst(400, 400, 20), worst(4_000, 4_000, 20));
        assert!(few < 0.48 && many < 0.148, "{few} {many}");
        assert!(many < 0.6 * few, "{many} with ten times the rows, {few} before");
    }

    #[test]
    fn a_classifier_that_tells_nothing_apart_is_refused_with_the_value() {
        let same = [CLASSIFIER[0], CLASSIFIER[0], CLASSIFIER[2]];
        let error = LabelShift::fit(&reference(&mut Noise::new("same"), 2_000, &same)).unwrap_err();
        let LabelShiftError::Singular { value, needed } = error else { panic!("{error}") };
        assert!(value < needed && error.to_string().contains(&format!("{value:.4}")), "{error}");
        let constant = [[1.0, 0.0, 0.0]; 3];
        let error = LabelShift::fit(&reference(&mut Noise::new("constant"), 2_000, &constant)).unwrap_err();
        assert!(matches!(error, LabelShiftError::Singular { value, .. } if value < 1e-12), "{error}");
    }

    #[test]
    fn impossible_counts_are_clipped() {
        let fitted = LabelShift::fit(&reference(&mut Noise::new("clip"), 4_000, &CLASSIFIER)).unwrap();
        let found = fitted.weights(&[0, 0, 10]).unwrap();
        assert!(found.shares().iter().all(|share| *share >= 0.0), "{found:?}");
        assert!((found.shares()[2] - 1.0).abs() < 1e-12);
        let mut output = [0.2, 0.2, 0.6];
        found.correct(&mut output);
        assert!((output[2] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_used_is_said_or_left_alone() {
        let mut noise = Noise::new("mistakes");
        let fitted = LabelShift::fit(&reference(&mut noise, 1_000, &CLASSIFIER)).unwrap();
        assert_eq!(fitted.weights(&[1, 2]), Err(LabelShiftError::Classes { found: 2, expected: 3 }));
        assert_eq!(fitted.weights(&[0, 0, 0]), Err(LabelShiftError::NoPredictions));
        let weights = fitted.weights(&[1, 1, 1]).unwrap();
        for odd in [[f64::NAN, 0.5, 0.5], [0.0; 3], [f64::INFINITY, 0.0, 0.0]] {
            let mut output = odd;
            weights.correct(&mut output);
            assert_eq!(output.map(f64::to_bits), odd.map(f64::to_bits));
        }
        let schema = Arc::new(Schema::numeric(1, Target::Value).unwrap());
        assert_eq!(LabelShift::fit(&Reference::builder(schema).finish()).unwrap_err(), LabelShiftError::NotClasses);
        let schema = Arc::new(Schema::numeric(1, Target::classes(["a", "b"])).unwrap());
        let error = LabelShift::fit(&Reference::builder(schema).finish()).unwrap_err();
        assert_eq!(error, LabelShiftError::NoRows { class: "a".into() });
    }
}
