//! Background jobs with names: started, polled, cancelled; a panic is a failure, not a crash.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use super::JobStatus;
use crate::error::BoxError;
use crate::stage::isolate;

/// Jobs that run on a thread of their own each, or inline for a deterministic simulation.
///
/// Dropping it joins nothing: a job under way runs to its end and its result is dropped.
pub(crate) struct Jobs<T> {
    inline: bool,
    jobs: BTreeMap<String, Receiver<Result<T, Failure>>>,
}

impl<T: Send + 'static> Jobs<T> {
    /// Each job on a thread of its own.
    pub(crate) fn threaded() -> Self {
        Jobs { inline: false, jobs: BTreeMap::new() }
    }

    /// Each job inside [`start`](Self::start), on the caller's thread.
    pub(crate) fn inline() -> Self {
        Jobs { inline: true, jobs: BTreeMap::new() }
    }

    /// Starts `work` under the name `key`; a key that is under way or not yet reported is not started again.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn start(
        &mut self,
        key: &str,
        work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
    ) -> Result<(), BoxError> {
        if self.knows(key) {
            return Ok(());
        }
        let (sender, receiver) = channel();
        let run = move || {
            // A closed channel means that the job was cancelled: nobody wants the result.
            let _ = sender.send(isolate(work).map_err(Failure::of));
        };
        if self.inline {
            run();
        } else {
            thread::Builder::new().name(format!("feedloop {key}")).spawn(run)?;
        }
        self.jobs.insert(key.to_owned(), receiver);
        Ok(())
    }

    /// Is the job under way, or ended and not yet reported?
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.jobs.contains_key(key)
    }

    /// How the job is doing; a finished one is forgotten once it was reported.
    pub(crate) fn poll(&mut self, key: &str) -> JobStatus<T> {
        let Some(receiver) = self.jobs.get(key) else { return JobStatus::Unknown };
        let ended = match receiver.try_recv() {
            Err(TryRecvError::Empty) => return JobStatus::Running,
            Err(TryRecvError::Disconnected) => Err(Failure::new("its thread ended without a result", "")),
            Ok(ended) => ended,
        };
        self.jobs.remove(key);
        match ended {
            Ok(value) => JobStatus::Done(value),
            Err(Failure { reason, log }) => JobStatus::Failed { reason, log },
        }
    }

    /// Forgets the job. Its thread runs on to its end, as Rust cannot stop a thread; the result is dropped.
    pub(crate) fn cancel(&mut self, key: &str) {
        self.jobs.remove(key);
    }
}

/// Why a job failed, with the end of its log; a job may return it as its error.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    reason: String,
    log: String,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>, log: impl Into<String>) -> Self {
        Failure { reason: reason.into(), log: log.into() }
    }

    fn of(error: BoxError) -> Self {
        match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => Failure::new(with_causes(&*error), ""),
        }
    }
}

/// The text of an error and of everything that caused it.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Polls until the job is no longer under way.
    pub(crate) fn settled<T>(mut poll: impl FnMut() -> JobStatus<T>) -> JobStatus<T> {
        for _ in 0..2_000 {
            match poll() {
                JobStatus::Running => thread::sleep(Duration::from_millis(5)),
                status => return status,
            }
        }
        JobStatus::Running
    }

    #[test]
    fn a_job_runs_once_however_often_it_is_started() {
        for mut jobs in [Jobs::threaded(), Jobs::inline()] {
            let runs = Arc::new(AtomicUsize::new(0));
            for _ in 0..3 {
                let runs = runs.clone();
                jobs.start("a", move || Ok(runs.fetch_add(1, Ordering::SeqCst))).unwrap();
            }
            assert_eq!(settled(|| jobs.poll("a")), JobStatus::Done(0));
            assert_eq!(jobs.poll("a"), JobStatus::Unknown, "a reported job is forgotten");
            assert_eq!(runs.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn panics_and_errors_are_failures_with_their_text() {
        for mut jobs in [Jobs::<()>::threaded(), Jobs::inline()] {
            jobs.start("panic", || panic!("no {}", "data")).unwrap();
            jobs.start("error", || Err(Failure::new("it broke", "the log").into())).unwrap();
            let failed = |reason: &str, log: &str| JobStatus::Failed { reason: reason.into(), log: log.into() };
            assert_eq!(settled(|| jobs.poll("panic")), failed("panicked: no data", ""));
            assert_eq!(settled(|| jobs.poll("error")), failed("it broke", "the log"));
        }
    }

    #[test]
    fn an_inline_job_is_done_when_start_returns() {
        let mut jobs = Jobs::inline();
        jobs.start("a", || Ok(7)).unwrap();
        assert_eq!(jobs.poll("a"), JobStatus::Done(7));
    }

    #[test]
    fn a_cancelled_job_is_unknown_and_its_thread_ends() {
        let mut jobs = Jobs::threaded();
        let (go, wait) = channel::<()>();
        let (ended, end) = channel::<()>();
        jobs.start("a", move || {
            let _ = wait.recv();
            let _ = ended.send(());
            Ok(())
        })
        .unwrap();
        assert_eq!(jobs.poll("a"), JobStatus::Running);
        jobs.cancel("a");
        assert_eq!(jobs.poll("a"), JobStatus::Unknown);
        drop(go);
        end.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
