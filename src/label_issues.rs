//! Label issues: labels that a model's probabilities speak against.

use ndarray::{Array2, ArrayView2};
use thiserror::Error;

pub use crate::stats::confident::IssueRule;
use crate::stats::confident::{CLOSE, Confident, Labelled, argmax};

/// Why labels cannot be examined.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum LabelIssuesError {
    /// Labels and probabilities are of different rows.
    #[error("found {labels} labels and probabilities of {rows} rows, expected as many")]
    Rows {
        /// Number of labels.
        labels: usize,
        /// Rows of probabilities.
        rows: usize,
    },
    /// There is nothing that a label could be confused with.
    #[error("found probabilities of {found} classes, expected at least 2")]
    Classes {
        /// Columns of probabilities.
        found: usize,
    },
    /// A label is no class.
    #[error("the label of row {row} is {label}, expected a class below {classes}")]
    Label {
        /// Which row.
        row: usize,
        /// What it has.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
}

/// A label that is likely wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelIssue {
    /// Which row.
    pub row: usize,
    /// The class that it has.
    pub given: u32,
    /// The class that the model finds most probable.
    pub predicted: u32,
    /// The model's probability of the given class.
    pub self_confidence: f64,
}

/// What confident learning found in some labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelIssues {
    issues: Vec<LabelIssue>,
    left_out: Vec<usize>,
    thresholds: Vec<f64>,
    counted: Array2<u64>,
    joint: Array2<u64>,
    noise_matrix: Array2<f64>,
    inverse_noise_matrix: Array2<f64>,
    prior: Vec<f64>,
}

/// Finds labels that are likely wrong: confident learning (Northcutt, Jiang and Chuang 2021), with the results of its
/// authors' library cleanlab.
///
/// `labels[i]` is the class of row i, `probabilities[[i, k]]` what a model says of class k. **Assumes** that the
/// probabilities are out-of-sample (the model was not trained on these labels, so that it cannot repeat them) and that
/// a label is wrong with a probability that depends on its true class, not on the row. They need not be calibrated: a
/// row counts as class k if its probability reaches the mean over the rows that are labelled k.
///
/// A row with a probability that is NaN or outside 0..1 is left out and listed. Time: as rows times classes; memory:
/// about 50 bytes per row, and a copy of the probabilities if rows are left out or do not lie one after another.
///
/// # Errors
/// There are not as many labels as rows, there are less than two classes, or a label is no class.
///
/// # Examples
/// ```
/// use feedloop::{IssueRule, label_issues, ndarray::Array2};
///
/// # fn main() -> Result<(), feedloop::BoxError> {
/// // 20 rows of two classes that the model knows; row 3 has the wrong label
/// let mut labels: Vec<u32> = (0..20).map(|row| row % 2).collect();
/// let probabilities = Array2::from_shape_fn((20, 2), |(row, class)| if row % 2 == class { 0.9 } else { 0.1 });
/// labels[3] = 0;
/// let found = label_issues(&labels, probabilities.view(), IssueRule::default())?;
/// assert_eq!(found.issues().len(), 1);
/// assert_eq!((found.issues()[0].row, found.issues()[0].predicted), (3, 1));
/// // one of the 11 rows that are labelled 0 is a 1
/// assert_eq!(found.joint()[[0, 1]], 1);
/// # Ok(())
/// # }
/// ```
pub fn label_issues(
    labels: &[u32],
    probabilities: ArrayView2<'_, f64>,
    rule: IssueRule,
) -> Result<LabelIssues, LabelIssuesError> {
    let (rows, classes) = probabilities.dim();
    if labels.len() != rows {
        return Err(LabelIssuesError::Rows { labels: labels.len(), rows });
    }
    if classes < 2 {
        return Err(LabelIssuesError::Classes { found: classes });
    }
    if let Some(row) = labels.iter().position(|label| *label as usize >= classes) {
        return Err(LabelIssuesError::Label { row, label: labels[row], classes });
    }
    let usable = |p: &f64| (-CLOSE..=1.0 + CLOSE).contains(p);
    let (kept, left_out): (Vec<usize>, Vec<usize>) =
        (0..rows).partition(|row| probabilities.row(*row).iter().all(usable));
    let (copied_labels, copied);
    let data = match probabilities.as_slice() {
        Some(slice) if left_out.is_empty() => Labelled { labels, probabilities: slice, classes },
        _ => {
            copied_labels = kept.iter().map(|row| labels[*row]).collect::<Vec<_>>();
            copied = kept.iter().flat_map(|row| probabilities.row(*row).to_vec()).collect::<Vec<_>>();
            Labelled { labels: &copied_labels, probabilities: &copied, classes }
        }
    };
    let fit = Confident::new(data);
    let issue = |at: usize| LabelIssue {
        row: kept[at],
        given: data.labels[at],
        predicted: argmax(data.row(at)) as u32,
        self_confidence: data.self_confidence(at),
    };
    let mut issues: Vec<LabelIssue> = fit.issues(data, rule).into_iter().map(issue).collect();
    issues.sort_by(|a, b| a.self_confidence.total_cmp(&b.self_confidence));
    Ok(LabelIssues {
        issues,
        left_out,
        noise_matrix: fit.noise_matrix(),
        inverse_noise_matrix: fit.inverse_noise_matrix(),
        prior: fit.prior(),
        thresholds: fit.thresholds,
        counted: fit.counted,
        joint: fit.joint,
    })
}

impl LabelIssues {
    /// The labels that are likely wrong, those whose given class is least probable first.
    pub fn issues(&self) -> &[LabelIssue] {
        &self.issues
    }

    /// Rows without usable probabilities, ascending.
    pub fn left_out(&self) -> &[usize] {
        &self.left_out
    }

    /// The probability from which on a row counts as each class; infinite for a class that no row is labelled with.
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds
    }

    /// Rows of each (given class, class that they count as); at least 1 on the diagonal: the confident joint before it
    /// is calibrated.
    pub fn counted(&self) -> &Array2<u64> {
        &self.counted
    }

    /// How many rows there are of each (given class, true class), as estimated: the calibrated confident joint.
    pub fn joint(&self) -> &Array2<u64> {
        &self.joint
    }

    /// P(given class | true class), as (given, true); 0 for a true class that no row has.
    pub fn noise_matrix(&self) -> &Array2<f64> {
        &self.noise_matrix
    }

    /// P(true class | given class), as (true, given); 0 for a given class that no row has.
    pub fn inverse_noise_matrix(&self) -> &Array2<f64> {
        &self.inverse_noise_matrix
    }

    /// Share of each true class, at least 1e-6.
    pub fn prior(&self) -> &[f64] {
        &self.prior
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{cases, matrix, numbers};

    #[test]
    fn golden_issues_come_in_the_order_of_cleanlab() {
        for case in cases("cleanlab") {
            let labels: Vec<u32> = numbers(&case.inputs["labels"]).into_iter().map(|label| label as u32).collect();
            let probabilities = matrix(&case.inputs["pred_probs"]);
            let found = label_issues(&labels, probabilities.view(), IssueRule::default()).unwrap();
            let order: Vec<f64> = found.issues().iter().map(|issue| issue.row as f64).collect();
            assert_eq!(order, numbers(&case.outputs["ranked_by_self_confidence"]), "{}", case.name);
            assert!(found.issues().iter().all(|issue| issue.predicted != issue.given), "{}", case.name);
        }
    }

    #[test]
    fn rows_without_usable_probabilities_are_left_out_wherever_they_are() {
        let case = &cases("cleanlab")[1];
        let labels: Vec<u32> = numbers(&case.inputs["labels"]).into_iter().map(|label| label as u32).collect();
        let clean = matrix(&case.inputs["pred_probs"]);
        let expected = label_issues(&labels, clean.view(), IssueRule::default()).unwrap();
        let (mut more_labels, mut more) = (Vec::new(), Vec::new());
        for (row, label) in labels.iter().enumerate() {
            if row % 10 == 0 {
                more_labels.push(row as u32 / 10 % 4);
                more.extend([0.3, [f64::NAN, f64::INFINITY, -0.5, 1.5][row / 10 % 4], 0.3, 0.4]);
            }
            more_labels.push(*label);
            more.extend(clean.row(row));
        }
        let more = Array2::from_shape_vec((more_labels.len(), 4), more).unwrap();
        let found = label_issues(&more_labels, more.view(), IssueRule::default()).unwrap();
        assert_eq!(found.left_out(), (0..20).map(|n| 11 * n).collect::<Vec<_>>());
        let moved: Vec<usize> = expected.issues().iter().map(|issue| issue.row + issue.row / 10 + 1).collect();
        assert_eq!(found.issues().iter().map(|issue| issue.row).collect::<Vec<_>>(), moved);
        assert_eq!((found.joint(), found.thresholds()), (expected.joint(), expected.thresholds()));
    }

    #[test]
    fn the_layout_of_the_probabilities_does_not_matter() {
        let case = &cases("cleanlab")[3];
        let labels: Vec<u32> = numbers(&case.inputs["labels"]).into_iter().map(|label| label as u32).collect();
        let rows = matrix(&case.inputs["pred_probs"]);
        let columns = rows.t().as_standard_layout().into_owned();
        assert_eq!(columns.t().as_slice(), None);
        let found = label_issues(&labels, columns.t(), IssueRule::Both).unwrap();
        assert_eq!(found, label_issues(&labels, rows.view(), IssueRule::Both).unwrap());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let probabilities = Array2::from_elem((3, 2), 0.5);
        let error = |labels: &[u32], p: &Array2<f64>| label_issues(labels, p.view(), IssueRule::Both).unwrap_err();
        assert_eq!(error(&[0, 1], &probabilities), LabelIssuesError::Rows { labels: 2, rows: 3 });
        let label = LabelIssuesError::Label { row: 1, label: 2, classes: 2 };
        assert_eq!(error(&[0, 2, 7], &probabilities), label);
        assert_eq!(error(&[], &Array2::zeros((0, 1))), LabelIssuesError::Classes { found: 1 });
        let nothing = label_issues(&[], Array2::zeros((0, 2)).view(), IssueRule::Both).unwrap();
        assert!(nothing.issues().is_empty() && nothing.prior().iter().all(|share| *share == 0.5));
    }
}
