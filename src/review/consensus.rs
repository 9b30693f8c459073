//! What several answers to one question amount to.

use crate::event::Label;
use crate::sample::{Annotation, Annotator};

/// What several answers to one question amount to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Consensus {
    /// More than half agree on the label; the share that does.
    Agreed(Label, f64),
    /// Enough have answered, and no label has more than half.
    Disputed,
    /// Too few have answered.
    Waiting,
}

/// The label that more than half of the people (or users, or the world) gave, once `overlap` of them have answered.
///
/// The newest answer of each counts (of equal times the later in the list); a retraction takes it away; models have no
/// voice. Values must be equal; see [`consensus_within`].
pub fn consensus(answers: &[Annotation], overlap: u32) -> Consensus {
    consensus_within(answers, overlap, 0.0)
}

/// As [`consensus`], where values agree that differ from the median (the lower of two) by at most `tolerance`; the
/// median is then the label.
pub fn consensus_within(answers: &[Annotation], overlap: u32, tolerance: f64) -> Consensus {
    let labels = standing(answers);
    if labels.len() < overlap as usize {
        return Consensus::Waiting;
    }
    majority(labels.iter().map(|(_, label)| *label), tolerance)
}

/// What more than half of the labels agree on.
pub(super) fn majority(labels: impl Iterator<Item = Label>, tolerance: f64) -> Consensus {
    let mut sorted: Vec<Label> = labels.collect();
    if sorted.is_empty() {
        return Consensus::Waiting;
    }
    sorted.sort_by(|a, b| a.number().total_cmp(&b.number()));
    // A label that more than half gave is the median.
    let median = sorted[(sorted.len() - 1) / 2];
    let agrees = |label: &&Label| match (median, label) {
        (Label::Class(a), Label::Class(b)) => a == *b,
        (Label::Value(a), Label::Value(b)) => a == *b || (a - b).abs() <= tolerance,
        _ => false,
    };
    let share = sorted.iter().filter(agrees).count() as f64 / sorted.len() as f64;
    if share > 0.5 { Consensus::Agreed(median, share) } else { Consensus::Disputed }
}

/// The newest label of each annotator that is no model, in the order of their first answers.
pub(crate) fn standing(answers: &[Annotation]) -> Vec<(&Annotator, Label)> {
    let mut newest: Vec<&Annotation> = Vec::new();
    for answer in answers.iter().filter(|answer| answer.annotator.is_independent()) {
        match newest.iter_mut().find(|known| known.annotator == answer.annotator) {
            Some(known) if answer.time >= known.time => *known = answer,
            Some(_) => {}
            None => newest.push(answer),
        }
    }
    newest.into_iter().filter_map(|answer| Some((&answer.annotator, answer.label?))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::ModelVersion;
    use crate::gate::testing::{annotation, at};

    fn by(name: &str, seconds: i64, label: Option<Label>) -> Annotation {
        let answer = annotation(1, Annotator::Human(name.into()), Label::Class(0));
        Annotation { label, time: at(seconds), ..answer }
    }

    fn class(name: &str, class: u32) -> Annotation {
        by(name, 0, Some(Label::Class(class)))
    }

    fn value(name: &str, value: f64) -> Annotation {
        by(name, 0, Some(Label::Value(value)))
    }

    #[test]
    fn more_than_half_must_agree_once_enough_have_answered() {
        assert_eq!(consensus(&[], 1), Consensus::Waiting);
        assert_eq!(consensus(&[], 0), Consensus::Waiting);
        assert_eq!(consensus(&[class("a", 1)], 2), Consensus::Waiting);
        assert_eq!(consensus(&[class("a", 1)], 1), Consensus::Agreed(Label::Class(1), 1.0));
        assert_eq!(consensus(&[class("a", 1), class("b", 2)], 2), Consensus::Disputed);
        let three = [class("a", 2), class("b", 0), class("c", 2)];
        assert_eq!(consensus(&three, 3), Consensus::Agreed(Label::Class(2), 2.0 / 3.0));
        assert_eq!(consensus(&[class("a", 2), class("b", 0), class("c", 1)], 3), Consensus::Disputed);
    }

    #[test]
    fn the_newest_answer_of_each_person_counts() {
        let corrected = [by("a", 5, Some(Label::Class(1))), by("a", 2, Some(Label::Class(0))), class("b", 1)];
        assert_eq!(consensus(&corrected, 2), Consensus::Agreed(Label::Class(1), 1.0));
        let retracted = [class("a", 1), by("a", 3, None), class("b", 1)];
        assert_eq!(consensus(&retracted, 2), Consensus::Waiting);
    }

    #[test]
    fn models_have_no_voice() {
        let model = annotation(1, Annotator::Model(ModelVersion(2)), Label::Class(1));
        assert_eq!(consensus(&[model.clone(), model], 1), Consensus::Waiting);
    }

    #[test]
    fn values_agree_around_the_median() {
        let answers = [value("a", 1.0), value("b", 9.0), value("c", 1.2)];
        assert_eq!(consensus(&answers, 3), Consensus::Disputed);
        assert_eq!(consensus_within(&answers, 3, 0.3), Consensus::Agreed(Label::Value(1.2), 2.0 / 3.0));
    }
}
