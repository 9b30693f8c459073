//! Robust location and covariance: the minimum covariance determinant (Rousseeuw 1984) by the fast algorithm of Rousseeuw
//! and Van Driessen (1999).

use super::categorical::chi_square_upper;
use super::cholesky::{invert_lower, ridged_cholesky};
use super::scale::{Scale, finite};
use ndarray::{Array1, Array2, ArrayView1, Axis};
use rand::{SeedableRng, rngs::StdRng, seq::index};

/// Starts from p + 1 random rows, on top of the three fixed ones, at most.
const RANDOM_STARTS: usize = 500;

/// Columns that all random starts have together, at most: with many columns hardly one start is without outliers, and each
/// takes long.
const START_COLUMNS: usize = 5_000;

/// Rows among which the first two steps of a start are taken, at most.
const TRIAL_ROWS: usize = 500;

/// Starts that are followed to the end.
const FINALISTS: usize = 10;

/// Most concentration steps of one start; it converges long before.
const STEPS: usize = 30;

/// Rows further out than this quantile of the chi-square distribution do not count in the final estimate.
const REWEIGHT: f64 = 0.975;

const SEED: u64 = 0x6d69_6e63_6f76_6474;

/// What is left of the standard deviation of a column that most rows agree on.
const EXACT_FIT: f64 = 1e-3;

/// Location and covariance that up to half of the rows cannot move at will.
///
/// Of all subsets of `h` rows, that whose covariance has the smallest determinant is sought by concentration steps
/// (keep the h rows nearest to the last estimate) from fixed and seeded random starts. Its covariance, made consistent
/// for normal data (Croux and Haesbroeck 1999), weeds out the rows beyond the 97.5 % quantile; the mean and
/// covariance of the rest, made consistent likewise, are the estimate, as in scikit-learn's `MinCovDet`.
///
/// A missing cell counts as the median of its column. A column that does not vary has the location NaN and the
/// covariance 0. A column that has one value in at least `h` rows would make every determinant 0 (exact fit: any other
/// value is infinitely far). It is left out of the search and enters with that value and a thousandth of its standard
/// deviation, uncorrelated: any other value is far.
pub(crate) struct MinCovDet {
    pub(crate) location: Vec<f64>,
    pub(crate) covariance: Array2<f64>,
    #[cfg(test)]
    raw: Estimate,
    #[cfg(test)]
    scale: Robust,
}

impl MinCovDet {
    /// Of `rows` with `columns` cells each; `fraction` of the rows is relied on, ⌈(n + p + 1)/2⌉ of them if it is `None`.
    /// `None` with fewer than 2(p + 1) rows for p columns that vary.
    pub(crate) fn new(rows: &[&[f64]], columns: usize, fraction: Option<f64>) -> Option<Self> {
        let plain = Scale::new(rows, columns);
        let (n, p) = (rows.len(), plain.kept().len());
        if n < 2 * (p + 1) {
            return None;
        }
        let h = fraction.map_or((n + p + 1).div_ceil(2), |fraction| (fraction * n as f64) as usize).clamp(p + 1, n);
        let (mut location, mut covariance) = (vec![f64::NAN; columns], Array2::zeros((columns, columns)));
        let mut kept = Vec::new();
        for (position, &column) in plain.kept().iter().enumerate() {
            let (value, count) = most_frequent(rows, column);
            if count < h {
                kept.push(column);
            } else {
                let (_, deviation) = plain.moments(position);
                (location[column], covariance[[column, column]]) = (value, (EXACT_FIT * deviation).powi(2));
            }
        }
        let scale = Robust::new(rows, &kept);
        let cells = scale.apply(rows, &kept);
        let raw = search(&cells, h)?;
        let last = raw.reweighted(&cells, h)?;
        for (i, &row) in kept.iter().enumerate() {
            location[row] = scale.centre[i] + scale.width[i] * last.location[i];
            for (j, &column) in kept.iter().enumerate() {
                covariance[[row, column]] = last.covariance[[i, j]] * scale.width[i] * scale.width[j];
            }
        }
        #[cfg(test)]
        return Some(MinCovDet { location, covariance, raw, scale });
        #[cfg(not(test))]
        Some(MinCovDet { location, covariance })
    }
}

/// The most frequent value of a column and how many rows have it, missing cells counted with them.
fn most_frequent(rows: &[&[f64]], column: usize) -> (f64, usize) {
    let mut values: Vec<f64> = finite(rows, column).collect();
    values.sort_unstable_by(f64::total_cmp);
    let most = values.chunk_by(|a, b| a == b).max_by_key(|group| group.len()).unwrap_or(&[]);
    (most.first().copied().unwrap_or(f64::NAN), rows.len() - values.len() + most.len())
}

/// Median and median absolute deviation of each column; the mean absolute deviation where that is 0.
struct Robust {
    centre: Vec<f64>,
    width: Vec<f64>,
}

impl Robust {
    fn new(rows: &[&[f64]], kept: &[usize]) -> Self {
        let (mut centre, mut width) = (Vec::new(), Vec::new());
        for &column in kept {
            let mut values: Vec<f64> = finite(rows, column).collect();
            let middle = median(&mut values);
            values.iter_mut().for_each(|x| *x = (*x - middle).abs());
            let mean = values.iter().map(|x| x / values.len() as f64).sum::<f64>();
            let deviation = median(&mut values);
            centre.push(middle);
            width.push(if deviation > 0.0 { deviation } else { mean });
        }
        Robust { centre, width }
    }

    fn apply(&self, rows: &[&[f64]], kept: &[usize]) -> Array2<f64> {
        Array2::from_shape_fn((rows.len(), kept.len()), |(row, i)| {
            let x = rows[row].get(kept[i]).copied().unwrap_or(f64::NAN);
            if x.is_finite() { (x - self.centre[i]) / self.width[i] } else { 0.0 }
        })
    }
}

/// The upper median. Reorders `values`, of which there is at least one.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Mean and covariance (divided by n) of some rows.
struct Estimate {
    location: Array1<f64>,
    covariance: Array2<f64>,
}

impl Estimate {
    fn new(cells: &Array2<f64>, support: &[usize]) -> Self {
        let mut rows = cells.select(Axis(0), support);
        let n = support.len().max(1) as f64;
        let location = rows.sum_axis(Axis(0)) / n;
        rows -= &location;
        let covariance = rows.t().dot(&rows) / n;
        Estimate { location, covariance }
    }

    /// Squared distances of all rows.
    fn distances(&self, cells: &Array2<f64>) -> Option<Vec<f64>> {
        let (factor, _) = ridged_cholesky(&self.covariance).ok()?;
        let whitened = (cells - &self.location).dot(&invert_lower(&factor).t());
        Some(whitened.rows().into_iter().map(|row| row.dot(&row)).collect())
    }

    /// The estimate of the rows that are not further out than normal data would be.
    fn reweighted(&self, cells: &Array2<f64>, h: usize) -> Option<Estimate> {
        let (n, p) = cells.dim();
        let limit = consistency(p, h as f64 / n as f64) * chi_square_quantile(1.0 - REWEIGHT, p);
        let distances = self.distances(cells)?;
        let central: Vec<usize> = (0..n).filter(|&row| distances[row] < limit).collect();
        let mut last = Estimate::new(cells, &central);
        last.covariance *= consistency(p, REWEIGHT);
        Some(last)
    }

    fn log_determinant(&self) -> f64 {
        let factor = ridged_cholesky(&self.covariance).ok();
        factor.map_or(f64::INFINITY, |(factor, _)| factor.diag().iter().map(|pivot| 2.0 * pivot.ln()).sum())
    }
}

/// The `h` rows of the smallest distances, ascending by row.
fn nearest(distances: &[f64], h: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..distances.len()).collect();
    if h < order.len() {
        order.select_nth_unstable_by(h, |&a, &b| distances[a].total_cmp(&distances[b]).then(a.cmp(&b)));
        order.truncate(h);
    }
    order.sort_unstable();
    order
}

/// Concentration steps until nothing changes, `most` of them at most.
fn concentrate(cells: &Array2<f64>, mut support: Vec<usize>, h: usize, most: usize) -> Option<Vec<usize>> {
    for _ in 0..most {
        let next = nearest(&Estimate::new(cells, &support).distances(cells)?, h);
        if next == support {
            break;
        }
        support = next;
    }
    Some(support)
}

/// The estimate of the smallest determinant that was found: two steps of every start among some of the rows, the best ones to
/// their end among all.
fn search(cells: &Array2<f64>, h: usize) -> Option<Estimate> {
    let trial = TRIAL_ROWS.max(4 * (cells.ncols() + 1));
    let (n, stride) = (cells.nrows(), cells.nrows().div_ceil(trial));
    let some = cells.select(Axis(0), &(0..n).step_by(stride).collect::<Vec<_>>());
    let few = (h * some.nrows()).div_ceil(n);
    let begin = |support: Vec<usize>| {
        let support = concentrate(&some, support, few, 2)?;
        Some((Estimate::new(&some, &support).log_determinant(), support))
    };
    let finish = |(_, support): (f64, Vec<usize>)| {
        let support = nearest(&Estimate::new(&some, &support).distances(cells)?, h);
        let estimate = Estimate::new(cells, &concentrate(cells, support, h, STEPS)?);
        Some((estimate.log_determinant(), estimate))
    };
    let mut found: Vec<(f64, Vec<usize>)> = starts(&some, few).into_iter().filter_map(begin).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.truncate(FINALISTS);
    let finished = found.into_iter().filter_map(finish);
    finished.reduce(|best, next| if next.0 < best.0 { next } else { best }).map(|(_, estimate)| estimate)
}

/// Three fixed starts, as in the deterministic variant (Hubert, Rousseeuw and Verdonck 2012): the h rows nearest to the
/// medians, and the h nearest by the covariance of the hyperbolic tangents and of the spatial signs. Then random ones.
fn starts(cells: &Array2<f64>, h: usize) -> Vec<Vec<usize>> {
    let (n, p) = cells.dim();
    let norm = |row: ArrayView1<'_, f64>| row.dot(&row);
    let norms: Vec<f64> = cells.rows().into_iter().map(norm).collect();
    let mut signs = cells.clone();
    for (mut row, norm) in signs.rows_mut().into_iter().zip(&norms) {
        row /= norm.sqrt().max(f64::MIN_POSITIVE);
    }
    let mut starts = vec![nearest(&norms, h)];
    for bounded in [cells.mapv(f64::tanh), signs] {
        let covariance = bounded.t().dot(&bounded) / n as f64;
        let estimate = Estimate { location: Array1::zeros(p), covariance };
        starts.extend(estimate.distances(cells).map(|distances| nearest(&distances, h)));
    }
    let mut rng = StdRng::seed_from_u64(SEED);
    let count = RANDOM_STARTS.min(START_COLUMNS.div_ceil(p.max(1)));
    starts.extend((0..count).map(|_| index::sample(&mut rng, n, p + 1).into_vec()));
    starts
}

/// What the covariance of the central share `alpha` of normal data has to be multiplied with (Croux and Haesbroeck 1999).
fn consistency(columns: usize, alpha: f64) -> f64 {
    let quantile = chi_square_quantile(1.0 - alpha, columns);
    alpha / (1.0 - chi_square_upper(quantile, columns + 2))
}

/// Where the chi-square distribution leaves `upper` above; infinity if that is nowhere.
fn chi_square_quantile(upper: f64, degrees_of_freedom: usize) -> f64 {
    if upper <= 0.0 || degrees_of_freedom == 0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while chi_square_upper(high, degrees_of_freedom) > upper {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if chi_square_upper(middle, degrees_of_freedom) > upper { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests;
