//! A seeded simulation of the whole loop under faults: the invariants of the design hold after every few steps.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Alarm, AlarmRecord, Ask, Chunk, ConfidenceRouter, Deduplicate, Event, Feedback, Findings, FnTrainer, Kind, KsDrift,
    Label, LabelConsistency, Level, LowConfidence, Mahalanobis, ManualClock, MemoryStore, ModelSlot, ModelVersion,
    Observation, Opinion, Outcome, OutputDrift, Pipeline, PipelineBuilder, PredictionError, PredictionId, Profile,
    Relevance, ReviewQueue, Route, RouteContext, Sample, SampleState, SchemaGate, Store, TrainJob, TriggerExt,
    UserFeedback, any, detector_fn, drift, minutes, new_labels, router_fn,
};
use support::{
    Flaky, Rng, World, base, check, evaluator, first_model, fit, id, load, observation, prediction, records, schema,
    start, truth,
};

const NAME: &str = "simulated";

struct Simulation {
    rng: Rng,
    clock: ManualClock,
    store: Flaky,
    slot: ModelSlot<f64>,
    training_fails: Arc<AtomicBool>,
    profile: Profile,
    pipeline: Option<Pipeline>,
    made: u64,
    values: BTreeMap<PredictionId, [f64; 2]>,
    concept: f64,
    /// Batches as they were first seen.
    batches: BTreeMap<String, Vec<PredictionId>>,
    /// Versions that were quarantined once.
    quarantined: Vec<ModelVersion>,
    annotations: BTreeMap<PredictionId, usize>,
    alarms: Vec<AlarmRecord>,
}

fn builder(
    clock: &ManualClock,
    store: &Flaky,
    slot: &ModelSlot<f64>,
    fails: &Arc<AtomicBool>,
    profile: &Profile,
) -> PipelineBuilder {
    let fails = fails.clone();
    let trainer = FnTrainer::inline(move |job: &TrainJob| {
        if fails.load(Ordering::Relaxed) { Err("no trainer to be had".into()) } else { Ok(fit(job)) }
    });
    Pipeline::builder(NAME, schema())
        .training_data(base())
        .first_model(first_model())
        .detect(LowConfidence::below(0.8))
        .detect(Mahalanobis::default().false_alarm_rate(0.02))
        .detect(KsDrift::default().window(60))
        .detect(OutputDrift::default().window(60))
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .gate(LabelConsistency::default())
        .gate(Relevance::default())
        .route(ConfidenceRouter::max_error(0.2).audit(0.3))
        .trigger(any([new_labels(15), drift()]).cooldown(minutes(3)))
        .train(trainer)
        .evaluate(evaluator(profile.clone()))
        .deploy(slot.clone())
        .explore(0.35)
        .learn_from_outcomes(0.5)
        .label_batch(5)
        .expire_tasks(TimeDelta::minutes(40))
        .checkpoint(50, TimeDelta::minutes(5))
        .clock(clock.clone())
        .seed(3)
        .store(store.clone())
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let profile = if seed.is_multiple_of(2) { Profile::adaptive() } else { Profile::confirm() };
        Simulation {
            rng: Rng(seed),
            clock: ManualClock::starting_at(start()),
            store: Flaky::new(MemoryStore::new()),
            slot: ModelSlot::new(0.5, load).inline(),
            training_fails: Arc::default(),
            profile,
            pipeline: None,
            made: 0,
            values: BTreeMap::new(),
            concept: 0.2 + 0.1 * (seed % 3) as f64,
            batches: BTreeMap::new(),
            quarantined: Vec::new(),
            annotations: BTreeMap::new(),
            alarms: Vec::new(),
        }
    }

    fn pipeline(&mut self) -> &mut Pipeline {
        if self.pipeline.is_none() {
            self.store.heal();
        }
        let (clock, store, slot) = (&self.clock, &self.store, &self.slot);
        let (fails, profile) = (&self.training_fails, &self.profile);
        self.pipeline.get_or_insert_with(|| builder(clock, store, slot, fails, profile).build().unwrap())
    }

    fn queue(&mut self) -> ReviewQueue {
        let store = self.store.inner().clone();
        ReviewQueue::open(store, NAME, schema().target().clone(), Arc::new(self.clock.clone()))
    }

    fn predict(&mut self) {
        let count = 1 + self.rng.below(25);
        let mut events = Vec::new();
        for _ in 0..count {
            let copied = self.rng.chance(0.03) && self.made > 0;
            let values = match copied {
                true => self.values[&id(self.rng.next() % self.made)],
                false => [self.rng.unit() * 1.2, self.rng.unit() + if self.rng.chance(0.03) { 9.0 } else { 0.0 }],
            };
            // Now and then a name comes twice.
            let n = if self.rng.chance(0.02) && self.made > 0 { self.rng.next() % self.made } else { self.made };
            let (threshold, version) = self.slot.predict(|threshold, version| (*threshold, version));
            events.push(Event::Prediction(observation(n, version, threshold, &values)));
            if n == self.made {
                self.values.insert(id(n), values);
                self.made += 1;
            }
        }
        let _ = self.pipeline().ingest(events);
    }

    fn known(&mut self) -> Option<PredictionId> {
        let recent = self.made.saturating_sub(200);
        (self.made > 0).then(|| id(recent + self.rng.next() % (self.made - recent)))
    }

    fn outcomes(&mut self) {
        let mut events = Vec::new();
        for _ in 0..1 + self.rng.below(12) {
            let Some(known) = self.known() else { return };
            let right = truth(&self.values[&known], self.concept);
            let event = match self.rng.below(10) {
                0 => Event::Outcome(Outcome::retraction(known)),
                1 => Event::Outcome(Outcome::truth(known, Label::Class(self.rng.below(3) as u32))),
                2 => Event::Outcome(Outcome::truth(id(1_000_000 + self.rng.below(50) as u64), right)),
                3 => {
                    let opinion = match self.rng.below(3) {
                        0 => Opinion::Correction(right),
                        1 => Opinion::Rejection,
                        _ => Opinion::Rating(self.rng.unit()),
                    };
                    Event::Feedback(Box::new(Feedback { prediction: known, user: "u".into(), opinion }))
                }
                _ => Event::Outcome(Outcome::truth(known, right)),
            };
            events.push(event);
        }
        let _ = self.pipeline().ingest(events);
    }

    fn annotators(&mut self) {
        let queue = self.queue();
        let name = format!("person-{}", self.rng.below(3));
        let most = 1 + self.rng.below(20);
        for ticket in queue.claim(&name, most, TimeDelta::minutes(5)).unwrap() {
            let sample = ticket.task.sample;
            let right = truth(ticket.task.row.values(), self.concept);
            let wrong = Label::Class(u32::from(right == Label::Class(0)));
            match self.rng.below(12) {
                0 => queue.skip(sample, &name).unwrap(),
                1 => queue.release(sample, &name).unwrap(),
                2 => {} // went home
                3 => drop(queue.annotate(sample, &name, wrong, 0.5, None).unwrap()),
                4 => {
                    queue.annotate(sample, &name, wrong, 1.0, None).unwrap();
                    queue.correct(sample, &name, right, 1.0, Some(3.0)).unwrap();
                }
                5 => {
                    queue.annotate(sample, &name, right, 1.0, None).unwrap();
                    if self.rng.chance(0.5) {
                        let _ = self.pipeline().poll();
                    }
                    queue.retract(sample, &name).unwrap();
                }
                _ => drop(queue.annotate(sample, &name, right, 1.0, None).unwrap()),
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..=11 => self.predict(),
            12..=16 => self.outcomes(),
            17..=26 => self.annotators(),
            27..=32 => drop(self.pipeline().poll()),
            33 => {
                let back = self.rng.chance(0.2);
                let by = TimeDelta::seconds(self.rng.below(900) as i64);
                self.clock.advance(if back { -by } else { by });
            }
            34 => {
                // A restart: what was not durable is gone.
                self.store.heal();
                self.pipeline = None;
                self.slot = ModelSlot::new(0.5, load).inline();
                self.pipeline().poll().unwrap();
            }
            35 => match self.rng.below(3) {
                0 => self.store.commits_fail.store(true, Ordering::Relaxed),
                1 => self.store.reads_fail.store(true, Ordering::Relaxed),
                _ => self.store.fail_read.store(1 + self.rng.below(40) as u64, Ordering::Relaxed),
            },
            36 => self.store.heal(),
            37 => {
                let fails = self.rng.chance(0.15);
                self.training_fails.store(fails, Ordering::Relaxed);
            }
            38 if self.rng.chance(0.2) => self.concept = 0.2 + 0.1 * self.rng.below(6) as f64,
            38 => self.annotators(),
            _ => {
                let what = self.rng.below(14);
                let pipeline = self.pipeline();
                match what {
                    0 => drop(pipeline.rollback("test")),
                    1 => drop(pipeline.freeze("test")),
                    2 => drop(pipeline.cancel_run("test")),
                    3..=7 => drop(pipeline.retrain_now("test")),
                    8 => drop(pipeline.acknowledge_alarms("ada")),
                    9 | 10 => drop(pipeline.rollback("test")),
                    _ => drop(pipeline.unfreeze()),
                }
            }
        }
    }

    /// What the store shows at this moment, whatever is pending.
    fn check(&mut self) -> World {
        let world = if self.pipeline.is_some() && self.store_works() {
            self.pipeline().poll().unwrap();
            check(&**self.store.inner(), NAME)
        } else if self.store.inner().get(NAME, Kind::Control, "loop").unwrap().is_some() {
            check(&**self.store.inner(), NAME)
        } else {
            return World::default();
        };
        for (batch, samples) in &self.batches {
            assert_eq!(&world.batches[batch].samples, samples, "batch {batch} has changed");
        }
        self.batches = world.batches.iter().map(|(id, batch)| (id.clone(), batch.samples.clone())).collect();
        for version in &self.quarantined {
            assert_ne!(world.champion, *version, "a quarantined version serves again");
        }
        self.quarantined = world.models.values().filter(|m| m.quarantined.is_some()).map(|m| m.version).collect();
        for (id, before) in &self.annotations {
            assert!(world.samples[id].annotations.len() >= *before, "an annotation of {id} is gone");
        }
        self.annotations = world.samples.values().map(|s| (s.id(), s.annotations.len())).collect();
        for (before, now) in self.alarms.iter().zip(&world.alarms) {
            let kept = before.alarm == now.alarm && before.raised == now.raised;
            assert!(kept && (before.acknowledged.is_none() || before.acknowledged == now.acknowledged), "{now:?}");
            assert!(before.cleared.is_none() || before.cleared == now.cleared, "{now:?}");
        }
        assert!(world.alarms.len() >= self.alarms.len(), "an alarm is gone");
        self.alarms.clone_from(&world.alarms);
        for sample in world.samples.values() {
            let judges = sample.lane.judges();
            let auto = sample.annotations.iter().any(|a| matches!(a.annotator, feedloop::Annotator::Model(_)));
            assert!(!(judges && auto), "a judging lane was auto-labelled");
            let labelled = matches!(sample.state, SampleState::Labelled);
            assert!(!labelled || sample.label.is_some(), "{} is labelled without a label", sample.id());
        }
        world
    }

    fn store_works(&self) -> bool {
        let broken = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        !broken(&self.store.commits_fail)
            && !broken(&self.store.reads_fail)
            && self.store.fail_read.load(Ordering::Relaxed) == 0
    }

    fn run(mut self, steps: usize) -> (World, MemoryDump) {
        for step in 0..steps {
            self.step();
            if step % 20 == 0 {
                self.check();
            }
        }
        self.store.heal();
        self.pipeline().poll().unwrap();
        let world = self.check();
        support::check_journal(&**self.store.inner(), NAME);
        assert_eq!(self.slot.version(), world.champion, "the slot serves the champion");
        let champion = self.pipeline().champion();
        assert_eq!(champion, world.champion);
        let samples: Vec<_> = world.samples.values().filter(|s| s.batch.is_some()).map(Sample::id).take(20).collect();
        for id in samples {
            assert!(self.pipeline().lineage(id).unwrap().nodes.len() >= 3, "sample, batch and run of {id}");
        }
        for version in world.models.keys() {
            self.pipeline().lineage(*version).unwrap();
        }
        (world, dump(&**self.store.inner()))
    }
}

type MemoryDump = Vec<(Kind, String, String, i64, u64, Vec<u8>)>;

fn dump(store: &dyn Store) -> MemoryDump {
    let all = Kind::ALL.into_iter().flat_map(|kind| records(store, NAME, kind));
    all.map(|r| (r.kind, r.key.id, r.state, r.rank, r.rev, r.body.to_vec())).collect()
}

#[test]
fn the_invariants_hold_whatever_happens() {
    let (mut samples, mut batches, mut promotions, mut rollbacks) = (0, 0, 0, 0);
    let mut alarms = 0;
    for seed in 0..20 {
        let (world, _) = Simulation::new(seed).run(240);
        samples += world.samples.len();
        batches += world.batches.len();
        promotions += world.promotions.len();
        alarms += world.alarms.iter().filter(|alarm| alarm.acknowledged.is_some()).count();
        rollbacks += world.promotions.iter().filter(|p| p.kind == feedloop::PromotionKind::Rollback).count();
    }
    eprintln!(
        "{samples} samples, {batches} batches, {promotions} changes of the champion, {rollbacks} rollbacks, {alarms} alarms"
    );
    // Were these small, the simulation would have shown nothing.
    assert!(samples > 2_000 && batches > 40 && promotions > 5 && rollbacks > 0 && alarms > 10);
}

#[test]
fn the_same_seed_and_events_leave_the_same_store_to_the_byte() {
    for seed in [2, 3] {
        let (_, first) = Simulation::new(seed).run(250);
        let (_, second) = Simulation::new(seed).run(250);
        assert_eq!(first.len(), second.len());
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a, b, "{}", String::from_utf8_lossy(&a.5));
        }
    }
}

// Cuts and restarts ------------------------------------------------------------------------------------------------------

/// Copies, doubtful rows, drift, truths in any order, corrections, feedback.
fn stream() -> Vec<Event> {
    let mut rng = Rng(11);
    let mut events = Vec::new();
    let mut made: Vec<[f64; 2]> = Vec::new();
    for n in 0..900_u64 {
        let copy = rng.chance(0.1) && !made.is_empty();
        let drifted = if n > 450 { 0.4 } else { 0.0 };
        let values = if copy { made[rng.below(made.len())] } else { [rng.unit() + drifted, rng.unit()] };
        made.push(values);
        events.push(prediction(n, &values));
        for _ in 0..rng.below(3) {
            let about = n - rng.next() % (n + 1).min(40);
            let right = truth(&made[about as usize], 0.35);
            events.push(match rng.below(12) {
                0 => Event::Outcome(Outcome::retraction(id(about))),
                1 => Event::Outcome(Outcome::truth(id(about), Label::Class(rng.below(2) as u32))),
                2 => {
                    let feedback = Feedback { prediction: id(about), user: "u".into(), opinion: Opinion::Rejection };
                    Event::Feedback(Box::new(feedback))
                }
                3 => Event::Outcome(Outcome::truth(id(about + 30), right)),
                _ => Event::Outcome(Outcome::truth(id(about), right)),
            });
        }
    }
    events
}

/// Decisions that depend on everything that a router may see.
fn nosy(sample: &Sample, context: &RouteContext<'_>) -> Result<Route, feedloop::BoxError> {
    let mut say = feedloop::Reason::new("seen", format!("{} waiting, alarm {}", context.waiting, context.alarm));
    say.detail.push_str(&format!(", {} flags", sample.flags.len()));
    let ask =
        Ask { priority: context.waiting as f64 + f64::from(u8::from(context.alarm)) / 2.0, overlap: 1, blind: true };
    Ok(if context.waiting % 3 == 2 { Route::Skip(say) } else { Route::ask(ask, say) })
}

fn cut_pipeline(store: &MemoryStore) -> Pipeline {
    // Alarms now and then, in the middle of chunks.
    let alarm = detector_fn("bell", |chunk: &Chunk<'_>, findings: &mut Findings| {
        for (row, sequence) in chunk.sequence().iter().enumerate() {
            if chunk.values(0)[row] > 1.3 && sequence % 3 == 0 {
                let text = "it rings".to_owned();
                let (detector, readings) = (String::new(), Vec::new());
                findings.alarm(Alarm { detector, level: Level::Drift, sequence: *sequence, text, readings });
            }
        }
        Ok(())
    });
    Pipeline::builder(NAME, schema())
        .training_data(base())
        .detect(alarm)
        .detect(LowConfidence::below(0.8))
        .detect(Mahalanobis::default().false_alarm_rate(0.02))
        .detect(KsDrift::default().window(60))
        .detect(OutputDrift::default().window(60))
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .route(router_fn("nosy", nosy))
        .explore(0.1)
        .learn_from_outcomes(0.3)
        .clock(ManualClock::starting_at(start()))
        .store(store.clone())
        .build()
        .unwrap()
}

/// Samples with all that was decided about them, and alarms.
fn decided(store: &MemoryStore) -> (Vec<Sample>, Vec<String>) {
    let world = check(store, NAME);
    let alarms = records(store, NAME, Kind::Alarm);
    (
        world.samples.into_values().collect(),
        alarms.iter().map(|a| String::from_utf8_lossy(&a.body).into_owned()).collect(),
    )
}

fn same(found: &(Vec<Sample>, Vec<String>), whole: &(Vec<Sample>, Vec<String>), how: &str) {
    assert_eq!(found.1, whole.1, "alarms, {how}");
    assert_eq!(found.0.len(), whole.0.len(), "number of samples, {how}");
    for (a, b) in found.0.iter().zip(&whole.0) {
        assert_eq!(a, b, "{how}");
    }
}

#[test]
fn what_is_found_and_decided_does_not_depend_on_how_the_stream_was_cut() {
    let whole = MemoryStore::new();
    cut_pipeline(&whole).ingest(stream()).unwrap();
    let whole = decided(&whole);
    assert!(whole.0.len() > 200 && whole.1.len() > 5, "{} {}", whole.0.len(), whole.1.len());
    for cut in [1, 7, 256] {
        let store = MemoryStore::new();
        let mut pipeline = cut_pipeline(&store);
        let mut events = stream();
        while !events.is_empty() {
            let rest = events.split_off(cut.min(events.len()));
            pipeline.ingest(events).unwrap();
            events = rest;
        }
        same(&decided(&store), &whole, &format!("cut by {cut}"));
    }
}

#[test]
fn a_checkpoint_and_a_restart_in_between_change_nothing_that_is_found() {
    // Without the late truths: the whole rows that they need live in memory only.
    let events = || stream().into_iter().filter(|event| matches!(event, Event::Prediction(_))).collect::<Vec<_>>();
    let whole = MemoryStore::new();
    cut_pipeline(&whole).ingest(events()).unwrap();
    let whole = decided(&whole);
    for at in [1, 130, 601] {
        let store = MemoryStore::new();
        let mut first = events();
        let rest = first.split_off(at);
        let (recorder, _, worker) = {
            let mut pipeline = cut_pipeline(&store);
            pipeline.ingest(first).unwrap();
            pipeline.spawn().unwrap()
        };
        // An orderly stop saves everything.
        drop(recorder);
        drop(worker.stop(std::time::Duration::from_secs(60)).unwrap());
        cut_pipeline(&store).ingest(rest).unwrap();
        same(&decided(&store), &whole, &format!("restart at {at}"));
    }
}

#[test]
fn an_observation_that_was_recycled_carries_nothing_over() {
    let mut pipeline = cut_pipeline(&MemoryStore::new());
    for n in 0..5_000 {
        let mut reused: Box<Observation> = pipeline.observation();
        let fresh = observation(n, ModelVersion::FIRST, 0.5, &[0.1, 0.2]);
        (reused.id, reused.model, reused.time) = (fresh.id, fresh.model, fresh.time);
        reused.row.copy_values(&[0.1, 0.2]).unwrap();
        reused.set_output(feedloop::Output::Probabilities(fresh.output()));
        assert_eq!(reused, fresh);
        pipeline.ingest([Event::Prediction(reused)]).unwrap();
    }
}
