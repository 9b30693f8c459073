#![allow(clippy::unwrap_used, clippy::expect_used)]

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::chunk::Chunk;
use crate::clock::ManualClock;
use crate::detector::{Findings, KsDrift, detector_fn};
use crate::error::BoxError;
use crate::event::{Event, Label, Output, PredictionId};
use crate::gate::testing::{at, id};
use crate::gate::{Deduplicate, SchemaGate};
use crate::pipeline::PipelineBuilder;
use crate::retrain::{JobStatus, Manifest, TrainJob, Trained, Trainer};
use crate::review::ReviewQueue;
use crate::schema::{Field, Row, Target, Widening};
use crate::store::{MemoryStore, Store};

fn amount() -> Field {
    Field::number("amount").range(0.0, 10.0)
}

fn schema(fields: impl IntoIterator<Item = Field>) -> Arc<Schema> {
    Arc::new(Schema::new(fields, Target::classes(["no", "yes"])).unwrap())
}

fn reference(schema: &Arc<Schema>) -> Reference {
    let mut builder = Reference::builder(schema.clone());
    for n in 0..200 {
        let mut row = Row::new(schema);
        row.encode(schema, &json!({"amount": f64::from(n % 10)}));
        builder.push(&row, None, None).unwrap();
    }
    builder.finish()
}

fn open(store: &MemoryStore, schema: &Arc<Schema>) -> Result<Pipeline, Error> {
    open_with(store, schema, reference(schema))
}

fn open_with(store: &MemoryStore, schema: &Arc<Schema>, reference: Reference) -> Result<Pipeline, Error> {
    builder(store, schema, reference).build()
}

fn builder(store: &MemoryStore, schema: &Arc<Schema>, reference: Reference) -> PipelineBuilder {
    Pipeline::builder("orders", schema.clone())
        .reference(reference)
        .store(store.clone())
        .clock(ManualClock::starting_at(at(0)))
        .detect(detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
            Ok(())
        }))
        .detect(KsDrift::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
}

fn record(pipeline: &mut Pipeline, n: u128, row: serde_json::Value) {
    let schema = pipeline.schema().clone();
    let mut observation = pipeline.observation();
    (observation.id, observation.time) = (id(n), at(0));
    observation.row.encode(&schema, &row);
    observation.set_output(Output::Probabilities(&[0.4, 0.6]));
    pipeline.ingest([Event::Prediction(observation)]).unwrap();
    pipeline.poll().unwrap();
}

fn label_all(pipeline: &mut Pipeline) -> usize {
    let target = pipeline.schema().target().clone();
    let clock = Arc::new(ManualClock::starting_at(at(0)));
    let queue = ReviewQueue::open(pipeline.store().clone(), pipeline.name(), target, clock);
    let tickets = queue.claim("ann", 100, TimeDelta::minutes(1)).unwrap();
    for ticket in &tickets {
        queue.annotate(ticket.task.sample, "ann", Label::Class(1), 1.0, None).unwrap();
    }
    pipeline.poll().unwrap();
    tickets.len()
}

fn manifest(pipeline: &Pipeline) -> Manifest {
    let batch = pipeline.retraining.state.last_batch.clone().expect("a batch was sealed");
    pipeline.outbox.read(Kind::Batch, &batch.0).unwrap().unwrap()
}

#[test]
fn a_pipeline_goes_on_with_new_fields_and_seals_rows_of_both_versions() {
    let store = MemoryStore::new();
    let old = schema([amount()]);
    let mut pipeline = open(&store, &old).unwrap();
    (0..3).for_each(|n| record(&mut pipeline, n, json!({"amount": n as f64})));
    assert_eq!(label_all(&mut pipeline), 3);
    record(&mut pipeline, 3, json!({"amount": 3.0}));
    pipeline.checkpoint().unwrap();
    pipeline.set_serving(Arc::new(reference(&old)), None).unwrap();
    pipeline.outbox.commit().unwrap();
    drop(pipeline);

    let more =
        [Field::number("weight").nullable(), Field::category("kind", ["a"]).nullable(), Field::text("t", 9).nullable()];
    let new = schema([Field::number("amount").range(0.0, 20.0).nullable()].into_iter().chain(more));
    let mut pipeline = open(&store, &new).unwrap();
    let history = pipeline.schema_history().unwrap();
    assert_eq!(history.iter().map(|version| version.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((&history[0].schema, &history[1].schema), (&*old, &*new));
    let widened: Vec<_> = history[1].changes.iter().map(|change| (change.field.as_str(), &change.widening)).collect();
    let added = ["weight", "kind", "t"].map(|field| (field, &Widening::Added));
    assert_eq!(widened, [vec![("amount", &Widening::Nullable), ("amount", &Widening::Range)], added.to_vec()].concat());
    let dropped = ["reference/serving", "reference/anchor", "detector/ks_drift"];
    assert_eq!(history[1].dropped, dropped);
    assert_eq!(pipeline.references.serving.schema(), &new);
    for stage in pipeline.status().unwrap().stages {
        assert_eq!((stage.failures, stage.last_error), (0, None), "{}", stage.name);
    }

    assert_eq!(label_all(&mut pipeline), 1, "a question of the old version");
    (10..13).for_each(|n| record(&mut pipeline, n, json!({"amount": n as f64, "weight": 1.5, "kind": "a", "t": "x"})));
    assert_eq!(label_all(&mut pipeline), 3);
    pipeline.retrain_now("somebody").unwrap();
    pipeline.poll().unwrap();
    let sealed = manifest(&pipeline);
    assert_eq!((sealed.rows, sealed.schema.as_str()), (7, new.fingerprint()));
    pipeline.checkpoint().unwrap();
    pipeline.outbox.commit().unwrap();
    drop(pipeline);

    // once more, with what is in the batch
    let mut pipeline = open(&store, &new).unwrap();
    assert_eq!(pipeline.schema_history().unwrap().len(), 2);
    let taught = pipeline.retraining.taught.newest(usize::MAX).unwrap();
    let rows = taught.rows();
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|row| new.check(row).is_empty()));
    let weights: Vec<bool> = rows.iter().map(|row| row.is_missing(&new, 1)).collect();
    assert_eq!(weights, [true, true, true, true, false, false, false]);
    let stored: PredictionId = id(0);
    assert_eq!(pipeline.outbox.sample(stored).unwrap().unwrap().observation.row.values().len(), 2);
    let mut widths = Vec::new();
    pipeline
        .each_sample(|sample| {
            widths.push(sample.observation.row.values().len());
            Ok(())
        })
        .unwrap();
    assert_eq!(widths, [2; 7]);
}

#[test]
fn a_wider_range_keeps_references_and_the_states_of_detectors() {
    let store = MemoryStore::new();
    let old = schema([amount()]);
    let mut pipeline = open(&store, &old).unwrap();
    (0..5).for_each(|n| record(&mut pipeline, n, json!({"amount": n as f64})));
    pipeline.checkpoint().unwrap();
    pipeline.set_serving(Arc::new(reference(&old)), Some(Arc::new(reference(&old)))).unwrap();
    pipeline.outbox.commit().unwrap();
    let before =
        serde_json::to_value(pipeline.detector::<KsDrift>().map(crate::stage::Stage::snapshot).unwrap().unwrap());
    drop(pipeline);
    let new = schema([Field::number("amount").range(0.0, 20.0), Field::text("note", 9).nullable()]);
    let pipeline = open_with(&store, &new, reference(&old)).expect("the reference has the columns of the new schema");
    assert_eq!(pipeline.references.training.schema(), &new);
    assert_eq!(pipeline.schema_history().unwrap()[1].dropped, [] as [String; 0]);
    let after =
        serde_json::to_value(pipeline.detector::<KsDrift>().map(crate::stage::Stage::snapshot).unwrap().unwrap());
    assert_eq!(after.unwrap(), before.unwrap());
    assert_eq!(pipeline.serving_before().unwrap().unwrap().schema(), &new);
    assert_eq!(pipeline.references.anchor.schema(), &new);
    assert_eq!(pipeline.sequence, 5);
}

#[test]
fn more_allowed_values_keep_references_but_not_the_counts_of_detectors() {
    let store = MemoryStore::new();
    let kind = |allowed: &[&str]| schema([amount(), Field::category("kind", allowed.iter().copied()).nullable()]);
    let (old, new) = (kind(&["a"]), kind(&["a", "b"]));
    let mut pipeline = open(&store, &old).unwrap();
    record(&mut pipeline, 0, json!({"amount": 1.0, "kind": "a"}));
    pipeline.checkpoint().unwrap();
    pipeline.set_serving(Arc::new(reference(&old)), None).unwrap();
    pipeline.outbox.commit().unwrap();
    drop(pipeline);
    let mut pipeline = open(&store, &new).unwrap();
    assert_eq!(pipeline.schema_history().unwrap()[1].dropped, ["detector/ks_drift"]);
    record(&mut pipeline, 1, json!({"amount": 1.0, "kind": "b"}));
    assert!(pipeline.status().unwrap().stages.iter().all(|stage| stage.failures == 0));
}

/// A trainer that never comes to an end.
struct Forever;

impl Trainer for Forever {
    fn name(&self) -> &str {
        "forever"
    }

    fn start(&mut self, _: TrainJob) -> Result<(), BoxError> {
        Ok(())
    }

    fn poll(&mut self, _: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(JobStatus::Running)
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn training_that_is_under_way_ends_as_failed() {
    let store = MemoryStore::new();
    let (old, new) = (schema([amount()]), schema([amount(), Field::number("weight").nullable()]));
    let mut pipeline = builder(&store, &old, reference(&old)).train(Forever).build().unwrap();
    (0..3).for_each(|n| record(&mut pipeline, n, json!({"amount": n as f64})));
    label_all(&mut pipeline);
    let run = pipeline.retrain_now("somebody").unwrap();
    pipeline.poll().unwrap();
    assert_eq!(pipeline.run(run).unwrap().unwrap().state, RunState::Training);
    drop(pipeline);
    let mut pipeline = builder(&store, &new, reference(&new)).train(Forever).build().unwrap();
    let ended = pipeline.run(run).unwrap().unwrap();
    assert_eq!((ended.state, ended.notes.last().unwrap().1.code.as_str()), (RunState::Failed, "schema_changed"));
    assert!(pipeline.retrain_now("somebody").is_ok_and(|next| next > run), "the loop is free for the next run");
}

#[test]
fn an_incompatible_schema_is_refused_with_both_fingerprints_and_changes_nothing() {
    let store = MemoryStore::new();
    let old = schema([amount()]);
    drop(open(&store, &old).unwrap());
    let narrow = schema([Field::number("amount").range(0.0, 5.0)]);
    let error = open(&store, &narrow).err().unwrap().to_string();
    for part in [old.fingerprint(), narrow.fingerprint(), "`amount`: its range is narrower"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(open(&store, &old).unwrap().schema_history().unwrap().len(), 1);
}

#[test]
fn a_store_of_a_release_that_kept_only_the_fingerprint_is_opened_with_that_schema_first() {
    let store = MemoryStore::new();
    let old = schema([amount()]);
    let mut pipeline = open(&store, &old).unwrap();
    let loop_state = pipeline.outbox.read_raw(Kind::Control, "loop").unwrap().unwrap();
    drop(pipeline);
    let legacy = MemoryStore::new();
    let token = legacy.take_over("orders").unwrap();
    let fence = crate::store::Fence::Worker { pipeline: "orders".into(), token };
    let key = crate::store::Key::new(&"orders".into(), "loop");
    let indexed = Indexed { state: "saved", rank: 0, due: None };
    let write = Write { kind: Kind::Control, key, expect: crate::store::Expect::Any, indexed, body: loop_state };
    legacy.commit(&[&[write]], &fence, &mut Vec::new()).unwrap();
    let new = schema([amount(), Field::number("weight").nullable()]);
    let error = open(&legacy, &new).err().unwrap().to_string();
    assert!(error.contains(old.fingerprint()) && error.contains(new.fingerprint()), "{error}");
    drop(open(&legacy, &old).unwrap());
    pipeline = open(&legacy, &new).unwrap();
    assert_eq!(pipeline.schema_history().unwrap().len(), 2);
}
