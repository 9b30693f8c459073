//! One field of a schema: its kind and the rules for its values.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::SchemaError;
use super::rules::{self, Rules};

/// The kind of a field and the rules that belong to the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FieldKind {
    /// A real number.
    Number {
        /// Smallest and largest allowed value, both inclusive.
        #[serde(deserialize_with = "rules::open_range")]
        range: Option<(f64, f64)>,
    },
    /// A whole number (kept as `i64`, and as `f64` for the detectors).
    Integer {
        /// Smallest and largest allowed value, both inclusive.
        range: Option<(i64, i64)>,
    },
    /// True or false.
    Boolean,
    /// One of a closed set of texts.
    Category {
        /// The allowed values; their order gives the codes.
        allowed: Vec<String>,
    },
    /// Free text of at most `max_bytes` bytes.
    Text {
        /// Longest text in bytes; a longer one is cut and violates the schema.
        max_bytes: usize,
    },
    /// A point in time: RFC 3339 text, or Unix time in microseconds.
    Timestamp,
    /// A vector of `dimension` real numbers.
    Embedding {
        /// Length of the vector.
        dimension: usize,
    },
}

/// One field of a [`Schema`](crate::Schema).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    pub(super) name: String,
    pub(super) kind: FieldKind,
    pub(super) nullable: bool,
    /// Not written where there is none, so that schemas without such rules keep their fingerprint.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub(super) rules: Rules,
}

impl Field {
    pub(super) fn new(name: impl Into<String>, kind: FieldKind) -> Self {
        Field { name: name.into(), kind, nullable: false, rules: Rules::default() }
    }

    /// A real number.
    pub fn number(name: impl Into<String>) -> Self {
        Field::new(name, FieldKind::Number { range: None })
    }

    /// A whole number.
    pub fn integer(name: impl Into<String>) -> Self {
        Field::new(name, FieldKind::Integer { range: None })
    }

    /// True or false.
    pub fn boolean(name: impl Into<String>) -> Self {
        Field::new(name, FieldKind::Boolean)
    }

    /// One of the given texts.
    pub fn category<T: Into<String>>(name: impl Into<String>, allowed: impl IntoIterator<Item = T>) -> Self {
        Field::new(name, FieldKind::Category { allowed: allowed.into_iter().map(Into::into).collect() })
    }

    /// Free text of at most `max_bytes` bytes.
    pub fn text(name: impl Into<String>, max_bytes: usize) -> Self {
        Field::new(name, FieldKind::Text { max_bytes })
    }

    /// A point in time.
    pub fn timestamp(name: impl Into<String>) -> Self {
        Field::new(name, FieldKind::Timestamp)
    }

    /// A vector of `dimension` real numbers.
    pub fn embedding(name: impl Into<String>, dimension: usize) -> Self {
        Field::new(name, FieldKind::Embedding { dimension })
    }

    /// Allows the value to be missing.
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// Limits a number or integer to `low..=high`. On another kind, [`Schema::new`](crate::Schema::new) reports it as a mistake.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        match &mut self.kind {
            FieldKind::Number { range } => *range = Some((low, high)),
            FieldKind::Integer { range } => *range = Some((low.ceil() as i64, high.floor() as i64)),
            // An impossible range on a kind without one: kept as a mistake that `Schema::new` finds.
            kind => *kind = FieldKind::Category { allowed: Vec::new() },
        }
        self
    }

    /// A text must match this regular expression somewhere; anchor it with `^` and `$` to match it as a whole.
    ///
    /// Syntax of the crate `regex-lite`: no look-around and no back references, so that matching takes linear time;
    /// `\d`, `\w` and `\s` are ASCII. On another kind than text, [`Schema::new`](crate::Schema::new) reports it as a mistake.
    pub fn pattern(mut self, regex: impl Into<String>) -> Self {
        self.rules.pattern = Some(regex.into());
        self
    }

    /// No two samples have the same value; a missing value equals none.
    ///
    /// [`SchemaGate`](crate::SchemaGate) looks after it, among as many of the newest samples as it
    /// [remembers](crate::SchemaGate::remember).
    pub fn unique(mut self) -> Self {
        self.rules.unique = true;
        self
    }

    /// A timestamp is at most this much older than its observation, and at most one minute younger (clocks differ).
    ///
    /// [`Schema::check_at`](crate::Schema::check_at) and [`SchemaGate`](crate::SchemaGate) look after it. On another kind, or if the age is
    /// negative, [`Schema::new`](crate::Schema::new) reports it as a mistake.
    pub fn fresh(mut self, max_age: TimeDelta) -> Self {
        self.rules.fresh = Some(max_age.num_microseconds().unwrap_or(i64::MAX));
        self
    }

    /// A number, whole number or timestamp is never smaller than in an earlier sample that passed; equal is allowed.
    ///
    /// [`SchemaGate`](crate::SchemaGate) looks after it. One value that is far too large, but allowed, shuts out
    /// what follows: give the field a range too. On another kind, [`Schema::new`](crate::Schema::new) reports it as a mistake.
    pub fn increasing(mut self) -> Self {
        self.rules.increasing = true;
        self
    }

    /// Name of the field.
    #[inline]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kind of the field.
    #[inline]
    pub fn kind(&self) -> &FieldKind {
        &self.kind
    }

    /// May the value be missing?
    #[inline]
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    #[inline]
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn check(&self) -> Result<(), SchemaError> {
        let bad = |what: &str| Err(SchemaError::BadField { field: self.name.clone(), what: what.into() });
        match &self.kind {
            FieldKind::Number { range: Some((low, high)) }
                if !(low <= high && *low < f64::INFINITY && *high > f64::NEG_INFINITY) =>
            {
                bad("its range is empty or not a number")
            }
            FieldKind::Integer { range: Some((low, high)) } if low > high => bad("its range is empty"),
            FieldKind::Category { allowed } if allowed.is_empty() => {
                bad("a category needs at least one allowed value (a range belongs to numbers and integers only)")
            }
            FieldKind::Category { allowed }
                if allowed.iter().collect::<hashbrown::HashSet<_>>().len() < allowed.len() =>
            {
                bad("an allowed value is listed twice")
            }
            FieldKind::Text { max_bytes: 0 } => bad("max_bytes must be at least 1"),
            FieldKind::Embedding { dimension: 0 } => bad("an embedding needs at least one dimension"),
            kind => self.rules.check(kind).or_else(|what| bad(&what)),
        }
    }
}
