//! The Page–Hinkley test.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Direction, Mean, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// The Page–Hinkley test (Page 1954, Hinkley 1971) for a change of the mean, as River has it.
///
/// Classical: it claims no false-alarm rate, and its threshold is in units of the signal. The sum of deviations from the running
/// mean, less a slack, is compared with its lowest (downwards: highest) point so far. The effect is the mean deviation
/// since that point. Memory: a few numbers.
#[derive(Debug, Clone)]
pub struct PageHinkley {
    threshold: f64,
    slack: f64,
    forgetting: f64,
    min_values: u64,
    direction: Direction,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    mean: Mean,
    up: Sum,
    down: Sum,
    drift: bool,
}

/// A sum of deviations, its lowest point, and when that was.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Sum {
    sum: f64,
    lowest: f64,
    since: u64,
}

impl Sum {
    fn push(&mut self, deviation: f64, forgetting: f64, n: u64) {
        self.sum = forgetting * self.sum + deviation;
        if self.sum < self.lowest || n == 1 {
            (self.lowest, self.since) = (self.sum, n);
        }
    }

    fn rise(&self) -> f64 {
        self.sum - self.lowest
    }
}

impl Default for PageHinkley {
    /// Threshold 50, slack 0.005, forgetting 0.9999, at least 30 values, both directions.
    fn default() -> Self {
        PageHinkley {
            threshold: 50.0,
            slack: 0.005,
            forgetting: 0.9999,
            min_values: 30,
            direction: Direction::Both,
            state: State::default(),
        }
    }
}

impl PageHinkley {
    /// Alarm when a sum has risen by more than this, above 0.
    pub fn threshold(mut self, sum: f64) -> Self {
        self.threshold = sum;
        self
    }

    /// Taken off every deviation, at least 0.
    pub fn slack(mut self, deviation: f64) -> Self {
        self.slack = deviation;
        self
    }

    /// What is kept of a sum from value to value, above 0, at most 1.
    pub fn forgetting(mut self, factor: f64) -> Self {
        self.forgetting = factor;
        self
    }

    /// Values before the first alarm.
    pub fn min_values(mut self, values: u64) -> Self {
        self.min_values = values;
        self
    }

    /// Which changes matter.
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// The sum that has risen most, of those that matter, and its sign.
    fn highest(&self) -> (&Sum, f64) {
        let State { up, down, .. } = &self.state;
        match self.direction {
            Direction::Up => (up, 1.0),
            Direction::Down => (down, -1.0),
            Direction::Both if up.rise() >= down.rise() => (up, 1.0),
            Direction::Both => (down, -1.0),
        }
    }
}

impl ChangeDetector for PageHinkley {
    fn name(&self) -> &str {
        "page_hinkley"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        check(
            self.threshold > 0.0 && self.threshold.is_finite(),
            "the threshold",
            self.threshold,
            "a positive number",
        )?;
        check(self.slack >= 0.0 && self.slack.is_finite(), "the slack", self.slack, "a number of at least 0")?;
        let forgetting = self.forgetting > 0.0 && self.forgetting <= 1.0;
        check(forgetting, "the forgetting factor", self.forgetting, "above 0 and at most 1")?;
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
        let State { mean, up, down, .. } = &mut self.state;
        mean.push(value);
        let deviation = value - mean.value;
        up.push(deviation - self.slack, self.forgetting, mean.n);
        down.push(-deviation - self.slack, self.forgetting, mean.n);
        if self.state.mean.n >= self.min_values && self.highest().0.rise() > self.threshold {
            self.state.drift = true;
            return Change::Drift;
        }
        Change::None
    }

    fn evidence(&self) -> ChangeEvidence {
        let (sum, sign) = self.highest();
        let values = self.state.mean.n.saturating_sub(sum.since).max(1) as f64;
        let effect = sign * (sum.rise() / values + self.slack);
        ChangeEvidence { statistic: sum.rise(), threshold: self.threshold, effect }
    }

    state_is_all!(FORMAT);
}
