//! One run of a training command, from its files to its end.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Order;
use crate::error::{BoxError, message};
use crate::files::{sync_directory, write_atomically};
use crate::retrain::batch::{DATA, json_lines, labelled_json};
use crate::retrain::jobs::Failure;
use crate::retrain::{Artifact, TrainJob, Trained};

/// What is shown of a log.
const TAIL: u64 = 64 * 1024;
/// How often the process is looked at.
const GLANCE: Duration = Duration::from_millis(20);
const LOG: &str = "train.log";
const MARKER: &str = "done.json";

/// Tells a run that nobody wants it any more, and the outside that it is over.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    over: AtomicBool,
}

impl Signal {
    pub(super) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
    }

    pub(super) fn raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    pub(super) fn over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// Sets `over` however a run ends.
struct Ending<'a>(&'a Signal);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// Written last, when the artifact is complete.
#[derive(Serialize, Deserialize)]
struct Marker {
    key: String,
    artifact: PathBuf,
}

/// Runs the job in `directory`, after a cancelled run of the same key (`before`) has ended.
pub(super) fn train(
    order: &Order,
    job: &TrainJob,
    directory: &Path,
    signal: &Signal,
    before: Option<&Signal>,
) -> Result<Trained, BoxError> {
    let _ending = Ending(signal);
    while before.is_some_and(|before| !before.over()) {
        thread::sleep(GLANCE);
    }
    if let Some(artifact) = finished(directory, &job.key) {
        return Ok(Trained { artifact: Artifact::File(artifact), log: tail(directory) });
    }
    let output = prepare(job, directory)?;
    let artifact = output.join(&order.artifact);
    let mut child = spawn(order, job, directory, &output)?;
    let status = watch(&mut child, order.timeout, signal)?;
    let failed = |reason: String| -> BoxError { Failure::new(reason, tail(directory)).into() };
    match status {
        End::TimedOut => return Err(failed(format!("the command was killed after {:?}", order.timeout))),
        End::Cancelled => return Err(failed("the command was killed: the job was cancelled".into())),
        End::Exited(status) if !status.success() => return Err(failed(format!("the command ended with {status}"))),
        End::Exited(_) if !artifact.exists() => {
            return Err(failed(format!("the command succeeded but wrote no artifact to {}", artifact.display())));
        }
        End::Exited(_) => {}
    }
    if artifact.is_file() {
        File::open(&artifact)?.sync_all()?;
    }
    sync_directory(&output)?;
    let relative = artifact.strip_prefix(directory).unwrap_or(&artifact).to_owned();
    let marker = Marker { key: job.key.clone(), artifact: relative };
    write_atomically(&directory.join(MARKER), &serde_json::to_vec(&marker)?)?;
    Ok(Trained { artifact: Artifact::File(artifact), log: tail(directory) })
}

/// The artifact of this key, if an earlier run has completed it.
fn finished(directory: &Path, key: &str) -> Option<PathBuf> {
    let marker: Marker = serde_json::from_slice(&fs::read(directory.join(MARKER)).ok()?).ok()?;
    let artifact = directory.join(marker.artifact);
    (marker.key == key && artifact.exists()).then_some(artifact)
}

/// Writes the inputs and makes an empty output directory, a new one per attempt: a process that outlived a crash of the
/// host may still be writing to the old one.
fn prepare(job: &TrainJob, directory: &Path) -> Result<PathBuf, BoxError> {
    let context = |error: io::Error| message(format!("cannot prepare {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(context)?;
    for stale in [MARKER, LOG] {
        match fs::remove_file(directory.join(stale)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => {}
        }
    }
    let data = &job.data;
    let rows = data.rows().iter().zip(data.labels()).zip(data.weights());
    let lines = json_lines(rows.map(|((row, label), weight)| labelled_json(data.schema(), row, *label, *weight)));
    write_atomically(&directory.join(DATA), &lines).map_err(context)?;
    let mut attempt = 1;
    let output = loop {
        let output = directory.join(format!("output-{attempt}"));
        match fs::create_dir(&output) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
            Err(error) => return Err(context(error)),
            Ok(()) => break output,
        }
    };
    let manifest = json!({
        "format": 1, "key": job.key, "run": job.run, "recipe": job.recipe, "seed": job.seed, "rows": data.len(),
        "digest": data.digest(), "fingerprint": data.schema().fingerprint(), "schema": &**data.schema(),
        "data": [directory.join(DATA)], "output": output, "attempt": attempt,
    });
    write_atomically(&directory.join("job.json"), &serde_json::to_vec_pretty(&manifest)?).map_err(context)?;
    Ok(output)
}

fn spawn(order: &Order, job: &TrainJob, directory: &Path, output: &Path) -> Result<Child, BoxError> {
    let log = File::create(directory.join(LOG))?;
    let mut command = Command::new(&order.program);
    command.args(&order.arguments).envs(order.environment.iter().map(|(name, value)| (name, value)));
    command.env("FEEDLOOP_MANIFEST", directory.join("job.json")).env("FEEDLOOP_DATA", directory.join(DATA));
    command.env("FEEDLOOP_OUTPUT", output).env("FEEDLOOP_KEY", &job.key);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|error| message(format!("cannot run {}: {error}", order.program.display())))
}

enum End {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
}

/// Waits for the end of `child`, and brings it about when the time is up or the job was cancelled.
fn watch(child: &mut Child, timeout: Duration, signal: &Signal) -> Result<End, BoxError> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        let cancelled = signal.raised();
        if cancelled || begun.elapsed() >= timeout {
            // It was not waited for yet, so its number is still its own.
            kill_group(child);
            child.wait()?;
            return Ok(if cancelled { End::Cancelled } else { End::TimedOut });
        }
        thread::sleep(GLANCE);
    }
}

/// Kills the process group that `child` leads; where that is not possible, `child` alone.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let quiet = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if cfg!(unix) {
        let by_program = quiet(Command::new("/bin/kill").args(["-KILL", "--", &group]));
        // Small containers have no such program, but every shell has the command.
        let _ = by_program || quiet(Command::new("sh").args(["-c", "kill -s KILL -- \"$0\"", &group]));
    }
    // An error means that it has ended already.
    let _ = child.kill();
}

/// The end of the log.
fn tail(directory: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(directory.join(LOG))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
