//! Collects the nodes around a start, then every edge between them.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::super::outbox::parse;
use super::super::retraining::{PromotionRecord, stored_evaluation};
use super::{
    Lineage, LineageEdge, LineageLink, LineageNode, LineageStart, batches_back, corrected_in, models_with, need, read,
};
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::retrain::{BatchId, Manifest, ModelRecord, Run, RunId};
use crate::sample::Sample;
use crate::store::{Kind, Scan, Store};

pub(super) fn walk(store: &dyn Store, pipeline: &str, start: LineageStart, limit: usize) -> Result<Lineage, Error> {
    let mut walk =
        Walk { store, pipeline, limit, lineage: Lineage::default(), names: HashMap::new(), promotions: None };
    match start {
        LineageStart::Prediction(id) => walk.around_prediction(id)?,
        LineageStart::Batch(id) => {
            if let Some(manifest) = walk.read::<Manifest>(Kind::Batch, &id.0)? {
                walk.samples(&manifest)?;
                walk.onward(manifest)?;
            }
        }
        LineageStart::Run(id) => walk.around_run(id)?,
        LineageStart::Model(version) => walk.around_model(version)?,
        LineageStart::Promotion(number) => {
            let found = walk.promotions(|promotion| promotion.number == number)?;
            for promotion in found {
                walk.around(&promotion)?;
                walk.add(LineageNode::Promotion(Box::new(promotion)));
            }
        }
    }
    walk.link();
    Ok(walk.lineage)
}

struct Walk<'a> {
    store: &'a dyn Store,
    pipeline: &'a str,
    limit: usize,
    lineage: Lineage,
    /// Places of the nodes by their ids.
    names: HashMap<String, usize>,
    /// Every promotion and rollback, read when the first one is asked for.
    promotions: Option<Vec<PromotionRecord>>,
}

impl Walk<'_> {
    /// Adds a node unless it is there; `false` if there is no room for it.
    fn add(&mut self, node: LineageNode) -> bool {
        let name = node.id();
        if self.names.contains_key(&name) {
            return true;
        }
        if self.lineage.nodes.len() >= self.limit {
            self.lineage.truncated = true;
            return false;
        }
        self.names.insert(name, self.lineage.nodes.len());
        self.lineage.nodes.push(node);
        true
    }

    fn read<T: serde::de::DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<T>, Error> {
        read(self.store, self.pipeline, kind, id)
    }

    fn around_prediction(&mut self, id: PredictionId) -> Result<(), Error> {
        let Some(sample) = self.read::<Sample>(Kind::Sample, &id.to_string())? else { return Ok(()) };
        self.model_alone(sample.observation.model)?;
        let batch = sample.batch.clone();
        self.sample(sample);
        if let Some(batch) = batch {
            let manifest = need(self.store, self.pipeline, Kind::Batch, &batch.0)?;
            for later in corrected_in(self.store, self.pipeline, &manifest, id)? {
                self.add(LineageNode::Batch(Box::new(later)));
            }
            self.onward(manifest)?;
        }
        Ok(())
    }

    /// A batch and everything that came of it.
    fn onward(&mut self, manifest: Manifest) -> Result<(), Error> {
        self.add(LineageNode::Batch(Box::new(manifest.clone())));
        if let Some(run) = manifest.run {
            self.run(run)?;
        }
        for model in models_with(self.store, self.pipeline, &manifest)? {
            self.model(model)?;
        }
        Ok(())
    }

    fn around_run(&mut self, id: RunId) -> Result<(), Error> {
        let Some(run) = self.read::<Run>(Kind::Run, &id.to_string())? else { return Ok(()) };
        if let Some(batch) = &run.batch {
            let manifest = need(self.store, self.pipeline, Kind::Batch, &batch.0)?;
            self.add(LineageNode::Batch(Box::new(manifest)));
        }
        self.model_alone(run.base)?;
        self.run(id)?;
        for version in &run.models {
            let model = need(self.store, self.pipeline, Kind::Model, &version.to_string())?;
            self.model(model)?;
        }
        for promotion in self.promotions(|promotion| promotion.run == Some(id))? {
            self.around(&promotion)?;
            self.add(LineageNode::Promotion(Box::new(promotion)));
        }
        Ok(())
    }

    fn around_model(&mut self, version: ModelVersion) -> Result<(), Error> {
        let Some(model) = self.read::<ModelRecord>(Kind::Model, &version.to_string())? else { return Ok(()) };
        // What it is made of may be more than there is room for: what it came to comes before its samples.
        let mut back = batches_back(self.store, self.pipeline, model.batch.clone());
        let batches = back.by_ref().take(self.limit / 2).collect::<Result<Vec<Manifest>, Error>>()?;
        self.lineage.truncated |= back.next().transpose()?.is_some();
        for manifest in batches.iter().rev() {
            self.add(LineageNode::Batch(Box::new(manifest.clone())));
        }
        self.model(model)?;
        for manifest in &batches {
            if !self.samples(manifest)? {
                break;
            }
        }
        Ok(())
    }

    /// The samples of a batch and those that it corrects, as far as there is room; `false` if there is none for all.
    fn samples(&mut self, manifest: &Manifest) -> Result<bool, Error> {
        for id in manifest.samples.iter().chain(manifest.corrected.keys()) {
            if self.lineage.nodes.len() >= self.limit {
                self.lineage.truncated = true;
                return Ok(false);
            }
            let sample: Sample = need(self.store, self.pipeline, Kind::Sample, &id.to_string())?;
            self.model_alone(sample.observation.model)?;
            if !self.sample(sample) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A sample and its labels.
    fn sample(&mut self, sample: Sample) -> bool {
        let annotations = sample.annotations.clone();
        let fits = self.add(LineageNode::Sample(Box::new(sample)));
        annotations
            .into_iter()
            .enumerate()
            .all(|(at, annotation)| self.add(LineageNode::Annotation(Box::new(annotation), at)))
            && fits
    }

    /// A run and its evaluation.
    fn run(&mut self, id: RunId) -> Result<(), Error> {
        let run: Run = need(self.store, self.pipeline, Kind::Run, &id.to_string())?;
        let evaluation = stored_evaluation(self.store, self.pipeline, id)?;
        self.add(LineageNode::Run(Box::new(run)));
        if let Some(evaluation) = evaluation {
            self.add(LineageNode::Evaluation(Box::new(evaluation)));
        }
        Ok(())
    }

    /// A model with its run and what became of it.
    fn model(&mut self, model: ModelRecord) -> Result<(), Error> {
        let version = model.version;
        if let Some(run) = model.run {
            self.run(run)?;
        }
        self.add(LineageNode::Model(Box::new(model)));
        for promotion in self.promotions(|promotion| promotion.to == version || promotion.from == version)? {
            self.around(&promotion)?;
            self.add(LineageNode::Promotion(Box::new(promotion)));
        }
        Ok(())
    }

    /// A model without what it came from. The first one has no record if nobody gave it.
    fn model_alone(&mut self, version: ModelVersion) -> Result<(), Error> {
        if self.names.contains_key(&model_id(version)) {
            return Ok(());
        }
        if let Some(model) = self.read::<ModelRecord>(Kind::Model, &version.to_string())? {
            self.add(LineageNode::Model(Box::new(model)));
        }
        Ok(())
    }

    /// The two models and the run of a promotion or rollback.
    fn around(&mut self, promotion: &PromotionRecord) -> Result<(), Error> {
        self.model_alone(promotion.from)?;
        self.model_alone(promotion.to)?;
        promotion.run.map_or(Ok(()), |run| self.run(run))
    }

    fn promotions(&mut self, wanted: impl Fn(&PromotionRecord) -> bool) -> Result<Vec<PromotionRecord>, Error> {
        if self.promotions.is_none() {
            let (mut all, mut after) = (Vec::new(), None::<(i64, String)>);
            loop {
                let scan = Scan {
                    pipeline: self.pipeline,
                    kind: Kind::Promotion,
                    state: Some("done"),
                    after: after.as_ref().map(|(rank, id)| (*rank, id.as_str())),
                    limit: 256,
                };
                let page = self.store.scan(&scan).map_err(Error::store("read promotions"))?;
                let Some(last) = page.last() else { break };
                after = Some((last.rank, last.key.id.clone()));
                for record in &page {
                    all.push(parse(record)?);
                }
            }
            self.promotions = Some(all);
        }
        Ok(self.promotions.iter().flatten().filter(|promotion| wanted(promotion)).cloned().collect())
    }

    /// Every edge between two nodes that are there.
    fn link(&mut self) {
        use LineageLink::*;
        let mut named: Vec<(String, usize, LineageLink)> = Vec::new();
        let mut back: Vec<(usize, String, LineageLink)> = Vec::new();
        let nodes = &self.lineage.nodes;
        let batches: Vec<&Manifest> = nodes
            .iter()
            .filter_map(|node| if let LineageNode::Batch(batch) = node { Some(&**batch) } else { None })
            .collect();
        for (at, node) in nodes.iter().enumerate() {
            match node {
                LineageNode::Sample(sample) => {
                    named.push((model_id(sample.observation.model), at, Served));
                    back.extend(sample.batch.as_ref().map(|batch| (at, batch_id(batch), SealedIn)));
                }
                LineageNode::Annotation(annotation, _) => back.push((at, sample_id(annotation.sample), Labels)),
                LineageNode::Batch(batch) => {
                    named.extend(batch.parent.as_ref().map(|parent| (batch_id(parent), at, ComesBefore)));
                    named.extend(batch.corrected.keys().map(|sample| (sample_id(*sample), at, CorrectedIn)));
                    back.extend(batch.run.map(|run| (at, run_id(run), SealedFor)));
                }
                LineageNode::Run(run) => named.push((model_id(run.base), at, BaseOf)),
                LineageNode::Evaluation(found) => named.push((run_id(found.run), at, EvaluatedBy)),
                LineageNode::Model(model) => {
                    named.extend(model.run.map(|run| (run_id(run), at, Trained)));
                    let held = batches.iter().filter(|batch| model.is_trained_on(batch));
                    named.extend(held.map(|batch| (batch_id(&batch.batch), at, InTrainingOf)));
                }
                LineageNode::Promotion(change) => {
                    named.extend(change.run.map(|run| (run_id(run), at, LedTo)));
                    named.push((model_id(change.from), at, GaveWay));
                    back.push((at, model_id(change.to), BroughtUp));
                }
            }
        }
        let place = |name: &String| self.names.get(name).copied();
        let forward = named.iter().filter_map(|(from, to, link)| Some((place(from)?, *to, *link)));
        let backward = back.iter().filter_map(|(from, to, link)| Some((*from, place(to)?, *link)));
        let edges: BTreeSet<(usize, usize, LineageLink)> = forward.chain(backward).collect();
        self.lineage.edges = edges.into_iter().map(|(from, to, link)| LineageEdge { from, to, link }).collect();
    }
}

pub(super) fn sample_id(id: PredictionId) -> String {
    format!("sample/{id}")
}

pub(super) fn batch_id(id: &BatchId) -> String {
    format!("batch/{id}")
}

pub(super) fn run_id(id: RunId) -> String {
    format!("run/{id}")
}

pub(super) fn model_id(version: ModelVersion) -> String {
    format!("model/{version}")
}
