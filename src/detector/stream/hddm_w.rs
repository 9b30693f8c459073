//! Drift detection by McDiarmid's bound, weighted averages.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// HDDM-W: exponentially weighted averages compared by McDiarmid's bound (Frías-Blanco et al. 2015), as River has it.
///
/// Classical: its confidences hold for one comparison, not for a stream; it claims no false-alarm rate. Values are clamped
/// to 0..=1. The average up to the moment when its upper bound was lowest (downwards: its lower bound highest) is compared
/// with that since; the effect is their difference. Memory: a few numbers.
#[derive(Debug, Clone)]
pub struct HddmW {
    drift: f64,
    warning: f64,
    weight: f64,
    two_sided: bool,
    /// Half of ln(1/drift) and of ln(1/warning).
    logarithms: [f64; 2],
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    all: Average,
    up: Split,
    down: Split,
    drift: bool,
}

/// An exponentially weighted average and the sum of its squared weights.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Average {
    some: bool,
    value: f64,
    weights: f64,
}

/// What came before a moment and since; the bound at that moment.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Split {
    bound: Option<f64>,
    before: Average,
    since: Average,
}

impl Default for Average {
    fn default() -> Self {
        Average { some: false, value: 0.0, weights: 1.0 }
    }
}

impl Average {
    fn push(&mut self, value: f64, weight: f64) {
        let rest = 1.0 - weight;
        self.value = if self.some { weight * value + rest * self.value } else { value };
        self.weights = weight * weight + rest * rest * self.weights;
        self.some = true;
    }
}

impl Split {
    /// `bound` is to be as low as possible.
    fn push(&mut self, value: f64, all: &Average, bound: f64, weight: f64) {
        if self.bound.is_none_or(|lowest| bound < lowest) {
            *self = Split { bound: Some(bound), before: *all, since: Average::default() };
        } else {
            self.since.push(value, weight);
        }
    }

    fn rise(&self) -> f64 {
        self.since.value - self.before.value
    }

    /// The squared difference that is beyond chance.
    fn limit(&self, logarithm: f64) -> f64 {
        (self.before.weights + self.since.weights) * logarithm
    }
}

impl Default for HddmW {
    /// Confidences 0.001 for drift and 0.005 for a warning, weight 0.05, upwards only.
    fn default() -> Self {
        let built = HddmW {
            drift: 0.0,
            warning: 0.0,
            weight: 0.05,
            two_sided: false,
            logarithms: [0.0; 2],
            state: State::default(),
        };
        built.confidences(0.005, 0.001)
    }
}

impl HddmW {
    /// Chance of a wrong warning and of a wrong alarm in one comparison: above 0, below 1.
    pub fn confidences(mut self, warning: f64, drift: f64) -> Self {
        (self.warning, self.drift) = (warning, drift);
        self.logarithms = [(1.0 / drift).ln() / 2.0, (1.0 / warning).ln() / 2.0];
        self
    }

    /// Weight of the newest value, above 0, below 1.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Falls of the average matter as well.
    pub fn two_sided(mut self) -> Self {
        self.two_sided = true;
        self
    }

    fn judge(&self, rise: f64, split: &Split) -> Change {
        if !split.since.some || rise <= 0.0 {
            return Change::None;
        }
        let square = rise * rise;
        if square > split.limit(self.logarithms[0]) {
            Change::Drift
        } else if square > split.limit(self.logarithms[1]) {
            Change::Warning
        } else {
            Change::None
        }
    }
}

impl ChangeDetector for HddmW {
    fn name(&self) -> &str {
        "hddm_w"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        for (number, name) in [
            (self.drift, "the drift confidence"),
            (self.warning, "the warning confidence"),
            (self.weight, "the weight"),
        ] {
            check(number > 0.0 && number < 1.0, name, number, "above 0 and below 1")?;
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
        let value = value.clamp(0.0, 1.0);
        let State { all, up, down, .. } = &mut self.state;
        all.push(value, self.weight);
        let bound = (all.weights * self.logarithms[0]).sqrt();
        up.push(value, all, all.value + bound, self.weight);
        if self.two_sided {
            down.push(value, all, bound - all.value, self.weight);
        }
        let State { up, down, .. } = &self.state;
        let mut change = self.judge(up.rise(), up);
        if self.two_sided && change != Change::Drift {
            let falling = self.judge(-down.rise(), down);
            change = if falling == Change::None { change } else { falling };
        }
        self.state.drift = change == Change::Drift;
        change
    }

    fn evidence(&self) -> ChangeEvidence {
        let State { up, down, .. } = &self.state;
        let split = if self.two_sided && -down.rise() > up.rise() { down } else { up };
        let effect = if split.since.some { split.rise() } else { 0.0 };
        ChangeEvidence { statistic: effect.abs(), threshold: split.limit(self.logarithms[0]).sqrt(), effect }
    }

    state_is_all!(FORMAT);
}
