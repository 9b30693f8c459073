#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::*;
use crate::event::Output;
use crate::event::PredictionId;
use crate::gate::testing::{context, id, references, sample};
use crate::schema::Field;

fn schema() -> Schema {
    let fields = [
        Field::number("amount").range(0.0, 10.0),
        Field::number("rate").nullable(),
        Field::category("country", ["DE", "FR"]).nullable(),
    ];
    Schema::new(fields, Target::classes(["a", "b"])).unwrap()
}

fn verdict(gate: &mut SchemaGate, json: serde_json::Value, output: [f64; 2]) -> Option<String> {
    let (schema, references) = (schema(), references(&schema()));
    let mut sample = sample(&schema, 1);
    sample.observation.row.encode(&schema, &json);
    sample.observation.set_output(Output::Probabilities(&output));
    match gate.admit(&sample, &context(&schema, &references)).unwrap() {
        Admission::Pass => None,
        Admission::Quarantine(reason) => {
            assert_eq!(reason.code, "schema");
            Some(reason.detail)
        }
    }
}

#[test]
fn a_row_that_keeps_the_rules_passes_with_missing_optional_fields() {
    let json = serde_json::json!({"amount": 3.0, "rate": f64::NAN, "country": null});
    assert_eq!(verdict(&mut SchemaGate::default(), json, [0.2, 0.8]), None);
}

#[test]
fn every_violation_is_named() {
    let json = serde_json::json!({"amount": 30.0, "rate": 1.0, "country": "XX", "extra": 1});
    let detail = verdict(&mut SchemaGate::default(), json, [f64::NAN, 0.8]).unwrap();
    for part in ["`amount` is out of range: 30", "XX", "`extra` is unknown", "the output is not usable"] {
        assert!(detail.contains(part), "{part} in {detail}");
    }
}

#[test]
fn unknown_fields_and_unusable_outputs_can_be_allowed() {
    let json = serde_json::json!({"amount": 3.0, "extra": 1});
    let mut gate = SchemaGate::default().allow_unknown_fields();
    assert_eq!(verdict(&mut gate, json.clone(), [0.2, 0.8]), None);
    assert!(verdict(&mut gate, json.clone(), [0.2, 1.8]).is_some(), "not a probability");
    assert_eq!(verdict(&mut gate.allow_unusable_outputs(), json, [0.2, 1.8]), None);
}

#[test]
fn completeness_counts_fields_with_a_value() {
    let mut gate = SchemaGate::default().completeness(0.6);
    let two_of_three = serde_json::json!({"amount": 3.0, "country": "DE"});
    assert_eq!(verdict(&mut gate, two_of_three, [0.2, 0.8]), None);
    let detail = verdict(&mut gate, serde_json::json!({"amount": 3.0}), [0.2, 0.8]).unwrap();
    assert!(detail.contains("only 0.33"), "{detail}");
}

#[test]
fn the_reason_is_bounded_whatever_the_feed_sends() {
    let fields: serde_json::Map<_, _> =
        (0..500).map(|i| (format!("{i}-{}", "x".repeat(90)), serde_json::json!(1))).collect();
    let detail = verdict(&mut SchemaGate::default(), fields.into(), [0.2, 0.8]).unwrap();
    assert!(detail.len() < MOST_DETAIL + 50 && detail.contains("more"), "{}", detail.len());
}

#[test]
fn a_row_of_another_schema_is_quarantined() {
    let (schema, other) = (schema(), Schema::numeric(1, Target::classes(["a", "b"])).unwrap());
    let references = references(&schema);
    let verdict = SchemaGate::default().completeness(0.5).admit(&sample(&other, 1), &context(&schema, &references));
    assert!(matches!(verdict, Ok(Admission::Quarantine(_))));
}

#[test]
fn a_share_that_is_none_is_reported_when_the_pipeline_is_built() {
    let references = references(&schema());
    assert!(SchemaGate::default().completeness(1.5).rebase(&references).is_err());
    assert!(SchemaGate::default().completeness(f64::NAN).rebase(&references).is_err());
}

/// A gate for orders: number, time and amount.
struct Orders {
    schema: Schema,
    gate: SchemaGate,
}

impl Orders {
    fn new(gate: SchemaGate) -> Self {
        let fields = [
            Field::text("order", 16).unique().nullable(),
            Field::timestamp("at").fresh(TimeDelta::seconds(100)).increasing().nullable(),
            Field::integer("number").increasing().nullable(),
            Field::number("amount").range(0.0, 10.0).nullable(),
        ];
        Orders { schema: Schema::new(fields, Target::Value).unwrap(), gate }
    }

    fn offer(&mut self, n: u128, json: Value) -> Option<String> {
        let references = references(&self.schema);
        let mut sample = sample(&self.schema, n);
        sample.observation.row.encode(&self.schema, &json);
        sample.observation.set_output(Output::Value { value: 1.0, interval: None });
        match self.gate.admit(&sample, &context(&self.schema, &references)).unwrap() {
            Admission::Pass => None,
            Admission::Quarantine(reason) => Some(reason.detail),
        }
    }
}

#[test]
fn of_samples_with_one_value_in_a_unique_field_the_first_that_is_sound_passes() {
    let mut orders = Orders::new(SchemaGate::default());
    assert!(orders.offer(1, json!({"order": "a", "amount": 99.0})).unwrap().contains("`amount`"));
    assert_eq!(orders.offer(2, json!({"order": "a", "amount": 9.0})), None, "the first one was refused");
    assert_eq!(orders.offer(3, json!({"order": "b"})), None);
    let again = orders.offer(4, json!({"order": "a"})).unwrap();
    assert_eq!(again, format!("`order` has the value of sample {}", id(2)));
    assert_eq!([orders.offer(5, json!({})), orders.offer(6, json!({}))], [None, None], "missing equals nothing");
}

#[test]
fn an_increasing_field_never_falls_and_stands_still_at_will() {
    let mut orders = Orders::new(SchemaGate::default());
    assert_eq!(orders.offer(1, json!({"number": 9_007_199_254_740_993_i64})), None);
    assert_eq!(orders.offer(2, json!({"number": 9_007_199_254_740_993_i64})), None);
    let fell = orders.offer(3, json!({"number": 9_007_199_254_740_992_i64})).unwrap();
    assert!(fell.contains("`number` fell to"), "compared exactly: {fell}");
    assert!(orders.offer(4, json!({"number": 9_007_199_254_740_999_i64, "amount": 99.0})).is_some());
    assert_eq!(orders.offer(5, json!({"number": 9_007_199_254_740_994_i64})), None, "what was refused moves nothing");
    assert_eq!(orders.offer(1, json!({"number": 9_007_199_254_740_993_i64})), None, "offered again");
    assert!(orders.offer(6, json!({"number": 9_007_199_254_740_993_i64})).is_some(), "which moves nothing either");
}

#[test]
fn a_timestamp_is_compared_with_the_time_of_its_observation() {
    let mut orders = Orders::new(SchemaGate::default());
    // observation n was made n seconds after second 1,000,000,000
    assert_eq!(orders.offer(0, json!({"at": "2001-09-09T01:45:00Z"})), None);
    assert!(orders.offer(200, json!({"at": "2001-09-09T01:46:40Z"})).unwrap().contains("too old: 200 s"));
    assert!(orders.offer(0, json!({"at": "2001-09-09T01:45:00Z"})).is_none(), "the same verdict again");
    assert!(orders.offer(9, json!({"at": "2001-09-09T01:44:59.5Z"})).unwrap().contains("`at`"));
}

#[test]
fn a_sample_that_is_offered_again_gets_the_same_verdict_while_it_is_remembered() {
    let offers = |orders: &mut Orders, from: u128| -> Vec<_> {
        let row = |n: u128| json!({"order": format!("{}", n % 7), "number": 10 - (n as i64 % 4)});
        (from..from + 20).map(|n| orders.offer(n, row(n))).collect()
    };
    let mut orders = Orders::new(SchemaGate::default().remember(20));
    let first = offers(&mut orders, 0);
    assert!(first.iter().any(Option::is_some) && first.iter().any(Option::is_none));
    assert_eq!(offers(&mut orders, 0), first);
    for n in 100..200 {
        orders.offer(n, json!({"order": format!("{n}"), "number": 99}));
    }
    assert_eq!(orders.offer(999, json!({"order": "0", "number": 99})), None, "memory is bounded");
}

#[test]
fn a_restored_gate_goes_on_as_the_saved_one() {
    let row = |n: u128| json!({"order": format!("{}", n % 7), "number": n as i64 / 3 * 2 - n as i64 % 5});
    let mut whole = Orders::new(SchemaGate::default().remember(30));
    let mut cut = Orders::new(SchemaGate::default().remember(30));
    for n in 0..100 {
        let verdict = whole.offer(n, row(n));
        if n % 9 == 0 {
            let state = cut.gate.snapshot().unwrap();
            let written: Snapshot = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            cut.gate = SchemaGate::default().remember(30);
            cut.gate.restore(&written).unwrap();
        }
        assert_eq!(cut.offer(n, row(n)), verdict, "sample {n}");
    }
    assert_eq!(cut.gate.report(), whole.gate.report());
    assert!(cut.gate.report().refused > 10);
    let state = serde_json::json!({"tally": {"rows": 0, "refused": 0, "rules": []},
        "memory": {"samples": "0", "verdicts": {}, "values": {}, "largest": {}}});
    assert!(cut.gate.restore(&Snapshot::save(FORMAT, &state).unwrap()).is_err());
    assert!(cut.gate.restore(&Snapshot::Stateless).is_err());
    assert_eq!(cut.gate.report(), whole.gate.report(), "a refused state changes nothing");
}

#[test]
fn a_rule_across_fields_refuses_by_its_name() {
    let gate = SchemaGate::default().rule("rate_below_amount", |row, schema| {
        let at = |name: &str| row.values()[schema.value_columns().iter().position(|column| column == name).unwrap()];
        at("rate").is_nan() || at("rate") <= at("amount")
    });
    let mut gate = gate.rule("no_france", |row, _| row.codes()[0] != 1);
    assert_eq!(verdict(&mut gate, json!({"amount": 3.0, "rate": 2.0}), [0.2, 0.8]), None);
    assert_eq!(verdict(&mut gate, json!({"amount": 3.0}), [0.2, 0.8]), None);
    let detail = verdict(&mut gate, json!({"amount": 3.0, "rate": 4.0, "country": "FR"}), [0.2, 0.8]).unwrap();
    assert_eq!(detail, "the rule `rate_below_amount` is broken; the rule `no_france` is broken");
    let twice = SchemaGate::default().rule("a", |_, _| true).rule("a", |_, _| true).rebase(&references(&schema()));
    assert!(twice.unwrap_err().to_string().contains("two rules are called `a`"));
}

#[test]
fn the_report_counts_by_rule_with_the_newest_examples() {
    let (schema, mut gate) =
        (schema(), SchemaGate::default().completeness(0.3).rule("small", |row, _| row.values()[0] < 20.0));
    let references = references(&schema);
    for n in 0..20_u128 {
        let mut sample = sample(&schema, n);
        let amount = if n % 2 == 0 { 5.0 } else { 10.0 + n as f64 };
        let json = json!({"amount": amount, "what": n as i64, "country": if n < 3 { "XX" } else { "DE" }});
        sample.observation.row.encode(&schema, &json);
        sample.observation.set_output(Output::Probabilities(&[0.2, 0.8]));
        gate.admit(&sample, &context(&schema, &references)).unwrap();
    }
    let report = gate.report();
    assert_eq!((report.rows, report.refused), (20, 20));
    let counts: Vec<_> = report.rules.iter().map(|r| (r.field.as_deref(), r.rule.clone(), r.count)).collect();
    let expected = [
        (None, Rule::KnownField, 20),
        (Some("country"), Rule::Allowed, 3),
        (Some("amount"), Rule::Range, 10),
        (None, Rule::Across("small".into()), 5),
    ];
    for rule in &expected {
        assert!(counts.contains(rule), "{rule:?} in {counts:?}");
    }
    assert_eq!(counts.len(), expected.len());
    let newest: Vec<PredictionId> = [11, 13, 15, 17, 19].map(id).to_vec();
    assert!(report.rules.iter().any(|r| r.rule == Rule::Range && r.examples == newest), "{:?}", report.rules);
    assert!(SchemaGate::default().remember(0).rebase(&references).is_err());
}

#[test]
fn a_panic_in_a_rule_stays_inside_the_pipeline() {
    use crate::clock::ManualClock;
    use crate::event::Observation;
    use crate::reference::Reference;
    let schema = Arc::new(Schema::numeric(1, Target::Value).unwrap());
    let mut reference = Reference::builder(schema.clone());
    reference.push(&Row::from_values(&schema, &[1.0]).unwrap(), None, None).unwrap();
    let gate = SchemaGate::default().rule("broken", |_, _| panic!("a rule that panics"));
    let mut pipeline = crate::Pipeline::builder("p", schema.clone())
        .reference(reference.finish())
        .clock(ManualClock::starting_at(crate::gate::testing::at(0)))
        .explore(1.0)
        .gate(gate)
        .build()
        .unwrap();
    let mut observation = Observation::new(&schema);
    observation.id = id(1);
    observation.row.copy_values(&[1.0]).unwrap();
    observation.set_output(Output::Value { value: 1.0, interval: None });
    pipeline.ingest([crate::Event::Prediction(Box::new(observation))]).unwrap();
    pipeline.poll().unwrap();
    let status = pipeline.status().unwrap();
    let stage = status.stages.iter().find(|stage| stage.name == "schema").unwrap();
    assert!(stage.failures > 0 && stage.last_error.as_deref().unwrap().contains("a rule that panics"), "{stage:?}");
}
