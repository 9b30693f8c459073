//! The Cholesky factor of a correlation matrix (Cholesky 1910, published 1924), and its inverse.

use super::error::StatsError;
use ndarray::Array2;

/// Largest relative ridge tried.
const RIDGE_MOST: f64 = 1e4;

/// The lower factor L of a correlation matrix (d × d), R + ridge·I = LLᵀ, and the ridge: 0 if R is
/// positive definite in floating point, else the smallest of 1e-12, 1e-10, … that helps.
///
/// # Errors
/// [`StatsError::NotPositiveDefinite`] when even a ridge of 1e4 does not.
pub(crate) fn ridged_cholesky(correlation: &Array2<f64>) -> Result<(Array2<f64>, f64), StatsError> {
    let mut ridge = 0.0;
    loop {
        if let Some(factor) = cholesky(correlation, ridge) {
            return Ok((factor, ridge));
        }
        ridge = if ridge == 0.0 { 1e-12 } else { ridge * 100.0 };
        if ridge > RIDGE_MOST {
            return Err(StatsError::NotPositiveDefinite { ridge: RIDGE_MOST });
        }
    }
}

/// Lower factor of `matrix` + `ridge`·I; `None` when a pivot is not above its rounding error.
fn cholesky(matrix: &Array2<f64>, ridge: f64) -> Option<Array2<f64>> {
    let d = matrix.nrows();
    let noise = 8.0 * d as f64 * f64::EPSILON * (1.0 + ridge);
    let mut factor = Array2::<f64>::zeros((d, d));
    for i in 0..d {
        for j in 0..=i {
            let (row, other) = (factor.row(i), factor.row(j));
            let known: f64 = row.iter().zip(other).take(j).map(|(a, b)| a * b).sum();
            let rest = matrix[[i, j]] - known;
            if i == j {
                let pivot = rest + ridge;
                if pivot.is_nan() || pivot <= noise {
                    return None;
                }
                factor[[i, i]] = pivot.sqrt();
            } else {
                factor[[i, j]] = rest / factor[[j, j]];
            }
        }
    }
    Some(factor)
}

/// Inverse of a lower triangular matrix, row by row.
pub(crate) fn invert_lower(factor: &Array2<f64>) -> Array2<f64> {
    let d = factor.nrows();
    let mut inverse = Array2::<f64>::zeros((d, d));
    for i in 0..d {
        let mut row = vec![0.0; i + 1];
        for k in 0..i {
            let weight = factor[[i, k]];
            for (slot, value) in row.iter_mut().zip(inverse.row(k).iter().take(k + 1)) {
                *slot -= weight * value;
            }
        }
        row[i] = 1.0;
        for (j, value) in row.into_iter().enumerate() {
            inverse[[i, j]] = value / factor[[i, i]];
        }
    }
    inverse
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn factor_times_its_transpose_is_the_matrix() {
        let r = arr2(&[[1.0, 0.5, -0.2], [0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]]);
        let (factor, ridge) = ridged_cholesky(&r).unwrap();
        assert_eq!(ridge, 0.0);
        let back = factor.dot(&factor.t()) - &r;
        assert!(back.iter().all(|v| v.abs() < 1e-15));
        let identity = invert_lower(&factor).dot(&factor) - Array2::<f64>::eye(3);
        assert!(identity.iter().all(|v| v.abs() < 1e-15));
    }

    #[test]
    fn a_nearly_negative_matrix_gets_the_ridge_it_needs() {
        let r = arr2(&[[1.0, 1.0 + 5e-9], [1.0 + 5e-9, 1.0]]);
        assert_eq!(ridged_cholesky(&r).unwrap().1, 1e-12 * 100.0 * 100.0);
    }
}
