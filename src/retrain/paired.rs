//! Scores several models on the same rows, away from the worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::jobs::{Jobs, with_causes};
use super::latency::median;
use super::{Evaluator, JobStatus, Model, ModelRecord, Profile, ScoreJob, Scores};
use crate::error::{BoxError, message};
use crate::event::ModelVersion;
use crate::schema::Row;
use crate::stage::isolate;

/// Loaded models that are kept for the next job.
const CACHED: usize = 8;

type Load = dyn Fn(&ModelRecord) -> Result<Arc<dyn Model>, BoxError> + Send + Sync;

/// Loads models with a closure, predicts the same rows with each of them on a thread of its own, and judges by a
/// [`Profile`]: `confirm` unless told otherwise.
///
/// The last 8 loaded models are kept. A row for which a model errs, panics, or says something that is not a finite number
/// has no output of this model. A model that cannot be loaded, or has no output for any row, fails alone; the others are
/// still scored.
///
/// # Examples
/// ```
/// use feedloop::{Artifact, BoxError, ModelRecord, PairedEvaluator, Profile, Row};
/// fn load(record: &ModelRecord) -> Result<impl feedloop::Model + use<>, BoxError> {
///     let Artifact::Inline(bytes) = &record.artifact else { return Err("not a threshold".into()) };
///     let threshold: f64 = String::from_utf8(bytes.clone())?.parse()?;
///     Ok(move |row: &Row, output: &mut [f64]| {
///         let positive = row.values()[0] > threshold;
///         output.copy_from_slice(if positive { &[0.1, 0.9] } else { &[0.9, 0.1] });
///         Ok(())
///     })
/// }
/// let evaluator = PairedEvaluator::new(load).profile(Profile::adaptive());
/// # let _ = evaluator;
/// ```
pub struct PairedEvaluator {
    profile: Profile,
    load: Arc<Load>,
    cache: Arc<Cache>,
    jobs: Jobs<Vec<Scores>>,
}

impl PairedEvaluator {
    /// Loads models with `load`.
    pub fn new<F, M>(load: F) -> Self
    where
        F: Fn(&ModelRecord) -> Result<M, BoxError> + Send + Sync + 'static,
        M: Model + 'static,
    {
        PairedEvaluator {
            profile: Profile::confirm(),
            load: Arc::new(move |record| load(record).map(|model| Arc::new(model) as Arc<dyn Model>)),
            cache: Arc::default(),
            jobs: Jobs::threaded(),
        }
    }

    /// Judges by `profile`.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Scores inside `start`, on the caller's thread: for simulations and tests, where the order of events has to be the
    /// same every time.
    pub fn inline(mut self) -> Self {
        self.jobs = Jobs::inline();
        self
    }
}

impl Evaluator for PairedEvaluator {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError> {
        let (load, cache, key) = (self.load.clone(), self.cache.clone(), job.key.clone());
        self.jobs.start(&key, move || {
            let score = |record: &ModelRecord| {
                let predicted = isolate(|| predict(&*cache.get(record, &*load)?, &job.rows, job.width));
                let (outputs, latency) = predicted
                    .map(|(outputs, latency)| (Ok(outputs), latency))
                    .unwrap_or_else(|error| (Err(with_causes(&*error)), None));
                Scores { model: record.version, outputs, latency }
            };
            Ok(job.models.iter().map(score).collect())
        })
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError> {
        Ok(self.jobs.poll(key))
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.jobs.cancel(key);
        Ok(())
    }
}

/// The last used models, newest last.
#[derive(Default)]
struct Cache(Mutex<VecDeque<(ModelVersion, Arc<dyn Model>)>>);

impl Cache {
    fn get(&self, record: &ModelRecord, load: &Load) -> Result<Arc<dyn Model>, BoxError> {
        let known = self.take(record.version);
        let model = match known {
            Some(model) => model,
            None => load(record)?,
        };
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|(version, _)| *version != record.version);
        models.push_back((record.version, model.clone()));
        if models.len() > CACHED {
            models.pop_front();
        }
        Ok(model)
    }

    fn take(&self, wanted: ModelVersion) -> Option<Arc<dyn Model>> {
        let models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        models.iter().find(|(version, _)| *version == wanted).map(|(_, model)| model.clone())
    }
}

/// Outputs of `model` for every row, rows × width; NaN for a row that it cannot predict.
///
/// # Errors
/// It can predict none of them.
fn predict(model: &dyn Model, rows: &[Row], width: usize) -> Result<(Vec<f64>, Option<Duration>), BoxError> {
    let mut outputs = vec![f64::NAN; rows.len() * width];
    let mut times = Vec::with_capacity(rows.len());
    let mut first = None;
    for (index, (row, output)) in rows.iter().zip(outputs.chunks_exact_mut(width.max(1))).enumerate() {
        let started = Instant::now();
        let predicted = isolate(|| model.predict(row, output)).and_then(|()| {
            let text = || format!("row {index}: {output:?} was predicted, finite numbers were expected");
            if usable(output) { Ok(()) } else { Err(message(text())) }
        });
        times.push(started.elapsed());
        if let Err(error) = predicted {
            output.fill(f64::NAN);
            first.get_or_insert(error);
        }
    }
    match first.filter(|_| outputs.iter().all(|number| number.is_nan())) {
        Some(error) => Err(error),
        None => Ok((outputs, median(times))),
    }
}

/// Every number is finite; only the interval of a value may be missing (a job does not say which kind its outputs are,
/// so three class probabilities of which the last two are NaN pass here and are refused as a label later).
fn usable(output: &[f64]) -> bool {
    match output {
        [value, low, high] if low.is_nan() && high.is_nan() => value.is_finite(),
        numbers => numbers.iter().all(|number| number.is_finite()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::super::jobs::tests::settled;
    use super::super::{Artifact, ModelRecord};
    use super::*;
    use crate::{Schema, Target};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A record of version `number` without anything in it.
    pub(crate) fn record(number: u64) -> ModelRecord {
        ModelRecord {
            version: ModelVersion(number),
            artifact: Artifact::Inline(Vec::new()),
            run: None,
            recipe: None,
            base: None,
            batch: None,
            digest: None,
            dataset: None,
            trained: chrono::DateTime::UNIX_EPOCH,
            quarantined: None,
            removed: None,
        }
    }

    fn job(key: &str, versions: impl IntoIterator<Item = u64>) -> ScoreJob {
        let schema = Schema::numeric(1, Target::classes(["no", "yes"])).unwrap();
        let rows = (0..3).map(|i| Row::from_values(&schema, &[f64::from(i)]).unwrap()).collect();
        let models = versions.into_iter().map(record).collect();
        ScoreJob { key: key.into(), models, width: 2, rows: Arc::new(rows) }
    }

    type Predict = Box<dyn Fn(&Row, &mut [f64]) -> Result<(), BoxError> + Send + Sync>;

    /// Version 1 cannot be loaded, 2 says NaN, 3 panics, 4 leaves a part out; others are constant.
    fn load(record: &ModelRecord) -> Result<Predict, BoxError> {
        let version = record.version.0;
        if version == 1 {
            return Err(message("no such file"));
        }
        Ok(Box::new(move |row, output| {
            match version {
                2 => output.fill(f64::NAN),
                3 => panic!("out of range"),
                4 => output[0] = 0.5,
                _ => output.copy_from_slice(&[row.values()[0], version as f64]),
            }
            Ok(())
        }))
    }

    #[test]
    fn a_failing_model_fails_alone_and_says_why() {
        for mut evaluator in [PairedEvaluator::new(load), PairedEvaluator::new(load).inline()] {
            evaluator.start(job("k", [0, 1, 2, 3, 4, 5])).unwrap();
            let JobStatus::Done(scores) = settled(|| evaluator.poll("k").unwrap()) else { panic!("not done") };
            let versions: Vec<_> = scores.iter().map(|scores| scores.model.0).collect();
            assert_eq!(versions, [0, 1, 2, 3, 4, 5]);
            assert_eq!(scores[5].outputs, Ok(vec![0.0, 5.0, 1.0, 5.0, 2.0, 5.0]));
            let why = |index: usize| scores[index].outputs.clone().unwrap_err();
            assert_eq!(why(1), "no such file");
            assert!(why(2).contains("row 0: [NaN, NaN]"), "{}", why(2));
            assert_eq!(why(3), "panicked: out of range");
            assert!(why(4).contains("NaN"), "{}", why(4));
        }
    }

    #[test]
    fn the_last_eight_models_are_loaded_once() {
        let loads = Arc::new(AtomicUsize::new(0));
        let count = loads.clone();
        let mut evaluator = PairedEvaluator::new(move |record: &ModelRecord| {
            count.fetch_add(1, Ordering::SeqCst);
            load(record)
        })
        .inline();
        for round in 0..3 {
            evaluator.start(job(&format!("k{round}"), 10..18)).unwrap();
        }
        assert_eq!(loads.load(Ordering::SeqCst), 8);
        evaluator.start(job("ninth", [18])).unwrap();
        evaluator.start(job("first", [10])).unwrap();
        assert_eq!(loads.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn a_value_needs_no_interval() {
        assert!(usable(&[1.0, f64::NAN, f64::NAN]));
        assert!(!usable(&[1.0, 0.5, f64::NAN]));
        assert!(!usable(&[f64::NAN, f64::NAN, f64::NAN]));
        assert!(!usable(&[0.5, f64::INFINITY]));
    }
}
