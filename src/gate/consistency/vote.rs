//! What the labels of equal inputs say against each other.

use serde::{Deserialize, Serialize};

use crate::event::{Label, PredictionId};
use crate::gate::DraftRow;
use crate::review::standing;
use crate::sample::Annotator;

/// One label of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Vote {
    pub(super) sample: PredictionId,
    pub(super) label: Label,
    /// Independent sources (people, users, the world) that say so; 0 for a label that only a model gave.
    pub(super) sources: u32,
    /// It was adjudicated, or is the world's: asking again does not help.
    pub(super) settled: bool,
    /// Confident learning had a look at it and found nothing.
    pub(super) examined: bool,
}

impl Vote {
    pub(super) fn of(row: &DraftRow<'_>) -> Self {
        let (sample, label) = (row.sample, row.label);
        let annotator = sample.label.as_ref().map(|label| &label.annotator);
        let sources = match annotator {
            Some(Annotator::Model(_)) => 0,
            _ => standing(&sample.annotations).iter().filter(|(_, said)| *said == label).count().max(1) as u32,
        };
        let settled = sample.is_adjudicated() || annotator == Some(&Annotator::GroundTruth);
        Vote { sample: sample.id(), label, sources, settled, examined: false }
    }
}

/// What becomes of a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Finding {
    /// It stays.
    Stands,
    /// People should look again; this one contradicts it.
    Doubted(Vote),
    /// It goes, as nobody could settle it better; this one contradicts it.
    Refused(Vote),
}

/// What becomes of the first `here` of some votes on one input, given all of them.
pub(super) fn judge(votes: &[Vote], here: usize, tolerance: f64) -> Vec<Finding> {
    let side = sides(votes, tolerance);
    let winner = winner(votes, &side);
    let finding = |at: usize| {
        let against = |settled: bool| {
            let other = |(other, its): &(&Vote, &usize)| **its != side[at] && (other.settled || !settled);
            votes.iter().zip(&side).find(other).map(|(other, _)| *other)
        };
        match winner {
            Some(winner) if winner == side[at] => Finding::Stands,
            _ if !votes[at].settled => against(false).map_or(Finding::Stands, Finding::Doubted),
            Some(_) => against(false).map_or(Finding::Stands, Finding::Refused),
            // the others are asked again first
            None => against(true).map_or(Finding::Stands, Finding::Refused),
        }
    };
    (0..here).map(finding).collect()
}

/// Gives each vote the number of its side: votes whose labels agree, directly or through neighbours.
fn sides(votes: &[Vote], tolerance: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..votes.len()).collect();
    order.sort_by(|a, b| votes[*a].label.number().total_cmp(&votes[*b].label.number()));
    let mut side = vec![0; votes.len()];
    for pair in order.windows(2) {
        let agree = agree(votes[pair[0]].label, votes[pair[1]].label, tolerance);
        side[pair[1]] = side[pair[0]] + usize::from(!agree);
    }
    side
}

/// Are two labels equal, or values within `tolerance`?
pub(super) fn agree(a: Label, b: Label, tolerance: f64) -> bool {
    match (a, b) {
        (Label::Class(a), Label::Class(b)) => a == b,
        (Label::Value(a), Label::Value(b)) => a == b || (b - a).abs() <= tolerance,
        _ => false,
    }
}

/// The side with strictly more sources than every other, if there is one.
fn winner(votes: &[Vote], side: &[usize]) -> Option<usize> {
    let mut counts = vec![0_u64; votes.len()];
    for (vote, side) in votes.iter().zip(side) {
        counts[*side] += u64::from(vote.sources);
    }
    let best = (0..counts.len()).max_by_key(|side| counts[*side])?;
    (counts.iter().filter(|count| **count == counts[best]).count() == 1).then_some(best)
}
