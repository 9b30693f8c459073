//! What a detector looks at: observations of one model version, column by column, in the order of arrival.

use chrono::{DateTime, Utc};
use ndarray::ArrayView1;

use crate::event::{Feedback, Label, ModelVersion, Observation, PredictionId, predicted_label};
use crate::sample::Lane;
use crate::schema::Schema;

/// Most observations of one [`Chunk`].
pub(crate) const CHUNK_ROWS: usize = 256;
/// Places between the starts of two columns: one cache line more than the rows, as a row that is spread over columns a power
/// of two apart hits the same few sets of the cache again and again.
const STRIDE: usize = CHUNK_ROWS + 8;

/// A truth that joined its prediction, or was taken back.
///
/// Outcomes are truths, and so is what people agree on about a row of the [random lane](Lane::Random); what users say is
/// not. A prediction has one truth at a time, the outcome before people: the same from both comes once, another one as a
/// correction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Position in the stream: comparable with [`Chunk::sequence`].
    pub sequence: u64,
    /// The prediction that it is about.
    pub prediction: PredictionId,
    /// The model that made the prediction.
    pub model: ModelVersion,
    /// What was predicted, if the output was usable.
    pub predicted: Option<Label>,
    /// The probability of the predicted class; `None` for a value and for an unusable output.
    pub score: Option<f64>,
    /// The lane that drew the row when its truth arrived or before; `None` if no sample of it is known here. Rates over
    /// [`Lane::Random`] are fair, rates over other truths are those of what happened to be seen.
    pub lane: Option<Lane>,
    /// The truth; `None` if an earlier one was retracted.
    pub label: Option<Label>,
    /// What was believed before, if this corrects or retracts it.
    pub replaces: Option<Label>,
    /// When the prediction was made.
    pub predicted_at: DateTime<Utc>,
    /// When the truth arrived.
    pub time: DateTime<Utc>,
}

/// Feedback of a user that joined its prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Position in the stream.
    pub sequence: u64,
    /// What was said, by whom, about which prediction.
    pub feedback: Feedback,
    /// What was predicted, if the output was usable.
    pub predicted: Option<Label>,
}

/// A view of consecutive observations of **one** model version, with the truths and the feedback that joined since.
///
/// Columns are contiguous slices. Where a stream is cut into chunks carries no meaning: a detector gives the same
/// findings for every cut.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    pub(crate) buffer: &'a ChunkBuffer,
    pub(crate) schema: &'a Schema,
}

impl<'a> Chunk<'a> {
    /// The schema of the rows.
    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// The model version that made these predictions.
    pub fn model(&self) -> ModelVersion {
        self.buffer.model
    }

    /// Number of observations; it may be 0 when only truths or feedback arrived.
    pub fn len(&self) -> usize {
        self.buffer.ids.len()
    }

    /// Is there no observation?
    pub fn is_empty(&self) -> bool {
        self.buffer.ids.is_empty()
    }

    /// Names of the predictions.
    pub fn ids(&self) -> &'a [PredictionId] {
        &self.buffer.ids
    }

    /// When they were made.
    pub fn times(&self) -> &'a [DateTime<Utc>] {
        &self.buffer.times
    }

    /// Position of each observation in the stream, rising.
    pub fn sequence(&self) -> &'a [u64] {
        &self.buffer.sequence
    }

    /// Numeric column `column` (see [`Schema::value_columns`]); NaN is missing.
    pub fn values(&self, column: usize) -> &'a [f64] {
        let start = column * STRIDE;
        &self.buffer.values[start..start + self.len()]
    }

    /// Numeric column `column` as an `ndarray` view.
    pub fn values_view(&self, column: usize) -> ArrayView1<'a, f64> {
        ArrayView1::from(self.values(column))
    }

    /// Category column `column` (see [`Schema::code_columns`]).
    pub fn codes(&self, column: usize) -> &'a [u32] {
        let start = column * STRIDE;
        &self.buffer.codes[start..start + self.len()]
    }

    /// Output of observation `row`: probabilities, or value and interval.
    pub fn output(&self, row: usize) -> &'a [f64] {
        let width = self.schema.target().output_width();
        &self.buffer.outputs[row * width..(row + 1) * width]
    }

    /// What observation `row` predicted, if its output is usable.
    pub fn predicted(&self, row: usize) -> Option<Label> {
        predicted_label(self.schema.target(), self.output(row))
    }

    /// Truths that joined since the last chunk, in order.
    pub fn truths(&self) -> &'a [Truth] {
        &self.buffer.truths
    }

    /// Feedback that joined since the last chunk, in order.
    pub fn feedback(&self) -> &'a [Heard] {
        &self.buffer.feedback
    }
}

/// Storage behind [`Chunk`]; allocated once, filled and cleared by the worker.
#[derive(Debug, Clone, Default)]
pub struct ChunkBuffer {
    model: ModelVersion,
    ids: Vec<PredictionId>,
    times: Vec<DateTime<Utc>>,
    sequence: Vec<u64>,
    values: Vec<f64>,
    codes: Vec<u32>,
    outputs: Vec<f64>,
    truths: Vec<Truth>,
    feedback: Vec<Heard>,
}

impl ChunkBuffer {
    /// Room for one chunk of `schema`.
    pub fn new(schema: &Schema) -> Self {
        ChunkBuffer {
            ids: Vec::with_capacity(CHUNK_ROWS),
            times: Vec::with_capacity(CHUNK_ROWS),
            sequence: Vec::with_capacity(CHUNK_ROWS),
            values: vec![f64::NAN; schema.value_columns().len() * STRIDE],
            codes: vec![0; schema.code_columns().len() * STRIDE],
            outputs: Vec::with_capacity(schema.target().output_width() * CHUNK_ROWS),
            truths: Vec::with_capacity(CHUNK_ROWS),
            feedback: Vec::new(),
            model: ModelVersion::FIRST,
        }
    }

    /// Can `observation` join the observations that are here (same model version, room left)?
    pub fn accepts(&self, observation: &Observation) -> bool {
        self.ids.is_empty() || (self.ids.len() < CHUNK_ROWS && self.model == observation.model)
    }

    /// Adds an observation. The caller has asked [`ChunkBuffer::accepts`].
    pub fn push(&mut self, sequence: u64, observation: &Observation) {
        let row = self.ids.len();
        self.model = observation.model;
        self.ids.push(observation.id);
        self.times.push(observation.time);
        self.sequence.push(sequence);
        for (column, &value) in observation.row.values().iter().enumerate() {
            self.values[column * STRIDE + row] = value;
        }
        for (column, &code) in observation.row.codes().iter().enumerate() {
            self.codes[column * STRIDE + row] = code;
        }
        self.outputs.extend_from_slice(observation.output());
    }

    /// Adds a truth.
    pub fn push_truth(&mut self, truth: Truth) {
        self.truths.push(truth);
    }

    /// Adds feedback.
    pub fn push_feedback(&mut self, heard: Heard) {
        self.feedback.push(heard);
    }

    /// Is there nothing to inspect?
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.truths.is_empty() && self.feedback.is_empty()
    }

    /// Is a truth or a user's opinion here?
    pub(crate) fn is_told(&self) -> bool {
        !(self.truths.is_empty() && self.feedback.is_empty())
    }

    /// Number of observations.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.times.clear();
        self.sequence.clear();
        self.outputs.clear();
        self.truths.clear();
        self.feedback.clear();
    }

    /// The chunk.
    pub fn view<'a>(&'a self, schema: &'a Schema) -> Chunk<'a> {
        Chunk { buffer: self, schema }
    }
}
