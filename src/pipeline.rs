//! The pipeline: in which order the stages work, and nothing else.

mod alarms;
mod anchor;
mod builder;
mod checkpoint;
mod control;
mod erasure;
mod evaluating;
mod flow;
mod isolated;
mod join;
mod journal;
mod keep;
mod label;
mod ledger;
mod lineage;
mod opinions;
mod outbox;
mod question;
mod recorder;
mod redaction;
mod retention;
mod retraining;
mod shadow;
mod status;
mod worker;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::chunk::ChunkBuffer;
use crate::clock::Clock;
use crate::dataset::Dataset;
use crate::detector::{Detector, Findings, Guard, GuardVerdict, Reading};
use crate::error::Error;
use crate::event::{Event, ModelVersion, Observation, PredictionId};
use crate::gate::QualityGate;
use crate::reference::References;
use crate::router::LabelRouter;
use crate::schema::Schema;
use crate::store::Store;
use crate::trigger::RetrainTrigger;

pub use alarms::{Acknowledged, AlarmRecord, AlarmState, Cleared};
pub use builder::{Mode, PipelineBuilder};
pub use control::Control;
pub use erasure::{BatchCheck, Erased};
pub use isolated::StageStatus;
pub use lineage::{Lineage, LineageEdge, LineageLink, LineageNode, LineageStart};
pub use recorder::{Draft, Recorder, Refused};
pub use redaction::Redaction;
pub use retention::Retention;
pub use retraining::{AliasRecord, Aliases, HeldBatch, PromotionKind, PromotionRecord, SchemaVersion};
pub use status::{Counters, Status};
pub use worker::Worker;

use flow::{Payload, Settings};
use isolated::Isolated;
use ledger::Ledger;
use outbox::Outbox;
use retraining::Retraining;

/// What became of the events given to [`Pipeline::ingest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested {
    /// Events applied. Every event is consumed.
    pub events: usize,
    /// Samples newly kept.
    pub kept: usize,
    /// Changes that are not durable yet because the store failed; `poll` tries again. 0 means that all is on disk.
    pub pending: usize,
}

/// What [`Pipeline::poll`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Polled {
    /// Annotations of people that were applied.
    pub annotations: usize,
    /// Did a run, a promotion or a rollback move?
    pub moved: bool,
    /// Changes that are not durable yet.
    pub pending: usize,
}

/// The loop: detectors, gates, router, trigger and retraining around one model, on one store.
///
/// It is a deterministic state machine: [`ingest`](Pipeline::ingest) applies events, [`poll`](Pipeline::poll) does what
/// time and labels make due. A host calls the two itself, or lets [`spawn`](Pipeline::spawn) do it on a thread.
/// Given the same clock readings, seed and events, the same run happens again.
pub struct Pipeline {
    name: Arc<str>,
    schema: Arc<Schema>,
    clock: Arc<dyn Clock>,
    now: DateTime<Utc>,
    settings: Settings,
    payload: Option<Payload>,
    redaction: Option<redaction::Redact>,
    detectors: Vec<Isolated<dyn Detector>>,
    gates: Vec<Isolated<dyn QualityGate>>,
    router: Option<Isolated<dyn LabelRouter>>,
    trigger: Option<Box<dyn RetrainTrigger>>,
    references: References,
    /// How far the serving baseline is from the anchor; measured when it moves.
    cumulative_drift: Vec<Reading>,
    /// The version that the stages are based on.
    stage_model: ModelVersion,
    ledger: Ledger,
    shadows: shadow::Shadows,
    buffer: ChunkBuffer,
    findings: Findings,
    drawn: Vec<PredictionId>,
    /// Boxed, because they travel as events and back without being copied.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Observation>>,
    outbox: Outbox,
    sequence: u64,
    counters: Counters,
    flow: flow::Flow,
    retraining: Retraining,
    base: Option<Dataset>,
    /// Why the last poll failed.
    poll_error: Option<String>,
}

/// An error with its causes, in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl Pipeline {
    /// Starts to build a pipeline called `name` for rows of `schema`. Several pipelines may share one store.
    pub fn builder(name: impl Into<String>, schema: impl Into<Arc<Schema>>) -> PipelineBuilder {
        PipelineBuilder::new(name.into(), schema.into())
    }

    /// Applies events in their order: joins, inspects, checks and routes them, and makes the outcome durable.
    ///
    /// # Errors
    /// More than the allowed number of changes wait for a store that fails: nothing was consumed, try again after
    /// [`Pipeline::poll`] has succeeded. A failing store is otherwise no error here; see [`Ingested::pending`].
    pub fn ingest(&mut self, events: impl IntoIterator<Item = Event>) -> Result<Ingested, Error> {
        self.check_pending()?;
        self.read_clock();
        self.count_waiting();
        let expired = self.expire_tasks();
        self.note_failure(expired);
        let (mut count, kept_before) = (0, self.counters.samples);
        for event in events {
            count += 1;
            self.sequence += 1;
            let applied = match event {
                Event::Prediction(observation) => self.take_prediction(observation),
                Event::Outcome(outcome) => self.take_outcome(outcome),
                Event::Feedback(feedback) => self.take_feedback(*feedback),
            };
            self.note_failure(applied);
        }
        self.inspect();
        let saved = self.save_router().and_then(|()| self.checkpoint_if_due());
        self.note_failure(saved);
        self.outbox.position = self.sequence;
        // A failed commit stays pending and is counted in the status; the events themselves are consumed.
        let _ = self.outbox.commit();
        Ok(Ingested {
            events: count,
            kept: (self.counters.samples - kept_before) as usize,
            pending: self.outbox.pending(),
        })
    }

    /// Does what time and labels make due: applies people's answers, releases auto-labels, moves the run in flight,
    /// asks the trigger. Call it at least every few seconds; it returns quickly.
    ///
    /// # Errors
    /// The store cannot be read or written; everything stays pending and is tried again at the next call.
    pub fn poll(&mut self) -> Result<Polled, Error> {
        self.read_clock();
        self.outbox.commit()?;
        self.count_waiting();
        // Each step is tried, also if one before it failed: a broken trainer must not hold up people's answers.
        let expired = self.expire_tasks();
        let annotations = self.apply_annotations();
        let retried = self.ask_again().and_then(|()| self.retry_waiting());
        let released = self.release_auto_labels();
        let logged = self.log_status();
        let retained = self.step_retention();
        let checked = self.check_labels();
        let committed = self.outbox.commit();
        let moved = self.step_retraining();
        let saved = self.save_router().and_then(|()| self.checkpoint_if_due());
        let finished = self.outbox.commit().and_then(|()| self.scrub());
        let (applied, has_moved) = (annotations.as_ref().map_or(0, |n| *n), matches!(moved, Ok(true)));
        let steps = [
            expired,
            annotations.map(drop),
            retried,
            released,
            logged,
            retained,
            checked,
            committed,
            moved.map(drop),
            saved,
            finished,
        ];
        let failed = steps.into_iter().find_map(Result::err);
        self.poll_error = failed.as_ref().map(describe);
        match failed {
            Some(error) => Err(error),
            None => Ok(Polled { annotations: applied, moved: has_moved, pending: self.outbox.pending() }),
        }
    }

    /// Changes that are not durable yet, because the store failed.
    pub fn pending(&self) -> usize {
        self.outbox.pending()
    }

    /// Name of the pipeline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Schema of its rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The store that it writes to.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.outbox.store()
    }

    /// The version that is served, as far as the loop knows.
    pub fn champion(&self) -> ModelVersion {
        self.retraining.champion()
    }

    /// The references in force.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// An empty observation with buffers of the right size, reused where possible.
    pub fn observation(&mut self) -> Box<Observation> {
        self.spare.pop().unwrap_or_else(|| Box::new(Observation::new(&self.schema)))
    }

    /// Advisory verdicts of all detectors that can give one on the host's own thread. They are frozen: ask again after a
    /// promotion.
    pub fn guard(&self) -> Arc<dyn Guard> {
        Arc::new(Guards(self.detectors.iter().filter_map(|detector| detector.stage.guard()).collect()))
    }

    /// The detector of type `T`, if there is one.
    pub fn detector<T: Detector>(&self) -> Option<&T> {
        self.detectors.iter().find_map(|stage| stage.downcast())
    }

    /// The gate of type `T`, if there is one.
    pub fn gate<T: QualityGate>(&self) -> Option<&T> {
        self.gates.iter().find_map(|stage| stage.downcast())
    }

    /// The router, if it is a `T`.
    pub fn router<T: LabelRouter>(&self) -> Option<&T> {
        self.router.as_ref().and_then(|stage| stage.downcast())
    }

    /// Asks a stage again that is down after three failures in a row. It goes on from its last good state; samples that
    /// waited for it are tried again by [`Pipeline::poll`].
    ///
    /// # Errors
    /// No detector, gate or router has this name.
    pub fn revive(&mut self, stage: &str) -> Result<(), Error> {
        let mut found = false;
        for detector in self.detectors.iter_mut().filter(|detector| detector.name == stage) {
            detector.revive();
            found = true;
        }
        for gate in self.gates.iter_mut().filter(|gate| gate.name == stage) {
            gate.revive();
            found = true;
        }
        if let Some(router) = self.router.as_mut().filter(|router| router.name == stage) {
            router.revive();
            found = true;
        }
        if found { Ok(()) } else { Err(Error::Refused(format!("no stage is called `{stage}`"))) }
    }

    /// An event that could not be applied in full, because the store could not be read, is counted; the rest goes on.
    fn note_failure(&mut self, applied: Result<(), Error>) {
        if let Err(error) = applied {
            self.counters.store_failures += 1;
            self.outbox.last_error = Some(describe(&error));
        }
    }

    /// Reads the clock; one that went back is held where it was.
    fn read_clock(&mut self) {
        let read = self.clock.now();
        if read < self.now {
            self.counters.clock_went_back += 1;
        } else {
            self.now = read;
        }
        self.outbox.now = self.now;
    }

    fn check_pending(&self) -> Result<(), Error> {
        if self.outbox.pending() > self.settings.most_pending {
            let why = self.outbox.last_error.as_deref().unwrap_or("unknown");
            return Err(Error::Refused(format!(
                "{} changes wait for the store, which fails ({why}); nothing more is taken until it works again",
                self.outbox.pending()
            )));
        }
        Ok(())
    }
}

/// All guards as one.
struct Guards(Vec<Arc<dyn Guard>>);

impl Guard for Guards {
    fn check(&self, observation: &Observation) -> GuardVerdict {
        for guard in &self.0 {
            if let flag @ GuardVerdict::Flag { .. } = guard.check(observation) {
                return flag;
            }
        }
        GuardVerdict::Pass
    }
}
