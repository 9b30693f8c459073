//! The label-fault check in the loop: which labels it sees, what it asks people, and what becomes of the labels.

use chrono::{DateTime, Utc};

use super::super::Pipeline;
use super::super::flow::JUDGING_PRIORITY;
use super::super::opinions::{annotator_name, people, resolve, world_says};
use super::{Phase, PromotionKind, Retraining};
use crate::detector::{Alarm, Level};
use crate::error::Error;
use crate::event::{Label, PredictionId, top_class};
use crate::retrain::label_faults::{Asked, Asking, CheckVerdict, Checking, Entry, Moved, Next};
use crate::retrain::{LabelCheck, LabelChecks, LabelFaults};
use crate::router::Ask;
use crate::sample::{Annotator, LABEL_FAULT, Lane, Reason, Sample, SampleState};

/// Who moves samples and raises alarms.
const CHECK: &str = "label_faults";
/// Second opinions come before everything else that people are asked.
const PRIORITY: f64 = 4.0 * JUDGING_PRIORITY;
/// What is told if there is nobody to ask.
const ALONE: &str = "labels contradict the served model more than expected, and only one person labels, so that nobody can \
                     say whether they are wrong: they count";

/// What the loop knows of its label-fault check.
pub(in crate::pipeline) struct CheckView {
    pub(in crate::pipeline) open: Option<LabelCheck>,
    pub(in crate::pipeline) told: LabelChecks,
}

impl Retraining {
    /// Does the label of this sample wait for the check? One that was not seen yet is noted for it.
    pub(super) fn waits_for_check(&mut self, sample: &Sample) -> bool {
        let by_people = |label: &&crate::sample::Annotation| {
            matches!(label.annotator, Annotator::Human(_)) && matches!(label.label, Some(Label::Class(_)))
        };
        let wanted = self.parts.label_faults.is_some() && !sample.checked;
        let Some(annotation) = sample.label.as_ref().filter(by_people).filter(|_| wanted) else { return false };
        let id = sample.id();
        let known = self.state.checking.waiting().any(|entry| entry.id == id && Some(entry.label) == annotation.label);
        if !known {
            self.state.checking.forget(id);
            self.unchecked.insert((sample.sequence, id), annotation.time);
        }
        true
    }

    /// Is the row asked about again by the check that is open?
    pub(in crate::pipeline) fn asks_again(&self, id: PredictionId) -> bool {
        self.state.checking.asks(id)
    }

    /// While a check is open, nothing moves but what does not rest on labels: a rollback that a person asked for, or that
    /// unusable output did.
    pub(super) fn is_held_by_labels(&self) -> bool {
        let rests_on_labels = match &self.state.phase {
            Phase::Deploying { kind: PromotionKind::Rollback, reason, .. } => {
                matches!(reason.code.as_str(), "worse" | "likely_worse")
            }
            _ => true,
        };
        self.state.checking.asking.is_some() && rests_on_labels
    }

    pub(in crate::pipeline) fn check_view(&self) -> CheckView {
        let checking = &self.state.checking;
        let since = checking.asking.as_ref().map(|asking| asking.opened);
        let since = since.or(checking.distrust.as_ref().map(|distrust| distrust.since));
        let asking = checking.asking.as_ref().map(|asking| asking.text.clone());
        let distrust = checking.distrust.as_ref().map(|distrust| distrust.why.clone());
        let open = since.map(|since| LabelCheck {
            asked: checking.asking.as_ref().map_or(0, |asking| asking.rows.len()),
            since,
            distrusted: checking.distrust.as_ref().map(|distrust| distrust.people.clone().unwrap_or_default()),
            waiting: checking.waiting().count() + self.unchecked.len(),
            text: asking.into_iter().chain(distrust).collect::<Vec<_>>().join("; "),
        });
        CheckView { open, told: checking.told }
    }
}

impl Pipeline {
    /// Shows new labels to the check, in the order in which they were given, and does what it says.
    pub(in crate::pipeline) fn check_labels(&mut self) -> Result<(), Error> {
        let Some(rules) = self.retraining.parts.label_faults.clone() else { return Ok(()) };
        // Bounded: each turn closes a check or opens one.
        loop {
            if self.retraining.state.checking.asking.is_some() && !self.step_check(&rules)? {
                return Ok(());
            }
            let waits = self.retraining.state.checking.waiting().next().is_some();
            if self.retraining.unchecked.is_empty() && !waits {
                return Ok(());
            }
            let before = (self.retraining.state.checking.clone(), self.retraining.unchecked.clone());
            let moved = match self.look_at_labels(&rules) {
                Ok(moved) => moved,
                Err(error) => {
                    (self.retraining.state.checking, self.retraining.unchecked) = before;
                    return Err(error);
                }
            };
            if moved == Moved::default() && self.retraining.state.checking == before.0 {
                return Ok(());
            }
            let next = moved.next;
            let carried = self.carry_out(moved, "the labels disagree with the model as those before them");
            let opened = match next {
                Some(Next::Ask { again }) => self.open_check(again),
                Some(Next::Alone) => self.tell_check("label_check_alone", ALONE.to_owned()),
                None => Ok(()),
            };
            self.save_loop(Vec::new())?;
            self.outbox.commit()?;
            carried.and(opened)?;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Shows the labels that wait to the check, up to the one that opens it. Nothing else has changed yet; the samples that
    /// are to be moved were read.
    fn look_at_labels(&mut self, rules: &LabelFaults) -> Result<Moved, Error> {
        let mut order: Vec<_> = self.retraining.unchecked.iter().map(|(key, time)| (*time, *key)).collect();
        order.sort_unstable();
        let now = self.now;
        let mut moved = self.retraining.state.checking.overdue(now, rules);
        for (_, key) in order {
            let sample = self.outbox.sample(key.1)?.filter(|sample| sample.state == SampleState::Labelled);
            let entry = sample.and_then(|sample| entry(sample, now));
            self.retraining.unchecked.remove(&key);
            let Some(entry) = entry else { continue };
            let more = self.retraining.state.checking.observe(entry, rules);
            moved.cleared.extend(more.cleared);
            moved.refused.extend(more.refused);
            moved.next = more.next;
            if moved.next.is_some() {
                break;
            }
        }
        if moved.next.is_none() {
            let last = self.retraining.state.checking.settle(rules);
            moved.cleared.extend(last.cleared);
            moved.refused.extend(last.refused);
            moved.next = last.next;
        }
        for entry in moved.cleared.iter().chain(&moved.refused) {
            self.outbox.sample(entry.id)?;
        }
        Ok(moved)
    }

    /// Opens the check, and asks.
    fn open_check(&mut self, again: bool) -> Result<(), Error> {
        let rows = self.retraining.state.checking.next_rows(again);
        let waiting = self.retraining.state.checking.waiting().count();
        let contradict = self.retraining.state.checking.waiting().filter(|entry| entry.contradicts).count();
        let text = match again {
            false => {
                format!("{contradict} of the newest {waiting} labels contradict the served model, more than expected")
            }
            true => "the labels of people who are distrusted still contradict the served model".to_owned(),
        };
        let checking = &mut self.retraining.state.checking;
        checking.told.opened += 1;
        checking.asking = Some(Asking { opened: self.now, rows: Vec::new(), again, text: text.clone() });
        self.ask_second(rows)?;
        self.tell_check("label_check", text)
    }

    /// Asks a second person about rows that are labelled.
    fn ask_second(&mut self, rows: Vec<Entry>) -> Result<(), Error> {
        let now = self.now;
        for entry in rows {
            let Some(sample) = self.outbox.sample(entry.id)? else { continue };
            let before: Vec<String> = people(sample).iter().map(|answer| annotator_name(&answer.annotator)).collect();
            let reason = || Reason::new("label_check", "a second person is asked");
            let back =
                sample.state != SampleState::Quarantined || sample.advance(SampleState::Admitted, CHECK, reason(), now);
            if !back || !sample.advance(SampleState::Queued, CHECK, reason(), now) {
                continue;
            }
            sample.overlap = before.len() as u32 + 1;
            sample.label = resolve(sample);
            let overlap = sample.overlap;
            self.outbox.touch(entry.id);
            let checking = &mut self.retraining.state.checking;
            checking.told.second_opinions += 1;
            let asked = Asked { id: entry.id, label: entry.label, before };
            checking.asking.iter_mut().for_each(|asking| asking.rows.push(asked.clone()));
            self.ask(entry.id, Ask { priority: PRIORITY, overlap, blind: true })?;
        }
        Ok(())
    }

    /// Reads the second opinions that have come. `true`: the check is closed.
    fn step_check(&mut self, rules: &LabelFaults) -> Result<bool, Error> {
        let Some(asking) = self.retraining.state.checking.asking.clone() else { return Ok(true) };
        self.read_suspects()?;
        let (mut answered, mut contradicted, mut open) = (0, 0, 0);
        for row in &asking.rows {
            let Some(sample) = self.outbox.sample(row.id)? else { continue };
            match second_opinion(sample, row) {
                Some(label) => {
                    answered += 1;
                    contradicted += u64::from(label != row.label);
                }
                None => open += u64::from(sample.state == SampleState::Queued),
            }
        }
        let expired = self.now - asking.opened >= rules.patience;
        if open > 0 && !expired {
            return Ok(false);
        }
        let more = if expired { Vec::new() } else { self.retraining.state.checking.next_rows(asking.again) };
        let unanswered = asking.rows.len() as u64 - answered;
        let Some(verdict) = Checking::judge(answered, contradicted, unanswered, rules, !more.is_empty()) else {
            self.ask_second(more)?;
            self.save_loop(Vec::new())?;
            self.outbox.commit()?;
            return Ok(false);
        };
        let text = format!("{contradicted} of {answered} second opinions contradict the labels; {}", asking.text);
        let now = self.now;
        let mut moved = self.retraining.state.checking.conclude(verdict, now, text.clone(), rules);
        if verdict != CheckVerdict::Drift {
            // Those that were asked about again went back to the queue.
            let cleared: Vec<PredictionId> = moved.cleared.iter().map(|entry| entry.id).collect();
            let asked = asking.rows.iter().filter(|row| !cleared.contains(&row.id)).map(|row| row.id);
            let known: Vec<PredictionId> = moved.refused.iter().map(|entry| entry.id).collect();
            moved.again = asked.filter(|id| !known.contains(id)).collect();
        }
        let carried = self.carry_out(moved, &text);
        let code = match verdict {
            CheckVerdict::Fault => LABEL_FAULT,
            CheckVerdict::Drift => "label_drift",
            CheckVerdict::Unresolved => "label_check_unresolved",
        };
        self.tell_check(code, text)?;
        self.save_loop(Vec::new())?;
        self.outbox.commit()?;
        carried.map(|()| true)
    }

    /// Lets labels count, or puts them into quarantine.
    fn carry_out(&mut self, moved: Moved, why: &str) -> Result<(), Error> {
        let told = &mut self.retraining.state.checking.told;
        told.quarantined += moved.refused.len() as u64;
        told.released += moved.released.len() as u64;
        // A question that does not reach the queue, or stays in it, does not stop the others.
        let mut failed = Ok(());
        for id in moved.cleared.iter().map(|entry| entry.id).chain(moved.released) {
            failed = failed.and(self.clear_label(id));
        }
        for id in moved.refused.iter().map(|entry| entry.id).chain(moved.again) {
            failed = failed.and(self.refuse_label(id, why));
        }
        failed
    }

    /// Reads every sample that a verdict can move, so that nothing has changed yet if the store fails.
    fn read_suspects(&mut self) -> Result<(), Error> {
        for id in self.retraining.state.checking.ids() {
            self.outbox.sample(id)?;
        }
        Ok(())
    }

    /// The label counts. Where people do not agree on one, one more is asked.
    fn clear_label(&mut self, id: PredictionId) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)?.filter(|sample| sample.erased.is_none()) else { return Ok(()) };
        sample.checked = true;
        let reason = || Reason::new("labelled", "the label-fault check lets the label count");
        if sample.is_taken_back() {
            sample.advance(SampleState::Batched, CHECK, reason(), now);
            sample.label = resolve(sample);
        }
        let asked = matches!(sample.state, SampleState::Queued | SampleState::Skipped);
        let answers = people(sample).len() as u32;
        if asked && answers > 0 {
            // As many were to answer as have; who was asked beside them may stay silent.
            sample.overlap = answers;
            sample.label = resolve(sample);
        }
        if sample.is_label_fault() {
            sample.advance(SampleState::Admitted, CHECK, reason(), now);
        }
        let settled = sample.label.as_ref().is_some_and(|label| label.annotator.is_independent());
        let disputed = || Reason::new("disputed", "people do not agree");
        if settled {
            sample.advance(SampleState::Labelled, CHECK, reason(), now);
        } else if answers > 0
            && (sample.state == SampleState::Queued || sample.advance(SampleState::Queued, CHECK, disputed(), now))
        {
            sample.overlap = answers + 1;
            let overlap = sample.overlap;
            self.outbox.touch(id);
            return self.ask(id, Ask { priority: JUDGING_PRIORITY, overlap, blind: true });
        }
        let sample = sample.clone();
        self.outbox.touch(id);
        self.retraining.labelled(&sample);
        if asked { self.withdraw(id) } else { Ok(()) }
    }

    /// The label does not count any more.
    fn refuse_label(&mut self, id: PredictionId, why: &str) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        let reason = Reason::new(LABEL_FAULT, why);
        if sample.state == SampleState::Batched {
            // The next batch says that the label counts no more.
            sample.advance(SampleState::Batched, CHECK, reason, now);
            sample.label = resolve(sample);
            let sample = sample.clone();
            self.outbox.touch(id);
            self.retraining.labelled(&sample);
            return Ok(());
        }
        let asked = matches!(sample.state, SampleState::Queued | SampleState::Skipped);
        if sample.state == SampleState::Skipped {
            sample.advance(SampleState::Queued, CHECK, reason.clone(), now);
        }
        if !matches!(sample.state, SampleState::Queued | SampleState::Labelled) {
            return Ok(());
        }
        sample.overlap = (people(sample).len() as u32).max(1);
        sample.advance(SampleState::Quarantined, CHECK, reason, now);
        let sample = sample.clone();
        self.outbox.touch(id);
        self.retraining.labelled(&sample);
        if asked { self.withdraw(id) } else { Ok(()) }
    }

    /// An alarm, and a note on the run in flight, which becomes durable with the state of the loop.
    fn tell_check(&mut self, code: &str, text: String) -> Result<(), Error> {
        let (now, sequence) = (self.now, self.sequence);
        if let Some(run) = &mut self.retraining.state.run {
            run.notes.push((now, Reason::new(code, text.clone())));
            let run = run.clone();
            let write = self.retraining.save_run(&self.outbox, &run)?;
            self.outbox.join(vec![write]);
        }
        let text = format!("{code}: {text}");
        self.raise(Alarm { detector: CHECK.into(), level: Level::Warning, sequence, text, readings: Vec::new() })
    }

    /// Lets every label count that the label-fault check holds back, but for those that it found to be wrong: a person has
    /// looked into it. An open check is closed. Returns how many labels there were.
    ///
    /// # Errors
    /// The store fails.
    pub fn trust_labels(&mut self, who: &str) -> Result<usize, Error> {
        self.read_suspects()?;
        let moved = self.retraining.state.checking.trust();
        let labels = moved.cleared.len() + moved.released.len();
        let carried = self.carry_out(moved, who);
        self.tell_check("labels_trusted", format!("{labels} labels count, says {who}"))?;
        self.save_loop(Vec::new())?;
        self.outbox.commit()?;
        carried.map(|()| labels)
    }
}

/// What the check sees of a label.
fn entry(sample: &Sample, seen: DateTime<Utc>) -> Option<Entry> {
    let annotation = sample.label.as_ref()?;
    let label = annotation.label?;
    let (class, sure) = top_class(sample.observation.output())?;
    Some(Entry {
        id: sample.id(),
        by: annotator_name(&annotation.annotator),
        model: sample.observation.model,
        seen,
        label,
        contradicts: label != Label::Class(class),
        sure: (sample.lane != Lane::Comparison).then_some(sure),
        looks: 0,
        counts: false,
    })
}

/// What was said of a row since it was asked about again: by the world, or by somebody who had not labelled it before.
fn second_opinion(sample: &Sample, row: &Asked) -> Option<Label> {
    let mut others =
        people(sample).into_iter().filter(|answer| !row.before.contains(&annotator_name(&answer.annotator)));
    world_says(sample).or_else(|| others.next_back().and_then(|answer| answer.label))
}
