#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::chunk::Chunk;
use crate::clock::ManualClock;
use crate::detector::{Alarm, AlarmKind, Detector, Findings, Level, detector_fn};
use crate::error::{BoxError, message};
use crate::event::{Event, Label, Output};
use crate::gate::testing::{at as second, id};
use crate::reference::Reference;
use crate::review::ReviewQueue;
use crate::router::{Ask, Route, router_fn};
use crate::sample::{Reason, SampleState};
use crate::schema::{Field, Schema, Target};
use crate::stage::{LiveMetric, Stage};
use crate::store::MemoryStore;
use crate::trigger::{
    LabelQualityStatus, RetrainTrigger, TriggerExt, days, hours, minutes, new_labels, simulate, trigger_fn,
};

/// Alarms as often as it is told to with the next chunk, and measures two things, one of which is no number.
struct Bell {
    name: &'static str,
    kind: AlarmKind,
    rings: Arc<AtomicU8>,
}

impl Stage for Bell {
    fn name(&self) -> &str {
        self.name
    }
}

impl Detector for Bell {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let Some(sequence) = chunk.sequence().first().copied() else { return Ok(()) };
        for _ in 0..self.rings.swap(0, Ordering::Relaxed) {
            let (detector, text, level) = (String::new(), "it rings".to_owned(), Level::Drift);
            findings.alarm(Alarm { detector, level, sequence, text, readings: Vec::new() });
        }
        Ok(())
    }

    fn alarm_kind(&self) -> AlarmKind {
        self.kind
    }

    fn metrics(&self) -> Vec<LiveMetric> {
        let metric = |name: &str, value| LiveMetric { name: name.to_owned(), value, rows: 7 };
        vec![metric("loudness", 0.5), metric("broken", f64::NAN)]
    }
}

struct Loop {
    pipeline: Pipeline,
    store: MemoryStore,
    clock: ManualClock,
    harm: Arc<AtomicU8>,
    drift: Arc<AtomicU8>,
    predictions: u128,
}

type Trigger = Option<Box<dyn RetrainTrigger>>;

impl Loop {
    fn new(trigger: Trigger) -> Self {
        let (store, clock) = (MemoryStore::new(), ManualClock::starting_at(second(0)));
        let (harm, drift) = (Arc::default(), Arc::default());
        let pipeline = Loop::open(&store, &clock, trigger, &harm, &drift);
        Loop { pipeline, store, clock, harm, drift, predictions: 0 }
    }

    fn open(
        store: &MemoryStore,
        clock: &ManualClock,
        trigger: Trigger,
        harm: &Arc<AtomicU8>,
        drift: &Arc<AtomicU8>,
    ) -> Pipeline {
        let schema = Arc::new(Schema::new([Field::number("x")], Target::classes(["no", "yes"])).unwrap());
        let builder = Pipeline::builder("orders", schema.clone())
            .reference(Reference::builder(schema).finish())
            .store(store.clone())
            .clock(clock.clone())
            .detect(detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
                chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
                Ok(())
            }))
            .detect(Bell { name: "harm", kind: AlarmKind::Harm, rings: harm.clone() })
            .detect(Bell { name: "drift", kind: AlarmKind::Stream, rings: drift.clone() })
            .route(router_fn("twice", |_, _| {
                Ok(Route::ask(Ask { priority: 1.0, overlap: 2, blind: true }, Reason::new("asked", "of two people")))
            }));
        let builder = match trigger {
            Some(trigger) => builder.trigger(trigger),
            None => builder,
        };
        builder.build().unwrap()
    }

    fn restart(&mut self, trigger: Trigger) {
        self.pipeline = Loop::open(&self.store, &self.clock, trigger, &self.harm, &self.drift);
    }

    fn predict(&mut self, count: u128) {
        for _ in 0..count {
            let mut observation = self.pipeline.observation();
            (observation.id, observation.time) = (id(self.predictions), self.pipeline.now);
            observation.row.copy_values(&[self.predictions as f64]).unwrap();
            observation.set_output(Output::Probabilities(&[0.4, 0.6]));
            self.pipeline.ingest([Event::Prediction(observation)]).unwrap();
            self.predictions += 1;
        }
        self.pipeline.poll().unwrap();
    }

    fn answer(&mut self, who: &str, label: impl Fn(u128) -> u32) {
        let target = self.pipeline.schema().target().clone();
        let queue = ReviewQueue::open(self.pipeline.store().clone(), "orders", target, Arc::new(self.clock.clone()));
        for ticket in queue.claim(who, 100, minutes(1)).unwrap() {
            let class = label(ticket.task.sample.uuid().as_u128());
            queue.annotate(ticket.task.sample, who, Label::Class(class), 1.0, None).unwrap();
        }
        self.pipeline.poll().unwrap();
    }

    /// `count` predictions that two people agree on.
    fn labelled(&mut self, count: u128) {
        self.predict(count);
        ["ann", "bob"].into_iter().for_each(|who| self.answer(who, |_| 1));
    }

    /// Without the number of observations, of which a crash forgets those since the checkpoint.
    fn status(&self) -> LoopStatus {
        LoopStatus { observations: 0, ..self.pipeline.loop_status() }
    }
}

fn never() -> Trigger {
    Some(new_labels(1_000_000))
}

#[test]
fn the_status_tells_how_good_the_labels_are_and_survives_a_restart() {
    let mut world = Loop::new(never());
    world.predict(5);
    world.answer("ann", |_| 1);
    assert_eq!((world.status().labels, world.status().label_quality), (0, LabelQualityStatus::default()));
    world.answer("bob", |number| u32::from(number != 2));
    let quality = world.status().label_quality;
    let expected =
        LabelQualityStatus { labels: 4, compared: 5, agreement: Some(0.8), doubted: 1, settled: 0, quarantined: 0 };
    assert_eq!(quality, expected);
    assert_eq!((world.status().labels, world.status().independent_labels), (4, 4));

    // A third opinion settles the doubt; one sample goes into quarantine with its label.
    world.answer("eve", |_| 1);
    let sample = world.pipeline.outbox.sample(id(4)).unwrap().unwrap();
    assert!(sample.advance(SampleState::Quarantined, "gate", Reason::new("refused", "a test"), second(0)));
    let sample = sample.clone();
    world.pipeline.outbox.touch(id(4));
    world.pipeline.retraining.labelled(&sample);
    world.pipeline.poll().unwrap();
    let expected = LabelQualityStatus {
        labels: 4,
        compared: 4,
        agreement: Some(8.0 / 9.0),
        doubted: 1,
        settled: 1,
        quarantined: 1,
    };
    let before = world.status();
    assert_eq!((&before.label_quality, before.independent_labels), (&expected, 4));
    world.restart(never());
    assert_eq!(world.status(), before);

    // A batch begins anew.
    world.pipeline.retrain_now("ada").unwrap();
    world.pipeline.poll().unwrap();
    let sealed = world.status();
    assert_eq!(sealed.label_quality, LabelQualityStatus::default());
    assert_eq!((sealed.labels, sealed.sealed_labels, sealed.sealed_independent_labels), (0, 4, 4));
    world.restart(never());
    assert_eq!(world.status(), sealed);
}

#[test]
fn the_status_tells_harm_from_other_alarms_until_a_run_takes_note_of_them() {
    let mut world = Loop::new(never());
    world.labelled(1);
    world.harm.store(1, Ordering::Relaxed);
    world.predict(1);
    let harmed = world.status();
    assert_eq!((harmed.open_alarms, harmed.open_harm_alarms), (1, 1));
    world.clock.advance(minutes(5));
    world.drift.store(2, Ordering::Relaxed);
    world.predict(1);
    let (both, raised) = (world.status(), world.pipeline.alarms(None, 10).unwrap());
    assert_eq!((both.open_alarms, both.open_harm_alarms), (3, 1));
    assert_eq!((both.last_alarm, both.last_harm_alarm), (Some(second(300)), Some(second(0))));
    let kinds: Vec<AlarmKind> = raised.iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::Stream, AlarmKind::Stream, AlarmKind::Harm]);
    world.restart(never());
    assert_eq!(world.status(), both);
    world.pipeline.retrain_now("ada").unwrap();
    world.pipeline.poll().unwrap();
    let after = world.status();
    assert_eq!((after.open_alarms, after.open_harm_alarms, after.last_harm_alarm), (0, 0, None));
}

#[test]
fn the_status_tells_of_runs_and_failures_and_of_what_is_measured() {
    let mut world = Loop::new(never());
    assert_eq!(world.status().metrics.len(), 2, "what is no number is left out");
    assert_eq!(world.status().metrics[0], LiveMetric { name: "harm/loudness".into(), value: 0.5, rows: 7 });
    let mut requested = Vec::new();
    for (labels, failed) in [(1, 0), (0, 1), (0, 2), (1, 0)] {
        world.clock.advance(hours(6));
        world.labelled(labels);
        world.pipeline.retrain_now("ada").unwrap();
        requested.push(world.pipeline.now);
        world.pipeline.poll().unwrap();
        assert_eq!((world.status().failed_runs, world.status().last_run), (failed, requested.last().copied()));
    }
    assert_eq!(world.status().last_failed_run, Some(requested[2]));
    assert_eq!(world.status().recent_runs, requested);
    world.restart(never());
    assert_eq!(world.status().recent_runs, requested);
    world.clock.advance(hours(6));
    world.pipeline.poll().unwrap();
    assert_eq!(world.status().recent_runs, requested[1..]);
}

/// The loop's state and its last decision, as text.
fn state(pipeline: &Pipeline) -> String {
    format!("{:?} {:?} {}", pipeline.retraining.state, pipeline.retraining.decision, pipeline.pending())
}

#[test]
fn explaining_changes_nothing_and_says_what_holds_the_loop_back() {
    let remembers = trigger_fn("remembers", |status, memory| {
        let asked: u64 = memory.get("asked").unwrap_or(0);
        memory.set("asked", &(asked + 1))?;
        Ok((status.labels >= 2 && !status.running, format!("asked {asked} times before")))
    });
    let mut world = Loop::new(Some(remembers.boxed()));
    let explain = |world: &Loop| {
        let before = state(&world.pipeline);
        let told = world.pipeline.explain();
        assert_eq!(state(&world.pipeline), before);
        told
    };
    assert_eq!(explain(&world).to_string(), "loop: the trigger waits [remembers: asked 0 times before]");
    assert_eq!(explain(&world).to_string(), "loop: the trigger waits [remembers: asked 0 times before]");
    world.predict(2);
    world.answer("ann", |_| 1);
    world.pipeline.freeze("a test").unwrap();
    world.answer("bob", |_| 1);
    let frozen = explain(&world);
    assert!(!frozen.fired && frozen.parts[0].fired, "the trigger fires, the loop does not: {frozen}");
    assert_eq!(frozen.text, "the loop is frozen: a test");
    world.pipeline.retraining.state.frozen = None;
    let ready = explain(&world);
    assert!(ready.fired && ready.text == "the next poll requests a run", "{ready}");
    world.pipeline.poll().unwrap();
    assert_eq!(world.status().recent_runs.len(), 1, "as it said");

    // Nothing is labelled: the run fails, and the loop waits a minute.
    world.pipeline.retrain_now("ada").unwrap();
    assert_eq!(explain(&world).text, "run-2 is in flight (requested)");
    world.pipeline.poll().unwrap();
    assert_eq!(explain(&world).text, "after a run that failed, waits until 2001-09-09 01:47:40 UTC");
    world.clock.advance(minutes(1));
    assert_eq!(explain(&world).text, "the trigger waits", "at the time of asking, not of the last poll");

    world.restart(None);
    assert_eq!(explain(&world).text, "there is no trigger: a run begins when somebody asks for one");
    world.restart(Some(trigger_fn("mine", |_, _| Err(message("no connection"))).boxed()));
    assert_eq!(explain(&world).text, "the trigger `mine` failed: no connection");
}

#[test]
fn the_log_keeps_what_changed_at_most_once_a_minute() {
    let mut world = Loop::new(never());
    let log = |world: &Loop| {
        let log = world.pipeline.trigger_log().unwrap();
        log.iter().map(|status| ((status.now - second(0)).num_seconds(), status.labels)).collect::<Vec<_>>()
    };
    world.clock.set(second(20));
    world.pipeline.poll().unwrap();
    for _ in 0..9 {
        world.clock.advance(minutes(1));
        world.pipeline.poll().unwrap();
    }
    assert_eq!(log(&world), [(20, 0)], "nothing changed");
    // A minute begins at 620: the first row is flagged. Three labels within it are told at its end.
    for seconds in [620, 630, 640] {
        world.clock.set(second(seconds));
        world.labelled(1);
    }
    world.clock.set(second(680));
    world.pipeline.poll().unwrap();
    assert_eq!(log(&world), [(20, 0), (620, 0), (680, 3)]);
    world.restart(never());
    assert_eq!(log(&world), [(20, 0), (620, 0), (680, 3)]);
    // Two weeks later the places are taken over, and what is older is not told.
    world.clock.set(second(20) + days(14));
    world.pipeline.poll().unwrap();
    assert_eq!(log(&world), [(620, 0), (680, 3), (20 + 14 * 86_400, 3)]);
    assert_eq!(world.pipeline.outbox.count(Kind::TriggerLog, None).unwrap(), 3);
}

#[test]
fn a_simulation_over_the_log_fires_when_the_loop_did() {
    let policy = || new_labels(4).cooldown(hours(2)).daily_budget(3);
    let mut world = Loop::new(Some(policy()));
    let mut requested = Vec::new();
    for minute in 0..1_500_u128 {
        world.clock.set(second(0) + minutes(minute as u32));
        if minute % 7 == 0 && minute / 300 % 2 == 0 {
            world.labelled(1);
        } else {
            world.pipeline.poll().unwrap();
        }
        if world.status().last_run.is_some_and(|last| requested.last() != Some(&last)) {
            requested.extend(world.status().last_run);
        }
    }
    assert!(requested.len() >= 4, "{requested:?}");
    let log = world.pipeline.trigger_log().unwrap();
    let before = (state(&world.pipeline), log.clone());
    let found = simulate(&policy(), &log, minutes(0)).unwrap();
    assert_eq!((state(&world.pipeline), world.pipeline.trigger_log().unwrap()), before, "it touches nothing");
    assert_eq!(found.len(), requested.len());
    for (firing, request) in found.iter().zip(&requested) {
        // The log looks once a minute.
        assert!((firing.time - *request).abs() <= minutes(1), "{} against {request}", firing.time);
    }
}
