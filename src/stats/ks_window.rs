//! A sliding window compared with a fixed reference, without sorting again.

use super::ks::KsStatistic;
use std::collections::VecDeque;

/// The bucket of a missing value.
const MISSING: u32 = u32::MAX;

/// Kolmogorov–Smirnov statistic of the last `capacity` values against a fixed reference.
///
/// The k distinct reference values cut the line into 2k + 1 buckets: below, on and between them.
/// A push costs one binary search; the statistic is found by one scan over the counts, when asked.
/// Not finite values are missing: they fill the window but are not compared.
#[derive(Clone, Debug)]
pub(crate) struct KsWindow {
    distinct: Vec<f64>,
    /// Reference values up to and including each distinct one.
    cumulative: Vec<u64>,
    /// Window values per bucket: 2i is the gap below distinct value i, 2i + 1 that value itself.
    counts: Vec<u32>,
    /// Values in arrival order, each with its bucket.
    window: VecDeque<(f64, u32)>,
    capacity: usize,
    missing: usize,
}

impl KsWindow {
    /// An empty window of at most `capacity` values (at least 1) against `reference`, in any order;
    /// its not finite values are left out.
    pub(crate) fn new(reference: &[f64], capacity: usize) -> Self {
        let mut sorted: Vec<f64> = reference.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let mut distinct: Vec<f64> = Vec::new();
        let mut cumulative: Vec<u64> = Vec::new();
        for (seen, &value) in (1_u64..).zip(&sorted) {
            match (distinct.last(), cumulative.last_mut()) {
                (Some(&last), Some(count)) if last == value => *count = seen,
                _ => {
                    distinct.push(value);
                    cumulative.push(seen);
                }
            }
        }
        let counts = vec![0; 2 * distinct.len() + 1];
        let capacity = capacity.max(1);
        Self { distinct, cumulative, counts, window: VecDeque::new(), capacity, missing: 0 }
    }

    /// Adds a value and, when full, forgets the oldest.
    pub(crate) fn push(&mut self, value: f64) {
        if self.window.len() == self.capacity
            && let Some((_, bucket)) = self.window.pop_front()
        {
            if bucket == MISSING {
                self.missing -= 1;
            } else {
                self.counts[bucket as usize] -= 1;
            }
        }
        let bucket = self.bucket(value);
        if bucket == MISSING {
            self.missing += 1;
        } else {
            self.counts[bucket as usize] += 1;
        }
        self.window.push_back((value, bucket));
    }

    fn bucket(&self, value: f64) -> u32 {
        if !value.is_finite() {
            return MISSING;
        }
        let below = self.distinct.partition_point(|&v| v < value);
        let on = self.distinct.get(below).is_some_and(|&v| v == value);
        (2 * below + usize::from(on)) as u32
    }

    /// The statistic of the values present; [`KsStatistic::EMPTY`] when either side has none.
    pub(crate) fn statistic(&self) -> KsStatistic {
        let n = self.reference_len();
        let m = self.compared() as u64;
        if n == 0 || m == 0 {
            return KsStatistic::EMPTY;
        }
        // the window leads most at the end of a gap, the reference most on one of its values;
        // a pass for the two extremes alone is faster than one that keeps its place
        let (mut lead, mut lag) = (0, 0);
        for (gap, on) in self.leads(n, m) {
            lead = lead.max(gap);
            lag = lag.min(on);
        }
        let location = if lead > -lag {
            let place = self.leads(n, m).position(|(gap, _)| gap == lead);
            self.end_of_gap(place.unwrap_or(0))
        } else {
            let place = self.leads(n, m).position(|(_, on)| on == lag);
            self.distinct[place.unwrap_or(0)]
        };
        KsStatistic { d: lead.max(-lag) as f64 / (n as f64 * m as f64), location }
    }

    /// n·m·(window share − reference share) just below and on each distinct reference value.
    fn leads(&self, n: u64, m: u64) -> impl Iterator<Item = (i64, i64)> {
        let (n, m) = (n as i64, m as i64);
        let (pairs, _) = self.counts.as_chunks::<2>();
        let mut window = 0;
        pairs.iter().zip(&self.cumulative).scan(0, move |reference, (&[gap, on], &up_to)| {
            window += i64::from(gap) * n;
            let below = window - *reference;
            window += i64::from(on) * n;
            *reference = up_to as i64 * m;
            Some((below, window - *reference))
        })
    }

    /// The largest window value in gap `i`, or the reference value below it if the gap is empty.
    fn end_of_gap(&self, i: usize) -> f64 {
        let inside = self.window.iter().filter(|&&(_, bucket)| bucket as usize == 2 * i);
        let largest = inside.map(|&(value, _)| value).fold(f64::NAN, f64::max);
        match i.checked_sub(1) {
            Some(below) if largest.is_nan() => self.distinct[below],
            _ => largest,
        }
    }

    /// Finite values of the reference.
    pub(crate) fn reference_len(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }

    /// Values in the window, missing ones included.
    pub(crate) fn len(&self) -> usize {
        self.window.len()
    }

    /// Whether the window holds nothing.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Not finite values in the window.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Values in the window that are compared: the m of the p-value.
    pub(crate) fn compared(&self) -> usize {
        self.window.len() - self.missing
    }

    /// Forgets the window, keeps the reference.
    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.counts.fill(0);
        self.missing = 0;
    }

    /// The values in arrival order, as they came: pushed into a new window they restore this one.
    /// JSON has no NaN or infinity: write such a value as null.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        self.window.iter().map(|&(value, _)| value)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::ks::statistic;
    use proptest::prelude::*;

    fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut kept: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        kept.sort_unstable_by(f64::total_cmp);
        kept
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => (-8..8_i32).prop_map(|v| f64::from(v) / 2.0),
            3 => -5.0..5.0_f64,
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]),
        ]
    }

    proptest! {
        #[test]
        fn equals_the_statistic_of_sorted_copies(
            reference in prop::collection::vec(value(), 0..60),
            stream in prop::collection::vec(value(), 0..80),
            capacity in 1..30_usize,
        ) {
            let mut window = KsWindow::new(&reference, capacity);
            let (x, mut last) = (sorted(reference.iter().copied()), Vec::new());
            for (i, &v) in stream.iter().enumerate() {
                window.push(v);
                last = stream[(i + 1).saturating_sub(capacity)..=i].to_vec();
                let y = sorted(last.iter().copied());
                let (found, expected) = (window.statistic(), statistic(&x, &y));
                prop_assert_eq!(found.d.to_bits(), expected.d.to_bits());
                if !x.is_empty() && !y.is_empty() {
                    let share = |s: &[f64]| {
                        s.iter().filter(|&&v| v <= found.location).count() as f64 / s.len() as f64
                    };
                    prop_assert!(((share(&x) - share(&y)).abs() - found.d).abs() < 1e-12);
                }
                prop_assert_eq!(window.compared(), y.len());
                prop_assert_eq!(window.missing(), last.len() - y.len());
            }
            let bits = |v: f64| v.to_bits();
            prop_assert_eq!(
                window.values().map(bits).collect::<Vec<_>>(),
                last.into_iter().map(bits).collect::<Vec<_>>()
            );
            let mut restored = KsWindow::new(&reference, capacity);
            window.values().for_each(|v| restored.push(v));
            prop_assert_eq!(restored.counts, window.counts.clone());
            window.clear();
            prop_assert!(window.is_empty() && window.missing() == 0);
            prop_assert_eq!(window.statistic().d, 0.0);
        }
    }
}
