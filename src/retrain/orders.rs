//! What a trainer outside this process is told: the files of a job, and the description of it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::TrainJob;
use super::batch::{columns, data_files, lines_of};
use crate::error::BoxError;
use crate::files::write_atomically;

/// Writes the rows of a job into its directory; returns the files.
pub(crate) fn write_data(job: &TrainJob, directory: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let lines: Vec<_> = lines_of(&job.data).collect();
    let mut written = Vec::new();
    for (name, bytes) in data_files(job.data.schema(), &lines)? {
        let path = directory.join(name);
        write_atomically(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// The description of a job: everything but the rows.
pub(crate) fn describe(job: &TrainJob) -> Value {
    let schema = job.data.schema();
    json!({
        "format": 1, "key": job.key, "run": job.run, "recipe": job.recipe, "seed": job.seed, "rows": job.data.len(),
        "digest": job.dataset.digest, "fingerprint": schema.fingerprint(), "schema": &**schema,
        "columns": columns(schema), "dataset": job.dataset,
    })
}
