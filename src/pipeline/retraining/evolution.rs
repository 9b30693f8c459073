//! A store that was written with an earlier version of the schema.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::super::Pipeline;
use super::super::anchor::BEFORE;
use super::super::flow::Checkpoint;
use super::super::outbox::parse;
use super::{LoopState, Phase};
use crate::error::Error;
use crate::reference::Reference;
use crate::retrain::RunState;
use crate::sample::Reason;
use crate::schema::{Schema, SchemaChange, SchemaError, Widening};
use crate::stage::Snapshot;
use crate::store::{Indexed, Kind, Write};

/// State of the records of schema versions.
const VERSION: &str = "schema";

/// One version of the schema of a pipeline: append-only history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SchemaVersion {
    /// Number of the version, from 1.
    pub number: u64,
    /// Fingerprint of the schema.
    pub fingerprint: String,
    /// The schema.
    pub schema: Schema,
    /// Since when.
    pub time: DateTime<Utc>,
    /// How it differs from the version before.
    pub changes: Vec<SchemaChange>,
    /// What did not fit the new version and starts afresh: references (then taken from what the builder was given) and
    /// the states of detectors.
    pub dropped: Vec<String>,
}

impl Pipeline {
    /// The versions that the schema had, oldest first; the last one is in force.
    ///
    /// A pipeline accepts a store of an earlier version if [`Schema::evolve`] allows it. Rows that are stored are read
    /// as rows whose new fields are missing ([`Row::fit`](crate::Row::fit)), and stay as they are in the store. Where the
    /// numeric and category columns change, references and the states of detectors start afresh; where only more values
    /// of a category are allowed, the states of detectors do; the version says which. Everything else goes on; a gate or
    /// router whose saved state does not fit says so in the status, as after any restart. Training that is under way at that moment ends as failed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn schema_history(&self) -> Result<Vec<SchemaVersion>, Error> {
        let mut versions = Vec::new();
        self.outbox.each(Kind::Control, VERSION, |record| {
            versions.push(parse(&record)?);
            Ok(())
        })?;
        Ok(versions)
    }

    fn version_write(&self, version: &SchemaVersion) -> Result<Write, Error> {
        let indexed = Indexed { state: VERSION, rank: version.number as i64, due: None };
        self.outbox.json(Kind::Control, &format!("schema/{}", version.number), indexed, version)
    }

    /// Writes the first version down, also in a store that knows the schema by its fingerprint only.
    pub(super) fn first_version(&mut self) -> Result<(), Error> {
        if !self.schema_history()?.is_empty() {
            return Ok(());
        }
        let write = self.version_write(&SchemaVersion {
            number: 1,
            fingerprint: self.schema.fingerprint().to_owned(),
            schema: (*self.schema).clone(),
            time: self.now,
            changes: Vec::new(),
            dropped: Vec::new(),
        })?;
        self.outbox.push(vec![write]);
        Ok(())
    }

    /// Makes the store one of the present schema, all at once, if the schema can take over from the stored one.
    pub(super) fn take_over_schema(&mut self, saved: &mut LoopState) -> Result<(), Error> {
        let history = self.schema_history()?;
        let Some(old) = history.into_iter().rev().find(|version| version.fingerprint == saved.schema) else {
            // written by a release that did not keep the schema
            let (found, expected) = (self.schema.fingerprint().to_owned(), saved.schema.clone());
            return Err(SchemaError::Fingerprint { found, expected }.into());
        };
        let changes = old.schema.evolve(&self.schema)?.changes;
        let (mut unit, mut dropped) = (Vec::new(), Vec::new());
        let indexed = || Indexed { state: "saved", rank: 0, due: None };
        for (name, given) in [
            ("reference/training", &self.references.training),
            ("reference/serving", &self.references.serving),
            ("reference/anchor", &self.references.anchor),
        ] {
            if let Some(stored) = self.outbox.read::<Reference>(Kind::Control, name)? {
                let carried = stored.carried(&self.schema).map(Arc::new);
                if carried.is_none() {
                    dropped.push(name.to_owned());
                }
                let next = carried.unwrap_or_else(|| given.clone());
                unit.push(self.outbox.json(Kind::Control, name, indexed(), &*next)?);
            }
        }
        if let Some(before) = self.serving_before()? {
            unit.push(self.outbox.json(Kind::Control, BEFORE, indexed(), &before.carried(&self.schema))?);
        }
        // detectors count the values of each column, and of each category its levels
        let more_levels = changes.iter().any(|change| matches!(change.widening, Widening::Allowed(_)));
        let states_fit = old.schema.same_columns(&self.schema) && !more_levels;
        if !states_fit && let Some(mut saved) = self.outbox.read::<Checkpoint>(Kind::Checkpoint, "stages")? {
            let of_columns =
                |name: &String, state: &mut Snapshot| name.starts_with("detector/") && *state != Snapshot::Stateless;
            dropped.extend(saved.stages.extract_if(.., of_columns).map(|(name, _)| name));
            unit.push(self.outbox.json(Kind::Checkpoint, "stages", indexed(), &saved)?);
        }
        if matches!(saved.phase, Phase::Training(_))
            && let Some(mut run) = saved.run.take()
        {
            // its jobs have data of the old schema
            run.state = RunState::Failed;
            run.notes.push((self.now, Reason::new("schema_changed", "the schema has a new version")));
            unit.push(self.retraining.save_run(&self.outbox, &run)?);
            saved.phase = Phase::Idle;
        }
        saved.schema = self.schema.fingerprint().to_owned();
        unit.push(self.outbox.json(Kind::Control, "loop", indexed(), saved)?);
        unit.push(self.version_write(&SchemaVersion {
            number: old.number + 1,
            fingerprint: saved.schema.clone(),
            schema: (*self.schema).clone(),
            time: self.now,
            changes,
            dropped,
        })?);
        self.outbox.push(unit);
        self.outbox.commit()
    }
}

#[cfg(test)]
mod tests;
