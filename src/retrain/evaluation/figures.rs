//! One model's figures over a set of rows, laid out so that a resample costs one pass of multiply-and-add.

use super::metric::{CostMatrix, Metric};
use crate::event::{Label, predicted_label};
use crate::schema::Target;
use crate::stats::bootstrap::counted_sum;

/// Bins of the calibration error.
const BINS: usize = 10;

/// A set of rows that is measured: labels and weights.
pub(super) struct Group {
    labels: Vec<Label>,
    weights: Vec<f64>,
    /// Labels less their weighted mean, and the square of that, times the weight; of values only.
    centred: Option<(Vec<f64>, Vec<f64>)>,
}

impl Group {
    pub(super) fn new(target: &Target, labels: Vec<Label>, mut weights: Vec<f64>) -> Self {
        // Equal weights say nothing; as ones they are exact.
        if weights.iter().all(|weight| Some(weight) == weights.first() && *weight > 0.0) {
            weights.fill(1.0);
        }
        let centred = matches!(target, Target::Value).then(|| {
            let total: f64 = weights.iter().sum();
            let mean = labels.iter().zip(&weights).map(|(label, weight)| label.number() * weight).sum::<f64>() / total;
            let distances = || labels.iter().map(|label| label.number() - mean).zip(&weights);
            (distances().map(|(d, w)| d * w).collect(), distances().map(|(d, w)| d * d * w).collect())
        });
        Group { labels, weights, centred }
    }

    pub(super) fn rows(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    fn class(&self, row: usize) -> usize {
        if let Label::Class(class) = self.labels[row] { class as usize } else { 0 }
    }

    /// Weight of a resample.
    pub(super) fn weight(&self, counts: &[u16]) -> f64 {
        counted_sum(counts, &self.weights)
    }
}

/// A figure that is a mean over rows: `figures[i]` is weight · figure of row i.
pub(super) struct Mean {
    slot: usize,
    pub(super) figures: Vec<f64>,
    root: bool,
}

impl Mean {
    /// Is it plainly the mean, so that its skewness is that of the rows?
    pub(super) fn is_plain(&self) -> bool {
        !self.root
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }
}

/// The rows in ascending order of one class's probability.
struct Ranking {
    order: Vec<u32>,
    /// Weight of the row, below 0 if it is of another class; in that order.
    signed: Vec<f64>,
    /// Is it the last of those with equal probability?
    last: Vec<bool>,
}

/// What one model said of a [`Group`], prepared for every metric.
pub(super) struct Figures {
    pub(super) means: Vec<Mean>,
    squares: Option<(usize, Vec<f64>)>,
    /// Predicted class of each row; the number of classes if it is none.
    predicted: Vec<u32>,
    classes: usize,
    by_class: Vec<(usize, Metric)>,
    /// Bin of each row, and weight · (hit − confidence).
    calibration: Option<(usize, Vec<u8>, Vec<f64>)>,
    ranks: Option<(usize, Vec<Ranking>)>,
    pub(super) unusable: usize,
    slots: usize,
}

impl Figures {
    /// `outputs` are of the rows of `group`, in order; `metrics` were checked.
    pub(super) fn new(
        target: &Target,
        group: &Group,
        outputs: &[&[f64]],
        metrics: &[Metric],
        costs: Option<&CostMatrix>,
    ) -> Self {
        let rows = group.rows();
        let said: Vec<Option<Label>> = outputs.iter().map(|output| predicted_label(target, output)).collect();
        let classes = if let Target::Classes(names) = target { names.len() } else { 0 };
        let class = |row: usize| match said[row] {
            Some(Label::Class(class)) => Some(class as usize),
            _ => None,
        };
        let unusable = said.iter().filter(|said| said.is_none()).count();
        let mut figures = Figures {
            means: Vec::new(),
            squares: None,
            predicted: Vec::new(),
            classes,
            by_class: Vec::new(),
            calibration: None,
            ranks: None,
            unusable,
            slots: metrics.len(),
        };
        let error = |row: usize| said[row].map_or(f64::NAN, |said| group.labels[row].number() - said.number());
        let weighed = |figure: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..rows).map(|row| group.weights[row] * figure(row)).collect()
        };
        for (slot, metric) in metrics.iter().enumerate() {
            let mean = |figures: Vec<f64>, root: bool, all: &mut Figures| {
                all.means.push(Mean { slot, figures, root });
            };
            match metric {
                Metric::Accuracy => {
                    let right = |row: usize| f64::from(class(row) == Some(group.class(row)));
                    mean(weighed(&right), false, &mut figures);
                }
                Metric::LogLoss if unusable == 0 => {
                    let loss =
                        |row: usize| -outputs[row][group.class(row)].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
                    mean(weighed(&loss), false, &mut figures);
                }
                Metric::Brier if unusable == 0 => {
                    let loss = |row: usize| quadratic(outputs[row], group.class(row));
                    mean(weighed(&loss), false, &mut figures);
                }
                Metric::Cost => {
                    let cost = |row: usize| costs.map_or(f64::NAN, |costs| costs.of(group.class(row), class(row)));
                    mean(weighed(&cost), false, &mut figures);
                }
                Metric::MeanAbsoluteError if unusable == 0 => {
                    mean(weighed(&|row| error(row).abs()), false, &mut figures);
                }
                Metric::RootMeanSquaredError if unusable == 0 => {
                    mean(weighed(&|row| error(row).powi(2)), true, &mut figures);
                }
                Metric::RSquared if unusable == 0 => {
                    figures.squares = Some((slot, weighed(&|row| error(row).powi(2))));
                }
                Metric::BalancedAccuracy | Metric::F1 | Metric::F1Of(_) => figures.by_class.push((slot, *metric)),
                Metric::CalibrationError if unusable == 0 => {
                    let binary = classes == 2;
                    let confidence = |row: usize| outputs[row][if binary { 1 } else { class(row).unwrap_or(0) }];
                    let hit = |row: usize| {
                        let expected = if binary { Some(1) } else { class(row) };
                        f64::from(expected == Some(group.class(row)))
                    };
                    let bin = |row: usize| ((confidence(row) * BINS as f64) as usize).min(BINS - 1) as u8;
                    let gaps = weighed(&|row| hit(row) - confidence(row));
                    figures.calibration = Some((slot, (0..rows).map(bin).collect(), gaps));
                }
                Metric::Auroc if unusable == 0 => {
                    let ranked = if classes == 2 { 1..2 } else { 0..classes };
                    figures.ranks = Some((slot, ranked.map(|class| Ranking::new(group, outputs, class)).collect()));
                }
                _ => {}
            }
        }
        if !figures.by_class.is_empty() {
            figures.predicted = (0..rows).map(|row| class(row).unwrap_or(classes) as u32).collect();
        }
        figures
    }

    /// The metrics of a resample in which row i comes `counts[i]` times and everything weighs `weight`; NaN where they are
    /// undefined.
    pub(super) fn measure(&self, group: &Group, counts: &[u16], weight: f64, out: &mut [f64]) {
        out[..self.slots].fill(f64::NAN);
        if weight.is_nan() || weight <= 0.0 {
            return;
        }
        for mean in &self.means {
            let value = counted_sum(counts, &mean.figures) / weight;
            out[mean.slot] = if mean.root { value.sqrt() } else { value };
        }
        if let (Some((slot, squares)), Some((centred, centred_squares))) = (&self.squares, &group.centred) {
            let sum = counted_sum(counts, centred);
            let spread = counted_sum(counts, centred_squares) - sum * sum / weight;
            // What is left of a constant label is rounding.
            if spread > 1e-12 * counted_sum(counts, centred_squares) {
                out[*slot] = 1.0 - counted_sum(counts, squares) / spread;
            }
        }
        if !self.by_class.is_empty() {
            self.measure_classes(group, counts, out);
        }
        if let Some((slot, bins, gaps)) = &self.calibration {
            let mut sums = [0.0; BINS];
            for ((count, bin), gap) in counts.iter().zip(bins).zip(gaps) {
                sums[usize::from(*bin)] += f64::from(*count) * gap;
            }
            out[*slot] = sums.iter().map(|sum: &f64| sum.abs()).sum::<f64>() / weight;
        }
        if let Some((slot, ranks)) = &self.ranks {
            let areas = ranks.iter().filter_map(|ranking| ranking.area(counts));
            let (sum, count) = areas.fold((0.0, 0.0), |(sum, count), area| (sum + area, count + 1.0));
            if count > 0.0 {
                out[*slot] = sum / count;
            }
        }
    }

    fn measure_classes(&self, group: &Group, counts: &[u16], out: &mut [f64]) {
        // True, predicted, both; the last predicted class is «none».
        let mut sums = vec![[0.0; 3]; self.classes + 1];
        for (row, (count, predicted)) in counts.iter().zip(&self.predicted).enumerate() {
            let weight = f64::from(*count) * group.weights[row];
            let (truth, predicted) = (group.class(row), *predicted as usize);
            sums[truth][0] += weight;
            sums[predicted][1] += weight;
            sums[truth][2] += if truth == predicted { weight } else { 0.0 };
        }
        let recall = |[truth, _, both]: &[f64; 3]| (*truth > 0.0).then(|| both / truth);
        let f1 =
            |[truth, predicted, both]: &[f64; 3]| (truth + predicted > 0.0).then(|| 2.0 * both / (truth + predicted));
        let classes = &sums[..self.classes];
        for (slot, metric) in &self.by_class {
            let value = match metric {
                Metric::BalancedAccuracy => crate::stats::metrics::mean(classes.iter().map(recall)),
                Metric::F1Of(class) => classes.get(*class as usize).and_then(f1),
                _ => crate::stats::metrics::mean(classes.iter().map(f1)),
            };
            out[*slot] = value.unwrap_or(f64::NAN);
        }
    }
}

/// Squared distance of the probabilities from the truth.
fn quadratic(output: &[f64], truth: usize) -> f64 {
    match output {
        [_, second] => (second - f64::from(truth == 1)).powi(2),
        all => all.iter().enumerate().map(|(class, p)| (p - f64::from(class == truth)).powi(2)).sum(),
    }
}

impl Ranking {
    fn new(group: &Group, outputs: &[&[f64]], class: usize) -> Self {
        let score = |row: u32| outputs[row as usize][class];
        let mut order: Vec<u32> = (0..outputs.len() as u32).collect();
        order.sort_by(|a, b| score(*a).total_cmp(&score(*b)));
        let sign = |row: &u32| if group.class(*row as usize) == class { 1.0 } else { -1.0 };
        let signed = order.iter().map(|row| sign(row) * group.weights[*row as usize]).collect();
        let ends = order.windows(2).map(|pair| score(pair[0]) != score(pair[1]));
        let last = ends.chain(std::iter::once(true)).take(order.len()).collect();
        Ranking { order, signed, last }
    }

    /// Share of the pairs of a positive and another row in which the positive one is ahead; `None` without pairs.
    fn area(&self, counts: &[u16]) -> Option<f64> {
        let (mut positives, mut negatives, mut wins) = (0.0, 0.0, 0.0);
        let (mut tied_positives, mut tied_negatives) = (0.0, 0.0);
        for ((row, signed), last) in self.order.iter().zip(&self.signed).zip(&self.last) {
            let weight = f64::from(counts[*row as usize]) * signed;
            tied_positives += weight.max(0.0);
            tied_negatives -= weight.min(0.0);
            if *last {
                wins += tied_positives * (negatives + 0.5 * tied_negatives);
                positives += tied_positives;
                negatives += tied_negatives;
                (tied_positives, tied_negatives) = (0.0, 0.0);
            }
        }
        (positives > 0.0 && negatives > 0.0).then(|| wins / (positives * negatives))
    }
}
