//! From a prediction to a sample: detectors, gates, router.

use hashbrown::{HashMap, HashSet};

use super::Pipeline;
use crate::detector::Alarm;
use crate::error::Error;
use crate::event::{Observation, PredictionId};
use crate::gate::{Admission, GateContext};
use crate::retrain::RunId;
use crate::router::{Ask, Drawn, Route, RouteContext};
use crate::sample::{Annotation, Annotator, Flag, Lane, Reason, Sample, SampleState};
use crate::stage::isolate;

use super::flow::JUDGING_PRIORITY;

impl Pipeline {
    /// Hands the open chunk to every detector and keeps what they point at and what the random lane drew.
    ///
    /// What fails for one prediction, because the store cannot be read, is counted and does not stop the others.
    pub(super) fn inspect(&mut self) {
        if self.buffer.is_empty() {
            // A canary is drawn, but not inspected.
            self.keep_found(Vec::new(), &mut Vec::new());
            return;
        }
        let mut found: Vec<Flag> = Vec::new();
        let mut alarms: Vec<Alarm> = Vec::new();
        let told = self.buffer.is_told();
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
                flag.told = told;
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
    pub(super) fn keep_found(&mut self, found: Vec<Flag>, alarms: &mut Vec<Alarm>) {
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

    pub(super) fn keep_one(&mut self, id: PredictionId, lane: Lane, flags: Vec<Flag>) -> Result<(), Error> {
        let Some((sequence, sampled)) = self.ledger.get(id).map(|entry| (entry.sequence, entry.lane.is_some())) else {
            // The truth about a sample may come when its prediction is long forgotten here.
            if self.outbox.sample(id)?.is_some() {
                return self.add_flags(id, flags);
            }
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
        match self.ledger.get(id).map(|entry| (entry.sequence, entry.lane.is_some())) {
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
                let drawn = matches!(sample.lane, Lane::Flagged | Lane::Uncertain | Lane::Diverse);
                if !drawn || !waits || !sample.annotations.is_empty() {
                    return Ok(());
                }
                (sample.lane, sample.inclusion, sample.compared) = (Lane::Comparison, inclusion, Some(run));
                sample.overlap = 1;
                if let Some(entry) = self.ledger.get_mut(id) {
                    entry.lane = Some(Lane::Comparison);
                }
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

    /// Adds flags to a sample that is there; the same flag again, of a log that is replayed, says nothing new.
    pub(super) fn add_flags(&mut self, id: PredictionId, mut flags: Vec<Flag>) -> Result<(), Error> {
        if let Some(sample) = self.outbox.sample(id)?.filter(|sample| sample.erased.is_none()) {
            flags.retain(|flag| !sample.flags.contains(flag));
            sample.flags.append(&mut flags);
            self.outbox.touch(id);
        }
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
            entry.lane = Some(lane);
        }
        // A host that replays its log after a crash names predictions again: what is known of them stays.
        if let Some(known) = self.outbox.sample(id)? {
            if let Some(entry) = self.ledger.get_mut(id) {
                entry.lane = Some(known.lane);
            }
            self.counters.duplicate_predictions += 1;
            return self.add_flags(id, flags);
        }
        let mut sample = Sample::new(observation, sequence, lane, inclusion);
        sample.flags = flags;
        sample.shadows = self.shadows.of(id).to_vec();
        self.redact(&mut sample);
        if sample.erased.is_some() {
            self.counters.samples += 1;
            self.outbox.put(sample);
            return Ok(());
        }
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
    pub(super) fn admit(&mut self, id: PredictionId) -> Result<(), Error> {
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
    pub(super) fn route(&mut self, id: PredictionId) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)?.cloned() else { return Ok(()) };
        if sample.state != SampleState::Admitted {
            return Ok(());
        }
        let judges = sample.lane.judges();
        if self.retraining.is_frozen() && !judges && self.router.is_some() {
            // The router may label by itself: the sample waits in `Admitted` until the loop goes on.
            return Ok(());
        }
        let (by, asked) = match &mut self.router {
            Some(router) => {
                let context = RouteContext {
                    schema: &self.schema,
                    references: &self.references,
                    now,
                    waiting: self.flow.waiting,
                    alarm: self.flow.open_alarms > 0,
                    standing: self.flow.standing_alarm,
                };
                (router.name.clone(), router.run(&self.references, |stage| stage.route(&sample, &context)))
            }
            None => {
                let priority = sample.flags.len() as f64;
                let why = Reason::new("asked", format!("{} flags", sample.flags.len()));
                ("lanes".to_owned(), Some(Route::ask(Ask { priority, overlap: 1, blind: true }, why)))
            }
        };
        let route = if judges {
            // The router counts these questions and says how many people answer; it cannot refuse or answer them.
            let overlap = if let Some(Route::Ask { ask, .. }) = &asked { ask.overlap } else { 1 };
            let priority = if sample.lane == Lane::Random { 2.0 * JUDGING_PRIORITY } else { JUDGING_PRIORITY };
            let why = Reason::new(sample.lane.as_str(), format!("drawn with probability {}", sample.inclusion));
            Some(Route::ask(Ask { priority, overlap, blind: true }, why))
        } else {
            asked
        };
        match route {
            // The router failed: the sample waits in `Admitted` and is tried again.
            None => Ok(()),
            Some(Route::Skip(reason)) => self.advance(id, SampleState::Skipped, &by, reason),
            Some(Route::Ask { ask, drawn, why }) => {
                if let Some(drawn) = drawn {
                    // A crash must not give the budget back.
                    self.flow.router_moved = true;
                    self.draw(id, drawn)?;
                }
                let text = format!("{}; priority {:.3}, overlap {}", why.detail, ask.priority, ask.overlap);
                self.enqueue(id, ask, SampleState::Queued, &by, Reason::new(why.code, text))
            }
            Some(Route::Auto { label, confidence, audit, cohort, why: reason }) => {
                self.counters.auto_labels += 1;
                self.flow.router_moved = true;
                let confidence = if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 1.0) };
                if let Some(sample) = self.outbox.sample(id)? {
                    sample.cohort = Some(cohort);
                }
                let annotation = Annotation {
                    sample: id,
                    label: Some(label),
                    annotator: Annotator::Model(sample.observation.model),
                    time: now,
                    confidence,
                    seconds: None,
                    blind: false,
                };
                // First the label: a crash in between must not leave a sample that is released without one.
                self.annotate(annotation, true)?;
                match audit {
                    Some(ask) => self.enqueue(id, ask, SampleState::AutoLabelled, &by, reason),
                    None => self.advance(id, SampleState::AutoLabelled, &by, reason),
                }
            }
        }
    }

    /// Moves a sample into the lane of the router that drew it.
    fn draw(&mut self, id: PredictionId, drawn: Drawn) -> Result<(), Error> {
        if drawn.lane.judges() || !(drawn.inclusion > 0.0 && drawn.inclusion <= 1.0) {
            return Ok(());
        }
        if let Some(sample) = self.outbox.sample(id)? {
            (sample.lane, sample.inclusion) = (drawn.lane, sample.inclusion * drawn.inclusion);
            self.outbox.touch(id);
        }
        if let Some(entry) = self.ledger.get_mut(id) {
            entry.lane = Some(drawn.lane);
        }
        Ok(())
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
}
