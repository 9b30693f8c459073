//! Distance to the k-th nearest row of a sample (Ramaswamy, Rastogi and Shim 2000).

use super::scale::Scale;

/// Rows of a panel.
const PANEL: usize = 16;

/// Largest standardised value, so that its square is a number in single precision too.
const FAR: f64 = 1e15;

/// Columns between two looks at whether a panel can still hold a neighbour.
const BLOCK: usize = 8;

/// The standardised rows of a sample, arranged so that the nearest ones to a row are found fast and exactly.
///
/// Columns are scaled to mean 0 and standard deviation 1; those that do not vary are blind. A cell that the
/// sample lacks counts as the column's mean. A cell that the scored row lacks is left out, and the squared
/// distance scaled up to all columns (Dixon 1979). A row without any cell has no distance.
///
/// Rows are split by the median of their widest column, again and again, into panels of 16, kept column by column with the
/// box that bounds each. A panel whose box is not nearer than the k-th best so far is skipped, and left
/// in the middle when all of its rows are further away already: what remains is arithmetic over 16 lanes, in single precision.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    scale: Scale,
    k: usize,
    rows: usize,
    /// Panel p, column j: `panels[p * d + j]`; the last one is filled up with infinities.
    panels: Vec<[f32; PANEL]>,
    /// Lower ends of the boxes of 16 panels, column by column.
    low: Vec<[f32; PANEL]>,
    /// Their upper ends.
    high: Vec<[f32; PANEL]>,
}

impl Neighbours {
    /// Of a sample of `rows` with `columns` cells each. With fewer than `k` rows the furthest counts.
    pub(crate) fn new(rows: &[&[f64]], columns: usize, k: usize) -> Self {
        let scale = Scale::new(rows, columns);
        let d = scale.kept().len();
        let mut cells = Vec::with_capacity(rows.len() * d);
        rows.iter().for_each(|row| scale.standardise(|column| row.get(column).copied(), &mut cells));
        let cells: Vec<f32> =
            cells.into_iter().map(|x| if x.is_nan() { 0.0 } else { x.clamp(-FAR, FAR) as f32 }).collect();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        arrange(&cells, d, &mut order);
        let panels =
            order.chunks(PANEL).flat_map(|rows| (0..d).map(|j| lanes(rows, f32::INFINITY, |&row| cells[row * d + j])));
        let mut panels: Vec<_> = panels.collect();
        panels.shrink_to_fit();
        let bounds = |end: fn(f32, f32) -> f32| -> Vec<[f32; PANEL]> {
            let boxes: Vec<f32> = order
                .chunks(PANEL)
                .flat_map(|rows| (0..d).map(|j| rows.iter().map(|&row| cells[row * d + j]).fold(f32::NAN, end)))
                .collect();
            let panels: Vec<usize> = (0..order.len().div_ceil(PANEL)).collect();
            let group = |panels: &[usize]| -> Vec<_> {
                (0..d).map(|j| lanes(panels, f32::INFINITY, |&panel| boxes[panel * d + j])).collect()
            };
            panels.chunks(PANEL).flat_map(group).collect()
        };
        let (low, high) = (bounds(f32::min), bounds(f32::max));
        Neighbours { scale, k: k.clamp(1, rows.len().max(1)), rows: rows.len(), panels, low, high }
    }

    /// Columns left out, ascending.
    pub(crate) fn blind(&self) -> &[usize] {
        self.scale.blind()
    }

    /// Number of columns that count.
    pub(crate) fn dimension(&self) -> usize {
        self.scale.kept().len()
    }

    /// Distance of `row` to its k-th nearest row of the sample; NaN if no cell that counts is there.
    /// Allocates only while `scratch` grows.
    pub(crate) fn distance(&self, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
        let d = self.dimension();
        scratch.clear();
        self.scale.standardise(|column| row.get(column).copied(), scratch);
        let present = scratch.iter().filter(|x| !x.is_nan()).count();
        if present == 0 {
            return f64::NAN;
        }
        let panels = self.rows.div_ceil(PANEL);
        let padded = panels.next_multiple_of(PANEL);
        scratch.resize(d + padded, 0.0);
        scratch.resize(d + padded + self.k, f64::INFINITY);
        let (values, rest) = scratch.split_at_mut(d);
        let (bounds, best) = rest.split_at_mut(padded);
        values.iter_mut().for_each(|x| *x = x.clamp(-FAR, FAR));
        self.bound(values, bounds);
        let nearest = (0..panels).min_by(|&a, &b| bounds[a].total_cmp(&bounds[b])).unwrap_or(0);
        self.visit(nearest, values, best);
        for panel in (0..panels).filter(|&panel| panel != nearest) {
            if bounds[panel] < best[self.k - 1] {
                self.visit(panel, values, best);
            }
        }
        (best[self.k - 1] * (d as f64 / present as f64)).sqrt()
    }

    /// Squared distance of a row to each panel's box.
    fn bound(&self, values: &[f64], bounds: &mut [f64]) {
        let d = values.len();
        let boxes = self.low.chunks_exact(d).zip(self.high.chunks_exact(d));
        for ((low, high), out) in boxes.zip(bounds.chunks_exact_mut(PANEL)) {
            let mut sums = [0.0_f32; PANEL];
            for ((low, high), &x) in low.iter().zip(high).zip(values) {
                if x.is_nan() {
                    continue;
                }
                let x = x as f32;
                for ((sum, low), high) in sums.iter_mut().zip(low).zip(high) {
                    let (under, over) = (low - x, x - high);
                    let outside = if under > over { under } else { over };
                    let outside = if outside > 0.0 { outside } else { 0.0 };
                    *sum += outside * outside;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = f64::from(sum);
            }
        }
    }

    /// Puts the squared distances of a row to those of a panel among the k smallest, `best`, ascending.
    fn visit(&self, panel: usize, values: &[f64], best: &mut [f64]) {
        let d = values.len();
        let last = best.len() - 1;
        let mut sums = [0.0; PANEL];
        if !add_up(&self.panels[panel * d..][..d], values, best[last] as f32, &mut sums) {
            return;
        }
        for sum in sums.map(f64::from) {
            if sum < best[last] {
                let at = best.partition_point(|&other| other <= sum);
                best[at..].rotate_right(1);
                best[at] = sum;
            }
        }
    }

    /// Share of each column that counts in the squared distances to the k nearest rows, on average, with the
    /// column's index, in column order.
    pub(crate) fn contributions(&self, row: &[f64]) -> Vec<(usize, f64)> {
        let d = self.dimension();
        let mut values = Vec::new();
        self.scale.standardise(|column| row.get(column).copied(), &mut values);
        values.iter_mut().for_each(|x| *x = x.clamp(-FAR, FAR));
        let part = |at: usize, j: usize| {
            let difference = f64::from(self.panels[at / PANEL * d + j][at % PANEL]) - values[j];
            if difference.is_nan() { 0.0 } else { difference * difference }
        };
        let mut order: Vec<(f64, usize)> = (0..self.rows).map(|at| ((0..d).map(|j| part(at, j)).sum(), at)).collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mean = |j: usize| order.iter().take(self.k).map(|&(_, at)| part(at, j)).sum::<f64>() / self.k as f64;
        self.scale.kept().iter().enumerate().map(|(j, &column)| (column, mean(j))).collect()
    }
}

/// Adds the squared distances of a row to those of a panel to `sums`; false once none can be less than `worst`.
///
/// Not inlined: with its surroundings in sight the compiler fills half of each vector register only.
#[inline(never)]
fn add_up(columns: &[[f32; PANEL]], values: &[f64], worst: f32, sums: &mut [f32; PANEL]) -> bool {
    let mut own = [0.0; PANEL];
    for (columns, values) in columns.chunks(BLOCK).zip(values.chunks(BLOCK)) {
        for (column, &x) in columns.iter().zip(values) {
            if x.is_nan() {
                continue;
            }
            let x = x as f32;
            for (sum, cell) in own.iter_mut().zip(column) {
                *sum += (cell - x) * (cell - x);
            }
        }
        if !own.iter().fold(false, |any, &sum| any | (sum < worst)) {
            return false;
        }
    }
    *sums = own;
    true
}

/// Puts rows that are near each other side by side: halves of a whole number of panels, by the widest column.
fn arrange(cells: &[f32], d: usize, order: &mut [usize]) {
    if order.len() <= PANEL || d == 0 {
        return;
    }
    let cell = |row: usize, column: usize| cells[row * d + column];
    let width = |column: usize| {
        let ends = order.iter().map(|&row| cell(row, column));
        ends.clone().fold(f32::MIN, f32::max) - ends.fold(f32::MAX, f32::min)
    };
    let widths: Vec<f32> = (0..d).map(width).collect();
    let widest = (0..d).fold(0, |best, column| if widths[column] > widths[best] { column } else { best });
    let middle = order.len().div_ceil(PANEL) / 2 * PANEL;
    order.select_nth_unstable_by(middle, |&a, &b| cell(a, widest).total_cmp(&cell(b, widest)).then(a.cmp(&b)));
    let (left, right) = order.split_at_mut(middle);
    arrange(cells, d, left);
    arrange(cells, d, right);
}

/// One value per item, filled up.
fn lanes<T>(items: &[T], fill: f32, value: impl Fn(&T) -> f32) -> [f32; PANEL] {
    let mut lanes = [fill; PANEL];
    for (lane, item) in lanes.iter_mut().zip(items) {
        *lane = value(item);
    }
    lanes
}

#[cfg(test)]
mod tests;
