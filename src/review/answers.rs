//! What people said last of each task.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use hashbrown::HashMap;

use super::ReviewQueue;
use super::change::parse;
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::sample::{Annotation, Annotator};
use crate::store::{Kind, Scan};

/// Annotations looked at, the newest: at most 100 MB with what is made of them.
const MOST_ANNOTATIONS: usize = 200_000;
/// Annotations read at once.
const PAGE: usize = 1_000;

/// The answers that stand: of each task, the label of each person.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) names: Vec<String>,
    pub(super) tasks: BTreeMap<PredictionId, Vec<(usize, Label)>>,
    numbers: HashMap<String, usize>,
}

impl Answers {
    /// Somebody said this of a task, or took back what they had said.
    pub(super) fn push(&mut self, task: PredictionId, name: &str, label: Option<Label>) {
        let person = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                self.numbers.insert(name.to_owned(), self.names.len());
                self.names.push(name.to_owned());
                self.names.len() - 1
            }
        };
        let said = self.tasks.entry(task).or_default();
        said.retain(|(other, _)| *other != person);
        said.extend(label.map(|label| (person, label)));
    }
}

/// What is looked at of an [annotation](crate::Annotation) by a person.
struct Said {
    sample: PredictionId,
    label: Option<Label>,
    by: String,
    time: DateTime<Utc>,
}

impl ReviewQueue {
    /// What people said last of each task, over the newest annotations.
    pub(super) fn answers(&self) -> Result<Answers, Error> {
        // What the pipeline has applied is older. What it applies in between is found twice, which changes nothing.
        let waiting = self.people_said("new")?;
        let mut newest = self.people_said("applied")?;
        newest.extend(waiting);
        // One that was imported may be older than it looks. The sort is stable: of equal times the later counts.
        newest.make_contiguous().sort_by_key(|said| said.time);
        newest.drain(..newest.len().saturating_sub(MOST_ANNOTATIONS));
        let mut answers = Answers::default();
        for said in newest {
            answers.push(said.sample, &said.by, said.label);
        }
        answers.tasks.retain(|_, task| !task.is_empty());
        Ok(answers)
    }

    /// The newest annotations by people in `state`, in the order of time.
    fn people_said(&self, state: &str) -> Result<VecDeque<Said>, Error> {
        let mut newest = VecDeque::new();
        let mut last: Option<(i64, String)> = None;
        loop {
            let after = last.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan =
                Scan { pipeline: &self.pipeline, kind: Kind::Annotation, state: Some(state), after, limit: PAGE };
            let page = self.store.scan(&scan).map_err(Error::store("read annotations"))?;
            let Some(end) = page.last() else { return Ok(newest) };
            last = Some((end.rank, end.key.id.clone()));
            for record in page {
                let annotation: Annotation = parse(&record)?;
                let Annotation { sample, label, annotator: Annotator::Human(by), time, .. } = annotation else {
                    continue;
                };
                newest.push_back(Said { sample, label, by, time });
                if newest.len() > MOST_ANNOTATIONS {
                    newest.pop_front();
                }
            }
        }
    }
}
