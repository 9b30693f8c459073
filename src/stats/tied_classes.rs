//! The squared Mahalanobis distance to the nearest of several classes that share a covariance (Lee, Lee, Lee and Shin 2018).

use super::error::StatsError;
use super::mahalanobis::Whitener;
use super::moments::Moments;
use ndarray::{Array2, ArrayView2};

/// The means of the classes of some rows, and what is left of the rows around them.
pub(crate) struct Within {
    /// Mean of each class, of d columns; NaN in a column without a value. `None`: a class without rows.
    pub(crate) means: Vec<Option<Vec<f64>>>,
    /// Each row less the mean of its class; missing cells stay missing.
    pub(crate) residuals: Vec<Vec<f64>>,
}

impl Within {
    /// Of `rows` of d columns with their classes, out of `classes`; others are passed over.
    pub(crate) fn new(rows: &[(usize, &[f64])], d: usize, classes: usize) -> Self {
        let mut moments = vec![Moments::new(d); classes];
        for &(class, row) in rows.iter().filter(|row| row.0 < classes) {
            moments[class].push(row);
        }
        let means: Vec<_> = moments.iter().map(|class| (class.rows() > 0).then(|| class.mean())).collect();
        let residual = |&(class, row): &(usize, &[f64])| {
            let mean = means.get(class)?.as_ref()?;
            Some(row.iter().zip(mean).map(|(x, mean)| x - mean).collect())
        };
        let residuals = rows.iter().filter_map(residual).collect();
        Within { means, residuals }
    }
}

/// Centres of classes that share a covariance.
///
/// Columns without variance within the classes are *blind*. A missing cell (NaN or infinite) counts as the mean of the class,
/// whichever that is, and adds nothing. A complete row is whitened once and compared with the whitened means.
#[derive(Clone, Debug)]
pub(crate) struct TiedClasses {
    whitener: Whitener,
    /// The mean of each class in the columns that count.
    means: Vec<Vec<f64>>,
    /// The same, whitened and padded.
    whitened: Vec<Vec<f64>>,
}

impl TiedClasses {
    /// From the mean of each class, of d columns, the `location` of all rows and the `covariance` within the classes. A class
    /// without a value in a column has the location there.
    ///
    /// # Errors
    /// As [`Whitener::new`].
    pub(crate) fn new(means: &[&[f64]], location: &[f64], covariance: ArrayView2<'_, f64>) -> Result<Self, StatsError> {
        let whitener = Whitener::new(location, covariance)?;
        let whiten = |mean: &&[f64]| whitener.whiten(mean, &mut Vec::new()).to_vec();
        let whitened = means.iter().map(whiten).collect();
        let kept = |mean: &&[f64]| {
            let cell = |&column: &usize| if mean[column].is_finite() { mean[column] } else { location[column] };
            whitener.kept().iter().map(cell).collect()
        };
        let means = means.iter().map(kept).collect();
        Ok(TiedClasses { whitener, means, whitened })
    }

    /// Columns left out, ascending.
    pub(crate) fn blind(&self) -> &[usize] {
        self.whitener.blind()
    }

    /// Number of columns that count.
    pub(crate) fn dimension(&self) -> usize {
        self.whitener.dimension()
    }

    /// Squared distance of `row` to the nearest class. Allocates only while `scratch` grows.
    pub(crate) fn distance_squared(&self, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
        let complete = self.whitener.kept().iter().all(|&column| row.get(column).is_some_and(|x| x.is_finite()));
        let smaller = |least: f64, distance: f64| least.min(distance);
        if complete {
            let whitened = self.whitener.whiten(row, scratch);
            let square = |(a, b): (&f64, &f64)| (a - b) * (a - b);
            let distance = |mean: &Vec<f64>| whitened.iter().zip(mean).map(square).sum();
            self.whitened.iter().map(distance).fold(f64::INFINITY, smaller)
        } else {
            let distance = |mean: &Vec<f64>| self.whitener.distance_squared_to(row, mean, scratch);
            self.means.iter().map(distance).fold(f64::INFINITY, smaller)
        }
    }

    /// Share of each column in the squared distance to the nearest class: see [`Whitener::contributions`].
    pub(crate) fn contributions(&self, row: &[f64], out: &mut Vec<(usize, f64)>) {
        let distance = |mean: &&Vec<f64>| self.whitener.distance_squared_to(row, mean, &mut Vec::new());
        let nearest = self.means.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        out.clear();
        if let Some(mean) = nearest {
            self.whitener.contributions_to(row, mean, out);
        }
    }
}

/// Covariance (divided by n) of residuals around 0; a missing cell adds nothing.
pub(crate) fn residual_covariance(residuals: &[Vec<f64>], d: usize) -> Array2<f64> {
    let mut moments = Moments::new(d);
    residuals.iter().for_each(|row| moments.push(row));
    moments.covariance()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::assert_close;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// 90 rows of three classes of four columns, and a fifth column that is constant within a class.
    fn rows() -> Vec<(usize, Vec<f64>)> {
        let mut rng = StdRng::seed_from_u64(8);
        let row = |i: usize| {
            let class = i % 3;
            let common = rng.random::<f64>();
            let mut cell = |j: usize| (class * (j + 1)) as f64 * 3.0 + common + rng.random::<f64>();
            let mut cells: Vec<f64> = (0..4).map(&mut cell).collect();
            cells.push(class as f64);
            (class, cells)
        };
        (0..90).map(row).collect()
    }

    fn fitted(rows: &[(usize, Vec<f64>)]) -> (Within, TiedClasses, Array2<f64>) {
        let slices: Vec<(usize, &[f64])> = rows.iter().map(|(class, row)| (*class, row.as_slice())).collect();
        let within = Within::new(&slices, 5, 4);
        let covariance = residual_covariance(&within.residuals, 5);
        let means: Vec<&[f64]> = within.means.iter().flatten().map(Vec::as_slice).collect();
        let tied = TiedClasses::new(&means, &[0.5; 5], covariance.view()).unwrap();
        (within, tied, covariance)
    }

    #[test]
    fn the_distance_is_the_smallest_of_one_whitener_per_class() {
        let rows = rows();
        let (within, tied, covariance) = fitted(&rows);
        assert_eq!(within.means.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!((tied.blind(), tied.dimension()), (&[4][..], 4));
        let means: Vec<&Vec<f64>> = within.means.iter().flatten().collect();
        let whiteners: Vec<Whitener> =
            means.iter().map(|mean| Whitener::new(mean, covariance.view()).unwrap()).collect();
        let mut scratch = Vec::new();
        for (i, (_, row)) in rows.iter().enumerate() {
            let mut row = row.clone();
            if i % 4 == 0 {
                row[i % 5] = [f64::NAN, f64::INFINITY][i % 2];
            }
            row[1] += 0.1 * i as f64;
            let plain = whiteners.iter().map(|whitener| whitener.distance_squared(&row, &mut scratch));
            let plain = plain.fold(f64::INFINITY, f64::min);
            assert_close(tied.distance_squared(&row, &mut scratch), plain, 1e-9, 1e-9, &format!("row {i}"));
            let mut parts = Vec::new();
            tied.contributions(&row, &mut parts);
            assert_close(parts.iter().map(|part| part.1).sum(), plain, 1e-9, 1e-9, &format!("shares of row {i}"));
        }
    }

    #[test]
    fn the_void_between_the_classes_is_far_although_it_is_the_mean() {
        let (within, tied, _) = fitted(&rows());
        let means: Vec<&Vec<f64>> = within.means.iter().flatten().collect();
        let between: Vec<f64> = means[0].iter().zip(means[1]).map(|(a, b)| 0.5 * (a + b)).collect();
        let mut scratch = Vec::new();
        assert!(tied.distance_squared(means[2], &mut scratch) < 1e-9);
        assert!(tied.distance_squared(&between, &mut scratch) > 20.0);
        assert_eq!(tied.distance_squared(&[f64::NAN; 5], &mut scratch), 0.0);
    }
}
