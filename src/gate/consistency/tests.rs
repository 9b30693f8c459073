#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::ModelVersion;
use crate::gate::testing::{annotation, context, id, references, valued};
use crate::sample::Sample;
use crate::schema::Schema;

/// A row: number of the sample, input, label, made by a model?
type Given = (u128, f64, Label, bool);

fn person(n: u128, input: f64, class: u32) -> Given {
    (n, input, Label::Class(class), false)
}

fn model(n: u128, input: f64, class: u32) -> Given {
    (n, input, Label::Class(class), true)
}

fn value(n: u128, input: f64, value: f64) -> Given {
    (n, input, Label::Value(value), false)
}

/// The numbers of the quarantined samples, with the reasons.
fn audit(gate: &mut LabelConsistency, given: &[Given]) -> Vec<(u128, String)> {
    let target = match given[0].2 {
        Label::Class(_) => Target::classes(["a", "b", "c"]),
        Label::Value(_) => Target::Value,
    };
    let schema = Schema::numeric(1, target).unwrap();
    let references = references(&schema);
    let samples: Vec<Sample> = given
        .iter()
        .map(|(n, input, label, model)| {
            let mut sample = valued(&schema, *n, &[*input]);
            let annotator =
                if *model { Annotator::Model(ModelVersion::FIRST) } else { Annotator::Human(format!("p{n}")) };
            sample.label = Some(annotation(*n, annotator, *label));
            sample
        })
        .collect();
    let rows: Vec<_> =
        samples.iter().zip(given).map(|(sample, row)| DraftRow { sample, label: row.2, weight: 1.0 }).collect();
    match gate.audit(&BatchDraft { rows: &rows }, &context(&schema, &references)).unwrap() {
        Audit::Pass(_) => Vec::new(),
        Audit::Quarantine(list) => list
            .into_iter()
            .map(|(sample, reason)| {
                assert_eq!(reason.code, "label_conflict");
                (sample.uuid().as_u128(), reason.detail)
            })
            .collect(),
        other => panic!("{other:?}"),
    }
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
    assert!(gate.seen.iter().all(|(_, votes)| votes.len() <= MOST_LABELS));
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
