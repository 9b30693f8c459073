//! A trainer made of a closure.

use std::sync::Arc;

use super::jobs::Jobs;
use super::{Artifact, JobStatus, TrainJob, Trained, Trainer};
use crate::error::BoxError;

type Work = dyn Fn(&TrainJob) -> Result<Trained, BoxError> + Send + Sync;

impl From<Artifact> for Trained {
    fn from(artifact: Artifact) -> Self {
        Trained { artifact, log: String::new() }
    }
}

/// Trains with a closure, on a thread of its own per job.
///
/// The closure returns an [`Artifact`], or [`Trained`] if it has a log to show. A panic in it is a failed job. It cannot
/// be interrupted: a cancelled job runs on to its end and its result is dropped.
///
/// # Examples
/// ```
/// use feedloop::{Artifact, FnTrainer};
/// let trainer = FnTrainer::new(|job| {
///     let positive = job.data.class_labels().iter().filter(|&&class| class == 1).count();
///     Ok(Artifact::Inline(vec![u8::from(2 * positive > job.data.len())]))
/// });
/// # let _ = trainer;
/// ```
pub struct FnTrainer {
    name: String,
    work: Arc<Work>,
    jobs: Jobs<Trained>,
}

impl FnTrainer {
    /// A trainer that runs `work` on a thread of its own.
    pub fn new<F, T>(work: F) -> Self
    where
        F: Fn(&TrainJob) -> Result<T, BoxError> + Send + Sync + 'static,
        T: Into<Trained>,
    {
        FnTrainer {
            name: "function".into(),
            work: Arc::new(move |job| work(job).map(Into::into)),
            jobs: Jobs::threaded(),
        }
    }

    /// A trainer that runs `work` inside `start`, on the caller's thread: for simulations and tests, where the order of
    /// events has to be the same every time.
    pub fn inline<F, T>(work: F) -> Self
    where
        F: Fn(&TrainJob) -> Result<T, BoxError> + Send + Sync + 'static,
        T: Into<Trained>,
    {
        FnTrainer { jobs: Jobs::inline(), ..FnTrainer::new(work) }
    }

    /// Gives it another name than `function`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl Trainer for FnTrainer {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        let work = self.work.clone();
        let key = job.key.clone();
        self.jobs.start(&key, move || work(&job))
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(self.jobs.poll(key))
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.jobs.cancel(key);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::super::jobs::tests::settled;
    use super::*;
    use crate::{Dataset, DatasetVersion, Label, Recipe, RunId, Schema, Target};

    /// A job with two rows of two classes.
    pub(crate) fn job(key: &str) -> TrainJob {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
        let rows = [([0.5], Label::Class(0)), ([1.5], Label::Class(1))];
        let data = Dataset::from_values(schema, rows).unwrap();
        TrainJob {
            key: key.into(),
            run: RunId(1),
            recipe: Recipe::All,
            dataset: DatasetVersion::of(
                &data,
                (Recipe::All, &std::collections::BTreeMap::new()),
                3_000,
                None,
                Vec::new(),
            ),
            data: Arc::new(data),
            members: Vec::new(),
            seed: 7,
            directory: None,
        }
    }

    #[test]
    fn trains_on_its_own_thread_or_inline() {
        let work = |job: &TrainJob| Ok(Artifact::Inline(vec![job.data.len() as u8]));
        for mut trainer in [FnTrainer::new(work), FnTrainer::inline(work)] {
            trainer.start(job("k")).unwrap();
            trainer.start(job("k")).unwrap();
            let done = settled(|| trainer.poll("k").unwrap());
            assert_eq!(done, JobStatus::Done(Artifact::Inline(vec![2]).into()));
        }
    }

    #[test]
    fn a_panic_is_a_failed_job() {
        let mut trainer =
            FnTrainer::inline(|job| if job.data.len() > 1 { panic!("singular") } else { Ok(Artifact::Inline(vec![])) });
        trainer.start(job("k")).unwrap();
        let JobStatus::Failed { reason, .. } = trainer.poll("k").unwrap() else { panic!("it must fail") };
        assert_eq!(reason, "panicked: singular");
    }
}
