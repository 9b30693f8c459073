//! Retraining as a persisted state machine: request → seal → train → smoke test → judge → promote → watch.
//!
//! Every state is written down before the outside is called, with a key that makes the call idempotent; on restart the
//! machine goes on where it was. The steps live in the files below this one; this one holds the state.

mod aliases;
mod audit;
mod challenger;
mod cohorts;
mod dataset;
mod deploy;
mod erasure;
mod evaluation;
mod evolution;
mod incident;
mod judging;
mod label_faults;
mod labels;
mod models;
mod power;
mod reopen;
mod rounds;
mod run;
mod state;
mod tally;
mod telemetry;
mod training;
mod validation;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::outbox::Outbox;
use crate::error::Error;
use crate::event::{Label, ModelVersion, Observation, PredictionId};
use crate::reference::{Reference, ReferenceBuilder, References};
use crate::retrain::latency::Timings;
use crate::retrain::maturity::Cohort;
use crate::retrain::taught::Taught;
use crate::retrain::{
    Artifact, DataRef, Deployer, Evaluation, Evaluator, LabelFaults, LatencyBound, ModelRecord, Run, RunId, RunState,
    Trainer,
};
use crate::sample::Reason;
use crate::schema::{Row, Schema, Target};
use crate::store::{Indexed, Kind, Write};
use crate::trigger::Decision;
use crate::trigger::coverage::tracker::CoverageTracker;
pub use aliases::{AliasRecord, Aliases};
pub use audit::HeldBatch;
pub(super) use cohorts::Made;
use evaluation::Checked;
pub(super) use evaluation::{EvaluationSettings, stored as stored_evaluation};
pub use evolution::SchemaVersion;
use labels::LabelTracker;
use models::read_model;
use state::{Comparing, Job, LoopState, Phase, Round};
use telemetry::TriggerLog;
pub(super) use telemetry::read_trigger_log;
use validation::{TrainingDraw, Validation};

use super::builder::Mode;

/// Rows of live traffic that make a serving baseline.
const BASELINE_ROWS: u64 = 2_000;
/// Fewest and most live rows of one look at where candidate and champion disagree.
const POOL_ROWS: (usize, usize) = (32, 2_048);

/// State of the record of a batch.
pub(super) const SEALED: &str = "sealed";

/// What happened to the served version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionKind {
    /// A candidate took over.
    Promotion,
    /// The previous version came back.
    Rollback,
}

/// One change of the served version: append-only history of the champion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromotionRecord {
    /// Number of the change, from 1.
    pub number: u64,
    /// Promotion or rollback.
    pub kind: PromotionKind,
    /// The version served before.
    pub from: ModelVersion,
    /// The version served since.
    pub to: ModelVersion,
    /// The run behind it.
    pub run: Option<RunId>,
    /// When.
    pub time: DateTime<Utc>,
    /// Why.
    pub reason: Reason,
}

/// Key of a smoke test, and its rows; those that the candidate was trained on with their labels and weights.
type Smoke = (String, Vec<(Row, Option<(Label, f64)>)>);

/// Parts that the builder hands over.
pub(super) struct Parts {
    pub(super) trainer: Option<Box<dyn Trainer>>,
    pub(super) evaluator: Option<Box<dyn Evaluator>>,
    pub(super) deployer: Option<Box<dyn Deployer>>,
    pub(super) first_model: Option<Artifact>,
    pub(super) mode: Mode,
    pub(super) label_batch: usize,
    pub(super) training_rows: usize,
    pub(super) compare_share: f64,
    pub(super) canary: f64,
    pub(super) latency: LatencyBound,
    pub(super) export: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    pub(super) seed: u64,
    pub(super) segment: Option<usize>,
    pub(super) weight_clip: Option<f64>,
    pub(super) evaluation: EvaluationSettings,
    pub(super) label_faults: Option<LabelFaults>,
}

/// Everything about runs, models and the labels that wait for them.
pub(super) struct Retraining {
    parts: Parts,
    state: LoopState,
    /// Records of the versions that are live: served, previous, kept, candidate, racing.
    models: HashMap<ModelVersion, ModelRecord>,
    /// Labelled samples that may enter the next batch, oldest first; `true` if people or the world labelled them.
    ready: BTreeMap<(u64, PredictionId), bool>,
    /// Labelled samples that have yet to judge; `true` if a judging lane drew them, others take part in a race only.
    unjudged: BTreeMap<(u64, PredictionId), bool>,
    /// How good the labels are that wait.
    labels: LabelTracker,
    /// Labelled samples whose labels the label-fault check has yet to see.
    unchecked: BTreeMap<(u64, PredictionId), DateTime<Utc>>,
    /// The newest batches, as models are trained on them.
    taught: Taught,
    /// The base data by reference, once it was needed.
    base: Option<DataRef>,
    coverage: CoverageTracker,
    /// Live rows among which candidate and champion are compared.
    pool: Vec<Observation>,
    comparing: Option<Comparing>,
    /// Live traffic since the promotion that is being watched.
    baseline: Option<ReferenceBuilder>,
    baseline_rows: u64,
    /// References that take over with the first observation of their model.
    upcoming: Option<(ModelVersion, Arc<Reference>)>,
    /// The smoke test under way.
    smoking: Option<Smoke>,
    /// The full validation under way, the evaluation of the run in flight, and how its requirements stand.
    validating: Option<Arc<Validation>>,
    evaluation: Option<Evaluation>,
    checked: Option<Checked>,
    /// Smoke tests in a row in which the candidate was too slow.
    slow_smokes: u32,
    /// The training reference of the version before the served one: a rollback brings it back.
    previous_reference: Option<Arc<Reference>>,
    /// The draw from base data and batches for the full validation, once it was needed; batches join it as they are sealed.
    drawn: Option<TrainingDraw>,
    /// A restarted host serves its first model; the champion must be loaded again.
    redeploy: bool,
    redeploy_failed: bool,
    /// The aliases as they were written last.
    aliases: Option<AliasRecord>,
    /// The challenger that the deployer was told last; `None`: this process has told it nothing yet.
    offered: Option<Option<(ModelVersion, f64)>>,
    /// An earlier process ended in the middle of a switch: the deployer may serve either version.
    interrupted: bool,
    /// An unusable output in production that is being looked into.
    suspicion: Option<incident::Suspicion>,
    /// What production says of the champion, and of the version before it. Saved with the ledger, so that no outcome of a log
    /// that is replayed counts twice.
    cohorts: Vec<Cohort>,
    /// How long the champion takes, as the host recorded it.
    timings: Timings,
    pub(super) decision: Option<Decision>,
    pub(super) trigger_error: Option<String>,
    log: TriggerLog,
}

impl Retraining {
    pub(super) fn new(parts: Parts, schema: &Arc<Schema>, training: &Reference, now: DateTime<Utc>) -> Self {
        let coverage = CoverageTracker::new(training, parts.seed);
        Retraining {
            state: LoopState::new(schema, now),
            models: HashMap::new(),
            ready: BTreeMap::new(),
            unjudged: BTreeMap::new(),
            labels: LabelTracker::default(),
            unchecked: BTreeMap::new(),
            taught: Taught::new(schema.clone()),
            base: None,
            coverage,
            pool: Vec::new(),
            comparing: None,
            baseline: None,
            baseline_rows: 0,
            upcoming: None,
            smoking: None,
            validating: None,
            evaluation: None,
            checked: None,
            slow_smokes: 0,
            previous_reference: None,
            drawn: None,
            redeploy: false,
            redeploy_failed: false,
            aliases: None,
            offered: None,
            interrupted: false,
            suspicion: None,
            cohorts: Vec::new(),
            timings: Timings::default(),
            decision: None,
            trigger_error: None,
            log: TriggerLog::default(),
            parts,
        }
    }

    pub(super) fn champion(&self) -> ModelVersion {
        self.state.champion
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.state.frozen.is_some()
    }

    /// May labels still say something about this version?
    pub(super) fn is_live(&self, version: ModelVersion) -> bool {
        self.models.contains_key(&version)
    }

    /// The candidate that is judged, or was and waits for approval or for its switch.
    pub(super) fn judged(&self) -> Option<ModelVersion> {
        let open = match &self.state.phase {
            Phase::Judging | Phase::AwaitingApproval => true,
            Phase::Deploying { kind, .. } => *kind == PromotionKind::Promotion,
            _ => false,
        };
        self.state.run.as_ref().filter(|_| open)?.candidate
    }

    /// A live observation of the served version, or of a canary, passes by.
    pub(super) fn observe(&mut self, observation: &Observation, target: &Target) {
        self.suspect(observation, target);
        self.claims(observation, target);
        if let Some(builder) = &mut self.baseline
            && observation.model == self.state.champion
            && self.baseline_rows < BASELINE_ROWS
        {
            // A row that does not fit the schema cannot have come this far.
            let _ = builder.push(&observation.row, Some(observation.output()), None);
            self.baseline_rows += 1;
        }
        let judging = self.state.phase == Phase::Judging;
        if judging && self.pool.len() < POOL_ROWS.1 {
            let share = crate::stats::sampling::unit_interval(self.parts.seed ^ 2, observation.id.bytes());
            if share < self.parts.compare_share {
                self.pool.push(observation.clone());
            }
        }
    }

    /// The references of `model` take over: its training data, and the serving baseline once it was kept.
    pub(super) fn move_references(&mut self, references: &mut References, model: ModelVersion) {
        if let Some((version, training)) = self.upcoming.take() {
            if version == model {
                references.training = training;
            } else {
                self.upcoming = Some((version, training));
            }
        }
    }

    /// The write that makes the state durable; it goes into the unit of whatever changed it.
    fn save(&self, outbox: &Outbox) -> Result<Write, Error> {
        let indexed = Indexed { state: "saved", rank: 0, due: None };
        outbox.json(Kind::Control, "loop", indexed, &self.state)
    }

    fn save_run(&self, outbox: &Outbox, run: &Run) -> Result<Write, Error> {
        let indexed = Indexed { state: run.state.as_str(), rank: run.id.0 as i64, due: None };
        outbox.json(Kind::Run, &run.id.to_string(), indexed, run)
    }
}

impl Pipeline {
    /// Moves retraining as far as it goes without waiting.
    pub(super) fn step_retraining(&mut self) -> Result<bool, Error> {
        let stepped = self.step_on();
        let offered = self.offer_challenger();
        Ok(stepped? | offered?)
    }

    fn step_on(&mut self) -> Result<bool, Error> {
        let mut moved = false;
        // Bounded, so that a fault in the machine cannot spin: no chain of steps without waiting is this long.
        for _ in 0..64 {
            if !self.step_once()? {
                break;
            }
            moved = true;
            self.outbox.commit()?;
        }
        Ok(moved)
    }

    fn step_once(&mut self) -> Result<bool, Error> {
        // A frozen loop still goes back: that is what a person wants when something is wrong.
        let rolls_back = matches!(self.retraining.state.phase, Phase::Deploying { kind: PromotionKind::Rollback, .. });
        let held = self.retraining.is_held_by_labels();
        if !rolls_back || held {
            if self.retraining.redeploy {
                return self.step_redeploy();
            }
            if self.retraining.state.frozen.is_some() {
                return Ok(false);
            }
            // What needs no label does not wait for the check of labels.
            if self.step_incident()? {
                return Ok(true);
            }
            if held {
                return Ok(false);
            }
            if self.step_round()? {
                return Ok(true);
            }
            if self.retraining.state.round.is_some() {
                // Nothing else moves meanwhile: the models of a round stay the models of the loop.
                return Ok(false);
            }
            if self.judge_watch()? {
                return Ok(true);
            }
        }
        match self.retraining.state.phase.clone() {
            Phase::Idle => self.step_idle(),
            Phase::Requested => self.step_requested(),
            Phase::Training(jobs) => self.step_training(jobs),
            Phase::Smoke => self.step_smoke(),
            Phase::Validating => self.step_validating(),
            Phase::Judging => self.step_judging(),
            Phase::AwaitingApproval => Ok(false),
            Phase::Deploying { to, kind, reason } => self.step_deploying(to, kind, reason),
        }
    }

    /// Writes the state of the loop, with `more`, and every sample changed since.
    fn save_loop(&mut self, mut more: Vec<Write>) -> Result<(), Error> {
        let state = &mut self.retraining.state;
        state.latency = self.retraining.timings.median().or(state.latency);
        more.push(self.retraining.save(&self.outbox)?);
        more.extend(self.retraining.save_aliases(&self.outbox, self.now)?);
        self.outbox.push_with_samples(more)
    }

    /// Puts the run in flight into `state` and says why.
    fn run_becomes(&mut self, state: RunState, reason: Reason) -> Result<Write, Error> {
        let now = self.now;
        let Some(run) = &mut self.retraining.state.run else {
            return Err(Error::Corrupt("no run is in flight".into()));
        };
        run.state = state;
        run.notes.push((now, reason));
        let run = run.clone();
        self.retraining.save_run(&self.outbox, &run)
    }
}
