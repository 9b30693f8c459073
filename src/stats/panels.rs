//! Kernels of a triangular matrix that is packed in panels: for the processor at hand, with the same result on each.
//!
//! They are compiled twice, for the build's own target and for AVX2, and chosen when the program runs: plain loops, which
//! the compiler turns into vector instructions. Products and sums stay apart (no fused multiply-add) and each row keeps its
//! order of summation: so the result of a row is the same to the bit on every processor, alone and among others.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Rows of the matrix in one panel.
pub(super) const PANEL: usize = 8;

/// Rows of data that are worked on side by side.
pub(super) const GROUP: usize = 8;

/// Largest centred value, so that its products stay finite.
const FAR: f64 = 1e150;

/// x − μ; 0 when x is missing (NaN or infinite).
#[inline(always)]
#[expect(clippy::eq_op, reason = "`is_finite` becomes a test of bits, one number at a time")]
pub(super) fn centred(value: f64, mean: f64) -> f64 {
    let difference = (value - mean).clamp(-FAR, FAR);
    let is_finite = value - value == 0.0;
    if is_finite { difference } else { 0.0 }
}

/// The values of one column less their mean, to place `column` of each group of `width` columns; rows beyond the `values` are
/// missing.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn centre(values: &[f64], mean: f64, column: usize, width: usize, groups: &mut [[f64; GROUP]]) {
    let (full, rest) = values.as_chunks::<GROUP>();
    let mut groups = groups.chunks_exact_mut(width).filter_map(|group| group.get_mut(column));
    for (values, group) in full.iter().zip(&mut groups) {
        for (cell, &value) in group.iter_mut().zip(values) {
            *cell = centred(value, mean);
        }
    }
    let mut rest = rest;
    for group in groups {
        group.fill(0.0);
        group.iter_mut().zip(rest).for_each(|(cell, &value)| *cell = centred(value, mean));
        rest = &[];
    }
}

/// The columns of panel p are min(8p + 8, `width`) parts of `panels`.
pub(super) fn split(panels: &[[f64; PANEL]], width: usize) -> impl Iterator<Item = &[[f64; PANEL]]> {
    let (mut rest, mut columns) = (panels, 0);
    std::iter::from_fn(move || {
        columns = (columns + PANEL).min(width);
        let (panel, tail) = rest.split_at_checked(columns).filter(|(panel, _)| !panel.is_empty())?;
        rest = tail;
        Some(panel)
    })
}

/// One panel times one row.
#[inline(always)]
pub(super) fn times(panel: &[[f64; PANEL]], row: &[f64]) -> [f64; PANEL] {
    let mut sums = [0.0; PANEL];
    for (column, &value) in panel.iter().zip(row) {
        for (sum, &weight) in sums.iter_mut().zip(column) {
            *sum += weight * value;
        }
    }
    sums
}

/// The squared length of the matrix times one row.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn square(panels: &[[f64; PANEL]], row: &[f64]) -> f64 {
    let mut total = 0.0;
    for panel in split(panels, row.len()) {
        for value in times(panel, row) {
            total += value * value;
        }
    }
    total
}

/// The same of many rows of `width` values: each group has value j of its eight rows at place j.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn squares(panels: &[[f64; PANEL]], width: usize, groups: &[[f64; GROUP]], totals: &mut [[f64; GROUP]]) {
    // as many sums as the registers hold: 16 of two numbers, or 16 of four
    if target_cfg_f!(target_feature = "avx2") {
        squares_of::<4>(panels, width, groups, totals);
    } else {
        squares_of::<2>(panels, width, groups, totals);
    }
}

/// With `ROWS` rows of the matrix at a time, a divisor of [`PANEL`].
#[inline(always)]
fn squares_of<const ROWS: usize>(
    panels: &[[f64; PANEL]],
    width: usize,
    groups: &[[f64; GROUP]],
    totals: &mut [[f64; GROUP]],
) {
    totals.fill([0.0; GROUP]);
    for panel in split(panels, width) {
        for (group, totals) in groups.chunks_exact(width).zip(totals.iter_mut()) {
            for first in (0..PANEL).step_by(ROWS) {
                let mut sums = [[0.0; GROUP]; ROWS];
                for (column, values) in panel.iter().zip(group) {
                    for (sum, &weight) in sums.iter_mut().zip(&column[first..first + ROWS]) {
                        for (sum, &value) in sum.iter_mut().zip(values) {
                            *sum += weight * value;
                        }
                    }
                }
                for sum in &sums {
                    for (total, &value) in totals.iter_mut().zip(sum) {
                        *total += value * value;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain twin: one sum after the other.
    fn plain(panels: &[[f64; PANEL]], row: &[f64]) -> f64 {
        let mut total = 0.0;
        let mut first = 0;
        for panel in 0..row.len().div_ceil(PANEL) {
            let columns = (panel * PANEL + PANEL).min(row.len());
            for place in 0..PANEL {
                let columns = panels[first..first + columns].iter().zip(row);
                let sum = columns.fold(0.0, |sum, (column, value)| sum + column[place] * value);
                total += sum * sum;
            }
            first += columns;
        }
        total
    }

    fn cell() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => -1e3..1e3_f64,
            2 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, -0.0, 0.0]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn cells_are_centred_as_one_by_one(
            columns in prop::collection::vec(prop::collection::vec(cell(), 0..40), 1..5),
            mean in -1e3..1e3_f64,
            groups in 0..5_usize,
        ) {
            let width = columns.len();
            let mut found = vec![[f64::NAN; GROUP]; groups * width];
            for (j, column) in columns.iter().enumerate() {
                centre(column, mean, j, width, &mut found);
            }
            for (row, j) in (0..groups * GROUP).flat_map(|row| (0..width).map(move |j| (row, j))) {
                let value = columns[j].get(row).copied().unwrap_or(f64::NAN);
                let expected = if value.is_finite() { (value - mean).clamp(-FAR, FAR) } else { 0.0 };
                prop_assert_eq!(found[row / GROUP * width + j][row % GROUP].to_bits(), expected.to_bits());
            }
        }

        #[test]
        fn kernels_are_their_plain_twin_to_the_bit(width in 1..70_usize, groups in 0..4_usize, seed: u64) {
            let mut state = seed;
            let mut number = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5) * 10_f64.powi((state % 9) as i32 - 4)
            };
            let packed: usize = (0..width.div_ceil(PANEL)).map(|p| (p * PANEL + PANEL).min(width)).sum();
            let panels: Vec<[f64; PANEL]> = (0..packed).map(|_| std::array::from_fn(|_| number())).collect();
            prop_assert_eq!(split(&panels, width).map(<[_]>::len).sum::<usize>(), packed);
            let data: Vec<[f64; GROUP]> = (0..groups * width).map(|_| std::array::from_fn(|_| number())).collect();
            let mut found = vec![[f64::NAN; GROUP]; groups];
            squares(&panels, width, &data, &mut found);
            let mut baseline = found.clone();
            squares_of::<2>(&panels, width, &data, &mut baseline);
            for ((group, found), baseline) in data.chunks(width).zip(&found).zip(&baseline) {
                for lane in 0..GROUP {
                    let row: Vec<f64> = group.iter().map(|values| values[lane]).collect();
                    let expected = plain(&panels, &row).to_bits();
                    prop_assert_eq!(square(&panels, &row).to_bits(), expected);
                    prop_assert_eq!(found[lane].to_bits(), expected);
                    prop_assert_eq!(baseline[lane].to_bits(), expected);
                }
            }
        }
    }
}
