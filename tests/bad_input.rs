//! Whatever a host, a stage, a trainer or a store does wrong gives a verdict or a clear error, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Admission, Artifact, Ask, BoxError, Chunk, ConfidenceRouter, Dataset, Deduplicate, Deployer, Error, Event,
    Feedback, Field, Findings, FnTrainer, JobStatus, KsDrift, Label, LabelConsistency, Lane, LowConfidence,
    Mahalanobis, ManualClock, MemoryStore, Mode, ModelRecord, ModelSlot, ModelVersion, Observation, Opinion, Outcome,
    Output, OutputDrift, PairedEvaluator, Pipeline, PipelineBuilder, PredictionError, PredictionId, Profile, Refused,
    Relevance, Route, Row, RunState, Sample, SampleState, Schema, SchemaGate, Store, Target, TrainJob, Trained,
    Trainer, UserFeedback, detector_fn, gate_fn, new_labels, router_fn,
};
use serde::Serialize;
use support::disk::Disk;
use support::{Rng, base, check, evaluator, first_model, fit, id, load, prediction, schema, start, truth};

fn everything(chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
    chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
    Ok(())
}

/// Everything is flagged and people are asked, unless a test says otherwise.
fn builder(clock: &ManualClock) -> PipelineBuilder {
    Pipeline::builder("bad", schema())
        .training_data(base())
        .detect(detector_fn("everything", everything))
        .clock(clock.clone())
        .flags_per_minute(u32::MAX)
}

fn clock() -> ManualClock {
    ManualClock::starting_at(start())
}

fn sample(pipeline: &Pipeline, id: PredictionId) -> Sample {
    let mut found = None;
    pipeline
        .each_sample(|sample| {
            if sample.id() == id {
                found = Some(sample)
            }
            Ok(())
        })
        .unwrap();
    found.unwrap_or_else(|| panic!("{id} was not kept"))
}

thread_local! {
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Silences the panics that a test causes on purpose, on its own thread.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn answer_all(pipeline: &Pipeline, clock: &ManualClock, concept: f64) -> usize {
    let target = pipeline.schema().target().clone();
    let queue = feedloop::ReviewQueue::open(pipeline.store().clone(), pipeline.name(), target, Arc::new(clock.clone()));
    let tickets = queue.claim("ann", 1_000, TimeDelta::minutes(1)).unwrap();
    for ticket in &tickets {
        queue.annotate(ticket.task.sample, "ann", truth(ticket.task.row.values(), concept), 1.0, None).unwrap();
    }
    tickets.len()
}

// Rows -----------------------------------------------------------------------------------------------------------------

fn mixed() -> Arc<Schema> {
    let fields = [
        Field::number("amount").range(0.0, 100.0),
        Field::integer("count"),
        Field::boolean("new"),
        Field::category("country", ["DE", "FR"]),
        Field::text("note", 8).nullable(),
    ];
    Arc::new(Schema::new(fields, Target::classes(["no", "yes"])).unwrap())
}

fn good() -> serde_json::Value {
    serde_json::json!({"amount": 5.0, "count": 3, "new": true, "country": "DE", "note": "fine"})
}

fn mixed_base() -> Dataset {
    let schema = mixed();
    let mut data = Dataset::new(schema.clone());
    for n in 0..60_u32 {
        let mut row = Row::new(&schema);
        let country = if n % 2 == 0 { "DE" } else { "FR" };
        row.encode(
            &schema,
            &serde_json::json!({"amount": f64::from(n), "count": n, "new": true, "country": country, "note": null}),
        );
        data.push(row, Label::Class(n % 2), 1.0).unwrap();
    }
    data
}

/// Sends one row through the whole pipeline with all defaults; returns the sample.
fn verdict_on<T: Serialize>(row: &T) -> Sample {
    let schema = mixed();
    let mut pipeline = Pipeline::builder("rows", schema.clone())
        .training_data(mixed_base())
        .detect(detector_fn("everything", everything))
        .detect(LowConfidence::below(0.6))
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .detect(OutputDrift::default())
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .gate(LabelConsistency::default())
        .gate(Relevance::default())
        .route(ConfidenceRouter::max_error(0.05))
        .clock(clock())
        .build()
        .unwrap();
    let mut observation = Box::new(Observation::new(&schema));
    observation.id = id(1);
    observation.row.encode(&schema, row);
    observation.set_output(Output::Probabilities(&[0.4, 0.6]));
    pipeline.ingest([Event::Prediction(observation)]).unwrap();
    pipeline.poll().unwrap();
    for stage in pipeline.status().unwrap().stages {
        assert_eq!(stage.failures, 0, "{} failed: {:?}", stage.name, stage.last_error);
    }
    check(&**pipeline.store(), "rows");
    sample(&pipeline, id(1))
}

fn refused(row: &serde_json::Value, about: &str) {
    let sample = verdict_on(row);
    assert_eq!(sample.state, SampleState::Quarantined, "{row}");
    let reason = &sample.history.last().unwrap().reason;
    assert!(reason.detail.contains(about), "{row}: {reason}");
}

fn with(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut row = good();
    row[field] = value;
    row
}

#[test]
fn a_sound_row_goes_to_people() {
    assert_eq!(verdict_on(&good()).state, SampleState::Queued);
}

#[test]
fn a_wrong_type_is_quarantined_with_the_field() {
    refused(&with("amount", "much".into()), "`amount`");
    refused(&with("count", serde_json::json!([1, 2])), "`count`");
    refused(&with("new", "perhaps".into()), "`new`");
    refused(&with("country", 7.into()), "`country`");
    refused(&with("note", serde_json::json!({"a": 1})), "`note`");
}

#[test]
fn a_missing_field_is_quarantined_unless_it_may_be_missing() {
    let without = |field: &str| {
        let mut row = good();
        row.as_object_mut().unwrap().remove(field);
        row
    };
    for field in ["amount", "count", "new", "country"] {
        refused(&without(field), &format!("`{field}`"));
    }
    assert_eq!(verdict_on(&without("note")).state, SampleState::Queued);
}

#[test]
fn an_unknown_field_is_quarantined_with_its_name() {
    refused(&with("surprise", 1.into()), "surprise");
}

#[test]
fn a_category_that_nobody_has_seen_is_quarantined_from_a_struct_and_from_a_map() {
    #[derive(Serialize)]
    struct Request {
        amount: f64,
        count: i64,
        new: bool,
        country: &'static str,
        note: Option<&'static str>,
    }
    let sample = verdict_on(&Request { amount: 1.0, count: 1, new: false, country: "XX", note: None });
    assert_eq!(sample.state, SampleState::Quarantined);
    assert!(sample.history.last().unwrap().reason.detail.contains("`country`"));
    refused(&with("country", "XX".into()), "`country`");
    let map: BTreeMap<&str, serde_json::Value> = [("amount", 1.0.into()), ("country", "XX".into())].into();
    assert_eq!(verdict_on(&map).state, SampleState::Quarantined);
}

#[test]
fn a_text_that_is_too_long_and_a_number_out_of_range_are_quarantined() {
    refused(&with("note", "far too long a note".into()), "`note`");
    refused(&with("amount", 1e9.into()), "`amount`");
}

#[test]
fn what_is_no_row_at_all_is_quarantined() {
    for row in [serde_json::json!(3), serde_json::json!("row"), serde_json::json!([1, 2]), serde_json::Value::Null] {
        assert_eq!(verdict_on(&row).state, SampleState::Quarantined, "{row}");
    }
}

/// Every default stage over numbers that are none; the loop stays up and says what it thinks.
#[test]
fn nan_and_infinities_in_rows_and_outputs_get_verdicts_of_every_stage() {
    let clock = clock();
    let mut pipeline = builder(&clock)
        .detect(LowConfidence::below(0.6))
        .detect(Mahalanobis::default())
        .detect(KsDrift::default().window(50))
        .detect(OutputDrift::default().window(50))
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Relevance::default())
        .route(ConfidenceRouter::max_error(0.05))
        .build()
        .unwrap();
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -0.0];
    let mut n = 0;
    for a in odd {
        for b in odd {
            for output in [[0.5, 0.5], [f64::NAN, 0.5], [f64::INFINITY, 0.0], [-3.0, 4.0]] {
                let Event::Prediction(mut observation) = prediction(n, &[0.0, 0.0]) else { unreachable!() };
                observation.row.copy_values(&[a, b]).unwrap();
                observation.set_output(Output::Probabilities(&output));
                pipeline
                    .ingest([Event::Prediction(observation), Event::Outcome(Outcome::truth(id(n), Label::Class(1)))])
                    .unwrap();
                n += 1;
            }
        }
    }
    pipeline.poll().unwrap();
    let status = pipeline.status().unwrap();
    assert!(status.stages.iter().all(|stage| stage.failures == 0), "{:?}", status.stages);
    let world = check(&**pipeline.store(), "bad");
    assert_eq!(world.samples.len(), n as usize);
    let infinite = |sample: &&Sample| sample.observation.row.values().iter().any(|value| value.is_infinite());
    assert!(world.samples.values().filter(infinite).all(|sample| sample.state == SampleState::Quarantined));
}

#[test]
fn probabilities_of_the_wrong_length_are_an_unusable_output() {
    let mut pipeline = builder(&clock()).gate(SchemaGate::default()).build().unwrap();
    let Event::Prediction(mut observation) = prediction(1, &[0.1, 0.2]) else { unreachable!() };
    observation.set_output(Output::Probabilities(&[0.2, 0.3, 0.5]));
    pipeline.ingest([Event::Prediction(observation)]).unwrap();
    let sample = sample(&pipeline, id(1));
    assert_eq!(sample.state, SampleState::Quarantined);
    assert!(sample.history[0].reason.detail.contains("output"));
}

// Outcomes and feedback --------------------------------------------------------------------------------------------------

#[test]
fn an_outcome_before_its_prediction_joins_later_and_one_without_a_prediction_is_parked() {
    let clock = clock();
    let store = MemoryStore::new();
    let build = || builder(&clock).store(store.clone()).build().unwrap();
    let mut pipeline = build();
    pipeline.ingest([Event::Outcome(Outcome::truth(id(1), Label::Class(1)))]).unwrap();
    let feedback = Feedback { prediction: id(7), user: "u".into(), opinion: Opinion::Rejection };
    pipeline.ingest([Event::Feedback(Box::new(feedback))]).unwrap();
    assert_eq!(pipeline.status().unwrap().counters.unmatched, 2);
    // Also over a restart.
    drop(pipeline);
    let mut pipeline = build();
    pipeline.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
    let joined = sample(&pipeline, id(1));
    assert_eq!(joined.label.unwrap().label, Some(Label::Class(1)));
    assert_eq!(store.count("bad", feedloop::Kind::Parked, Some("waiting")).unwrap(), 1);
    assert_eq!(store.count("bad", feedloop::Kind::Parked, Some("joined")).unwrap(), 1);
}

#[test]
fn a_duplicated_outcome_counts_once_and_a_correction_replaces_the_label() {
    let mut pipeline = builder(&clock()).build().unwrap();
    let outcome = |label| Event::Outcome(Outcome::truth(id(1), Label::Class(label)));
    pipeline.ingest([prediction(1, &[0.1, 0.2]), outcome(0), outcome(0)]).unwrap();
    assert_eq!(pipeline.status().unwrap().counters.duplicate_outcomes, 1);
    assert_eq!(sample(&pipeline, id(1)).annotations.len(), 1);
    pipeline.ingest([outcome(1)]).unwrap();
    let corrected = sample(&pipeline, id(1));
    assert_eq!((corrected.annotations.len(), corrected.label.unwrap().label), (2, Some(Label::Class(1))));
    assert_eq!(pipeline.status().unwrap().counters.corrections, 1);
}

#[test]
fn a_retraction_sends_the_sample_back_to_the_queue() {
    let clock = clock();
    let mut pipeline = builder(&clock).build().unwrap();
    pipeline.ingest([prediction(1, &[0.1, 0.2]), Event::Outcome(Outcome::truth(id(1), Label::Class(0)))]).unwrap();
    assert_eq!(sample(&pipeline, id(1)).state, SampleState::Labelled);
    pipeline.ingest([Event::Outcome(Outcome::retraction(id(1)))]).unwrap();
    let open = sample(&pipeline, id(1));
    assert_eq!((open.state, open.label.is_none()), (SampleState::Queued, true));
    assert_eq!(answer_all(&pipeline, &clock, 0.5), 1);
    pipeline.poll().unwrap();
    assert_eq!(sample(&pipeline, id(1)).state, SampleState::Labelled);
    check(&**pipeline.store(), "bad");
}

#[test]
fn a_label_that_does_not_fit_the_target_is_counted_and_ignored() {
    let mut pipeline = builder(&clock()).build().unwrap();
    let unfit = [Label::Class(2), Label::Class(u32::MAX), Label::Value(1.0), Label::Value(f64::NAN)];
    pipeline.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
    for label in unfit {
        let feedback = Feedback { prediction: id(1), user: "u".into(), opinion: Opinion::Correction(label) };
        pipeline.ingest([Event::Outcome(Outcome::truth(id(1), label)), Event::Feedback(Box::new(feedback))]).unwrap();
    }
    assert_eq!(pipeline.status().unwrap().counters.unusable_labels, 8);
    assert!(sample(&pipeline, id(1)).annotations.is_empty());
    let clock = Arc::new(clock());
    let queue = feedloop::ReviewQueue::open(pipeline.store().clone(), "bad", schema().target().clone(), clock);
    for label in unfit {
        assert!(matches!(queue.annotate(id(1), "ann", label, 1.0, None), Err(Error::Refused(_))));
    }
}

#[test]
fn a_rating_that_is_no_number_is_taken_without_harm() {
    let mut pipeline = builder(&clock()).detect(UserFeedback::default()).build().unwrap();
    pipeline.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
    for rating in [f64::NAN, f64::INFINITY, -4.0, 9.0] {
        let feedback = Feedback { prediction: id(1), user: String::new(), opinion: Opinion::Rating(rating) };
        pipeline.ingest([Event::Feedback(Box::new(feedback))]).unwrap();
    }
    let counters = pipeline.status().unwrap().counters;
    assert_eq!((counters.feedback, counters.unusable_labels), (0, 4));
    assert!(pipeline.status().unwrap().stages.iter().all(|stage| stage.failures == 0));
}

#[test]
fn a_clock_that_goes_back_is_held_and_counted() {
    let clock = clock();
    let mut pipeline = builder(&clock).build().unwrap();
    pipeline.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
    clock.advance(TimeDelta::days(-30));
    pipeline.ingest([prediction(2, &[0.3, 0.2]), Event::Outcome(Outcome::truth(id(1), Label::Class(0)))]).unwrap();
    pipeline.poll().unwrap();
    let status = pipeline.status().unwrap();
    assert_eq!((status.now, status.counters.clock_went_back), (start(), 2));
    check(&**pipeline.store(), "bad");
}

#[test]
fn an_empty_ingest_changes_nothing() {
    let mut pipeline = builder(&clock()).detect(KsDrift::default()).build().unwrap();
    let done = pipeline.ingest([]).unwrap();
    assert_eq!((done.events, done.kept, done.pending), (0, 0, 0));
    assert_eq!(pipeline.status().unwrap().sequence, 0);
}

#[test]
fn a_prediction_id_that_comes_twice_is_refused_and_counted_also_after_a_crash() {
    let clock = clock();
    let store = MemoryStore::new();
    let build = || builder(&clock).store(store.clone()).trigger(new_labels(1)).build().unwrap();
    let mut pipeline = build();
    let truth = || Event::Outcome(Outcome::truth(id(1), Label::Class(1)));
    pipeline.ingest([prediction(1, &[0.1, 0.2]), prediction(1, &[0.9, 0.2]), truth()]).unwrap();
    assert_eq!(pipeline.status().unwrap().counters.duplicate_predictions, 1);
    assert_eq!(sample(&pipeline, id(1)).observation.row.values()[0], 0.1);
    pipeline.poll().unwrap();
    let before = sample(&pipeline, id(1));
    assert_eq!(before.state, SampleState::Batched);
    // A crash: the ledger is gone, and the host sends the prediction once more.
    drop(pipeline);
    let mut pipeline = build();
    clock.advance(TimeDelta::hours(9));
    pipeline.ingest([prediction(1, &[0.1, 0.2]), truth()]).unwrap();
    pipeline.poll().unwrap();
    let after = sample(&pipeline, id(1));
    assert_eq!((after.state, &after.batch, after.history.len()), (before.state, &before.batch, before.history.len()));
    check(&**pipeline.store(), "bad");
}

#[test]
fn a_correction_and_a_retraction_reach_a_sample_that_was_kept_after_the_last_checkpoint() {
    for label in [Some(Label::Class(0)), None] {
        let clock = clock();
        let store = MemoryStore::new();
        let build = || {
            let pipeline = Pipeline::builder("bad", schema()).training_data(base()).clock(clock.clone());
            pipeline.checkpoint(1_000, TimeDelta::days(1)).store(store.clone()).build().unwrap()
        };
        let mut pipeline = build();
        // The first ingest saves a checkpoint in which the prediction is not yet a sample.
        pipeline.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
        pipeline.ingest([Event::Outcome(Outcome::truth(id(1), Label::Class(1)))]).unwrap();
        assert_eq!(sample(&pipeline, id(1)).state, SampleState::Labelled);
        drop(pipeline);
        let mut pipeline = build();
        pipeline.ingest([Event::Outcome(Outcome { prediction: id(1), label })]).unwrap();
        let sample = sample(&pipeline, id(1));
        assert_eq!(sample.label.and_then(|annotation| annotation.label), label);
        assert_eq!(sample.annotations.len(), 2);
    }
}

// Degenerate data ----------------------------------------------------------------------------------------------------------

#[test]
fn constant_columns_and_a_singular_covariance_make_stages_blind_not_broken() {
    let schema = Arc::new(Schema::numeric(4, Target::classes(["no", "yes"])).unwrap());
    // One constant, one that is the sum of two others, one that is always missing.
    let row = |n: u32| [f64::from(n), 7.0, 2.0 * f64::from(n), f64::NAN];
    let rows = (0..120).map(|n| (row(n), Label::Class(n % 2)));
    let data = Dataset::from_values(schema.clone(), rows.collect::<Vec<_>>()).unwrap();
    let mut pipeline = Pipeline::builder("flat", schema.clone())
        .training_data(data)
        .detect(Mahalanobis::default())
        .detect(Mahalanobis::default().covariance(feedloop::Covariance::Empirical).named("empirical"))
        .detect(KsDrift::default().window(50))
        .detect(OutputDrift::default().window(50))
        .gate(Relevance::default())
        .clock(clock())
        .build()
        .unwrap();
    let events = (0..200).map(|n| {
        let mut observation = Box::new(Observation::new(&schema));
        observation.id = id(n);
        observation.row.copy_values(&[n as f64 * 50.0, 8.0, 3.0, 1.0]).unwrap();
        observation.set_output(Output::Probabilities(&[0.5, 0.5]));
        Event::Prediction(observation)
    });
    pipeline.ingest(events.collect::<Vec<_>>()).unwrap();
    pipeline.poll().unwrap();
    let status = pipeline.status().unwrap();
    assert!(status.stages.iter().all(|stage| stage.failures == 0), "{:?}", status.stages);
    let blind: Vec<_> = status.stages.iter().flat_map(|stage| &stage.blind).collect();
    assert!(!blind.is_empty() && blind.iter().all(|blind| !blind.reason.is_empty()), "{:?}", status.stages);
}

#[test]
fn a_reference_without_rows_is_an_error_of_build_or_a_blind_stage() {
    let empty = feedloop::Reference::builder(schema()).finish();
    let built = Pipeline::builder("empty", schema())
        .reference(empty)
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .build();
    match built {
        Ok(pipeline) => assert!(pipeline.status().unwrap().stages.iter().all(|stage| !stage.blind.is_empty())),
        Err(error) => assert!(matches!(error, Error::Build(_)), "{error}"),
    }
}

// Stages that fail -----------------------------------------------------------------------------------------------------------

#[test]
fn a_detector_that_panics_or_errs_is_isolated_down_after_three_failures_and_comes_back() {
    for panics in [true, false] {
        let clock = clock();
        let broken = Arc::new(AtomicBool::new(true));
        let calls = Arc::new(AtomicUsize::new(0));
        let (theirs, counted) = (broken.clone(), calls.clone());
        let mut pipeline = builder(&clock)
            .detect(detector_fn("broken", move |chunk: &Chunk<'_>, findings: &mut Findings| {
                counted.fetch_add(1, Ordering::Relaxed);
                findings.flag(chunk.ids()[0], 9.0, 1.0);
                match theirs.load(Ordering::Relaxed) {
                    true if panics => panic!("no memory left"),
                    true => Err("no memory left".into()),
                    false => Ok(()),
                }
            }))
            .build()
            .unwrap();
        quietly(|| {
            (0..6).for_each(|n| {
                pipeline.ingest([prediction(n, &[0.1, n as f64])]).unwrap();
            })
        });
        let status = pipeline.status().unwrap();
        let stage = status.stages.iter().find(|stage| stage.name == "broken").unwrap();
        assert_eq!((stage.down, stage.failures, calls.load(Ordering::Relaxed)), (true, 3, 3));
        assert!(stage.last_error.as_ref().unwrap().contains("no memory left"));
        let world = check(&**pipeline.store(), "bad");
        assert_eq!(world.samples.len(), 6, "the other detector goes on");
        assert!(
            world.samples.values().all(|sample| sample.flags.len() == 1),
            "findings of the failed call are dropped"
        );
        broken.store(false, Ordering::Relaxed);
        assert!(pipeline.revive("nobody").is_err());
        pipeline.revive("broken").unwrap();
        pipeline.ingest([prediction(7, &[0.1, 7.0])]).unwrap();
        assert_eq!(sample(&pipeline, id(7)).flags.len(), 2);
    }
}

#[test]
fn a_sample_waits_for_a_gate_or_router_that_panics_and_goes_on_when_it_works() {
    for router in [false, true] {
        let clock = clock();
        let broken = Arc::new(AtomicBool::new(true));
        let theirs = broken.clone();
        let fail = move || {
            if theirs.load(Ordering::Relaxed) {
                panic!("no connection")
            }
        };
        let mut builder = builder(&clock);
        builder = if router {
            builder.route(router_fn("stage", move |_: &Sample, _: &feedloop::RouteContext<'_>| {
                fail();
                Ok(Route::ask(
                    Ask { priority: 1.0, overlap: 1, blind: true },
                    feedloop::Reason::new("asked", "everything"),
                ))
            }))
        } else {
            builder.gate(gate_fn("stage", move |_: &Sample, _: &feedloop::GateContext<'_>| {
                fail();
                Ok(Admission::Pass)
            }))
        };
        let mut pipeline = builder.build().unwrap();
        let waiting = if router { SampleState::Admitted } else { SampleState::Flagged };
        // A label that comes meanwhile is kept.
        let truth = Event::Outcome(Outcome::truth(id(1), Label::Class(1)));
        quietly(|| pipeline.ingest([prediction(0, &[0.1, 0.0])]).unwrap());
        assert_eq!(sample(&pipeline, id(0)).state, waiting);
        quietly(|| pipeline.ingest([prediction(1, &[0.1, 1.0]), truth]).unwrap());
        if !router {
            assert_eq!(sample(&pipeline, id(1)).state, waiting);
        }
        broken.store(false, Ordering::Relaxed);
        pipeline.poll().unwrap();
        assert_eq!(sample(&pipeline, id(0)).state, SampleState::Queued);
        assert_eq!(sample(&pipeline, id(1)).state, SampleState::Labelled);
        // Broken for good: it is down, samples wait, and nothing is lost.
        broken.store(true, Ordering::Relaxed);
        quietly(|| {
            (2..8).for_each(|n| {
                pipeline.ingest([prediction(n, &[0.1, n as f64])]).unwrap();
            })
        });
        assert!(pipeline.status().unwrap().stages.iter().any(|stage| stage.name == "stage" && stage.down));
        assert_eq!(pipeline.status().unwrap().samples[&waiting], 6);
        broken.store(false, Ordering::Relaxed);
        pipeline.revive("stage").unwrap();
        clock.advance(TimeDelta::seconds(2));
        pipeline.poll().unwrap();
        assert_eq!(pipeline.status().unwrap().samples[&SampleState::Queued], 7);
        check(&**pipeline.store(), "bad");
    }
}

#[test]
fn a_trigger_that_panics_waits_and_says_so() {
    let trigger = feedloop::trigger_fn("broken", |_, _| panic!("division by zero"));
    let mut pipeline = builder(&clock()).trigger(trigger).build().unwrap();
    quietly(|| pipeline.poll().unwrap());
    assert!(pipeline.status().unwrap().trigger_error.unwrap().contains("division by zero"));
}

// Retraining ---------------------------------------------------------------------------------------------------------------------

/// Rows that are labelled at once: enough for a run.
fn labelled(from: u64, count: u64) -> Vec<Event> {
    let mut rng = Rng(from);
    (from..from + count)
        .flat_map(|n| {
            let values = [rng.unit(), rng.unit()];
            [prediction(n, &values), Event::Outcome(Outcome::truth(id(n), truth(&values, 0.2)))]
        })
        .collect()
}

fn retraining(clock: &ManualClock, trainer: impl Trainer + 'static, profile: Profile) -> PipelineBuilder {
    builder(clock)
        .first_model(first_model())
        .trigger(new_labels(20))
        .train(trainer)
        .evaluate(evaluator(profile))
        .explore(0.3)
        .label_batch(5)
}

fn runs(pipeline: &Pipeline) -> Vec<(RunState, String)> {
    let world = check(&**pipeline.store(), pipeline.name());
    let text =
        |run: &feedloop::Run| run.notes.iter().map(|(_, reason)| reason.to_string()).collect::<Vec<_>>().join("; ");
    world.runs.values().map(|run| (run.state, text(run))).collect()
}

#[test]
fn a_trainer_that_panics_or_fails_fails_its_run_and_the_loop_tries_again_later() {
    for panics in [true, false] {
        let clock = clock();
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let trainer = FnTrainer::inline(move |_: &TrainJob| -> Result<Artifact, BoxError> {
            counted.fetch_add(1, Ordering::Relaxed);
            if panics { panic!("singular matrix") } else { Err("singular matrix".into()) }
        });
        let mut pipeline = retraining(&clock, trainer, Profile::confirm()).build().unwrap();
        quietly(|| {
            pipeline.ingest(labelled(0, 40)).unwrap();
            pipeline.poll().unwrap();
            pipeline.ingest(labelled(100, 40)).unwrap();
            pipeline.poll().unwrap();
            assert_eq!(tries.load(Ordering::Relaxed), 1, "it waits before it tries again");
            clock.advance(TimeDelta::minutes(5));
            pipeline.poll().unwrap();
        });
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        for (state, text) in runs(&pipeline) {
            assert!(state == RunState::Failed && text.contains("singular matrix"), "{state:?} {text}");
        }
        assert_eq!(pipeline.champion(), ModelVersion::FIRST);
    }
}

/// A trainer or deployer of a user that panics in every method.
struct Panics;

impl Trainer for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn start(&mut self, _: TrainJob) -> Result<(), BoxError> {
        panic!("start")
    }

    fn poll(&mut self, _: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(JobStatus::Unknown)
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        panic!("cancel")
    }
}

#[test]
fn a_trainer_whose_methods_panic_does_not_take_the_loop_down() {
    let clock = clock();
    let mut pipeline = retraining(&clock, Panics, Profile::confirm()).build().unwrap();
    quietly(|| {
        pipeline.ingest(labelled(0, 40)).unwrap();
        let _ = pipeline.poll();
    });
    assert!(matches!(&runs(&pipeline)[..], [(RunState::Failed, text)] if text.contains("start")));
}

#[test]
fn garbage_that_does_not_load_is_never_promoted() {
    for profile in [Profile::confirm(), Profile::adaptive()] {
        let clock = clock();
        let trainer = FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(vec![0xff, 0xfe, 0x00])));
        let slot = ModelSlot::new(0.5, load).inline();
        let mut pipeline = retraining(&clock, trainer, profile).deploy(slot.clone()).build().unwrap();
        for round in 0..5 {
            pipeline.ingest(labelled(round * 100, 40)).unwrap();
            pipeline.poll().unwrap();
            clock.advance(TimeDelta::hours(3));
        }
        let world = check(&**pipeline.store(), "bad");
        assert!(!world.runs.is_empty() && world.promotions.is_empty());
        assert!(world.runs.values().all(|run| run.state != RunState::Watched));
        assert_eq!((slot.version(), pipeline.champion()), (ModelVersion::FIRST, ModelVersion::FIRST));
        assert!(world.models.values().any(|model| model.quarantined.is_some()), "the version is not to be served");
    }
}

#[test]
fn a_candidate_that_says_nan_is_refused() {
    for profile in [Profile::confirm(), Profile::adaptive()] {
        let clock = clock();
        let trainer = FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(b"NaN".to_vec())));
        let mut pipeline = retraining(&clock, trainer, profile).build().unwrap();
        for round in 0..5 {
            pipeline.ingest(labelled(round * 100, 40)).unwrap();
            pipeline.poll().unwrap();
            clock.advance(TimeDelta::hours(3));
        }
        let world = check(&**pipeline.store(), "bad");
        assert!(!world.runs.is_empty() && world.promotions.is_empty(), "{:?}", world.promotions);
        assert_eq!(pipeline.champion(), ModelVersion::FIRST);
    }
}

/// A deployer that refuses: every version it is to load, or to switch to.
struct Refuses {
    panics: bool,
    at: &'static str,
}

impl Refuses {
    fn fail(&self) -> Result<(), BoxError> {
        if self.panics { panic!("no room on the device") } else { Err("no room on the device".into()) }
    }
}

impl Deployer for Refuses {
    fn prepare(&mut self, _: &ModelRecord) -> Result<(), BoxError> {
        if self.at == "prepare" { self.fail() } else { Ok(()) }
    }

    fn poll(&mut self, _: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        Ok(match self.at {
            "prepare" => JobStatus::Unknown,
            "poll" => JobStatus::Failed { reason: "no room on the device".into(), log: String::new() },
            _ => JobStatus::Done(()),
        })
    }

    fn activate(&mut self, _: ModelVersion) -> Result<(), BoxError> {
        self.fail()
    }
}

#[test]
fn a_deployer_that_fails_leaves_the_champion_and_ends_the_run_with_the_reason() {
    for (at, panics) in
        [("prepare", false), ("poll", false), ("activate", false), ("prepare", true), ("activate", true)]
    {
        let clock = clock();
        let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
        let mut pipeline =
            retraining(&clock, trainer, Profile::adaptive()).deploy(Refuses { at, panics }).build().unwrap();
        quietly(|| {
            for round in 0..3 {
                pipeline.ingest(labelled(round * 100, 40)).unwrap();
                pipeline.poll().unwrap();
                clock.advance(TimeDelta::hours(3));
            }
        });
        let runs = runs(&pipeline);
        let told = |(state, text): &(RunState, String)| *state == RunState::Failed && text.contains("no room");
        assert!(runs.iter().any(told), "{at}: {runs:?}");
        assert_eq!(pipeline.champion(), ModelVersion::FIRST);
        assert!(pipeline.status().unwrap().run.is_none(), "{at}: nothing is stuck");
    }
}

#[test]
fn a_batch_that_cannot_be_exported_waits_whole_until_it_can() {
    let clock = clock();
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("export");
    std::fs::write(&blocked, "a file where the directory should be").unwrap();
    let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
    let mut pipeline = retraining(&clock, trainer, Profile::confirm()).export(&blocked).build().unwrap();
    pipeline.ingest(labelled(0, 40)).unwrap();
    assert!(matches!(pipeline.poll(), Err(Error::File { .. })));
    let world = check(&**pipeline.store(), "bad");
    assert!(world.batches.is_empty() && world.samples.values().all(|sample| sample.state != SampleState::Batched));
    std::fs::remove_file(&blocked).unwrap();
    pipeline.poll().unwrap();
    let world = check(&**pipeline.store(), "bad");
    assert_eq!(world.batches.len(), 1);
    assert_eq!(world.batches.values().next().unwrap().rows, 40);
}

#[test]
fn nothing_is_promoted_in_advisory_mode_and_nothing_without_a_person_in_approval_mode() {
    for mode in [Mode::Advisory, Mode::Approval] {
        let clock = clock();
        let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
        let mut pipeline = retraining(&clock, trainer, Profile::adaptive()).mode(mode).build().unwrap();
        assert!(matches!(pipeline.approve("me"), Err(Error::Refused(_))));
        for round in 0..4 {
            pipeline.ingest(labelled(round * 100, 40)).unwrap();
            pipeline.poll().unwrap();
            clock.advance(TimeDelta::hours(3));
        }
        assert_eq!(pipeline.champion(), ModelVersion::FIRST);
        if mode == Mode::Approval {
            pipeline.approve("me").unwrap();
            pipeline.poll().unwrap();
            assert_ne!(pipeline.champion(), ModelVersion::FIRST);
        }
        check(&**pipeline.store(), "bad");
    }
}

#[test]
fn a_rollback_that_was_promised_is_not_displaced_by_a_new_run() {
    let clock = clock();
    let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
    let mut pipeline = retraining(&clock, trainer, Profile::adaptive()).build().unwrap();
    let mut round = 0;
    while pipeline.champion() == ModelVersion::FIRST {
        assert!(round < 10, "nothing was promoted");
        pipeline.ingest(labelled(round * 100, 40)).unwrap();
        pipeline.poll().unwrap();
        clock.advance(TimeDelta::hours(3));
        round += 1;
    }
    let promoted = pipeline.champion();
    let back = pipeline.rollback("test").unwrap();
    assert!(matches!(pipeline.retrain_now("me"), Err(Error::Refused(_))));
    pipeline.poll().unwrap();
    assert_eq!(pipeline.promotions().unwrap().last().map(|change| (change.from, change.to)), Some((promoted, back)));
    check(&**pipeline.store(), "bad");
}

/// An evaluator that is at work for as long as a test wants.
struct Slow {
    inner: PairedEvaluator,
    busy: Arc<AtomicBool>,
}

impl feedloop::Evaluator for Slow {
    fn profile(&self) -> &Profile {
        feedloop::Evaluator::profile(&self.inner)
    }

    fn start(&mut self, job: feedloop::ScoreJob) -> Result<(), BoxError> {
        self.inner.start(job)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<feedloop::Scores>>, BoxError> {
        match self.busy.load(Ordering::Relaxed) && key.starts_with("round") {
            true => Ok(JobStatus::Running),
            false => self.inner.poll(key),
        }
    }
}

#[test]
fn a_round_whose_candidate_was_cancelled_meanwhile_ends() {
    let clock = clock();
    let busy = Arc::new(AtomicBool::new(false));
    let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
    let store = MemoryStore::new();
    let build = |trainer: FnTrainer| {
        builder(&clock)
            .first_model(first_model())
            .trigger(new_labels(20))
            .train(trainer)
            .evaluate(Slow { inner: evaluator(Profile::confirm()), busy: busy.clone() })
            .explore(0.3)
            .label_batch(5)
            .store(store.clone())
            .build()
            .unwrap()
    };
    let mut pipeline = build(trainer);
    pipeline.ingest(labelled(0, 40)).unwrap();
    pipeline.poll().unwrap();
    assert_eq!(pipeline.status().unwrap().run.unwrap().state, RunState::Judging);
    busy.store(true, Ordering::Relaxed);
    pipeline.ingest(labelled(100, 40)).unwrap();
    pipeline.poll().unwrap();
    pipeline.cancel_run("test").unwrap();
    pipeline.poll().unwrap();
    // Also in the next process.
    drop(pipeline);
    let mut pipeline = build(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))));
    busy.store(false, Ordering::Relaxed);
    pipeline.poll().unwrap();
    pipeline.poll().unwrap();
    check(&**pipeline.store(), "bad");
}

// The recorder ---------------------------------------------------------------------------------------------------------------------

const HALF: Output<'_> = Output::Probabilities(&[0.5, 0.5]);

#[test]
fn a_slice_of_the_wrong_length_is_refused_as_input_and_its_slot_comes_back() {
    let (recorder, control, worker) = builder(&clock()).inbox(8, 2).build().unwrap().spawn().unwrap();
    for wrong in [&[][..], &[1.0], &[1.0, 2.0, 3.0]] {
        for _ in 0..20 {
            let refused = recorder.record_values(ModelVersion::FIRST, HALF, wrong);
            assert!(matches!(refused, Err(Refused::Input(_))), "{refused:?}");
        }
    }
    assert_eq!(recorder.refused().0, 60);
    let id = recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, 2.0]).unwrap();
    control.flush().unwrap();
    assert!(control.sample(id).unwrap().is_some());
    worker.stop(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_slot_comes_back_when_the_hosts_serialize_panics_and_nothing_of_it_remains() {
    struct Bomb;
    impl Serialize for Bomb {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap;
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("x0", &99.0)?;
            map.serialize_entry("unknown", &1)?;
            panic!("a broken host")
        }
    }
    let (recorder, control, worker) = builder(&clock()).inbox(4, 1).build().unwrap().spawn().unwrap();
    quietly(|| {
        for _ in 0..50 {
            let recorded = catch_unwind(AssertUnwindSafe(|| recorder.record(ModelVersion::FIRST, HALF, &Bomb)));
            assert!(recorded.is_err(), "the host's panic is the host's");
        }
    });
    for n in 0..4 {
        let sent = recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, f64::from(n)]).unwrap();
        control.flush().unwrap();
        let sample = control.sample(sent).unwrap().unwrap();
        assert_eq!(sample.observation.row.values(), [1.0, f64::from(n)]);
        assert!(sample.observation.row.violations().is_empty());
    }
    worker.stop(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_full_inbox_refuses_and_counts_and_keeps_a_reserve_for_outcomes() {
    let clock = clock();
    let gate = Arc::new(AtomicBool::new(false));
    let theirs = gate.clone();
    let hold = detector_fn("hold", move |_: &Chunk<'_>, _: &mut Findings| {
        while !theirs.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        Ok(())
    });
    let pipeline = builder(&clock).detect(hold).inbox(16, 4).build().unwrap();
    let (recorder, control, worker) = pipeline.spawn().unwrap();
    let mut taken = Vec::new();
    // The worker is held in its first chunk; what follows fills the inbox.
    let refused = loop {
        match recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, taken.len() as f64]) {
            Ok(id) => taken.push(id),
            Err(refused) => break refused,
        }
        assert!(taken.len() < 100_000, "it was never full");
    };
    assert_eq!(refused, Refused::Full);
    let guarded = recorder.prediction(ModelVersion::FIRST, HALF).guarded().values(&[5.0, -1.0]).unwrap();
    taken.push(guarded);
    for id in &taken[..4] {
        recorder.truth(*id, Label::Class(1)).unwrap();
    }
    assert_eq!(recorder.refused(), (1, 0));
    gate.store(true, Ordering::Relaxed);
    control.flush().unwrap();
    for id in &taken {
        assert!(control.sample(*id).unwrap().is_some(), "what was taken is there");
    }
    for id in &taken[..4] {
        assert!(control.sample(*id).unwrap().unwrap().label.is_some());
    }
    recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, 0.5]).unwrap();
    worker.stop(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_stopped_worker_refuses_and_gives_the_pipeline_back() {
    let (recorder, control, worker) = builder(&clock()).build().unwrap().spawn().unwrap();
    let taken = recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, 2.0]).unwrap();
    let pipeline = worker.stop(Duration::from_secs(20)).unwrap();
    assert_eq!(sample(&pipeline, taken).state, SampleState::Queued, "what was recorded before is applied");
    assert_eq!(recorder.record_values(ModelVersion::FIRST, HALF, &[1.0, 2.0]), Err(Refused::Stopped));
    assert_eq!(recorder.truth(taken, Label::Class(0)), Err(Refused::Stopped));
    assert_eq!(recorder.refused(), (1, 1));
    assert!(matches!(control.status(), Err(Error::Stopped)));
    assert!(control.sample(taken).unwrap().is_some(), "the store can still be read");
}

#[test]
fn a_flush_is_answered_while_a_host_records_without_a_pause() {
    let (recorder, control, worker) = builder(&clock()).inbox(64, 8).build().unwrap().spawn().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (theirs, busy) = (stop.clone(), recorder.clone());
    let host = std::thread::spawn(move || {
        while !theirs.load(Ordering::Relaxed) {
            let _ = busy.record_values(ModelVersion::FIRST, HALF, &[1.0, 2.0]);
        }
    });
    for _ in 0..5 {
        control.flush().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    host.join().unwrap();
    worker.stop(Duration::from_secs(60)).unwrap();
}

// The store ---------------------------------------------------------------------------------------------------------------------------

#[test]
fn a_store_that_fails_for_a_while_loses_nothing_and_what_is_pending_is_reported() {
    let clock = clock();
    let store = Disk::new(MemoryStore::new());
    let mut pipeline = builder(&clock).store(store.clone()).build().unwrap();
    store.commits_fail();
    for n in 0..20 {
        let done = pipeline.ingest([prediction(n, &[0.1, n as f64])]).unwrap();
        assert!(done.events == 1 && done.kept == 1 && done.pending > n as usize, "{done:?}");
    }
    let outcome = Event::Outcome(Outcome::truth(id(3), Label::Class(1)));
    pipeline.ingest([outcome]).unwrap();
    assert!(matches!(pipeline.poll(), Err(Error::Store { .. })));
    let status = pipeline.status().unwrap();
    assert!(status.pending > 20 && status.store_error.unwrap().contains("disk is full"));
    assert_eq!(store.content().count("bad", feedloop::Kind::Sample, None).unwrap(), 0);
    store.heal();
    assert_eq!(pipeline.poll().unwrap().pending, 0);
    let world = check(store.content(), "bad");
    assert_eq!(world.samples.len(), 20);
    assert_eq!(world.samples[&id(3)].state, SampleState::Labelled);
}

#[test]
fn a_store_that_cannot_be_read_is_counted_and_the_rest_goes_on() {
    let clock = clock();
    let store = Disk::new(MemoryStore::new());
    let mut pipeline = builder(&clock).store(store.clone()).build().unwrap();
    pipeline.ingest([prediction(0, &[0.1, 0.0])]).unwrap();
    store.reads_fail();
    pipeline.ingest([Event::Outcome(Outcome::truth(id(99), Label::Class(1)))]).unwrap();
    assert!(pipeline.poll().is_err() && pipeline.status().is_err());
    store.heal();
    pipeline.poll().unwrap();
    assert!(pipeline.status().unwrap().counters.store_failures > 0);
    check(store.content(), "bad");
}

#[test]
fn a_store_that_fails_at_the_start_is_an_error_of_build() {
    let store = Disk::new(MemoryStore::new());
    store.commits_fail();
    assert!(matches!(builder(&clock()).store(store.clone()).build(), Err(Error::Store { .. })));
    store.heal();
    store.reads_fail();
    assert!(matches!(builder(&clock()).store(store).build(), Err(Error::Store { .. })));
}

#[test]
fn a_worker_whose_place_was_taken_can_do_no_harm() {
    let clock = clock();
    let store = MemoryStore::new();
    let mut old = builder(&clock).store(store.clone()).build().unwrap();
    let mut new = builder(&clock).store(store.clone()).build().unwrap();
    let done = old.ingest([prediction(1, &[0.1, 0.2])]).unwrap();
    assert!(done.pending > 0);
    assert!(old.poll().is_err());
    new.ingest([prediction(2, &[0.1, 0.2])]).unwrap();
    let world = check(&store, "bad");
    assert_eq!(world.samples.keys().copied().collect::<Vec<_>>(), [id(2)]);
}

// The builder ---------------------------------------------------------------------------------------------------------------------------

#[test]
fn build_reports_every_mistake_at_once() {
    let built = Pipeline::builder("wrong", schema())
        .detect(LowConfidence::below(7.0))
        .detect(LowConfidence::below(0.5))
        .gate(Deduplicate::exact().capacity(0))
        .gate(Relevance::default().out_of_range(f64::NAN))
        .route(ConfidenceRouter::max_error(2.0))
        .route(ConfidenceRouter::max_error(0.1))
        .evaluate(evaluator(Profile::confirm()))
        .explore(-0.5)
        .learn_from_outcomes(f64::NAN)
        .label_batch(0)
        .training_rows(0)
        .remember(0, 0)
        .inbox(4, 4)
        .segment_by("nothing")
        .false_alarms_per_day(f64::NAN)
        .build();
    let Err(Error::Build(mistakes)) = built else { panic!("it must not build") };
    let expected = [
        "reference",
        "low_confidence",
        "deduplicate",
        "relevance",
        "two routers",
        "served model",
        "explore",
        "learn_from",
        "label_batch",
        "training_rows",
        "remember",
        "inbox",
        "segment_by",
        "false_alarms_per_day",
        "two detectors",
    ];
    for about in expected {
        assert!(mistakes.iter().any(|mistake| mistake.contains(about)), "nothing about {about}: {mistakes:#?}");
    }
    assert!(Error::Build(mistakes).to_string().contains("; "));
}

#[test]
fn settings_of_every_default_stage_without_sense_are_mistakes() {
    let wrong: Vec<(&str, PipelineBuilder)> = vec![
        ("low_confidence", builder(&clock()).detect(LowConfidence::below(f64::NAN))),
        ("mahalanobis", builder(&clock()).detect(Mahalanobis::default().false_alarm_rate(0.0))),
        ("ks_drift", builder(&clock()).detect(KsDrift::default().window(0))),
        ("ks_drift", builder(&clock()).detect(KsDrift::default().false_alarm_rate(f64::NAN))),
        ("output_drift", builder(&clock()).detect(OutputDrift::default().window(0))),
        ("prediction_error", builder(&clock()).detect(PredictionError::default().tolerance(f64::NAN))),
        ("user_feedback", builder(&clock()).detect(UserFeedback::default().rating_below(f64::NAN))),
        ("schema", builder(&clock()).gate(SchemaGate::default().completeness(2.0))),
        ("label_consistency", builder(&clock()).gate(LabelConsistency::default().tolerance(-1.0))),
    ];
    for (name, builder) in wrong {
        match builder.build() {
            Err(Error::Build(mistakes)) => assert!(mistakes.iter().any(|text| text.contains(name)), "{mistakes:?}"),
            other => panic!("{name}: {:?}", other.map(|_| "it was built").map_err(|e| e.to_string())),
        }
    }
}

#[test]
fn a_stored_state_of_another_schema_is_refused_not_read() {
    let clock = clock();
    let store = MemoryStore::new();
    let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
    let mut pipeline = retraining(&clock, trainer, Profile::adaptive()).store(store.clone()).build().unwrap();
    for round in 0..4 {
        pipeline.ingest(labelled(round * 100, 40)).unwrap();
        pipeline.poll().unwrap();
        clock.advance(TimeDelta::hours(3));
    }
    drop(pipeline);
    let other = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
    let rows = (0..60).map(|n| ([f64::from(n); 1], Label::Class(n as u32 % 2))).collect::<Vec<_>>();
    let data = Dataset::from_values(other.clone(), rows).unwrap();
    let built = Pipeline::builder("bad", other).training_data(data).clock(clock).store(store).build();
    assert!(
        matches!(built, Err(Error::Corrupt(_) | Error::Schema(_))),
        "{:?}",
        built.map(|_| ()).map_err(|e| e.to_string())
    );
}

#[test]
fn lanes_that_judge_go_to_people_though_the_router_would_not_ask() {
    let skip = router_fn("skip", |_: &Sample, _: &feedloop::RouteContext<'_>| {
        Ok(Route::Skip(feedloop::Reason::new("never", "nobody")))
    });
    let mut pipeline = builder(&clock()).route(skip).explore(0.5).build().unwrap();
    pipeline.ingest((0..40).map(|n| prediction(n, &[0.1, n as f64]))).unwrap();
    let world = check(&**pipeline.store(), "bad");
    let lanes = |lane, state| world.samples.values().filter(|s| s.lane == lane && s.state == state).count();
    assert!(lanes(Lane::Random, SampleState::Queued) > 5);
    assert_eq!(lanes(Lane::Random, SampleState::Skipped) + lanes(Lane::Flagged, SampleState::Queued), 0);
}
