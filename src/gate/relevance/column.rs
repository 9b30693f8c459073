//! What is known of one column of the training data, and what a batch does to it.

use hashbrown::HashSet;

use crate::gate::missing::{FEWEST_ROWS, Shift};
use crate::reference::Reference;
use crate::schema::{FieldKind, MISSING_CODE, Row};
use crate::stats::quantile::quantile;

/// A scale is wrong from this factor on.
const FACTOR: f64 = 100.0;

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    at: usize,
    rows: u64,
    missing: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// Values between `low` and `high` are not novel; `None` if the training data has no value.
    Values { known: Option<(f64, f64)>, magnitude: Option<Magnitude> },
    /// Codes that occurred.
    Codes(HashSet<u32>),
}

/// Magnitudes of the values other than 0.
#[derive(Debug, Clone, Copy)]
struct Magnitude {
    small: f64,
    median: f64,
    large: f64,
}

/// The columns of a reference: numeric ones, then categories.
pub(super) fn columns(reference: &Reference) -> Vec<Column> {
    let schema = reference.schema();
    let boolean = |name: &str| {
        schema.field_index(name).is_some_and(|field| matches!(schema.fields()[field].kind(), FieldKind::Boolean))
    };
    let rows = reference.rows();
    let values = schema.value_columns().iter().enumerate().map(|(at, name)| {
        let mut sorted = reference.column(at);
        sorted.retain(|value| value.is_finite());
        sorted.sort_by(f64::total_cmp);
        let magnitude = if boolean(name) { None } else { Magnitude::of(sorted.iter().copied()) };
        let missing = (reference.missing_share(at) * rows as f64).round() as u64;
        let content = Content::Values { known: known_range(&sorted), magnitude };
        Column { name: name.clone(), at, rows, missing, content }
    });
    let codes = schema.code_columns().iter().enumerate().map(|(at, name)| {
        let counts = reference.code_counts(at);
        let missing = counts.get(&MISSING_CODE).copied().unwrap_or(0);
        let content = Content::Codes(counts.keys().copied().collect());
        Column { name: name.clone(), at, rows, missing, content }
    });
    values.chain(codes).collect()
}

fn known_range(sorted: &[f64]) -> Option<(f64, f64)> {
    let at = |q| quantile(sorted, q);
    let (low, high) = (at(0.001), at(0.999));
    let spread = at(0.75) - at(0.25);
    let spread = if spread > 0.0 { spread } else { high - low };
    (!sorted.is_empty()).then_some((low - spread / 2.0, high + spread / 2.0))
}

impl Magnitude {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sizes: Vec<f64> = values.filter(|v| v.is_finite() && *v != 0.0).map(f64::abs).collect();
        if sizes.len() < FEWEST_ROWS {
            return None;
        }
        sizes.sort_by(f64::total_cmp);
        let at = |q| quantile(&sizes, q);
        Some(Magnitude { small: at(0.05), median: at(0.5), large: at(0.999) })
    }
}

impl Column {
    pub(super) fn is_novel(&self, values: &[f64], codes: &[u32]) -> bool {
        match &self.content {
            Content::Values { known, .. } => match (values.get(self.at), known) {
                (Some(value), _) if value.is_nan() => false,
                (Some(value), Some((low, high))) => value < low || value > high,
                (Some(_), None) => true,
                (None, _) => false,
            },
            Content::Codes(known) => {
                codes.get(self.at).is_some_and(|code| *code != MISSING_CODE && !known.contains(code))
            }
        }
    }

    fn is_missing(&self, row: &Row) -> bool {
        match &self.content {
            Content::Values { .. } => row.values().get(self.at).is_none_or(|value| value.is_nan()),
            Content::Codes(_) => row.codes().get(self.at).is_none_or(|code| *code == MISSING_CODE),
        }
    }

    pub(super) fn missing_shift(&self, rows: &[&Row]) -> Shift {
        let missing = rows.iter().filter(|row| self.is_missing(row)).count() as u64;
        Shift { before: (self.missing, self.rows), now: (missing, rows.len() as u64) }
    }

    /// What is wrong with the scale of the column in these rows.
    pub(super) fn wrong_scale(&self, rows: &[&Row]) -> Option<String> {
        let Content::Values { magnitude: Some(before), .. } = &self.content else { return None };
        let values = rows.iter().filter_map(|row| row.values().get(self.at).copied());
        let now = Magnitude::of(values)?.median;
        let large = now >= FACTOR * before.median && now > before.large;
        let small = now <= before.median / FACTOR && now < before.small;
        (large || small).then(|| {
            format!(
                "the median magnitude of `{}` is {now}, it was {}: a unit or scale is wrong",
                self.name, before.median
            )
        })
    }
}
