//! Label faults: when labels stop agreeing with the served model, are they wrong, or has the world changed?

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{Label, PredictionId};
use crate::stats::collapse::{FIRST_LOOK, Levels, SecondOpinions, collapsed, judge, ln_collapse, ln_ratio};

/// Labels that wait because they are suspect; with more of them, second opinions are asked for anyway.
const MOST_WAITING: usize = 64;
/// Second opinions of one check.
const MOST_ASKED: usize = 8;
/// Second opinions come to at most one in so many labels, beside those of one check.
const LABELS_PER_OPINION: u64 = 10;
/// The likelihood ratio at which people are believed again.
const BELIEVED: f64 = 50.0;
/// The likelihood ratio at which labels of one person are not taken for wrong together with those of others.
const SPARED: f64 = 10.0;
/// Labels of a distrusted source after which it is asked about again; twice as many each time.
const LOOK_AFTER: u64 = 16;
/// The longest such interval, and the most labels that a look can release.
const MOST_BETWEEN_LOOKS: usize = 512;

/// The rules of the label-fault check.
///
/// The labels of people are compared with what the served model had said. A label that contradicts it makes the labels
/// from there on suspect, and they wait: they neither judge a model nor are trained on. As a rule a few later labels that
/// agree clear them. If the agreement collapses instead, a *check* opens: batches, promotions and rollbacks are held, and
/// four to eight of the suspect rows on which label and model differ are asked about again, of people who have not
/// labelled them. If the second opinions support the labels, the world has changed: the labels count, and the loop goes on.
/// If they contradict them, the labels since the collapse are quarantined with the reason `label_fault`, and so is what
/// the same people say until their labels agree with the model again as before, or until a later second look supports
/// them; then those labels count. Nothing is lost: [`Pipeline::readmit`](crate::Pipeline::readmit) takes single rows back, and
/// [`Pipeline::trust_labels`](crate::Pipeline::trust_labels) all that are held back.
///
/// Guarantee: while no check can open, labels wait; so no label since the estimated beginning of the collapse has
/// judged a model or was trained on when the check opens. If the chance of a contradiction is at most its expected level
/// on every row, at least [`labels_per_opening`](Self::labels_per_opening) labels pass on average before a check opens
/// without a cause. If the labels are right and second opinions are wrong independently with at most
/// [`second_annotator_error`](Self::second_annotator_error), a check calls them wrong with a chance of at most 1 %. A
/// fault that takes away little of the agreement is not found, and the few labels before the estimated beginning count.
///
/// Only classes that people label are checked: outcomes are the truth by definition, and of values nobody can say when
/// two of them contradict each other.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelFaults {
    /// Labels between two checks that open without a cause, at least, on average: 50 unless told.
    pub labels_per_opening: f64,
    /// How often a second opinion may be wrong: 0.1 unless told.
    pub second_annotator_error: f64,
    /// How long second opinions are waited for: a day unless told. Then the check is *unresolved*, and the labels are
    /// treated as faulty, because that can be taken back.
    pub patience: TimeDelta,
}

impl Default for LabelFaults {
    fn default() -> Self {
        LabelFaults { labels_per_opening: 50.0, second_annotator_error: 0.1, patience: TimeDelta::days(1) }
    }
}

impl LabelFaults {
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let LabelFaults { labels_per_opening, second_annotator_error, patience } = self;
        let mut mistakes = Vec::new();
        if !(labels_per_opening.is_finite() && *labels_per_opening > 1.0) {
            mistakes.push(format!("label_faults: labels_per_opening is {labels_per_opening}, it must be above 1"));
        }
        if !(*second_annotator_error > 0.0 && *second_annotator_error < 0.5) {
            let found = format!("second_annotator_error is {second_annotator_error}");
            mistakes.push(format!("label_faults: {found}, it must be above 0 and below 0.5"));
        }
        if *patience <= TimeDelta::zero() {
            mistakes.push(format!("label_faults: a patience of {patience}, it must be positive"));
        }
        mistakes
    }
}

/// What was counted by the label-fault check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LabelChecks {
    /// Checks that opened, second looks at distrusted people included.
    pub opened: u64,
    /// Those that found the labels wrong.
    pub faults: u64,
    /// Those that found the labels right.
    pub drifts: u64,
    /// Those that nobody answered in time.
    pub unresolved: u64,
    /// Second opinions asked for.
    pub second_opinions: u64,
    /// Labels quarantined.
    pub quarantined: u64,
    /// Those of them that were released.
    pub released: u64,
}

/// A label-fault check that is open, or people whose labels are held back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelCheck {
    /// Second opinions asked for and not judged yet; 0 if no check is open.
    pub asked: usize,
    /// Since when it is open, or the people are distrusted.
    pub since: DateTime<Utc>,
    /// Are labels held back because a check said so, and whose? `Some` of nobody means everybody's.
    pub distrusted: Option<BTreeSet<String>>,
    /// Labels that wait.
    pub waiting: usize,
    /// The particulars.
    pub text: String,
}

/// A label as the check sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: PredictionId,
    pub(crate) by: String,
    pub(crate) time: DateTime<Utc>,
    pub(crate) label: Label,
    /// Does it contradict what the served model had said?
    pub(crate) contradicts: bool,
    /// The probability that the model gave to its class; `None` if the row was chosen because models differ on it, so that
    /// it says nothing about the usual agreement.
    pub(crate) sure: Option<f64>,
}

/// Labels since a CUSUM was last at 0.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Excursion {
    /// The sum.
    ln: f64,
    entries: Vec<Entry>,
}

impl Excursion {
    /// Adds a label and what it says; gives back all entries if the sum is at 0 again.
    fn observe(&mut self, entry: Entry, ln: f64) -> Vec<Entry> {
        self.ln += ln;
        self.entries.push(entry);
        if self.ln > 0.0 {
            return Vec::new();
        }
        self.end()
    }

    fn end(&mut self) -> Vec<Entry> {
        self.ln = 0.0;
        std::mem::take(&mut self.entries)
    }
}

/// People whose labels are held back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Distrust {
    pub(crate) since: DateTime<Utc>,
    /// Whose labels; `None`: everybody's.
    pub(crate) people: Option<BTreeSet<String>>,
    pub(crate) why: String,
    /// Evidence that they agree again as before.
    recovery: Excursion,
    /// How often what they say contradicts the model while they are wrong.
    levels: Levels,
    /// What was refused since the last look.
    refused: Vec<Entry>,
    labels: u64,
    next_look: u64,
}

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
    /// They go into quarantine.
    pub(crate) refused: Vec<Entry>,
    /// They come back from quarantine.
    pub(crate) released: Vec<Entry>,
    /// They go back into quarantine.
    pub(crate) again: Vec<PredictionId>,
    /// Second opinions are needed: the check opens.
    pub(crate) ask: bool,
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
    suspicion: Excursion,
    pub(crate) distrust: Option<Distrust>,
    pub(crate) asking: Option<Asking>,
    pub(crate) told: LabelChecks,
    /// Labels seen.
    labels: u64,
}

impl Checking {
    /// Takes a label. Nothing may be taken while a check is open.
    pub(crate) fn observe(&mut self, entry: Entry, rules: &LabelFaults) -> Moved {
        self.labels += 1;
        let distrusted = self.distrust.as_ref().is_some_and(|distrust| distrust.covers(&entry.by));
        let allowed = self.told.second_opinions + FIRST_LOOK <= self.labels / LABELS_PER_OPINION + MOST_ASKED as u64;
        if distrusted {
            return self.observe_distrusted(entry, allowed);
        }
        let ln = entry.sure.map_or(0.0, |sure| ln_collapse(self.levels.chance(sure), entry.contradicts));
        let cleared = self.suspicion.observe(entry, ln);
        self.learn(&cleared);
        let waiting = &self.suspicion.entries;
        let contradict = waiting.iter().filter(|entry| entry.contradicts).count();
        let collapsed = self.suspicion.ln >= rules.labels_per_opening.ln() && contradict as u64 >= FIRST_LOOK;
        let full = waiting.len() >= MOST_WAITING && contradict > 0;
        Moved { cleared, ask: allowed && (collapsed || full), ..Moved::default() }
    }

    fn observe_distrusted(&mut self, entry: Entry, allowed: bool) -> Moved {
        let Some(distrust) = &mut self.distrust else { return Moved::default() };
        distrust.labels += 1;
        let ln = entry.sure.map_or(0.0, |sure| {
            let usual = self.levels.mean(sure, 1.0 - sure);
            let wrong = distrust.levels.mean(sure, collapsed(usual)).max(usual);
            ln_ratio(usual, wrong, entry.contradicts)
        });
        let refused = distrust.recovery.observe(entry, ln);
        distrust.refuse(&refused);
        if distrust.recovery.ln >= BELIEVED.ln() {
            let cleared = distrust.recovery.end();
            self.distrust = None;
            self.learn(&cleared);
            return Moved { cleared, ..Moved::default() };
        }
        let contradict = distrust.entries().filter(|entry| entry.contradicts).count() as u64;
        let ask = allowed && distrust.labels >= distrust.next_look && contradict >= FIRST_LOOK;
        Moved { refused, ask, ..Moved::default() }
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
        let suspects: Vec<&Entry> = match (&self.distrust, again) {
            (Some(distrust), true) => distrust.entries().collect(),
            _ => self.suspicion.entries.iter().collect(),
        };
        let fits = |entry: &&&Entry| entry.contradicts && !known.contains(&entry.id);
        let most = (FIRST_LOOK as usize).min(MOST_ASKED.saturating_sub(known.len()));
        suspects.iter().rev().filter(fits).take(most).map(|entry| (*entry).clone()).collect()
    }

    /// What the answers so far come to; `more`: there are rows left to ask about. Fewer than four opinions of those that
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

    /// Is it the people who are distrusted that are to be asked about?
    pub(crate) fn looks_again(&self) -> bool {
        self.distrust.as_ref().is_some_and(|distrust| distrust.labels >= distrust.next_look)
    }

    /// Ends the check that is open.
    pub(crate) fn conclude(&mut self, verdict: CheckVerdict, now: DateTime<Utc>, why: String) -> Moved {
        let Some(asking) = self.asking.take() else { return Moved::default() };
        match verdict {
            CheckVerdict::Fault => self.told.faults += 1,
            CheckVerdict::Drift => self.told.drifts += 1,
            CheckVerdict::Unresolved => self.told.unresolved += 1,
        }
        match (verdict, asking.again, self.distrust.take()) {
            (CheckVerdict::Drift, true, Some(mut distrust)) => {
                let cleared = distrust.recovery.end();
                self.restart(distrust.refused.iter().chain(&cleared));
                Moved { cleared, released: distrust.refused, ..Moved::default() }
            }
            (_, true, Some(mut distrust)) => {
                let refused = distrust.recovery.end();
                distrust.refused.clear();
                (distrust.labels, distrust.next_look) = (0, (2 * distrust.next_look).min(MOST_BETWEEN_LOOKS as u64));
                self.distrust = Some(distrust);
                Moved { refused, ..Moved::default() }
            }
            (CheckVerdict::Drift, _, before) => {
                self.distrust = before;
                let cleared = self.suspicion.end();
                self.restart(cleared.iter());
                Moved { cleared, ..Moved::default() }
            }
            (_, _, before) => {
                let entries = self.suspicion.end();
                let innocent = self.innocent(&entries);
                let (cleared, mut refused): (Vec<_>, Vec<_>) =
                    entries.into_iter().partition(|entry| innocent.contains(&entry.by));
                self.learn(&cleared);
                let mut people: BTreeSet<String> = refused.iter().map(|entry| entry.by.clone()).collect();
                let mut distrust = Distrust { since: now, why, next_look: LOOK_AFTER, ..Distrust::default() };
                if let Some(mut before) = before {
                    people.extend(before.people.into_iter().flatten());
                    refused.splice(0..0, before.recovery.end());
                    distrust.refused = before.refused;
                }
                // Those that were asked about twice are settled.
                distrust.refuse(&refused);
                distrust.refused.retain(|entry| !asking.rows.iter().any(|row| row.id == entry.id));
                // Nobody else has shown that it is not they: it may be anybody, or the tool that all of them use.
                distrust.people = (!innocent.is_empty()).then_some(people);
                self.distrust = Some(distrust);
                Moved { cleared, refused, ..Moved::default() }
            }
        }
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
    fn restart<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        let rows: Vec<(f64, bool)> = entries.filter_map(|entry| Some((entry.sure?, entry.contradicts))).collect();
        self.levels.restart(&rows);
    }

    /// A person trusts everybody again: nothing is held back any more.
    pub(crate) fn trust(&mut self) -> Moved {
        self.asking = None;
        let mut moved = Moved { cleared: self.suspicion.end(), ..Moved::default() };
        if let Some(mut distrust) = self.distrust.take() {
            moved.cleared.extend(distrust.recovery.end());
            moved.released = distrust.refused;
        }
        let rows: Vec<Entry> = moved.cleared.iter().chain(&moved.released).cloned().collect();
        self.restart(rows.iter());
        moved
    }

    /// Labels that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry> {
        let recovery = self.distrust.iter().flat_map(|distrust| &distrust.recovery.entries);
        self.suspicion.entries.iter().chain(recovery)
    }

    /// Every sample that a verdict can move.
    pub(crate) fn ids(&self) -> Vec<PredictionId> {
        let refused = self.distrust.iter().flat_map(|distrust| &distrust.refused);
        let asked = self.asking.iter().flat_map(|asking| &asking.rows).map(|row| row.id);
        self.waiting().chain(refused).map(|entry| entry.id).chain(asked).collect()
    }

    /// A label that waits was changed or taken back: it is looked at anew when it comes again.
    pub(crate) fn forget(&mut self, id: PredictionId) {
        self.suspicion.entries.retain(|entry| entry.id != id);
        if let Some(distrust) = &mut self.distrust {
            distrust.recovery.entries.retain(|entry| entry.id != id);
            distrust.refused.retain(|entry| entry.id != id);
        }
    }

    /// Is this row asked about again?
    pub(crate) fn asks(&self, id: PredictionId) -> bool {
        self.asking.iter().flat_map(|asking| &asking.rows).any(|row| row.id == id)
    }
}

impl Distrust {
    fn covers(&self, by: &str) -> bool {
        self.people.as_ref().is_none_or(|people| people.contains(by))
    }

    fn refuse(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Some(sure) = entry.sure {
                self.levels.observe(sure, entry.contradicts);
            }
        }
        self.refused.extend_from_slice(entries);
        self.refused.drain(..self.refused.len().saturating_sub(MOST_BETWEEN_LOOKS));
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.refused.iter().chain(&self.recovery.entries)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
