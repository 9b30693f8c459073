//! What somebody said elsewhere, against what is known here.

use std::cell::Cell;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::change::{Change, SEPARATOR, named, parse};
use super::super::{Answer, ReviewQueue, Task};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::sample::{Annotation, Annotator, Reason};

/// The longest name of an annotator, and key of an annotation, in bytes.
const LONGEST_KEY: usize = 200;
const VERSION_DIGITS: usize = 20;

/// What an annotation of another tool says, as of a time.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) sample: PredictionId,
    /// Which annotation it is of: later statements of one stream replace earlier ones.
    pub(super) stream: String,
    /// The person.
    pub(super) who: String,
    /// Does it count as the truth rather than as the word of that person?
    pub(super) truth: bool,
    /// `None` takes back what the stream said before.
    pub(super) label: Option<Label>,
    /// As it is stated; unknown counts as now.
    pub(super) time: Option<DateTime<Utc>>,
    pub(super) confidence: f64,
    pub(super) seconds: Option<f64>,
    /// Did the person see a model's opinion, whatever the task says?
    pub(super) shown: bool,
}

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Recorded,
    Confirmed,
    Corrected,
    Retracted,
    Skipped,
    Known,
    Outdated,
}

/// Why nothing became of it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is wrong; the others may be right.
    Refused(Reason),
    /// Nothing works.
    Failed(Error),
}

impl Trouble {
    pub(super) fn refused(code: &str, detail: impl Into<String>) -> Self {
        Trouble::Refused(Reason::new(code, detail))
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(detail) => Trouble::refused("refused", detail),
            Error::Corrupt(detail) => Trouble::refused("corrupt", detail),
            error => Trouble::Failed(error),
        }
    }
}

/// A name or key of another tool as part of the name of a stream.
///
/// Annotations made here are called sample/annotator/number, with four digits, and no annotator is without a name. Those of
/// a stream are called sample//stream/version, with twenty digits.
pub(super) fn part(key: &str) -> Result<String, Trouble> {
    if key.is_empty() || key.len() > LONGEST_KEY || key.chars().any(char::is_control) {
        let detail = format!("a name or key of an annotation has 1 to {LONGEST_KEY} bytes and no control characters");
        return Err(Trouble::refused("bad_key", detail));
    }
    Ok(key.replace('%', "%25").replace(SEPARATOR, "%2F"))
}

/// What all streams of one source are called, up to their key.
pub(super) fn prefix(sample: PredictionId, source: &str) -> String {
    format!("{sample}{SEPARATOR}{SEPARATOR}{source}-")
}

/// What the annotations of a stream are called, up to their version.
fn versions(sample: PredictionId, stream: &str) -> String {
    format!("{sample}{SEPARATOR}{SEPARATOR}{stream}{SEPARATOR}")
}

/// The stream and the version in the name of an annotation.
pub(super) fn parts(id: &str) -> Option<(&str, u64)> {
    let (rest, version) = id.rsplit_once(SEPARATOR).filter(|(_, version)| version.len() == VERSION_DIGITS)?;
    let (_, stream) = rest.rsplit_once(SEPARATOR)?;
    Some((stream, version.parse().ok()?))
}

impl Statement {
    /// Orders the statements of a stream.
    pub(super) fn version(&self) -> u64 {
        self.time.map_or(0, |time| time.timestamp_micros().max(0) as u64)
    }

    /// What is to be done about it, given what the stream said `earlier`, oldest first.
    fn against(
        &self,
        task: &Task,
        earlier: &[(u64, Annotation)],
        now: DateTime<Utc>,
    ) -> Result<(Said, Option<Annotation>), Reason> {
        let version = self.version();
        if let Some((_, known)) = earlier.iter().find(|(known, _)| *known == version) {
            if known.label == self.label {
                return Ok((Said::Known, None));
            }
            let label = known.label;
            let detail = format!("its key stands for {label:?} of the same time: a correction needs a later time");
            return Err(Reason::new("key_reused", detail));
        }
        let before = earlier.last();
        if before.is_some_and(|(newest, _)| version < *newest) {
            return Ok((Said::Outdated, None));
        }
        let before = before.map(|(_, annotation)| annotation);
        let annotator = match before {
            Some(before) => before.annotator.clone(),
            None if self.truth => Annotator::GroundTruth,
            None => Annotator::Human(self.who.clone()),
        };
        let newest = task.answers.iter().rev().find(|answer| answer.annotator == annotator);
        let own = before.is_some() && before == newest;
        let standing = newest.and_then(|answer| answer.label);
        // There is nothing to take back, or the person has said it by another way since.
        if self.label.is_none() && (!own || standing.is_none()) {
            return Ok((Said::Known, None));
        }
        if !own && newest.zip(self.time).is_some_and(|(answer, stated)| answer.time > stated) {
            return Ok((Said::Outdated, None));
        }
        let made = self.time.map_or(now, |time| time.min(now));
        // Strictly later than what it replaces, so that their order is never in doubt.
        let after = newest.and_then(|answer| answer.time.checked_add_signed(TimeDelta::microseconds(1)));
        let time = after.map_or(made, |after| made.max(after));
        let said = match (self.label, standing) {
            (None, _) => Said::Retracted,
            (_, None) => Said::Recorded,
            // It is kept too: without its time, something older could later pass for a correction.
            (said, standing) if said == standing => Said::Confirmed,
            (_, Some(_)) => Said::Corrected,
        };
        let annotation = Annotation {
            sample: self.sample,
            label: self.label,
            annotator,
            time,
            confidence: self.confidence,
            seconds: self.label.and(self.seconds),
            blind: task.ask.blind && !self.shown,
        };
        Ok((said, Some(annotation)))
    }
}

impl ReviewQueue {
    /// Records a statement, unless it is known or outdated.
    pub(super) fn say(&self, statement: &Statement) -> Result<Said, Trouble> {
        named(&statement.who).map_err(|_| Trouble::refused("no_annotator", "the annotator has no name"))?;
        if let Some(label) = statement.label {
            self.check(label, statement.confidence, statement.seconds)?;
        }
        let (sample, stream) = (statement.sample, &statement.stream);
        let verdict = Cell::new(Ok(Said::Known));
        let changed = self.change(sample, &statement.who, |task, now| {
            let (said, annotation) = match statement.against(task, &self.earlier(sample, stream)?, now) {
                Ok((said, annotation)) => (Ok(said), annotation),
                Err(reason) => (Err(reason), None),
            };
            verdict.set(said);
            let id = || format!("{}{:0VERSION_DIGITS$}", versions(sample, stream), statement.version());
            let change = annotation.map(|annotation| Change::Import(annotation, id()));
            Ok(change.unwrap_or(Change::Keep(Answer::AlreadyRecorded)))
        });
        match changed {
            Ok(_) => verdict.into_inner().map_err(Trouble::Refused),
            Err(Error::Refused(detail)) if self.find(&sample.to_string())?.is_none() => {
                Err(Trouble::refused("unknown_sample", detail))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `who` would rather not answer.
    pub(super) fn pass_over(&self, sample: PredictionId, who: &str) -> Result<Said, Trouble> {
        let stored = self.find(&sample.to_string())?;
        if stored.is_some_and(|stored| stored.task.skipped_by.iter().any(|name| name == who)) {
            return Ok(Said::Known);
        }
        self.skip(sample, who)?;
        Ok(Said::Skipped)
    }

    /// What a stream said so far, oldest first.
    pub(super) fn earlier(&self, sample: PredictionId, stream: &str) -> Result<Vec<(u64, Annotation)>, Error> {
        let records = self.annotation_records(&versions(sample, stream))?;
        let versions = records.iter().filter_map(|record| Some((parts(&record.key.id)?.1, record)));
        versions.map(|(version, record)| Ok((version, parse(record)?))).collect()
    }
}
