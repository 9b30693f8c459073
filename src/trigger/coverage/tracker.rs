//! Keeps the coverage of flagged samples by labels up to date.

use std::collections::BTreeMap;

use crate::encode::{Encoder, Point};
use crate::event::PredictionId;
use crate::reference::Reference;
use crate::schema::Row;
use crate::stats::sampling::keyed;
use crate::trigger::CoverageStatus;

/// Flagged samples that are kept: a uniform sample of all.
const CAPACITY: usize = 2_000;
/// Labels that are kept; later ones count, and cover what is there, but not what is flagged after them.
const LABELS: usize = 4_096;
/// A sample reaches as far as its neighbour of this rank.
const NEIGHBOUR: usize = 5;
/// Neighbour distances that are kept, so that a sample that leaves seldom costs a search.
const KEPT: usize = 16;
/// Smallest share of the samples that makes a cell count.
const CELL_SHARE: f64 = 0.1;

type Cell = (String, Option<u32>);

/// The flagged samples and the labels since the last batch.
///
/// A sample is covered when a label lies as near as its fifth nearest neighbour in its cell (the farthest one, if there
/// are fewer). Adding a sample or a label costs one distance per kept sample or label. All samples that are kept weigh the
/// same, as each was drawn with the same probability.
pub(crate) struct CoverageTracker {
    encoder: Encoder,
    seed: u64,
    capacity: usize,
    flagged: u64,
    labelled: u64,
    /// Only samples with a smaller key are kept: those above were turned out for lack of room.
    limit: u64,
    samples: BTreeMap<u64, Kept>,
    cells: BTreeMap<Cell, u32>,
    labels: BTreeMap<PredictionId, Point>,
}

struct Kept {
    id: PredictionId,
    cell: u32,
    point: Point,
    /// The smallest squared distances to others of the cell, ascending: at least five of them if there are so many.
    near: Vec<f64>,
    /// Squared distance to the nearest label.
    label: f64,
}

impl Kept {
    fn covered(&self) -> bool {
        let reach = self.near.get(NEIGHBOUR - 1).or(self.near.last()).copied().unwrap_or(0.0);
        self.label <= reach
    }

    /// A sample at squared distance `distance` has joined the cell, where there were `others` others.
    fn joined(&mut self, distance: f64, others: usize) {
        let complete = self.near.len() == others;
        if complete || self.near.last().is_some_and(|&last| distance <= last) {
            let at = self.near.partition_point(|&near| near <= distance);
            self.near.insert(at, distance);
            self.near.truncate(KEPT);
        }
    }

    /// One at that distance has left, and `others` others remain; must the neighbours be searched again?
    fn left(&mut self, distance: f64, others: usize) -> bool {
        if let Some(at) = self.near.iter().position(|&near| near == distance) {
            self.near.remove(at);
        }
        self.near.len() < NEIGHBOUR.min(others)
    }
}

impl CoverageTracker {
    /// Nothing flagged yet; distances are whitened by the covariance of `training`.
    pub(crate) fn new(training: &Reference, seed: u64) -> Self {
        CoverageTracker {
            encoder: Encoder::new(training),
            seed,
            capacity: CAPACITY,
            flagged: 0,
            labelled: 0,
            limit: u64::MAX,
            samples: BTreeMap::new(),
            cells: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    fn key(&self, id: PredictionId) -> u64 {
        keyed(self.seed, id.bytes())
    }

    /// A flagged sample was admitted; `detector` is the first that pointed at it. To be told once per sample.
    pub(crate) fn flagged(&mut self, id: PredictionId, row: &Row, detector: &str, predicted: Option<u32>) {
        let key = self.key(id);
        if self.samples.contains_key(&key) {
            return;
        }
        self.flagged += 1;
        if key >= self.limit {
            return;
        }
        let next = self.cells.len() as u32;
        let cell = *self.cells.entry((detector.to_owned(), predicted)).or_insert(next);
        let point = self.encoder.encode(row);
        let nearest = self.labels.values().map(|label| self.encoder.distance_squared(&point, label));
        let label = nearest.fold(f64::INFINITY, f64::min);
        let mut near = Vec::new();
        let others = self.samples.values().filter(|kept| kept.cell == cell).count().saturating_sub(1);
        for kept in self.samples.values_mut().filter(|kept| kept.cell == cell) {
            let distance = self.encoder.distance_squared(&point, &kept.point);
            kept.joined(distance, others);
            near.push(distance);
        }
        near.sort_unstable_by(f64::total_cmp);
        near.truncate(KEPT);
        self.samples.insert(key, Kept { id, cell, point, near, label });
        if self.samples.len() > self.capacity
            && let Some((&last, _)) = self.samples.last_key_value()
        {
            self.limit = last;
            self.turn_out(last);
        }
    }

    /// A person or the world labelled sample `id`, whether it was flagged or not.
    pub(crate) fn labelled(&mut self, id: PredictionId, row: &Row) {
        if self.labels.contains_key(&id) {
            return;
        }
        self.labelled += 1;
        let point = self.encoder.encode(row);
        for kept in self.samples.values_mut() {
            kept.label = kept.label.min(self.encoder.distance_squared(&point, &kept.point));
        }
        if self.labels.len() < LABELS {
            self.labels.insert(id, point);
        }
    }

    /// The label of sample `id` counts no more: it was retracted, disputed or quarantined.
    pub(crate) fn unlabelled(&mut self, id: PredictionId) {
        let Some(gone) = self.labels.remove(&id) else { return };
        self.labelled -= 1;
        let (encoder, labels) = (&self.encoder, &self.labels);
        for kept in self.samples.values_mut() {
            if encoder.distance_squared(&gone, &kept.point) <= kept.label {
                let nearest = labels.values().map(|label| encoder.distance_squared(&kept.point, label));
                kept.label = nearest.fold(f64::INFINITY, f64::min);
            }
        }
    }

    /// Sample `id`, which was flagged, counts no more, and neither does its label.
    pub(crate) fn retract(&mut self, id: PredictionId) {
        self.unlabelled(id);
        let key = self.key(id);
        let kept = self.samples.get(&key).is_some_and(|kept| kept.id == id);
        if kept {
            self.flagged -= 1;
            self.turn_out(key);
        } else if key >= self.limit {
            self.flagged = self.flagged.saturating_sub(1).max(self.samples.len() as u64);
        }
    }

    /// The coverage at present.
    pub(crate) fn status(&self) -> CoverageStatus {
        let mut cells = vec![(0_u64, 0_u64); self.cells.len()];
        for kept in self.samples.values() {
            let cell = &mut cells[kept.cell as usize];
            *cell = (cell.0 + u64::from(kept.covered()), cell.1 + 1);
        }
        let kept = self.samples.len().max(1) as f64;
        let counts = self.cells.values().map(|&cell| cells[cell as usize]);
        let large = counts.filter(|&(_, size)| size > 0 && size as f64 >= CELL_SHARE * kept);
        CoverageStatus {
            covered: cells.iter().map(|cell| cell.0).sum::<u64>() as f64 / kept,
            flagged: self.flagged,
            labels: self.labelled,
            cells: large.map(|(covered, size)| covered as f64 / size as f64).collect(),
        }
    }

    fn turn_out(&mut self, key: u64) {
        let Some(gone) = self.samples.remove(&key) else { return };
        let encoder = &self.encoder;
        let others = self.samples.values().filter(|kept| kept.cell == gone.cell).count().saturating_sub(1);
        let mut short = Vec::new();
        for (&key, kept) in self.samples.iter_mut().filter(|(_, kept)| kept.cell == gone.cell) {
            if kept.left(encoder.distance_squared(&gone.point, &kept.point), others) {
                short.push(key);
            }
        }
        for key in short {
            let Some(centre) = self.samples.get(&key) else { continue };
            let cell = self.samples.iter().filter(|(other, kept)| **other != key && kept.cell == centre.cell);
            let mut near: Vec<_> = cell.map(|(_, kept)| encoder.distance_squared(&centre.point, &kept.point)).collect();
            near.sort_unstable_by(f64::total_cmp);
            near.truncate(KEPT);
            if let Some(kept) = self.samples.get_mut(&key) {
                kept.near = near;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
