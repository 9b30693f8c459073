//! What the loop says about itself.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alarms::{AlarmRecord, AlarmState};
use super::isolated::StageStatus;
use super::retraining::HeldBatch;
use crate::detector::Reading;
use crate::event::ModelVersion;
use crate::retrain::{LabelCheck, LabelChecks, Run, RunId};
use crate::sample::SampleState;
use crate::store::Kind;
use crate::trigger::{Decision, LoopStatus};

/// What was counted since the loop was first opened, up to the last checkpoint before a crash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Predictions taken.
    pub predictions: u64,
    /// Predictions refused because their name was known.
    pub duplicate_predictions: u64,
    /// Predictions whose time was more than a day after the clock: taken as made in a day.
    pub future_predictions: u64,
    /// Predictions of a version that the stages are not based on: counted and remembered, not inspected.
    pub other_version: u64,
    /// Shadow predictions: remembered, not inspected.
    pub shadow: u64,
    /// Outcomes that joined.
    pub outcomes: u64,
    /// Outcomes that said what was known already.
    pub duplicate_outcomes: u64,
    /// Outcomes that corrected an earlier one.
    pub corrections: u64,
    /// Outcomes that took back an earlier one.
    pub retractions: u64,
    /// Outcomes and feedback about a prediction that is not known here; kept aside in the store.
    pub unmatched: u64,
    /// Outcomes, corrections, ratings and answers that do not fit the target; ignored.
    pub unusable_labels: u64,
    /// Outcomes and feedback whose row was no longer kept: they count in the statistics and make no sample.
    pub without_row: u64,
    /// Samples of which nothing was kept, because the redaction failed.
    pub redaction_failures: u64,
    /// Labels, outcomes and feedback about samples whose content was erased; dropped.
    pub after_erasure: u64,
    /// Feedback that joined.
    pub feedback: u64,
    /// Flags raised by detectors.
    pub flags: u64,
    /// Flags beyond a detector's budget per minute: counted, not kept.
    pub flags_over_budget: u64,
    /// Drift alarms raised.
    pub alarms: u64,
    /// Those of them that nothing followed from, because a gate found the feed broken.
    pub suppressed_alarms: u64,
    /// Samples kept.
    pub samples: u64,
    /// Labels of people that were applied.
    pub human_labels: u64,
    /// Labels made by the model.
    pub auto_labels: u64,
    /// Events that could not be applied in full, because the store could not be read.
    pub store_failures: u64,
    /// Times that the clock went back.
    pub clock_went_back: u64,
}

/// How the loop is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The present time of the loop.
    pub now: DateTime<Utc>,
    /// Position in the stream.
    pub sequence: u64,
    /// What was counted.
    pub counters: Counters,
    /// Samples by state.
    pub samples: BTreeMap<SampleState, u64>,
    /// Tasks that wait for people.
    pub waiting_tasks: u64,
    /// Detectors, gates and the router.
    pub stages: Vec<StageStatus>,
    /// What the trigger sees.
    pub trigger_view: LoopStatus,
    /// What the trigger said last.
    pub decision: Option<Decision>,
    /// The trigger's last error.
    pub trigger_error: Option<String>,
    /// The served version.
    pub champion: ModelVersion,
    /// The version before it, kept loaded for a rollback while it is watched.
    pub previous: Option<ModelVersion>,
    /// The last version that proved not worse than its predecessor.
    pub kept: Option<ModelVersion>,
    /// The run in flight.
    pub run: Option<Run>,
    /// How the watch stands, in one line.
    pub watch: Option<String>,
    /// How many labels a comparison of two models takes: what the watch, and the verdict on a candidate, can find at all.
    #[serde(default)]
    pub power: Option<String>,
    /// What outcomes, feedback and the models' own probabilities say of the served version beside the version before it,
    /// at the same label age, and how much of it is still to come. It describes; only the watch decides, on labels that both
    /// models have. After a crash, what came since the last checkpoint is not in it.
    #[serde(default)]
    pub maturity: Option<String>,
    /// How the race of the recipes stands (profile `adaptive`), in one line.
    pub race: Option<String>,
    /// Runs so far.
    pub runs: u64,
    /// Promotions so far.
    pub promotions: u64,
    /// Rollbacks so far.
    pub rollbacks: u64,
    /// Candidates not promoted so far: refused, or too little different from the served model. The runs say which.
    pub rejected: u64,
    /// The last run that was requested.
    pub last_run: Option<RunId>,
    /// The batch that a gate held last, until it is sealed, [signed off](crate::Pipeline::sign_off) or
    /// [refused](crate::Pipeline::refuse_batch).
    pub held: Option<HeldBatch>,
    /// The label-fault check that is open, or the people whose labels it holds back.
    #[serde(default)]
    pub label_check: Option<LabelCheck>,
    /// What the label-fault check has counted.
    #[serde(default)]
    pub label_checks: LabelChecks,
    /// Why the loop does not retrain by itself at present, if so.
    pub frozen: Option<String>,
    /// Changes that are not durable yet.
    pub pending: u64,
    /// Why the last poll failed, if it did.
    pub poll_error: Option<String>,
    /// Predictions, and outcomes and feedback, that the inbox refused; known to a running worker's `Control` only.
    pub refused: (u64, u64),
    /// What the store said last when it failed.
    pub store_error: Option<String>,
    /// The newest alarms that are not cleared, newest first, at most 20; [`Pipeline::alarms`](crate::Pipeline::alarms)
    /// lists all. How many are open, the [trigger's view](Status::trigger_view) says.
    pub alarms: Vec<AlarmRecord>,
    /// Alarms that somebody has acknowledged and that no move of the serving baseline has cleared.
    pub acknowledged_alarms: u64,
    /// How far the serving baseline has moved from the anchor, the first reference, so that slow drift cannot hide: the ten
    /// columns that moved most, largest effect first; empty until it has moved. The statistic is the Kolmogorov–Smirnov
    /// distance D of a numeric column's sample, or the total variation of a category column's shares; the effect of a numeric column is
    /// D or the change of its missing share, whichever is larger. It describes and tests nothing: no p-values.
    pub cumulative_drift: Vec<Reading>,
}

impl super::Pipeline {
    /// How the loop is doing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn status(&self) -> Result<Status, crate::error::Error> {
        let (view, checks) = (self.retraining.view(), self.retraining.check_view());
        let stages = self.detectors.iter().map(super::isolated::Isolated::status);
        let stages = stages.chain(self.gates.iter().map(super::isolated::Isolated::status));
        let stages = stages.chain(self.router.iter().map(super::isolated::Isolated::status)).collect();
        Ok(Status {
            pipeline: self.name.to_string(),
            now: self.now,
            sequence: self.sequence,
            counters: self.counters.clone(),
            samples: self.outbox.census()?.into_iter().filter(|(_, count)| *count > 0).collect(),
            waiting_tasks: self.outbox.count(Kind::Task, Some("open"))?,
            stages,
            trigger_view: self.loop_status(),
            decision: self.retraining.decision.clone(),
            trigger_error: self.retraining.trigger_error.clone(),
            champion: self.champion(),
            previous: view.previous,
            kept: view.kept,
            last_run: (view.runs > 0).then_some(RunId(view.runs)),
            run: view.run,
            watch: view.watch,
            power: view.power,
            maturity: view.maturity,
            race: view.race,
            runs: view.runs,
            promotions: view.promotions,
            rollbacks: view.rollbacks,
            rejected: view.rejected,
            held: view.held,
            label_check: checks.open,
            label_checks: checks.told,
            frozen: view.frozen,
            pending: self.outbox.pending() as u64,
            poll_error: self.poll_error.clone(),
            refused: (0, 0),
            store_error: self.outbox.last_error.clone(),
            alarms: self.standing_alarms()?,
            acknowledged_alarms: self.outbox.count(Kind::Alarm, Some(AlarmState::Acknowledged.as_str()))?,
            cumulative_drift: self.cumulative_drift.clone(),
        })
    }
}
