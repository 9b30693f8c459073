//! What exports and imports came to.

use super::statement::{Said, Trouble};
use crate::error::{BoxError, Error};
use crate::sample::Reason;

/// Refusals that a report keeps.
pub(super) const MOST_REFUSALS: usize = 10_000;

/// What an export wrote.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ExportReport {
    /// Tasks that were written.
    pub tasks: u64,
    /// Tasks that were left out because somebody holds them.
    pub held: u64,
    /// Tasks that could not be written.
    pub refused: u64,
    /// Which and why: the first 10,000. The place is the number in the order of the queue.
    pub refusals: Vec<Refusal>,
}

/// What an import came to: each annotation of the file is counted once, under its verdict.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
#[must_use = "refused annotations are reported here only"]
pub struct ImportReport {
    /// Labels of people who had none for that sample.
    pub recorded: u64,
    /// The label that the same person had given before, by another annotation or at a later time.
    pub confirmed: u64,
    /// Labels that replace what the same person said before.
    pub corrected: u64,
    /// Labels that were taken back, or whose annotation vanished and was asked for
    /// ([`tombstones`](crate::LabelStudioOptions::tombstones)).
    pub retracted: u64,
    /// Tasks that people skipped.
    pub skipped: u64,
    /// Nothing new.
    pub known: u64,
    /// The same person has said something newer; nothing was added.
    pub outdated: u64,
    /// Annotations, lines or tasks that cannot be used.
    pub refused: u64,
    /// Ground truths recorded or taken back, beside the verdict on their annotation
    /// ([`ground_truth`](crate::LabelStudioOptions::ground_truth)).
    pub truths: u64,
    /// Where and why something was refused: the first 10,000.
    pub refusals: Vec<Refusal>,
    /// The input is not whole: where it ends. What comes before that place was imported; import the whole input again.
    pub cut_off: Option<Refusal>,
}

/// Something that could not be exported or imported. Nothing else is affected.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Where, from 1 on: the line of JSON Lines, the number of the task in Label Studio's array.
    pub place: u64,
    /// What: the key of the sample or of the annotation, if there is one.
    pub key: Option<String>,
    /// Why.
    pub reason: Reason,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{} ({key}): {}", self.place, self.reason),
            None => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

impl ImportReport {
    /// Counts a verdict; a failure of the store goes on.
    pub(super) fn note(&mut self, place: u64, key: Option<&str>, verdict: Result<Said, Trouble>) -> Result<(), Error> {
        match verdict {
            Ok(Said::Recorded) => self.recorded += 1,
            Ok(Said::Confirmed) => self.confirmed += 1,
            Ok(Said::Corrected) => self.corrected += 1,
            Ok(Said::Retracted) => self.retracted += 1,
            Ok(Said::Skipped) => self.skipped += 1,
            Ok(Said::Known) => self.known += 1,
            Ok(Said::Outdated) => self.outdated += 1,
            Err(Trouble::Refused(reason)) => {
                self.refused += 1;
                keep(&mut self.refusals, Refusal { place, key: key.map(str::to_owned), reason });
            }
            Err(Trouble::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn ends_at(&mut self, place: u64, why: impl Into<BoxError>) {
        self.cut_off = Some(Refusal { place, key: None, reason: Reason::new("cut_off", why.into().to_string()) });
    }
}

pub(super) fn keep(refusals: &mut Vec<Refusal>, refusal: Refusal) {
    if refusals.len() < MOST_REFUSALS {
        refusals.push(refusal);
    }
}
