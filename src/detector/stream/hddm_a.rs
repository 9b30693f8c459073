//! Drift detection by Hoeffding's bound, moving averages.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Mean, check, state_is_all, usable};
use crate::error::BoxError;

const FORMAT: u32 = 1;

/// HDDM-A: averages compared by Hoeffding's bound (Frías-Blanco et al. 2015), as River has it.
///
/// Classical: its confidences hold for one comparison, not for a stream; it claims no false-alarm rate. Values are clamped
/// to 0..=1. The mean of all values is compared with the mean at the moment when its upper bound was lowest (downwards: its
/// lower bound highest); the effect is their difference. Memory: a few numbers.
#[derive(Debug, Clone)]
pub struct HddmA {
    drift: f64,
    warning: f64,
    two_sided: bool,
    /// ln(1/drift), ln(2/drift) and ln(2/warning).
    logarithms: [f64; 3],
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    all: Mean,
    lowest: Cut,
    highest: Cut,
    drift: bool,
}

/// The mean at a moment of the past, and its bound then.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Cut {
    mean: Mean,
    bound: f64,
}

impl Default for HddmA {
    /// Confidences 0.001 for drift and 0.005 for a warning, upwards only.
    fn default() -> Self {
        let built = HddmA { drift: 0.0, warning: 0.0, two_sided: false, logarithms: [0.0; 3], state: State::default() };
        built.confidences(0.005, 0.001)
    }
}

impl HddmA {
    /// Chance of a wrong warning and of a wrong alarm in one comparison: above 0, below 1.
    pub fn confidences(mut self, warning: f64, drift: f64) -> Self {
        (self.warning, self.drift) = (warning, drift);
        self.logarithms = [(1.0 / drift).ln(), (2.0 / drift).ln(), (2.0 / warning).ln()];
        self
    }

    /// Falls of the mean matter as well.
    pub fn two_sided(mut self) -> Self {
        self.two_sided = true;
        self
    }

    /// What a difference of means says, `rise` since `cut`.
    fn judge(&self, rise: f64, cut: &Cut) -> Change {
        let (n, before) = (self.state.all.n as f64, cut.mean.n as f64);
        if n == before || rise < 0.0 {
            return Change::None;
        }
        let half = (n - before) / before * (1.0 / n) / 2.0;
        let square = rise * rise;
        if square >= half * self.logarithms[1] {
            Change::Drift
        } else if square >= half * self.logarithms[2] {
            Change::Warning
        } else {
            Change::None
        }
    }
}

impl ChangeDetector for HddmA {
    fn name(&self) -> &str {
        "hddm_a"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        for (confidence, name) in [(self.drift, "the drift confidence"), (self.warning, "the warning confidence")] {
            check(confidence > 0.0 && confidence < 1.0, name, confidence, "above 0 and below 1")?;
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
        let State { all, lowest, highest, .. } = &mut self.state;
        all.push(value.clamp(0.0, 1.0));
        let bound = (1.0 / (2.0 * all.n as f64) * self.logarithms[0]).sqrt();
        let now = Cut { mean: *all, bound };
        if lowest.mean.n == 0 || lowest.mean.value + lowest.bound >= all.value + bound {
            *lowest = now;
        }
        if highest.mean.n == 0 || highest.mean.value - highest.bound <= all.value - bound {
            *highest = now;
        }
        let State { all, lowest, highest, .. } = &self.state;
        let mut change = self.judge(all.value - lowest.mean.value, lowest);
        if self.two_sided && change != Change::Drift {
            let down = self.judge(highest.mean.value - all.value, highest);
            change = if down == Change::None { change } else { down };
        }
        self.state.drift = change == Change::Drift;
        change
    }

    fn evidence(&self) -> ChangeEvidence {
        let State { all, lowest, highest, .. } = &self.state;
        let (up, down) = (all.value - lowest.mean.value, highest.mean.value - all.value);
        let (effect, cut) = if self.two_sided && down > up { (-down, highest) } else { (up, lowest) };
        let (n, before) = (all.n.max(1) as f64, cut.mean.n.max(1) as f64);
        let threshold = ((n - before) / before / n / 2.0 * self.logarithms[1]).sqrt();
        ChangeEvidence { statistic: effect.abs(), threshold, effect }
    }

    state_is_all!(FORMAT);
}
