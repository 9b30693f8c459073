//! What becomes of the answers of people who disagree, and of answers to gold questions, in the whole loop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Ask, BoxError, Chunk, Dataset, Event, Findings, FnTrainer, Kind, Label, ManualClock, MemoryStore, ModelSlot,
    ModelVersion, Observation, Outcome, Output, Pipeline, PredictionId, Profile, Reason, ReviewQueue, Route, Row,
    SampleState, Schema, Target, TrainJob, detector_fn, new_labels, router_fn,
};
use support::{Rng, base, check, evaluator, first_model, fit, id, load, prediction, records, start, truth};

const LEASE: TimeDelta = TimeDelta::minutes(1);

fn everything(chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
    chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
    Ok(())
}

/// A loop with five classes that asks two people about everything.
struct Five {
    pipeline: Pipeline,
    queue: ReviewQueue,
}

impl Five {
    fn with_one_sample() -> Five {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["a", "b", "c", "d", "e"])).unwrap());
        let rows = (0..50).map(|n| ([f64::from(n)], Label::Class(n % 5)));
        let clock = ManualClock::starting_at(start());
        let mut pipeline = Pipeline::builder("five", schema.clone())
            .training_data(Dataset::from_values(schema.clone(), rows.collect::<Vec<_>>()).unwrap())
            .detect(detector_fn("everything", everything))
            .route(router_fn("two", |_, _| {
                Ok(Route::ask(Ask { priority: 1.0, overlap: 2, blind: true }, Reason::new("test", "asked")))
            }))
            .clock(clock.clone())
            .store(MemoryStore::new())
            .build()
            .unwrap();
        let mut observation = Box::new(Observation::new(&schema));
        (observation.id, observation.model, observation.time) = (id(1), ModelVersion::FIRST, start());
        observation.row.copy_values(&[1.0]).unwrap();
        observation.set_output(Output::Probabilities(&[0.2; 5]));
        pipeline.ingest([Event::Prediction(observation)]).unwrap();
        let store = pipeline.store().clone();
        Five { pipeline, queue: ReviewQueue::open(store, "five", schema.target().clone(), Arc::new(clock)) }
    }

    fn is_asked(&self, annotator: &str) -> bool {
        let tickets = self.queue.claim(annotator, 9, LEASE).unwrap();
        tickets.iter().for_each(|ticket| self.queue.release(ticket.task.sample, annotator).unwrap());
        !tickets.is_empty()
    }

    fn answer(&mut self, annotator: &str, class: u32) {
        assert!(self.is_asked(annotator), "{annotator} is asked");
        self.queue.annotate(id(1), annotator, Label::Class(class), 1.0, None).unwrap();
        self.pipeline.poll().unwrap();
    }

    fn state(&self) -> SampleState {
        check(&**self.pipeline.store(), "five").samples[&id(1)].state
    }

    /// Five people, two of whom agree on 0 and two on 1.
    fn without_consensus() -> Five {
        let mut five = Five::with_one_sample();
        for (annotator, class) in [("ann", 0), ("bob", 1), ("cat", 2), ("dan", 0)] {
            five.answer(annotator, class);
            assert_eq!(five.state(), SampleState::Queued, "after {annotator}");
        }
        five.answer("eve", 1);
        five
    }

    fn label(&self) -> Option<Label> {
        let world = check(&**self.pipeline.store(), "five");
        world.samples[&id(1)].label.as_ref().and_then(|annotation| annotation.label)
    }
}

#[test]
fn one_more_person_at_a_time_is_asked_until_there_is_a_majority() {
    let mut five = Five::with_one_sample();
    for (annotator, class) in [("ann", 0), ("bob", 1), ("cat", 0)] {
        five.answer(annotator, class);
    }
    assert_eq!((five.state(), five.label()), (SampleState::Labelled, Some(Label::Class(0))));
    assert!(!five.is_asked("dan"), "nobody else is asked");
}

#[test]
fn what_five_people_do_not_agree_on_is_put_aside_with_the_reason_and_asked_no_more() {
    let five = Five::without_consensus();
    assert!(!five.is_asked("fay"));
    assert_eq!((five.state(), five.label()), (SampleState::Quarantined, None));
    let world = check(&**five.pipeline.store(), "five");
    let step = world.samples[&id(1)].history.last().unwrap();
    assert_eq!((step.by.as_str(), step.reason.code.as_str()), ("queue", "no_consensus"));
    assert_eq!(world.samples[&id(1)].annotations.len(), 5, "every answer is kept");
}

#[test]
fn the_truth_settles_what_people_did_not_agree_on() {
    let mut five = Five::without_consensus();
    five.pipeline.ingest([Event::Outcome(Outcome::truth(id(1), Label::Class(4)))]).unwrap();
    five.pipeline.poll().unwrap();
    assert_eq!((five.state(), five.label()), (SampleState::Labelled, Some(Label::Class(4))));
}

#[test]
fn a_correction_that_makes_a_majority_settles_it_and_one_that_does_not_changes_nothing() {
    let mut five = Five::without_consensus();
    five.queue.correct(id(1), "cat", Label::Class(3), 1.0, None).unwrap();
    five.pipeline.poll().unwrap();
    assert_eq!(five.state(), SampleState::Quarantined);
    five.queue.correct(id(1), "cat", Label::Class(1), 1.0, None).unwrap();
    five.pipeline.poll().unwrap();
    assert_eq!((five.state(), five.label()), (SampleState::Labelled, Some(Label::Class(1))));
}

#[test]
fn who_sends_it_on_by_hand_has_one_more_person_asked() {
    let mut five = Five::without_consensus();
    five.pipeline.readmit(id(1), "lead").unwrap();
    assert_eq!(five.state(), SampleState::Queued);
    five.answer("fay", 1);
    assert_eq!(five.state(), SampleState::Quarantined, "three of six are no majority");
    five.pipeline.readmit(id(1), "lead").unwrap();
    five.answer("guy", 1);
    assert_eq!((five.state(), five.label()), (SampleState::Labelled, Some(Label::Class(1))));
}

#[test]
fn answers_to_gold_questions_label_no_sample_and_train_no_model() {
    const SAMPLES: u64 = 300;
    let clock = ManualClock::starting_at(start());
    let slot = ModelSlot::new(0.5, load).inline();
    let mut pipeline = Pipeline::builder("gold", support::schema())
        .training_data(base())
        .first_model(first_model())
        .detect(detector_fn("everything", everything))
        .trigger(new_labels(20))
        .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
        .evaluate(evaluator(Profile::adaptive()))
        .deploy(slot)
        .explore(0.3)
        .flags_per_minute(u32::MAX)
        .clock(clock.clone())
        .store(MemoryStore::new())
        .build()
        .unwrap();
    let store = pipeline.store().clone();
    let queue = ReviewQueue::open(store.clone(), "gold", support::schema().target().clone(), Arc::new(clock.clone()));
    let gold: BTreeSet<PredictionId> = (10_000..10_050).map(id).collect();
    for id in &gold {
        let mut row = Row::new(&support::schema());
        row.copy_values(&[0.9, 0.5]).unwrap();
        queue.put_gold(*id, row, None, Label::Class(1)).unwrap();
    }
    let mut rng = Rng(5);
    pipeline.ingest((0..SAMPLES).map(|n| prediction(n, &[rng.unit(), rng.unit()]))).unwrap();
    let mut asked = 0;
    loop {
        let tickets = queue.claim("ann", 10, LEASE).unwrap();
        if tickets.is_empty() {
            break;
        }
        for ticket in tickets {
            asked += u64::from(gold.contains(&ticket.task.sample));
            let label = truth(ticket.task.row.values(), 0.5);
            queue.annotate(ticket.task.sample, "ann", label, 1.0, None).unwrap();
        }
        clock.advance(TimeDelta::seconds(10));
        pipeline.poll().unwrap();
    }
    for _ in 0..5 {
        clock.advance(TimeDelta::hours(1));
        pipeline.poll().unwrap();
    }
    assert!(asked >= 5, "only {asked} gold questions came");
    let world = check(&*store, "gold");
    assert_eq!(world.samples.len() as u64, SAMPLES, "no sample is made of a gold question");
    assert!(!world.batches.is_empty(), "something was trained on");
    let trained = world.batches.values().flat_map(|batch| &batch.samples);
    assert!(trained.clone().count() > 0 && !trained.clone().any(|sample| gold.contains(sample)));
    let annotations = records(&*store, "gold", Kind::Annotation);
    let count = |state: &str| annotations.iter().filter(|record| record.state == state).count() as u64;
    assert_eq!((count("gold"), count("applied"), count("new"), count("refused")), (asked, SAMPLES, 0, 0));
    let status = pipeline.status().unwrap();
    assert_eq!((status.counters.human_labels, status.waiting_tasks), (SAMPLES, 0));
    let ann = queue.annotators().unwrap().remove(0);
    assert_eq!((ann.answers, ann.gold_asked, ann.gold_right), (SAMPLES, asked, asked));
}
