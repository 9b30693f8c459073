//! The way of an event: ledger, detectors, gates, router, label.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::outbox::{at, parse};
use crate::chunk::{Heard, Truth};
use crate::detector::Alarm;
use crate::error::Error;
use crate::event::{
    Feedback, Label, ModelVersion, Observation, Opinion, Outcome, PredictionId, Role, predicted_label, top_class,
};
use crate::gate::{Admission, GateContext};
use crate::review;
use crate::router::{Ask, Audited, CohortVerdict, Route, RouteContext};
use crate::sample::{Annotation, Annotator, Flag, Lane, Reason, Sample, SampleState};
use crate::schema::{Row, Schema, Target};
use crate::stage::Snapshot;
use crate::stats::sampling::unit_interval;
use crate::store::{Expect, Indexed, Kind, Write};

/// Priority of tasks that judge models: before everything else.
const JUDGING_PRIORITY: f64 = 1e6;

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
    /// Alarms since the last run that nobody acknowledged.
    pub(super) open_alarms: Vec<DateTime<Utc>>,
    next_alarm: u64,
    checkpointed_at: Option<DateTime<Utc>>,
    checkpointed_sequence: u64,
    /// Up to here the ledger comes from a checkpoint of an earlier process.
    restored_sequence: u64,
    retry_after: Option<DateTime<Utc>>,
    /// When each task was put into the queue, oldest first.
    tasks: VecDeque<(DateTime<Utc>, PredictionId)>,
}

/// What waits for its prediction.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    open_alarms: Vec<DateTime<Utc>>,
    next_alarm: u64,
}

impl Pipeline {
    pub(super) fn take_prediction(&mut self, observation: Box<Observation>) -> Result<(), Error> {
        self.counters.predictions += 1;
        let (id, model, role) = (observation.id, observation.model, observation.role);
        let live = role == Role::Live;
        if live && model != self.stage_model && model == self.retraining.champion() {
            self.inspect()?;
            self.rebase_on(model);
        }
        let inspected = live && model == self.stage_model;
        if inspected && !self.buffer.accepts(&observation) {
            self.inspect()?;
        }
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
        if !self.flow.parked.is_empty()
            && let Some(parked) = self.flow.parked.remove(&id)
        {
            self.inspect()?;
            for item in parked {
                match item {
                    Parked::Outcome(outcome) => self.take_outcome(outcome)?,
                    Parked::Feedback(feedback) => self.take_feedback(feedback)?,
                }
            }
            let done = self.outbox.raw(Kind::Parked, &id.to_string(), parked_state("joined", self.sequence), b"[]".to_vec());
            self.outbox.push(vec![done]);
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
        self.inspect()?;
        joined
    }

    fn join_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        if outcome.label.is_some_and(|label| !label.fits(self.schema.target())) {
            self.counters.unusable_labels += 1;
            return Ok(());
        }
        let target = self.schema.target().clone();
        let (sequence, now) = (self.sequence, self.now);
        // The prediction may sit in the open chunk: it is inspected first, so that its flags are known before its truth.
        self.inspect()?;
        self.recall(outcome.prediction)?;
        let Some(entry) = self.ledger.get_mut(outcome.prediction) else {
            return self.take_late_outcome(outcome);
        };
        let before = entry.truth(&target);
        if before == outcome.label {
            self.counters.duplicate_outcomes += 1;
            return Ok(());
        }
        entry.set_truth(outcome.label);
        let truth = Truth {
            sequence,
            prediction: outcome.prediction,
            model: entry.model,
            predicted: entry.predicted(&target),
            label: outcome.label,
            replaces: before,
            predicted_at: entry.time(),
            time: now,
        };
        let (sampled, row_sequence) = (entry.sampled, entry.sequence);
        self.count_outcome(before, outcome.label);
        self.buffer.push_truth(truth);
        let annotation = self.annotation(outcome.prediction, outcome.label, Annotator::GroundTruth);
        if sampled || self.ledger.get(outcome.prediction).is_some_and(|entry| entry.sampled) {
            return self.annotate(annotation, true);
        }
        if outcome.label.is_none() {
            return Ok(());
        }
        let share = self.settings.outcome_share;
        if share > 0.0 && unit_interval(self.settings.seed ^ 1, outcome.prediction.bytes()) < share {
            match self.ledger.row(row_sequence).cloned() {
                Some(row) => {
                    self.keep(row, row_sequence, Lane::Outcome, share, Vec::new())?;
                    self.annotate(annotation, true)?;
                }
                None => self.counters.without_row += 1,
            }
        }
        Ok(())
    }

    /// What became of a prediction after the checkpoint that the ledger was restored from: its sample knows.
    fn recall(&mut self, id: PredictionId) -> Result<(), Error> {
        let restored = self.flow.restored_sequence;
        if !self.ledger.get(id).is_some_and(|entry| entry.sequence <= restored) {
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
        if self.outbox.sample(outcome.prediction)?.is_some() {
            self.counters.outcomes += 1;
            let annotation = self.annotation(outcome.prediction, outcome.label, Annotator::GroundTruth);
            return self.annotate(annotation, true);
        }
        self.park(outcome.prediction, Parked::Outcome(outcome))
    }

    fn park(&mut self, id: PredictionId, item: Parked) -> Result<(), Error> {
        self.counters.unmatched += 1;
        if self.flow.parked.len() < self.settings.most_parked || self.flow.parked.contains_key(&id) {
            let items = self.flow.parked.entry(id).or_default();
            items.push(item);
            let items = items.clone();
            let write = self.outbox.json(Kind::Parked, &id.to_string(), parked_state("waiting", self.sequence), &items)?;
            self.outbox.push(vec![write]);
        }
        Ok(())
    }

    pub(super) fn take_feedback(&mut self, feedback: Feedback) -> Result<(), Error> {
        let id = feedback.prediction;
        if let Opinion::Correction(label) = &feedback.opinion
            && !label.fits(self.schema.target())
        {
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
        if self.buffer.len() > 0 {
            self.inspect()?;
        }
        self.buffer.push_feedback(Heard { sequence: self.sequence, feedback: feedback.clone(), predicted });
        // The detectors decide whether the prediction is flagged; the label of a correction is applied after that.
        self.inspect()?;
        self.apply_opinion(feedback)
    }

    /// A user's correction is a label, once its prediction is a sample.
    fn apply_opinion(&mut self, feedback: Feedback) -> Result<(), Error> {
        let Opinion::Correction(label) = feedback.opinion else { return Ok(()) };
        let known = self.outbox.sample(feedback.prediction)?.is_some();
        if !known {
            let sequence = self.ledger.get(feedback.prediction).map(|entry| entry.sequence);
            match sequence.and_then(|sequence| self.ledger.row(sequence).cloned().map(|row| (sequence, row))) {
                Some((sequence, row)) => self.keep(row, sequence, Lane::Flagged, 1.0, Vec::new())?,
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
    pub(super) fn inspect(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
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
        // Alarms and samples of a chunk take effect in the order of the stream, however it was cut.
        alarms.sort_by_key(|alarm| alarm.sequence);
        let mut alarms: VecDeque<Alarm> = alarms.into();
        if self.buffer.len() == 0 {
            self.raise_until(u64::MAX, &mut alarms)?;
        }
        self.buffer.clear();
        self.keep_found(found, &mut alarms)?;
        self.raise_until(u64::MAX, &mut alarms)
    }

    /// Raises the alarms up to position `sequence`.
    fn raise_until(&mut self, sequence: u64, alarms: &mut VecDeque<Alarm>) -> Result<(), Error> {
        while alarms.front().is_some_and(|alarm| alarm.sequence <= sequence) {
            if let Some(alarm) = alarms.pop_front() {
                self.raise(alarm)?;
            }
        }
        Ok(())
    }

    /// Keeps what was flagged or drawn, one sample per prediction, in the order of the stream.
    fn keep_found(&mut self, found: Vec<Flag>, alarms: &mut VecDeque<Alarm>) -> Result<(), Error> {
        let drawn: HashSet<PredictionId> = self.drawn.drain(..).collect();
        let mut by_prediction: HashMap<PredictionId, Vec<Flag>> = HashMap::new();
        let mut order: Vec<PredictionId> = Vec::new();
        for flag in found {
            let id = flag.prediction;
            by_prediction.entry(id).or_insert_with(|| {
                order.push(id);
                Vec::new()
            }).push(flag);
        }
        order.extend(drawn.iter().filter(|id| !by_prediction.contains_key(*id)));
        let place = |id: &PredictionId| self.ledger.get(*id).map_or(0, |entry| entry.sequence);
        order.sort_by_key(|id| (place(id), *id));
        for id in order {
            let flags = by_prediction.remove(&id).unwrap_or_default();
            let Some((sequence, sampled)) = self.ledger.get(id).map(|entry| (entry.sequence, entry.sampled)) else {
                self.counters.without_row += 1;
                continue;
            };
            self.raise_until(sequence, alarms)?;
            if sampled {
                self.add_flags(id, flags)?;
                continue;
            }
            let Some(row) = self.ledger.row(sequence).cloned() else {
                self.counters.without_row += 1;
                continue;
            };
            let (lane, inclusion) =
                if drawn.contains(&id) { (Lane::Random, self.settings.explore) } else { (Lane::Flagged, 1.0) };
            self.keep(row, sequence, lane, inclusion, flags)?;
        }
        Ok(())
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
        self.flow.open_alarms.push(self.now);
        self.flow.next_alarm += 1;
        let id = format!("{:012}", self.flow.next_alarm);
        let indexed = Indexed { state: "open", rank: self.flow.next_alarm as i64, due: None };
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
        // A name that the ledger has forgotten, or that came again after a crash: what is stored is never overwritten.
        if self.outbox.sample(id)?.is_some() {
            self.counters.duplicate_predictions += 1;
            if let Some(entry) = self.ledger.get_mut(id) {
                entry.sampled = true;
            }
            return self.add_flags(id, flags);
        }
        let mut sample = Sample::new(observation, sequence, lane, inclusion);
        sample.flags = flags;
        sample.payload = self.payload.as_ref().map(|make| make(&self.schema, &sample.observation.row));
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.sampled = true;
        }
        self.counters.samples += 1;
        let truth = self.ledger.get(id).and_then(|entry| entry.truth(self.schema.target()));
        self.outbox.put(sample);
        self.admit(id)?;
        if let (Some(label), true) = (truth, lane != Lane::Outcome) {
            let annotation = self.annotation(id, Some(label), Annotator::GroundTruth);
            return self.annotate(annotation, true);
        }
        // An outcome's sample gets its label from the caller and is not routed.
        if lane == Lane::Outcome { Ok(()) } else { self.route(id) }
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
            None => sample.advance(SampleState::Admitted, "gates", Reason::new("admitted", "every gate let it pass"), now),
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
        let route = if sample.lane.judges() {
            Some(Route::Ask(Ask { priority: JUDGING_PRIORITY, overlap: 1, blind: true }))
        } else if let Some(router) = &mut self.router {
            let context = RouteContext {
                schema: &self.schema,
                references: &self.references,
                now,
                waiting: self.outbox.waiting_tasks()?,
                alarm: !self.flow.open_alarms.is_empty(),
            };
            router.run(&self.references, |stage| stage.route(&sample, &context))
        } else {
            let priority = sample.flags.len() as f64;
            Some(Route::Ask(Ask { priority, overlap: 1, blind: true }))
        };
        let by = match (&self.router, sample.lane.judges()) {
            (Some(router), false) => router.name.clone(),
            _ => "lanes".to_owned(),
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

    pub(super) fn advance(
        &mut self,
        id: PredictionId,
        to: SampleState,
        by: &str,
        reason: Reason,
    ) -> Result<(), Error> {
        let now = self.now;
        if let Some(sample) = self.outbox.sample(id)?
            && sample.advance(to, by, reason, now)
        {
            self.outbox.touch(id);
        }
        Ok(())
    }

    /// Moves a sample and puts its task into the review queue, as one unit.
    fn enqueue(
        &mut self,
        id: PredictionId,
        ask: Ask,
        to: SampleState,
        by: &str,
        reason: Reason,
    ) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        if !sample.advance(to, by, reason, now) {
            return Ok(());
        }
        sample.overlap = ask.overlap.max(1);
        let sample = sample.clone();
        self.outbox.touch(id);
        let task = self.task(&sample, ask)?;
        let asked = sample.history.iter().filter(|step| matches!(step.to, SampleState::Queued | SampleState::AutoLabelled));
        self.outbox.task_opens(id, asked.count() > 1)?;
        self.flow.tasks.push_back((now, id));
        self.outbox.push_with_samples(vec![task])
    }

    /// The write that puts a task into the queue; a sample that is asked about again gets a fresh one.
    fn task(&self, sample: &Sample, ask: Ask) -> Result<Write, Error> {
        let task = review::Task {
            sample: sample.id(),
            ask,
            created: self.now,
            row: sample.observation.row.clone(),
            payload: sample.payload.clone(),
            output: sample.observation.output().to_vec(),
            // Nobody is asked twice, and nobody's answer is forgotten.
            answers: sample
                .annotations
                .iter()
                .filter(|annotation| matches!(annotation.annotator, Annotator::Human(_)))
                .cloned()
                .collect(),
            skipped_by: Vec::new(),
        };
        let mut write = review::task_write(self.outbox.pipeline(), &task)?;
        write.expect = Expect::Any;
        Ok(write)
    }

    /// Withdraws tasks that nobody answered in time; what a person answers later counts all the same.
    pub(super) fn expire_tasks(&mut self) -> Result<(), Error> {
        let Some(after) = self.settings.expire_tasks else { return Ok(()) };
        while let Some((_, id)) = self.flow.tasks.front().copied().filter(|(created, _)| self.now - *created >= after) {
            let queued = self.outbox.sample(id)?.is_some_and(|sample| sample.state == SampleState::Queued);
            let key = id.to_string();
            let task = self.outbox.store().get(self.outbox.pipeline(), Kind::Task, &key);
            let task = task.map_err(Error::store("read a task"))?;
            // Only now: a question that could not be read is tried again.
            self.flow.tasks.pop_front();
            if let Some(record) = task.filter(|_| queued) {
                if record.state == "open" {
                    self.outbox.task_closes();
                }
                let indexed = Indexed { state: "withdrawn", rank: record.rank, due: None };
                let write = self.outbox.raw(Kind::Task, &key, indexed, record.body.to_vec());
                self.advance(id, SampleState::Skipped, "queue", Reason::new("expired", "nobody answered in time"))?;
                self.outbox.push_with_samples(vec![write])?;
            }
        }
        Ok(())
    }

    /// Adds a label to its sample and lets it count. `write` also makes the annotation a record of its own; those of the
    /// review queue are one already.
    pub(super) fn annotate(&mut self, annotation: Annotation, write: bool) -> Result<(), Error> {
        let id = annotation.sample;
        let (now, target) = (self.now, self.schema.target().clone());
        let by = annotator_name(&annotation.annotator);
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let before = sample.label.clone();
        sample.annotations.push(annotation.clone());
        sample.label = resolve(sample);
        let count = sample.annotations.len();
        let independent = sample.label.as_ref().is_some_and(|label| label.annotator.is_independent());
        match (&sample.label, sample.state) {
            (Some(_), SampleState::Admitted | SampleState::Queued | SampleState::Skipped | SampleState::AutoLabelled)
                if independent =>
            {
                sample.advance(SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")), now);
            }
            // Also if only the model's own label is left: no audit of its cohort stands behind it any more.
            (label, SampleState::Labelled)
                if label.is_none() || !independent && before.as_ref().is_some_and(|b| b.annotator.is_independent()) =>
            {
                sample.advance(SampleState::Queued, &by, Reason::new("retracted", format!("by {by}")), now);
            }
            _ => {}
        }
        let changed = before.as_ref().and_then(|a| a.label) != sample.label.as_ref().and_then(|a| a.label);
        let sample = sample.clone();
        self.outbox.touch(id);
        if write {
            let indexed = Indexed { state: "applied", rank: at(annotation.time), due: None };
            let key = format!("{id}/{by}/{count}");
            let record = self.outbox.json(Kind::Annotation, &key, indexed, &annotation)?;
            self.outbox.push_with_samples(vec![record])?;
        }
        if sample.state == SampleState::Queued && !independent && before.is_some() {
            let ask = Ask { priority: JUDGING_PRIORITY, overlap: sample.overlap, blind: true };
            let task = self.task(&sample, ask)?;
            self.outbox.task_opens(id, true)?;
            self.outbox.push(vec![task]);
        }
        if changed && independent {
            self.learn(&sample, &target)?;
        }
        self.retraining.labelled(&sample);
        Ok(())
    }

    /// Tells the router what an independent label says about the model's own opinion.
    fn learn(&mut self, sample: &Sample, target: &Target) -> Result<(), Error> {
        let Some(router) = &mut self.router else { return Ok(()) };
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
                let annotation: Annotation = parse(&record)?;
                let usable = annotation.label.is_none_or(|label| label.fits(self.schema.target()));
                let indexed =
                    Indexed { state: if usable { "applied" } else { "refused" }, rank: record.rank, due: None };
                let done = Write {
                    kind: Kind::Annotation,
                    key: record.key.clone(),
                    expect: Expect::Any,
                    indexed,
                    body: record.body.clone(),
                };
                if usable {
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
                let sample: Sample = parse(&record)?;
                let id = sample.id();
                if admit {
                    self.admit(id)?;
                }
                self.go_on(id)?;
            }
        }
        Ok(())
    }

    /// An admitted sample goes on: with the label that it has, or to the router.
    fn go_on(&mut self, id: PredictionId) -> Result<(), Error> {
        let label = match self.outbox.sample(id)? {
            Some(sample) if sample.state == SampleState::Admitted => sample.label.clone(),
            _ => return Ok(()),
        };
        let Some(label) = label else { return self.route(id) };
        let by = annotator_name(&label.annotator);
        self.advance(id, SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")))?;
        if let Some(sample) = self.outbox.sample(id)?.cloned() {
            self.retraining.labelled(&sample);
        }
        Ok(())
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
        self.stage_model = model;
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
            open_alarms: self.flow.open_alarms.clone(),
            next_alarm: self.flow.next_alarm,
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
            self.flow.open_alarms = saved.open_alarms;
            self.flow.next_alarm = saved.next_alarm;
            if saved.stage_model != self.stage_model {
                self.rebase_on(saved.stage_model);
            }
            for stage in &mut self.detectors {
                restore(stage, &saved.stages, "detector")?;
            }
            for stage in &mut self.gates {
                restore(stage, &saved.stages, "gate")?;
            }
            if let Some(stage) = &mut self.router {
                restore(stage, &saved.stages, "router")?;
            }
            if let Some(bytes) = self.outbox.read_raw(Kind::Checkpoint, "ledger")? {
                let failed = |source| Error::Store { doing: "restore the ledger", source };
                self.ledger.restore(&bytes).map_err(failed)?;
            }
        }
        // Samples kept after the last checkpoint: the stream goes on behind them.
        let (position, time) = self.outbox.cursor()?;
        newest = newest.max(position);
        self.now = time.map_or(self.now, |time| time.max(self.now));
        self.outbox.position = newest;
        self.sequence = newest;
        self.flow.restored_sequence = newest;
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
        self.flow.open_alarms.clear();
        self.outbox.commit()?;
        Ok(open.len())
    }

    /// Lets the annotations of a quarantined sample count after all: a person has looked at it.
    pub fn readmit(&mut self, id: PredictionId, who: &str) -> Result<(), Error> {
        let state = self.outbox.sample(id)?.map(|sample| sample.state);
        match state {
            Some(SampleState::Quarantined) => {
                self.advance(id, SampleState::Admitted, who, Reason::new("readmitted", format!("by {who}")))?;
                self.go_on(id)?;
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

fn restore<S: ?Sized + super::isolated::AsStage>(
    stage: &mut super::isolated::Isolated<S>,
    saved: &BTreeMap<String, Snapshot>,
    kind: &str,
) -> Result<(), Error> {
    match saved.get(&format!("{kind}/{}", stage.name)) {
        Some(Snapshot::Stateless) | None => Ok(()),
        Some(snapshot) => stage.restore(snapshot).map_err(|source| {
            let stage = stage.name.clone();
            crate::error::StageError { stage, what: "restore its saved state", source }.into()
        }),
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
