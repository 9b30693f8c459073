//! A store of an earlier version opens, and the loop goes on with it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::{Arc, Mutex};

use feedloop::chrono::{DateTime, Utc};
use feedloop::{
    Chunk, Event, Fence, Findings, FnTrainer, Indexed, Key, Kind, Label, LineageNode, ManualClock, MemoryStore,
    ModelVersion, Outcome, Pipeline, Profile, RunId, Store, TrainJob, Write, detector_fn, hours, new_labels,
};
use serde_json::Value;
use support::{base, check, check_journal, evaluator, first_model, fit, id, prediction, schema, start};

/// Written when the state of the loop and every model listed all batches: three runs have ended, and the model of the
/// fourth is being trained.
const LISTED: &str = include_str!("fixtures/store_with_listed_batches.jsonl");

fn stored(lines: &str) -> MemoryStore {
    let store = MemoryStore::new();
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| record[name].as_str().unwrap().to_owned();
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == record["kind"]).unwrap();
        let due: Option<DateTime<Utc>> = serde_json::from_value(record["due"].clone()).unwrap();
        let indexed = Indexed { state: text("state").leak(), rank: record["rank"].as_i64().unwrap(), due };
        let body: Vec<u8> = match &record["body"] {
            Value::String(text) => text.clone().into_bytes(),
            bytes => serde_json::from_value(bytes.clone()).unwrap(),
        };
        let key = Key::new(&Arc::from("earlier"), text("id"));
        let write = Write { kind, key, expect: feedloop::Expect::Any, indexed, body: body.into() };
        store.commit(&[&[write]], &Fence::None, &mut Vec::new()).unwrap();
    }
    store
}

#[test]
fn a_store_whose_loop_and_models_list_their_batches() {
    let (store, clock) = (stored(LISTED), ManualClock::starting_at(start() + hours(4)));
    let state = |store: &MemoryStore| -> Value {
        serde_json::from_slice(&store.get("earlier", Kind::Control, "loop").unwrap().unwrap().body).unwrap()
    };
    let listed: Vec<String> = serde_json::from_value(state(&store)["batches"].clone()).unwrap();
    assert_eq!(listed.len(), 4);
    let trained: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let log = trained.clone();
    let train = FnTrainer::inline(move |job: &TrainJob| {
        log.lock().unwrap().push(job.dataset.batches.iter().map(|batch| batch.id.0.clone()).collect());
        Ok(fit(job))
    });
    let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
        chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
        Ok(())
    });
    let mut pipeline = Pipeline::builder("earlier", schema())
        .training_data(base())
        .first_model(first_model())
        .detect(flag_all)
        .explore(1e-9)
        .learn_from_outcomes(0.0)
        .trigger(new_labels(1))
        .train(train)
        .evaluate(evaluator(Profile::confirm()))
        .without_label_faults()
        .clock(clock.clone())
        .store(store.clone())
        .build()
        .unwrap();
    // The run in flight goes on.
    for _ in 0..3 {
        pipeline.poll().unwrap();
    }
    pipeline.cancel_run("ann").unwrap();
    // The next batch follows on the last one.
    clock.advance(hours(1));
    let truth = Outcome::truth(id(4), Label::Class(0));
    pipeline.ingest([prediction(4, &[0.7, 0.5]), Event::Outcome(truth)]).unwrap();
    for _ in 0..3 {
        pipeline.poll().unwrap();
    }
    let sealed = pipeline.run(RunId(5)).unwrap().unwrap().batch.unwrap();
    let batches: Vec<String> = listed.into_iter().chain([sealed.0]).collect();
    assert_eq!(*trained.lock().unwrap(), [batches[..4].to_vec(), batches.clone()]);

    let world = check(&store, "earlier");
    assert_eq!((world.batches.len(), world.models.len()), (5, 6));
    assert!(state(&store)["batches"].is_u64(), "it is not listed any more");
    for number in 0..=5 {
        let version = ModelVersion(number as u64);
        let found = pipeline.batches(version).unwrap();
        assert_eq!(
            found.iter().map(|batch| &batch.0).collect::<Vec<_>>(),
            batches[..number].iter().collect::<Vec<_>>()
        );
        let record = pipeline.model(version).unwrap().unwrap();
        if number > 0 {
            assert_eq!(Some(pipeline.trained_on(version).unwrap().digest()), record.digest);
            assert_eq!(record.dataset.unwrap().batches.len(), number);
        }
        let nodes = pipeline.lineage(version).unwrap().nodes;
        assert_eq!(nodes.iter().filter(|node| matches!(node, LineageNode::Batch(_))).count(), number);
    }
    for (n, first) in [(1, 2), (4, 5)] {
        let erased = pipeline.erase(id(n), "ann", "asked for").unwrap();
        assert_eq!(erased.models, (first..=5).map(ModelVersion).collect::<Vec<_>>());
        assert!(pipeline.verify_batch(&erased.batches[0]).unwrap().intact);
    }
    check_journal(&store, "earlier");
}
