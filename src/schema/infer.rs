//! A schema guessed from examples, for a host that wants to start before it writes one.

use hashbrown::HashMap;
use serde_json::Value;

use super::{Field, Schema, SchemaError, Target};

/// At most this many different texts make a category; more make free text.
const MOST_CATEGORIES: usize = 64;

impl Schema {
    /// Guesses a schema from example rows (JSON objects, or anything that serialises to one).
    ///
    /// A field is a boolean, integer, number, embedding (an array of numbers, all of one length), timestamp (RFC 3339
    /// text), category (at most 64 different texts, each seen twice on average) or text (with room for twice the
    /// longest). It is nullable if it was null or absent once. Ranges are not guessed: the largest value seen is no law.
    /// Fields are ordered by name.
    ///
    /// # Errors
    /// No rows, a row that is not an object, a field of mixed kinds or without any value, a bad target.
    pub fn infer<T: serde::Serialize>(rows: &[T], target: Target) -> Result<Schema, SchemaError> {
        let mut names: Vec<String> = Vec::new();
        let mut columns: HashMap<String, Vec<Value>> = HashMap::new();
        for (index, row) in rows.iter().enumerate() {
            let value = serde_json::to_value(row).map_err(|e| SchemaError::Infer(format!("row {index}: {e}")))?;
            let Value::Object(object) = value else {
                return Err(SchemaError::Infer(format!("row {index} is not an object")));
            };
            for (name, value) in object {
                if !columns.contains_key(&name) {
                    names.push(name.clone());
                }
                columns.entry(name).or_default().push(value);
            }
        }
        if rows.is_empty() {
            return Err(SchemaError::Infer("there are no rows".into()));
        }
        let fields =
            names.iter().map(|name| infer_field(name, &columns[name], rows.len())).collect::<Result<Vec<_>, _>>()?;
        Schema::new(fields, target)
    }
}

fn infer_field(name: &str, values: &[Value], rows: usize) -> Result<Field, SchemaError> {
    let present: Vec<&Value> = values.iter().filter(|v| !v.is_null()).collect();
    let nullable = present.len() < rows;
    let mixed = || SchemaError::Infer(format!("field `{name}` has values of different kinds"));
    let field = match present.first() {
        None => return Err(SchemaError::Infer(format!("field `{name}` has no value in any row"))),
        Some(Value::Bool(_)) if present.iter().all(|v| v.is_boolean()) => Field::boolean(name),
        Some(Value::Number(_)) if present.iter().all(|v| v.is_i64()) => Field::integer(name),
        Some(Value::Number(_)) if present.iter().all(|v| v.is_number()) => Field::number(name),
        Some(Value::Array(first)) => {
            let fits =
                |v: &&Value| v.as_array().is_some_and(|a| a.len() == first.len() && a.iter().all(Value::is_number));
            if first.is_empty() || !present.iter().all(fits) {
                return Err(mixed());
            }
            Field::embedding(name, first.len())
        }
        Some(Value::String(_)) => {
            let texts = present.iter().map(|v| v.as_str().ok_or_else(mixed)).collect::<Result<Vec<_>, _>>()?;
            infer_text(name, &texts)
        }
        Some(_) => return Err(mixed()),
    };
    Ok(if nullable { field.nullable() } else { field })
}

fn infer_text(name: &str, texts: &[&str]) -> Field {
    if texts.iter().all(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok()) {
        return Field::timestamp(name);
    }
    let mut distinct = texts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() <= MOST_CATEGORIES && distinct.len() * 2 <= texts.len() {
        return Field::category(name, distinct);
    }
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(1);
    Field::text(name, (2 * longest).max(16))
}
