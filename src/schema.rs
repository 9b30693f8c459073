//! What a row of the host looks like: fields, their kinds and rules, and the target that the model predicts.

mod check;
pub(crate) mod encode;
mod error;
mod evolve;
mod field;
mod infer;
mod json;
mod json_schema;
mod missing;
mod plan;
mod rare;
pub(crate) mod row;
mod rules;

use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::SchemaError;
pub use evolve::{Evolution, SchemaChange, Widening};
pub use field::{Field, FieldKind};
pub(crate) use missing::MissingCounts;
use plan::Plan;
pub(crate) use row::floats as row_floats;
pub use row::{MISSING_CODE, Row, UNSEEN_CODE, Violation, ViolationKind};
pub(crate) use rules::Rules;

/// What the model predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One of these classes; the order gives the class indices.
    Classes(Vec<String>),
    /// A real value.
    Value,
}

impl Target {
    /// Classification into the given classes.
    pub fn classes<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Target::Classes(names.into_iter().map(Into::into).collect())
    }

    /// How many `f64` an output takes: one probability per class, or value, lower and upper end of its interval.
    pub fn output_width(&self) -> usize {
        match self {
            Target::Classes(names) => names.len(),
            Target::Value => 3,
        }
    }
}

/// Where a field lives in a [`Row`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Slot {
    /// `values[at .. at + len]`; an integer also sits in `integers[integer]`.
    Values { at: usize, len: usize, integer: Option<usize> },
    /// `integers[at]`, microseconds since the Unix epoch.
    Time { at: usize },
    /// `codes[at]`.
    Code { at: usize },
    /// `texts[at]`.
    Text { at: usize },
}

/// Fields, their rules and the target, with a fingerprint.
///
/// # Examples
/// ```
/// use feedloop::{Field, Schema, Target};
/// let schema = Schema::new(
///     [Field::number("amount").range(0.0, 1e6), Field::category("country", ["DE", "FR"]).nullable()],
///     Target::classes(["good", "fraud"]),
/// )?;
/// assert_eq!(schema.value_columns(), ["amount"]);
/// # Ok::<(), feedloop::SchemaError>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Declared", into = "Declared")]
pub struct Schema {
    declared: Declared,
    slots: Vec<Slot>,
    /// The column of each field that is a single real number.
    plain_numbers: Vec<Option<u32>>,
    by_name: HashMap<String, usize>,
    categories: Vec<HashMap<String, u32>>,
    value_columns: Vec<String>,
    code_columns: Vec<String>,
    integers: usize,
    texts: Vec<usize>,
    plan: Plan,
    fingerprint: Arc<str>,
}

/// What is written of a schema; the rest is derived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Declared {
    fields: Vec<Field>,
    target: Target,
}

impl From<Schema> for Declared {
    fn from(schema: Schema) -> Self {
        schema.declared
    }
}

impl TryFrom<Declared> for Schema {
    type Error = SchemaError;

    fn try_from(declared: Declared) -> Result<Self, SchemaError> {
        Schema::new(declared.fields, declared.target)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Schema {
    /// A schema of `fields` for a model that predicts `target`.
    ///
    /// # Errors
    /// A name used twice, an empty range, a category without values, a pattern that is no regular expression, a rule that
    /// the kind of its field cannot have, fewer than two classes.
    pub fn new(fields: impl IntoIterator<Item = Field>, target: Target) -> Result<Self, SchemaError> {
        let declared = Declared { fields: fields.into_iter().collect(), target };
        if let Target::Classes(names) = &declared.target {
            if names.len() < 2 {
                return Err(SchemaError::BadTarget(format!(
                    "{} classes were given, at least 2 are needed",
                    names.len()
                )));
            }
            if names.iter().collect::<hashbrown::HashSet<_>>().len() < names.len() {
                return Err(SchemaError::BadTarget("a class is named twice".into()));
            }
        }
        let (mut slots, mut by_name, mut categories) = (Vec::new(), HashMap::new(), Vec::new());
        let (mut value_columns, mut code_columns, mut integers, mut texts) = (Vec::new(), Vec::new(), 0, Vec::new());
        for (index, field) in declared.fields.iter().enumerate() {
            field.check()?;
            if by_name.insert(field.name.clone(), index).is_some() {
                return Err(SchemaError::DuplicateField(field.name.clone()));
            }
            slots.push(match &field.kind {
                FieldKind::Number { .. } | FieldKind::Boolean | FieldKind::Integer { .. } => {
                    value_columns.push(field.name.clone());
                    let integer = matches!(field.kind, FieldKind::Integer { .. }).then(|| {
                        integers += 1;
                        integers - 1
                    });
                    Slot::Values { at: value_columns.len() - 1, len: 1, integer }
                }
                FieldKind::Embedding { dimension } => {
                    let at = value_columns.len();
                    value_columns.extend((0..*dimension).map(|part| format!("{}[{part}]", field.name)));
                    Slot::Values { at, len: *dimension, integer: None }
                }
                FieldKind::Timestamp => {
                    integers += 1;
                    Slot::Time { at: integers - 1 }
                }
                FieldKind::Category { allowed } => {
                    code_columns.push(field.name.clone());
                    categories
                        .push(allowed.iter().enumerate().map(|(code, text)| (text.clone(), code as u32)).collect());
                    Slot::Code { at: code_columns.len() - 1 }
                }
                FieldKind::Text { max_bytes } => {
                    texts.push(*max_bytes);
                    Slot::Text { at: texts.len() - 1 }
                }
            });
        }
        let canonical = serde_json::to_vec(&declared).map_err(|e| SchemaError::BadTarget(e.to_string()))?;
        let fingerprint = hex(&Sha256::digest(canonical)[..16]).into();
        let plan = Plan::new(&declared.fields, &slots)?;
        let plain_number = |(field, slot): (&Field, &Slot)| match (&field.kind, *slot) {
            (FieldKind::Number { .. }, Slot::Values { at, .. }) => u32::try_from(at).ok(),
            _ => None,
        };
        Ok(Schema {
            plain_numbers: declared.fields.iter().zip(&slots).map(plain_number).collect(),
            declared,
            slots,
            by_name,
            categories,
            value_columns,
            code_columns,
            integers,
            texts,
            plan,
            fingerprint,
        })
    }

    /// A schema of `width` numbers named `x0`, `x1`, … that allow missing values.
    ///
    /// # Errors
    /// As [`Schema::new`].
    pub fn numeric(width: usize, target: Target) -> Result<Self, SchemaError> {
        Schema::new((0..width).map(|i| Field::number(format!("x{i}")).nullable()), target)
    }

    /// The fields in the order of their declaration.
    pub fn fields(&self) -> &[Field] {
        &self.declared.fields
    }

    /// What the model predicts.
    pub fn target(&self) -> &Target {
        &self.declared.target
    }

    /// Number of classes, or 0 for regression.
    pub fn classes(&self) -> usize {
        match &self.declared.target {
            Target::Classes(names) => names.len(),
            Target::Value => 0,
        }
    }

    /// 32 hexadecimal digits that change with any field, rule or class.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Names of the numeric columns as detectors see them: numbers, integers, booleans (0 or 1) and embedding parts.
    pub fn value_columns(&self) -> &[String] {
        &self.value_columns
    }

    /// Names of the category columns.
    pub fn code_columns(&self) -> &[String] {
        &self.code_columns
    }

    /// Allowed values of category column `column`; their order gives the codes.
    pub fn category_values(&self, column: usize) -> &[String] {
        let mut seen = 0;
        for field in &self.declared.fields {
            if let FieldKind::Category { allowed } = &field.kind {
                if seen == column {
                    return allowed;
                }
                seen += 1;
            }
        }
        &[]
    }

    /// Index of the field called `name`.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Index of the class called `name`.
    pub fn class_index(&self, name: &str) -> Option<u32> {
        match &self.declared.target {
            Target::Classes(names) => names.iter().position(|n| n == name).map(|i| i as u32),
            Target::Value => None,
        }
    }

    pub(crate) fn slot(&self, field: usize) -> Slot {
        self.slots[field]
    }

    /// Where a field lives that is a single real number.
    #[inline]
    pub(crate) fn plain_number(&self, field: usize) -> Option<usize> {
        self.plain_numbers[field].map(|at| at as usize)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn category_code(&self, column: usize, text: &str) -> Option<u32> {
        self.categories[column].get(text).copied()
    }

    pub(crate) fn integer_count(&self) -> usize {
        self.integers
    }

    pub(crate) fn text_limits(&self) -> &[usize] {
        &self.texts
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
