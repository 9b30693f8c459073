//! The drift detection method.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Mean, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// DDM, the drift detection method (Gama, Medas, Castillo, Rodrigues 2004), as River has it.
///
/// Classical: it claims no false-alarm rate. Values are errors: 0 right, 1 wrong; others are clamped to that range. The
/// error rate plus its standard deviation is compared with the lowest that it has been; the effect is the rise of the error
/// rate since. A stream that was without errors so far alarms at the first one. Memory: a few numbers.
#[derive(Debug, Clone)]
pub struct Ddm {
    warning: f64,
    drift: f64,
    warm_up: u64,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    rate: Mean,
    /// Rate and standard deviation where their sum was lowest.
    lowest: Option<(f64, f64)>,
    drift: bool,
}

impl Default for Ddm {
    /// Warning at 2, drift at 3 standard deviations, after 30 values.
    fn default() -> Self {
        Ddm { warning: 2.0, drift: 3.0, warm_up: 30, state: State::default() }
    }
}

impl Ddm {
    /// Warning and drift levels in standard deviations, above 0.
    pub fn levels(mut self, warning: f64, drift: f64) -> Self {
        (self.warning, self.drift) = (warning, drift);
        self
    }

    /// Values that are only counted.
    pub fn warm_up(mut self, values: u64) -> Self {
        self.warm_up = values;
        self
    }
}

impl State {
    fn deviation(&self) -> f64 {
        let Mean { n, value } = self.rate;
        (value * (1.0 - value) / n.max(1) as f64).max(0.0).sqrt()
    }
}

impl ChangeDetector for Ddm {
    fn name(&self) -> &str {
        "ddm"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        for (level, name) in [(self.warning, "the warning level"), (self.drift, "the drift level")] {
            check(level > 0.0 && level.is_finite(), name, level, "a positive number of standard deviations")?;
        }
        self.state = State::default();
        Ok(())
    }

    #[inline]
    fn update(&mut self, value: f64) -> Change {
        if !usable(value) {
            return Change::None;
        }
        if self.state.drift {
            self.state = State::default();
        }
        self.state.rate.push(value.clamp(0.0, 1.0));
        if self.state.rate.n <= self.warm_up {
            return Change::None;
        }
        let (rate, deviation) = (self.state.rate.value, self.state.deviation());
        let level = rate + deviation;
        let (low, unit) = match self.state.lowest {
            Some((low, unit)) if level > low + unit => (low, unit),
            _ => *self.state.lowest.insert((rate, deviation)),
        };
        if level > low + self.drift * unit {
            self.state.drift = true;
            Change::Drift
        } else if level > low + self.warning * unit {
            Change::Warning
        } else {
            Change::None
        }
    }

    fn evidence(&self) -> ChangeEvidence {
        let rate = self.state.rate.value;
        let (low, unit) = self.state.lowest.unwrap_or((rate, 0.0));
        ChangeEvidence {
            statistic: rate + self.state.deviation(),
            threshold: low + self.drift * unit,
            effect: rate - low,
        }
    }

    state_is_all!(FORMAT);
}
