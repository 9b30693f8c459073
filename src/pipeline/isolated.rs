//! A stage behind a wall: what goes wrong inside stays inside, is counted and shown.

use std::any::Any;

use serde::{Deserialize, Serialize};

use crate::error::BoxError;
use crate::reference::References;
use crate::stage::{Blind, Snapshot, Stage, isolate};

/// After so many failures in a row a stage is down.
const MOST_FAILURES: u32 = 3;

/// How a stage is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Its name.
    pub name: String,
    /// Did it fail three times in a row, so that it is not asked any more? [`Pipeline::revive`](crate::Pipeline::revive) asks it
    /// again.
    pub down: bool,
    /// Failures so far.
    pub failures: u64,
    /// What it said last when it failed.
    pub last_error: Option<String>,
    /// What it cannot see.
    pub blind: Vec<Blind>,
}

/// A stage with the record of its failures and its last good state.
pub(super) struct Isolated<S: ?Sized> {
    pub(super) name: String,
    good: Snapshot,
    in_a_row: u32,
    failures: u64,
    last_error: Option<String>,
    pub(super) stage: Box<S>,
}

/// Reaches the [`Stage`] inside a boxed trait object of one of the stage traits.
pub(super) trait AsStage {
    fn as_stage(&mut self) -> &mut dyn Stage;
    fn as_stage_ref(&self) -> &dyn Stage;
}

macro_rules! as_stage {
    ($($stage:path),*) => { $(
        impl AsStage for dyn $stage {
            fn as_stage(&mut self) -> &mut dyn Stage { self }
            fn as_stage_ref(&self) -> &dyn Stage { self }
        }
    )* };
}

as_stage!(crate::detector::Detector, crate::gate::QualityGate, crate::router::LabelRouter);

impl<S: ?Sized + AsStage> Isolated<S> {
    pub(super) fn new(stage: Box<S>) -> Self {
        let name = stage.as_stage_ref().name().to_owned();
        Isolated { name, good: Snapshot::Stateless, in_a_row: 0, failures: 0, last_error: None, stage }
    }

    pub(super) fn is_down(&self) -> bool {
        self.in_a_row >= MOST_FAILURES
    }

    /// Rebases the stage; an error is returned, because at build time it is a mistake of the host.
    pub(super) fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let stage = &mut self.stage;
        isolate(|| stage.as_stage().rebase(references))?;
        self.remember();
        Ok(())
    }

    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let stage = &mut self.stage;
        isolate(|| stage.as_stage().restore(snapshot))?;
        self.good = snapshot.clone();
        Ok(())
    }

    /// Asks the stage for its state and remembers it as good.
    pub(super) fn remember(&mut self) -> Snapshot {
        let stage = &self.stage;
        match isolate(|| stage.as_stage_ref().snapshot()) {
            Ok(snapshot) => self.good = snapshot,
            Err(error) => self.note(&error),
        }
        self.good.clone()
    }

    /// Runs `work` on the stage. On an error or a panic the stage is rebased and restored to its last good state, the
    /// failure is noted, and `None` is returned; likewise if the stage is down.
    pub(super) fn run<T>(
        &mut self,
        references: &References,
        work: impl FnOnce(&mut S) -> Result<T, BoxError>,
    ) -> Option<T> {
        if self.is_down() {
            return None;
        }
        let stage = &mut self.stage;
        match isolate(|| work(stage)) {
            Ok(value) => {
                self.in_a_row = 0;
                Some(value)
            }
            Err(error) => {
                self.note(&error);
                let (stage, good) = (&mut self.stage, &self.good);
                let back = isolate(|| {
                    stage.as_stage().rebase(references)?;
                    match good {
                        Snapshot::Stateless => Ok(()),
                        state => stage.as_stage().restore(state),
                    }
                });
                if let Err(error) = back {
                    self.in_a_row = MOST_FAILURES;
                    self.last_error = Some(format!("cannot be brought back: {error}"));
                }
                None
            }
        }
    }

    pub(super) fn note(&mut self, error: &BoxError) {
        self.in_a_row += 1;
        self.failures += 1;
        self.last_error = Some(error.to_string());
    }

    /// Gives a stage that is down another chance.
    pub(super) fn revive(&mut self) {
        self.in_a_row = 0;
    }

    pub(super) fn status(&self) -> StageStatus {
        let stage = &self.stage;
        StageStatus {
            name: self.name.clone(),
            down: self.is_down(),
            failures: self.failures,
            last_error: self.last_error.clone(),
            blind: isolate(|| Ok(stage.as_stage_ref().blind())).unwrap_or_default(),
        }
    }

    /// What `ask` says of the stage; nothing if it is down or panics.
    pub(super) fn ask<T: Default>(&self, ask: impl FnOnce(&S) -> T) -> T {
        if self.is_down() { T::default() } else { isolate(|| Ok(ask(&self.stage))).unwrap_or_default() }
    }

    /// The stage itself, if it is a `T`.
    pub(super) fn downcast<T: 'static>(&self) -> Option<&T> {
        (self.stage.as_stage_ref() as &dyn Any).downcast_ref()
    }
}
