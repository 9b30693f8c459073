//! The rules of a schema laid out by column, so that a clean row is recognised in one pass over its values.

use multiversion::multiversion;
use regex_lite::Regex;

use super::row::MISSING_INTEGER;
use super::{Field, FieldKind, MISSING_CODE, Row, SchemaError, Slot};

/// What [`Schema::check`](super::Schema::check) compares with; indices are places in a [`Row`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Smallest and largest value of each numeric column; 1 where it is required, 0 elsewhere.
    low: Vec<f64>,
    high: Vec<f64>,
    required: Vec<u64>,
    wholes: Vec<Whole>,
    booleans: Vec<usize>,
    /// First column and length of each embedding.
    pub(super) embeddings: Vec<(usize, usize)>,
    /// Must the timestamp be there?
    pub(super) times: Vec<(usize, bool)>,
    /// Number of allowed values of each category column, and whether it may be missing.
    codes: Vec<(u32, bool)>,
    texts: Vec<TextRule>,
    /// Timestamps with a largest age: field, place, age in microseconds.
    pub(super) fresh: Vec<(usize, usize, i64)>,
    /// Fields whose values are unique or increasing.
    pub(crate) stateful: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Whole {
    at: usize,
    integer: usize,
    low: i64,
    high: i64,
}

#[derive(Debug, Clone)]
struct TextRule {
    max_bytes: usize,
    nullable: bool,
    pattern: Option<Regex>,
}

impl Plan {
    pub(super) fn new(fields: &[Field], slots: &[Slot]) -> Result<Self, SchemaError> {
        let mut plan = Plan::default();
        for (index, (field, slot)) in fields.iter().zip(slots).enumerate() {
            let nullable = field.is_nullable();
            let column = |plan: &mut Plan, low, high| {
                plan.low.push(low);
                plan.high.push(high);
                plan.required.push(u64::from(!nullable));
            };
            match (field.kind(), *slot) {
                (FieldKind::Number { range }, _) => {
                    let (low, high) = range.unwrap_or((f64::MIN, f64::MAX));
                    column(&mut plan, low.max(f64::MIN), high.min(f64::MAX));
                }
                (FieldKind::Integer { range }, Slot::Values { at, integer: Some(integer), .. }) => {
                    column(&mut plan, f64::MIN, f64::MAX);
                    let (low, high) = range.unwrap_or((i64::MIN, i64::MAX));
                    // what stands for a missing value is in no range
                    plan.wholes.push(Whole { at, integer, low: low.max(MISSING_INTEGER + 1), high });
                }
                (FieldKind::Boolean, Slot::Values { at, .. }) => {
                    column(&mut plan, 0.0, 1.0);
                    plan.booleans.push(at);
                }
                (FieldKind::Embedding { .. }, Slot::Values { at, len, .. }) => {
                    (0..len).for_each(|_| column(&mut plan, f64::MIN, f64::MAX));
                    plan.embeddings.push((at, len));
                }
                (FieldKind::Timestamp, Slot::Time { at }) => {
                    plan.times.push((at, nullable));
                    plan.fresh.extend(field.rules().fresh.map(|age| (index, at, age)));
                }
                (FieldKind::Category { allowed }, _) => plan.codes.push((allowed.len() as u32, nullable)),
                (FieldKind::Text { max_bytes }, _) => {
                    let pattern = field.rules().pattern.as_deref().map(Regex::new).transpose();
                    let pattern = pattern.map_err(|error| SchemaError::BadField {
                        field: field.name().into(),
                        what: format!("its pattern is no regular expression: {error}"),
                    })?;
                    plan.texts.push(TextRule { max_bytes: *max_bytes, nullable, pattern });
                }
                // a slot belongs to its kind
                _ => {}
            }
            if field.rules().unique || field.rules().increasing {
                plan.stateful.push(index);
            }
        }
        Ok(plan)
    }

    pub(super) fn pattern(&self, text: usize) -> Option<&Regex> {
        self.texts[text].pattern.as_ref()
    }

    /// Does a row of the right shape break no rule but perhaps those that need the time or other rows?
    pub(super) fn keeps(&self, row: &Row) -> bool {
        within(&row.values, &self.low, &self.high, &self.required)
            && self.booleans.iter().all(|&at| row.values[at].is_nan() || row.values[at] == 0.0 || row.values[at] == 1.0)
            && self.wholes.iter().all(|whole| whole.keeps(row))
            && self
                .codes
                .iter()
                .zip(&row.codes)
                .all(|(&(values, nullable), &code)| code < values || (code == MISSING_CODE && nullable))
            && self.times.iter().all(|&(at, nullable)| nullable || row.integers[at] != MISSING_INTEGER)
            && self.texts.iter().zip(&*row.texts).all(|(rule, text)| match text {
                Some(text) => {
                    text.len() <= rule.max_bytes && rule.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
                }
                None => rule.nullable,
            })
            && self.embeddings.iter().all(|&(at, len)| {
                let missing = row.values[at..at + len].iter().filter(|value| value.is_nan()).count();
                missing == 0 || missing == len
            })
    }
}

/// Is each value from `low` to `high`, or missing where it is not `required`? Compiled for AVX2 too: the result is the same.
#[multiversion(targets("x86_64+avx2"))]
fn within(values: &[f64], low: &[f64], high: &[f64], required: &[u64]) -> bool {
    // sums instead of branches, so that several columns are compared at a time (with `or` the compiler makes one chain of
    // them); NaN is neither below nor above
    let columns = values.iter().zip(low).zip(high).zip(required);
    let broken = columns.fold(0, |broken, (((value, low), high), &required)| {
        broken + u64::from(value < low) + u64::from(value > high) + (u64::from(value.is_nan()) & required)
    });
    broken == 0
}

impl Whole {
    /// The exact value counts; a row that came as a plain slice has none.
    fn keeps(&self, row: &Row) -> bool {
        let whole = row.integers[self.integer];
        if whole >= self.low && whole <= self.high {
            return true;
        }
        let value = row.values[self.at];
        let plain = || value.fract() == 0.0 && value >= self.low as f64 && value <= self.high as f64;
        value.is_nan() || (whole == MISSING_INTEGER && plain())
    }
}
