//! A row as JSON, for people and for programs in other languages.

use serde_json::{Map, Value};

use super::{FieldKind, Row, Schema, Slot, UNSEEN_CODE};
use crate::clock::from_micros;

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

    fn value(&self, schema: &Schema, field: usize) -> Value {
        if self.is_missing(schema, field) {
            return Value::Null;
        }
        match schema.slot(field) {
            Slot::Values { at, len, .. } => match schema.fields()[field].kind() {
                FieldKind::Embedding { .. } => self.values[at..at + len].iter().copied().map(number).collect(),
                FieldKind::Boolean if self.values[at].is_finite() => Value::Bool(self.values[at] != 0.0),
                _ => self.integer(schema, field).map_or_else(|| number(self.values[at]), Value::from),
            },
            Slot::Time { .. } => self.integer(schema, field).map_or(Value::Null, |micros| {
                from_micros(micros).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into()
            }),
            Slot::Code { at } if self.codes[at] == UNSEEN_CODE => UNSEEN.into(),
            Slot::Code { at } => {
                schema.category_values(at).get(self.codes[at] as usize).map_or(Value::Null, |text| text.as_str().into())
            }
            Slot::Text { at } => self.texts[at].as_deref().map_or(Value::Null, Value::from),
        }
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

        row.codes[0] = UNSEEN_CODE;
        assert_eq!(row.to_json(&schema)["country"], "__unseen__");
    }
}
