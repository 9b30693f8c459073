//! Singular values of a small square matrix, and the solution of a linear system with them.

use ndarray::Array2;

/// A = U·diag(values)·Vᵀ.
pub(crate) struct Singular {
    /// U·diag(values): columns are orthogonal.
    left: Array2<f64>,
    right: Array2<f64>,
    /// The singular values, in no order.
    pub(crate) values: Vec<f64>,
}

/// By one-sided Jacobi rotations (Hestenes 1958), which keep the relative precision of small values. `matrix` is finite.
pub(crate) fn singular(matrix: &Array2<f64>) -> Singular {
    let (mut left, n) = (matrix.clone(), matrix.ncols());
    let mut right = Array2::eye(n);
    // it converges quadratically: a few sweeps do, the cap is only a safety net
    for _ in 0..60 {
        let mut rotated = false;
        for i in 0..n {
            for j in i + 1..n {
                let (a, b) = (left.column(i), left.column(j));
                let (aa, bb, ab) = (a.dot(&a), b.dot(&b), a.dot(&b));
                if ab.abs() <= 1e-15 * (aa * bb).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (bb - aa) / (2.0 * ab);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = cosine * tangent;
                for turned in [&mut left, &mut right] {
                    for row in 0..n {
                        let (x, y) = (turned[(row, i)], turned[(row, j)]);
                        turned[(row, i)] = cosine * x - sine * y;
                        turned[(row, j)] = sine * x + cosine * y;
                    }
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let values = left.columns().into_iter().map(|column| column.dot(&column).sqrt()).collect();
    Singular { left, right, values }
}

impl Singular {
    /// The smallest singular value; infinite without columns.
    pub(crate) fn smallest(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The x with A·x = `b`. No singular value is 0.
    pub(crate) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; self.values.len()];
        for (k, value) in self.values.iter().enumerate() {
            let along: f64 = self.left.column(k).iter().zip(b).map(|(u, b)| u * b).sum::<f64>() / (value * value);
            x.iter_mut().zip(self.right.column(k)).for_each(|(x, v)| *x += along * v);
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn known_values_are_found() {
        // eigenvalues of AᵀA for [[3, 0], [4, 5]] are 45 and 5
        let found = singular(&array![[3.0, 0.0], [4.0, 5.0]]);
        let mut values = found.values.clone();
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 5_f64.sqrt()).abs() < 1e-14 && (values[1] - 45_f64.sqrt()).abs() < 1e-14);
        let rank_one = singular(&array![[0.2, 0.4], [0.3, 0.6]]);
        assert!(rank_one.smallest() < 1e-15);
        assert_eq!(singular(&Array2::zeros((2, 2))).smallest(), 0.0);
    }

    #[test]
    fn a_system_is_solved() {
        let matrix = array![[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]];
        let x = array![0.5, -0.25, 3.0];
        let found = singular(&matrix).solve(&matrix.dot(&x).to_vec());
        assert!(found.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-13), "{found:?}");
    }
}
