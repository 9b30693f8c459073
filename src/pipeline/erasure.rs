//! Erasure: the content of one sample leaves the store, and what it was part of is named.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::isolated::AsStage;
use crate::dataset::{content_digest, correction_digest, row_digest};
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::journal::sha256;
use crate::retrain::{BatchId, Manifest, RunId};
use crate::review::Task;
use crate::router::Ask;
use crate::sample::{ERASED, Erasure, Sample};
use crate::schema::Row;
use crate::stage::isolate;
use crate::store::{Indexed, Kind, Write};

/// What is left of an annotation.
pub(super) const STUB: &[u8] = br#"{"erased":true}"#;

/// What an erasure came to: what was made with the content before it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The sample.
    pub sample: PredictionId,
    /// The batches with it: they keep their name, and say how many of their rows are erased ([`Pipeline::verify_batch`]).
    pub batches: Vec<BatchId>,
    /// The runs since its batch was sealed: their training data held it, and that of a run in flight holds it still.
    pub runs: Vec<RunId>,
    /// The models that were trained on those batches. Whether they have to go is for their owner to decide.
    pub models: Vec<ModelVersion>,
    /// Exported files and directories of training jobs that hold it, as far as they are there: for the host to delete.
    pub files: Vec<PathBuf>,
    /// Is the content also gone from what lies beside the records of the store ([`Store::scrub`](crate::Store::scrub))? If
    /// somebody was in the way, [`Pipeline::poll`] tries again. The file of a `SqliteStore` may still hold fragments in unused
    /// space of its pages, until `SqliteStore::compact` writes it anew.
    pub scrubbed: bool,
}

/// How a batch in the store compares with its name, which is the digest of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCheck {
    /// Rows of the batch.
    pub rows: u64,
    /// Rows whose content was erased since; their digests stand for them.
    pub erased: u64,
    /// Do the rows, and the digests of the erased ones, give the name of the batch?
    pub intact: bool,
}

impl Pipeline {
    /// Takes the content of a sample out of the store and out of the memory of this process, in the name of `who`.
    ///
    /// Gone are: in the sample, its row, output, what other models said in its shadow, payload, flags, labels and the words of its history; its annotations; the
    /// question about it in the review queue; outcomes and feedback that wait for it; its prediction in the ledger; what
    /// gates and router remember of it ([`Stage::forget`](crate::Stage::forget)); and one equal row in each sample of a
    /// stored reference, which stages see when they are rebased next. What is left says that there was such a sample: id,
    /// time, model, lane, steps with their codes, and SHA-256 of what was there ([`Sample::erased`]). It becomes
    /// [`Erased`](crate::SampleState::Erased), or stays in its batch, and is not trained on again, also not after a restart.
    /// What arrives about it later is counted and dropped. The journal gets an entry with `who` and `why` (they stay: say
    /// nothing of the content there) and remains intact. Erasing again says the same. A prediction that never became a
    /// sample leaves the memory of the loop.
    ///
    /// It does not reach: models that were trained with the row, and files, which are listed; windows of detectors, which
    /// hold single values of the newest rows, without ids, until they have moved on; counts, means and covariances; the same
    /// input under another id; backups. An input with few possible values can be found from its digest by trying them all.
    ///
    /// # Errors
    /// The store fails. If it failed at the end, the erasure is pending, and [`Pipeline::poll`] makes it durable.
    pub fn erase(&mut self, id: PredictionId, who: &str, why: &str) -> Result<Erased, Error> {
        // Nothing with the content may be under way to the store.
        self.outbox.commit()?;
        let sample = self.outbox.sample(id)?.cloned();
        let batch = sample.as_ref().and_then(|sample| sample.batch.clone());
        let erased = self.reach(id, batch)?;
        let mut unit = self.emptied_records(id)?;
        unit.extend(self.forget_in_retraining(id, sample.as_ref())?);
        if let Some(sample) = sample.filter(|sample| sample.erased.is_none()) {
            self.forget_in_stages(&sample);
            self.empty_sample(sample, who, why)?;
        }
        self.ledger.forget(id);
        self.shadows.forget(id);
        self.flow.unasked.remove(&id);
        self.flow.unscrubbed = true;
        self.note(ERASED, id.to_string(), Some(who), Some(why));
        self.outbox.push_with_samples(unit)?;
        self.checkpoint()?;
        self.outbox.commit()?;
        self.scrub()?;
        Ok(Erased { scrubbed: !self.flow.unscrubbed, ..erased })
    }

    /// Compares a batch with the digest of what it was sealed with: rows, labels, weights and corrections of earlier batches;
    /// erased rows left theirs.
    ///
    /// # Errors
    /// There is no such batch, or the store cannot be read.
    pub fn verify_batch(&self, batch: &BatchId) -> Result<BatchCheck, Error> {
        let manifest: Option<Manifest> = self.outbox.read(Kind::Batch, &batch.0)?;
        let manifest = manifest.ok_or_else(|| Error::Refused(format!("there is no batch {batch}")))?;
        let (mut digests, mut erased) = (Vec::with_capacity(manifest.samples.len()), 0);
        for id in &manifest.samples {
            let Some(sample) = self.outbox.stored_sample(*id)? else { continue };
            erased += u64::from(sample.erased.is_some());
            digests.extend(sealed_digest(&sample));
        }
        let complete = digests.len() as u64 == manifest.rows;
        digests.extend(manifest.corrected.iter().map(|(id, annotation)| correction_digest(*id, *annotation)));
        let intact = complete && content_digest(&manifest.schema, digests) == manifest.digest;
        Ok(BatchCheck { rows: manifest.rows, erased, intact })
    }

    /// The writes that empty everything about a sample but the sample itself, as far as it is there.
    pub(super) fn emptied_records(&mut self, id: PredictionId) -> Result<Vec<Write>, Error> {
        let mut unit = Vec::new();
        for record in self.outbox.annotations_of(id)?.into_iter().filter(|record| record.state != ERASED) {
            let indexed = Indexed { state: ERASED, rank: record.rank, due: None };
            unit.push(self.outbox.raw(Kind::Annotation, &record.key.id, indexed, STUB.to_vec()));
        }
        if let Some(known) = self.outbox.task(id)?.filter(|known| known.state != ERASED) {
            let ask = Ask { priority: 0.0, overlap: 1, blind: true };
            let task = Task::empty(id, ask, self.now, &self.schema);
            let indexed = Indexed { state: ERASED, rank: known.rank, due: None };
            let write = self.outbox.json(Kind::Task, &id.to_string(), indexed, &task)?;
            self.outbox.expect_task(id, &write);
            unit.push(write);
        }
        if self.flow.parked.remove(&id).is_some() {
            let indexed = Indexed { state: "joined", rank: self.sequence as i64, due: None };
            unit.push(self.outbox.raw(Kind::Parked, &id.to_string(), indexed, b"[]".to_vec()));
        }
        Ok(unit)
    }

    /// Leaves of a sample what [`Sample::empty`] leaves of it.
    pub(super) fn empty_sample(&mut self, mut sample: Sample, who: &str, why: &str) -> Result<(), Error> {
        let body = serde_json::to_vec(&sample)
            .map_err(|e| Error::Corrupt(format!("sample {} cannot be written as JSON: {e}", sample.id())))?;
        let row = sample.batch.as_ref().and_then(|_| sealed_digest(&sample));
        sample.empty(
            Erasure {
                time: self.now,
                by: who.to_owned(),
                why: why.to_owned(),
                content: sha256(&body),
                row: row.map(|digest| crate::schema::hex(&digest)),
            },
            Row::new(&self.schema),
        );
        self.retraining.labelled(&sample);
        self.outbox.put(sample);
        Ok(())
    }

    /// A stage that is down has to forget as well: its saved state would bring the content back.
    fn forget_in_stages(&mut self, sample: &Sample) {
        let detectors = self.detectors.iter_mut().map(|stage| stage.stage.as_stage());
        let gates = self.gates.iter_mut().map(|stage| stage.stage.as_stage());
        let router = self.router.iter_mut().map(|stage| stage.stage.as_stage());
        for stage in detectors.chain(gates).chain(router) {
            // One that panics is brought back to a state that was saved after this, or before.
            let _ = isolate(|| {
                stage.forget(sample);
                Ok(())
            });
        }
    }

    /// Makes what was overwritten unreadable, if that is still to be done.
    pub(super) fn scrub(&mut self) -> Result<(), Error> {
        if self.flow.unscrubbed {
            self.flow.unscrubbed = !self.store().scrub().map_err(Error::store("scrub"))?;
        }
        Ok(())
    }
}

/// The digest by which a sample counts in its batch; `None` if it has neither a sealed label nor what is left of one.
fn sealed_digest(sample: &Sample) -> Option<[u8; 32]> {
    match &sample.erased {
        Some(erasure) => {
            let hex = erasure.row.as_deref()?;
            let mut digest = [0; 32];
            for (at, byte) in digest.iter_mut().enumerate() {
                *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
            }
            Some(digest)
        }
        None => Some(row_digest(&sample.observation.row, sample.sealed?, sample.weight)),
    }
}
