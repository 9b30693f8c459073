//! Detectors: what is wrong with a prediction, or with the stream.

mod confidence;
mod conformal;
mod ecod;
mod error_rate;
mod estimated;
mod feedback;
mod harm;
mod homogeneity;
mod isolation;
mod ks;
mod live;
mod mahalanobis;
mod mmd;
mod neighbours;
mod output;
mod output_score;
mod retracted;
mod stream;
#[cfg(test)]
mod testing;
mod window;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::event::{Observation, PredictionId};
use crate::reference::References;
use crate::sample::Flag;
use crate::stage::{Blind, LiveMetric, Snapshot, Stage};

pub use crate::stats::metrics::Metrics;
pub use confidence::LowConfidence;
pub use conformal::{ConformalDetector, NoveltyModel, NoveltyScore, RowView, Scratch};
pub use ecod::{Ecod, EmpiricalTails};
pub use error_rate::{ErrorRate, PredictionError};
pub use estimated::{EstimatedPerformance, Estimates};
pub use feedback::UserFeedback;
pub use harm::{HarmMonitor, HarmStatus};
pub use isolation::{Isolation, IsolationForest};
pub use ks::KsDrift;
pub use live::{LivePerformance, LiveReport, Maturity};
pub use mahalanobis::{Covariance, Mahalanobis, MahalanobisDistance, Support, Threshold};
pub use mmd::MmdDrift;
pub use neighbours::{NearestNeighbours, NeighbourDistance};
pub use output::OutputDrift;
pub use output_score::{Energy, LogitEnergy, OutputScore, UnusualOutput};
pub use stream::{
    Adwin, Change, ChangeDetector, ChangeEvidence, ConformalMartingale, Cusum, Ddm, Direction, EDetector, Eddm, HddmA,
    HddmW, Kswin, PageHinkley, Signal, StreamDrift,
};
pub use window::{CategoryTest, Correction, NumericTest, WindowDrift};

/// How serious an alarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth a look.
    Warning,
    /// The stream has changed.
    Drift,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// The stream: inputs or outputs are not what they were.
    #[default]
    Stream,
    /// Harm: by the truths that came, the served model errs more than it did.
    Harm,
}

/// What one column contributed to a test of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Name of the column.
    pub column: String,
    /// The test statistic.
    pub statistic: f64,
    /// Its p-value before correction over columns, if the test has one.
    pub p_value: Option<f64>,
    /// Effect size: what it is, is the detector's to say.
    pub effect: f64,
}

/// The stream has changed, says a detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Name of the detector; the pipeline fills it in.
    #[serde(default)]
    pub detector: String,
    /// How serious.
    pub level: Level,
    /// Position in the stream of the last observation that took part.
    pub sequence: u64,
    /// One line for a person.
    pub text: String,
    /// The columns behind it, strongest first.
    pub readings: Vec<Reading>,
}

/// Where a detector puts what it found in one chunk.
#[derive(Debug, Default)]
pub struct Findings {
    pub(crate) flags: Vec<Flag>,
    pub(crate) alarms: Vec<Alarm>,
}

impl Findings {
    /// Nothing found yet.
    pub fn new() -> Self {
        Findings::default()
    }

    /// Points at a prediction: of this chunk or an earlier one.
    pub fn flag(&mut self, prediction: PredictionId, score: f64, threshold: f64) {
        self.push(Flag::new(prediction, score, threshold));
    }

    /// Points at a prediction, with all that is known about why.
    pub fn push(&mut self, mut flag: Flag) {
        flag.score = storable(flag.score);
        flag.threshold = storable(flag.threshold);
        flag.p_value = flag.p_value.filter(|p| p.is_finite());
        for cause in &mut flag.causes {
            cause.share = storable(cause.share);
        }
        self.flags.push(flag);
    }

    /// Raises an alarm about the stream.
    pub fn alarm(&mut self, mut alarm: Alarm) {
        for reading in &mut alarm.readings {
            reading.statistic = storable(reading.statistic);
            reading.effect = storable(reading.effect);
            reading.p_value = reading.p_value.filter(|p| p.is_finite());
        }
        self.alarms.push(alarm);
    }

    /// The flags so far.
    pub fn flags(&self) -> &[Flag] {
        &self.flags
    }

    /// The alarms so far.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.flags.clear();
        self.alarms.clear();
    }
}

/// JSON has no NaN and no infinities: they become 0 and the largest number of their sign.
fn storable(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(f64::MIN, f64::MAX) }
}

/// An advisory verdict on the host's own thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GuardVerdict {
    /// Nothing to say.
    Pass,
    /// The detector would flag it.
    Flag {
        /// Its score.
        score: f64,
        /// The threshold that the score crossed.
        threshold: f64,
    },
}

/// A frozen scorer that the host may ask while it serves. It never blocks and does not change.
pub trait Guard: Send + Sync {
    /// The verdict on one observation.
    fn check(&self, observation: &Observation) -> GuardVerdict;
}

/// Finds predictions that deserve a look, and changes of the stream.
///
/// A score is a function of the row, the reference and the detector's own past, never of which rows share the chunk:
/// however a stream is cut into chunks, the findings are the same.
pub trait Detector: Stage {
    /// Looks at a chunk and puts what it found into `findings`.
    ///
    /// # Errors
    /// Only if the detector itself cannot work. Bad data is a finding, not an error.
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError>;

    /// A frozen copy for verdicts on the request thread, if the detector has one.
    fn guard(&self) -> Option<Arc<dyn Guard>> {
        None
    }

    /// Takes over a share of the [budget of the pipeline](crate::PipelineBuilder::false_alarms_per_day), in expected false
    /// alarms per day; `true` if the detector now holds it. One that cannot, or that was told a rate of its own, changes
    /// nothing. Called before the first `rebase`, maybe more than once: the last share counts.
    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        let _ = false_alarms_per_day;
        false
    }

    /// What its alarms are about; the stream, unless it judges by truths.
    fn alarm_kind(&self) -> AlarmKind {
        AlarmKind::Stream
    }

    /// What it measures of the served model, for the [status of the loop](crate::LoopStatus::metrics). Asked at every poll:
    /// it costs no more than a copy, and is part of the state that a snapshot keeps.
    fn metrics(&self) -> Vec<LiveMetric> {
        Vec::new()
    }
}

impl<D: Detector + ?Sized> Detector for Box<D> {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        (**self).inspect(chunk, findings)
    }

    fn guard(&self) -> Option<Arc<dyn Guard>> {
        (**self).guard()
    }

    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        (**self).alarm_budget(false_alarms_per_day)
    }

    fn alarm_kind(&self) -> AlarmKind {
        (**self).alarm_kind()
    }

    fn metrics(&self) -> Vec<LiveMetric> {
        (**self).metrics()
    }
}

/// A detector made of a closure; it keeps no state that outlives a restart.
///
/// # Examples
/// ```
/// use feedloop::{Chunk, Findings, detector_fn};
/// let negative = detector_fn("negative", |chunk: &Chunk<'_>, findings: &mut Findings| {
///     for (row, &value) in chunk.values(0).iter().enumerate() {
///         if value < 0.0 {
///             findings.flag(chunk.ids()[row], value, 0.0);
///         }
///     }
///     Ok(())
/// });
/// # let _ = negative;
/// ```
pub fn detector_fn<F>(name: impl Into<String>, inspect: F) -> DetectorFn<F>
where
    F: FnMut(&Chunk<'_>, &mut Findings) -> Result<(), BoxError> + Send + 'static,
{
    DetectorFn { name: name.into(), inspect }
}

/// See [`detector_fn`].
pub struct DetectorFn<F> {
    name: String,
    inspect: F,
}

impl<F: Send + 'static> Stage for DetectorFn<F> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<F> Detector for DetectorFn<F>
where
    F: FnMut(&Chunk<'_>, &mut Findings) -> Result<(), BoxError> + Send + 'static,
{
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        (self.inspect)(chunk, findings)
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn Detector>, _: Snapshot, _: Blind, _: References) {}
