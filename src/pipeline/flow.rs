//! Settings and state of the way of an event: ledger (`join`), detectors, gates and router (`keep`), labels (`label`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::event::{Feedback, ModelVersion, Outcome, PredictionId};
use crate::retrain::maturity::Cohort;
use crate::router::CohortVerdict;
use crate::schema::{Row, Schema};
use crate::stage::Snapshot;

/// Priority of tasks that judge models: before everything else, and the random lane before the comparison lane, whose
/// rows are only asked about while a candidate is open.
pub(super) const JUDGING_PRIORITY: f64 = 1e6;

/// Outcomes and feedback that wait for one unknown prediction.
pub(super) const MOST_PARKED_EACH: usize = 16;

/// Makes what an annotator should see beside the row; runs on the worker, only for rows that are kept.
pub(super) type Payload = Box<dyn Fn(&Schema, &Row) -> String + Send>;

/// What the builder settled.
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) explore: f64,
    pub(super) outcome_share: f64,
    pub(super) flags_per_minute: u32,
    pub(super) most_pending: usize,
    pub(super) most_parked: usize,
    pub(super) checkpoint_every: u64,
    pub(super) checkpoint_after: TimeDelta,
    pub(super) inbox: usize,
    pub(super) reserve: usize,
    pub(super) poll_every: std::time::Duration,
    pub(super) expire_tasks: Option<TimeDelta>,
    pub(super) retention: Option<super::Retention>,
}

/// State of the flow that is not a stage's.
#[derive(Default)]
pub(super) struct Flow {
    /// Flags of each detector in the present minute.
    pub(super) minute: i64,
    pub(super) flags_in_minute: Vec<u32>,
    /// What arrived before its prediction.
    pub(super) parked: HashMap<PredictionId, Vec<Parked>>,
    /// Alarms that nobody and no batch has acknowledged.
    pub(super) open_alarms: u64,
    pub(super) last_alarm: Option<DateTime<Utc>>,
    /// Is any alarm open, or acknowledged and not cleared?
    pub(super) standing_alarm: bool,
    /// Those of them that are about harm.
    pub(super) open_harm_alarms: u64,
    pub(super) last_harm_alarm: Option<DateTime<Utc>>,
    pub(super) alarms_raised: u64,
    /// Questions that waited for people when this ingest or poll began.
    pub(super) waiting: u64,
    pub(super) checkpointed_at: Option<DateTime<Utc>>,
    pub(super) checkpointed_sequence: u64,
    /// Have detectors heard people's labels since the checkpoint? Those do not move the position in the stream.
    pub(super) unsaved: bool,
    /// Samples whose question is not known to be in the queue.
    pub(super) unasked: BTreeSet<PredictionId>,
    /// Verdicts of the router on cohorts that are not carried out yet.
    pub(super) verdicts: Vec<(u64, CohortVerdict)>,
    /// Has the router made or judged an auto-label since its state was saved?
    pub(super) router_moved: bool,
    /// Up to here the ledger comes from a checkpoint of an earlier process.
    pub(super) restored_sequence: u64,
    pub(super) retry_after: Option<DateTime<Utc>>,
    /// When retention looks again.
    pub(super) retain_after: Option<DateTime<Utc>>,
    /// Was something overwritten that the store has yet to make unreadable?
    pub(super) unscrubbed: bool,
    /// When each task was put into the queue, oldest first.
    pub(super) tasks: VecDeque<(DateTime<Utc>, PredictionId)>,
}

/// What waits for its prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Parked {
    Outcome(Outcome),
    Feedback(Feedback),
}

/// What a checkpoint holds beside the ledger.
#[derive(Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) sequence: u64,
    pub(super) counters: super::Counters,
    pub(super) stage_model: ModelVersion,
    pub(super) stages: BTreeMap<String, Snapshot>,
    #[serde(default)]
    pub(super) cohorts: Vec<Cohort>,
}
