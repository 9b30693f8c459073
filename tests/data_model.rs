//! Schemas, datasets and references: what they promise about identity, merging and files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use feedloop::{Dataset, Field, FieldKind, Half, Label, Reference, Row, Schema, SchemaError, Target, ViolationKind};
use serde::Serialize;

#[derive(Serialize)]
struct Payment {
    amount: f64,
    items: u32,
    card: bool,
    country: Option<&'static str>,
    note: &'static str,
    at: &'static str,
    embedding: [f32; 2],
}

const PAYMENT: Payment = Payment {
    amount: 12.5,
    items: 3,
    card: true,
    country: Some("FR"),
    note: "thanks",
    at: "2026-01-02T03:04:05Z",
    embedding: [0.5, -1.0],
};

fn schema() -> Schema {
    let fields = [
        Field::number("amount").range(0.0, 100.0),
        Field::integer("items"),
        Field::boolean("card"),
        Field::category("country", ["DE", "FR"]).nullable(),
        Field::text("note", 16),
        Field::timestamp("at"),
        Field::embedding("embedding", 2),
    ];
    Schema::new(fields, Target::classes(["good", "fraud"])).unwrap()
}

#[test]
fn a_struct_of_every_kind_of_field_is_encoded_as_it_is() {
    let schema = schema();
    let mut row = Row::new(&schema);
    row.encode(&schema, &PAYMENT);
    assert_eq!((row.values(), row.codes(), row.violations()), (&[12.5, 3.0, 1.0, 0.5, -1.0][..], &[1][..], &[][..]));
    assert_eq!(row.integer(&schema, 1), Some(3));
    assert_eq!(row.text(&schema, 4), Some("thanks"));
    assert_eq!(row.integer(&schema, 5), Some(1_767_323_045_000_000));
    let through_json: Row = serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap();
    assert_eq!(through_json.content_hash(), row.content_hash());
    let mut as_json = Row::new(&schema);
    as_json.encode(&schema, &serde_json::to_value(PAYMENT).unwrap());
    assert_eq!(as_json.content_hash(), row.content_hash());
}

#[test]
fn what_breaks_a_rule_is_found() {
    let schema = schema();
    let mut row = Row::new(&schema);
    row.encode(&schema, &Payment { amount: 1e6, ..PAYMENT });
    let found = schema.check(&row);
    assert!(matches!(found.as_slice(), [violation] if violation.kind == ViolationKind::OutOfRange(1e6)), "{found:?}");
}

#[test]
fn a_fingerprint_changes_with_any_rule_and_survives_json() {
    let again: Schema = serde_json::from_str(&serde_json::to_string(&schema()).unwrap()).unwrap();
    assert_eq!(again.fingerprint(), schema().fingerprint());
    let wider = Schema::new(
        schema()
            .fields()
            .iter()
            .cloned()
            .map(|field| if field.name() == "amount" { field.range(0.0, 101.0) } else { field }),
        schema().target().clone(),
    );
    assert_ne!(wider.unwrap().fingerprint(), schema().fingerprint());
    let twice = Schema::new([Field::number("x"), Field::number("x")], Target::Value);
    assert_eq!(twice.unwrap_err(), SchemaError::DuplicateField("x".into()));
}

#[test]
fn a_schema_is_inferred_from_examples() {
    let rows: Vec<Payment> = (0..40)
        .map(|i| Payment { amount: f64::from(i), country: [Some("DE"), None][i as usize % 2], ..PAYMENT })
        .collect();
    let schema = Schema::infer(&rows, Target::Value).unwrap();
    let kind = |name: &str| schema.fields()[schema.field_index(name).unwrap()].kind().clone();
    assert!(matches!(kind("amount"), FieldKind::Number { .. }));
    assert!(matches!(kind("items"), FieldKind::Integer { .. }));
    assert_eq!((kind("card"), kind("at")), (FieldKind::Boolean, FieldKind::Timestamp));
    assert_eq!(kind("country"), FieldKind::Category { allowed: vec!["DE".into()] });
    assert_eq!(kind("embedding"), FieldKind::Embedding { dimension: 2 });
    assert!(schema.fields()[schema.field_index("country").unwrap()].is_nullable());
    assert!(matches!(Schema::infer::<Payment>(&[], Target::Value), Err(SchemaError::Infer(_))));
}

fn numbers(rows: std::ops::Range<usize>) -> Dataset {
    let schema = Arc::new(Schema::numeric(2, Target::classes(["a", "b"])).unwrap());
    let row = |i: usize| {
        let missing = if i.is_multiple_of(11) { f64::NAN } else { (i * i % 97) as f64 };
        ([i as f64 * 0.37 % 5.0, missing], Label::Class((i % 2) as u32))
    };
    Dataset::from_values(schema, rows.map(row)).unwrap()
}

#[test]
fn a_digest_is_of_the_content_and_not_of_its_order() {
    let (front, back) = (numbers(0..50), numbers(50..100));
    let (mut one, mut other) = (front.clone(), back.clone());
    one.extend(&back).unwrap();
    other.extend(&front).unwrap();
    assert_eq!(one.digest(), other.digest());
    assert_ne!(one.digest(), numbers(0..99).digest());
    let mut twice = one.clone();
    twice.extend(&numbers(0..1)).unwrap();
    assert_ne!(one.digest(), twice.digest());
}

#[test]
fn references_of_parts_merge_to_the_reference_of_the_whole() {
    let whole = Reference::fit(&numbers(0..3_000)).unwrap();
    let part = |rows: std::ops::Range<usize>| {
        let data = numbers(rows.clone());
        let mut builder = Reference::builder(data.schema().clone()).starting_at(rows.start as u64);
        for (row, label) in data.rows().iter().zip(data.labels()) {
            builder.push(row, None, Some(*label)).unwrap();
        }
        builder.finish()
    };
    let mut merged = part(0..1_100);
    merged.merge(&part(1_100..3_000)).unwrap();
    let sorted = |reference: &Reference| {
        let mut rows: Vec<String> = reference.sample().map(|row| serde_json::to_string(row).unwrap()).collect();
        rows.sort();
        rows
    };
    assert_eq!(sorted(&merged), sorted(&whole));
    assert_eq!(merged.rows(), whole.rows());
    assert_eq!(merged.missing_share(1), whole.missing_share(1));
    for half in [Half::Fit, Half::Calibration] {
        let ((mean, covariance, rows), (mean_of_whole, covariance_of_whole, rows_of_whole)) =
            (merged.moments(half), whole.moments(half));
        assert_eq!(rows, rows_of_whole);
        for (a, b) in mean.iter().zip(&mean_of_whole).chain(covariance.iter().zip(&covariance_of_whole)) {
            assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} and {b}");
        }
    }
    let other = Schema::numeric(3, Target::Value).unwrap();
    let other = Reference::builder(Arc::new(other)).finish();
    assert!(matches!(merged.merge(&other), Err(SchemaError::Fingerprint { .. })));
}

#[test]
fn a_reference_is_the_same_after_it_was_saved_and_a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reference.json");
    let reference = Reference::fit(&numbers(0..500)).unwrap();
    reference.save(&path).unwrap();
    let loaded = Reference::load(&path).unwrap();
    let bits =
        |reference: &Reference| -> Vec<u64> { reference.column(1).iter().map(|value| value.to_bits()).collect() };
    assert_eq!(bits(&loaded).len(), 500);
    assert_eq!(loaded.moments(Half::Fit).1, reference.moments(Half::Fit).1);
    let text = std::fs::read_to_string(&path).unwrap().replacen("\"format\":1", "\"format\":9", 1);
    std::fs::write(&path, text).unwrap();
    let refused = Reference::load(&path).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("format 9") && why.contains("format 1"), "{why}");
    assert!(Reference::load(directory.path().join("none.json")).is_err());
}
