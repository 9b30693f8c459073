//! What retraining holds of a sample, and what it has made of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::super::Pipeline;
use super::super::anchor::BEFORE;
use super::super::erasure::Erased;
use super::super::lineage::{batches_back, corrected_in, models_with};
use super::super::outbox::parse;
use super::SEALED;
use crate::error::Error;
use crate::event::PredictionId;
use crate::reference::Reference;
use crate::retrain::batch::CORRECTED;
use crate::retrain::{BatchId, Manifest, Run, RunId};
use crate::sample::Sample;
use crate::schema::Row;
use crate::store::{Indexed, Kind, Scan, Write};
use chrono::{DateTime, Utc};
use std::sync::Arc;

impl Pipeline {
    /// Takes a sample out of everything that retraining keeps in memory; gives the writes of what it keeps in the store.
    pub(in crate::pipeline) fn forget_in_retraining(
        &mut self,
        id: PredictionId,
        sample: Option<&Sample>,
    ) -> Result<Vec<Write>, Error> {
        // Whatever can fail comes before the first change.
        let mut writes = self.live_rows_without(id)?;
        if let Some(sample) = sample {
            writes.extend(self.references_without(&sample.observation.row)?);
        }
        let retraining = &mut self.retraining;
        retraining.taught.forget(id);
        retraining.coverage.retract(id);
        retraining.pool.retain(|observation| observation.id != id);
        if retraining.comparing.as_ref().is_some_and(|looked| looked.rows.iter().any(|row| row.id == id)) {
            retraining.forget_comparison();
        }
        retraining.forget_tests();
        retraining.checked = None;
        retraining.forget_suspicion(id);
        let checked = retraining.state.checking.erase(id);
        if let Some(held) = &mut retraining.state.held {
            held.rows.retain(|(other, _)| *other != id);
        }
        if checked || retraining.state.held.is_some() {
            writes.push(self.retraining.save(&self.outbox)?);
        }
        Ok(writes)
    }

    /// The batches that the newest `most` rows come from, oldest first.
    pub(super) fn newest_batches(&self, most: usize) -> Result<Vec<Manifest>, Error> {
        let mut manifests = Vec::new();
        let mut rows = 0;
        for manifest in batches_back(&**self.store(), self.name(), self.retraining.state.last_batch.clone()) {
            let manifest = manifest?;
            rows += manifest.rows as usize;
            manifests.push(manifest);
            if rows >= most {
                break;
            }
        }
        manifests.reverse();
        Ok(manifests)
    }

    /// Samples with content of batches that were sealed before `cutoff`, oldest first, at most `limit`.
    pub(in crate::pipeline) fn rows_of_old_batches(
        &mut self,
        cutoff: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<Sample>, Error> {
        let emptied = self.retraining.state.emptied.clone();
        let emptied = emptied.map(|batch| self.outbox.record(Kind::Batch, &batch.0)).transpose()?.flatten();
        let (mut rows, mut after) = (Vec::new(), emptied.map(|record| (record.rank, record.key.id)));
        while rows.len() < limit {
            // They rank by their runs: in the order in which they were sealed.
            let from = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let Some(record) = self.outbox.page(Kind::Batch, SEALED, from, 1)?.pop() else { break };
            let manifest: Manifest = parse(&record)?;
            if manifest.sealed >= cutoff {
                break;
            }
            for id in manifest.samples {
                let sample = self.outbox.stored_sample(id)?.filter(|sample| sample.erased.is_none());
                rows.extend(sample.filter(|_| rows.len() < limit));
            }
            if rows.is_empty() {
                self.retraining.state.emptied = Some(manifest.batch);
            }
            after = Some((record.rank, record.key.id));
        }
        Ok(rows)
    }

    /// Takes one equal row out of the sample of each reference that is stored, and out of those in memory that are not of
    /// the host.
    fn references_without(&mut self, row: &Row) -> Result<Vec<Write>, Error> {
        let indexed = || Indexed { state: "saved", rank: 0, due: None };
        let mut writes = Vec::new();
        for name in ["reference/training", "reference/serving"] {
            if let Some(mut stored) = self.outbox.read::<Reference>(Kind::Control, name)?
                && stored.forget(row)
            {
                writes.push(self.outbox.json(Kind::Control, name, indexed(), &stored)?);
            }
        }
        if let Some(Some(mut before)) = self.outbox.read::<Option<Reference>>(Kind::Control, BEFORE)?
            && before.forget(row)
        {
            writes.push(self.outbox.json(Kind::Control, BEFORE, indexed(), &Some(before))?);
        }
        let anchor = self.references.anchor.clone();
        let upcoming = self.retraining.upcoming.iter_mut().map(|(_, reference)| reference);
        let own = [&mut self.references.training, &mut self.references.serving];
        for reference in own.into_iter().chain(upcoming).chain(&mut self.retraining.previous_reference) {
            if !Arc::ptr_eq(reference, &anchor) {
                Arc::make_mut(reference).forget(row);
            }
        }
        if let Some(builder) = &mut self.retraining.baseline {
            builder.forget(row);
        }
        Ok(writes)
    }

    /// What was made with a sample of `batch`.
    pub(in crate::pipeline) fn reach(&self, sample: PredictionId, batch: Option<BatchId>) -> Result<Erased, Error> {
        let mut erased = Erased {
            sample,
            batches: Vec::new(),
            runs: Vec::new(),
            models: Vec::new(),
            files: Vec::new(),
            scrubbed: false,
        };
        let Some(batch) = batch else { return Ok(erased) };
        let Some(manifest) = self.outbox.read::<Manifest>(Kind::Batch, &batch.0)? else {
            return Err(Error::Corrupt(format!("batch {batch} is not in the store")));
        };
        let models = models_with(&**self.store(), self.name(), &manifest)?;
        let runs: BTreeSet<RunId> = match manifest.run {
            Some(sealed_for) => self.runs_since(sealed_for)?,
            None => models.iter().filter_map(|model| model.run).collect(),
        };
        if let Some(directory) = &self.retraining.parts.export {
            let later = corrected_in(&**self.store(), self.name(), &manifest, sample)?;
            let corrections = later.iter().map(|later| directory.join(&later.batch.0).join(CORRECTED));
            let files = manifest.files.keys().map(|name| directory.join(&batch.0).join(name));
            erased.files.extend(files.chain(corrections).filter(|file| file.exists()));
        }
        if let Some(directory) = &self.retraining.parts.directory {
            erased.files.extend(job_directories(directory, &runs));
        }
        erased.models.extend(models.iter().map(|model| model.version));
        erased.runs.extend(runs);
        erased.batches.push(batch);
        Ok(erased)
    }

    fn runs_since(&self, first: RunId) -> Result<BTreeSet<RunId>, Error> {
        let (mut runs, mut last) = (BTreeSet::new(), None::<String>);
        loop {
            let after = last.as_deref().map(|id| (i64::MIN, id));
            let scan = Scan { pipeline: self.name(), kind: Kind::Run, state: None, after, limit: 256 };
            let page = self.store().scan(&scan).map_err(Error::store("read runs"))?;
            let Some(end) = page.last() else { return Ok(runs) };
            last = Some(end.key.id.clone());
            for record in &page {
                let run: Run = parse(record)?;
                if run.id >= first {
                    runs.insert(run.id);
                }
            }
        }
    }
}

/// Directories of the training jobs of these runs. One that cannot be read holds none.
fn job_directories(directory: &std::path::Path, runs: &BTreeSet<RunId>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let belongs = |name: &str| runs.iter().any(|run| name.starts_with(&format!("{run}-")));
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(belongs)).map(|entry| entry.path()).collect();
    found.sort();
    found
}
