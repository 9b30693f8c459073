//! The store: a small contract under the domain that memory, a file and a server can all meet.

mod memory;
#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
mod sqlite;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::error::BoxError;

pub use memory::MemoryStore;
#[cfg(any(feature = "sqlite", feature = "sqlite-system"))]
pub use sqlite::{SqliteError, SqliteStore};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A sample; state = its [`SampleState`](crate::SampleState), rank = its sequence.
    Sample,
    /// One annotation, append-only.
    Annotation,
    /// A task of the review queue; state `open`, `claimed`, `done` or `withdrawn`.
    Task,
    /// A sealed batch.
    Batch,
    /// A training run.
    Run,
    /// An evaluation.
    Evaluation,
    /// A model version.
    Model,
    /// A promotion or rollback.
    Promotion,
    /// A drift alarm; state = its [`AlarmState`](crate::AlarmState), rank = minus its number.
    Alarm,
    /// Outcomes and feedback whose prediction is not known here; state `waiting` or `joined`.
    Parked,
    /// State of the stages and the ledger.
    Checkpoint,
    /// State of the loop: cursors, counters, trigger memory, evidence.
    Control,
    /// What the trigger looked at; state `kept`, rank = time in microseconds.
    TriggerLog,
    /// An entry of the [journal](crate::JournalEntry), or the head of a chain; state `entry` or `head`.
    Journal,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 14] = [
        Kind::Sample,
        Kind::Annotation,
        Kind::Task,
        Kind::Batch,
        Kind::Run,
        Kind::Evaluation,
        Kind::Model,
        Kind::Promotion,
        Kind::Alarm,
        Kind::Parked,
        Kind::Checkpoint,
        Kind::Control,
        Kind::TriggerLog,
        Kind::Journal,
    ];

    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Sample => "sample",
            Kind::Annotation => "annotation",
            Kind::Task => "task",
            Kind::Batch => "batch",
            Kind::Run => "run",
            Kind::Evaluation => "evaluation",
            Kind::Model => "model",
            Kind::Promotion => "promotion",
            Kind::Alarm => "alarm",
            Kind::Parked => "parked",
            Kind::Checkpoint => "checkpoint",
            Kind::Control => "control",
            Kind::TriggerLog => "trigger_log",
            Kind::Journal => "journal",
        }
    }
}

/// Name of a record within its pipeline and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Name of the pipeline: several may share one store.
    pub pipeline: Arc<str>,
    /// Name of the record.
    pub id: String,
}

impl Key {
    /// A key.
    pub fn new(pipeline: &Arc<str>, id: impl Into<String>) -> Self {
        Key { pipeline: pipeline.clone(), id: id.into() }
    }
}

/// Revision of a record: 1 when it is created, one more with every write.
pub type Rev = u64;

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No such record.
    Absent,
    /// The record at this revision.
    Rev(Rev),
    /// Anything.
    Any,
}

/// The part of a record that queries use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Indexed {
    /// State, as the kind defines it.
    pub state: &'static str,
    /// Order within the state, smallest first.
    pub rank: i64,
    /// When the record is due: a lease's end, a deadline.
    pub due: Option<DateTime<Utc>>,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub key: Key,
    /// What it expects to find.
    pub expect: Expect,
    /// What queries use.
    pub indexed: Indexed,
    /// The content; UTF-8 JSON for everything that a person may want to read.
    pub body: Arc<[u8]>,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub key: Key,
    /// Its revision.
    pub rev: Rev,
    /// Its state.
    pub state: String,
    /// Its order within the state.
    pub rank: i64,
    /// When it is due.
    pub due: Option<DateTime<Utc>>,
    /// Who holds it by a claim.
    pub holder: Option<String>,
    /// The content.
    pub body: Arc<[u8]>,
}

/// The right to write for a pipeline. A store refuses a fence that is older than one it has seen for that pipeline,
/// so a worker that was replaced can do no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// Whoever writes; for annotators and readers, whose writes are compare-and-set.
    None,
    /// The worker with this token.
    Worker {
        /// The pipeline.
        pipeline: Arc<str>,
        /// Rises with every worker that takes over.
        token: u64,
    },
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// All of its writes are durable.
    Applied,
    /// None of its writes was made, because one did not find what it expected.
    Conflict {
        /// Index of that write in its unit.
        write: usize,
        /// The revision that was found; `None` if there is no such record.
        found: Option<Rev>,
    },
}

/// A store refused a writer whose place another has taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("worker token {token} of pipeline `{pipeline}` is outdated: token {newest} has taken over; stop this worker")]
pub struct Fenced {
    /// The pipeline.
    pub pipeline: String,
    /// The token that was shown.
    pub token: u64,
    /// The newest token that the store has seen.
    pub newest: u64,
}

/// Which records to read, in the order of (rank, id).
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// What they are.
    pub kind: Kind,
    /// In which state; `None` for all, then the order is by id.
    pub state: Option<&'a str>,
    /// Start behind this (rank, id): the last record of the page before.
    pub after: Option<(i64, &'a str)>,
    /// At most so many.
    pub limit: usize,
}

/// Where the loop keeps what must survive.
///
/// Each unit is atomic; many units share one flush to disk; a conflict is a verdict, not an error, and does not fail
/// its neighbours. All methods may be called from several threads and, for stores that say so, several processes.
pub trait Store: Send + Sync {
    /// Makes units durable. `out` is cleared and then holds one entry per unit.
    ///
    /// # Errors
    /// The store cannot be written, or the fence is outdated ([`Fenced`]); then nothing was applied.
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError>;

    /// Takes the next token for a worker of `pipeline`; every older token is refused from now on.
    ///
    /// # Errors
    /// The store cannot be written.
    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError>;

    /// Claims up to `n` records of `kind` that are in state `open`, or in state `claimed` with a lease that ended before
    /// `now`, in the order of (rank, id), except those whose `id`s are in `except`. They become `claimed`, due at
    /// `lease_until`, held by `holder`, one revision further. No record is given to two holders.
    ///
    /// # Errors
    /// The store cannot be written.
    #[allow(clippy::too_many_arguments)]
    fn claim(
        &self,
        pipeline: &str,
        kind: Kind,
        n: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Record>, BoxError>;

    /// The record `id`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError>;

    /// A page of records.
    ///
    /// # Errors
    /// The store cannot be read.
    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError>;

    /// How many records of `kind` are in `state` (`None`: in all).
    ///
    /// # Errors
    /// The store cannot be read.
    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError>;

    /// Makes content that was overwritten unreadable where it lies beside the records, as in a write-ahead log; `false` if
    /// somebody is in the way and it has to be called again. Called after an erasure. A store that keeps nothing but its records
    /// has nothing to do. A store around another one hands it on.
    ///
    /// # Errors
    /// The store cannot be written.
    fn scrub(&self) -> Result<bool, BoxError> {
        Ok(true)
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        (**self).commit(units, fence, out)
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        (**self).take_over(pipeline)
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
        (**self).claim(pipeline, kind, n, now, lease_until, holder, except)
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        (**self).get(pipeline, kind, id)
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        (**self).scan(scan)
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        (**self).count(pipeline, kind, state)
    }

    fn scrub(&self) -> Result<bool, BoxError> {
        (**self).scrub()
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn Store>) {}
