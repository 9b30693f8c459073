#![allow(clippy::unwrap_used, clippy::expect_used)]

use chrono::{DateTime, TimeDelta};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Computed by the release before fields had rules beside their kind: stores know their schema by it.
#[test]
fn fingerprints_of_schemas_without_rules_do_not_change() {
    let fields = [
        Field::number("amount").range(0.0, 1e6),
        Field::number("rate").nullable(),
        Field::integer("count").range(0.0, 10.0),
        Field::boolean("new"),
        Field::category("country", ["DE", "FR"]).nullable(),
        Field::text("note", 80).nullable(),
        Field::timestamp("at"),
        Field::embedding("vector", 3),
    ];
    let schema = Schema::new(fields, Target::classes(["good", "fraud"])).unwrap();
    assert_eq!(schema.fingerprint(), "36fbcff28e44b984d57aeeb31c4b0aac");
    assert_eq!(Schema::numeric(2, Target::Value).unwrap().fingerprint(), "b0de095d2b39b00cfc6fcdfca42fcaa3");
    let open = Schema::new([Field::number("amount").range(0.0, f64::INFINITY)], Target::Value).unwrap();
    assert_eq!(open.fingerprint(), "7d66b16b31736609a1948022ef009c44");
}

/// Every rule on a field that can have it.
fn ruled() -> Schema {
    let fields = [
        Field::text("code", 8).pattern("^[a-z]{2}[0-9]+$").unique(),
        Field::timestamp("at").fresh(TimeDelta::hours(1)).increasing(),
        Field::number("total").range(0.0, f64::INFINITY).increasing().nullable(),
        Field::number("balance").range(f64::NEG_INFINITY, 1e6),
    ];
    Schema::new(fields, Target::Value).unwrap()
}

#[test]
fn rules_are_written_read_back_and_change_the_fingerprint() {
    let schema = ruled();
    let json = serde_json::to_string(&schema).unwrap();
    let again: Schema = serde_json::from_str(&json).unwrap();
    assert_eq!(again, schema);
    assert_eq!(again.fields(), schema.fields());
    let number = |field: Field| Schema::new([field], Target::Value).unwrap();
    assert_ne!(number(Field::number("x")), number(Field::number("x").unique()));
    assert_ne!(number(Field::number("x")), number(Field::number("x").increasing()));
}

#[test]
fn a_rule_that_a_field_cannot_have_is_a_mistake_that_names_it() {
    let what = |field: Field| Schema::new([field], Target::Value).unwrap_err().to_string();
    assert!(what(Field::text("code", 8).pattern("[a-")).contains("`code`: its pattern is no regular expression"));
    assert!(what(Field::category("c", ["a"]).pattern("a")).contains("texts only"));
    assert!(what(Field::number("n").fresh(TimeDelta::hours(1))).contains("timestamps only"));
    assert!(what(Field::timestamp("t").fresh(TimeDelta::seconds(-1))).contains("negative"));
    assert!(what(Field::boolean("b").increasing()).contains("increase"));
    assert!(what(Field::number("n").range(f64::INFINITY, f64::INFINITY)).contains("range"));
}

#[test]
fn texts_are_checked_against_their_pattern() {
    let schema = Schema::new([Field::text("code", 8).pattern("^[a-z]{2}[0-9]+$").nullable()], Target::Value).unwrap();
    let check = |value: serde_json::Value| {
        let mut row = Row::new(&schema);
        row.encode(&schema, &json!({ "code": value }));
        schema.check(&row).into_iter().map(|violation| violation.kind).collect::<Vec<_>>()
    };
    assert_eq!(check(json!("ab12")), []);
    assert_eq!(check(json!(null)), [], "a missing value matches nothing and breaks nothing");
    assert_eq!(check(json!("ab")), [ViolationKind::Mismatch("ab".into())]);
    assert_eq!(check(json!("ab1234567")), [ViolationKind::WrongLength(9)], "one complaint for one field");
}

#[test]
fn a_timestamp_is_fresh_from_its_largest_age_to_a_minute_ahead() {
    let schema = Schema::new([Field::timestamp("at").fresh(TimeDelta::hours(1)).nullable()], Target::Value).unwrap();
    let now = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
    let check = |seconds: Option<i64>| {
        let mut row = Row::new(&schema);
        row.integers[0] = seconds.map_or(row::MISSING_INTEGER, |seconds| now.timestamp_micros() - seconds * 1_000_000);
        assert_eq!(schema.check(&row), [], "the time of the observation is not known");
        schema.check_at(&row, now).into_iter().map(|violation| violation.kind).collect::<Vec<_>>()
    };
    assert_eq!([check(Some(3_600)), check(Some(-60)), check(None)], [[], [], []]);
    assert_eq!(check(Some(3_601)), [ViolationKind::Stale(3_601.0)]);
    assert_eq!(check(Some(-61)), [ViolationKind::Future(61.0)]);
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(1.0),
        Just(2.0),
        Just(0.5),
        Just(11.0),
        Just(1e300),
        Just(-1.0)
    ]
}

proptest! {
    /// The quick look and the one that names every violation agree on what is clean.
    #[test]
    fn the_plan_accepts_what_the_rules_accept(
        values in prop::collection::vec(any_value(), 9),
        integers in prop::collection::vec(prop_oneof![Just(i64::MIN), Just(0), Just(5), Just(11)], 3),
        codes in prop::collection::vec(prop_oneof![Just(MISSING_CODE), Just(UNSEEN_CODE), Just(0_u32), Just(1), Just(2)], 2),
        texts in prop::collection::vec(prop::option::of("[ab]{0,5}"), 2),
    ) {
        let fields = [
            Field::number("a").range(0.0, 10.0), Field::number("b").nullable(),
            Field::number("c").range(0.0, f64::INFINITY).nullable(),
            Field::integer("i").range(0.0, 10.0), Field::integer("j").nullable(),
            Field::boolean("k").nullable(), Field::boolean("l"),
            Field::embedding("e", 2).nullable(), Field::timestamp("t"),
            Field::category("x", ["p", "q"]), Field::category("y", ["p"]).nullable(),
            Field::text("v", 4), Field::text("w", 4).pattern("^a").nullable(),
        ];
        let schema = Schema::new(fields, Target::Value).unwrap();
        let mut row = Row::new(&schema);
        row.values.copy_from_slice(&values);
        row.integers.copy_from_slice(&integers);
        row.codes.copy_from_slice(&codes);
        row.texts.clone_from_slice(&texts);
        prop_assert_eq!(schema.plan().keeps(&row), schema.every_broken_rule(&row) == 0, "{:?}", row);
    }
}
