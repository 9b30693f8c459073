//! The operator's side of the loop: status, review, lineage, and the levers.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::Thread;

use super::alarms::{self, AlarmRecord};
use super::erasure::Erased;
use super::lineage::{self, Lineage, LineageStart};
use super::recorder::Shared;
use super::retraining::{AliasRecord, HeldBatch, read_trigger_log};
use super::{Pipeline, Status};
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::journal::{self, JournalEntry, JournalHead, JournalReport};
use crate::retrain::{Evaluation, RunId};
use crate::review::ReviewQueue;
use crate::sample::Sample;
use crate::store::{Kind, Store};
use crate::trigger::{Explanation, LoopStatus};

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

    /// Why the loop retrains, or what it waits for; see [`Pipeline::explain`].
    ///
    /// # Errors
    /// The worker has ended.
    pub fn explain(&self) -> Result<Explanation, Error> {
        self.with(|pipeline| pipeline.explain())
    }

    /// What the trigger looked at in the last two weeks; see [`Pipeline::trigger_log`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn trigger_log(&self) -> Result<Vec<LoopStatus>, Error> {
        read_trigger_log(&*self.store, &self.pipeline, self.shared.clock.now())
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

    /// Every change of the aliases, oldest first; see [`Pipeline::alias_history`].
    ///
    /// # Errors
    /// The worker has ended, or the store cannot be read.
    pub fn alias_history(&self) -> Result<Vec<AliasRecord>, Error> {
        self.with(|pipeline| pipeline.alias_history())?
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

    /// The kill switch: freezes the loop and ends what is under way, until [`Control::unfreeze`].
    ///
    /// # Errors
    /// See [`Pipeline::kill`].
    pub fn kill(&self, who: &str, why: &str) -> Result<(), Error> {
        let (who, why) = (who.to_owned(), why.to_owned());
        self.with(move |pipeline| pipeline.kill(&who, &why))?
    }

    /// Holds the loop where it is until [`Control::unfreeze`].
    ///
    /// # Errors
    /// See [`Pipeline::freeze`].
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

    /// The evaluation of a run's candidate, stored or as it stands; see [`Pipeline::evaluation`].
    ///
    /// # Errors
    /// The worker has ended, or the store cannot be read.
    pub fn evaluation(&self, run: RunId) -> Result<Option<Evaluation>, Error> {
        self.with(move |pipeline| pipeline.evaluation(run))?
    }

    /// Takes the content of a sample out of the store; see [`Pipeline::erase`].
    ///
    /// # Errors
    /// The worker has ended, or the store fails.
    pub fn erase(&self, id: PredictionId, who: &str, why: &str) -> Result<Erased, Error> {
        let (who, why) = (who.to_owned(), why.to_owned());
        self.with(move |pipeline| pipeline.erase(id, &who, &why))?
    }

    /// Compares the journal with itself and with what is stored; see [`Pipeline::verify_journal`]. The worker waits meanwhile,
    /// and the inbox may fill.
    ///
    /// # Errors
    /// The worker has ended, or the store cannot be read. A break is no error.
    pub fn verify_journal(&self, known: &[JournalHead]) -> Result<JournalReport, Error> {
        let known = known.to_vec();
        self.with(move |pipeline| pipeline.verify_journal(&known))?
    }

    /// Entries of a writer of the journal, newest first; see [`Pipeline::journal_entries`].
    ///
    /// # Errors
    /// The store cannot be read, or an entry is missing.
    pub fn journal_entries(&self, writer: &str, before: Option<u64>, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        journal::entries(&*self.store, &self.pipeline, writer, before, limit)
    }

    /// A sample with its whole history, or `None` if the prediction was not kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn sample(&self, id: PredictionId) -> Result<Option<Sample>, Error> {
        lineage::read(&*self.store, &self.pipeline, Kind::Sample, &id.to_string())
    }

    /// What a prediction, batch, run or model came from and what came of it; see [`Lineage::walk`]. At most 10,000 nodes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lineage(&self, start: impl Into<LineageStart>) -> Result<Lineage, Error> {
        lineage::of(&*self.store, &self.pipeline, start.into())
    }
}
