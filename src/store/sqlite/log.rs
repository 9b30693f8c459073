//! The write-ahead log: how it is moved into the file beside the commits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::{Side, lock};

/// Pages by which the log grows until it is moved into the file: 32 MB, as pages are 8 KB.
const FULL: u64 = 4_000;

/// Moves the log into the file.
pub(super) struct Log {
    /// Apart from the writer, so that commits go on meanwhile.
    mover: Arc<Mutex<Connection>>,
    length: Arc<Length>,
    moving: Mutex<Option<JoinHandle<()>>>,
}

/// Pages of the log, as the last commit of this store has seen it.
#[derive(Default)]
struct Length {
    pages: AtomicU64,
    /// So many of them a thread was told to move.
    told: AtomicU64,
}

impl Log {
    /// `writer` tells how long the log is; SQLite's own way, to move it within a commit, is off by that.
    pub(super) fn new(writer: &mut Connection, mover: Connection) -> rusqlite::Result<Self> {
        let length = Arc::new(Length::default());
        let seen = length.clone();
        writer.wal_hook(Some(move |_: &mut _, pages: i32| {
            let pages = u64::from(pages.unsigned_abs());
            if pages < seen.pages.swap(pages, Ordering::Relaxed) {
                // It was moved as a whole and starts anew.
                seen.told.store(0, Ordering::Relaxed);
            }
            Ok(())
        }))?;
        Ok(Log { mover: Arc::new(Mutex::new(mover)), length, moving: Mutex::default() })
    }

    /// Moves as much as nobody is in the way of; says how many pages remain.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<u64> {
        passive(&self.mover)
    }

    /// Moves everything and empties the log, unless somebody is in the way.
    pub(super) fn scrub(&self) -> rusqlite::Result<bool> {
        let busy = lock(&self.mover).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))?;
        Ok(busy == 0)
    }

    /// To be called after a commit: has a thread move a log that has grown.
    pub(super) fn grown(&self, writer: &Arc<Mutex<Side>>) {
        let pages = self.length.pages.load(Ordering::Relaxed);
        if pages.saturating_sub(self.length.told.load(Ordering::Relaxed)) < FULL {
            return;
        }
        let mut moving = lock(&self.moving);
        if moving.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.length.told.store(pages, Ordering::Relaxed);
        let (mover, writer) = (self.mover.clone(), writer.clone());
        let work = move || {
            // What fails here is tried again when the log has grown further.
            let _ = passive(&mover);
            // What was committed meanwhile is little. Without it the log would never be moved as a whole and so never start anew.
            let _held = lock(&writer);
            let _ = passive(&mover);
        };
        *moving = thread::Builder::new().name("feedloop-log".to_owned()).spawn(work).ok();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(thread) = lock(&self.moving).take() {
            // It cannot panic, and if it did, nothing is lost.
            let _ = thread.join();
        }
    }
}

fn passive(mover: &Mutex<Connection>) -> rusqlite::Result<u64> {
    let pages = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?);
    let pages = lock(mover).query_row("PRAGMA wal_checkpoint(PASSIVE)", [], pages)?;
    Ok(u64::try_from(pages).unwrap_or(0))
}
