//! Which inputs are nearly the same.

use serde::{Deserialize, Serialize};

use crate::gate::near::{Space, levels};
use crate::schema::{Row, row_floats};

/// Where an input lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(with = "row_floats")]
    pub(super) values: Vec<f64>,
    pub(super) levels: u64,
}

impl Place {
    pub(super) fn of(row: &Row) -> Self {
        Place { values: row.values.to_vec(), levels: levels(row, None) }
    }
}

/// What counts as near.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Near {
    pub(super) distance: f64,
    pub(super) space: Space,
}

/// Places arranged so that the close ones are found fast and exactly.
pub(super) struct Map<'a> {
    near: &'a Near,
    places: Vec<&'a Place>,
    /// By levels, then along one direction.
    order: Vec<(u64, i64, usize)>,
}

impl<'a> Map<'a> {
    pub(super) fn new(near: &'a Near, places: Vec<&'a Place>) -> Self {
        let entry = |(at, place): (usize, &&Place)| (place.levels, near.space.place(&place.values), at);
        let mut order: Vec<_> = places.iter().enumerate().map(entry).collect();
        order.sort_unstable();
        Map { near, places, order }
    }

    /// The numbers of the other places close to place `at`, ascending.
    pub(super) fn around(&self, at: usize) -> Vec<usize> {
        let (Place { values, levels }, Near { distance, space }) = (self.places[at], self.near);
        let (low, high) = space.around(values, *distance).into_inner();
        let first = self.order.partition_point(|entry| *entry < (*levels, low, 0));
        let candidates = self.order[first..].iter().take_while(|entry| **entry <= (*levels, high, usize::MAX));
        let close = |other: &usize| {
            *other != at && space.distance_squared(values, &self.places[*other].values, distance * distance).is_some()
        };
        let mut close: Vec<usize> = candidates.map(|(.., other)| *other).filter(close).collect();
        close.sort_unstable();
        close
    }
}
