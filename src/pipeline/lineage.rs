//! Lineage: what came of what, from a served prediction to the models that it helped to train and back, as a graph.

mod show;
mod walk;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::retraining::{PromotionRecord, SEALED};
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::retrain::{BatchId, Evaluation, Manifest, ModelRecord, Run, RunId};
use crate::sample::{Annotation, Sample, SampleState};
use crate::store::{Kind, Scan, Store};

/// Nodes of a lineage, unless another limit is given.
const MOST_NODES: usize = 10_000;

/// Where a walk through the lineage starts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineageStart {
    /// A prediction.
    Prediction(PredictionId),
    /// A batch.
    Batch(BatchId),
    /// A run.
    Run(RunId),
    /// A model version.
    Model(ModelVersion),
    /// The promotion or rollback with this number.
    Promotion(u64),
}

macro_rules! start_from {
    ($($type:ty => $start:ident),*) => { $(
        impl From<$type> for LineageStart {
            fn from(name: $type) -> Self {
                LineageStart::$start(name)
            }
        }
    )* };
}

start_from!(PredictionId => Prediction, BatchId => Batch, RunId => Run, ModelVersion => Model);

/// One thing in the lineage, as it is stored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LineageNode {
    /// A prediction that was kept.
    Sample(Box<Sample>),
    /// One of its labels, and which one, from 0.
    Annotation(Box<Annotation>, usize),
    /// A sealed batch.
    Batch(Box<Manifest>),
    /// A run.
    Run(Box<Run>),
    /// The evaluation of a run's candidate.
    Evaluation(Box<Evaluation>),
    /// A model version; its bytes are left out.
    Model(Box<ModelRecord>),
    /// A promotion or rollback.
    Promotion(Box<PromotionRecord>),
}

/// What one thing is to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LineageLink {
    /// A model made a prediction.
    Served,
    /// An annotation labels a sample.
    Labels,
    /// A sample was sealed in a batch.
    SealedIn,
    /// A batch says that another label of a sample counts than the batches before it.
    CorrectedIn,
    /// A batch came before another one.
    ComesBefore,
    /// A batch was sealed for a run.
    SealedFor,
    /// A model was served when a run began.
    BaseOf,
    /// A run trained a model.
    Trained,
    /// A batch is in the training data of a model.
    InTrainingOf,
    /// A run was evaluated.
    EvaluatedBy,
    /// A run led to a promotion or rollback.
    LedTo,
    /// A model gave way in a promotion or rollback.
    GaveWay,
    /// A promotion or rollback brought a model into service.
    BroughtUp,
}

/// An edge, in the direction in which things happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineageEdge {
    /// Index of the node where it starts.
    pub from: usize,
    /// Index of the node where it ends.
    pub to: usize,
    /// What the one is to the other.
    pub link: LineageLink,
}

/// What came of what: a graph that prints as text, as DOT for graphviz ([`Lineage::to_dot`]), and, being plain serde, as JSON
/// (`nodes` with `id`, `kind` and `record`; `edges` with the ids `from` and `to`; `truncated`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lineage {
    /// The nodes, roughly in the order in which they came about.
    pub nodes: Vec<LineageNode>,
    /// Every edge between two of them.
    pub edges: Vec<LineageEdge>,
    /// There is more: the limit was reached.
    pub truncated: bool,
}

impl Lineage {
    /// The lineage around `start`, of at most `limit` nodes; empty if there is no such thing in the store.
    ///
    /// Of a prediction: the model that made it, the sample, its labels, its batch with the run that it was sealed for, the batches
    /// that corrected its label, every
    /// model that was trained on that batch, then or later, promoted or not, and of each of those the run, the evaluation
    /// and the promotions and rollbacks. Of a batch: its samples, those that it corrects, and their labels, and the same onward. Of a model: back to
    /// its run, the batches of its training data and their samples and labels, and on to its promotions and rollbacks. Where
    /// there is no room for all, the newest are there: batches take at most half of the room, samples what is left.
    /// Of a run or promotion: what is next to it on both sides.
    ///
    /// # Errors
    /// The store cannot be read, or a record that must be there is missing.
    pub fn walk(
        store: &dyn Store,
        pipeline: &str,
        start: impl Into<LineageStart>,
        limit: usize,
    ) -> Result<Lineage, Error> {
        walk::walk(store, pipeline, start.into(), limit)
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

    /// What a prediction, batch, run or model came from and what came of it; see [`Lineage::walk`]. At most 10,000 nodes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lineage(&self, start: impl Into<LineageStart>) -> Result<Lineage, Error> {
        of(&**self.store(), self.name(), start.into())
    }
}

pub(super) fn of(store: &dyn Store, pipeline: &str, start: LineageStart) -> Result<Lineage, Error> {
    Lineage::walk(store, pipeline, start, MOST_NODES)
}

/// The batches from `newest` back to the first one: each knows the one before it.
pub(super) fn batches_back(
    store: &dyn Store,
    pipeline: &str,
    newest: Option<BatchId>,
) -> impl Iterator<Item = Result<Manifest, Error>> {
    let mut next = newest;
    std::iter::from_fn(move || {
        let batch = next.take()?;
        let found = need::<Manifest>(store, pipeline, Kind::Batch, &batch.0);
        Some(found.inspect(|manifest| next.clone_from(&manifest.parent)))
    })
}

/// The batches after `batch`, which has `sample`, that correct its label, oldest first.
pub(super) fn corrected_in(
    store: &dyn Store,
    pipeline: &str,
    batch: &Manifest,
    sample: PredictionId,
) -> Result<Vec<Manifest>, Error> {
    let mut found = Vec::new();
    // Batches rank by their runs: in the order in which they were sealed.
    let mut after = (batch.run.map_or(0, |run| run.0 as i64), batch.batch.0.clone());
    loop {
        let from = Some((after.0, after.1.as_str()));
        let scan = Scan { pipeline, kind: Kind::Batch, state: Some(SEALED), after: from, limit: 256 };
        let page = store.scan(&scan).map_err(Error::store("read batches"))?;
        let Some(last) = page.last() else { return Ok(found) };
        after = (last.rank, last.key.id.clone());
        for record in &page {
            let manifest: Manifest = super::outbox::parse(record)?;
            if manifest.corrected.contains_key(&sample) {
                found.push(manifest);
            }
        }
    }
}

/// Every model that was trained on `batch`, by version.
pub(super) fn models_with(store: &dyn Store, pipeline: &str, batch: &Manifest) -> Result<Vec<ModelRecord>, Error> {
    let mut found = Vec::new();
    // Versions are numbered as they are trained: none before the first one of the batch's own run can be with it.
    let run: Option<Run> = batch.run.map(|run| need(store, pipeline, Kind::Run, &run.to_string())).transpose()?;
    let before = run.map(|run| run.models.iter().min().map_or(run.base.0, |first| first.0.saturating_sub(1)));
    for state in ModelRecord::STATES {
        let mut after = before.map(|version| (version as i64, ModelVersion(version).to_string()));
        loop {
            let from = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan = Scan { pipeline, kind: Kind::Model, state: Some(state), after: from, limit: 256 };
            let page = store.scan(&scan).map_err(Error::store("read models"))?;
            let Some(last) = page.last() else { break };
            after = Some((last.rank, last.key.id.clone()));
            for record in &page {
                let model: ModelRecord = super::outbox::parse(record)?;
                if model.is_trained_on(batch) {
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

pub(super) fn need<T: DeserializeOwned>(store: &dyn Store, pipeline: &str, kind: Kind, id: &str) -> Result<T, Error> {
    read(store, pipeline, kind, id)?
        .ok_or_else(|| Error::Corrupt(format!("{} `{id}` is not in the store", kind.as_str())))
}
