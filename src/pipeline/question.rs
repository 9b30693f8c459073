//! Questions to people: into the review queue, again if they did not reach it, and back.

use super::Pipeline;
use super::flow::JUDGING_PRIORITY;
use super::opinions::{is_users, waits_for_people};
use crate::error::Error;
use crate::event::PredictionId;
use crate::review;
use crate::router::Ask;
use crate::sample::{Reason, SampleState};
use crate::store::{Expect, Indexed, Kind};

impl Pipeline {
    /// Moves a sample and puts its task into the review queue, as one unit.
    pub(super) fn enqueue(
        &mut self,
        id: PredictionId,
        ask: Ask,
        to: SampleState,
        by: &str,
        reason: Reason,
    ) -> Result<(), Error> {
        let now = self.now;
        let Some(sample) = self.outbox.sample(id)? else { return Ok(()) };
        if !sample.advance(to, by, reason, now) {
            return Ok(());
        }
        sample.overlap = ask.overlap.max(1);
        self.outbox.touch(id);
        self.ask(id, ask)
    }

    /// Puts the question about a sample into the review queue. A new one goes with the sample, as one unit. One that is
    /// there is opened again with its answers, unless somebody changes it at the same moment.
    pub(super) fn ask(&mut self, id: PredictionId, ask: Ask) -> Result<(), Error> {
        // Until it is known to be in the queue: a store that cannot be read must not lose the question.
        self.flow.unasked.insert(id);
        let known = self.outbox.task(id)?;
        let Some(sample) = self.outbox.sample(id)?.cloned() else { return Ok(()) };
        let before: Option<review::Task> = known.as_ref().and_then(|known| serde_json::from_slice(&known.body).ok());
        // A gold question of the same name makes way.
        let before = before.filter(|task| !task.is_gold());
        let (answers, skipped_by, hidden) =
            before.map(|task| (task.answers, task.skipped_by, task.hidden)).unwrap_or_default();
        let task = review::Task {
            sample: id,
            ask,
            created: self.now,
            row: sample.observation.row.clone(),
            payload: sample.payload.clone(),
            output: sample.observation.output().to_vec(),
            answers,
            skipped_by,
            assigned: None,
            hidden,
        };
        let mut write = review::task_write(self.outbox.pipeline(), &task)?;
        if self.settings.expire_tasks.is_some() {
            self.flow.tasks.push_back((self.now, id));
        }
        let held = known.as_ref().is_some_and(|known| known.state == "claimed");
        let was_open = known.as_ref().is_some_and(|known| known.state == "open");
        self.flow.waiting += u64::from(!was_open && !held);
        match known {
            Some(known) => {
                if held {
                    // Who is answering it keeps it.
                    (write.indexed.state, write.indexed.due) = ("claimed", known.due);
                }
                write.expect = known.expect;
                self.outbox.expect_task(id, &write);
                self.outbox.push(vec![write]);
            }
            None => {
                write.expect = Expect::Any;
                self.outbox.expect_task(id, &write);
                self.outbox.push_with_samples(vec![write])?;
            }
        }
        self.flow.unasked.remove(&id);
        Ok(())
    }

    /// Asks again what did not reach the queue: because the store could not be read, because an annotator changed the task at
    /// the same moment, or because the process ended in between.
    pub(super) fn ask_again(&mut self) -> Result<(), Error> {
        self.flow.unasked.extend(self.outbox.refused_tasks.drain(..));
        for id in self.flow.unasked.iter().copied().collect::<Vec<_>>() {
            let waits = self.outbox.sample(id)?.filter(|sample| waits_for_people(sample));
            let Some((judges, overlap)) = waits.map(|sample| (sample.lane.judges(), sample.overlap)) else {
                self.flow.unasked.remove(&id);
                continue;
            };
            let known = self.outbox.task(id)?;
            if known.is_some_and(|known| matches!(known.state.as_str(), "open" | "claimed")) {
                self.flow.unasked.remove(&id);
                continue;
            }
            let priority = if judges { JUDGING_PRIORITY } else { 1.0 };
            self.ask(id, Ask { priority, overlap, blind: true })?;
        }
        Ok(())
    }

    /// Takes the question about a sample back, unless somebody is answering it.
    pub(super) fn withdraw(&mut self, id: PredictionId) -> Result<(), Error> {
        if let Some(known) = self.outbox.task(id)?.filter(|known| known.state == "open") {
            let indexed = Indexed { state: "withdrawn", rank: known.rank, due: None };
            let mut write = self.outbox.raw(Kind::Task, &id.to_string(), indexed, known.body.to_vec());
            self.flow.waiting = self.flow.waiting.saturating_sub(1);
            write.expect = known.expect;
            self.outbox.expect_task(id, &write);
            self.outbox.push(vec![write]);
        }
        Ok(())
    }

    /// How many questions wait, read once for all samples of an ingest or poll.
    pub(super) fn count_waiting(&mut self) {
        if let Ok(waiting) = self.outbox.count(Kind::Task, Some("open")) {
            self.flow.waiting = waiting;
        }
    }

    /// Withdraws tasks that nobody answered in time; what a person answers later counts all the same.
    pub(super) fn expire_tasks(&mut self) -> Result<(), Error> {
        let Some(after) = self.settings.expire_tasks else { return Ok(()) };
        while self.flow.tasks.front().is_some_and(|(created, _)| self.now - *created >= after) {
            let Some((created, id)) = self.flow.tasks.pop_front() else { break };
            let Some(sample) = self.outbox.sample(id)? else { continue };
            if !waits_for_people(sample) {
                continue;
            }
            let (sealed, labelled) = (sample.state == SampleState::Batched, is_users(&sample.label));
            let task = self.outbox.task(id)?.and_then(|known| serde_json::from_slice::<review::Task>(&known.body).ok());
            if let Some(again) = task.map(|task| task.created).filter(|again| *again > created) {
                // It was asked again since: its time begins there.
                self.flow.tasks.push_back((again, id));
                continue;
            }
            if sealed {
                // It stays where it is, and nothing counts of it.
                self.withdraw(id)?;
                continue;
            }
            if labelled {
                // Nobody else answers: the user's label is what there is.
                self.advance(
                    id,
                    SampleState::Labelled,
                    "queue",
                    Reason::new("labelled", "by a user; nobody else answered"),
                )?;
                self.withdraw(id)?;
                if let Some(sample) = self.outbox.sample(id)?.cloned() {
                    self.retraining.labelled(&sample);
                }
                continue;
            }
            self.advance(id, SampleState::Skipped, "queue", Reason::new("expired", "nobody answered in time"))?;
            self.withdraw(id)?;
            if let Some(sample) = self.outbox.sample(id)?.cloned() {
                self.retraining.labelled(&sample);
            }
        }
        Ok(())
    }
}
