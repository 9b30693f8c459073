//! A bounded map that forgets what was put in first.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// Map of at most `capacity` content hashes; the oldest goes when a new one does not fit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recent<V> {
    capacity: usize,
    entries: HashMap<u128, V>,
    order: VecDeque<u128>,
}

impl<V> Recent<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Recent { capacity, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// Changes the capacity, forgetting the oldest if needed.
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        while self.order.len() > capacity {
            self.forget_oldest();
        }
    }

    pub(super) fn get(&self, key: u128) -> Option<&V> {
        self.entries.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: u128) -> Option<&mut V> {
        self.entries.get_mut(&key)
    }

    /// The value of `key`, made if there is none; `None` if the capacity is 0.
    pub(super) fn entry(&mut self, key: u128, make: impl FnOnce() -> V) -> Option<&mut V> {
        if self.capacity == 0 {
            return None;
        }
        if !self.entries.contains_key(&key) {
            if self.order.len() >= self.capacity {
                self.forget_oldest();
            }
            self.order.push_back(key);
        }
        Some(self.entries.entry(key).or_insert_with(make))
    }

    pub(super) fn oldest(&self) -> Option<&V> {
        self.order.front().and_then(|key| self.entries.get(key))
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some(key) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Everything, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        self.order.iter().filter_map(|key| Some((*key, self.entries.get(key)?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

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
}
