//! A thin loop around `ingest` and `poll`, on a thread of its own. It decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::Pipeline;
use super::control::{Control, Request};
use super::recorder::{Recorder, Shared};
use crate::error::Error;
use crate::event::{IdSource, Observation};
use crate::stage::isolate;
use crate::stats::sampling::keyed;

/// Most events applied between two looks at the requests.
const BURST: usize = 1_024;
/// Longest sleep while nothing happens.
const NAP: Duration = Duration::from_millis(2);

/// The thread that runs a pipeline. Dropping it tells the thread to stop and does not wait.
pub struct Worker {
    thread: Option<JoinHandle<Pipeline>>,
    handle: Thread,
    stop: Arc<AtomicBool>,
    done: Receiver<()>,
}

impl Worker {
    /// Stops the worker: what was recorded before is applied and made durable. Waits at most `deadline`.
    ///
    /// Gives the pipeline back, so that the host can go on with `ingest` and `poll`, or drop it. If the store failed to the
    /// end, [`Pipeline::pending`] is not 0, and `poll` tries again.
    ///
    /// # Errors
    /// The worker did not stop in time (it goes on stopping by itself), or it has panicked.
    pub fn stop(mut self, deadline: Duration) -> Result<Pipeline, Error> {
        self.stop.store(true, Ordering::Release);
        self.handle.unpark();
        match self.done.recv_timeout(deadline) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(Error::Refused(format!(
                "the worker did not stop within {deadline:?}; it goes on stopping by itself"
            ))),
            // The thread is at its end; a disconnected channel means that it panicked, which `join` tells.
            _ => match self.thread.take().map(JoinHandle::join) {
                Some(Ok(pipeline)) => Ok(pipeline),
                _ => Err(Error::Stopped),
            },
        }
    }

    /// Has the worker ended?
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.unpark();
    }
}

impl Pipeline {
    /// Runs the pipeline on a thread of its own.
    ///
    /// The [`Recorder`] goes to the threads that serve, the [`Control`] to whoever looks after the loop, and the [`Worker`]
    /// stays with whoever shuts down.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(self) -> Result<(Recorder, Control, Worker), Error> {
        let (slots, reserve) = (self.settings.inbox, self.settings.reserve);
        static SPAWNED: AtomicU64 = AtomicU64::new(0);
        let started = self.clock.now().timestamp_micros().to_le_bytes();
        let tag = keyed(u64::from(std::process::id()) ^ (SPAWNED.fetch_add(1, Ordering::Relaxed) << 32), &started);
        let shared = Arc::new(Shared {
            schema: self.schema.clone(),
            clock: self.clock.clone(),
            ids: IdSource::new(tag),
            // Room for all: a guarded prediction that is refused gives its reserved slot back here.
            free: ArrayQueue::new(slots),
            reserved: ArrayQueue::new(reserve.max(1)),
            // Room for every slot and as many outcomes and feedback again.
            ready: ArrayQueue::new(slots * 2),
            stopped: AtomicBool::new(false),
            refused_predictions: AtomicU64::new(0),
            refused_others: AtomicU64::new(0),
        });
        shared.take_back((0..slots).map(|_| Box::new(Observation::new(&self.schema))), reserve);
        let stop = Arc::new(AtomicBool::new(false));
        let (request, requests) = channel();
        let (finished, done) = channel();
        let name = format!("feedloop-{}", self.name);
        let (theirs, signal) = (shared.clone(), stop.clone());
        let (store, pipeline) = (self.outbox.store().clone(), self.name.clone());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _finished = finished;
                let _stopped = MarkStopped(theirs.clone());
                run(self, &theirs, &signal, &requests)
            })
            .map_err(Error::file("cannot start the worker's thread"))?;
        let handle = thread.thread().clone();
        let control = Control::new(request, handle.clone(), shared.clone(), store, pipeline);
        Ok((Recorder { shared }, control, Worker { thread: Some(thread), handle, stop, done }))
    }
}

/// Tells the recorders that nobody listens any more, however the thread ends.
struct MarkStopped(Arc<Shared>);

impl Drop for MarkStopped {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

fn run(mut pipeline: Pipeline, shared: &Shared, stop: &AtomicBool, requests: &Receiver<Request>) -> Pipeline {
    let mut polled = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if stopping {
            // Before the last drain: whoever was told `Ok` has pushed by then, see `Shared::has_stopped`.
            shared.stopped.store(true, Ordering::SeqCst);
        }
        let taken = drain(&mut pipeline, shared);
        while let Ok(request) = requests.try_recv() {
            // What was recorded before the request is applied before it is answered. What comes meanwhile waits:
            // a host that never pauses would otherwise keep the answer back for ever.
            let mut before = shared.ready.len();
            while before > 0 {
                let taken = drain(&mut pipeline, shared);
                before = if taken == 0 { 0 } else { before.saturating_sub(taken) };
            }
            // A panic in the host's request is the request's: nobody gets an answer, the worker goes on.
            let _ = isolate(|| {
                request(&mut pipeline);
                Ok(())
            });
        }
        if polled.elapsed() >= pipeline.settings.poll_every || (stopping && taken == 0) {
            polled = Instant::now();
            // An error shows in the status, and everything is tried again.
            let _ = pipeline.poll();
        }
        if stopping && taken == 0 {
            while let Some(event) = shared.ready.pop() {
                // The store fails, so that nothing more was taken: what was accepted is applied all the same.
                pipeline.settings.most_pending = usize::MAX;
                let _ = pipeline.ingest([event]);
            }
            let _ = pipeline.checkpoint();
            let _ = pipeline.outbox.commit();
            return pipeline;
        }
        if taken == 0 {
            thread::park_timeout(NAP);
        }
    }
}

/// Applies a burst of events; gives free slots back. Returns how many were taken.
fn drain(pipeline: &mut Pipeline, shared: &Shared) -> usize {
    if pipeline.check_pending().is_err() {
        return 0;
    }
    let rows = pipeline.ledger.rows_kept();
    let events = std::iter::from_fn(|| shared.ready.pop()).take(BURST);
    let taken = pipeline.ingest(events).map_or(0, |ingested| ingested.events);
    let reserve = pipeline.settings.reserve;
    shared.take_back(pipeline.spare.drain(..), reserve);
    // Slots that the ledger keeps while it fills up are replaced; once it is full, every new row frees an old one.
    let kept = rows..pipeline.ledger.rows_kept();
    shared.take_back(kept.map(|_| Box::new(Observation::new(&shared.schema))), reserve);
    taken
}
