//! Permutation tests: the sequential Monte Carlo p-value and the arrangements it draws.

use super::hypergeometric::draw;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Result of a two-sample test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compared {
    /// The test statistic.
    pub(crate) statistic: f64,
    /// Chance of a statistic at least as large if both samples come from one distribution; never NaN.
    pub(crate) p_value: f64,
    /// How large the difference is, free of the sample sizes; each test says in which unit.
    pub(crate) effect: f64,
}

/// Smallest level that permutation tests are offered at: below it they would cost too much.
pub(crate) const SMALLEST_LEVEL: f64 = 1e-4;

/// Exceedances after which drawing stops: more make p steadier and each test dearer.
const EXCEEDANCES: u32 = 10;

/// Draws per 1 / level, and the fewest: more cost a worker that meets a standing drift time at every test, and tell little more.
const DRAWS: f64 = 3.0;
const FEWEST_DRAWS: f64 = 100.0;

/// A sequential Monte Carlo p-value (Besag and Clifford 1991).
///
/// Null statistics are drawn until `EXCEEDANCES` of them reach the observed one, then p = exceedances / draws; or until
/// the budget is spent, then p = (exceedances + 1) / (budget + 1). Either way P(p ≤ α) ≤ α at every α, as long as the
/// observed statistic and the draws are exchangeable under the null and computed by the same code. A large p costs few
/// draws: without a change 10·(1 + ln(budget / 10)) on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MonteCarlo {
    budget: u32,
}

impl MonteCarlo {
    /// With a budget of three times 1 / `level`: the smallest p-value is a third of it.
    ///
    /// Below [`SMALLEST_LEVEL`] the budget does not grow any more: p never falls below [`MonteCarlo::smallest`].
    pub(crate) fn for_level(level: f64) -> Self {
        // NaN becomes the smallest level
        let level = if level >= SMALLEST_LEVEL { level.min(0.5) } else { SMALLEST_LEVEL };
        MonteCarlo { budget: (DRAWS / level).max(FEWEST_DRAWS).ceil() as u32 - 1 }
    }

    /// The smallest p-value that can come out.
    pub(crate) fn smallest(self) -> f64 {
        1.0 / (f64::from(self.budget) + 1.0)
    }

    /// The p-value of `observed` among statistics drawn under the null; a NaN on either side counts as an exceedance.
    pub(crate) fn p_value(self, observed: f64, mut null: impl FnMut() -> f64) -> f64 {
        let mut reached = 0;
        for draws in 1..=self.budget {
            let below = null() < observed;
            reached += u32::from(!below);
            if reached == EXCEEDANCES {
                return f64::from(reached) / f64::from(draws);
            }
        }
        (f64::from(reached) + 1.0) * self.smallest()
    }
}

/// Draws how the values of the second sample spread over cells, given the pooled counts of the cells: every arrangement
/// of the pooled values over the two samples is equally likely (the multivariate hypergeometric distribution).
#[derive(Clone, Debug)]
pub(crate) struct Arrangements {
    pooled: Vec<u32>,
    /// Values to draw: the size of the smaller sample.
    size: u32,
    total: u32,
    /// Whether the smaller sample is the first one, so that the draw is to be turned over.
    complement: bool,
    way: Way,
    drawn: Vec<u32>,
    random: Xoshiro256PlusPlus,
}

/// How an arrangement is drawn; all ways have the same distribution.
#[derive(Clone, Debug)]
enum Way {
    /// Cell by cell, for few cells.
    Cells,
    /// Value by value; the cell of each pooled value, and a mark per pooled value that is drawn already.
    Values { cell_of: Vec<u32>, marks: Vec<u64> },
}

/// Values that are drawn in the time of one cell.
const VALUES_PER_CELL: usize = 16;

impl Arrangements {
    /// Of `size` values for the second sample out of `pooled` counts; `None` if there are not so many values, or more
    /// than 2³² − 1.
    pub(crate) fn new(pooled: Vec<u32>, size: u64, seed: u64) -> Option<Self> {
        let total = u32::try_from(pooled.iter().map(|&count| u64::from(count)).sum::<u64>()).ok()?;
        let size = u32::try_from(size).ok().filter(|&size| size <= total)?;
        let complement = size > total - size;
        let size = size.min(total - size);
        let way = if pooled.len() * VALUES_PER_CELL < size as usize {
            Way::Cells
        } else {
            let cells = (0_u32..).zip(&pooled);
            let cell_of: Vec<u32> =
                cells.flat_map(|(cell, &count)| std::iter::repeat_n(cell, count as usize)).collect();
            let marks = vec![0; cell_of.len().div_ceil(64)];
            Way::Values { cell_of, marks }
        };
        let drawn = vec![0; pooled.len()];
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Some(Arrangements { pooled, size, total, complement, way, drawn, random })
    }

    /// The next arrangement: counts of the second sample per cell.
    pub(crate) fn draw(&mut self) -> &[u32] {
        match &mut self.way {
            Way::Cells => {
                let (mut left, mut rest) = (u64::from(self.size), u64::from(self.total));
                for (count, &pooled) in self.drawn.iter_mut().zip(&self.pooled) {
                    rest -= u64::from(pooled);
                    let here = draw(&mut self.random, u64::from(pooled), rest, left);
                    left -= here;
                    *count = here as u32;
                }
            }
            Way::Values { cell_of, marks } => {
                self.drawn.fill(0);
                marks.fill(0);
                let mut left = self.size;
                while left > 0 {
                    // at most half of the values are marked, so that less than two tries are needed on average
                    let at = self.random.random_range(0..self.total) as usize;
                    let (word, bit) = (&mut marks[at / 64], 1 << (at % 64));
                    let fresh = u32::from(*word & bit == 0);
                    *word |= bit;
                    self.drawn[cell_of[at] as usize] += fresh;
                    left -= fresh;
                }
            }
        }
        if self.complement {
            self.drawn.iter_mut().zip(&self.pooled).for_each(|(count, &pooled)| *count = pooled - *count);
        }
        &self.drawn
    }

    /// The p-value of a statistic of the second sample's counts, large where the samples differ, at `observed` counts.
    pub(crate) fn p_value(&mut self, level: f64, observed: &[u32], statistic: impl Fn(&[u32]) -> f64) -> f64 {
        MonteCarlo::for_level(level).p_value(statistic(observed), || statistic(self.draw()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
