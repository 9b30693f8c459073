//! Retraining: who trains, who evaluates, who serves; and the records that link batches, runs and models.

pub(crate) mod batch;
mod cancellable;
mod command;
pub(crate) mod compare;
pub(crate) mod evaluation;
pub(crate) mod evidence;
#[cfg(feature = "http")]
mod http;
pub(crate) mod jobs;
mod judge;
pub(crate) mod label_faults;
pub(crate) mod latency;
pub(crate) mod maturity;
pub(crate) mod orders;
pub(crate) mod paired;
mod profile;
pub(crate) mod race;
pub(crate) mod recipe;
mod run;
pub(crate) mod signal;
mod slot;
pub(crate) mod taught;
mod train_fn;
mod version;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use crate::dataset::Dataset;
use crate::error::BoxError;
use crate::event::{ModelVersion, PredictionId};
use crate::sample::Reason;
use crate::schema::Row;

pub use batch::{Verified, verify_batch};
pub use command::CommandTrainer;
pub use compare::{Comparison, Paired};
pub use evaluation::{
    Check, CostMatrix, EvaluatedOn, Evaluation, LabelledRows, Measured, Metric, MetricTable, ModelFigures, Requirement,
    SliceFigures, Tabulate,
};
pub use evidence::{Evidence, SliceEvidence, TakenOver};
#[cfg(feature = "http")]
pub use http::HttpTrainer;
pub use judge::Judgement;
pub use label_faults::{LabelCheck, LabelChecks, LabelFaults};
pub use latency::LatencyBound;
pub use paired::PairedEvaluator;
pub use profile::{AdaptiveRules, ConfirmRules, Profile, Verdict};
pub use race::Race;
pub use run::{Run, RunId, RunState};
pub use slot::{ModelSlot, Served};
pub use train_fn::FnTrainer;
pub use version::{DataRef, DatasetVersion};
pub use watch::{Flapping, Watch, WatchVerdict};

/// Name of a sealed batch: its content digest; with `-2`, `-3` … behind it where batches before it had the same content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub String);

impl std::fmt::Display for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which labelled rows a challenger is trained on, and how they are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Base data and every label.
    All,
    /// The same, with weights that halve every 200 rows from the newest on.
    Decayed,
    /// The same, with weights that halve every 50 rows.
    FastDecayed,
    /// The newest rows, as many as the base data has.
    Window,
    /// The newest few.
    Newest,
    /// The labels with weights that halve every 30 rows, and base data that weighs as much as 30 labels.
    Anchored,
    /// All of these mixed: each row's weight is what the recipes give it, in the proportion in which they have earned it
    /// in the [`Race`]. A trainer whose models can be averaged may do that instead: [`TrainJob::members`].
    Blend,
}

impl Recipe {
    /// The recipes that race; [`Recipe::Blend`] is made of them.
    pub const RACING: [Recipe; 6] =
        [Recipe::All, Recipe::Decayed, Recipe::FastDecayed, Recipe::Window, Recipe::Newest, Recipe::Anchored];

    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Recipe::All => "all",
            Recipe::Decayed => "decayed",
            Recipe::FastDecayed => "fast_decayed",
            Recipe::Window => "window",
            Recipe::Newest => "newest",
            Recipe::Anchored => "anchored",
            Recipe::Blend => "blend",
        }
    }
}

/// A trained model as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// The bytes themselves; right for models up to some megabytes.
    Inline(Vec<u8>),
    /// A file or directory.
    File(PathBuf),
}

/// A model version and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Its number.
    pub version: ModelVersion,
    /// The trained model.
    pub artifact: Artifact,
    /// The run that made it; `None` for the first.
    pub run: Option<RunId>,
    /// The recipe that it was trained by.
    pub recipe: Option<Recipe>,
    /// The model that was served when its run began.
    pub base: Option<ModelVersion>,
    /// The newest of the batches that it was trained on beside the base data; the others are those before it
    /// ([`Manifest::parent`]), which [`Pipeline::batches`](crate::Pipeline::batches) lists.
    #[serde(default, alias = "batches", deserialize_with = "newest")]
    pub batch: Option<BatchId>,
    /// Digest of all rows that it was trained on.
    pub digest: Option<String>,
    /// What it was trained on, by reference; [`Pipeline::trained_on`](crate::Pipeline::trained_on) makes the rows of
    /// it again. `None` for the first model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetVersion>,
    /// When it was trained.
    pub trained: DateTime<Utc>,
    /// Why it must not be served any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Reason>,
    /// When its artifact was removed, because [nobody needs it any more](crate::Retention::most_models): an inline one is
    /// empty, a file may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<DateTime<Utc>>,
}

impl ModelRecord {
    /// The states of records of models, as the store indexes them: the last is that of models without an artifact.
    pub(crate) const STATES: [&str; 3] = ["usable", "quarantined", "removed"];

    /// Its state.
    pub(crate) fn state(&self) -> &'static str {
        let [usable, quarantined, removed] = ModelRecord::STATES;
        match (self.removed, &self.quarantined) {
            (Some(_), _) => removed,
            (None, Some(_)) => quarantined,
            (None, None) => usable,
        }
    }

    /// Is this batch among those that it was trained on? All are that were sealed for its run or for one before.
    pub(crate) fn is_trained_on(&self, batch: &Manifest) -> bool {
        self.batch.is_some() && batch.run <= self.run
    }
}

/// The newest batch, whether it stands alone or at the end of a list, as an earlier version wrote it.
fn newest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BatchId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Batches {
        Newest(Option<BatchId>),
        Listed(Vec<BatchId>),
    }
    Ok(match Batches::deserialize(deserializer)? {
        Batches::Newest(newest) => newest,
        Batches::Listed(mut list) => list.pop(),
    })
}

/// What is known of a sealed batch. It never changes; the same content gives the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// Its name.
    pub batch: BatchId,
    /// Content digest of schema, rows, labels and weights, whatever their order, and of what it corrects; empty in a manifest of
    /// an earlier version, whose batch id it is.
    #[serde(default)]
    pub digest: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Fingerprint of the schema.
    pub schema: String,
    /// The run that it was sealed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The batch before it.
    pub parent: Option<BatchId>,
    /// When it was sealed.
    pub sealed: DateTime<Utc>,
    /// Number of rows.
    pub rows: u64,
    /// Labels by source: `human`, `user`, `ground_truth`, `model`.
    pub sources: BTreeMap<String, u64>,
    /// Rows by lane.
    pub lanes: BTreeMap<String, u64>,
    /// Rows by split: `judge` for rows of the judging lanes that had judged the live models before they were sealed,
    /// `train` for every other. All of them may be trained on; a trainer that wants a validation set of fairly drawn rows takes
    /// the former.
    #[serde(default)]
    pub splits: BTreeMap<String, u64>,
    /// What the gates said, by gate.
    pub gates: BTreeMap<String, Vec<Reason>>,
    /// Names of the columns beside the fields in a Parquet file: the usual name (`label`, `weight`, `sample`, `time`, `source`,
    /// `lane`, `inclusion`, `split`) to the one used, which has an underscore before it where a field has that name.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// The samples in it, in the order of the data file.
    pub samples: Vec<PredictionId>,
    /// Samples of earlier batches whose label was corrected or taken back since: which of their
    /// [annotations](crate::Sample::annotations), from 0, counts from this batch on; `None` if none does, so that the row is
    /// not trained on any more. The earlier batches stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corrected: BTreeMap<PredictionId, Option<u32>>,
    /// Files beside the manifest (`data.jsonl`, with feature `parquet` also `data.parquet`; `corrected.jsonl` if labels of
    /// earlier batches are others since, with `sample`, `annotation` and `label`; and `schema.json`) with their SHA-256; empty if
    /// the batch lives in the store only.
    pub files: BTreeMap<String, String>,
}

/// What a trainer is to do.
#[derive(Debug, Clone)]
pub struct TrainJob {
    /// Idempotency key: the same key is the same job, also after a crash.
    pub key: String,
    /// The run that it belongs to.
    pub run: RunId,
    /// The recipe that chose rows and weights.
    pub recipe: Recipe,
    /// The rows to train on, oldest first, with weights.
    pub data: Arc<Dataset>,
    /// The same by reference: base data and batches, with the directories that they are in, where they are on disk.
    pub dataset: DatasetVersion,
    /// For a [blend](Recipe::Blend), which is begun when the run's other recipes have ended: their models and the first one.
    ///
    /// Models that learn smoothly from weighted rows, as linear ones, need none of them: they are fitted to `data`. A fully
    /// grown tree fits every row, however little it weighs, so forests are better blended by growing no new one: each
    /// member votes with its share.
    pub members: Vec<Member>,
    /// Seed for the trainer's own randomness.
    pub seed: u64,
    /// Directory of this job, if the pipeline has a working directory: inputs are here, artifacts belong here.
    pub directory: Option<PathBuf>,
}

/// A model that a [blend](Recipe::Blend) may be made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its share of the blend; the shares of all members sum to 1.
    pub share: f64,
    /// The model.
    pub model: ModelRecord,
}

/// What a trainer made.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The model.
    pub artifact: Artifact,
    /// The end of its log.
    pub log: String,
}

/// How a job is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum JobStatus<T> {
    /// Nobody knows this key: it was never started, or by a process that is gone. Starting it is safe.
    Unknown,
    /// Under way.
    Running,
    /// It ended well.
    Done(T),
    /// It ended badly.
    Failed {
        /// Why.
        reason: String,
        /// The end of its log.
        log: String,
    },
}

/// Trains models. It never works on the caller's thread for long: jobs are started, polled and cancelled.
pub trait Trainer: Send {
    /// Short, stable name.
    fn name(&self) -> &str;

    /// Starts a job. Starting a key twice is one job.
    ///
    /// # Errors
    /// The job cannot be started.
    fn start(&mut self, job: TrainJob) -> Result<(), BoxError>;

    /// How the job is doing. A finished job may be forgotten once it was reported.
    ///
    /// # Errors
    /// Nobody can say at present; it is asked again.
    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError>;

    /// Ends the job as soon as possible; unknown keys are ignored.
    ///
    /// # Errors
    /// The job cannot be ended.
    fn cancel(&mut self, key: &str) -> Result<(), BoxError>;
}

/// A model as the evaluator uses it.
pub trait Model: Send + Sync {
    /// Predicts one row: writes one probability per class, or value and interval (NaN if it has none).
    ///
    /// # Errors
    /// The model cannot predict this row.
    fn predict(&self, row: &Row, output: &mut [f64]) -> Result<(), BoxError>;
}

impl<F> Model for F
where
    F: Fn(&Row, &mut [f64]) -> Result<(), BoxError> + Send + Sync,
{
    fn predict(&self, row: &Row, output: &mut [f64]) -> Result<(), BoxError> {
        self(row, output)
    }
}

/// Rows to be predicted by several models.
#[derive(Debug, Clone)]
pub struct ScoreJob {
    /// Idempotency key.
    pub key: String,
    /// The models.
    pub models: Vec<ModelRecord>,
    /// Width of an output; see [`Target::output_width`](crate::Target::output_width).
    pub width: usize,
    /// The rows.
    pub rows: Arc<Vec<Row>>,
}

/// What one model said about the rows of a [`ScoreJob`].
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The model.
    pub model: ModelVersion,
    /// Outputs, rows × width, NaN for a row that the model cannot predict; or why it could not be loaded or failed.
    pub outputs: Result<Vec<f64>, String>,
    /// Median time that it took for a row, if that was measured: the smoke test compares it with the champion's.
    pub latency: Option<Duration>,
}

/// Scores models on rows, away from the worker, and says by which rules they are judged.
pub trait Evaluator: Send {
    /// The rules of promotion.
    fn profile(&self) -> &Profile;

    /// Starts a job. Starting a key twice is one job.
    ///
    /// # Errors
    /// The job cannot be started.
    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError>;

    /// How the job is doing; on success one entry per model, in order.
    ///
    /// # Errors
    /// Nobody can say at present; it is asked again.
    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError>;

    /// Nobody wants this job's result any more; unknown keys are ignored. An evaluator that keeps no results has nothing to
    /// do.
    ///
    /// # Errors
    /// The job cannot be ended; its result is not asked for all the same.
    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        let _ = key;
        Ok(())
    }
}

/// Brings a model into service. Loading happens away from the worker; `activate` only swaps.
pub trait Deployer: Send {
    /// Starts to load `model`; doing so twice is harmless.
    ///
    /// # Errors
    /// Loading cannot be started.
    fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError>;

    /// Is it loaded?
    ///
    /// # Errors
    /// Nobody can say at present; it is asked again.
    fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError>;

    /// Serves `version` from now on. It was prepared and is `Done`; activating the served version again is harmless.
    ///
    /// # Errors
    /// The version is not loaded; then the served one stays.
    fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError>;

    /// This candidate is being judged: it was prepared and is `Done`, it may predict beside the served model, and serve this
    /// share of the predictions. `None`: there is no candidate any more, and nothing but the served version may serve.
    /// A deployer without shadow and canary has nothing to do.
    ///
    /// # Errors
    /// It cannot be done at present; it is tried again.
    fn challenge(&mut self, challenger: Option<(ModelVersion, f64)>) -> Result<(), BoxError> {
        let _ = challenger;
        Ok(())
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn Trainer>, _: Box<dyn Evaluator>, _: Box<dyn Deployer>, _: Box<dyn Model>) {}
