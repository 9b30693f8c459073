//! Labels that people or the model disagree with.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::Given;
use super::vote::agree;
use crate::event::Label;
use crate::label_issues::{IssueRule, label_issues};
use crate::review::standing;
use crate::sample::{Annotator, Reason};

/// Samples that a note names.
const MOST_NAMED: usize = 20;

/// Names the samples whose people differ among each other.
pub(super) fn dissent(rows: &[Given<'_>], tolerance: f64) -> Option<Reason> {
    let mut several = 0_usize;
    let mut differ = Vec::new();
    for row in rows {
        let mut said = standing(&row.draft.sample.annotations);
        said.retain(|(annotator, _)| matches!(annotator, Annotator::Human(_)));
        several += usize::from(said.len() > 1);
        if said.iter().any(|(_, label)| !agree(said[0].1, *label, tolerance)) {
            differ.push(row.vote.sample.to_string());
        }
    }
    let (count, share) = (differ.len(), 100.0 * differ.len() as f64 / several.max(1) as f64);
    let more = if count > MOST_NAMED { " and others" } else { "" };
    differ.truncate(MOST_NAMED);
    let text = format!(
        "people differ on {count} of the {several} samples that several of them answered ({share:.1} %): {}{more}",
        differ.join(", ")
    );
    (count > 0).then(|| Reason::new("annotators_disagree", text))
}

/// What confident learning says of the rows of a batch.
pub(super) struct LikelyWrong {
    /// Rows that it could look at, ascending.
    pub(super) examined: Vec<usize>,
    /// Those whose label is likely wrong, and why.
    pub(super) wrong: BTreeMap<usize, Reason>,
}

/// Looks at the labels of people and users with a usable output.
///
/// # Errors
/// There are fewer than `min_rows`; a note that says so.
pub(super) fn likely_wrong(rows: &[Given<'_>], classes: &[String], min_rows: usize) -> Result<LikelyWrong, Reason> {
    let (mut examined, mut labels, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        let by = row.draft.sample.label.as_ref().map(|label| &label.annotator);
        let output = row.draft.sample.observation.output();
        let usable = output.len() == classes.len() && output.iter().all(|p| (0.0..=1.0).contains(p));
        if let (Label::Class(class), Some(Annotator::Human(_) | Annotator::User(_)), true) =
            (row.vote.label, by, usable)
            && (class as usize) < classes.len()
        {
            examined.push(at);
            labels.push(class);
            probabilities.extend_from_slice(output);
        }
    }
    let few = examined.len() < min_rows;
    let found = Array2::from_shape_vec((labels.len(), classes.len()), probabilities).ok().filter(|_| !few);
    let found = found.and_then(|p| label_issues(&labels, p.view(), IssueRule::default()).ok());
    let Some(found) = found else {
        let text = format!("{} labels of people have a usable output, {min_rows} are needed", examined.len());
        return Err(Reason::new("not_examined", text));
    };
    let reason = |issue: &crate::LabelIssue| {
        let (given, predicted) = (&classes[issue.given as usize], &classes[issue.predicted as usize]);
        let text = format!(
            "labelled {given}, of which the model said {:.3}; {predicted} is more likely, by confident learning over {} labels",
            issue.self_confidence,
            labels.len()
        );
        (examined[issue.row], Reason::new("label_issue", text))
    };
    let wrong = found.issues().iter().map(reason).collect();
    Ok(LikelyWrong { examined, wrong })
}
