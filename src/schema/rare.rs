//! A list that is empty in most rows.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize, Serializer};

/// A list that most rows do not need: one word, and nothing else to read, until it has had an entry. Its room is kept when it
/// is [cleared](Rare::clear).
#[derive(Deserialize)]
#[serde(from = "Vec<T>")]
#[expect(clippy::box_collection, reason = "three words for each such list are a cache line and more per row")]
pub(crate) struct Rare<T>(Option<Box<Vec<T>>>);

impl<T> Rare<T> {
    pub(crate) fn push(&mut self, entry: T) {
        self.0.get_or_insert_default().push(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.as_mut()?.pop()
    }

    pub(crate) fn clear(&mut self) {
        if let Some(list) = &mut self.0 {
            list.clear();
        }
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Rare(None)
    }
}

impl<T> From<Vec<T>> for Rare<T> {
    fn from(list: Vec<T>) -> Self {
        Rare((!list.is_empty()).then(|| Box::new(list)))
    }
}

impl<T> Deref for Rare<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl<T> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_deref_mut().map_or(&mut [], Vec::as_mut_slice)
    }
}

impl<T: Clone> Clone for Rare<T> {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T: PartialEq> PartialEq for Rare<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Rare<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Serialize> Serialize for Rare<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_word_and_reads_as_the_list_that_it_is() {
        assert_eq!(size_of::<Rare<String>>(), size_of::<usize>());
        let mut list = Rare::default();
        assert_eq!((list.len(), list.pop()), (0, None));
        assert_eq!(serde_json::to_string(&list).unwrap(), "[]");
        list.push(7);
        assert_eq!((list.clone(), serde_json::to_string(&list).unwrap().as_str()), (vec![7].into(), "[7]"));
        assert_eq!(serde_json::from_str::<Rare<i32>>("[7]").unwrap(), list);
        list.clear();
        assert_eq!(list, Rare::default(), "room that is kept says nothing of the list");
    }
}
