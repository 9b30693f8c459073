//! Rows as points, and the distance between them.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::reference::{Half, Reference};
use crate::schema::Row;
use crate::stats::cholesky::{invert_lower, ridged_cholesky};

/// Below this share of the mean square a variance is rounding noise.
const NEGLIGIBLE: f64 = 1e-24;
/// Largest centred value, so that its products stay finite.
const FAR: f64 = 1e100;
/// Steps of a [`Coarse`] row in a standard deviation.
const STEPS: f64 = 32.0;

/// Whitens numbers by the training covariance. Everything that has no distance of its own is a *level*, and two levels
/// that differ count 1: categories, whether a number is missing, and values of a column that was constant in training.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    sighted: Vec<usize>,
    constant: Vec<usize>,
    /// Number of categories.
    codes: usize,
    location: Vec<f64>,
    deviation: Vec<f64>,
    /// Lower triangle: inverse Cholesky factor of the correlation.
    whiten: Array2<f64>,
}

/// One encoded row.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// Scaled and centred values of the sighted columns, 0 where missing.
    centred: Vec<f64>,
    whitened: Vec<f64>,
    /// First one per sighted column (0: present), then the others.
    levels: Vec<u64>,
}

/// A row in few digits, to be stored: numbers in steps of 1/32 standard deviation, at most 1,000 of them from the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Coarse {
    steps: Vec<i16>,
    levels: Vec<u64>,
}

impl Encoder {
    /// By the fit half of `reference` (the calibration half if that is empty). Should its covariance be unusable, columns
    /// are scaled only.
    pub(crate) fn new(reference: &Reference) -> Self {
        let fit = reference.moments(Half::Fit);
        let (mean, covariance, _) = if fit.2 > 0 { fit } else { reference.moments(Half::Calibration) };
        let varies = |&i: &usize| {
            let variance = covariance[[i, i]];
            mean[i].is_finite() && variance.is_finite() && variance > NEGLIGIBLE * (mean[i] * mean[i] + variance)
        };
        let (sighted, constant): (Vec<usize>, Vec<usize>) = (0..mean.len()).partition(varies);
        let deviation: Vec<f64> = sighted.iter().map(|&i| covariance[[i, i]].sqrt()).collect();
        let correlation = Array2::from_shape_fn((sighted.len(), sighted.len()), |(i, j)| {
            covariance[[sighted[i], sighted[j]]] / deviation[i] / deviation[j]
        });
        let whiten = match ridged_cholesky(&correlation) {
            Ok((factor, _)) => invert_lower(&factor),
            Err(_) => Array2::eye(sighted.len()),
        };
        let location = sighted.iter().map(|&i| mean[i]).collect();
        let codes = reference.schema().code_columns().len();
        Encoder { sighted, constant, codes, location, deviation, whiten }
    }

    /// `row` as a point.
    pub(crate) fn encode(&self, row: &Row) -> Point {
        let values = row.values();
        let read = |&column: &usize| values.get(column).copied().unwrap_or(f64::NAN);
        let level = |value: f64| match value {
            _ if value.is_finite() => 0,
            _ if value.is_nan() => 1,
            _ => 2 + u64::from(value > 0.0),
        };
        let scale = self.location.iter().zip(&self.deviation);
        let centred: Vec<f64> = (self.sighted.iter().map(read))
            .zip(scale)
            .map(|(x, (mean, s))| if x.is_finite() { ((x - mean) / s).clamp(-FAR, FAR) } else { 0.0 })
            .collect();
        let missing = self.sighted.iter().map(|column| level(read(column)));
        let codes = row.codes().iter().map(|&code| u64::from(code));
        let constant = self.constant.iter().map(|column| match read(column) {
            value if value.is_nan() => f64::NAN.to_bits(),
            value => (value + 0.0).to_bits(),
        });
        let levels = missing.chain(codes).chain(constant).collect();
        self.point(centred, levels)
    }

    fn point(&self, centred: Vec<f64>, levels: Vec<u64>) -> Point {
        let whitened = (0..centred.len())
            .map(|i| self.whiten.row(i).iter().zip(&centred).take(i + 1).map(|(w, c)| w * c).sum())
            .collect();
        Point { centred, whitened, levels }
    }

    /// `row` as it is stored.
    pub(crate) fn coarse(&self, row: &Row) -> Coarse {
        let Point { centred, levels, .. } = self.encode(row);
        Coarse { steps: centred.iter().map(|value| (value * STEPS).round() as i16).collect(), levels }
    }

    /// A stored row as a point; `None` if an encoder of other columns stored it.
    pub(crate) fn restore(&self, coarse: &Coarse) -> Option<Point> {
        let levels = self.sighted.len() + self.codes + self.constant.len();
        let fits = coarse.steps.len() == self.sighted.len() && coarse.levels.len() == levels;
        let centred = || coarse.steps.iter().map(|&steps| f64::from(steps) / STEPS).collect();
        fits.then(|| self.point(centred(), coarse.levels.clone()))
    }

    /// Number of columns with a distance of their own.
    pub(crate) fn dimension(&self) -> usize {
        self.sighted.len()
    }

    /// Squared distance. A number that only one of the two has adds 1 and nothing else.
    pub(crate) fn distance_squared(&self, a: &Point, b: &Point) -> f64 {
        let levels = a.levels.iter().zip(&b.levels).filter(|(x, y)| x != y).count() as f64;
        let dimension = a.centred.len();
        let lonely = |&j: &usize| (a.levels[j] == 0) != (b.levels[j] == 0);
        let lonely: Vec<usize> = if levels == 0.0 { Vec::new() } else { (0..dimension).filter(lonely).collect() };
        let pairs = a.whitened.iter().zip(&b.whitened).enumerate();
        let numbers: f64 = pairs
            .map(|(i, (x, y))| {
                let alone = lonely.iter().take_while(|&&j| j <= i);
                let undo: f64 = alone.map(|&j| self.whiten[[i, j]] * (a.centred[j] - b.centred[j])).sum();
                (x - y - undo).powi(2)
            })
            .sum();
        let total = levels + numbers;
        if total.is_nan() { f64::INFINITY } else { total }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::sampling::unit_interval;
    use crate::{Dataset, Field, Label, Schema, Target};
    use std::sync::Arc;

    /// Two correlated numbers, one that is always 7, and a category.
    fn encoder() -> (Arc<Schema>, Encoder) {
        let fields = ["a", "b", "seven"].map(|name| Field::number(name).nullable());
        let country = Field::category("country", ["DE", "FR"]).nullable();
        let schema = Arc::new(Schema::new(fields.into_iter().chain([country]), Target::Value).unwrap());
        let mut data = Dataset::new(schema.clone());
        for i in 0..2_000_u32 {
            let [u, v] = [0, 1].map(|seed| unit_interval(seed, &i.to_le_bytes()));
            data.push(Row::from_values(&schema, &[10.0 * u, 100.0 * (u + v), 7.0]).unwrap(), Label::Value(0.0), 1.0)
                .unwrap();
        }
        let encoder = Encoder::new(&Reference::fit(&data).unwrap());
        (schema, encoder)
    }

    #[test]
    fn distances_are_those_of_mahalanobis() {
        let (schema, encoder) = encoder();
        let (mean, covariance, _) = {
            let mut data = Dataset::new(schema.clone());
            for i in 0..2_000_u32 {
                let [u, v] = [0, 1].map(|seed| unit_interval(seed, &i.to_le_bytes()));
                let row = Row::from_values(&schema, &[10.0 * u, 100.0 * (u + v), 7.0]).unwrap();
                data.push(row, Label::Value(0.0), 1.0).unwrap();
            }
            Reference::fit(&data).unwrap().moments(Half::Fit)
        };
        assert!(mean[2] == 7.0);
        let point = |a: f64, b: f64| encoder.encode(&Row::from_values(&schema, &[a, b, 7.0]).unwrap());
        // (1, 3) through the inverse of the 2 x 2 covariance, by hand.
        let (p, q, r) = (covariance[[0, 0]], covariance[[0, 1]], covariance[[1, 1]]);
        let expected = (r * 1.0 - 2.0 * q * 3.0 + p * 9.0) / (p * r - q * q);
        let found = encoder.distance_squared(&point(2.0, 50.0), &point(3.0, 53.0));
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        assert_eq!(encoder.distance_squared(&point(2.0, 50.0), &point(2.0, 50.0)), 0.0);
    }

    #[test]
    fn a_stored_row_comes_back_to_within_half_a_step() {
        let (schema, encoder) = encoder();
        for (a, b) in [(2.0, 50.0), (f64::NAN, 90.0), (5.0, -1e300)] {
            let row = Row::from_values(&schema, &[a, b, 7.0]).unwrap();
            let text = serde_json::to_string(&encoder.coarse(&row)).unwrap();
            let back = encoder.restore(&serde_json::from_str(&text).unwrap()).unwrap();
            let centred = encoder.encode(&row).centred;
            for (found, expected) in back.centred.iter().zip(centred) {
                assert!((found - expected.clamp(-1_024.0, 1_024.0)).abs() <= 0.5 / STEPS, "{found} {expected}");
            }
            assert_eq!(back.levels, encoder.encode(&row).levels);
        }
        assert!(encoder.restore(&Coarse { steps: vec![0], levels: vec![0] }).is_none());
    }

    #[test]
    fn levels_that_differ_count_one_each() {
        let (schema, encoder) = encoder();
        let mut row = Row::from_values(&schema, &[2.0, 50.0, 7.0]).unwrap();
        let base = encoder.encode(&row);
        row.codes[0] = 1;
        assert_eq!(encoder.distance_squared(&base, &encoder.encode(&row)), 1.0, "another category");
        row.values[2] = 8.0;
        assert_eq!(encoder.distance_squared(&base, &encoder.encode(&row)), 2.0, "a constant that changed");
    }

    #[test]
    fn a_missing_number_is_a_level_of_its_own() {
        let (schema, encoder) = encoder();
        let point = |a: f64, b: f64| encoder.encode(&Row::from_values(&schema, &[a, b, 7.0]).unwrap());
        let missing = f64::NAN;
        assert_eq!(encoder.distance_squared(&point(missing, 50.0), &point(missing, 50.0)), 0.0);
        let one = encoder.distance_squared(&point(missing, 50.0), &point(9.0, 50.0));
        assert!((one - 1.0).abs() < 1e-9, "{one}");
        assert_eq!(one, encoder.distance_squared(&point(9.0, 50.0), &point(missing, 50.0)));
        let infinite = encoder.distance_squared(&point(f64::INFINITY, 50.0), &point(missing, 50.0));
        assert_eq!(infinite, 1.0);
    }
}
