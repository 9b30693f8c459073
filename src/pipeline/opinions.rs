//! What the labels of a sample amount to: whose word counts, and what is still open.

use super::label::{MOST_PEOPLE, NO_CONSENSUS};
use crate::event::Label;
use crate::review;
use crate::sample::{Annotation, Annotator, Lane, Sample, SampleState};

pub(super) fn annotator_name(annotator: &Annotator) -> String {
    match annotator {
        Annotator::Human(name) => name.clone(),
        Annotator::Model(version) => format!("model-{version}"),
        Annotator::User(name) => format!("user-{name}"),
        Annotator::GroundTruth => "ground-truth".into(),
    }
}

/// Have as many people answered as were to, without a majority, and the world says nothing?
pub(super) fn is_disputed(sample: &Sample) -> bool {
    let people: Vec<Annotation> = people(sample).into_iter().cloned().collect();
    world_says(sample).is_none() && review::consensus(&people, sample.overlap) == review::Consensus::Disputed
}

/// Is a person still to say something of it? What is in a batch is asked about while those who have do not agree.
pub(super) fn waits_for_people(sample: &Sample) -> bool {
    match sample.state {
        SampleState::Queued => true,
        SampleState::Batched => is_disputed(sample) && people(sample).len() < MOST_PEOPLE,
        _ => false,
    }
}

/// Was the sample put aside because people do not agree, or because what they say is in doubt?
pub(super) fn is_undecided(sample: &Sample) -> bool {
    sample.is_label_fault() || sample.history.last().is_some_and(|step| step.reason.code == NO_CONSENSUS)
}

/// What each person said last, if it was a label.
pub(super) fn people(sample: &Sample) -> Vec<&Annotation> {
    let mut people = newest(sample);
    people.retain(|annotation| matches!(annotation.annotator, Annotator::Human(_)));
    people
}

/// The label that counts: the truth before people, people (by majority once enough of them have answered) before users,
/// users before the model. What an annotator said last is what counts of them; a retraction takes it back. Of a label that was
/// taken back only the truth counts, until somebody says something new.
pub(super) fn resolve(sample: &Sample) -> Option<Annotation> {
    let newest = newest(sample);
    let find = |wanted: fn(&Annotator) -> bool| newest.iter().rev().find(|a| wanted(&a.annotator)).copied();
    let truth = find(|a| matches!(a, Annotator::GroundTruth));
    if sample.is_taken_back() {
        return truth.cloned();
    }
    truth
        .or_else(|| agreed(&newest, sample.overlap))
        .or_else(|| find(|a| matches!(a, Annotator::User(_))).filter(|_| !is_up_to_people(sample)))
        .or_else(|| find(|a| matches!(a, Annotator::Model(_))))
        .cloned()
}

/// Are people asked whose answers so far settle nothing, or is a label in doubt? Then no user's opinion decides.
fn is_up_to_people(sample: &Sample) -> bool {
    sample.is_adjudicated() || !people(sample).is_empty()
}

pub(super) fn is_users(label: &Option<Annotation>) -> bool {
    label.as_ref().is_some_and(|annotation| matches!(annotation.annotator, Annotator::User(_)))
}

/// What the detectors are told is true of a sample: the outcome, or what people agree on if the random lane drew the row.
/// Rows of other lanes were asked about for a reason, and a rate over them would be no rate of the stream.
pub(super) fn settled_truth(sample: &Sample) -> Option<Label> {
    world_says(sample).or_else(|| people_say(sample).filter(|_| sample.lane == Lane::Random))
}

/// The newest outcome, if it was not taken back.
pub(super) fn world_says(sample: &Sample) -> Option<Label> {
    sample.annotations.iter().rev().find(|a| a.annotator == Annotator::GroundTruth).and_then(|a| a.label)
}

/// What people agree on.
pub(super) fn people_say(sample: &Sample) -> Option<Label> {
    agreed(&newest(sample), sample.overlap).and_then(|annotation| annotation.label)
}

/// What each annotator said last, if it was a label.
fn newest(sample: &Sample) -> Vec<&Annotation> {
    let mut newest: Vec<&Annotation> = Vec::new();
    for annotation in &sample.annotations {
        newest.retain(|other| other.annotator != annotation.annotator);
        newest.push(annotation);
    }
    newest.retain(|annotation| annotation.label.is_some());
    newest
}

/// The newest annotation with the label that most people gave, once enough of them have answered.
fn agreed<'a>(newest: &[&'a Annotation], overlap: u32) -> Option<&'a Annotation> {
    let by_people = newest.iter().copied().filter(|a| matches!(a.annotator, Annotator::Human(_)));
    let people: Vec<Annotation> = by_people.clone().cloned().collect();
    match review::consensus(&people, overlap) {
        review::Consensus::Agreed(label, _) => by_people.rev().find(|annotation| annotation.label == Some(label)),
        _ => None,
    }
}
