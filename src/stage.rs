//! What detectors, gates and routers share: a name, a reference, a state that can be saved.

use std::any::Any;
use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::base64;
use crate::error::{BoxError, message};
use crate::reference::References;
use crate::sample::Sample;

/// Saved state of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshot {
    /// The stage keeps nothing from row to row.
    Stateless,
    /// The stage's state.
    State {
        /// Version of the format; a stage refuses one that it does not know.
        format: u32,
        /// The state, as JSON.
        state: serde_json::Value,
    },
}

impl Snapshot {
    /// Saves `state` as format `format`.
    ///
    /// # Errors
    /// The state cannot be written as JSON.
    pub fn save<T: Serialize>(format: u32, state: &T) -> Result<Self, BoxError> {
        Ok(Snapshot::State { format, state: serde_json::to_value(state)? })
    }

    /// Reads the state back.
    ///
    /// # Errors
    /// There is none, it has another format, or it does not parse.
    pub fn load<T: DeserializeOwned>(&self, format: u32) -> Result<T, BoxError> {
        match self {
            Snapshot::State { format: found, state } if *found == format => Ok(serde_json::from_value(state.clone())?),
            Snapshot::State { format: found, .. } => {
                Err(message(format!("the state has format {found}, this release reads format {format}")))
            }
            Snapshot::Stateless => Err(message("there is no state, one was expected")),
        }
    }

    /// Saves bytes that the stage has laid out itself, as format `format`: a text of base64, a third longer.
    pub(crate) fn save_bytes(format: u32, bytes: &[u8]) -> Self {
        Snapshot::State { format, state: serde_json::Value::String(base64::encode(bytes)) }
    }

    /// Reads the bytes back.
    ///
    /// # Errors
    /// There are none, they have another format, or they are no base64.
    pub(crate) fn load_bytes(&self, format: u32) -> Result<Vec<u8>, BoxError> {
        let text: String = self.load(format)?;
        base64::decode(&text).ok_or_else(|| message("the state is damaged: it is no base64"))
    }
}

/// Something that a stage cannot see, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blind {
    /// Name of the column; `None` if the whole stage is blind.
    pub column: Option<String>,
    /// Why, and what it would need.
    pub reason: String,
}

impl Blind {
    /// Blind on one column.
    pub fn column(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Blind { column: Some(name.into()), reason: reason.into() }
    }

    /// Blind altogether.
    pub fn all(reason: impl Into<String>) -> Self {
        Blind { column: None, reason: reason.into() }
    }
}

/// How good the served model is, by one measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveMetric {
    /// The measure, and the age of the truths behind it where there are several: `accuracy@1d`. In the pipeline's
    /// [`LoopStatus`](crate::LoopStatus), with the detector before it: `live_performance/accuracy@1d`.
    pub name: String,
    /// Its value; always finite.
    pub value: f64,
    /// Predictions behind it.
    pub rows: u64,
}

/// What detectors, gates and routers share.
///
/// A snapshot holds the state that the stream left; what follows from the reference is rebuilt by `rebase`. A stage
/// that errs or panics is isolated by the pipeline: its findings of that call are dropped, it is rebased and restored
/// to its last good snapshot; after three failures in a row it is down and
/// shown so in the status.
pub trait Stage: Any + Send {
    /// Short, stable, unique within a pipeline; snapshots and flags carry it.
    fn name(&self) -> &str;

    /// Takes over the references: called by `build()` and each time a reference moves.
    ///
    /// # Errors
    /// The stage cannot work on this reference at all. A column that it cannot use is no error but [`Stage::blind`].
    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let _ = references;
        Ok(())
    }

    /// What the stage cannot see at present.
    fn blind(&self) -> Vec<Blind> {
        Vec::new()
    }

    /// Saves the state that the stream left.
    ///
    /// # Errors
    /// The state cannot be written.
    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Ok(Snapshot::Stateless)
    }

    /// Takes over a saved state, after `rebase`.
    ///
    /// # Errors
    /// The state is of another format or does not fit.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        match snapshot {
            Snapshot::Stateless => Ok(()),
            Snapshot::State { .. } => Err(message(format!("`{}` keeps no state, but one was saved", self.name()))),
        }
    }

    /// Forgets what it holds of a sample that is being [erased](crate::Pipeline::erase): values, texts and labels; hashes and
    /// the name may stay. A stage that keeps nothing by sample has nothing to do.
    fn forget(&mut self, sample: &Sample) {
        let _ = sample;
    }
}

impl<T: Stage + ?Sized> Stage for Box<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        (**self).rebase(references)
    }

    fn blind(&self) -> Vec<Blind> {
        (**self).blind()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        (**self).snapshot()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        (**self).restore(snapshot)
    }

    fn forget(&mut self, sample: &Sample) {
        (**self).forget(sample);
    }
}

/// Runs `work` and turns a panic into an error.
pub(crate) fn isolate<T>(work: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(message(format!("panicked: {text}")))
    })
}

#[allow(unused)]
fn _object_safe(_: Box<dyn Stage>, _: Arc<References>) {}
