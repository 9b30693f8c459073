//! A trainer that runs a command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::cancellable::CancellableJobs;
use super::{JobStatus, TrainJob, Trained, Trainer};
use crate::error::{BoxError, message};

mod child;
mod process;

/// Longest run unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Wait before the second attempt unless told otherwise.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Trains by running a command, as a process of its own, for every job.
///
/// The command finds its orders in the environment:
///
/// | variable | content |
/// |---|---|
/// | `FEEDLOOP_DATA` | the rows to train on: JSON Lines, each `{"row": {field: value, …}, "label": …, "weight": …}`, oldest first |
/// | `FEEDLOOP_OUTPUT` | an empty directory; the artifact must be written there, as `model` unless told otherwise |
/// | `FEEDLOOP_MANIFEST` | a JSON file that describes the job: `key`, `run`, `recipe`, `seed`, `schema`, `rows`, `digest`, `attempt`; `data`, the files with the rows (with feature `parquet` the second one is Parquet); `columns`, the names of label and weight in it; `dataset`, the same by reference: the directories of base data and batches; for a blend `members`, its [models](TrainJob::members), each with `share`, `version`, `recipe` (null: the first model) and `artifact`, a path, or `bytes` in base64 |
/// | `FEEDLOOP_KEY` | the key of the job: the same key is the same job, also after a crash |
///
/// Exit code 0 with an artifact that is not empty is success; the artifact is a file or a directory. What the command prints
/// goes to `train.log` in the job's directory (its end, once there are more than 8 MiB), and the last 64 KiB of it into the
/// run's record.
///
/// When the time is up or the job is cancelled, the whole process group is killed; so is what a command that ended left
/// running in it. (A process that leaves the group, as daemons do, is out of reach.) Dropping the trainer kills likewise. A
/// job that had finished before the host was restarted is not run again; one that a crashed host left running is killed and
/// begun anew (on Linux; elsewhere it is not found). The pipeline needs a working directory, one of its own.
///
/// # Examples
/// ```
/// use feedloop::CommandTrainer;
/// use std::time::Duration;
/// let trainer = CommandTrainer::new("python3 train.py").artifact("model.bin").timeout(Duration::from_secs(600));
/// # let _ = trainer;
/// ```
pub struct CommandTrainer {
    order: Order,
    jobs: CancellableJobs<Trained>,
}

/// What to run, and what is expected of it.
#[derive(Debug, Clone)]
struct Order {
    program: OsString,
    arguments: Vec<OsString>,
    artifact: PathBuf,
    timeout: Duration,
    retries: u32,
    back_off: Duration,
    environment: Vec<(OsString, OsString)>,
}

impl CommandTrainer {
    /// Runs `command` through `sh -c`, in the host's current directory.
    pub fn new(command: impl Into<OsString>) -> Self {
        CommandTrainer::program("sh", [OsString::from("-c"), command.into()])
    }

    /// Runs `program` with `arguments`, without a shell.
    pub fn program<A: Into<OsString>>(program: impl Into<OsString>, arguments: impl IntoIterator<Item = A>) -> Self {
        let order = Order {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            artifact: "model".into(),
            timeout: TIMEOUT,
            retries: 0,
            back_off: BACK_OFF,
            environment: Vec::new(),
        };
        CommandTrainer { order, jobs: CancellableJobs::new() }
    }

    /// Name of the artifact within `FEEDLOOP_OUTPUT`.
    pub fn artifact(mut self, name: impl Into<PathBuf>) -> Self {
        self.order.artifact = name.into();
        self
    }

    /// Longest run of one attempt; one hour unless told otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.order.timeout = timeout;
        self
    }

    /// Attempts after the first one, if the command cannot be run, ends with another code than 0 or by a signal, or leaves no
    /// artifact; none unless told otherwise. A command that used its whole time is not tried again, nor one that was cancelled.
    ///
    /// Each attempt has an output directory of its own and the same key. Between attempts it waits a second, doubled with
    /// every failure, at most a minute.
    pub fn retries(mut self, retries: u32) -> Self {
        self.order.retries = retries;
        self
    }

    /// Another wait before the second attempt than a second.
    pub fn back_off(mut self, first: Duration) -> Self {
        self.order.back_off = first;
        self
    }

    /// Sets a further environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.order.environment.push((name.into(), value.into()));
        self
    }
}

impl Trainer for CommandTrainer {
    fn name(&self) -> &str {
        "command"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        let Some(directory) = &job.directory else {
            let text = "a command needs a directory for its files: give the pipeline a working directory";
            return Err(message(text));
        };
        let directory = std::path::absolute(directory)?;
        let (order, key) = (self.order.clone(), job.key.clone());
        self.jobs.start(&key, move |signal| child::train(&order, &job, &directory, signal))
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(self.jobs.poll(key))
    }

    /// The process group is killed within a moment, by the job's own thread.
    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.jobs.cancel(key);
        Ok(())
    }
}

impl Drop for CommandTrainer {
    fn drop(&mut self) {
        self.jobs.tell_all();
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
