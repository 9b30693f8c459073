//! Numbers that stand for names in the file.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Kind, sql};

/// Numbers of spaces (pipeline and kind) and of states, as far as they were needed. They never change, so that one that was seen
/// stays right; those of a transaction that was not committed must be forgotten.
#[derive(Default)]
pub(super) struct Names {
    spaces: HashMap<Box<str>, Vec<(Kind, i64)>>,
    states: HashMap<Box<str>, i64>,
    by_number: HashMap<i64, Box<str>>,
}

impl Names {
    /// The number of a space; `None` if nothing was ever written there.
    pub(super) fn space(&mut self, file: &Connection, pipeline: &str, kind: Kind) -> rusqlite::Result<Option<i64>> {
        if let Some(space) = self.known_space(pipeline, kind) {
            return Ok(Some(space));
        }
        let found: Option<i64> =
            file.prepare_cached(sql::SPACE)?.query_row([pipeline, kind.as_str()], |row| row.get(0)).optional()?;
        if let Some(space) = found {
            self.spaces.entry(pipeline.into()).or_default().push((kind, space));
        }
        Ok(found)
    }

    /// The number of a space, which gets one if it has none.
    pub(super) fn make_space(&mut self, file: &Connection, pipeline: &str, kind: Kind) -> rusqlite::Result<i64> {
        if let Some(space) = self.space(file, pipeline, kind)? {
            return Ok(space);
        }
        let name = [pipeline, kind.as_str()];
        let space = file.prepare_cached(sql::NEW_SPACE)?.query_row(name, |row| row.get(0))?;
        self.spaces.entry(pipeline.into()).or_default().push((kind, space));
        Ok(space)
    }

    /// The number of a state; `None` if nothing was ever in it.
    pub(super) fn state(&mut self, file: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
        if let Some(state) = self.states.get(name) {
            return Ok(Some(*state));
        }
        let found: Option<i64> = file.prepare_cached(sql::STATE)?.query_row([name], |row| row.get(0)).optional()?;
        if let Some(state) = found {
            self.remember_state(state, name);
        }
        Ok(found)
    }

    /// The number of a state, which gets one if it has none.
    pub(super) fn make_state(&mut self, file: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(state) = self.state(file, name)? {
            return Ok(state);
        }
        let state = file.prepare_cached(sql::NEW_STATE)?.query_row([name], |row| row.get(0))?;
        self.remember_state(state, name);
        Ok(state)
    }

    /// The name of the state with this number.
    pub(super) fn name_of(&mut self, file: &Connection, state: i64) -> rusqlite::Result<&str> {
        if !self.by_number.contains_key(&state) {
            let name: String = file.prepare_cached(sql::STATE_NAME)?.query_row(params![state], |row| row.get(0))?;
            self.remember_state(state, &name);
        }
        Ok(self.by_number.get(&state).map_or("", |name| name))
    }

    fn known_space(&self, pipeline: &str, kind: Kind) -> Option<i64> {
        let spaces = self.spaces.get(pipeline)?;
        spaces.iter().find(|(known, _)| *known == kind).map(|(_, space)| *space)
    }

    fn remember_state(&mut self, state: i64, name: &str) {
        self.states.insert(name.into(), state);
        self.by_number.insert(state, name.into());
    }
}
