//! A store in one SQLite file.

mod counts;
mod error;
mod open;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::types::{ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use self::counts::Counts;
use super::{Committed, Expect, Fence, Fenced, Key, Kind, Record, Rev, Scan, Store, Write};
use crate::error::BoxError;

pub use error::SqliteError;

/// Records that a claim looks at in one go without the lock: at first, and if those are all excepted.
const FIRST_LOOK: usize = 16;
const LOOK: usize = 4_096;

/// A [`Store`] in one SQLite file, with a write-ahead log and a flush per commit.
///
/// Several processes may open one file, on a local disk. Readers do not wait for writers. Bodies that are UTF-8 are
/// stored as text, so `sqlite3 feedloop.db "SELECT id, state, body FROM records WHERE kind = 'batch'"` shows them.
/// What is overwritten is zeroed in the file (`secure_delete`); in the log it stays until [`scrub`](Store::scrub).
/// Every record is a row of its own; blocks for the high-volume kinds are to come.
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
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Apart from the writer, so that commits go on meanwhile.
    checkpointer: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the store in the file `path`, and creates the file if there is none. Its directory must exist.
    ///
    /// # Errors
    /// [`SqliteError`]: the file cannot be opened, is not a store, or has a newer format than this release knows.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        let open::Connections { path, writer, reader, checkpointer } = open::open(path.as_ref())?;
        let (writer, reader, checkpointer) = (Mutex::new(writer), Mutex::new(reader), Mutex::new(checkpointer));
        Ok(SqliteStore { path, writer, reader, checkpointer })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves what is committed from the write-ahead log into the file, as far as nobody is in the way, and says how
    /// many pages remain. Commits go on meanwhile. To be called at idle times; at 4000 pages a commit does it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn checkpoint(&self) -> Result<u64, SqliteError> {
        let pages = lock(&self.checkpointer)
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?));
        let pages = pages.map_err(|error| SqliteError::from_sqlite("checkpoint", &self.path, error))?;
        Ok(u64::try_from(pages).unwrap_or(0))
    }

    fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, BoxError>,
    ) -> Result<T, BoxError> {
        let mut connection = lock(&self.writer);
        let transact = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let made = work(&transaction)?;
            transaction.commit()?;
            Ok(made)
        };
        transact().map_err(|error: BoxError| self.failed(doing, error))
    }

    fn read<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BoxError> {
        work(&lock(&self.reader)).map_err(|error| self.failed(doing, error.into()))
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
            self.read("claim from", |connection| {
                claimable(connection, pipeline, kind, now, &from, |row| {
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
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for SqliteStore {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        out.clear();
        let made = self.write("commit to", |connection| {
            check(connection, fence)?;
            let mut counts = Counts::default();
            let made = units.iter().map(|unit| apply(connection, unit, &mut counts)).collect::<Result<Vec<_>, _>>()?;
            counts.save(connection)?;
            Ok(made)
        })?;
        out.extend(made);
        Ok(())
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        self.write("take over a pipeline in", |connection| {
            let sql = "INSERT INTO fences (pipeline, token) VALUES (?1, 1) \
                       ON CONFLICT (pipeline) DO UPDATE SET token = token + 1 RETURNING token";
            let token: i64 = connection.prepare_cached(sql)?.query_row([pipeline], |row| row.get(0))?;
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
        let name: Arc<str> = pipeline.into();
        self.write("claim from", |connection| {
            let mut rowids = Vec::new();
            claimable(connection, pipeline, kind, now, &first, |row| {
                if !except(&row.id) {
                    rowids.push((row.rowid, if row.held { "claimed" } else { "open" }));
                }
                rowids.len() < n
            })?;
            let mut update = connection.prepare_cached(CLAIM)?;
            let mut counts = Counts::default();
            let mut claimed = Vec::with_capacity(rowids.len());
            for (rowid, state) in rowids {
                let set = params![rowid, to_text(lease_until), holder];
                claimed.push(update.query_row(set, |row| record(row, &name, kind))?);
                counts.moved(&name, kind, state, "claimed");
            }
            counts.save(connection)?;
            Ok(claimed)
        })
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        let name: Arc<str> = pipeline.into();
        self.read("read a record of", |connection| {
            let mut select = connection.prepare_cached(GET)?;
            select.query_row([pipeline, kind.as_str(), id], |row| record(row, &name, kind)).optional()
        })
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        let Scan { pipeline, kind, state, after, limit } = *scan;
        let name: Arc<str> = pipeline.into();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("scan", |connection| {
            let read = |row: &Row<'_>| record(row, &name, kind);
            let page = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
                connection.prepare_cached(sql)?.query_map(params, read)?.collect()
            };
            let kind = kind.as_str();
            match (state, after) {
                (Some(state), Some((rank, id))) => {
                    page(SCAN_STATE_AFTER, params![pipeline, kind, limit, state, rank, id])
                }
                (Some(state), None) => page(SCAN_STATE, params![pipeline, kind, limit, state]),
                (None, Some((_, id))) => page(SCAN_AFTER, params![pipeline, kind, limit, id]),
                (None, None) => page(SCAN, params![pipeline, kind, limit]),
            }
        })
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        let n: i64 = self.read("count in", |connection| {
            let sql = "SELECT ifnull(sum(n), 0) FROM counts \
                       WHERE pipeline = ?1 AND kind = ?2 AND state = ?3";
            let all = "SELECT ifnull(sum(n), 0) FROM counts WHERE pipeline = ?1 AND kind = ?2";
            let n = |row: &Row<'_>| row.get(0);
            match state {
                Some(state) => connection.prepare_cached(sql)?.query_row([pipeline, kind.as_str(), state], n),
                None => connection.prepare_cached(all)?.query_row([pipeline, kind.as_str()], n),
            }
        })?;
        Ok(u64::try_from(n)?)
    }

    fn scrub(&self) -> Result<bool, BoxError> {
        let busy =
            lock(&self.checkpointer).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let busy = busy.map_err(|error| self.failed("scrub the log of", error.into()))?;
        Ok(busy == 0)
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT id, rev, state, rank, due, holder, body FROM records WHERE pipeline = ?1 AND kind = ?2 ", $rest)
    };
}

const GET: &str = select!("AND id = ?3");
const SCAN: &str = select!("ORDER BY id LIMIT ?3");
const SCAN_AFTER: &str = select!("AND id > ?4 ORDER BY id LIMIT ?3");
const SCAN_STATE: &str = select!("AND state = ?4 ORDER BY rank, id LIMIT ?3");
const SCAN_STATE_AFTER: &str = select!("AND state = ?4 AND (rank, id) > (?5, ?6) ORDER BY rank, id LIMIT ?3");
const FOUND: &str = "SELECT rowid, rev, state FROM records WHERE pipeline = ?1 AND kind = ?2 AND id = ?3";
const INSERT: &str = "INSERT INTO records (pipeline, kind, id, rev, state, rank, due, body) \
                      VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
const UPDATE: &str = "UPDATE records SET rev = rev + 1, state = ?2, rank = ?3, due = ?4, body = ?5, \
                      holder = CASE ?2 WHEN 'claimed' THEN holder END WHERE rowid = ?1";
const CLAIMABLE: &str = "SELECT rowid, 0 AS held, rank, id, NULL AS due FROM records \
                         WHERE pipeline = ?1 AND kind = ?2 AND state = 'open' AND (rank, id) >= (?3, ?4) \
                         UNION ALL SELECT rowid, 1 AS held, rank, id, due FROM records \
                         WHERE pipeline = ?1 AND kind = ?2 AND state = 'claimed' AND due IS NOT NULL \
                         AND (rank, id) >= (?3, ?4) \
                         ORDER BY rank, id";
const CLAIM: &str = "UPDATE records SET rev = rev + 1, state = 'claimed', due = ?2, holder = ?3 WHERE rowid = ?1 \
                     RETURNING id, rev, state, rank, due, holder, body";

/// Refuses an outdated worker, and remembers a newer one.
fn check(connection: &Connection, fence: &Fence) -> Result<(), BoxError> {
    let Fence::Worker { pipeline, token } = fence else { return Ok(()) };
    let mut select = connection.prepare_cached("SELECT token FROM fences WHERE pipeline = ?1")?;
    let newest: Option<i64> = select.query_row([pipeline], |row| row.get(0)).optional()?;
    let newest = u64::try_from(newest.unwrap_or(0))?;
    if *token < newest {
        return Err(Fenced { pipeline: pipeline.to_string(), token: *token, newest }.into());
    }
    if *token > newest {
        let sql = "INSERT INTO fences (pipeline, token) VALUES (?1, ?2) \
                   ON CONFLICT (pipeline) DO UPDATE SET token = excluded.token";
        connection.prepare_cached(sql)?.execute(params![pipeline, i64::try_from(*token)?])?;
    }
    Ok(())
}

/// Makes all writes of a unit or none.
fn apply(connection: &Connection, unit: &[Write], counts: &mut Counts) -> Result<Committed, BoxError> {
    // A unit of one write that finds a conflict has changed nothing, so it needs no savepoint.
    let savepoint = unit.len() > 1;
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    counts.begin();
    if savepoint {
        run("SAVEPOINT unit")?;
    }
    for (index, write) in unit.iter().enumerate() {
        if let Err(found) = put(connection, write, counts)? {
            if savepoint {
                run("ROLLBACK TO unit")?;
                run("RELEASE unit")?;
            }
            counts.undo();
            return Ok(Committed::Conflict { write: index, found });
        }
    }
    if savepoint {
        run("RELEASE unit")?;
    }
    Ok(Committed::Applied)
}

/// Makes a write, or gives the revision that it found instead of the one that it expects.
fn put(connection: &Connection, write: &Write, counts: &mut Counts) -> Result<Result<(), Option<Rev>>, BoxError> {
    let Write { kind, key, expect, indexed, body } = write;
    let due = indexed.due.map(to_text);
    let body = ToSqlOutput::Borrowed(match std::str::from_utf8(body) {
        Ok(_) => ValueRef::Text(body),
        Err(_) => ValueRef::Blob(body),
    });
    let insert = || {
        let values = params![key.pipeline, kind.as_str(), key.id, indexed.state, indexed.rank, due, body];
        connection.prepare_cached(INSERT)?.execute(values)
    };
    if *expect == Expect::Absent && insert()? == 1 {
        counts.added(&key.pipeline, *kind, indexed.state);
        return Ok(Ok(()));
    }

    let mut select = connection.prepare_cached(FOUND)?;
    let found = select.query_row(params![key.pipeline, kind.as_str(), key.id], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
    });
    match found.optional()? {
        None if *expect == Expect::Any => {
            insert()?;
            counts.added(&key.pipeline, *kind, indexed.state);
            Ok(Ok(()))
        }
        None => Ok(Err(None)),
        Some((rowid, rev, state)) => {
            let rev = u64::try_from(rev)?;
            if !matches!(expect, Expect::Any) && *expect != Expect::Rev(rev) {
                return Ok(Err(Some(rev)));
            }
            let set = params![rowid, indexed.state, indexed.rank, due, body];
            connection.prepare_cached(UPDATE)?.execute(set)?;
            counts.moved(&key.pipeline, *kind, &state, indexed.state);
            Ok(Ok(()))
        }
    }
}

/// A record that can be claimed, unless it is excepted.
struct Claimable {
    rowid: i64,
    held: bool,
    rank: i64,
    id: String,
}

/// Hands on the records that can be claimed, from the place (rank, id) on and in that order, as long as `each` wants more.
fn claimable(
    connection: &Connection,
    pipeline: &str,
    kind: Kind,
    now: DateTime<Utc>,
    from: &(i64, String),
    mut each: impl FnMut(Claimable) -> bool,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(CLAIMABLE)?;
    let mut rows = select.query(params![pipeline, kind.as_str(), from.0, from.1])?;
    while let Some(row) = rows.next()? {
        let held: bool = row.get(1)?;
        let free = !held || due(row, 4)?.is_some_and(|due| due < now);
        if free && !each(Claimable { rowid: row.get(0)?, held, rank: row.get(2)?, id: row.get(3)? }) {
            break;
        }
    }
    Ok(())
}

fn record(row: &Row<'_>, pipeline: &Arc<str>, kind: Kind) -> rusqlite::Result<Record> {
    let body = match row.get_ref(6)? {
        ValueRef::Text(body) | ValueRef::Blob(body) => Arc::from(body),
        other => return Err(rusqlite::Error::InvalidColumnType(6, "body".to_owned(), other.data_type())),
    };
    let rev: i64 = row.get(1)?;
    let rev = u64::try_from(rev).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, rev))?;
    Ok(Record {
        kind,
        key: Key { pipeline: pipeline.clone(), id: row.get(0)? },
        rev,
        state: row.get(2)?,
        rank: row.get(3)?,
        due: due(row, 4)?,
        holder: row.get(5)?,
        body,
    })
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
