//! Which inputs are nearly the same.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::schema::{Row, Schema, Slot, row_floats};
use crate::stats::scale::Scale;

/// Where an input lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(with = "row_floats")]
    pub(super) values: Vec<f64>,
    /// Hash of all that must be equal: categories, texts, timestamps, and which numbers are missing or infinite. The missing
    /// cells at the end do not count, so that it stays the same when the schema grows.
    pub(super) rest: [u64; 2],
}

impl Place {
    pub(super) fn of(row: &Row, schema: &Schema) -> Self {
        let mut hasher = Xxh3::new();
        let present = row.present();
        hasher.update(&(present.values.len() as u64).to_le_bytes());
        for value in present.values {
            let kind = if value.is_finite() {
                0.0
            } else if value.is_nan() {
                f64::NAN
            } else {
                *value
            };
            hasher.update(&kind.to_bits().to_le_bytes());
        }
        hasher.update(&(present.codes.len() as u64).to_le_bytes());
        present.codes.iter().for_each(|code| hasher.update(&code.to_le_bytes()));
        let counts = |field: &usize| matches!(schema.slot(*field), Slot::Time { .. } | Slot::Text { .. });
        let mut fields = (0..schema.fields().len()).filter(counts).rev();
        let last = fields.find(|&field| !row.is_missing(schema, field));
        for field in 0..last.map_or(0, |last| last + 1) {
            match schema.slot(field) {
                Slot::Time { at } => row.integers.get(at).iter().for_each(|time| hasher.update(&time.to_le_bytes())),
                Slot::Text { at } => {
                    let text = row.texts.get(at).and_then(Option::as_deref);
                    hasher.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
                    hasher.update(text.unwrap_or_default().as_bytes());
                }
                Slot::Values { .. } | Slot::Code { .. } => {}
            }
        }
        let hash = hasher.digest128();
        Place { values: row.values.clone(), rest: [(hash >> 64) as u64, hash as u64] }
    }
}

/// Measures distances in standard deviations.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Near {
    pub(super) distance: f64,
    /// Mean and standard deviation of each column; `None` for one that does not vary: there, numbers must be equal.
    scale: Vec<Option<(f64, f64)>>,
}

impl Near {
    pub(super) fn new(distance: f64) -> Self {
        Near { distance, scale: Vec::new() }
    }

    /// Takes the scale from rows with `columns` cells each.
    pub(super) fn fit(&mut self, rows: &[&[f64]], columns: usize) {
        let fitted = Scale::new(rows, columns);
        self.scale = vec![None; columns];
        for (position, &column) in fitted.kept().iter().enumerate() {
            self.scale[column] = Some(fitted.moments(position));
        }
    }

    fn of_column(&self, column: usize) -> Option<(f64, f64)> {
        self.scale.get(column).copied().flatten()
    }

    /// Are two places, of equal rest, at most the distance apart?
    fn close(&self, a: &Place, b: &Place) -> bool {
        let limit = self.distance * self.distance;
        let mut sum = 0.0;
        for (column, (x, y)) in a.values.iter().zip(&b.values).enumerate() {
            if x != y && x.is_finite() {
                let Some((_, deviation)) = self.of_column(column) else { return false };
                sum += ((x - y) / deviation).powi(2);
                if sum > limit {
                    return false;
                }
            }
        }
        true
    }

    /// Coordinate on the diagonal of the cells that are there: at most as far apart as the places are.
    fn projection(&self, place: &Place) -> f64 {
        let finite = place.values.iter().enumerate().filter(|(_, x)| x.is_finite());
        let cells =
            finite.filter_map(|(column, x)| self.of_column(column).map(|(mean, deviation)| (x - mean) / deviation));
        let (sum, count) = cells.fold((0.0, 0.0_f64), |(sum, count), cell| (sum + cell, count + 1.0));
        sum / count.max(1.0).sqrt()
    }
}

/// Places arranged so that the close ones are found fast and exactly: those of equal rest, by their projection.
pub(super) struct Map<'a> {
    near: &'a Near,
    places: Vec<&'a Place>,
    shelves: HashMap<[u64; 2], Vec<(f64, usize)>>,
}

impl<'a> Map<'a> {
    pub(super) fn new(near: &'a Near, places: Vec<&'a Place>) -> Self {
        let mut shelves: HashMap<_, Vec<(f64, usize)>> = HashMap::new();
        for (at, place) in places.iter().enumerate() {
            shelves.entry(place.rest).or_default().push((near.projection(place), at));
        }
        shelves.values_mut().for_each(|shelf| shelf.sort_by(|a, b| a.0.total_cmp(&b.0)));
        Map { near, places, shelves }
    }

    /// The numbers of the other places close to place `at`, ascending.
    pub(super) fn around(&self, at: usize) -> Vec<usize> {
        let place = self.places[at];
        let shelf = self.shelves.get(&place.rest).map_or(&[][..], Vec::as_slice);
        let projection = self.near.projection(place);
        // a little further, as projections are rounded
        let reach = self.near.distance + 1e-9 * (1.0 + projection.abs());
        let first = shelf.partition_point(|(other, _)| *other < projection - reach);
        let candidates = shelf[first..].iter().take_while(|(other, _)| *other <= projection + reach).map(|(_, at)| *at);
        let mut close: Vec<usize> =
            candidates.filter(|other| *other != at && self.near.close(place, self.places[*other])).collect();
        close.sort_unstable();
        close
    }
}
