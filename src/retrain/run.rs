//! A run, from the trigger's decision to what became of its candidate.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::BatchId;
use crate::event::ModelVersion;
use crate::sample::Reason;
use crate::trigger::Explanation;

/// Name of a run: 1 is the first of its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run-{}", self.0)
    }
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Decided and written down; nothing outside has happened yet.
    Requested,
    /// Trainers are at work.
    Training,
    /// Trained; waits for evidence.
    Judging,
    /// Passed; waits for a person's approval.
    AwaitingApproval,
    /// Its candidate was promoted and is being watched.
    Watched,
    /// Its candidate was promoted and proved not worse.
    Kept,
    /// Its candidate was promoted; the labels did not suffice to say more.
    KeptUnproven,
    /// Its candidate was promoted and rolled back.
    RolledBack,
    /// Its candidate was refused, or changes too little to be worth a switch; the last note says which.
    Rejected,
    /// No verdict was reached, or the mode forbids to act on it.
    Inconclusive,
    /// A run after it took its place before there was a verdict, and took its evidence over.
    Superseded,
    /// Training or loading failed.
    Failed,
    /// A person ended it.
    Cancelled,
    /// Its batch was exported; there is no trainer, somebody else trains from the directory.
    Exported,
}

impl RunState {
    /// Is the run still under way (before its candidate serves or is refused)?
    pub fn in_flight(self) -> bool {
        matches!(self, RunState::Requested | RunState::Training | RunState::Judging | RunState::AwaitingApproval)
    }

    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Requested => "requested",
            RunState::Training => "training",
            RunState::Judging => "judging",
            RunState::AwaitingApproval => "awaiting_approval",
            RunState::Watched => "watched",
            RunState::Kept => "kept",
            RunState::KeptUnproven => "kept_unproven",
            RunState::RolledBack => "rolled_back",
            RunState::Rejected => "rejected",
            RunState::Inconclusive => "inconclusive",
            RunState::Superseded => "superseded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
            RunState::Exported => "exported",
        }
    }
}

/// One run, from the trigger's decision to what became of its candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Where it stands.
    pub state: RunState,
    /// When it was requested.
    pub requested: DateTime<Utc>,
    /// Why.
    pub why: Explanation,
    /// The batch that was sealed for it; `None` if there was nothing new.
    pub batch: Option<BatchId>,
    /// The model that was served when it began.
    pub base: ModelVersion,
    /// The models that it trained.
    pub models: Vec<ModelVersion>,
    /// The one of them that is judged, promoted or refused.
    pub candidate: Option<ModelVersion>,
    /// SHA-256, in hexadecimal, of its stored [`Evaluation`](crate::Evaluation); `None` as long as it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<String>,
    /// What happened, oldest first.
    pub notes: Vec<(DateTime<Utc>, Reason)>,
}
