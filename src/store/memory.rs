//! A store in memory, for tests, simulations and loops that may forget.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::{Committed, Expect, Fence, Fenced, Indexed, Kind, Record, Rev, Scan, Store, Write};
use crate::error::{BoxError, message};

/// A [`Store`] in memory. Clones share one content; it ends with the last of them.
///
/// A write keeps the holder of a record that stays `claimed`, and clears it otherwise.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    pipelines: Arc<Mutex<BTreeMap<Arc<str>, Pipeline>>>,
}

#[derive(Debug, Default)]
struct Pipeline {
    newest: u64,
    tables: BTreeMap<Kind, Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Per state: what is in it, in the order of (rank, id). Its lengths are the counters.
    states: BTreeMap<&'static str, BTreeSet<Place>>,
}

type Place = (i64, Arc<str>);

#[derive(Debug)]
struct Entry {
    rev: Rev,
    indexed: Indexed,
    holder: Option<String>,
    body: Arc<[u8]>,
}

/// What a write replaced, so that its unit can be undone.
struct Undo<'a> {
    write: &'a Write,
    before: Option<Entry>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    // A panic cannot leave half a unit behind: nothing foreign runs under the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Pipeline>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, pipeline: &str, kind: Kind, read: impl FnOnce(&Table) -> T) -> Option<T> {
        self.lock().get(pipeline).and_then(|pipeline| pipeline.tables.get(&kind)).map(read)
    }
}

impl Store for MemoryStore {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        out.clear();
        let mut pipelines = self.lock();
        if let Fence::Worker { pipeline, token } = fence {
            let newest = &mut pipelines.entry(pipeline.clone()).or_default().newest;
            if *token < *newest {
                return Err(Fenced { pipeline: pipeline.to_string(), token: *token, newest: *newest }.into());
            }
            *newest = *token;
        }
        out.extend(units.iter().map(|unit| apply(&mut pipelines, unit)));
        Ok(())
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        let mut pipelines = self.lock();
        let newest = &mut pipelines.entry(pipeline.into()).or_default().newest;
        *newest = newest.checked_add(1).ok_or_else(|| message(format!("pipeline `{pipeline}` is out of tokens")))?;
        Ok(*newest)
    }

    fn claim(
        &self,
        pipeline: &str,
        kind: Kind,
        n: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Record>, BoxError> {
        let name: Arc<str> = pipeline.into();
        let mut claimed = Vec::new();
        let mut heads = Heads::default();
        // `except` runs outside the lock, so that it may ask the store; what it let pass is checked again.
        while claimed.len() < n {
            let Some(place) = self.read(pipeline, kind, |table| heads.next(table, now)).flatten() else { break };
            if except(&place.1) {
                continue;
            }
            let mut pipelines = self.lock();
            let table = pipelines.get_mut(pipeline).and_then(|pipeline| pipeline.tables.get_mut(&kind));
            claimed.extend(table.and_then(|table| table.claim(&name, kind, &place, now, lease_until, holder)));
        }
        Ok(claimed)
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        let name: Arc<str> = pipeline.into();
        Ok(self.read(pipeline, kind, |table| Some(table.entries.get(id)?.record(&name, kind, id))).flatten())
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        let name: Arc<str> = scan.pipeline.into();
        let page = self.read(scan.pipeline, scan.kind, |table| {
            let records: Vec<Record> = match scan.state {
                Some(state) => {
                    let after = scan.after.map(|(rank, id)| (rank, Arc::from(id)));
                    let places =
                        table.states.get(state).into_iter().flat_map(|places| places.range(behind(after.as_ref())));
                    places
                        .filter_map(|(_, id)| Some(table.entries.get(id)?.record(&name, scan.kind, id)))
                        .take(scan.limit)
                        .collect()
                }
                None => {
                    let after = scan.after.map(|(_, id)| id);
                    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                    let entries = table.entries.range::<str, _>((from, Bound::Unbounded));
                    entries.map(|(id, entry)| entry.record(&name, scan.kind, id)).take(scan.limit).collect()
                }
            };
            records
        });
        Ok(page.unwrap_or_default())
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        let count = self.read(pipeline, kind, |table| match state {
            Some(state) => table.states.get(state).map_or(0, BTreeSet::len),
            None => table.entries.len(),
        });
        Ok(count.unwrap_or(0) as u64)
    }
}

/// Makes all writes of a unit or none.
fn apply(pipelines: &mut BTreeMap<Arc<str>, Pipeline>, unit: &[Write]) -> Committed {
    let mut done: Vec<Undo<'_>> = Vec::with_capacity(unit.len());
    for (index, write) in unit.iter().enumerate() {
        let table = table(pipelines, write);
        let found = table.entries.get(write.key.id.as_str());
        let rev = found.map(|entry| entry.rev);
        let expected = match write.expect {
            Expect::Absent => rev.is_none(),
            Expect::Rev(expected) => rev == Some(expected),
            Expect::Any => true,
        };
        if !expected {
            for Undo { write, before } in done.into_iter().rev() {
                self::table(pipelines, write).put(&write.key.id, before);
            }
            return Committed::Conflict { write: index, found: rev };
        }
        let holder = if write.indexed.state == "claimed" { found.and_then(|entry| entry.holder.clone()) } else { None };
        let after =
            Entry { rev: rev.unwrap_or(0) + 1, indexed: write.indexed.clone(), holder, body: write.body.clone() };
        let before = table.put(&write.key.id, Some(after));
        done.push(Undo { write, before });
    }
    Committed::Applied
}

fn table<'a>(pipelines: &'a mut BTreeMap<Arc<str>, Pipeline>, write: &Write) -> &'a mut Table {
    pipelines.entry(write.key.pipeline.clone()).or_default().tables.entry(write.kind).or_default()
}

fn behind(after: Option<&Place>) -> (Bound<&Place>, Bound<&Place>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl Table {
    /// Replaces an entry and keeps the order of the states in step; gives what was there.
    fn put(&mut self, id: &str, entry: Option<Entry>) -> Option<Entry> {
        let (id, before) = match self.entries.remove_entry(id) {
            Some((id, before)) => (id, Some(before)),
            None => (Arc::from(id), None),
        };
        if let Some(before) = &before
            && let Some(places) = self.states.get_mut(before.indexed.state)
        {
            places.remove(&(before.indexed.rank, id.clone()));
        }
        if let Some(entry) = entry {
            self.states.entry(entry.indexed.state).or_default().insert((entry.indexed.rank, id.clone()));
            self.entries.insert(id, entry);
        }
        before
    }

    fn free(&self, place: &Place, now: DateTime<Utc>) -> bool {
        self.entries.get(&place.1).is_some_and(|entry| entry.indexed.rank == place.0 && entry.free(now))
    }

    fn claim(
        &mut self,
        pipeline: &Arc<str>,
        kind: Kind,
        place: &Place,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
    ) -> Option<Record> {
        if !self.free(place, now) {
            return None;
        }
        let entry = self.entries.get(&place.1)?;
        let indexed = Indexed { state: "claimed", rank: place.0, due: Some(lease_until) };
        let entry = Entry { rev: entry.rev + 1, indexed, holder: Some(holder.to_owned()), body: entry.body.clone() };
        let record = entry.record(pipeline, kind, &place.1);
        self.put(&place.1, Some(entry));
        Some(record)
    }
}

impl Entry {
    fn free(&self, now: DateTime<Utc>) -> bool {
        match self.indexed.state {
            "open" => true,
            "claimed" => self.indexed.due.is_some_and(|due| due < now),
            _ => false,
        }
    }

    fn record(&self, pipeline: &Arc<str>, kind: Kind, id: &str) -> Record {
        Record {
            kind,
            key: super::Key::new(pipeline, id),
            rev: self.rev,
            state: self.indexed.state.to_owned(),
            rank: self.indexed.rank,
            due: self.indexed.due,
            holder: self.holder.clone(),
            body: self.body.clone(),
        }
    }
}

/// Walks over what can be claimed, in the order of (rank, id), without a second look at what it passed.
#[derive(Default)]
struct Heads {
    passed: Option<Place>,
    open: Head,
    claimed: Head,
}

#[derive(Default)]
struct Head {
    next: Option<Place>,
    ended: bool,
}

impl Heads {
    fn next(&mut self, table: &Table, now: DateTime<Utc>) -> Option<Place> {
        self.open.advance(table, "open", self.passed.as_ref(), now);
        self.claimed.advance(table, "claimed", self.passed.as_ref(), now);
        let first = match (&self.open.next, &self.claimed.next) {
            (Some(open), Some(claimed)) if claimed < open => &mut self.claimed,
            (Some(_), _) => &mut self.open,
            (None, _) => &mut self.claimed,
        };
        let first = first.next.take()?;
        self.passed = Some(first.clone());
        Some(first)
    }
}

impl Head {
    fn advance(&mut self, table: &Table, state: &str, passed: Option<&Place>, now: DateTime<Utc>) {
        if self.ended || self.next.is_some() && self.next.as_ref() > passed {
            return;
        }
        self.next = table
            .states
            .get(state)
            .and_then(|places| places.range(behind(passed)).find(|place| table.free(place, now)).cloned());
        self.ended = self.next.is_none();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn store_conformance_memory() {
        conformance::store(|| Arc::new(MemoryStore::default()));
    }

    #[test]
    fn follows_the_model() {
        conformance::follows_the_model(256, || Arc::new(MemoryStore::default()));
    }

    #[test]
    fn clones_share_one_content() {
        let store = MemoryStore::default();
        assert_eq!(store.clone().take_over("p").unwrap(), 1);
        assert_eq!(store.take_over("p").unwrap(), 2);
    }
}
