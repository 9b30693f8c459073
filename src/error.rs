//! What can go wrong, and what each error carries.

use crate::schema::SchemaError;

/// Any error of an implementor: stages, stores, trainers and deployers return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Everything that a [`Pipeline`](crate::Pipeline) can return.
///
/// A verdict about data is never an `Error`: a flagged, quarantined or refused row has a reason instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `build()` found mistakes; all of them are listed.
    #[error("the pipeline cannot be built: {}", .0.join("; "))]
    Build(Vec<String>),
    /// The schema is wrong, or a row or reference does not fit it.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The store could not do its work. What was accepted stays pending and is tried again.
    #[error("the store failed while it was to {doing}")]
    Store {
        /// What the pipeline wanted of the store.
        doing: &'static str,
        /// What the store said.
        #[source]
        source: BoxError,
    },
    /// A stage could not be built, restored or rebased.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A file of ours could not be read or written.
    #[error("{what}")]
    File {
        /// Which file, and what was to be done with it.
        what: String,
        /// What the operating system or the parser said.
        #[source]
        source: BoxError,
    },
    /// A stored record is missing or cannot be understood.
    #[error("{0}")]
    Corrupt(String),
    /// The request contradicts the present state; the text says which state and what to do.
    #[error("refused: {0}")]
    Refused(String),
    /// The worker has stopped, so nobody can answer.
    #[error("the worker of this pipeline has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn store(doing: &'static str) -> impl FnOnce(BoxError) -> Error {
        move |source| Error::Store { doing, source }
    }

    pub(crate) fn file<E: Into<BoxError>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::File { what, source: source.into() }
    }
}

/// A stage failed: it returned an error or panicked.
#[derive(Debug, thiserror::Error)]
#[error("stage `{stage}` failed to {what}")]
pub struct StageError {
    /// Name of the stage.
    pub stage: String,
    /// What it was to do.
    pub what: &'static str,
    /// What it said.
    #[source]
    pub source: BoxError,
}

/// A plain message as an error, for places where no more is known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Message(pub(crate) String);

/// Shorthand for a [`BoxError`] that carries a message.
pub(crate) fn message(text: impl Into<String>) -> BoxError {
    Box::new(Message(text.into()))
}
