//! The journal as the pipeline shows it, and what people do to the loop.

use super::Pipeline;
use crate::error::Error;
use crate::journal::{self, Act, JournalEntry, JournalHead, JournalReport, verify_journal};

impl Pipeline {
    /// Compares the journal with itself and with what is stored; see [`verify_journal`]. It goes through all of it: not for
    /// every minute. What waits for a store that fails is not part of it yet.
    ///
    /// # Errors
    /// The store cannot be read. A break is no error.
    pub fn verify_journal(&self, known: &[JournalHead]) -> Result<JournalReport, Error> {
        verify_journal(&**self.store(), self.name(), known)
    }

    /// Entries of a `writer` of the journal (`loop`, or `people/` and a name), newest first, at most `limit`: the newest
    /// ones, or those before number `before`.
    ///
    /// # Errors
    /// The store cannot be read, or an entry is missing.
    pub fn journal_entries(&self, writer: &str, before: Option<u64>, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        journal::entries(&**self.store(), self.name(), writer, before, limit)
    }

    /// Puts what a person did into the journal, in the entry of the changes that are committed with it.
    pub(super) fn note(&mut self, what: &str, subject: impl Into<String>, by: Option<&str>, why: Option<&str>) {
        self.outbox.note(Act::of_person(what, subject, by, why));
    }
}
