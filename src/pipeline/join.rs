//! What arrives joins what is known: predictions, outcomes and feedback, early, late, corrected, retracted.

use chrono::TimeDelta;

use super::Pipeline;
use super::ledger::Entry;
use super::opinions::{people_say, settled_truth, world_says};
use super::retraining::Made;
use crate::chunk::{Heard, Truth};
use crate::clock::from_micros;
use crate::error::Error;
use crate::event::{
    Feedback, Label, Observation, Opinion, Outcome, PredictionId, Role, predicted_label, predicted_probability,
};
use crate::sample::{Annotation, Annotator, Lane};
use crate::stats::sampling::unit_interval;
use crate::store::{Indexed, Kind};

use super::flow::{MOST_PARKED_EACH, Parked};

/// How far after the clock the time of an observation may be.
const FUTURE: TimeDelta = TimeDelta::days(1);

impl Pipeline {
    pub(super) fn take_prediction(&mut self, mut observation: Box<Observation>) -> Result<(), Error> {
        if observation.role == Role::Shadow {
            return self.take_shadow(observation);
        }
        self.counters.predictions += 1;
        // the time of a stream only moves forward: one wrong clock must not stop it for years
        let latest = self.now + FUTURE;
        if observation.time > latest {
            observation.time = latest;
            self.counters.future_predictions += 1;
        }
        let (id, model) = (observation.id, observation.model);
        let moved = model != self.stage_model && model == self.retraining.champion();
        if moved || (model == self.stage_model && !self.buffer.accepts(&observation)) {
            self.inspect();
        }
        if moved {
            self.rebase_on(model);
        }
        if self.ledger.get(id).is_some() {
            self.counters.duplicate_predictions += 1;
            self.give_back(observation);
            return Ok(());
        }
        let inspected = model == self.stage_model;
        // What a canary serves is not inspected, but it judges: the random lane draws from all of the traffic.
        let canary = !inspected && Some(model) == self.retraining.judged();
        if inspected || canary {
            if unit_interval(self.settings.seed, id.bytes()) < self.settings.explore {
                self.drawn.push(id);
            }
            self.retraining.observe(&observation, self.schema.target());
        }
        if inspected {
            self.buffer.push(self.sequence, &observation);
        } else {
            self.counters.other_version += 1;
        }
        if let Some(buffer) = self.ledger.insert(&self.schema, self.sequence, observation) {
            self.give_back(buffer);
        }
        if self.flow.parked.is_empty() { Ok(()) } else { self.join_parked(id) }
    }

    /// Applies what arrived before its prediction.
    pub(super) fn join_parked(&mut self, id: PredictionId) -> Result<(), Error> {
        let Some(parked) = self.flow.parked.remove(&id) else { return Ok(()) };
        let joined = parked_state("joined", self.sequence);
        let done = self.outbox.raw(Kind::Parked, &id.to_string(), joined, b"[]".to_vec());
        self.outbox.push(vec![done]);
        for item in parked {
            match item {
                Parked::Outcome(outcome) => self.take_outcome(outcome)?,
                Parked::Feedback(feedback) => self.take_feedback(feedback)?,
            }
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, buffer: Box<Observation>) {
        if self.spare.len() < self.settings.inbox {
            self.spare.push(buffer);
        }
    }

    pub(super) fn take_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        let joined = self.join_outcome(outcome);
        // Each truth is inspected by itself: what it leads to must not depend on how the stream was cut.
        self.inspect();
        joined
    }

    pub(super) fn join_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        let id = outcome.prediction;
        if outcome.label.is_some_and(|label| !label.fits(self.schema.target())) {
            self.counters.unusable_labels += 1;
            return Ok(());
        }
        // The prediction may sit in the open chunk: it is inspected without knowing the truth.
        self.inspect();
        self.recall(id)?;
        let Some(entry) = self.ledger.get(id).copied() else {
            return self.take_late_outcome(outcome);
        };
        if self.is_erased(id, entry.lane.is_some())? {
            return Ok(());
        }
        let before = entry.truth(self.schema.target());
        if before == outcome.label {
            self.counters.duplicate_outcomes += 1;
            return Ok(());
        }
        // What people agreed on was a truth before this one, and is one again if this one is taken back.
        let people = match entry.lane {
            Some(Lane::Random) => self.outbox.sample(id)?.and_then(|sample| people_say(sample)),
            _ => None,
        };
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.set_truth(outcome.label);
        }
        self.count_outcome(before, outcome.label);
        if let (None, Some(label)) = (before, outcome.label) {
            let made =
                Made { model: entry.model, time: entry.time(), predicted: entry.predicted(self.schema.target()) };
            self.retraining.outcome_came(made, label, self.now);
        }
        let labelled = self.label_by_outcome(id, &entry, outcome.label);
        let (replaces, label) = (before.or(people), outcome.label.or(people));
        if label != replaces {
            self.buffer.push_truth(Truth {
                sequence: self.sequence,
                prediction: id,
                model: entry.model,
                predicted: entry.predicted(self.schema.target()),
                score: entry.score(),
                lane: self.ledger.get(id).and_then(|entry| entry.lane),
                label,
                replaces,
                predicted_at: entry.time(),
                time: self.now,
            });
        }
        labelled
    }

    /// Labels the sample of a prediction, or makes one of it for its label's sake.
    fn label_by_outcome(&mut self, id: PredictionId, entry: &Entry, label: Option<Label>) -> Result<(), Error> {
        let annotation = self.annotation(id, label, Annotator::GroundTruth);
        if entry.lane.is_some() {
            return self.annotate(annotation, true);
        }
        let share = self.settings.outcome_share;
        if label.is_none() || unit_interval(self.settings.seed ^ 1, id.bytes()) >= share {
            return Ok(());
        }
        match self.ledger.row(entry.sequence).cloned() {
            Some(row) => {
                self.keep(row, entry.sequence, Lane::Outcome, share, Vec::new())?;
                self.annotate(annotation, true)
            }
            None => {
                self.counters.without_row += 1;
                Ok(())
            }
        }
    }

    /// Tells the detectors what is true of a sample, if it is not `before` any more.
    pub(super) fn tell(&mut self, id: PredictionId, before: Option<Label>) -> Result<(), Error> {
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let label = settled_truth(sample);
        if label == before {
            return Ok(());
        }
        let (target, made) = (self.schema.target(), &sample.observation);
        self.buffer.push_truth(Truth {
            sequence: self.sequence,
            prediction: id,
            model: made.model,
            predicted: predicted_label(target, made.output()),
            score: predicted_probability(target, made.output()),
            lane: Some(sample.lane),
            label,
            replaces: before,
            // As exact as the ledger's.
            predicted_at: from_micros(made.time.timestamp_micros()),
            time: self.now,
        });
        Ok(())
    }

    /// What became of a prediction after the checkpoint that the ledger was restored from: its sample knows.
    pub(super) fn recall(&mut self, id: PredictionId) -> Result<(), Error> {
        let restored = self.flow.restored_sequence;
        if self.ledger.get(id).is_none_or(|entry| entry.sequence > restored) {
            return Ok(());
        }
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let truth = sample.annotations.iter().rev().find(|a| a.annotator == Annotator::GroundTruth);
        let truth = truth.map(|annotation| annotation.label);
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.lane = Some(sample.lane);
            if let Some(label) = truth {
                entry.set_truth(label);
            }
        }
        Ok(())
    }

    pub(super) fn count_outcome(&mut self, before: Option<Label>, label: Option<Label>) {
        self.counters.outcomes += 1;
        match (before, label) {
            (Some(_), Some(_)) => self.counters.corrections += 1,
            (Some(_), None) => self.counters.retractions += 1,
            _ => {}
        }
    }

    /// An outcome of a prediction that the ledger does not know: its sample may, else it is parked.
    pub(super) fn take_late_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        if self.is_erased(outcome.prediction, true)? {
            return Ok(());
        }
        if let Some(sample) = self.outbox.sample(outcome.prediction)? {
            let (known, before) = (world_says(sample), settled_truth(sample));
            if known == outcome.label {
                self.counters.duplicate_outcomes += 1;
                return Ok(());
            }
            self.count_outcome(known, outcome.label);
            let annotation = self.annotation(outcome.prediction, outcome.label, Annotator::GroundTruth);
            let annotated = self.annotate(annotation, true);
            self.tell(outcome.prediction, before)?;
            return annotated;
        }
        self.park(outcome.prediction, Parked::Outcome(outcome))
    }

    pub(super) fn park(&mut self, id: PredictionId, item: Parked) -> Result<(), Error> {
        self.counters.unmatched += 1;
        if self.flow.parked.len() < self.settings.most_parked || self.flow.parked.contains_key(&id) {
            let items = self.flow.parked.entry(id).or_default();
            if items.len() >= MOST_PARKED_EACH || items.contains(&item) {
                return Ok(());
            }
            items.push(item);
            let items = items.clone();
            // Since when, for retention.
            let waiting = Indexed { due: Some(self.now), ..parked_state("waiting", self.sequence) };
            let write = self.outbox.json(Kind::Parked, &id.to_string(), waiting, &items)?;
            self.outbox.push(vec![write]);
        }
        Ok(())
    }

    pub(super) fn take_feedback(&mut self, feedback: Feedback) -> Result<(), Error> {
        let id = feedback.prediction;
        let usable = match &feedback.opinion {
            Opinion::Correction(label) => label.fits(self.schema.target()),
            Opinion::Rating(rating) => (0.0..=1.0).contains(rating),
            Opinion::Rejection => true,
        };
        if !usable {
            self.counters.unusable_labels += 1;
            return Ok(());
        }
        let sampled = self.ledger.get(id).is_none_or(|entry| entry.lane.is_some());
        if self.is_erased(id, sampled)? {
            return Ok(());
        }
        let Some(entry) = self.ledger.get(id) else {
            if self.outbox.sample(id)?.is_some() {
                self.counters.feedback += 1;
                return self.apply_opinion(feedback);
            }
            return self.park(id, Parked::Feedback(feedback));
        };
        let predicted = entry.predicted(self.schema.target());
        let made = Made { model: entry.model, time: entry.time(), predicted };
        self.retraining.feedback_came(made, &feedback, self.now);
        self.counters.feedback += 1;
        if !self.buffer.is_empty() {
            self.inspect();
        }
        self.buffer.push_feedback(Heard { sequence: self.sequence, feedback: feedback.clone(), predicted });
        // The detectors decide whether the prediction is flagged; the label of a correction is applied after that.
        self.inspect();
        self.apply_opinion(feedback)
    }

    /// A user's correction is a label, once its prediction is a sample.
    pub(super) fn apply_opinion(&mut self, feedback: Feedback) -> Result<(), Error> {
        let Opinion::Correction(label) = feedback.opinion else { return Ok(()) };
        let known = self.outbox.sample(feedback.prediction)?.is_some();
        if !known {
            let sequence = self.ledger.get(feedback.prediction).map(|entry| entry.sequence);
            match sequence.and_then(|sequence| self.ledger.row(sequence).cloned().map(|row| (sequence, row))) {
                Some((sequence, row)) => self.keep(row, sequence, Lane::Outcome, 1.0, Vec::new())?,
                None => {
                    self.counters.without_row += 1;
                    return Ok(());
                }
            }
        }
        let annotation = self.annotation(feedback.prediction, Some(label), Annotator::User(feedback.user));
        // A user has seen what the model said.
        self.annotate(Annotation { blind: false, ..annotation }, true)
    }

    /// Was the content of the sample erased? Then what arrives about it is counted and goes nowhere.
    fn is_erased(&mut self, id: PredictionId, sampled: bool) -> Result<bool, Error> {
        let erased = sampled && self.outbox.sample(id)?.is_some_and(|sample| sample.erased.is_some());
        self.counters.after_erasure += u64::from(erased);
        Ok(erased)
    }

    pub(super) fn annotation(&self, sample: PredictionId, label: Option<Label>, annotator: Annotator) -> Annotation {
        Annotation { sample, label, annotator, time: self.now, confidence: 1.0, seconds: None, blind: true }
    }
}

fn parked_state(state: &'static str, sequence: u64) -> Indexed {
    Indexed { state, rank: sequence as i64, due: None }
}
