//! How a job's thread hears that nobody wants its result, and says that it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting thread looks up.
pub(crate) const GLANCE: Duration = Duration::from_millis(20);

/// Tells a job that nobody wants it any more, and the outside that it is over.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicBool,
    over: AtomicBool,
}

impl Signal {
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
    }

    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// The job is over.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits until the job is over.
    pub(crate) fn await_end(&self) {
        while !self.over() {
            thread::sleep(GLANCE);
        }
    }

    /// Waits for `time`, or until the signal is raised.
    pub(crate) fn pause(&self, time: Duration) {
        let begun = Instant::now();
        while !self.raised() && begun.elapsed() < time {
            thread::sleep(GLANCE.min(time));
        }
    }
}

/// The wait before attempt `failures` + 1: `first`, doubled with every failure in a row, at most a minute.
pub(crate) fn back_off(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(Duration::from_secs(60).max(first))
}
