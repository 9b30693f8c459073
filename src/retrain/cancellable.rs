//! Background jobs that hear when nobody wants them any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::JobStatus;
use super::jobs::Jobs;
use super::signal::Signal;
use crate::error::BoxError;

/// Jobs on threads of their own, each with a signal that is raised when it is cancelled. A job under a name that was cancelled
/// before waits for the end of the one before it.
pub(crate) struct CancellableJobs<T> {
    jobs: Jobs<T>,
    signals: BTreeMap<String, Arc<Signal>>,
}

/// Says that a job is over, however it ends.
struct Ending(Arc<Signal>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T: Send + 'static> CancellableJobs<T> {
    pub(crate) fn new() -> Self {
        CancellableJobs { jobs: Jobs::threaded(), signals: BTreeMap::new() }
    }

    /// Starts `work` under the name `key`; a key that is under way or not yet reported is not started again.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn start(
        &mut self,
        key: &str,
        work: impl FnOnce(&Signal) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<(), BoxError> {
        if self.jobs.knows(key) {
            return Ok(());
        }
        let (signal, before) = (Arc::new(Signal::default()), self.signals.get(key).cloned());
        let ending = Ending(signal.clone());
        self.jobs.start(key, move || {
            if let Some(before) = before {
                before.await_end();
            }
            work(&ending.0)
        })?;
        self.signals.insert(key.to_owned(), signal);
        self.signals.retain(|known, signal| known == key || !signal.over());
        Ok(())
    }

    /// How the job is doing; a finished one is forgotten once it was reported.
    pub(crate) fn poll(&mut self, key: &str) -> JobStatus<T> {
        self.jobs.poll(key)
    }

    /// Tells the job, and forgets it.
    pub(crate) fn cancel(&mut self, key: &str) {
        if let Some(signal) = self.signals.get(key) {
            signal.raise();
        }
        self.jobs.cancel(key);
    }

    /// Tells every job.
    pub(crate) fn tell_all(&self) {
        self.signals.values().for_each(|signal| signal.raise());
    }

    #[cfg(test)]
    pub(crate) fn signal(&self, key: &str) -> Arc<Signal> {
        self.signals[key].clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::jobs::tests::settled;
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_job_of_the_same_name_waits_for_the_end_of_the_cancelled_one() {
        let mut jobs = CancellableJobs::new();
        let (go, wait) = channel::<()>();
        let (said, heard) = channel();
        let (first, second) = (said.clone(), said);
        jobs.start("a", move |signal| {
            let _ = wait.recv();
            let _ = first.send(if signal.raised() { "cancelled" } else { "wanted" });
            Ok(())
        })
        .unwrap();
        jobs.cancel("a");
        assert_eq!(jobs.poll("a"), JobStatus::Unknown);
        jobs.start("a", move |_| {
            let _ = second.send("again");
            Ok(())
        })
        .unwrap();
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err(), "it has not waited");
        assert_eq!(jobs.poll("a"), JobStatus::Running);
        drop(go);
        assert_eq!(settled(|| jobs.poll("a")), JobStatus::Done(()));
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["cancelled", "again"]);
    }

    #[test]
    fn the_signals_of_jobs_that_are_over_are_forgotten() {
        let mut jobs = CancellableJobs::new();
        for n in 0..5 {
            let key = n.to_string();
            jobs.start(&key, move |_| if n == 3 { panic!("singular") } else { Ok(()) }).unwrap();
            settled(|| jobs.poll(&key));
            jobs.signal(&key).await_end();
        }
        assert_eq!(jobs.signals.len(), 1);
    }
}
