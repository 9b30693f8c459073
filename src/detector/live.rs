//! Performance from truths that arrive late, reported at equal maturity.

mod report;

use std::borrow::Cow;
use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Detector, Findings};
use crate::chunk::{Chunk, Truth};
use crate::clock::from_micros;
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion};
use crate::reference::References;
use crate::schema::Target;
use crate::stage::{Blind, LiveMetric, Snapshot, Stage};

use report::Fate;
pub use report::{LiveReport, Maturity};

const FORMAT: u32 = 1;

/// Most time buckets of one model.
const BUCKETS: i64 = 4096;
/// The share of new truths, one in so many, that makes the metrics be measured anew.
const MEASURED: usize = 50;

/// Measures the model on truths that arrive late, are corrected or retracted, and reports by label maturity.
///
/// A young prediction is labelled only if its truth came early, and early truths are not like the others (a fraud is reported
/// after weeks, a good payment never). So figures are comparable only at equal maturity: for each age m, the report takes
/// predictions made at least m ago, and of their truths only those that came within m of the prediction. It says how many
/// predictions that leaves unlabelled: a share far below 1 means that the figures speak of a selection.
///
/// **Window**: for each age m, predictions made in the [`window`](LivePerformance::window) of time before now − m, by the time of
/// the newest event. Edges are rounded to buckets of time: 1/4096 of window and largest age, or 1/8 of the smallest age.
/// **Corrections** replace the truth in place: a corrected truth keeps the time at which the first one came. **Retractions**
/// remove it. Truths that do not fit the target are left out. An unusable output is wrong; for values it has no error and is
/// counted as unlabelled. **Memory**: about 100 bytes for each of the newest [`truths`](LivePerformance::truths), and 4096 counts per
/// model in the window. If more truths come in, the window is cut to predictions newer than every truth that was dropped.
///
/// It raises no alarm and promises no rate: [`HarmMonitor`](super::HarmMonitor) does.
#[derive(Debug, Clone)]
pub struct LivePerformance {
    name: Cow<'static, str>,
    maturities: Vec<TimeDelta>,
    window: TimeDelta,
    truths: usize,
    target: Option<Target>,
    model: ModelVersion,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// Microseconds per bucket.
    width: i64,
    /// Time of the newest event.
    now: i64,
    buckets: VecDeque<Bucket>,
    /// Predictions whose truth is known, in the order in which the truths came.
    fates: VecDeque<Fate>,
    /// The newest bucket of which a truth was dropped for want of room.
    dropped: Option<i64>,
    /// The metrics of the served model, as they were measured last.
    #[serde(default)]
    metrics: Vec<LiveMetric>,
    /// Truths since then.
    #[serde(default)]
    unmeasured: usize,
}

/// Predictions of one model in one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Bucket {
    number: i64,
    model: ModelVersion,
    predictions: u64,
}

impl Default for LivePerformance {
    /// Ages of an hour, a day and a week; a window of a week; 20,000 truths.
    fn default() -> Self {
        LivePerformance {
            name: "live_performance".into(),
            maturities: vec![TimeDelta::hours(1), TimeDelta::days(1), TimeDelta::days(7)],
            window: TimeDelta::days(7),
            truths: 20_000,
            target: None,
            model: ModelVersion::FIRST,
            state: State::default(),
        }
    }
}

impl LivePerformance {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// The ages at which to report, each above 0.
    pub fn maturities(mut self, ages: impl IntoIterator<Item = TimeDelta>) -> Self {
        self.maturities = ages.into_iter().collect();
        self.maturities.sort_unstable();
        self.maturities.dedup();
        self
    }

    /// Stretch of time of the predictions that are judged, above 0; a week unless told.
    pub fn window(mut self, window: TimeDelta) -> Self {
        self.window = window;
        self
    }

    /// Most truths that are kept, at least 1; 20,000 unless told.
    pub fn truths(mut self, most: usize) -> Self {
        self.truths = most;
        self
    }

    /// How good the served model was.
    pub fn report(&self) -> LiveReport {
        self.report_of(self.model)
    }

    /// How good one model was.
    pub fn report_of(&self, model: ModelVersion) -> LiveReport {
        let maturities = self.maturities.iter().map(|age| self.maturity(model, *age)).collect();
        LiveReport { model, as_of: from_micros(self.state.now), maturities }
    }

    fn measure(&mut self) {
        self.state.unmeasured += 1;
        if self.state.unmeasured * MEASURED >= self.state.fates.len() {
            self.state.metrics = self.report().maturities.iter().flat_map(Maturity::named).collect();
            self.state.unmeasured = 0;
        }
    }

    fn maturity(&self, model: ModelVersion, age: TimeDelta) -> Maturity {
        let (state, width) = (&self.state, self.width());
        let age = micros(age);
        let to = state.now.saturating_sub(age).div_euclid(width);
        let first = to - (micros(self.window) / width).max(1);
        let from = state.dropped.map_or(first, |dropped| first.max(dropped + 1)).min(to);
        let inside = |bucket: i64| (from..to).contains(&bucket);
        let buckets = state.buckets.iter().filter(|bucket| bucket.model == model && inside(bucket.number));
        let predictions: u64 = buckets.map(|bucket| bucket.predictions).sum();
        let judged: Vec<_> = state
            .fates
            .iter()
            .filter(|fate| fate.model == model && inside(fate.predicted_at.div_euclid(width)))
            .filter(|fate| fate.known_at.saturating_sub(fate.predicted_at) <= age)
            .collect();
        let (from, to) = (from_micros(from.saturating_mul(width)), from_micros(to.saturating_mul(width)));
        let seconds = age / 1_000_000;
        let mut found = Maturity { seconds, from, to, predictions, ..Maturity::judge(self.target.as_ref(), &judged) };
        // truths of predictions that this detector was not shown
        found.predictions = found.predictions.max(found.labelled);
        found
    }

    /// Microseconds per bucket.
    fn width(&self) -> i64 {
        let youngest = self.maturities.first().map_or(0, |age| micros(*age));
        (youngest / 8).max(self.horizon() / BUCKETS).max(1)
    }

    /// How far back a prediction can matter.
    fn horizon(&self) -> i64 {
        micros(self.window).saturating_add(self.maturities.last().map_or(0, |age| micros(*age)))
    }

    /// Moves the time on and forgets what no longer matters.
    fn advance(&mut self, to: i64) {
        if to <= self.state.now {
            return;
        }
        self.state.now = to;
        let oldest = self.oldest();
        while self.state.buckets.front().is_some_and(|bucket| bucket.number < oldest) {
            self.state.buckets.pop_front();
        }
    }

    /// The oldest bucket that matters.
    fn oldest(&self) -> i64 {
        self.state.now.saturating_sub(self.horizon()).div_euclid(self.width()) - 1
    }

    fn see(&mut self, model: ModelVersion, time: DateTime<Utc>) {
        let time = time.timestamp_micros();
        self.advance(time);
        let number = time.div_euclid(self.width());
        if number < self.oldest() {
            return;
        }
        let key = (number, model);
        let buckets = &mut self.state.buckets;
        let after = buckets.iter().rposition(|bucket| (bucket.number, bucket.model) <= key).map_or(0, |at| at + 1);
        match after.checked_sub(1).and_then(|at| buckets.get_mut(at)) {
            Some(bucket) if (bucket.number, bucket.model) == key => bucket.predictions += 1,
            _ => buckets.insert(after, Bucket { number, model, predictions: 1 }),
        }
    }

    fn hear(&mut self, truth: &Truth, target: &Target) {
        self.advance(truth.time.timestamp_micros());
        if truth.label.is_some_and(|label| !label.fits(target)) {
            return;
        }
        let before = truth.replaces.filter(|before| before.fits(target));
        let known = before.and_then(|_| {
            // corrections mostly come soon
            self.state.fates.iter().rposition(|fate| fate.prediction == truth.prediction)
        });
        match (known, truth.label) {
            (Some(at), None) => drop(self.state.fates.remove(at)),
            (Some(at), Some(label)) => {
                if let Some(fate) = self.state.fates.get_mut(at) {
                    fate.truth = label;
                }
            }
            (None, Some(label)) if before.is_none() => self.learn(truth, label),
            (None, _) => {}
        }
    }

    fn learn(&mut self, truth: &Truth, label: Label) {
        let (oldest, width) = (self.oldest(), self.width());
        let state = &mut self.state;
        while let Some(first) = state.fates.front() {
            let bucket = first.predicted_at.div_euclid(width);
            if bucket >= oldest && state.fates.len() < self.truths {
                break;
            }
            if bucket >= oldest {
                state.dropped = state.dropped.max(Some(bucket));
            }
            state.fates.pop_front();
        }
        state.fates.push_back(Fate {
            prediction: truth.prediction,
            model: truth.model,
            predicted: truth.predicted,
            score: truth.score,
            truth: label,
            predicted_at: truth.predicted_at.timestamp_micros(),
            known_at: truth.time.timestamp_micros(),
        });
    }
}

fn micros(duration: TimeDelta) -> i64 {
    duration.num_microseconds().unwrap_or(i64::MAX)
}

impl Stage for LivePerformance {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if self.maturities.is_empty() || self.maturities.iter().any(|age| *age <= TimeDelta::zero()) {
            return Err(message("the ages to report at must be above 0, and at least one is needed"));
        }
        if self.window <= TimeDelta::zero() {
            return Err(message("the window must be longer than 0"));
        }
        if self.truths == 0 {
            return Err(message("0 truths are kept, at least 1 is needed"));
        }
        self.target = Some(references.serving.schema().target().clone());
        if self.model != references.model {
            // They were those of another model.
            self.state.metrics.clear();
        }
        self.model = references.model;
        self.state.width = self.width();
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        let Some(dropped) = self.state.dropped else { return Vec::new() };
        let cut =
            |age: &&TimeDelta| self.state.now.saturating_sub(micros(**age)).div_euclid(self.width()) <= dropped + 1;
        let text = |age: &TimeDelta| {
            Blind::all(format!(
                "nothing is left to report after {} s: {} truths are kept, ask for more by `truths`",
                age.num_seconds(),
                self.truths
            ))
        };
        self.maturities.iter().filter(cut).map(text).collect()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        if state.width != self.width() {
            let (found, expected) = (state.width, self.width());
            return Err(message(format!("the saved counts are per {found} µs, per {expected} µs is expected")));
        }
        if state.fates.len() > self.truths {
            let (found, most) = (state.fates.len(), self.truths);
            return Err(message(format!("the saved state holds {found} truths, at most {most} are expected")));
        }
        self.state = state;
        Ok(())
    }
}

impl Detector for LivePerformance {
    fn inspect(&mut self, chunk: &Chunk<'_>, _: &mut Findings) -> Result<(), BoxError> {
        // In the order of the stream, so that what is measured in between does not depend on the cut.
        let mut seen = chunk.times().iter().zip(chunk.sequence()).peekable();
        for truth in chunk.truths() {
            while let Some((&time, _)) = seen.next_if(|(_, sequence)| **sequence < truth.sequence) {
                self.see(chunk.model(), time);
            }
            self.hear(truth, chunk.schema().target());
            self.measure();
        }
        for (&time, _) in seen {
            self.see(chunk.model(), time);
        }
        Ok(())
    }

    /// Accuracy and the like of the served model at each age, for instance `accuracy@1d`; measured anew each time that a
    /// fiftieth more truths have come.
    fn metrics(&self) -> Vec<LiveMetric> {
        self.state.metrics.clone()
    }
}

#[cfg(test)]
mod tests;
