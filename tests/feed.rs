//! A broken feed suppresses the alarms that it causes; new data of the same extent does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use feedloop::chrono::TimeDelta;
use feedloop::{
    AlarmState, Clock, Deduplicate, Event, KsDrift, Label, ModelVersion, PipelineBuilder, Profile, Relevance, RunState,
    Sample, drift, new_labels,
};
use support::host::Host;
use support::{Rng, evaluator, observation};

fn watched(builder: PipelineBuilder) -> PipelineBuilder {
    let inputs = KsDrift::default().window(100).false_alarms_per_day(0.1);
    builder.detect(inputs).gate(Relevance::default()).trigger(drift()).evaluate(evaluator(Profile::confirm()))
}

/// A hundred sound rows that are labelled, then three hundred that are changed. Returns the states of the alarms that name
/// the first column, and those of the runs.
fn after(change: impl Fn(&mut [f64; 2], &mut Rng)) -> (Host, Vec<AlarmState>) {
    let mut host = Host::new(watched);
    host.turn(100, 0.5);
    assert!(host.pipeline.status().unwrap().trigger_view.labels > 0, "a run needs labels");
    assert_eq!(host.pipeline.alarms(None, 10).unwrap(), [], "the feed was sound so far");
    let mut rng = Rng(77);
    for _ in 0..3 {
        host.clock.advance(TimeDelta::hours(6));
        let events = (0..100).map(|_| {
            let mut values = [rng.unit(), rng.unit()];
            change(&mut values, &mut rng);
            let served = host.slot.get();
            let mut observation = observation(host.served, served.version, served.model, &values);
            observation.time = host.clock.now();
            host.served += 1;
            Event::Prediction(observation)
        });
        let events: Vec<_> = events.collect();
        host.pipeline.ingest(events).unwrap();
        host.pipeline.poll().unwrap();
    }
    let alarms = host.pipeline.alarms(None, 10).unwrap();
    assert!(!alarms.is_empty(), "the change was seen");
    for alarm in &alarms {
        assert_eq!(alarm.alarm.detector, "ks_drift");
        assert_eq!(alarm.suppressed.is_some(), alarm.state() == AlarmState::Suppressed);
    }
    let states = alarms.iter().map(|alarm| alarm.state()).collect();
    (host, states)
}

fn suppressed_for(change: impl Fn(&mut [f64; 2], &mut Rng), why: &str) {
    let (mut host, states) = after(change);
    assert!(states.iter().all(|state| *state == AlarmState::Suppressed), "{states:?}");
    let reason = host.pipeline.alarms(None, 10).unwrap()[0].suppressed.clone().unwrap();
    assert!(reason.code == "broken_feed" && reason.detail.contains(why), "{reason}");
    let status = host.pipeline.status().unwrap();
    assert_eq!((status.trigger_view.open_alarms, status.counters.suppressed_alarms), (0, states.len() as u64));
    assert!(status.decision.unwrap().why().to_string().contains("no open alarm"));
    assert_eq!(host.run_states(), [], "the drift trigger did not fire");
    // A restart changes nothing of it.
    host.restart(watched);
    assert!(host.pipeline.alarms(None, 10).unwrap().iter().all(|alarm| alarm.state() == AlarmState::Suppressed));
    assert_eq!(host.run_states(), []);
}

#[test]
fn an_alarm_of_a_unit_error_is_suppressed() {
    suppressed_for(|values, _| values[0] *= 1_000.0, "unit or scale");
}

#[test]
fn an_alarm_of_lost_values_is_suppressed() {
    suppressed_for(|values, rng| values[0] = if rng.chance(0.6) { f64::NAN } else { values[0] }, "`x0` is missing");
}

/// Every value of the column lies beyond the old ones, as with the unit error: the distance of Kolmogorov and Smirnov is
/// the same.
#[test]
fn a_shift_of_the_world_is_not_suppressed_and_starts_a_run() {
    let (host, states) = after(|values, _| values[0] += 5.0);
    assert!(states.iter().all(|state| *state != AlarmState::Suppressed), "{states:?}");
    assert_eq!(host.pipeline.status().unwrap().counters.suppressed_alarms, 0);
    assert_eq!(host.run_states()[0], RunState::Exported, "there is no trainer");
}

/// The same input again and again: one sample is labelled, and it weighs what the cap allows.
#[test]
fn a_copy_that_was_quarantined_counts_in_training() {
    let gated = |builder: PipelineBuilder| {
        let builder = builder.gate(Deduplicate::exact().weigh(4)).trigger(new_labels(1));
        builder.evaluate(evaluator(Profile::confirm())).label_batch(1)
    };
    let mut host = Host::new(gated);
    let again = [[0.3, 0.7]; 3];
    let once = [[0.1, 0.2]];
    let many = [[0.9, 0.9]; 50];
    let events: Vec<_> = again
        .iter()
        .chain(&once)
        .chain(&many)
        .map(|values| {
            let mut observation = observation(host.served, ModelVersion::FIRST, 0.5, values);
            observation.time = host.clock.now();
            host.served += 1;
            Event::Prediction(observation)
        })
        .collect();
    let ids: Vec<_> =
        events.iter().map(|event| if let Event::Prediction(seen) = event { seen.id } else { panic!() }).collect();
    host.pipeline.ingest(events).unwrap();
    host.pipeline.poll().unwrap();
    let lease = TimeDelta::minutes(5);
    for ticket in host.queue.claim("ann", 100, lease).unwrap() {
        host.queue.annotate(ticket.task.sample, "ann", Label::Class(0), 1.0, None).unwrap();
    }
    host.pipeline.poll().unwrap();
    host.pipeline.poll().unwrap();
    let mut samples = BTreeMap::new();
    let each = |sample: Sample| {
        samples.insert(sample.id(), sample);
        Ok(())
    };
    host.pipeline.each_sample(each).unwrap();
    assert!(samples[&ids[0]].batch.is_some(), "a batch was sealed");
    let judging = |at: usize| samples[&ids[at]].lane.judges();
    let total: f64 = samples.values().filter(|sample| sample.batch.is_some()).map(|sample| sample.weight).sum();
    // Copies that the random lane drew train on their own; the others weigh with the first, up to 4.
    let expected = |from: usize, to: usize| {
        let drawn = (from + 1..to).filter(|at| judging(*at)).count();
        (drawn as f64, (1.0 + (to - from - 1 - drawn) as f64).min(4.0))
    };
    let groups = [expected(0, 3), expected(3, 4), expected(4, 54)];
    assert_eq!([0, 3, 4].map(|at| samples[&ids[at]].weight), groups.map(|(_, weight)| weight));
    assert_eq!(total, groups.iter().map(|(drawn, weight)| drawn + weight).sum::<f64>());
    assert_eq!(groups[2].1, 4.0, "the cap was reached");
}
