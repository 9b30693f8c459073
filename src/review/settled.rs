//! What people have settled, so that a claim need not read those tasks again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::{HashMap, HashSet};

use crate::event::PredictionId;

/// Tasks remembered over all people: at most 40 MB. Beyond that the memory starts afresh.
const MOST: usize = 1_000_000;

/// Tasks that people are known to have answered or skipped. That is for good, so what is known stays true.
#[derive(Default)]
pub(super) struct Settled(Mutex<Known>);

#[derive(Default)]
struct Known {
    people: HashMap<String, HashSet<PredictionId>>,
    total: usize,
}

impl Settled {
    pub(super) fn contains(&self, annotator: &str, task: PredictionId) -> bool {
        self.lock().people.get(annotator).is_some_and(|tasks| tasks.contains(&task))
    }

    pub(super) fn insert(&self, annotator: &str, task: PredictionId) {
        let mut known = self.lock();
        if known.total >= MOST {
            *known = Known::default();
        }
        let added = known.people.entry_ref(annotator).or_default().insert(task);
        known.total += usize::from(added);
    }

    // Nothing foreign runs under the lock, so a panic leaves it as it should be.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::testing::id;

    #[test]
    fn memory_is_bounded_and_per_person() {
        let settled = Settled::default();
        settled.insert("ann", id(1));
        settled.insert("ann", id(1));
        assert!(settled.contains("ann", id(1)) && !settled.contains("bob", id(1)) && !settled.contains("ann", id(2)));
        assert_eq!(settled.lock().total, 1);
        settled.lock().total = MOST;
        settled.insert("bob", id(2));
        assert!(settled.contains("bob", id(2)) && !settled.contains("ann", id(1)));
    }
}
