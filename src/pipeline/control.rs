//! The operator's side of the loop: status, review, lineage, and the levers.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::Thread;

use super::alarms::{self, AlarmRecord};
use super::lineage::{self, Lineage};
use super::recorder::Shared;
use super::retraining::HeldBatch;
use super::{Pipeline, Status};
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::retrain::RunId;
use crate::review::ReviewQueue;
use crate::sample::Sample;
use crate::store::{Kind, Store};

/// Something to be done by the worker between two bursts.
pub(super) type Request = Box<dyn FnOnce(&mut Pipeline) + Send>;

/// Looks after a running pipeline. Cheap to clone; safe to use from many threads.
///
/// Requests are answered by the worker after everything that was recorded before them was applied. Reading lineage and
/// samples, and review, go to the store directly.
#[derive(Clone)]
pub struct Control {
    requests: Sender<Request>,
    worker: Thread,
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    pipeline: Arc<str>,
    review: ReviewQueue,
}

impl Control {
    pub(super) fn new(
        requests: Sender<Request>,
        worker: Thread,
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        pipeline: Arc<str>,
    ) -> Self {
        let target = shared.schema.target().clone();
        let review = ReviewQueue::open(store.clone(), pipeline.clone(), target, shared.clock.clone());
        Control { requests, worker, shared, store, pipeline, review }
    }

    /// Runs `work` on the pipeline, on the worker's thread, and waits for its answer. `work` must not use a `Control` itself:
    /// the worker cannot wait for itself.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the worker has ended, or `work` has panicked.
    pub fn with<R: Send + 'static>(&self, work: impl FnOnce(&mut Pipeline) -> R + Send + 'static) -> Result<R, Error> {
        let (answer, wait) = channel();
        let request: Request = Box::new(move |pipeline| {
            // Nobody waits any more: then the answer is dropped.
            let _ = answer.send(work(pipeline));
        });
        self.requests.send(request).map_err(|_| Error::Stopped)?;
        self.worker.unpark();
        wait.recv().map_err(|_| Error::Stopped)
    }

    /// How the loop is doing.
    ///
    /// # Errors
    /// The worker has ended, or the store cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let mut status = self.with(|pipeline| pipeline.status())??;
        status.refused = self.shared.refused();
        Ok(status)
    }

    /// Applies everything that was recorded before, makes it durable, and polls once.
    ///
    /// # Errors
    /// The worker has ended, or the store fails: then nothing is lost, but not everything is durable.
    pub fn flush(&self) -> Result<(), Error> {
        self.with(|pipeline| pipeline.poll().map(drop))?
    }

    /// The review queue: for annotators, in this process or, on the same store, in another.
    pub fn review(&self) -> ReviewQueue {
        self.review.clone()
    }

    /// Starts a run, whatever the trigger says.
    ///
    /// # Errors
    /// See [`Pipeline::retrain_now`].
    pub fn retrain_now(&self, who: &str) -> Result<RunId, Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.retrain_now(&who))?
    }

    /// Approves the candidate that waits.
    ///
    /// # Errors
    /// See [`Pipeline::approve`].
    pub fn approve(&self, who: &str) -> Result<(), Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.approve(&who))?
    }

    /// Ends the run in flight.
    ///
    /// # Errors
    /// See [`Pipeline::cancel_run`].
    pub fn cancel_run(&self, who: &str) -> Result<(), Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.cancel_run(&who))?
    }

    /// Lets every label count that the label-fault check holds back.
    ///
    /// # Errors
    /// See [`Pipeline::trust_labels`].
    pub fn trust_labels(&self, who: &str) -> Result<usize, Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.trust_labels(&who))?
    }

    /// Rolls back to the version before the served one.
    ///
    /// # Errors
    /// See [`Pipeline::rollback`].
    pub fn rollback(&self, why: &str) -> Result<ModelVersion, Error> {
        let why = why.to_owned();
        self.with(move |pipeline| pipeline.rollback(&why))?
    }

    /// The kill switch: nothing is trained, promoted or rolled back until [`Control::unfreeze`].
    ///
    /// # Errors
    /// The worker has ended, or the store fails.
    pub fn freeze(&self, why: &str) -> Result<(), Error> {
        let why = why.to_owned();
        self.with(move |pipeline| pipeline.freeze(&why))?
    }

    /// Lets a frozen loop go on.
    ///
    /// # Errors
    /// The worker has ended, or the store fails.
    pub fn unfreeze(&self) -> Result<(), Error> {
        self.with(Pipeline::unfreeze)?
    }

    /// Lets the batch that waits for a signature go on; `held` is what the [status](crate::Status::held) showed.
    ///
    /// # Errors
    /// See [`Pipeline::sign_off`].
    pub fn sign_off(&self, held: &HeldBatch, who: &str) -> Result<RunId, Error> {
        let (held, who) = (held.clone(), who.to_owned());
        self.with(move |pipeline| pipeline.sign_off(&held, &who))?
    }

    /// Quarantines every row of a batch that a gate held.
    ///
    /// # Errors
    /// See [`Pipeline::refuse_batch`].
    pub fn refuse_batch(&self, held: &HeldBatch, who: &str) -> Result<usize, Error> {
        let (held, who) = (held.clone(), who.to_owned());
        self.with(move |pipeline| pipeline.refuse_batch(&held, &who))?
    }

    /// Sends a quarantined sample on: a person has looked at it.
    ///
    /// # Errors
    /// See [`Pipeline::readmit`].
    pub fn readmit(&self, id: PredictionId, who: &str) -> Result<(), Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.readmit(id, &who))?
    }

    /// Takes note of every open alarm in the name of `who`; see [`Pipeline::acknowledge_alarms`].
    ///
    /// # Errors
    /// The worker has ended, or the store fails.
    pub fn acknowledge_alarms(&self, who: &str) -> Result<usize, Error> {
        let who = who.to_owned();
        self.with(move |pipeline| pipeline.acknowledge_alarms(&who))?
    }

    /// Alarms and what became of them, newest first; see [`Pipeline::alarms`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn alarms(&self, before: Option<u64>, limit: usize) -> Result<Vec<AlarmRecord>, Error> {
        alarms::page(&*self.store, &self.pipeline, before, limit)
    }

    /// Asks a stage again that is down after three failures in a row.
    ///
    /// # Errors
    /// No stage has this name, or the worker has ended.
    pub fn revive(&self, stage: &str) -> Result<(), Error> {
        let stage = stage.to_owned();
        self.with(move |pipeline| pipeline.revive(&stage))?
    }

    /// A sample with its whole history, or `None` if the prediction was not kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn sample(&self, id: PredictionId) -> Result<Option<Sample>, Error> {
        lineage::read(&*self.store, &self.pipeline, Kind::Sample, &id.to_string())
    }

    /// From a prediction to the model that made it and the models that it helped to train.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lineage(&self, id: PredictionId) -> Result<Lineage, Error> {
        Lineage::of_prediction(&*self.store, &self.pipeline, id)
    }

    /// From a model back to its run, its batches, their samples and its promotions.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn model_lineage(&self, version: ModelVersion) -> Result<Lineage, Error> {
        Lineage::of_model(&*self.store, &self.pipeline, version)
    }
}
