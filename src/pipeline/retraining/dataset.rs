//! What models are trained on, by reference, and how the rows are made of it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::Pipeline;
use super::super::lineage::batches_back;
use super::Retraining;
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::{Label, ModelVersion, PredictionId};
use crate::retrain::batch::{self, BatchRow, lines_of};
use crate::retrain::taught::{Said, Taught, TaughtRow};
use crate::retrain::{BatchId, DataRef, DatasetVersion, Manifest, ModelRecord, Recipe};
use crate::sample::Sample;
use crate::store::Kind;

/// Where base data is written within the working directory.
const BASE: &str = "base";

impl Pipeline {
    /// The record of a model, with its artifact; `None` if there is no such model.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn model(&self, version: ModelVersion) -> Result<Option<ModelRecord>, Error> {
        super::read_model(&self.outbox, version)
    }

    /// The batches that model `version` was trained on beside the base data, oldest first; none if it was not trained by a
    /// run. They are read one by one, each being known to the next.
    ///
    /// # Errors
    /// The model is unknown, the store cannot be read, or a batch is not in it.
    pub fn batches(&self, version: ModelVersion) -> Result<Vec<BatchId>, Error> {
        let record: Option<ModelRecord> = self.outbox.read(Kind::Model, &version.to_string())?;
        let record = record.ok_or_else(|| Error::Refused(format!("there is no model {version}")))?;
        let back = batches_back(&**self.store(), self.name(), record.batch);
        let mut batches = back.map(|manifest| Ok(manifest?.batch)).collect::<Result<Vec<_>, Error>>()?;
        batches.reverse();
        Ok(batches)
    }

    /// The rows that model `version` was trained on, with labels and weights, made again from the store and the base data
    /// that this pipeline was built with.
    ///
    /// # Errors
    /// The model is unknown or was not trained by a run; it was trained under another version of the schema, which makes other
    /// rows; the rows are not what they were, because some were taken out of the store since or the base data is another one.
    pub fn trained_on(&self, version: ModelVersion) -> Result<Dataset, Error> {
        let record: Option<ModelRecord> = self.outbox.read(Kind::Model, &version.to_string())?;
        let Some(dataset) = record.and_then(|record| record.dataset) else {
            return Err(Error::Refused(format!("it is not recorded what {version} was trained on")));
        };
        if dataset.schema != self.schema.fingerprint() {
            let text = format!("{version} was trained under schema {}, which is not in force any more", dataset.schema);
            return Err(Error::Refused(text));
        }
        let read = |part: &DataRef| -> Result<Manifest, Error> {
            let manifest = self.outbox.read(Kind::Batch, &part.id.0)?;
            manifest.ok_or_else(|| Error::Corrupt(format!("batch {} is not in the store", part.id)))
        };
        let manifests = dataset.batches.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
        dataset.take(self.base.as_ref(), &self.taught(&manifests)?)
    }

    /// `data`, which `recipe` has just made, by reference; without the batches, which `with_batches` adds.
    pub(super) fn dataset_version(&mut self, recipe: Recipe, data: &Dataset) -> Result<DatasetVersion, Error> {
        let base = self.base_reference()?;
        let retraining = &self.retraining;
        let shares = &retraining.state.shares;
        Ok(DatasetVersion::of(data, (recipe, shares), retraining.parts.training_rows, base, Vec::new()))
    }

    /// The training data of a run in flight with its batches: no batch is sealed before it ends.
    pub(super) fn with_batches(&self, dataset: &DatasetVersion) -> Result<DatasetVersion, Error> {
        let (mut whole, most_rows) = (dataset.clone(), dataset.most_rows as usize);
        if whole.batches.is_empty() {
            whole.batches = if most_rows == self.retraining.parts.training_rows {
                self.retraining.taught.sources().cloned().collect()
            } else {
                // The host was restarted with another limit since.
                self.newest_batches(most_rows)?.iter().map(|manifest| self.retraining.reference_to(manifest)).collect()
            };
        }
        Ok(whole)
    }

    /// The base data by reference. With a working directory it is written there, once, so that trainers find it.
    fn base_reference(&mut self) -> Result<Option<DataRef>, Error> {
        let Some(base) = &self.base else { return Ok(None) };
        if self.retraining.base.is_none() {
            let digest = base.digest();
            let mut path = None;
            if let Some(directory) = &self.retraining.parts.directory {
                let manifest = batch::base_manifest(&self.name, base, &digest, self.now);
                let lines: Vec<_> = lines_of(base).collect();
                let (written, _) = batch::export(&directory.join(BASE), &manifest, base.schema(), &lines, &[])?;
                path = Some(absolute(&written));
            }
            self.retraining.base = Some(DataRef { id: BatchId(digest), rows: base.len() as u64, path });
        }
        Ok(self.retraining.base.clone())
    }

    /// Gives a batch a name of its own where batches before it had the same content.
    pub(super) fn name_batch(&self, manifest: &mut Manifest) -> Result<(), Error> {
        let mut number = 1;
        while self.is_sealed(&manifest.batch)? {
            number += 1;
            manifest.batch = BatchId(format!("{}-{number}", manifest.digest));
        }
        Ok(())
    }

    fn is_sealed(&self, batch: &BatchId) -> Result<bool, Error> {
        Ok(self.outbox.record(Kind::Batch, &batch.0)?.is_some())
    }

    /// Exports a batch that is about to be sealed, if that is wanted. Its name is committed before: what a crash leaves of a
    /// batch that then has other rows is found by it and taken away, so that nobody trains on it.
    pub(super) fn export(
        &mut self,
        manifest: Manifest,
        rows: &[BatchRow<'_>],
        corrections: &[(PredictionId, Said)],
    ) -> Result<Manifest, Error> {
        let Some(directory) = self.retraining.parts.export.clone() else { return Ok(manifest) };
        let state = &self.retraining.state;
        if state.exporting.as_ref() != Some(&manifest.batch) {
            if let Some(left) = &state.exporting
                && !self.is_sealed(left)?
            {
                batch::take_away(&directory.join(&left.0), &self.name)?;
            }
            self.retraining.state.exporting = Some(manifest.batch.clone());
            self.save_loop(Vec::new())?;
            self.outbox.commit()?;
        }
        let lines = rows.iter().map(BatchRow::line).collect::<Result<Vec<_>, Error>>()?;
        Ok(batch::export(&directory, &manifest, &self.schema, &lines, corrections)?.1)
    }

    /// The rows of these batches, oldest first, as they are in the store.
    ///
    /// # Errors
    /// A sample is not in the store.
    pub(super) fn taught(&self, manifests: &[Manifest]) -> Result<Taught, Error> {
        let mut taught = Taught::new(self.schema.clone());
        for manifest in manifests {
            let sample = |id: PredictionId| {
                let lost = || Error::Corrupt(format!("sample {id} of batch {} is not in the store", manifest.batch));
                self.outbox.stored_sample(id)?.ok_or_else(lost)
            };
            let mut rows = Vec::with_capacity(manifest.samples.len());
            for id in &manifest.samples {
                rows.extend(TaughtRow::sealed(&sample(*id)?));
            }
            let mut corrected = BTreeMap::new();
            for (id, annotation) in &manifest.corrected {
                let said = annotation.map(|number| Ok::<_, Error>(label_of(&sample(*id)?, number))).transpose()?;
                corrected.insert(*id, said.flatten());
            }
            taught.push(self.retraining.reference_to(manifest), rows, &corrected);
        }
        Ok(taught)
    }

    pub(in crate::pipeline) fn reload_training_rows(&mut self) -> Result<(), Error> {
        self.retraining.taught = self.taught(&self.newest_batches(self.retraining.parts.training_rows)?)?;
        Ok(())
    }
}

/// The label of an annotation by its number; none if its content was erased.
fn label_of(sample: &Sample, number: u32) -> Option<Label> {
    sample.annotations.get(number as usize)?.label
}

impl Retraining {
    /// A batch was sealed: the newest rows are those that models are trained on next.
    pub(super) fn teach(&mut self, manifest: &Manifest, rows: Vec<TaughtRow>, corrections: &[(PredictionId, Said)]) {
        let corrected = corrections.iter().map(|(id, said)| (*id, said.map(|(_, label)| label))).collect();
        let source = self.reference_to(manifest);
        self.taught.push(source, rows, &corrected);
        self.taught.keep_newest(self.parts.training_rows);
    }

    fn reference_to(&self, manifest: &Manifest) -> DataRef {
        let exported = self.parts.export.as_ref().filter(|_| !manifest.files.is_empty());
        let path = exported.map(|directory| absolute(&directory.join(&manifest.batch.0)));
        DataRef { id: manifest.batch.clone(), rows: manifest.rows, path }
    }
}

/// The path from the root, where the current directory is known.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
