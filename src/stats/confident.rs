//! Confident learning: which labels are likely wrong, by probabilities that a model gave (Northcutt, Jiang and Chuang
//! 2021).

use ndarray::{Array2, ArrayViewMut1, Axis};

/// Probabilities this close together count as equal, as in cleanlab.
pub(crate) const CLOSE: f64 = 1e-6;
/// Largest noise rate.
const MOST_NOISE: f64 = 0.9999;
/// Smallest share of a class.
const LEAST_SHARE: f64 = 1e-6;

/// Which rows confident learning points at.
///
/// A row whose given class is the most probable one (within 1e-6) is left alone by every rule but the last two. Ties at
/// the last place go to the earlier row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IssueRule {
    /// Of each given class and each other class, as many rows as the joint distribution has there: those where the
    /// other class leads most. The default of the authors' library, cleanlab.
    #[default]
    PruneByNoiseRate,
    /// Of each given class, as many rows as the joint distribution has beside it: those where it is least probable.
    PruneByClass,
    /// What both of the above point at.
    Both,
    /// The rows that were counted confidently as another class.
    ConfidentLearning,
    /// The rows for which another class is more probable than the given.
    PredictedNotGiven,
    /// As many rows as by [`IssueRule::ConfidentLearning`]: those where the given class leads least.
    LowNormalizedMargin,
    /// As many rows as by [`IssueRule::ConfidentLearning`]: those where the given class is least probable.
    LowSelfConfidence,
}

/// Rows with a given class each, below the number of classes, and a probability of each class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labelled<'a> {
    /// The given class of each row.
    pub(crate) labels: &'a [u32],
    /// Row by row.
    pub(crate) probabilities: &'a [f64],
    /// Number of classes.
    pub(crate) classes: usize,
}

impl<'a> Labelled<'a> {
    pub(crate) fn row(&self, row: usize) -> &'a [f64] {
        &self.probabilities[row * self.classes..][..self.classes]
    }

    fn rows(&self) -> impl Iterator<Item = (usize, &'a [f64])> {
        self.labels.iter().map(|label| *label as usize).zip(self.probabilities.chunks_exact(self.classes))
    }

    /// Is the given class the most probable one? It is 1e-6 ahead; of equals, the first wins.
    fn agrees(&self, row: usize) -> bool {
        let (row, given) = (self.row(row), self.labels[row] as usize);
        let own = row[given] + CLOSE;
        row[..given].iter().all(|p| *p < own) && row[given..].iter().all(|p| *p <= own)
    }

    /// Probability of the given class.
    pub(crate) fn self_confidence(&self, row: usize) -> f64 {
        self.row(row)[self.labels[row] as usize]
    }

    /// By how much the given class leads the most probable other one, scaled to 0..1; 1 if there is no other.
    pub(crate) fn normalized_margin(&self, row: usize) -> f64 {
        let (row, given) = (self.row(row), self.labels[row] as usize);
        let others = row[..given].iter().chain(&row[given + 1..]);
        let most = others.copied().fold(f64::NEG_INFINITY, f64::max);
        if most.is_finite() { (row[given] - most + 1.0) / 2.0 } else { 1.0 }
    }
}

/// The class of the largest probability, the first of equals.
pub(crate) fn argmax(probabilities: &[f64]) -> usize {
    let larger = |best: usize, at: usize| if probabilities[at] > probabilities[best] { at } else { best };
    (1..probabilities.len()).fold(0, larger)
}

/// What the labels and probabilities of some rows say about each other. Sums over rows depend on their order in the
/// last digits only.
#[derive(Clone, Debug)]
pub(crate) struct Confident {
    /// Mean probability of each class over the rows that have it; infinite for a class without rows.
    pub(crate) thresholds: Vec<f64>,
    /// Rows by (given class, class that they reach the threshold of; of several, the most probable); at least 1 on the
    /// diagonal.
    pub(crate) counted: Array2<u64>,
    /// The same, scaled to the number of rows of each given class, in whole numbers; at least 1
    /// on the diagonal of a class that has rows.
    pub(crate) joint: Array2<u64>,
    /// Rows of each given class, ascending.
    rows: Vec<Vec<usize>>,
    /// Rows counted as another class than the given, ascending.
    elsewhere: Vec<usize>,
}

impl Confident {
    pub(crate) fn new(data: Labelled<'_>) -> Self {
        let classes = data.classes;
        let mut rows = vec![Vec::new(); classes];
        let mut sums = vec![0.0; classes];
        for (at, (given, probabilities)) in data.rows().enumerate() {
            rows[given].push(at);
            sums[given] += probabilities[given];
        }
        let mean =
            |(sum, rows): (&f64, &Vec<usize>)| if rows.is_empty() { f64::INFINITY } else { sum / rows.len() as f64 };
        // as in cleanlab, more than the 1e-6 that are taken off below: a probability of 0 is never confident
        let thresholds: Vec<f64> = sums.iter().zip(&rows).map(mean).map(|mean| mean.max(2.0 * CLOSE)).collect();
        let reached: Vec<f64> = thresholds.iter().map(|threshold| threshold - CLOSE).collect();
        let (mut counted, mut elsewhere) = (Array2::zeros((classes, classes)), Vec::new());
        for (at, (given, probabilities)) in data.rows().enumerate() {
            let confident = probabilities.iter().zip(&reached).map(|(p, least)| usize::from(p >= least)).sum();
            let class = match confident {
                0 => continue,
                1 => probabilities.iter().zip(&reached).position(|(p, least)| p >= least).unwrap_or(given),
                2.. => argmax(probabilities),
            };
            counted[[given, class]] += 1;
            if class != given {
                elsewhere.push(at);
            }
        }
        counted.diag_mut().mapv_inplace(|count: u64| count.max(1));
        let mut joint = counted.clone();
        for (given, (mut row, rows)) in joint.rows_mut().into_iter().zip(&rows).enumerate() {
            let sum = row.sum() as f64;
            let scaled: Vec<f64> = row.iter().map(|count| *count as f64 / sum * rows.len() as f64).collect();
            row.iter_mut().zip(round_to(&scaled, rows.len(), given)).for_each(|(count, rounded)| *count = rounded);
        }
        Confident { thresholds, counted, joint, rows, elsewhere }
    }

    /// P(given class | true class): (given, true). All 0 for a true class that no row has.
    pub(crate) fn noise_matrix(&self) -> Array2<f64> {
        rates(self.joint.mapv(|count| count as f64))
    }

    /// P(true class | given class): (true, given). All 0 for a given class that no row has.
    pub(crate) fn inverse_noise_matrix(&self) -> Array2<f64> {
        rates(self.joint.t().mapv(|count| count as f64))
    }

    /// Share of each true class; at least 1e-6. In cleanlab it is 1e-6 as soon as no row of the class is labelled so.
    pub(crate) fn prior(&self) -> Vec<f64> {
        let mut shares = self.joint.sum_axis(Axis(0)).mapv(|count| count as f64);
        scale_to_one(shares.view_mut());
        shares.mapv_inplace(|share| share.max(LEAST_SHARE));
        scale_to_one(shares.view_mut());
        shares.to_vec()
    }

    /// The rows of `data`, from which this was made, that `rule` points at, ascending.
    pub(crate) fn issues(&self, data: Labelled<'_>, rule: IssueRule) -> Vec<usize> {
        let disagreeing =
            |rows: &[usize]| -> Vec<usize> { rows.iter().copied().filter(|row| !data.agrees(*row)).collect() };
        let lowest = |score: &dyn Fn(usize) -> f64| {
            let scored = (0..data.labels.len()).map(|row| (score(row), row)).collect();
            smallest(scored, disagreeing(&self.elsewhere).len())
        };
        let mut rows = match rule {
            IssueRule::PruneByNoiseRate => disagreeing(&self.led_by_another(data)),
            IssueRule::PruneByClass => disagreeing(&self.least_probable(data)),
            IssueRule::Both => {
                let led = self.led_by_another(data);
                let both: Vec<usize> =
                    self.least_probable(data).into_iter().filter(|row| led.binary_search(row).is_ok()).collect();
                disagreeing(&both)
            }
            IssueRule::ConfidentLearning => disagreeing(&self.elsewhere),
            IssueRule::PredictedNotGiven => (0..data.labels.len()).filter(|row| !data.agrees(*row)).collect(),
            IssueRule::LowNormalizedMargin => lowest(&|row| data.normalized_margin(row)),
            IssueRule::LowSelfConfidence => lowest(&|row| data.self_confidence(row)),
        };
        rows.sort_unstable();
        rows
    }

    /// Ascending, each once.
    fn led_by_another(&self, data: Labelled<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        for (given, rows) in self.rows.iter().enumerate() {
            for (other, &count) in self.joint.row(given).iter().enumerate() {
                if other != given && count > 0 {
                    let lead = |row: &usize| (data.row(*row)[given] - data.row(*row)[other], *row);
                    found.extend(smallest(rows.iter().map(lead).collect(), count as usize));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn least_probable(&self, data: Labelled<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        for (given, rows) in self.rows.iter().enumerate() {
            let stay = self.joint[[given, given]] as usize;
            let scored = rows.iter().map(|row| (data.self_confidence(*row), *row)).collect();
            found.extend(smallest(scored, rows.len().saturating_sub(stay)));
        }
        found
    }
}

/// The rows with the `count` smallest scores; of equals, the earlier.
fn smallest(mut scored: Vec<(f64, usize)>, count: usize) -> Vec<usize> {
    if count > 0 && count < scored.len() {
        scored.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    }
    scored.truncate(count);
    scored.into_iter().map(|(_, row)| row).collect()
}

/// Rounds numbers that sum to `total`, ties to even; then those that rounding moved most make up for what is missing
/// from the total. Of equals the one at `kept` is raised first and lowered last, and a later one raised before an
/// earlier.
fn round_to(values: &[f64], total: usize, kept: usize) -> Vec<u64> {
    let mut rounded: Vec<f64> = values.iter().map(|value| value.round_ties_even()).collect();
    let missing = total as f64 - rounded.iter().sum::<f64>();
    let mut order: Vec<usize> = (0..values.len()).collect();
    let moved = |at: &usize| values[*at] - rounded[*at];
    order.sort_by(|a, b| moved(a).total_cmp(&moved(b)).then((*a == kept).cmp(&(*b == kept))));
    if missing > 0.0 {
        order.reverse();
    }
    order.iter().take(missing.abs() as usize).for_each(|at| rounded[*at] += missing.signum());
    rounded.into_iter().map(|value| value as u64).collect()
}

fn scale_to_one(mut values: ArrayViewMut1<'_, f64>) {
    let sum = values.sum();
    if sum > 0.0 {
        values /= sum;
    }
}

/// Columns of counts as rates: each sums to 1, and none off the diagonal is above 0.9999 before that.
fn rates(mut counts: Array2<f64>) -> Array2<f64> {
    for (at, mut column) in counts.axis_iter_mut(Axis(1)).enumerate() {
        scale_to_one(column.view_mut());
        column.indexed_iter_mut().filter(|(row, _)| *row != at).for_each(|(_, rate)| *rate = rate.min(MOST_NOISE));
        scale_to_one(column);
    }
    counts
}

#[cfg(test)]
mod tests;
