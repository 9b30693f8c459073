//! Checks of a batch on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{BASE, CORRECTED, DATA, FORMAT, MANIFEST, Manifest, SCHEMA, read_corrected, read_json_lines, sha256};
use crate::dataset::{Dataset, correction_digest};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::schema::Schema;

/// A batch on disk that is what its manifest says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// The manifest.
    pub manifest: Manifest,
    /// Its rows with labels and weights, whose content has the digest of the manifest. `None` for a batch that an
    /// earlier version wrote without its schema: then only its files were checked.
    pub data: Option<Dataset>,
    /// Rows of earlier batches whose label is another one from this batch on; `None` if it was taken back.
    pub corrected: BTreeMap<PredictionId, Option<Label>>,
}

/// Checks the batch in `directory`: the manifest can be read, every file is there and has the SHA-256 that the manifest
/// says, and the rows have the content digest that names the batch. Every file is read as a whole.
///
/// It finds damage and careless edits. Whoever rewrites all files with a new digest makes another batch: compare
/// [`Manifest::batch`] with the id that the store has.
///
/// # Errors
/// [`Error::Corrupt`] names the file or row that is missing, truncated or changed; [`Error::File`] what cannot be read.
///
/// # Examples
/// ```no_run
/// let batch = feedloop::verify_batch("batches/2f1c")?;
/// println!("{} rows for run {:?}", batch.manifest.rows, batch.manifest.run);
/// # Ok::<(), feedloop::Error>(())
/// ```
pub fn verify_batch(directory: impl AsRef<Path>) -> Result<Verified, Error> {
    let directory = directory.as_ref();
    let manifest = files(directory)?;
    let corrupt = |what: String| damaged(directory, what);
    if !manifest.files.contains_key(SCHEMA) {
        return Ok(Verified { manifest, data: None, corrected: BTreeMap::new() });
    }
    let schema: Schema = serde_json::from_slice(&read(directory, SCHEMA)?)
        .map_err(|error| corrupt(format!("`{SCHEMA}` is no schema: {error}")))?;
    if schema.fingerprint() != manifest.schema {
        let found = schema.fingerprint();
        return Err(corrupt(format!("`{SCHEMA}` has fingerprint {found}, its manifest names {}", manifest.schema)));
    }
    let corrected = if manifest.corrected.is_empty() { Vec::new() } else { read(directory, CORRECTED)? };
    let corrected = read_corrected(&schema, &corrected).map_err(|error| corrupt(format!("`{CORRECTED}`: {error}")))?;
    let numbers = corrected.iter().map(|(sample, said)| (*sample, said.map(|(annotation, _)| annotation)));
    if !numbers.clone().eq(manifest.corrected.iter().map(|(sample, annotation)| (*sample, *annotation))) {
        return Err(corrupt(format!("`{CORRECTED}` has other corrections than its manifest")));
    }
    let data = read_json_lines(&Arc::new(schema), &read(directory, DATA)?)
        .map_err(|error| corrupt(format!("`{DATA}`: {error}")))?;
    if data.len() as u64 != manifest.rows {
        return Err(corrupt(format!("`{DATA}` has {} rows, its manifest says {}", data.len(), manifest.rows)));
    }
    let found = data.digest_with(numbers.map(|(sample, annotation)| correction_digest(sample, annotation)));
    if found != manifest.digest {
        return Err(corrupt(format!("its content has digest {found}, its manifest names {}", manifest.digest)));
    }
    let corrected = corrected.into_iter().map(|(sample, said)| (sample, said.map(|(_, label)| label))).collect();
    Ok(Verified { manifest, data: Some(data), corrected })
}

/// Checks manifest and files of a batch, not what is in them.
pub(super) fn files(directory: &Path) -> Result<Manifest, Error> {
    let place = directory.join(MANIFEST);
    let failed = || format!("cannot read the manifest {}", place.display());
    let bytes = fs::read(&place).map_err(Error::file(failed()))?;
    let mut manifest: Manifest = serde_json::from_slice(&bytes).map_err(Error::file(failed()))?;
    if manifest.digest.is_empty() {
        manifest.digest.clone_from(&manifest.batch.0);
    }
    let corrupt = |what: String| damaged(directory, what);
    if manifest.format != FORMAT {
        let found = manifest.format;
        return Err(corrupt(format!("its manifest has format {found}, this release reads format {FORMAT}")));
    }
    if manifest.samples.len() as u64 != manifest.rows && !manifest.sources.contains_key(BASE) {
        let (samples, rows) = (manifest.samples.len(), manifest.rows);
        return Err(corrupt(format!("its manifest names {samples} samples for {rows} rows")));
    }
    let (id, digest) = (&manifest.batch, &manifest.digest);
    if id.0 != *digest && !id.0.starts_with(&format!("{digest}-")) {
        return Err(corrupt(format!("its manifest names batch {id}, which is none of digest {digest}")));
    }
    for (name, is_needed) in [(DATA, true), (CORRECTED, !manifest.corrected.is_empty())] {
        if is_needed && !manifest.files.contains_key(name) {
            return Err(corrupt(format!("its manifest names no `{name}`")));
        }
    }
    for (name, expected) in &manifest.files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(corrupt(format!("`{name}` is not the name of a file beside the manifest")));
        }
        let data = read(directory, name)?;
        let found = sha256(&data);
        if found != *expected {
            let lines = data.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let cut = name == DATA && (lines < manifest.rows || data.last() != Some(&b'\n'));
            return Err(corrupt(if cut {
                format!("`{name}` is truncated: {lines} of {} rows are whole", manifest.rows)
            } else {
                format!("`{name}` was changed: its SHA-256 is {found}, {expected} was expected")
            }));
        }
    }
    Ok(manifest)
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, Error> {
    fs::read(directory.join(name)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => damaged(directory, format!("`{name}` is missing")),
        _ => Error::file(format!("cannot read {}", directory.join(name).display()))(error),
    })
}

fn damaged(directory: &Path, what: String) -> Error {
    Error::Corrupt(format!("the batch in {} is damaged: {what}", directory.display()))
}
