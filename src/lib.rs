//! feedloop closes the loop between a model in production and its training.

mod chunk;
mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod dataset;
mod detector;
mod error;
mod event;
mod files;
mod gate;
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
pub use detector::{Alarm, Detector, DetectorFn, Findings, Guard, GuardVerdict, Level, Reading, detector_fn};
pub use detector::{
    Correction, Covariance, ErrorRate, KsDrift, LowConfidence, Mahalanobis, OutputDrift, PredictionError, Threshold,
    UserFeedback,
};
pub use error::{BoxError, Error, StageError};
pub use event::{
    Event, Feedback, Label, ModelVersion, Observation, Opinion, Outcome, Output, PredictionId, Role, predicted_label,
    top_class,
};
pub use gate::{Admission, Audit, BatchDraft, DraftRow, GateContext, GateFn, QualityGate, gate_fn};
pub use gate::{Deduplicate, LabelConsistency, Relevance, SchemaGate};
pub use pipeline::{
    Control, Counters, Draft, Ingested, Lineage, LineageStep, Mode, Pipeline, PipelineBuilder, Polled, PromotionKind,
    PromotionRecord, Recorder, Refused, StageStatus, Status, Worker,
};
pub use reference::{Half, REFERENCE_ROWS, Reference, ReferenceBuilder, ReferenceRow, References};
pub use retrain::{
    AdaptiveRules, Artifact, BatchId, CommandTrainer, Comparison, ConfirmRules, Deployer, Evaluator, Evidence,
    Flapping, FnTrainer, JobStatus, Judgement, Manifest, Model, ModelRecord, ModelSlot, Paired, PairedEvaluator,
    Profile, Race, Recipe, Run, RunId, RunState, ScoreJob, Scores, Served, SliceEvidence, TrainJob, Trained, Trainer,
    Verdict, Watch, WatchVerdict,
};
pub use review::{Answer, Consensus, ReviewQueue, Task, Ticket, consensus, consensus_within};
pub use router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext, RouterFn, router_fn};
pub use router::{Budget, ConfidenceRouter, ConfidenceStatus};
pub use sample::{Annotation, Annotator, Cause, Flag, Lane, Reason, Sample, SampleState, Transition};
pub use schema::{
    Field, FieldKind, MISSING_CODE, Row, Schema, SchemaError, Target, UNSEEN_CODE, Violation, ViolationKind,
};
pub use stage::{Blind, Snapshot, Stage};
pub use store::{Committed, Expect, Fence, Fenced, Indexed, Key, Kind, MemoryStore, Record, Rev, Scan, Store, Write};
#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
pub use store::{SqliteError, SqliteStore};
pub use trigger::{
    All, Any, Cooldown, Coverage, CoverageStatus, Decision, DriftAlarm, Explanation, LoopStatus, Memory, NewLabels,
    RetrainTrigger, Schedule, TriggerExt, TriggerFn, all, any, days, drift, hours, minutes, new_labels, schedule,
    trigger_fn,
};
