//! A trainer that is a service.

use std::sync::Arc;
use std::time::Duration;

use super::cancellable::CancellableJobs;
use super::signal::Signal;
use super::{JobStatus, TrainJob, Trained, Trainer};
use crate::error::{BoxError, message};

mod client;
mod job;

/// Trains by a service that is spoken to by HTTP.
///
/// The service has one address, and below it one address per job, whose last part is the job's name: its key and the first
/// 16 digits of the digest of its data, so that a name stands for one training in every store.
///
/// | request | what the service does | what it answers |
/// |---|---|---|
/// | `POST {address}` with the header `Idempotency-Key: {name}` and the description of the job as JSON | starts the job; one that it knows by this name is not started again | 2xx, or 409 for a job that it knows |
/// | `GET {address}/{name}` | | `{"status": "running"}`, `{"status": "done", "artifact": …, "log": …}`, `{"status": "failed", "reason": …, "log": …}`; 404 for a job that it does not know |
/// | `GET {address}/{name}/artifact` | | the bytes of the model, unless `artifact` was given |
/// | `DELETE {address}/{name}` | ends the job | 2xx, or 404 |
///
/// The description is that of [`CommandTrainer`](crate::CommandTrainer), and `name`. With a working directory of the
/// pipeline, the rows are in the files that `data` lists, for a service on the same disk; without one they are in `lines`, each
/// `{"row": {field: value, …}, "label": …, "weight": …}`. `artifact` of a job that is done is a path on a disk that the host
/// sees too.
///
/// The requests are made on a thread of the job's own. What a service answers with 408, 429 or 5xx, and what does not reach
/// it, is tried again with growing pauses; every other answer of 4xx fails the job, and so does an answer that cannot be
/// understood. A job that the service has forgotten is started again under its name. A host that is restarted finds its jobs by
/// their names, so dropping the trainer does not end them. Redirects of a `POST` are not followed. A proxy is taken from the
/// environment (`HTTP_PROXY`, `NO_PROXY`).
///
/// # Examples
/// ```
/// use feedloop::HttpTrainer;
/// use std::time::Duration;
/// let trainer = HttpTrainer::new("http://trainer:8080/jobs").bearer("secret").timeout(Duration::from_secs(600));
/// # let _ = trainer;
/// ```
pub struct HttpTrainer {
    order: Order,
    jobs: CancellableJobs<Trained>,
    /// Raised when the trainer is dropped: its threads leave their jobs to the service.
    gone: Arc<Signal>,
}

/// Where the service is, and how patient one is with it.
#[derive(Clone)]
struct Order {
    address: String,
    token: Option<String>,
    timeout: Duration,
    request_timeout: Duration,
    poll_every: Duration,
    retries: u32,
    back_off: Duration,
    most_bytes: u64,
}

impl HttpTrainer {
    /// The service at `address`, for example `http://trainer:8080/jobs`; `https` needs the feature of this name.
    pub fn new(address: impl Into<String>) -> Self {
        let order = Order {
            address: address.into().trim_end_matches('/').to_owned(),
            token: None,
            timeout: Duration::from_secs(3600),
            request_timeout: Duration::from_secs(30),
            poll_every: Duration::from_secs(1),
            retries: 5,
            back_off: Duration::from_millis(500),
            most_bytes: 64 << 20,
        };
        HttpTrainer { order, jobs: CancellableJobs::new(), gone: Arc::default() }
    }

    /// A token that every request carries as `Authorization: Bearer`. Without TLS everybody on the way can read it.
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.order.token = Some(token.into());
        self
    }

    /// Longest training; one hour unless told otherwise. Then the job is ended and has failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.order.timeout = timeout;
        self
    }

    /// Longest wait for a connection, for an answer, and for the next piece of one; 30 seconds unless told otherwise.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.order.request_timeout = timeout;
        self
    }

    /// How often the service is asked how a job is doing; every second unless told otherwise.
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.order.poll_every = interval;
        self
    }

    /// How often in a row a request may fail before the job has failed, and how often a job that the service has forgotten
    /// is started again; 5 unless told otherwise.
    pub fn retries(mut self, retries: u32) -> Self {
        self.order.retries = retries;
        self
    }

    /// Wait before a request is made again, doubled with every failure in a row, at most a minute; half a second unless told
    /// otherwise.
    pub fn back_off(mut self, first: Duration) -> Self {
        self.order.back_off = first;
        self
    }

    /// Largest artifact that is downloaded; 64 MiB unless told otherwise.
    pub fn most_bytes(mut self, bytes: u64) -> Self {
        self.order.most_bytes = bytes;
        self
    }
}

impl Trainer for HttpTrainer {
    fn name(&self) -> &str {
        "http"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        if self.order.address.starts_with("https:") && !cfg!(feature = "https") {
            return Err(message(format!("{} needs the feature `https`", self.order.address)));
        }
        let (order, key, gone) = (self.order.clone(), job.key.clone(), self.gone.clone());
        self.jobs.start(&key, move |signal| job::train(&order, &job, signal, &gone))
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(self.jobs.poll(key))
    }

    /// The service is told by the job's own thread, once the request that is under way has ended.
    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.jobs.cancel(key);
        Ok(())
    }
}

impl Drop for HttpTrainer {
    fn drop(&mut self) {
        self.gone.raise();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
