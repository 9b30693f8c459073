//! The early drift detection method.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Spread, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// EDDM, the early drift detection method (Baena-García et al. 2006), as River has it.
///
/// Classical: it claims no false-alarm rate, and alarms often without any change. Values are errors: at least 0.5 is
/// wrong. The distance between errors (mean plus two standard deviations) is compared with the largest that it has been;
/// the statistic is their ratio, and the effect its fall below 1. A verdict stays until the next error. Memory: a few
/// numbers.
#[derive(Debug, Clone)]
pub struct Eddm {
    warning: f64,
    drift: f64,
    warm_up: u64,
    state: State,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    values: u64,
    last_error: u64,
    distances: Spread,
    largest: f64,
    level: f64,
    change: Change,
}

impl Default for State {
    fn default() -> Self {
        State { values: 0, last_error: 0, distances: Spread::default(), largest: 0.0, level: 1.0, change: Change::None }
    }
}

impl Default for Eddm {
    /// Warning below 0.95, drift below 0.9, after 30 errors.
    fn default() -> Self {
        Eddm { warning: 0.95, drift: 0.9, warm_up: 30, state: State::default() }
    }
}

impl Eddm {
    /// Warning and drift when the ratio falls below these; from 0 to 1, the second at most the first.
    pub fn levels(mut self, warning: f64, drift: f64) -> Self {
        (self.warning, self.drift) = (warning, drift);
        self
    }

    /// Errors that are only counted.
    pub fn warm_up(mut self, errors: u64) -> Self {
        self.warm_up = errors;
        self
    }
}

impl ChangeDetector for Eddm {
    fn name(&self) -> &str {
        "eddm"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        check((0.0..=1.0).contains(&self.warning), "the warning level", self.warning, "0 to 1")?;
        check((0.0..=self.warning).contains(&self.drift), "the drift level", self.drift, "0 to the warning level")?;
        self.state = State::default();
        Ok(())
    }

    #[inline]
    fn update(&mut self, value: f64) -> Change {
        if !usable(value) {
            return Change::None;
        }
        if self.state.change == Change::Drift {
            self.state = State::default();
        }
        let state = &mut self.state;
        state.values += 1;
        if value < 0.5 {
            return state.change;
        }
        state.distances.push((state.values - state.last_error) as f64);
        state.last_error = state.values;
        if state.values > self.warm_up {
            let distance = state.distances.mean.value + 2.0 * state.distances.standard_deviation();
            if distance > state.largest {
                state.largest = distance;
            } else if state.distances.mean.n > self.warm_up {
                state.level = distance / state.largest;
                state.change = match state.level {
                    level if level < self.drift => Change::Drift,
                    level if level < self.warning => Change::Warning,
                    _ => Change::None,
                };
            }
        }
        state.change
    }

    fn evidence(&self) -> ChangeEvidence {
        let level = self.state.level;
        ChangeEvidence { statistic: level, threshold: self.drift, effect: 1.0 - level }
    }

    state_is_all!(FORMAT);
}
