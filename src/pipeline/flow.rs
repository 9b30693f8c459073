//! The way of an event: ledger, detectors, gates, router, label.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::outbox::{at, parse};
use crate::chunk::{Heard, Truth};
use crate::detector::Alarm;
use crate::error::{Error, message};
use crate::event::{
    Feedback, Label, ModelVersion, Observation, Opinion, Outcome, PredictionId, Role, predicted_label, top_class,
};
use crate::gate::{Admission, GateContext};
use crate::retrain::RunId;
use crate::review;
use crate::router::{Ask, Audited, CohortVerdict, Route, RouteContext};
use crate::sample::{Annotation, Annotator, Flag, Lane, Reason, Sample, SampleState};
use crate::schema::{Row, Schema, Target};
use crate::stage::{Snapshot, isolate};
use crate::stats::sampling::unit_interval;
use crate::store::{Expect, Indexed, Kind, Write};

/// Priority of tasks that judge models: before everything else, and the random lane before the comparison lane, whose
/// rows are only asked about while a candidate is open.
const JUDGING_PRIORITY: f64 = 1e6;

/// Outcomes and feedback that wait for one unknown prediction.
const MOST_PARKED_EACH: usize = 16;

/// Makes what an annotator should see beside the row; runs on the worker, only for rows that are kept.
pub(super) type Payload = Box<dyn Fn(&Schema, &Row) -> String + Send>;

/// What the builder settled.
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) explore: f64,
    pub(super) outcome_share: f64,
    pub(super) flags_per_minute: u32,
    pub(super) most_pending: usize,
    pub(super) most_parked: usize,
    pub(super) checkpoint_every: u64,
    pub(super) checkpoint_after: TimeDelta,
    pub(super) inbox: usize,
    pub(super) reserve: usize,
    pub(super) poll_every: std::time::Duration,
    pub(super) expire_tasks: Option<TimeDelta>,
}

/// State of the flow that is not a stage's.
#[derive(Default)]
pub(super) struct Flow {
    /// Flags of each detector in the present minute.
    minute: i64,
    flags_in_minute: Vec<u32>,
    /// What arrived before its prediction.
    parked: HashMap<PredictionId, Vec<Parked>>,
    /// Alarms that nobody and no batch has acknowledged.
    pub(super) open_alarms: u64,
    pub(super) last_alarm: Option<DateTime<Utc>>,
    alarms_raised: u64,
    /// Questions that waited for people when this ingest or poll began.
    waiting: u64,
    checkpointed_at: Option<DateTime<Utc>>,
    checkpointed_sequence: u64,
    /// Up to here the ledger comes from a checkpoint of an earlier process.
    restored_sequence: u64,
    retry_after: Option<DateTime<Utc>>,
    /// When each task was put into the queue, oldest first.
    tasks: VecDeque<(DateTime<Utc>, PredictionId)>,
}

/// What waits for its prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Parked {
    Outcome(Outcome),
    Feedback(Feedback),
}

/// What a checkpoint holds beside the ledger.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    sequence: u64,
    counters: super::Counters,
    stage_model: ModelVersion,
    stages: BTreeMap<String, Snapshot>,
}

impl Pipeline {
    pub(super) fn take_prediction(&mut self, observation: Box<Observation>) -> Result<(), Error> {
        self.counters.predictions += 1;
        let (id, model, role) = (observation.id, observation.model, observation.role);
        let live = role == Role::Live;
        let moved = live && model != self.stage_model && model == self.retraining.champion();
        if moved || (live && model == self.stage_model && !self.buffer.accepts(&observation)) {
            self.inspect();
        }
        if moved {
            self.rebase_on(model);
        }
        let inspected = live && model == self.stage_model;
        if inspected && self.ledger.get(id).is_none() {
            self.buffer.push(self.sequence, &observation);
            if unit_interval(self.settings.seed, id.bytes()) < self.settings.explore {
                self.drawn.push(id);
            }
            self.retraining.observe(&observation);
        }
        match self.ledger.insert(&self.schema, self.sequence, observation) {
            Err(buffer) => {
                self.counters.duplicate_predictions += 1;
                self.give_back(buffer);
                return Ok(());
            }
            Ok(Some(buffer)) => self.give_back(buffer),
            Ok(None) => {}
        }
        if !live {
            self.counters.shadow += 1;
        } else if !inspected {
            self.counters.other_version += 1;
        }
        if self.flow.parked.is_empty() { Ok(()) } else { self.join_parked(id) }
    }

    /// Applies what arrived before its prediction.
    fn join_parked(&mut self, id: PredictionId) -> Result<(), Error> {
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

    fn give_back(&mut self, buffer: Box<Observation>) {
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

    fn join_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        let id = outcome.prediction;
        if outcome.label.is_some_and(|label| !label.fits(self.schema.target())) {
            self.counters.unusable_labels += 1;
            return Ok(());
        }
        // The prediction may sit in the open chunk: it is inspected without knowing the truth.
        self.inspect();
        self.recall(id)?;
        let schema = self.schema.clone();
        let (target, sequence, now) = (schema.target(), self.sequence, self.now);
        let Some(entry) = self.ledger.get_mut(id) else {
            return self.take_late_outcome(outcome);
        };
        let before = entry.truth(target);
        if before == outcome.label {
            self.counters.duplicate_outcomes += 1;
            return Ok(());
        }
        entry.set_truth(outcome.label);
        let truth = Truth {
            sequence,
            prediction: id,
            model: entry.model,
            predicted: entry.predicted(target),
            label: outcome.label,
            replaces: before,
            predicted_at: entry.time(),
            time: now,
        };
        let (sampled, row_sequence) = (entry.sampled, entry.sequence);
        self.count_outcome(before, outcome.label);
        self.buffer.push_truth(truth);
        let annotation = self.annotation(id, outcome.label, Annotator::GroundTruth);
        if sampled {
            return self.annotate(annotation, true);
        }
        let share = self.settings.outcome_share;
        if outcome.label.is_none() || unit_interval(self.settings.seed ^ 1, id.bytes()) >= share {
            return Ok(());
        }
        match self.ledger.row(row_sequence).cloned() {
            Some(row) => {
                self.keep(row, row_sequence, Lane::Outcome, share, Vec::new())?;
                self.annotate(annotation, true)
            }
            None => {
                self.counters.without_row += 1;
                Ok(())
            }
        }
    }

    /// What became of a prediction after the checkpoint that the ledger was restored from: its sample knows.
    fn recall(&mut self, id: PredictionId) -> Result<(), Error> {
        let restored = self.flow.restored_sequence;
        if self.ledger.get(id).is_none_or(|entry| entry.sequence > restored) {
            return Ok(());
        }
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let truth = sample.annotations.iter().rev().find(|a| a.annotator == Annotator::GroundTruth);
        let truth = truth.map(|annotation| annotation.label);
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.sampled = true;
            if let Some(label) = truth {
                entry.set_truth(label);
            }
        }
        Ok(())
    }

    fn count_outcome(&mut self, before: Option<Label>, label: Option<Label>) {
        self.counters.outcomes += 1;
        match (before, label) {
            (Some(_), Some(_)) => self.counters.corrections += 1,
            (Some(_), None) => self.counters.retractions += 1,
            _ => {}
        }
    }

    /// An outcome of a prediction that the ledger does not know: its sample may, else it is parked.
    fn take_late_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        if let Some(sample) = self.outbox.sample(outcome.prediction)? {
            let truths = sample.annotations.iter().rev();
            let known = truths.clone().find(|a| a.annotator == Annotator::GroundTruth).and_then(|a| a.label);
            if known == outcome.label {
                self.counters.duplicate_outcomes += 1;
                return Ok(());
            }
            self.count_outcome(known, outcome.label);
            let annotation = self.annotation(outcome.prediction, outcome.label, Annotator::GroundTruth);
            return self.annotate(annotation, true);
        }
        self.park(outcome.prediction, Parked::Outcome(outcome))
    }

    fn park(&mut self, id: PredictionId, item: Parked) -> Result<(), Error> {
        self.counters.unmatched += 1;
        if self.flow.parked.len() < self.settings.most_parked || self.flow.parked.contains_key(&id) {
            let items = self.flow.parked.entry(id).or_default();
            if items.len() >= MOST_PARKED_EACH || items.contains(&item) {
                return Ok(());
            }
            items.push(item);
            let items = items.clone();
            let write =
                self.outbox.json(Kind::Parked, &id.to_string(), parked_state("waiting", self.sequence), &items)?;
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
        let Some(entry) = self.ledger.get(id) else {
            if self.outbox.sample(id)?.is_some() {
                self.counters.feedback += 1;
                return self.apply_opinion(feedback);
            }
            return self.park(id, Parked::Feedback(feedback));
        };
        let predicted = entry.predicted(self.schema.target());
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
    fn apply_opinion(&mut self, feedback: Feedback) -> Result<(), Error> {
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
        self.annotate(annotation, true)
    }

    fn annotation(&self, sample: PredictionId, label: Option<Label>, annotator: Annotator) -> Annotation {
        Annotation { sample, label, annotator, time: self.now, confidence: 1.0, seconds: None, blind: true }
    }

    /// Hands the open chunk to every detector and keeps what they point at and what the random lane drew.
    ///
    /// What fails for one prediction, because the store cannot be read, is counted and does not stop the others.
    pub(super) fn inspect(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut found: Vec<Flag> = Vec::new();
        let mut alarms: Vec<Alarm> = Vec::new();
        for (index, detector) in self.detectors.iter_mut().enumerate() {
            self.findings.clear();
            let (findings, chunk) = (&mut self.findings, self.buffer.view(&self.schema));
            if detector.run(&self.references, |stage| stage.inspect(&chunk, findings)).is_none() {
                continue;
            }
            for mut flag in self.findings.flags.drain(..) {
                self.counters.flags += 1;
                let minute = self.now.timestamp().div_euclid(60);
                if minute != self.flow.minute {
                    self.flow.minute = minute;
                    self.flow.flags_in_minute.fill(0);
                }
                self.flow.flags_in_minute.resize(self.flow.flags_in_minute.len().max(index + 1), 0);
                self.flow.flags_in_minute[index] += 1;
                if self.flow.flags_in_minute[index] > self.settings.flags_per_minute {
                    self.counters.flags_over_budget += 1;
                    continue;
                }
                flag.detector.clone_from(&detector.name);
                found.push(flag);
            }
            for mut alarm in self.findings.alarms.drain(..) {
                alarm.detector.clone_from(&detector.name);
                alarms.push(alarm);
            }
        }
        self.buffer.clear();
        alarms.sort_by_key(|alarm| alarm.sequence);
        self.keep_found(found, &mut alarms);
        for alarm in alarms {
            let raised = self.raise(alarm);
            self.note_failure(raised);
        }
    }

    /// Keeps what was flagged or drawn, one sample per prediction, in the order of the stream.
    ///
    /// An alarm is raised before the first sample that comes after it, wherever the stream was cut.
    fn keep_found(&mut self, found: Vec<Flag>, alarms: &mut Vec<Alarm>) {
        if found.is_empty() && self.drawn.is_empty() {
            return;
        }
        let drawn: HashSet<PredictionId> = self.drawn.drain(..).collect();
        let mut by_prediction: HashMap<PredictionId, Vec<Flag>> = HashMap::new();
        let mut order: Vec<PredictionId> = Vec::new();
        for flag in found {
            let id = flag.prediction;
            by_prediction
                .entry(id)
                .or_insert_with(|| {
                    order.push(id);
                    Vec::new()
                })
                .push(flag);
        }
        order.extend(drawn.iter().filter(|id| !by_prediction.contains_key(*id)));
        let place = |id: &PredictionId| self.ledger.get(*id).map_or(0, |entry| entry.sequence);
        order.sort_by_key(|id| (place(id), *id));
        for id in order {
            let flags = by_prediction.remove(&id).unwrap_or_default();
            let sequence = self.ledger.get(id).map_or(u64::MAX, |entry| entry.sequence);
            let due = alarms.iter().take_while(|alarm| alarm.sequence < sequence).count();
            for alarm in alarms.drain(..due) {
                let raised = self.raise(alarm);
                self.note_failure(raised);
            }
            let lane = if drawn.contains(&id) { Lane::Random } else { Lane::Flagged };
            let kept = self.keep_one(id, lane, flags);
            self.note_failure(kept);
        }
    }

    fn keep_one(&mut self, id: PredictionId, lane: Lane, flags: Vec<Flag>) -> Result<(), Error> {
        let Some((sequence, sampled)) = self.ledger.get(id).map(|entry| (entry.sequence, entry.sampled)) else {
            self.counters.without_row += 1;
            return Ok(());
        };
        if sampled {
            return self.add_flags(id, flags);
        }
        let Some(row) = self.ledger.row(sequence).cloned() else {
            self.counters.without_row += 1;
            return Ok(());
        };
        let inclusion = if lane == Lane::Random { self.settings.explore } else { 1.0 };
        self.keep(row, sequence, lane, inclusion, flags)
    }

    /// Draws an observation into the comparison lane. One that was flagged, but has no label yet, changes its lane: it is
    /// asked about first and blind, and never auto-labelled.
    pub(super) fn compare(&mut self, observation: Observation, inclusion: f64, run: RunId) -> Result<(), Error> {
        let id = observation.id;
        match self.ledger.get(id).map(|entry| (entry.sequence, entry.sampled)) {
            Some((sequence, false)) => {
                self.keep(observation, sequence, Lane::Comparison, inclusion, Vec::new())?;
                if let Some(sample) = self.outbox.sample(id)? {
                    sample.compared = Some(run);
                    self.outbox.touch(id);
                }
                Ok(())
            }
            Some((_, true)) => {
                let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
                let waits = matches!(sample.state, SampleState::Queued | SampleState::Skipped);
                if sample.lane != Lane::Flagged || !waits || !sample.annotations.is_empty() {
                    return Ok(());
                }
                (sample.lane, sample.inclusion, sample.compared) = (Lane::Comparison, inclusion, Some(run));
                let reason = Reason::new("compared", "candidate and served model disagree on it");
                let ask = Ask { priority: JUDGING_PRIORITY, overlap: 1, blind: true };
                if sample.state == SampleState::Skipped {
                    return self.enqueue(id, ask, SampleState::Queued, "comparison", reason);
                }
                self.outbox.touch(id);
                self.ask(id, ask)
            }
            None => Ok(()),
        }
    }

    fn add_flags(&mut self, id: PredictionId, flags: Vec<Flag>) -> Result<(), Error> {
        if let Some(sample) = self.outbox.sample(id)? {
            sample.flags.extend(flags);
            self.outbox.touch(id);
        }
        Ok(())
    }

    fn raise(&mut self, alarm: Alarm) -> Result<(), Error> {
        self.counters.alarms += 1;
        self.flow.alarms_raised += 1;
        self.flow.open_alarms += 1;
        self.flow.last_alarm = Some(self.now);
        let id = format!("{:012}", self.flow.alarms_raised);
        let indexed = Indexed { state: "open", rank: self.flow.alarms_raised as i64, due: None };
        let write = self.outbox.json(Kind::Alarm, &id, indexed, &alarm)?;
        self.outbox.push(vec![write]);
        Ok(())
    }

    /// Makes a sample of an observation and sends it through gates and router.
    pub(super) fn keep(
        &mut self,
        observation: Observation,
        sequence: u64,
        lane: Lane,
        inclusion: f64,
        flags: Vec<Flag>,
    ) -> Result<(), Error> {
        let id = observation.id;
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.sampled = true;
        }
        // A host that replays its log after a crash names predictions again: what is known of them stays.
        if self.outbox.sample(id)?.is_some() {
            self.counters.duplicate_predictions += 1;
            return self.add_flags(id, flags);
        }
        let mut sample = Sample::new(observation, sequence, lane, inclusion);
        sample.flags = flags;
        if let Some(make) = &self.payload {
            // The host's closure may panic; then the sample goes without what it would have said.
            let (schema, row) = (&self.schema, &sample.observation.row);
            sample.payload = isolate(|| Ok(make(schema, row))).ok();
        }
        self.counters.samples += 1;
        let truth = self.ledger.get(id).and_then(|entry| entry.truth(self.schema.target()));
        self.outbox.put(sample);
        self.admit(id)?;
        match truth {
            // The caller has the label, and adds it.
            _ if lane == Lane::Outcome => Ok(()),
            Some(label) => {
                let annotation = self.annotation(id, Some(label), Annotator::GroundTruth);
                self.annotate(annotation, true)
            }
            None => self.route(id),
        }
    }

    /// Asks every gate, until one refuses.
    fn admit(&mut self, id: PredictionId) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)?.cloned() else { return Ok(()) };
        let context = GateContext { schema: &self.schema, references: &self.references, now };
        let mut refused = None;
        for gate in &mut self.gates {
            match gate.run(&self.references, |stage| stage.admit(&sample, &context)) {
                Some(Admission::Pass) => {}
                Some(Admission::Quarantine(reason)) => {
                    refused = Some((gate.name.clone(), reason));
                    break;
                }
                // The gate failed: the sample waits in `Flagged` and is tried again; a gate that is down holds it.
                None => return Ok(()),
            }
        }
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        match refused {
            Some((gate, reason)) => sample.advance(SampleState::Quarantined, &gate, reason, now),
            None => {
                sample.advance(SampleState::Admitted, "gates", Reason::new("admitted", "every gate let it pass"), now)
            }
        };
        let sample = sample.clone();
        self.retraining.flagged(&sample, &self.schema);
        self.outbox.touch(id);
        Ok(())
    }

    /// Asks the router who labels an admitted sample.
    fn route(&mut self, id: PredictionId) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)?.cloned() else { return Ok(()) };
        if sample.state != SampleState::Admitted {
            return Ok(());
        }
        let judges = sample.lane.judges();
        let (by, asked) = match &mut self.router {
            Some(router) => {
                let context = RouteContext {
                    schema: &self.schema,
                    references: &self.references,
                    now,
                    waiting: self.flow.waiting,
                    alarm: self.flow.open_alarms > 0,
                };
                (router.name.clone(), router.run(&self.references, |stage| stage.route(&sample, &context)))
            }
            None => {
                let priority = sample.flags.len() as f64;
                ("lanes".to_owned(), Some(Route::Ask(Ask { priority, overlap: 1, blind: true })))
            }
        };
        let route = if judges {
            // The router counts these questions and says how many people answer; it cannot refuse or answer them.
            let overlap = if let Some(Route::Ask(ask)) = &asked { ask.overlap } else { 1 };
            let priority = if sample.lane == Lane::Random { 2.0 * JUDGING_PRIORITY } else { JUDGING_PRIORITY };
            Some(Route::Ask(Ask { priority, overlap, blind: true }))
        } else {
            asked
        };
        match route {
            // The router failed: the sample waits in `Admitted` and is tried again.
            None => Ok(()),
            Some(Route::Skip(reason)) => self.advance(id, SampleState::Skipped, &by, reason),
            Some(Route::Ask(ask)) => {
                let reason = Reason::new("asked", format!("priority {:.3}, overlap {}", ask.priority, ask.overlap));
                self.enqueue(id, ask, SampleState::Queued, &by, reason)
            }
            Some(Route::Auto { label, confidence, audit }) => {
                self.counters.auto_labels += 1;
                let confidence = if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 1.0) };
                let reason = Reason::new("auto_labelled", format!("confidence {confidence:.4}"));
                let annotation = Annotation {
                    sample: id,
                    label: Some(label),
                    annotator: Annotator::Model(sample.observation.model),
                    time: now,
                    confidence,
                    seconds: None,
                    blind: false,
                };
                match audit {
                    Some(ask) => self.enqueue(id, ask, SampleState::AutoLabelled, &by, reason)?,
                    None => self.advance(id, SampleState::AutoLabelled, &by, reason)?,
                }
                self.annotate(annotation, true)
            }
        }
    }

    pub(super) fn advance(&mut self, id: PredictionId, to: SampleState, by: &str, reason: Reason) -> Result<(), Error> {
        let now = self.now;
        if let Some(sample) = self.outbox.sample(id)?
            && sample.advance(to, by, reason, now)
        {
            self.outbox.touch(id);
        }
        Ok(())
    }

    /// Moves a sample and puts its task into the review queue, as one unit.
    fn enqueue(&mut self, id: PredictionId, ask: Ask, to: SampleState, by: &str, reason: Reason) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        if !sample.advance(to, by, reason, now) {
            return Ok(());
        }
        sample.overlap = ask.overlap.max(1);
        self.outbox.touch(id);
        self.ask(id, ask)
    }

    /// Puts the question about a sample into the review queue. A new one goes with the sample, as one unit. One that is
    /// there is opened again with its answers, unless somebody changes it at the same moment.
    fn ask(&mut self, id: PredictionId, ask: Ask) -> Result<(), Error> {
        let known = self.outbox.task(id)?;
        let Some(sample) = self.outbox.sample(id)?.cloned() else { return Ok(()) };
        let before: Option<review::Task> = known.as_ref().and_then(|known| serde_json::from_slice(&known.body).ok());
        let (answers, skipped_by) = before.map(|task| (task.answers, task.skipped_by)).unwrap_or_default();
        let task = review::Task {
            sample: id,
            ask,
            created: self.now,
            row: sample.observation.row.clone(),
            payload: sample.payload.clone(),
            output: sample.observation.output().to_vec(),
            answers,
            skipped_by,
        };
        let mut write = review::task_write(self.outbox.pipeline(), &task)?;
        if self.settings.expire_tasks.is_some() {
            self.flow.tasks.push_back((self.now, id));
        }
        let was_open = known.as_ref().is_some_and(|known| known.state == "open");
        self.flow.waiting += u64::from(!was_open);
        match known {
            Some(known) => {
                write.expect = known.expect;
                self.outbox.expect_task(id, &write);
                self.outbox.push(vec![write]);
                Ok(())
            }
            None => {
                write.expect = Expect::Any;
                self.outbox.expect_task(id, &write);
                self.outbox.push_with_samples(vec![write])
            }
        }
    }

    /// Takes the question about a sample back, unless somebody is answering it.
    fn withdraw(&mut self, id: PredictionId) -> Result<(), Error> {
        if let Some(known) = self.outbox.task(id)?.filter(|known| known.state == "open") {
            let indexed = Indexed { state: "withdrawn", rank: known.rank, due: None };
            let mut write = self.outbox.raw(Kind::Task, &id.to_string(), indexed, known.body.to_vec());
            self.flow.waiting = self.flow.waiting.saturating_sub(1);
            write.expect = known.expect;
            self.outbox.expect_task(id, &write);
            self.outbox.push(vec![write]);
        }
        Ok(())
    }

    /// How many questions wait, read once for all samples of an ingest or poll.
    pub(super) fn count_waiting(&mut self) {
        if let Ok(waiting) = self.outbox.count(Kind::Task, Some("open")) {
            self.flow.waiting = waiting;
        }
    }

    /// Withdraws tasks that nobody answered in time; what a person answers later counts all the same.
    pub(super) fn expire_tasks(&mut self) -> Result<(), Error> {
        let Some(after) = self.settings.expire_tasks else { return Ok(()) };
        while self.flow.tasks.front().is_some_and(|(created, _)| self.now - *created >= after) {
            let Some((_, id)) = self.flow.tasks.pop_front() else { break };
            let Some(sample) = self.outbox.sample(id)? else { continue };
            if sample.state != SampleState::Queued {
                continue;
            }
            self.advance(id, SampleState::Skipped, "queue", Reason::new("expired", "nobody answered in time"))?;
            self.withdraw(id)?;
        }
        Ok(())
    }

    /// Adds a label to its sample and lets it count. `write` also makes the annotation a record of its own; those of the
    /// review queue are one already.
    pub(super) fn annotate(&mut self, annotation: Annotation, write: bool) -> Result<(), Error> {
        let id = annotation.sample;
        let now = self.now;
        let by = annotator_name(&annotation.annotator);
        let human = matches!(annotation.annotator, Annotator::Human(_));
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let before = sample.label.clone();
        let was = sample.state;
        sample.annotations.push(annotation.clone());
        sample.label = resolve(sample);
        let count = sample.annotations.len();
        let independent = |label: &Option<Annotation>| label.as_ref().is_some_and(|a| a.annotator.is_independent());
        let (labelled, was_labelled) = (independent(&sample.label), independent(&before));
        match sample.state {
            SampleState::Admitted | SampleState::Queued | SampleState::Skipped | SampleState::AutoLabelled
                if labelled =>
            {
                sample.advance(SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")), now);
            }
            SampleState::Labelled if was_labelled && !labelled => {
                sample.advance(SampleState::Queued, &by, Reason::new("retracted", format!("by {by}")), now);
            }
            _ => {}
        }
        let disputed = human && sample.state == SampleState::Queued && is_disputed(sample);
        if disputed {
            sample.overlap += 1;
        }
        // A person who agrees with the model has said something new as well.
        let said = |label: &Option<Annotation>| label.as_ref().map(|a| (a.label, a.annotator.clone()));
        let changed = said(&before) != said(&sample.label);
        let sample = sample.clone();
        self.outbox.touch(id);
        if write {
            let indexed = Indexed { state: "applied", rank: at(annotation.time), due: None };
            let key = format!("{id}/{by}/{count}");
            let record = self.outbox.json(Kind::Annotation, &key, indexed, &annotation)?;
            self.outbox.push_with_samples(vec![record])?;
        }
        self.retraining.labelled(&sample);
        if disputed || (sample.state == SampleState::Queued && was == SampleState::Labelled) {
            let priority = if sample.lane.judges() { JUDGING_PRIORITY } else { 1.0 };
            self.ask(id, Ask { priority, overlap: sample.overlap, blind: true })?;
        } else if !human && was == SampleState::Queued && sample.state == SampleState::Labelled {
            self.withdraw(id)?;
        }
        if changed && labelled { self.learn(&sample) } else { Ok(()) }
    }

    /// Tells the router what an independent label says about the model's own opinion.
    fn learn(&mut self, sample: &Sample) -> Result<(), Error> {
        let Some(router) = &mut self.router else { return Ok(()) };
        let target = self.schema.target();
        let human = sample.label.as_ref().and_then(|annotation| annotation.label);
        let auto = predicted_label(target, sample.observation.output());
        if let (Some(auto), Some(human)) = (auto, human) {
            let confidence = match target {
                Target::Classes(_) => top_class(sample.observation.output()).map_or(0.0, |(_, p)| p),
                Target::Value => 0.0,
            };
            let audited = Audited { sample, auto, confidence, human, time: self.now };
            router.run(&self.references, |stage| stage.learn(&audited));
        }
        Ok(())
    }

    /// Applies what people answered since the last poll, also in other processes.
    pub(super) fn apply_annotations(&mut self) -> Result<usize, Error> {
        let mut applied = 0;
        loop {
            let page = self.outbox.page(Kind::Annotation, "new", None, 512)?;
            if page.is_empty() {
                return Ok(applied);
            }
            for record in page {
                // One that cannot be read is set aside, so that it does not hold up the others.
                let annotation: Option<Annotation> = parse(&record).ok();
                let usable = annotation.filter(|a| a.label.is_none_or(|label| label.fits(self.schema.target())));
                let indexed = Indexed {
                    state: if usable.is_some() { "applied" } else { "refused" },
                    rank: record.rank,
                    due: None,
                };
                let done = Write {
                    kind: Kind::Annotation,
                    key: record.key.clone(),
                    expect: Expect::Any,
                    indexed,
                    body: record.body.clone(),
                };
                if let Some(annotation) = usable {
                    self.counters.human_labels += u64::from(annotation.label.is_some());
                    self.annotate(annotation, false)?;
                    applied += 1;
                } else {
                    self.counters.unusable_labels += 1;
                }
                self.outbox.push_with_samples(vec![done])?;
            }
            self.outbox.commit()?;
        }
    }

    /// Sends samples that wait for a stage that failed through once more, at most once a second.
    pub(super) fn retry_waiting(&mut self) -> Result<(), Error> {
        if self.flow.retry_after.is_some_and(|after| self.now < after) {
            return Ok(());
        }
        self.flow.retry_after = Some(self.now + TimeDelta::seconds(1));
        for (state, admit) in [(SampleState::Flagged, true), (SampleState::Admitted, false)] {
            for record in self.outbox.page(Kind::Sample, state.as_str(), None, 256)? {
                let Ok(id) = record.key.id.parse() else { continue };
                if admit {
                    self.admit(id)?;
                }
                self.settle(id)?;
            }
        }
        Ok(())
    }

    /// Sends an admitted sample on: into training if people or the world have labelled it, to the router if not.
    fn settle(&mut self, id: PredictionId) -> Result<(), Error> {
        let Some(sample) = self.outbox.sample(id)?.filter(|sample| sample.state == SampleState::Admitted) else {
            return Ok(());
        };
        match sample.label.clone().filter(|label| label.annotator.is_independent()) {
            Some(label) => {
                let by = annotator_name(&label.annotator);
                self.advance(id, SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")))?;
                if let Some(sample) = self.outbox.sample(id)?.cloned() {
                    self.retraining.labelled(&sample);
                }
                Ok(())
            }
            None => self.route(id),
        }
    }

    /// Releases or rejects the provisional auto-labels, as the router's audits say.
    pub(super) fn release_auto_labels(&mut self) -> Result<(), Error> {
        let now = self.now;
        let Some(router) = &mut self.router else { return Ok(()) };
        if self.outbox.count(Kind::Sample, Some(SampleState::AutoLabelled.as_str()))? == 0 {
            return Ok(());
        }
        let verdict = router.run(&self.references, |stage| Ok(stage.cohort(now))).unwrap_or(CohortVerdict::Wait);
        let by = router.name.clone();
        if verdict == CohortVerdict::Wait {
            return Ok(());
        }
        let mut ids = Vec::new();
        self.outbox.each(Kind::Sample, SampleState::AutoLabelled.as_str(), |record| {
            ids.push(parse::<Sample>(&record)?.id());
            Ok(())
        })?;
        for id in ids {
            let Some(sample) = self.outbox.sample(id)? else { continue };
            if verdict == CohortVerdict::Release {
                sample.advance(SampleState::Labelled, &by, Reason::new("released", "its cohort's audit passed"), now);
                let sample = sample.clone();
                self.outbox.touch(id);
                self.retraining.labelled(&sample);
            } else {
                let ask = Ask { priority: 0.0, overlap: 1, blind: true };
                let reason = Reason::new("rejected", "its cohort's audit failed: a person labels it");
                self.enqueue(id, ask, SampleState::Queued, &by, reason)?;
            }
        }
        Ok(())
    }

    /// Rebases every stage on the references of `model`, which is served from now on.
    pub(super) fn rebase_on(&mut self, model: ModelVersion) {
        (self.stage_model, self.references.model) = (model, model);
        self.retraining.move_references(&mut self.references, model);
        for detector in &mut self.detectors {
            rebase(detector, &self.references);
        }
        for gate in &mut self.gates {
            rebase(gate, &self.references);
        }
        if let Some(router) = &mut self.router {
            rebase(router, &self.references);
        }
    }

    pub(super) fn checkpoint_if_due(&mut self) -> Result<(), Error> {
        if self.outbox.failures > 0 {
            return Ok(());
        }
        let since = self.sequence - self.flow.checkpointed_sequence;
        let old = self.flow.checkpointed_at.is_none_or(|at| self.now - at >= self.settings.checkpoint_after);
        if since >= self.settings.checkpoint_every || (since > 0 && old) { self.checkpoint() } else { Ok(()) }
    }

    /// Saves the state of every stage and the ledger, together with what they produced.
    pub(super) fn checkpoint(&mut self) -> Result<(), Error> {
        let mut stages = BTreeMap::new();
        for stage in &mut self.detectors {
            stages.insert(format!("detector/{}", stage.name), stage.remember());
        }
        for stage in &mut self.gates {
            stages.insert(format!("gate/{}", stage.name), stage.remember());
        }
        if let Some(stage) = &mut self.router {
            stages.insert(format!("router/{}", stage.name), stage.remember());
        }
        let checkpoint = Checkpoint {
            sequence: self.sequence,
            counters: self.counters.clone(),
            stage_model: self.stage_model,
            stages,
        };
        let indexed = Indexed { state: "saved", rank: 0, due: None };
        let stages = self.outbox.json(Kind::Checkpoint, "stages", indexed.clone(), &checkpoint)?;
        let ledger = self.outbox.raw(Kind::Checkpoint, "ledger", indexed, self.ledger.to_bytes());
        self.outbox.push_with_samples(vec![stages, ledger])?;
        self.flow.checkpointed_at = Some(self.now);
        self.flow.checkpointed_sequence = self.sequence;
        Ok(())
    }

    /// Takes over what an earlier process left in the store.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let saved: Option<Checkpoint> = self.outbox.read(Kind::Checkpoint, "stages")?;
        let mut newest = 0;
        if let Some(saved) = saved {
            newest = saved.sequence;
            self.counters = saved.counters;
            self.rebase_on(saved.stage_model);
            for stage in &mut self.detectors {
                restore(stage, &self.references, &saved.stages, "detector");
            }
            for stage in &mut self.gates {
                restore(stage, &self.references, &saved.stages, "gate");
            }
            if let Some(stage) = &mut self.router {
                restore(stage, &self.references, &saved.stages, "router");
            }
            if let Some(bytes) = self.outbox.read_raw(Kind::Checkpoint, "ledger")? {
                let failed = |source| Error::Store { doing: "restore the ledger", source };
                self.ledger.restore(&bytes).map_err(failed)?;
            }
        }
        self.flow.alarms_raised = self.outbox.count(Kind::Alarm, None)?;
        self.flow.open_alarms = self.outbox.count(Kind::Alarm, Some("open"))?;
        self.flow.last_alarm = (self.flow.open_alarms > 0).then_some(self.now);
        // Samples kept after the last checkpoint: the stream goes on behind them.
        let (position, time) = self.outbox.cursor()?;
        newest = newest.max(position);
        self.now = time.map_or(self.now, |time| time.max(self.now));
        (self.outbox.position, self.outbox.now) = (newest, self.now);
        (self.sequence, self.flow.restored_sequence) = (newest, newest);
        self.flow.checkpointed_sequence = newest;
        let tasks = &mut self.flow.tasks;
        self.outbox.each(Kind::Sample, SampleState::Queued.as_str(), |record| {
            let sample: Sample = parse(&record)?;
            let queued = sample.history.last().map_or(sample.observation.time, |step| step.time);
            tasks.push_back((queued, sample.id()));
            Ok(())
        })?;
        let parked = &mut self.flow.parked;
        self.outbox.each(Kind::Parked, "waiting", |record| {
            if let Ok(id) = record.key.id.parse() {
                parked.insert(id, parse(&record)?);
            }
            Ok(())
        })
    }

    /// Marks every open alarm as seen; the router may auto-label again, and the drift trigger waits for the next one.
    /// Returns how many there were.
    ///
    /// # Errors
    /// The store fails.
    pub fn acknowledge_alarms(&mut self) -> Result<usize, Error> {
        let mut open = Vec::new();
        self.outbox.commit()?;
        self.outbox.each(Kind::Alarm, "open", |record| {
            open.push(record);
            Ok(())
        })?;
        for record in &open {
            let indexed = Indexed { state: "acknowledged", rank: record.rank, due: None };
            let write = self.outbox.raw(Kind::Alarm, &record.key.id, indexed, record.body.to_vec());
            self.outbox.push(vec![write]);
        }
        self.flow.open_alarms = 0;
        self.outbox.commit()?;
        Ok(open.len())
    }

    /// Lets the annotations of a quarantined sample count after all: a person has looked at it.
    ///
    /// # Errors
    /// There is no such sample, it is not quarantined, or the store fails.
    pub fn readmit(&mut self, id: PredictionId, who: &str) -> Result<(), Error> {
        let state = self.outbox.sample(id)?.map(|sample| sample.state);
        match state {
            Some(SampleState::Quarantined) => {
                self.advance(id, SampleState::Admitted, who, Reason::new("readmitted", format!("by {who}")))?;
                self.settle(id)?;
                self.outbox.commit()
            }
            Some(state) => Err(Error::Refused(format!("sample {id} is {}, not quarantined", state.as_str()))),
            None => Err(Error::Refused(format!("there is no sample {id}"))),
        }
    }
}

fn rebase<S: ?Sized + super::isolated::AsStage>(
    stage: &mut super::isolated::Isolated<S>,
    references: &crate::reference::References,
) {
    if stage.rebase(references).is_err() {
        // Counted and shown by the next call of the stage, which fails in the same way.
        stage.run(references, |stage| stage.as_stage().rebase(references));
    }
}

/// A stage whose saved state does not fit any more (other settings, another release) starts afresh and says so.
fn restore<S: ?Sized + super::isolated::AsStage>(
    stage: &mut super::isolated::Isolated<S>,
    references: &crate::reference::References,
    saved: &BTreeMap<String, Snapshot>,
    kind: &str,
) {
    if let Some(snapshot @ Snapshot::State { .. }) = saved.get(&format!("{kind}/{}", stage.name))
        && let Err(error) = stage.restore(snapshot)
    {
        stage.note(&message(format!("its saved state was not restored: {error}")));
        rebase(stage, references);
    }
}

fn parked_state(state: &'static str, sequence: u64) -> Indexed {
    Indexed { state, rank: sequence as i64, due: None }
}

pub(super) fn annotator_name(annotator: &Annotator) -> String {
    match annotator {
        Annotator::Human(name) => name.clone(),
        Annotator::Model(version) => format!("model-{version}"),
        Annotator::User(name) => format!("user-{name}"),
        Annotator::GroundTruth => "ground-truth".into(),
    }
}

/// Have as many people answered as were to, without a majority?
fn is_disputed(sample: &Sample) -> bool {
    let people: Vec<Annotation> =
        sample.annotations.iter().filter(|a| matches!(a.annotator, Annotator::Human(_))).cloned().collect();
    review::consensus(&people, sample.overlap) == review::Consensus::Disputed
}

/// The label that counts: the truth before people, people (by majority once enough of them have answered) before users,
/// users before the model. What an annotator said last is what counts of them; a retraction takes it back.
pub(super) fn resolve(sample: &Sample) -> Option<Annotation> {
    let mut newest: Vec<&Annotation> = Vec::new();
    for annotation in &sample.annotations {
        newest.retain(|other| other.annotator != annotation.annotator);
        newest.push(annotation);
    }
    newest.retain(|annotation| annotation.label.is_some());
    let find = |wanted: fn(&Annotator) -> bool| newest.iter().rev().find(|a| wanted(&a.annotator)).copied();
    if let Some(truth) = find(|a| matches!(a, Annotator::GroundTruth)) {
        return Some(truth.clone());
    }
    let people: Vec<Annotation> =
        newest.iter().filter(|a| matches!(a.annotator, Annotator::Human(_))).map(|a| (*a).clone()).collect();
    if let review::Consensus::Agreed(label, _) = review::consensus(&people, sample.overlap) {
        return people.into_iter().rev().find(|annotation| annotation.label == Some(label));
    }
    find(|a| matches!(a, Annotator::User(_))).or_else(|| find(|a| matches!(a, Annotator::Model(_)))).cloned()
}
