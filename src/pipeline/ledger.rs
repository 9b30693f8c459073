//! The ledger: a bounded memory of predictions, so that a late truth finds the prediction that it is about.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use uuid::Uuid;

use crate::clock::from_micros;
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, Observation, PredictionId, predicted_label, predicted_probability};
use crate::sample::Lane;
use crate::schema::{Schema, Target};

/// Version of the format on disk, in front of the entries.
const FORMAT: u64 = 2;
/// Bytes of one entry on disk.
const ENTRY_BYTES: usize = 16 + 6 * 8 + 1;
/// A lane on disk is its place here, from 1; 0 is none. New ones go to the end.
const LANES: [Lane; 6] = [Lane::Random, Lane::Comparison, Lane::Flagged, Lane::Outcome, Lane::Uncertain, Lane::Diverse];

/// What is remembered of every prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub(super) id: PredictionId,
    pub(super) sequence: u64,
    pub(super) time: i64,
    pub(super) model: ModelVersion,
    /// Predicted class or value; NaN if the output was not usable.
    predicted: f64,
    /// Probability of the predicted class; NaN if there is none.
    score: f64,
    /// The truth so far; NaN if none.
    truth: f64,
    /// The lane that made a sample of it, if there is one.
    pub(super) lane: Option<Lane>,
}

impl Entry {
    pub(super) fn predicted(&self, target: &Target) -> Option<Label> {
        as_label(self.predicted, target)
    }

    pub(super) fn score(&self) -> Option<f64> {
        Some(self.score).filter(|score| !score.is_nan())
    }

    pub(super) fn truth(&self, target: &Target) -> Option<Label> {
        as_label(self.truth, target)
    }

    pub(super) fn set_truth(&mut self, label: Option<Label>) {
        self.truth = label.map_or(f64::NAN, Label::number);
    }

    pub(super) fn time(&self) -> DateTime<Utc> {
        from_micros(self.time)
    }
}

fn as_label(number: f64, target: &Target) -> Option<Label> {
    match target {
        _ if number.is_nan() => None,
        Target::Classes(_) => Some(Label::Class(number as u32)),
        Target::Value => Some(Label::Value(number)),
    }
}

/// The newest predictions as fixed small entries, and the whole rows of the very newest.
///
/// Memory: about 90 bytes per entry, and one [`Observation`] per kept row. Neither grows.
pub(super) struct Ledger {
    entries: Vec<Entry>,
    capacity: usize,
    /// Where the next entry goes once the ring is full.
    next: usize,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    rows: VecDeque<(u64, Box<Observation>)>,
    most_rows: usize,
}

impl Ledger {
    pub(super) fn new(capacity: usize, rows_kept: usize) -> Self {
        let capacity = capacity.clamp(1, u32::MAX as usize / 2);
        Ledger {
            entries: Vec::new(),
            capacity,
            next: 0,
            // Twice the room: removals leave tombstones, and a table this empty clears them without growing.
            index: HashTable::with_capacity(capacity.min(1 << 20) * 2),
            hasher: DefaultHashBuilder::default(),
            rows: VecDeque::with_capacity(rows_kept.min(1 << 16) + 1),
            most_rows: rows_kept,
        }
    }

    fn position(&self, id: PredictionId) -> Option<usize> {
        let hash = self.hasher.hash_one(id);
        self.index.find(hash, |&at| self.entries[at as usize].id == id).map(|&at| at as usize)
    }

    pub(super) fn get(&self, id: PredictionId) -> Option<&Entry> {
        self.position(id).map(|at| &self.entries[at])
    }

    pub(super) fn get_mut(&mut self, id: PredictionId) -> Option<&mut Entry> {
        self.position(id).map(|at| &mut self.entries[at])
    }

    /// Remembers a prediction that it does not know yet, and keeps its row; gives back a buffer that is free again.
    pub(super) fn insert(
        &mut self,
        schema: &Schema,
        sequence: u64,
        observation: Box<Observation>,
    ) -> Option<Box<Observation>> {
        let predicted = predicted_label(schema.target(), observation.output()).map_or(f64::NAN, Label::number);
        self.put(Entry {
            id: observation.id,
            sequence,
            time: observation.time.timestamp_micros(),
            model: observation.model,
            predicted,
            score: predicted_probability(schema.target(), observation.output()).unwrap_or(f64::NAN),
            truth: f64::NAN,
            lane: None,
        });
        self.rows.push_back((sequence, observation));
        if self.rows.len() > self.most_rows { self.rows.pop_front().map(|(_, row)| row) } else { None }
    }

    fn put(&mut self, entry: Entry) {
        let at = if self.entries.len() < self.capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let at = self.next;
            let old = self.entries[at].id;
            let hash = self.hasher.hash_one(old);
            if let Ok(found) = self.index.find_entry(hash, |&other| other as usize == at) {
                found.remove();
            }
            self.entries[at] = entry;
            self.next = (at + 1) % self.capacity;
            at
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash = hasher.hash_one(entry.id);
        self.index.insert_unique(hash, at as u32, |&other| hasher.hash_one(entries[other as usize].id));
    }

    /// Forgets what is known of a prediction but its name, so that it is not taken for a new one.
    pub(super) fn forget(&mut self, id: PredictionId) {
        let Some(entry) = self.get_mut(id) else { return };
        (entry.predicted, entry.score, entry.truth) = (f64::NAN, f64::NAN, f64::NAN);
        let sequence = entry.sequence;
        if let Ok(at) = self.rows.binary_search_by_key(&sequence, |(s, _)| *s) {
            self.rows.remove(at);
        }
    }

    /// How many whole rows are kept.
    pub(super) fn rows_kept(&self) -> usize {
        self.rows.len()
    }

    /// The whole row of the prediction with this sequence number, while it is kept.
    pub(super) fn row(&self, sequence: u64) -> Option<&Observation> {
        let at = self.rows.binary_search_by_key(&sequence, |(s, _)| *s).ok()?;
        self.rows.get(at).map(|(_, row)| &**row)
    }

    /// The newest rows up to the one with this sequence number, newest first.
    pub(super) fn recent_up_to(&self, sequence: u64) -> impl Iterator<Item = &Observation> {
        self.rows.iter().rev().filter(move |(at, _)| *at <= sequence).map(|(_, row)| &**row)
    }

    /// The newest rows, newest first.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Observation> {
        self.rows.iter().rev().map(|(_, row)| &**row)
    }

    /// The entries, oldest first, for a checkpoint.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.entries.len() * ENTRY_BYTES);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        let (newer, older) = self.entries.split_at(if self.entries.len() < self.capacity { 0 } else { self.next });
        for entry in older.iter().chain(newer) {
            bytes.extend_from_slice(entry.id.bytes());
            bytes.extend_from_slice(&entry.sequence.to_le_bytes());
            bytes.extend_from_slice(&entry.time.to_le_bytes());
            bytes.extend_from_slice(&entry.model.0.to_le_bytes());
            bytes.extend_from_slice(&entry.predicted.to_bits().to_le_bytes());
            bytes.extend_from_slice(&entry.score.to_bits().to_le_bytes());
            bytes.extend_from_slice(&entry.truth.to_bits().to_le_bytes());
            let lane = LANES.iter().zip(1..).find(|(lane, _)| entry.lane == Some(**lane));
            bytes.push(lane.map_or(0, |(_, place)| place));
        }
        bytes
    }

    /// Takes over the entries of a checkpoint.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        let Some(entries) = bytes.strip_prefix(&FORMAT.to_le_bytes()) else {
            return Err(message(format!("the saved ledger is not of format {FORMAT}, which this release reads")));
        };
        if !entries.len().is_multiple_of(ENTRY_BYTES) {
            return Err(message("the saved ledger is cut off"));
        }
        for chunk in entries.chunks_exact(ENTRY_BYTES) {
            let word = |at: usize| {
                let mut eight = [0; 8];
                eight.copy_from_slice(&chunk[at..at + 8]);
                u64::from_le_bytes(eight)
            };
            let id = PredictionId::from_uuid(Uuid::from_slice(&chunk[..16])?);
            if self.position(id).is_none() {
                self.put(Entry {
                    id,
                    sequence: word(16),
                    time: word(24) as i64,
                    model: ModelVersion(word(32)),
                    predicted: f64::from_bits(word(40)),
                    score: f64::from_bits(word(48)),
                    truth: f64::from_bits(word(56)),
                    lane: (chunk[64] as usize).checked_sub(1).and_then(|place| LANES.get(place)).copied(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::event::Output;

    fn schema() -> Schema {
        Schema::numeric(1, Target::classes(["a", "b"])).unwrap()
    }

    fn observation(schema: &Schema, n: u64) -> Box<Observation> {
        let mut observation = Box::new(Observation::new(schema));
        observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n));
        observation.set_output(Output::Probabilities(&[0.2, 0.8]));
        observation
    }

    #[test]
    fn the_newest_entries_are_found_and_the_oldest_forgotten() {
        let schema = schema();
        let mut ledger = Ledger::new(100, 10);
        for n in 0..1_000 {
            ledger.insert(&schema, n, observation(&schema, n));
        }
        assert!(ledger.get(observation(&schema, 899).id).is_none());
        let entry = ledger.get(observation(&schema, 900).id).unwrap();
        assert_eq!(entry.predicted(schema.target()), Some(Label::Class(1)));
        assert!(ledger.row(989).is_none() && ledger.row(990).is_some());
    }

    #[test]
    fn a_restored_ledger_knows_the_same_predictions_in_the_same_order() {
        let schema = schema();
        let mut ledger = Ledger::new(8, 2);
        for n in 0..13 {
            ledger.insert(&schema, n, observation(&schema, n));
        }
        let entry = ledger.get_mut(observation(&schema, 9).id).unwrap();
        entry.set_truth(Some(Label::Class(0)));
        entry.lane = Some(Lane::Outcome);
        let bytes = ledger.to_bytes();
        let mut again = Ledger::new(8, 2);
        again.restore(&bytes).unwrap();
        assert_eq!(again.to_bytes(), bytes);
        let entry = again.get(observation(&schema, 9).id).unwrap();
        assert_eq!((entry.lane, entry.score()), (Some(Lane::Outcome), Some(0.8)));
        assert!(again.restore(&bytes[..bytes.len() - 1]).unwrap_err().to_string().contains("cut off"));
        assert!(again.restore(&bytes[1..]).unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn what_is_forgotten_is_known_by_name_only() {
        let schema = schema();
        let mut ledger = Ledger::new(8, 8);
        for n in 0..5 {
            ledger.insert(&schema, n, observation(&schema, n));
        }
        let id = observation(&schema, 2).id;
        ledger.get_mut(id).unwrap().set_truth(Some(Label::Class(1)));
        ledger.forget(id);
        let mut again = Ledger::new(8, 8);
        again.restore(&ledger.to_bytes()).unwrap();
        for ledger in [&ledger, &again] {
            let entry = ledger.get(id).unwrap();
            assert_eq!(
                (entry.predicted(schema.target()), entry.score(), entry.truth(schema.target())),
                (None, None, None)
            );
        }
        assert!(ledger.row(2).is_none() && ledger.row(1).is_some() && ledger.row(3).is_some());
    }
}
