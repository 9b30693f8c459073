//! A sliding window compared with a fixed reference, without sorting again.

use std::collections::VecDeque;
use std::hint::black_box;

/// The bucket of a missing value.
const MISSING: u32 = u32::MAX;

/// Share of the reference values beyond either end of the grid of [`KsWindow`].
const TAIL: f64 = 0.01;

/// Reference values that are looked at in one go; most steps of the grid hold fewer.
const LOOK: usize = 4;

/// Numbers of 8 bytes in a cache line.
const LINE: usize = 8;

/// Kolmogorov–Smirnov statistic of the last `capacity` values against a fixed reference.
///
/// The k distinct reference values cut the line into 2k + 1 buckets: below, on and between them.
/// A push costs one look into a grid of equal steps and a look at the few reference values of that
/// step, or a binary search if they are many; the statistic is found by one scan over the counts, when asked.
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
        distinct.extend([f64::INFINITY; LOOK]);
        Self { grid, distinct, cumulative, counts, window: VecDeque::new(), len: 0, capacity, missing: 0 }
    }

    /// Adds a value and, when full, forgets the oldest.
    pub(crate) fn push(&mut self, value: f64) {
        if self.window.len() == self.capacity
            && let Some(bucket) = self.window.pop_front()
        {
            if bucket == MISSING {
                self.missing -= 1;
            } else {
                self.counts[bucket as usize] -= 1;
            }
        }
        let bucket = self.bucket(value);
        if bucket == MISSING {
            self.missing += 1;
        } else {
            self.counts[bucket as usize] += 1;
        }
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
        values.for_each(|value| self.push(value));
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

    /// The distance D of the values present, in one pass; 0 when either side has no values.
    pub(crate) fn distance(&self) -> f64 {
        let n = self.reference_len();
        let m = self.compared() as u64;
        if n == 0 || m == 0 {
            return 0.0;
        }
        let (lead, lag) = self.extremes(n, m);
        lead.max(-lag) as f64 / (n as f64 * m as f64)
    }

    /// The window leads most at the end of a gap, the reference most on one of its values; a pass for the two
    /// extremes alone is faster than one that keeps its place.
    fn extremes(&self, n: u64, m: u64) -> (i64, i64) {
        self.leads(n, m).fold((0, 0), |(lead, lag), (gap, on)| (gap.max(lead), on.min(lag)))
    }

    /// n·m·(window share − reference share) just below and on each distinct reference value.
    fn leads(&self, n: u64, m: u64) -> impl Iterator<Item = (i64, i64)> {
        let (n, m) = (n as i64, m as i64);
        let (pairs, _) = self.counts.as_chunks::<2>();
        let mut window = 0;
        pairs.iter().zip(&self.cumulative).scan(0, move |reference, (&[gap, on], &up_to)| {
            window += i64::from(gap) * n;
            let below = window - *reference;
            window += i64::from(on) * n;
            *reference = i64::from(up_to) * m;
            Some((below, window - *reference))
        })
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
        (self.len, self.missing) = (0, 0);
    }
}

/// Equal steps over the bulk of the reference, so that most values are found without a long search.
///
/// The step of a value rises with the value, whatever the rounding: so a value lies above all
/// distinct values of lower steps and below all of higher ones, and the place found is exact.
#[derive(Clone, Debug)]
struct Grid {
    low: f64,
    /// Steps per unit.
    scale: f64,
    last: usize,
    /// Distinct values below each step, and after the last one all of them.
    starts: Vec<u32>,
}

impl Grid {
    /// As many steps as there are distinct values; only the first is used where these have no spread.
    fn new(sorted: &[f64], distinct: &[f64]) -> Self {
        let tail = (sorted.len() as f64 * TAIL) as usize;
        let ends = sorted.get(tail).zip(sorted.get(sorted.len().saturating_sub(tail + 1)));
        let (low, high) = ends.map_or((0.0, 0.0), |(&low, &high)| (low, high));
        let scale = distinct.len() as f64 / (high - low);
        let scale = if scale.is_finite() { scale } else { 0.0 };
        let last = distinct.len().saturating_sub(1);
        let mut grid = Grid { low, scale, last, starts: Vec::with_capacity(last + 2) };
        for (at, &value) in (0_u32..).zip(distinct) {
            let step = grid.step(value);
            grid.starts.resize(grid.starts.len().max(step + 1), at);
        }
        grid.starts.resize(last + 2, distinct.len() as u32);
        grid
    }

    fn step(&self, value: f64) -> usize {
        // the cast saturates: values beyond the ends belong to the outermost steps
        (((value - self.low) * self.scale) as usize).min(self.last)
    }

    /// Where among the distinct values those of the step of `value` are.
    fn near(&self, value: f64) -> std::ops::Range<usize> {
        let step = self.step(value);
        self.starts[step] as usize..self.starts[step + 1] as usize
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::ks::statistic;
    use proptest::prelude::*;

    fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut kept: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        kept.sort_unstable_by(f64::total_cmp);
        kept
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => (-8..8_i32).prop_map(|v| f64::from(v) / 2.0),
            3 => -5.0..5.0_f64,
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]),
        ]
    }

    #[test]
    fn the_grid_finds_what_a_search_over_all_values_finds() {
        let tailed: Vec<f64> = (0..2_000).map(|i| (f64::from(i * 7919 % 2_000) / 250.0).exp2().exp2()).collect();
        let even: Vec<f64> = (0..500).map(|i| f64::from(i % 300) * 0.1 - 7.0).collect();
        let wild = vec![-f64::MAX, -1.0, 0.0, f64::MIN_POSITIVE, 1.0, f64::MAX];
        let close = vec![5e-324, 1e-323, 1.5e-323, -0.0, 0.0];
        for reference in [tailed, even, wild, close, vec![3.0], vec![]] {
            let window = KsWindow::new(&reference, 10);
            let near = reference.iter().flat_map(|v| [v.next_down(), *v, v.next_up()]);
            for value in near.chain([-f64::MAX, f64::MAX, 0.0, -0.0, 2.5]).filter(|v| v.is_finite()) {
                let below = window.distinct.iter().filter(|&&v| v < value).count();
                let on = usize::from(window.distinct[below] == value);
                assert_eq!(window.bucket(value) as usize, 2 * below + on, "{value} among {}", reference.len());
            }
        }
    }

    #[test]
    fn ties_are_those_of_both_samples() {
        let mut window = KsWindow::new(&[1.0, 1.0, 2.0, 4.0], 10);
        window.extend([0.5, 1.0, 3.0, 3.5, 4.0, 9.0, f64::NAN].into_iter());
        // 0.5 | 1 | 2 | 3, 3.5 | 4 | 9
        assert_eq!(window.ties(), [1, 3, 1, 1, 1, 2, 1]);
        assert_eq!(window.middle_share(), 0.5);
        assert_eq!(KsWindow::new(&[], 3).ties(), [0; 0]);
    }

    proptest! {
        #[test]
        fn equals_the_statistic_of_sorted_copies(
            reference in prop::collection::vec(value(), 0..60),
            stream in prop::collection::vec(value(), 0..80),
            capacity in 1..30_usize,
        ) {
            let mut window = KsWindow::new(&reference, capacity);
            let (x, mut last) = (sorted(reference.iter().copied()), Vec::new());
            for (i, &v) in stream.iter().enumerate() {
                window.push(v);
                last = stream[(i + 1).saturating_sub(capacity)..=i].to_vec();
                let y = sorted(last.iter().copied());
                prop_assert_eq!(window.distance().to_bits(), statistic(&x, &y).d.to_bits());
                prop_assert_eq!(window.compared(), y.len());
                prop_assert_eq!(window.missing(), last.len() - y.len());
            }
            let mut restored = KsWindow::new(&reference, capacity);
            restored.replace(&last);
            prop_assert_eq!(restored.counts, window.counts.clone());
            window.clear();
            prop_assert!(window.is_empty() && window.missing() == 0);
            prop_assert_eq!(window.distance(), 0.0);
        }
    }
}
