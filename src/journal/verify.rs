//! Walks the chains back and compares them with what is stored.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{BEGUN, EMPTY, JournalEntry, JournalHead, LOOP, counts, entry_key, sha256};
use crate::error::Error;
use crate::store::{Kind, Record, Scan, Store};

/// What broke the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JournalBreak {
    /// An entry is missing.
    #[error("entry {sequence} of `{writer}` is missing")]
    Gap {
        /// The chain.
        writer: String,
        /// Number of the entry.
        sequence: u64,
    },
    /// An entry is not what the one after it, or the head, says.
    #[error("entry {sequence} of `{writer}` was altered, or stands in the wrong place")]
    AlteredEntry {
        /// The chain.
        writer: String,
        /// Number of the entry.
        sequence: u64,
    },
    /// A chain has more or fewer entries than its head says, or has lost its head.
    #[error("{found} entries are stored, the heads of the chains speak of {expected}")]
    Entries {
        /// Entries in the store.
        found: u64,
        /// Entries that the heads speak of.
        expected: u64,
    },
    /// A record has another content than the journal says.
    #[error("{kind} `{subject}` was altered since entry {sequence} of `{writer}`")]
    AlteredContent {
        /// Kind of the record.
        kind: String,
        /// Its name.
        subject: String,
        /// The chain that speaks of it.
        writer: String,
        /// Number of the newest entry that speaks of it.
        sequence: u64,
    },
    /// A record that the journal speaks of is not there any more. Erased content leaves its record behind.
    #[error("{kind} `{subject}` of entry {sequence} of `{writer}` is not in the store")]
    MissingContent {
        /// Kind of the record.
        kind: String,
        /// Its name.
        subject: String,
        /// The chain that speaks of it.
        writer: String,
        /// Number of the newest entry that speaks of it.
        sequence: u64,
    },
    /// Records that no entry speaks of, in a store whose journal began when it was empty.
    #[error("{count} records of kind {kind} are in no entry")]
    Unlisted {
        /// Kind of the records.
        kind: String,
        /// How many.
        count: u64,
    },
    /// A chain is not the one whose head was kept: it was cut off or written anew.
    #[error("entry {sequence} of `{writer}` is not the one whose head was kept")]
    OtherHistory {
        /// The chain.
        writer: String,
        /// Number of the entry.
        sequence: u64,
    },
}

/// What [`verify_journal`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournalReport {
    /// Entries that were looked at.
    pub entries: u64,
    /// Records whose content was compared.
    pub records: u64,
    /// Records that no entry speaks of; written by a release without a journal, unless [`broken`](Self::broken) says otherwise.
    pub unlisted: u64,
    /// The ends of the chains, by writer. Kept elsewhere, they show later whether somebody has written a chain anew.
    pub heads: Vec<JournalHead>,
    /// The first break that was found.
    pub broken: Option<JournalBreak>,
}

impl JournalReport {
    /// Is everything as the journal says?
    pub fn is_intact(&self) -> bool {
        self.broken.is_none()
    }
}

/// Compares the journal of `pipeline` with itself and with what is stored.
///
/// Every writer has a chain: each entry names the SHA-256 of the one before and of every record that its unit wrote, as it
/// was stored. Found is what was altered, removed, inserted or put into another order, in the entries and in the newest
/// content of each record that they speak of: samples, annotations, batches, runs, evaluations, models, promotions,
/// alarms, the state of the loop and the versions of the schema. An erasure is an entry of its own, and what is left of
/// the record is what that entry says, so that the chain is as intact after it as before.
///
/// It does not find out that somebody who can write the store has replaced the whole chain by another: keep
/// [`heads`](JournalReport::heads) elsewhere and hand them in as `known`. Nothing may be written meanwhile. Time: one read per
/// entry and per record. Memory: 20 bytes per record.
///
/// # Errors
/// The store cannot be read. A break is no error.
pub fn verify_journal(store: &dyn Store, pipeline: &str, known: &[JournalHead]) -> Result<JournalReport, Error> {
    let mut walk = Walk { store, pipeline, known, seen: HashSet::new(), by_kind: BTreeMap::new(), strict: false };
    let mut report = JournalReport::default();
    let broken = walk.all(&mut report);
    match broken {
        Ok(()) => Ok(report),
        Err(Stop::Broken(broken)) => {
            report.broken = Some(broken);
            Ok(report)
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

enum Stop {
    Broken(JournalBreak),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

struct Walk<'a> {
    store: &'a dyn Store,
    pipeline: &'a str,
    known: &'a [JournalHead],
    /// Records whose newest content was compared, by hash.
    seen: HashSet<u128>,
    by_kind: BTreeMap<String, u64>,
    /// Did the journal begin with an empty store?
    strict: bool,
}

impl Walk<'_> {
    fn all(&mut self, report: &mut JournalReport) -> Result<(), Stop> {
        report.heads = self.heads()?;
        // The loop first: it alone changes what people wrote, when it is erased.
        report.heads.sort_by_key(|head| (head.writer != LOOP, head.writer.clone()));
        for known in self.known {
            let head = report.heads.iter().find(|head| head.writer == known.writer);
            if head.is_none_or(|head| head.sequence < known.sequence) {
                return Err(Stop::Broken(other_history(known)));
            }
        }
        for head in &report.heads {
            report.entries += self.chain(head, &mut report.records)?;
        }
        let found = self.count(Kind::Journal, Some("entry"))?;
        if found != report.entries {
            return Err(Stop::Broken(JournalBreak::Entries { found, expected: report.entries }));
        }
        for kind in Kind::ALL.into_iter().filter(|kind| counts(*kind)) {
            let listed = self.by_kind.get(kind.as_str()).copied().unwrap_or(0);
            let count = self.count(kind, None)?.saturating_sub(listed);
            report.unlisted += count;
            if self.strict && count > 0 {
                return Err(Stop::Broken(JournalBreak::Unlisted { kind: kind.as_str().to_owned(), count }));
            }
        }
        Ok(())
    }

    fn heads(&self) -> Result<Vec<JournalHead>, Error> {
        let (mut heads, mut after) = (Vec::new(), None::<(i64, String)>);
        loop {
            let from = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan =
                Scan { pipeline: self.pipeline, kind: Kind::Journal, state: Some("head"), after: from, limit: 256 };
            let page = self.store.scan(&scan).map_err(Error::store("read the journal"))?;
            let Some(last) = page.last() else { return Ok(heads) };
            after = Some((last.rank, last.key.id.clone()));
            for record in &page {
                heads.push(super::parse(record)?);
            }
        }
    }

    /// Walks one chain from its head to its first entry.
    fn chain(&mut self, head: &JournalHead, records: &mut u64) -> Result<u64, Stop> {
        let writer = &head.writer;
        let mut expected = head.digest.clone();
        for sequence in (1..=head.sequence).rev() {
            let altered = || Stop::Broken(JournalBreak::AlteredEntry { writer: writer.clone(), sequence });
            let Some(record) = self.get(Kind::Journal, &entry_key(writer, sequence))? else {
                return Err(Stop::Broken(JournalBreak::Gap { writer: writer.clone(), sequence }));
            };
            if sha256(&record.body) != expected {
                return Err(altered());
            }
            if let Some(known) = self.known.iter().find(|known| known.writer == *writer && known.sequence == sequence)
                && known.digest != expected
            {
                return Err(Stop::Broken(other_history(known)));
            }
            let entry: JournalEntry = serde_json::from_slice(&record.body).map_err(|_| altered())?;
            if entry.sequence != sequence || entry.writer != *writer {
                return Err(altered());
            }
            self.contents(&entry, records)?;
            expected = entry.previous;
        }
        match expected.is_empty() {
            true => Ok(head.sequence),
            false => Err(Stop::Broken(JournalBreak::AlteredEntry { writer: writer.clone(), sequence: 1 })),
        }
    }

    /// Compares the records of an entry that no newer one speaks of. Within an entry the last act counts.
    fn contents(&mut self, entry: &JournalEntry, records: &mut u64) -> Result<(), Stop> {
        for act in entry.acts.iter().rev() {
            self.strict |=
                act.what == BEGUN && entry.writer == LOOP && entry.sequence == 1 && act.state.as_deref() == Some(EMPTY);
            let (Some(digest), Some(kind)) = (&act.digest, Kind::ALL.into_iter().find(|k| k.as_str() == act.what))
            else {
                continue;
            };
            if !self.seen.insert(xxh3_128(format!("{}\0{}", act.what, act.subject).as_bytes())) {
                continue;
            }
            *records += 1;
            *self.by_kind.entry(act.what.clone()).or_default() += 1;
            let (kind_name, subject) = (act.what.clone(), act.subject.clone());
            let (writer, sequence) = (entry.writer.clone(), entry.sequence);
            match self.get(kind, &act.subject)? {
                Some(record) if sha256(&record.body) == *digest => {}
                Some(_) => {
                    let kind = kind_name;
                    return Err(Stop::Broken(JournalBreak::AlteredContent { kind, subject, writer, sequence }));
                }
                None => {
                    let kind = kind_name;
                    return Err(Stop::Broken(JournalBreak::MissingContent { kind, subject, writer, sequence }));
                }
            }
        }
        Ok(())
    }

    fn get(&self, kind: Kind, id: &str) -> Result<Option<Record>, Error> {
        self.store.get(self.pipeline, kind, id).map_err(Error::store("read what the journal speaks of"))
    }

    fn count(&self, kind: Kind, state: Option<&str>) -> Result<u64, Error> {
        self.store.count(self.pipeline, kind, state).map_err(Error::store("count records"))
    }
}

fn other_history(known: &JournalHead) -> JournalBreak {
    JournalBreak::OtherHistory { writer: known.writer.clone(), sequence: known.sequence }
}
