//! Bins that a reference fixes once, for distances between counts.

use super::quantile::quantile;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{SeedableRng, seq::SliceRandom};

/// Cells between quantiles of a reference, open at both ends, and a last cell for values that are not finite.
///
/// `k` bins have edges at the reference's quantiles 1/k, …, (k−1)/k. A value equal to an edge belongs to the cell above it.
/// A quantile that repeats is a value with much mass: its second edge is the next larger number, so that the value has a
/// cell of its own; further repeats are dropped. The edges move with the reference's location and scale; the tails are open,
/// so that no outlier stretches a bin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bins {
    /// Ascending, at least one.
    edges: Vec<f64>,
}

/// One finite reference value in this many serves to place the edges and is not counted.
const PLACING: usize = 4;

/// Values that are counted in one go: they stay in the fastest cache.
const BLOCK: usize = 1024;

impl Bins {
    /// Bins at quantiles of the finite values of `reference`, in any order; `None` if there are none, or `bins` < 2.
    pub(crate) fn new(reference: &[f64], bins: usize) -> Option<Self> {
        let mut sorted: Vec<f64> = reference.iter().copied().filter(|value| value.is_finite()).collect();
        if sorted.is_empty() || bins < 2 {
            return None;
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let mut edges: Vec<f64> = Vec::with_capacity(bins - 1);
        for i in 1..bins {
            let edge = quantile(&sorted, i as f64 / bins as f64);
            match edges.last() {
                _ if !edge.is_finite() => {}     // between values too far apart for a difference
                Some(&last) if edge < last => {} // a third time
                Some(&last) if edge == last => edges.push(edge.next_up()),
                _ => edges.push(edge),
            }
        }
        Some(Bins { edges })
    }

    /// Bins placed by a seeded quarter of the reference's finite values, and the counts of all other reference values;
    /// `None` without a finite value, or if `bins` < 2.
    ///
    /// An exact test needs this: counts of the values that placed the edges are all equal by construction, not a sample. With
    /// them a test by the Hellinger distance rejects 6.1 % at a nominal 5 % (300 against 60 values), or 4.0 % (200 against
    /// 1,000); the difference is gone where both samples are large.
    pub(crate) fn split(reference: &[f64], bins: usize, seed: u64) -> Option<(Self, Vec<u64>)> {
        let mut values = reference.to_vec();
        let placing = values.len().div_ceil(PLACING);
        let (placing, counted) = values.partial_shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed), placing);
        let bins = Bins::new(placing, bins)?;
        let counts = bins.count(counted);
        Some((bins, counts))
    }

    /// Cells, the last one for values that are not finite.
    pub(crate) fn cells(&self) -> usize {
        self.edges.len() + 2
    }

    #[cfg(test)]
    /// The inner edges in ascending order: cell i holds edge i − 1 ≤ value < edge i.
    pub(crate) fn edges(&self) -> &[f64] {
        &self.edges
    }

    #[cfg(test)]
    /// The cell of a value: the plain form of [`count`](Self::count).
    pub(crate) fn cell(&self, value: f64) -> usize {
        if !value.is_finite() {
            return self.edges.len() + 1;
        }
        self.edges.iter().map(|&edge| usize::from(edge <= value)).sum()
    }

    /// Values per cell.
    pub(crate) fn count(&self, values: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; self.cells()];
        self.add(values, &mut counts);
        counts
    }

    /// Adds the values to `counts`, one per cell.
    ///
    /// How many values reach each edge is counted edge by edge, without a branch: the cells are the differences.
    pub(crate) fn add(&self, values: &[f64], counts: &mut [u64]) {
        let reach = |block: &[f64], edge: f64| block.iter().map(|&value| u64::from(value >= edge)).sum::<u64>();
        for block in values.chunks(BLOCK) {
            let finite: u64 = block.iter().map(|value| u64::from(value.is_finite())).sum();
            // infinities reach edges too
            let endless = reach(block, f64::INFINITY);
            let mut above = finite;
            for (cell, &edge) in self.edges.iter().enumerate() {
                let reached = reach(block, edge) - endless;
                counts[cell] += above - reached;
                above = reached;
            }
            counts[self.edges.len()] += above;
            counts[self.edges.len() + 1] += block.len() as u64 - finite;
        }
    }
}

#[cfg(test)]
impl Bins {
    /// Bins with the given inner edges.
    pub(crate) fn with_edges(edges: Vec<f64>) -> Self {
        Bins { edges }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::divergence::Distance;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// Standard normal values (Box and Muller 1958).
    fn normal(n: usize, shift: f64, seed: u64) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut one = || {
            (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt() * (std::f64::consts::TAU * random.random::<f64>()).cos()
        };
        (0..n).map(|_| one() + shift).collect()
    }

    #[test]
    fn one_outlier_does_not_hide_a_shift() {
        // with bins over the pooled range the PSI fell from .917 to .00007
        let reference = normal(2_000, 0.0, 1);
        let mut window = normal(1_000, 1.0, 2);
        window.push(1e6);
        let bins = Bins::new(&reference, 10).unwrap();
        let (a, b) = (bins.count(&reference), bins.count(&window));
        assert!(Distance::Psi.between(&a, &b).unwrap() > 0.7);
        // nor in the reference
        let spoilt: Vec<f64> = reference.iter().copied().chain([1e6, -1e12]).collect();
        let bins = Bins::new(&spoilt, 10).unwrap();
        assert!(Distance::Psi.between(&bins.count(&spoilt), &bins.count(&window)).unwrap() > 0.7);
    }

    #[test]
    fn a_large_offset_without_a_shift_is_no_distance() {
        // a sketch gave 12.4
        let at = |offset: f64, seed| -> Vec<f64> { normal(2_000, 0.0, seed).iter().map(|v| v + offset).collect() };
        let bins = Bins::new(&at(1e4, 1), 10).unwrap();
        let psi = Distance::Psi.between(&bins.count(&at(1e4, 1)), &bins.count(&at(1e4, 2))).unwrap();
        assert!(psi < 0.03, "{psi}");
        let plain = Bins::new(&at(0.0, 1), 10).unwrap();
        assert_eq!(plain.count(&at(0.0, 2)), bins.count(&at(1e4, 2)));
    }

    #[test]
    fn values_with_much_mass_have_their_own_cell() {
        let bins = Bins::new(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 10).unwrap();
        assert_eq!(bins.count(&[-1.0, 0.0, -0.0, 0.5, 1.0, 1.0, 2.0]), [1, 2, 1, 0, 2, 1, 0]);
        let constant = Bins::new(&[3.0; 20], 10).unwrap();
        assert_eq!(constant.count(&[2.0, 3.0, 3.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]), [1, 1, 1, 3]);
    }

    #[test]
    fn nothing_finite_gives_no_bins() {
        assert_eq!(Bins::new(&[f64::NAN, f64::INFINITY], 10), None);
        assert_eq!(Bins::new(&[1.0, 2.0], 1), None);
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            5 => (-6..6_i32).prop_map(|v| f64::from(v) / 2.0),
            3 => -5.0..5.0_f64,
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MAX]),
        ]
    }

    proptest! {
        #[test]
        fn counts_equal_cells_one_by_one(
            reference in prop::collection::vec(value(), 1..60),
            values in prop::collection::vec(value(), 0..80),
            bins in 2..20_usize,
        ) {
            if let Some(bins) = Bins::new(&reference, bins) {
                prop_assert!(bins.edges().is_sorted_by(|a, b| a < b));
                let mut plain = vec![0; bins.cells()];
                for &value in &values {
                    let cell = bins.edges().partition_point(|&edge| edge <= value);
                    let cell = if value.is_finite() { cell } else { bins.cells() - 1 };
                    prop_assert_eq!(bins.cell(value), cell);
                    plain[cell] += 1;
                }
                prop_assert_eq!(bins.count(&values), plain);
            }
        }
    }
}
