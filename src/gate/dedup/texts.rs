//! Texts that are nearly equal: bands of MinHash signatures among remembered texts.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::stats::minhash::{Bands, Signature, similarity};

/// Signatures in the order in which they came, each with something that is known of the text.
#[derive(Debug, Clone)]
pub(super) struct TextRows<T> {
    bands: Bands,
    rows: VecDeque<(Signature, T)>,
    /// Place of the oldest text, modulo 2³².
    first: u32,
    /// Places by the key of each band.
    tables: Vec<HashTable<u32>>,
}

impl<T> TextRows<T> {
    pub(super) fn new(bands: Bands) -> Self {
        TextRows { bands, rows: VecDeque::new(), first: 0, tables: vec![HashTable::new(); bands.bands] }
    }

    pub(super) fn bands(&self) -> Bands {
        self.bands
    }

    pub(super) fn push(&mut self, signature: Signature, what: T) {
        let place = self.first.wrapping_add(self.rows.len() as u32);
        self.rows.push_back((signature, what));
        let (bands, rows, first) = (self.bands, &self.rows, self.first);
        let signature = |place: u32| &*rows[place.wrapping_sub(first) as usize].0;
        for (band, (table, key)) in self.tables.iter_mut().zip(bands.keys(signature(place))).enumerate() {
            let key_of = |place: &u32| bands.key(signature(*place), band);
            table.insert_unique(key, place, key_of);
        }
    }

    pub(super) fn forget_oldest(&mut self) {
        let Some((signature, _)) = self.rows.front() else { return };
        for (table, key) in self.tables.iter_mut().zip(self.bands.keys(signature)) {
            if let Ok(place) = table.find_entry(key, |place| *place == self.first) {
                place.remove();
            }
        }
        self.rows.pop_front();
        self.first = self.first.wrapping_add(1);
    }

    pub(super) fn oldest(&self) -> Option<&T> {
        self.rows.front().map(|(_, what)| what)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Everything, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Signature, T)> {
        self.rows.iter()
    }

    /// The most similar text that shares a band and is at least so similar; the oldest of equally similar ones.
    pub(super) fn most_similar(&self, signature: &[u32], least: f64) -> Option<(f64, &T)> {
        let mut best: Option<(f64, usize)> = None;
        for (table, key) in self.tables.iter().zip(self.bands.keys(signature)) {
            for place in table.iter_hash(key) {
                let at = place.wrapping_sub(self.first) as usize;
                let found = similarity(signature, &self.rows[at].0);
                let better = |(most, first): (f64, usize)| found > most || (found == most && at < first);
                if found >= least && best.is_none_or(better) {
                    best = Some((found, at));
                }
            }
        }
        best.map(|(found, at)| (found, &self.rows[at].1))
    }
}
