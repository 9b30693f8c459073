//! Columns brought to one scale.

/// Below this share of the mean square a variance is rounding noise, as in
/// [`Whitener`](super::mahalanobis::Whitener).
const NEGLIGIBLE: f64 = 1e-24;

/// Mean and standard deviation (divided by n) of each column over its finite cells.
///
/// A column without variance, or without finite cells, is *blind*: it is left out and reported.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    kept: Vec<usize>,
    blind: Vec<usize>,
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scale {
    /// Of `rows` with `columns` cells each; a cell that a short row lacks is missing.
    pub(crate) fn new(rows: &[&[f64]], columns: usize) -> Self {
        let mut scale = Scale { kept: Vec::new(), blind: Vec::new(), mean: Vec::new(), deviation: Vec::new() };
        for column in 0..columns {
            let (mean, variance) = moments(finite(rows, column));
            if variance.is_finite() && variance > NEGLIGIBLE * (mean * mean + variance) {
                scale.kept.push(column);
                scale.mean.push(mean);
                scale.deviation.push(variance.sqrt());
            } else {
                scale.blind.push(column);
            }
        }
        scale
    }

    /// Columns that vary, ascending.
    pub(crate) fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// Columns left out, ascending.
    pub(crate) fn blind(&self) -> &[usize] {
        &self.blind
    }

    /// Mean and standard deviation of kept column number `position`.
    pub(crate) fn moments(&self, position: usize) -> (f64, f64) {
        (self.mean[position], self.deviation[position])
    }

    /// (x − mean) / deviation of the kept cells of a row, `cell(j)` in column j; NaN where the cell is missing or infinite.
    pub(crate) fn standardise(&self, cell: impl Fn(usize) -> Option<f64>, out: &mut Vec<f64>) {
        let cells = self.kept.iter().map(|&column| cell(column).filter(|x| x.is_finite()).unwrap_or(f64::NAN));
        out.extend(
            cells.zip(self.mean.iter().zip(&self.deviation)).map(|(x, (mean, deviation))| (x - mean) / deviation),
        );
    }
}

/// The finite cells of a column.
pub(crate) fn finite<'a>(rows: &'a [&[f64]], column: usize) -> impl Iterator<Item = f64> + 'a {
    rows.iter().filter_map(move |row| row.get(column).copied()).filter(|x| x.is_finite())
}

/// Mean and variance in one pass (Welford 1962); NaN and 0 without values.
fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for x in values {
        count += 1.0;
        let delta = x - mean;
        mean += delta / count;
        squares += delta * (x - mean);
    }
    if count == 0.0 { (f64::NAN, 0.0) } else { (mean, squares / count) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn standardises_what_varies_and_reports_the_rest() {
        let nan = f64::NAN;
        let noisy = 0.1 + f64::EPSILON / 8.0;
        let rows: [&[f64]; 4] = [
            &[1.0, 0.1, nan, 1e300],
            &[3.0, noisy, nan, -1e300],
            &[nan, 0.1, nan, 0.0],
            &[f64::INFINITY, 0.1, nan, 5.0],
        ];
        let scale = Scale::new(&rows, 5);
        assert_eq!((scale.kept(), scale.blind()), (&[0][..], &[1, 2, 3, 4][..]));
        let mut out = Vec::new();
        for row in [[4.0], [nan], [f64::NEG_INFINITY], [f64::MAX]] {
            scale.standardise(|column| row.get(column).copied(), &mut out);
        }
        scale.standardise(|_| None, &mut out);
        assert!(out[0] == 2.0 && out[3] > 1e307);
        assert!([1, 2, 4].iter().all(|&i: &usize| out[i].is_nan()));
    }
}
