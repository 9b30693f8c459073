//! The model that the host serves from, swapped while it serves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::jobs::Jobs;
use super::{Deployer, JobStatus, ModelRecord};
use crate::error::{BoxError, message};
use crate::event::{ModelVersion, PredictionId};
use crate::stats::sampling::unit_interval;

/// Loaded models that are neither served, nor the previous one, nor the first: candidates that were never activated.
const SPARE: usize = 2;
/// Seed of the canary's draw: another one than any draw of the pipeline, so that the lanes stay fair samples.
const CANARY: u64 = 0x6361_6e61_7279;

type Load<M> = dyn Fn(&ModelRecord) -> Result<M, BoxError> + Send + Sync;

/// A model with its version, as [`ModelSlot::get`] hands it out.
#[derive(Debug)]
pub struct Served<M> {
    /// The model.
    pub model: M,
    /// Its version.
    pub version: ModelVersion,
}

/// The hot-swappable model that the host serves from; as a [`Deployer`] it is where the loop promotes and rolls back.
///
/// Clones share one slot. Reading it takes no lock. Models are loaded on a thread of their own; promotion and rollback
/// are one atomic swap. The previously served model stays loaded, so a rollback needs no load; so does the first one,
/// which may not exist anywhere else.
///
/// While a candidate is judged, it is loaded as the **challenger**: [`shadow`](Self::shadow) predicts with it beside the
/// served model, and [`route`](Self::route) lets it serve the share of the predictions that
/// [`PipelineBuilder::canary`](crate::PipelineBuilder::canary) grants, none unless told.
///
/// # Examples
/// ```
/// use feedloop::{Artifact, ModelSlot};
/// let slot = ModelSlot::new(0.5, |record| match &record.artifact {
///     Artifact::Inline(bytes) => Ok(String::from_utf8(bytes.clone())?.parse()?),
///     Artifact::File(path) => Ok(std::fs::read_to_string(path)?.trim().parse()?),
/// });
/// let (answer, version) = slot.predict(|threshold: &f64, version| (0.7 > *threshold, version));
/// assert!(answer);
/// assert_eq!(version.to_string(), "v0");
/// ```
pub struct ModelSlot<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    served: ArcSwap<Served<M>>,
    challenger: ArcSwapOption<Challenger<M>>,
    load: Arc<Load<M>>,
    desk: Mutex<Desk<M>>,
}

/// A candidate that is judged, and the share of the predictions that it serves.
struct Challenger<M> {
    served: Arc<Served<M>>,
    share: f64,
}

/// What only the worker touches.
struct Desk<M> {
    loaded: BTreeMap<ModelVersion, Arc<Served<M>>>,
    previous: ModelVersion,
    jobs: Jobs<Served<M>>,
}

impl<M> Clone for ModelSlot<M> {
    fn clone(&self) -> Self {
        ModelSlot { inner: self.inner.clone() }
    }
}

impl<M> std::fmt::Debug for ModelSlot<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSlot").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl<M> ModelSlot<M> {
    /// The version that is served now.
    pub fn version(&self) -> ModelVersion {
        self.inner.served.load().version
    }

    /// The model that is served now; it stays valid for its holder while the slot moves on.
    pub fn get(&self) -> Arc<Served<M>> {
        self.inner.served.load_full()
    }

    /// Hands the served model and its version, both of one load, to `predict`. Waits for nobody, allocates nothing.
    pub fn predict<R>(&self, predict: impl FnOnce(&M, ModelVersion) -> R) -> R {
        let served = self.inner.served.load();
        predict(&served.model, served.version)
    }

    /// The challenger, while there is one.
    pub fn challenger(&self) -> Option<ModelVersion> {
        self.inner.challenger.load().as_ref().map(|challenger| challenger.served.version)
    }

    /// [`predict`](Self::predict) with a canary: the challenger serves the share of the predictions that it was granted, the
    /// served model the others. Which of the two is decided by a hash of `id` alone, so one id gets one model for as long as the
    /// challenger is the same; take the id from [`Recorder::next_id`](crate::Recorder::next_id) or name it yourself, and
    /// record the prediction under it. Waits for nobody, allocates nothing.
    pub fn route<R>(&self, id: PredictionId, predict: impl FnOnce(&M, ModelVersion) -> R) -> R {
        let challenger = self.inner.challenger.load();
        match challenger.as_ref() {
            Some(challenger) if unit_interval(CANARY, id.bytes()) < challenger.share => {
                predict(&challenger.served.model, challenger.served.version)
            }
            _ => self.predict(predict),
        }
    }

    /// Hands the model beside the one that served to `predict`: the challenger, or the champion if `served` is the
    /// challenger's own version; `None` without a challenger. Give its output to
    /// [`Recorder::shadow`](crate::Recorder::shadow). Waits for nobody, allocates nothing.
    pub fn shadow<R>(&self, served: ModelVersion, predict: impl FnOnce(&M, ModelVersion) -> R) -> Option<R> {
        let challenger = self.inner.challenger.load();
        let challenger = &challenger.as_ref()?.served;
        if challenger.version != served {
            return Some(predict(&challenger.model, challenger.version));
        }
        let champion = self.inner.served.load();
        (champion.version != served).then(|| predict(&champion.model, champion.version))
    }

    fn desk(&self) -> MutexGuard<'_, Desk<M>> {
        self.inner.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Send + Sync + 'static> ModelSlot<M> {
    /// A slot that serves `model` as [`ModelVersion::FIRST`] and loads later versions with `load`.
    ///
    /// `load` runs on a thread of its own; an error or a panic in it leaves the served model where it is.
    pub fn new(model: M, load: impl Fn(&ModelRecord) -> Result<M, BoxError> + Send + Sync + 'static) -> Self {
        let version = ModelVersion::FIRST;
        let first = Arc::new(Served { model, version });
        let desk = Desk { loaded: [(version, first.clone())].into(), previous: version, jobs: Jobs::threaded() };
        let inner = Inner {
            served: ArcSwap::new(first),
            challenger: ArcSwapOption::empty(),
            load: Arc::new(load),
            desk: Mutex::new(desk),
        };
        ModelSlot { inner: Arc::new(inner) }
    }

    /// Loads inside `prepare` on the caller's thread: for simulations and tests, where the order of events has to be
    /// the same every time.
    pub fn inline(self) -> Self {
        self.desk().jobs = Jobs::inline();
        self
    }
}

impl<M: Send + Sync + 'static> Deployer for ModelSlot<M> {
    fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError> {
        let (load, record, version) = (self.inner.load.clone(), model.clone(), model.version);
        let mut desk = self.desk();
        if desk.loaded.contains_key(&version) {
            return Ok(());
        }
        desk.jobs.start(&key(version), move || Ok(Served { model: load(&record)?, version }))
    }

    fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        let served = self.version();
        let mut desk = self.desk();
        if desk.loaded.contains_key(&version) {
            return Ok(JobStatus::Done(()));
        }
        Ok(match desk.jobs.poll(&key(version)) {
            JobStatus::Unknown => JobStatus::Unknown,
            JobStatus::Running => JobStatus::Running,
            JobStatus::Failed { reason, log } => JobStatus::Failed { reason, log },
            JobStatus::Done(model) => {
                desk.loaded.insert(version, Arc::new(model));
                desk.tidy(&[served, version]);
                JobStatus::Done(())
            }
        })
    }

    fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError> {
        match self.poll(version)? {
            JobStatus::Running => return Err(message(format!("{version} is still being loaded: activate it later"))),
            JobStatus::Failed { reason, .. } => return Err(message(format!("{version} cannot be loaded: {reason}"))),
            JobStatus::Done(()) | JobStatus::Unknown => {}
        }
        let mut desk = self.desk();
        let Some(model) = desk.loaded.get(&version).cloned() else {
            return Err(message(format!("{version} is not loaded: prepare it first")));
        };
        let before = self.inner.served.swap(model).version;
        if before != version {
            desk.previous = before;
        }
        desk.tidy(&[version]);
        // A challenger that takes over is none any more.
        if self.challenger() == Some(version) {
            self.inner.challenger.store(None);
        }
        Ok(())
    }

    fn challenge(&mut self, challenger: Option<(ModelVersion, f64)>) -> Result<(), BoxError> {
        let Some((version, share)) = challenger else {
            self.inner.challenger.store(None);
            return Ok(());
        };
        let desk = self.desk();
        let Some(served) = desk.loaded.get(&version).cloned() else {
            return Err(message(format!("{version} is not loaded: prepare it first")));
        };
        self.inner.challenger.store(Some(Arc::new(Challenger { served, share })));
        Ok(())
    }
}

impl<M> Desk<M> {
    /// Drops the oldest spare models; those `in_use`, the previous and the first one are none. A dropped challenger goes on
    /// answering: the slot holds it by itself.
    fn tidy(&mut self, in_use: &[ModelVersion]) {
        let kept = [self.previous, ModelVersion::FIRST];
        let kept = |version: &ModelVersion| kept.contains(version) || in_use.contains(version);
        let spare: Vec<_> = self.loaded.keys().copied().filter(|version| !kept(version)).collect();
        for version in spare.iter().take(spare.len().saturating_sub(SPARE)) {
            self.loaded.remove(version);
        }
    }
}

fn key(version: ModelVersion) -> String {
    format!("load {version}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::jobs::tests::settled;
    use super::super::paired::tests::record;
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn version_as_model(record: &ModelRecord) -> Result<u64, BoxError> {
        match record.version.0 {
            13 => panic!("an unlucky file"),
            14 => Err(message("the file is cut off")),
            number => Ok(number),
        }
    }

    #[test]
    fn promotion_and_rollback_swap_model_and_version_together() {
        for inline in [false, true] {
            let mut slot = ModelSlot::new(0, version_as_model);
            if inline {
                slot = slot.inline();
            }
            assert!(slot.activate(ModelVersion(1)).is_err(), "it is not loaded");
            assert_eq!(slot.poll(ModelVersion(1)).unwrap(), JobStatus::Unknown);
            slot.prepare(&record(1)).unwrap();
            assert_eq!(settled(|| slot.poll(ModelVersion(1)).unwrap()), JobStatus::Done(()));
            slot.activate(ModelVersion(1)).unwrap();
            assert_eq!(slot.predict(|model, version| (*model, version)), (1, ModelVersion(1)));
            slot.activate(ModelVersion::FIRST).unwrap();
            assert_eq!(slot.clone().get().model, 0);
        }
    }

    #[test]
    fn a_failed_load_leaves_the_served_model() {
        let mut slot = ModelSlot::new(0, version_as_model);
        for (number, text) in [(13, "panicked: an unlucky file"), (14, "the file is cut off")] {
            slot.prepare(&record(number)).unwrap();
            let status = settled(|| slot.poll(ModelVersion(number)).unwrap());
            assert_eq!(status, JobStatus::Failed { reason: text.into(), log: String::new() });
            assert!(slot.activate(ModelVersion(number)).is_err());
            assert_eq!(slot.version(), ModelVersion::FIRST);
        }
    }

    #[test]
    fn a_rollback_needs_no_load_and_memory_stays_bounded() {
        let loads = Arc::new(AtomicUsize::new(0));
        let count = loads.clone();
        let mut slot = ModelSlot::new(0, move |record: &ModelRecord| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(record.version.0)
        })
        .inline();
        for number in 1..=20 {
            slot.prepare(&record(number)).unwrap();
            assert_eq!(slot.poll(ModelVersion(number)).unwrap(), JobStatus::Done(()));
            slot.activate(ModelVersion(number)).unwrap();
        }
        for refused in 21..=25 {
            slot.prepare(&record(refused)).unwrap();
            assert_eq!(slot.poll(ModelVersion(refused)).unwrap(), JobStatus::Done(()));
        }
        slot.activate(ModelVersion(19)).unwrap();
        slot.activate(ModelVersion::FIRST).unwrap();
        assert_eq!(loads.load(Ordering::SeqCst), 25);
        assert!(slot.desk().loaded.len() <= 3 + SPARE);
    }

    fn id(n: u64) -> PredictionId {
        PredictionId::from_uuid(uuid::Uuid::from_u64_pair(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n))
    }

    #[test]
    fn a_canary_serves_its_share_and_the_same_ids_every_time() {
        let mut slot = ModelSlot::new(0, version_as_model).inline();
        assert!(slot.challenge(Some((ModelVersion(1), 0.1))).is_err(), "it is not loaded");
        slot.prepare(&record(1)).unwrap();
        assert_eq!(slot.poll(ModelVersion(1)).unwrap(), JobStatus::Done(()));
        let canaries = |slot: &ModelSlot<u64>| -> Vec<u64> {
            (0..20_000).filter(|n| slot.route(id(*n), |model, version| (*model, version.0)) == (1, 1)).collect()
        };
        assert!(canaries(&slot).is_empty());
        slot.challenge(Some((ModelVersion(1), 0.1))).unwrap();
        let first = canaries(&slot);
        // Five standard deviations of Binomial(20,000, .1) are 212.
        assert!(first.len().abs_diff(2_000) < 212, "{}", first.len());
        slot.challenge(Some((ModelVersion(1), 0.2))).unwrap();
        let more = canaries(&slot);
        assert!(first.iter().all(|n| more.contains(n)), "an id that was a canary stays one when the share grows");
        slot.challenge(Some((ModelVersion(1), 0.0))).unwrap();
        assert!(canaries(&slot).is_empty());
        slot.challenge(None).unwrap();
        assert!(canaries(&slot).is_empty());
    }

    #[test]
    fn the_shadow_is_the_model_that_did_not_serve() {
        let mut slot = ModelSlot::new(0, version_as_model).inline();
        let say =
            |slot: &ModelSlot<u64>, served| slot.shadow(ModelVersion(served), |model, version| (*model, version.0));
        assert_eq!(say(&slot, 0), None);
        slot.prepare(&record(1)).unwrap();
        slot.poll(ModelVersion(1)).unwrap();
        slot.challenge(Some((ModelVersion(1), 0.5))).unwrap();
        assert_eq!((say(&slot, 0), say(&slot, 1)), (Some((1, 1)), Some((0, 0))));
        slot.activate(ModelVersion(1)).unwrap();
        assert_eq!((slot.challenger(), say(&slot, 1)), (None, None), "a challenger that serves has no shadow");
    }

    #[test]
    fn readers_never_see_a_model_under_another_version() {
        let mut slot = ModelSlot::new(0, version_as_model).inline();
        slot.prepare(&record(1)).unwrap();
        let (stop, reader) = (AtomicBool::new(false), slot.clone());
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut mixed = 0;
                while !stop.load(Ordering::Relaxed) {
                    mixed += usize::from(reader.predict(|model, version| *model != version.0));
                }
                mixed
            });
            for round in 0..20_000 {
                slot.activate(ModelVersion(round % 2)).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(reading.join().unwrap(), 0);
        });
    }
}
