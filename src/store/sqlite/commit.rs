//! Making the writes of units.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::counts::Counts;
use super::names::Names;
use super::{Committed, Expect, Fence, Fenced, Rev, Write, sql, to_text};
use crate::error::BoxError;

/// Refuses an outdated worker, and remembers a newer one.
pub(super) fn check(connection: &Connection, fence: &Fence) -> Result<(), BoxError> {
    let Fence::Worker { pipeline, token } = fence else { return Ok(()) };
    let mut select = connection.prepare_cached(sql::TOKEN)?;
    let newest: Option<i64> = select.query_row([pipeline], |row| row.get(0)).optional()?;
    let newest = u64::try_from(newest.unwrap_or(0))?;
    if *token < newest {
        return Err(Fenced { pipeline: pipeline.to_string(), token: *token, newest }.into());
    }
    if *token > newest {
        connection.prepare_cached(sql::NEW_TOKEN)?.execute(params![pipeline, i64::try_from(*token)?])?;
    }
    Ok(())
}

/// The numbers of a write's space and state.
#[derive(Clone, Copy)]
struct Place {
    space: i64,
    state: i64,
}

/// The writes of one transaction.
pub(super) struct Writes<'c> {
    connection: &'c Connection,
    found: CachedStatement<'c>,
    insert: CachedStatement<'c>,
    insert_body: CachedStatement<'c>,
    update: CachedStatement<'c>,
    update_body: CachedStatement<'c>,
    last_body: i64,
    counts: Counts,
}

impl<'c> Writes<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Writes {
            connection,
            found: connection.prepare_cached(sql::FOUND)?,
            insert: connection.prepare_cached(sql::INSERT)?,
            insert_body: connection.prepare_cached(sql::INSERT_BODY)?,
            update: connection.prepare_cached(sql::UPDATE)?,
            update_body: connection.prepare_cached(sql::UPDATE_BODY)?,
            last_body: connection.prepare_cached(sql::LAST_BODY)?.query_row([], |row| row.get(0))?,
            counts: Counts::default(),
        })
    }

    /// Makes all units that find what they expect.
    pub(super) fn make(&mut self, units: &[&[Write]], names: &mut Names) -> Result<Vec<Committed>, BoxError> {
        // Before the first savepoint: a unit that is undone must not take a number away that was given to others.
        let mut places = Vec::with_capacity(units.len());
        for write in units.iter().copied().flatten() {
            let space = names.make_space(self.connection, &write.key.pipeline, write.kind)?;
            places.push(Place { space, state: names.make_state(self.connection, write.indexed.state)? });
        }
        let mut rest = places.as_slice();
        let mut made = Vec::with_capacity(units.len());
        for unit in units {
            let (places, behind) = rest.split_at(unit.len());
            made.push(self.unit(unit, places)?);
            rest = behind;
        }
        self.counts.save(self.connection)?;
        Ok(made)
    }

    /// Makes all writes of a unit or none.
    fn unit(&mut self, unit: &[Write], places: &[Place]) -> Result<Committed, BoxError> {
        // A unit of one write that finds a conflict has changed nothing, so it needs no savepoint.
        let savepoint = unit.len() > 1;
        let connection = self.connection;
        let run = |sql: &str| connection.prepare_cached(sql)?.execute([]);
        self.counts.begin();
        if savepoint {
            run("SAVEPOINT unit")?;
        }
        for (index, (write, place)) in unit.iter().zip(places).enumerate() {
            if let Err(found) = self.put(write, *place)? {
                if savepoint {
                    run("ROLLBACK TO unit")?;
                    run("RELEASE unit")?;
                }
                self.counts.undo();
                return Ok(Committed::Conflict { write: index, found });
            }
        }
        if savepoint {
            run("RELEASE unit")?;
        }
        Ok(Committed::Applied)
    }

    /// Makes a write, or gives the revision that it found instead of the one that it expects.
    fn put(&mut self, write: &Write, place: Place) -> Result<Result<(), Option<Rev>>, BoxError> {
        let Place { space, state } = place;
        if write.expect == Expect::Absent && self.insert(write, place)? {
            return Ok(Ok(()));
        }
        let found = self.found.query_row(params![space, write.key.id], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match found.optional()? {
            None if write.expect == Expect::Any => {
                self.insert(write, place)?;
                Ok(Ok(()))
            }
            None => Ok(Err(None)),
            Some((rev, before, n)) => {
                let rev = u64::try_from(rev)?;
                if !matches!(write.expect, Expect::Any) && write.expect != Expect::Rev(rev) {
                    return Ok(Err(Some(rev)));
                }
                let indexed = &write.indexed;
                let held = indexed.state == "claimed";
                self.update.execute(params![
                    space,
                    write.key.id,
                    state,
                    indexed.rank,
                    indexed.due.map(to_text),
                    held
                ])?;
                self.update_body.execute(params![n, stored(&write.body)])?;
                self.counts.moved(space, before, state);
                Ok(Ok(()))
            }
        }
    }

    /// Makes a new record, unless there is one of this name.
    fn insert(&mut self, write: &Write, Place { space, state }: Place) -> rusqlite::Result<bool> {
        let (indexed, n) = (&write.indexed, self.last_body + 1);
        let entry = params![space, write.key.id, state, indexed.rank, indexed.due.map(to_text), n];
        if self.insert.execute(entry)? == 0 {
            return Ok(false);
        }
        self.insert_body.execute(params![n, stored(&write.body)])?;
        self.last_body = n;
        self.counts.added(space, state);
        Ok(true)
    }
}

/// A body as it is stored: text if it is any, for those who look at the file.
fn stored(body: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match std::str::from_utf8(body) {
        Ok(_) => ValueRef::Text(body),
        Err(_) => ValueRef::Blob(body),
    })
}
