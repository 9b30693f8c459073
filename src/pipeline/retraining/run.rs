//! The beginning of a run: the trigger's decision, the audit of the gates, and the seal of the batch.

use chrono::TimeDelta;

use super::super::Pipeline;
use super::{HeldBatch, Phase};
use crate::error::Error;
use crate::event::PredictionId;
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext};
use crate::retrain::batch::{self, BatchRow};
use crate::retrain::{Run, RunId, RunState};
use crate::sample::{Annotation, Reason, Sample, SampleState};
use crate::stage::isolate;
use crate::store::{Indexed, Kind};
use crate::trigger::coverage::tracker::CoverageTracker;
use crate::trigger::{Decision, Explanation};
use std::collections::{BTreeMap, BTreeSet};

/// Longest wait after runs that came to nothing, in doublings of a minute.
const MOST_DOUBLINGS: u32 = 6;

impl Pipeline {
    /// Asks the trigger, unless a back-off or cool-off forbids it.
    pub(super) fn step_idle(&mut self) -> Result<bool, Error> {
        let state = &self.retraining.state;
        if state.cool_off > 0 || state.back_off.is_some_and(|until| self.now < until) {
            return Ok(false);
        }
        let Some(trigger) = &self.trigger else { return Ok(false) };
        let status = self.loop_status();
        let mut memory = state.memory.clone();
        let decision = match crate::stage::isolate(|| trigger.evaluate(&status, &mut memory)) {
            Ok(decision) => decision,
            Err(error) => {
                self.retraining.trigger_error = Some(error.to_string());
                return Ok(false);
            }
        };
        self.retraining.trigger_error = None;
        if let Decision::Fire(mut why) = decision {
            if status.labels > 0 {
                self.retraining.decision = Some(Decision::Fire(why.clone()));
                self.retraining.state.memory = memory;
                self.request(why)?;
                return Ok(true);
            }
            // Nothing new to train on: the decision stands, its memory is not kept, and the first label starts the run.
            why.text += "; waits for the first label to train on";
            self.retraining.decision = Some(Decision::Wait { progress: 0.0, why });
            return Ok(false);
        }
        self.retraining.decision = Some(decision);
        let changed = memory != self.retraining.state.memory;
        self.retraining.state.memory = memory;
        if changed {
            self.save_loop(Vec::new())?;
        }
        Ok(false)
    }

    /// Starts a run at the next poll, whatever the trigger says.
    ///
    /// # Errors
    /// A run is in flight, a version is being deployed, or the loop is frozen.
    pub fn retrain_now(&mut self, who: &str) -> Result<RunId, Error> {
        if let Some(why) = &self.retraining.state.frozen {
            return Err(Error::Refused(format!("the loop is frozen: {why}")));
        }
        if let Some(run) = &self.retraining.state.run {
            return Err(Error::Refused(format!("{} is in flight ({})", run.id, run.state.as_str())));
        }
        if let Phase::Deploying { to, .. } = &self.retraining.state.phase {
            return Err(Error::Refused(format!("{to} is being deployed")));
        }
        let why =
            Explanation { trigger: "manual".into(), fired: true, text: format!("asked for by {who}"), parts: vec![] };
        let id = self.request(why)?;
        self.outbox.commit()?;
        Ok(id)
    }

    /// Lets the batch that waits for a person go on, in the name of `who`: a run begins with exactly the rows that were held,
    /// those of them whose labels still stand. Returns how many rows it had.
    ///
    /// # Errors
    /// No batch waits, a run is in flight, the loop is frozen, or the store fails.
    pub fn sign_off(&mut self, who: &str) -> Result<usize, Error> {
        let now = self.now;
        let Some(mut held) = self.retraining.state.held.clone().filter(|held| held.signed.is_none()) else {
            return Err(Error::Refused("no batch waits to be signed off".into()));
        };
        held.signed = Some((who.to_owned(), now));
        let rows = held.samples.len();
        let before = self.retraining.state.held.replace(held);
        if let Err(error) = self.retrain_now(who) {
            self.retraining.state.held = before;
            return Err(error);
        }
        Ok(rows)
    }

    /// Writes the intent down; nothing outside has happened yet.
    fn request(&mut self, why: Explanation) -> Result<RunId, Error> {
        let now = self.now;
        let state = &mut self.retraining.state;
        let id = RunId(state.next_run);
        state.next_run += 1;
        state.last_run = Some(now);
        let run = Run {
            id,
            state: RunState::Requested,
            requested: now,
            why,
            batch: None,
            base: state.champion,
            models: Vec::new(),
            candidate: None,
            notes: Vec::new(),
        };
        state.run = Some(run.clone());
        state.phase = Phase::Requested;
        let write = self.retraining.save_run(&self.outbox, &run)?;
        self.save_loop(vec![write])?;
        Ok(id)
    }

    /// Audits the labels that wait and seals them. Labels of judging lanes have judged by now: a round came first.
    pub(super) fn step_requested(&mut self) -> Result<bool, Error> {
        if self.retraining.parts.evaluator.is_some() && !self.retraining.unjudged.is_empty() {
            return Ok(false);
        }
        if self.retraining.state.run.as_ref().is_some_and(|run| run.batch.is_some()) {
            // Sealed before something failed: the batch is there, training starts.
            return self.start_training().map(|()| true);
        }
        let mut ids: Vec<PredictionId> = self.retraining.ready.keys().map(|(_, id)| *id).collect();
        let held = self.retraining.state.held.clone().filter(|held| held.signed.is_some());
        if let Some(held) = &held {
            // What was signed off, and nothing that came since.
            let signed: BTreeSet<PredictionId> = held.samples.iter().copied().collect();
            ids.retain(|id| signed.contains(id));
        }
        let mut samples: Vec<(Sample, Annotation)> = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(sample) = self.outbox.sample(id)?
                && let Some(label) = sample.label.clone().filter(|annotation| annotation.label.is_some())
            {
                samples.push((sample.clone(), label));
            }
        }
        self.cap_auto_labels(&mut samples);
        let notes = match self.audit(&mut samples, held.as_ref())? {
            Ok(notes) => notes,
            Err((gate, reason)) => {
                let text = format!("`{gate}` holds the batch: {reason}");
                return self.end_run(RunState::Failed, Reason::new("held", text)).map(|()| true);
            }
        };
        self.retraining.state.held = None;
        if samples.is_empty() {
            let reason = Reason::new("no_labels", "nothing that may be trained on is labelled");
            return self.end_run(RunState::Failed, reason).map(|()| true);
        }
        self.seal(&samples, notes)?;
        if self.retraining.parts.trainer.is_none() {
            let reason = Reason::new("exported", "there is no trainer: somebody trains from the export");
            return self.end_run(RunState::Exported, reason).map(|()| true);
        }
        self.start_training()?;
        Ok(true)
    }

    /// Leaves the newest auto-labels for a later batch where they would be more of a label's rows than the router allows.
    fn cap_auto_labels(&self, samples: &mut Vec<(Sample, Annotation)>) {
        let Some(router) = &self.router else { return };
        let share = isolate(|| Ok(router.stage.auto_share())).unwrap_or(0.0).clamp(0.0, 1.0);
        let is_auto = |annotation: &Annotation| !annotation.annotator.is_independent();
        if share >= 1.0 {
            return;
        }
        // Per label: how many may come from a model, so that they are at most `share` of all.
        let mut allowed: BTreeMap<u64, f64> = BTreeMap::new();
        let key = |annotation: &Annotation| annotation.label.map_or(u64::MAX, |label| label.number().to_bits());
        for (_, annotation) in samples.iter().filter(|(_, annotation)| !is_auto(annotation)) {
            *allowed.entry(key(annotation)).or_default() += share / (1.0 - share);
        }
        samples.retain(|(_, annotation)| {
            if !is_auto(annotation) {
                return true;
            }
            let left = allowed.entry(key(annotation)).or_default();
            let fits = *left >= 1.0 - 1e-9;
            *left -= if fits { 1.0 } else { 0.0 };
            fits
        });
    }

    /// Asks every gate about the batch. Rows that a gate refuses or doubts are taken out, and it is asked about the rest;
    /// `Err` holds the batch.
    #[allow(clippy::type_complexity)]
    fn audit(
        &mut self,
        samples: &mut Vec<(Sample, Annotation)>,
        held: Option<&HeldBatch>,
    ) -> Result<Result<BTreeMap<String, Vec<Reason>>, (String, Reason)>, Error> {
        let mut notes: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
        let mut index = 0;
        while index < self.gates.len() {
            let rows: Vec<DraftRow<'_>> = samples
                .iter()
                .filter_map(|(sample, annotation)| Some(DraftRow { sample, label: annotation.label?, weight: 1.0 }))
                .collect();
            let context = GateContext { schema: &self.schema, references: &self.references, now: self.now };
            let gate = &mut self.gates[index];
            let verdict = gate.run(&self.references, |stage| stage.audit(&BatchDraft { rows: &rows }, &context));
            let name = gate.name.clone();
            match verdict {
                Some(Audit::Pass(said)) => {
                    notes.entry(name).or_default().extend(said);
                    index += 1;
                }
                Some(Audit::Hold(reason)) => return Ok(Err((name, reason))),
                Some(Audit::SignOff(reason)) => {
                    let signed = held.filter(|held| held.gate == name).and_then(|held| held.signed.as_ref());
                    let Some((who, when)) = signed else {
                        let samples = samples.iter().map(|(sample, _)| sample.id()).collect();
                        let (gate, since) = (name.clone(), self.now);
                        let held = HeldBatch { gate, reason: reason.clone(), since, samples, signed: None };
                        self.retraining.state.held = Some(held);
                        return Ok(Err((name, reason)));
                    };
                    let text = format!("{reason}; signed off by {who} at {when}");
                    notes.entry(name).or_default().push(Reason::new("signed_off", text));
                    index += 1;
                }
                Some(verdict @ (Audit::Quarantine(_) | Audit::Adjudicate(_))) => {
                    let doubted = matches!(verdict, Audit::Adjudicate(_));
                    let (Audit::Quarantine(refused) | Audit::Adjudicate(refused)) = verdict else { continue };
                    let before = samples.len();
                    for (id, reason) in refused {
                        if !samples.iter().any(|(sample, _)| sample.id() == id) {
                            continue;
                        }
                        samples.retain(|(sample, _)| sample.id() != id);
                        if doubted {
                            self.adjudicate(id, &name, reason)?;
                            continue;
                        }
                        self.advance(id, SampleState::Quarantined, &name, reason)?;
                        if let Some(sample) = self.outbox.sample(id)?.cloned() {
                            self.retraining.labelled(&sample);
                        }
                    }
                    let out = before - samples.len();
                    let code = if doubted { "adjudicated" } else { "quarantined" };
                    let said = Reason::new(code, format!("{out} rows were taken out"));
                    notes.entry(name).or_default().push(said);
                    // A gate that names no row of the batch has nothing more to say.
                    index += usize::from(out == 0);
                }
                None => return Ok(Err((name, Reason::new("gate_failed", "the gate cannot work; see its status")))),
            }
        }
        Ok(Ok(notes))
    }

    /// Seals the batch: manifest, samples and run change in one unit; the export is made from the sealed batch.
    fn seal(&mut self, samples: &[(Sample, Annotation)], notes: BTreeMap<String, Vec<Reason>>) -> Result<(), Error> {
        let now = self.now;
        let weights: Vec<f64> = samples.iter().map(|(sample, _)| self.training_weight(sample)).collect();
        let rows: Vec<BatchRow<'_>> = samples
            .iter()
            .zip(&weights)
            .map(|((sample, annotation), &weight)| BatchRow { sample, annotation, weight })
            .collect();
        let state = &self.retraining.state;
        let run_id = state.run.as_ref().map(|run| run.id);
        let parent = state.last_batch.clone();
        let (mut manifest, dataset) = batch::seal(&self.name, &self.schema, parent, &rows, notes, now)?;
        manifest.run = run_id;
        // Whatever can fail comes before the first change.
        let who = run_id.map_or_else(|| "batch".to_owned(), |run| run.to_string());
        let acknowledged = self.acknowledging(&who)?;
        if let Some(directory) = self.retraining.parts.export.clone() {
            let lines = rows.iter().map(|row| batch::batch_json(&self.schema, row));
            (_, manifest) = batch::export(&directory, &manifest, lines)?;
        }
        let indexed = Indexed { state: "sealed", rank: run_id.map_or(0, |run| run.0 as i64), due: None };
        let batch = self.outbox.json(Kind::Batch, &manifest.batch.0, indexed, &manifest)?;
        self.retraining.labelled.extend(&dataset)?;
        let mut weights = weights.into_iter();
        for (sample, annotation) in samples {
            let id = sample.id();
            if let Some(sample) = self.outbox.sample(id)? {
                (sample.batch, sample.sealed) = (Some(manifest.batch.clone()), annotation.label);
                sample.weight = weights.next().unwrap_or(1.0);
            }
            let text = format!("batch {}", manifest.batch);
            self.advance(id, SampleState::Batched, "seal", Reason::new("batched", text))?;
            self.retraining.ready.remove(&(sample.sequence, id));
        }
        self.retraining.labelled = self.retraining.labelled.newest(self.retraining.parts.training_rows);
        self.retraining.coverage = CoverageTracker::new(&self.references.training, self.retraining.parts.seed);
        let state = &mut self.retraining.state;
        state.last_batch = Some(manifest.batch.clone());
        state.batches.push(manifest.batch.clone());
        let mut writes = vec![batch];
        if let Some(run) = &mut state.run {
            run.batch = Some(manifest.batch.clone());
            let run = run.clone();
            writes.push(self.retraining.save_run(&self.outbox, &run)?);
        }
        self.save_loop(writes)?;
        // What the alarms asked for is under way.
        self.put_alarms(acknowledged);
        Ok(())
    }

    /// Ends the run in flight before its candidate is served. Runs that came to nothing make the next one wait.
    pub(super) fn end_run(&mut self, to: RunState, reason: Reason) -> Result<(), Error> {
        let write = self.run_becomes(to, reason)?;
        let now = self.now;
        let state = &mut self.retraining.state;
        match to {
            RunState::Failed => {
                state.failures_in_a_row += 1;
                state.back_off = Some(now + back_off(state.failures_in_a_row));
            }
            _ => {
                state.failures_in_a_row = 0;
                state.back_off = None;
            }
        }
        state.rejected += u64::from(to == RunState::Rejected);
        state.phase = Phase::Idle;
        state.evidence = None;
        state.run = None;
        self.retraining.pool.clear();
        (self.retraining.comparing, self.retraining.smoking) = (None, None);
        self.save_loop(vec![write])?;
        self.retraining.forget_models();
        Ok(())
    }
}

/// One minute, doubled with every failure in a row.
fn back_off(failures: u32) -> TimeDelta {
    TimeDelta::minutes(1 << failures.saturating_sub(1).min(MOST_DOUBLINGS))
}
