//! The beginning of a run: the trigger's decision, the audit of the gates, and the seal of the batch.

use chrono::TimeDelta;

use super::super::Pipeline;
use super::validation::draw_batch;
use super::{Phase, SEALED};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::retrain::batch::{self, BatchRow};
use crate::retrain::taught::TaughtRow;
use crate::retrain::{Run, RunId, RunState};
use crate::sample::{Annotation, Reason, Sample, SampleState};
use crate::stage::isolate;
use crate::store::{Indexed, Kind};
use crate::trigger::coverage::tracker::CoverageTracker;
use crate::trigger::{Decision, Explanation, LoopStatus, decide};
use std::collections::BTreeMap;

/// Longest wait after runs that came to nothing, in doublings of a minute.
const MOST_DOUBLINGS: u32 = 6;

impl Pipeline {
    /// Asks the trigger, unless a back-off or cool-off forbids it.
    pub(super) fn step_idle(&mut self) -> Result<bool, Error> {
        let state = &self.retraining.state;
        if state.cool_off > 0 || state.back_off.is_some_and(|until| self.now < until) {
            return Ok(false);
        }
        let Some(why) = self.ask_trigger()? else { return Ok(false) };
        self.request(why)?;
        Ok(true)
    }

    /// Why a run should start now; the memory of the trigger is saved.
    pub(super) fn ask_trigger(&mut self) -> Result<Option<Explanation>, Error> {
        let state = &self.retraining.state;
        let Some(trigger) = &self.trigger else { return Ok(None) };
        // Whether one is in flight is a matter of who asks.
        let status = LoopStatus { running: false, ..self.loop_status() };
        let mut memory = state.memory.clone();
        let decision = match decide(trigger, &status, &mut memory) {
            Ok(decision) => decision,
            Err(error) => {
                self.retraining.trigger_error = Some(error.to_string());
                return Ok(None);
            }
        };
        self.retraining.trigger_error = None;
        let changed = memory != self.retraining.state.memory;
        self.retraining.state.memory = memory;
        self.retraining.decision = Some(decision.clone());
        match decision {
            Decision::Fire(why) => return Ok(Some(why)),
            Decision::Wait { .. } if changed => self.save_loop(Vec::new())?,
            Decision::Wait { .. } => {}
        }
        Ok(None)
    }

    /// Starts a run at the next poll, whatever the trigger says.
    ///
    /// # Errors
    /// A run is in flight, a version is being deployed, or the loop is frozen.
    pub fn retrain_now(&mut self, who: &str) -> Result<RunId, Error> {
        self.can_retrain()?;
        let why =
            Explanation { trigger: "manual".into(), fired: true, text: format!("asked for by {who}"), parts: vec![] };
        let id = self.request(why)?;
        self.note("run_asked", id.to_string(), Some(who), None);
        self.outbox.commit()?;
        Ok(id)
    }

    /// May a person start a run now?
    pub(super) fn can_retrain(&self) -> Result<(), Error> {
        if let Some(why) = &self.retraining.state.frozen {
            return Err(Error::Refused(format!("the loop is frozen: {why}")));
        }
        if let Some(run) = &self.retraining.state.run {
            return Err(Error::Refused(format!("{} is in flight ({})", run.id, run.state.as_str())));
        }
        if let Phase::Deploying { to, .. } = &self.retraining.state.phase {
            return Err(Error::Refused(format!("{to} is being deployed")));
        }
        Ok(())
    }

    /// Writes the intent down; nothing outside has happened yet.
    pub(super) fn request(&mut self, why: Explanation) -> Result<RunId, Error> {
        let now = self.now;
        let state = &mut self.retraining.state;
        let id = RunId(state.next_run);
        state.next_run += 1;
        state.last_run = Some(now);
        state.tally.run_requested(now);
        let run = Run {
            id,
            state: RunState::Requested,
            requested: now,
            why,
            batch: None,
            base: state.champion,
            models: Vec::new(),
            candidate: None,
            evaluation: None,
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
        let ids: Vec<PredictionId> = self.retraining.ready.keys().map(|(_, id)| *id).collect();
        let held = self.retraining.state.held.clone().filter(|held| !held.signed.is_empty());
        // What was signed off as it was, and nothing that came or changed since.
        let signed: Option<BTreeMap<PredictionId, Label>> =
            held.as_ref().map(|held| held.rows.iter().copied().collect());
        let mut samples: Vec<(Sample, Annotation)> = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(sample) = self.outbox.sample(id)?.cloned() else { continue };
            if sample.state != SampleState::Labelled {
                // It moved on in a step that the store did not let end.
                self.retraining.labelled(&sample);
                continue;
            }
            if let Some(label) = sample.label.clone().filter(|annotation| annotation.label.is_some())
                && signed.as_ref().is_none_or(|signed| signed.get(&id).copied() == label.label)
            {
                samples.push((sample, label));
            }
        }
        let notes = match self.audit(&mut samples, held.as_ref())? {
            Ok(notes) => notes,
            Err((gate, reason)) => {
                let text = format!("`{gate}` holds the batch: {reason}");
                return self.end_run(RunState::Failed, Reason::new("held", text)).map(|()| true);
            }
        };
        if samples.is_empty() && self.retraining.taught.corrected() == 0 {
            self.retraining.state.held = None;
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

    /// Seals the batch, and what was corrected in those before it: manifest, samples and run change in one unit; the export
    /// is made from the sealed batch.
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
        let corrections: Vec<_> = self.retraining.taught.corrections().collect();
        let mut manifest = batch::seal(&self.name, &self.schema, parent, &rows, &corrections, notes, now)?;
        self.name_batch(&mut manifest)?;
        manifest.run = run_id;
        // Whatever can fail comes before the first change.
        let who = run_id.map_or_else(|| "batch".to_owned(), |run| run.to_string());
        let acknowledged = self.acknowledging(&who)?;
        manifest = self.export(manifest, &rows, &corrections)?;
        let indexed = Indexed { state: SEALED, rank: run_id.map_or(0, |run| run.0 as i64), due: None };
        let batch = self.outbox.json(Kind::Batch, &manifest.batch.0, indexed, &manifest)?;
        let taught = rows.iter().filter_map(|row| Some(TaughtRow::of(row.sample, row.annotation.label?, row.weight)));
        self.retraining.teach(&manifest, taught.collect(), &corrections);
        for ((sample, annotation), weight) in samples.iter().zip(&weights) {
            let id = sample.id();
            if let Some(sample) = self.outbox.sample(id)? {
                (sample.batch, sample.sealed) = (Some(manifest.batch.clone()), annotation.label);
                sample.weight = *weight;
            }
            let text = format!("batch {}", manifest.batch);
            self.advance(id, SampleState::Batched, "seal", Reason::new("batched", text))?;
            self.retraining.ready.remove(&(sample.sequence, id));
            self.retraining.labels.forget(id);
        }
        self.retraining.coverage = CoverageTracker::new(&self.references.training, self.retraining.parts.seed);
        let state = &mut self.retraining.state;
        (state.held, state.exporting) = (None, None);
        state.tally.sealed(samples.iter().map(|(_, annotation)| &annotation.annotator));
        state.last_batch = Some(manifest.batch.clone());
        state.batches += 1;
        if let Some(drawn) = &mut self.retraining.drawn {
            draw_batch(drawn, self.retraining.parts.seed, &manifest);
        }
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

    /// Weight of a sample in training: that of its draw, times what the gates say.
    fn training_weight(&self, sample: &Sample) -> f64 {
        let drawn = self.retraining.parts.weight_clip.map_or(1.0, |clip| (1.0 / sample.inclusion).min(clip));
        let said = self.gates.iter().map(|gate| isolate(|| Ok(gate.stage.weight(sample))).unwrap_or(1.0));
        said.filter(|weight| weight.is_finite() && *weight > 0.0).product::<f64>() * drawn
    }

    /// Ends the run in flight before its candidate is served. Runs that came to nothing make the next one wait.
    pub(super) fn end_run(&mut self, to: RunState, reason: Reason) -> Result<(), Error> {
        let mut writes = vec![self.run_becomes(to, reason)?];
        writes.extend(self.spent_rows()?);
        let now = self.now;
        let state = &mut self.retraining.state;
        state.tally.run_ended(to, now);
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
        // A process before this one may have switched and not lived to say so: the champion is served again.
        self.retraining.redeploy |= std::mem::take(&mut self.retraining.interrupted);
        let state = &mut self.retraining.state;
        let judged = matches!(state.phase, Phase::Judging | Phase::AwaitingApproval | Phase::Deploying { .. });
        state.phase = Phase::Idle;
        state.run = None;
        self.retraining.forget_run();
        // What ends before it is judged says nothing for or against the candidates before it.
        if judged && to != RunState::Superseded {
            self.retraining.forget_evidence();
        }
        self.save_loop(writes)?;
        self.retraining.forget_models();
        Ok(())
    }
}

/// One minute, doubled with every failure in a row.
fn back_off(failures: u32) -> TimeDelta {
    TimeDelta::minutes(1 << failures.saturating_sub(1).min(MOST_DOUBLINGS))
}
