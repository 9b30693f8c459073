//! The gate that finds equal inputs with different labels.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::recent::Recent;
use crate::error::{BoxError, message};
use crate::event::{Label, PredictionId};
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Annotator, Reason};
use crate::schema::Target;
use crate::stage::{Blind, Snapshot, Stage};

const FORMAT: u32 = 1;
const CAPACITY: usize = 50_000;
/// Labels remembered per input; the newest stay.
const MOST_LABELS: usize = 8;

/// Quarantines rows of a batch whose input equals that of another row but whose label differs.
///
/// Rows with equal [content](crate::Row::content_hash) are compared within the batch and with the labels of batches
/// that the gate saw before. All conflicting rows of the batch are quarantined with the reason `label_conflict`, unless
/// one label has strictly more independent sources (people, users, the world: not models) than every other; then only
/// the rows with other labels are. Classes must be equal; values agree within [`LabelConsistency::tolerance`],
/// neighbour by neighbour. Regression labels are not compared until a tolerance is set, and the gate says that it is blind.
///
/// Looking at one batch twice changes nothing: a sample counts once, with its newest label.
///
/// Guarantee: after this gate no two rows of a batch with equal input have different labels. It does not reach rows of
/// batches that were sealed earlier, nor inputs beyond the last `capacity`. Where the input does not determine the label
/// (few columns with few values), such conflicts are the noise of the world; do not use this gate there, it would take
/// out the noisy region.
///
/// Memory: about 60 bytes per input and 48 per label, 50,000 inputs unless told, at most 8 labels each.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelConsistency {
    tolerance: Option<f64>,
    capacity: usize,
    values: bool,
    seen: Recent<Vec<Vote>>,
}

/// One label of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Vote {
    sample: PredictionId,
    label: Label,
    independent: bool,
}

impl Vote {
    fn of(row: &DraftRow<'_>) -> Self {
        let independent = row.sample.label.as_ref().is_none_or(|label| Annotator::is_independent(&label.annotator));
        Vote { sample: row.sample.id(), label: row.label, independent }
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    inputs: Vec<(String, Vec<Vote>)>,
}

impl Default for LabelConsistency {
    fn default() -> Self {
        LabelConsistency { tolerance: None, capacity: CAPACITY, values: false, seen: Recent::new(CAPACITY) }
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

    /// Number of inputs that are remembered.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn remember(&mut self, key: u128, vote: Vote) {
        let Some(votes) = self.seen.entry(key, Vec::new) else { return };
        match votes.iter_mut().find(|known| known.sample == vote.sample) {
            Some(known) => *known = vote,
            None => {
                if votes.len() >= MOST_LABELS {
                    votes.remove(0);
                }
                votes.push(vote);
            }
        }
    }
}

/// Gives each vote the number of its side: votes whose labels agree, directly or through neighbours.
fn sides(votes: &[Vote], tolerance: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..votes.len()).collect();
    order.sort_by(|a, b| votes[*a].label.number().total_cmp(&votes[*b].label.number()));
    let mut side = vec![0; votes.len()];
    for pair in order.windows(2) {
        let apart = match (votes[pair[0]].label, votes[pair[1]].label) {
            (Label::Class(a), Label::Class(b)) => a != b,
            (Label::Value(a), Label::Value(b)) => {
                let agree = a == b || (b - a).abs() <= tolerance;
                !agree
            }
            _ => true,
        };
        side[pair[1]] = side[pair[0]] + usize::from(apart);
    }
    side
}

/// The side with strictly more independent labels than every other, if there is one.
fn winner(votes: &[Vote], side: &[usize]) -> Option<usize> {
    let mut counts = vec![0_usize; votes.len()];
    for (vote, side) in votes.iter().zip(side) {
        counts[*side] += usize::from(vote.independent);
    }
    let best = (0..counts.len()).max_by_key(|side| counts[*side])?;
    (counts.iter().filter(|count| **count == counts[best]).count() == 1).then_some(best)
}

impl Stage for LabelConsistency {
    fn name(&self) -> &str {
        "label_consistency"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.values = matches!(references.training.schema().target(), Target::Value);
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
            _ => Vec::new(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let inputs = self.seen.iter().map(|(key, votes)| (format!("{key:032x}"), votes.clone())).collect();
        Snapshot::save(FORMAT, &State { inputs })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        let mut seen = Recent::new(self.capacity);
        for (key, mut votes) in state.inputs {
            votes.truncate(MOST_LABELS);
            seen.entry(u128::from_str_radix(&key, 16)?, || votes);
        }
        self.seen = seen;
        Ok(())
    }
}

impl QualityGate for LabelConsistency {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let tolerance = match (self.tolerance, context.schema.target()) {
            (None, Target::Value) => return Ok(Audit::Pass(Vec::new())),
            (tolerance, _) => tolerance.unwrap_or(0.0),
        };
        // Groups of equal content in the order of their first row.
        let mut group_of: HashMap<u128, usize> = HashMap::new();
        let mut groups: Vec<(u128, Vec<Vote>)> = Vec::new();
        for row in batch.rows {
            let key = row.sample.observation.row.content_hash();
            let group = *group_of.entry(key).or_insert_with(|| {
                groups.push((key, Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(Vote::of(row));
        }
        let mut conflicts = Vec::new();
        for (key, mut votes) in groups {
            let here = votes.len();
            let earlier = self.seen.get(key).into_iter().flatten();
            let earlier: Vec<Vote> =
                earlier.filter(|known| !votes.iter().any(|vote| vote.sample == known.sample)).copied().collect();
            votes.extend(earlier);
            let side = sides(&votes, tolerance);
            let winner = winner(&votes, &side);
            for (at, vote) in votes[..here].iter().enumerate() {
                let opponent = votes.iter().zip(&side).find(|(_, other)| **other != side[at]);
                if let Some((other, _)) = opponent
                    && winner != Some(side[at])
                {
                    let text = format!(
                        "labelled {:?}, but sample {} with the same input is labelled {:?}",
                        vote.label, other.sample, other.label
                    );
                    conflicts.push((vote.sample, Reason::new("label_conflict", text)));
                }
                self.remember(key, *vote);
            }
        }
        Ok(if conflicts.is_empty() { Audit::Pass(Vec::new()) } else { Audit::Quarantine(conflicts) })
    }
}

#[cfg(test)]
mod tests;
