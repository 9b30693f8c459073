//! How far raters agree beyond chance: Cohen's kappa of two, Krippendorff's alpha of any number.

/// How much two different classes disagree, by their numbers (Cohen 1968).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the classes of a target have no order; the golden values check the whole formula")]
pub(crate) enum Weights {
    /// All alike: the classes have no order.
    Unweighted,
    /// As the distance of their numbers.
    Linear,
    /// As its square.
    Quadratic,
}

/// Cohen's kappa (1960) of the classes that two raters gave to the same things: 1 − observed / expected disagreement, 1
/// if they always agree, 0 if as often as chance would, given how often each of them uses each class.
///
/// Pairs with a class from `classes` on are left out. `None` without pairs, and if both raters know one class only, and
/// the same: nothing could have disagreed.
pub(crate) fn cohen_kappa(pairs: &[(usize, usize)], classes: usize, weights: Weights) -> Option<f64> {
    let weight = |a: usize, b: usize| match weights {
        Weights::Unweighted => f64::from(u8::from(a != b)),
        Weights::Linear => a.abs_diff(b) as f64,
        Weights::Quadratic => (a.abs_diff(b) as f64).powi(2),
    };
    let (mut count, mut observed) = (0.0, 0.0);
    let (mut first, mut second) = (vec![0.0; classes], vec![0.0; classes]);
    for &(a, b) in pairs.iter().filter(|(a, b)| *a < classes && *b < classes) {
        count += 1.0;
        observed += weight(a, b);
        first[a] += 1.0;
        second[b] += 1.0;
    }
    let cell = |(a, n): (usize, &f64)| n * second.iter().enumerate().map(|(b, m)| m * weight(a, b)).sum::<f64>();
    let expected: f64 = first.iter().enumerate().map(cell).sum();
    (expected > 0.0).then(|| 1.0 - observed * count / expected)
}

/// What the ratings mean, and so how much two of them disagree (Krippendorff 2011).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Names: all that differ disagree alike.
    Nominal,
    /// Ranks: as the square of the number of ratings between them.
    Ordinal,
    /// As the square of the difference.
    Interval,
    /// As the square of the difference relative to the sum; no rating is negative.
    Ratio,
}

/// Krippendorff's alpha of the ratings of several things by any number of raters, each of whom may have rated any of
/// them: one item of `units` per thing, with its ratings in any order; what is not finite is missing. 1 if all ratings
/// of each thing agree, 0 if as far as ratings of different things do.
///
/// Ratings of a thing that was rated once say nothing and are left out. `None` if none is left (nothing pairable), if
/// all that are left are equal (nothing could have disagreed), if one on a ratio scale is negative, and if the squares
/// overflow.
///
/// Time: n log n in the ratings; on a ratio scale, the square of the number of different ratings.
pub(crate) fn krippendorff_alpha<U: AsRef<[f64]>>(units: impl IntoIterator<Item = U>, scale: Scale) -> Option<f64> {
    let present = |unit: U| unit.as_ref().iter().copied().filter(|rating| rating.is_finite()).collect();
    let mut units: Vec<Vec<f64>> = units.into_iter().map(present).filter(|unit: &Vec<f64>| unit.len() > 1).collect();
    let mut all = units.concat();
    all.sort_by(f64::total_cmp);
    if scale == Scale::Ratio && all.first().is_some_and(|least| *least < 0.0) {
        return None;
    }
    if scale == Scale::Ordinal {
        let rank = |rating: &f64| {
            let below = all.partition_point(|other| other < rating);
            (below + all.partition_point(|other| other <= rating)) as f64 / 2.0
        };
        units.iter_mut().flatten().for_each(|rating| *rating = rank(rating));
        all = all.iter().map(rank).collect();
    }
    let within = |unit: &mut Vec<f64>| {
        unit.sort_by(f64::total_cmp);
        disagreement(unit, scale) / (unit.len() - 1) as f64
    };
    let observed: f64 = units.iter_mut().map(within).sum();
    let expected = disagreement(&all, scale);
    (expected > 0.0 && expected.is_finite()).then(|| 1.0 - observed * (all.len() - 1) as f64 / expected)
}

/// Sum of the disagreements of all ordered pairs of sorted ratings; ordinal ratings are ranks.
fn disagreement(sorted: &[f64], scale: Scale) -> f64 {
    let count = sorted.len() as f64;
    let runs = || sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as f64));
    match scale {
        Scale::Nominal => count * count - runs().map(|(_, n)| n * n).sum::<f64>(),
        Scale::Ordinal | Scale::Interval => {
            let equal = sorted.first() == sorted.last();
            let mean = sorted.iter().sum::<f64>() / count;
            if equal { 0.0 } else { 2.0 * count * sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() }
        }
        Scale::Ratio => {
            let pair = |(a, n): (f64, f64), (b, m): (f64, f64)| n * m * ((b - a) / (a + b)).powi(2);
            let above = |(at, run): (usize, (f64, f64))| runs().skip(at + 1).map(|other| pair(run, other)).sum::<f64>();
            2.0 * runs().enumerate().map(above).sum::<f64>()
        }
    }
}

#[cfg(test)]
mod tests;
