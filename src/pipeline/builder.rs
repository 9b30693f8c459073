//! Puts a pipeline together and reports every mistake at once.

mod build;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::flow::{Payload, Settings};
use super::redaction::{Redact, Redaction};
use super::retention::Retention;
use super::retraining::{EvaluationSettings, Parts};
use crate::clock::{Clock, SystemClock};
use crate::dataset::Dataset;
use crate::detector::Detector;
use crate::error::BoxError;
use crate::gate::QualityGate;
use crate::reference::Reference;
use crate::retrain::recipe::MOST_ROWS;
use crate::retrain::{Artifact, Deployer, Evaluator, LabelFaults, LatencyBound, Trainer};
use crate::router::LabelRouter;
use crate::schema::{Row, Schema};
use crate::store::Store;
use crate::trigger::RetrainTrigger;

/// Who decides about a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The loop only says what it would do.
    Advisory,
    /// A person approves every promotion.
    Approval,
    /// The loop promotes and rolls back by itself.
    #[default]
    Unattended,
}

/// Builds a [`Pipeline`](crate::Pipeline); the [crate's first page](crate) shows the whole loop.
pub struct PipelineBuilder {
    name: String,
    pub(super) schema: Arc<Schema>,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn Store>>,
    reference: Option<Arc<Reference>>,
    pub(super) base: Option<Dataset>,
    detectors: Vec<Box<dyn Detector>>,
    pub(super) gates: Vec<Box<dyn QualityGate>>,
    router: Option<Box<dyn LabelRouter>>,
    trigger: Option<Box<dyn RetrainTrigger>>,
    payload: Option<Payload>,
    redaction: Option<Redact>,
    settings: Settings,
    ledger: usize,
    rows: usize,
    pub(super) parts: Parts,
    segment: Option<String>,
    false_alarms_per_day: Option<f64>,
    mistakes: Vec<String>,
}

impl PipelineBuilder {
    pub(super) fn new(name: String, schema: Arc<Schema>) -> Self {
        PipelineBuilder {
            name,
            schema,
            clock: Arc::new(SystemClock),
            store: None,
            reference: None,
            base: None,
            detectors: Vec::new(),
            gates: Vec::new(),
            router: None,
            trigger: None,
            payload: None,
            redaction: None,
            settings: Settings {
                seed: 0,
                explore: 0.0,
                outcome_share: 1.0,
                flags_per_minute: 1_000,
                most_pending: 100_000,
                most_parked: 10_000,
                checkpoint_every: 100_000,
                checkpoint_after: TimeDelta::seconds(60),
                inbox: 4_096,
                reserve: 512,
                poll_every: Duration::from_millis(500),
                expire_tasks: None,
                retention: None,
            },
            ledger: 65_536,
            rows: 4_096,
            parts: Parts {
                trainer: None,
                evaluator: None,
                deployer: None,
                first_model: None,
                mode: Mode::default(),
                label_batch: 25,
                training_rows: MOST_ROWS,
                compare_share: 0.25,
                canary: 0.0,
                latency: LatencyBound::default(),
                export: None,
                directory: None,
                seed: 0,
                segment: None,
                weight_clip: None,
                evaluation: EvaluationSettings::default(),
                label_faults: Some(LabelFaults::default()),
            },
            segment: None,
            false_alarms_per_day: None,
            mistakes: Vec::new(),
        }
    }

    /// What the stages need to know of the training data. If [`training_data`](Self::training_data) is given, this may be
    /// left out.
    pub fn reference(mut self, reference: impl Into<Arc<Reference>>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// The data that the first model was trained on: every recipe builds on it.
    pub fn training_data(mut self, data: Dataset) -> Self {
        self.base = Some(data);
        self
    }

    /// Adds a detector.
    pub fn detect(mut self, detector: impl Detector) -> Self {
        self.detectors.push(Box::new(detector));
        self
    }

    /// Expected false alarms per day that all detectors together may raise: one budget, divided evenly.
    ///
    /// Its shares go to the detectors that can hold one ([`Detector::alarm_budget`]: [`KsDrift`](crate::KsDrift),
    /// [`OutputDrift`](crate::OutputDrift), [`MmdDrift`](crate::MmdDrift)) and were told no rate of their own; a detector with a rate of its own has it beside
    /// the budget, and so have [`EstimatedPerformance`](crate::EstimatedPerformance), [`HarmMonitor`](crate::HarmMonitor) and
    /// [`StreamDrift`](crate::StreamDrift). Flags are no alarms: they have [`flags_per_minute`](Self::flags_per_minute). The budget holds if each
    /// share holds, so under the assumptions of each detector; whether they are dependent on each other does not matter.
    pub fn false_alarms_per_day(mut self, rate: f64) -> Self {
        self.false_alarms_per_day = Some(rate);
        self
    }

    /// Adds a gate; gates are asked in this order, until one refuses.
    pub fn gate(mut self, gate: impl QualityGate) -> Self {
        self.gates.push(Box::new(gate));
        self
    }

    /// Sets the router. Without one, people are asked about everything that the gates let pass.
    pub fn route(mut self, router: impl LabelRouter) -> Self {
        if self.router.replace(Box::new(router)).is_some() {
            self.mistakes.push("two routers were given, one is needed".into());
        }
        self
    }

    /// Sets the trigger; combine several with [`any`](crate::any) and [`all`](crate::all). Without one, the loop retrains only
    /// when it is told to.
    pub fn trigger(mut self, trigger: impl RetrainTrigger + 'static) -> Self {
        if self.trigger.replace(Box::new(trigger)).is_some() {
            self.mistakes.push("two triggers were given: combine them with `any` or `all`".into());
        }
        self
    }

    /// Sets the store; without one, everything is in memory and gone with the process.
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the trainer. Without one, a run ends with the export of its batch.
    pub fn train(mut self, trainer: impl Trainer + 'static) -> Self {
        self.parts.trainer = Some(Box::new(trainer));
        self
    }

    /// Sets the evaluator; without one, nothing is promoted.
    pub fn evaluate(mut self, evaluator: impl Evaluator + 'static) -> Self {
        self.parts.evaluator = Some(Box::new(evaluator));
        self
    }

    /// Sets who brings a model into service. Without one, a promotion is recorded and the host switches by itself.
    pub fn deploy(mut self, deployer: impl Deployer + 'static) -> Self {
        self.parts.deployer = Some(Box::new(deployer));
        self
    }

    /// The model that is served at the start, so that candidates can be compared with it and it can come back.
    pub fn first_model(mut self, artifact: Artifact) -> Self {
        self.parts.first_model = Some(artifact);
        self
    }

    /// Who decides about a promotion; the loop itself unless told.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.parts.mode = mode;
        self
    }

    /// Share of live traffic that is drawn for unbiased judging (the random lane); 0 unless told. An evaluator needs it.
    pub fn explore(mut self, share: f64) -> Self {
        self.settings.explore = self.share("explore", share);
        self
    }

    /// Share of the outcomes that become labelled samples, drawn by hash of the id; all unless told.
    pub fn learn_from_outcomes(mut self, share: f64) -> Self {
        self.settings.outcome_share = self.share("learn_from_outcomes", share);
        self
    }

    /// Share of live traffic on which an open candidate is compared with the served model; a quarter unless told.
    pub fn compare(mut self, share: f64) -> Self {
        self.parts.compare_share = self.share("compare", share);
        self
    }

    /// Share of the predictions that a candidate serves while it is judged, if the host routes them by
    /// [`ModelSlot::route`](crate::ModelSlot::route) or its deployer does; 0 unless told. A canary has passed the smoke
    /// test and nothing else. It ends with the run, with a rollback, and while the loop is frozen; an unusable output of it
    /// that the served model does not share ends it at once. Advisory mode has no canary; in approval mode it goes on until
    /// the person has decided.
    pub fn canary(mut self, share: f64) -> Self {
        self.parts.canary = self.share("canary", share);
        self
    }

    /// How much slower than the served model a candidate may be, in the smoke test as the evaluator measures both, and in
    /// production as the host records it ([`Draft::latency`](crate::Draft::latency)); the default of [`LatencyBound`]
    /// unless told.
    pub fn latency_bound(mut self, bound: LatencyBound) -> Self {
        if !(bound.ratio >= 1.0 && bound.ratio.is_finite()) {
            self.mistakes.push(format!("latency_bound: a ratio of {} is not a number of at least 1", bound.ratio));
        }
        self.parts.latency = bound;
        self
    }

    /// Labels of the judging lanes that make a label batch; 25 unless told.
    pub fn label_batch(mut self, labels: usize) -> Self {
        self.parts.label_batch = labels;
        if labels == 0 {
            self.mistakes.push("label_batch: a label batch needs at least 1 label".into());
        }
        self
    }

    /// Most rows that a candidate is trained on, the newest; 3,000 unless told. They are kept in memory.
    pub fn training_rows(mut self, most: usize) -> Self {
        self.parts.training_rows = most;
        if most == 0 {
            self.mistakes.push("training_rows: at least 1 row is needed".into());
        }
        self
    }

    /// Weighs training rows by the inverse of their inclusion probability, at most `clip`: the training data then stands for
    /// the live traffic rather than for what was chosen. Every row weighs 1 unless told.
    pub fn inclusion_weights(mut self, clip: f64) -> Self {
        self.parts.weight_clip = Some(clip);
        if !(clip.is_finite() && clip >= 1.0) {
            self.mistakes.push(format!("inclusion_weights: {clip} is not a number of at least 1"));
        }
        self
    }

    /// How the labels that people give are checked: when they stop agreeing with the served model, others are asked about a
    /// few of them, and labels found to be wrong are quarantined (`label_fault`). Without this call, by the default rules.
    ///
    /// It needs two people who label: with one, a fault and a drift cannot be told apart; an alarm says so, and the labels
    /// count. Only classes are checked, not values.
    pub fn label_faults(mut self, rules: LabelFaults) -> Self {
        self.parts.label_faults = Some(rules);
        self
    }

    /// Believes the labels that people give, whatever the served model says.
    pub fn without_label_faults(mut self) -> Self {
        self.parts.label_faults = None;
        self
    }

    /// Directory that sealed batches are exported to, each in a directory of its name: rows as JSON Lines (with feature `parquet`
    /// also as Parquet), their schema, and last the manifest. [`verify_batch`](crate::verify_batch) checks one.
    pub fn export(mut self, directory: impl Into<PathBuf>) -> Self {
        self.parts.export = Some(directory.into());
        self
    }

    /// Directory for the files of training jobs, of this pipeline alone; a [`CommandTrainer`](crate::CommandTrainer) needs it. The
    /// training data of the first model is written there too, once, by the worker, so that trainers find it.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.parts.directory = Some(directory.into());
        self
    }

    /// Category field whose values are the slices of an evaluation.
    pub fn segment_by(mut self, field: impl Into<String>) -> Self {
        self.segment = Some(field.into());
        self
    }

    /// What an annotator sees beside the row: text, JSON or a URI. Runs on the worker, for kept rows only.
    pub fn payload(mut self, make: impl Fn(&Schema, &Row) -> String + Send + 'static) -> Self {
        self.payload = Some(Box::new(make));
        self
    }

    /// Takes out of every prediction that becomes a sample what must not be stored, before anything of it is stored.
    ///
    /// Gates, router, people, training and evaluation see the redacted row, and the [payload](Self::payload) is made of it: what is
    /// decided and trained is what is stored, also after a restart. Detectors see the row as it came, in memory, and so do
    /// the references of live traffic: both store single numbers and category codes of the newest rows, but no texts. A
    /// number or category that must never be stored does not belong into the schema.
    ///
    /// If `redact` errs or panics, nothing of the content is kept: the sample is [erased](crate::SampleState::Erased) at
    /// once, and counted ([`Counters::redaction_failures`](crate::Counters::redaction_failures)).
    ///
    /// # Examples
    /// ```
    /// # use feedloop::*;
    /// # fn redacted(builder: PipelineBuilder) -> PipelineBuilder {
    /// builder.redact(|sample| {
    ///     sample.clear("iban")?;
    ///     sample.set_number("age", 45.0)
    /// })
    /// # }
    /// ```
    pub fn redact(mut self, redact: impl Fn(&mut Redaction<'_>) -> Result<(), BoxError> + Send + 'static) -> Self {
        self.redaction = Some(Box::new(redact));
        self
    }

    /// How long content is kept; for ever unless told.
    ///
    /// # Examples
    /// ```
    /// # use feedloop::*;
    /// # fn kept(builder: PipelineBuilder) -> PipelineBuilder {
    /// builder.retain(Retention { samples_for: Some(days(90)), most_samples: Some(1_000_000), ..Retention::default() })
    /// # }
    /// ```
    pub fn retain(mut self, retention: Retention) -> Self {
        self.mistakes.extend(retention.mistakes());
        self.settings.retention = Some(retention);
        self
    }

    /// Source of time; the system's clock unless told.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Seed of every draw.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self.parts.seed = seed;
        self
    }

    /// Predictions that the ledger remembers (about 90 bytes each), and how many of the newest with their whole row;
    /// 65,536 and 4,096 unless told. A truth that comes later than that finds no row.
    pub fn remember(mut self, predictions: usize, rows: usize) -> Self {
        (self.ledger, self.rows) = (predictions, rows);
        if predictions == 0 || rows < 256 || rows > predictions {
            self.mistakes.push(format!(
                "remember: {rows} rows of {predictions} predictions were asked for; at least 256 rows and not more rows than predictions are needed"
            ));
        }
        self
    }

    /// Most flags per detector and minute that become samples; 1,000 unless told. More are counted.
    pub fn flags_per_minute(mut self, most: u32) -> Self {
        self.settings.flags_per_minute = most;
        self
    }

    /// Slots of the inbox between host and worker, and how many of them are kept for outcomes, feedback and predictions
    /// that a guard flagged; 4,096 and 512 unless told.
    pub fn inbox(mut self, slots: usize, reserve: usize) -> Self {
        (self.settings.inbox, self.settings.reserve) = (slots, reserve);
        if reserve >= slots {
            self.mistakes.push(format!("inbox: a reserve of {reserve} leaves nothing of {slots} slots"));
        }
        self
    }

    /// How often stage state and ledger are saved: after so many observations, or so much time with any.
    pub fn checkpoint(mut self, observations: u64, time: TimeDelta) -> Self {
        (self.settings.checkpoint_every, self.settings.checkpoint_after) = (observations.max(1), time);
        self
    }

    /// Withdraws a question that nobody answered for so long; without it, questions wait for ever.
    pub fn expire_tasks(mut self, after: TimeDelta) -> Self {
        self.settings.expire_tasks = Some(after);
        self
    }

    /// How often the worker of [`Pipeline::spawn`](crate::Pipeline::spawn) polls; twice a second unless told.
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.settings.poll_every = interval;
        self
    }

    fn share(&mut self, what: &str, share: f64) -> f64 {
        if !(0.0..=1.0).contains(&share) {
            self.mistakes.push(format!("{what}: {share} is not a share from 0 to 1"));
            return 0.0;
        }
        share
    }
}
