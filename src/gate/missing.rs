//! Missing values in a batch beside those of the training data.

use crate::gate::{BatchDraft, DraftRow};
use crate::sample::Lane;
use crate::stats::binomial::{lower, upper};

/// Fewer rows than this say too little of a feed.
pub(super) const FEWEST_ROWS: usize = 20;

/// The rows of a batch that speak for the feed: those of the random lane if there are 20 of them, all otherwise. `true` if
/// they are typical: rows that detectors pointed at are not.
pub(super) fn typical<'a>(batch: &'a BatchDraft<'a>) -> (Vec<&'a DraftRow<'a>>, bool) {
    let random = || batch.rows.iter().filter(|row| row.sample.lane == Lane::Random);
    let count = random().count();
    if count >= FEWEST_ROWS {
        (random().collect(), true)
    } else {
        (batch.rows.iter().collect(), count == batch.rows.len())
    }
}

/// Missing values and rows, in the training data and in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift {
    pub(super) before: (u64, u64),
    pub(super) now: (u64, u64),
}

impl Shift {
    /// By how much the missing share rose; 0 if there was nothing to compare with.
    pub(super) fn points(&self) -> f64 {
        if self.before.1 == 0 || self.now.1 == 0 {
            return 0.0;
        }
        self.now.0 as f64 / self.now.1 as f64 - self.before.0 as f64 / self.before.1 as f64
    }

    /// Did the column lose its values: by at least `jump`, and by more than chance explains? Two one-sided Clopper–Pearson
    /// limits that lie apart: exact for every number of rows, as each limit errs with half of the level at most. `level`
    /// is for all `columns` together.
    pub(super) fn broken(&self, jump: f64, level: f64, columns: usize) -> bool {
        let confidence = 1.0 - level / 2.0 / columns.max(1) as f64;
        self.points() >= jump
            && lower(self.now.0, self.now.1, confidence) > upper(self.before.0, self.before.1, confidence)
    }
}

impl std::fmt::Display for Shift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} (training: {} of {})", self.now.0, self.now.1, self.before.0, self.before.1)
    }
}
