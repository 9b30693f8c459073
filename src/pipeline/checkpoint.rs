//! What survives a restart: checkpoints, and how a pipeline takes over what an earlier process left.

use std::collections::BTreeMap;

use super::Pipeline;
use super::outbox::parse;
use crate::error::{Error, message};
use crate::event::ModelVersion;
use crate::sample::{Sample, SampleState};
use crate::stage::Snapshot;
use crate::store::{Indexed, Kind};

use super::flow::Checkpoint;

impl Pipeline {
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
        if since >= self.settings.checkpoint_every || ((since > 0 || self.flow.unsaved) && old) {
            self.checkpoint()
        } else {
            Ok(())
        }
    }

    /// Saves the router's state with the auto-labels and audits that changed it: a promise about auto-labels must not forget
    /// an audit in a crash.
    pub(super) fn save_router(&mut self) -> Result<(), Error> {
        let Some(router) = self.router.as_mut().filter(|_| self.flow.router_moved && self.outbox.failures == 0) else {
            return Ok(());
        };
        let indexed = Indexed { state: "saved", rank: 0, due: None };
        let snapshot = (router.name.clone(), router.remember());
        let write = self.outbox.json(Kind::Checkpoint, "router", indexed, &snapshot)?;
        self.outbox.push_with_samples(vec![write])?;
        self.flow.router_moved = false;
        Ok(())
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
        if self.router.is_some() {
            self.flow.router_moved = true;
            self.save_router()?;
        }
        let checkpoint = Checkpoint {
            sequence: self.sequence,
            counters: self.counters.clone(),
            stage_model: self.stage_model,
            stages,
            cohorts: self.retraining.cohorts().to_vec(),
        };
        let indexed = Indexed { state: "saved", rank: 0, due: None };
        let stages = self.outbox.json(Kind::Checkpoint, "stages", indexed.clone(), &checkpoint)?;
        let ledger = self.outbox.raw(Kind::Checkpoint, "ledger", indexed, self.ledger.to_bytes());
        self.outbox.push_with_samples(vec![stages, ledger])?;
        self.flow.checkpointed_at = Some(self.now);
        self.flow.checkpointed_sequence = self.sequence;
        self.flow.unsaved = false;
        Ok(())
    }

    /// Takes over what an earlier process left in the store.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let mut saved: Option<Checkpoint> = self.outbox.read(Kind::Checkpoint, "stages")?;
        let cohorts = saved.as_mut().map(|saved| std::mem::take(&mut saved.cohorts));
        self.retraining.restore_cohorts(cohorts.unwrap_or_default());
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
            if let Some(bytes) = self.outbox.read_raw(Kind::Checkpoint, "ledger")? {
                let failed = |source| Error::Store { doing: "restore the ledger", source };
                self.ledger.restore(&bytes).map_err(failed)?;
            }
        }
        let router: Option<(String, Snapshot)> = self.outbox.read(Kind::Checkpoint, "router")?;
        if let (Some((name, snapshot)), Some(stage)) = (router, &mut self.router) {
            let saved = BTreeMap::from([(format!("router/{name}"), snapshot)]);
            restore(stage, &self.references, &saved, "router");
        }
        self.reopen_alarms()?;
        // The process before this one may have ended between an erasure and what is done after it.
        self.flow.unscrubbed = true;
        // Samples kept after the last checkpoint: the stream goes on behind them.
        let (position, time) = self.outbox.cursor()?;
        newest = newest.max(position);
        self.now = time.map_or(self.now, |time| time.max(self.now));
        (self.outbox.position, self.outbox.now) = (newest, self.now);
        (self.sequence, self.flow.restored_sequence) = (newest, newest);
        self.flow.checkpointed_sequence = newest;
        let (tasks, unasked) = (&mut self.flow.tasks, &mut self.flow.unasked);
        self.outbox.each(Kind::Sample, SampleState::Queued.as_str(), |record| {
            let sample: Sample = parse(&record)?;
            let queued = sample.history.last().map_or(sample.observation.time, |step| step.time);
            tasks.push_back((queued, sample.id()));
            unasked.insert(sample.id());
            Ok(())
        })?;
        tasks.make_contiguous().sort_unstable();
        let parked = &mut self.flow.parked;
        self.outbox.each(Kind::Parked, "waiting", |record| {
            if let Ok(id) = record.key.id.parse() {
                parked.insert(id, parse(&record)?);
            }
            Ok(())
        })
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
