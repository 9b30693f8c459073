//! The bootstrap (Efron 1979): how often each row comes up in a resample, and the interval that the repetitions give.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use statrs::distribution::{ContinuousCDF, Normal};

use super::quantile::quantile;

/// Draws resamples of n rows with replacement. One resample serves every statistic of every model and slice: the pairs of
/// a paired comparison stay together.
#[derive(Debug)]
pub(crate) struct Resampler {
    random: Xoshiro256PlusPlus,
}

impl Resampler {
    pub(crate) fn new(seed: u64) -> Self {
        Resampler { random: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// Sets `counts[i]` to how often row i comes up in `counts.len()` draws. Two rows are drawn from one number of 64 bits;
    /// the chance of a row is off by at most n / 2³² of itself.
    pub(crate) fn draw(&mut self, counts: &mut [u16]) {
        counts.fill(0);
        let rows = counts.len();
        let mut take = |half: u64| {
            let row = &mut counts[((half * rows as u64) >> 32) as usize];
            *row = row.saturating_add(1);
        };
        for _ in 0..rows / 2 {
            let number = self.random.next_u64();
            take(number >> 32);
            take(number & 0xffff_ffff);
        }
        if rows % 2 == 1 {
            take(self.random.next_u64() >> 32);
        }
    }
}

/// Sum of `counts[i] · figures[i]`, in an order that depends on the length only.
pub(crate) fn counted_sum(counts: &[u16], figures: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0; LANES];
    let (counts, figures) = (counts.as_chunks::<LANES>(), figures.as_chunks::<LANES>());
    for (counts, figures) in counts.0.iter().zip(figures.0) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(counts[lane]) * figures[lane];
        }
    }
    let rest: f64 = counts.1.iter().zip(figures.1).map(|(count, figure)| f64::from(*count) * figure).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The percentile interval at confidence `level` of repetitions `sorted` in ascending order; NaN without any.
pub(crate) fn percentile(sorted: &[f64], level: f64) -> (f64, f64) {
    (quantile(sorted, (1.0 - level) / 2.0), quantile(sorted, (1.0 + level) / 2.0))
}

/// The bias-corrected and accelerated interval (Efron 1987) of repetitions `sorted` in ascending order; `None` if the
/// estimate lies outside of them, where the bias cannot be told. A repetition that equals the estimate counts half.
pub(crate) fn bias_corrected(sorted: &[f64], estimate: f64, acceleration: f64, level: f64) -> Option<(f64, f64)> {
    let below = sorted.partition_point(|x| *x < estimate);
    let upto = sorted.partition_point(|x| *x <= estimate);
    let share = (below + upto) as f64 / (2 * sorted.len()) as f64;
    if !(share > 0.0 && share < 1.0) {
        return None;
    }
    let normal = Normal::standard();
    let bias = normal.inverse_cdf(share);
    let end = |level: f64| {
        let shifted = bias + normal.inverse_cdf(level);
        quantile(sorted, normal.cdf(bias + shifted / (1.0 - acceleration * shifted)))
    };
    let (low, high) = (end((1.0 - level) / 2.0), end((1.0 + level) / 2.0));
    (low <= high).then_some((low, high))
}

/// The acceleration of a mean (Efron 1987): a sixth of the skewness of the sum, from the rows' distances from the mean;
/// for a mean of equal weights the jackknife gives the same. 0 if nothing varies.
pub(crate) fn acceleration(distances: impl Iterator<Item = f64>) -> f64 {
    let (squares, cubes) = distances.fold((0.0, 0.0), |(squares, cubes), x| (squares + x * x, cubes + x * x * x));
    if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::golden::{Case, assert_close, cases, number, numbers};

    fn differences(case: &Case) -> Vec<f64> {
        let (x, y) = (numbers(&case.inputs["x"]), numbers(&case.inputs["y"]));
        x.iter().zip(&y).map(|(x, y)| y - x).collect()
    }

    fn mean(rows: &[f64]) -> f64 {
        rows.iter().sum::<f64>() / rows.len() as f64
    }

    fn spread(rows: &[f64]) -> impl Iterator<Item = f64> {
        let mean = mean(rows);
        rows.iter().map(move |row| row - mean)
    }

    #[test]
    fn golden_intervals_match_scipy_on_given_resamples() {
        let mut checked = 0;
        for case in cases("paired_bootstrap") {
            let Some(resamples) = case.inputs["indices"].as_array() else { continue };
            let rows = differences(&case);
            let mut repetitions: Vec<f64> = resamples
                .iter()
                .map(|indices| {
                    let mut counts = vec![0; rows.len()];
                    numbers(indices).into_iter().for_each(|index| counts[index as usize] += 1);
                    counted_sum(&counts, &rows) / rows.len() as f64
                })
                .collect();
            for (found, expected) in repetitions.iter().zip(numbers(&case.outputs["replicates_first10"])) {
                assert_close(*found, expected, 1e-12, 1e-15, &case.name);
            }
            repetitions.sort_unstable_by(f64::total_cmp);
            let (estimate, level) = (mean(&rows), number(&case.inputs["level"]));
            let acceleration = acceleration(spread(&rows));
            assert_close(acceleration, number(&case.outputs["acceleration"]), 1e-9, 0.0, &case.name);
            let bca = bias_corrected(&repetitions, estimate, acceleration, level).unwrap();
            for (key, (low, high)) in [("percentile", percentile(&repetitions, level)), ("bca", bca)] {
                let expected = numbers(&case.outputs[key]);
                assert_close(low, expected[0], 1e-9, 0.0, &format!("{} {key}", case.name));
                assert_close(high, expected[1], 1e-9, 0.0, &format!("{} {key}", case.name));
            }
            checked += 1;
        }
        assert_eq!(checked, 2);
    }

    #[test]
    fn our_own_resamples_match_scipy_up_to_monte_carlo_error() {
        let mut checked = 0;
        for case in cases("paired_bootstrap") {
            let Some(repetitions) = case.inputs["n_resamples"].as_u64() else { continue };
            let (rows, mut resampler) = (differences(&case), Resampler::new(3));
            let mut counts = vec![0; rows.len()];
            let mut sorted: Vec<f64> = (0..repetitions)
                .map(|_| {
                    resampler.draw(&mut counts);
                    counted_sum(&counts, &rows) / rows.len() as f64
                })
                .collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let level = number(&case.inputs["level"]);
            let bca = bias_corrected(&sorted, mean(&rows), acceleration(spread(&rows)), level).unwrap();
            for (key, (low, high)) in [("percentile", percentile(&sorted, level)), ("BCa", bca)] {
                let expected = &case.outputs[key];
                // Either end has a Monte Carlo error of about .02 standard errors here and there.
                let slack = 0.1 * number(&expected["se"]);
                assert_close(low, number(&expected["low"]), 0.0, slack, &format!("{} {key}", case.name));
                assert_close(high, number(&expected["high"]), 0.0, slack, &format!("{} {key}", case.name));
            }
            checked += 1;
        }
        assert_eq!(checked, 2);
    }

    #[test]
    fn a_resample_has_as_many_rows_as_the_sample_and_favours_none() {
        for rows in [1_usize, 2, 7, 40] {
            let (mut counts, mut resampler) = (vec![9; rows], Resampler::new(1));
            let mut total = vec![0_u32; rows];
            for _ in 0..4_000 {
                resampler.draw(&mut counts);
                assert_eq!(counts.iter().map(|count| usize::from(*count)).sum::<usize>(), rows);
                total.iter_mut().zip(&counts).for_each(|(total, count)| *total += u32::from(*count));
            }
            // Each is Binomial(4,000 · n, 1/n): mean 4,000, deviation at most 63.
            assert!(total.iter().all(|total| total.abs_diff(4_000) < 300), "{total:?}");
        }
        Resampler::new(1).draw(&mut []);
    }

    #[test]
    fn what_never_varies_has_an_interval_of_no_length() {
        assert_eq!(bias_corrected(&[2.0; 9], 2.0, 0.0, 0.95), Some((2.0, 2.0)));
        assert_eq!(bias_corrected(&[2.0; 9], 3.0, 0.0, 0.95), None, "the estimate is outside");
        assert_eq!(bias_corrected(&[], 3.0, 0.0, 0.95), None);
        assert_eq!(acceleration([0.0; 4].into_iter()), 0.0);
        assert!(percentile(&[], 0.95).0.is_nan());
    }
}
