//! Batches: sealed sets of labelled samples, and their form on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::{BatchId, Manifest};
use crate::dataset::{Dataset, correction_digest};
use crate::error::{BoxError, Error};
use crate::event::PredictionId;
use crate::files::{sync_directory, write_atomically};
use crate::retrain::taught::Said;
use crate::sample::{Annotation, Reason, Sample};
use crate::schema::{Schema, hex};

pub(crate) mod line;
#[cfg(feature = "parquet")]
mod parquet_file;
mod verify;

pub(crate) use line::{Line, Origin, columns, json_lines, lines_of, read_json_lines};
use line::{corrected_lines, read_corrected};
pub use verify::{Verified, verify_batch};

/// Version of the format on disk.
const FORMAT: u32 = 1;
/// Name of the data file as JSON Lines.
pub(crate) const DATA: &str = "data.jsonl";
/// Name of the data file as Parquet.
#[cfg(feature = "parquet")]
pub(crate) const PARQUET: &str = "data.parquet";
/// Name of the file with the labels of rows of earlier batches that are others since.
pub(crate) const CORRECTED: &str = "corrected.jsonl";
/// Name of the file with the schema of the rows.
const SCHEMA: &str = "schema.json";
const MANIFEST: &str = "manifest.json";

/// One row of a batch: a sample, the annotation whose label counts, and the training weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRow<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) annotation: &'a Annotation,
    pub(crate) weight: f64,
}

impl<'a> BatchRow<'a> {
    /// The row as it is written.
    ///
    /// # Errors
    /// Its annotation retracts a label instead of giving one.
    pub(crate) fn line(&self) -> Result<Line<'a>, Error> {
        let (sample, annotation) = (self.sample, self.annotation);
        let Some(label) = annotation.label else {
            return Err(Error::Refused(format!("sample {} has no label: it cannot enter a batch", sample.id())));
        };
        let origin = Origin {
            sample: sample.id(),
            time: sample.observation.time,
            annotator: &annotation.annotator,
            lane: sample.lane,
            inclusion: sample.inclusion,
            judged: sample.judged,
        };
        Ok(Line { row: &sample.observation.row, label, weight: self.weight, origin: Some(origin) })
    }
}

/// Seals `rows`, oldest first, and `corrections` of rows of earlier batches: the manifest, without files.
///
/// # Errors
/// A row does not fit the schema, or its annotation retracts a label instead of giving one.
pub(crate) fn seal(
    pipeline: &str,
    schema: &Arc<Schema>,
    parent: Option<BatchId>,
    rows: &[BatchRow<'_>],
    corrections: &[(PredictionId, Said)],
    gates: BTreeMap<String, Vec<Reason>>,
    now: DateTime<Utc>,
) -> Result<Manifest, Error> {
    let mut data = Dataset::new(schema.clone());
    let (mut sources, mut lanes, mut splits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for row in rows {
        let line = row.line()?;
        data.push(line.row.clone(), line.label, line.weight)?;
        if let Some(origin) = line.origin {
            *sources.entry(origin.source().to_owned()).or_default() += 1;
            *lanes.entry(origin.lane.as_str().to_owned()).or_default() += 1;
            *splits.entry(origin.split().to_owned()).or_default() += 1;
        }
    }
    let corrected: BTreeMap<_, _> =
        corrections.iter().map(|(sample, said)| (*sample, said.map(|(annotation, _)| annotation))).collect();
    let digest = data.digest_with(corrected.iter().map(|(sample, annotation)| correction_digest(*sample, *annotation)));
    Ok(Manifest {
        format: FORMAT,
        batch: BatchId(digest.clone()),
        digest,
        pipeline: pipeline.to_owned(),
        schema: schema.fingerprint().to_owned(),
        run: None,
        parent,
        sealed: now,
        rows: rows.len() as u64,
        sources,
        lanes,
        splits,
        gates,
        columns: columns(schema),
        samples: rows.iter().map(|row| row.sample.id()).collect(),
        corrected,
        files: BTreeMap::new(),
    })
}

/// The manifest of base data, which is written like a batch but names no samples.
pub(crate) fn base_manifest(pipeline: &str, data: &Dataset, digest: &str, now: DateTime<Utc>) -> Manifest {
    Manifest {
        format: FORMAT,
        batch: BatchId(digest.to_owned()),
        digest: digest.to_owned(),
        pipeline: pipeline.to_owned(),
        schema: data.schema().fingerprint().to_owned(),
        run: None,
        parent: None,
        sealed: now,
        rows: data.len() as u64,
        sources: [(BASE.to_owned(), data.len() as u64)].into(),
        lanes: BTreeMap::new(),
        splits: BTreeMap::new(),
        gates: BTreeMap::new(),
        columns: columns(data.schema()),
        samples: Vec::new(),
        corrected: BTreeMap::new(),
        files: BTreeMap::new(),
    }
}

/// The source of rows of base data.
const BASE: &str = "base";

/// Name and content of each data file.
///
/// # Errors
/// The rows cannot be written as Parquet.
pub(crate) fn data_files(schema: &Schema, lines: &[Line<'_>]) -> Result<Vec<(&'static str, Vec<u8>)>, BoxError> {
    Ok(vec![
        (DATA, json_lines(schema, lines)),
        #[cfg(feature = "parquet")]
        (PARQUET, parquet_file::parquet(schema, lines)?),
    ])
}

/// Writes a batch to `directory`/*batch id*: data first, manifest last. Returns that path and the manifest with the
/// SHA-256 of each file.
///
/// Doing it twice is harmless; what is damaged, was left half-written or is of an earlier release is written anew.
///
/// # Errors
/// A file cannot be written, or the directory holds another batch under the same id.
pub(crate) fn export(
    directory: &Path,
    manifest: &Manifest,
    schema: &Schema,
    lines: &[Line<'_>],
    corrections: &[(PredictionId, Said)],
) -> Result<(PathBuf, Manifest), Error> {
    let path = directory.join(&manifest.batch.0);
    let failed = |what: &str| format!("cannot write {what} of the batch {} to {}", manifest.batch, path.display());
    let mut files = data_files(schema, lines).map_err(Error::file(failed("the data")))?;
    if !corrections.is_empty() {
        files.push((CORRECTED, corrected_lines(schema, corrections)));
    }
    files.push((SCHEMA, serde_json::to_vec_pretty(schema).map_err(Error::file(failed("the schema")))?));
    let mut complete = manifest.clone();
    complete.files = files.iter().map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))).collect();
    if let Ok(found) = verify::files(&path) {
        if found.samples != complete.samples {
            let text = format!("{} holds other samples with the same content: keep both apart", path.display());
            return Err(Error::Refused(text));
        }
        if found.files == complete.files {
            return Ok((path, found));
        }
    }
    fs::create_dir_all(&path).map_err(Error::file(failed("the directory")))?;
    sync_directory(directory).map_err(Error::file(failed("the directory")))?;
    for (name, bytes) in &files {
        write_atomically(&path.join(name), bytes).map_err(Error::file(failed(name)))?;
    }
    let text = serde_json::to_vec_pretty(&complete).map_err(Error::file(failed("the manifest")))?;
    write_atomically(&path.join(MANIFEST), &text).map_err(Error::file(failed("the manifest")))?;
    Ok((path, complete))
}

/// Takes the batch in `path` away if `pipeline` exported it: the manifest first, without which it is none. Anything else that
/// is there stays.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn take_away(path: &Path, pipeline: &str) -> Result<(), Error> {
    let place = path.join(MANIFEST);
    let manifest = fs::read(&place).ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    if manifest.is_some_and(|manifest| manifest.pipeline == pipeline) {
        let failed = || format!("cannot remove the batch in {}, which was never sealed", path.display());
        fs::remove_file(&place).map_err(Error::file(failed()))?;
        fs::remove_dir_all(path).map_err(Error::file(failed()))?;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
