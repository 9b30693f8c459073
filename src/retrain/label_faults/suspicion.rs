//! Evidence that labels and model have stopped to agree, and the labels that wait because of it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::LabelFaults;
use crate::event::{Label, ModelVersion, PredictionId};

/// So many times, a label in doubt sees others come; then a check has fewer rows to ask about, and what counts is not taken
/// back any more.
pub(super) const MOST_LOOKS: u32 = 2;
/// Fewest labels that contradict the model when a check opens, unless the oldest has waited for so long.
const FEWEST_ROWS: u64 = 5;

/// A label as the check sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: PredictionId,
    pub(crate) by: String,
    /// The model that served the row.
    pub(crate) model: ModelVersion,
    /// When the check saw it.
    pub(crate) seen: DateTime<Utc>,
    pub(crate) label: Label,
    /// Does it contradict what the served model had said?
    pub(crate) contradicts: bool,
    /// The probability that the model gave to its class; `None` if the row was chosen because models differ on it, so that
    /// it says nothing about the usual agreement.
    pub(crate) sure: Option<f64>,
    /// How many times others came since.
    #[serde(default)]
    pub(crate) looks: u32,
    /// It counts, until a check finds it wrong.
    #[serde(default)]
    pub(crate) counts: bool,
}

/// Evidence of a collapse, and the labels that are in doubt because of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Suspicion {
    /// The CUSUM.
    pub(super) ln: f64,
    pub(super) entries: Vec<Entry>,
    /// The largest sum since the entries began, and how many there were then.
    pub(super) peak: (f64, usize),
}

impl Suspicion {
    /// Adds a label and what it says; the sum stays between 0 and `most`.
    pub(super) fn observe(&mut self, entry: Entry, ln: f64, most: f64) {
        self.ln = (self.ln + ln).clamp(0.0, most);
        self.entries.push(entry);
        if self.ln >= self.peak.0 {
            self.peak = (self.ln, self.entries.len());
        }
    }

    /// Are there rows enough to ask about, with labels that contradict the model?
    pub(super) fn is_askable(&self, rules: &LabelFaults) -> bool {
        let waited = self.waiting().next().is_some_and(|entry| entry.looks >= MOST_LOOKS);
        let fewest = rules.enough_rows().max(if waited { 0 } else { FEWEST_ROWS });
        self.waiting().filter(|entry| entry.contradicts).count() as u64 >= fewest
    }

    /// Labels that do not count yet.
    pub(super) fn waiting(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.counts)
    }

    /// The entries; from here on with the sum `ln`.
    pub(super) fn end(&mut self, ln: f64) -> Vec<Entry> {
        (self.ln, self.peak) = (ln, (ln, 0));
        std::mem::take(&mut self.entries)
    }

    pub(super) fn forget(&mut self, id: PredictionId) {
        if let Some(at) = self.entries.iter().position(|entry| entry.id == id) {
            self.entries.remove(at);
            self.peak.1 -= usize::from(at < self.peak.1);
        }
    }

    pub(super) fn is_overdue(&self, now: DateTime<Utc>, rules: &LabelFaults) -> bool {
        self.waiting().next().is_some_and(|entry| now - entry.seen >= rules.patience)
    }
}

/// People whose labels were found to be wrong.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Distrust {
    pub(crate) since: DateTime<Utc>,
    /// Whose labels; `None`: everybody's.
    pub(crate) people: Option<BTreeSet<String>>,
    pub(crate) why: String,
    pub(super) suspicion: Suspicion,
}

impl Distrust {
    pub(super) fn covers(&self, by: &str) -> bool {
        self.people.as_ref().is_none_or(|people| people.contains(by))
    }

    pub(super) fn refuse(&mut self, rules: &LabelFaults) -> Vec<Entry> {
        self.suspicion.end(rules.threshold())
    }
}
