//! Lineage: from a served prediction to the models that it helped to train, and from a model back to its samples.

use serde::de::DeserializeOwned;

use super::retraining::PromotionRecord;
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::retrain::{BatchId, Manifest, ModelRecord, Run, RunId};
use crate::sample::{Sample, SampleState};
use crate::store::{Kind, Scan, Store};

/// One thing on a walk through the lineage.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LineageStep {
    /// A sample with its annotations and history.
    Sample(Box<Sample>),
    /// A sealed batch.
    Batch(Box<Manifest>),
    /// A run.
    Run(Box<Run>),
    /// A model version; its bytes are left out.
    Model(Box<ModelRecord>),
    /// A promotion or rollback.
    Promotion(Box<PromotionRecord>),
}

/// A walk through the lineage, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lineage {
    /// The steps.
    pub steps: Vec<LineageStep>,
}

impl Lineage {
    /// The model that made the prediction, the sample, its batch, the run, the models that it trained and their promotions.
    /// Empty if the prediction was not kept.
    ///
    /// # Errors
    /// The store cannot be read, or a record that must be there is missing.
    pub fn of_prediction(store: &dyn Store, pipeline: &str, id: PredictionId) -> Result<Lineage, Error> {
        let mut lineage = Lineage::default();
        let Some(sample) = read::<Sample>(store, pipeline, Kind::Sample, &id.to_string())? else {
            return Ok(lineage);
        };
        let served_by = sample.observation.model;
        if let Some(model) = read::<ModelRecord>(store, pipeline, Kind::Model, &served_by.to_string())? {
            lineage.steps.push(LineageStep::Model(Box::new(model)));
        }
        let batch = sample.batch.clone();
        lineage.steps.push(LineageStep::Sample(Box::new(sample)));
        if let Some(batch) = batch {
            let manifest = need::<Manifest>(store, pipeline, Kind::Batch, &batch.0)?;
            let run = manifest.run;
            lineage.steps.push(LineageStep::Batch(Box::new(manifest)));
            if let Some(run) = run {
                lineage.follow_run(store, pipeline, run)?;
            }
        }
        Ok(lineage)
    }

    /// The samples and batches of the model's training data, its run, the model, and its promotions.
    ///
    /// # Errors
    /// The store cannot be read, or a record that must be there is missing.
    pub fn of_model(store: &dyn Store, pipeline: &str, version: ModelVersion) -> Result<Lineage, Error> {
        let mut lineage = Lineage::default();
        let Some(model) = read::<ModelRecord>(store, pipeline, Kind::Model, &version.to_string())? else {
            return Ok(lineage);
        };
        for BatchId(batch) in &model.batches {
            let manifest = need::<Manifest>(store, pipeline, Kind::Batch, batch)?;
            for sample in &manifest.samples {
                let sample = need::<Sample>(store, pipeline, Kind::Sample, &sample.to_string())?;
                lineage.steps.push(LineageStep::Sample(Box::new(sample)));
            }
            lineage.steps.push(LineageStep::Batch(Box::new(manifest)));
        }
        if let Some(run) = model.run {
            let run = need::<Run>(store, pipeline, Kind::Run, &run.to_string())?;
            lineage.steps.push(LineageStep::Run(Box::new(run)));
        }
        lineage.steps.push(LineageStep::Model(Box::new(model)));
        lineage.promotions(store, pipeline, |promotion| promotion.to == version || promotion.from == version)?;
        Ok(lineage)
    }

    fn follow_run(&mut self, store: &dyn Store, pipeline: &str, id: RunId) -> Result<(), Error> {
        let run = need::<Run>(store, pipeline, Kind::Run, &id.to_string())?;
        let models = run.models.clone();
        self.steps.push(LineageStep::Run(Box::new(run)));
        for version in models {
            let model = need::<ModelRecord>(store, pipeline, Kind::Model, &version.to_string())?;
            self.steps.push(LineageStep::Model(Box::new(model)));
        }
        self.promotions(store, pipeline, |promotion| promotion.run == Some(id))
    }

    fn promotions(
        &mut self,
        store: &dyn Store,
        pipeline: &str,
        wanted: impl Fn(&PromotionRecord) -> bool,
    ) -> Result<(), Error> {
        let mut after: Option<(i64, String)> = None;
        loop {
            let scan = Scan {
                pipeline,
                kind: Kind::Promotion,
                state: Some("done"),
                after: after.as_ref().map(|(rank, id)| (*rank, id.as_str())),
                limit: 256,
            };
            let page = store.scan(&scan).map_err(Error::store("read promotions"))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.rank, last.key.id.clone()));
            for record in &page {
                let promotion: PromotionRecord = super::outbox::parse(record)?;
                if wanted(&promotion) {
                    self.steps.push(LineageStep::Promotion(Box::new(promotion)));
                }
            }
        }
    }
}

impl std::fmt::Display for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            match step {
                LineageStep::Sample(sample) => {
                    writeln!(
                        f,
                        "sample {} ({}), served by {}",
                        sample.id(),
                        sample.state.as_str(),
                        sample.observation.model
                    )?;
                    for flag in &sample.flags {
                        writeln!(f, "  flagged by {}: {:.4} against {:.4}", flag.detector, flag.score, flag.threshold)?;
                    }
                    for annotation in &sample.annotations {
                        let who = super::opinions::annotator_name(&annotation.annotator);
                        writeln!(f, "  {} said {:?} at {}", who, annotation.label, annotation.time)?;
                    }
                }
                LineageStep::Batch(batch) => writeln!(f, "batch {} of {} rows", batch.batch, batch.rows)?,
                LineageStep::Run(run) => writeln!(f, "{} ({}): {}", run.id, run.state.as_str(), run.why)?,
                LineageStep::Model(model) => {
                    let recipe = model.recipe.map_or("first model", |recipe| recipe.as_str());
                    writeln!(f, "model {} ({recipe})", model.version)?;
                }
                LineageStep::Promotion(change) => {
                    writeln!(f, "{:?} {} -> {}: {}", change.kind, change.from, change.to, change.reason)?;
                }
            }
        }
        Ok(())
    }
}

impl super::Pipeline {
    /// Shows every stored sample to `each`, by state and then in the order of the stream.
    ///
    /// # Errors
    /// The store cannot be read, or `each` says so.
    pub fn each_sample(&self, mut each: impl FnMut(Sample) -> Result<(), Error>) -> Result<(), Error> {
        for state in SampleState::ALL {
            self.outbox.each(Kind::Sample, state.as_str(), |record| each(self.outbox.parse_sample(&record)?))?;
        }
        Ok(())
    }

    /// A run, if there is one with this number.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn run(&self, id: RunId) -> Result<Option<Run>, Error> {
        self.outbox.read(Kind::Run, &id.to_string())
    }

    /// Every promotion and rollback, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn promotions(&self) -> Result<Vec<PromotionRecord>, Error> {
        let mut found = Vec::new();
        self.outbox.each(Kind::Promotion, "done", |record| {
            found.push(super::outbox::parse(&record)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// From a prediction to the model that made it and the models that it helped to train.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lineage(&self, id: PredictionId) -> Result<Lineage, Error> {
        Lineage::of_prediction(&**self.store(), self.name(), id)
    }

    /// From a model back to its run, its batches, their samples and its promotions.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn model_lineage(&self, version: ModelVersion) -> Result<Lineage, Error> {
        Lineage::of_model(&**self.store(), self.name(), version)
    }
}

/// Every model that was trained on `batch`, usable ones before quarantined ones.
pub(super) fn models_with(store: &dyn Store, pipeline: &str, batch: &BatchId) -> Result<Vec<ModelRecord>, Error> {
    let mut found = Vec::new();
    for state in ["usable", "quarantined"] {
        let mut after: Option<(i64, String)> = None;
        loop {
            let from = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan = Scan { pipeline, kind: Kind::Model, state: Some(state), after: from, limit: 256 };
            let page = store.scan(&scan).map_err(Error::store("read models"))?;
            let Some(last) = page.last() else { break };
            after = Some((last.rank, last.key.id.clone()));
            for record in &page {
                let model: ModelRecord = super::outbox::parse(record)?;
                if model.batches.contains(batch) {
                    found.push(model);
                }
            }
        }
    }
    found.sort_by_key(|model| model.version);
    Ok(found)
}

pub(super) fn read<T: DeserializeOwned>(
    store: &dyn Store,
    pipeline: &str,
    kind: Kind,
    id: &str,
) -> Result<Option<T>, Error> {
    let record = store.get(pipeline, kind, id).map_err(Error::store("read a record"))?;
    record.map(|record| super::outbox::parse(&record)).transpose()
}

fn need<T: DeserializeOwned>(store: &dyn Store, pipeline: &str, kind: Kind, id: &str) -> Result<T, Error> {
    read(store, pipeline, kind, id)?
        .ok_or_else(|| Error::Corrupt(format!("{} `{id}` is not in the store", kind.as_str())))
}
