//! A sliding window compared with a fixed reference, without sorting again.

mod grid;
mod leads;

use std::collections::VecDeque;
use std::hint::black_box;

use grid::Grid;
use leads::{Leads, Stretch};

/// The bucket of a missing value.
const MISSING: u32 = u32::MAX;

/// Reference values that are looked at in one go; most steps of the grid hold fewer.
const LOOK: usize = 4;

/// Numbers of 8 bytes in a cache line.
const LINE: usize = 8;

/// A change of one value costs less than a pass over so many distinct reference values.
const CHANGE: usize = 128;

/// Kolmogorov–Smirnov statistic of the last `capacity` values against a fixed reference.
///
/// The k distinct reference values cut the line into 2k + 1 buckets: below, on and between them.
/// A push costs one look into a grid of equal steps and a look at the few reference values of that
/// step, or a binary search if they are many; the statistic is found by one scan over the counts, when asked. While
/// [`KsWindow::extend`] brings few values at a time, it is kept up to date instead, for 3 to 6 bytes more per reference value.
/// Not finite values are missing: they fill the window but are not compared.
#[derive(Clone, Debug)]
pub(crate) struct KsWindow {
    /// The distinct reference values, and [`LOOK`] infinities.
    distinct: Vec<f64>,
    grid: Grid,
    /// Reference values up to and including each distinct one.
    cumulative: Vec<u32>,
    /// Window values per bucket: 2i is the gap below distinct value i, 2i + 1 that value itself.
    counts: Vec<u32>,
    /// Kept while few values come at a time.
    leads: Leads,
    /// Buckets of the values in arrival order; empty after [`KsWindow::replace`].
    window: VecDeque<u32>,
    /// Values in the window, missing ones included.
    len: usize,
    capacity: usize,
    missing: usize,
}

impl KsWindow {
    /// An empty window of at most `capacity` values (at least 1) against `reference`, in any order;
    /// its not finite values are left out.
    pub(crate) fn new(reference: &[f64], capacity: usize) -> Self {
        let mut sorted: Vec<f64> = reference.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let mut distinct: Vec<f64> = Vec::new();
        let mut cumulative: Vec<u32> = Vec::new();
        for (seen, &value) in (1_u32..).zip(&sorted) {
            match (distinct.last(), cumulative.last_mut()) {
                (Some(&last), Some(count)) if last == value => *count = seen,
                _ => {
                    distinct.push(value);
                    cumulative.push(seen);
                }
            }
        }
        let counts = vec![0; 2 * distinct.len() + 1];
        let capacity = capacity.max(1);
        let grid = Grid::new(&sorted, &distinct);
        distinct.reserve_exact(LOOK); // not twice the memory for a few more
        distinct.extend([f64::INFINITY; LOOK]);
        let (leads, window) = (Leads::default(), VecDeque::new());
        Self { grid, distinct, cumulative, counts, leads, window, len: 0, capacity, missing: 0 }
    }

    /// Adds a value and, when full, forgets the oldest.
    pub(crate) fn push(&mut self, value: f64) {
        let full = self.window.len() == self.capacity;
        let oldest = if full { self.window.pop_front() } else { None };
        match oldest {
            Some(MISSING) => self.missing -= 1,
            Some(bucket) => self.counts[bucket as usize] -= 1,
            None => {}
        }
        let bucket = self.bucket(value);
        if bucket == MISSING {
            self.missing += 1;
        } else {
            self.counts[bucket as usize] += 1;
        }
        self.leads.change(&self.counts, &self.cumulative, [oldest.unwrap_or(MISSING), bucket]);
        self.window.push_back(bucket);
        self.len = self.window.len();
    }

    /// Forgets the window and counts `values` instead, without their order: nothing can be added before the next
    /// [`KsWindow::clear`]. That is faster than [`KsWindow::extend`].
    pub(crate) fn replace(&mut self, values: &[f64]) {
        self.clear();
        self.read_tables(values.len());
        for &value in values {
            let bucket = self.bucket(value);
            if bucket == MISSING {
                self.missing += 1;
            } else {
                self.counts[bucket as usize] += 1;
            }
        }
        self.len = values.len();
    }

    /// Adds many values.
    pub(crate) fn extend(&mut self, values: impl ExactSizeIterator<Item = f64>) {
        self.read_tables(values.len());
        let few = CHANGE * values.len() <= self.cumulative.len();
        if !few {
            self.leads.stop();
        }
        values.for_each(|value| self.push(value));
        if few {
            self.leads.keep(&self.counts, &self.cumulative, self.compared() as u64);
        }
    }

    /// Before `values` look-ups, which go all over the tables that other columns have driven out of the cache: reading the
    /// tables in order first is faster than waiting for each place.
    fn read_tables(&self, values: usize) {
        if values >= self.distinct.len() / LINE {
            let lines = self.distinct.iter().step_by(LINE).map(|v| v.to_bits());
            let steps = self.grid.starts.iter().step_by(2 * LINE).map(|&start| u64::from(start));
            black_box(lines.chain(steps).fold(0, |all, one| all ^ one));
        }
    }

    fn bucket(&self, value: f64) -> u32 {
        if !value.is_finite() {
            return MISSING;
        }
        let near = self.grid.near(value);
        // without a branch, as nothing could guess it: values of the next steps are not below this one
        let first = &self.distinct[near.start..near.start + LOOK];
        let mut below: usize = first.iter().map(|&v| usize::from(v < value)).sum();
        if below == LOOK {
            below = self.distinct[near.clone()].partition_point(|&v| v < value);
        }
        below += near.start;
        let on = self.distinct[below] == value;
        (2 * below + usize::from(on)) as u32
    }

    /// The distance D of the values present, in one pass unless it is kept; 0 when either side has no values.
    pub(crate) fn distance(&self) -> f64 {
        let n = self.reference_len();
        let m = self.compared() as u64;
        if n == 0 || m == 0 {
            return 0.0;
        }
        let (pairs, _) = self.counts.as_chunks::<2>();
        let whole = self.leads.whole(m).unwrap_or_else(|| Stretch::count(pairs, &self.cumulative, 0, n, m));
        whole.lead.max(-whole.lag) as f64 / (n as f64 * m as f64)
    }

    /// How often each distinct value occurs in reference and window together, in the order of the values; window values between
    /// two neighbours of the reference count as distinct.
    pub(crate) fn ties(&self) -> Vec<u32> {
        let (pairs, above) = self.counts.as_chunks::<2>();
        let mut below = 0;
        let mut ties = Vec::with_capacity(self.cumulative.len() + self.compared());
        for (&[gap, on], &up_to) in pairs.iter().zip(&self.cumulative) {
            ties.extend(std::iter::repeat_n(1, gap as usize));
            ties.push(up_to - below + on);
            below = up_to;
        }
        ties.extend(std::iter::repeat_n(1, above.first().map_or(0, |&gap| gap as usize)));
        ties
    }

    /// The share of all values, of the reference and the window, up to one of the distinct reference values: the one nearest
    /// to one half; 0 when both sides are empty.
    pub(crate) fn middle_share(&self) -> f64 {
        let all = self.reference_len() as f64 + self.compared() as f64;
        let (pairs, _) = self.counts.as_chunks::<2>();
        let mut window = 0;
        let shares = pairs.iter().zip(&self.cumulative).map(|(&[gap, on], &up_to)| {
            window += gap + on;
            (f64::from(up_to) + f64::from(window)) / all
        });
        shares.fold(0.0, |best, share| if (share - 0.5).abs() < (best - 0.5_f64).abs() { share } else { best })
    }

    /// Finite values of the reference.
    pub(crate) fn reference_len(&self) -> u64 {
        self.cumulative.last().copied().map_or(0, u64::from)
    }

    #[cfg(test)]
    /// Whether the window holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Not finite values in the window.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Values in the window that are compared: the m of the p-value.
    pub(crate) fn compared(&self) -> usize {
        self.len - self.missing
    }

    /// Most values in the window.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the window, keeps the reference.
    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.counts.fill(0);
        self.leads.stop();
        (self.len, self.missing) = (0, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
