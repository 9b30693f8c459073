//! How the counts change in one transaction.

use rusqlite::{Connection, params};

use super::sql;

/// Changes of the counts, written once per transaction. There are few (space, state), so a list does.
#[derive(Default)]
pub(super) struct Counts {
    slots: Vec<Slot>,
    /// What the current unit changed: slot and by how much.
    unit: Vec<(usize, i64)>,
}

struct Slot {
    space: i64,
    state: i64,
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

    pub(super) fn added(&mut self, space: i64, state: i64) {
        self.change(space, state, 1);
    }

    pub(super) fn moved(&mut self, space: i64, from: i64, to: i64) {
        if from != to {
            self.change(space, from, -1);
            self.change(space, to, 1);
        }
    }

    fn change(&mut self, space: i64, state: i64, by: i64) {
        let same = |slot: &Slot| slot.space == space && slot.state == state;
        let slot = self.slots.iter().position(same).unwrap_or_else(|| {
            self.slots.push(Slot { space, state, change: 0 });
            self.slots.len() - 1
        });
        self.slots[slot].change += by;
        self.unit.push((slot, by));
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        for Slot { space, state, change } in self.slots.iter().filter(|slot| slot.change != 0) {
            connection.prepare_cached(sql::ADD)?.execute(params![space, state, change])?;
        }
        Ok(())
    }
}
