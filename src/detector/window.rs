//! Windows of the stream against a reference.

mod category;
mod engine;
pub(super) mod marginals;
mod numeric;
pub(super) mod rows;
pub(super) mod settings;
pub(super) mod source;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Detector, Findings, Reading};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::reference::References;
use crate::stage::{Blind, Snapshot, Stage};
use engine::{Window, WindowState};
use marginals::Marginals;
use settings::Settings;
use source::{Restored, Source};

pub use settings::{CategoryTest, Correction, NumericTest};

/// Drift between a window of the stream and a reference; what is compared, is `S`'s to say.
///
/// It is used under its short names: [`KsDrift`](crate::KsDrift) compares the inputs column by column,
/// [`OutputDrift`](crate::OutputDrift) the outputs of the model, [`MmdDrift`](crate::MmdDrift) the numeric inputs together.
/// All have the settings below.
///
/// One alarm per test of the window at most; its readings are the columns behind it, largest effect first.
///
/// **Windows** do not overlap by default: one test per [`window`](WindowDrift::window) observations;
/// [`sliding`](WindowDrift::sliding) tests more often, [`time_window`](WindowDrift::time_window) by the clock of the
/// observations. A moved reference starts the window afresh.
///
/// **Rates**: a test of the window has a *level*, the chance of an alarm if nothing has changed. The user states it
/// [per test](WindowDrift::false_alarm_rate), [per day](WindowDrift::false_alarms_per_day) or as an
/// [average run length](WindowDrift::average_run_length) (the last one told counts), and it is shared by the columns
/// ([`Correction`]). A test by permutation can prove no level below 0.0001 per column: where less is asked, the column is
/// blind ("not computed") and the reason names the level.
///
/// **Guarantee**: if observations are independent and distributed as the reference's, a test alarms with a probability
/// of at most its level, on average over references. It does not hold for dependent observations (sessions, seasons, one
/// noisy client): those *are* a change of the window.
#[derive(Debug, Clone)]
pub struct WindowDrift<S: Source> {
    name: Cow<'static, str>,
    settings: Settings,
    source: S,
    window: Option<Window<S::Tests>>,
    rebased: bool,
}

#[derive(Serialize, Deserialize)]
struct State<S> {
    source: S,
    window: Option<WindowState>,
}

impl<S: Source> Default for WindowDrift<S> {
    /// Windows of 1,000, a false-alarm rate of 0.01 per test, effects of at least 0.05, no warnings.
    fn default() -> Self {
        let (settings, source) = (Settings::default(), S::default());
        WindowDrift { name: S::NAME.into(), settings, source, window: None, rebased: false }
    }
}

impl<S: Source> WindowDrift<S> {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Observations per window, at least 2; 1,000 unless told. Of a time window: the most that are kept, at least 20.
    pub fn window(mut self, observations: usize) -> Self {
        self.settings.window = observations;
        self
    }

    /// Tests the last window each time `every` observations have come (1 to the window), instead of once per window.
    pub fn sliding(mut self, every: usize) -> Self {
        self.settings.every = Some(every);
        self
    }

    /// Windows of time that do not overlap, at least a millisecond long; they start at multiples of `length` since 1970 (UTC).
    ///
    /// The time is that of the observations and only moves forward: a late one counts as made now. A window is tested when
    /// the first observation after it arrives. Of more observations than [`window`](WindowDrift::window), a uniform sample
    /// is compared: those with the smallest hash of their position in the stream. With fewer than 20, the window is not tested
    /// but goes on to the end of the next one, and the stage says so. Windows of time do not slide.
    pub fn time_window(mut self, length: Duration) -> Self {
        self.settings.time = Some(length);
        self
    }

    /// Chance of a false alarm per test of the window, over all columns: above 0, at most 0.5; 0.01 unless told.
    pub fn false_alarm_rate(mut self, per_test: f64) -> Self {
        self.settings.per_test(per_test);
        self
    }

    /// Expected false alarms per day: a test gets this rate times the days since the last one (at most 0.05), so
    /// that the budget holds whatever the traffic is. Observations without passing time give no level: no alarm.
    ///
    /// Several detectors share one budget by
    /// [`PipelineBuilder::false_alarms_per_day`](crate::PipelineBuilder::false_alarms_per_day); a rate stated here goes before.
    pub fn false_alarms_per_day(mut self, rate: f64) -> Self {
        self.settings.per_day(rate);
        self
    }

    /// Expected observations from one false alarm to the next, at least: a test gets the number of observations since the
    /// last one divided by this (at most 0.05).
    pub fn average_run_length(mut self, observations: f64) -> Self {
        self.settings.run_length(observations);
        self
    }

    /// Raises an alarm of [`Level::Warning`](crate::Level::Warning) where a drift alarm would need a rate `times` as high
    /// (above 1, finite): so under no change, warnings and drift alarms together come at `times` the stated rate at most. A
    /// drift alarm takes the place of the warning. Off unless told.
    pub fn warnings(mut self, times: f64) -> Self {
        self.settings.warn(times);
        self
    }

    /// Smallest effect worth an alarm, from 0 to below 1; 0.05 unless told.
    ///
    /// For the distance D, 0.05 is a shift of an eighth of a standard deviation, or 5 points of missing values. In windows of
    /// 1,000 only larger distances are significant; in large windows it keeps significant trifles away.
    pub fn minimum_effect(mut self, effect: f64) -> Self {
        self.settings.minimum_effect = effect;
        self
    }

    /// Statistic, p-value and effect of every test of the newest window, alarm or not: to be kept as metrics. Empty until the
    /// first test since the start.
    ///
    /// Where nothing could become of it, the p-value is an approximation, or absent if the test is one by permutation: the
    /// effect is below the minimum, or the p-value is far above the level.
    pub fn last_readings(&self) -> Vec<Reading> {
        self.window.as_ref().map(Window::readings).unwrap_or_default()
    }
}

impl<S: Source<Tests = Marginals>> WindowDrift<S> {
    /// How the columns share the rate of a test.
    pub fn correction(mut self, correction: Correction) -> Self {
        self.settings.correction = correction;
        self
    }

    /// The test of numeric columns.
    pub fn numeric_test(mut self, test: NumericTest) -> Self {
        self.settings.numeric = test;
        self
    }

    /// The test of category columns.
    pub fn category_test(mut self, test: CategoryTest) -> Self {
        self.settings.category = test;
        self
    }
}

impl<S: Source> Stage for WindowDrift<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.settings.check()?;
        let baseline = self.source.rebase(references)?;
        self.window = baseline.map(|baseline| Window::new(&self.settings, baseline));
        self.rebased = true;
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        match &self.window {
            Some(window) => window.blind(),
            None if self.rebased => vec![Blind::all(self.source.waits_for(self.settings.window))],
            None => Vec::new(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let state = State { source: self.source.save(), window: self.window.as_ref().map(Window::save) };
        Snapshot::save(S::FORMAT, &state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State<S::State> = snapshot.load(S::FORMAT)?;
        match self.source.load(state.source, self.settings.window)? {
            Restored::Same => {}
            Restored::Own(baseline) => {
                self.window = baseline.map(|baseline| Window::new(&self.settings, baseline));
            }
            Restored::Void => return Ok(()),
        }
        match (&mut self.window, state.window) {
            (Some(window), Some(state)) => window.load(state),
            (None, None) => Ok(()),
            _ => Err(message("the saved window and its baseline do not belong together")),
        }
    }
}

impl<S: Source> Detector for WindowDrift<S> {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        if !self.rebased {
            return Err(message("rebase comes before inspect"));
        }
        self.source.read(chunk)?;
        let mut from = 0;
        if self.window.is_none() {
            let (taken, baseline) = self.source.learn(self.settings.window);
            self.window = baseline.map(|baseline| Window::new(&self.settings, baseline));
            from = taken;
        }
        if let Some(window) = &mut self.window {
            window.push(&self.source, chunk, from, findings);
        }
        Ok(())
    }

    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        self.settings.budget(false_alarms_per_day)
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
