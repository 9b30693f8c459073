#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::{Label, ModelVersion, Output};
use crate::gate::testing::{annotation, context, id, references, valued};
use crate::reference::Reference;
use crate::sample::{Annotation, Annotator, Sample, SampleState, Transition};
use crate::schema::{Field, Row, Schema};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::sync::Arc;

/// A row: number of the sample, input, label, made by a model?
type Entry = (u128, f64, Label, bool);

fn person(n: u128, input: f64, class: u32) -> Entry {
    (n, input, Label::Class(class), false)
}

fn model(n: u128, input: f64, class: u32) -> Entry {
    (n, input, Label::Class(class), true)
}

fn value(n: u128, input: f64, value: f64) -> Entry {
    (n, input, Label::Value(value), false)
}

fn annotator(n: u128, model: bool) -> Annotator {
    if model { Annotator::Model(ModelVersion::FIRST) } else { Annotator::Human(format!("p{n}")) }
}

fn schema(label: Label) -> Schema {
    let target = match label {
        Label::Class(_) => Target::classes(["a", "b", "c"]),
        Label::Value(_) => Target::Value,
    };
    Schema::numeric(1, target).unwrap()
}

fn samples(schema: &Schema, given: &[Entry]) -> Vec<Sample> {
    let sample = |(n, input, label, model): &Entry| {
        let mut sample = valued(schema, *n, &[*input]);
        sample.label = Some(annotation(*n, annotator(*n, *model), *label));
        sample
    };
    given.iter().map(sample).collect()
}

/// What the gate says of samples with a label.
fn verdict(gate: &mut LabelConsistency, schema: &Schema, samples: &[Sample]) -> Audit {
    let references = references(schema);
    let label = |sample: &Sample| sample.label.as_ref().unwrap().label.unwrap();
    let rows: Vec<_> = samples.iter().map(|sample| DraftRow { sample, label: label(sample), weight: 1.0 }).collect();
    gate.audit(&BatchDraft { rows: &rows }, &context(schema, &references)).unwrap()
}

/// The numbers of the samples that go back to people because of a conflict, with the reasons.
fn audit(gate: &mut LabelConsistency, given: &[Entry]) -> Vec<(u128, String)> {
    let schema = schema(given[0].2);
    match verdict(gate, &schema, &samples(&schema, given)) {
        Audit::Pass(_) => Vec::new(),
        Audit::Adjudicate(list) => list
            .into_iter()
            .map(|(sample, reason)| {
                assert_eq!(reason.code, "label_conflict");
                (sample.uuid().as_u128(), reason.detail)
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// The verdict as code and numbers of the samples.
fn said(audit: &Audit) -> (&'static str, Vec<u128>) {
    let numbers = |list: &[(PredictionId, Reason)]| list.iter().map(|(sample, _)| sample.uuid().as_u128()).collect();
    match audit {
        Audit::Pass(_) => ("pass", Vec::new()),
        Audit::Adjudicate(list) => ("adjudicate", numbers(list)),
        Audit::Quarantine(list) => ("quarantine", numbers(list)),
        other => panic!("{other:?}"),
    }
}

/// Asks as the pipeline does: about the rest, until it may pass. Returns every verdict.
fn settle(gate: &mut LabelConsistency, schema: &Schema, samples: &mut Vec<Sample>) -> Vec<(&'static str, Vec<u128>)> {
    let mut all = Vec::new();
    loop {
        let verdict = verdict(gate, schema, samples);
        let (code, numbers) = said(&verdict);
        samples.retain(|sample| !numbers.contains(&sample.id().uuid().as_u128()));
        all.push((code, numbers));
        if code == "pass" {
            return all;
        }
    }
}

/// Marks a sample as adjudicated, with these people behind its label.
fn adjudicated(sample: &mut Sample, people: &[&str]) {
    let (from, to) = (SampleState::Labelled, SampleState::Queued);
    let reason = Reason::new(crate::sample::ADJUDICATED, "label_conflict");
    sample.history.push(Transition { time: crate::gate::testing::at(0), from, to, by: "gate".into(), reason });
    let label = sample.label.clone().unwrap();
    sample.annotations =
        people.iter().map(|name| Annotation { annotator: Annotator::Human((*name).into()), ..label.clone() }).collect();
}

fn numbers(list: &[(u128, String)]) -> Vec<u128> {
    list.iter().map(|(n, _)| *n).collect()
}

#[test]
fn equal_inputs_with_equal_labels_pass_and_so_do_different_inputs() {
    let mut gate = LabelConsistency::default();
    assert_eq!(audit(&mut gate, &[person(1, 5.0, 0), person(2, 5.0, 0), person(3, 6.0, 1)]), []);
}

#[test]
fn a_tie_takes_out_every_side_naming_the_other() {
    let mut gate = LabelConsistency::default();
    let found = audit(&mut gate, &[person(1, 5.0, 0), person(2, 6.0, 0), person(3, 5.0, 1)]);
    assert_eq!(numbers(&found), [1, 3]);
    assert!(found[0].1.contains(&id(3).to_string()) && found[1].1.contains(&id(1).to_string()));
    assert_eq!(numbers(&audit(&mut LabelConsistency::default(), &[model(1, 5.0, 0), model(2, 5.0, 1)])), [1, 2]);
}

#[test]
fn strictly_more_independent_labels_win_and_models_do_not_count() {
    let rows = [person(1, 5.0, 0), person(2, 5.0, 0), person(3, 5.0, 1), model(4, 5.0, 1), model(5, 5.0, 1)];
    assert_eq!(numbers(&audit(&mut LabelConsistency::default(), &rows)), [3, 4, 5]);
    let rows = [model(1, 5.0, 0), model(2, 5.0, 0), person(3, 5.0, 2)];
    assert_eq!(numbers(&audit(&mut LabelConsistency::default(), &rows)), [1, 2]);
}

#[test]
fn labels_of_earlier_batches_count() {
    let mut gate = LabelConsistency::default();
    assert_eq!(audit(&mut gate, &[person(1, 5.0, 0), person(2, 5.0, 0)]), []);
    let found = audit(&mut gate, &[person(3, 5.0, 1), person(4, 5.0, 0)]);
    assert_eq!(numbers(&found), [3]);
    assert!(found[0].1.contains(&id(4).to_string()), "the nearest opponent: {found:?}");
    assert_eq!(numbers(&audit(&mut gate, &[person(5, 5.0, 1), person(6, 5.0, 1)])), [5, 6], "3 against 3");
    assert_eq!(audit(&mut gate, &[person(7, 5.0, 1)]), [], "4 against 3");
}

#[test]
fn a_batch_that_is_looked_at_again_counts_once() {
    let mut gate = LabelConsistency::default();
    let rows = [person(1, 5.0, 0), person(2, 6.0, 1)];
    for _ in 0..5 {
        assert_eq!(audit(&mut gate, &rows), []);
    }
    assert_eq!(audit(&mut gate, &[person(2, 6.0, 2)]), [], "a corrected label does not conflict with itself");
    assert_eq!(numbers(&audit(&mut gate, &[person(3, 5.0, 1)])), [3], "one against one is a tie");
    assert_eq!(audit(&mut gate, &[person(1, 5.0, 1)]), [], "sample 1 was corrected and now agrees");
}

#[test]
fn values_agree_within_the_tolerance() {
    let mut gate = LabelConsistency::default().tolerance(0.5);
    assert_eq!(audit(&mut gate, &[value(1, 5.0, 1.0), value(2, 5.0, 1.5)]), []);
    assert_eq!(numbers(&audit(&mut gate, &[value(3, 5.0, 2.2)])), [3]);
    let mut blind = LabelConsistency::default();
    assert_eq!(audit(&mut blind, &[value(1, 5.0, 1.0), value(2, 5.0, 9.0)]), []);
    blind.rebase(&references(&Schema::numeric(1, Target::Value).unwrap())).unwrap();
    assert_eq!(blind.blind().len(), 1);
    assert_eq!(blind.tolerance(0.1).blind().len(), 0);
    let mut near = LabelConsistency::default().near(0.1);
    near.rebase(&references(&schema(Label::Class(0)))).unwrap();
    assert_eq!(near.blind().len(), 1, "no number varies");
}

#[test]
fn memory_is_bounded_in_inputs_and_in_labels_of_one_input() {
    let mut gate = LabelConsistency::default().capacity(10);
    for n in 0..500 {
        audit(&mut gate, &[person(n, n as f64, 0)]);
        assert!(gate.remembered() <= 10);
    }
    let mut gate = LabelConsistency::default();
    for n in 0..500 {
        audit(&mut gate, &[person(n, 5.0, 0)]);
    }
    assert!(gate.seen.iter().all(|(_, input)| input.votes.len() <= MOST_LABELS));
}

#[test]
fn a_restored_gate_goes_on_as_the_saved_one() {
    let mut gate = LabelConsistency::default().capacity(20).tolerance(0.1);
    for n in 0..50 {
        audit(&mut gate, &[value(n, (n % 30) as f64, 1.0 / (n + 3) as f64)]);
    }
    let mut other = LabelConsistency::default().capacity(20).tolerance(0.1);
    other.restore(&gate.snapshot().unwrap()).unwrap();
    assert_eq!(other, gate);
    assert!(other.restore(&Snapshot::Stateless).is_err());
}

#[test]
fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
    let references = references(&Schema::numeric(1, Target::Value).unwrap());
    assert!(LabelConsistency::default().tolerance(f64::NAN).rebase(&references).is_err());
    assert!(LabelConsistency::default().tolerance(-1.0).rebase(&references).is_err());
    assert!(LabelConsistency::default().capacity(0).rebase(&references).is_err());
}

#[test]
fn a_settled_label_is_not_asked_again_and_stays_until_something_settled_contradicts_it() {
    let schema = schema(Label::Class(0));
    let mut both = samples(&schema, &[person(1, 5.0, 0), person(2, 5.0, 1)]);
    adjudicated(&mut both[0], &["p1"]);
    let mut gate = LabelConsistency::default();
    assert_eq!(settle(&mut gate, &schema, &mut both.clone()), [("adjudicate", vec![2]), ("pass", vec![])]);
    let mut back = both.clone();
    adjudicated(&mut back[1], &["p2"]);
    let first = settle(&mut gate, &schema, &mut back.clone());
    assert_eq!(first, [("quarantine", vec![1, 2]), ("pass", vec![])], "settled against settled");
    adjudicated(&mut back[1], &["p2", "p3"]);
    let first = settle(&mut gate, &schema, &mut back.clone());
    assert_eq!(first, [("quarantine", vec![1]), ("pass", vec![])], "two people against one");
    let mut outvoted = samples(&schema, &[person(1, 5.0, 0), person(2, 5.0, 1), person(3, 5.0, 1)]);
    adjudicated(&mut outvoted[0], &["p1"]);
    assert_eq!(
        settle(&mut LabelConsistency::default(), &schema, &mut outvoted),
        [("quarantine", vec![1]), ("pass", vec![])]
    );
}

#[test]
fn the_world_is_not_asked_again() {
    let schema = schema(Label::Class(0));
    let mut rows = samples(&schema, &[person(1, 5.0, 0), person(2, 5.0, 1)]);
    rows[0].label.as_mut().unwrap().annotator = Annotator::GroundTruth;
    let all = settle(&mut LabelConsistency::default(), &schema, &mut rows);
    assert_eq!(all, [("adjudicate", vec![2]), ("pass", vec![])]);
}

#[test]
fn people_behind_one_label_count_each() {
    let schema = schema(Label::Class(0));
    let mut rows = samples(&schema, &[person(1, 5.0, 0), person(2, 5.0, 1), person(3, 5.0, 1)]);
    let label = rows[0].label.clone().unwrap();
    let said = |name: &str, class| Annotation {
        annotator: Annotator::Human(name.into()),
        label: Some(Label::Class(class)),
        ..label.clone()
    };
    rows[0].annotations = vec![said("a", 0), said("b", 0), said("c", 0), said("d", 1), said("a", 0)];
    assert_eq!(settle(&mut LabelConsistency::default(), &schema, &mut rows)[0], ("adjudicate", vec![2, 3]));
}

#[test]
fn samples_on_which_people_differ_are_named_with_their_share() {
    let schema = schema(Label::Class(0));
    let mut rows = samples(&schema, &[person(1, 1.0, 0), person(2, 2.0, 1), person(3, 3.0, 1), person(4, 4.0, 1)]);
    for (row, answers) in rows.iter_mut().zip([&[0, 0][..], &[1, 0, 1], &[1], &[1, 1]]) {
        let label = row.label.clone().unwrap();
        let said = |(n, class): (usize, &u32)| Annotation {
            annotator: Annotator::Human(format!("a{n}")),
            label: Some(Label::Class(*class)),
            ..label.clone()
        };
        row.annotations = answers.iter().enumerate().map(said).collect();
    }
    let Audit::Pass(notes) = verdict(&mut LabelConsistency::default(), &schema, &rows) else { panic!("it passes") };
    assert_eq!((notes.len(), notes[0].code.as_str()), (1, "annotators_disagree"));
    let text = &notes[0].detail;
    assert!(text.contains("1 of the 3") && text.contains("33.3 %") && text.ends_with(&id(2).to_string()), "{text}");
    let Audit::Pass(notes) = verdict(&mut LabelConsistency::default(), &schema, &rows[2..]) else {
        panic!("it passes")
    };
    assert_eq!(notes, []);
}

/// A number, a nullable number, a constant number, a category, a text and a time.
fn wide() -> Schema {
    wide_and(None)
}

fn wide_and(added: Option<Field>) -> Schema {
    let fields = [
        Field::number("a"),
        Field::number("b").nullable(),
        Field::number("fixed"),
        Field::category("c", ["x", "y"]),
        Field::text("t", 10).nullable(),
        Field::timestamp("when").nullable(),
    ];
    Schema::new(fields.into_iter().chain(added), Target::classes(["a", "b", "c"])).unwrap()
}

/// Standard deviations of 2 and 10, and 0 in the constant column.
fn training(schema: &Schema) -> Arc<Reference> {
    let mut builder = Reference::builder(Arc::new(schema.clone()));
    for n in 0..100 {
        let sign = if n % 2 == 0 { 1.0 } else { -1.0 };
        let mut row = Row::new(schema);
        row.values[..3].copy_from_slice(&[2.0 * sign, 10.0 * sign, 7.0]);
        builder.push(&row, None, None).unwrap();
    }
    Arc::new(builder.finish())
}

fn near(distance: f64, schema: &Schema) -> LabelConsistency {
    let mut gate = LabelConsistency::default().near(distance);
    gate.rebase(&References::starting_with(training(schema))).unwrap();
    gate
}

/// A sample that a person labelled.
fn labelled(schema: &Schema, n: u128, values: &[f64], class: u32) -> Sample {
    let mut sample = valued(schema, n, values);
    sample.label = Some(annotation(n, annotator(n, false), Label::Class(class)));
    sample
}

#[test]
fn nearly_equal_inputs_are_compared_where_all_else_is_equal() {
    let schema = wide();
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    let conflict = |values: [[f64; 3]; 2], codes: [u32; 2], texts: [Option<&str>; 2], distance| {
        let mut rows = Vec::new();
        for i in 0..2 {
            let mut sample = valued(&schema, i as u128, &values[i]);
            sample.observation.row.codes[0] = codes[i];
            sample.observation.row.texts[0] = texts[i].map(str::to_owned);
            sample.label = Some(annotation(i as u128, annotator(i as u128, false), Label::Class(i as u32)));
            rows.push(sample);
        }
        said(&verdict(&mut near(distance, &schema), &schema, &rows)).0 == "adjudicate"
    };
    let numbers = |values, distance| conflict(values, [0, 0], [None, None], distance);
    // 0.6 and 0.8 standard deviations
    assert!(numbers([[1.0, 5.0, 7.0], [2.2, 13.0, 7.0]], 1.001));
    assert!(!numbers([[1.0, 5.0, 7.0], [2.2, 13.0, 7.0]], 0.999));
    assert!(!numbers([[1.0, 5.0, 7.0], [1.0, 5.0, 7.001]], 9.0), "a column without a scale");
    assert!(numbers([[1.0, nan, 7.0], [2.2, nan, 7.0]], 0.601));
    assert!(!numbers([[1.0, nan, 7.0], [1.0, 5.0, 7.0]], 9.0));
    assert!(numbers([[1.0, infinite, 7.0], [2.2, infinite, 7.0]], 0.601));
    assert!(!numbers([[1.0, infinite, 7.0], [1.0, -infinite, 7.0]], 9.0));
    assert!(!numbers([[1.0, infinite, 7.0], [1.0, nan, 7.0]], 9.0));
    let same = [[1.0, 5.0, 7.0]; 2];
    assert!(conflict(same, [1, 1], [Some("p"), Some("p")], 0.0));
    assert!(!conflict(same, [0, 1], [None, None], 9.0));
    assert!(!conflict(same, [0, 0], [Some("p"), Some("q")], 9.0));
    assert!(!conflict(same, [0, 0], [None, Some("")], 9.0));
}

#[test]
fn nearly_equal_inputs_of_earlier_batches_count_also_after_a_restart() {
    let schema = wide();
    let row = |n, a, class| labelled(&schema, n, &[a, 0.0, 7.0], class);
    let mut gate = near(0.5, &schema);
    assert_eq!(said(&verdict(&mut gate, &schema, &[row(1, 0.0, 0), row(2, 0.1, 0)])).0, "pass");
    let mut other = near(0.5, &schema);
    other.restore(&gate.snapshot().unwrap()).unwrap();
    assert_eq!(other, gate);
    for gate in [&mut gate, &mut other] {
        assert_eq!(said(&verdict(gate, &schema, &[row(3, 0.9, 1), row(4, 5.0, 1)])), ("adjudicate", vec![3]));
    }
}

#[test]
fn a_state_from_before_near_was_set_is_compared_exactly() {
    let schema = wide();
    let row = |n, a, class| labelled(&schema, n, &[a, 0.0, 7.0], class);
    let mut exact = LabelConsistency::default();
    verdict(&mut exact, &schema, &[row(1, 9.0, 1)]);
    let mut gate = near(0.5, &schema);
    gate.restore(&exact.snapshot().unwrap()).unwrap();
    assert_eq!(said(&verdict(&mut gate, &schema, &[row(2, 0.0, 0)])).0, "pass");
    assert_eq!(said(&verdict(&mut gate, &schema, &[row(3, 0.1, 1)])), ("adjudicate", vec![3]));
    assert_eq!(said(&verdict(&mut gate.clone(), &schema, &[row(4, 9.1, 0)])).0, "pass", "where it lies is not known");
    assert_eq!(said(&verdict(&mut gate, &schema, &[row(5, 9.0, 0)])), ("adjudicate", vec![5]));
}

#[test]
fn timestamps_count_for_equal_inputs_but_not_for_near_ones() {
    let schema = wide();
    let row = |n, a, when| {
        let mut sample = labelled(&schema, n, &[a, 0.0, 7.0], n as u32);
        sample.observation.row.integers[0] = when;
        sample
    };
    let rows = [row(0, 1.0, 5), row(1, 1.0, 6)];
    assert_eq!(said(&verdict(&mut LabelConsistency::default(), &schema, &rows)).0, "pass");
    assert_eq!(said(&verdict(&mut near(0.0, &schema), &schema, &rows)), ("adjudicate", vec![0, 1]));
}

#[test]
fn what_is_remembered_from_before_the_schema_got_a_number_is_near_nothing() {
    let old = wide();
    let mut before = near(9.0, &old);
    verdict(&mut before, &old, &[labelled(&old, 1, &[0.0, 0.0, 7.0], 0), labelled(&old, 2, &[1.0, 5.0, 7.0], 0)]);
    let saved = before.snapshot().unwrap();
    for added in [Field::number("more").nullable(), Field::category("more", ["x"]).nullable()] {
        let schema = wide_and(Some(added));
        let row = |n, a, class| {
            let mut sample = labelled(&schema, n, &vec![f64::NAN; schema.value_columns().len()], class);
            sample.observation.row.values[..3].copy_from_slice(&[a, 0.0, 7.0]);
            sample
        };
        let mut gate = near(9.0, &schema);
        gate.restore(&saved).unwrap();
        assert_eq!(gate.remembered(), 2);
        let places = gate.seen.iter().filter(|(_, input)| input.place.is_some()).count();
        assert_eq!(places, if schema.value_columns().len() == 3 { 2 } else { 0 });
        // A category has no place: it is missing, as it is in every row from before.
        let expected = if places == 2 { "adjudicate" } else { "pass" };
        assert_eq!(said(&verdict(&mut gate, &schema, &[row(3, 0.2, 1)])).0, expected);
        assert_eq!(said(&verdict(&mut gate, &schema, &[row(4, 0.1, 2)])), ("adjudicate", vec![4]), "new ones are");
        // The state of a gate that is not restored but rebased, as after a failure.
        before.rebase(&References::starting_with(training(&schema))).unwrap();
        assert_eq!(said(&verdict(&mut before.clone(), &schema, &[row(3, 0.2, 1)])).0, expected);
    }
}

#[test]
fn near_without_a_reference_is_exact() {
    let mut gate = LabelConsistency::default().near(5.0);
    assert_eq!(audit(&mut gate, &[person(1, 5.0, 0), person(2, 5.1, 1)]), []);
    assert_eq!(numbers(&audit(&mut gate, &[person(3, 5.0, 1)])), [3]);
}

#[test]
fn the_map_finds_what_a_plain_search_finds() {
    let schema = wide();
    let mut rng = StdRng::seed_from_u64(3);
    let gate = near(0.4, &schema);
    let near = gate.near.as_ref().unwrap();
    let places: Vec<Place> = (0..600)
        .map(|_| {
            let second = if rng.random::<f64>() < 0.2 { f64::NAN } else { rng.random_range(-9.0..9.0) };
            let mut row = Row::from_values(&schema, &[rng.random_range(-3.0..3.0), second, 7.0]).unwrap();
            row.codes[0] = rng.random_range(0..2);
            Place::of(&row)
        })
        .collect();
    let map = Map::new(near, places.iter().collect());
    let mut pairs = 0;
    for (at, place) in places.iter().enumerate() {
        let close = |other: &Place| {
            let gap = |column: usize, deviation: f64| match (place.values[column], other.values[column]) {
                (x, y) if x.is_nan() && y.is_nan() => 0.0,
                (x, y) => (x - y) / deviation,
            };
            place.levels == other.levels && gap(0, 2.0).hypot(gap(1, 10.0)) <= 0.4
        };
        let plain: Vec<usize> = (0..places.len()).filter(|other| *other != at && close(&places[*other])).collect();
        pairs += plain.len();
        assert_eq!(map.around(at), plain);
    }
    assert!(pairs > 1_000, "{pairs}");
}

/// 300 samples whose model knows the class and 30 of whose labels are wrong; the wrong ones are the multiples of 10.
fn labelled_by_people() -> (Schema, Vec<Sample>) {
    let schema = schema(Label::Class(0));
    let mut rng = StdRng::seed_from_u64(1);
    let sample = |n: u128| {
        let truth = rng.random_range(0..3_usize);
        let given = (truth + usize::from(n.is_multiple_of(10))) % 3;
        let mut sample = valued(&schema, n, &[n as f64]);
        let mut output = [0.05; 3];
        output[truth] = 0.9;
        sample.observation.set_output(Output::Probabilities(&output));
        sample.label = Some(annotation(n, annotator(n, false), Label::Class(given as u32)));
        sample
    };
    let samples = (0..300).map(sample).collect();
    (schema, samples)
}

#[test]
fn labels_that_the_model_speaks_against_are_adjudicated_once() {
    let (schema, samples) = labelled_by_people();
    let wrong: Vec<u128> = (0..300).step_by(10).collect();
    let mut gate = LabelConsistency::default().confident_learning(100);
    let first = verdict(&mut gate, &schema, &samples);
    assert_eq!(said(&first), ("adjudicate", wrong.clone()));
    let Audit::Adjudicate(list) = &first else { unreachable!() };
    assert!(list.iter().all(|(_, reason)| reason.code == "label_issue" && reason.detail.contains("0.050")));
    assert_eq!(verdict(&mut gate, &schema, &samples), first, "looked at again");
    let mut other = LabelConsistency::default().confident_learning(100);
    other.restore(&gate.snapshot().unwrap()).unwrap();
    assert_eq!(other, gate);
    let mut rest = samples.clone();
    assert_eq!(settle(&mut other, &schema, &mut rest), [("adjudicate", wrong.clone()), ("pass", vec![])]);
    let mut back = samples.clone();
    for n in wrong {
        adjudicated(&mut back[n as usize], &["p", "q"]);
    }
    assert_eq!(settle(&mut gate, &schema, &mut back), [("pass", vec![])], "people have spoken");
    assert_eq!(said(&verdict(&mut LabelConsistency::default(), &schema, &samples)).0, "pass", "only on request");
}

#[test]
fn what_was_examined_is_not_examined_again_when_the_worst_are_out() {
    let (schema, mut samples) = labelled_by_people();
    let mut rng = StdRng::seed_from_u64(2);
    for sample in &mut samples {
        let output = [0.0; 3].map(|_: f64| 0.1 + rng.random::<f64>());
        let sum: f64 = output.iter().sum();
        sample.observation.set_output(Output::Probabilities(&output.map(|p| p / sum)));
    }
    let mut gate = LabelConsistency::default().confident_learning(20);
    let verdicts = settle(&mut gate, &schema, &mut samples);
    assert_eq!(verdicts.iter().map(|(code, _)| *code).collect::<Vec<_>>(), ["adjudicate", "pass"]);
    assert!(samples.len() > 20, "there were enough to look again");
    let fresh = settle(&mut LabelConsistency::default().confident_learning(20), &schema, &mut samples);
    assert_eq!(fresh[0].0, "adjudicate", "a gate that does not know them would find more");
}

#[test]
fn only_labels_of_people_are_examined_and_only_if_there_are_enough() {
    let (schema, mut samples) = labelled_by_people();
    for sample in &mut samples[..40] {
        let by = [Annotator::GroundTruth, Annotator::Model(ModelVersion(3))];
        sample.label.as_mut().unwrap().annotator = by[sample.sequence as usize % 2].clone();
    }
    samples[50].observation.set_output(Output::Probabilities(&[f64::NAN, 0.5, 0.5]));
    let wrong: Vec<u128> = (60..300).step_by(10).chain([40]).collect();
    let mut gate = LabelConsistency::default().confident_learning(259);
    let (code, mut found) = said(&verdict(&mut gate, &schema, &samples));
    found.rotate_left(1);
    assert_eq!((code, found), ("adjudicate", wrong));
    let Audit::Pass(notes) = verdict(&mut LabelConsistency::default().confident_learning(260), &schema, &samples)
    else {
        panic!("too few")
    };
    assert!(notes[0].code == "not_examined" && notes[0].detail.starts_with("259 "), "{notes:?}");
}

#[test]
fn settings_of_near_and_confident_learning_without_sense_are_reported() {
    let references = references(&schema(Label::Class(0)));
    for distance in [f64::NAN, f64::INFINITY, -0.1] {
        assert!(LabelConsistency::default().near(distance).rebase(&references).is_err());
    }
    assert!(LabelConsistency::default().confident_learning(0).rebase(&references).is_err());
    assert!(LabelConsistency::default().near(0.0).confident_learning(1).rebase(&references).is_ok());
}

/// Samples on a few inputs: input, class, kind of annotator, adjudicated?, right side of the output.
fn crowd() -> impl Strategy<Value = Vec<(u8, u32, u8, bool, u8)>> {
    prop::collection::vec((0..5_u8, 0..3_u32, 0..5_u8, prop::bool::weighted(0.2), 0..3_u8), 0..40)
}

fn crowded(schema: &Schema, given: &[(u8, u32, u8, bool, u8)], first: u128) -> Vec<Sample> {
    let sample = |(n, (input, class, by, settled, side)): (u128, &(u8, u32, u8, bool, u8))| {
        let mut sample = valued(schema, n, &[f64::from(*input), 0.0, 7.0]);
        let by = match by {
            0 => Annotator::GroundTruth,
            1 => Annotator::Model(ModelVersion::FIRST),
            2 => Annotator::User(format!("u{n}")),
            _ => Annotator::Human(format!("p{n}")),
        };
        sample.label = Some(annotation(n, by, Label::Class(*class)));
        let mut output = [0.1; 3];
        output[usize::from(*side)] = 0.8;
        sample.observation.set_output(Output::Probabilities(&output));
        if *settled {
            adjudicated(&mut sample, &["x", "y"]);
        }
        sample
    };
    (first..).zip(given).map(sample).collect()
}

proptest! {
    #[test]
    fn shuffling_a_batch_changes_no_decision_and_no_memory(earlier in crowd(), now in crowd(), seed: u64, settings in 0..4_usize) {
        let schema = wide();
        let mut gates = [0, 1].map(|_| {
            let gate = if settings % 2 == 0 { LabelConsistency::default() } else { near(0.6, &schema) };
            if settings < 2 { gate } else { gate.confident_learning(5) }.capacity(4)
        });
        for (given, first) in [(earlier, 0), (now, 100)] {
            let ordered = crowded(&schema, &given, first);
            let mut shuffled = ordered.clone();
            shuffled.shuffle(&mut StdRng::seed_from_u64(seed));
            let verdicts = [&ordered, &shuffled].map(|rows| rows.clone());
            let [a, b] = &mut gates;
            prop_assert_eq!(verdict(a, &schema, &verdicts[0]), verdict(b, &schema, &verdicts[1]));
            prop_assert_eq!(&*a, &*b);
        }
    }

    #[test]
    fn a_second_look_changes_nothing_and_what_passes_agrees(earlier in crowd(), now in crowd(), settings in 0..4_usize) {
        let schema = wide();
        let gate = if settings % 2 == 0 { LabelConsistency::default() } else { near(0.6, &schema) };
        let mut gate = if settings < 2 { gate } else { gate.confident_learning(5) };
        settle(&mut gate, &schema, &mut crowded(&schema, &earlier, 0));
        let mut rows = crowded(&schema, &now, 100);
        let first = verdict(&mut gate, &schema, &rows);
        prop_assert_eq!(&first, &verdict(&mut gate, &schema, &rows));
        let all = settle(&mut gate, &schema, &mut rows);
        // more often only where votes, or those of neighbours, do not fit into memory
        let of = |input| earlier.iter().chain(&now).filter(|(other, ..)| *other == input).count();
        let lost = settings % 2 == 1 || (0..5).any(|input| of(input) > MOST_LABELS);
        prop_assert!(lost || all.len() <= 4, "conflicts, refusals, issues, pass: {:?}", all);
        for (a, b) in rows.iter().flat_map(|a| rows.iter().map(move |b| (a, b))) {
            let same = a.observation.row.content_hash() == b.observation.row.content_hash();
            prop_assert!(!same || a.label.as_ref().unwrap().label == b.label.as_ref().unwrap().label);
        }
        let passed = rows.clone();
        prop_assert_eq!(settle(&mut gate, &schema, &mut rows).len(), 1);
        prop_assert_eq!(rows, passed);
    }
}

#[test]
fn the_label_and_the_place_of_an_erased_sample_are_forgotten() {
    let mut gate = LabelConsistency::default().near(0.1);
    assert_eq!(audit(&mut gate, &[person(1, 5.0, 0)]), []);
    assert!(gate.seen.iter().all(|(_, input)| input.place.is_some() && input.votes.len() == 1));
    let contradicted = audit(&mut gate.clone(), &[person(2, 5.0, 1)]);
    assert_eq!(contradicted.len(), 1, "{contradicted:?}");
    let schema = schema(Label::Class(0));
    gate.forget(&valued(&schema, 1, &[5.0]));
    assert!(gate.seen.iter().all(|(_, input)| input.place.is_none() && input.votes.is_empty()));
    assert_eq!(audit(&mut gate, &[person(2, 5.0, 1)]), [], "nobody says otherwise any more");
}
