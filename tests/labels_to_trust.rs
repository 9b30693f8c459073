//! What gates and router may ask of the pipeline: adjudication, a signature, weights, suppressed alarms, drawn lanes, cohorts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedloop::chrono::{DateTime, TimeDelta, Utc};
use feedloop::{
    Alarm, AlarmState, Annotator, Ask, Audit, BatchDraft, BoxError, Chunk, CohortVerdict, Detector, Drawn, Findings,
    GateContext, HeldBatch, Kind, Label, LabelConsistency, LabelRouter, Lane, Level, Manifest, ManualClock,
    MemoryStore, Observation, Outcome, Pipeline, PipelineBuilder, QualityGate, Reason, ReviewQueue, Route,
    RouteContext, Run, RunState, Sample, SampleState, Snapshot, Stage, detector_fn, drift, new_labels, predicted_label,
};
use support::{base, check, first_model, id, prediction, records, schema, start};

const PIPELINE: &str = "trusted";

/// A gate that does what it is told.
struct Told {
    name: &'static str,
    audit: Option<AuditRule>,
    weight: Option<fn(&Sample) -> f64>,
    feed: Option<Arc<AtomicBool>>,
}

type AuditRule = Box<dyn FnMut(&BatchDraft<'_>) -> Audit + Send>;

impl Stage for Told {
    fn name(&self) -> &str {
        self.name
    }
}

impl Default for Told {
    fn default() -> Self {
        Told { name: "told", audit: None, weight: None, feed: None }
    }
}

impl QualityGate for Told {
    fn audit(&mut self, batch: &BatchDraft<'_>, _: &GateContext<'_>) -> Result<Audit, BoxError> {
        Ok(self.audit.as_mut().map_or(Audit::Pass(Vec::new()), |rule| rule(batch)))
    }

    fn weight(&self, sample: &Sample) -> f64 {
        self.weight.map_or(1.0, |weight| weight(sample))
    }

    fn feed(&mut self, newest: &[&Observation], _: &GateContext<'_>) -> Result<Option<Reason>, BoxError> {
        let broken = self.feed.as_ref().is_some_and(|broken| broken.load(Ordering::Relaxed));
        Ok(broken.then(|| Reason::new("broken_feed", format!("{} rows", newest.len()))))
    }
}

fn audits(rule: impl FnMut(&BatchDraft<'_>) -> Audit + Send + 'static) -> Told {
    Told { audit: Some(Box::new(rule)), ..Told::default() }
}

struct Desk {
    pipeline: Pipeline,
    queue: ReviewQueue,
    clock: ManualClock,
    store: Arc<MemoryStore>,
}

impl Desk {
    fn new(change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Self {
        Self::on(Arc::new(MemoryStore::new()), ManualClock::starting_at(start()), change)
    }

    fn on(
        store: Arc<MemoryStore>,
        clock: ManualClock,
        change: impl FnOnce(PipelineBuilder) -> PipelineBuilder,
    ) -> Self {
        let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
            Ok(())
        });
        let builder = Pipeline::builder(PIPELINE, schema())
            .training_data(base())
            .first_model(first_model())
            .detect(flag_all)
            .trigger(new_labels(1_000))
            .clock(clock.clone())
            .store(store.clone());
        let pipeline = change(builder).build().unwrap();
        let queue = ReviewQueue::open(store.clone(), PIPELINE, schema().target().clone(), Arc::new(clock.clone()));
        Desk { pipeline, queue, clock, store }
    }

    fn serve(&mut self, numbers: std::ops::Range<u64>) {
        self.pipeline.ingest(numbers.map(|n| prediction(n, &[(n % 10) as f64 / 10.0, 0.5]))).unwrap();
    }

    fn say(&self, n: u64, who: &str, class: u32) {
        self.queue.annotate(id(n), who, Label::Class(class), 1.0, None).unwrap();
    }

    fn poll(&mut self) {
        self.clock.advance(TimeDelta::minutes(2));
        self.pipeline.poll().unwrap();
    }

    fn train(&mut self) -> Run {
        self.clock.advance(TimeDelta::hours(2));
        let run = self.pipeline.retrain_now("the test").unwrap();
        self.poll();
        self.pipeline.run(run).unwrap().unwrap()
    }

    fn sample(&self, n: u64) -> Sample {
        check(&*self.store, PIPELINE).samples[&id(n)].clone()
    }

    fn manifest(&self, run: &Run) -> Manifest {
        check(&*self.store, PIPELINE).batches[&run.batch.as_ref().unwrap().0].clone()
    }
}

/// Doubts every row of `doubted` until it was adjudicated.
fn doubting(doubted: &'static [u64]) -> Told {
    audits(move |batch| {
        let new = batch
            .rows
            .iter()
            .filter(|row| !row.sample.is_adjudicated() && doubted.iter().any(|n| id(*n) == row.sample.id()));
        let new: Vec<_> = new.map(|row| (row.sample.id(), Reason::new("doubt", "it looks odd"))).collect();
        if new.is_empty() {
            Audit::Pass(vec![Reason::new("seen", batch.rows.len().to_string())])
        } else {
            Audit::Adjudicate(new)
        }
    })
}

#[test]
fn a_label_in_doubt_goes_back_to_people_and_a_majority_decides() {
    let mut desk = Desk::new(|builder| builder.gate(doubting(&[1, 2])));
    desk.serve(0..4);
    (0..4).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    let run = desk.train();
    assert_eq!(run.state, RunState::Exported, "{run:?}");
    let manifest = desk.manifest(&run);
    assert_eq!(manifest.samples, [id(0), id(3)]);
    let said: Vec<&str> = manifest.gates["told"].iter().map(|note| note.code.as_str()).collect();
    assert_eq!(said, ["adjudicated", "seen"], "the gate was asked about the rest");
    for n in [1, 2] {
        let sample = desk.sample(n);
        assert_eq!((sample.state, sample.overlap), (SampleState::Queued, 2));
        assert!(sample.history.last().unwrap().reason.detail.contains("it looks odd"));
    }
    // One person more each: agreement ends it, disagreement takes a third.
    assert!(desk.queue.claim("ann", 5, TimeDelta::minutes(1)).unwrap().is_empty(), "not the same person");
    desk.say(1, "bob", 0);
    desk.say(2, "bob", 1);
    desk.poll();
    assert_eq!(desk.sample(1).state, SampleState::Labelled);
    assert_eq!(desk.sample(2).state, SampleState::Queued);
    desk.say(2, "cid", 1);
    desk.poll();
    let run = desk.train();
    assert_eq!(desk.manifest(&run).samples, [id(1), id(2)], "what was adjudicated is not doubted again");
    assert_eq!(desk.sample(2).sealed, Some(Label::Class(1)));
}

#[test]
fn a_gate_that_never_stops_doubting_has_five_people_asked_and_no_more() {
    let stubborn = audits(|batch| {
        let doubted: Vec<_> = batch
            .rows
            .iter()
            .filter(|row| row.sample.id() == id(1))
            .map(|row| (row.sample.id(), Reason::new("doubt", "still odd")))
            .collect();
        if doubted.is_empty() { Audit::Pass(Vec::new()) } else { Audit::Adjudicate(doubted) }
    });
    let mut desk = Desk::new(|builder| builder.gate(stubborn));
    desk.serve(0..10);
    for (n, who) in (2..).zip(["ann", "bob", "cid", "dan", "eve"]) {
        desk.say(1, who, 0);
        // A batch needs a row that is not doubted.
        desk.say(n, who, 0);
        desk.poll();
        assert_eq!(desk.sample(1).state, SampleState::Labelled, "all agree, {who} too");
        desk.train();
        let expected = if who == "eve" { SampleState::Quarantined } else { SampleState::Queued };
        assert_eq!(desk.sample(1).state, expected, "after {who}");
    }
    assert_eq!(desk.sample(1).history.last().unwrap().reason.code, "doubt");
    assert!(
        desk.queue.claim("fay", 9, TimeDelta::minutes(1)).unwrap().iter().all(|ticket| ticket.task.sample != id(1))
    );
}

#[test]
fn what_the_world_says_cannot_be_outvoted_and_is_quarantined() {
    let mut desk = Desk::new(|builder| builder.gate(doubting(&[1])));
    desk.serve(0..3);
    desk.pipeline.ingest([feedloop::Event::Outcome(Outcome::truth(id(1), Label::Class(1)))]).unwrap();
    desk.say(0, "ann", 0);
    desk.poll();
    let run = desk.train();
    assert_eq!(desk.manifest(&run).samples, [id(0)]);
    let sample = desk.sample(1);
    assert_eq!(sample.state, SampleState::Quarantined);
    assert_eq!(sample.history.last().unwrap().reason.code, "doubt");
}

#[test]
fn equal_inputs_with_different_labels_are_settled_by_people_and_trained_on() {
    let mut desk = Desk::new(|builder| builder.gate(LabelConsistency::default()));
    desk.serve(0..12);
    // the inputs of 1 and 11 are equal
    [(0, 0), (1, 0), (10, 0), (11, 1)].into_iter().for_each(|(n, class)| desk.say(n, "ann", class));
    desk.poll();
    let run = desk.train();
    assert_eq!(desk.manifest(&run).samples, [id(0), id(10)]);
    for n in [1, 11] {
        let sample = desk.sample(n);
        assert_eq!(sample.state, SampleState::Queued);
        assert!(sample.history.last().unwrap().reason.detail.contains("label_conflict"));
    }
    desk.say(1, "bob", 0);
    desk.say(11, "bob", 0);
    desk.say(11, "cid", 0);
    desk.poll();
    let run = desk.train();
    let manifest = desk.manifest(&run);
    assert_eq!(manifest.samples, [id(1), id(11)]);
    let note = &manifest.gates["label_consistency"][0];
    assert!(note.code == "annotators_disagree" && note.detail.ends_with(&id(11).to_string()), "{note}");
    assert_eq!(desk.sample(11).sealed, Some(Label::Class(0)));
}

/// Wants a signature under every batch with a user's label.
fn cautious() -> Told {
    audits(|batch| {
        let user = |row: &&feedloop::DraftRow<'_>| {
            row.sample.label.as_ref().is_some_and(|label| matches!(label.annotator, Annotator::User(_)))
        };
        match batch.rows.iter().filter(user).count() {
            0 => Audit::Pass(Vec::new()),
            users => Audit::SignOff(Reason::new("one_source", format!("{users} labels of users"))),
        }
    })
}

fn corrected(n: u64) -> feedloop::Event {
    let opinion = feedloop::Opinion::Correction(Label::Class(1));
    feedloop::Event::Feedback(Box::new(feedloop::Feedback { prediction: id(n), user: "eve".into(), opinion }))
}

#[test]
fn a_batch_waits_for_a_signature_and_goes_on_with_the_rows_that_were_signed() {
    let mut desk = Desk::new(|builder| builder.gate(cautious()));
    desk.serve(0..6);
    desk.pipeline.ingest([corrected(1)]).unwrap();
    desk.say(0, "ann", 0);
    desk.poll();
    let run = desk.train();
    assert_eq!(run.state, RunState::Failed);
    let held = desk.held();
    assert_eq!((held.gate.as_str(), held.reason.detail.as_str()), ("told", "1 labels of users"));
    assert_eq!(held.rows, [(id(0), Label::Class(0)), (id(1), Label::Class(1))]);
    assert!(held.needs_signature);
    // More of the same comes in before the signature, and the process ends.
    desk.pipeline.ingest([corrected(2)]).unwrap();
    desk.pipeline.poll().unwrap();
    let Desk { store, clock, pipeline, .. } = desk;
    drop(pipeline);
    let mut desk = Desk::on(store, clock, |builder| builder.gate(cautious()));
    let other = HeldBatch { rows: Vec::new(), ..held.clone() };
    assert!(desk.pipeline.sign_off(&other, "boss").is_err(), "not what was seen");
    desk.pipeline.sign_off(&held, "boss").unwrap();
    assert!(desk.pipeline.sign_off(&held, "boss").is_err(), "once");
    desk.poll();
    let status = desk.pipeline.status().unwrap();
    assert_eq!(status.held, None);
    let run = desk.pipeline.run(status.last_run.unwrap()).unwrap().unwrap();
    let manifest = desk.manifest(&run);
    assert_eq!(manifest.samples, [id(0), id(1)], "nothing that came later");
    assert!(manifest.gates["told"][0].detail.contains("signed off by boss"));
    assert_eq!(desk.train().state, RunState::Failed, "what came later waits for its own signature");
}

#[test]
fn gates_weigh_samples_and_the_batch_carries_the_weights() {
    let told = || Told { weight: Some(|sample| if sample.id() == id(1) { 3.0 } else { f64::NAN }), ..Told::default() };
    let directory = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(|builder| builder.gate(told()).export(directory.path()));
    desk.serve(0..2);
    (0..2).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    let run = desk.train();
    assert_eq!((desk.sample(0).weight, desk.sample(1).weight), (1.0, 3.0), "a weight that is none counts as 1");
    let data = std::fs::read_to_string(directory.path().join(&run.batch.unwrap().0).join("data.jsonl")).unwrap();
    let weights: Vec<f64> = data
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["weight"].as_f64().unwrap())
        .collect();
    assert_eq!(weights, [1.0, 3.0]);
}

/// Rings at the first row of every chunk.
fn bell() -> impl Detector {
    detector_fn("bell", |chunk: &Chunk<'_>, findings: &mut Findings| {
        if let Some(sequence) = chunk.sequence().first() {
            let (detector, text, readings) = (String::new(), "it rings".to_owned(), Vec::new());
            findings.alarm(Alarm { detector, level: Level::Drift, sequence: *sequence, text, readings });
        }
        Ok(())
    })
}

#[test]
fn an_alarm_of_a_broken_feed_is_recorded_and_nothing_follows_from_it() {
    let broken = Arc::new(AtomicBool::new(true));
    let told = Told { feed: Some(broken.clone()), ..Told::default() };
    let mut desk = Desk::new(|builder| builder.detect(bell()).gate(told));
    desk.serve(0..3);
    let status = desk.pipeline.status().unwrap();
    assert_eq!((status.counters.alarms, status.counters.suppressed_alarms), (1, 1));
    assert_eq!(status.trigger_view.open_alarms, 0);
    assert_eq!(status.alarms[0].state(), AlarmState::Suppressed);
    let why = status.alarms[0].suppressed.as_ref().unwrap();
    assert_eq!((why.code.as_str(), why.detail.as_str()), ("broken_feed", "told: 1 rows"), "rows up to the alarm's");
    broken.store(false, Ordering::Relaxed);
    desk.serve(3..6);
    let status = desk.pipeline.status().unwrap();
    assert_eq!((status.counters.suppressed_alarms, status.trigger_view.open_alarms), (1, 1));
    check(&*desk.store, PIPELINE);
}

#[test]
fn a_suppressed_alarm_does_not_start_a_run() {
    for broken in [true, false] {
        let told = Told { feed: Some(Arc::new(AtomicBool::new(broken))), ..Told::default() };
        let store = Arc::new(MemoryStore::new());
        let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
            Ok(())
        });
        let clock = ManualClock::starting_at(start());
        let builder = Pipeline::builder(PIPELINE, schema()).training_data(base()).detect(flag_all).detect(bell());
        let mut pipeline =
            builder.gate(told).trigger(drift()).clock(clock.clone()).store(store.clone()).build().unwrap();
        pipeline.ingest((0..3).map(|n| prediction(n, &[0.2, 0.5]))).unwrap();
        let queue = ReviewQueue::open(store, PIPELINE, schema().target().clone(), Arc::new(clock.clone()));
        queue.annotate(id(0), "ann", Label::Class(0), 1.0, None).unwrap();
        clock.advance(TimeDelta::minutes(5));
        pipeline.poll().unwrap();
        assert_eq!(pipeline.status().unwrap().runs, u64::from(!broken));
    }
}

/// Draws every second sample as uncertain, and skips the rest.
struct Drawing;

impl Stage for Drawing {
    fn name(&self) -> &str {
        "drawing"
    }
}

impl LabelRouter for Drawing {
    fn route(&mut self, sample: &Sample, _: &RouteContext<'_>) -> Result<Route, BoxError> {
        let ask = Ask { priority: 0.5, overlap: 1, blind: true };
        let drawn = Some(Drawn { lane: Lane::Uncertain, inclusion: 0.5 });
        let why = Reason::new("uncertain", "drawn with 0.5");
        Ok(match sample.sequence % 2 {
            0 => Route::Ask { ask, drawn, why },
            _ => Route::Skip(Reason::new("not_drawn", "the draw passed it over")),
        })
    }
}

#[test]
fn a_draw_of_the_router_moves_the_sample_into_its_lane_and_says_why() {
    let mut desk = Desk::new(|builder| builder.route(Drawing));
    desk.serve(0..4);
    let world = check(&*desk.store, PIPELINE);
    let mut lanes: Vec<(u64, Lane, f64, SampleState)> =
        world.samples.values().map(|s| (s.sequence, s.lane, s.inclusion, s.state)).collect();
    lanes.sort_by_key(|(sequence, ..)| *sequence);
    let (queued, skipped) = (SampleState::Queued, SampleState::Skipped);
    assert_eq!(
        lanes.into_iter().map(|(_, lane, inclusion, state)| (lane, inclusion, state)).collect::<Vec<_>>(),
        [
            (Lane::Flagged, 1.0, skipped),
            (Lane::Uncertain, 0.5, queued),
            (Lane::Flagged, 1.0, skipped),
            (Lane::Uncertain, 0.5, queued)
        ]
    );
    let drawn = world.samples.values().find(|sample| sample.state == queued).unwrap();
    let step = drawn.history.last().unwrap();
    assert_eq!((step.reason.code.as_str(), step.by.as_str()), ("uncertain", "drawing"));
    assert!(step.reason.detail.contains("drawn with 0.5"), "{}", step.reason.detail);
}

/// Labels everything itself, in cohorts of four, and releases the odd cohorts; counts what it labelled.
struct Eager {
    made: u64,
    decided: Arc<AtomicU64>,
    share: f64,
}

impl Stage for Eager {
    fn name(&self) -> &str {
        "eager"
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(1, &self.made)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.made = snapshot.load(1)?;
        Ok(())
    }
}

impl LabelRouter for Eager {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        let label = predicted_label(context.schema.target(), sample.observation.output()).unwrap();
        let cohort = self.made / 4;
        self.made += 1;
        Ok(Route::Auto { label, confidence: 0.9, audit: None, cohort, why: Reason::new("sure", "always") })
    }

    fn cohorts(&mut self, _: DateTime<Utc>, _: bool) -> Vec<(u64, CohortVerdict)> {
        let verdict = |n: u64| if n % 2 == 1 { CohortVerdict::Release } else { CohortVerdict::Reject };
        let until = self.decided.load(Ordering::Relaxed);
        (0..until).map(|cohort| (cohort, verdict(cohort))).collect()
    }

    fn auto_share(&self) -> f64 {
        self.share
    }
}

#[test]
fn each_cohort_is_released_or_rejected_by_itself() {
    let decided = Arc::new(AtomicU64::new(0));
    let mut desk = Desk::new(|builder| builder.route(Eager { made: 0, decided: decided.clone(), share: 1.0 }));
    desk.serve(0..12);
    desk.poll();
    let count = |desk: &Desk, state| desk.store_count(state);
    assert_eq!(count(&desk, SampleState::AutoLabelled), 12);
    decided.store(2, Ordering::Relaxed);
    desk.poll();
    for (cohort, state) in [(0, SampleState::Queued), (1, SampleState::Labelled), (2, SampleState::AutoLabelled)] {
        for n in 4 * cohort..4 * cohort + 4 {
            let sample = desk.sample(n);
            assert_eq!((sample.cohort, sample.state), (Some(cohort), state), "sample {n}");
        }
    }
}

#[test]
fn a_router_forgets_no_auto_label_in_a_crash() {
    let router = |decided: &Arc<AtomicU64>| Eager { made: 0, decided: decided.clone(), share: 1.0 };
    let decided = Arc::new(AtomicU64::new(0));
    let mut desk = Desk::new(|builder| builder.route(router(&decided)));
    // The first ingest makes a checkpoint, those after it do not: too little time has passed.
    desk.serve(0..1);
    desk.serve(1..6);
    let Desk { store, clock, pipeline, .. } = desk;
    drop(pipeline);
    let mut desk = Desk::on(store, clock, |builder| builder.route(router(&decided)));
    desk.serve(6..8);
    let cohorts: Vec<_> = (0..8).map(|n| desk.sample(n).cohort.unwrap()).collect();
    assert_eq!(cohorts, [0, 0, 0, 0, 1, 1, 1, 1], "the numbers go on where they were");
}

#[test]
fn auto_labels_are_at_most_their_share_of_a_label_in_a_batch() {
    let decided = Arc::new(AtomicU64::new(10));
    let odd = Eager { made: 4, decided, share: 0.5 };
    let mut desk = Desk::new(|builder| builder.route(odd));
    // Values below 0.5 are class 0 to the model: cohort 1 is released with four labels of class 0.
    desk.serve(0..4);
    desk.poll();
    let run = desk.train();
    assert_eq!(run.notes.last().unwrap().1.code, "no_labels", "nobody independent has labelled anything: {run:?}");
    desk.pipeline
        .ingest((0..3).map(|n| feedloop::Event::Outcome(Outcome::truth(id(n), Label::Class(u32::from(n == 2))))))
        .unwrap();
    let run = desk.train();
    // Two independent labels of class 0 and one of class 1: of the remaining auto-label of class 0 one fits.
    assert_eq!(desk.manifest(&run).sources["ground_truth"], 3);
    assert_eq!(desk.manifest(&run).sources["model"], 1);
}

#[test]
fn a_label_that_changed_after_it_was_held_is_not_signed_off() {
    let mut desk = Desk::new(|builder| builder.gate(cautious()));
    desk.serve(0..3);
    desk.pipeline.ingest([corrected(1)]).unwrap();
    (0..3).filter(|n| *n != 1).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    desk.train();
    let held = desk.held();
    desk.queue.correct(id(2), "ann", Label::Class(1), 1.0, None).unwrap();
    desk.poll();
    let run = desk.pipeline.sign_off(&held, "boss").unwrap();
    desk.poll();
    // The rows are others than those that were signed, so the gate asks anew; then they go.
    assert_eq!(desk.pipeline.run(run).unwrap().unwrap().state, RunState::Failed);
    let held = desk.held();
    assert_eq!(held.rows.len(), 2, "{held:?}");
    let run = desk.pipeline.sign_off(&held, "boss").unwrap();
    desk.poll();
    let run = desk.pipeline.run(run).unwrap().unwrap();
    assert_eq!(desk.manifest(&run).samples, [id(0), id(1)]);
}

#[test]
fn two_gates_that_want_a_signature_get_one_each() {
    let mut second = cautious();
    second.name = "second";
    let mut desk = Desk::new(|builder| builder.gate(cautious()).gate(second));
    desk.serve(0..2);
    desk.pipeline.ingest([corrected(0)]).unwrap();
    desk.poll();
    desk.train();
    for gate in ["told", "second"] {
        let held = desk.held();
        assert_eq!(held.gate, gate);
        desk.pipeline.sign_off(&held, gate).unwrap();
        desk.poll();
    }
    let status = desk.pipeline.status().unwrap();
    let run = desk.pipeline.run(status.last_run.unwrap()).unwrap().unwrap();
    let manifest = desk.manifest(&run);
    assert!(manifest.gates["told"][0].detail.contains("signed off by told"));
    assert!(manifest.gates["second"][0].detail.contains("signed off by second"));
}

#[test]
fn a_signed_batch_that_another_gate_holds_is_open_again() {
    let holding = Arc::new(AtomicBool::new(true));
    let mut second = {
        let holding = holding.clone();
        audits(move |_| match holding.load(Ordering::Relaxed) {
            true => Audit::Hold(Reason::new("broken", "the feed is broken")),
            false => Audit::Pass(Vec::new()),
        })
    };
    second.name = "second";
    let mut desk = Desk::new(|builder| builder.gate(cautious()).gate(second));
    desk.serve(0..4);
    desk.pipeline.ingest([corrected(0)]).unwrap();
    desk.poll();
    desk.train();
    desk.pipeline.sign_off(&desk.held(), "boss").unwrap();
    desk.poll();
    let held = desk.held();
    assert_eq!((held.gate.as_str(), held.needs_signature), ("second", false));
    assert!(desk.pipeline.sign_off(&held, "boss").is_err(), "it does not ask for a signature");
    holding.store(false, Ordering::Relaxed);
    desk.say(2, "ann", 0);
    desk.poll();
    desk.train();
    assert_eq!(desk.held().rows.len(), 2, "what came since belongs to it");
    desk.pipeline.sign_off(&desk.held(), "boss").unwrap();
    desk.poll();
    assert_eq!(desk.pipeline.status().unwrap().held, None);
}

#[test]
fn a_held_batch_can_be_refused_for_good() {
    let mut desk = Desk::new(|builder| builder.gate(cautious()));
    desk.serve(0..3);
    desk.pipeline.ingest([corrected(0), corrected(1)]).unwrap();
    desk.poll();
    desk.train();
    let held = desk.held();
    assert_eq!(desk.pipeline.refuse_batch(&held, "boss").unwrap(), 2);
    assert!(desk.pipeline.refuse_batch(&held, "boss").is_err(), "once");
    for n in 0..2 {
        let sample = desk.sample(n);
        assert_eq!(sample.state, SampleState::Quarantined);
        assert_eq!(sample.history.last().unwrap().by, "boss");
    }
    desk.say(2, "ann", 0);
    desk.poll();
    let run = desk.train();
    assert_eq!(desk.manifest(&run).samples, [id(2)]);
}

#[test]
fn a_gate_is_asked_again_when_a_later_one_takes_rows_out() {
    let first = audits(|batch| match batch.rows.len() {
        3.. => Audit::Pass(vec![Reason::new("many", batch.rows.len().to_string())]),
        few => Audit::SignOff(Reason::new("few", format!("{few} rows"))),
    });
    let mut second = doubting(&[1, 2]);
    second.name = "second";
    let mut desk = Desk::new(|builder| builder.gate(first).gate(second));
    desk.serve(0..4);
    (0..4).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    assert_eq!(desk.train().state, RunState::Failed);
    assert_eq!(desk.held().reason.detail, "2 rows");
}

#[test]
fn no_user_decides_what_is_up_to_people() {
    let mut desk = Desk::new(|builder| builder.gate(doubting(&[0, 1])));
    desk.serve(0..3);
    // A user's label in doubt: the same opinion again does not settle it.
    desk.pipeline.ingest([corrected(0)]).unwrap();
    desk.say(1, "ann", 0);
    desk.say(2, "ann", 0);
    desk.poll();
    desk.train();
    assert_eq!((desk.sample(0).state, desk.sample(1).state), (SampleState::Queued, SampleState::Queued));
    desk.pipeline.ingest([corrected(0), corrected(1)]).unwrap();
    assert_eq!((desk.sample(0).state, desk.sample(1).state), (SampleState::Queued, SampleState::Queued));
    desk.say(0, "bob", 0);
    desk.say(1, "bob", 1);
    desk.poll();
    assert_eq!(desk.sample(0).label.unwrap().label, Some(Label::Class(0)));
    assert_eq!(desk.sample(1).state, SampleState::Queued, "ann and bob differ, the user has no casting vote");
}

#[test]
fn a_row_that_judges_models_waits_for_people_whatever_users_say() {
    let mut desk = Desk::new(|builder| builder.explore(1.0).expire_tasks(TimeDelta::hours(3)));
    desk.serve(0..2);
    desk.pipeline.ingest([corrected(0)]).unwrap();
    assert_eq!((desk.sample(0).lane, desk.sample(0).state), (Lane::Random, SampleState::Queued));
    assert!(!desk.sample(0).annotations[0].blind, "the user saw the prediction");
    assert_eq!(desk.queue.waiting().unwrap(), 2);
    desk.clock.advance(TimeDelta::hours(3));
    desk.poll();
    let states = [0, 1].map(|n| desk.sample(n).state);
    assert_eq!(
        states,
        [SampleState::Labelled, SampleState::Skipped],
        "nobody answers: what the user said is better than nothing"
    );
}

#[test]
fn a_question_that_is_asked_again_has_its_whole_time_again() {
    let mut desk = Desk::new(|builder| builder.gate(doubting(&[0])).expire_tasks(TimeDelta::hours(10)));
    desk.serve(0..2);
    desk.clock.advance(TimeDelta::hours(7));
    (0..2).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    desk.train();
    assert_eq!(desk.sample(0).state, SampleState::Queued);
    desk.clock.advance(TimeDelta::hours(5));
    desk.poll();
    assert_eq!(desk.sample(0).state, SampleState::Queued, "asked again five hours ago");
    desk.clock.advance(TimeDelta::hours(6));
    desk.poll();
    assert_eq!(desk.sample(0).state, SampleState::Skipped);
}

/// Labels everything itself, and has it audited by two people.
struct TwoAuditors;

impl Stage for TwoAuditors {
    fn name(&self) -> &str {
        "two_auditors"
    }
}

impl LabelRouter for TwoAuditors {
    fn route(&mut self, _: &Sample, _: &RouteContext<'_>) -> Result<Route, BoxError> {
        let (label, audit) = (Label::Class(0), Some(Ask { priority: 1.0, overlap: 2, blind: true }));
        Ok(Route::Auto { label, confidence: 0.9, audit, cohort: 0, why: Reason::new("sure", "always") })
    }
}

#[test]
fn auditors_who_differ_are_followed_by_a_third() {
    let mut desk = Desk::new(|builder| builder.route(TwoAuditors));
    desk.serve(0..1);
    desk.say(0, "ann", 0);
    desk.say(0, "bob", 1);
    desk.poll();
    assert_eq!(desk.sample(0).state, SampleState::AutoLabelled);
    let tickets = desk.queue.claim("cid", 5, TimeDelta::minutes(1)).unwrap();
    assert_eq!(tickets.len(), 1, "a third person is asked");
    desk.say(0, "cid", 1);
    desk.poll();
    assert_eq!(desk.sample(0).state, SampleState::Labelled);
    assert_eq!(desk.sample(0).label.unwrap().label, Some(Label::Class(1)));
}

#[test]
fn a_question_that_the_store_could_not_take_is_asked_later() {
    let (store, clock) = (support::disk::Disk::new(MemoryStore::new()), ManualClock::starting_at(start()));
    let shared = store.clone();
    let mut desk =
        Desk::on(Arc::new(MemoryStore::new()), clock.clone(), |builder| builder.store(shared).gate(doubting(&[0])));
    desk.queue = ReviewQueue::open(Arc::new(store.clone()), PIPELINE, schema().target().clone(), Arc::new(clock));
    desk.serve(0..2);
    (0..2).for_each(|n| desk.say(n, "ann", 0));
    desk.poll();
    for read in 1..60 {
        desk.clock.advance(TimeDelta::hours(2));
        let _ = desk.pipeline.retrain_now("the test");
        store.fail_read(read);
        let _ = desk.pipeline.poll();
        store.heal();
        desk.poll();
        let sample = check(store.content(), PIPELINE).samples[&id(0)].clone();
        if sample.state == SampleState::Queued {
            assert_eq!(desk.queue.claim("bob", 5, TimeDelta::minutes(1)).unwrap().len(), 1, "read {read} failed");
            desk.say(0, "bob", 0);
            desk.poll();
            return;
        }
    }
    panic!("the sample never went back to people");
}

impl Desk {
    fn held(&self) -> HeldBatch {
        self.pipeline.status().unwrap().held.unwrap()
    }

    fn store_count(&self, state: SampleState) -> usize {
        records(&*self.store, PIPELINE, Kind::Sample).iter().filter(|record| record.state == state.as_str()).count()
    }
}
