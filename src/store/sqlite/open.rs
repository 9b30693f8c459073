//! Opening: whose file it is, which format it has, and how SQLite is set up.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::SqliteError;
use super::schema::{self, FORMAT};
use crate::error::BoxError;

/// "FDLP": marks a file as ours.
pub(super) const APPLICATION_ID: i32 = 0x4644_4c50;
/// Kilobytes of pages that a connection keeps: the upper levels of the trees of some ten million records.
const CACHE: i32 = 16_384;
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// The connections of one store.
pub(super) struct Connections {
    pub(super) path: PathBuf,
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    pub(super) checkpointer: Connection,
}

enum File {
    /// Of this format.
    Ours(i32),
    Empty,
}

pub(super) fn open(given: &Path) -> Result<Connections, SqliteError> {
    let path = place(given)?;
    let failed = |error| SqliteError::from_sqlite("open", &path, error);

    let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
    // Before anything is changed: the file may be somebody else's.
    let file = examine(&mut writer, &path, TransactionBehavior::Deferred, |_, _| Ok(()))?;
    if let File::Empty = file {
        schema::prepare(&writer).map_err(failed)?;
    }
    let mode = write_ahead(&writer).map_err(failed)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(SqliteError::NoWal { path, mode });
    }
    writer.execute_batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON").map_err(failed)?;
    writer.pragma_update(None, "cache_size", -CACHE).map_err(failed)?;
    if !matches!(file, File::Ours(FORMAT)) {
        // Another process may have been faster, so look again under the lock.
        examine(&mut writer, &path, TransactionBehavior::Immediate, |connection, file| match file {
            File::Empty => {
                schema::create(connection)?;
                connection.pragma_update(None, "application_id", APPLICATION_ID)
            }
            File::Ours(FORMAT) => Ok(()),
            File::Ours(_) => schema::migrate(connection),
        })?;
    }

    let reader = connect(&path, OpenFlags::empty()).map_err(failed)?;
    reader.pragma_update(None, "query_only", true).map_err(failed)?;
    reader.pragma_update(None, "cache_size", -CACHE).map_err(failed)?;
    let checkpointer = connect(&path, OpenFlags::empty()).map_err(failed)?;
    checkpointer.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    Ok(Connections { path, writer, reader, checkpointer })
}

fn place(given: &Path) -> Result<PathBuf, SqliteError> {
    let refused = |why| Err(SqliteError::Path { path: given.to_owned(), why });
    if given == Path::new(":memory:") {
        return refused("use `MemoryStore` for a store in memory");
    }
    // Absolute, so that SQLite cannot take it for a URI.
    let Ok(path) = std::path::absolute(given) else { return refused("it does not name a file") };
    if path.is_dir() {
        return refused("it is a directory; name a file in it");
    }
    match path.parent() {
        Some(directory) if directory.is_dir() => Ok(path),
        _ => Err(SqliteError::NoDirectory { path }),
    }
}

fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(patience()))?;
    connection.set_prepared_statement_cache_capacity(32);
    // The plan of a statement does not depend on what is bound: else SQLite prepares it anew whenever a number 0 or 1, or any
    // limit, is bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Waits for a lock for up to [`BUSY`], asking every millisecond or so.
///
/// SQLite's own handler asks every 100 ms, and a process that commits without pause frees the lock for microseconds
/// only: others would find it taken each time.
fn patience() -> impl FnMut(i32) -> bool + Send + 'static {
    let mut start = Instant::now();
    move |asked| {
        if asked == 0 {
            start = Instant::now();
        }
        // Uneven, so as not to keep step with the commits of the others.
        let pause = 200 + 97 * (u64::from(asked.unsigned_abs()) % 11);
        thread::sleep(Duration::from_micros(pause));
        start.elapsed() < BUSY
    }
}

/// Finds out whose file this is, in one transaction, and runs `found` in it.
fn examine(
    connection: &mut Connection,
    path: &Path,
    behavior: TransactionBehavior,
    found: impl FnOnce(&Connection, &File) -> rusqlite::Result<()>,
) -> Result<File, SqliteError> {
    let failed = |error| SqliteError::from_sqlite("open", path, error);
    let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(failed);
    let objects: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
    let file = match (pragma("application_id")?, pragma("user_version")?) {
        (APPLICATION_ID, found) if found > FORMAT => {
            return Err(SqliteError::Newer { path: path.to_owned(), found, newest: FORMAT });
        }
        (APPLICATION_ID, format) => File::Ours(format),
        (0, 0) if objects == 0 => File::Empty,
        (application_id, _) => return Err(SqliteError::Foreign { path: path.to_owned(), application_id }),
    };
    found(&transaction, &file).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(file)
}

/// SQLite does not always wait for others when it changes the journal mode, so this does.
fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    let start = Instant::now();
    loop {
        let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
        match mode {
            Err(error) if is_busy(&error) && start.elapsed() < BUSY => thread::sleep(Duration::from_millis(5)),
            mode => return mode,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

impl SqliteError {
    pub(super) fn from_sqlite(doing: &'static str, path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => SqliteError::NotADatabase { path },
            _ if is_busy(&error) => SqliteError::Busy { doing, path, waited: BUSY },
            _ => SqliteError::Failed { doing, path, source: BoxError::from(error) },
        }
    }
}
