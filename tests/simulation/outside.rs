//! The world outside of the process: a trainer, an evaluator and a deployer that fail, hang and lie.
//!
//! Trainings survive the process; what the evaluator and the deployer have loaded does not. Whatever is asked of them must
//! have been written down before, so each of them looks into the store; what they find is kept for the checker, because a
//! panic in here would be isolated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use feedloop::{
    Artifact, BoxError, Deployer, Evaluator, JobStatus, Kind, MemoryStore, ModelRecord, ModelSlot, ModelVersion,
    PairedEvaluator, Profile, Row, ScoreJob, Scores, Store, TrainJob, Trained, Trainer,
};

use super::NAME;
use crate::support::{Rng, fit, probabilities};

/// What becomes of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Good,
    Fails,
    Hangs,
    /// Its artifact is no model at all.
    Garbage,
    /// The evaluator can load its artifact, the deployer cannot.
    Unloadable,
    /// It says the opposite of what is right.
    Inverted,
    /// It says nothing that is a number.
    NotFinite,
    /// Right on the rows it was trained on, and elsewhere useless.
    Fickle,
}

struct Training {
    data: String,
    fate: Fate,
    /// Polls until it is done.
    left: u32,
    artifact: Vec<u8>,
    /// The trainer has lost it, and starts it again when asked to.
    lost: bool,
}

/// A model: a threshold, and what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    pub at: f64,
    fate: Fate,
}

impl Threshold {
    pub fn first() -> Self {
        Threshold { at: 0.5, fate: Fate::Good }
    }

    pub fn predict(&self, values: &[f64]) -> [f64; 2] {
        let [no, yes] = probabilities(self.at, values);
        match self.fate {
            Fate::Inverted => [yes, no],
            Fate::NotFinite => [f64::NAN, f64::NAN],
            _ => [no, yes],
        }
    }

    fn load(record: &ModelRecord, deployer: bool) -> Result<Threshold, BoxError> {
        let Artifact::Inline(bytes) = &record.artifact else { return Err("a file was expected".into()) };
        let text = std::str::from_utf8(bytes)?;
        let (at, fate) = text.split_once(' ').unwrap_or((text, ""));
        let fate = match fate {
            "" => Fate::Good,
            "unloadable" if deployer => return Err("a library is missing".into()),
            "unloadable" => Fate::Unloadable,
            "inverted" => Fate::Inverted,
            "not-finite" => Fate::NotFinite,
            other => return Err(format!("unknown kind of model `{other}`").into()),
        };
        Ok(Threshold { at: at.parse()?, fate })
    }
}

/// What is outside, and what it has seen.
pub struct Outside {
    rng: Rng,
    /// The disk without its faults: what is durable at this moment.
    store: MemoryStore,
    trainings: BTreeMap<String, Training>,
    /// Do trainings lie and fail, and are calls refused?
    pub wicked: bool,
    /// How often training ends in the model that is right at the moment, whatever the labels say.
    pub clever: f64,
    /// The truth of the moment: beyond it the answer is yes.
    pub concept: f64,
    /// Rows (by their bits) that each training job was given.
    trained_on: BTreeMap<String, BTreeSet<Vec<u64>>>,
    /// Rows that came more than once, so that their content tells nothing.
    pub copied: BTreeSet<Vec<u64>>,
    /// Versions that were activated.
    pub activated: Vec<ModelVersion>,
    pub violations: Vec<String>,
    /// How often each of the things that are rare happened.
    pub seen: BTreeMap<&'static str, u64>,
}

pub type Shared = Arc<Mutex<Outside>>;

pub fn lock(outside: &Shared) -> MutexGuard<'_, Outside> {
    outside.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

impl Outside {
    pub fn new(seed: u64, store: MemoryStore) -> Shared {
        Arc::new(Mutex::new(Outside {
            rng: Rng(seed ^ 0x6f75_7473_6964_6521),
            store,
            trainings: BTreeMap::new(),
            wicked: false,
            clever: 0.0,
            concept: 0.5,
            trained_on: BTreeMap::new(),
            copied: BTreeSet::new(),
            activated: Vec::new(),
            violations: Vec::new(),
            seen: BTreeMap::new(),
        }))
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Something that happens with this probability.
    pub fn happens(&mut self, what: &'static str, probability: f64) -> bool {
        let happens = self.rng.chance(probability);
        if happens {
            self.count(what);
        }
        happens
    }

    /// Something that happens with this probability while the world is wicked.
    pub fn mishap(&mut self, what: &'static str, probability: f64) -> bool {
        let happens = self.rng.chance(probability) && self.wicked;
        if happens {
            self.count(what);
        }
        happens
    }

    /// An error now, a panic then.
    pub fn trouble(&mut self, what: &'static str, probability: f64) -> Result<(), BoxError> {
        if !self.mishap(what, probability) {
            return Ok(());
        }
        if self.rng.chance(0.3) {
            std::panic::resume_unwind(Box::new(what));
        }
        Err(what.into())
    }

    fn json(&self, kind: Kind, id: &str) -> serde_json::Value {
        let record = self.store.get(NAME, kind, id).ok().flatten();
        record.and_then(|record| serde_json::from_slice(&record.body).ok()).unwrap_or_default()
    }

    fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    fn start(&mut self, job: &TrainJob) {
        let (run, state) = (self.json(Kind::Run, &job.run.to_string()), self.json(Kind::Control, "loop"));
        let said = run["state"] == "training" && state["phase"]["training"].to_string().contains(&job.key);
        self.demand(said, || format!("{} was started and the store does not say so: {run}", job.key));
        let known = self.store.scan(&feedloop::Scan {
            pipeline: NAME,
            kind: Kind::Model,
            state: None,
            after: None,
            limit: usize::MAX,
        });
        let made = known
            .unwrap_or_default()
            .into_iter()
            .filter_map(|r| serde_json::from_slice(&r.body).ok())
            .any(|model: ModelRecord| model.run == Some(job.run) && model.recipe == Some(job.recipe));
        self.demand(!made, || format!("{} was started again after its model was stored", job.key));
        let data = job.data.digest();
        if let Some(before) = self.trainings.get(&job.key).map(|training| training.data.clone()) {
            self.demand(before == data, || format!("{} was started with other data under the same key", job.key));
            if let Some(training) = self.trainings.get_mut(&job.key) {
                training.lost = false;
            }
            return;
        }
        let prefix = format!("{}-{}", job.run, job.recipe.as_str());
        let again = self.trained_on.keys().any(|key| key.starts_with(&prefix) && *key != job.key);
        self.demand(!again, || format!("{} was trained under another key before", job.key));
        let rows = job.data.rows().iter().map(|row| bits(row.values())).collect();
        self.trained_on.insert(job.key.clone(), rows);
        let Artifact::Inline(good) = fit(job) else { return };
        let clever = self.rng.chance(self.clever);
        let good = if clever { self.concept.to_string() } else { String::from_utf8(good).unwrap_or_default() };
        let fate = match self.rng.below(if self.wicked { 24 } else { 1 }) {
            0..=12 => Fate::Good,
            13 => Fate::Fails,
            14 => Fate::Hangs,
            15 => Fate::Garbage,
            16 | 17 => Fate::Unloadable,
            18 => Fate::Inverted,
            19 => Fate::NotFinite,
            _ => Fate::Fickle,
        };
        let artifact = match fate {
            Fate::Garbage => "\u{1}\u{2} nonsense".to_owned(),
            Fate::Unloadable => format!("{good} unloadable"),
            Fate::Inverted => format!("{good} inverted"),
            Fate::NotFinite => format!("{good} not-finite"),
            // Only just better on the old rows; a coin on the new ones.
            Fate::Fickle => (self.rng.unit() * 1.2).to_string(),
            _ => good,
        };
        let left = match fate {
            Fate::Hangs => 12,
            _ if self.rng.chance(0.2) => self.rng.below(4) as u32,
            _ => 0,
        };
        self.trainings
            .insert(job.key.clone(), Training { data, fate, left, artifact: artifact.into_bytes(), lost: false });
    }
}

/// A trainer on another machine: what it was told to do goes on when the process ends.
pub struct Remote(pub Shared);

impl Trainer for Remote {
    fn name(&self) -> &str {
        "remote"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        let mut outside = lock(&self.0);
        outside.trouble("trainer refuses", 0.05)?;
        outside.start(&job);
        // It has started, and the answer is lost.
        outside.trouble("trainer's answer is lost", 0.03)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        let mut outside = lock(&self.0);
        outside.trouble("trainer says nothing", 0.05)?;
        let loses = outside.mishap("trainer loses a job", 0.03);
        let Some(training) = outside.trainings.get_mut(key).filter(|training| !training.lost) else {
            return Ok(JobStatus::Unknown);
        };
        training.lost = loses;
        if training.left > 0 {
            training.left -= 1;
            return Ok(JobStatus::Running);
        }
        let (fate, bytes) = (training.fate, training.artifact.clone());
        let log = "the end of its log".to_owned();
        Ok(match fate {
            Fate::Hangs => {
                outside.count("training hangs");
                JobStatus::Failed { reason: "it was ended after its time".into(), log }
            }
            Fate::Fails => JobStatus::Failed { reason: "it did not converge".into(), log },
            _ => JobStatus::Done(Trained { artifact: Artifact::Inline(bytes), log }),
        })
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        let mut outside = lock(&self.0);
        outside.trouble("trainer does not cancel", 0.05)?;
        outside.trainings.remove(key);
        Ok(())
    }
}

/// Scores inline, unless something goes wrong; sees which labels judge which models.
pub struct Judge {
    inner: PairedEvaluator,
    failing: BTreeSet<String>,
    slow: BTreeMap<String, u32>,
    outside: Shared,
}

impl Judge {
    pub fn new(profile: Profile, outside: Shared) -> Self {
        let load = |record: &ModelRecord| {
            let model = Threshold::load(record, false)?;
            Ok(move |row: &Row, output: &mut [f64]| {
                output.copy_from_slice(&model.predict(row.values()));
                Ok(())
            })
        };
        let inner = PairedEvaluator::new(load).profile(profile).inline();
        Judge { inner, failing: BTreeSet::new(), slow: BTreeMap::new(), outside }
    }
}

impl Evaluator for Judge {
    fn profile(&self) -> &Profile {
        Evaluator::profile(&self.inner)
    }

    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError> {
        let mut outside = lock(&self.outside);
        outside.trouble("evaluator refuses", 0.03)?;
        if job.key.starts_with("round-") {
            let state = outside.json(Kind::Control, "loop");
            let said = state["round"]["key"] == job.key.as_str();
            outside.demand(said, || format!("{} was started and the store does not say so", job.key));
            for model in job.models.iter().filter(|model| model.run.is_some()) {
                let trained = model.run.zip(model.recipe).map(|(run, recipe)| format!("{run}-{}", recipe.as_str()));
                let seen = trained.and_then(|key| outside.trained_on.get(&key).cloned()).unwrap_or_default();
                let known = job.rows.iter().map(|row| bits(row.values()));
                let known = known.filter(|row| seen.contains(row) && !outside.copied.contains(row)).count();
                let (key, version) = (&job.key, model.version);
                outside.demand(known == 0, || format!("{known} rows of {key} judge {version}, trained on them"));
            }
            outside.count("round");
        }
        if outside.mishap("evaluator fails", 0.04) {
            self.failing.insert(job.key);
            return Ok(());
        }
        if outside.mishap("evaluator is slow", 0.1) {
            self.slow.insert(job.key.clone(), 2);
        }
        drop(outside);
        self.inner.start(job)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError> {
        lock(&self.outside).trouble("evaluator says nothing", 0.03)?;
        if self.failing.remove(key) {
            return Ok(JobStatus::Failed { reason: "out of memory".into(), log: String::new() });
        }
        if let Some(left) = self.slow.get_mut(key).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(JobStatus::Running);
        }
        self.inner.poll(key)
    }
}

/// A slot whose loading and switching may fail.
pub struct Service {
    slot: ModelSlot<Threshold>,
    outside: Shared,
}

pub fn slot() -> ModelSlot<Threshold> {
    ModelSlot::new(Threshold::first(), |record| Threshold::load(record, true)).inline()
}

impl Service {
    pub fn new(slot: ModelSlot<Threshold>, outside: Shared) -> Self {
        Service { slot, outside }
    }
}

impl Deployer for Service {
    fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError> {
        lock(&self.outside).trouble("deployer does not load", 0.03)?;
        self.slot.prepare(model)
    }

    fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        let mut outside = lock(&self.outside);
        outside.trouble("deployer says nothing", 0.03)?;
        if outside.mishap("deployer is slow", 0.1) {
            return Ok(JobStatus::Running);
        }
        drop(outside);
        self.slot.poll(version)
    }

    fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError> {
        let mut outside = lock(&self.outside);
        outside.trouble("deployer does not switch", 0.03)?;
        let state = outside.json(Kind::Control, "loop");
        let said = [&state["champion"], &state["phase"]["deploying"]["to"]].contains(&&serde_json::json!(version));
        outside.demand(said, || format!("{version} was switched to and the store does not say so: {}", state["phase"]));
        let model = outside.json(Kind::Model, &version.to_string());
        outside.demand(model["quarantined"].is_null(), || format!("{version} is quarantined and was switched to"));
        self.slot.activate(version)?;
        outside.activated.push(version);
        Ok(())
    }
}
