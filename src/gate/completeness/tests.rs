#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::Label;
use crate::gate::testing::{context, sample};
use crate::sample::{Lane, Sample};
use crate::schema::{Field, Row, Target};
use crate::stats::sampling::unit_interval;

fn schema() -> Schema {
    let fields = [
        Field::number("size").nullable(),
        Field::category("country", ["DE", "FR"]).nullable(),
        Field::text("note", 8).nullable(),
        Field::embedding("vector", 2).nullable(),
    ];
    Schema::new(fields, Target::Value).unwrap()
}

/// Row `n` lacks each field with the chance given for it.
fn row(schema: &Schema, n: u64, missing: [f64; 4]) -> Row {
    let mut row = Row::new(schema);
    let has = |field: usize| unit_interval(field as u64, &n.to_le_bytes()) >= missing[field];
    if has(0) {
        row.values[0] = 1.0;
    }
    if has(1) {
        row.codes[0] = 0;
    }
    if has(2) {
        row.put_text(0, "text");
    }
    if has(3) {
        row.values[1..].fill(0.5);
    }
    row
}

fn training(missing: [f64; 4]) -> References {
    let schema = Arc::new(schema());
    let mut builder = Reference::builder(schema.clone());
    (0..2_000).for_each(|n| builder.push(&row(&schema, n, missing), None, None).unwrap());
    References::starting_with(Arc::new(builder.finish()))
}

fn batch(rows: u64, seed: u64, lane: Lane, missing: [f64; 4]) -> Vec<Sample> {
    let schema = schema();
    let make = |n: u64| {
        let mut sample = sample(&schema, u128::from(n));
        sample.observation.row = row(&schema, 1_000_000 * (seed + 1) + n, missing);
        sample.lane = lane;
        sample
    };
    (0..rows).map(make).collect()
}

fn audit(gate: &mut Completeness, references: &References, samples: &[Sample]) -> Audit {
    let schema = schema();
    let draft = |sample| DraftRow { sample, label: Label::Value(0.0), weight: 1.0 };
    let rows: Vec<_> = samples.iter().map(draft).collect();
    gate.audit(&BatchDraft { rows: &rows }, &context(&schema, references)).unwrap()
}

fn held(gate: Completeness, samples: &[Sample]) -> Option<String> {
    let mut gate = gate;
    let verdict = audit(&mut gate, &training([0.1; 4]), samples);
    assert_eq!(gate.report().unwrap().held, matches!(verdict, Audit::Hold(_)));
    match verdict {
        Audit::Hold(reason) => {
            assert_eq!(reason.code, "incomplete");
            Some(reason.detail)
        }
        _ => None,
    }
}

#[test]
fn a_sound_batch_is_held_with_at_most_the_stated_chance() {
    let (references, mut gate) = (training([0.3; 4]), Completeness::default().rise(0.0));
    let held = (0..2_000)
        .filter(|&seed| {
            matches!(audit(&mut gate, &references, &batch(40, seed, Lane::Random, [0.3; 4])), Audit::Hold(_))
        })
        .count();
    // 0.01 % of 2,000 is 0.2; more than 3 would happen once in 20,000 such tests
    assert!(held <= 3, "{held} of 2,000");
}

#[test]
fn a_field_that_loses_its_values_holds_the_batch_and_is_named() {
    let detail = held(Completeness::default(), &batch(200, 0, Lane::Random, [0.4, 0.1, 0.1, 0.1])).unwrap();
    assert!(detail.starts_with("`size` is missing in ") && detail.contains(" of 200 (training: "), "{detail}");
    assert!(!detail.contains("country") && !detail.contains("typical"), "{detail}");
    assert!(
        held(Completeness::default(), &batch(200, 0, Lane::Random, [0.1, 0.4, 0.1, 0.1])).unwrap().contains("country")
    );
    assert!(
        held(Completeness::default(), &batch(200, 0, Lane::Random, [0.1, 0.1, 0.1, 0.4])).unwrap().contains("vector")
    );
}

#[test]
fn a_rise_must_be_large_and_certain() {
    let few = |points| held(Completeness::default().rise(points), &batch(3_000, 0, Lane::Random, [0.2, 0.1, 0.1, 0.1]));
    assert!(few(0.05).is_some() && few(0.15).is_none(), "certain, but of about 10 points");
    assert_eq!(held(Completeness::default(), &batch(20, 0, Lane::Random, [0.3; 4])), None, "large, but of 20 rows");
    assert_eq!(
        held(Completeness::default(), &batch(200, 0, Lane::Random, [0.1, 0.1, 0.9, 0.1])),
        None,
        "texts are not kept"
    );
}

#[test]
fn minimums_are_plain_shares() {
    let samples = batch(100, 0, Lane::Random, [0.0, 0.0, 0.3, 0.0]);
    let missing = samples.iter().filter(|sample| sample.observation.row.texts[0].is_none()).count();
    let exact = 1.0 - missing as f64 / 100.0;
    assert_eq!(held(Completeness::default().field("note", exact), &samples), None);
    let detail = held(Completeness::default().field("note", exact + 0.001), &samples).unwrap();
    assert_eq!(detail, format!("`note` is missing in {missing} of 100, which is below its minimum"));
    assert!(held(Completeness::default().every_field(0.9), &samples).unwrap().contains("`note`"));
    assert_eq!(held(Completeness::default().every_field(0.9).field("note", 0.1), &samples), None);
    let overall = 1.0 - missing as f64 / 400.0;
    assert_eq!(held(Completeness::default().overall(overall), &samples), None);
    assert!(held(Completeness::default().overall(overall + 0.001), &samples).unwrap().contains("of all values"));
}

#[test]
fn the_random_lane_speaks_for_the_feed_and_its_absence_is_said() {
    let references = training([0.1; 4]);
    let mut samples = batch(300, 0, Lane::Flagged, [0.9, 0.1, 0.1, 0.1]);
    let Audit::Hold(reason) = audit(&mut Completeness::default(), &references, &samples) else { panic!() };
    assert!(reason.detail.contains("only 0 are of the random lane"), "{reason}");
    samples.extend(batch(30, 1, Lane::Random, [0.1; 4]));
    let mut gate = Completeness::default();
    let Audit::Pass(notes) = audit(&mut gate, &references, &samples) else { panic!() };
    assert_eq!((notes.len(), notes[0].code.as_str()), (1, "completeness"));
    assert!(gate.report().unwrap().typical && gate.report().unwrap().rows == 30);
    let Audit::Pass(notes) = audit(&mut gate, &references, &batch(300, 0, Lane::Flagged, [0.1; 4])) else { panic!() };
    assert_eq!(notes[1].code, "not_typical");
}

#[test]
fn the_report_counts_every_field() {
    let mut gate = Completeness::default();
    audit(&mut gate, &training([0.1; 4]), &batch(100, 0, Lane::Random, [0.5, 0.0, 1.0, 0.0]));
    let report = gate.report().unwrap();
    let missing: Vec<_> = report.fields.iter().map(|field| (field.field.as_str(), field.missing > 0)).collect();
    assert_eq!(missing, [("size", true), ("country", false), ("note", true), ("vector", false)]);
    assert_eq!(report.fields[2].missing, 100);
    assert!(report.fields[0].rose && !report.fields[0].below_minimum && report.held);
    assert_eq!(
        report.fields.iter().map(|field| field.training.is_some()).collect::<Vec<_>>(),
        [true, true, false, true]
    );
    let present = 400 - report.fields.iter().map(|field| field.missing).sum::<u64>();
    assert_eq!(report.overall, present as f64 / 400.0);
}

#[test]
fn few_rows_pass_with_a_note_and_rows_of_another_schema_are_not_read() {
    let references = training([0.1; 4]);
    let verdict = audit(&mut Completeness::default(), &references, &batch(19, 0, Lane::Random, [1.0; 4]));
    assert!(matches!(&verdict, Audit::Pass(notes) if notes[0].code == "too_few_rows"), "{verdict:?}");
    let mut samples = batch(30, 0, Lane::Random, [0.1; 4]);
    samples.iter_mut().for_each(|sample| sample.observation.row = Row::default());
    assert!(matches!(audit(&mut Completeness::default(), &references, &samples), Audit::Pass(_)));
}

#[test]
fn settings_without_sense_are_reported_and_blind_fields_named() {
    let references = training([0.1; 4]);
    let problem = |mut gate: Completeness| gate.rebase(&references).unwrap_err().to_string();
    assert!(problem(Completeness::default().overall(1.5)).contains("overall"));
    assert!(problem(Completeness::default().every_field(-0.5)).contains("every_field"));
    assert!(problem(Completeness::default().field("size", f64::NAN)).contains("`size`"));
    assert!(problem(Completeness::default().field("what", 0.5)).contains("no field `what`"));
    assert!(problem(Completeness::default().rise(f64::INFINITY)).contains("rise"));
    let mut gate = Completeness::default();
    gate.rebase(&references).unwrap();
    assert_eq!(gate.blind().iter().map(|blind| blind.column.as_deref()).collect::<Vec<_>>(), [Some("note")]);
}
