//! The records of models: which of them are needed, and how they are kept.

use std::collections::BTreeSet;

use super::super::outbox::Outbox;
use super::{Phase, Retraining};
use crate::error::Error;
use crate::event::ModelVersion;
use crate::retrain::{Artifact, ModelRecord};
use crate::store::{Indexed, Kind, Write};

impl Retraining {
    /// Versions that are needed: served, previous, kept, candidate, racing, or in the round under way.
    pub(super) fn live_versions(&self) -> BTreeSet<ModelVersion> {
        let state = &self.state;
        let candidate = state.run.as_ref().and_then(|run| run.candidate);
        let deploying = if let Phase::Deploying { to, .. } = &state.phase { Some(*to) } else { None };
        let single =
            [Some(ModelVersion::FIRST), Some(state.champion), state.previous, state.kept, candidate, deploying];
        let trained = state.run.iter().flat_map(|run| run.models.iter().copied());
        let round = state.round.iter().flat_map(|round| round.models.iter().copied());
        let watched = state.watch.iter().map(|watch| watch.previous);
        let racing = state.race_models.values().copied();
        single.into_iter().flatten().chain(trained).chain(round).chain(watched).chain(racing).collect()
    }

    /// Record and bytes of a model; the bytes of an inline artifact are a record of their own.
    pub(super) fn save_model(&self, outbox: &Outbox, record: &ModelRecord) -> Result<Vec<Write>, Error> {
        let version = record.version;
        let state = if record.quarantined.is_some() { "quarantined" } else { "usable" };
        let indexed = Indexed { state, rank: version.0 as i64, due: None };
        let mut writes = Vec::new();
        let mut stored = record.clone();
        if let Artifact::Inline(bytes) = &mut stored.artifact {
            let bytes = std::mem::take(bytes);
            let indexed = Indexed { state: "bytes", rank: version.0 as i64, due: None };
            writes.push(outbox.raw(Kind::Model, &artifact_key(version), indexed, bytes));
        }
        writes.push(outbox.json(Kind::Model, &version.to_string(), indexed, &stored)?);
        Ok(writes)
    }

    pub(super) fn load_model(&mut self, outbox: &Outbox, version: ModelVersion) -> Result<(), Error> {
        if self.models.contains_key(&version) {
            return Ok(());
        }
        let Some(record) = read_model(outbox, version)? else {
            return Err(Error::Corrupt(format!("model {version} is not in the store")));
        };
        self.models.insert(version, record);
        Ok(())
    }

    /// Forgets the records of versions that are no longer live.
    pub(super) fn forget_models(&mut self) {
        let live = self.live_versions();
        self.models.retain(|version, _| live.contains(version));
    }
}

fn artifact_key(version: ModelVersion) -> String {
    format!("{version}.artifact")
}

/// The record of a model, with its artifact.
pub(super) fn read_model(outbox: &Outbox, version: ModelVersion) -> Result<Option<ModelRecord>, Error> {
    let mut record = outbox.read::<ModelRecord>(Kind::Model, &version.to_string())?;
    if let Some(Artifact::Inline(bytes)) = record.as_mut().map(|record| &mut record.artifact)
        && let Some(stored) = outbox.read_raw(Kind::Model, &artifact_key(version))?
    {
        *bytes = stored.to_vec();
    }
    Ok(record)
}
