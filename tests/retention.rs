//! What is not to be stored never is, and what is stored goes when its time is over.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Chunk, Dataset, Deduplicate, Event, Field, Findings, FnTrainer, Kind, Label, ManualClock, MemoryStore,
    ModelVersion, Outcome, Output, Pipeline, Profile, Retention, Sample, SampleState, Schema, SchemaGate, Store,
    Target, TrainJob, days, detector_fn, hours, new_labels,
};
use support::host::Host;
use support::{check, check_journal, evaluator, fit, id, records, start};

fn samples(pipeline: &Pipeline) -> Vec<Sample> {
    let mut found = Vec::new();
    pipeline
        .each_sample(|sample| {
            found.push(sample);
            Ok(())
        })
        .unwrap();
    found
}

/// Everything that the store holds, as one text.
fn everything(store: &dyn Store, pipeline: &str) -> String {
    let of = |kind| records(store, pipeline, kind);
    let all = Kind::ALL.into_iter().flat_map(of);
    all.map(|record| format!("{} {}\n", record.key.id, String::from_utf8_lossy(&record.body))).collect()
}

/// Payments with a name and an age, of which `redact` takes what it wants; detectors note the names that they see.
fn payments(
    redact: impl Fn(&mut feedloop::Redaction<'_>) -> Result<(), feedloop::BoxError> + Send + 'static,
) -> (Pipeline, Arc<Mutex<Vec<f64>>>, MemoryStore) {
    let fields = [
        Field::number("amount"),
        Field::integer("age").nullable(),
        Field::text("name", 40).nullable(),
        Field::category("country", ["DE", "FR"]).nullable(),
    ];
    let schema = Arc::new(Schema::new(fields, Target::classes(["good", "fraud"])).unwrap());
    let seen: Arc<Mutex<Vec<f64>>> = Arc::default();
    let noted = seen.clone();
    let store = MemoryStore::new();
    let training =
        Dataset::from_values(schema.clone(), (0..50).map(|n| ([f64::from(n), 40.0], Label::Class(0)))).unwrap();
    let mut pipeline = Pipeline::builder("payments", schema.clone())
        .training_data(training)
        .detect(detector_fn("everything", move |chunk: &Chunk<'_>, findings: &mut Findings| {
            noted.lock().unwrap().extend(chunk.values(1));
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
            Ok(())
        }))
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .payload(|schema, row| format!("payment of {:?}", row.text(schema, 2)))
        .redact(redact)
        // The time of day must not look like an amount.
        .clock(ManualClock::starting_at(start()))
        .store(store.clone())
        .build()
        .unwrap();
    let rows = [
        r#"{"amount": 10.5, "age": 37, "name": "Erika Mustermann", "country": "DE"}"#,
        r#"{"amount": 11.5, "age": 38, "name": "Max Mustermann", "country": "Atlantis"}"#,
    ];
    let events: Vec<Event> = rows
        .iter()
        .zip(1..)
        .map(|(json, n)| {
            let mut observation = pipeline.observation();
            (observation.id, observation.model) = (id(n), ModelVersion::FIRST);
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            observation.row.encode(&schema, &value);
            observation.set_output(Output::Probabilities(&[0.3, 0.7]));
            Event::Prediction(observation)
        })
        .collect();
    pipeline.ingest(events).unwrap();
    pipeline.ingest([Event::Outcome(Outcome::truth(id(1), Label::Class(1)))]).unwrap();
    pipeline.poll().unwrap();
    (pipeline, seen, store)
}

#[test]
fn what_is_redacted_is_seen_by_detectors_and_never_stored() {
    let (plain, _, store) = payments(|_| Ok(()));
    let stored = everything(&store, "payments");
    assert!(stored.contains("Erika") && stored.contains("Atlantis"), "without redaction everything is stored");
    assert_eq!(samples(&plain).len(), 2);

    let (pipeline, seen, store) = payments(|sample| {
        let age = sample.row().integer(sample.schema(), 1).unwrap_or_default();
        sample.clear("name")?;
        sample.clear("country")?;
        sample.set_number("age", (age / 10 * 10) as f64)
    });
    assert_eq!(*seen.lock().unwrap(), [37.0, 38.0], "detectors see what came");
    let stored = everything(&store, "payments");
    for secret in ["Erika", "Max", "Mustermann", "Atlantis"] {
        assert!(!stored.contains(secret), "{secret}");
    }
    let kept = samples(&pipeline);
    let first = kept.iter().find(|sample| sample.id() == id(1)).unwrap();
    assert_eq!(first.observation.row.integer(pipeline.schema(), 1), Some(30));
    assert_eq!(first.observation.row.values(), [10.5, 30.0]);
    assert_eq!(first.payload.as_deref(), Some("payment of None"), "the payload is made of what is left");
    assert_eq!(first.state, SampleState::Labelled);
    assert_eq!(pipeline.status().unwrap().counters.redaction_failures, 0);
    check_journal(&store, "payments");
}

#[test]
fn nothing_is_kept_of_a_row_whose_redaction_fails() {
    type Fails = fn(&mut feedloop::Redaction<'_>) -> Result<(), feedloop::BoxError>;
    let fails: [Fails; 3] = [
        |sample| Err(format!("cannot hide {:?}", sample.row().text(sample.schema(), 2)).into()),
        |sample| panic!("cannot hide {:?}", sample.row().text(sample.schema(), 2)),
        |sample| sample.clear("no such field"),
    ];
    for redact in fails {
        let (pipeline, _, store) = payments(redact);
        assert_eq!(pipeline.status().unwrap().counters.redaction_failures, 2);
        let stored = everything(&store, "payments");
        for secret in ["Erika", "Max", "Mustermann", "Atlantis", "10.5", "11.5", "0.7"] {
            assert!(!stored.contains(secret), "{secret}");
        }
        for sample in samples(&pipeline) {
            assert_eq!(sample.state, SampleState::Erased);
            assert!(sample.label.is_none() && sample.payload.is_none() && sample.flags.is_empty());
        }
        assert_eq!(samples(&pipeline).len(), 2, "that there was something, and why it is gone, is kept");
        check_journal(&store, "payments");
    }
}

fn host(retention: Retention) -> Host {
    Host::new(|builder| {
        builder
            .trigger(new_labels(60))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
            .retain(retention)
    })
}

fn with_content(host: &Host, state: SampleState) -> usize {
    samples(&host.pipeline).iter().filter(|sample| sample.state == state && sample.erased.is_none()).count()
}

#[test]
fn samples_in_no_batch_lose_their_content_when_their_time_is_over_and_batches_keep_theirs() {
    let mut host =
        host(Retention { samples_for: Some(days(30)), unmatched_for: Some(days(10)), ..Retention::default() });
    for _ in 0..4 {
        host.turn(60, 0.5);
    }
    // 600 questions that nobody answers, and an outcome without a prediction.
    let served = host.slot.get();
    let now = start() + TimeDelta::hours(1);
    let asked = (0..600).map(|n| {
        let mut asked = support::observation(50_000 + n, served.version, served.model, &[0.25, 0.1]);
        asked.time = now;
        Event::Prediction(asked)
    });
    host.pipeline.ingest(asked).unwrap();
    host.pipeline.ingest([Event::Outcome(Outcome::truth(id(77_777_777), Label::Class(1)))]).unwrap();
    host.pipeline.poll().unwrap();
    let batched = with_content(&host, SampleState::Batched);
    let loose = samples(&host.pipeline).len() - batched;
    assert!(batched > 50 && loose >= 600, "{batched} {loose}");

    host.clock.advance(days(11));
    host.pipeline.poll().unwrap();
    assert_eq!(with_content(&host, SampleState::Erased) + with_content(&host, SampleState::Batched), batched);
    assert_eq!(host.pipeline.store().count("closed", Kind::Parked, Some("waiting")).unwrap(), 0, "it waited too long");
    assert_eq!(host.pipeline.store().count("closed", Kind::Sample, Some("erased")).unwrap(), 0, "too early");

    host.clock.advance(days(20));
    let steps = host.pipeline.journal_entries("loop", None, usize::MAX).unwrap().len();
    host.pipeline.poll().unwrap();
    assert_eq!(host.pipeline.store().count("closed", Kind::Sample, Some("erased")).unwrap(), 256, "a step at a time");
    let entry = host.pipeline.journal_entries("loop", None, usize::MAX).unwrap();
    let expired = entry[..entry.len() - steps].iter().filter(|e| e.acts.iter().any(|act| act.what == "expired"));
    assert_eq!(expired.count(), 1, "one entry for a step");
    for _ in 0..4 {
        host.pipeline.poll().unwrap();
    }
    assert_eq!(host.pipeline.store().count("closed", Kind::Sample, Some("erased")).unwrap() as usize, loose);
    assert_eq!(with_content(&host, SampleState::Batched), batched, "batches keep their rows");
    assert_eq!(host.queue.waiting().unwrap(), 0, "nobody is asked about what is gone");
    assert!(host.queue.claim("ann", 10, hours(1)).unwrap().is_empty());
    check(&**host.pipeline.store(), "closed");
    check_journal(&**host.pipeline.store(), "closed");
    host.turn(60, 0.8);
    check_journal(&**host.pipeline.store(), "closed");
}

#[test]
fn only_so_many_are_kept_and_the_oldest_go_first() {
    let mut host = Host::new(|builder| {
        let skip_all = feedloop::router_fn("skip", |_, _| {
            Ok(feedloop::Route::Skip(feedloop::Reason::new("skip", "nobody has time")))
        });
        builder
            .route(skip_all)
            .evaluate(evaluator(Profile::adaptive()))
            .retain(Retention { most_samples: Some(100), ..Retention::default() })
    });
    for _ in 0..3 {
        host.turn(100, 0.5);
        host.clock.advance(TimeDelta::minutes(2));
        host.pipeline.poll().unwrap();
    }
    let all = samples(&host.pipeline);
    let (kept, gone): (Vec<&Sample>, Vec<&Sample>) = all
        .iter()
        .filter(|s| matches!(s.state, SampleState::Skipped | SampleState::Erased))
        .partition(|s| s.erased.is_none());
    let others = all.len() - kept.len() - gone.len();
    assert!(gone.len() > 100, "{}", gone.len());
    // Labels of the random lane wait for training: they count, but they stay.
    assert_eq!(kept.len(), 100_usize.saturating_sub(others));
    let newest_gone = gone.iter().map(|sample| sample.sequence).max().unwrap();
    assert!(kept.iter().all(|sample| sample.sequence > newest_gone));
    check_journal(&**host.pipeline.store(), "closed");
}

#[test]
fn rows_of_old_batches_go_only_if_that_is_asked_for() {
    let mut host = host(Retention { batches_for: Some(days(100)), ..Retention::default() });
    for _ in 0..5 {
        host.turn(60, 0.8);
    }
    let batches: Vec<feedloop::BatchId> =
        check(&**host.pipeline.store(), "closed").batches.into_values().map(|b| b.batch).collect();
    assert!(batches.len() > 1);
    host.clock.advance(days(101));
    for _ in 0..5 {
        host.pipeline.poll().unwrap();
    }
    for batch in &batches {
        let found = host.pipeline.verify_batch(batch).unwrap();
        assert!(found.intact && found.erased == found.rows, "{found:?}");
    }
    check_journal(&**host.pipeline.store(), "closed");
    // The loop goes on with what comes.
    let runs = host.pipeline.status().unwrap().runs;
    for _ in 0..4 {
        host.turn(60, 0.8);
    }
    assert!(host.pipeline.status().unwrap().runs > runs);
    check(&**host.pipeline.store(), "closed");
}

/// Every run of `adaptive` trains seven models, of which one is served.
#[test]
fn only_so_many_models_that_nobody_needs_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let change = |retention: Retention| {
        let at = directory.path().to_owned();
        move |builder: feedloop::PipelineBuilder| {
            let trainer = FnTrainer::inline(|job: &TrainJob| {
                let directory = job.directory.as_ref().unwrap();
                std::fs::create_dir_all(directory)?;
                std::fs::write(directory.join("log"), "trained")?;
                Ok(fit(job))
            });
            let builder = builder.trigger(new_labels(60)).train(trainer).evaluate(evaluator(Profile::adaptive()));
            builder.directory(at).retain(retention)
        }
    };
    let four = Retention { most_models: Some(4), ..Retention::default() };
    let stored = |host: &Host| {
        let bytes = records(&*host.store, "closed", Kind::Model).into_iter().filter(|record| record.state == "bytes");
        bytes.filter(|record| !record.body.is_empty()).count()
    };
    let directories =
        || std::fs::read_dir(directory.path()).unwrap().filter(|e| e.as_ref().unwrap().path().join("log").exists());
    let models = |host: &Host| check(&*host.store, "closed").models;

    let mut host = Host::new(change(Retention::default()));
    for concept in [0.5, 0.6, 0.7, 0.8] {
        host.turn(60, concept);
    }
    let trained = models(&host).len();
    assert!(trained > 21 && stored(&host) == trained, "nothing goes unless told: {} of {trained}", stored(&host));
    assert_eq!(directories().count(), trained - 1, "all but the first model were trained in a directory");

    host.restart(change(four));
    for concept in [0.75, 0.7, 0.65] {
        host.clock.advance(TimeDelta::minutes(2));
        host.turn(60, concept);
    }
    host.clock.advance(TimeDelta::minutes(2));
    host.pipeline.poll().unwrap();
    let all = models(&host);
    let (gone, left): (Vec<_>, Vec<_>) = all.values().partition(|model| model.removed.is_some());
    // Needed are the first, six that race, and up to three that are served, were served before or were kept last.
    assert!((11..=14).contains(&left.len()), "four, and those that are needed: {}", left.len());
    assert!(gone.len() > 28 && stored(&host) == left.len());
    assert_eq!(directories().count(), left.len() - 1);
    let needed: Vec<ModelVersion> = left.iter().map(|model| model.version).collect();
    let served = host.pipeline.status().unwrap().champion;
    assert!(needed.contains(&served) && needed.contains(&ModelVersion::FIRST));
    check_journal(&*host.store, "closed");

    // What is needed is there: after a restart the loop rolls back, and goes on.
    host.restart(change(four));
    host.pipeline.rollback("a person looked at it").unwrap();
    host.pipeline.poll().unwrap();
    let back = host.pipeline.status().unwrap().champion;
    assert!(back != served && needed.contains(&back));
    let runs = host.pipeline.status().unwrap().runs;
    for _ in 0..3 {
        host.turn(60, 0.6);
    }
    assert!(host.pipeline.status().unwrap().runs > runs);
    check(&*host.store, "closed");
}

#[test]
fn a_retention_without_sense_is_a_mistake() {
    let built = Pipeline::builder("p", support::schema())
        .training_data(support::base())
        .clock(ManualClock::starting_at(start()))
        .retain(Retention { samples_for: Some(TimeDelta::zero()), ..Retention::default() })
        .build();
    let error = built.err().expect("a mistake").to_string();
    assert!(error.contains("samples_for"), "{error}");
}
