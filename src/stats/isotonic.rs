//! Isotonic regression: the non-decreasing function nearest to a set of points.

/// A non-decreasing, piecewise linear function.
///
/// Fitted by pooling adjacent violators (Ayer et al. 1955); points of equal x are averaged first. Between the points it is the
/// straight line, outside it is constant, as in scikit-learn's `IsotonicRegression(out_of_bounds="clip")`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Isotonic {
    x: Vec<f64>,
    y: Vec<f64>,
}

/// A run of points with one value.
struct Block {
    sum: f64,
    weight: f64,
    first: f64,
    last: f64,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Isotonic {
    /// Least-squares fit to points (x, y); points that are not finite are left out. `None` without points.
    pub(crate) fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let mut sorted: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut blocks: Vec<Block> = Vec::new();
        for same in sorted.chunk_by(|a, b| a.0 == b.0) {
            let (at, weight) = (same[0].0, same.len() as f64);
            let mut block = Block { sum: same.iter().map(|(_, y)| y).sum(), weight, first: at, last: at };
            while let Some(before) = blocks.pop_if(|before| before.mean() >= block.mean()) {
                block.sum += before.sum;
                block.weight += before.weight;
                block.first = before.first;
            }
            blocks.push(block);
        }
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for block in &blocks {
            x.push(block.first);
            y.push(block.mean());
            if block.last > block.first {
                x.push(block.last);
                y.push(block.mean());
            }
        }
        (!x.is_empty()).then_some(Isotonic { x, y })
    }

    /// Its value at `x`; NaN for NaN.
    pub(crate) fn at(&self, x: f64) -> f64 {
        if x.is_nan() {
            return x;
        }
        let above = self.x.partition_point(|&knot| knot < x);
        if above == 0 {
            return self.y[0];
        }
        let Some((&right, &high)) = self.x.get(above).zip(self.y.get(above)) else { return self.y[above - 1] };
        let (left, low) = (self.x[above - 1], self.y[above - 1]);
        if right == x { high } else { low + (high - low) * ((x - left) / (right - left)) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, numbers};
    use proptest::prelude::*;

    #[test]
    fn golden_fits_match_scikit_learn() {
        for case in cases("classification_metrics") {
            let points: Vec<_> = numbers(&case.inputs["p"]).into_iter().zip(numbers(&case.inputs["y"])).collect();
            let fitted = Isotonic::fit(&points).unwrap();
            for (t, expected) in numbers(&case.inputs["t"]).into_iter().zip(numbers(&case.outputs["isotonic_at_t"])) {
                assert_close(fitted.at(t), expected, 1e-12, 1e-15, &format!("{} at {t}", case.name));
            }
            let knots = numbers(&case.outputs["isotonic_x"]).into_iter().zip(numbers(&case.outputs["isotonic_y"]));
            for (x, expected) in knots {
                assert_close(fitted.at(x), expected, 1e-12, 1e-15, &format!("{} at knot {x}", case.name));
            }
        }
    }

    #[test]
    fn odd_points_neither_poison_nor_panic() {
        assert_eq!(Isotonic::fit(&[]), None);
        assert_eq!(Isotonic::fit(&[(f64::NAN, 1.0), (0.5, f64::NAN), (f64::INFINITY, 0.0)]), None);
        let one = Isotonic::fit(&[(0.5, 1.0), (f64::NAN, 0.0)]).unwrap();
        assert_eq!([one.at(-1.0), one.at(0.5), one.at(f64::INFINITY)], [1.0; 3]);
        assert!(one.at(f64::NAN).is_nan());
    }

    proptest! {
        /// Least squares over a cone: residuals are orthogonal to the fit, and sum to 0.
        #[test]
        fn the_fit_rises_and_is_a_projection(
            points in prop::collection::vec((0..50_i32, -5.0..5.0_f64), 1..100),
        ) {
            let points: Vec<_> = points.into_iter().map(|(x, y)| (f64::from(x), y)).collect();
            let fitted = Isotonic::fit(&points).unwrap();
            let values: Vec<_> = (0..50).map(|x| fitted.at(f64::from(x))).collect();
            prop_assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            let (mut sum, mut product) = (0.0, 0.0);
            for &(x, y) in &points {
                sum += y - fitted.at(x);
                product += (y - fitted.at(x)) * fitted.at(x);
            }
            prop_assert!(sum.abs() < 1e-9 && product.abs() < 1e-9, "{sum} {product}");
        }
    }
}
