//! Promotion and rollback: load, then switch; the switch is written down before it is made.

use super::super::Pipeline;
use super::{Phase, PromotionKind, PromotionRecord};
use crate::error::{BoxError, Error, StageError};
use crate::event::ModelVersion;
use crate::reference::Reference;
use crate::retrain::{JobStatus, Run, RunState, Watch};
use crate::sample::Reason;
use crate::stage::isolate;
use crate::store::{Indexed, Kind};
use std::sync::Arc;

/// Fewest rows that a serving baseline is made of; with fewer, the old one stays.
const LEAST_BASELINE_ROWS: u64 = 200;

impl Pipeline {
    pub(super) fn start_promotion(&mut self, to: ModelVersion, reason: Reason) -> Result<(), Error> {
        self.retraining.state.phase = Phase::Deploying { to, kind: PromotionKind::Promotion, reason };
        self.save_loop(Vec::new())
    }

    /// Takes the previous version back into service. A run in flight ends: its base is gone.
    pub(super) fn start_rollback(&mut self, to: ModelVersion, reason: Reason) -> Result<(), Error> {
        self.outbox.check_place()?;
        if self.retraining.state.run.is_some() {
            // A trainer that cannot end its jobs must not keep a bad model in service.
            let left = left_over(&self.cancel_jobs());
            let text = format!("the model that it builds on is rolled back{left}");
            self.end_run(RunState::Cancelled, Reason::new("rolled_back", text))?;
        }
        self.retraining.state.phase = Phase::Deploying { to, kind: PromotionKind::Rollback, reason };
        self.save_loop(Vec::new())
    }

    /// Rolls the served model back to the version before it, also while the loop is frozen. The run in flight ends, and a
    /// promotion that is under way with it; the model that is taken back is quarantined with the reason.
    ///
    /// # Errors
    /// There is no version before it, or a rollback is under way.
    pub fn rollback(&mut self, why: &str) -> Result<ModelVersion, Error> {
        if let Phase::Deploying { to, kind: PromotionKind::Rollback, .. } = &self.retraining.state.phase {
            return Err(Error::Refused(format!("{to} is being deployed")));
        }
        let Some(previous) = self.retraining.state.previous else {
            return Err(Error::Refused(format!("{} has no predecessor", self.retraining.state.champion)));
        };
        self.note("rollback_asked", previous.to_string(), None, Some(why));
        self.start_rollback(previous, Reason::new("manual", why))?;
        self.outbox.commit()?;
        Ok(previous)
    }

    /// Holds the loop until [`Pipeline::unfreeze`]: no run starts or goes on, nothing is promoted, no canary serves, nothing is
    /// labelled by a model, and no auto-label is released. Predictions and outcomes are recorded, detectors flag, people
    /// answer, and [`Pipeline::rollback`] works. Samples that would be routed wait. It survives a restart.
    ///
    /// # Errors
    /// The store fails, or the deployer cannot be told that there is no challenger any more: it is told again by
    /// [`Pipeline::poll`].
    pub fn freeze(&mut self, why: &str) -> Result<(), Error> {
        self.hold_loop(why)?;
        self.offer_challenger().map(drop)
    }

    fn hold_loop(&mut self, why: &str) -> Result<(), Error> {
        self.retraining.state.frozen = Some(why.to_owned());
        self.note("frozen", "loop", None, Some(why));
        self.save_loop(Vec::new())?;
        self.outbox.commit()
    }

    /// The kill switch: [freezes](Pipeline::freeze) the loop and ends the run in flight with its training jobs, its
    /// candidate and a promotion that is under way. A rollback that is under way goes on. The loop starts again only by
    /// [`Pipeline::unfreeze`]; the status says who killed it, when and why.
    ///
    /// # Errors
    /// The store fails: the loop is frozen all the same. The trainer cannot end a job, or the deployer cannot be told that
    /// there is no challenger any more: the loop is frozen and the run has ended all the same.
    pub fn kill(&mut self, who: &str, why: &str) -> Result<(), Error> {
        let text = format!("killed by {who} at {}: {why}", self.now.format("%Y-%m-%d %H:%M:%S UTC"));
        self.hold_loop(&text)?;
        let told = self.offer_challenger().map(drop);
        let cancelled = self.cancel_jobs();
        if self.retraining.state.run.is_some() {
            let text = format!("{text}{}", left_over(&cancelled));
            self.end_run(RunState::Cancelled, Reason::new("killed", text))?;
            self.outbox.commit()?;
        }
        cancelled.and(told)
    }

    /// Lets a frozen loop go on: a person has looked into it.
    ///
    /// # Errors
    /// The store fails.
    pub fn unfreeze(&mut self) -> Result<(), Error> {
        let state = &mut self.retraining.state;
        state.frozen = None;
        (state.failures_in_a_row, state.round_failures) = (0, 0);
        // A champion that did not load after a restart is tried again.
        self.retraining.redeploy |= self.retraining.redeploy_failed;
        self.retraining.state.flapping.clear();
        self.note("unfrozen", "loop", None, None);
        self.save_loop(Vec::new())?;
        self.outbox.commit()
    }

    /// Loads the target; switches once it is known to load.
    pub(super) fn step_deploying(
        &mut self,
        to: ModelVersion,
        kind: PromotionKind,
        reason: Reason,
    ) -> Result<bool, Error> {
        match self.bring_up(to, true)? {
            JobStatus::Unknown | JobStatus::Running => Ok(false),
            JobStatus::Failed { reason: why, .. } => {
                let reason = Reason::new("cannot_load", format!("{to}: {why}"));
                match kind {
                    PromotionKind::Promotion => {
                        let writes = self.quarantine(to, reason.clone())?;
                        self.outbox.join(writes);
                        self.end_run(RunState::Failed, reason)?;
                    }
                    PromotionKind::Rollback => {
                        // Nothing to go back to: a person must decide.
                        self.retraining.state.phase = Phase::Idle;
                        self.retraining.state.frozen = Some(format!("the rollback failed, {to} does not load: {why}"));
                        self.save_loop(Vec::new())?;
                    }
                }
                Ok(true)
            }
            JobStatus::Done(()) => {
                match kind {
                    PromotionKind::Promotion => self.finish_promotion(to, reason)?,
                    PromotionKind::Rollback => self.finish_rollback(to, reason)?,
                }
                Ok(true)
            }
        }
    }

    /// Loads a version on the deployer, if there is one.
    pub(super) fn load(&mut self, version: ModelVersion) -> Result<JobStatus<()>, Error> {
        let record = match self.retraining.models.get(&version) {
            Some(record) => record.clone(),
            None if self.retraining.parts.deployer.is_none() => return Ok(JobStatus::Done(())),
            None => return Err(Error::Corrupt(format!("model {version} is not in the store"))),
        };
        let Some(deployer) = &mut self.retraining.parts.deployer else { return Ok(JobStatus::Done(())) };
        let failed = |what| move |source| StageError { stage: "deployer".into(), what, source };
        let status = isolate(|| deployer.poll(version)).map_err(failed("report"))?;
        if status != JobStatus::Unknown {
            return Ok(status);
        }
        self.outbox.check_place()?;
        if let Err(error) = isolate(|| deployer.prepare(&record)) {
            return Ok(refused("load it", &error));
        }
        Ok(isolate(|| deployer.poll(version)).map_err(failed("report"))?)
    }

    /// Loads and activates a version; with a `claim`, the switch is claimed before it is made.
    fn bring_up(&mut self, to: ModelVersion, claim: bool) -> Result<JobStatus<()>, Error> {
        let status = self.load(to)?;
        if status != JobStatus::Done(()) {
            return Ok(status);
        }
        if claim && !self.claim_switch(to)? {
            return Ok(JobStatus::Running);
        }
        self.outbox.check_place()?;
        if let Some(deployer) = &mut self.retraining.parts.deployer
            && let Err(error) = isolate(|| deployer.activate(to))
        {
            return Ok(refused("switch to it", &error));
        }
        Ok(status)
    }

    /// A restarted host serves its first model: the champion comes back before anything else.
    pub(super) fn step_redeploy(&mut self) -> Result<bool, Error> {
        let champion = self.retraining.state.champion;
        match self.bring_up(champion, false)? {
            JobStatus::Unknown | JobStatus::Running => Ok(false),
            JobStatus::Done(()) => {
                (self.retraining.redeploy, self.retraining.redeploy_failed) = (false, false);
                Ok(true)
            }
            JobStatus::Failed { reason, .. } => {
                (self.retraining.redeploy, self.retraining.redeploy_failed) = (false, true);
                let why = format!("after the restart {champion} does not load: {reason}");
                self.retraining.state.frozen = Some(why);
                self.save_loop(Vec::new())?;
                Ok(true)
            }
        }
    }

    fn record_change(&mut self, kind: PromotionKind, to: ModelVersion, reason: Reason) -> Result<(), Error> {
        let state = &self.retraining.state;
        let made = if kind == PromotionKind::Promotion { to } else { state.champion };
        let record = PromotionRecord {
            number: state.promotions + state.rollbacks,
            kind,
            from: state.champion,
            to,
            run: self.retraining.models.get(&made).and_then(|model| model.run),
            time: self.now,
            reason,
        };
        let indexed = Indexed { state: "done", rank: record.number as i64, due: None };
        let write = self.outbox.json(Kind::Promotion, &format!("{:08}", record.number), indexed, &record)?;
        self.outbox.join(vec![write]);
        Ok(())
    }

    fn finish_promotion(&mut self, to: ModelVersion, reason: Reason) -> Result<(), Error> {
        // Whatever can fail comes before the first change.
        let training = self.reference_of(to)?;
        if self.retraining.state.watch.is_some() {
            let text = format!("{to} took over before the watch had a verdict");
            self.end_watch(RunState::KeptUnproven, Reason::new("superseded", text))?;
        }
        self.retraining.state.promotions += 1;
        self.record_change(PromotionKind::Promotion, to, reason.clone())?;
        let mut writes = vec![self.run_becomes(RunState::Watched, reason)?];
        writes.extend(self.spent_rows()?);
        self.retraining.previous_reference = Some(self.champion_reference());
        self.set_reference(to, training)?;
        self.retraining.interrupted = false;
        let state = &mut self.retraining.state;
        let from = state.champion;
        state.flapping.promoted(from, to);
        state.watch = Some(Watch::new(to, from));
        state.watched_run = state.run.take().map(|run| run.id);
        (state.previous, state.champion) = (Some(from), to);
        state.failures_in_a_row = 0;
        state.tally.run_ended(RunState::Watched, self.now);
        state.phase = Phase::Idle;
        self.retraining.champion_changes(from, to);
        self.retraining.forget_run();
        self.retraining.baseline = Some(Reference::builder(self.schema.clone()).model(to));
        self.retraining.baseline_rows = 0;
        self.save_loop(writes)?;
        self.retraining.forget_models();
        Ok(())
    }

    fn finish_rollback(&mut self, to: ModelVersion, reason: Reason) -> Result<(), Error> {
        let failed = self.retraining.state.champion;
        // The baseline goes back with the version that moved it. Alarms stay as they are, cleared ones included.
        let baseline = match self.references.serving.model() == failed {
            true => self.serving_before()?,
            false => None,
        };
        let training = match self.retraining.previous_reference.clone() {
            Some(reference) => reference,
            None => self.reference_of(to)?,
        };
        self.end_watch(RunState::RolledBack, reason.clone())?;
        self.retraining.state.rollbacks += 1;
        self.record_change(PromotionKind::Rollback, to, reason.clone())?;
        let writes = self.quarantine(failed, reason.clone())?;
        self.outbox.join(writes);
        self.retraining.previous_reference = None;
        self.set_reference(to, training)?;
        if let Some(baseline) = baseline {
            self.set_serving(baseline, None)?;
        }
        self.retraining.interrupted = false;
        let state = &mut self.retraining.state;
        if state.kept == Some(failed) {
            state.kept = Some(to);
        }
        state.flapping.rolled_back(failed, to);
        // Whoever froze the loop before lets it go on, not the rollback.
        let flapping = state.flapping.frozen().map(|reason| reason.to_string());
        state.frozen = state.frozen.take().or(flapping);
        (state.champion, state.previous) = (to, None);
        // The labels of a round that is under way came before.
        state.cool_off = 1 + u32::from(state.round.is_some());
        state.phase = Phase::Idle;
        self.retraining.champion_changes(failed, to);
        (self.retraining.redeploy, self.retraining.redeploy_failed) = (false, false);
        self.retraining.baseline = None;
        self.save_loop(Vec::new())?;
        self.retraining.forget_models();
        Ok(())
    }

    /// The watch ends: its run gets its last state; only a model that was kept moves the serving baseline.
    pub(super) fn end_watch(&mut self, to: RunState, reason: Reason) -> Result<(), Error> {
        let now = self.now;
        // Read before anything changes, so that a failing store leaves no half step.
        let watched: Option<Run> =
            match self.retraining.state.watched_run.filter(|_| self.retraining.state.watch.is_some()) {
                Some(id) => self.outbox.read(Kind::Run, &id.to_string())?,
                None => None,
            };
        let Some(current) = self.retraining.state.watch.as_ref().map(|watch| watch.current) else { return Ok(()) };
        let enough = self.retraining.baseline_rows >= LEAST_BASELINE_ROWS;
        let moves = to == RunState::Kept && enough && self.retraining.baseline.is_some();
        let cleared = if moves { self.clearing(current)? } else { Vec::new() };
        (self.retraining.state.watch, self.retraining.state.watched_run) = (None, None);
        if let Some(mut run) = watched {
            run.state = to;
            run.notes.push((now, reason));
            let write = self.retraining.save_run(&self.outbox, &run)?;
            self.outbox.join(vec![write]);
        }
        if to == RunState::Kept {
            self.retraining.state.kept = Some(current);
            if let Some(evidence) = &mut self.retraining.state.evidence {
                // The last kept model is the served one now.
                evidence.against_kept = None;
            }
            if let Some(builder) = self.retraining.baseline.take().filter(|_| moves) {
                let before = self.references.serving.clone();
                self.set_serving(Arc::new(builder.finish()), Some(before))?;
                self.put_alarms(cleared);
                self.flow.standing_alarm = false;
                self.rebase_on(self.stage_model);
            }
        }
        self.save_loop(Vec::new())
    }
}

/// What is to be said of jobs that could not be ended.
pub(super) fn left_over(cancelled: &Result<(), Error>) -> String {
    cancelled.as_ref().err().map_or_else(String::new, |error| {
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        format!("; its jobs could not be ended: {error}{cause}")
    })
}

/// What cannot be loaded or switched is a verdict on the version; what nobody can say at present is asked again.
fn refused(what: &str, error: &BoxError) -> JobStatus<()> {
    JobStatus::Failed { reason: format!("the deployer cannot {what}: {error}"), log: String::new() }
}
