//! What is found and decided does not depend on how the stream was cut, nor on a restart in between.

use feedloop::{
    Alarm, Ask, Chunk, Event, Feedback, Findings, Kind, Label, Level, ManualClock, MemoryStore, ModelVersion,
    Observation, Opinion, Outcome, Pipeline, Route, RouteContext, Sample, detector_fn, router_fn,
};

use super::NAME;
use super::stages::watchful;
use crate::support::{Rng, base, check, id, observation, prediction, records, schema, start, truth};

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
    watchful(Pipeline::builder(NAME, schema()).training_data(base()).detect(alarm))
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
