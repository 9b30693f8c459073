//! Where in a sorted reference a value belongs.

/// Share of the reference values beyond either end of the grid.
const TAIL: f64 = 0.01;

/// Equal steps over the bulk of the reference, so that most values are found without a long search.
///
/// The step of a value rises with the value, whatever the rounding: so a value lies above all
/// distinct values of lower steps and below all of higher ones, and the place found is exact.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    low: f64,
    /// Steps per unit.
    scale: f64,
    last: usize,
    /// Distinct values below each step, and after the last one all of them.
    pub(super) starts: Vec<u32>,
}

impl Grid {
    /// As many steps as there are distinct values; only the first is used where these have no spread.
    pub(super) fn new(sorted: &[f64], distinct: &[f64]) -> Self {
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
    pub(super) fn near(&self, value: f64) -> std::ops::Range<usize> {
        let step = self.step(value);
        self.starts[step] as usize..self.starts[step + 1] as usize
    }
}
