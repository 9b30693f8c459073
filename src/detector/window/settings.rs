//! What the user asks of a window: its length, its rate of false alarms, its tests.

use std::time::Duration;

use super::super::Level;
use crate::error::{BoxError, message};
use crate::stats::multiple::Adjustment;

/// The test of a numeric column.
///
/// Every p-value is calibrated for the sizes of window and reference at hand: no fixed threshold is used anywhere. A test by
/// permutation (seeded: the same window gives the same p-value) can prove no level below 0.0001 per column: see
/// [`WindowDrift`](super::WindowDrift). It costs little while nothing changes, but 3 / level draws per column that has: at
/// 0.0001, with 4,096 rows in the reference and 1,000 in the window, about 0.4 s for a Wasserstein distance, 30 ms for ten bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NumericTest {
    /// Kolmogorov–Smirnov (Kolmogorov 1933, Smirnov 1939): exact while the samples are small, else asymptotic. A column whose
    /// values repeat in the reference (two of its values are equal with a probability above 1 %) gets the p-value of
    /// [`NumericTest::KolmogorovSmirnovTies`]. The effect is the distance D, from 0 to 1.
    #[default]
    KolmogorovSmirnov,
    /// Kolmogorov–Smirnov with the p-value given the ties of both samples (Schröer and Trenkler 1995), so that it is not blind on
    /// rounded or discrete values: exact up to a product of the two sample sizes of 40,000,000, by permutation beyond. The
    /// effect is the distance D.
    KolmogorovSmirnovTies,
    /// Cramér–von Mises (Anderson 1962): sees a small change that spreads over all values better than Kolmogorov–Smirnov.
    /// Asymptotic from 50 values on, by permutation below, and where more than one value in 20 repeats another. The effect is the root mean square distance of the two distribution functions, from 0 to 0.58.
    CramerVonMises,
    /// Wasserstein distance of order 1, by permutation. The statistic has the unit of the column; the effect is in standard
    /// deviations of the reference. One far outlier may hide a change: the others do not have that weakness.
    Wasserstein,
    /// Population stability index over ten bins with open ends, by permutation. A seeded quarter of the reference places the
    /// bins at its quantiles, the other values are compared: counts of the values that placed the bins are equal by
    /// construction, and would break the rate. The effect is the index.
    PopulationStability,
    /// Jensen–Shannon distance (base 2) over the same bins, by permutation. The effect is the distance, from 0 to 1.
    JensenShannon,
    /// Hellinger distance over the same bins, by permutation. The effect is the distance, from 0 to 1.
    Hellinger,
}

/// The test of a category column: its levels are the allowed values, unseen, and missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CategoryTest {
    /// Homogeneity of the counts (Pearson's chi-square 1900) over the levels with 20 expected observations in both samples,
    /// together with Fisher's exact test (1922) of each level. The effect is the total variation of the shares, from 0 to 1.
    #[default]
    ChiSquare,
    /// The same with the likelihood-ratio statistic G in place of chi-square. The effect is the total variation.
    GTest,
    /// Population stability index over the levels, by permutation. The effect is the index.
    PopulationStability,
    /// Jensen–Shannon distance (base 2) over the levels, by permutation. The effect is the distance, from 0 to 1.
    JensenShannon,
}

/// How the tests of one window share its false-alarm rate. All bound the chance of *any* alarm if nothing has changed
/// (Benjamini–Hochberg for independent or positively dependent columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Correction {
    /// Every test gets the same part (Bonferroni 1936).
    #[default]
    Bonferroni,
    /// Step by step (Holm 1979): as strict for the first, more readings behind the same alarm.
    Holm,
    /// Where some columns have changed, at most this share of the columns that an alarm names is named wrongly, on average
    /// (Benjamini and Hochberg 1995), for independent or positively dependent columns. If none has changed, the chance of
    /// an alarm is still at most the rate.
    BenjaminiHochberg,
    /// The same for columns that depend on each other in any way (Benjamini and Yekutieli 2001): stricter.
    BenjaminiYekutieli,
}

impl Correction {
    pub(super) fn adjustment(self) -> Adjustment {
        match self {
            Correction::Bonferroni => Adjustment::Bonferroni,
            Correction::Holm => Adjustment::Holm,
            Correction::BenjaminiHochberg => Adjustment::BenjaminiHochberg,
            Correction::BenjaminiYekutieli => Adjustment::BenjaminiYekutieli,
        }
    }
}

/// The chance of a false alarm that the user accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    PerTest(f64),
    PerDay(f64),
    /// One in so many observations.
    RunLength(f64),
}

/// Most false alarms per test, however long the last test is ago.
const HIGHEST_LEVEL: f64 = 0.05;

/// Fewest observations of a time window.
pub(super) const FEWEST: usize = 20;

/// What has passed since the last test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    pub(super) days: f64,
    pub(super) observations: u64,
}

/// What a [`WindowDrift`](super::WindowDrift) was asked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) window: usize,
    pub(super) every: Option<usize>,
    pub(super) time: Option<Duration>,
    rate: Rate,
    /// Did the user state the rate?
    own_rate: bool,
    warnings: Option<f64>,
    pub(super) correction: Correction,
    pub(super) minimum_effect: f64,
    pub(super) numeric: NumericTest,
    pub(super) category: CategoryTest,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            window: 1000,
            every: None,
            time: None,
            rate: Rate::PerTest(0.01),
            own_rate: false,
            warnings: None,
            correction: Correction::default(),
            minimum_effect: 0.05,
            numeric: NumericTest::default(),
            category: CategoryTest::default(),
        }
    }
}

impl Settings {
    pub(super) fn per_test(&mut self, rate: f64) {
        (self.rate, self.own_rate) = (Rate::PerTest(rate), true);
    }

    pub(super) fn per_day(&mut self, rate: f64) {
        (self.rate, self.own_rate) = (Rate::PerDay(rate), true);
    }

    pub(super) fn run_length(&mut self, observations: f64) {
        (self.rate, self.own_rate) = (Rate::RunLength(observations), true);
    }

    /// Takes over a share of the pipeline's budget, unless the user stated a rate.
    pub(super) fn budget(&mut self, per_day: f64) -> bool {
        if !self.own_rate {
            self.rate = Rate::PerDay(per_day);
        }
        !self.own_rate
    }

    pub(super) fn warn(&mut self, times: f64) {
        self.warnings = Some(times);
    }

    /// The chance of an alarm that a test may have under no change.
    pub(super) fn level(&self, passed: Passed) -> f64 {
        self.level_times(passed, 1.0)
    }

    /// The levels to decide at, the strictest first.
    pub(super) fn levels(&self, passed: Passed) -> impl Iterator<Item = (Level, f64)> {
        let warning = self.warnings.map(|times| (Level::Warning, self.level_times(passed, times)));
        std::iter::once((Level::Drift, self.level(passed))).chain(warning)
    }

    fn level_times(&self, passed: Passed, times: f64) -> f64 {
        match self.rate {
            Rate::PerTest(rate) => (rate * times).min(0.5),
            Rate::PerDay(rate) => (rate * times * passed.days).min(HIGHEST_LEVEL),
            Rate::RunLength(observations) => (times * passed.observations as f64 / observations).min(HIGHEST_LEVEL),
        }
    }

    /// The level of every test, if it is always the same.
    pub(super) fn fixed_level(&self) -> Option<f64> {
        let observations = match (self.rate, self.time) {
            (Rate::PerDay(_), _) | (Rate::RunLength(_), Some(_)) => return None,
            _ => self.every.unwrap_or(self.window) as u64,
        };
        Some(self.level(Passed { days: 0.0, observations }))
    }

    pub(super) fn check(&self) -> Result<(), BoxError> {
        let least = if self.time.is_some() { FEWEST } else { 2 };
        if self.window < least {
            let text = format!("the window is {}, at least {least} observations are needed", self.window);
            return Err(message(text));
        }
        match (self.time, self.every) {
            (Some(time), _) if time < Duration::from_millis(1) => {
                return Err(message(format!("the time window is {time:?}, at least a millisecond is needed")));
            }
            (Some(_), Some(_)) => {
                return Err(message("a time window was asked to slide: only windows of a number of observations do"));
            }
            (None, Some(every)) if !(1..=self.window).contains(&every) => {
                return Err(message(format!(
                    "sliding by {every} was asked, from 1 to the window ({}) is allowed",
                    self.window
                )));
            }
            _ => {}
        }
        match self.rate {
            Rate::PerTest(rate) if !(rate > 0.0 && rate <= 0.5) => {
                return Err(message(format!("the false-alarm rate is {rate}, above 0 and at most 0.5 is allowed")));
            }
            Rate::PerDay(rate) if !(rate > 0.0 && rate.is_finite()) => {
                return Err(message(format!("{rate} false alarms per day were asked, more than 0 is allowed")));
            }
            Rate::RunLength(length) if !(length >= 1.0 && length.is_finite()) => {
                return Err(message(format!("the average run length is {length}, at least 1 is needed")));
            }
            _ => {}
        }
        if let Some(times) = self.warnings.filter(|times| !(*times > 1.0 && times.is_finite())) {
            return Err(message(format!("warnings at {times} times the rate were asked, more than 1 is allowed")));
        }
        if !(0.0..1.0).contains(&self.minimum_effect) {
            let text = format!("the minimum effect is {}, from 0 to below 1 is allowed", self.minimum_effect);
            return Err(message(text));
        }
        Ok(())
    }
}
