//! Why a file cannot serve as a store.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::BoxError;

/// What a [`SqliteStore`](crate::SqliteStore) could not do, and with which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// SQLite reported an error.
    #[error("cannot {doing} store `{path}`")]
    Failed {
        /// What was to be done, as in "commit to".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: BoxError,
    },
    /// Others kept the file locked for too long.
    #[error("cannot {doing} store `{path}`: others kept it locked for {} s; try again", waited.as_secs())]
    Busy {
        /// What was to be done, as in "commit to".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// How long this waited.
        waited: Duration,
    },
    /// The path cannot name a store.
    #[error("`{path}` cannot be a store: {why}")]
    Path {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: &'static str,
    },
    /// The directory of the file does not exist.
    #[error("cannot open store `{path}`: its directory does not exist; create it first")]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an SQLite database.
    #[error("`{path}` is not an SQLite database; name another file, or restore this one")]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is an SQLite database of another program.
    #[error(
        "`{path}` is an SQLite database, but not a feedloop store \
         (application id {application_id:#010x}); name another file"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it says it is; 0 if it does not say.
        application_id: i32,
    },
    /// A later release of this crate wrote the file.
    #[error("store `{path}` has format {found}, but this release reads formats up to {newest}; upgrade feedloop")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: i32,
        /// Newest format that this release knows.
        newest: i32,
    },
    /// The file system does not offer what a write-ahead log needs, as network file systems do not.
    #[error("store `{path}` cannot use a write-ahead log (it stays in journal mode `{mode}`); put it on a local disk")]
    NoWal {
        /// The file.
        path: PathBuf,
        /// The journal mode that SQLite fell back to.
        mode: String,
    },
}
