//! The records of models: which of them are needed, and how they are kept.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use super::super::Pipeline;
use super::super::outbox::Outbox;
use super::{Phase, Retraining};
use crate::error::Error;
use crate::event::ModelVersion;
use crate::retrain::{Artifact, Member, ModelRecord, Race, Recipe, RunId};
use crate::store::{Indexed, Kind, Write};

impl Retraining {
    /// Versions that are needed: served, previous, kept, candidate, racing, or in the round under way.
    pub(in crate::pipeline) fn live_versions(&self) -> BTreeSet<ModelVersion> {
        let state = &self.state;
        let candidate = state.run.as_ref().and_then(|run| run.candidate);
        let deploying = if let Phase::Deploying { to, .. } = &state.phase { Some(*to) } else { None };
        let single =
            [Some(ModelVersion::FIRST), Some(state.champion), state.previous, state.kept, candidate, deploying];
        let trained = state.run.iter().flat_map(|run| run.models.iter().copied());
        let round = state.round.iter().flat_map(|round| round.models.iter().copied());
        let watched = state.watch.iter().map(|watch| watch.previous);
        let more = state.race_models.values().chain(state.line.values()).copied();
        single.into_iter().flatten().chain(trained).chain(round).chain(watched).chain(more).collect()
    }

    /// What a blend may be made of: the models that the run's recipes have `trained`, and the first one.
    pub(super) fn members(&self, recipe: Recipe, trained: &[(Recipe, ModelVersion)]) -> Vec<Member> {
        if recipe != Recipe::Blend {
            return Vec::new();
        }
        let named = trained.iter().map(|(recipe, version)| (recipe.as_str(), *version));
        let member = |(name, version)| {
            let (share, model) = (self.state.shares.get(name)?, self.models.get(&version)?);
            Some(Member { share: *share, model: model.clone() })
        };
        let mut members: Vec<Member> = named.chain([(Race::KEEP, ModelVersion::FIRST)]).filter_map(member).collect();
        let sum: f64 = members.iter().map(|member| member.share).sum();
        members.iter_mut().for_each(|member| member.share /= sum);
        members
    }

    /// Record and bytes of a model; the bytes of an inline artifact are a record of their own, empty if it was removed.
    pub(super) fn save_model(&self, outbox: &Outbox, record: &ModelRecord) -> Result<Vec<Write>, Error> {
        let version = record.version;
        let indexed = Indexed { state: record.state(), rank: version.0 as i64, due: None };
        let mut writes = Vec::new();
        let mut stored = record.clone();
        if let Artifact::Inline(bytes) = &mut stored.artifact {
            let bytes = std::mem::take(bytes);
            let bytes = if record.removed.is_some() { Vec::new() } else { bytes };
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

impl Pipeline {
    /// Takes what was trained from a model that nobody needs: the directory of its job at once, its bytes by the writes. A
    /// directory that cannot be removed stays, and the journal says so.
    pub(in crate::pipeline) fn remove_model(&mut self, mut record: ModelRecord) -> Result<Vec<Write>, Error> {
        let directory = self.retraining.parts.directory.as_ref();
        if let (Some(directory), Some(run), Some(recipe)) = (directory, record.run, record.recipe) {
            let job = directory.join(job_key(run, recipe));
            self.outbox.check_place()?;
            if let Err(error) = fs::remove_dir_all(&job)
                && error.kind() != ErrorKind::NotFound
            {
                let text = format!("{} stays: {error}", job.display());
                self.note("expired", record.version.to_string(), Some("retention"), Some(&text));
            }
        }
        record.removed = Some(self.now);
        self.retraining.save_model(&self.outbox, &record)
    }
}

/// The idempotency key of the job that trains by `recipe` for `run`; its directory has the same name.
pub(super) fn job_key(run: RunId, recipe: Recipe) -> String {
    format!("{run}-{}", recipe.as_str())
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
