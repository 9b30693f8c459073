//! Which truths are the first about their prediction.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::chunk::Truth;
use crate::event::PredictionId;

/// Retracted predictions that are remembered.
const MOST: usize = 256;

/// The newest predictions whose truth was taken back: stated again, it is not their first. 4 KB at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Retracted(VecDeque<PredictionId>);

impl Retracted {
    /// Is this the first truth about its prediction? Takes note of a retraction.
    pub(super) fn is_first(&mut self, truth: &Truth) -> bool {
        let known = self.0.contains(&truth.prediction);
        if truth.replaces.is_some() && truth.label.is_none() && !known {
            if self.0.len() == MOST {
                self.0.pop_front();
            }
            self.0.push_back(truth.prediction);
        }
        truth.replaces.is_none() && truth.label.is_some() && !known
    }

    /// Is it of a size that it may have?
    pub(super) fn is_sound(&self) -> bool {
        self.0.len() <= MOST
    }
}
