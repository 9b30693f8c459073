//! What an earlier process left in the store is taken over.

use std::sync::Arc;

use super::super::Pipeline;
use super::LoopState;
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::ModelVersion;
use crate::reference::Reference;
use crate::retrain::ModelRecord;
use crate::sample::SampleState;
use crate::store::Kind;
use crate::trigger::coverage::tracker::CoverageTracker;

impl Pipeline {
    /// Takes over what an earlier process left in the store, or writes the first state.
    pub(in crate::pipeline) fn reopen_retraining(&mut self) -> Result<(), Error> {
        let saved: Option<LoopState> = self.outbox.read(Kind::Control, "loop")?;
        let fresh = saved.is_none();
        let aliases = saved.as_ref().unwrap_or(&self.retraining.state).aliases();
        if let Some(mut saved) = saved {
            if saved.schema != self.schema.fingerprint() {
                self.take_over_schema(&mut saved)?;
            }
            self.retraining.state = saved;
        }
        self.reopen_aliases(aliases)?;
        self.first_version()?;
        if let Some(artifact) = self.retraining.parts.first_model.clone() {
            let mut record = ModelRecord {
                version: ModelVersion::FIRST,
                artifact,
                run: None,
                recipe: None,
                base: None,
                batch: None,
                digest: self.base.as_ref().map(Dataset::digest),
                dataset: None,
                trained: self.now,
                quarantined: None,
                removed: None,
            };
            if fresh {
                let writes = self.retraining.save_model(&self.outbox, &record)?;
                self.outbox.join(writes);
            } else if let Some(stored) =
                self.outbox.read::<ModelRecord>(Kind::Model, &ModelVersion::FIRST.to_string())?
            {
                record.trained = stored.trained;
            }
            self.retraining.models.insert(ModelVersion::FIRST, record);
        }
        for version in self.retraining.live_versions().into_iter().filter(|version| *version != ModelVersion::FIRST) {
            self.retraining.load_model(&self.outbox, version)?;
        }
        self.retraining.redeploy =
            self.retraining.state.champion != ModelVersion::FIRST && self.retraining.parts.deployer.is_some();
        // The traffic before is forgotten; what comes is enough for a baseline, or the old one stays.
        let watched = self.retraining.state.watch.as_ref().map(|watch| watch.current);
        self.retraining.baseline = watched.map(|version| Reference::builder(self.schema.clone()).model(version));
        let references = &mut self.references;
        for (name, place) in [
            ("reference/training", &mut references.training),
            ("reference/serving", &mut references.serving),
            ("reference/anchor", &mut references.anchor),
        ] {
            if let Some(bytes) = self.outbox.read_raw(Kind::Control, name)? {
                let reference: Reference = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::Corrupt(format!("the stored {name} cannot be read: {e}")))?;
                if reference.schema().fingerprint() != self.schema.fingerprint() {
                    return Err(Error::Corrupt(format!("the stored {name} is of another schema")));
                }
                *place = Arc::new(reference);
            }
        }
        self.measure_drift();
        self.retraining.coverage = CoverageTracker::new(&self.references.training, self.retraining.parts.seed);
        self.reload_labels()?;
        if fresh || self.retraining.aliases.is_none() { self.save_loop(Vec::new()) } else { Ok(()) }
    }

    /// Labels that wait for a batch, and the newest rows of the batches that there are.
    fn reload_labels(&mut self) -> Result<(), Error> {
        let (schema, retraining) = (&self.schema, &mut self.retraining);
        for state in [SampleState::Queued, SampleState::Admitted, SampleState::Labelled] {
            self.outbox.each(Kind::Sample, state.as_str(), |record| {
                let sample = self.outbox.parse_sample(&record)?;
                let mut admitted = sample.clone();
                admitted.state = SampleState::Admitted;
                retraining.flagged(&admitted, schema);
                retraining.labelled(&sample);
                Ok(())
            })?;
        }
        self.reload_training_rows()
    }
}
