//! Location and covariance of complete rows, plain and shrunk.

use ndarray::{Array2, ArrayView2};

/// Shrinkage of Ledoit and Wolf (2004) from a `covariance` (divided by n), the mean over rows of
/// ‖x − μ‖⁴ and the number of rows; 0 for a single column or no rows.
pub(crate) fn ledoit_wolf_shrinkage(covariance: ArrayView2<'_, f64>, mean_fourth: f64, rows: u64) -> f64 {
    let d = covariance.nrows();
    if d <= 1 || rows == 0 {
        return 0.0;
    }
    let scale = mean_variance(covariance);
    let squares: f64 = covariance.iter().map(|c| c * c).sum();
    // ‖C − scale·I‖², taken entry by entry so that near the target nothing cancels
    let from_target: f64 =
        covariance.indexed_iter().map(|((i, j), c)| (c - if i == j { scale } else { 0.0 }).powi(2)).sum();
    let spread = ((mean_fourth - squares) / rows as f64).min(from_target);
    if spread > 0.0 { (spread / from_target).min(1.0) } else { 0.0 }
}

/// Shrinkage of the oracle approximating estimator (Chen, Wiesel, Eldar and Hero 2010) from a `covariance` (divided by n) and
/// the number of rows, as scikit-learn's `OAS`: for normal data; 0 for a single column or no rows.
pub(crate) fn oracle_shrinkage(covariance: ArrayView2<'_, f64>, rows: u64) -> f64 {
    let d = covariance.nrows();
    if d <= 1 || rows == 0 {
        return 0.0;
    }
    let trace: f64 = covariance.diag().sum();
    let squares: f64 = covariance.iter().map(|c| c * c).sum();
    let spread = (rows as f64 + 1.0) * (squares - trace * trace / d as f64);
    if spread > 0.0 { ((squares + trace * trace) / spread).min(1.0) } else { 1.0 }
}

/// (1 − shrinkage)·C + shrinkage·(mean variance)·I.
pub(crate) fn shrink(covariance: Array2<f64>, shrinkage: f64) -> Array2<f64> {
    let target = shrinkage * mean_variance(covariance.view());
    let mut shrunk = covariance * (1.0 - shrinkage);
    shrunk.diag_mut().mapv_inplace(|v| v + target);
    shrunk
}

/// Mean of the diagonal; 0 without columns.
fn mean_variance(covariance: ArrayView2<'_, f64>) -> f64 {
    covariance.diag().sum() / covariance.nrows().max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{assert_close, cases, matrix, number, numbers};
    use crate::stats::mahalanobis::Whitener;
    use crate::stats::moments::Moments;
    use ndarray::{Array1, Axis};

    /// An estimate of location and covariance.
    #[derive(Clone, Debug, PartialEq)]
    struct Shrunk {
        /// Mean of each column.
        location: Vec<f64>,
        /// Covariance (divided by n), after shrinkage.
        covariance: Array2<f64>,
        /// Weight of the scaled identity, 0 (none) to 1.
        shrinkage: f64,
    }

    /// Mean and covariance (divided by n) of finite `rows` (n × d); no shrinkage.
    fn empirical(rows: ArrayView2<'_, f64>) -> Shrunk {
        let (location, centred) = centre(rows);
        let covariance = centred.t().dot(&centred) / centred.nrows().max(1) as f64;
        Shrunk { location, covariance, shrinkage: 0.0 }
    }

    /// The estimator of Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional
    /// covariance matrices", of finite `rows` (n × d), as scikit-learn's `LedoitWolf`.
    fn ledoit_wolf(rows: ArrayView2<'_, f64>) -> Shrunk {
        let (location, centred) = centre(rows);
        let n = centred.nrows();
        let covariance = centred.t().dot(&centred) / n.max(1) as f64;
        let squared_norms = centred.axis_iter(Axis(0)).map(|row| row.dot(&row));
        let mean_fourth = squared_norms.map(|s| s * s).sum::<f64>() / n.max(1) as f64;
        let shrinkage = ledoit_wolf_shrinkage(covariance.view(), mean_fourth, n as u64);
        Shrunk { location, covariance: shrink(covariance, shrinkage), shrinkage }
    }

    /// The oracle approximating estimator of finite `rows` (n × d), as scikit-learn's `OAS`.
    fn oracle_approximating(rows: ArrayView2<'_, f64>) -> Shrunk {
        let Shrunk { location, covariance, .. } = empirical(rows);
        let shrinkage = oracle_shrinkage(covariance.view(), rows.nrows() as u64);
        Shrunk { location, covariance: shrink(covariance, shrinkage), shrinkage }
    }

    /// Column means and the rows less them.
    fn centre(rows: ArrayView2<'_, f64>) -> (Vec<f64>, Array2<f64>) {
        let mean = rows.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(rows.ncols()));
        let mut centred = &rows - &mean;
        // a second pass takes back the rounding of the mean of a column far from 0
        let rest = centred.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(rows.ncols()));
        centred -= &rest;
        ((mean + rest).to_vec(), centred)
    }

    #[test]
    fn golden_estimates_match_scikit_learn() {
        let mut checked = 0;
        for case in cases("covariance") {
            let rows = matrix(&case.inputs["X"]);
            let points = matrix(&case.inputs["T"]);
            for (key, found) in [
                ("EmpiricalCovariance", empirical(rows.view())),
                ("LedoitWolf", ledoit_wolf(rows.view())),
                ("OAS", oracle_approximating(rows.view())),
            ] {
                let what = format!("{} {key}", case.name);
                let expected = &case.outputs[key];
                for (f, e) in found.location.iter().zip(numbers(&expected["location"])) {
                    assert_close(*f, e, 1e-12, 1e-14, &what);
                }
                let covariance = matrix(&expected["covariance"]);
                for ((i, j), f) in found.covariance.indexed_iter() {
                    let scale = (covariance[[i, i]] * covariance[[j, j]]).sqrt();
                    assert_close(*f, covariance[[i, j]], 0.0, 1e-11 * scale, &what);
                }
                if let Some(e) = expected.get("shrinkage") {
                    assert_close(found.shrinkage, number(e), 1e-10, 0.0, &what);
                }
                if let Some(e) = expected.get("mahalanobis_squared") {
                    let whitener = Whitener::new(&found.location, found.covariance.view()).unwrap();
                    assert_eq!((whitener.ridge(), whitener.blind()), (0.0, &[][..]), "{what}");
                    let mut scratch = Vec::new();
                    for (point, e) in points.rows().into_iter().zip(numbers(e)) {
                        let f = whitener.distance_squared(&point.to_vec(), &mut scratch);
                        assert_close(f, e, 1e-9, 0.0, &what);
                    }
                }
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    #[test]
    fn golden_covariances_come_out_of_moments_too() {
        for case in cases("covariance") {
            let rows = matrix(&case.inputs["X"]);
            let mut moments = Moments::new(rows.ncols());
            rows.rows().into_iter().for_each(|r| moments.push(&r.to_vec()));
            let expected = empirical(rows.view());
            for ((i, j), f) in moments.covariance().indexed_iter() {
                let scale = (expected.covariance[[i, i]] * expected.covariance[[j, j]]).sqrt();
                assert_close(*f, expected.covariance[[i, j]], 0.0, 1e-11 * scale, &case.name);
            }
        }
    }

    #[test]
    fn equal_rows_and_no_rows_do_not_divide_by_zero() {
        for rows in [Array2::from_elem((5, 3), 2.0), Array2::zeros((0, 3))] {
            let found = ledoit_wolf(rows.view());
            assert_eq!(found.shrinkage, 0.0);
            assert!(found.covariance.iter().all(|&c| c == 0.0));
        }
    }
}
