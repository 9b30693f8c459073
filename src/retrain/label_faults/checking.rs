//! The course of a check: what labels wait, when second opinions are asked for, and what they lead to.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::suspicion::{Distrust, Entry, MOST_LOOKS, Suspicion};
use super::{LabelChecks, LabelFaults, MOST_ASKED};
use crate::event::{Label, ModelVersion, PredictionId};
use crate::stats::collapse::{FIRST_LOOK, Levels, SecondOpinions, collapsed, judge, ln_collapse, ln_ratio};

/// The likelihood ratio from which labels are in doubt: a check that opens soon can take them back.
const DOUBT: f64 = 3.0;
/// The most labels in doubt without a check: with more, they count, or are quarantined if their authors are distrusted.
const MOST_DOUBTED: usize = 64;
/// Second opinions come to at most one in so many labels, beside those of two checks.
const LABELS_PER_OPINION: u64 = 10;
/// The likelihood ratio at which labels of one person are not taken for wrong together with those of others.
const SPARED: f64 = 10.0;
/// The most labels that a person can take back from quarantine at once.
const MOST_REFUSED: usize = 512;

/// A row that was asked about again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: PredictionId,
    /// What the label was.
    pub(crate) label: Label,
    /// Who had labelled it before.
    pub(crate) before: Vec<String>,
}

/// A check that is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asking {
    pub(crate) opened: DateTime<Utc>,
    pub(crate) rows: Vec<Asked>,
    /// Is it about people who are distrusted already?
    pub(crate) again: bool,
    pub(crate) text: String,
}

/// What is to be done with labels.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Moved {
    /// They count.
    pub(crate) cleared: Vec<Entry>,
    /// They go into quarantine, or are taken back where they count already.
    pub(crate) refused: Vec<Entry>,
    /// They come back from quarantine.
    pub(crate) released: Vec<PredictionId>,
    /// They go back into quarantine.
    pub(crate) again: Vec<PredictionId>,
    /// What happens next, if something does.
    pub(crate) next: Option<Next>,
}

/// What a collapse leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A check opens, about people who are distrusted or about the others.
    Ask { again: bool },
    /// Only one person labels: nobody can say, and the labels count.
    Alone,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckVerdict {
    Fault,
    Drift,
    Unresolved,
}

/// The state of the label-fault check.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Checking {
    levels: Levels,
    /// The levels before a check found a drift, and the newest model that served then. They hold again once a newer one
    /// serves: it has learned from the labels, and a collapse of its agreement would be another one.
    before_drift: Option<(ModelVersion, Levels)>,
    suspicion: Suspicion,
    pub(crate) distrust: Option<Distrust>,
    pub(crate) asking: Option<Asking>,
    pub(crate) told: LabelChecks,
    /// Labels seen.
    labels: u64,
    /// So many of them when it was last said what waits.
    #[serde(default)]
    settled: u64,
    /// Labels that were quarantined, the newest; not those that a second opinion contradicts.
    refused: Vec<PredictionId>,
    /// Two people who label, as far as is known.
    known: BTreeSet<String>,
    /// Was it told since the sum was last 0 that there is nobody to ask?
    told_alone: bool,
}

impl Checking {
    /// Takes a label. Nothing may be taken while a check is open.
    pub(crate) fn observe(&mut self, entry: Entry, rules: &LabelFaults) -> Moved {
        self.labels += 1;
        if let Some((_, levels)) = self.before_drift.take_if(|(model, _)| entry.model > *model) {
            self.levels = levels;
        }
        if self.known.len() < 2 {
            self.known.insert(entry.by.clone());
        }
        match self.distrust.take() {
            Some(distrust) if distrust.covers(&entry.by) => self.observe_distrusted(distrust, entry, rules),
            distrust => {
                self.distrust = distrust;
                self.observe_trusted(entry, rules)
            }
        }
    }

    fn observe_trusted(&mut self, entry: Entry, rules: &LabelFaults) -> Moved {
        let ln = entry.sure.map_or(0.0, |sure| ln_collapse(self.levels.chance(sure), entry.contradicts));
        self.suspicion.observe(entry, ln, f64::INFINITY);
        let reached = self.suspicion.ln >= rules.threshold();
        if self.known.len() < 2 {
            // Nothing waits where there is nobody to ask.
            let next = (reached && !self.told_alone).then_some(Next::Alone);
            self.told_alone = self.suspicion.ln > 0.0 && (reached || self.told_alone);
            return Moved { next, ..self.clear_suspicion() };
        }
        let collapsed = reached && self.suspicion.is_askable(rules);
        if collapsed && self.is_affordable(MOST_ASKED) {
            return Moved { next: Some(Next::Ask { again: false }), ..Moved::default() };
        }
        let full = !collapsed && self.suspicion.entries.len() >= MOST_DOUBTED;
        if full || self.suspicion.ln == 0.0 { self.clear_suspicion() } else { Moved::default() }
    }

    fn observe_distrusted(&mut self, mut distrust: Distrust, entry: Entry, rules: &LabelFaults) -> Moved {
        // No false opening to be bounded here: the level itself tells wrong labels from right ones sooner than its limit.
        let level = |sure: f64| self.levels.mean(sure, 1.0 - sure);
        let ln = entry.sure.map_or(0.0, |sure| ln_collapse(level(sure), entry.contradicts));
        let suspicion = &mut distrust.suspicion;
        // Agreement must outweigh no more than one collapse, however long it lasted.
        suspicion.observe(entry, ln, rules.threshold());
        if suspicion.ln == 0.0 {
            // They agree again since the sum was largest, as far as can be estimated.
            let since = suspicion.peak.1;
            let mut refused = suspicion.end(0.0);
            let cleared = refused.split_off(since.min(refused.len()));
            self.learn(&cleared);
            self.note_refused(&refused);
            return Moved { cleared, refused, ..Moved::default() };
        }
        let full = suspicion.entries.len() >= MOST_DOUBTED;
        let refused = if full { distrust.refuse(rules) } else { Vec::new() };
        self.distrust = Some(distrust);
        self.note_refused(&refused);
        Moved { refused, ..Moved::default() }
    }

    /// May second opinions be asked for, if so many beside those of one in ten labels may be?
    fn is_affordable(&self, beside: u64) -> bool {
        self.told.second_opinions + FIRST_LOOK <= self.labels / LABELS_PER_OPINION + beside
    }

    fn clear_suspicion(&mut self) -> Moved {
        let ln = self.suspicion.ln;
        let entries = self.suspicion.end(ln);
        self.learn(&entries);
        Moved { cleared: waiting(entries), ..Moved::default() }
    }

    /// Labels in slight doubt count. Nothing is found against those that others have come after often enough.
    fn let_count(&mut self) -> Moved {
        let suspicion = &mut self.suspicion;
        let cleared = suspicion.waiting().cloned().collect();
        suspicion.entries.iter_mut().for_each(|entry| entry.counts = true);
        let longest = suspicion.entries.iter().take_while(|entry| entry.looks > MOST_LOOKS).count();
        let settled: Vec<Entry> = suspicion.entries.drain(..longest).collect();
        suspicion.peak.1 = suspicion.peak.1.saturating_sub(longest);
        self.learn(&settled);
        Moved { cleared, ..Moved::default() }
    }

    /// All labels that have come were shown: unless the agreement has collapsed they count, and people who are distrusted
    /// are asked about again, or what they say is quarantined.
    pub(crate) fn settle(&mut self, rules: &LabelFaults) -> Moved {
        let more = self.labels > self.settled;
        self.settled = self.labels;
        if more {
            self.suspicion.entries.iter_mut().for_each(|entry| entry.looks += 1);
        }
        let mut moved = match self.suspicion.ln {
            ln if ln < DOUBT.ln() => self.clear_suspicion(),
            ln if ln < rules.threshold() => self.let_count(),
            _ => Moved::default(),
        };
        let askable = self.known.len() > 1 && self.is_affordable(0);
        let collapsed = |distrust: &&mut Distrust| distrust.suspicion.ln >= rules.threshold();
        if let Some(distrust) = self.distrust.as_mut().filter(collapsed) {
            if !askable {
                moved.refused = distrust.refuse(rules);
            } else if distrust.suspicion.is_askable(rules) {
                moved.next = Some(Next::Ask { again: true });
            }
        }
        self.note_refused(&moved.refused);
        moved
    }

    /// Labels that have waited for as long as any may go into quarantine.
    pub(crate) fn overdue(&mut self, now: DateTime<Utc>, rules: &LabelFaults) -> Moved {
        let mut moved = Moved::default();
        if self.suspicion.is_overdue(now, rules) {
            moved.refused = self.refuse_waiting();
        }
        if let Some(distrust) = self.distrust.as_mut().filter(|distrust| distrust.suspicion.is_overdue(now, rules)) {
            moved.refused.extend(distrust.refuse(rules));
        }
        self.note_refused(&moved.refused);
        moved
    }

    /// Nobody has found out what is wrong: what waits is refused, and what counts goes on counting.
    fn refuse_waiting(&mut self) -> Vec<Entry> {
        let (counting, refused): (Vec<_>, Vec<_>) = self.suspicion.end(0.0).into_iter().partition(|entry| entry.counts);
        self.learn(&counting);
        refused
    }

    fn learn(&mut self, cleared: &[Entry]) {
        for entry in cleared {
            if let Some(sure) = entry.sure {
                self.levels.observe(sure, entry.contradicts);
            }
        }
    }

    /// The rows to be asked about next: the newest, because the collapse may have begun later than estimated.
    pub(crate) fn next_rows(&self, again: bool) -> Vec<Entry> {
        let known: BTreeSet<PredictionId> =
            self.asking.iter().flat_map(|asking| &asking.rows).map(|row| row.id).collect();
        let suspicion = match &self.distrust {
            Some(distrust) if again => &distrust.suspicion,
            _ => &self.suspicion,
        };
        let fits = |entry: &&Entry| entry.contradicts && !known.contains(&entry.id);
        let most = if known.is_empty() { FIRST_LOOK } else { MOST_ASKED.saturating_sub(known.len() as u64) };
        suspicion.waiting().rev().filter(fits).take(most as usize).cloned().collect()
    }

    /// What the answers so far come to; `more`: there are rows left to ask about. Fewer than three opinions of those that
    /// were asked for settle nothing but an obvious fault.
    pub(crate) fn judge(
        answered: u64,
        contradicted: u64,
        unanswered: u64,
        rules: &LabelFaults,
        more: bool,
    ) -> Option<CheckVerdict> {
        match judge(answered, contradicted, rules.second_annotator_error, !more) {
            SecondOpinions::Fault => Some(CheckVerdict::Fault),
            SecondOpinions::Drift if answered < FIRST_LOOK && unanswered > 0 => Some(CheckVerdict::Unresolved),
            SecondOpinions::Drift => Some(CheckVerdict::Drift),
            SecondOpinions::Ask => None,
        }
    }

    /// Ends the check that is open.
    pub(crate) fn conclude(
        &mut self,
        verdict: CheckVerdict,
        now: DateTime<Utc>,
        why: String,
        rules: &LabelFaults,
    ) -> Moved {
        let Some(asking) = self.asking.take() else { return Moved::default() };
        match verdict {
            CheckVerdict::Fault => self.told.faults += 1,
            CheckVerdict::Drift => self.told.drifts += 1,
            CheckVerdict::Unresolved => {
                self.told.unresolved += 1;
                self.known.clear();
            }
        }
        let mut moved = Moved::default();
        match (verdict, asking.again) {
            (CheckVerdict::Drift, again) => {
                let entries = match self.distrust.take_if(|_| again) {
                    Some(mut distrust) => distrust.suspicion.end(0.0),
                    None => self.suspicion.end(0.0),
                };
                self.restart(&entries);
                moved.cleared = waiting(entries);
            }
            (_, true) => {
                moved.refused = self.distrust.as_mut().map(|distrust| distrust.refuse(rules)).unwrap_or_default();
            }
            (CheckVerdict::Unresolved, false) => moved.refused = self.refuse_waiting(),
            (CheckVerdict::Fault, false) => {
                let entries = self.suspicion.end(0.0);
                let innocent = self.innocent(&entries);
                let (right, wrong): (Vec<_>, _) = entries.into_iter().partition(|entry| innocent.contains(&entry.by));
                self.learn(&right);
                (moved.cleared, moved.refused) = (waiting(right), wrong);
                let mut people: BTreeSet<String> = moved.refused.iter().map(|entry| entry.by.clone()).collect();
                let mut suspicion = Suspicion::default();
                suspicion.end(rules.threshold());
                let mut distrust = Distrust { since: now, people: None, why, suspicion };
                if let Some(before) = self.distrust.take() {
                    people.extend(before.people.into_iter().flatten());
                    distrust.suspicion.entries = before.suspicion.entries;
                }
                // Nobody else has shown that it is not they: it may be anybody, or the tool that all of them use.
                distrust.people = (!innocent.is_empty()).then_some(people);
                self.distrust = Some(distrust);
            }
        }
        self.note_refused(&moved.refused);
        if verdict == CheckVerdict::Fault {
            // Those that were asked about twice are settled.
            self.refused.retain(|id| !asking.rows.iter().any(|row| row.id == *id));
        }
        moved
    }

    /// Remembers what a person can take back.
    fn note_refused(&mut self, entries: &[Entry]) {
        self.refused.extend(entries.iter().map(|entry| entry.id));
        self.refused.drain(..self.refused.len().saturating_sub(MOST_REFUSED));
    }

    /// People whose labels among `entries` agree with the model as they are expected to.
    fn innocent(&self, entries: &[Entry]) -> BTreeSet<String> {
        let mut usual: BTreeMap<&str, f64> = BTreeMap::new();
        for (entry, sure) in entries.iter().filter_map(|entry| Some((entry, entry.sure?))) {
            let level = self.levels.mean(sure, 1.0 - sure);
            *usual.entry(&entry.by).or_default() += ln_ratio(level, collapsed(level), entry.contradicts);
        }
        usual.into_iter().filter(|(_, ln)| *ln >= SPARED.ln()).map(|(by, _)| by.to_owned()).collect()
    }

    /// The world has changed, say these rows.
    fn restart(&mut self, entries: &[Entry]) {
        if let Some(newest) = entries.iter().map(|entry| entry.model).max() {
            let levels = self.before_drift.take().map_or_else(|| self.levels.clone(), |(_, levels)| levels);
            self.before_drift = Some((newest, levels));
        }
        let rows: Vec<(f64, bool)> =
            entries.iter().filter_map(|entry| Some((entry.sure?, entry.contradicts))).collect();
        self.levels.restart(&rows);
    }

    /// A person trusts everybody again: nothing is held back any more.
    pub(crate) fn trust(&mut self) -> Moved {
        self.asking = None;
        let mut entries = self.suspicion.end(0.0);
        entries.extend(self.distrust.take().into_iter().flat_map(|distrust| distrust.suspicion.entries));
        self.restart(&entries);
        Moved { cleared: waiting(entries), released: std::mem::take(&mut self.refused), ..Moved::default() }
    }

    /// Labels that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.suspicion.waiting().chain(self.distrust.iter().flat_map(|distrust| distrust.suspicion.waiting()))
    }

    /// Every sample that a verdict can move.
    pub(crate) fn ids(&self) -> Vec<PredictionId> {
        let asked = self.asking.iter().flat_map(|asking| &asking.rows).map(|row| row.id);
        let doubted = self.suspicion.entries.iter().filter(|entry| entry.counts).map(|entry| entry.id);
        let waiting = self.waiting().map(|entry| entry.id).chain(doubted);
        waiting.chain(self.refused.iter().copied()).chain(asked).collect()
    }

    /// A label that waits was changed or taken back: it is looked at anew when it comes again.
    pub(crate) fn forget(&mut self, id: PredictionId) {
        self.suspicion.forget(id);
        self.refused.retain(|refused| *refused != id);
        if let Some(distrust) = &mut self.distrust {
            distrust.suspicion.forget(id);
        }
    }

    /// This is what counts of a sample's labels now: of another one nothing is known that could be taken back.
    pub(crate) fn keep_only(&mut self, id: PredictionId, label: Option<Label>) {
        self.suspicion.entries.retain(|entry| !(entry.counts && entry.id == id && Some(entry.label) != label));
    }

    /// The content of the sample was erased: nothing is said of its label here any more. Was something?
    pub(crate) fn erase(&mut self, id: PredictionId) -> bool {
        let known = self.ids().contains(&id);
        self.forget(id);
        if let Some(asking) = &mut self.asking {
            asking.rows.retain(|row| row.id != id);
        }
        known
    }

    /// Is this row asked about again?
    pub(crate) fn asks(&self, id: PredictionId) -> bool {
        self.asking.iter().flat_map(|asking| &asking.rows).any(|row| row.id == id)
    }
}

/// Those that do not count yet.
fn waiting(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.retain(|entry| !entry.counts);
    entries
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
