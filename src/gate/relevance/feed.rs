//! What is wrong with a feed.

use chrono::{DateTime, Utc};

use super::MOST_COLUMNS;
use super::column::Column;
use crate::gate::missing::FEWEST_ROWS;
use crate::sample::Reason;
use crate::schema::{FieldKind, Row, Schema, Violation, ViolationKind};

/// A column lost its values if its missing share rose at least by this.
const JUMP: f64 = 0.2;

/// What of the schema a row breaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broken {
    /// A range, or it holds an infinity.
    range: bool,
    /// Anything but its lists of categories and of fields.
    any: bool,
}

pub(super) fn breaks(schema: &Schema, row: &Row, time: DateTime<Utc>) -> Broken {
    let category = |violation: &Violation| {
        let field = schema.field_index(&violation.field).map(|field| schema.fields()[field].kind());
        matches!(field, Some(FieldKind::Category { .. }))
    };
    let news = |violation: &Violation| match &violation.kind {
        ViolationKind::UnknownField(_) => true,
        ViolationKind::NotAllowed(_) => category(violation),
        _ => false,
    };
    let found = schema.check_at(row, time);
    Broken {
        range: found.iter().any(|v| matches!(v.kind, ViolationKind::OutOfRange(_) | ViolationKind::NotFinite)),
        any: found.iter().any(|violation| !news(violation)),
    }
}

/// Shares of rows that break the schema, where they are `above` what is allowed.
pub(super) fn schema_failures(
    rows: &[Broken],
    out_of_range: f64,
    violations: f64,
    above: impl Fn(usize, f64) -> bool,
) -> Vec<String> {
    let (ranges, any) = (rows.iter().filter(|row| row.range).count(), rows.iter().filter(|row| row.any).count());
    let mut failures = Vec::new();
    if above(ranges, out_of_range) {
        failures.push(format!("{ranges} of {} rows break a range of the schema or hold an infinity", rows.len()));
    }
    if above(any, violations) {
        failures.push(format!("{any} of {} rows break the schema", rows.len()));
    }
    failures
}

/// Columns that lost their values or changed their scale; a sound feed loses one with probability `level` at most.
pub(super) fn column_failures(columns: &[Column], rows: &[&Row], level: f64) -> Vec<String> {
    let mut failures = Vec::new();
    for column in columns {
        let shift = column.missing_shift(rows);
        if shift.broken(JUMP, level, columns.len()) {
            failures.push(format!("`{}` is missing in {} rows", column.name, shift));
        }
        failures.extend(column.wrong_scale(rows));
    }
    failures
}

pub(super) fn reason(mut failures: Vec<String>) -> Option<Reason> {
    let more = failures.len().saturating_sub(MOST_COLUMNS);
    failures.truncate(MOST_COLUMNS);
    if more > 0 {
        failures.push(format!("and {more} more"));
    }
    (!failures.is_empty()).then(|| Reason::new("broken_feed", failures.join("; ")))
}

/// How many of the newest rows are looked at, again and again: 20, doubled up to all of them; none if there are fewer.
pub(super) fn looks(rows: usize) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(FEWEST_ROWS), |look| Some(look * 2)).take_while(move |look| *look < rows);
    doubled.chain((rows >= FEWEST_ROWS).then_some(rows))
}
