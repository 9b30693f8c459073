//! The gate that finds labels which contradict each other.

mod doubt;
mod near;
mod vote;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::near::Space;
use super::recent::Recent;
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::schema::Target;
use crate::stage::{Blind, Snapshot, Stage};
use doubt::{LikelyWrong, dissent, likely_wrong};
use near::{Map, Near, Place};
use vote::{Finding, Vote, judge};

const FORMAT: u32 = 2;
const CAPACITY: usize = 50_000;
/// Labels remembered per input; the newest stay.
const MOST_LABELS: usize = 8;

/// Sends rows of a batch whose input equals that of another row, but whose label differs, back to people.
///
/// Rows with equal [content](crate::Row::content_hash) are compared within the batch and with the labels of batches
/// that the gate saw before; with [`near`](LabelConsistency::near), so are rows that nearly equal them. Classes must be
/// equal; values agree within [`tolerance`](LabelConsistency::tolerance), neighbour by neighbour; until one is set,
/// regression labels are not compared, and the gate says that it is blind.
///
/// If one label has strictly more independent sources (people, users, the world: not models) than every other, the rows
/// with it stay and all others go; without such a label all go. A row that goes is adjudicated ([`Audit::Adjudicate`],
/// reason `label_conflict`), as long as asking people again may settle it. A label is settled that was
/// [adjudicated](crate::Sample::is_adjudicated) or is the world's: it is not asked again. It is quarantined if it is
/// outvoted, or if it ties and another settled label contradicts it; if it ties with unsettled ones only, it stays.
///
/// A note `annotators_disagree` names the samples of the batch whose people differ among each other. On request,
/// [`confident_learning`](LabelConsistency::confident_learning) looks for labels that the model's own outputs speak
/// against.
///
/// Guarantee: after this gate no two rows of a batch with equal input have different labels. The order of the rows does
/// not matter, and looking at one batch twice changes nothing: a sample counts once, with its newest label. It does not
/// reach rows of batches that were sealed earlier, nor inputs beyond the last `capacity`. Where the input does not
/// determine the label (few columns with few values), such conflicts are the noise of the world; do not use this gate
/// there, it would spend people on the noisy region and take it out.
///
/// Memory: about 70 bytes per input and 56 per label, 50,000 inputs unless told, at most 8 labels each; with `near`
/// also 50 per input and 8 per numeric column of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelConsistency {
    tolerance: Option<f64>,
    capacity: usize,
    near: Option<Near>,
    min_rows: Option<usize>,
    values: bool,
    seen: Recent<Input>,
}

/// What is remembered of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Input {
    votes: Vec<Vote>,
    /// Where it lies; only with `near`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
}

/// A row of the batch.
struct Given<'a> {
    draft: &'a DraftRow<'a>,
    key: u128,
    vote: Vote,
    /// Only with `near`.
    place: Option<Place>,
}

#[derive(Serialize, Deserialize)]
struct State {
    inputs: Vec<(String, Input)>,
}

impl Default for LabelConsistency {
    fn default() -> Self {
        LabelConsistency {
            tolerance: None,
            capacity: CAPACITY,
            near: None,
            min_rows: None,
            values: false,
            seen: Recent::new(CAPACITY),
        }
    }
}

impl LabelConsistency {
    /// Values that differ by at most this much agree; in the unit of the target.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Remembers the labels of at most so many inputs; 50,000 unless told.
    pub fn capacity(mut self, inputs: usize) -> Self {
        self.capacity = inputs;
        self.seen.resize(inputs);
        self
    }

    /// Compares rows with those at most `distance` away as well, as [`Deduplicate::near`](crate::Deduplicate::near)
    /// measures it: Euclidean, over numeric columns in units of their standard deviation in the training reference. A
    /// column that does not vary there must be equal, and so must categories and texts; missing equals missing only,
    /// infinite the same infinity. Timestamps do not count: where the label depends on the time, give it as a number or
    /// a category as well. Inputs that are remembered from before the schema got another numeric column are no longer
    /// near any.
    ///
    /// Each row is judged by the labels around it. Where two classes meet, rows of both sides may therefore stay
    /// although they are close to each other: each has the majority around it. Exact; time per audit: about as rows ×
    /// remembered inputs within `distance` on the diagonal.
    pub fn near(mut self, distance: f64) -> Self {
        self.near = Some(Near { distance, space: Space::none() });
        self
    }

    /// Sends labels of people and users to adjudication (reason `label_issue`) that the model's recorded outputs speak
    /// against, by confident learning (Northcutt, Jiang and Chuang 2021; as [`label_issues`](crate::label_issues) with
    /// [`IssueRule::PruneByNoiseRate`](crate::IssueRule::PruneByNoiseRate), the default of their library), in batches
    /// of at least `min_rows` such labels. Labels of the world and of models are left alone. Each label is examined
    /// once, if the gate has room to remember it, and never after an adjudication.
    ///
    /// **Assumes** that the outputs are out-of-sample, which holds for outputs that were served before the label came,
    /// and that a label is wrong with a probability that depends on its true class only. Where the model is worse than
    /// the people, its errors are what people look at again: that costs their time, but no label.
    pub fn confident_learning(mut self, min_rows: usize) -> Self {
        self.min_rows = Some(min_rows);
        self
    }

    /// Number of inputs that are remembered.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn remember(&mut self, row: &Given<'_>) {
        let new = || Input { votes: Vec::new(), place: row.place.clone() };
        let Some(input) = self.seen.entry(row.key, new) else { return };
        if input.place.is_none() {
            input.place.clone_from(&row.place);
        }
        let vote = row.vote;
        match input.votes.iter_mut().find(|known| known.sample == vote.sample) {
            Some(known) => *known = Vote { examined: known.examined && known.label == vote.label, ..vote },
            None => {
                if input.votes.len() >= MOST_LABELS {
                    input.votes.remove(0);
                }
                input.votes.push(vote);
            }
        }
    }

    /// The remembered label of a row.
    fn remembered_vote(&mut self, row: &Given<'_>) -> Option<&mut Vote> {
        self.seen.get_mut(row.key)?.votes.iter_mut().find(|vote| vote.sample == row.vote.sample)
    }

    /// Labels that confident learning points at and that it did not examine before.
    fn examine(&mut self, rows: &[Given<'_>], found: &LikelyWrong) -> Vec<(PredictionId, Reason)> {
        let mut doubted = Vec::new();
        for &at in &found.examined {
            let row = &rows[at];
            let reason = found.wrong.get(&at).filter(|_| !row.vote.settled);
            let Some(vote) = self.remembered_vote(row) else { continue };
            match reason {
                Some(reason) if !vote.examined => doubted.push((row.vote.sample, reason.clone())),
                _ => vote.examined = true,
            }
        }
        doubted
    }

    /// What becomes of each label. What was remembered of these rows is part of the comparison, so that a second look
    /// at them sees the same.
    fn judge(&self, rows: &[Given<'_>], tolerance: f64) -> Vec<(Vote, Finding)> {
        let samples: HashSet<PredictionId> = rows.iter().map(|row| row.vote.sample).collect();
        let earlier = |input: &Input| -> Vec<Vote> {
            input.votes.iter().filter(|vote| !samples.contains(&vote.sample)).copied().collect()
        };
        // The inputs of the batch in the order of their first row; with `near`, then all others.
        let mut number: HashMap<u128, usize> = HashMap::new();
        let (mut keys, mut inputs, mut places) = (Vec::new(), Vec::<Vec<Vote>>::new(), Vec::<&Place>::new());
        for row in rows {
            let at = *number.entry(row.key).or_insert_with(|| {
                keys.push(row.key);
                inputs.push(Vec::new());
                places.extend(&row.place);
                inputs.len() - 1
            });
            inputs[at].push(row.vote);
        }
        let here: Vec<usize> = inputs.iter().map(Vec::len).collect();
        for (key, votes) in keys.into_iter().zip(&mut inputs) {
            votes.extend(self.seen.get(key).map(earlier).unwrap_or_default());
        }
        let map = self.near.as_ref().map(|near| {
            for (_, input) in self.seen.iter().filter(|(key, _)| !number.contains_key(key)) {
                // a state from before `near` was set has no places
                if let Some(place) = &input.place {
                    places.push(place);
                    inputs.push(earlier(input));
                }
            }
            Map::new(near, places)
        });
        let mut found = Vec::new();
        for (at, here) in here.into_iter().enumerate() {
            let mut votes = inputs[at].clone();
            for other in map.iter().flat_map(|map| map.around(at)) {
                votes.extend(&inputs[other]);
            }
            let findings = judge(&votes, here, tolerance);
            found.extend(votes.into_iter().zip(findings));
        }
        found
    }

    fn given<'a>(&self, row: &'a DraftRow<'a>) -> Given<'a> {
        let input = &row.sample.observation.row;
        let place = self.near.as_ref().map(|_| Place::of(input));
        Given { draft: row, key: input.content_hash(), vote: Vote::of(row), place }
    }

    fn conflict(&self, vote: Vote, other: Vote) -> Reason {
        let like = if self.near.is_some() { "the same or nearly the same" } else { "the same" };
        let (sample, against) = (other.sample, other.label);
        let text = format!("labelled {:?}, but sample {sample} with {like} input is labelled {against:?}", vote.label);
        Reason::new("label_conflict", text)
    }
}

impl Stage for LabelConsistency {
    fn name(&self) -> &str {
        "label_consistency"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let training = &references.training;
        self.values = matches!(training.schema().target(), Target::Value);
        if let Some(near) = &mut self.near {
            near.space = Space::new(training);
            if !(near.distance >= 0.0 && near.distance.is_finite()) {
                return Err(message(format!("distance is {}, a finite number from 0 on is expected", near.distance)));
            }
        }
        if self.min_rows == Some(0) {
            return Err(message("min_rows is 0, at least 1 label must be there to learn from"));
        }
        if self.capacity == 0 {
            return Err(message("capacity is 0, at least 1 input must be remembered"));
        }
        match self.tolerance {
            Some(tolerance) if !(tolerance >= 0.0 && tolerance.is_finite()) => {
                Err(message(format!("tolerance is {tolerance}, a finite number from 0 on is expected")))
            }
            _ => Ok(()),
        }
    }

    fn blind(&self) -> Vec<Blind> {
        match self.tolerance {
            None if self.values => vec![Blind::all("regression labels are not compared: set a tolerance")],
            _ => self.near.iter().filter_map(|near| near.space.blind()).collect(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let inputs = self.seen.iter().map(|(key, input)| (format!("{key:032x}"), input.clone())).collect();
        Snapshot::save(FORMAT, &State { inputs })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let mut seen = Recent::new(self.capacity);
        for (key, mut input) in state.inputs {
            input.votes.truncate(MOST_LABELS);
            // After the schema got another column, equal inputs are other inputs, and no row will be near this one.
            input.place =
                input.place.filter(|place| self.near.as_ref().is_some_and(|near| near.space.fits(&place.values)));
            seen.entry(u128::from_str_radix(&key, 16)?, || input);
        }
        self.seen = seen;
        Ok(())
    }

    fn forget(&mut self, sample: &Sample) {
        let Some(input) = self.seen.get_mut(sample.observation.row.content_hash()) else { return };
        input.votes.retain(|vote| vote.sample != sample.id());
        if input.votes.is_empty() {
            input.place = None;
        }
    }
}

impl QualityGate for LabelConsistency {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let tolerance = match (self.tolerance, context.schema.target()) {
            (None, Target::Value) => return Ok(Audit::Pass(Vec::new())),
            (tolerance, _) => tolerance.unwrap_or(0.0),
        };
        let mut rows: Vec<Given<'_>> = batch.rows.iter().map(|row| self.given(row)).collect();
        // so that the order of the batch does not matter
        rows.sort_by_key(|row| row.vote.sample);
        rows.iter().for_each(|row| self.remember(row));
        let (mut doubted, mut refused) = (Vec::new(), Vec::new());
        for (vote, finding) in self.judge(&rows, tolerance) {
            match finding {
                Finding::Stands => {}
                Finding::Doubted(other) => doubted.push((vote.sample, self.conflict(vote, other))),
                Finding::Refused(other) => refused.push((vote.sample, self.conflict(vote, other))),
            }
        }
        if !doubted.is_empty() {
            return Ok(Audit::Adjudicate(doubted));
        }
        if !refused.is_empty() {
            return Ok(Audit::Quarantine(refused));
        }
        let mut notes = Vec::from_iter(dissent(&rows, tolerance));
        if let (Some(min_rows), Target::Classes(classes)) = (self.min_rows, context.schema.target()) {
            match likely_wrong(&rows, classes, min_rows) {
                Ok(found) => {
                    let doubted = self.examine(&rows, &found);
                    if !doubted.is_empty() {
                        return Ok(Audit::Adjudicate(doubted));
                    }
                }
                Err(note) => notes.push(note),
            }
        }
        Ok(Audit::Pass(notes))
    }
}

#[cfg(test)]
mod tests;
