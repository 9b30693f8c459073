//! What the pipeline owes its detectors: every truth once, with the lane that drew its row, whoever says it; and a share of
//! the budget of false alarms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Chunk, Detector, Error, Event, Feedback, Findings, KsDrift, Label, Lane, LowConfidence, ManualClock, MemoryStore,
    ModelVersion, Opinion, Outcome, Pipeline, PipelineBuilder, PredictionError, PredictionId, ReviewQueue, Sample,
    Stage, Truth, detector_fn, top_class,
};
use support::{Rng, base, id, observation, prediction, probabilities, schema, start};

type Heard = Arc<Mutex<Vec<Truth>>>;

const YES: Label = Label::Class(1);
const NO: Label = Label::Class(0);

/// A pipeline whose random lane draws three in ten, and everything that its detectors are told.
struct Ear {
    pipeline: Pipeline,
    heard: Heard,
    queue: ReviewQueue,
    store: MemoryStore,
}

impl Ear {
    fn new() -> Ear {
        Ear::on(MemoryStore::new(), |builder| builder)
    }

    fn on(store: MemoryStore, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Ear {
        let heard = Heard::default();
        let ear = heard.clone();
        let listen = detector_fn("ear", move |chunk: &Chunk<'_>, _: &mut Findings| {
            ear.lock().unwrap().extend_from_slice(chunk.truths());
            Ok(())
        });
        let clock = ManualClock::starting_at(start());
        let builder = Pipeline::builder("ear", schema())
            .training_data(base())
            .detect(listen)
            .detect(LowConfidence::below(0.8))
            .detect(PredictionError::default())
            .explore(0.3)
            .learn_from_outcomes(0.2)
            .seed(3)
            .clock(clock.clone())
            .store(store.clone());
        let pipeline = change(builder).build().unwrap();
        let queue =
            ReviewQueue::open(Arc::new(store.clone()), "ear", schema().target().clone(), Arc::new(clock.clone()));
        Ear { pipeline, heard, queue, store }
    }

    fn serve(&mut self, rows: u64) {
        self.pipeline.ingest(predictions(rows)).unwrap();
    }

    /// `who` takes every question and answers as `answer` says.
    fn answer(&mut self, who: &str, answer: impl Fn(PredictionId) -> Label) -> BTreeSet<PredictionId> {
        let tickets = self.queue.claim(who, 10_000, TimeDelta::minutes(5)).unwrap();
        for ticket in &tickets {
            self.queue.annotate(ticket.task.sample, who, answer(ticket.task.sample), 1.0, None).unwrap();
        }
        self.pipeline.poll().unwrap();
        tickets.into_iter().map(|ticket| ticket.task.sample).collect()
    }

    /// What was told since the last time.
    fn told(&self) -> Vec<Truth> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    fn outcome(&mut self, id: PredictionId, label: Option<Label>) -> Vec<Truth> {
        self.pipeline.ingest([Event::Outcome(Outcome { prediction: id, label })]).unwrap();
        self.told()
    }

    fn samples(&self) -> BTreeMap<PredictionId, Sample> {
        let mut found = BTreeMap::new();
        let all = self.pipeline.each_sample(|sample| {
            found.insert(sample.id(), sample);
            Ok(())
        });
        all.unwrap();
        found
    }

    fn drawn(&self) -> BTreeSet<PredictionId> {
        self.samples().into_values().filter(|sample| sample.lane == Lane::Random).map(|sample| sample.id()).collect()
    }
}

fn values(n: u64) -> [f64; 2] {
    let mut rng = Rng(n + 1);
    [rng.unit(), rng.unit()]
}

fn predictions(rows: u64) -> impl Iterator<Item = Event> {
    (0..rows).map(|n| prediction(n, &values(n)))
}

/// What a truth says, without when.
fn said(truths: &[Truth]) -> Vec<(PredictionId, Option<Label>, Option<Label>)> {
    truths.iter().map(|truth| (truth.prediction, truth.label, truth.replaces)).collect()
}

#[test]
fn what_people_say_of_the_random_lane_is_a_truth_and_of_other_lanes_is_not() {
    let mut ear = Ear::new();
    ear.serve(80);
    let drawn = ear.drawn();
    let asked = ear.answer("ann", |_| YES);
    assert!(drawn.len() > 10 && asked.len() > drawn.len() + 5, "{} of {} were drawn", drawn.len(), asked.len());
    let told = ear.told();
    assert_eq!(told.iter().map(|truth| truth.prediction).collect::<BTreeSet<_>>(), drawn);
    assert_eq!(told.len(), drawn.len(), "each comes once");
    let number: BTreeMap<_, _> = (0..80).map(|n| (id(n), n)).collect();
    for truth in &told {
        let n = number[&truth.prediction];
        let output = probabilities(0.5, &values(n));
        let (class, score) = top_class(&output).unwrap();
        assert_eq!((truth.label, truth.replaces, truth.lane), (Some(YES), None, Some(Lane::Random)));
        assert_eq!((truth.predicted, truth.score), (Some(Label::Class(class)), Some(score)));
        assert_eq!((truth.model, truth.predicted_at), (ModelVersion::FIRST, start() + TimeDelta::seconds(n as i64)));
        assert_eq!(truth.sequence, 80, "after everything that came before");
    }
    // Nothing comes twice, and detectors that count truths have counted these.
    ear.pipeline.poll().unwrap();
    assert_eq!(ear.told(), []);
    let errors = ear.pipeline.detector::<PredictionError>().unwrap();
    assert_eq!(errors.error_rate_of(ModelVersion::FIRST).truths, drawn.len() as u64);
    // A prediction that a person proved wrong is flagged once, beside what flagged it before.
    for (id, sample) in ear.samples() {
        let wrong = values(number[&id])[0] < 0.5;
        let flags = sample.flags.iter().filter(|flag| flag.detector == "prediction_error").count();
        assert_eq!(flags, usize::from(wrong && drawn.contains(&id)), "{sample:?}");
    }
}

#[test]
fn outcomes_say_which_lane_drew_their_row() {
    let mut ear = Ear::new();
    ear.serve(200);
    let lanes: BTreeMap<_, _> = ear.samples().into_iter().map(|(id, sample)| (id, sample.lane)).collect();
    let mut counts = BTreeMap::new();
    for n in 0..200 {
        let told = ear.outcome(id(n), Some(YES));
        assert_eq!(said(&told), [(id(n), Some(YES), None)]);
        // A row that was not kept before is one of the outcome lane if it is drawn for its outcome.
        let now = ear.pipeline.lineage(id(n)).unwrap();
        let flagged_now = !lanes.contains_key(&id(n)) && told[0].lane.is_none() && !now.nodes.is_empty();
        assert!(lanes.get(&id(n)).is_none_or(|lane| told[0].lane == Some(*lane)), "{:?}", told[0]);
        assert!(!flagged_now || told[0].predicted == Some(NO), "kept for its error, after it was told");
        *counts.entry(told[0].lane).or_insert(0) += 1;
    }
    for lane in [None, Some(Lane::Random), Some(Lane::Flagged), Some(Lane::Outcome)] {
        assert!(counts.get(&lane).is_some_and(|count| *count > 5), "{lane:?}: {counts:?}");
    }
}

#[test]
fn people_and_outcomes_are_one_truth() {
    let mut ear = Ear::new();
    ear.serve(60);
    let drawn: Vec<_> = ear.drawn().into_iter().collect();
    ear.answer("ann", |_| YES);
    ear.told();
    // The same again says nothing; another one corrects; taking it back leaves what people said.
    let (a, b) = (drawn[0], drawn[1]);
    assert_eq!(ear.outcome(a, Some(YES)), []);
    assert_eq!(said(&ear.outcome(b, Some(NO))), [(b, Some(NO), Some(YES))]);
    assert_eq!(said(&ear.outcome(b, None)), [(b, Some(YES), Some(NO))]);
    assert_eq!(ear.outcome(a, None), []);
    // A person corrects and takes back.
    let person = |ear: &mut Ear, label: Option<Label>| {
        match label {
            Some(label) => ear.queue.correct(a, "ann", label, 1.0, None).map(drop).unwrap(),
            None => ear.queue.retract(a, "ann").map(drop).unwrap(),
        }
        ear.pipeline.poll().unwrap();
        said(&ear.told())
    };
    assert_eq!(person(&mut ear, Some(NO)), [(a, Some(NO), Some(YES))]);
    // Against the outcome people change nothing.
    assert_eq!(said(&ear.outcome(a, Some(YES))), [(a, Some(YES), Some(NO))]);
    assert_eq!(person(&mut ear, Some(YES)), []);
    assert_eq!(person(&mut ear, Some(NO)), []);
    assert_eq!(said(&ear.outcome(a, None)), [(a, Some(NO), Some(YES))]);
    assert_eq!(person(&mut ear, None), [(a, None, Some(NO))]);
    // What users say is no truth.
    let opinion = Opinion::Correction(NO);
    let feedback = Feedback { prediction: drawn[2], user: "u".into(), opinion };
    ear.pipeline.ingest([Event::Feedback(Box::new(feedback))]).unwrap();
    assert_eq!(ear.told(), []);
}

#[test]
fn an_answer_after_the_outcome_is_not_counted_twice() {
    let mut ear = Ear::new();
    ear.serve(60);
    let drawn = ear.drawn();
    let tickets = ear.queue.claim("ann", 1_000, TimeDelta::minutes(5)).unwrap();
    for id in &drawn {
        assert_eq!(ear.outcome(*id, Some(NO)).len(), 1);
    }
    for ticket in tickets {
        let _ = ear.queue.annotate(ticket.task.sample, "ann", YES, 1.0, None);
    }
    ear.pipeline.poll().unwrap();
    assert_eq!(ear.told(), []);
    // It counts once the outcome is taken back.
    let answered: Vec<_> = ear.samples().into_values().filter(|s| s.annotations.len() == 2).map(|s| s.id()).collect();
    let id = *answered.iter().find(|id| drawn.contains(*id)).expect("an answer that came after the outcome");
    assert_eq!(said(&ear.outcome(id, None)), [(id, Some(YES), Some(NO))]);
}

#[test]
fn a_dispute_is_no_truth_until_it_is_settled() {
    let router = feedloop::router_fn("two", |_: &Sample, _: &feedloop::RouteContext<'_>| {
        let why = feedloop::Reason::new("two", "everything");
        Ok(feedloop::Route::ask(feedloop::Ask { priority: 1.0, overlap: 2, blind: true }, why))
    });
    let mut ear = Ear::on(MemoryStore::new(), |builder| builder.route(router));
    ear.serve(60);
    let drawn = ear.drawn();
    ear.answer("ann", |_| YES);
    assert_eq!(ear.told(), []);
    ear.answer("bob", |_| NO);
    assert_eq!(ear.told(), []);
    ear.answer("cat", |_| NO);
    let told = ear.told();
    assert_eq!(told.len(), drawn.len());
    assert!(told.iter().all(|truth| truth.label == Some(NO) && truth.replaces.is_none()));
}

#[test]
fn truths_do_not_depend_on_how_the_stream_was_cut() {
    let run = |cut: usize| {
        let mut ear = Ear::new();
        let feed = |ear: &mut Ear, mut events: Vec<Event>| {
            while !events.is_empty() {
                let rest = events.split_off(cut.min(events.len()));
                ear.pipeline.ingest(events).unwrap();
                events = rest;
            }
        };
        feed(&mut ear, predictions(120).collect());
        ear.answer("ann", |_| YES);
        let outcome = |n: u64| {
            Event::Outcome(Outcome { prediction: id(n % 120), label: [None, Some(NO), Some(YES)][n as usize % 3] })
        };
        feed(&mut ear, (0..400).map(outcome).collect());
        (ear.told(), ear.samples())
    };
    let whole = run(1_000);
    assert!(whole.0.len() > 80, "{}", whole.0.len());
    for cut in [1, 7, 256] {
        assert_eq!(run(cut), whole, "cut by {cut}");
    }
}

#[test]
fn a_restart_tells_nothing_twice_and_loses_nothing_that_was_told() {
    let often = |builder: PipelineBuilder| builder.checkpoint(1_000_000, TimeDelta::zero());
    let mut ear = Ear::on(MemoryStore::new(), often);
    ear.serve(60);
    let drawn = ear.drawn();
    ear.answer("ann", |_| YES);
    assert_eq!(ear.told().len(), drawn.len());
    let rate = |ear: &Ear| ear.pipeline.detector::<PredictionError>().unwrap().error_rate();
    let (before, store) = (rate(&ear), ear.store.clone());
    assert_eq!(before.unwrap().truths, drawn.len() as u64);
    drop(ear);
    let mut again = Ear::on(store, often);
    assert_eq!(rate(&again), before, "no event moved the stream after the last label");
    again.pipeline.poll().unwrap();
    assert_eq!(again.told(), []);
    let id = *drawn.first().unwrap();
    assert_eq!(again.outcome(id, Some(YES)), []);
    let told = again.outcome(id, Some(NO));
    assert_eq!(said(&told), [(id, Some(NO), Some(YES))]);
    assert_eq!((told[0].lane, told[0].score.is_some()), (Some(Lane::Random), true));
}

#[test]
fn a_truth_about_a_sample_that_the_ledger_has_forgotten_is_told_all_the_same() {
    let mut ear = Ear::on(MemoryStore::new(), |builder| builder.remember(256, 256));
    ear.serve(1_000);
    let number: BTreeMap<_, _> = (0..1_000).map(|n| (id(n), n)).collect();
    let old = ear.drawn().into_iter().find(|id| number[id] < 500).unwrap();
    let wrong = Label::Class(u32::from(values(number[&old])[0] < 0.5));
    let told = ear.outcome(old, Some(wrong));
    assert_eq!(said(&told), [(old, Some(wrong), None)]);
    assert_eq!((told[0].lane, told[0].score.is_some()), (Some(Lane::Random), true));
    assert_eq!(ear.outcome(old, Some(wrong)), []);
    let sample = &ear.samples()[&old];
    assert_eq!(sample.flags.iter().filter(|flag| flag.detector == "prediction_error").count(), 1, "{sample:?}");
    assert_eq!(ear.pipeline.status().unwrap().counters.without_row, 0);
}

#[test]
fn a_log_that_is_replayed_flags_nothing_twice() {
    let mut ear = Ear::new();
    ear.serve(100);
    let before = ear.samples();
    let mut again = Ear::on(ear.store.clone(), |builder| builder);
    again.serve(100);
    for (id, sample) in again.samples() {
        assert_eq!(sample.flags, before[&id].flags);
    }
    let id = *again.drawn().first().unwrap();
    assert_eq!(again.outcome(id, Some(YES))[0].lane, Some(Lane::Random));
}

// The budget of false alarms ----------------------------------------------------------------------------------------------

/// Says what share it was given.
struct Holder {
    name: &'static str,
    share: Arc<Mutex<f64>>,
    takes: bool,
}

impl Stage for Holder {
    fn name(&self) -> &str {
        self.name
    }
}

impl Detector for Holder {
    fn inspect(&mut self, _: &Chunk<'_>, _: &mut Findings) -> Result<(), feedloop::BoxError> {
        Ok(())
    }

    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        if self.takes {
            *self.share.lock().unwrap() = false_alarms_per_day;
        }
        self.takes
    }
}

#[test]
fn one_budget_is_divided_evenly_over_those_that_can_hold_it() {
    let shares: Vec<Arc<Mutex<f64>>> = (0..3).map(|_| Arc::default()).collect();
    let holder = |at: usize, name| Holder { name, share: shares[at].clone(), takes: at < 2 };
    let boxed: Box<dyn Detector> = Box::new(holder(1, "boxed"));
    let closure = detector_fn("closure", |_: &Chunk<'_>, _: &mut Findings| Ok(()));
    Pipeline::builder("budget", schema())
        .training_data(base())
        .detect(holder(0, "plain"))
        .detect(boxed)
        .detect(holder(2, "refuses"))
        .detect(KsDrift::default())
        .detect(KsDrift::default().named("own").false_alarm_rate(0.01))
        .detect(KsDrift::default().named("own per day").false_alarms_per_day(3.0))
        .detect(closure)
        .false_alarms_per_day(0.6)
        .build()
        .unwrap();
    let given: Vec<f64> = shares.iter().map(|share| *share.lock().unwrap()).collect();
    assert_eq!(given, [0.6 / 3.0, 0.6 / 3.0, 0.0]);
}

#[test]
fn a_budget_that_nobody_holds_and_one_without_sense_are_mistakes() {
    let mistakes = |builder: PipelineBuilder| match builder.build() {
        Err(Error::Build(mistakes)) => mistakes.join("; "),
        other => panic!("{:?}", other.map(|_| "it was built").map_err(|error| error.to_string())),
    };
    let builder = || Pipeline::builder("budget", schema()).training_data(base());
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let found = mistakes(builder().detect(KsDrift::default()).false_alarms_per_day(rate));
        assert!(found.contains("false_alarms_per_day") && found.contains(&rate.to_string()), "{found}");
    }
    let own = KsDrift::default().false_alarm_rate(0.01);
    let found = mistakes(builder().detect(own).detect(LowConfidence::below(0.5)).false_alarms_per_day(1.0));
    assert!(found.contains("no detector can hold"), "{found}");
}

#[test]
fn what_a_detector_cannot_see_is_in_the_status() {
    let mut ear = Ear::on(MemoryStore::new(), |builder| builder.detect(KsDrift::default().minimum_effect(0.0)));
    let constant = (0..50).map(|n| Event::Prediction(observation(n, ModelVersion::FIRST, 0.5, &[0.1, 0.2])));
    ear.pipeline.ingest(constant).unwrap();
    assert!(ear.pipeline.status().unwrap().stages.iter().all(|stage| stage.blind.is_empty()));
    let data = feedloop::Dataset::from_values(schema(), (0..90).map(|n| ([f64::from(n), 7.0], NO)).collect::<Vec<_>>());
    let builder = Pipeline::builder("blind", schema()).training_data(data.unwrap()).detect(KsDrift::default());
    let status = builder.build().unwrap().status().unwrap();
    assert_eq!(status.stages[0].blind[0].column.as_deref(), Some(&*schema().value_columns()[1]));
    assert!(status.stages[0].blind[0].reason.contains("constant"), "{:?}", status.stages[0].blind);
}
