//! Gold questions: what an annotator says about tasks whose answer is known.

use serde::{Deserialize, Serialize};

use super::change::Stored;
use super::consensus::standing;
use super::{Hidden, ReviewQueue, Task, Ticket, json};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::router::Ask;
use crate::sample::{Annotation, Annotator};
use crate::schema::{Row, Target};
use crate::stats::sampling::unit_interval;
use crate::store::{Committed, Expect, Fence, Indexed, Key, Kind, Scan, Write};

/// Share of the tickets that are gold questions, as long as there are some that the annotator has not had.
const SHARE: f64 = 0.05;
const SEED: u64 = 0x601d;
/// Gold questions read at once.
const PAGE: usize = 100;

/// What is known of a gold question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gold {
    pub(super) label: Label,
    /// Who was asked, and how many answers the ticket said were wanted.
    #[serde(default)]
    given: Vec<(String, u32)>,
}

impl Gold {
    /// What the reply to an answer says, so that it gives nothing away.
    pub(super) fn seems_done(&self, annotator: &str) -> bool {
        self.given.iter().find(|(name, _)| name == annotator).is_none_or(|(_, overlap)| *overlap <= 1)
    }

    /// The state in which a task with these answers would be, so that a refusal gives nothing away either.
    pub(super) fn seeming_state(&self, answers: &[Annotation]) -> &'static str {
        let done = |who: &Annotator| matches!(who, Annotator::Human(name) if self.seems_done(name));
        if standing(answers).iter().any(|(who, _)| done(who)) { "done" } else { "open" }
    }

    fn was_given_to(&self, annotator: &str) -> bool {
        self.given.iter().any(|(name, _)| name == annotator)
    }
}

impl Task {
    pub(crate) fn is_gold(&self) -> bool {
        self.hidden.gold.is_some()
    }
}

impl ReviewQueue {
    /// Puts a gold question into the queue: a row whose class is known, to see how well annotators do
    /// ([`ReviewQueue::annotators`]). The same again changes nothing.
    ///
    /// One ticket in 20, by a keyed hash, is a gold question in place of a task, which goes back into the queue: blind, with
    /// the priority, overlap and time of that task. Every annotator gets each question at most once, several at the same
    /// time if need be. Their answers are stored as annotations, but never label a sample and never train a model.
    ///
    /// To tell it from the others an annotator has what you give them: take an `id` like those of your predictions, which
    /// no prediction has, and a row and `payload` like theirs. For each gold ticket the questions are read until one is new
    /// to the annotator, so put hundreds of them, not tens of thousands.
    ///
    /// # Errors
    /// The target is no class, the label does not suit it, there is another task or a sample of this name, or the store
    /// fails.
    pub fn put_gold(&self, id: PredictionId, row: Row, payload: Option<String>, label: Label) -> Result<(), Error> {
        if self.target == Target::Value {
            return Err(Error::Refused("gold questions need classes: a value is neither right nor wrong".into()));
        }
        self.check_label(label)?;
        let name = id.to_string();
        let sample = self.store.get(&self.pipeline, Kind::Sample, &name).map_err(Error::store("read a sample"))?;
        if sample.is_some() {
            return Err(Error::Refused(format!("{id} is a sample of the loop; name the gold question otherwise")));
        }
        let created = self.clock.now();
        let hidden = Hidden { gold: Some(Gold { label, given: Vec::new() }), ..Hidden::default() };
        let task = Task {
            sample: id,
            ask: Ask { priority: 0.0, overlap: 1, blind: true },
            created,
            row,
            payload,
            output: Vec::new(),
            answers: Vec::new(),
            skipped_by: Vec::new(),
            assigned: None,
            hidden,
        };
        let write = Write {
            kind: Kind::Task,
            key: Key::new(&self.pipeline, name.as_str()),
            expect: Expect::Absent,
            indexed: Indexed { state: "gold", rank: created.timestamp_micros(), due: None },
            body: json(&task)?,
        };
        if self.put(write)? {
            return Ok(());
        }
        let same = self.find(&name)?.is_some_and(|known| {
            let known_label = known.task.hidden.gold.map(|gold| gold.label);
            known_label == Some(label) && known.task.payload == task.payload && same_row(&known.task.row, &task.row)
        });
        if same { Ok(()) } else { Err(Error::Refused(format!("there is another task of the name {id}"))) }
    }

    /// Takes a gold question back, for example because its label is wrong: it is asked no more, and no longer counts.
    ///
    /// # Errors
    /// There is no such gold question, somebody changed it at the same moment, or the store fails.
    pub fn withdraw_gold(&self, id: PredictionId) -> Result<(), Error> {
        let stored = self.find(&id.to_string())?.filter(|stored| stored.task.is_gold());
        let stored = stored.ok_or_else(|| Error::Refused(format!("there is no gold question {id}")))?;
        if self.put(self.write(&stored, &stored.task, "withdrawn")?)? {
            return Ok(());
        }
        Err(Error::Refused(format!("the gold question {id} is just being changed; try again")))
    }

    /// Puts gold questions in the place of some of these tickets. What fails leaves a ticket as it is.
    pub(super) fn mix_in_gold(&self, annotator: &str, tickets: &mut [Ticket]) {
        for ticket in tickets.iter_mut().filter(|ticket| ticket.task.ask.blind && ticket.task.assigned.is_none()) {
            // The revision, so that the task is drawn anew when it comes back.
            let draw = format!("{annotator}/{}/{}", ticket.task.sample, ticket.rev);
            if unit_interval(SEED, draw.as_bytes()) >= SHARE {
                continue;
            }
            let Ok(Some(gold)) = self.take_gold(annotator, ticket.task.ask.overlap) else { return };
            if self.release(ticket.task.sample, annotator).is_ok() {
                let Task { sample, row, payload, .. } = gold;
                ticket.task = Task { sample, row, payload, ..ticket.task.clone() };
            }
        }
    }

    /// A gold question that is new to this annotator; it is theirs from now on.
    fn take_gold(&self, annotator: &str, overlap: u32) -> Result<Option<Task>, Error> {
        let mut taken = None;
        self.each_gold(|stored| {
            let mut task = stored.task.clone();
            let Some(gold) = task.hidden.gold.as_mut().filter(|gold| !gold.was_given_to(annotator)) else {
                return Ok(true);
            };
            gold.given.push((annotator.to_owned(), overlap));
            // Somebody else got it at the same moment: then the next one will do.
            if self.put(self.write(stored, &task, "gold")?)? {
                taken = Some(task);
            }
            Ok(taken.is_none())
        })?;
        Ok(taken)
    }

    /// Every gold question, until `each` has seen enough.
    pub(super) fn each_gold(&self, mut each: impl FnMut(&Stored) -> Result<bool, Error>) -> Result<(), Error> {
        let mut last: Option<(i64, String)> = None;
        loop {
            let after = last.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan = Scan { pipeline: &self.pipeline, kind: Kind::Task, state: Some("gold"), after, limit: PAGE };
            let page = self.store.scan(&scan).map_err(Error::store("read gold questions"))?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some((end.rank, end.key.id.clone()));
            for record in page {
                if !each(&Stored::read(record)?)? {
                    return Ok(());
                }
            }
        }
    }

    /// Writes unless somebody else was faster.
    fn put(&self, write: Write) -> Result<bool, Error> {
        let mut out = Vec::new();
        self.store.commit(&[&[write]], &Fence::None, &mut out).map_err(Error::store("change a gold question"))?;
        Ok(out == [Committed::Applied])
    }
}

/// Equal, missing cells included, which are not equal as numbers.
fn same_row(a: &Row, b: &Row) -> bool {
    json(a).ok() == json(b).ok()
}

#[cfg(test)]
mod tests;
