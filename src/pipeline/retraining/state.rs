//! Where the machine stands: what of it survives, and the shapes of what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use super::super::shadow::Recorded;
use super::tally::Tally;
use super::{HeldBatch, PromotionKind};
use crate::event::{ModelVersion, Observation, PredictionId};
use crate::retrain::label_faults::Checking;
use crate::retrain::{BatchId, DatasetVersion, Evidence, Flapping, Race, Recipe, Run, RunId, Watch};
use crate::sample::Reason;
use crate::schema::Schema;
use crate::trigger::Memory;

/// One training job of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) key: String,
    pub(super) recipe: Recipe,
    pub(super) digest: String,
    /// Without the batches, which are the newest ones while it is under way; an earlier version wrote them, or nothing.
    #[serde(default)]
    pub(super) dataset: Option<DatasetVersion>,
    pub(super) version: Option<ModelVersion>,
    pub(super) failed: Option<String>,
}

impl Job {
    /// Has it not ended?
    pub(super) fn is_open(&self) -> bool {
        self.version.is_none() && self.failed.is_none()
    }
}

/// Where the run in flight stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    #[default]
    Idle,
    Requested,
    Training(Vec<Job>),
    Smoke,
    Validating,
    Judging,
    AwaitingApproval,
    Deploying {
        to: ModelVersion,
        kind: PromotionKind,
        reason: Reason,
    },
}

/// Judge, then train: the labels of a round judge every live model before they may be trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) key: String,
    pub(super) samples: Vec<PredictionId>,
    pub(super) models: Vec<ModelVersion>,
    /// Samples for which every model's output was recorded in production when the round began: they are not scored again.
    #[serde(default)]
    pub(super) recorded: BTreeSet<PredictionId>,
}

/// A look at where the rivals disagree: its inputs do not change while it is under way.
#[derive(Debug)]
pub(super) struct Comparing {
    pub(super) key: String,
    pub(super) rows: Vec<Observation>,
    pub(super) models: Vec<ModelVersion>,
    /// What every model said of a row in production, where all of it was recorded.
    pub(super) known: Vec<Recorded>,
}

/// The part of the state that survives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LoopState {
    pub(super) schema: String,
    pub(super) started: DateTime<Utc>,
    pub(super) next_version: u64,
    pub(super) next_run: u64,
    pub(super) next_round: u64,
    pub(super) champion: ModelVersion,
    pub(super) previous: Option<ModelVersion>,
    pub(super) kept: Option<ModelVersion>,
    pub(super) run: Option<Run>,
    pub(super) phase: Phase,
    pub(super) round: Option<Round>,
    pub(super) race: Race,
    pub(super) race_models: BTreeMap<Recipe, ModelVersion>,
    /// What the recipes have in the blend of the run in flight.
    #[serde(default)]
    pub(super) shares: BTreeMap<String, f64>,
    pub(super) evidence: Option<Evidence>,
    /// The candidates that were superseded, and whose evidence that is: labels may still come for rows that were drawn to judge
    /// them.
    #[serde(default)]
    pub(super) line: BTreeMap<RunId, ModelVersion>,
    /// Live rows on which candidate and champion were compared without labels, and on how many they differed.
    pub(super) compared: (u64, u64),
    pub(super) watch: Option<Watch>,
    pub(super) watched_run: Option<RunId>,
    pub(super) flapping: Flapping,
    pub(super) frozen: Option<String>,
    pub(super) memory: Memory,
    pub(super) last_run: Option<DateTime<Utc>>,
    pub(super) last_batch: Option<BatchId>,
    /// How many batches there are: `last_batch`, and those before it by their parents. An earlier version listed them.
    #[serde(deserialize_with = "counted")]
    pub(super) batches: u64,
    /// The newest batch of which, and of those before it, no row has content any more, as far as retention has looked.
    #[serde(default)]
    pub(super) emptied: Option<BatchId>,
    /// The batch that is being exported and is not sealed yet.
    #[serde(default)]
    pub(super) exporting: Option<BatchId>,
    pub(super) promotions: u64,
    pub(super) rollbacks: u64,
    pub(super) rejected: u64,
    /// After a rollback: rounds to wait before the trigger is asked again.
    pub(super) cool_off: u32,
    /// After a held or failed run: do not ask the trigger before this time.
    pub(super) back_off: Option<DateTime<Utc>>,
    pub(super) failures_in_a_row: u32,
    /// Scorings of a round that failed in a row.
    #[serde(default)]
    pub(super) round_failures: u32,
    /// The batch that waits for a person, or was signed off and waits for its run.
    #[serde(default)]
    pub(super) held: Option<HeldBatch>,
    #[serde(default)]
    pub(super) tally: Tally,
    /// Where the evaluated live rows of the candidate are kept, round by round.
    #[serde(default)]
    pub(super) live_rows: Vec<String>,
    /// Median time that the champion took to predict when the state was saved, as the host recorded it, and that of its
    /// predecessor: a process that has just begun has too few timings for a claim.
    #[serde(default)]
    pub(super) latency: Option<Duration>,
    #[serde(default)]
    pub(super) latency_before: Option<Duration>,
    /// The label-fault check.
    #[serde(default)]
    pub(super) checking: Checking,
}

impl LoopState {
    /// The state of a loop that serves its first model.
    pub(super) fn new(schema: &Schema, now: DateTime<Utc>) -> Self {
        LoopState {
            schema: schema.fingerprint().to_owned(),
            started: now,
            next_version: 1,
            next_run: 1,
            next_round: 1,
            champion: ModelVersion::FIRST,
            previous: None,
            kept: Some(ModelVersion::FIRST),
            run: None,
            phase: Phase::Idle,
            round: None,
            race: Race::new([Race::KEEP]),
            race_models: BTreeMap::new(),
            shares: BTreeMap::new(),
            evidence: None,
            line: BTreeMap::new(),
            compared: (0, 0),
            watch: None,
            watched_run: None,
            flapping: Flapping::default(),
            frozen: None,
            memory: Memory::default(),
            last_run: None,
            last_batch: None,
            batches: 0,
            emptied: None,
            exporting: None,
            promotions: 0,
            rollbacks: 0,
            rejected: 0,
            cool_off: 0,
            back_off: None,
            failures_in_a_row: 0,
            round_failures: 0,
            held: None,
            tally: Tally::default(),
            live_rows: Vec::new(),
            latency: None,
            latency_before: None,
            checking: Checking::default(),
        }
    }
}

/// The number of batches, whether counted or listed.
fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Batches {
        Counted(u64),
        Listed(Vec<BatchId>),
    }
    Ok(match Batches::deserialize(deserializer)? {
        Batches::Counted(count) => count,
        Batches::Listed(list) => list.len() as u64,
    })
}
