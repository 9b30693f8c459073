//! Retrain triggers: when to retrain, and why, or what is still missing.

mod combine;
mod cooldown;
mod count;
pub(crate) mod coverage;
mod drift;
mod schedule;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::BoxError;

pub use combine::{All, Any, all, any};
pub use cooldown::{Cooldown, TriggerExt, days, hours, minutes};
pub use count::{NewLabels, new_labels};
pub use coverage::Coverage;
pub use drift::{DriftAlarm, drift};
pub use schedule::{Schedule, schedule};

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
    /// Coverage of the flagged samples by the new labels.
    pub coverage: CoverageStatus,
    /// Drift alarms since the last run that nobody has acknowledged.
    pub open_alarms: u64,
    /// When the newest of them was raised.
    pub last_alarm: Option<DateTime<Utc>>,
    /// When the last run was requested.
    pub last_run: Option<DateTime<Utc>>,
    /// Is a run in flight?
    pub running: bool,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
