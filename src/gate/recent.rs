//! A bounded map that forgets what was put in first.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Map of at most `capacity` content hashes; the oldest goes when a new one does not fit.
///
/// The entries stand in a ring; a hash table holds their places: beside the entries, that is 6 to 13 bytes per key.
#[derive(Debug, Clone)]
pub(super) struct Recent<V> {
    capacity: usize,
    ring: VecDeque<(u128, V)>,
    /// Places in the ring, counted from the first entry that there ever was, modulo 2³².
    places: HashTable<u32>,
    /// The place of the oldest entry.
    first: u32,
}

/// Most entries: twice as many would not be told apart by 32 bits.
const MOST: usize = 1 << 31;

/// The table takes as hash what is already one.
fn hash(key: u128) -> u64 {
    key as u64
}

fn place_in<V>(ring: &VecDeque<(u128, V)>, first: u32, place: u32) -> u128 {
    ring[place.wrapping_sub(first) as usize].0
}

impl<V> Recent<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Recent { capacity: capacity.min(MOST), ring: VecDeque::new(), places: HashTable::new(), first: 0 }
    }

    /// Changes the capacity, forgetting the oldest if needed.
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity.min(MOST);
        while self.ring.len() > self.capacity {
            self.forget_oldest();
        }
    }

    fn index(&self, key: u128) -> Option<usize> {
        let (ring, first) = (&self.ring, self.first);
        let place = self.places.find(hash(key), |place| place_in(ring, first, *place) == key)?;
        Some(place.wrapping_sub(first) as usize)
    }

    pub(super) fn get(&self, key: u128) -> Option<&V> {
        self.index(key).map(|at| &self.ring[at].1)
    }

    pub(super) fn get_mut(&mut self, key: u128) -> Option<&mut V> {
        self.index(key).map(|at| &mut self.ring[at].1)
    }

    /// The value of `key`, made if there is none; `None` if the capacity is 0.
    pub(super) fn entry(&mut self, key: u128, make: impl FnOnce() -> V) -> Option<&mut V> {
        if self.capacity == 0 {
            return None;
        }
        if let Some(at) = self.index(key) {
            return Some(&mut self.ring[at].1);
        }
        if self.ring.len() >= self.capacity {
            self.forget_oldest();
        }
        if self.ring.len() == self.ring.capacity() {
            // Doubled as ever, but not beyond what will be needed.
            self.ring.reserve_exact(self.ring.len().max(64).min(self.capacity - self.ring.len()));
        }
        self.tidy();
        let place = self.first.wrapping_add(self.ring.len() as u32);
        self.ring.push_back((key, make()));
        let (ring, first) = (&self.ring, self.first);
        self.places.insert_unique(hash(key), place, |place| hash(place_in(ring, first, *place)));
        self.ring.back_mut().map(|(_, value)| value)
    }

    /// What is removed leaves marks in the table, and a table that is full of marks would double: it is filled anew while it
    /// has an eighth more room than entries.
    fn tidy(&mut self) {
        let (entries, room) = (self.places.len(), self.places.num_buckets() / 8 * 7);
        if entries < self.places.capacity() || room < entries + entries / 8 {
            return;
        }
        self.places.clear();
        let (ring, first) = (&self.ring, self.first);
        for (at, (key, _)) in ring.iter().enumerate() {
            let place = first.wrapping_add(at as u32);
            self.places.insert_unique(hash(*key), place, |place| hash(place_in(ring, first, *place)));
        }
    }

    pub(super) fn oldest(&self) -> Option<&V> {
        self.ring.front().map(|(_, value)| value)
    }

    pub(super) fn forget_oldest(&mut self) {
        let Some((key, _)) = self.ring.front() else { return };
        let first = self.first;
        if let Ok(place) = self.places.find_entry(hash(*key), |place| *place == first) {
            place.remove();
        }
        self.ring.pop_front();
        self.first = first.wrapping_add(1);
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Everything, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        self.ring.iter().map(|(key, value)| (*key, value))
    }

    /// Bytes on the heap, those that the values hold themselves aside.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.ring.capacity() * size_of::<(u128, V)>() + self.places.allocation_size()
    }
}

/// Equal in what is remembered and in which order; places do not matter.
impl<V: PartialEq> PartialEq for Recent<V> {
    fn eq(&self, other: &Self) -> bool {
        self.capacity == other.capacity && self.ring == other.ring
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_goes_first_and_a_known_key_takes_no_room() {
        let mut recent = Recent::new(2);
        for key in [1, 2, 1, 3, 1] {
            *recent.entry(key, || 0).unwrap() += 1;
        }
        assert_eq!(recent.iter().collect::<Vec<_>>(), [(3, &1), (1, &1)], "1 was forgotten when 3 came");
        recent.resize(1);
        assert_eq!((recent.len(), recent.oldest()), (1, Some(&1)));
        assert!(Recent::<u8>::new(0).entry(1, || 0).is_none());
    }

    proptest! {
        /// Keys share their low 64 bits by sevens: the table must look at the whole key. Places wrap around.
        #[test]
        fn it_does_what_a_plain_list_does(
            keys in prop::collection::vec((0..7_u128, 0..9_u128), 0..300),
            capacity in 1..20_usize,
            first in prop::sample::select(vec![0, u32::MAX - 30]),
        ) {
            let mut recent = Recent { first, ..Recent::new(capacity) };
            let mut plain: Vec<(u128, usize)> = Vec::new();
            for (at, (high, low)) in keys.into_iter().enumerate() {
                let key = high << 64 | low;
                if low == 8 {
                    recent.forget_oldest();
                    if !plain.is_empty() {
                        plain.remove(0);
                    }
                    continue;
                }
                let known = plain.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
                prop_assert_eq!(recent.get(key).copied(), known);
                prop_assert_eq!(*recent.entry(key, || at).unwrap(), known.unwrap_or(at));
                if known.is_none() {
                    plain.push((key, at));
                    if plain.len() > capacity {
                        plain.remove(0);
                    }
                }
                prop_assert!(recent.iter().map(|(key, value)| (key, *value)).eq(plain.iter().copied()));
            }
        }
    }
}
