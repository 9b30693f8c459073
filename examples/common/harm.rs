//! What promotions do to the batch after them, as the truth about every row of it tells.

use std::ops::Range;

use feedloop::Paired;

use super::data::Stream;
use super::model::Model;

/// Counts the promotions that made the served model worse.
#[derive(Debug)]
pub struct Harm {
    previous: Option<Model>,
    served: Model,
    /// The served model was promoted, and no batch has judged that yet.
    fresh: bool,
    harmful_serves: bool,
    /// Promotions that changed at least 1 % of the predictions of the next batch.
    pub changes: usize,
    /// Those of them that lost at least 1 point there (one-sided exact test of McNemar, p < .05).
    pub harmful: usize,
    /// Rows lost while they served, what they won in later batches taken off.
    lost: i64,
}

impl Harm {
    /// `first` is served.
    pub fn new(first: Model) -> Self {
        let (previous, fresh, harmful_serves) = (None, false, false);
        Harm { previous, served: first, fresh, harmful_serves, changes: 0, harmful: 0, lost: 0 }
    }

    /// From here on `model` is served: it was promoted, or the loop went back to it.
    pub fn switch(&mut self, model: Model, promoted: bool) {
        self.previous = Some(std::mem::replace(&mut self.served, model));
        (self.fresh, self.harmful_serves) = (promoted, false);
    }

    /// A batch was served.
    pub fn judge(&mut self, stream: &Stream, batch: &Range<usize>) {
        let Some(previous) = self.previous.as_ref().filter(|_| self.fresh || self.harmful_serves) else { return };
        let mut scratch = Vec::new();
        let (mut differ, mut paired) = (0, Paired::default());
        for row in batch.clone() {
            let features = &stream.features[row];
            let (old, new) = (previous.predict(features, &mut scratch), self.served.predict(features, &mut scratch));
            differ += usize::from(old != new);
            paired.wins += u64::from(old != new && new == stream.labels[row]);
            paired.losses += u64::from(old != new && old == stream.labels[row]);
        }
        let lost = paired.losses as i64 - paired.wins as i64;
        let rows = batch.len() as f64;
        if std::mem::take(&mut self.fresh) && differ as f64 >= 0.01 * rows {
            self.changes += 1;
            self.harmful_serves = lost as f64 >= 0.01 * rows && paired.p_value() < 0.1;
            self.harmful += usize::from(self.harmful_serves);
        }
        if self.harmful_serves {
            self.lost += lost;
        }
    }

    /// The accuracy that harmful promotions cost, over `rows`.
    pub fn cost(&self, rows: usize) -> f64 {
        self.lost as f64 / rows as f64
    }
}
