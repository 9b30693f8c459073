//! Retrain triggers: when to retrain, and why, or what is still missing.

mod back_off;
mod combine;
mod cooldown;
mod count;
pub(crate) mod coverage;
mod daily_budget;
mod drift;
mod harm;
mod limit;
mod negate;
mod performance;
mod quality;
mod schedule;
mod simulate;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::BoxError;
use crate::stage::{LiveMetric, isolate};

pub use back_off::BackOff;
pub use combine::{All, Any, all, any};
pub use cooldown::Cooldown;
pub use count::{NewLabels, new_labels};
pub use coverage::Coverage;
pub use daily_budget::DailyBudget;
pub(crate) use daily_budget::{DAY, MOST_RECENT};
pub use drift::{DriftAlarm, drift};
pub use harm::{HarmAlarm, harm};
pub use limit::{TriggerExt, days, hours, minutes};
pub use negate::{Not, not};
pub use performance::Performance;
pub use quality::LabelQuality;
pub use schedule::{Missed, Schedule, schedule};
pub use simulate::{Firing, simulate};

/// How much of what was flagged since the last batch the new labels cover; see [`Coverage`](crate::Coverage).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CoverageStatus {
    /// Weighted share of flagged samples with a label nearby, in [0, 1].
    pub covered: f64,
    /// Admitted, flagged, unretracted samples since the last batch.
    pub flagged: u64,
    /// Labels of people or the world since then.
    pub labels: u64,
    /// Coverage of every cell (detector, predicted class) that holds at least a tenth of the flagged samples.
    pub cells: Vec<f64>,
}

/// How good the labels since the last batch are.
///
/// A sample that two or more people answered is compared; what each said last counts. Where a second person is asked only
/// because the first label is in doubt, agreement is lower than among all labels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LabelQualityStatus {
    /// Samples that wait with a label and that people answered.
    pub labels: u64,
    /// Samples that two or more people answered, whether they have a label or wait for another opinion.
    pub compared: u64,
    /// Share of the answers to those that more than half of the answers to the same sample say; `None` without any.
    pub agreement: Option<f64>,
    /// Answered samples that came into doubt: people differ, or a gate sent the label back to them.
    pub doubted: u64,
    /// Those of them that have a label again.
    pub settled: u64,
    /// Answered samples that went into quarantine since the last batch.
    pub quarantined: u64,
}

/// What a trigger may look at. Building it costs the same whatever the loop's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoopStatus {
    /// The present time.
    pub now: DateTime<Utc>,
    /// When the loop was first opened.
    pub started: DateTime<Utc>,
    /// Observations so far.
    pub observations: u64,
    /// Samples that wait with a label that may enter the next batch.
    pub labels: u64,
    /// Those of them that people or the world gave.
    pub independent_labels: u64,
    /// Rows of batches whose label was corrected or taken back since the last batch: the next one says so.
    #[serde(default)]
    pub corrected_labels: u64,
    /// Coverage of the flagged samples by the new labels.
    pub coverage: CoverageStatus,
    /// Alarms of any kind since the last run that nobody has acknowledged.
    pub open_alarms: u64,
    /// When the newest of them was raised.
    pub last_alarm: Option<DateTime<Utc>>,
    /// Those of them that are about [harm](crate::AlarmKind::Harm).
    #[serde(default)]
    pub open_harm_alarms: u64,
    /// When the newest of those was raised.
    #[serde(default)]
    pub last_harm_alarm: Option<DateTime<Utc>>,
    /// How good the served model is, by what the detectors measure.
    #[serde(default)]
    pub metrics: Vec<LiveMetric>,
    /// How good the new labels are.
    #[serde(default)]
    pub label_quality: LabelQualityStatus,
    /// Labels in all batches so far.
    #[serde(default)]
    pub sealed_labels: u64,
    /// Those of them that people or the world gave.
    #[serde(default)]
    pub sealed_independent_labels: u64,
    /// When the last run was requested.
    pub last_run: Option<DateTime<Utc>>,
    /// Is a run in flight?
    pub running: bool,
    /// When each run of the last 24 hours was requested, oldest first; the newest 1,000.
    #[serde(default)]
    pub recent_runs: Vec<DateTime<Utc>>,
    /// Runs that failed in a row since the last one that did not.
    #[serde(default)]
    pub failed_runs: u32,
    /// When the last run failed.
    #[serde(default)]
    pub last_failed_run: Option<DateTime<Utc>>,
}

impl LoopStatus {
    /// A loop that was just opened, where nothing has happened yet: a start for tests of a trigger.
    pub fn new(started: DateTime<Utc>) -> Self {
        LoopStatus {
            now: started,
            started,
            observations: 0,
            labels: 0,
            independent_labels: 0,
            corrected_labels: 0,
            coverage: CoverageStatus::default(),
            open_alarms: 0,
            last_alarm: None,
            open_harm_alarms: 0,
            last_harm_alarm: None,
            metrics: Vec::new(),
            label_quality: LabelQualityStatus::default(),
            sealed_labels: 0,
            sealed_independent_labels: 0,
            last_run: None,
            running: false,
            recent_runs: Vec::new(),
            failed_runs: 0,
            last_failed_run: None,
        }
    }
}

/// What a trigger remembers from one evaluation to the next. The pipeline keeps it and commits it with the decision,
/// so that a trigger itself is pure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cells: BTreeMap<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    children: Vec<Memory>,
}

impl Memory {
    /// What was remembered under `key`, if it is of this type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.cells.get(key).and_then(|value| serde_json::from_value(value.clone()).ok())
    }

    /// Remembers `value` under `key`.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn set<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), BoxError> {
        self.cells.insert(key.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }

    /// The memory of the `index`-th part of a combined trigger.
    pub fn child(&mut self, index: usize) -> &mut Memory {
        if self.children.len() <= index {
            self.children.resize_with(index + 1, Memory::default);
        }
        &mut self.children[index]
    }
}

/// Why a trigger fired or waits; combined triggers explain every part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Name of the trigger.
    pub trigger: String,
    /// Did this part fire?
    pub fired: bool,
    /// Why it fired, or what it still waits for, in one line.
    pub text: String,
    /// The parts of a combined trigger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Explanation>,
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.trigger, self.text)?;
        for (index, part) in self.parts.iter().enumerate() {
            write!(f, "{}{part}", if index == 0 { " [" } else { "; " })?;
        }
        if self.parts.is_empty() { Ok(()) } else { f.write_str("]") }
    }
}

/// What a trigger decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Retrain now.
    Fire(Explanation),
    /// Not yet.
    Wait {
        /// How far it is, from 0 to 1.
        progress: f64,
        /// What is missing.
        why: Explanation,
    },
}

impl Decision {
    /// Does it say: retrain now?
    pub fn fires(&self) -> bool {
        matches!(self, Decision::Fire(_))
    }

    /// How far it is: 1 if it fires.
    pub fn progress(&self) -> f64 {
        match self {
            Decision::Fire(_) => 1.0,
            Decision::Wait { progress, .. } => *progress,
        }
    }

    /// The explanation.
    pub fn why(&self) -> &Explanation {
        match self {
            Decision::Fire(why) | Decision::Wait { why, .. } => why,
        }
    }
}

/// Decides when to retrain, always with the reason.
///
/// A trigger is pure: its memory is handed in, and committed together with the decision by whoever holds the lease.
pub trait RetrainTrigger: Send + Sync {
    /// Short, stable name.
    fn name(&self) -> &str;

    /// Fire or wait.
    ///
    /// # Errors
    /// Only if the trigger itself cannot work; then the loop waits and shows the error in its status.
    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError>;
}

impl<T: RetrainTrigger + ?Sized> RetrainTrigger for Box<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        (**self).evaluate(status, memory)
    }
}

/// A trigger made of a closure that says yes or no, and why.
pub fn trigger_fn<F>(name: impl Into<String>, evaluate: F) -> TriggerFn<F>
where
    F: Fn(&LoopStatus, &mut Memory) -> Result<(bool, String), BoxError> + Send + Sync,
{
    TriggerFn { name: name.into(), evaluate }
}

/// See [`trigger_fn`].
pub struct TriggerFn<F> {
    name: String,
    evaluate: F,
}

impl<F> RetrainTrigger for TriggerFn<F>
where
    F: Fn(&LoopStatus, &mut Memory) -> Result<(bool, String), BoxError> + Send + Sync,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let (fired, text) = (self.evaluate)(status, memory)?;
        let why = Explanation { trigger: self.name.clone(), fired, text, parts: Vec::new() };
        Ok(if fired { Decision::Fire(why) } else { Decision::Wait { progress: 0.0, why } })
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn RetrainTrigger>) {}

/// The decision of a trigger that has come `progress` far and fires at 1; while a run is in flight, it waits.
fn settle(name: &str, status: &LoopStatus, progress: f64, mut text: String) -> Decision {
    let reached = progress >= 1.0;
    if reached && status.running {
        text.push_str("; waits for the run in flight");
    }
    let fired = reached && !status.running;
    let why = Explanation { trigger: name.to_owned(), fired, text, parts: Vec::new() };
    if fired { Decision::Fire(why) } else { Decision::Wait { progress: progress.clamp(0.0, 1.0), why } }
}

/// Asks `trigger`. What fires counts only if there is something new to train on: until then its memory is not kept, and the
/// first label, or correction of one, starts the run. A failure or a panic leaves the memory as it was.
pub(crate) fn decide<T: RetrainTrigger + ?Sized>(
    trigger: &T,
    status: &LoopStatus,
    memory: &mut Memory,
) -> Result<Decision, BoxError> {
    let mut tried = memory.clone();
    let decision = isolate(|| trigger.evaluate(status, &mut tried))?;
    match decision {
        Decision::Fire(mut why) if status.labels + status.corrected_labels == 0 => {
            why.text += "; waits for the first label to train on";
            Ok(Decision::Wait { progress: 0.0, why })
        }
        decision => {
            *memory = tried;
            Ok(decision)
        }
    }
}

/// A length of time in its two largest units, as in "5 h 59 min"; what is below a second counts as none.
fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
