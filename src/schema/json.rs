//! A row as JSON, for people and for programs in other languages.

use chrono::DateTime;
use serde_json::{Map, Value};

use super::{FieldKind, Row, Schema, Slot, UNSEEN_CODE};
use crate::clock::from_micros;
use crate::error::{BoxError, message};

/// What stands for a category value that the schema does not list; its text is not kept.
const UNSEEN: &str = "__unseen__";

impl Row {
    /// The row as a JSON object: names of the fields to their values.
    ///
    /// A missing value is `null`. Categories and texts are texts (`__unseen__` for a category that the schema does not
    /// list), timestamps RFC 3339 texts, embeddings arrays. Infinities, which JSON does not have, are the texts `inf`
    /// and `-inf`.
    pub fn to_json(&self, schema: &Schema) -> Value {
        let fields = schema.fields().iter().enumerate();
        let object: Map<_, _> =
            fields.map(|(index, field)| (field.name().to_owned(), self.value(schema, index))).collect();
        Value::Object(object)
    }

    /// The text of field `field`, if it is a category and present; `__unseen__` if the schema does not list it.
    pub(crate) fn category<'s>(&self, schema: &'s Schema, field: usize) -> Option<&'s str> {
        let Slot::Code { at } = schema.slot(field) else { return None };
        match self.codes.get(at) {
            Some(&UNSEEN_CODE) => Some(UNSEEN),
            Some(&code) => schema.category_values(at).get(code as usize).map(String::as_str),
            None => None,
        }
    }

    fn value(&self, schema: &Schema, field: usize) -> Value {
        if self.is_missing(schema, field) {
            return Value::Null;
        }
        match schema.slot(field) {
            Slot::Values { at, len, .. } => match schema.fields()[field].kind() {
                FieldKind::Embedding { .. } => self.values[at..at + len].iter().copied().map(number).collect(),
                FieldKind::Boolean if self.values[at] == 0.0 => Value::Bool(false),
                FieldKind::Boolean if self.values[at] == 1.0 => Value::Bool(true),
                _ => self.integer(schema, field).map_or_else(|| number(self.values[at]), Value::from),
            },
            Slot::Time { .. } => self.integer(schema, field).map_or(Value::Null, |micros| {
                from_micros(micros).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into()
            }),
            Slot::Code { .. } => self.category(schema, field).map_or(Value::Null, Value::from),
            Slot::Text { at } => self.texts[at].as_deref().map_or(Value::Null, Value::from),
        }
    }
}

impl Row {
    /// The row that [`to_json`](Self::to_json) wrote: the same content, so the same digest. Unknown fields are refused, fields
    /// that are not there are missing.
    ///
    /// # Errors
    /// It names the field that does not fit the schema.
    pub(crate) fn from_json(schema: &Schema, object: &Value) -> Result<Row, BoxError> {
        let object = object.as_object().ok_or_else(|| message("the row is not an object"))?;
        let mut row = Row::new(schema);
        for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            let field = schema.field_index(name).ok_or_else(|| message(format!("field `{name}` is unknown")))?;
            row.set(schema, field, value).ok_or_else(|| message(format!("field `{name}` cannot be {value}")))?;
        }
        Ok(row)
    }

    fn set(&mut self, schema: &Schema, field: usize, value: &Value) -> Option<()> {
        match schema.slot(field) {
            Slot::Values { at, len, .. } if matches!(schema.fields()[field].kind(), FieldKind::Embedding { .. }) => {
                let parts = value.as_array().filter(|parts| parts.len() == len)?;
                for (cell, part) in self.values[at..at + len].iter_mut().zip(parts) {
                    *cell = if part.is_null() { f64::NAN } else { float(part)? };
                }
            }
            Slot::Values { at, integer, .. } => {
                // A whole number without a fraction is one that the row knows exactly.
                if let (Some(integer), Some(exact)) = (integer, value.as_i64()) {
                    self.integers[integer] = exact;
                }
                self.values[at] = value.as_bool().map(f64::from).or_else(|| float(value))?;
            }
            Slot::Time { at } => {
                self.integers[at] = DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_micros();
            }
            Slot::Code { at } => {
                let text = value.as_str()?;
                self.codes[at] = match schema.category_code(at, text) {
                    Some(code) => code,
                    None if text == UNSEEN => UNSEEN_CODE,
                    None => return None,
                };
            }
            Slot::Text { at } => self.put_text(at, value.as_str()?),
        }
        Some(())
    }
}

/// A number as [`number`] wrote it.
fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// A number as JSON.
fn number(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::Null,
        None => Value::from(if value > 0.0 { "inf" } else { "-inf" }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use crate::{Field, Row, Schema, Target, UNSEEN_CODE};
    use serde_json::json;

    #[test]
    fn every_kind_of_field_has_its_json_form() {
        let fields = [
            Field::number("amount"),
            Field::integer("count"),
            Field::boolean("member"),
            Field::category("country", ["DE", "FR"]),
            Field::text("note", 20),
            Field::timestamp("at"),
            Field::embedding("vector", 2),
        ];
        let schema = Schema::new(fields, Target::Value).unwrap();
        let mut row = Row::new(&schema);
        let missing = json!({"amount": null, "count": null, "member": null, "country": null, "note": null, "at": null,
            "vector": null});
        assert_eq!(row.to_json(&schema), missing);

        row.values.copy_from_slice(&[0.1, 9_007_199_254_740_993_i64 as f64, 1.0, f64::INFINITY, f64::NAN]);
        row.integers.copy_from_slice(&[9_007_199_254_740_993, 1_700_000_000_250_000]);
        row.codes[0] = 1;
        row.put_text(0, "so \"it\" is");
        let full = json!({"amount": 0.1, "count": 9_007_199_254_740_993_i64, "member": true, "country": "FR",
            "note": "so \"it\" is", "at": "2023-11-14T22:13:20.250Z", "vector": ["inf", null]});
        assert_eq!(row.to_json(&schema), full);

        assert_eq!(Row::from_json(&schema, &full).unwrap().content_hash(), row.content_hash());

        row.codes[0] = UNSEEN_CODE;
        assert_eq!(row.to_json(&schema)["country"], "__unseen__");
    }

    #[test]
    fn every_row_comes_back_from_its_json_with_the_same_content() {
        let fields = [
            Field::number("amount"),
            Field::integer("count"),
            Field::boolean("member"),
            Field::category("country", ["DE", "FR"]),
            Field::text("note", 20),
            Field::timestamp("at"),
            Field::embedding("vector", 2),
        ];
        let schema = Schema::new(fields, Target::Value).unwrap();
        let cells = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, 0.1, 3.0, 1e300, 5e-324];
        let same = |row: &Row| {
            let text = row.to_json(&schema).to_string();
            let read = Row::from_json(&schema, &serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(read.content_hash(), row.content_hash(), "{text}");
            assert_eq!(read.to_json(&schema).to_string(), text);
        };
        for (index, &value) in cells.iter().enumerate() {
            for code in [crate::MISSING_CODE, UNSEEN_CODE, 0, 1] {
                // a slice gives values without exact whole numbers
                let mut row =
                    Row::from_values(&schema, &[value, value, value, value, cells[(index + 3) % 10]]).unwrap();
                (row.codes[0], row.integers[1]) = (code, -1);
                row.put_text(0, "inf");
                same(&row);
            }
        }
        let mut row = Row::new(&schema);
        row.encode(
            &schema,
            &json!({"count": i64::MAX - 1, "member": true, "at": 1_700_000_000_250_000_i64, "note": ""}),
        );
        same(&row);
        row.encode(&schema, &json!({"count": i64::MIN + 1, "member": false, "at": -1}));
        same(&row);
    }

    #[test]
    fn json_that_is_no_row_names_the_field() {
        let schema =
            Schema::new([Field::category("country", ["DE"]), Field::embedding("v", 2)], Target::Value).unwrap();
        let why = |value| Row::from_json(&schema, &value).unwrap_err().to_string();
        assert_eq!(why(json!([1])), "the row is not an object");
        assert_eq!(why(json!({"town": 1})), "field `town` is unknown");
        assert_eq!(why(json!({"country": "AT"})), "field `country` cannot be \"AT\"");
        assert_eq!(why(json!({"v": [1.0]})), "field `v` cannot be [1.0]");
    }
}
