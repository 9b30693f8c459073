//! Rows whose numbers are nearly equal: exact search among remembered rows.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use xxhash_rust::xxh3::Xxh3;

use crate::reference::Reference;
use crate::schema::Row;
use crate::stage::Blind;
use crate::stats::sampling::keyed;
use crate::stats::scale::Scale;

/// Largest standardised value on the projection, so that sums stay finite.
const FAR: f64 = 1e100;
/// Rounding of a projection, as a share of the sum of its magnitudes.
const ROUNDING: f64 = 1e-11;
const SEED: u64 = 0x6e65_6172_726f_7773;

/// Columns in units of their standard deviation in a reference's sample. A column that does not vary there, or has no value,
/// has no unit: its values must be equal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Space {
    columns: Vec<Unit>,
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Unit {
    mean: f64,
    /// 0: there is none.
    deviation: f64,
    sign: f64,
}

impl Space {
    pub(super) fn new(reference: &Reference) -> Self {
        let rows: Vec<&[f64]> = reference.sample().map(|row| row.values.as_slice()).collect();
        let scale = Scale::new(&rows, reference.schema().value_columns().len());
        let mut columns: Vec<Unit> = (0..reference.schema().value_columns().len() as u64)
            .map(|column| {
                let sign = if keyed(SEED, &column.to_le_bytes()) & 1 == 0 { 1.0 } else { -1.0 };
                Unit { mean: 0.0, deviation: 0.0, sign }
            })
            .collect();
        for (position, &column) in scale.kept().iter().enumerate() {
            (columns[column].mean, columns[column].deviation) = scale.moments(position);
        }
        Space { columns, share: 1.0 / (scale.kept().len().max(1) as f64).sqrt() }
    }

    /// Without columns, until there is a reference.
    pub(super) fn none() -> Self {
        Space { columns: Vec::new(), share: 1.0 }
    }

    /// Said if there is no column with a unit.
    pub(super) fn blind(&self) -> Option<Blind> {
        let blind = self.columns.iter().all(|unit| unit.deviation == 0.0);
        blind.then(|| Blind::all("no number varies in the training data: numbers are compared exactly"))
    }

    /// Has a row as many numbers as the reference?
    pub(super) fn fits(&self, values: &[f64]) -> bool {
        values.len() == self.columns.len()
    }

    /// Where the row lies along one direction. Two rows are at least as far apart as their places.
    pub(super) fn place(&self, values: &[f64]) -> i64 {
        ordered(self.project(values).0)
    }

    /// The places of all rows at most `distance` away.
    pub(super) fn around(&self, values: &[f64], distance: f64) -> RangeInclusive<i64> {
        let (at, rounding) = self.project(values);
        // The other end of the range is as far out, so that its rounding is no more than this once over.
        let reach = distance * (1.0 + ROUNDING) + 2.0 * rounding;
        ordered(at - reach)..=ordered(at + reach)
    }

    /// The projection of a row on one direction, and how far rounding may have moved it.
    fn project(&self, values: &[f64]) -> (f64, f64) {
        let (mut sum, mut magnitude) = (0.0, 0.0);
        for (value, unit) in
            values.iter().zip(&self.columns).filter(|(value, unit)| value.is_finite() && unit.deviation > 0.0)
        {
            let standard = ((value - unit.mean) / unit.deviation).clamp(-FAR, FAR);
            sum += standard * unit.sign;
            magnitude += standard.abs();
        }
        (sum * self.share, magnitude * self.share * ROUNDING)
    }

    /// Squared Euclidean distance of two rows with the same cells missing, if it is at most `limit`; none between rows of
    /// another width.
    pub(super) fn distance_squared(&self, a: &[f64], b: &[f64], limit: f64) -> Option<f64> {
        if !self.fits(a) || !self.fits(b) {
            return None;
        }
        let mut sum = 0.0;
        for ((a, b), unit) in a.iter().zip(b).zip(&self.columns) {
            if a == b || !a.is_finite() {
                continue;
            }
            // Without a unit this is infinite.
            sum += ((a - b) / unit.deviation).powi(2);
            if sum > limit {
                return None;
            }
        }
        Some(sum)
    }
}

/// Hash of everything that two rows must share before their numbers are compared: categories, texts (but the one at
/// `but_text`), and which numbers are missing or infinite. Timestamps do not count. A row of an earlier version of the schema
/// has the levels that it has when it is made to [fit](Row::fit).
pub(super) fn levels(row: &Row, but_text: Option<usize>) -> u64 {
    let mut hasher = Xxh3::new();
    let kind = |value: &f64| match *value {
        value if value.is_finite() => 0_u8,
        value if value.is_nan() => 1,
        value => 2 + u8::from(value > 0.0),
    };
    let present = row.present();
    for count in [present.values.len(), present.codes.len(), present.texts.len()] {
        hasher.update(&(count as u64).to_le_bytes());
    }
    present.values.iter().for_each(|value| hasher.update(&[kind(value)]));
    present.codes.iter().for_each(|code| hasher.update(&code.to_le_bytes()));
    for (at, text) in present.texts.iter().enumerate() {
        match text {
            Some(text) if but_text != Some(at) => {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            Some(_) => hasher.update(&[0]),
            None => hasher.update(&u64::MAX.to_le_bytes()),
        }
    }
    hasher.digest()
}

/// Rows in the order in which they came, each with something that is known of it.
///
/// Found exactly: a row further away than asked for along one direction is further away altogether, and the others are looked
/// at one by one. With independent normal columns and a small distance r that is r/√π of the rows that share the levels.
#[derive(Debug, Clone)]
pub(super) struct NearRows<T> {
    space: Space,
    rows: VecDeque<Kept<T>>,
    /// Place of the oldest row, counted from the first that there ever was.
    first: u64,
    /// By levels, then by projection.
    order: BTreeSet<(u64, i64, u64)>,
}

#[derive(Debug, Clone)]
struct Kept<T> {
    levels: u64,
    values: Box<[f64]>,
    what: T,
}

impl<T> NearRows<T> {
    pub(super) fn new(space: Space) -> Self {
        NearRows { space, rows: VecDeque::new(), first: 0, order: BTreeSet::new() }
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    /// Measures in other units from now on.
    pub(super) fn rescale(&mut self, space: Space) {
        let rows = self.rows.iter().zip(self.first..);
        self.order = rows.map(|(row, place)| (row.levels, space.place(&row.values), place)).collect();
        self.space = space;
    }

    pub(super) fn push(&mut self, levels: u64, values: &[f64], what: T) {
        let place = self.first + self.rows.len() as u64;
        self.order.insert((levels, self.space.place(values), place));
        self.rows.push_back(Kept { levels, values: values.into(), what });
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some(row) = self.rows.pop_front() {
            self.order.remove(&(row.levels, self.space.place(&row.values), self.first));
            self.first += 1;
        }
    }

    /// Keeps the rows of which `keep` is true.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.rows.retain(|row| keep(&row.what));
        let space = std::mem::replace(&mut self.space, Space::none());
        self.rescale(space);
    }

    pub(super) fn oldest(&self) -> Option<&T> {
        self.rows.front().map(|row| &row.what)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Everything, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[f64], &T)> {
        self.rows.iter().map(|row| (row.levels, &*row.values, &row.what))
    }

    /// The places that are looked at for rows at most `distance` away.
    fn candidates(&self, levels: u64, values: &[f64], distance: f64) -> impl Iterator<Item = u64> {
        let (low, high) = self.space.around(values, distance).into_inner();
        self.order.range((levels, low, 0)..=(levels, high, u64::MAX)).map(|(_, _, place)| *place)
    }

    /// The nearest row at most `distance` away that `fits`, and how far away it is; the oldest of equally near ones.
    pub(super) fn nearest(
        &self,
        levels: u64,
        values: &[f64],
        distance: f64,
        fits: impl Fn(&T) -> bool,
    ) -> Option<(f64, &T)> {
        let mut best: Option<(f64, u64)> = None;
        for place in self.candidates(levels, values, distance) {
            let row = &self.rows[(place - self.first) as usize];
            let limit = best.map_or(distance * distance, |(squared, _)| squared);
            if let Some(squared) = self.space.distance_squared(values, &row.values, limit)
                && best.is_none_or(|best| (squared, place) < best)
                && fits(&row.what)
            {
                best = Some((squared, place));
            }
        }
        best.map(|(squared, place)| (squared.sqrt(), &self.rows[(place - self.first) as usize].what))
    }
}

/// Whole numbers in the order of the numbers.
fn ordered(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schema::{Field, Schema, Target};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Columns of deviation 1 and 10, one that is always 7, and a category.
    fn reference() -> Reference {
        let fields = ["a", "b", "seven"].map(|name| Field::number(name).nullable());
        let country = Field::category("country", ["DE", "FR"]).nullable();
        let schema = Arc::new(Schema::new(fields.into_iter().chain([country]), Target::Value).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for i in 0..400 {
            let values = [f64::from(i % 2 * 2), f64::from(i / 2 % 2 * 20), 7.0];
            builder.push(&Row::from_values(&schema, &values).unwrap(), None, None).unwrap();
        }
        builder.finish()
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => -3.0..3.0_f64,
            1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1e300, -1e300, 1e15]),
        ]
    }

    #[test]
    fn the_unit_is_the_standard_deviation_and_what_does_not_vary_must_be_equal() {
        let mut rows = NearRows::new(Space::new(&reference()));
        rows.push(1, &[0.0, 0.0, 7.0], "first");
        rows.push(1, &[0.4, 3.0, 7.0], "second");
        rows.push(2, &[0.0, 0.0, 7.0], "elsewhere");
        let found = |values: &[f64], distance| rows.nearest(1, values, distance, |_| true).map(|(d, what)| (d, *what));
        let (distance, what) = found(&[0.3, 4.0, 7.0], 0.5).unwrap();
        assert!((distance - 0.02_f64.sqrt()).abs() < 1e-12 && what == "second", "0.1 and 0.1 units: {distance}");
        assert_eq!(found(&[0.3, 4.0, 7.0], 0.1), None);
        assert_eq!(found(&[0.0, 0.0, 7.1], 9.0), None);
        let only = rows.nearest(1, &[0.4, 3.0, 7.0], 1.0, |what| *what == "first").unwrap();
        assert!((only.0 - 0.5).abs() < 1e-12 && *only.1 == "first");
    }

    #[test]
    fn categories_texts_and_holes_are_levels_and_timestamps_are_not() {
        let fields = [
            Field::number("a").nullable(),
            Field::category("country", ["DE", "FR"]).nullable(),
            Field::text("note", 50).nullable(),
            Field::timestamp("when"),
        ];
        let schema = Schema::new(fields, Target::Value).unwrap();
        let of = |json: serde_json::Value, but| {
            let mut row = Row::new(&schema);
            row.encode(&schema, &json);
            levels(&row, but)
        };
        let row = |a: Option<f64>, country: &str, note: Option<&str>, when: i64| serde_json::json!({"a": a, "country": country, "note": note, "when": when});
        let base = of(row(Some(1.0), "DE", Some("x"), 5), None);
        assert_eq!(base, of(row(Some(2.0), "DE", Some("x"), 6), None));
        for other in [
            row(None, "DE", Some("x"), 5),
            row(Some(1.0), "FR", Some("x"), 5),
            row(Some(1.0), "DE", Some("y"), 5),
            row(Some(1.0), "DE", None, 5),
        ] {
            assert_ne!(base, of(other, None));
        }
        let but = |note| of(row(Some(1.0), "DE", note, 5), Some(0));
        assert!(but(Some("x")) == but(Some("y")) && but(Some("x")) != but(None));
    }

    /// As [`levels`], of rows that have nothing but numbers.
    fn pattern(levels: u64, values: &[f64]) -> u64 {
        values.iter().fold(levels, |key, value| {
            key * 4 + if value.is_nan() { 1 } else { u64::from(value.is_infinite()) * (2 + u64::from(*value > 0.0)) }
        })
    }

    #[test]
    fn the_search_looks_at_as_few_rows_as_promised() {
        let mut noise = crate::conformance::Noise::new("near rows");
        let mut row = || [noise.normal(), 10.0 * noise.normal(), 7.0];
        let schema = reference().schema().clone();
        let mut builder = Reference::builder(schema.clone());
        for _ in 0..4_000 {
            builder.push(&Row::from_values(&schema, &row()).unwrap(), None, None).unwrap();
        }
        let mut near = NearRows::new(Space::new(&builder.finish()));
        (0..5_000).for_each(|at| near.push(0, &row(), at));
        let queries = 400;
        let looked: usize = (0..queries).map(|_| near.candidates(0, &row(), 0.1).count()).sum();
        let share = looked as f64 / f64::from(queries) / 5_000.0;
        let promised = 0.1 / std::f64::consts::PI.sqrt();
        // 400 queries, each with a standard deviation of about a third of its mean.
        assert!((share / promised - 1.0).abs() < 0.1, "{share} {promised}");
    }

    proptest! {
        #[test]
        fn the_search_finds_what_looking_at_every_row_finds(
            rows in prop::collection::vec((0..2_u64, value(), value(), prop::bool::weighted(0.9)), 0..80),
            queries in prop::collection::vec((0..2_u64, value(), value()), 1..10),
            distance in prop::sample::select(vec![0.0, 0.05, 0.5, 3.0]),
            forgotten in 0..30_usize,
        ) {
            let space = Space::new(&reference());
            let mut near = NearRows::new(Space::new(&crate::reference::Reference::builder(reference().schema().clone()).finish()));
            let mut plain: Vec<(u64, [f64; 3], usize)> = Vec::new();
            for (at, (levels, a, b, seven)) in rows.into_iter().enumerate() {
                let values = [a, 10.0 * b, if seven { 7.0 } else { 8.0 }];
                near.push(pattern(levels, &values), &values, at);
                plain.push((pattern(levels, &values), values, at));
            }
            near.rescale(space.clone());
            for _ in 0..forgotten.min(plain.len()) {
                near.forget_oldest();
                plain.remove(0);
            }
            prop_assert_eq!(near.len(), plain.len());
            prop_assert_eq!(near.order.len(), plain.len());
            for (levels, a, b) in queries {
                let values = [a, 10.0 * b, 7.0];
                let levels = pattern(levels, &values);
                let squared = |row: &[f64; 3]| space.distance_squared(&values, row, distance * distance);
                let expected = plain.iter()
                    .filter(|(other, ..)| *other == levels)
                    .filter_map(|(_, row, at)| Some((squared(row)?, *at)))
                    .min_by(|a, b| a.partial_cmp(b).unwrap());
                let found = near.nearest(levels, &values, distance, |_| true).map(|(d, at)| (d, *at));
                prop_assert_eq!(found, expected.map(|(squared, at)| (squared.sqrt(), at)));
            }
        }
    }
}
