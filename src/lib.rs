//! Closes the loop between a model in production and its training, inside the host's process.
//!
//! An inference server records its predictions. feedloop flags what the model gets wrong or has never seen, checks it, has
//! it labelled, decides when to retrain, seals the labels as a versioned batch, trains and judges candidates, promotes the
//! better one, watches it, and rolls it back if it is worse. Nothing but a file on disk is needed to start.
//!
//! This page is the tour; the [`guide`] goes through it chapter by chapter.
//!
//! # The parts
//!
//! | part | what it decides | defaults |
//! |---|---|---|
//! | [`Detector`] | which predictions deserve a look; whether the stream has changed | [`LowConfidence`], [`Mahalanobis`] and any other [`NoveltyScore`]; [`KsDrift`], [`OutputDrift`], [`MmdDrift`]; [`StreamDrift`] of any [`ChangeDetector`]; [`PredictionError`], [`LivePerformance`], [`HarmMonitor`], [`EstimatedPerformance`]; [`UserFeedback`] |
//! | [`QualityGate`] | what may enter training; the rest is quarantined with the reason | [`SchemaGate`], [`Completeness`], [`Deduplicate`], [`LabelConsistency`], [`Relevance`], [`Leakage`], [`SourceCap`], [`ClassBalance`] |
//! | [`LabelRouter`] | who labels it: the model, people, nobody | [`ConfidenceRouter`], [`HumanRouter`] by a [`QueryStrategy`]; people answer in the [`ReviewQueue`] |
//! | [`RetrainTrigger`] | when to retrain, and why | [`NewLabels`], [`Coverage`], [`Schedule`], [`DriftAlarm`]; [`any`], [`all`], [`cooldown`](TriggerExt::cooldown) |
//! | [`Trainer`] | how to train | [`CommandTrainer`], [`FnTrainer`] |
//! | [`Evaluator`] | which model is better, by the rules of a [`Profile`] | [`PairedEvaluator`] |
//! | [`Deployer`] | how a model comes into service | [`ModelSlot`] |
//! | [`Store`] | where everything is kept | `SqliteStore` (feature `sqlite`), [`MemoryStore`] |
//!
//! Each is a trait with closure adapters where that is natural ([`detector_fn`], [`gate_fn`], [`router_fn`],
//! [`trigger_fn`], [`FnTrainer`]); your own stages stand beside the defaults.
//!
//! # The whole loop
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use feedloop::*;
//!
//! # #[cfg(not(any(feature = "sqlite", feature = "sqlite-system")))]
//! # fn main() {}
//! # #[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
//! # fn main() -> Result<(), BoxError> {
//! # let directory = tempfile::tempdir()?;
//! // A model as small as can be: the amount from which on a payment is a fraud.
//! fn load(record: &ModelRecord) -> Result<f64, BoxError> {
//!     match &record.artifact {
//!         Artifact::Inline(bytes) => Ok(String::from_utf8(bytes.clone())?.parse()?),
//!         Artifact::File(path) => Ok(std::fs::read_to_string(path)?.trim().parse()?),
//!     }
//! }
//! fn fraud(limit: f64, amount: f64) -> [f64; 2] {
//!     let p = 1.0 / (1.0 + ((limit - amount) / 50.0).exp());
//!     [1.0 - p, p]
//! }
//!
//! let schema = Arc::new(Schema::new([Field::number("amount").range(0.0, 1e6)], Target::classes(["good", "fraud"]))?);
//! let amounts = (0..1_000).map(|i| f64::from(i) * 1.5);
//! let training = Dataset::from_values(schema.clone(), amounts.map(|a| ([a], Label::Class(u32::from(a > 900.0)))))?;
//!
//! let slot = ModelSlot::new(900.0, load); // what the host serves from
//! let pipeline = Pipeline::builder("fraud", schema) // a name: several pipelines may share one store
//!     .training_data(training)
//!     .first_model(Artifact::Inline(b"900".to_vec()))
//!     .detect(LowConfidence::below(0.6))
//!     .detect(Mahalanobis::default().false_alarm_rate(0.01))
//!     .detect(KsDrift::default().window(1_000).false_alarms_per_day(0.1))
//!     .gate(SchemaGate::default())
//!     .gate(Deduplicate::exact())
//!     .gate(LabelConsistency::default())
//!     .route(ConfidenceRouter::max_error(0.02).audit(0.05).budget(Budget::per_day(200)))
//!     .trigger(any([new_labels(500), drift(), schedule("0 3 * * *")?]).cooldown(hours(6)))
//!     .train(FnTrainer::new(|job| {
//!         let rows = job.data.rows().iter().zip(job.data.class_labels());
//!         let frauds = rows.filter(|(_, class)| *class == 1).map(|(row, _)| row.values()[0]);
//!         Ok(Artifact::Inline(frauds.fold(f64::INFINITY, f64::min).to_string().into_bytes()))
//!     }))
//!     .evaluate(PairedEvaluator::new(|record: &ModelRecord| {
//!         let limit = load(record)?;
//!         Ok(move |row: &Row, output: &mut [f64]| {
//!             output.copy_from_slice(&fraud(limit, row.values()[0]));
//!             Ok(())
//!         })
//!     }))
//!     .deploy(slot.clone())
//!     .explore(0.05) // 5 % of the traffic is labelled blind: the fair sample that models are judged on
//!     .store(SqliteStore::open(directory.path().join("feedloop.db"))?)
//!     .build()?; // reports every mistake at once
//!
//! let (recorder, control, worker) = pipeline.spawn()?;
//!
//! // In a request handler: model and version of one load, then hand the prediction over.
//! let (output, version) = slot.predict(|limit, version| (fraud(*limit, 910.0), version));
//! let id = recorder.record_values(version, Output::Probabilities(&output), &[910.0])?;
//!
//! // When the truth is known, maybe weeks later:
//! recorder.truth(id, Label::Class(0))?;
//!
//! control.flush()?;
//! assert_eq!(control.status()?.counters.outcomes, 1);
//! print!("{}", control.lineage(id)?);
//! worker.stop(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! Without a thread of its own, the host calls [`Pipeline::ingest`] and [`Pipeline::poll`] itself: the loop is a
//! deterministic state machine on a [`Clock`] and a seed, so a [`ManualClock`] replays or simulates it.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `sqlite` | yes | `SqliteStore`, with SQLite bundled |
//! | `sqlite-system` | no | `SqliteStore` on the system's SQLite library |
//! | `time-zones` | yes | [`Schedule::time_zone`], with the IANA database |
//! | `parquet` | no | batches and training jobs also as Parquet, beside JSON Lines |
//! | `http`, `https` | no | `HttpTrainer`: training by a service, in plain or over TLS (rustls) |
//! | `conformance` | no | the suites that every stage, trigger and store passes, for yours |

mod base64;
mod chunk;
mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod dataset;
mod detector;
mod encode;
mod error;
mod event;
mod files;
mod gate;
pub mod guide;
mod journal;
mod label_issues;
mod label_shift;
mod pipeline;
mod reference;
mod retrain;
mod review;
mod router;
mod sample;
mod schema;
mod stage;
mod stats;
mod store;
mod trigger;

pub use chrono;
pub use ndarray;
pub use uuid;

pub use chunk::{Chunk, ChunkBuffer, Heard, Truth};
pub use clock::{Clock, ManualClock, SystemClock};
pub use dataset::Dataset;
pub use detector::{
    Adwin, Alarm, AlarmKind, CategoryTest, Change, ChangeDetector, ChangeEvidence, ConformalDetector,
    ConformalMartingale, Correction, Covariance, Cusum, Ddm, Detector, DetectorFn, Direction, EDetector, Ecod, Eddm,
    EmpiricalTails, Energy, ErrorRate, EstimatedPerformance, Estimates, Findings, Guard, GuardVerdict, HarmMonitor,
    HarmStatus, HddmA, HddmW, Isolation, IsolationForest, KsDrift, Kswin, Level, LivePerformance, LiveReport,
    LogitEnergy, LowConfidence, Mahalanobis, MahalanobisDistance, Maturity, Metrics, MmdDrift, NearestNeighbours,
    NeighbourDistance, NoveltyModel, NoveltyScore, NumericTest, OutputDrift, OutputScore, PageHinkley, PredictionError,
    Reading, RowView, Scratch, Signal, StreamDrift, Support, Threshold, UnusualOutput, UserFeedback, WindowDrift,
    detector_fn,
};
pub use error::{BoxError, Error, StageError};
pub use event::{
    Event, Feedback, Label, ModelVersion, Observation, Opinion, Outcome, Output, PredictionId, Role, predicted_label,
    top_class,
};
pub use gate::{
    Admission, Audit, BatchDraft, ClassBalance, Completeness, CompletenessReport, Deduplicate, DraftRow,
    FieldCompleteness, GateContext, GateFn, LabelConsistency, Leakage, QualityGate, Relevance, Rule, RuleReport,
    SchemaGate, SchemaReport, SourceCap, gate_fn,
};
pub use journal::{Act, JournalBreak, JournalEntry, JournalHead, JournalReport, verify_journal};
pub use label_issues::{IssueRule, LabelIssue, LabelIssues, LabelIssuesError, label_issues};
pub use label_shift::{LabelShift, LabelShiftError, PriorCorrection, Weights};
pub use pipeline::{
    Acknowledged, AlarmRecord, AlarmState, AliasRecord, Aliases, BatchCheck, Cleared, Control, Counters, Draft, Erased,
    HeldBatch, Ingested, Lineage, LineageEdge, LineageLink, LineageNode, LineageStart, Mode, Pipeline, PipelineBuilder,
    Polled, PromotionKind, PromotionRecord, Recorder, Redaction, Refused, Retention, SchemaVersion, StageStatus,
    Status, Worker,
};
pub use reference::{Half, REFERENCE_ROWS, Reference, ReferenceBuilder, ReferenceRow, References};
#[cfg(feature = "http")]
pub use retrain::HttpTrainer;
pub use retrain::{
    AdaptiveRules, Artifact, BatchId, Check, CommandTrainer, Comparison, ConfirmRules, CostMatrix, DataRef,
    DatasetVersion, Deployer, EvaluatedOn, Evaluation, Evaluator, Evidence, Flapping, FnTrainer, JobStatus, Judgement,
    LabelCheck, LabelChecks, LabelFaults, LabelledRows, LatencyBound, Manifest, Measured, Member, Metric, MetricTable,
    Model, ModelFigures, ModelRecord, ModelSlot, Paired, PairedEvaluator, Profile, Race, Recipe, Requirement, Run,
    RunId, RunState, ScoreJob, Scores, Served, SliceEvidence, SliceFigures, Tabulate, TakenOver, TrainJob, Trained,
    Trainer, Verdict, Verified, Watch, WatchVerdict, verify_batch,
};
pub use review::{
    Agreement, AnnotatorErrors, AnnotatorQuality, Answer, Assignment, Consensus, ExchangeFormat, ExportReport,
    ImportReport, LabelStudioOptions, PairAgreement, PooledLabel, PooledLabels, Refusal, ReviewQueue, Task, Ticket,
    consensus, consensus_within, label_studio_config,
};
pub use router::{
    Ask, Audited, AutoLabelPlan, Budget, CohortVerdict, ConfidenceRouter, ConfidenceStatus, Drawn, DriftExposure,
    HumanRouter, LabelRouter, PromotionPlan, QueryStrategy, Route, RouteContext, RouterFn, Traffic, plan_promotion,
    router_fn,
};
pub use sample::{Annotation, Annotator, Cause, Erasure, Flag, Lane, Reason, Sample, SampleState, Shadow, Transition};
pub use schema::{
    Evolution, Field, FieldKind, MISSING_CODE, Row, Schema, SchemaChange, SchemaError, Target, UNSEEN_CODE, Violation,
    ViolationKind, Widening,
};
pub use stage::{Blind, LiveMetric, Snapshot, Stage};
pub use store::{Committed, Expect, Fence, Fenced, Indexed, Key, Kind, MemoryStore, Record, Rev, Scan, Store, Write};
#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
pub use store::{SqliteError, SqliteStore};
pub use trigger::{
    All, Any, BackOff, Cooldown, Coverage, CoverageStatus, DailyBudget, Decision, DriftAlarm, Explanation, Firing,
    HarmAlarm, LabelQuality, LabelQualityStatus, LoopStatus, Memory, Missed, NewLabels, Not, Performance,
    RetrainTrigger, Schedule, TriggerExt, TriggerFn, all, any, days, drift, harm, hours, minutes, new_labels, not,
    schedule, simulate, trigger_fn,
};

/// The example of the README must compile.
#[cfg(all(doctest, any(feature = "sqlite", feature = "sqlite-system")))]
#[doc = include_str!("../README.md")]
pub struct ReadMe;
