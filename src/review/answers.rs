//! What people said last of each task.

use std::collections::{BTreeMap, VecDeque};

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
pub(super) struct Answers {
    pub(super) names: Vec<String>,
    pub(super) tasks: BTreeMap<PredictionId, Vec<(usize, Label)>>,
}

impl ReviewQueue {
    /// What people said last of each task, over the newest annotations.
    pub(super) fn answers(&self) -> Result<Answers, Error> {
        // What the pipeline has applied is older. What it applies in between is found twice, which changes nothing.
        let waiting = self.people_said("new")?;
        let mut newest = self.people_said("applied")?;
        newest.extend(waiting);
        // One that was imported may be older than it looks. The sort is stable: of equal times the later counts.
        newest.make_contiguous().sort_by_key(|annotation| annotation.time);
        newest.drain(..newest.len().saturating_sub(MOST_ANNOTATIONS));
        let mut answers = Answers { names: Vec::new(), tasks: BTreeMap::new() };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for annotation in newest {
            let Annotator::Human(name) = annotation.annotator else { continue };
            let person = *numbers.entry(name).or_insert_with_key(|name| {
                answers.names.push(name.clone());
                answers.names.len() - 1
            });
            let task = answers.tasks.entry(annotation.sample).or_default();
            task.retain(|(other, _)| *other != person);
            task.extend(annotation.label.map(|label| (person, label)));
        }
        answers.tasks.retain(|_, task| !task.is_empty());
        Ok(answers)
    }

    /// The newest annotations by people in `state`, in the order of time.
    fn people_said(&self, state: &str) -> Result<VecDeque<Annotation>, Error> {
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
                if matches!(annotation.annotator, Annotator::Human(_)) {
                    newest.push_back(annotation);
                }
                if newest.len() > MOST_ANNOTATIONS {
                    newest.pop_front();
                }
            }
        }
    }
}
