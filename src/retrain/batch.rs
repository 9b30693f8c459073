//! Batches: sealed sets of labelled samples, and their form on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{BatchId, Manifest};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::Label;
use crate::files::{sync_directory, write_atomically};
use crate::sample::{Annotation, Annotator, Reason, Sample};
use crate::schema::{Row, Schema, Target, hex};

/// Version of the format on disk.
const FORMAT: u32 = 1;
/// Name of the data file.
pub(crate) const DATA: &str = "data.jsonl";
const MANIFEST: &str = "manifest.json";

/// One row of a batch: a sample, the annotation whose label counts, and the training weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRow<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) annotation: &'a Annotation,
    pub(crate) weight: f64,
}

/// Seals `rows`, oldest first: the manifest (without files) and the data to train on, in the order of the rows.
///
/// # Errors
/// A row does not fit the schema, or its annotation retracts a label instead of giving one.
pub(crate) fn seal(
    pipeline: &str,
    schema: &Arc<Schema>,
    parent: Option<BatchId>,
    rows: &[BatchRow<'_>],
    gates: BTreeMap<String, Vec<Reason>>,
    now: DateTime<Utc>,
) -> Result<(Manifest, Dataset), Error> {
    let mut data = Dataset::new(schema.clone());
    let (mut sources, mut lanes) = (BTreeMap::new(), BTreeMap::new());
    for BatchRow { sample, annotation, weight } in rows {
        let Some(label) = annotation.label else {
            return Err(Error::Refused(format!("sample {} has no label: it cannot enter a batch", sample.id())));
        };
        data.push(sample.observation.row.clone(), label, *weight)?;
        *sources.entry(source_of(&annotation.annotator).to_owned()).or_default() += 1;
        *lanes.entry(sample.lane.as_str().to_owned()).or_default() += 1;
    }
    let manifest = Manifest {
        format: FORMAT,
        batch: BatchId(data.digest()),
        pipeline: pipeline.to_owned(),
        schema: schema.fingerprint().to_owned(),
        run: None,
        parent,
        sealed: now,
        rows: rows.len() as u64,
        sources,
        lanes,
        gates,
        samples: rows.iter().map(|row| row.sample.id()).collect(),
        files: BTreeMap::new(),
    };
    Ok((manifest, data))
}

fn source_of(annotator: &Annotator) -> &'static str {
    match annotator {
        Annotator::Human(_) => "human",
        Annotator::User(_) => "user",
        Annotator::GroundTruth => "ground_truth",
        Annotator::Model(_) => "model",
    }
}

/// A labelled row as one JSON object: `row` (field names to values), `label` (name of the class, or the value) and
/// `weight`.
pub(crate) fn labelled_json(schema: &Schema, row: &Row, label: Label, weight: f64) -> Value {
    let label = match (label, schema.target()) {
        (Label::Class(class), Target::Classes(names)) => names.get(class as usize).map_or(Value::Null, |n| json!(n)),
        (label, _) => json!(label.number()),
    };
    json!({ "row": row.to_json(schema), "label": label, "weight": weight })
}

/// The row of a batch as one JSON object: as [`labelled_json`], and `sample` and `annotator`.
pub(crate) fn batch_json(schema: &Schema, row: &BatchRow<'_>) -> Value {
    let label = row.annotation.label.unwrap_or(Label::Value(f64::NAN));
    let mut object = labelled_json(schema, &row.sample.observation.row, label, row.weight);
    object["sample"] = json!(row.sample.id());
    object["annotator"] = json!(row.annotation.annotator);
    object
}

/// JSON objects as lines.
pub(crate) fn json_lines(objects: impl IntoIterator<Item = Value>) -> Vec<u8> {
    objects.into_iter().flat_map(|object| format!("{object}\n").into_bytes()).collect()
}

/// Writes a batch to `directory`/*batch id*: data first, manifest last. Returns that path and the manifest with the
/// SHA-256 of the data file.
///
/// Doing it twice is harmless; what is damaged or was left half-written is written anew.
///
/// # Errors
/// A file cannot be written, or the directory holds another batch under the same id.
pub(crate) fn export(
    directory: &Path,
    manifest: &Manifest,
    lines: impl IntoIterator<Item = Value>,
) -> Result<(PathBuf, Manifest), Error> {
    let path = directory.join(&manifest.batch.0);
    let failed = |what: &str| format!("cannot write {what} of the batch {} to {}", manifest.batch, path.display());
    let data = json_lines(lines);
    let mut complete = manifest.clone();
    complete.files = [(DATA.to_owned(), sha256(&data))].into();
    if let Ok(found) = verify(&path) {
        if found.files != complete.files || found.samples != complete.samples {
            let text = format!("{} holds other samples with the same content: keep both apart", path.display());
            return Err(Error::Refused(text));
        }
        return Ok((path, found));
    }
    fs::create_dir_all(&path).map_err(Error::file(failed("the directory")))?;
    sync_directory(directory).map_err(Error::file(failed("the directory")))?;
    write_atomically(&path.join(DATA), &data).map_err(Error::file(failed("the data")))?;
    let text = serde_json::to_vec_pretty(&complete).map_err(Error::file(failed("the manifest")))?;
    write_atomically(&path.join(MANIFEST), &text).map_err(Error::file(failed("the manifest")))?;
    Ok((path, complete))
}

/// Checks a batch that was exported to `directory`: every file is there and has the content that the manifest says.
///
/// # Errors
/// It names the file that is missing, truncated or changed.
pub(crate) fn verify(directory: &Path) -> Result<Manifest, Error> {
    let place = directory.join(MANIFEST);
    let failed = || format!("cannot read the manifest {}", place.display());
    let bytes = fs::read(&place).map_err(Error::file(failed()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(Error::file(failed()))?;
    let corrupt = |what: String| Error::Corrupt(format!("the batch in {} is damaged: {what}", directory.display()));
    if manifest.format != FORMAT {
        let found = manifest.format;
        return Err(corrupt(format!("its manifest has format {found}, this release reads format {FORMAT}")));
    }
    if manifest.samples.len() as u64 != manifest.rows {
        let (samples, rows) = (manifest.samples.len(), manifest.rows);
        return Err(corrupt(format!("its manifest names {samples} samples for {rows} rows")));
    }
    for (name, expected) in &manifest.files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(corrupt(format!("`{name}` is not the name of a file beside the manifest")));
        }
        let data = match fs::read(directory.join(name)) {
            Ok(data) => data,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(corrupt(format!("`{name}` is missing")));
            }
            Err(error) => return Err(Error::file(format!("cannot read {}", directory.join(name).display()))(error)),
        };
        let found = sha256(&data);
        if found != *expected {
            let lines = data.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let cut = lines < manifest.rows || data.last() != Some(&b'\n');
            return Err(corrupt(if cut {
                format!("`{name}` is truncated: {lines} of {} rows are whole", manifest.rows)
            } else {
                format!("`{name}` was changed: its SHA-256 is {found}, {expected} was expected")
            }));
        }
    }
    Ok(manifest)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
