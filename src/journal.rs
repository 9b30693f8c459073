//! The journal: who changed what, as chains of digests that show any later change of them or of what they speak of.

mod verify;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::schema::hex;
use crate::store::{Expect, Indexed, Key, Kind, Record, Store, Write};

pub use verify::{JournalBreak, JournalReport, verify_journal};

/// The writer of everything that the pipeline itself commits: one worker at a time, as the fence sees to.
pub(crate) const LOOP: &str = "loop";
/// The act of the first entry; its state says whether the store was [`EMPTY`] then.
const BEGUN: &str = "begun";
const EMPTY: &str = "empty";

/// One act of an entry: a record that was written, or something that somebody did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Kind of the record, or the name of the act: `frozen`, `unfrozen`, `signed_off`, `erased`, …
    pub what: String,
    /// Name of the record, or what the act was about.
    pub subject: String,
    /// State of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// SHA-256 of the record's content as it was stored, in hexadecimal; `None` for an act without a record of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who did it, if a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Act {
    /// What a person did.
    pub(crate) fn of_person(what: &str, subject: impl Into<String>, by: Option<&str>, why: Option<&str>) -> Self {
        Act {
            what: what.to_owned(),
            subject: subject.into(),
            state: None,
            digest: None,
            by: by.map(str::to_owned),
            why: why.map(str::to_owned),
        }
    }

    /// The act of a write, if the journal speaks of such records.
    pub(crate) fn of_write(write: &Write) -> Option<Self> {
        is_journalled(write.kind, &write.key.id).then(|| Act {
            what: write.kind.as_str().to_owned(),
            subject: write.key.id.clone(),
            state: Some(write.indexed.state.to_owned()),
            digest: Some(sha256(&write.body)),
            by: None,
            why: None,
        })
    }
}

/// One entry of the journal: everything that one unit changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Who wrote it: `loop`, or `people/` and the name of an annotator. Every writer has a chain of its own.
    pub writer: String,
    /// Place in the chain, from 1.
    pub sequence: u64,
    /// When, by the writer's clock.
    pub time: DateTime<Utc>,
    /// What was changed or done.
    pub acts: Vec<Act>,
    /// SHA-256 of the entry before, as it was stored; empty for the first.
    pub previous: String,
}

/// The end of a chain. Whoever keeps it elsewhere can tell later whether the chain up to here is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    /// The writer.
    pub writer: String,
    /// Number of its last entry.
    pub sequence: u64,
    /// SHA-256 of that entry as it was stored.
    pub digest: String,
}

impl JournalHead {
    /// The head of a chain that has no entry yet.
    fn none(writer: &str) -> Self {
        JournalHead { writer: writer.to_owned(), sequence: 0, digest: String::new() }
    }

    /// The head of a writer's chain, and what a write that moves it expects to find.
    pub(crate) fn read(store: &dyn Store, pipeline: &str, writer: &str) -> Result<(Self, Expect), Error> {
        let found = store.get(pipeline, Kind::Journal, writer).map_err(Error::store("read the journal"))?;
        match found {
            Some(record) => Ok((parse(&record)?, Expect::Rev(record.rev))),
            None => Ok((JournalHead::none(writer), Expect::Absent)),
        }
    }

    /// The writes that add an entry of `acts` to the chain; the head moves to it. They belong into the unit of the changes.
    pub(crate) fn append(
        &mut self,
        pipeline: &Arc<str>,
        time: DateTime<Utc>,
        acts: Vec<Act>,
        expect: Expect,
    ) -> [Write; 2] {
        let sequence = self.sequence + 1;
        let previous = std::mem::take(&mut self.digest);
        let entry = JournalEntry { writer: self.writer.clone(), sequence, time, acts, previous };
        let body = json(&entry);
        (self.sequence, self.digest) = (sequence, sha256(&body));
        let write = |id: String, state, expect, body: Vec<u8>| Write {
            kind: Kind::Journal,
            key: Key::new(pipeline, id),
            expect,
            indexed: Indexed { state, rank: sequence as i64, due: None },
            body: body.into(),
        };
        let first = if expect == Expect::Any { Expect::Any } else { Expect::Absent };
        let head = json(self);
        [
            write(entry_key(&self.writer, sequence), "entry", first, body),
            write(self.writer.clone(), "head", expect, head),
        ]
    }
}

/// The writer of an annotator's own acts.
pub(crate) fn person(annotator: &str) -> String {
    // So that no name looks like the entry of another.
    format!("people/{}", annotator.replace('%', "%25").replace('/', "%2F"))
}

/// The first act of the loop's chain. A store that was empty holds nothing that the journal does not list.
pub(crate) fn begun(store: &dyn Store, pipeline: &str) -> Result<Act, Error> {
    let mut records = 0;
    for kind in Kind::ALL.into_iter().filter(|kind| counts(*kind)) {
        records += store.count(pipeline, kind, None).map_err(Error::store("count records"))?;
    }
    let state = if records == 0 { EMPTY } else { "with records of before" };
    Ok(Act { state: Some(state.to_owned()), ..Act::of_person(BEGUN, pipeline, None, None) })
}

/// Entries of `writer`, newest first, at most `limit`: the newest ones, or those before number `before`.
pub(crate) fn entries(
    store: &dyn Store,
    pipeline: &str,
    writer: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<JournalEntry>, Error> {
    let (head, _) = JournalHead::read(store, pipeline, writer)?;
    let last = before.map_or(head.sequence, |before| before.saturating_sub(1).min(head.sequence));
    let first = last.saturating_sub(limit as u64);
    let mut found = Vec::new();
    for sequence in (first + 1..=last).rev() {
        let id = entry_key(writer, sequence);
        let record = store.get(pipeline, Kind::Journal, &id).map_err(Error::store("read the journal"))?;
        let record = record.ok_or_else(|| Error::Corrupt(format!("entry `{id}` of the journal is missing")))?;
        found.push(parse(&record)?);
    }
    Ok(found)
}

/// Does the journal speak of this record? Of all that is not the state of a stage, a cursor, or a question to people, whose
/// answers are annotations.
fn is_journalled(kind: Kind, id: &str) -> bool {
    counts(kind) || (kind == Kind::Control && (id == "loop" || id.starts_with("schema/")))
}

/// Kinds of which every record is journalled.
fn counts(kind: Kind) -> bool {
    use Kind::*;
    matches!(kind, Sample | Annotation | Batch | Run | Evaluation | Model | Promotion | Alarm)
}

fn entry_key(writer: &str, sequence: u64) -> String {
    format!("{writer}/{sequence:020}")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Texts and numbers only: nothing in it that JSON cannot hold.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: serde::de::DeserializeOwned>(record: &Record) -> Result<T, Error> {
    serde_json::from_slice(&record.body)
        .map_err(|e| Error::Corrupt(format!("`{}` of the journal cannot be read: {e}", record.key.id)))
}
