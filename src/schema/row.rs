//! One encoded row, and what was wrong with it.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::rare::Rare;
use super::{Schema, SchemaError, Slot};
use crate::event::PredictionId;

/// Code of a missing category value.
pub const MISSING_CODE: u32 = u32::MAX;
/// Code of a category value that the schema does not list.
pub const UNSEEN_CODE: u32 = u32::MAX - 1;

pub(super) const MISSING_INTEGER: i64 = i64::MIN;

/// What was wrong with a value while it was encoded or checked. Never an error: the row is kept, the verdict is a gate's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ViolationKind {
    /// No value where one is required.
    Missing,
    /// A value of another type; the type that was found.
    WrongType(String),
    /// NaN or an infinity.
    NotFinite,
    /// Outside the declared range.
    OutOfRange(f64),
    /// Not among the allowed values.
    NotAllowed(String),
    /// Longer than declared; the length in bytes, or in parts for an embedding.
    WrongLength(usize),
    /// A field that the schema does not have.
    UnknownField(String),
    /// A text that does not match the pattern; its first 64 bytes.
    Mismatch(String),
    /// A timestamp that is older than allowed; its age in seconds.
    Stale(f64),
    /// A timestamp that lies in the future of the observation; by how many seconds.
    Future(f64),
    /// The value of an earlier sample.
    Repeated(PredictionId),
    /// Smaller than in an earlier sample; timestamps in microseconds since the Unix epoch.
    Decreased {
        /// The value.
        value: f64,
        /// The largest value before.
        largest: f64,
    },
    /// A rule across fields, by its name.
    Rule(String),
}

/// One violation of the schema by a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Name of the field.
    pub field: String,
    /// What is wrong.
    pub kind: ViolationKind,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let field = &self.field;
        match &self.kind {
            ViolationKind::Missing => write!(f, "`{field}` is missing"),
            ViolationKind::WrongType(found) => write!(f, "`{field}` has the wrong type: {found}"),
            ViolationKind::NotFinite => write!(f, "`{field}` is not a finite number"),
            ViolationKind::OutOfRange(value) => write!(f, "`{field}` is out of range: {value}"),
            ViolationKind::NotAllowed(value) => write!(f, "`{field}` has a value that is not allowed: {value}"),
            ViolationKind::WrongLength(length) => write!(f, "`{field}` has the wrong length: {length}"),
            ViolationKind::UnknownField(name) => write!(f, "field `{name}` is unknown"),
            ViolationKind::Mismatch(value) => write!(f, "`{field}` does not match its pattern: {value}"),
            ViolationKind::Stale(age) => write!(f, "`{field}` is too old: {age} s before the observation"),
            ViolationKind::Future(ahead) => write!(f, "`{field}` lies in the future: {ahead} s after the observation"),
            ViolationKind::Repeated(first) => write!(f, "`{field}` has the value of sample {first}"),
            ViolationKind::Decreased { value, largest } => write!(f, "`{field}` fell to {value} after {largest}"),
            ViolationKind::Rule(name) => write!(f, "the rule `{name}` is broken"),
        }
    }
}

/// One encoded observation: numeric values, whole numbers, category codes and texts, each in the order of the schema.
///
/// Buffers are allocated once and reused; a row that fits the schema allocates nothing when it is encoded again. What most
/// rows do not have takes one word here each, as a row goes from core to core with every record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Row {
    #[serde(with = "floats")]
    pub(crate) values: Box<[f64]>,
    #[serde(default, skip_serializing_if = "<[i64]>::is_empty")]
    pub(crate) integers: Box<[i64]>,
    #[serde(default, skip_serializing_if = "<[u32]>::is_empty")]
    pub(crate) codes: Box<[u32]>,
    #[serde(default, skip_serializing_if = "<[Option<String>]>::is_empty")]
    pub(crate) texts: Rare<Option<String>>,
    #[serde(default, skip_serializing_if = "<[Violation]>::is_empty")]
    pub(crate) violations: Rare<Violation>,
    #[serde(skip)]
    spare: Spare,
}

/// Text buffers that are not in use; they say nothing about the row.
#[derive(Debug, Default)]
struct Spare(Rare<String>);

impl Clone for Spare {
    fn clone(&self) -> Self {
        Spare::default()
    }
}

impl PartialEq for Spare {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Row {
    /// An empty row with room for what `schema` describes; every value is missing.
    pub fn new(schema: &Schema) -> Self {
        Row {
            values: vec![f64::NAN; schema.value_columns().len()].into(),
            integers: vec![MISSING_INTEGER; schema.integer_count()].into(),
            codes: vec![MISSING_CODE; schema.code_columns().len()].into(),
            texts: vec![None; schema.text_limits().len()].into(),
            violations: Rare::default(),
            spare: Spare::default(),
        }
    }

    /// The row of a plain slice of numbers.
    ///
    /// # Errors
    /// The slice has another length than the schema has numeric columns.
    pub fn from_values(schema: &Schema, values: &[f64]) -> Result<Self, SchemaError> {
        let mut row = Row::new(schema);
        row.copy_values(values)?;
        Ok(row)
    }

    /// Copies a plain slice of numbers into the numeric columns; everything else becomes missing.
    ///
    /// NaN stands for a missing value. No allocation.
    ///
    /// # Errors
    /// The slice has another length than the schema has numeric columns.
    pub fn copy_values(&mut self, values: &[f64]) -> Result<(), SchemaError> {
        if values.len() != self.values.len() {
            return Err(SchemaError::Width { found: values.len(), expected: self.values.len() });
        }
        self.reset_others();
        self.values.copy_from_slice(values);
        Ok(())
    }

    pub(crate) fn reset(&mut self) {
        self.values.fill(f64::NAN);
        self.reset_others();
    }

    fn reset_others(&mut self) {
        self.integers.fill(MISSING_INTEGER);
        // filling nothing is not free: the `memset` of no byte took a fifth of a record with glibc's AVX-512 version
        if !self.codes.is_empty() {
            self.codes.fill(MISSING_CODE);
        }
        self.texts.iter_mut().filter_map(Option::take).for_each(|text| self.spare.0.push(text));
        self.violations.clear();
    }

    /// A text buffer that is not in use.
    pub(super) fn spare_text(&mut self) -> String {
        self.spare.0.pop().unwrap_or_default()
    }

    pub(super) fn keep_spare(&mut self, text: String) {
        self.spare.0.push(text);
    }

    pub(crate) fn put_text(&mut self, at: usize, text: &str) {
        let mut buffer = self.texts[at].take().unwrap_or_else(|| self.spare_text());
        buffer.clear();
        buffer.push_str(text);
        self.texts[at] = Some(buffer);
    }

    /// Numeric values in the order of [`Schema::value_columns`]; NaN is missing.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Category codes in the order of [`Schema::code_columns`]; see [`MISSING_CODE`] and [`UNSEEN_CODE`].
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// What was wrong while the row was encoded.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The whole number or timestamp (microseconds since the Unix epoch) of field `field`, if it is one and present.
    pub fn integer(&self, schema: &Schema, field: usize) -> Option<i64> {
        let at = match schema.slot(field) {
            Slot::Values { integer: Some(at), .. } | Slot::Time { at } => at,
            _ => return None,
        };
        self.integers.get(at).copied().filter(|&value| value != MISSING_INTEGER)
    }

    /// The value of field `field`, if it is a number, whole number or boolean and present.
    pub(crate) fn number(&self, schema: &Schema, field: usize) -> Option<f64> {
        match schema.slot(field) {
            Slot::Values { at, len: 1, .. } => Some(self.values[at]).filter(|value| !value.is_nan()),
            _ => None,
        }
    }

    /// The text of field `field`, if it is a text field and present.
    pub fn text(&self, schema: &Schema, field: usize) -> Option<&str> {
        match schema.slot(field) {
            Slot::Text { at } => self.texts.get(at)?.as_deref(),
            _ => None,
        }
    }

    /// Is field `field` without a value? Fields that came after an [older row](Row::fit) are.
    pub fn is_missing(&self, schema: &Schema, field: usize) -> bool {
        match schema.slot(field) {
            Slot::Values { at, len: 1, .. } => self.values.get(at).is_none_or(|value| value.is_nan()),
            Slot::Values { at, len, .. } => {
                self.values.get(at..at + len).is_none_or(|values| values.iter().all(|value| value.is_nan()))
            }
            Slot::Time { at } => self.integers.get(at).is_none_or(|&value| value == MISSING_INTEGER),
            Slot::Code { at } => self.codes.get(at).is_none_or(|&code| code == MISSING_CODE),
            Slot::Text { at } => self.texts.get(at).is_none_or(Option::is_none),
        }
    }

    /// 128-bit hash of the canonical content (xxh3): equal content gives equal hashes in every process and release.
    ///
    /// `-0.0` equals `0.0`, every NaN equals every other. A row of an earlier version of a schema has the hash that it has when
    /// it is made to [fit](Row::fit) the present one. Not for input that somebody may forge.
    pub fn content_hash(&self) -> u128 {
        let mut hasher = Xxh3::new();
        self.feed(|bytes| hasher.update(bytes));
        hasher.digest128()
    }

    /// Hands the canonical bytes of one field that is no number to `sink`.
    pub(crate) fn feed_field(&self, schema: &Schema, field: usize, mut sink: impl FnMut(&[u8])) {
        match schema.slot(field) {
            Slot::Values { at, len, .. } => {
                self.values[at..at + len].iter().for_each(|value| sink(&(value + 0.0).to_bits().to_le_bytes()));
            }
            Slot::Time { at } => sink(&self.integers[at].to_le_bytes()),
            Slot::Code { at } => sink(&self.codes[at].to_le_bytes()),
            Slot::Text { at } => sink(self.texts[at].as_deref().unwrap_or_default().as_bytes()),
        }
    }

    /// Hands the canonical bytes of the content to `sink`, piece by piece.
    ///
    /// Of each kind of cells it is how many there are, without the missing ones at the end, and then these. Without those
    /// a schema that [grew](Schema::evolve) at its end changes nothing; with the number no two contents of one schema have equal
    /// bytes.
    pub(crate) fn feed(&self, mut sink: impl FnMut(&[u8])) {
        let present = self.present();
        sink(&(present.values.len() as u64).to_le_bytes());
        for &value in present.values {
            let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
            sink(&canonical.to_bits().to_le_bytes());
        }
        sink(&(present.integers.len() as u64).to_le_bytes());
        for value in present.integers {
            sink(&value.to_le_bytes());
        }
        sink(&(present.codes.len() as u64).to_le_bytes());
        for code in present.codes {
            sink(&code.to_le_bytes());
        }
        sink(&(present.texts.len() as u64).to_le_bytes());
        for text in present.texts {
            match text {
                Some(text) => {
                    sink(&(text.len() as u64).to_le_bytes());
                    sink(text.as_bytes());
                }
                None => sink(&u64::MAX.to_le_bytes()),
            }
        }
    }

    /// The cells up to the last of each kind that is not missing: the same for a row of an earlier version of a schema and
    /// for that row made to [fit](Row::fit).
    pub(crate) fn present(&self) -> Present<'_> {
        Present {
            values: up_to_last(&self.values, |value| !value.is_nan()),
            integers: up_to_last(&self.integers, |value| *value != MISSING_INTEGER),
            codes: up_to_last(&self.codes, |code| *code != MISSING_CODE),
            texts: up_to_last(&self.texts, Option::is_some),
        }
    }
}

/// The cells of a [`Row`] without the missing ones at the end of each kind.
pub(crate) struct Present<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) integers: &'a [i64],
    pub(crate) codes: &'a [u32],
    pub(crate) texts: &'a [Option<String>],
}

fn up_to_last<T>(cells: &[T], is_there: impl Fn(&T) -> bool) -> &[T] {
    &cells[..cells.iter().rposition(is_there).map_or(0, |last| last + 1)]
}

/// JSON has neither NaN nor infinities: missing is `null`, infinities are the texts `inf` and `-inf`.
pub(crate) mod floats {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Cell {
        Number(f64),
        Text(String),
        Missing(()),
    }

    pub(crate) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut seq = serializer.serialize_seq(Some(values.len()))?;
        for &value in values {
            if value.is_finite() {
                seq.serialize_element(&value)?;
            } else if value.is_nan() {
                seq.serialize_element(&())?;
            } else {
                seq.serialize_element(if value > 0.0 { "inf" } else { "-inf" })?;
            }
        }
        seq.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromIterator<f64>>(deserializer: D) -> Result<T, D::Error> {
        Vec::<Cell>::deserialize(deserializer)?
            .into_iter()
            .map(|cell| match cell {
                Cell::Number(value) => Ok(value),
                Cell::Missing(()) => Ok(f64::NAN),
                Cell::Text(text) if text == "inf" => Ok(f64::INFINITY),
                Cell::Text(text) if text == "-inf" => Ok(f64::NEG_INFINITY),
                Cell::Text(text) => Err(de::Error::custom(format!("`{text}` is not a number"))),
            })
            .collect()
    }
}
