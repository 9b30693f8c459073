//! Adaptive windowing.

use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, check, usable};
use crate::error::{BoxError, message};
use crate::stage::Snapshot;

const FORMAT: u32 = 1;

/// ADWIN, adaptive windowing (Bifet and Gavaldà 2007), as River has it.
///
/// Classical: δ bounds the chance of a wrong cut at one place, not that of a stream, and the bound is an approximation; it claims no
/// false-alarm rate. The window is kept as buckets of 1, 2, 4, … values; every [`clock`](Adwin::clock) values each border
/// between two buckets, the last one included, is tried as a cut. The effect is the difference of the means on both sides
/// of the cut, newer less older. Memory: at most `max_buckets` + 1 buckets (16 bytes each) per doubling of the window.
#[derive(Debug, Clone)]
pub struct Adwin {
    delta: f64,
    clock: u64,
    max_buckets: usize,
    min_window: u64,
    grace_period: u64,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Row r holds buckets of 2^r values, oldest first.
    rows: Vec<Vec<Bucket>>,
    width: u64,
    total: f64,
    /// Sum of squared deviations from the mean.
    squares: f64,
    drift: bool,
    /// Difference of the means at the last cut, and what it was compared with.
    cut: (f64, f64),
}

/// Sum of the values and of their squared deviations from the bucket's mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Bucket {
    total: f64,
    squares: f64,
}

/// Values on one side of a cut.
#[derive(Clone, Copy)]
struct Side {
    n: f64,
    total: f64,
}

impl Default for Adwin {
    /// δ = 0.002, every 32 values, 5 buckets of a size, sides of at least 5, a window of more than 10.
    fn default() -> Self {
        Adwin { delta: 0.002, clock: 32, max_buckets: 5, min_window: 5, grace_period: 10, state: State::default() }
    }
}

impl Adwin {
    /// Chance of a wrong cut at one place: above 0, below 1.
    pub fn delta(mut self, chance: f64) -> Self {
        self.delta = chance;
        self
    }

    /// Values between two looks, at least 1.
    pub fn clock(mut self, values: u64) -> Self {
        self.clock = values;
        self
    }

    /// Buckets of one size, at least 2.
    pub fn max_buckets(mut self, buckets: usize) -> Self {
        self.max_buckets = buckets;
        self
    }

    /// Fewest values on each side of a cut, at least 1.
    pub fn min_window(mut self, values: u64) -> Self {
        self.min_window = values;
        self
    }

    /// No look at windows up to this.
    pub fn grace_period(mut self, values: u64) -> Self {
        self.grace_period = values;
        self
    }

    /// Values in the window.
    pub fn width(&self) -> u64 {
        self.state.width
    }

    /// Mean of the window; 0 when it is empty.
    pub fn mean(&self) -> f64 {
        if self.state.width == 0 { 0.0 } else { self.state.total / self.state.width as f64 }
    }

    #[cfg(test)]
    pub(super) fn sum_of_squares(&self) -> f64 {
        self.state.squares
    }

    fn insert(&mut self, value: f64) {
        let state = &mut self.state;
        if state.width > 0 {
            let n = state.width as f64;
            let difference = value - state.total / n;
            state.squares += n * difference * difference / (n + 1.0);
        }
        state.width += 1;
        state.total += value;
        let mut carry = Some(Bucket { total: value, squares: 0.0 });
        let mut size = 1.0;
        for row in &mut state.rows {
            let Some(bucket) = carry.take() else { return };
            row.push(bucket);
            if row.len() > self.max_buckets {
                let (first, second) = (row[0], row[1]);
                row.copy_within(2.., 0);
                row.truncate(row.len() - 2);
                carry = Some(first.join(second, size));
            }
            size *= 2.0;
        }
        if let Some(bucket) = carry {
            let mut row = Vec::with_capacity(self.max_buckets + 1);
            row.push(bucket);
            state.rows.push(row);
        }
    }

    /// The first cut, from the oldest on, whose sides differ: the difference, and its limit.
    fn find_cut(&self) -> Option<(f64, f64)> {
        let State { rows, width, total, squares, .. } = &self.state;
        let all = *width as f64;
        let delta = (2.0 * all.ln() / self.delta).ln();
        let spread = 2.0 * (squares / all) * delta;
        let least = self.min_window as f64;
        let (mut old, mut new) = (Side { n: 0.0, total: 0.0 }, Side { n: all, total: *total });
        for (row, buckets) in rows.iter().enumerate().rev() {
            let size = (1_u64 << row) as f64;
            for bucket in buckets {
                old = Side { n: old.n + size, total: old.total + bucket.total };
                new = Side { n: new.n - size, total: new.total - bucket.total };
                if new.n < least {
                    return None;
                }
                if old.n < least {
                    continue;
                }
                let difference = new.total / new.n - old.total / old.n;
                let m = 1.0 / (old.n - least + 1.0) + 1.0 / (new.n - least + 1.0);
                let limit = (m * spread).sqrt() + 2.0 / 3.0 * delta * m;
                if difference.abs() > limit {
                    return Some((difference, limit));
                }
            }
        }
        None
    }
}

impl Bucket {
    /// This and the next bucket, each of `size` values.
    fn join(self, next: Bucket, size: f64) -> Bucket {
        let difference = (self.total - next.total) / size;
        let squares = self.squares + next.squares + size * difference * difference / 2.0;
        Bucket { total: self.total + next.total, squares }
    }
}

impl ChangeDetector for Adwin {
    fn name(&self) -> &str {
        "adwin"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        check(self.delta > 0.0 && self.delta < 1.0, "δ", self.delta, "above 0 and below 1")?;
        check(self.clock >= 1, "the clock", self.clock, "at least 1 value")?;
        check(self.max_buckets >= 2, "the number of buckets of a size", self.max_buckets, "at least 2")?;
        check(self.min_window >= 1, "the least window", self.min_window, "at least 1 value")?;
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
        self.insert(value);
        if self.state.width % self.clock != 0 || self.state.width <= self.grace_period {
            return Change::None;
        }
        let Some(cut) = self.find_cut() else { return Change::None };
        self.state.cut = cut;
        self.state.drift = true;
        Change::Drift
    }

    fn evidence(&self) -> ChangeEvidence {
        let (difference, limit) = self.state.cut;
        ChangeEvidence { statistic: difference.abs(), threshold: limit, effect: difference }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let sound = state.rows.len() < 56 && state.rows.iter().all(|row| row.len() <= self.max_buckets);
        let values = || state.rows.iter().rev().fold(0, |values, row| 2 * values + row.len() as u64);
        if !sound || values() != state.width {
            return Err(message("the saved buckets do not make up the saved window"));
        }
        self.state = state;
        Ok(())
    }
}
