//! A store in one SQLite file.

mod commit;
mod counts;
mod error;
mod log;
mod names;
mod open;
mod schema;
mod sql;

use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row, TransactionBehavior, params};

use self::commit::{Writes, check};
use self::counts::Counts;
use self::log::Log;
use self::names::Names;
use super::{Committed, Expect, Fence, Fenced, Key, Kind, Record, Rev, Scan, Store, Write};
use crate::error::BoxError;

pub use error::SqliteError;

/// Records that a claim looks at in one go without the lock: at first, and if those are all excepted.
const FIRST_LOOK: usize = 16;
const LOOK: usize = 4_096;

/// A [`Store`] in one SQLite file, with a write-ahead log and a flush per commit.
///
/// Several processes may open one file, on a local disk. Readers do not wait for writers. Bodies that are UTF-8 are
/// stored as text, so `sqlite3 feedloop.db "SELECT id, state, body FROM records WHERE kind = 'batch'"` shows them:
/// `records` is a view for people, with the columns pipeline, kind, id, rev, state, rank, due, holder and body.
/// What is overwritten is zeroed in the file (`secure_delete`); in the log it stays until [`scrub`](Store::scrub). When SQLite
/// moves records between pages it may leave parts of them in unused space, now and then: [`compact`](Self::compact)
/// writes the file without it.
/// When the log has grown to 32 MB, a thread moves it into the file beside the commits.
///
/// A file of an older format is brought to today's when it is opened, in one transaction; a process of an older release that
/// still has it open fails from then on. It takes about as long as writing everything anew.
///
/// A write keeps the holder of a record that stays `claimed`, and clears it otherwise. The function `except` of a
/// claim may read this store, but not write to it.
///
/// # Examples
/// ```
/// use feedloop::SqliteStore;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("feedloop.db");
/// let store = SqliteStore::open(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteStore {
    path: PathBuf,
    writer: Arc<Mutex<Side>>,
    reader: Mutex<Side>,
    log: Log,
}

/// A connection and the numbers that were found by it.
struct Side {
    connection: Connection,
    names: Names,
}

impl Side {
    fn new(connection: Connection) -> Self {
        Side { connection, names: Names::default() }
    }
}

impl SqliteStore {
    /// Opens the store in the file `path`, and creates the file if there is none. Its directory must exist.
    ///
    /// # Errors
    /// [`SqliteError`]: the file cannot be opened, is not a store, or has a newer format than this release knows.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        let open::Connections { path, mut writer, reader, checkpointer } = open::open(path.as_ref())?;
        let log =
            Log::new(&mut writer, checkpointer).map_err(|error| SqliteError::from_sqlite("open", &path, error))?;
        let (writer, reader) = (Mutex::new(Side::new(writer)).into(), Mutex::new(Side::new(reader)));
        Ok(SqliteStore { path, writer, reader, log })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves what is committed from the write-ahead log into the file, as far as nobody is in the way, and says how
    /// many pages remain. Commits go on meanwhile. To be called at idle times; a log that grows large moves by itself.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn checkpoint(&self) -> Result<u64, SqliteError> {
        self.log.checkpoint().map_err(|error| SqliteError::from_sqlite("checkpoint", &self.path, error))
    }

    /// Writes the file anew, in order and without unused space, and empties the log: afterwards nothing that was overwritten is
    /// left in either. To be called when nobody works: others wait meanwhile, and it takes the time and twice the space of a copy.
    ///
    /// # Errors
    /// The file cannot be written, or somebody reads it all the time.
    pub fn compact(&self) -> Result<(), SqliteError> {
        let failed = |error| SqliteError::from_sqlite("compact", &self.path, error);
        lock(&self.writer).connection.execute_batch("VACUUM").map_err(failed)?;
        match self.log.scrub().map_err(failed)? {
            true => Ok(()),
            false => Err(SqliteError::Busy { doing: "compact", path: self.path.clone(), waited: open::BUSY }),
        }
    }

    fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection, &mut Names) -> Result<T, BoxError>,
    ) -> Result<T, BoxError> {
        let mut side = lock(&self.writer);
        // Put back only when the transaction is committed: it may be what gave them their numbers.
        let mut names = mem::take(&mut side.names);
        let transact = || {
            let transaction = side.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let made = work(&transaction, &mut names)?;
            transaction.commit()?;
            Ok(made)
        };
        let made = transact().map_err(|error: BoxError| self.failed(doing, error))?;
        side.names = names;
        drop(side);
        self.log.grown(&self.writer);
        Ok(made)
    }

    fn read<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection, &mut Names) -> rusqlite::Result<T>,
    ) -> Result<T, BoxError> {
        let Side { connection, names } = &mut *lock(&self.reader);
        work(connection, names).map_err(|error| self.failed(doing, error.into()))
    }

    /// Place of the first record that can be claimed. `except` runs outside the lock, so that it may ask this store.
    fn first_claimable(
        &self,
        pipeline: &str,
        kind: Kind,
        now: DateTime<Utc>,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Option<(i64, String)>, BoxError> {
        let mut from = (i64::MIN, String::new());
        let mut limit = FIRST_LOOK;
        loop {
            let mut page: Vec<Claimable> = Vec::new();
            self.read("claim from", |connection, names| {
                let Some(queue) = Queue::find(connection, names, pipeline, kind)? else { return Ok(()) };
                claimable(connection, &queue, now, &from, |row| {
                    page.push(row);
                    page.len() < limit
                })
            })?;
            let full = page.len() == limit;
            for row in page {
                if !except(&row.id) {
                    return Ok(Some((row.rank, row.id)));
                }
                from = (row.rank, row.id);
            }
            if !full {
                return Ok(None);
            }
            // The first text behind the last id.
            from.1.push('\0');
            limit = LOOK;
        }
    }

    fn failed(&self, doing: &'static str, error: BoxError) -> BoxError {
        match error.downcast::<rusqlite::Error>() {
            Ok(error) => SqliteError::from_sqlite(doing, &self.path, *error).into(),
            Err(error) => error,
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

// A panic under the lock leaves no transaction open: its guard rolls it back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for SqliteStore {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        out.clear();
        let made = self.write("commit to", |connection, names| {
            check(connection, fence)?;
            Writes::new(connection)?.make(units, names)
        })?;
        out.extend(made);
        Ok(())
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        self.write("take over a pipeline in", |connection, _| {
            let token: i64 = connection.prepare_cached(sql::TAKE_OVER)?.query_row([pipeline], |row| row.get(0))?;
            Ok(u64::try_from(token)?)
        })
    }

    fn claim(
        &self,
        pipeline: &str,
        kind: Kind,
        n: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Record>, BoxError> {
        if n == 0 {
            return Ok(Vec::new());
        }
        // A look without the lock, so that those who ask in vain or for what is far behind keep nobody from writing.
        let Some(first) = self.first_claimable(pipeline, kind, now, except)? else { return Ok(Vec::new()) };
        self.write("claim from", |connection, names| {
            let claimed = names.make_state(connection, CLAIMED)?;
            let Some(queue) = Queue::find(connection, names, pipeline, kind)? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            claimable(connection, &queue, now, &first, |row| {
                if !except(&row.id) {
                    found.push(row);
                }
                found.len() < n
            })?;
            let mut update = connection.prepare_cached(sql::CLAIM)?;
            let mut get = connection.prepare_cached(sql::GET)?;
            let mut counts = Counts::default();
            let mut records = Reading { connection, names, pipeline: pipeline.into(), kind };
            let mut made = Vec::with_capacity(found.len());
            for Claimable { held, id, .. } in found {
                update.execute(params![queue.space, id, claimed, to_text(lease_until), holder])?;
                made.push(get.query_row(params![queue.space, id], |row| records.record(row))?);
                counts.moved(queue.space, if held { claimed } else { queue.open }, claimed);
            }
            counts.save(connection)?;
            Ok(made)
        })
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        let found = self.read("read a record of", |connection, names| {
            let Some(space) = names.space(connection, pipeline, kind)? else { return Ok(Vec::new()) };
            let reading = Reading { connection, names, pipeline: pipeline.into(), kind };
            reading.records(sql::GET, params![space, id])
        });
        Ok(found?.pop())
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        let Scan { pipeline, kind, state, after, limit } = *scan;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("scan", |connection, names| {
            let Some(space) = names.space(connection, pipeline, kind)? else { return Ok(Vec::new()) };
            let state = match state {
                Some(state) => match names.state(connection, state)? {
                    Some(state) => Some(state),
                    None => return Ok(Vec::new()),
                },
                None => None,
            };
            let reading = Reading { connection, names, pipeline: pipeline.into(), kind };
            match (state, after) {
                (Some(state), Some((rank, id))) => {
                    reading.records(sql::SCAN_STATE_AFTER, params![space, limit, state, rank, id])
                }
                (Some(state), None) => reading.records(sql::SCAN_STATE, params![space, limit, state]),
                (None, Some((_, id))) => reading.records(sql::SCAN_AFTER, params![space, limit, id]),
                (None, None) => reading.records(sql::SCAN, params![space, limit]),
            }
        })
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        let n: i64 = self.read("count in", |connection, names| {
            let Some(space) = names.space(connection, pipeline, kind)? else { return Ok(0) };
            let n = |row: &Row<'_>| row.get(0);
            let Some(state) = state else {
                return connection.prepare_cached(sql::COUNT)?.query_row([space], n);
            };
            let Some(state) = names.state(connection, state)? else { return Ok(0) };
            connection.prepare_cached(sql::COUNT_STATE)?.query_row([space, state], n)
        })?;
        Ok(u64::try_from(n)?)
    }

    fn scrub(&self) -> Result<bool, BoxError> {
        self.log.scrub().map_err(|error| self.failed("scrub the log of", error.into()))
    }
}

const OPEN: &str = "open";
const CLAIMED: &str = "claimed";

/// The numbers that a claim asks by.
struct Queue {
    space: i64,
    open: i64,
    claimed: i64,
}

impl Queue {
    fn find(file: &Connection, names: &mut Names, pipeline: &str, kind: Kind) -> rusqlite::Result<Option<Self>> {
        let Some(space) = names.space(file, pipeline, kind)? else { return Ok(None) };
        // No state has the number 0.
        let (open, claimed) = (names.state(file, OPEN)?.unwrap_or(0), names.state(file, CLAIMED)?.unwrap_or(0));
        Ok(Some(Queue { space, open, claimed }))
    }
}

/// A record that can be claimed, unless it is excepted.
struct Claimable {
    held: bool,
    rank: i64,
    id: String,
}

/// Hands on the records that can be claimed, from the place (rank, id) on and in that order, as long as `each` wants more.
fn claimable(
    connection: &Connection,
    queue: &Queue,
    now: DateTime<Utc>,
    from: &(i64, String),
    mut each: impl FnMut(Claimable) -> bool,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(sql::CLAIMABLE)?;
    let mut rows = select.query(params![queue.space, queue.open, queue.claimed, from.0, from.1])?;
    while let Some(row) = rows.next()? {
        let held: bool = row.get(0)?;
        let free = !held || due(row, 3)?.is_some_and(|due| due < now);
        if free && !each(Claimable { held, rank: row.get(1)?, id: row.get(2)? }) {
            break;
        }
    }
    Ok(())
}

/// What it takes to make records of rows.
struct Reading<'a> {
    connection: &'a Connection,
    names: &'a mut Names,
    pipeline: Arc<str>,
    kind: Kind,
}

impl Reading<'_> {
    fn records(mut self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Record>> {
        self.connection.prepare_cached(sql)?.query_map(params, |row| self.record(row))?.collect()
    }

    fn record(&mut self, row: &Row<'_>) -> rusqlite::Result<Record> {
        let body = match row.get_ref(6)? {
            ValueRef::Text(body) | ValueRef::Blob(body) => Arc::from(body),
            other => return Err(rusqlite::Error::InvalidColumnType(6, "body".to_owned(), other.data_type())),
        };
        let rev: i64 = row.get(1)?;
        let rev = u64::try_from(rev).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, rev))?;
        Ok(Record {
            kind: self.kind,
            key: Key { pipeline: self.pipeline.clone(), id: row.get(0)? },
            rev,
            state: self.names.name_of(self.connection, row.get(2)?)?.to_owned(),
            rank: row.get(3)?,
            due: due(row, 4)?,
            holder: row.get(5)?,
            body,
        })
    }
}

fn to_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Not compared in SQL: texts of different precision and of years above 9999 do not sort as their times do.
fn due(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    let time = text.parse::<DateTime<Utc>>();
    time.map(Some).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}

#[cfg(test)]
mod tests;
