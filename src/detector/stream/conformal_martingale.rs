//! A conformal test martingale over the ranks of the values.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::{Change, ChangeDetector, ChangeEvidence, Direction, check, usable};
use crate::error::{BoxError, message};
use crate::stage::Snapshot;
use crate::stats::sampling::keyed;

mod ranks;

use ranks::Ranks;

const FORMAT: u32 = 1;

/// What is bet on: the values have moved by so many standard deviations, or spread by this factor, on the scale of
/// normal scores.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bet {
    Shift(f64),
    Spread(f64),
}

/// The bets, and their shares of the false alarms: in one direction, and in both.
///
/// One direction is for errors, where each value says little and a slow rise matters; both directions are for numbers.
const BETS: [(Bet, f64, f64); 9] = [
    (Bet::Shift(0.25), 0.8, 0.15),
    (Bet::Shift(0.7), 0.2, 0.0),
    (Bet::Shift(1.0), 0.0, 0.31),
    (Bet::Shift(-0.25), 0.8, 0.15),
    (Bet::Shift(-0.7), 0.2, 0.0),
    (Bet::Shift(-1.0), 0.0, 0.31),
    (Bet::Spread(1.5), 0.0, 0.03),
    (Bet::Spread(2.5), 0.0, 0.03),
    (Bet::Spread(0.6), 0.0, 0.02),
];

/// Cells of the p-values, in each of which a bet pays the same.
const CELLS: usize = 512;

/// What each bet has paid up to the start of a cell: its distribution function of the p-value.
static PAID: LazyLock<Vec<[f64; BETS.len()]>> = LazyLock::new(|| {
    let normal = Normal::standard();
    let paid = |cell: usize| {
        let p = cell as f64 / CELLS as f64;
        BETS.map(|(bet, ..)| match bet {
            _ if cell == 0 => 0.0,
            _ if cell == CELLS => 1.0,
            Bet::Shift(shift) => normal.cdf(normal.inverse_cdf(p) - shift),
            Bet::Spread(factor) => normal.cdf(normal.inverse_cdf(p) / factor),
        })
    };
    (0..=CELLS).map(paid).collect()
});

/// A conformal test martingale (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman 2021) over the ranks of the
/// values, in the Shiryaev–Roberts form (Shin, Ramdas, Rinaldo 2022).
///
/// Each value is ranked among the baseline and everything before it. As long as all are exchangeable, the rank is
/// uniform and independent of the earlier ones, whatever the distribution; a bet against that is a density of the
/// rank, and M ← (M + 1) · density. The bets are the densities of the rank after a shift of normal scores (by 0.25 and
/// 1 standard deviations; in one direction 0.25 and 0.7) or a change of their spread (by the factors 1.5, 2.5, 0.6),
/// averaged with fixed shares. Any signal will do: errors (0 or 1), a confidence, a score, a column. A value that ties
/// with others, or whose rank is known only roughly, gets the average density over its possible ranks, so nothing is
/// random.
///
/// **Guarantee**: if baseline and stream are independent draws of one distribution, whichever it is, the average run length
/// to a false alarm is at least the stated one: for every size of the baseline, averaged over baselines; so n values alarm
/// with a probability of at most n / length. With ties, where densities are averaged, that is shown by simulation. It does
/// not hold for dependent values (sessions, seasons).
///
/// **Limits**: the stream is part of what a value is ranked among, so that the guarantee is exact; a change that comes
/// when little has been seen, or that creeps, blurs itself and is found later. The effect is the shift of the most
/// successful bet in standard deviations of normal scores, 0 if that bets on the spread.
///
/// **Baseline**: the reference's values; with fewer than [`baseline`](ConformalMartingale::baseline) of them, and after
/// an alarm, the first ones of the stream complete it, and the detector is blind until then. **Memory**: up to 1,000
/// values of the baseline and 2,001 counts, 40 KB.
#[derive(Debug, Clone)]
pub struct ConformalMartingale {
    average_run_length: f64,
    direction: Direction,
    baseline: usize,
    shares: [f64; BETS.len()],
    ranks: Option<Ranks>,
    /// Digest of the reference's baseline; `None` if there is no such baseline.
    digest: Option<u64>,
    state: State,
}

/// What the stream left.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    /// Values that will be the baseline; `None` when there is one.
    collected: Option<Vec<f64>>,
    wealth: [f64; BETS.len()],
    drift: bool,
}

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
struct Saved {
    collected: Option<Vec<f64>>,
    /// The baseline, if it is not the reference's.
    points: Option<Vec<f64>>,
    digest: Option<u64>,
    counts: Vec<u64>,
    wealth: [f64; BETS.len()],
    drift: bool,
}

impl Default for ConformalMartingale {
    /// An average run length of 10,000, both directions and the spread, a baseline of at least 300.
    fn default() -> Self {
        ConformalMartingale {
            average_run_length: 1e4,
            direction: Direction::Both,
            baseline: 300,
            shares: shares(Direction::Both),
            ranks: None,
            digest: None,
            state: State { collected: Some(Vec::new()), ..State::default() },
        }
    }
}

/// The share of each bet.
fn shares(direction: Direction) -> [f64; BETS.len()] {
    BETS.map(|(bet, one, both)| match (bet, direction) {
        (_, Direction::Both) => both,
        (Bet::Shift(shift), Direction::Up) if shift > 0.0 => one,
        (Bet::Shift(shift), Direction::Down) if shift < 0.0 => one,
        _ => 0.0,
    })
}

/// The average density of each bet between two p-values.
fn densities(from: f64, to: f64) -> [f64; BETS.len()] {
    let scale = CELLS as f64;
    let (from, to) = (from * scale, to * scale);
    let (first, last) = ((from as usize).min(CELLS - 1), (to as usize).min(CELLS - 1));
    let slope = |cell: usize, bet: usize| PAID[cell + 1][bet] - PAID[cell][bet];
    std::array::from_fn(|bet| {
        if first == last {
            return scale * slope(first, bet);
        }
        let start = PAID[first][bet] + (from - first as f64) * slope(first, bet);
        let end = PAID[last][bet] + (to - last as f64) * slope(last, bet);
        scale * (end - start) / (to - from)
    })
}

impl ConformalMartingale {
    /// Values from one false alarm to the next, on average at least: from 1 to 1e15.
    pub fn average_run_length(mut self, values: f64) -> Self {
        self.average_run_length = values;
        self
    }

    /// Which changes matter: with `Up` or `Down`, only shifts to that side.
    pub fn direction(mut self, direction: Direction) -> Self {
        (self.direction, self.shares) = (direction, shares(direction));
        self
    }

    /// Fewest values of a baseline, at least 20.
    pub fn baseline(mut self, values: usize) -> Self {
        self.baseline = values;
        self
    }

    fn statistic(&self) -> f64 {
        self.shares.iter().zip(&self.state.wealth).map(|(share, wealth)| share * wealth).sum()
    }
}

impl ChangeDetector for ConformalMartingale {
    fn name(&self) -> &str {
        "conformal_martingale"
    }

    fn rebase(&mut self, baseline: &[f64]) -> Result<(), BoxError> {
        let length = self.average_run_length;
        check((1.0..=1e15).contains(&length), "the average run length", length, "1 to 1e15")?;
        check(self.baseline >= 20, "the baseline", self.baseline, "at least 20 values")?;
        let values: Vec<f64> = baseline.iter().copied().filter(|&value| usable(value)).collect();
        self.state = State::default();
        if values.len() < self.baseline {
            (self.ranks, self.digest, self.state.collected) = (None, None, Some(values));
        } else {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (self.ranks, self.digest) = (Some(Ranks::new(&values)), Some(keyed(0, &bytes)));
        }
        Ok(())
    }

    fn update(&mut self, value: f64) -> Change {
        if !usable(value) {
            return Change::None;
        }
        if self.state.drift {
            (self.ranks, self.digest) = (None, None);
            self.state = State { collected: Some(Vec::new()), ..State::default() };
        }
        if let Some(mut collected) = self.state.collected.take() {
            collected.push(value);
            if collected.len() < self.baseline {
                self.state.collected = Some(collected);
            } else {
                self.ranks = Some(Ranks::new(&collected));
            }
            return Change::None;
        }
        let Some(ranks) = &mut self.ranks else { return Change::None };
        let (from, to) = ranks.rank(value);
        let paid = densities(from, to);
        // bets on the other direction are not made: their wealth would grow without an alarm that ends it
        for ((wealth, paid), _) in
            self.state.wealth.iter_mut().zip(paid).zip(&self.shares).filter(|(_, share)| **share > 0.0)
        {
            *wealth = ((*wealth + 1.0) * paid).min(f64::MAX);
        }
        self.state.drift = self.statistic() >= self.average_run_length;
        if self.state.drift { Change::Drift } else { Change::None }
    }

    fn evidence(&self) -> ChangeEvidence {
        let won = self.shares.iter().zip(&self.state.wealth).map(|(share, wealth)| share * wealth);
        let best = BETS.iter().zip(won).max_by(|a, b| a.1.total_cmp(&b.1));
        let effect = match best {
            Some(((Bet::Shift(shift), ..), won)) if won > 0.0 => *shift,
            _ => 0.0,
        };
        ChangeEvidence { statistic: self.statistic(), threshold: self.average_run_length, effect }
    }

    fn blind(&self) -> Option<String> {
        let collected = self.state.collected.as_ref()?.len();
        Some(format!("{collected} of the {} values of a baseline are there", self.baseline))
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let State { collected, wealth, drift } = self.state.clone();
        let own = self.ranks.as_ref().filter(|_| self.digest.is_none());
        let points = own.map(|ranks| ranks.points().to_vec());
        let counts = self.ranks.as_ref().map(|ranks| ranks.counts().to_vec()).unwrap_or_default();
        Snapshot::save(FORMAT, &Saved { collected, points, digest: self.digest, counts, wealth, drift })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let Saved { collected, points, digest, counts, wealth, drift } = snapshot.load(FORMAT)?;
        let broken = || message("the saved ranks contradict themselves");
        if collected.as_ref().is_some_and(|values| values.len() >= self.baseline) {
            return Err(message("the saved values are more than a baseline"));
        }
        if collected.is_some() {
            (self.ranks, self.digest) = (None, None);
        } else if let Some(points) = points {
            (self.ranks, self.digest) = (Some(Ranks::restore(points, &counts).ok_or_else(broken)?), None);
        } else if digest.is_none() || digest != self.digest {
            // the reference has another baseline by now: ranks among the old one are worth nothing
            return Ok(());
        } else if let Some(ranks) = &self.ranks {
            self.ranks = Some(Ranks::restore(ranks.points().to_vec(), &counts).ok_or_else(broken)?);
        }
        self.state = State { collected, wealth, drift };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
