//! The cumulative-sum chart.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Direction, Spread, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// The tabular cumulative-sum chart (Page 1954) for a change of the mean, as River has it.
///
/// Classical: it claims no false-alarm rate. Mean and standard deviation are those of the first
/// [`warm_up`](Cusum::warm_up) values of the stream; slack and threshold are in such standard deviations, 0.5 and 5 as in
/// the textbooks. That is an alarm every few hundred values without any change, sooner if the warm-up was unlucky. After
/// a constant warm-up, every later change of the value is an alarm. The effect is the mean deviation since the sum was
/// last 0, in standard deviations. Memory: a few numbers.
#[derive(Debug, Clone)]
pub struct Cusum {
    threshold: f64,
    slack: f64,
    warm_up: u64,
    direction: Direction,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// Of the warm-up; then it stays.
    reference: Spread,
    up: Sum,
    down: Sum,
    drift: bool,
}

/// A sum of deviations that does not fall below 0, and since when it is above.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Sum {
    sum: f64,
    values: u64,
}

impl Sum {
    fn push(&mut self, deviation: f64) {
        self.sum = (self.sum + deviation).max(0.0);
        self.values = if self.sum > 0.0 { self.values + 1 } else { 0 };
    }
}

impl Default for Cusum {
    /// Threshold 5, slack 0.5, a warm-up of 30 values, both directions.
    fn default() -> Self {
        Cusum { threshold: 5.0, slack: 0.5, warm_up: 30, direction: Direction::Both, state: State::default() }
    }
}

impl Cusum {
    /// Alarm when a sum is above this many standard deviations, above 0.
    pub fn threshold(mut self, deviations: f64) -> Self {
        self.threshold = deviations;
        self
    }

    /// Taken off every deviation, in standard deviations, at least 0.
    pub fn slack(mut self, deviations: f64) -> Self {
        self.slack = deviations;
        self
    }

    /// Values that mean and standard deviation come from, at least 2.
    pub fn warm_up(mut self, values: u64) -> Self {
        self.warm_up = values;
        self
    }

    /// Which changes matter.
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    fn highest(&self) -> (&Sum, f64) {
        let State { up, down, .. } = &self.state;
        if self.direction == Direction::Down || (self.direction == Direction::Both && down.sum > up.sum) {
            (down, -1.0)
        } else {
            (up, 1.0)
        }
    }
}

impl ChangeDetector for Cusum {
    fn name(&self) -> &str {
        "cusum"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        check(
            self.threshold > 0.0 && self.threshold.is_finite(),
            "the threshold",
            self.threshold,
            "a positive number",
        )?;
        check(self.slack >= 0.0 && self.slack.is_finite(), "the slack", self.slack, "a number of at least 0")?;
        check(self.warm_up >= 2, "the warm-up", self.warm_up, "at least 2 values")?;
        self.state = State::default();
        Ok(())
    }

    fn update(&mut self, value: f64) -> Change {
        if !usable(value) {
            return Change::None;
        }
        if self.state.drift {
            self.state = State::default();
        }
        let State { reference, up, down, drift } = &mut self.state;
        if reference.mean.n < self.warm_up {
            reference.push(value);
            // the last value of the warm-up is judged already
            if reference.mean.n < self.warm_up {
                return Change::None;
            }
        }
        let unit = reference.standard_deviation();
        let deviation = value - reference.mean.value;
        up.push(deviation - self.slack * unit);
        down.push(-deviation - self.slack * unit);
        let limit = self.threshold * unit;
        *drift = (self.direction.up() && up.sum > limit) || (self.direction.down() && down.sum > limit);
        if *drift { Change::Drift } else { Change::None }
    }

    fn evidence(&self) -> ChangeEvidence {
        let (sum, sign) = self.highest();
        let unit = self.state.reference.standard_deviation().max(f64::MIN_POSITIVE);
        let effect = sign * (sum.sum / unit / sum.values.max(1) as f64 + self.slack);
        ChangeEvidence { statistic: sum.sum / unit, threshold: self.threshold, effect }
    }

    state_is_all!(FORMAT);
}
