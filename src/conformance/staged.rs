//! What the suites of gates and routers share: samples of all kinds, broken rows, and snapshots as a store keeps them.

use super::World;
use crate::event::{Label, ModelVersion};
use crate::sample::{Annotation, Annotator, Flag, Lane, Sample};
use crate::schema::{MISSING_CODE, Row, Schema, Target, UNSEEN_CODE};
use crate::stage::{Snapshot, Stage};

/// An annotation of `sample`.
pub(super) fn annotation(sample: &Sample, annotator: Annotator, label: Label) -> Annotation {
    let (id, time) = (sample.id(), sample.observation.time);
    Annotation { sample: id, label: Some(label), annotator, time, confidence: 1.0, seconds: None, blind: true }
}

/// A label that suits the target.
pub(super) fn some_label(schema: &Schema) -> Label {
    match schema.target() {
        Target::Classes(_) => Label::Class(1),
        Target::Value => Label::Value(1.0),
    }
}

/// Labelled samples of every lane and source: some inputs come twice, with other labels, and some have holes.
pub(super) fn samples(mut world: World, count: usize) -> Vec<Sample> {
    (world.missing, world.unusable) = (0.05, 0.02);
    let mut samples: Vec<Sample> = Vec::with_capacity(count);
    for sequence in 0..count {
        let mut observation = world.observation();
        let copied = (world.noise().uniform() * sequence as f64) as usize;
        if world.noise().chance(0.15)
            && let Some(earlier) = samples.get(copied)
        {
            observation.row = earlier.observation.row.clone();
        }
        let lane = [Lane::Flagged, Lane::Flagged, Lane::Random, Lane::Outcome, Lane::Comparison][sequence % 5];
        let mut sample = Sample::new(observation, sequence as u64, lane, 1.0);
        if lane == Lane::Flagged {
            let (detector, prediction) = ("suite".to_owned(), sample.id());
            sample.flags.push(Flag { detector, ..Flag::new(prediction, 2.0, 1.0) });
        }
        let annotator = match sequence % 4 {
            0 => Annotator::GroundTruth,
            1 if lane == Lane::Flagged => Annotator::Model(ModelVersion::FIRST),
            2 => Annotator::User("somebody".into()),
            _ => Annotator::Human("ann".into()),
        };
        let label = world.label();
        sample.label = Some(annotation(&sample, annotator, label));
        sample.annotations = sample.label.iter().cloned().collect();
        samples.push(sample);
    }
    samples
}

/// Rows that nobody would want: without values, infinite, unseen, foreign, with violations.
pub(super) fn broken_rows(schema: &Schema) -> Vec<Row> {
    let filled = |value: f64, code: u32| {
        let mut row = Row::new(schema);
        row.values.fill(value);
        row.codes.fill(code);
        row
    };
    let mut rows = vec![
        Row::new(schema),
        filled(f64::INFINITY, 0),
        filled(f64::NEG_INFINITY, UNSEEN_CODE),
        filled(f64::MAX, MISSING_CODE),
        filled(0.0, 99),
        Row::default(),
    ];
    let mut odd = Row::new(schema);
    odd.encode(schema, &serde_json::json!({"a": "text", "b": [1], "kind": 3, "unknown": null}));
    rows.push(odd);
    let mut none = Row::new(schema);
    none.encode(schema, &7);
    rows.push(none);
    if let Ok(foreign) = Schema::numeric(9, Target::Value) {
        rows.push(Row::new(&foreign));
    }
    rows
}

/// The state of a stage as a store keeps it.
pub(super) fn saved<S: Stage>(stage: &S, name: &str) -> Snapshot {
    let saved = stage.snapshot();
    assert!(saved.is_ok(), "`{name}` gives no snapshot: {saved:?}");
    let text = serde_json::to_string(&saved.unwrap_or(Snapshot::Stateless)).unwrap_or_default();
    let read = serde_json::from_str(&text);
    assert!(read.is_ok(), "the snapshot of `{name}` does not survive JSON: {read:?}");
    read.unwrap_or(Snapshot::Stateless)
}

/// Gives a stage its own state back.
pub(super) fn restored<S: Stage>(stage: &mut S, snapshot: &Snapshot, name: &str) {
    let done = stage.restore(snapshot);
    assert!(done.is_ok(), "`{name}` refuses its own snapshot: {done:?}");
}

/// A state of a format that nobody can know is refused.
pub(super) fn refuses_foreign_states<S: Stage>(stage: &mut S, name: &str) {
    for format in [0, u32::MAX] {
        let foreign = Snapshot::State { format, state: serde_json::json!({ "foreign": true }) };
        assert!(stage.restore(&foreign).is_err(), "`{name}` takes over a state of a format that it cannot know");
    }
}
