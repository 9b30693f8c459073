//! What rolls a watched model back without waiting for labels: latency, and an unusable output in production that the other
//! model does not share, which also ends a canary.

use std::sync::Arc;

use super::super::Pipeline;
use super::Retraining;
use crate::error::Error;
use crate::event::{ModelVersion, Observation, PredictionId, predicted_label};
use crate::retrain::JobStatus;
use crate::sample::Reason;
use crate::schema::{Row, Target};

/// A model gave an unusable output in production; the other model of the comparison is asked about the same row.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    key: String,
    prediction: PredictionId,
    accused: ModelVersion,
    row: Row,
}

impl Retraining {
    /// The model that an unusable output of `accused` in production is compared with: what both models give is the input's
    /// fault.
    fn witness(&self, accused: ModelVersion) -> Option<ModelVersion> {
        match &self.state.watch {
            Some(watch) if watch.current == accused => Some(watch.previous),
            _ if self.judged() == Some(accused) => Some(self.state.champion),
            _ => None,
        }
    }

    /// Looks at what a model served. One suspicion at a time: the next unusable output raises the next.
    pub(super) fn suspect(&mut self, observation: &Observation, target: &Target) {
        let model = observation.model;
        if let Some(time) = observation.latency.filter(|_| model == self.state.champion) {
            self.timings.push(time);
        }
        let unusable = || predicted_label(target, observation.output()).is_none();
        if self.suspicion.is_none() && self.witness(model).is_some() && unusable() {
            let key = format!("incident-{}", observation.id);
            let (prediction, row) = (observation.id, observation.row.clone());
            self.suspicion = Some(Suspicion { key, prediction, accused: model, row });
        }
    }

    /// The champion changed: its timings become those to compare with, and its outcomes those of the predecessor.
    pub(super) fn champion_changes(&mut self, from: ModelVersion, to: ModelVersion) {
        self.cohorts_change(from, to);
        self.forget_evidence();
        let known = self.state.latency.take();
        self.state.latency_before = std::mem::take(&mut self.timings).median().or(known);
        self.drop_suspicion();
    }

    /// The row of this prediction leaves the memory.
    pub(super) fn forget_suspicion(&mut self, id: PredictionId) {
        if self.suspicion.as_ref().is_some_and(|suspicion| suspicion.prediction == id) {
            self.drop_suspicion();
        }
    }

    fn drop_suspicion(&mut self) {
        if let Some(suspicion) = self.suspicion.take() {
            self.give_up(&suspicion.key);
        }
    }
}

impl Pipeline {
    /// Rolls back, or refuses a canary, at once if it must be.
    pub(super) fn step_incident(&mut self) -> Result<bool, Error> {
        if let Some(reason) = self.too_slow() {
            let Some(previous) = self.retraining.state.watch.as_ref().map(|watch| watch.previous) else {
                return Ok(false);
            };
            return self.start_rollback(previous, reason).map(|()| true);
        }
        let Some(Suspicion { key, accused, row, .. }) = self.retraining.suspicion.clone() else { return Ok(false) };
        let Some(witness) = self.retraining.witness(accused) else {
            self.retraining.drop_suspicion();
            return Ok(false);
        };
        let scores = match self.poll_row_scores(&key, &[witness], Arc::new(vec![row]))? {
            JobStatus::Running | JobStatus::Unknown => return Ok(false),
            JobStatus::Done(scores) => scores,
            JobStatus::Failed { .. } => Vec::new(),
        };
        self.retraining.suspicion = None;
        let theirs =
            scores.iter().find(|scores| scores.model == witness).and_then(|scores| scores.outputs.as_ref().ok());
        if theirs.and_then(|output| predicted_label(self.schema.target(), output)).is_none() {
            return Ok(false);
        }
        let text = format!("{accused} served an output that is no prediction, on a row that {witness} can predict");
        let reason = Reason::new("not_finite", text);
        if self.retraining.judged() == Some(accused) {
            self.refuse(accused, reason)?;
        } else {
            self.start_rollback(witness, reason)?;
        }
        Ok(true)
    }

    /// Why the watched model is too slow, if it is: by the timings that the host recorded, against those of its predecessor.
    fn too_slow(&self) -> Option<Reason> {
        let retraining = &self.retraining;
        let watch = retraining.state.watch.as_ref()?;
        let (mine, theirs) = (retraining.timings.median()?, retraining.state.latency_before?);
        let broken = retraining.parts.latency.is_broken(mine, theirs);
        broken.then(|| {
            let text = format!("{} takes {mine:?} at the median, {} took {theirs:?}", watch.current, watch.previous);
            Reason::new("latency", text)
        })
    }
}
