//! From a question to a label: the review queue, annotations, what counts, cohorts of auto-labels.

use chrono::TimeDelta;

use super::Pipeline;
use super::erasure::STUB;
use super::outbox::{at, parse};
use crate::error::Error;
use crate::event::{PredictionId, predicted_label, top_class};
use crate::router::{Ask, Audited, CohortVerdict};
use crate::sample::{ADJUDICATED, Annotation, Annotator, ERASED, Reason, Sample, SampleState};
use crate::schema::Target;
use crate::store::{Expect, Indexed, Kind, Write};

use super::flow::JUDGING_PRIORITY;
use super::opinions::{
    annotator_name, is_disputed, is_undecided, is_users, people, resolve, settled_truth, world_says,
};

/// So many people are asked about a sample on which none of their labels has a majority; or as many as the router wanted,
/// if those are more. Then it is quarantined, or stays in its batch and counts for nothing: a sixth opinion rarely settles what
/// five could not.
pub(super) const MOST_PEOPLE: usize = 5;
pub(super) const NO_CONSENSUS: &str = "no_consensus";

impl Pipeline {
    /// Adds a label to its sample and lets it count. `write` also makes the annotation a record of its own; those of the
    /// review queue are one already.
    pub(super) fn annotate(&mut self, annotation: Annotation, write: bool) -> Result<(), Error> {
        let id = annotation.sample;
        let now = self.now;
        let by = annotator_name(&annotation.annotator);
        let human = matches!(annotation.annotator, Annotator::Human(_));
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        if sample.erased.is_some() {
            self.counters.after_erasure += 1;
            return Ok(());
        }
        let before = sample.label.clone();
        let told = settled_truth(sample);
        let was = sample.state;
        sample.annotations.push(annotation.clone());
        if human && sample.is_taken_back() {
            sample.advance(SampleState::Batched, &by, Reason::new("settled", format!("by {by}")), now);
        }
        sample.label = resolve(sample);
        let count = sample.annotations.len();
        let independent = |label: &Option<Annotation>| label.as_ref().is_some_and(|a| a.annotator.is_independent());
        let (labelled, was_labelled) = (independent(&sample.label), independent(&before));
        match sample.state {
            // Users correct what is wrong more often than what is right: a row that judges models waits for people.
            SampleState::Queued if sample.lane.judges() && is_users(&sample.label) => {}
            SampleState::Admitted | SampleState::Queued | SampleState::Skipped | SampleState::AutoLabelled
                if labelled =>
            {
                sample.advance(SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")), now);
            }
            // The truth came, or somebody thought better of it: what was put aside for that is settled.
            SampleState::Quarantined if labelled && is_undecided(sample) => {
                let reason = || Reason::new("settled", format!("by {by}"));
                sample.advance(SampleState::Admitted, &by, reason(), now);
                sample.advance(SampleState::Labelled, &by, reason(), now);
            }
            SampleState::Labelled if was_labelled && !labelled => {
                sample.advance(SampleState::Queued, &by, Reason::new("retracted", format!("by {by}")), now);
            }
            _ => {}
        }
        // What is in a batch stays there; who is to count in the next one is asked about all the same.
        let open = matches!(sample.state, SampleState::Queued | SampleState::AutoLabelled | SampleState::Batched);
        // A second opinion that a check asked for is judged by the check.
        let mut disputed = human && open && is_disputed(sample) && !self.retraining.asks_again(id);
        let asked = people(sample).len();
        if disputed && asked >= MOST_PEOPLE {
            let reason = Reason::new(NO_CONSENSUS, format!("no label has a majority among {asked} people"));
            sample.advance(SampleState::Quarantined, "queue", reason, now);
            disputed = false;
        } else if disputed {
            sample.overlap += 1;
        }
        let settled = match was {
            SampleState::Queued => sample.state == SampleState::Labelled,
            SampleState::Batched => labelled && !was_labelled,
            _ => false,
        };
        // A person who agrees with the model has said something new as well.
        let said = |label: &Option<Annotation>| label.as_ref().map(|a| (a.label, a.annotator.clone()));
        let changed = said(&before) != said(&sample.label);
        let sample = sample.clone();
        self.outbox.touch(id);
        if human {
            // An outcome is told where it joins. This comes before whatever may fail, so that it comes once.
            self.tell(id, told)?;
            self.flow.unsaved |= !self.buffer.is_empty();
            self.inspect();
        }
        if write {
            let indexed = Indexed { state: "applied", rank: at(annotation.time), due: None };
            // A user is not named where erasure does not reach.
            let by = if matches!(annotation.annotator, Annotator::User(_)) { "user" } else { &by };
            let key = format!("{id}/{by}/{count}");
            let record = self.outbox.json(Kind::Annotation, &key, indexed, &annotation)?;
            self.outbox.push_with_samples(vec![record])?;
        }
        self.retraining.labelled(&sample);
        if disputed || (sample.state == SampleState::Queued && was == SampleState::Labelled) {
            let priority = if sample.lane.judges() { JUDGING_PRIORITY } else { 1.0 };
            self.ask(id, Ask { priority, overlap: sample.overlap, blind: true })?;
        } else if !human && settled {
            self.withdraw(id)?;
        }
        if changed && labelled { self.learn(&sample) } else { Ok(()) }
    }

    /// Tells the router what an independent label says about the model's own opinion.
    pub(super) fn learn(&mut self, sample: &Sample) -> Result<(), Error> {
        let Some(router) = &mut self.router else { return Ok(()) };
        let target = self.schema.target();
        let human = sample.label.as_ref().and_then(|annotation| annotation.label);
        let auto = predicted_label(target, sample.observation.output());
        if let (Some(auto), Some(human)) = (auto, human) {
            let confidence = match target {
                Target::Classes(_) => top_class(sample.observation.output()).map_or(0.0, |(_, p)| p),
                Target::Value => 0.0,
            };
            let audited = Audited { sample, auto, confidence, human, time: self.now };
            router.run(&self.references, |stage| stage.learn(&audited));
            self.flow.router_moved = true;
        }
        Ok(())
    }

    /// Applies what people answered since the last poll, also in other processes.
    pub(super) fn apply_annotations(&mut self) -> Result<usize, Error> {
        let mut applied = 0;
        loop {
            let page = self.outbox.page(Kind::Annotation, "new", None, 512)?;
            if page.is_empty() {
                return Ok(applied);
            }
            for record in page {
                // One that cannot be read is set aside, so that it does not hold up the others.
                let annotation: Option<Annotation> = parse(&record).ok();
                let usable = annotation.filter(|a| a.label.is_none_or(|label| label.fits(self.schema.target())));
                let indexed = Indexed {
                    state: if usable.is_some() { "applied" } else { "refused" },
                    rank: record.rank,
                    due: None,
                };
                let done = Write {
                    kind: Kind::Annotation,
                    key: record.key.clone(),
                    expect: Expect::Any,
                    indexed,
                    body: record.body.clone(),
                };
                if let Some(annotation) = &usable
                    && self.outbox.sample(annotation.sample)?.is_some_and(|sample| sample.erased.is_some())
                {
                    self.counters.after_erasure += 1;
                    let indexed = Indexed { state: ERASED, ..done.indexed };
                    self.outbox.push(vec![Write { indexed, body: STUB.into(), ..done }]);
                    continue;
                }
                // One that fails half way is part of its sample already: it must not come a second time.
                let mut outcome = Ok(());
                if let Some(annotation) = usable {
                    self.counters.human_labels += u64::from(annotation.label.is_some());
                    outcome = self.annotate(annotation, false);
                    applied += 1;
                } else {
                    self.counters.unusable_labels += 1;
                }
                self.outbox.push_with_samples(vec![done])?;
                outcome?;
            }
            self.outbox.commit()?;
        }
    }

    /// Sends samples that wait for a stage that failed through once more, at most once a second.
    pub(super) fn retry_waiting(&mut self) -> Result<(), Error> {
        if self.flow.retry_after.is_some_and(|after| self.now < after) {
            return Ok(());
        }
        self.flow.retry_after = Some(self.now + TimeDelta::seconds(1));
        for (state, admit) in [(SampleState::Flagged, true), (SampleState::Admitted, false)] {
            for record in self.outbox.page(Kind::Sample, state.as_str(), None, 256)? {
                let Ok(id) = record.key.id.parse() else { continue };
                if admit {
                    self.admit(id)?;
                }
                self.settle(id)?;
            }
        }
        Ok(())
    }

    /// Sends an admitted sample on: into training if people or the world have labelled it, to the router if not.
    pub(super) fn settle(&mut self, id: PredictionId) -> Result<(), Error> {
        let Some(sample) = self.outbox.sample(id)?.filter(|sample| sample.state == SampleState::Admitted) else {
            return Ok(());
        };
        match sample.label.clone().filter(|label| label.annotator.is_independent()) {
            Some(label) => {
                let by = annotator_name(&label.annotator);
                self.advance(id, SampleState::Labelled, &by, Reason::new("labelled", format!("by {by}")))?;
                if let Some(sample) = self.outbox.sample(id)?.cloned() {
                    self.retraining.labelled(&sample);
                }
                Ok(())
            }
            None => self.route(id),
        }
    }

    /// Takes a labelled sample out of what may be trained on, because its label is in doubt, and asks one more person than
    /// so far. A label of the world cannot be outvoted, and what the most people say that are asked is still in doubt: such
    /// a sample is quarantined.
    pub(super) fn adjudicate(&mut self, id: PredictionId, by: &str, reason: Reason) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let asked = people(sample).len();
        if world_says(sample).is_some() || asked >= MOST_PEOPLE {
            self.advance(id, SampleState::Quarantined, by, reason)?;
        } else {
            let priority = if sample.lane.judges() { JUDGING_PRIORITY } else { 1.0 };
            let ask = Ask { priority, overlap: asked as u32 + 1, blind: true };
            let reason = Reason::new(ADJUDICATED, reason.to_string());
            if !sample.advance(SampleState::Queued, by, reason, now) {
                return Ok(());
            }
            (sample.overlap, sample.label) = (ask.overlap, resolve(sample));
            self.outbox.touch(id);
            self.ask(id, ask)?;
        }
        if let Some(sample) = self.outbox.sample(id)?.cloned() {
            self.retraining.labelled(&sample);
        }
        Ok(())
    }

    /// Releases or rejects the provisional auto-labels, as the router's audits say.
    pub(super) fn release_auto_labels(&mut self) -> Result<(), Error> {
        let now = self.now;
        if self.retraining.is_frozen() {
            return Ok(());
        }
        let Some(router) = &mut self.router else { return Ok(()) };
        if self.outbox.count(Kind::Sample, Some(SampleState::AutoLabelled.as_str()))? == 0 {
            return Ok(());
        }
        let alarm = self.flow.open_alarms > 0;
        let verdicts = router.run(&self.references, |stage| Ok(stage.cohorts(now, alarm))).unwrap_or_default();
        let by = router.name.clone();
        self.flow.router_moved |= !verdicts.is_empty();
        // Kept until they are carried out: the router tells them once.
        self.flow.verdicts.extend(verdicts);
        let verdicts = self.flow.verdicts.clone();
        if verdicts.is_empty() {
            return Ok(());
        }
        let mut decided = Vec::new();
        self.outbox.each(Kind::Sample, SampleState::AutoLabelled.as_str(), |record| {
            let sample = parse::<Sample>(&record)?;
            let verdict = verdicts.iter().find(|(cohort, _)| sample.cohort == Some(*cohort));
            decided.extend(verdict.map(|(cohort, verdict)| (sample.id(), *cohort, *verdict)));
            Ok(())
        })?;
        for (id, cohort, verdict) in decided {
            let Some(sample) = self.outbox.sample(id)? else { continue };
            if verdict == CohortVerdict::Release {
                sample.advance(
                    SampleState::Labelled,
                    &by,
                    Reason::new("released", format!("the audit of cohort {cohort} passed")),
                    now,
                );
                let sample = sample.clone();
                self.outbox.touch(id);
                self.retraining.labelled(&sample);
            } else {
                let ask = Ask { priority: 0.0, overlap: 1, blind: true };
                let reason =
                    Reason::new("rejected", format!("the audit of cohort {cohort} failed: a person labels it"));
                self.enqueue(id, ask, SampleState::Queued, &by, reason)?;
            }
        }
        self.flow.verdicts.clear();
        Ok(())
    }

    /// Lets the annotations of a quarantined sample count after all: a person has looked at it.
    ///
    /// # Errors
    /// There is no such sample, it is not quarantined, or the store fails.
    pub fn readmit(&mut self, id: PredictionId, who: &str) -> Result<(), Error> {
        let state = self.outbox.sample(id)?.map(|sample| {
            sample.checked |= sample.is_label_fault();
            sample.state
        });
        match state {
            Some(SampleState::Quarantined) => {
                self.note("readmitted", id.to_string(), Some(who), None);
                self.advance(id, SampleState::Admitted, who, Reason::new("readmitted", format!("by {who}")))?;
                self.settle(id)?;
                self.outbox.commit()
            }
            Some(state) => Err(Error::Refused(format!("sample {id} is {}, not quarantined", state.as_str()))),
            None => Err(Error::Refused(format!("there is no sample {id}"))),
        }
    }
}
