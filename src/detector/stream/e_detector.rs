//! The e-detector for the mean of a bounded signal.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, Direction, Spread, check, usable};
use crate::error::{BoxError, message};
use crate::stage::Snapshot;
use crate::stats::binomial;

const FORMAT: u32 = 1;

/// Confidence of the limit on the baseline's mean.
const CONFIDENCE: f64 = 0.95;

/// Means that are bet on, as parts of the way from the limit to the end of the range, and their share of the false alarms.
const BETS: [(f64, f64); 5] = [(0.025, 0.3), (0.05, 0.25), (0.1, 0.2), (0.2, 0.15), (0.4, 0.1)];

/// The e-detector for the mean of a bounded signal (Shin, Ramdas, Rinaldo 2022): the Shiryaev–Roberts sum of betting
/// e-processes.
///
/// Values lie in 0..=1 unless [`range`](EDetector::range) says otherwise; those outside are clamped. If m is a limit that the
/// mean does not exceed, 1 + λ(x − m) has a mean of at most 1 for every stake λ from 0 to 1/m; the statistic is
/// M ← (M + 1)(1 + λ(x − m)), averaged over five stakes, and an alarm comes at the stated average run length. The effect is
/// the distance from the limit to the mean that the most successful stake bets on.
///
/// **Guarantee**: with a probability of at least 0.95 over the baseline, the average run length to a false alarm is at least the
/// stated one, if baseline and stream have independent values of one mean (for the stream it is enough that each value's
/// expectation, given the past, is not beyond the limit). m is the one-sided 95 % limit of Clopper and Pearson (1934) for a
/// baseline of zeros and ones, else the better of Hoeffding's (1963) and the empirical Bernstein limit (Maurer and Pontil
/// 2009) at 97.5 % each; in both directions, each side has half of the error. The price is that changes smaller than the
/// distance from the mean to its limit are not found: [`ConformalMartingale`](super::ConformalMartingale) finds them.
///
/// **Baseline**: the reference's values; with fewer than [`baseline`](EDetector::baseline) of them, and after an alarm,
/// the first ones of the stream complete it, and the detector is blind until then. Memory: the baseline while it is being
/// collected, then a few numbers.
#[derive(Debug, Clone)]
pub struct EDetector {
    average_run_length: f64,
    direction: Direction,
    range: (f64, f64),
    baseline: usize,
    state: State,
}

/// Limits of the mean in units of the range: from 0 to `up`, and from 0 to `down` for 1 − x.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Limits {
    up: f64,
    down: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Values that will be the baseline; `None` when there is one.
    collected: Option<Vec<f64>>,
    limits: Option<Limits>,
    /// Do the limits come of the stream, not of the reference?
    own: bool,
    up: [f64; BETS.len()],
    down: [f64; BETS.len()],
    drift: bool,
}

impl Default for EDetector {
    /// An average run length of 10,000, values from 0 to 1, upwards, a baseline of at least 300.
    fn default() -> Self {
        EDetector {
            average_run_length: 1e4,
            direction: Direction::Up,
            range: (0.0, 1.0),
            baseline: 300,
            state: State { collected: Some(Vec::new()), ..State::default() },
        }
    }
}

impl EDetector {
    /// Values from one false alarm to the next, on average at least: from 1 to 1e15.
    pub fn average_run_length(mut self, values: f64) -> Self {
        self.average_run_length = values;
        self
    }

    /// Which changes of the mean matter.
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// The range of the signal; values outside count as its ends.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = (low, high);
        self
    }

    /// Fewest values of a baseline, at least 20.
    pub fn baseline(mut self, values: usize) -> Self {
        self.baseline = values;
        self
    }

    fn unit(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn limits(&self, values: &[f64]) -> Limits {
        let sides = if self.direction == Direction::Both { 2.0 } else { 1.0 };
        let error = (1.0 - CONFIDENCE) / sides;
        let mirrored: Vec<f64> = values.iter().map(|value| 1.0 - value).collect();
        Limits { up: upper_limit(values, error), down: upper_limit(&mirrored, error) }
    }

    /// The sum over the bets, and the bet that has won most.
    fn best(wealth: &[f64; BETS.len()]) -> (f64, f64) {
        let (mut sum, mut best) = (0.0, (0.0, 0.0));
        for ((bet, share), wealth) in BETS.iter().zip(wealth) {
            sum += share * wealth;
            if share * wealth > best.0 {
                best = (share * wealth, *bet);
            }
        }
        (sum, best.1)
    }

    fn statistic(&self) -> f64 {
        let (up, down) = (Self::best(&self.state.up).0, Self::best(&self.state.down).0);
        match self.direction {
            Direction::Up => up,
            Direction::Down => down,
            Direction::Both => f64::midpoint(up, down),
        }
    }
}

/// With a probability of at least 1 − `error`, the mean behind these values from 0 to 1 is not above this.
fn upper_limit(values: &[f64], error: f64) -> f64 {
    let n = values.len();
    if values.iter().all(|&value| value == 0.0 || value == 1.0) {
        let ones = values.iter().filter(|&&value| value == 1.0).count();
        return binomial::upper(ones as u64, n as u64, 1.0 - error);
    }
    let mut spread = Spread::default();
    values.iter().for_each(|&value| spread.push(value));
    let (n, mean, deviation) = (n as f64, spread.mean.value, spread.standard_deviation());
    let hoeffding = ((2.0 / error).ln() / (2.0 * n)).sqrt();
    let logarithm = (4.0 / error).ln();
    let bernstein = deviation * (2.0 * logarithm / n).sqrt() + 7.0 * logarithm / (3.0 * (n - 1.0).max(1.0));
    (mean + hoeffding.min(bernstein)).min(1.0)
}

/// Lets every bet play on `value`, whose mean is at most `limit`.
fn play(wealth: &mut [f64; BETS.len()], value: f64, limit: f64) {
    for ((bet, _), wealth) in BETS.iter().zip(wealth) {
        *wealth = (*wealth + 1.0) * (1.0 + bet / limit * (value - limit));
    }
}

impl ChangeDetector for EDetector {
    fn name(&self) -> &str {
        "e_detector"
    }

    fn rebase(&mut self, baseline: &[f64]) -> Result<(), BoxError> {
        let (low, high) = self.range;
        let length = self.average_run_length;
        check((1.0..=1e15).contains(&length), "the average run length", length, "1 to 1e15")?;
        check(usable(low) && usable(high) && low < high, "the range", format!("{low} to {high}"), "an interval")?;
        check(self.baseline >= 20, "the baseline", self.baseline, "at least 20 values")?;
        let values: Vec<f64> = baseline.iter().filter(|value| usable(**value)).map(|&value| self.unit(value)).collect();
        self.state = State::default();
        if values.len() < self.baseline {
            self.state.collected = Some(values);
        } else {
            self.state.limits = Some(self.limits(&values));
        }
        Ok(())
    }

    fn update(&mut self, value: f64) -> Change {
        if !usable(value) {
            return Change::None;
        }
        let value = self.unit(value);
        if self.state.drift {
            self.state = State { collected: Some(Vec::new()), ..State::default() };
        }
        if let Some(mut collected) = self.state.collected.take() {
            collected.push(value);
            if collected.len() < self.baseline {
                self.state.collected = Some(collected);
            } else {
                (self.state.limits, self.state.own) = (Some(self.limits(&collected)), true);
            }
            return Change::None;
        }
        let Some(limits) = self.state.limits else { return Change::None };
        if self.direction.up() {
            play(&mut self.state.up, value, limits.up);
        }
        if self.direction.down() {
            play(&mut self.state.down, 1.0 - value, limits.down);
        }
        self.state.drift = self.statistic() >= self.average_run_length;
        if self.state.drift { Change::Drift } else { Change::None }
    }

    fn evidence(&self) -> ChangeEvidence {
        let (statistic, threshold) = (self.statistic(), self.average_run_length);
        let Some(limits) = self.state.limits else { return ChangeEvidence { statistic, threshold, effect: 0.0 } };
        let ((up, up_bet), (down, down_bet)) = (Self::best(&self.state.up), Self::best(&self.state.down));
        let effect = if up >= down { up_bet * (1.0 - limits.up) } else { down_bet * (limits.down - 1.0) };
        ChangeEvidence { statistic, threshold, effect: effect * (self.range.1 - self.range.0) }
    }

    fn blind(&self) -> Option<String> {
        let certain = |limits: Limits| {
            (!self.direction.up() || limits.up >= 1.0) && (!self.direction.down() || limits.down >= 1.0)
        };
        match (&self.state.collected, self.state.limits) {
            (Some(values), _) => {
                Some(format!("{} of the {} values of a baseline are there", values.len(), self.baseline))
            }
            (None, Some(limits)) if certain(limits) => Some("the baseline is at the end of the range already".into()),
            _ => None,
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        if state.collected.as_ref().is_some_and(|values| values.len() >= self.baseline) {
            return Err(message("the saved values are more than a baseline"));
        }
        // against another baseline of the reference, what was won is worth nothing
        if state.collected.is_some() || state.own || state.limits == self.state.limits {
            self.state = state;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
