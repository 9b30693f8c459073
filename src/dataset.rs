//! Labelled rows in columns: what a batch holds and a trainer gets.

use std::sync::Arc;

use ndarray::Array2;
use sha2::{Digest, Sha256};

use crate::event::{Label, PredictionId};
use crate::schema::{Row, Schema, SchemaError, hex};

/// Rows of one schema with a label and a weight each, oldest first.
#[derive(Debug, Clone)]
pub struct Dataset {
    schema: Arc<Schema>,
    rows: Vec<Row>,
    labels: Vec<Label>,
    weights: Vec<f64>,
}

impl Dataset {
    /// No rows yet.
    pub fn new(schema: Arc<Schema>) -> Self {
        Dataset { schema, rows: Vec::new(), labels: Vec::new(), weights: Vec::new() }
    }

    /// Rows given as plain numbers, each with weight 1.
    ///
    /// # Errors
    /// A row of another length than the schema has numeric columns, or a label that does not fit the target.
    pub fn from_values<R: AsRef<[f64]>>(
        schema: Arc<Schema>,
        rows: impl IntoIterator<Item = (R, Label)>,
    ) -> Result<Self, SchemaError> {
        let mut dataset = Dataset::new(schema);
        for (values, label) in rows {
            let row = Row::from_values(&dataset.schema, values.as_ref())?;
            dataset.push(row, label, 1.0)?;
        }
        Ok(dataset)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row has another width than the schema, the label does not fit the target, or the weight is not a finite
    /// number of at least 0.
    pub fn push(&mut self, row: Row, label: Label, weight: f64) -> Result<(), SchemaError> {
        let expected = self.schema.value_columns().len();
        if row.values().len() != expected {
            return Err(SchemaError::Width { found: row.values().len(), expected });
        }
        if !label.fits(self.schema.target()) {
            return Err(SchemaError::BadTarget(format!("the label {label:?} does not fit the target")));
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(SchemaError::BadTarget(format!("the weight {weight} is not a finite number of at least 0")));
        }
        self.rows.push(row);
        self.labels.push(label);
        self.weights.push(weight);
        Ok(())
    }

    /// The schema of the rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is there no row?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, oldest first.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The label of each row.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The class of each row; 0 where the label is a value.
    pub fn class_labels(&self) -> Vec<usize> {
        self.labels.iter().map(|label| if let Label::Class(class) = label { *class as usize } else { 0 }).collect()
    }

    /// The training weight of each row.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The numeric columns as a matrix: rows × [`Schema::value_columns`], NaN where missing.
    pub fn values(&self) -> Array2<f64> {
        let width = self.schema.value_columns().len();
        Array2::from_shape_fn((self.rows.len(), width), |(row, column)| self.rows[row].values()[column])
    }

    /// The newest `count` rows.
    pub fn newest(&self, count: usize) -> Dataset {
        let from = self.len().saturating_sub(count);
        Dataset {
            schema: self.schema.clone(),
            rows: self.rows[from..].to_vec(),
            labels: self.labels[from..].to_vec(),
            weights: self.weights[from..].to_vec(),
        }
    }

    /// Appends the rows of `other`.
    ///
    /// # Errors
    /// `other` has another schema.
    pub fn extend(&mut self, other: &Dataset) -> Result<(), SchemaError> {
        if self.schema != other.schema {
            return Err(SchemaError::Fingerprint {
                found: other.schema.fingerprint().into(),
                expected: self.schema.fingerprint().into(),
            });
        }
        self.rows.extend_from_slice(&other.rows);
        self.labels.extend_from_slice(&other.labels);
        self.weights.extend_from_slice(&other.weights);
        Ok(())
    }

    /// Appends the rows of `other`, which may have an earlier version of the schema.
    pub(crate) fn extend_older(&mut self, other: &Dataset) -> Result<(), SchemaError> {
        if self.schema != other.schema {
            other.schema.evolve(&self.schema)?;
        }
        for ((row, label), weight) in other.rows.iter().zip(&other.labels).zip(&other.weights) {
            let mut row = row.clone();
            row.fit(&self.schema);
            self.push(row, *label, *weight)?;
        }
        Ok(())
    }

    /// The rows of positive weight, with these weights instead of their own.
    pub(crate) fn reweighted(&self, weights: &[f64]) -> Dataset {
        let taken = || weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        Dataset {
            schema: self.schema.clone(),
            rows: taken().map(|(row, _)| self.rows[row].clone()).collect(),
            labels: taken().map(|(row, _)| self.labels[row]).collect(),
            weights: taken().map(|(_, weight)| *weight).collect(),
        }
    }

    /// SHA-256 over schema and canonical rows with labels and weights, in hexadecimal. The order of the rows does not
    /// matter, a row that occurs twice counts twice.
    pub fn digest(&self) -> String {
        self.digest_with(std::iter::empty())
    }

    /// The digest of the rows and of what else has these digests.
    pub(crate) fn digest_with(&self, more: impl Iterator<Item = [u8; 32]>) -> String {
        let rows = (0..self.len()).map(|i| row_digest(&self.rows[i], self.labels[i], self.weights[i]));
        content_digest(self.schema.fingerprint(), rows.chain(more).collect())
    }
}

/// SHA-256 of a canonical row with label and weight.
pub(crate) fn row_digest(row: &Row, label: Label, weight: f64) -> [u8; 32] {
    let mut hasher = Sha256::new();
    row.feed(|bytes| hasher.update(bytes));
    let (tag, bits) = match label {
        Label::Class(class) => (0u8, u64::from(class)),
        Label::Value(value) => (1, value.to_bits()),
    };
    hasher.update([tag]);
    hasher.update(bits.to_le_bytes());
    hasher.update(weight.to_bits().to_le_bytes());
    hasher.finalize().into()
}

/// SHA-256 of what a batch says of the label of an earlier row: the annotation that counts, by its number.
pub(crate) fn correction_digest(sample: PredictionId, annotation: Option<u32>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"corrected");
    hasher.update(sample.bytes());
    hasher.update(annotation.map_or(u64::MAX, u64::from).to_le_bytes());
    hasher.finalize().into()
}

/// The digest of rows of a schema, given by their own digests in any order.
pub(crate) fn content_digest(fingerprint: &str, mut rows: Vec<[u8; 32]>) -> String {
    rows.sort_unstable();
    let mut hasher = Sha256::new();
    hasher.update(fingerprint.as_bytes());
    for row in &rows {
        hasher.update(row);
    }
    hex(&hasher.finalize())
}
