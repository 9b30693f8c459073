//! Which version plays which part: champion, challenger, previous, kept; with every change of it, and the claim that a
//! switch needs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::super::Pipeline;
use super::super::outbox::{self, Outbox};
use super::{LoopState, Phase, Retraining};
use crate::error::Error;
use crate::event::ModelVersion;
use crate::retrain::RunId;
use crate::store::{Expect, Indexed, Kind, Store, Write};

/// The record that holds the aliases as they are; their history is kept under this name and a number.
const RECORD: &str = "aliases";

/// The names by which the versions of a pipeline are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliases {
    /// The served version.
    pub champion: ModelVersion,
    /// The candidate of the run in flight, from its choice until it serves or is refused.
    pub challenger: Option<ModelVersion>,
    /// The version served before the champion; a rollback goes there.
    pub previous: Option<ModelVersion>,
    /// The last version that proved not worse than its predecessor.
    pub kept: Option<ModelVersion>,
}

/// One state of the aliases. The history has one for each change, numbered from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// Number of the change.
    pub number: u64,
    /// The aliases since then.
    pub aliases: Aliases,
    /// The run in flight or, without one, the run whose candidate is watched.
    pub run: Option<RunId>,
    /// When.
    pub time: DateTime<Utc>,
    /// The version that is being switched to at this moment: written before the switch, gone after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching_to: Option<ModelVersion>,
}

impl LoopState {
    pub(super) fn aliases(&self) -> Aliases {
        let challenger = self.run.as_ref().and_then(|run| run.candidate);
        Aliases { champion: self.champion, challenger, previous: self.previous, kept: self.kept }
    }
}

impl Retraining {
    /// Writes the aliases, and their history, if they have changed since they were written last.
    pub(super) fn save_aliases(&mut self, outbox: &Outbox, now: DateTime<Utc>) -> Result<Vec<Write>, Error> {
        let aliases = self.state.aliases();
        let known = self.aliases.as_ref();
        if known.is_some_and(|known| known.aliases == aliases && known.switching_to.is_none()) {
            return Ok(Vec::new());
        }
        let changed = known.is_none_or(|known| known.aliases != aliases);
        let number = known.map_or(0, |known| known.number) + u64::from(changed);
        let run = self.state.run.as_ref().map(|run| run.id).or(self.state.watched_run);
        let record = AliasRecord { number, aliases, run, time: now, switching_to: None };
        let mut writes = vec![outbox.json(Kind::Control, RECORD, indexed("current", number), &record)?];
        if changed {
            let name = format!("{RECORD}/{number:08}");
            writes.push(outbox.json(Kind::Control, &name, indexed("alias", number), &record)?);
        }
        self.aliases = Some(record);
        Ok(writes)
    }
}

impl Pipeline {
    /// Takes the aliases over that an earlier process wrote. If they are not the `expected` ones, which it saved with its state,
    /// somebody else has changed them: the loop freezes, and restores what it knows.
    pub(super) fn reopen_aliases(&mut self, expected: Aliases) -> Result<(), Error> {
        let stored: Option<AliasRecord> = self.outbox.read(Kind::Control, RECORD)?;
        if let Some(stored) = stored.as_ref().filter(|stored| stored.aliases != expected) {
            self.retraining.state.frozen = Some(changed_outside(&stored.aliases, &expected));
        }
        self.retraining.interrupted = self.retraining.parts.deployer.is_some()
            && stored.as_ref().is_some_and(|stored| stored.switching_to.is_some());
        self.retraining.aliases = stored;
        Ok(())
    }

    /// Claims the switch to `to` by compare-and-set, immediately before it is made: this process must still hold the
    /// pipeline, and the aliases must be those that it wrote. `false`: they are not; the loop is frozen and nothing was
    /// switched.
    ///
    /// # Errors
    /// Another process has taken over the pipeline, or the store fails.
    pub(super) fn claim_switch(&mut self, to: ModelVersion) -> Result<bool, Error> {
        // Whatever waits is durable before, so that the record is what was written last.
        self.save_loop(Vec::new())?;
        self.outbox.commit()?;
        let Some(known) = self.retraining.aliases.clone() else { return Ok(true) };
        let found = self.outbox.record(Kind::Control, RECORD)?;
        let stored: Option<AliasRecord> = found.as_ref().map(outbox::parse).transpose()?;
        let same = |stored: &AliasRecord| (stored.number, stored.aliases) == (known.number, known.aliases);
        if let Some(found) = found.filter(|_| stored.as_ref().is_some_and(same)) {
            let claim = AliasRecord { switching_to: Some(to), ..known.clone() };
            let write = self.outbox.json(Kind::Control, RECORD, indexed("current", known.number), &claim)?;
            if self.outbox.compare_and_set(Write { expect: Expect::Rev(found.rev), ..write })? {
                self.retraining.aliases = Some(claim);
                return Ok(true);
            }
        }
        let found = stored.unwrap_or_else(|| AliasRecord { switching_to: Some(to), ..known.clone() });
        self.retraining.state.frozen = Some(changed_outside(&found.aliases, &known.aliases));
        self.retraining.aliases = Some(AliasRecord { number: known.number.max(found.number), ..found });
        self.save_loop(Vec::new())?;
        Ok(false)
    }

    /// Every change of the aliases, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn alias_history(&self) -> Result<Vec<AliasRecord>, Error> {
        let mut records = Vec::new();
        self.outbox.each(Kind::Control, "alias", |record| {
            records.push(outbox::parse(&record)?);
            Ok(())
        })?;
        Ok(records)
    }

    /// Is a deployment under way that has not switched yet?
    pub(super) fn is_promoting(&self) -> bool {
        matches!(self.retraining.state.phase, Phase::Deploying { kind: super::PromotionKind::Promotion, .. })
    }
}

impl Aliases {
    /// The aliases of `pipeline` as its worker wrote them last; `None` if it has never run on this store. For processes that
    /// serve and do not run the loop.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(store: &dyn Store, pipeline: &str) -> Result<Option<Aliases>, Error> {
        let record: Option<AliasRecord> = super::super::lineage::read(store, pipeline, Kind::Control, RECORD)?;
        Ok(record.map(|record| record.aliases))
    }
}

fn indexed(state: &'static str, number: u64) -> Indexed {
    Indexed { state, rank: number as i64, due: None }
}

fn changed_outside(found: &Aliases, expected: &Aliases) -> String {
    let say = |aliases: &Aliases| {
        let name = |version: Option<ModelVersion>| version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        let Aliases { champion, challenger, previous, kept } = *aliases;
        let (challenger, previous, kept) = (name(challenger), name(previous), name(kept));
        format!("champion {champion}, challenger {challenger}, previous {previous}, kept {kept}")
    };
    format!(
        "somebody else changed the aliases to {}; they are {} again: look into it, then unfreeze",
        say(found),
        say(expected)
    )
}
