//! What the host tells the loop: predictions, outcomes and feedback; and the names of things.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::schema::{Row, Schema, Target, row_floats};

/// Name of one prediction, and of the sample that may come of it. A UUID; ours are in v7 form and rise with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PredictionId(Uuid);

impl PredictionId {
    /// A prediction that the host has named itself, for example by its request id.
    pub fn from_uuid(id: Uuid) -> Self {
        PredictionId(id)
    }

    /// The UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    pub(crate) fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl std::fmt::Display for PredictionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for PredictionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(PredictionId)
    }
}

/// Makes ids in UUID v7 form from the clock, a tag of this process and a counter, without a random number per id.
#[derive(Debug)]
pub(crate) struct IdSource {
    tag: u64,
    counter: AtomicU64,
}

impl IdSource {
    /// `tag` tells processes apart; 24 bits of it are used.
    pub(crate) fn new(tag: u64) -> Self {
        IdSource { tag: tag & 0xff_ffff, counter: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self, time: DateTime<Utc>) -> PredictionId {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let millis = (time.timestamp_millis().max(0) as u64) & 0xffff_ffff_ffff;
        // 48 bits of time, version 7, 12 + 38 bits of counter, variant, 24 bits of process tag.
        let high = (millis << 16) | 0x7000 | ((counter >> 38) & 0xfff);
        let low = (0b10 << 62) | ((counter & 0x3f_ffff_ffff) << 24) | self.tag;
        PredictionId(Uuid::from_u64_pair(high, low))
    }
}

/// Version of a model: 0 is the one that the loop started with, every candidate gets the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelVersion(pub u64);

impl ModelVersion {
    /// The model that the loop started with.
    pub const FIRST: ModelVersion = ModelVersion(0);
}

impl std::fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// What the model said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Output<'a> {
    /// One probability per class, in the order of the schema's classes.
    Probabilities(&'a [f64]),
    /// A value, with the model's predictive interval if it has one.
    Value {
        /// The predicted value.
        value: f64,
        /// Lower and upper end of the predictive interval.
        interval: Option<(f64, f64)>,
    },
}

/// Does the prediction serve the host's users?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The served prediction.
    #[default]
    Live,
    /// A prediction that a challenger made beside the served one.
    Shadow,
}

/// The truth about one row: a class index, or a value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Index of the class in the schema.
    Class(u32),
    /// The value.
    Value(f64),
}

impl Label {
    /// Does the label suit the target, and can it be worked with?
    pub fn fits(self, target: &Target) -> bool {
        match (self, target) {
            (Label::Class(class), Target::Classes(names)) => (class as usize) < names.len(),
            (Label::Value(value), Target::Value) => value.is_finite(),
            _ => false,
        }
    }

    /// The class index or value as a number.
    pub fn number(self) -> f64 {
        match self {
            Label::Class(class) => f64::from(class),
            Label::Value(value) => value,
        }
    }
}

/// One prediction with its input, as it travels from the host to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Its name.
    pub id: PredictionId,
    /// When it was made.
    pub time: DateTime<Utc>,
    /// Which model made it.
    pub model: ModelVersion,
    /// Served, or made in the shadow.
    pub role: Role,
    /// The encoded input.
    pub row: Row,
    // A value with its interval takes three numbers: up to there the output is no allocation of its own.
    #[serde(with = "row_floats")]
    pub(crate) output: SmallVec<[f64; 3]>,
    /// Flagged by a guard on the host's own thread.
    pub(crate) guarded: bool,
    /// How long the host's model took, if the host said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
}

impl Observation {
    /// An observation with empty buffers of the schema's size, to be filled.
    pub fn new(schema: &Schema) -> Self {
        Observation {
            id: PredictionId(Uuid::nil()),
            time: DateTime::<Utc>::UNIX_EPOCH,
            model: ModelVersion::FIRST,
            role: Role::Live,
            row: Row::new(schema),
            output: SmallVec::from_elem(f64::NAN, schema.target().output_width()),
            guarded: false,
            latency: None,
        }
    }

    /// Stores the output; parts that do not fit the target become NaN, which every stage treats as an anomaly.
    pub fn set_output(&mut self, output: Output<'_>) {
        self.output.fill(f64::NAN);
        match output {
            Output::Probabilities(probabilities) => {
                if probabilities.len() == self.output.len() {
                    self.output.copy_from_slice(probabilities);
                }
            }
            Output::Value { value, interval } => {
                if let [v, low, high] = self.output.as_mut_slice() {
                    *v = value;
                    if let Some((l, h)) = interval {
                        (*low, *high) = (l, h);
                    }
                }
            }
        }
    }

    /// The output: one probability per class; or value, lower and upper end of the interval (NaN where unknown).
    pub fn output(&self) -> &[f64] {
        &self.output
    }
}

/// The class with the largest probability (the first of equals), or `None` if a probability is not finite.
pub fn top_class(probabilities: &[f64]) -> Option<(u32, f64)> {
    let mut best: Option<(u32, f64)> = None;
    for (class, &p) in probabilities.iter().enumerate() {
        if !p.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, top)| p > top) {
            best = Some((class as u32, p));
        }
    }
    best
}

/// What a model's output means as a label, under `target`; `None` if it is not a usable output.
pub fn predicted_label(target: &Target, output: &[f64]) -> Option<Label> {
    match target {
        Target::Classes(_) => top_class(output).map(|(class, _)| Label::Class(class)),
        Target::Value => output.first().copied().filter(|v| v.is_finite()).map(Label::Value),
    }
}

/// The probability of the predicted class; `None` for a value and for an unusable output.
pub(crate) fn predicted_probability(target: &Target, output: &[f64]) -> Option<f64> {
    match target {
        Target::Classes(_) => top_class(output).map(|(_, probability)| probability),
        Target::Value => None,
    }
}

/// What the world said about a prediction, possibly late.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which prediction.
    pub prediction: PredictionId,
    /// The truth; `None` retracts what was said before.
    pub label: Option<Label>,
}

impl Outcome {
    /// The truth about `prediction`. A second one corrects the first.
    pub fn truth(prediction: PredictionId, label: Label) -> Self {
        Outcome { prediction, label: Some(label) }
    }

    /// Takes back what was said about `prediction`.
    pub fn retraction(prediction: PredictionId) -> Self {
        Outcome { prediction, label: None }
    }
}

/// What a user said about a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opinion {
    /// The user knows better.
    Correction(Label),
    /// From 0 (worst) to 1 (best).
    Rating(f64),
    /// The user refused the prediction without saying what would be right.
    Rejection,
}

/// Explicit feedback of one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// Which prediction.
    pub prediction: PredictionId,
    /// Who; any stable name.
    pub user: String,
    /// What was said.
    pub opinion: Opinion,
}

/// One thing that happened, in the order in which it is to be applied.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The model predicted.
    Prediction(Box<Observation>),
    /// The truth arrived, changed or was taken back.
    Outcome(Outcome),
    /// A user spoke.
    Feedback(Box<Feedback>),
}
