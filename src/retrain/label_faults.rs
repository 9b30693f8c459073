//! Label faults: when labels stop agreeing with the served model, are they wrong, or has the world changed?

mod checking;
mod suspicion;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::stats::collapse::{FIRST_LOOK, SecondOpinions, judge};
pub(crate) use checking::{Asked, Asking, CheckVerdict, Checking, Moved, Next};
pub(crate) use suspicion::Entry;

/// Second opinions of one check.
const MOST_ASKED: u64 = 8;

/// The rules of the label-fault check.
///
/// The labels of people are compared with what the served model had said, as they come. If they agree with it much less
/// than expected, a *check* opens: new labels wait, batches, promotions and rollbacks are held, and three to eight of the
/// newest rows on which label and model differ are asked about again, of people who have not labelled them. Until the
/// evidence is enough for that, labels in doubt count. If the second opinions support the labels, the world has changed:
/// the labels count, and the loop goes on. If they contradict them, the labels since the doubt began are quarantined with
/// the reason `label_fault`; those that are in a batch already are taken back by [what the next one says of
/// them](crate::Manifest::corrected), unless others have come twice since. Their authors (everybody, unless somebody's
/// labels agreed as before) are *distrusted*: what they say next waits until their labels agree with the model again or a
/// further check supports them, and then counts; if a further check contradicts it, or no more second opinions are
/// affordable, it is quarantined too. Nothing is lost: [`Pipeline::readmit`](crate::Pipeline::readmit) takes single rows
/// back from quarantine, whatever somebody says anew of a label that was taken back counts, and
/// [`Pipeline::trust_labels`](crate::Pipeline::trust_labels) lets all of it count again.
///
/// No label waits for ever. A check that nobody answers within [`patience`](Self::patience) is *unresolved*: the labels
/// that it holds are quarantined, because that can be taken back, an alarm says so, and later labels are looked at anew.
/// Labels that wait without a check, because they are too few to ask about or their authors are distrusted, are
/// quarantined after that time. Where only one person labels (or has labelled since a check was left unanswered), nobody
/// can tell a fault from a drift: nothing waits, the labels count, and a collapse raises an alarm.
///
/// Guarantee: if the chance of a contradiction is at most its expected level on every row, at least
/// [`labels_per_opening`](Self::labels_per_opening) labels pass on average before a check opens without a cause. If the
/// labels are right and second opinions are wrong independently with at most
/// [`second_annotator_error`](Self::second_annotator_error), a check calls them wrong with a chance of at most 1 %. Second
/// opinions are at most one in ten labels, beside those of two checks. No guarantee: models are trained on the few labels that
/// come before a collapse shows, and judged by them, until they are taken back (those that come with one poll are looked at
/// together), and a fault that takes away little of the agreement is not found.
///
/// Only classes that people label are checked: outcomes are the truth by definition, and of values nobody can say when
/// two of them contradict each other.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelFaults {
    /// Labels between two checks that open without a cause, at least, on average: 50 unless told.
    pub labels_per_opening: f64,
    /// How often a second opinion may be wrong: 0.1 unless told.
    pub second_annotator_error: f64,
    /// How long second opinions are waited for: a day unless told. Then the check is *unresolved*, and the labels are
    /// treated as faulty, because that can be taken back.
    pub patience: TimeDelta,
}

impl Default for LabelFaults {
    fn default() -> Self {
        LabelFaults { labels_per_opening: 50.0, second_annotator_error: 0.1, patience: TimeDelta::days(1) }
    }
}

impl LabelFaults {
    /// The sum at which a check opens.
    fn threshold(&self) -> f64 {
        self.labels_per_opening.ln()
    }

    /// Fewest rows to ask about for which one mistaken second opinion does not make a fault look like a drift; so many as one
    /// check may ask about if there are none.
    fn enough_rows(&self) -> u64 {
        let is_found = |rows: &u64| judge(*rows, rows - 1, self.second_annotator_error, true) == SecondOpinions::Fault;
        (FIRST_LOOK..MOST_ASKED).find(is_found).unwrap_or(MOST_ASKED)
    }

    pub(crate) fn mistakes(&self) -> Vec<String> {
        let LabelFaults { labels_per_opening, second_annotator_error, patience } = self;
        let mut mistakes = Vec::new();
        if !(labels_per_opening.is_finite() && *labels_per_opening > 1.0) {
            mistakes.push(format!("label_faults: labels_per_opening is {labels_per_opening}, it must be above 1"));
        }
        if !(*second_annotator_error > 0.0 && *second_annotator_error < 0.5) {
            let found = format!("second_annotator_error is {second_annotator_error}");
            mistakes.push(format!("label_faults: {found}, it must be above 0 and below 0.5"));
        }
        if *patience <= TimeDelta::zero() {
            mistakes.push(format!("label_faults: a patience of {patience}, it must be positive"));
        }
        mistakes
    }
}

/// What was counted by the label-fault check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LabelChecks {
    /// Checks that opened, second looks at distrusted people included.
    pub opened: u64,
    /// Those that found the labels wrong.
    pub faults: u64,
    /// Those that found the labels right.
    pub drifts: u64,
    /// Those that nobody answered in time.
    pub unresolved: u64,
    /// Second opinions asked for.
    pub second_opinions: u64,
    /// Labels quarantined, or taken back from a batch.
    pub quarantined: u64,
    /// Those of them that were released.
    pub released: u64,
}

/// A label-fault check that is open, or people whose labels are held back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelCheck {
    /// Second opinions asked for and not judged yet; 0 if no check is open.
    pub asked: usize,
    /// Since when it is open, or the people are distrusted.
    pub since: DateTime<Utc>,
    /// Are labels held back because a check said so, and whose? `Some` of nobody means everybody's.
    pub distrusted: Option<BTreeSet<String>>,
    /// Labels that wait.
    pub waiting: usize,
    /// The particulars.
    pub text: String,
}
