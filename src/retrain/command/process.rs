//! The process of a training command: started as the leader of a group of its own, watched, and killed with its group.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Order;
use crate::error::BoxError;
use crate::retrain::TrainJob;
use crate::retrain::batch::DATA;
use crate::retrain::signal::{GLANCE, Signal};

/// What is shown of a log.
const TAIL: u64 = 64 * 1024;
/// What is kept of a log on disk once it has grown to twice as much.
const KEPT: u64 = 4 << 20;
pub(super) const LOG: &str = "train.log";
/// Number of the process that is under way.
const PID: &str = "train.pid";
const OUTPUT: &str = "FEEDLOOP_OUTPUT";

pub(super) enum End {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
}

pub(super) struct Process<'a> {
    child: Child,
    directory: &'a Path,
}

impl<'a> Process<'a> {
    pub(super) fn start(order: &Order, job: &TrainJob, directory: &'a Path, output: &Path) -> io::Result<Self> {
        // Appending, so that the log can be cut while the command writes.
        let log = OpenOptions::new().create(true).append(true).open(directory.join(LOG))?;
        let mut command = Command::new(&order.program);
        command.args(&order.arguments).envs(order.environment.iter().map(|(name, value)| (name, value)));
        command.env("FEEDLOOP_MANIFEST", directory.join("job.json")).env("FEEDLOOP_DATA", directory.join(DATA));
        command.env(OUTPUT, output).env("FEEDLOOP_KEY", &job.key);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        // Without it, a process that outlives a crash of the host is not found again; that is no reason not to train.
        let _ = fs::write(directory.join(PID), child.id().to_string());
        Ok(Process { child, directory })
    }

    /// Waits for the end, and brings it about when the time is up or the job was cancelled. Nothing of its group outlives it.
    pub(super) fn watch(mut self, timeout: Duration, signal: &Signal) -> Result<End, BoxError> {
        let begun = Instant::now();
        let end = loop {
            if let Some(status) = self.child.try_wait()? {
                break End::Exited(status);
            }
            let cancelled = signal.raised();
            if cancelled || begun.elapsed() >= timeout {
                kill_group(self.child.id());
                // An error means that it has ended already; where there are no groups, this is what ends it.
                let _ = self.child.kill();
                self.child.wait()?;
                break if cancelled { End::Cancelled } else { End::TimedOut };
            }
            // A log that cannot be cut is not worth a training.
            let _ = cut(&self.directory.join(LOG));
            thread::sleep(GLANCE);
        };
        if matches!(end, End::Exited(_)) {
            // Whatever it left running in its group would write into the artifact, or go on for ever.
            kill_group(self.child.id());
        }
        let _ = cut(&self.directory.join(LOG));
        let _ = fs::remove_file(self.directory.join(PID));
        Ok(end)
    }
}

/// Kills the process group of this number.
fn kill_group(leader: u32) {
    let group = format!("-{leader}");
    let quiet = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if cfg!(unix) {
        let by_program = quiet(Command::new("/bin/kill").args(["-KILL", "--", &group]));
        // Small containers have no such program, but every shell has the command.
        let _ = by_program || quiet(Command::new("sh").args(["-c", "kill -s KILL -- \"$0\"", &group]));
    }
}

/// Kills what an earlier host process that crashed left running in `directory`: a job is trained by one process at a time.
///
/// It is known by its number and the output directory in its environment, which only Linux shows; elsewhere it is left
/// alone, and writes into an output directory of its own.
pub(super) fn kill_left_over(directory: &Path) {
    let Some(pid) = fs::read_to_string(directory.join(PID)).ok().and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return;
    };
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let ours = format!("{OUTPUT}={}/output-", directory.display());
    if environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(ours.as_bytes())) {
        kill_group(pid);
    }
    let _ = fs::remove_file(directory.join(PID));
}

/// Leaves only the end of a log that has grown too long. What is written at this very moment may be lost.
fn cut(path: &Path) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    if length <= 2 * KEPT {
        return Ok(());
    }
    let end = last(path, KEPT)?;
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(format!("[{} bytes were cut]\n", length - end.len() as u64).as_bytes())?;
    file.write_all(&end)
}

/// The last bytes of a file.
fn last(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The end of the log.
pub(super) fn tail(directory: &Path) -> String {
    last(&directory.join(LOG), TAIL).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
