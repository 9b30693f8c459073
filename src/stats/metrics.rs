//! How good predictions were, given the truth, or given only the probability of each truth.
//!
//! A row's `positive` is its label, 1 or 0, or the probability that its label is 1: sums of probabilities are expected
//! counts. What a set of rows does not determine is `None`, never 0.

use serde::{Deserialize, Serialize};

/// Counts, or expected counts, of one class against the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Confusion {
    /// Predicted and true.
    pub(crate) true_positive: f64,
    /// Predicted, not true.
    pub(crate) false_positive: f64,
    /// True, not predicted.
    pub(crate) false_negative: f64,
    /// Neither.
    pub(crate) true_negative: f64,
}

fn share(part: f64, rest: f64) -> Option<f64> {
    let all = part + rest;
    (all > 0.0).then(|| part / all)
}

impl Confusion {
    /// Counts a row.
    pub(crate) fn push(&mut self, predicted: bool, positive: f64) {
        if predicted {
            self.true_positive += positive;
            self.false_positive += 1.0 - positive;
        } else {
            self.false_negative += positive;
            self.true_negative += 1.0 - positive;
        }
    }

    /// The same rows, with the classes exchanged.
    pub(crate) fn mirrored(self) -> Self {
        Confusion {
            true_positive: self.true_negative,
            false_positive: self.false_negative,
            false_negative: self.false_positive,
            true_negative: self.true_positive,
        }
    }

    /// Share of rows that are right.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        share(self.true_positive + self.true_negative, self.false_positive + self.false_negative)
    }

    /// Share of the predicted that are true.
    pub(crate) fn precision(&self) -> Option<f64> {
        share(self.true_positive, self.false_positive)
    }

    /// Share of the true that are predicted.
    pub(crate) fn recall(&self) -> Option<f64> {
        share(self.true_positive, self.false_negative)
    }

    /// Harmonic mean of precision and recall.
    pub(crate) fn f1(&self) -> Option<f64> {
        share(2.0 * self.true_positive, self.false_positive + self.false_negative)
    }
}

/// Mean of what is there; `None` if nothing is.
pub(crate) fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.into_iter().flatten().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// How good a set of predictions was. What the rows do not determine (the precision of a class that was never predicted, the
/// recall of one that never occurred) is `None`: not computed.
///
/// Of two classes the second is the positive one. Of more classes, precision, recall, F1 and AUROC are means over the classes
/// for which they are determined, each against the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Share of predictions that are right.
    pub accuracy: Option<f64>,
    /// Mean of the recalls of all classes.
    pub balanced_accuracy: Option<f64>,
    /// Share of the predicted that are true.
    pub precision: Option<f64>,
    /// Share of the true that are predicted.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
    /// Area under the ROC curve, ties one half.
    pub auroc: Option<f64>,
}

impl Metrics {
    /// From one confusion per class, against the others.
    pub(crate) fn new(classes: &[Confusion], accuracy: Option<f64>, auroc: Option<f64>) -> Self {
        let of = match classes {
            [_, _] => &classes[1..],
            _ => classes,
        };
        Metrics {
            accuracy,
            balanced_accuracy: mean(classes.iter().map(Confusion::recall)),
            precision: mean(of.iter().map(Confusion::precision)),
            recall: mean(of.iter().map(Confusion::recall)),
            f1: mean(of.iter().map(Confusion::f1)),
            auroc,
        }
    }

    /// Those that there are, with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [
            ("accuracy", self.accuracy),
            ("balanced_accuracy", self.balanced_accuracy),
            ("precision", self.precision),
            ("recall", self.recall),
            ("f1", self.f1),
            ("auroc", self.auroc),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Area under the ROC curve of rows (score, positive): the probability that a positive row has the larger score than a
/// negative one, ties one half (midranks). `None` unless there are both. Sorts the rows; scores are not NaN.
///
/// With probabilities, P(row i positive)·P(row j negative) weighs every pair (i, j), a row with itself included.
pub(crate) fn auroc(rows: &mut [(f64, f64)]) -> Option<f64> {
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let (mut positives, mut negatives, mut wins) = (0.0, 0.0, 0.0);
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        let here: f64 = tied.iter().map(|(_, positive)| positive).sum();
        let others = tied.len() as f64 - here;
        wins += here * (negatives + 0.5 * others);
        positives += here;
        negatives += others;
    }
    (positives > 0.0 && negatives > 0.0).then(|| wins / (positives * negatives))
}

/// Mean squared distance of the probability from the label, of rows (probability, label) (Brier 1950); 0 without rows.
pub(crate) fn brier(rows: &[(f64, f64)]) -> f64 {
    rows.iter().map(|(p, label)| (p - label).powi(2)).sum::<f64>() / rows.len().max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};
    use proptest::prelude::*;

    #[test]
    fn golden_metrics_match_scikit_learn() {
        for case in cases("classification_metrics") {
            let mut rows: Vec<_> = numbers(&case.inputs["p"]).into_iter().zip(numbers(&case.inputs["y"])).collect();
            assert_close(brier(&rows), number(&case.outputs["brier"]), 1e-12, 0.0, &case.name);
            assert_close(auroc(&mut rows).unwrap(), number(&case.outputs["roc_auc"]), 1e-12, 0.0, &case.name);
        }
    }

    /// The realised figures that nannyml took from scikit-learn.
    #[test]
    fn golden_confusions_match_scikit_learn() {
        for case in cases("cbpe") {
            let current = &case.inputs["cur"];
            let (p, predicted) = (numbers(&current["p"]), numbers(&current["yhat"]));
            let truth = numbers(&case.inputs["cur_y_hidden"]);
            for chunk in 0..2 {
                let mut confusion = Confusion::default();
                let rows = 300 * chunk..300 * (chunk + 1);
                rows.clone().for_each(|row| confusion.push(predicted[row] == 1.0, truth[row]));
                let mut scores: Vec<_> = rows.map(|row| (p[row], truth[row])).collect();
                let found = [
                    ("accuracy", confusion.accuracy()),
                    ("precision", confusion.precision()),
                    ("recall", confusion.recall()),
                    ("specificity", confusion.mirrored().recall()),
                    ("f1", confusion.f1()),
                    ("roc_auc", auroc(&mut scores)),
                ];
                for (name, found) in found {
                    let expected = number(&case.outputs["analysis"][format!("{name}_realized")][chunk]);
                    assert_close(found.unwrap(), expected, 1e-12, 0.0, &format!("{} {name}", case.name));
                }
            }
        }
    }

    #[test]
    fn what_a_single_class_does_not_determine_is_not_computed() {
        let mut right = Confusion::default();
        (0..5).for_each(|_| right.push(false, 0.0));
        assert_eq!((right.accuracy(), right.mirrored().recall()), (Some(1.0), Some(1.0)));
        assert_eq!((right.precision(), right.recall(), right.f1()), (None, None, None));
        assert_eq!(auroc(&mut [(0.2, 0.0), (0.4, 0.0)]), None);
        assert_eq!(auroc(&mut []), None);
        assert_eq!(Confusion::default().accuracy(), None);
        assert_eq!(mean([None, Some(1.0), None, Some(2.0)]), Some(1.5));
        assert_eq!(mean([None]), None);
    }

    proptest! {
        #[test]
        fn auroc_is_the_share_of_ordered_pairs(
            rows in prop::collection::vec((0..12_u32, 0.0..1.0_f64), 1..40),
        ) {
            let mut rows: Vec<_> = rows.into_iter().map(|(score, p)| (f64::from(score), p)).collect();
            let (mut wins, mut pairs) = (0.0, 0.0);
            for &(first, p) in &rows {
                for &(second, q) in &rows {
                    let weight = p * (1.0 - q);
                    pairs += weight;
                    wins += weight * if first > second { 1.0 } else if first == second { 0.5 } else { 0.0 };
                }
            }
            prop_assert!((auroc(&mut rows).unwrap() - wins / pairs).abs() < 1e-12);
        }
    }
}
