//! The review queue: people claim tasks, answer, skip or release them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::PredictionId;
use crate::router::Ask;
use crate::sample::Annotation;
use crate::schema::Row;

/// One question to people: what is the right label of this sample?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The sample.
    pub sample: PredictionId,
    /// How it is to be asked.
    pub ask: Ask,
    /// When it was put into the queue.
    pub created: DateTime<Utc>,
    /// The encoded input.
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
}
