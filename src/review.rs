//! The review queue: people claim tasks, answer, skip or release them.

mod answers;
mod change;
mod consensus;
mod exchange;
mod gold;
mod order;
mod quality;
mod queue;
mod settled;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::event::PredictionId;
use crate::router::Ask;
use crate::sample::Annotation;
use crate::schema::{Row, Schema};
use crate::store::{Expect, Indexed, Key, Kind, Rev, Write};

pub(crate) use consensus::standing;
pub use consensus::{Consensus, consensus, consensus_within};
pub use exchange::{ExchangeFormat, ExportReport, ImportReport, LabelStudioOptions, Refusal, label_studio_config};
pub use quality::{Agreement, AnnotatorErrors, AnnotatorQuality, PairAgreement, PooledLabel, PooledLabels};
pub use queue::ReviewQueue;

/// One question to people: what is the right label of this sample?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The sample.
    pub sample: PredictionId,
    /// How it is to be asked.
    pub ask: Ask,
    /// When it was put into the queue.
    pub created: DateTime<Utc>,
    /// The encoded input, of the version of the schema under which the task was asked: if the schema [grew](crate::Schema::evolve)
    /// since, [`Row::fit`] makes it a row of the present one.
    pub row: Row,
    /// What an annotator should see beside the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The model's output; hidden (empty) if the task is blind.
    #[serde(default, with = "crate::schema::row_floats")]
    pub output: Vec<f64>,
    /// The answers so far, oldest first.
    #[serde(default)]
    pub answers: Vec<Annotation>,
    /// Who would rather not answer.
    #[serde(default)]
    pub skipped_by: Vec<String>,
    /// The one person whom it was handed to; see [`ReviewQueue::reassign`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Assignment>,
    /// What no annotator is shown.
    #[serde(default, skip_serializing_if = "Hidden::is_empty")]
    pub(crate) hidden: Hidden,
}

impl Task {
    /// What is left of a task whose sample was erased.
    pub(crate) fn empty(sample: PredictionId, ask: Ask, created: DateTime<Utc>, schema: &Schema) -> Self {
        Task {
            sample,
            ask,
            created,
            row: Row::new(schema),
            payload: None,
            output: Vec::new(),
            answers: Vec::new(),
            skipped_by: Vec::new(),
            assigned: None,
            hidden: Hidden::default(),
        }
    }
}

/// A task was handed to one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who is to answer.
    pub to: String,
    /// Who handed it on.
    pub by: String,
    /// From when on anybody may get it.
    pub until: DateTime<Utc>,
}

/// The part of a task that no annotator is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hidden {
    /// Requests that were carried out: annotator and key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requests: Vec<(String, String)>,
    /// What is known, if this is a gold question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gold: Option<gold::Gold>,
}

impl Hidden {
    fn is_empty(&self) -> bool {
        *self == Hidden::default()
    }
}

/// A task that an annotator holds for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// The task; if it is blind, without what others answered or skipped.
    pub task: Task,
    /// Revision of the task's record.
    pub rev: Rev,
    /// When somebody else may get the task. An answer after that is still taken.
    pub expires: DateTime<Utc>,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is stored; the task is `done` if enough people have answered.
    Recorded {
        /// Does the task need no more answers?
        done: bool,
    },
    /// This annotator had said so already, or the request was carried out before; nothing was added.
    AlreadyRecorded,
}

/// The write that puts a task into the queue; it fails if the sample has a task already.
///
/// A blind task never carries the model's output; a priority that is no number counts as 0.
///
/// # Errors
/// The task cannot be written as JSON.
pub(crate) fn task_write(pipeline: &Arc<str>, task: &Task) -> Result<Write, Error> {
    let mut task = task.clone();
    if task.ask.blind {
        task.output.clear();
    }
    if !task.ask.priority.is_finite() {
        task.ask.priority = 0.0;
    }
    Ok(Write {
        kind: Kind::Task,
        key: Key::new(pipeline, task.sample.to_string()),
        expect: Expect::Absent,
        indexed: Indexed { state: "open", rank: order::rank(&task), due: None },
        body: json(&task)?,
    })
}

fn json<T: Serialize>(value: &T) -> Result<Arc<[u8]>, Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Refused(format!("it cannot be written as JSON: {e}")))?;
    Ok(bytes.into())
}
