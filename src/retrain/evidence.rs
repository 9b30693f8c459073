//! What labels said of a candidate, and of those whose place it took.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::compare::{Comparison, Paired};
use crate::event::{Label, predicted_label};
use crate::sample::{Annotator, Reason};
use crate::schema::Target;
use crate::stats::evidence;

/// Slice veto: fewest rows, and the probability of being worse above which it holds.
const VETO: (u64, f64) = (30, 0.9);

/// Evidence within one slice of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SliceEvidence {
    /// Labelled rows of the slice.
    pub rows: u64,
    /// Candidate against current model.
    pub paired: Paired,
}

/// What is known of a frozen candidate, and of those whose place it took: only labels drawn after the training cut-off of the
/// model that they judge count.
///
/// A candidate that is *superseded* before its verdict hands its evidence on, and the decisive rows of the whole line against the
/// served model count together. The e-value is a product of bets on the next row, and which candidate is judged there is known
/// before its label: if none of the line is better than the served model, it still reaches `confirm_at` with a
/// probability of at most 1 / `confirm_at`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Candidate against the served model.
    pub against_current: Paired,
    /// Candidate against the last kept model, if that is another one than the served model. The comparison lane draws
    /// uniformly among rows on which the models compared do not all agree, so it judges every pair of them.
    pub against_kept: Option<Paired>,
    /// Label batches so far.
    pub rounds: u32,
    /// Labelled rows so far.
    pub rows: u64,
    /// Those on which candidate and served model say different things (for values: every row).
    pub disagreeing: u64,
    /// Share of live rows on which the two disagree, measured without labels; `None` takes it from the labelled rows,
    /// which is right without a comparison lane.
    #[serde(default)]
    pub disagreement: Option<f64>,
    /// Evidence by slice.
    #[serde(default)]
    pub slices: BTreeMap<String, SliceEvidence>,
    /// Label batches in which no row could be compared.
    #[serde(default)]
    pub unscored: u32,
    /// Labelled rows for which the candidate gave no usable output, and the served model did.
    #[serde(default)]
    pub unusable: u64,
    /// Who gave the labels.
    #[serde(default)]
    pub annotators: BTreeSet<Annotator>,
    /// The part that it took over.
    #[serde(default)]
    pub taken_over: TakenOver,
}

/// The part of a candidate's [`Evidence`] that is about candidates before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakenOver {
    /// How many.
    pub candidates: u32,
    /// They against the served model.
    pub against_current: Paired,
    /// Label batches in which they were judged.
    pub rounds: u32,
    /// Labelled rows that judged them.
    pub rows: u64,
}

/// One labelled row with what the models said of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JudgedRow<'a> {
    pub(crate) candidate: &'a [f64],
    pub(crate) current: &'a [f64],
    /// `None` if the last kept model is the current one.
    pub(crate) kept: Option<&'a [f64]>,
    /// Is it the candidate that is judged now, and not one whose place it took?
    pub(crate) own: bool,
    pub(crate) label: Label,
    pub(crate) annotator: &'a Annotator,
    /// The slices that it is in.
    pub(crate) slices: &'a [String],
}

impl Evidence {
    /// Counts one labelled row.
    pub(crate) fn observe(&mut self, target: &Target, row: &JudgedRow<'_>) {
        let comparison = Comparison::of(target, row.candidate, row.current, row.label);
        let (said, current) = (predicted_label(target, row.candidate), predicted_label(target, row.current));
        self.against_current.count(comparison);
        self.rows += 1;
        if !row.own {
            self.taken_over.against_current.count(comparison);
            self.taken_over.rows += 1;
        }
        self.disagreeing += u64::from(said != current);
        // What neither can predict is the input's fault.
        self.unusable += u64::from(row.own && said.is_none() && current.is_some());
        self.annotators.insert(row.annotator.clone());
        if let Some(kept) = row.kept {
            let against = self.against_kept.get_or_insert_default();
            against.count(Comparison::of(target, row.candidate, kept, row.label));
        }
        for slice in row.slices {
            let slice = self.slices.entry(slice.clone()).or_default();
            slice.rows += 1;
            slice.paired.count(comparison);
        }
    }

    /// What the candidate after this one takes over: all of it, or nothing if it would rather begin without, because an
    /// e-value has fallen below the 1 that no evidence has.
    pub(crate) fn handed_on(&self) -> Option<Evidence> {
        let candidates = self.taken_over.candidates + 1;
        let (against_current, rounds, rows) = (self.against_current, self.rounds, self.rows);
        let taken_over = TakenOver { candidates, against_current, rounds, rows };
        let is_worth_it = self.opponents().all(|(_, paired)| paired.e_value() >= 1.0);
        is_worth_it.then(|| Evidence { taken_over, unscored: 0, ..self.clone() })
    }

    /// The candidate's own part of `rounds`.
    pub(super) fn own_rounds(&self) -> u32 {
        self.rounds.saturating_sub(self.taken_over.rounds)
    }

    /// May it be handed on? Labels have judged the candidate itself, and no slice holds it back.
    pub(crate) fn may_be_handed_on(&self) -> bool {
        let judged = self.own_rounds() > 0 && self.rows > self.taken_over.rows;
        judged && self.vetoes().is_empty()
    }

    /// The candidate's own part of `against_current`.
    pub(super) fn own(&self) -> Paired {
        let (all, before) = (self.against_current, self.taken_over.against_current);
        Paired { wins: all.wins.saturating_sub(before.wins), losses: all.losses.saturating_sub(before.losses) }
    }

    /// Estimated gain over the served model; 0 without rows.
    pub fn estimated_gain(&self) -> f64 {
        let difference = self.against_current.wins as f64 - self.against_current.losses as f64;
        match self.disagreement {
            Some(share) => share * difference / (self.disagreeing.max(1) as f64),
            None => difference / (self.rows.max(1) as f64),
        }
    }

    /// Slices in which the candidate is probably worse.
    pub(super) fn vetoes(&self) -> Vec<Reason> {
        let worse = |slice: &SliceEvidence| evidence::posterior_better(slice.paired.losses, slice.paired.wins);
        let vetoed = self.slices.iter().filter(|(_, slice)| slice.rows >= VETO.0 && worse(slice) > VETO.1);
        let text = |(name, slice): (&String, &SliceEvidence)| {
            let (Paired { wins, losses }, n) = (slice.paired, slice.rows);
            Reason::new(
                "slice_worse",
                format!("in `{name}` {wins} : {losses} on {n} rows, worse with P {:.2}", worse(slice)),
            )
        };
        vetoed.map(text).collect()
    }

    /// Whom the candidate has to beat.
    pub(super) fn opponents(&self) -> impl Iterator<Item = (&'static str, Paired)> {
        let opponents = [("the served model", Some(self.against_current)), ("the last kept model", self.against_kept)];
        opponents.into_iter().filter_map(|(name, paired)| Some((name, paired?)))
    }
}
