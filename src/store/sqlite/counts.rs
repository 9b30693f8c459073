//! How the counts change in one transaction.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::Kind;

/// Changes of the counts, written once per transaction. There are few (pipeline, kind, state), so a list does.
#[derive(Default)]
pub(super) struct Counts {
    slots: Vec<Slot>,
    /// What the current unit changed: slot and by how much.
    unit: Vec<(usize, i64)>,
}

struct Slot {
    pipeline: Arc<str>,
    kind: Kind,
    state: String,
    change: i64,
}

impl Counts {
    /// Starts a unit.
    pub(super) fn begin(&mut self) {
        self.unit.clear();
    }

    /// Forgets what changed since the unit started.
    pub(super) fn undo(&mut self) {
        for (slot, by) in self.unit.drain(..) {
            self.slots[slot].change -= by;
        }
    }

    pub(super) fn added(&mut self, pipeline: &Arc<str>, kind: Kind, state: &str) {
        self.change(pipeline, kind, state, 1);
    }

    pub(super) fn moved(&mut self, pipeline: &Arc<str>, kind: Kind, from: &str, to: &str) {
        if from != to {
            self.change(pipeline, kind, from, -1);
            self.change(pipeline, kind, to, 1);
        }
    }

    fn change(&mut self, pipeline: &Arc<str>, kind: Kind, state: &str, by: i64) {
        let same = |slot: &Slot| slot.kind == kind && slot.state == state && slot.pipeline == *pipeline;
        let slot = self.slots.iter().position(same).unwrap_or_else(|| {
            self.slots.push(Slot { pipeline: pipeline.clone(), kind, state: state.to_owned(), change: 0 });
            self.slots.len() - 1
        });
        self.slots[slot].change += by;
        self.unit.push((slot, by));
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT INTO counts (pipeline, kind, state, n) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (pipeline, kind, state) DO UPDATE SET n = n + excluded.n";
        for Slot { pipeline, kind, state, change } in self.slots.iter().filter(|slot| slot.change != 0) {
            connection.prepare_cached(sql)?.execute(params![pipeline, kind.as_str(), state, change])?;
        }
        Ok(())
    }
}
