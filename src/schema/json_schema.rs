//! A schema as JSON Schema, and the usual subset of JSON Schema as a schema.

mod read;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Field, FieldKind, Schema, SchemaError, Target};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Keyword for what JSON Schema has no word for; validators take it for an annotation.
const EXTENSION: &str = "x-feedloop";

/// What JSON Schema has no word for, of the whole.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whole {
    /// Names of the fields: a JSON object has no order.
    order: Vec<String>,
}

/// What JSON Schema has no word for, of one field.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Extra {
    /// Length of a text in bytes; `maxLength` counts characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    /// A range without ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unbounded: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unique: bool,
    /// Largest age in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    fresh: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    increasing: bool,
}

impl Schema {
    /// The rows of this schema as JSON Schema (draft 2020-12); the target is not part of it.
    ///
    /// Numbers have `minimum` and `maximum`, categories an `enum`, texts `pattern` and `maxLength`, timestamps the format
    /// `date-time` (or whole microseconds), embeddings are arrays of numbers with `minItems` = `maxItems`. A nullable
    /// field may be null or absent; other fields are not allowed. A row of JSON is valid if and only if its encoding has
    /// no violation, with these exceptions:
    /// - a text of other than ASCII characters may be too long for the schema and valid, as `max_bytes` counts bytes and
    ///   `maxLength` characters;
    /// - a validator that does not assert `format` takes any text for a timestamp;
    /// - whole numbers and timestamps above 2⁶³ − 1, and real ones such as 1e20, are whole numbers for JSON Schema only;
    /// - patterns are regular expressions of the crate `regex-lite` here and of ECMA-262 there, which differ in rare
    ///   constructs;
    /// - unique, fresh and increasing fields are beyond JSON Schema.
    ///
    /// What JSON Schema has no word for is kept under `x-feedloop`, which validators ignore.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{Field, Schema, Target};
    /// let schema = Schema::new([Field::number("amount").range(0.0, 10.0)], Target::Value)?;
    /// let json = schema.to_json_schema();
    /// assert_eq!(json["properties"]["amount"]["maximum"], 10.0);
    /// assert_eq!(Schema::from_json_schema(&json, Target::Value)?, schema);
    /// # Ok::<(), feedloop::SchemaError>(())
    /// ```
    pub fn to_json_schema(&self) -> Value {
        let properties: Map<_, _> =
            self.fields().iter().map(|field| (field.name().to_owned(), property(field))).collect();
        let order: Vec<_> = self.fields().iter().map(Field::name).collect();
        let required: Vec<_> = self.fields().iter().filter(|field| !field.is_nullable()).map(Field::name).collect();
        json!({
            "$schema": DIALECT,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
            EXTENSION: { "order": order },
        })
    }

    /// Reads the usual subset of JSON Schema as the rows of a schema; the target is not part of it.
    ///
    /// Known are, for a property: the types `number`, `integer`, `boolean`, `string` and `array` of numbers, each alone or
    /// with `null` (as a list of types, as `anyOf` with `{"type": "null"}`, or by `nullable`); `enum` and `const` of texts;
    /// `minimum`, `maximum`, `exclusiveMinimum` and `exclusiveMaximum`; `pattern` and `maxLength`; the format
    /// `date-time`; `minItems` = `maxItems`. For the object: `properties`, `required`, and `additionalProperties` as a
    /// boolean. Annotations and other formats are ignored, as validators do. A keyword that would change what is valid and
    /// is not known is an error, not ignored.
    ///
    /// A schema is a little different: null and absent are the same, so a property that is not required is nullable and a
    /// nullable one may be absent; an unknown field is a violation unless
    /// [`SchemaGate::allow_unknown_fields`](crate::SchemaGate::allow_unknown_fields) says otherwise; a text of `maxLength`
    /// characters may have four times as many bytes, and one without `maxLength` 65,536 bytes; a timestamp may be a whole
    /// number of microseconds too. Fields are in the order of `x-feedloop`, or sorted by name.
    ///
    /// `Schema::from_json_schema(&schema.to_json_schema(), target)` is `schema` again.
    ///
    /// # Errors
    /// [`SchemaError::JsonSchema`] with the place of what is not supported; and as [`Schema::new`].
    pub fn from_json_schema(json: &Value, target: Target) -> Result<Schema, SchemaError> {
        Schema::new(read::fields(json)?, target)
    }
}

fn property(field: &Field) -> Value {
    let mut property = Map::new();
    let mut set = |keyword: &str, value: Value| property.insert(keyword.into(), value);
    let rules = field.rules();
    let mut extra =
        Extra { unique: rules.unique, fresh: rules.fresh, increasing: rules.increasing, ..Extra::default() };
    let mut types = vec![];
    match field.kind() {
        FieldKind::Number { range } => {
            types.push("number");
            let (low, high) = range.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
            let ends = [("minimum", low), ("maximum", high)];
            ends.into_iter()
                .filter(|(_, end)| end.is_finite())
                .for_each(|(keyword, end)| drop(set(keyword, end.into())));
            extra.unbounded = range.is_some() && low.is_infinite() && high.is_infinite();
        }
        FieldKind::Integer { range } => {
            types.push("integer");
            if let Some((low, high)) = range {
                set("minimum", (*low).into());
                set("maximum", (*high).into());
            }
        }
        FieldKind::Boolean => types.push("boolean"),
        FieldKind::Category { allowed } => {
            types.push("string");
            let mut allowed: Vec<Value> = allowed.iter().map(|value| value.as_str().into()).collect();
            if field.is_nullable() {
                allowed.push(Value::Null);
            }
            set("enum", allowed.into());
        }
        FieldKind::Text { max_bytes } => {
            types.push("string");
            set("maxLength", (*max_bytes).into());
            extra.max_bytes = Some(*max_bytes);
        }
        FieldKind::Timestamp => {
            types.extend(["string", "integer"]);
            set("format", "date-time".into());
        }
        FieldKind::Embedding { dimension } => {
            types.push("array");
            set("items", json!({"type": "number"}));
            set("minItems", (*dimension).into());
            set("maxItems", (*dimension).into());
        }
    }
    if let Some(pattern) = &rules.pattern {
        set("pattern", pattern.as_str().into());
    }
    if field.is_nullable() {
        types.push("null");
    }
    set("type", if let [only] = types[..] { only.into() } else { types.into() });
    if extra != Extra::default() {
        set(EXTENSION, json!(extra));
    }
    property.into()
}

#[cfg(test)]
mod tests;
