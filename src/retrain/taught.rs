//! The newest rows of batches, with the labels that later batches say of them: what models are trained on beside base data.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DataRef;
use crate::dataset::Dataset;
use crate::event::{Label, PredictionId};
use crate::sample::Sample;
use crate::schema::{Row, Schema, SchemaError};

/// What is said of the label of a row after it was sealed: the number of the annotation that counts, and its label; `None` if
/// it was taken back.
pub(crate) type Said = Option<(u32, Label)>;

/// A row of a batch.
#[derive(Debug, Clone)]
pub(crate) struct TaughtRow {
    pub(crate) id: PredictionId,
    pub(crate) row: Row,
    pub(crate) weight: f64,
    /// Its label by the batches so far; `None` if one of them took it back.
    pub(crate) label: Option<Label>,
    /// What counts now. If it is another label, the next batch says so.
    pub(crate) now: Said,
}

impl TaughtRow {
    /// The row of a sample with the label and weight that it has in its batch.
    pub(crate) fn of(sample: &Sample, label: Label, weight: f64) -> Self {
        let row = sample.observation.row.clone();
        TaughtRow { id: sample.id(), row, weight, label: Some(label), now: said(sample) }
    }

    /// The row of a sample as it was sealed; `None` if its content was erased.
    pub(crate) fn sealed(sample: &Sample) -> Option<Self> {
        Some(TaughtRow::of(sample, sample.sealed?, sample.weight))
    }

    /// The rows of a batch that was read from disk, where nobody knows what counts now.
    pub(crate) fn read(samples: &[PredictionId], data: &Dataset) -> Vec<Self> {
        let labelled = data.rows().iter().zip(data.labels()).zip(data.weights());
        let row = |(id, ((row, &label), &weight)): (&PredictionId, ((&Row, &Label), &f64))| TaughtRow {
            id: *id,
            row: row.clone(),
            weight,
            label: Some(label),
            now: None,
        };
        samples.iter().zip(labelled).map(row).collect()
    }

    fn is_corrected(&self) -> bool {
        self.now.map(|(_, label)| label) != self.label
    }
}

/// What counts of a sample's labels now.
fn said(sample: &Sample) -> Said {
    let counts = sample.label.as_ref()?;
    let number = sample.annotations.iter().rposition(|annotation| annotation == counts)?;
    Some((number as u32, counts.label?))
}

/// Batches, oldest first, with their rows.
#[derive(Debug)]
pub(crate) struct Taught {
    schema: Arc<Schema>,
    batches: Vec<(DataRef, Vec<TaughtRow>)>,
    /// Rows whose label is another one than the batches say.
    corrected: u64,
}

impl Taught {
    pub(crate) fn new(schema: Arc<Schema>) -> Self {
        Taught { schema, batches: Vec::new(), corrected: 0 }
    }

    /// Adds a batch: its rows, and what it says of rows of those before it.
    pub(crate) fn push(
        &mut self,
        source: DataRef,
        rows: Vec<TaughtRow>,
        corrected: &BTreeMap<PredictionId, Option<Label>>,
    ) {
        if !corrected.is_empty() {
            for row in self.rows_mut() {
                if let Some(label) = corrected.get(&row.id) {
                    row.label = *label;
                }
            }
            self.count();
        }
        self.corrected += rows.iter().filter(|row| row.is_corrected()).count() as u64;
        self.batches.push((source, rows));
    }

    /// Leaves the batches that the newest `most` rows come from.
    pub(crate) fn keep_newest(&mut self, most: usize) {
        let mut older: u64 = self.sources().map(|source| source.rows).sum();
        self.batches.retain(|(source, _)| {
            older -= source.rows;
            older < most as u64
        });
        self.count();
    }

    /// The label of a sample in a batch came, changed or went.
    pub(crate) fn observe(&mut self, sample: &Sample) {
        let Some(batch) = &sample.batch else { return };
        let of_batch = self.batches.iter_mut().filter(|(source, _)| source.id == *batch);
        if let Some(row) = of_batch.flat_map(|(_, rows)| rows).find(|row| row.id == sample.id()) {
            let before = row.is_corrected();
            row.now = said(sample);
            self.corrected = self.corrected + u64::from(row.is_corrected()) - u64::from(before);
        }
    }

    /// Takes a row out.
    pub(crate) fn forget(&mut self, id: PredictionId) {
        self.batches.iter_mut().for_each(|(_, rows)| rows.retain(|row| row.id != id));
        self.count();
    }

    /// The rows whose label is another one than the batches say, and what counts of them now.
    pub(crate) fn corrections(&self) -> impl Iterator<Item = (PredictionId, Said)> {
        self.rows().filter(|row| row.is_corrected()).map(|row| (row.id, row.now))
    }

    /// How many they are.
    pub(crate) fn corrected(&self) -> u64 {
        self.corrected
    }

    fn count(&mut self) {
        self.corrected = self.corrections().count() as u64;
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &DataRef> {
        self.batches.iter().map(|(source, _)| source)
    }

    /// Number of rows that have a label.
    pub(crate) fn len(&self) -> usize {
        self.rows().filter(|row| row.label.is_some()).count()
    }

    /// The newest `most` rows that have a label.
    ///
    /// # Errors
    /// A row does not fit the schema.
    pub(crate) fn newest(&self, most: usize) -> Result<Dataset, SchemaError> {
        let mut data = Dataset::new(self.schema.clone());
        let left_out = self.len().saturating_sub(most);
        let labelled = self.rows().filter_map(|row| Some((row, row.label?)));
        for (row, label) in labelled.skip(left_out) {
            data.push(row.row.clone(), label, row.weight)?;
        }
        Ok(data)
    }

    fn rows(&self) -> impl Iterator<Item = &TaughtRow> {
        self.batches.iter().flat_map(|(_, rows)| rows)
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut TaughtRow> {
        self.batches.iter_mut().flat_map(|(_, rows)| rows)
    }
}
