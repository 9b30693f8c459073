//! One job of a training command, from its files to its end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Order;
use super::process::{End, LOG, Process, kill_left_over, tail};
use crate::error::{BoxError, message};
use crate::files::{sync_directory, write_atomically};
use crate::retrain::jobs::Failure;
use crate::retrain::orders::{describe, write_data};
use crate::retrain::signal::{Signal, back_off};
use crate::retrain::{Artifact, TrainJob, Trained};

const MARKER: &str = "done.json";

/// Written last, when the artifact is complete.
#[derive(Serialize, Deserialize)]
struct Marker {
    key: String,
    /// Of the training data: a directory that is used again by another store has the same keys.
    #[serde(default)]
    digest: String,
    artifact: PathBuf,
}

/// Why an attempt came to nothing.
enum Fault {
    /// It may go better the next time.
    Failed(String),
    /// It would not, or nobody wants it to.
    Final(String),
}

/// Runs the job in `directory`.
pub(super) fn train(order: &Order, job: &TrainJob, directory: &Path, signal: &Signal) -> Result<Trained, BoxError> {
    kill_left_over(directory);
    if let Some(artifact) = finished(directory, job) {
        return Ok(Trained { artifact: Artifact::File(artifact), log: tail(directory) });
    }
    let data = prepare(job, directory)?;
    let mut failures = 0;
    let artifact = loop {
        let reason = match attempt(order, job, directory, &data, signal)? {
            Ok(artifact) => break artifact,
            Err(Fault::Final(reason)) => return Err(Failure::new(reason, tail(directory)).into()),
            Err(Fault::Failed(reason)) => reason,
        };
        failures += 1;
        if failures > order.retries {
            let reason = if failures > 1 { format!("{reason}, at {failures} attempts") } else { reason };
            return Err(Failure::new(reason, tail(directory)).into());
        }
        signal.pause(back_off(order.back_off, failures));
    };
    let relative = artifact.strip_prefix(directory).unwrap_or(&artifact).to_owned();
    let marker = Marker { key: job.key.clone(), digest: job.dataset.digest.clone(), artifact: relative };
    write_atomically(&directory.join(MARKER), &serde_json::to_vec(&marker)?)?;
    Ok(Trained { artifact: Artifact::File(artifact), log: tail(directory) })
}

/// The artifact of this job, if an earlier process has completed it.
fn finished(directory: &Path, job: &TrainJob) -> Option<PathBuf> {
    let marker: Marker = serde_json::from_slice(&fs::read(directory.join(MARKER)).ok()?).ok()?;
    let artifact = directory.join(marker.artifact);
    let same = marker.key == job.key && marker.digest == job.dataset.digest;
    (same && artifact.exists()).then_some(artifact)
}

/// Makes the directory, takes away what an earlier process left in it, and writes the rows.
fn prepare(job: &TrainJob, directory: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let context = |error: io::Error| message(format!("cannot prepare {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(context)?;
    for stale in [MARKER, LOG] {
        match fs::remove_file(directory.join(stale)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
    }
    write_data(job, directory).map_err(|error| message(format!("cannot prepare {}: {error}", directory.display())))
}

/// Makes an empty output directory, a new one per attempt: a process that outlived a crash of the host may still be writing
/// to the old one.
fn new_output(directory: &Path) -> io::Result<(PathBuf, u32)> {
    let mut attempt = 1;
    loop {
        let output = directory.join(format!("output-{attempt}"));
        match fs::create_dir(&output) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
            made => return made.map(|()| (output, attempt)),
        }
    }
}

/// Runs the command once.
fn attempt(
    order: &Order,
    job: &TrainJob,
    directory: &Path,
    data: &[PathBuf],
    signal: &Signal,
) -> Result<Result<PathBuf, Fault>, BoxError> {
    let cancelled = || Ok(Err(Fault::Final("the command was killed: the job was cancelled".into())));
    if signal.raised() {
        return cancelled();
    }
    let (output, attempt) = new_output(directory)?;
    let mut manifest = describe(job);
    manifest["data"] = json!(data);
    manifest["output"] = json!(output);
    manifest["attempt"] = json!(attempt);
    write_atomically(&directory.join("job.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    let process = match Process::start(order, job, directory, &output) {
        Ok(process) => process,
        Err(error) => return Ok(Err(Fault::Failed(format!("cannot run {}: {error}", order.program.display())))),
    };
    let artifact = output.join(&order.artifact);
    Ok(match process.watch(order.timeout, signal)? {
        End::Cancelled => return cancelled(),
        // Another hour is not worth it.
        End::TimedOut => Err(Fault::Final(format!("the command was killed after {:?}", order.timeout))),
        End::Exited(status) if !status.success() => Err(Fault::Failed(format!("the command ended with {status}"))),
        End::Exited(_) => match complete(&artifact) {
            Ok(()) => {
                sync_directory(&output)?;
                Ok(artifact)
            }
            Err(what) => Err(Fault::Failed(format!("the command succeeded but {what}"))),
        },
    })
}

/// Is the artifact there, and more than nothing? Then it is flushed to disk.
fn complete(artifact: &Path) -> Result<(), String> {
    let place = artifact.display();
    let wrong = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("wrote no artifact to {place}"),
        _ => format!("its artifact {place} cannot be read: {error}"),
    };
    let found = fs::metadata(artifact).map_err(wrong)?;
    let empty = match found.is_dir() {
        true => fs::read_dir(artifact).map_err(wrong)?.next().is_none(),
        false => found.len() == 0,
    };
    if empty {
        return Err(format!("its artifact {place} is empty"));
    }
    flush(artifact).map_err(wrong)
}

/// Flushes a file, or a directory with everything in it.
fn flush(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            flush(&entry?.path())?;
        }
        return sync_directory(path);
    }
    if kind.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
}
