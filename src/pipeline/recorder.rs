//! The host's side of the loop: records without allocating, waiting, or waking anybody up.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use serde::Serialize;

use crate::clock::Clock;
use crate::event::{Event, Feedback, IdSource, Label, ModelVersion, Observation, Outcome, Output, PredictionId, Role};
use crate::schema::{Schema, SchemaError};

/// The loop did not take what it was offered. The host goes on serving; the refusal is counted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The worker is behind: no slot is free (or only the reserve is, which is for outcomes, feedback and guarded
    /// predictions).
    #[error("no free slot: the worker is behind")]
    Full,
    /// The worker has stopped.
    #[error("the worker has stopped")]
    Stopped,
    /// The input cannot be a row of the schema.
    #[error(transparent)]
    Input(#[from] SchemaError),
}

/// What recorder and worker share.
pub(super) struct Shared {
    pub(super) schema: Arc<Schema>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: IdSource,
    pub(super) free: ArrayQueue<Box<Observation>>,
    /// Free slots for guarded predictions. A queue of its own: the length of `free` cannot be had without the cache line
    /// that the worker writes with every slot that it gives back.
    pub(super) reserved: ArrayQueue<Box<Observation>>,
    pub(super) ready: ArrayQueue<Event>,
    pub(super) stopped: AtomicBool,
    pub(super) refused_predictions: AtomicU64,
    pub(super) refused_others: AtomicU64,
}

impl Shared {
    /// Did the worker stop before it could see what was pushed just now? Then nobody may be told that it was accepted;
    /// it may have been applied all the same.
    ///
    /// The queue advances its tail by a sequentially consistent exchange: if this load finds `false`, that exchange comes
    /// before the worker's store in the one order of all of them, and the worker's last look finds the event.
    fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Makes slots free again, after those that the reserve of `reserve` slots lacks.
    pub(super) fn take_back(&self, slots: impl Iterator<Item = Box<Observation>>, reserve: usize) {
        let mut lacking = reserve.saturating_sub(self.reserved.len());
        for slot in slots {
            let queue = if lacking > 0 { &self.reserved } else { &self.free };
            lacking = lacking.saturating_sub(1);
            // Both queues have room for what they get.
            let _ = queue.push(slot);
        }
    }

    pub(super) fn refused(&self) -> (u64, u64) {
        (self.refused_predictions.load(Ordering::Relaxed), self.refused_others.load(Ordering::Relaxed))
    }
}

/// Hands predictions, outcomes and feedback to the worker. Cheap to clone; safe to use from many threads.
///
/// `record` takes a slot that was allocated at the start, encodes into it and hands it over: no allocation, no waiting, no
/// system call beyond reading the clock. What does not fit into the inbox is refused and counted, never queued.
#[derive(Clone)]
pub struct Recorder {
    pub(super) shared: Arc<Shared>,
}

/// A slot that finds its way back, also if the host's `Serialize` panics.
struct SlotGuard<'a> {
    shared: &'a Shared,
    slot: Option<Box<Observation>>,
}

impl Deref for SlotGuard<'_> {
    type Target = Observation;

    fn deref(&self) -> &Observation {
        match &self.slot {
            Some(slot) => slot,
            None => unreachable!("a slot is taken out only when the guard ends"),
        }
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Observation {
        match &mut self.slot {
            Some(slot) => slot,
            None => unreachable!("a slot is taken out only when the guard ends"),
        }
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // The queue has room for every slot that there is.
            let _ = self.shared.free.push(slot);
        }
    }
}

/// A prediction that is being recorded.
pub struct Draft<'a> {
    recorder: &'a Recorder,
    id: Option<PredictionId>,
    model: ModelVersion,
    role: Role,
    guarded: bool,
    latency: Option<Duration>,
    output: Output<'a>,
}

impl<'a> Draft<'a> {
    /// The host's own name for the prediction. A name that the loop knows already is refused by the worker and counted.
    pub fn id(mut self, id: PredictionId) -> Self {
        self.id = Some(id);
        self
    }

    /// How long the model took. The watch takes a promoted model back that is much slower than its predecessor was.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// A guard flagged it: it may use the reserve of the inbox.
    pub fn guarded(mut self) -> Self {
        self.guarded = true;
        self
    }

    /// Records it with a plain slice of numbers as input; NaN is missing.
    ///
    /// # Errors
    /// [`Refused`]: no slot was free, the worker has stopped, or the slice has the wrong length.
    pub fn values(self, values: &[f64]) -> Result<PredictionId, Refused> {
        self.send(|schema, observation| {
            let _ = schema;
            observation.row.copy_values(values)
        })
    }

    /// Records it with the host's own struct or map as input. What does not fit the schema becomes a violation on the row.
    ///
    /// # Errors
    /// [`Refused`]: no slot was free, or the worker has stopped.
    pub fn row<T: Serialize + ?Sized>(self, row: &T) -> Result<PredictionId, Refused> {
        self.send(|schema, observation| {
            observation.row.encode(schema, row);
            Ok(())
        })
    }

    fn send(
        self,
        fill: impl FnOnce(&Schema, &mut Observation) -> Result<(), SchemaError>,
    ) -> Result<PredictionId, Refused> {
        let shared = &*self.recorder.shared;
        let refuse = |why| {
            shared.refused_predictions.fetch_add(1, Ordering::Relaxed);
            Err(why)
        };
        if shared.stopped.load(Ordering::Relaxed) {
            return refuse(Refused::Stopped);
        }
        let reserved = || if self.guarded { shared.reserved.pop() } else { None };
        let Some(slot) = shared.free.pop().or_else(reserved) else { return refuse(Refused::Full) };
        let mut slot = SlotGuard { shared, slot: Some(slot) };
        let time = shared.clock.now();
        let id = self.id.unwrap_or_else(|| shared.ids.next(time));
        let observation = &mut *slot;
        (observation.id, observation.time, observation.model) = (id, time, self.model);
        (observation.role, observation.guarded, observation.latency) = (self.role, self.guarded, self.latency);
        observation.set_output(self.output);
        if let Err(error) = fill(&shared.schema, observation) {
            return refuse(Refused::Input(error));
        }
        let Some(filled) = slot.slot.take() else { return refuse(Refused::Full) };
        match shared.ready.push(Event::Prediction(filled)) {
            Ok(()) if shared.has_stopped() => refuse(Refused::Stopped),
            Ok(()) => Ok(id),
            Err(event) => {
                if let Event::Prediction(filled) = event {
                    slot.slot = Some(filled);
                }
                refuse(Refused::Full)
            }
        }
    }
}

impl Recorder {
    /// Starts to record a prediction of `model`.
    pub fn prediction<'a>(&'a self, model: ModelVersion, output: Output<'a>) -> Draft<'a> {
        Draft { recorder: self, id: None, model, role: Role::Live, guarded: false, latency: None, output }
    }

    /// A name for a prediction that is not made yet: to [route](crate::ModelSlot::route) it by, and to record it
    /// [under](Draft::id).
    pub fn next_id(&self) -> PredictionId {
        self.shared.ids.next(self.shared.clock.now())
    }

    /// Records what another model than the serving one says of the prediction `served`, for example
    /// [the challenger](crate::ModelSlot::shadow). Late labels then compare the two as they were in production, and the row
    /// need not be scored again. Of several outputs of one model the first counts; one of a model that is not judged,
    /// served, watched or kept at present is only counted.
    ///
    /// # Errors
    /// [`Refused`]: no slot was free, or the worker has stopped; the row is then scored by the evaluator.
    pub fn shadow(&self, served: PredictionId, model: ModelVersion, output: Output<'_>) -> Result<(), Refused> {
        let draft = Draft { role: Role::Shadow, ..self.prediction(model, output).id(served) };
        draft.send(|_, _| Ok(())).map(drop)
    }

    /// Records a prediction with the host's own struct or map as input.
    ///
    /// # Errors
    /// See [`Draft::row`].
    pub fn record<T: Serialize + ?Sized>(
        &self,
        model: ModelVersion,
        output: Output<'_>,
        row: &T,
    ) -> Result<PredictionId, Refused> {
        self.prediction(model, output).row(row)
    }

    /// Records a prediction with a plain slice of numbers as input.
    ///
    /// # Errors
    /// See [`Draft::values`].
    pub fn record_values(
        &self,
        model: ModelVersion,
        output: Output<'_>,
        values: &[f64],
    ) -> Result<PredictionId, Refused> {
        self.prediction(model, output).values(values)
    }

    /// Records the truth about a prediction; a second one corrects the first.
    ///
    /// # Errors
    /// [`Refused`]: the inbox is full, or the worker has stopped.
    pub fn truth(&self, prediction: PredictionId, label: Label) -> Result<(), Refused> {
        self.outcome(Outcome::truth(prediction, label))
    }

    /// Records an outcome: a truth or a retraction.
    ///
    /// # Errors
    /// See [`Recorder::truth`].
    pub fn outcome(&self, outcome: Outcome) -> Result<(), Refused> {
        self.send(Event::Outcome(outcome))
    }

    /// Records what a user said.
    ///
    /// # Errors
    /// See [`Recorder::truth`].
    pub fn feedback(&self, feedback: Feedback) -> Result<(), Refused> {
        self.send(Event::Feedback(Box::new(feedback)))
    }

    /// Predictions and others (outcomes, feedback) that were refused so far.
    pub fn refused(&self) -> (u64, u64) {
        self.shared.refused()
    }

    fn send(&self, event: Event) -> Result<(), Refused> {
        let shared = &self.shared;
        let refused = if shared.stopped.load(Ordering::Relaxed) {
            Refused::Stopped
        } else {
            match shared.ready.push(event) {
                Ok(()) if shared.has_stopped() => Refused::Stopped,
                Ok(()) => return Ok(()),
                Err(_) => Refused::Full,
            }
        };
        shared.refused_others.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }
}
