//! Eigenvalues of a symmetric matrix.

use ndarray::Array2;

/// The eigenvalues in ascending order; the upper triangle is not read. `None` if the matrix is not square or not finite.
///
/// Householder reduction to tridiagonal form, then QL with implicit shifts (Martin, Reinsch and Wilkinson 1968; Dubrulle 1970).
pub(crate) fn symmetric_eigenvalues(matrix: &Array2<f64>) -> Option<Vec<f64>> {
    if !matrix.is_square() || matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (mut diagonal, mut beside) = tridiagonal(matrix);
    implicit_ql(&mut diagonal, &mut beside)?;
    diagonal.sort_unstable_by(f64::total_cmp);
    Some(diagonal)
}

/// Diagonal and subdiagonal (and one zero) of a similar tridiagonal matrix.
fn tridiagonal(matrix: &Array2<f64>) -> (Vec<f64>, Vec<f64>) {
    let n = matrix.nrows();
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| matrix[(i.max(j), i.min(j))]).collect()).collect();
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        let column = rows.split_off(k + 1);
        diagonal[k] = rows[k][k];
        let mut rest = column;
        let mut mirror: Vec<f64> = rest.iter().map(|row| row[k]).collect();
        let norm = mirror.iter().map(|x| x * x).sum::<f64>().sqrt();
        if let Some(first) = mirror.first().copied() {
            beside[k] = if first > 0.0 { -norm } else { norm };
            mirror[0] -= beside[k];
            let length = mirror.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length > 0.0 {
                mirror.iter_mut().for_each(|x| *x /= length);
                reflect(&mut rest, k + 1, &mirror);
            }
        }
        rows.extend(rest);
    }
    (diagonal, beside)
}

/// A ← (I − 2vvᵀ)·A·(I − 2vvᵀ) for the symmetric block from column `from` on and a unit vector v.
fn reflect(rows: &mut [Vec<f64>], from: usize, v: &[f64]) {
    let product = |row: &[f64]| row[from..].iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
    let mut q: Vec<f64> = rows.iter().map(|row| product(row)).collect();
    let along = q.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
    q.iter_mut().zip(v).for_each(|(q, v)| *q -= along * v);
    for (row, (&v_i, &q_i)) in rows.iter_mut().zip(v.iter().zip(&q)) {
        for (cell, (&v_j, &q_j)) in row[from..].iter_mut().zip(v.iter().zip(&q)) {
            *cell -= 2.0 * (v_i * q_j + q_i * v_j);
        }
    }
}

/// Turns the diagonal into the eigenvalues, in no order; `None` if it does not converge.
fn implicit_ql(diagonal: &mut [f64], beside: &mut [f64]) -> Option<()> {
    let n = diagonal.len();
    for l in 0..n {
        for round in 0.. {
            let small = |i: usize| beside[i].abs() <= f64::EPSILON * (diagonal[i].abs() + diagonal[i + 1].abs());
            let end = (l..n - 1).find(|&i| small(i)).unwrap_or(n - 1);
            if end == l {
                break;
            }
            if round == 60 {
                return None;
            }
            let slope = (diagonal[l + 1] - diagonal[l]) / (2.0 * beside[l]);
            let mut g = diagonal[end] - diagonal[l] + beside[l] / (slope + slope.hypot(1.0).copysign(slope));
            let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..end).rev() {
                let (f, b) = (sine * beside[i], cosine * beside[i]);
                let r = f.hypot(g);
                beside[i + 1] = r;
                if r == 0.0 {
                    diagonal[i + 1] -= shift;
                    beside[end] = 0.0;
                    split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                g = diagonal[i + 1] - shift;
                let turned = (diagonal[i] - g) * sine + 2.0 * cosine * b;
                shift = sine * turned;
                diagonal[i + 1] = g + shift;
                g = cosine * turned - b;
            }
            if !split {
                diagonal[l] -= shift;
                beside[l] = g;
                beside[end] = 0.0;
            }
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, matrix};
    use proptest::prelude::*;
    use std::f64::consts::PI;

    #[test]
    fn the_second_difference_has_its_known_eigenvalues() {
        for n in [1, 2, 3, 10, 60] {
            let band = Array2::from_shape_fn((n, n), |(i, j)| match i.abs_diff(j) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            });
            let found = symmetric_eigenvalues(&band).unwrap();
            for (k, found) in found.into_iter().enumerate() {
                let expected = 2.0 - 2.0 * (PI * (k as f64 + 1.0) / (n as f64 + 1.0)).cos();
                assert_close(found, expected, 1e-13, 1e-14, &format!("{n} {k}"));
            }
        }
    }

    #[test]
    fn repeated_and_zero_eigenvalues_are_found() {
        // ones + 3·I: n − 1 times 3, once n + 3
        let ones = Array2::from_shape_fn((6, 6), |(i, j)| if i == j { 4.0 } else { 1.0 });
        let found = symmetric_eigenvalues(&ones).unwrap();
        for (found, expected) in found.into_iter().zip([3.0, 3.0, 3.0, 3.0, 3.0, 9.0]) {
            assert_close(found, expected, 1e-14, 0.0, "ones");
        }
        assert_eq!(symmetric_eigenvalues(&Array2::zeros((4, 4))).unwrap(), [0.0; 4]);
        assert_eq!(symmetric_eigenvalues(&Array2::zeros((0, 0))).unwrap(), [0.0; 0]);
        assert_eq!(symmetric_eigenvalues(&Array2::zeros((2, 3))), None);
        assert_eq!(symmetric_eigenvalues(&Array2::from_elem((2, 2), f64::NAN)), None);
    }

    #[test]
    fn golden_covariances_keep_trace_and_norm() {
        let mut checked = 0;
        for case in cases("covariance") {
            for value in case.outputs.as_object().unwrap().values() {
                let square = |v: &serde_json::Value| {
                    v.as_array().is_some_and(|rows| {
                        rows.iter().all(|row| row.as_array().is_some_and(|row| row.len() == rows.len()))
                    })
                };
                if !square(value) {
                    continue;
                }
                let a = matrix(value);
                if a.iter().any(|v| !v.is_finite()) || a != a.t() {
                    continue;
                }
                let found = symmetric_eigenvalues(&a).unwrap();
                let norm = a.iter().map(|v| v * v).sum::<f64>();
                assert_close(found.iter().sum(), a.diag().sum(), 1e-12, 1e-13, &case.name);
                assert_close(found.iter().map(|v| v * v).sum(), norm, 1e-12, 1e-13, &case.name);
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    proptest! {
        #[test]
        fn rotations_do_not_change_them(
            values in prop::collection::vec(-3.0..3.0_f64, 2..7),
            turns in prop::collection::vec((0..6_usize, 1..6_usize, 0.0..6.3_f64), 0..8),
        ) {
            let n = values.len();
            let mut a = Array2::from_diag(&ndarray::Array1::from(values.clone()));
            for (i, step, angle) in turns {
                let (i, j) = (i % n, (i % n + 1 + step % (n - 1)) % n);
                let mut turn = Array2::eye(n);
                (turn[(i, i)], turn[(j, j)]) = (angle.cos(), angle.cos());
                (turn[(i, j)], turn[(j, i)]) = (-angle.sin(), angle.sin());
                a = turn.dot(&a).dot(&turn.t());
            }
            let mut expected = values;
            expected.sort_unstable_by(f64::total_cmp);
            for (found, expected) in symmetric_eigenvalues(&a).unwrap().into_iter().zip(expected) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }
    }
}
