//! Two samples merged in order, and what their permutation tests share.

use super::permutation::Arrangements;

/// A key that orders as the number does; −0 and +0 get one key. NaN lies beyond the infinities.
fn key(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    bits ^ ((bits as i64 >> 63) as u64 | 1 << 63)
}

fn value(key: u64) -> f64 {
    f64::from_bits(key ^ ((!key as i64 >> 63) as u64 | 1 << 63))
}

/// The finite values in ascending order; −0 becomes +0. Sorting whole numbers is faster than sorting floats.
pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut keys: Vec<u64> = values.iter().filter(|value| value.is_finite()).map(|&value| key(value)).collect();
    keys.sort_unstable();
    keys.into_iter().map(value).collect()
}

/// Two samples over their distinct pooled values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pooled {
    /// The distinct values in ascending order.
    pub(crate) values: Vec<f64>,
    /// How often each occurs in both samples together.
    pub(crate) counts: Vec<u32>,
    /// How often each occurs in the second sample.
    pub(crate) window: Vec<u32>,
    /// Values of the first sample.
    pub(crate) n: u64,
    /// Values of the second sample.
    pub(crate) m: u64,
}

impl Pooled {
    /// Of two samples in ascending order without NaN (see [`sorted`]); `None` when one is empty or both hold more than
    /// 2³² − 1 values.
    pub(crate) fn new(sorted_reference: &[f64], sorted_window: &[f64]) -> Option<Self> {
        let (n, m) = (sorted_reference.len(), sorted_window.len());
        if n == 0 || m == 0 || u32::try_from(n + m).is_err() {
            return None;
        }
        let mut pooled =
            Pooled { values: Vec::new(), counts: Vec::new(), window: Vec::new(), n: n as u64, m: m as u64 };
        let (mut i, mut j) = (0, 0);
        while i < n || j < m {
            let x = sorted_reference.get(i).copied().unwrap_or(f64::INFINITY);
            let y = sorted_window.get(j).copied().unwrap_or(f64::INFINITY);
            let second = i == n || (j < m && y < x);
            let value = if second { y } else { x };
            (i, j) = if second { (i, j + 1) } else { (i + 1, j) };
            match (pooled.values.last(), pooled.counts.last_mut(), pooled.window.last_mut()) {
                (Some(&last), Some(count), Some(window)) if last == value => {
                    *count += 1;
                    *window += u32::from(second);
                }
                _ => {
                    pooled.values.push(value);
                    pooled.counts.push(1);
                    pooled.window.push(u32::from(second));
                }
            }
        }
        Some(pooled)
    }

    /// The p-value of a statistic of the second sample's counts per distinct value, by permutation.
    pub(crate) fn permutation_p(&self, level: f64, seed: u64, statistic: impl Fn(&[u32]) -> f64) -> f64 {
        Arrangements::new(self.counts.clone(), self.m, seed)
            .map_or(1.0, |mut arrangements| arrangements.p_value(level, &self.window, statistic))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_keep_the_order_and_the_value() {
        let values = [-f64::MAX, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1.5, f64::MAX];
        assert!(values.map(key).is_sorted_by(|a, b| a < b));
        assert_eq!(values.map(|v| value(key(v))), values);
        assert_eq!(key(-0.0), key(0.0));
        assert_eq!(sorted(&[3.0, f64::NAN, -0.0, f64::INFINITY, -2.0]), [-2.0, 0.0, 3.0]);
    }

    proptest! {
        #[test]
        fn holds_both_samples(
            x in prop::collection::vec((-6..6_i32).prop_map(f64::from), 1..40),
            y in prop::collection::vec((-6..6_i32).prop_map(f64::from), 1..40),
        ) {
            let pooled = Pooled::new(&sorted(&x), &sorted(&y)).unwrap();
            for (i, value) in pooled.values.iter().enumerate() {
                let times = |sample: &[f64]| sample.iter().filter(|v| *v == value).count() as u32;
                prop_assert_eq!(pooled.window[i], times(&y));
                prop_assert_eq!(pooled.counts[i], times(&x) + times(&y));
            }
            prop_assert_eq!(pooled.counts.iter().sum::<u32>() as usize, x.len() + y.len());
            prop_assert!(pooled.values.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn an_empty_sample_is_not_pooled() {
        assert_eq!(Pooled::new(&[], &[1.0]), None);
        assert_eq!(Pooled::new(&[1.0], &[]), None);
    }
}
