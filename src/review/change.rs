//! How a task changes: one compare-and-set on its record, in one unit with the annotation that caused it.

use chrono::{DateTime, Utc};

use super::consensus::standing;
use super::{Answer, Assignment, ReviewQueue, Task, json, order};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::journal::{self, Act, JournalHead};
use crate::sample::{Annotation, Annotator, ERASED};
use crate::store::{Committed, Expect, Fence, Indexed, Key, Kind, Record, Write};

/// A change is tried again so often when others change the same task at the same time.
const MOST_TRIES: usize = 100;
/// Between the parts of an annotation's name: sample, annotator, number.
pub(super) const SEPARATOR: char = '/';

/// A task as it is stored.
pub(super) struct Stored {
    pub(super) record: Record,
    pub(super) task: Task,
}

/// What a change of a task comes to.
pub(super) enum Change {
    /// Nothing to do.
    Keep(Answer),
    /// A new annotation; the task counts answers again.
    Annotate(Annotation),
    /// As `Annotate`, under a name that the annotation brings from outside.
    Import(Annotation, String),
    /// The task with another body; it goes back to the others if this annotator holds it.
    Return(Box<Task>),
    /// The task goes to one person, whoever holds it. A gold question stays as it is, with the reply of a task.
    Assign(Assignment),
}

impl ReviewQueue {
    pub(super) fn find(&self, id: &str) -> Result<Option<Stored>, Error> {
        let record = self.store.get(&self.pipeline, Kind::Task, id).map_err(Error::store("read a task"))?;
        record.map(Stored::read).transpose()
    }

    /// Changes a task: reads it, decides, writes; again from the start if somebody else wrote in between.
    pub(super) fn change(
        &self,
        sample: PredictionId,
        annotator: &str,
        decide: impl Fn(&Task, DateTime<Utc>) -> Result<Change, Error>,
    ) -> Result<Answer, Error> {
        named(annotator)?;
        let id = sample.to_string();
        for _ in 0..MOST_TRIES {
            let stored = self.find(&id)?;
            let stored = stored.ok_or_else(|| Error::Refused(format!("sample {sample} has no task in the queue")))?;
            if stored.record.state == ERASED {
                return Err(Error::Refused(format!("the content of sample {sample} was erased")));
            }
            let now = self.clock.now();
            let request = self.request.as_ref().map(|key| (annotator.to_owned(), key.to_string()));
            if request.as_ref().is_some_and(|request| stored.task.hidden.requests.contains(request)) {
                return Ok(Answer::AlreadyRecorded);
            }
            let (mut unit, answer) = match decide(&stored.task, now)? {
                Change::Keep(answer) => match request {
                    Some(request) => {
                        let mut task = stored.task.clone();
                        task.hidden.requests.push(request);
                        (self.give_back(&stored, task, annotator)?.into_iter().collect(), answer)
                    }
                    None => return Ok(answer),
                },
                Change::Return(task) => match self.give_back(&stored, *task, annotator)? {
                    Some(write) => (vec![write], Answer::AlreadyRecorded),
                    None => return Ok(Answer::AlreadyRecorded),
                },
                Change::Annotate(annotation) => self.unit(&stored, annotation, annotator, None, request)?,
                Change::Import(annotation, id) => self.unit(&stored, annotation, annotator, Some(id), request)?,
                Change::Assign(assignment) => {
                    let gold = stored.task.hidden.gold.as_ref();
                    let state = match (stored.record.state.as_str(), gold) {
                        ("gold", Some(gold)) => gold.seeming_state(&stored.task.answers),
                        (state, _) => state,
                    };
                    if !matches!(state, "open" | "claimed") {
                        return Err(Error::Refused(format!("the task of sample {sample} is {state}")));
                    }
                    if gold.is_some() {
                        return Ok(Answer::AlreadyRecorded);
                    }
                    let task = Task { assigned: Some(assignment), ..stored.task.clone() };
                    (vec![self.write(&stored, &task, "open")?], Answer::AlreadyRecorded)
                }
            };
            let acts: Vec<Act> = unit.iter().filter_map(Act::of_write).collect();
            if !acts.is_empty() {
                let (mut head, expect) = JournalHead::read(&*self.store, &self.pipeline, &journal::person(annotator))?;
                unit.extend(head.append(&self.pipeline, now, acts, expect));
            }
            let mut out = Vec::new();
            self.store.commit(&[&unit], &Fence::None, &mut out).map_err(Error::store("change a task"))?;
            if out == [Committed::Applied] {
                return Ok(answer);
            }
        }
        Err(Error::Refused(format!("the task of sample {sample} is changed by too many at once; try again")))
    }

    /// The annotation and the task in one unit.
    fn unit(
        &self,
        stored: &Stored,
        annotation: Annotation,
        annotator: &str,
        id: Option<String>,
        request: Option<(String, String)>,
    ) -> Result<(Vec<Write>, Answer), Error> {
        let id = id.map_or_else(|| self.next_name(&stored.task, annotator), Ok)?;
        let first = Write {
            kind: Kind::Annotation,
            key: Key::new(&self.pipeline, id),
            expect: Expect::Absent,
            // The pipeline applies what is new; an answer to a gold question is no label of a sample.
            indexed: Indexed {
                state: if stored.task.is_gold() { "gold" } else { "new" },
                rank: annotation.time.timestamp_micros(),
                due: None,
            },
            body: json(&annotation)?,
        };
        let mut task = stored.task.clone();
        task.answers.push(annotation);
        task.hidden.requests.extend(request);
        task.unassign(annotator);
        let done = match &task.hidden.gold {
            Some(gold) => gold.seems_done(annotator),
            None => standing(&task.answers).len() >= task.ask.overlap.max(1) as usize,
        };
        let state = match stored.record.state.as_str() {
            "withdrawn" => "withdrawn",
            "gold" => "gold",
            _ if done => "done",
            // Somebody else got the task after this annotator's lease: it stays theirs.
            "claimed" if stored.record.holder.as_deref() != Some(annotator) => "claimed",
            _ => "open",
        };
        let second = self.write(stored, &task, state)?;
        Ok((vec![first, second], Answer::Recorded { done }))
    }

    /// Name of the next annotation that `annotator` makes here.
    fn next_name(&self, task: &Task, annotator: &str) -> Result<String, Error> {
        let human = Annotator::Human(annotator.into());
        let mut number = task.answers.iter().filter(|answer| answer.annotator == human).count();
        let name = |number| format!("{}{SEPARATOR}{annotator}{SEPARATOR}{number:04}", task.sample);
        // The task may have been put into the queue anew while an answer was under way: its annotation is there.
        let known =
            |id: &str| self.store.get(&self.pipeline, Kind::Annotation, id).map_err(Error::store("read an annotation"));
        while known(&name(number))?.is_some() {
            number += 1;
        }
        Ok(name(number))
    }

    /// The write that ends this annotator's lease; `None` if it would change nothing.
    fn give_back(&self, stored: &Stored, task: Task, annotator: &str) -> Result<Option<Write>, Error> {
        let held = stored.record.state == "claimed" && stored.record.holder.as_deref() == Some(annotator);
        let state = match stored.record.state.as_str() {
            "claimed" if !held => "claimed",
            "done" => "done",
            "withdrawn" => "withdrawn",
            "gold" => "gold",
            _ => "open",
        };
        if !held && task == stored.task {
            return Ok(None);
        }
        self.write(stored, &task, state).map(Some)
    }

    pub(super) fn write(&self, stored: &Stored, task: &Task, state: &'static str) -> Result<Write, Error> {
        let due = if state == "claimed" { stored.record.due } else { None };
        let handed_on = task.assigned != stored.task.assigned;
        let rank = if handed_on { order::rank(task) } else { stored.record.rank };
        Ok(Write {
            kind: Kind::Task,
            key: stored.record.key.clone(),
            expect: Expect::Rev(stored.record.rev),
            indexed: Indexed { state, rank, due },
            body: json(task)?,
        })
    }
}

impl Stored {
    pub(super) fn read(record: Record) -> Result<Self, Error> {
        Ok(Stored { task: parse(&record)?, record })
    }
}

impl Task {
    /// Has this annotator answered (retracted answers included) or skipped the task?
    pub(super) fn is_settled_for(&self, annotator: &str) -> bool {
        let human = Annotator::Human(annotator.into());
        self.skipped_by.iter().any(|name| name == annotator)
            || self.answers.iter().any(|answer| answer.annotator == human)
    }

    /// Was it handed to somebody else than this annotator, who still has time?
    pub(super) fn is_kept_from(&self, annotator: &str, now: DateTime<Utc>) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| assigned.to != annotator && now < assigned.until)
    }

    /// It is no longer kept for this annotator.
    pub(super) fn unassign(&mut self, annotator: &str) {
        self.assigned.take_if(|assigned| assigned.to == annotator);
    }

    /// The label of this annotator that stands.
    pub(super) fn label_of(&self, annotator: &str) -> Option<Label> {
        let human = Annotator::Human(annotator.into());
        self.answers.iter().rev().find(|answer| answer.annotator == human).and_then(|answer| answer.label)
    }

    pub(super) fn annotation(
        &self,
        annotator: &str,
        label: Option<Label>,
        now: DateTime<Utc>,
        confidence: f64,
        seconds: Option<f64>,
    ) -> Annotation {
        // A clock that went back must not put a correction before what it corrects.
        let time = self.answers.iter().map(|answer| answer.time).fold(now, DateTime::max);
        let (sample, blind, annotator) = (self.sample, self.ask.blind, Annotator::Human(annotator.into()));
        Annotation { sample, label, annotator, time, confidence, seconds, blind }
    }
}

pub(super) fn named(annotator: &str) -> Result<(), Error> {
    if annotator.trim().is_empty() {
        return Err(Error::Refused("an annotator needs a name".into()));
    }
    Ok(())
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(record: &Record) -> Result<T, Error> {
    serde_json::from_slice(&record.body).map_err(|error| {
        Error::Corrupt(format!("the {} `{}` cannot be understood: {error}", record.kind.as_str(), record.key.id))
    })
}
