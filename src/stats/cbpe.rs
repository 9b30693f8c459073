//! Confidence-based performance estimation: metrics of predictions whose truth is not known.
//!
//! If P(positive | score) is what it was on the reference, a row's calibrated probability is its expected label, and every
//! metric of the confusion matrix follows from expected counts (NannyML's CBPE; Guillory et al. 2021 for the accuracy).

use super::isotonic::Isotonic;
use super::metrics::{Confusion, Metrics, auroc, brier, mean};

/// Folds of the cross-validation in [`Calibration::fit`].
const FOLDS: usize = 10;
/// From this area under the ROC curve on there is nothing to learn from the few rows that are out of order.
const SEPARATED: f64 = 0.999;

/// Turns a score into the probability that its label is 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Calibration {
    /// The score is as good a probability as we can tell.
    AsIs,
    /// By isotonic regression (Zadrozny and Elkan 2002).
    Isotonic(Isotonic),
}

impl Calibration {
    /// Learns from rows (score, label 0 or 1) that are finite and in random order.
    ///
    /// Isotonic regression only where it improves the Brier score out of sample: 10 folds, each row judged by a fit without its
    /// fold. NannyML compares the expected calibration error in 10 bins instead, over ten overlapping random tenths; whether
    /// that improves for a model that is calibrated already depends on the number of bins and the order of ties, while the
    /// Brier score has neither. As there, a single class or an AUROC above 0.999 leaves the score as it is.
    pub(crate) fn fit(rows: &[(f64, f64)]) -> Self {
        match auroc(&mut rows.to_vec()) {
            Some(area) if area <= SEPARATED => {}
            _ => return Calibration::AsIs,
        }
        let mut calibrated = Vec::with_capacity(rows.len());
        for fold in 0..FOLDS {
            let inside = |(at, row): (usize, &(f64, f64))| (at % FOLDS == fold).then_some(*row);
            let others: Vec<_> =
                rows.iter().enumerate().filter(|(at, _)| at % FOLDS != fold).map(|(_, row)| *row).collect();
            let Some(fitted) = Isotonic::fit(&others) else { return Calibration::AsIs };
            calibrated.extend(rows.iter().enumerate().filter_map(inside).map(|(score, y)| (fitted.at(score), y)));
        }
        if brier(&calibrated) >= brier(rows) {
            return Calibration::AsIs;
        }
        Isotonic::fit(rows).map_or(Calibration::AsIs, Calibration::Isotonic)
    }

    /// The probability for `score`, from 0 to 1.
    pub(crate) fn probability(&self, score: f64) -> f64 {
        match self {
            Calibration::AsIs => score.clamp(0.0, 1.0),
            Calibration::Isotonic(fitted) => fitted.at(score),
        }
    }
}

/// A model's output for one row, and the class that it predicts.
pub(crate) type Row<'a> = (usize, &'a [f64]);

/// The calibrations of a classifier.
#[derive(Clone, Debug)]
pub(crate) struct Calibrations {
    /// One per class, of its probability; of two classes only the second has one.
    classes: Vec<Calibration>,
    /// Of the probability of the predicted class, to the probability that it is right; only with more than two classes.
    top: Option<Calibration>,
}

impl Calibrations {
    /// Learns from rows with their labels, in random order; all outputs are finite and have the same width.
    pub(crate) fn fit(rows: &[(Row<'_>, usize)]) -> Self {
        let width = rows.first().map_or(0, |((_, output), _)| output.len());
        let of = |class: usize| {
            let pairs: Vec<_> =
                rows.iter().map(|&((_, output), label)| (output[class], f64::from(u8::from(label == class)))).collect();
            Calibration::fit(&pairs)
        };
        if width == 2 {
            return Calibrations { classes: vec![of(1)], top: None };
        }
        let top: Vec<_> = rows
            .iter()
            .map(|&((predicted, output), label)| (output[predicted], f64::from(u8::from(label == predicted))))
            .collect();
        Calibrations { classes: (0..width).map(of).collect(), top: Some(Calibration::fit(&top)) }
    }

    /// The probability that the prediction is right.
    pub(crate) fn correctness(&self, (predicted, output): Row<'_>) -> f64 {
        match &self.top {
            Some(top) => top.probability(output[predicted]),
            None => {
                let positive = self.classes[0].probability(output[1]);
                if predicted == 1 { positive } else { 1.0 - positive }
            }
        }
    }

    /// What the metrics of `rows` are expected to be. With more than two classes each is judged against the others, with its
    /// own calibration.
    pub(crate) fn estimate<'a>(&self, rows: impl Iterator<Item = Row<'a>> + Clone) -> Metrics {
        let binary = self.top.is_none();
        let (mut confusions, mut areas, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for (at, calibration) in self.classes.iter().enumerate() {
            let class = if binary { 1 } else { at };
            let mut confusion = Confusion::default();
            scores.clear();
            for (predicted, output) in rows.clone() {
                let positive = calibration.probability(output[class]);
                confusion.push(predicted == class, positive);
                scores.push((output[class], positive));
            }
            if binary {
                confusions.push(confusion.mirrored());
            }
            confusions.push(confusion);
            areas.push(auroc(&mut scores));
        }
        let accuracy = match binary {
            true => confusions.first().and_then(Confusion::accuracy),
            false => mean(rows.map(|row| Some(self.correctness(row)))),
        };
        Metrics::new(&confusions, accuracy, mean(areas))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, number, numbers};

    fn outputs(p: &[f64]) -> Vec<[f64; 2]> {
        p.iter().map(|p| [1.0 - p, *p]).collect()
    }

    #[test]
    fn golden_estimates_match_nannyml() {
        for case in cases("cbpe") {
            let reference = &case.inputs["ref"];
            let pairs: Vec<_> = numbers(&reference["p"]).into_iter().zip(numbers(&reference["y"])).collect();
            let calibration = Calibration::fit(&pairs);
            let needed = case.outputs["needs_calibration"].as_bool().unwrap();
            assert_eq!(calibration != Calibration::AsIs, needed, "{}", case.name);
            let p = numbers(&case.inputs["cur"]["p"]);
            for (p, expected) in p.iter().zip(numbers(&case.outputs["calibrated_p"])) {
                assert_close(calibration.probability(*p), expected, 1e-12, 0.0, &case.name);
            }
            let calibrations = Calibrations { classes: vec![calibration], top: None };
            let (outputs, predicted) = (outputs(&p), numbers(&case.inputs["cur"]["yhat"]));
            for chunk in 0..2 {
                let rows = 300 * chunk..300 * (chunk + 1);
                let found = calibrations.estimate(rows.map(|row| (predicted[row] as usize, &outputs[row][..])));
                let expected = |name: &str| number(&case.outputs["analysis"][format!("{name}_value")][chunk]);
                let both = 0.5 * (expected("recall") + expected("specificity"));
                let checks = [
                    (found.accuracy, expected("accuracy"), 1e-12),
                    (found.balanced_accuracy, both, 1e-12),
                    (found.precision, expected("precision"), 1e-12),
                    (found.recall, expected("recall"), 1e-12),
                    (found.f1, expected("f1"), 1e-12),
                    // With isotonic plateaus nannyml is off by 1e-8 of the sum over pairs, for a reason that it does not state;
                    // that sum is what `auroc_is_the_share_of_ordered_pairs` holds ours to.
                    (found.auroc, expected("roc_auc"), if needed { 2e-8 } else { 1e-9 }),
                ];
                for (found, expected, tolerance) in checks {
                    assert_close(found.unwrap(), expected, tolerance, 0.0, &format!("{} chunk {chunk}", case.name));
                }
            }
        }
    }

    #[test]
    fn single_class_references_and_windows_are_no_failure() {
        let calibration = Calibration::fit(&[(0.2, 1.0), (0.9, 1.0), (0.4, 1.0)]);
        assert_eq!(calibration, Calibration::AsIs);
        assert_eq!(Calibration::fit(&[]), Calibration::AsIs);
        let calibrations = Calibrations { classes: vec![Calibration::AsIs], top: None };
        let sure = outputs(&[0.0; 4]);
        let found = calibrations.estimate(sure.iter().map(|output| (0, &output[..])));
        assert_eq!((found.accuracy, found.balanced_accuracy), (Some(1.0), Some(1.0)));
        assert_eq!((found.precision, found.recall, found.f1, found.auroc), (None, None, None, None));
        assert_eq!(calibrations.estimate(std::iter::empty()), Metrics::default());
    }

    #[test]
    fn more_classes_are_averaged_one_against_the_rest() {
        let calibrations = Calibrations { classes: vec![Calibration::AsIs; 3], top: Some(Calibration::AsIs) };
        let rows = [(0, [0.8, 0.1, 0.1]), (1, [0.3, 0.6, 0.1])];
        let found = calibrations.estimate(rows.iter().map(|(class, output)| (*class, &output[..])));
        let close = |found: Option<f64>, expected: f64| assert_close(found.unwrap(), expected, 1e-12, 0.0, "macro");
        close(found.accuracy, 0.7);
        close(found.precision, 0.5 * (0.8 + 0.6));
        close(found.recall, (0.8 / 1.1 + 0.6 / 0.7 + 0.0) / 3.0);
        close(found.f1, (1.6 / 2.1 + 1.2 / 1.7 + 0.0) / 3.0);
    }

    /// `cargo test --release --lib cbpe_of_100k -- --ignored --nocapture`
    #[test]
    #[ignore = "prints a time"]
    fn cbpe_of_100k_rows() {
        let p: Vec<_> = (0..100_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9) % 100_003) as f64 / 100_003.0).collect();
        let labelled: Vec<_> =
            p.iter().map(|p| (*p, f64::from(u8::from((p * 7919.0).fract() < 0.2 + 0.6 * p)))).collect();
        let calibrations = Calibrations { classes: vec![Calibration::fit(&labelled[..4096])], top: None };
        assert_ne!(calibrations.classes[0], Calibration::AsIs);
        let outputs = outputs(&p);
        let start = std::time::Instant::now();
        let found = calibrations.estimate(outputs.iter().map(|o| (usize::from(o[1] >= 0.5), &o[..])));
        println!("{:?}: {found:?}", start.elapsed());
    }
}
