//! Kolmogorov–Smirnov windowing.

use std::collections::VecDeque;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Change, ChangeDetector, ChangeEvidence, check, usable};
use crate::error::{BoxError, message};
use crate::stage::Snapshot;
use crate::stats::ks::{Method, p_value};
use crate::stats::sampling::keyed;

const FORMAT: u32 = 1;

/// KSWIN, Kolmogorov–Smirnov windowing (Raab, Heusinger, Schleif 2020), as River has it.
///
/// Classical: its level holds for one test, and there is one per value; it claims no false-alarm rate. The newest
/// [`recent`](Kswin::recent) values of a sliding window are compared with as many that are drawn from the rest of it,
/// by the two-sample test, at a distance D of more than 0.1. The draws are seeded, so a run can be repeated. The
/// effect is D. Memory: about 32 bytes per value of the window.
#[derive(Debug, Clone)]
pub struct Kswin {
    alpha: f64,
    window: usize,
    recent: usize,
    seed: u64,
    /// The least difference of the counts that is significant; 0 until the settings have been worked through.
    critical: usize,
    state: State,
    sorted: Vec<Entry>,
    positions: Vec<u32>,
    /// By place in the window, oldest first: 1 for a recent value, -1 for a chosen one, 0 for the others.
    sides: Vec<i8>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// Oldest first.
    values: VecDeque<f64>,
    /// Values so far, for the draws and as names of the values.
    seen: u64,
    /// Largest difference of the counts in the last test.
    difference: usize,
    drift: bool,
}

/// A value of the window and its place in the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    value: f64,
    place: u64,
}

impl Default for Kswin {
    /// α = 0.005, a window of 100, 30 recent values, seed 0.
    fn default() -> Self {
        Kswin {
            alpha: 0.005,
            window: 100,
            recent: 30,
            seed: 0,
            critical: 0,
            state: State::default(),
            sorted: Vec::new(),
            positions: Vec::new(),
            sides: Vec::new(),
        }
    }
}

impl Kswin {
    /// Level of one test: above 0, below 1.
    pub fn alpha(mut self, level: f64) -> Self {
        self.alpha = level;
        self
    }

    /// Values of the sliding window, at least twice the recent ones.
    pub fn window(mut self, values: usize) -> Self {
        self.window = values;
        self
    }

    /// Newest values that are compared, at least 2.
    pub fn recent(mut self, values: usize) -> Self {
        self.recent = values;
        self
    }

    /// Another sequence of draws.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What follows from the settings.
    fn prepare(&mut self) {
        // p falls with the difference
        let (mut below, mut critical) = (self.recent / 10, self.recent + 1);
        while below + 1 < critical {
            let middle = below.midpoint(critical);
            if self.p_value(middle) <= self.alpha { critical = middle } else { below = middle }
        }
        self.critical = critical;
        let older = self.window.saturating_sub(self.recent);
        self.positions = vec![0; older];
        self.sides = vec![1; self.window];
        self.sorted.reserve(self.window);
    }

    /// The p-value of a difference of the counts.
    fn p_value(&self, difference: usize) -> f64 {
        let n = self.recent as u64;
        p_value(n, n, difference as f64 / n as f64, Method::Auto)
    }

    /// Moves the window; is it full?
    fn push(&mut self, value: f64) -> bool {
        if self.critical == 0 {
            self.prepare();
        }
        if self.state.drift {
            self.state.values.clear();
            self.state.drift = false;
            self.sorted.clear();
        }
        let state = &mut self.state;
        let entry = Entry { value, place: state.seen };
        let to = self.sorted.partition_point(|entry| entry.value <= value);
        let leaves = (state.values.len() == self.window).then(|| state.values.pop_front()).flatten();
        match leaves {
            Some(oldest) => {
                let place = state.seen - self.window as u64;
                let equals = self.sorted.partition_point(|entry| entry.value < oldest);
                let from = self.sorted[equals..].iter().position(|entry| entry.place == place);
                replace(&mut self.sorted, equals + from.unwrap_or_default(), to, entry);
            }
            None => self.sorted.insert(to, entry),
        }
        state.values.push_back(value);
        state.seen += 1;
        state.values.len() == self.window
    }

    /// Draws from the older values (Fisher and Yates 1938, in the form of Durstenfeld 1964).
    fn draw(&mut self) {
        let older = self.positions.len();
        self.sides[..older].fill(0);
        self.positions.iter_mut().enumerate().for_each(|(at, position)| *position = at as u32);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(keyed(self.seed, &self.state.seen.to_le_bytes()));
        for drawn in 0..self.recent.min(older) {
            let other = drawn + ((u64::from(random.next_u32()) * (older - drawn) as u64) >> 32) as usize;
            self.positions.swap(drawn, other);
            self.sides[self.positions[drawn] as usize] = -1;
        }
    }

    /// Compares the recent values with the chosen ones.
    fn test(&mut self) -> Change {
        let oldest = self.state.seen - self.window as u64;
        let (mut balance, mut lowest, mut highest) = (0_isize, 0, 0);
        // Behind the last value the counts are equal.
        for (entry, next) in self.sorted.iter().zip(&self.sorted[1..]) {
            balance += isize::from(self.sides[(entry.place - oldest) as usize]);
            if next.value > entry.value {
                (lowest, highest) = (balance.min(lowest), balance.max(highest));
            }
        }
        self.state.difference = highest.max(-lowest).unsigned_abs();
        self.state.drift = self.state.difference >= self.critical;
        if self.state.drift { Change::Drift } else { Change::None }
    }

    fn sort(&mut self) {
        let first = self.state.seen - self.state.values.len() as u64;
        self.sorted.clear();
        self.sorted.extend((first..).zip(&self.state.values).map(|(place, &value)| Entry { value, place }));
        self.sorted.sort_by(|a, b| a.value.total_cmp(&b.value));
    }
}

/// Takes away what is at `from` and puts `entry` before what is at `to`: only what lies between moves.
fn replace(sorted: &mut [Entry], from: usize, to: usize, entry: Entry) {
    if from < to {
        sorted.copy_within(from + 1..to, from);
        sorted[to - 1] = entry;
    } else {
        sorted.copy_within(to..from, to + 1);
        sorted[to] = entry;
    }
}

impl ChangeDetector for Kswin {
    fn name(&self) -> &str {
        "kswin"
    }

    fn rebase(&mut self, _: &[f64]) -> Result<(), BoxError> {
        check(self.alpha > 0.0 && self.alpha < 1.0, "α", self.alpha, "above 0 and below 1")?;
        check(self.recent >= 2, "the number of recent values", self.recent, "at least 2")?;
        check(self.window / 2 >= self.recent, "the window", self.window, "at least twice the recent values")?;
        self.state = State::default();
        self.sorted.clear();
        self.prepare();
        Ok(())
    }

    fn update(&mut self, value: f64) -> Change {
        if !usable(value) || !self.push(value) {
            return Change::None;
        }
        self.draw();
        self.test()
    }

    fn evidence(&self) -> ChangeEvidence {
        let part = |difference: usize| difference as f64 / self.recent.max(1) as f64;
        let distance = part(self.state.difference);
        ChangeEvidence { statistic: distance, threshold: part(self.critical), effect: distance }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let values = state.values.len();
        if values > self.window || (values as u64) > state.seen {
            return Err(message(format!("the saved window holds {values} values, at most {} expected", self.window)));
        }
        self.state = state;
        self.sort();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
