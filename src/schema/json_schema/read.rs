//! Reading JSON Schema.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{EXTENSION, Extra, Whole};
use crate::schema::{Field, FieldKind, Rules, SchemaError};

/// Bytes of a text whose length is not limited.
const LONGEST_TEXT: usize = 65_536;
/// Keywords that change what is valid, of draft 2020-12 and of older drafts; others are annotations.
const ASSERTIONS: [&str; 40] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependentRequired",
    "dependencies",
    "prefixItems",
    "items",
    "additionalItems",
    "contains",
    "minContains",
    "maxContains",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "type",
    "enum",
    "const",
    "multipleOf",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "required",
];

type Object = Map<String, Value>;

fn wrong(path: &str, what: impl Into<String>) -> SchemaError {
    SchemaError::JsonSchema { path: path.into(), what: what.into() }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Object, SchemaError> {
    value.as_object().ok_or_else(|| wrong(path, "an object is expected"))
}

/// Complains about the first keyword that changes what is valid and is not one of `known`.
fn only(schema: &Object, path: &str, known: &[&str]) -> Result<(), SchemaError> {
    let asks_nothing = |keyword: &str, value: &Value| match keyword {
        "minLength" | "minItems" | "minProperties" => value == &Value::from(0),
        "uniqueItems" => value == &Value::Bool(false),
        _ => false,
    };
    let strange = schema.iter().find(|(keyword, value)| {
        let keyword = keyword.as_str();
        let asserts = ASSERTIONS.contains(&keyword) || ["minProperties", "maxProperties"].contains(&keyword);
        asserts && !known.contains(&keyword) && !asks_nothing(keyword, value)
    });
    match strange {
        Some((keyword, _)) => Err(wrong(&below(path, keyword), format!("`{keyword}` is not supported here"))),
        None => Ok(()),
    }
}

fn extension<T: DeserializeOwned + Default>(schema: &Object, path: &str) -> Result<T, SchemaError> {
    match schema.get(EXTENSION) {
        Some(value) => serde_json::from_value(value.clone()).map_err(|e| wrong(&below(path, EXTENSION), e.to_string())),
        None => Ok(T::default()),
    }
}

/// The fields of a JSON Schema for an object.
pub(super) fn fields(json: &Value) -> Result<Vec<Field>, SchemaError> {
    let whole = object(json, "")?;
    only(whole, "", &["type", "properties", "required", "additionalProperties"])?;
    if whole.get("type").is_some_and(|kind| kind != "object") {
        return Err(wrong("/type", "a row is an object"));
    }
    if whole.get("additionalProperties").is_some_and(|allowed| !allowed.is_boolean()) {
        return Err(wrong("/additionalProperties", "true or false is expected"));
    }
    let properties = whole.get("properties").ok_or_else(|| wrong("", "there are no `properties`"))?;
    let properties = object(properties, "/properties")?;
    let names = |key: &str| match whole.get(key).map(Value::as_array) {
        None => Ok(Vec::new()),
        Some(list) => list
            .and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
            .ok_or_else(|| wrong(&below("", key), "a list of names is expected")),
    };
    let required = names("required")?;
    if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
        return Err(wrong("/required", format!("`{name}` is required and no property")));
    }
    let order = extension::<Whole>(whole, "")?.order;
    let mut sorted: Vec<(&String, &Value)> = properties.iter().collect();
    let place = |name: &String| order.iter().position(|known| known == name).unwrap_or(order.len());
    sorted.sort_by_key(|(name, _)| (place(name), name.as_str()));
    let read = |(name, value): (&String, &Value)| {
        field(name, value, required.contains(&name.as_str()), &below("/properties", name))
    };
    sorted.into_iter().map(read).collect()
}

fn field(name: &str, value: &Value, required: bool, path: &str) -> Result<Field, SchemaError> {
    let (schema, path, null) = without_null(object(value, path)?, path)?;
    let extra: Extra = extension(schema, &path)?;
    let (kind, or_null) = match (schema.get("enum"), schema.get("const")) {
        (None, None) => kind(schema, &extra, &path)?,
        _ => (category(schema, &path)?, listed(schema, "enum").any(Value::is_null) && may_be_null(schema, &path)?),
    };
    let pattern = schema.get("pattern").map(|pattern| {
        let text = pattern.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong(&below(&path, "pattern"), "a text is expected"))
    });
    let rules =
        Rules { pattern: pattern.transpose()?, unique: extra.unique, fresh: extra.fresh, increasing: extra.increasing };
    Ok(Field { name: name.into(), kind, nullable: null || or_null || !required, rules })
}

/// The other half of an `anyOf` with null, or the schema itself.
fn without_null<'a>(schema: &'a Object, path: &str) -> Result<(&'a Object, String, bool), SchemaError> {
    let Some(either) = schema.get("anyOf") else { return Ok((schema, path.into(), false)) };
    only(schema, path, &["anyOf"])?;
    let path = below(path, "anyOf");
    let is_null = |value: &Value| value.get("type").is_some_and(|kind| kind == "null");
    let at = match either.as_array().map(Vec::as_slice) {
        Some([null, _]) if is_null(null) => 1,
        Some([_, null]) if is_null(null) => 0,
        _ => return Err(wrong(&path, "only a choice between something and null is supported")),
    };
    let path = below(&path, &at.to_string());
    Ok((object(&either[at], &path)?, path, true))
}

/// The types, null aside; and is null one of them?
fn types<'a>(schema: &'a Object, path: &str) -> Result<(Vec<&'a str>, bool), SchemaError> {
    let mut types = match schema.get("type") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(wrong(&below(path, "type"), "a type or a list of types is expected")),
    };
    let null = types.contains(&"null");
    types.retain(|kind| *kind != "null");
    types.sort_unstable();
    Ok((types, null || schema.get("nullable") == Some(&Value::Bool(true))))
}

fn listed<'a>(schema: &'a Object, keyword: &str) -> impl Iterator<Item = &'a Value> {
    schema.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

/// A list of values with null is nullable only if the types allow null too.
fn may_be_null(schema: &Object, path: &str) -> Result<bool, SchemaError> {
    Ok(!schema.contains_key("type") || types(schema, path)?.1)
}

fn category(schema: &Object, path: &str) -> Result<FieldKind, SchemaError> {
    only(schema, path, &["type", "enum", "const"])?;
    let (types, _) = types(schema, path)?;
    if schema.contains_key("type") && types != ["string"] {
        return Err(wrong(&below(path, "type"), "only texts can be listed with `enum` or `const`"));
    }
    let texts = |values: Vec<&Value>, keyword: &str| {
        let texts = values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
        texts.ok_or_else(|| wrong(&below(path, keyword), "only texts can be listed"))
    };
    let allowed = match (schema.get("enum"), schema.get("const")) {
        (Some(_), None) => texts(listed(schema, "enum").filter(|value| !value.is_null()).collect(), "enum")?,
        (None, Some(only)) => texts(vec![only], "const")?,
        _ => return Err(wrong(path, "either `enum` or `const` is expected")),
    };
    Ok(FieldKind::Category { allowed })
}

fn kind(schema: &Object, extra: &Extra, path: &str) -> Result<(FieldKind, bool), SchemaError> {
    const ENDS: [&str; 5] = ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let (types, null) = types(schema, path)?;
    let time = schema.get("format").is_some_and(|format| format == "date-time");
    let kind = match types[..] {
        ["number"] | ["integer", "number"] => {
            only(schema, path, &ENDS)?;
            let whole_line = extra.unbounded.then_some((f64::NEG_INFINITY, f64::INFINITY));
            FieldKind::Number { range: numbers(schema, path)?.or(whole_line) }
        }
        ["integer"] => {
            only(schema, path, &ENDS)?;
            FieldKind::Integer { range: wholes(schema, path)? }
        }
        ["boolean"] => {
            only(schema, path, &["type"])?;
            FieldKind::Boolean
        }
        ["string"] | ["integer", "string"] if time => {
            only(schema, path, &["type"])?;
            FieldKind::Timestamp
        }
        ["string"] => {
            only(schema, path, &["type", "maxLength", "pattern"])?;
            let length = length(schema, path, "maxLength")?;
            let exact = extra.max_bytes.filter(|bytes| length == Some(*bytes));
            let max_bytes = exact.or(length.map(|characters| characters.saturating_mul(4))).unwrap_or(LONGEST_TEXT);
            FieldKind::Text { max_bytes }
        }
        ["array"] => {
            only(schema, path, &["type", "items", "minItems", "maxItems"])?;
            embedding(schema, path)?
        }
        [] => return Err(wrong(path, "it has no type other than null")),
        _ => return Err(wrong(&below(path, "type"), format!("{types:?} is no type of a field"))),
    };
    Ok((kind, null))
}

fn number<'a>(schema: &'a Object, path: &str, keyword: &str) -> Result<Option<&'a serde_json::Number>, SchemaError> {
    match schema.get(keyword) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(_) => Err(wrong(&below(path, keyword), "a number is expected")),
    }
}

fn length(schema: &Object, path: &str, keyword: &str) -> Result<Option<usize>, SchemaError> {
    let real = |number: &serde_json::Number| number.as_f64().filter(|real| *real >= 0.0 && real.fract() == 0.0);
    let whole =
        |number: &serde_json::Number| number.as_u64().map(|whole| whole as usize).or(Some(real(number)? as usize));
    let expected = || wrong(&below(path, keyword), "a whole number of at least 0 is expected");
    number(schema, path, keyword)?.map(|number| whole(number).ok_or_else(expected)).transpose()
}

fn embedding(schema: &Object, path: &str) -> Result<FieldKind, SchemaError> {
    let at = below(path, "items");
    let items = object(schema.get("items").ok_or_else(|| wrong(path, "an array needs `items`"))?, &at)?;
    only(items, &at, &["type"])?;
    if types(items, &at)? != (vec!["number"], false) {
        return Err(wrong(&at, "only arrays of numbers are supported"));
    }
    match (length(schema, path, "minItems")?, length(schema, path, "maxItems")?) {
        (Some(least), Some(most)) if least == most => Ok(FieldKind::Embedding { dimension: most }),
        _ => Err(wrong(path, "an array needs `minItems` equal to `maxItems`")),
    }
}

fn numbers(schema: &Object, path: &str) -> Result<Option<(f64, f64)>, SchemaError> {
    let end = |keyword: &str| Ok(number(schema, path, keyword)?.and_then(serde_json::Number::as_f64));
    // of the numbers that a computer has, those beyond an end start with the next one
    let lows = [end("minimum")?, end("exclusiveMinimum")?.map(f64::next_up)];
    let highs = [end("maximum")?, end("exclusiveMaximum")?.map(f64::next_down)];
    let low = lows.into_iter().flatten().fold(f64::NEG_INFINITY, f64::max);
    let high = highs.into_iter().flatten().fold(f64::INFINITY, f64::min);
    Ok((low.is_finite() || high.is_finite()).then_some((low, high)))
}

fn wholes(schema: &Object, path: &str) -> Result<Option<(i64, i64)>, SchemaError> {
    // `as` stops at the ends of what an `i64` can hold
    let low = |number: &serde_json::Number| number.as_i64().or_else(|| Some(number.as_f64()?.ceil() as i64));
    let high = |number: &serde_json::Number| number.as_i64().or_else(|| Some(number.as_f64()?.floor() as i64));
    let lows = [
        number(schema, path, "minimum")?.and_then(low),
        number(schema, path, "exclusiveMinimum")?.and_then(high).map(|end| end.saturating_add(1)),
    ];
    let highs = [
        number(schema, path, "maximum")?.and_then(high),
        number(schema, path, "exclusiveMaximum")?.and_then(low).map(|end| end.saturating_sub(1)),
    ];
    let bounded = lows.iter().chain(&highs).any(Option::is_some);
    let low = lows.into_iter().flatten().max().unwrap_or(i64::MIN);
    let high = highs.into_iter().flatten().min().unwrap_or(i64::MAX);
    Ok(bounded.then_some((low, high)))
}
