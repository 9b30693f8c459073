//! Sampling that depends on nothing but a seed and the row: keyed hashes and the bottom-k reservoir.

use super::error::StatsError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 64-bit hash of `bytes` under `seed`: XXH3 (Collet), whose specification is stable, so that the
/// same row is chosen on every machine and in every version. Not for use against an attacker.
pub(crate) fn keyed(seed: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed)
}

/// Uniform number in [0, 1) with 53 random bits, fixed by `seed` and `bytes`.
pub(crate) fn unit_interval(seed: u64, bytes: &[u8]) -> f64 {
    (keyed(seed, bytes) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// Keeps the items of the `k` smallest keys (bottom-k sketch, Cohen and Kaplan 2007).
///
/// With hashed keys this is a uniform sample without replacement. The content depends only on the
/// set of keys, not on their order or on how the stream was split: an equal key is the same item
/// and is kept once, the first time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    try_from = "State<T>",
    into = "State<T>",
    bound(serialize = "T: Clone + Serialize", deserialize = "T: Deserialize<'de>")
)]
pub(crate) struct Reservoir<T> {
    capacity: usize,
    seen: u64,
    items: BTreeMap<u64, T>,
}

/// The stored form of a [`Reservoir`].
#[derive(Serialize, Deserialize)]
struct State<T> {
    capacity: usize,
    seen: u64,
    items: Vec<(u64, T)>,
}

impl<T> Reservoir<T> {
    /// Empty, for at most `capacity` items.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, seen: 0, items: BTreeMap::new() }
    }

    /// Offers an item; `make` runs only if it is kept.
    pub(crate) fn push(&mut self, key: u64, make: impl FnOnce() -> T) {
        self.seen += 1;
        if self.admits(key) {
            self.items.insert(key, make());
            self.trim();
        }
    }

    /// Adds what `other` has kept and seen; the capacity becomes the smaller of the two, which is
    /// all that both can vouch for.
    pub(crate) fn merge(&mut self, other: Self) {
        self.capacity = self.capacity.min(other.capacity);
        self.seen += other.seen;
        for (key, item) in other.items {
            self.items.entry(key).or_insert(item);
        }
        self.trim();
    }

    /// Number of items offered so far, kept or not.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Largest number of items kept.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The kept items in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().map(|(&key, item)| (key, item))
    }

    fn admits(&self, key: u64) -> bool {
        if self.items.len() < self.capacity {
            return !self.items.contains_key(&key);
        }
        self.items.last_key_value().is_some_and(|(&last, _)| key < last) && !self.items.contains_key(&key)
    }

    fn trim(&mut self) {
        while self.items.len() > self.capacity {
            self.items.pop_last();
        }
    }
}

impl<T> Reservoir<T> {
    /// Takes out the first item of which `is_it` is true; how many were seen stays.
    pub(crate) fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> bool {
        let key = self.items.iter().find(|(_, item)| is_it(item)).map(|(key, _)| *key);
        key.is_some_and(|key| self.items.remove(&key).is_some())
    }
}

impl<T> From<Reservoir<T>> for State<T> {
    fn from(reservoir: Reservoir<T>) -> Self {
        let Reservoir { capacity, seen, items } = reservoir;
        Self { capacity, seen, items: items.into_iter().collect() }
    }
}

impl<T> TryFrom<State<T>> for Reservoir<T> {
    type Error = StatsError;

    fn try_from(state: State<T>) -> Result<Self, StatsError> {
        let stored = state.items.len();
        let items: BTreeMap<u64, T> = state.items.into_iter().collect();
        if items.len() != stored {
            return Err(StatsError::State { what: "a reservoir key is stored twice" });
        }
        if stored > state.capacity || stored as u64 > state.seen {
            return Err(StatsError::State { what: "a reservoir holds more than it may" });
        }
        Ok(Self { capacity: state.capacity, seen: state.seen, items })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hash_follows_the_published_specification() {
        // XXH3_64bits of the empty input with seed 0, from the reference implementation
        assert_eq!(keyed(0, b""), 0x2D06_8005_38D3_94C2);
        assert_ne!(keyed(1, b"row"), keyed(2, b"row"));
    }

    #[test]
    fn unit_interval_is_uniform() {
        let n = 20_000_u32;
        let mut bins = [0_u32; 20];
        for i in 0..n {
            bins[(unit_interval(7, &i.to_le_bytes()) * 20.0) as usize] += 1;
        }
        let expected = f64::from(n) / 20.0;
        let chi: f64 = bins.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
        assert!(chi < 43.8, "chi-square with 19 degrees of freedom: {chi}"); // p = .001
    }

    #[test]
    fn makes_only_what_it_keeps() {
        let mut made = 0;
        let mut reservoir = Reservoir::new(2);
        for key in [5, 3, 6, 9, 3, 1, 4] {
            reservoir.push(key, || made += 1);
        }
        assert_eq!(made, 3);
        assert_eq!(reservoir.iter().map(|(k, ())| k).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(reservoir.seen(), 7);
        let mut none = Reservoir::new(0);
        none.push(1, || ());
        assert!(none.is_empty() && none.capacity() == 0);
    }

    #[test]
    fn stored_state_is_checked() {
        let bad = r#"{"capacity":1,"seen":5,"items":[[1,"a"],[2,"b"]]}"#;
        assert!(serde_json::from_str::<Reservoir<String>>(bad).is_err());
        let twice = r#"{"capacity":4,"seen":5,"items":[[1,"a"],[1,"b"]]}"#;
        assert!(serde_json::from_str::<Reservoir<String>>(twice).is_err());
    }

    proptest! {
        #[test]
        fn merged_parts_equal_the_whole(
            keys in prop::collection::vec(0..500_u64, 0..300),
            cut in 0..300_usize,
            capacity in 0..40_usize,
        ) {
            let fill = |keys: &[u64]| {
                let mut r = Reservoir::new(capacity);
                for &k in keys {
                    r.push(k, || k * 2);
                }
                r
            };
            let (left, right) = keys.split_at(cut.min(keys.len()));
            let mut merged = fill(left);
            merged.merge(fill(right));
            prop_assert_eq!(&merged, &fill(&keys));
            let stored = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<Reservoir<u64>>(&stored).unwrap(), merged);
        }
    }
}
