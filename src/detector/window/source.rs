//! What a window compares: where its columns come from, and how they are tested.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::super::Reading;
use super::rows::Rows;
use super::settings::Settings;
use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::reference::References;
use crate::schema::MISSING_CODE;
use crate::stage::Blind;
use crate::stats::permutation::Compared;

/// The reference side of a comparison.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    pub(in super::super) numbers: Vec<Numbers>,
    pub(in super::super) levels: Vec<Levels>,
    /// What it leaves out.
    pub(in super::super) blind: Vec<Blind>,
}

/// Reference of a numeric column.
#[derive(Debug, Clone)]
pub(in super::super) struct Numbers {
    pub(in super::super) name: String,
    /// One per row of the sample; not finite = missing.
    pub(in super::super) values: Vec<f64>,
    /// Rows without a finite value, and all rows; no rows = the missing share is not tested.
    pub(in super::super) missing: u64,
    pub(in super::super) rows: u64,
}

/// Reference of a category column: counts by code, then unseen, then missing.
#[derive(Debug, Clone)]
pub(in super::super) struct Levels {
    pub(in super::super) name: String,
    pub(in super::super) counts: Vec<u64>,
}

impl Levels {
    pub(in super::super) fn new(name: &str, allowed: usize, codes: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let mut counts = vec![0; allowed + 2];
        for (code, count) in codes {
            let level = level_of(code, counts.len());
            counts[level] += count;
        }
        Levels { name: name.into(), counts }
    }
}

/// Which of `levels` a code belongs to.
pub(super) fn level_of(code: u32, levels: usize) -> usize {
    if code == MISSING_CODE { levels - 1 } else { (code as usize).min(levels - 2) }
}

/// What became of a saved state.
pub enum Restored {
    /// It goes with the baseline that `rebase` gave.
    Same,
    /// It brought its own baseline, or a part of one.
    Own(Option<Baseline>),
    /// It is worth nothing any more.
    Void,
}

/// Where the columns come from.
pub trait Source: Debug + Clone + Default + Send + 'static {
    /// Name of the stage unless told.
    const NAME: &'static str;
    /// Version of the saved state.
    const FORMAT: u32;
    /// How windows and baseline are compared.
    type Tests: Tests;
    /// What the stream left here.
    type State: Serialize + DeserializeOwned;

    /// The reference to compare with; `None` if it has to be learned from the stream.
    fn rebase(&mut self, references: &References) -> Result<Option<Baseline>, BoxError>;

    /// Takes the columns out of a chunk.
    fn read(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError>;

    /// Numeric column of the chunk that was read last.
    fn values<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [f64];

    /// Category column of the chunk that was read last.
    fn codes<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [u32];

    /// Without a baseline: keeps rows of the chunk that was read last for one of `rows` rows. How many it took, and the
    /// baseline when it is complete.
    fn learn(&mut self, rows: usize) -> (usize, Option<Baseline>) {
        let _ = rows;
        (0, None)
    }

    /// What a source without a baseline waits for.
    fn waits_for(&self, rows: usize) -> String {
        format!("nothing is there to compare with: {rows} observations are needed")
    }

    /// Saves what the stream left.
    fn save(&self) -> Self::State;

    /// Takes it over; a baseline has `rows` rows.
    fn load(&mut self, state: Self::State, rows: usize) -> Result<Restored, BoxError>;
}

/// The question that a window asks.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The strictest level of the decision, and the loosest.
    pub(in super::super) strict: f64,
    pub(in super::super) loose: f64,
    /// Fixes everything random.
    pub(in super::super) seed: u64,
}

/// The answer of one test.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Number of the test: its name is the tests' to know.
    pub(in super::super) test: usize,
    pub(in super::super) statistic: f64,
    pub(in super::super) effect: f64,
    /// `None` if it was not computed, as it cannot make an alarm.
    pub(in super::super) p_value: Option<f64>,
}

impl Answer {
    /// Of the first test.
    pub(in super::super) fn of(found: Compared) -> Self {
        Answer { test: 0, statistic: found.statistic, effect: found.effect, p_value: Some(found.p_value) }
    }
}

/// How windows are compared with a baseline.
pub trait Tests: Debug + Clone + Send + 'static {
    /// Prepares the comparison; and says what it cannot compare.
    fn new(baseline: Baseline, settings: &Settings) -> (Self, Vec<Blind>);

    /// Number of tests that share the level of a window.
    fn count(&self) -> usize;

    /// Answers of a window of rows into `answers`, which is empty.
    fn compare(&mut self, rows: &Rows, question: Question, answers: &mut Vec<Answer>);

    /// An answer of the last window for the reader; `None` of its p-value is computed now if that can be done.
    fn reading(&self, answer: &Answer) -> Reading;

    /// Name of the column of an answer.
    fn column(&self, answer: &Answer) -> &str;

    /// Start of the text of an alarm with `found` columns behind it, up to the words "the reference".
    fn summary(&self, found: usize) -> String;

    /// An answer in words.
    fn text(&self, answer: &Answer) -> String;

    /// What could not be computed in the last window, if its strictest level was `strict`.
    fn starved(&self, strict: f64) -> Vec<Blind>;
}
