//! The way of a sample into training: its states, and the steps between them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Reason;

/// Where a sample is on its way into training. A sample is in exactly one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleState {
    /// Kept, not yet checked.
    Flagged,
    /// A gate refused it; kept with the reason, never trained on.
    Quarantined,
    /// Every gate let it pass.
    Admitted,
    /// In the review queue.
    Queued,
    /// Labelled by a model; provisional until its cohort's audit passes.
    AutoLabelled,
    /// Not to be labelled; kept with the reason.
    Skipped,
    /// Has a label that may enter a batch.
    Labelled,
    /// In a batch.
    Batched,
    /// Its content was erased before it came into a batch.
    Erased,
}

impl SampleState {
    /// Every state.
    pub const ALL: [SampleState; 9] = [
        SampleState::Flagged,
        SampleState::Quarantined,
        SampleState::Admitted,
        SampleState::Queued,
        SampleState::AutoLabelled,
        SampleState::Skipped,
        SampleState::Labelled,
        SampleState::Batched,
        SampleState::Erased,
    ];

    /// May a sample move from this state to `next`? What is in a batch stays there: a step from `Batched` to `Batched` tells that
    /// its label was taken back, or counts again.
    pub fn may_become(self, next: SampleState) -> bool {
        use SampleState::*;
        matches!(
            (self, next),
            (Flagged, Quarantined | Admitted)
                | (Admitted, Queued | AutoLabelled | Skipped | Labelled | Quarantined)
                | (Queued, Labelled | Skipped | Quarantined)
                | (AutoLabelled, Labelled | Queued | Quarantined | Skipped)
                | (Skipped, Queued | Labelled)
                | (Quarantined, Admitted)
                | (Labelled, Batched | Quarantined | Queued)
                | (Batched, Batched)
                | (Flagged | Quarantined | Admitted | Queued | AutoLabelled | Skipped | Labelled, Erased)
        )
    }

    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            SampleState::Flagged => "flagged",
            SampleState::Quarantined => "quarantined",
            SampleState::Admitted => "admitted",
            SampleState::Queued => "queued",
            SampleState::AutoLabelled => "auto_labelled",
            SampleState::Skipped => "skipped",
            SampleState::Labelled => "labelled",
            SampleState::Batched => "batched",
            SampleState::Erased => "erased",
        }
    }
}

/// One step of a sample's way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub time: DateTime<Utc>,
    /// From which state.
    pub from: SampleState,
    /// To which state.
    pub to: SampleState,
    /// Which stage moved it.
    pub by: String,
    /// Why.
    pub reason: Reason,
}
