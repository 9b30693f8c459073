//! Label Studio's JSON, release 1.23.2.

mod export;
mod import;

pub use export::label_studio_config;
pub(super) use export::{must_not_clash, write};
pub(super) use import::import;

/// Where the data of a task holds the sample.
const KEY: &str = "_loop_key";
/// Where the data of a task holds what is shown.
const TEXT: &str = "_loop_text";
/// Name of what is shown, in the configuration.
const OBJECT: &str = "text";
/// Name of what takes the answer, in the configuration.
const CONTROL: &str = "label";

/// How an export of Label Studio is understood; see [`ExchangeFormat`](crate::ExchangeFormat).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelStudioOptions {
    ground_truth: bool,
    tombstones: bool,
}

impl LabelStudioOptions {
    /// Takes annotations that are marked as ground truth in Label Studio for the truth, beside the word of the person: it
    /// comes before what people say. Without this the mark says nothing, since anybody there may set it.
    ///
    /// A mark that is gone, or whose annotation says something else since, is taken back at the next import with this
    /// option. Detectors are not told: what they learn of truths comes from outcomes.
    pub fn ground_truth(mut self) -> Self {
        self.ground_truth = true;
        self
    }

    /// Retracts what was imported from annotations that the export no longer has: Label Studio deletes without a trace.
    /// The retraction is an entry of its own, and stands until the annotation is edited again.
    ///
    /// It concerns the tasks in the file only, and only if the file is whole, each task of it can be read, and so can each
    /// annotation of the task in question.
    /// Label Studio leaves tasks without annotations out of an export unless it is asked for all of them:
    /// `exportType=JSON&download_all_tasks=true`. Not for an export that was filtered by annotation.
    pub fn tombstones(mut self) -> Self {
        self.tombstones = true;
        self
    }
}
