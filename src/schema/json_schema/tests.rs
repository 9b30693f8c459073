#![allow(clippy::unwrap_used, clippy::expect_used)]

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::schema::Row;
use crate::stats::golden;

fn read(json: Value) -> Result<Schema, SchemaError> {
    Schema::from_json_schema(&json, Target::Value)
}

/// The schema of one required property.
fn one(property: Value) -> Result<Field, SchemaError> {
    Ok(read(json!({"properties": {"x": property}, "required": ["x"]}))?.fields()[0].clone())
}

fn any_field() -> impl Strategy<Value = Field> {
    let end = prop_oneof![Just(f64::NEG_INFINITY), Just(-1.5), Just(0.1), Just(1e300), Just(f64::INFINITY)];
    let number = prop::option::of((end.clone(), end)).prop_map(|range| match range {
        Some((low, high)) if low <= high && low < f64::INFINITY && high > f64::NEG_INFINITY => {
            Field::number("x").range(low, high)
        }
        _ => Field::number("x"),
    });
    let integer = prop::option::of((any::<i64>(), any::<i64>())).prop_map(|range| Field {
        kind: FieldKind::Integer { range: range.map(|(a, b)| (a.min(b), a.max(b))) },
        ..Field::integer("x")
    });
    let text = (1..100_000_usize, prop::option::of(Just("^[a-z]+$"))).prop_map(|(bytes, pattern)| match pattern {
        Some(pattern) => Field::text("x", bytes).pattern(pattern),
        None => Field::text("x", bytes),
    });
    let time = prop::option::of(0..1_000_000_i64).prop_map(|age| match age {
        Some(age) => Field::timestamp("x").fresh(TimeDelta::microseconds(age)),
        None => Field::timestamp("x"),
    });
    let category = prop::collection::hash_set(".{0,5}", 1..4).prop_map(|allowed| Field::category("x", allowed));
    let kind = prop_oneof![
        number,
        integer,
        text,
        time,
        category,
        Just(Field::boolean("x")),
        (1..9_usize).prop_map(|dimension| Field::embedding("x", dimension)),
    ];
    (kind, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(field, nullable, unique, increasing)| {
        let ordered =
            matches!(field.kind(), FieldKind::Number { .. } | FieldKind::Integer { .. } | FieldKind::Timestamp);
        let field = if nullable { field.nullable() } else { field };
        let field = if unique { field.unique() } else { field };
        if increasing && ordered { field.increasing() } else { field }
    })
}

proptest! {
    #[test]
    fn a_schema_reads_back_as_itself(fields in prop::collection::vec((any_field(), "[a-z~/\"]{0,3}"), 0..8)) {
        let numbered = |(n, (field, name)): (usize, (Field, String))| Field { name: format!("{name}{}", 9 - n), ..field };
        let schema = Schema::new(fields.into_iter().enumerate().map(numbered), Target::Value).unwrap();
        let text = schema.to_json_schema().to_string();
        let again = Schema::from_json_schema(&serde_json::from_str(&text).unwrap(), Target::Value).unwrap();
        prop_assert_eq!(again.fields(), schema.fields());
        prop_assert_eq!(again.fingerprint(), schema.fingerprint());
    }
}

/// Verdicts of another validator on rows, for schemas of ours; the file says which.
#[test]
fn rows_are_valid_where_another_validator_finds_them_valid() {
    let mut rows = 0;
    for case in golden::cases("json_schema") {
        let (json, json_row) = (&case.inputs["schema"], &case.inputs["row"]);
        let schema = Schema::from_json_schema(json, Target::Value).unwrap();
        assert_eq!(schema.to_json_schema(), *json, "it is an export of ours");
        let mut row = Row::new(&schema);
        row.encode(&schema, json_row);
        let violations = schema.check(&row);
        assert_eq!(violations.is_empty(), case.outputs["valid"], "{}: {violations:?}", case.name);
        rows += 1;
    }
    assert!(rows >= 20);
}

#[test]
fn the_usual_forms_of_a_field_are_read() {
    let number = |low, high| Field::number("x").range(low, high);
    let cases = [
        (json!({"type": "number", "minimum": 0, "maximum": 2.5}), number(0.0, 2.5)),
        (json!({"type": "number", "minimum": 0}), number(0.0, f64::INFINITY)),
        (json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), number(5e-324, 1.0_f64.next_down())),
        (json!({"type": ["integer", "number"]}), Field::number("x")),
        (
            json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}),
            Field::integer("x").range(1.0, 9.0),
        ),
        (json!({"type": "integer", "minimum": 0.5, "maximum": 9.5}), Field::integer("x").range(1.0, 9.0)),
        (
            json!({"type": "boolean", "title": "t", "description": "d", "default": 1, "examples": []}),
            Field::boolean("x"),
        ),
        (json!({"enum": ["b", "a"]}), Field::category("x", ["b", "a"])),
        (json!({"const": "a"}), Field::category("x", ["a"])),
        (json!({"type": ["string", "null"], "enum": ["a", null]}), Field::category("x", ["a"]).nullable()),
        (json!({"type": "string", "enum": ["a", null]}), Field::category("x", ["a"])),
        (json!({"type": "string", "format": "date-time"}), Field::timestamp("x")),
        (json!({"type": "string", "format": "email", "minLength": 0}), Field::text("x", 65_536)),
        (json!({"type": "string", "maxLength": 10, "pattern": "^a"}), Field::text("x", 40).pattern("^a")),
        (json!({"type": "string", "nullable": true}), Field::text("x", 65_536).nullable()),
        (json!({"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0}]}), number(0.0, f64::INFINITY).nullable()),
        (json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), Field::boolean("x").nullable()),
        (json!({"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}), Field::embedding("x", 3)),
    ];
    for (json, field) in cases {
        assert_eq!(one(json.clone()), Ok(field), "{json}");
    }
    let optional = read(json!({"type": "object", "properties": {"x": {"type": "number"}}})).unwrap();
    assert!(optional.fields()[0].is_nullable(), "what may be absent may be null");
    let names = read(json!({"properties": {"b": {"type": "number"}, "a": {"type": "number"}}})).unwrap();
    assert_eq!(names.value_columns(), ["a", "b"]);
}

#[test]
fn what_would_change_validity_and_is_not_supported_is_an_error_with_its_place() {
    let place = |json: Value| match read(json) {
        Err(SchemaError::JsonSchema { path, .. }) => path,
        other => panic!("{other:?}"),
    };
    let of = |property: Value| place(json!({"properties": {"a/b": property}}));
    let at = |rest: &str| format!("/properties/a~1b{rest}");
    for (property, rest) in [
        (json!({"oneOf": []}), ""),
        (json!({"$ref": "#/$defs/x"}), ""),
        (json!({"type": "number", "multipleOf": 2}), "/multipleOf"),
        (json!({"type": "number", "if": {}}), "/if"),
        (json!({"type": "number", "not": {}}), "/not"),
        (json!({"type": "number", "minimum": "0"}), "/minimum"),
        (json!({"type": "number", "minimum": 0, "exclusiveMinimum": true}), "/exclusiveMinimum"),
        (json!({"type": "string", "minLength": 1}), "/minLength"),
        (json!({"type": "string", "maxLength": -1}), "/maxLength"),
        (json!({"type": "string", "pattern": 1}), "/pattern"),
        (json!({"type": ["string", "number"]}), "/type"),
        (json!({"type": "object", "properties": {}}), "/type"),
        (json!({"type": "null"}), ""),
        (json!({}), ""),
        (json!(true), ""),
        (json!({"enum": [1, 2]}), "/enum"),
        (json!({"enum": ["a"], "pattern": "a"}), "/pattern"),
        (json!({"const": null}), "/const"),
        (json!({"type": "number", "enum": ["a"]}), "/type"),
        (json!({"anyOf": [{"type": "string"}, {"type": "number"}]}), "/anyOf"),
        (json!({"anyOf": [{"type": "null"}, {"type": "number", "multipleOf": 2}]}), "/anyOf/1/multipleOf"),
        (json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}), "/items"),
        (
            json!({"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 1}),
            "/items/minimum",
        ),
        (json!({"type": "array", "items": {"type": "number"}, "minItems": 1}), ""),
        (json!({"type": "array", "items": {"type": "number"}, "uniqueItems": true}), "/uniqueItems"),
        (json!({"type": "number", "x-feedloop": {"what": 1}}), "/x-feedloop"),
    ] {
        let found = of(property.clone());
        assert!(found == at(rest) || (rest.is_empty() && found.starts_with(&at(""))), "{property}: {found}");
    }
    assert_eq!(place(json!({"properties": {}, "patternProperties": {}})), "/patternProperties");
    assert_eq!(place(json!({"properties": {}, "maxProperties": 3})), "/maxProperties");
    assert_eq!(place(json!({"properties": {}, "required": ["a"]})), "/required");
    assert_eq!(place(json!({"properties": {}, "additionalProperties": {"type": "number"}})), "/additionalProperties");
    assert_eq!(place(json!({"type": "array", "properties": {}})), "/type");
    assert_eq!(place(json!([])), "");
    let bad = one(json!({"type": "string", "pattern": "(?=a)"})).unwrap_err().to_string();
    assert!(bad.contains("`x`: its pattern is no regular expression"), "{bad}");
}
