//! The queue as annotators see it.

use std::cell::RefCell;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::change::{Change, SEPARATOR, Stored, named, parse};
use super::settled::Settled;
use super::{Answer, Assignment, Hidden, Ticket};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::sample::{Annotation, ERASED};
use crate::schema::Target;
use crate::store::{Kind, Record, Scan, Store};

/// Annotations read at once.
const PAGE: usize = 16;

/// Where people label samples. Cheap to clone; clones, threads and (if the store allows it) processes share one queue.
///
/// A task is given to one person at a time, for a lease; an expired lease gives it back. Once enough different people
/// have answered it is done. Every answer, correction and retraction is an annotation of its own that is never
/// overwritten, and it is stored in one unit with the task. Nothing that a person did is lost: an answer counts after
/// its lease, and even when the task is done.
///
/// Guarantee: within a lease no other person is given the task, and nobody is given one that they answered or skipped.
/// It holds as far as the clocks of the processes agree, and until somebody hands the task on
/// ([`ReviewQueue::reassign`]).
///
/// Order: the most urgent task first. Urgency is the priority plus one point per day in the queue, so nothing waits for
/// ever; tasks that judge models come before all others.
///
/// Cost: a claim passes over the tasks in front that the annotator has settled, by a look into memory each, or, the first
/// time, by reading the task. Memory: at most 40 MB for that, shared by the clones.
#[derive(Clone)]
pub struct ReviewQueue {
    pub(super) store: Arc<dyn Store>,
    pub(super) pipeline: Arc<str>,
    pub(super) target: Target,
    pub(super) clock: Arc<dyn Clock>,
    settled: Arc<Settled>,
    /// Key of the request, for which this is the queue.
    pub(super) request: Option<Arc<str>>,
}

impl std::fmt::Debug for ReviewQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReviewQueue").field("pipeline", &self.pipeline).field("target", &self.target).finish()
    }
}

impl ReviewQueue {
    /// The queue of `pipeline` in `store`; answers must suit `target`.
    pub fn open(
        store: Arc<dyn Store>,
        pipeline: impl Into<Arc<str>>,
        target: Target,
        clock: Arc<dyn Clock>,
    ) -> ReviewQueue {
        ReviewQueue { store, pipeline: pipeline.into(), target, clock, settled: Arc::default(), request: None }
    }

    /// The queue for one request of an annotator, named by a `key` of theirs: what it answers, corrects or retracts is
    /// carried out once per task, annotator and key. So a request can be repeated when its reply was lost, even if the
    /// annotator has said something else since: it says [`Answer::AlreadyRecorded`] and changes nothing.
    ///
    /// # Examples
    /// ```
    /// # use feedloop::*;
    /// # fn answer(queue: &ReviewQueue, sample: PredictionId) -> Result<(), Error> {
    /// queue.keyed("7f3a").annotate(sample, "ann", Label::Class(1), 1.0, None)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyed(&self, key: impl Into<Arc<str>>) -> ReviewQueue {
        ReviewQueue { request: Some(key.into()), ..self.clone() }
    }

    /// Gives `annotator` up to `n` tasks for the time of `lease`, the most urgent first; none that they answered or
    /// skipped.
    ///
    /// # Errors
    /// The annotator has no name, the lease is not positive, or the store fails.
    pub fn claim(&self, annotator: &str, n: usize, lease: TimeDelta) -> Result<Vec<Ticket>, Error> {
        named(annotator)?;
        let now = self.clock.now();
        let expires = now.checked_add_signed(lease).filter(|expires| *expires > now);
        let expires = expires.ok_or_else(|| Error::Refused(format!("a lease of {lease}, it must be positive")))?;
        let failed = RefCell::new(None);
        let except = |id: &str| match self.is_for_others(id, annotator, now) {
            Ok(is) => is,
            Err(error) => {
                failed.borrow_mut().get_or_insert(error);
                true
            }
        };
        let records = self
            .store
            .claim(&self.pipeline, Kind::Task, n, now, expires, annotator, &except)
            .map_err(Error::store("claim tasks"))?;
        let mut tickets = Vec::with_capacity(records.len());
        for record in records {
            let Stored { record, mut task } = Stored::read(record)?;
            // Between the look at a task and its claim, another session of the same person may have answered it, or
            // somebody may have handed it on.
            if task.is_settled_for(annotator) || task.is_kept_from(annotator, now) {
                self.release(task.sample, annotator)?;
                continue;
            }
            task.hidden = Hidden::default();
            if task.ask.blind {
                (task.answers, task.skipped_by) = (Vec::new(), Vec::new());
            }
            tickets.push(Ticket { task, rev: record.rev, expires });
        }
        self.mix_in_gold(annotator, &mut tickets);
        // What was claimed is handed out; a task that cannot be read is reported when nothing else is left.
        match failed.into_inner() {
            Some(error) if tickets.is_empty() => Err(error),
            _ => Ok(tickets),
        }
    }

    /// Is the task none that `annotator` may get: settled by them, or kept for somebody else?
    fn is_for_others(&self, id: &str, annotator: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let sample = id.parse::<PredictionId>().ok();
        if sample.is_some_and(|sample| self.settled.contains(annotator, sample)) {
            return Ok(true);
        }
        let Some(stored) = self.find(id)? else { return Ok(true) };
        let settled = stored.task.is_settled_for(annotator);
        if let Some(sample) = sample.filter(|_| settled) {
            self.settled.insert(annotator, sample);
        }
        Ok(settled || stored.task.is_kept_from(annotator, now))
    }

    /// Stores what `annotator` says, with how sure they are (0 to 1) and how many seconds it took. The same label again
    /// adds nothing, so a request may be repeated.
    ///
    /// # Errors
    /// There is no such task, the label does not suit the target, the confidence or the time is none, the annotator
    /// gave another label before (then [`ReviewQueue::correct`] it), or the store fails.
    pub fn annotate(
        &self,
        sample: PredictionId,
        annotator: &str,
        label: Label,
        confidence: f64,
        seconds: Option<f64>,
    ) -> Result<Answer, Error> {
        self.check(label, confidence, seconds)?;
        self.change(sample, annotator, |task, now| match task.label_of(annotator) {
            Some(before) if before == label => Ok(Change::Keep(Answer::AlreadyRecorded)),
            Some(before) => Err(Error::Refused(format!(
                "{annotator} labelled sample {sample} {before:?} before, now {label:?}: correct it instead"
            ))),
            None => Ok(Change::Annotate(task.annotation(annotator, Some(label), now, confidence, seconds))),
        })
    }

    /// Replaces what `annotator` said by a new label; the old annotation stays in the history.
    ///
    /// # Errors
    /// As [`ReviewQueue::annotate`]; or there is nothing to correct.
    pub fn correct(
        &self,
        sample: PredictionId,
        annotator: &str,
        label: Label,
        confidence: f64,
        seconds: Option<f64>,
    ) -> Result<Answer, Error> {
        self.check(label, confidence, seconds)?;
        self.change(sample, annotator, |task, now| match task.label_of(annotator) {
            Some(before) if before == label => Ok(Change::Keep(Answer::AlreadyRecorded)),
            Some(_) => Ok(Change::Annotate(task.annotation(annotator, Some(label), now, confidence, seconds))),
            None => Err(Error::Refused(format!("{annotator} has no label of sample {sample} to correct"))),
        })
    }

    /// Takes back what `annotator` said. The task opens again if too few answers are left; not to the same annotator.
    ///
    /// # Errors
    /// There is no such task, or the store fails. A retraction without a label before it changes nothing.
    pub fn retract(&self, sample: PredictionId, annotator: &str) -> Result<Answer, Error> {
        self.change(sample, annotator, |task, now| {
            Ok(match task.label_of(annotator) {
                Some(_) => Change::Annotate(task.annotation(annotator, None, now, 1.0, None)),
                None => Change::Keep(Answer::AlreadyRecorded),
            })
        })
    }

    /// Gives the task back, never to be given to `annotator` again.
    ///
    /// # Errors
    /// There is no such task, or the store fails.
    pub fn skip(&self, sample: PredictionId, annotator: &str) -> Result<(), Error> {
        let change = self.change(sample, annotator, |task, _| {
            let mut task = task.clone();
            if !task.skipped_by.iter().any(|name| name == annotator) {
                task.skipped_by.push(annotator.to_owned());
            }
            task.unassign(annotator);
            Ok(Change::Return(Box::new(task)))
        });
        change.map(|_| ())
    }

    /// Gives the task back before the lease ends. One that `annotator` does not hold stays as it is.
    ///
    /// # Errors
    /// There is no such task, or the store fails.
    pub fn release(&self, sample: PredictionId, annotator: &str) -> Result<(), Error> {
        self.change(sample, annotator, |task, _| Ok(Change::Return(Box::new(task.clone())))).map(|_| ())
    }

    /// Hands a task to one person, `to`, for the time of `within`: nobody else gets it until they have answered or skipped
    /// it or the time is over, and they get it before all their other tasks; after that time anybody gets it, before
    /// other tasks. It ends the lease of whoever holds the task; what that person still answers counts. `by` says who
    /// handed it on. Again to somebody else is fine. A gold question ([`ReviewQueue::put_gold`]) is answered for like a task,
    /// so that the reply does not unmask it, and stays with whom it was given to: `to` does not get it.
    ///
    /// # Errors
    /// There is no such task, nobody waits for an answer any more, `to` answered or skipped it before, a name is missing,
    /// the time is not positive, or the store fails.
    pub fn reassign(&self, sample: PredictionId, by: &str, to: &str, within: TimeDelta) -> Result<(), Error> {
        named(to)?;
        let change = self.change(sample, by, |task, now| {
            let until = now.checked_add_signed(within).filter(|until| *until > now);
            let until = until.ok_or_else(|| Error::Refused(format!("a time of {within}, it must be positive")))?;
            if task.is_settled_for(to) {
                return Err(Error::Refused(format!("{to} has answered or skipped sample {sample} already")));
            }
            Ok(Change::Assign(Assignment { to: to.to_owned(), by: by.to_owned(), until }))
        });
        change.map(|_| ())
    }

    /// Number of tasks that wait for an answer, those that somebody holds included.
    ///
    /// # Errors
    /// The store fails.
    pub fn waiting(&self) -> Result<u64, Error> {
        let count = |state| self.store.count(&self.pipeline, Kind::Task, Some(state));
        let failed = Error::store("count the tasks");
        count("open").and_then(|open| Ok(open + count("claimed")?)).map_err(failed)
    }

    /// Every annotation of `sample`, oldest first: answers, corrections and retractions.
    ///
    /// # Errors
    /// The store fails, or holds something else than annotations.
    pub fn annotations(&self, sample: PredictionId) -> Result<Vec<Annotation>, Error> {
        let records = self.annotation_records(&format!("{sample}{SEPARATOR}"))?;
        Ok(in_order(records.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// The annotations whose names begin with `prefix`, in the order of their names.
    pub(super) fn annotation_records(&self, prefix: &str) -> Result<Vec<Record>, Error> {
        let mut found = Vec::new();
        let mut last = prefix.to_owned();
        loop {
            let (pipeline, after) = (self.pipeline.as_ref(), Some((i64::MIN, last.as_str())));
            let scan = Scan { pipeline, kind: Kind::Annotation, state: None, after, limit: PAGE };
            let page = self.store.scan(&scan).map_err(Error::store("read annotations"))?;
            let full = page.len() == PAGE;
            for record in page {
                if !record.key.id.starts_with(prefix) {
                    return Ok(found);
                }
                last.clone_from(&record.key.id);
                if record.state != ERASED {
                    found.push(record);
                }
            }
            if !full {
                return Ok(found);
            }
        }
    }

    pub(super) fn check_label(&self, label: Label) -> Result<(), Error> {
        if !label.fits(&self.target) {
            let expected = match &self.target {
                Target::Classes(names) => format!("a class from 0 to {}", names.len().saturating_sub(1)),
                Target::Value => "a finite value".into(),
            };
            return Err(Error::Refused(format!(
                "the label {label:?} does not suit the target: {expected} is expected"
            )));
        }
        Ok(())
    }

    pub(super) fn check(&self, label: Label, confidence: f64, seconds: Option<f64>) -> Result<(), Error> {
        self.check_label(label)?;
        if !(0.0..=1.0).contains(&confidence) {
            return Err(Error::Refused(format!("a confidence of {confidence}: it must be from 0 to 1")));
        }
        match seconds {
            Some(seconds) if !(seconds >= 0.0 && seconds.is_finite()) => {
                Err(Error::Refused(format!("an answer took {seconds} seconds: it must be a finite number from 0 on")))
            }
            _ => Ok(()),
        }
    }
}

fn in_order(mut annotations: Vec<Annotation>) -> Vec<Annotation> {
    annotations.sort_by_key(|annotation| annotation.time);
    annotations
}

#[cfg(test)]
mod tests;
