//! What every trigger promises.

use chrono::{DateTime, TimeDelta, Utc};

use crate::stage::LiveMetric;
use crate::trigger::{CoverageStatus, Decision, Explanation, LabelQualityStatus, LoopStatus, Memory, RetrainTrigger};

/// Checks that the triggers which `make` makes keep the promises of [`RetrainTrigger`], as they are and boxed.
///
/// Checked over a loop that goes through hours of labels, alarms, runs and a clock that goes back: a name that does not
/// change; purity (the same status and memory give the same decision and leave the same memory, in every instance); a
/// memory that survives JSON; an explanation of every part, which says whether it fired; a progress from 0 to 1; silence
/// while a run is in flight.
///
/// # Panics
/// A promise is broken; the message says which.
pub fn trigger<T: RetrainTrigger + 'static>(make: impl Fn() -> T) {
    suite(&make);
    suite(&|| Box::new(make()) as Box<dyn RetrainTrigger>);
}

fn suite<T: RetrainTrigger>(make: &impl Fn() -> T) {
    let name = make().name().to_owned();
    assert!(!name.is_empty(), "a trigger has a name");
    assert_eq!(name, make().name(), "every instance has the same name");
    let (used, mut memory) = (make(), Memory::default());
    for status in history() {
        let mut others = memory.clone();
        let decision = evaluate(&name, &used, &status, &mut memory);
        let again = evaluate(&name, &make(), &status, &mut others);
        assert_eq!(decision, again, "`{name}` decides otherwise on the same status and memory");
        assert_eq!(memory, others, "`{name}` leaves another memory on the same status and memory");
        let text = serde_json::to_string(&memory).unwrap_or_default();
        let read: Option<Memory> = serde_json::from_str(&text).ok();
        assert_eq!(read.as_ref(), Some(&memory), "the memory of `{name}` does not survive JSON");
        assert!(!(status.running && decision.fires()), "`{name}` fires while a run is in flight");
        assert_eq!(used.name(), name, "the name does not change");
        assert!((0.0..=1.0).contains(&decision.progress()), "`{name}` is {} far", decision.progress());
        assert_eq!(decision.why().fired, decision.fires(), "`{name}` explains the opposite of what it decided");
        explained(&name, decision.why());
    }
}

fn evaluate<T: RetrainTrigger>(name: &str, trigger: &T, status: &LoopStatus, memory: &mut Memory) -> Decision {
    let decision = trigger.evaluate(status, memory);
    assert!(decision.is_ok(), "`{name}` failed on {status:?}: {decision:?}");
    let silent = Explanation { trigger: String::new(), fired: false, text: String::new(), parts: Vec::new() };
    decision.unwrap_or(Decision::Wait { progress: 0.0, why: silent })
}

fn explained(name: &str, why: &Explanation) {
    assert!(!why.text.is_empty() && !why.trigger.is_empty(), "`{name}` explains nothing: {why:?}");
    why.parts.iter().for_each(|part| explained(name, part));
}

/// Three days of a loop, by the hour.
fn history() -> Vec<LoopStatus> {
    let started = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
    let mut last_run = None;
    (0..72_u64)
        .map(|hour| {
            // One reading of a clock that has gone back.
            let hours = if hour == 40 { 30 } else { hour };
            let now = started + TimeDelta::hours(hours as i64);
            if hour % 25 == 24 {
                last_run = Some(now);
            }
            let labels = (hour % 25) * 50;
            let covered = (hour % 25) as f64 / 24.0;
            LoopStatus {
                now,
                started,
                observations: hour * 1_000,
                labels,
                independent_labels: labels / 2,
                corrected_labels: labels / 100,
                coverage: CoverageStatus { covered, flagged: labels, labels: labels / 2, cells: vec![covered; 2] },
                open_alarms: u64::from(hour % 7 == 3),
                last_alarm: (hour > 3).then_some(now - TimeDelta::hours((hour % 7) as i64)),
                open_harm_alarms: u64::from(hour % 14 == 3),
                last_harm_alarm: (hour > 3).then_some(now - TimeDelta::hours((hour % 14) as i64)),
                metrics: vec![LiveMetric { name: "accuracy".into(), value: 1.0 - covered, rows: labels }],
                label_quality: LabelQualityStatus {
                    labels,
                    compared: labels / 5,
                    agreement: (labels > 0).then_some(covered),
                    doubted: labels / 10,
                    settled: labels / 20,
                    quarantined: labels / 50,
                },
                sealed_labels: hour / 25 * 1_200,
                sealed_independent_labels: hour / 25 * 600,
                last_run,
                running: hour % 11 == 5,
                recent_runs: last_run.into_iter().collect(),
                failed_runs: u32::from(hour > 30 && hour < 60),
                last_failed_run: (hour > 30).then_some(started + TimeDelta::hours(30)),
            }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::{
        Coverage, DriftAlarm, HarmAlarm, LabelQuality, Missed, NewLabels, Performance, Schedule, TriggerExt, all, any,
        drift, harm, hours, new_labels, not, schedule, trigger_fn,
    };
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn our_triggers_keep_their_promises() {
        trigger(|| NewLabels::at_least(500));
        trigger(|| DriftAlarm);
        trigger(|| Coverage::at(0.8));
        trigger(|| Schedule::new("0 3 * * *").unwrap());
        trigger(|| any([new_labels(400), drift(), schedule("0 3 * * *").unwrap()]));
        trigger(|| all([new_labels(400), schedule("0 3 * * *").unwrap()]));
        trigger(|| HarmAlarm);
        trigger(|| Performance::below("accuracy", 0.5).recovers_at(0.7));
        trigger(|| Performance::above("accuracy", 0.5));
        trigger(|| LabelQuality::reaches(0.8, 0.5));
        trigger(|| LabelQuality::falls(0.3, 0.5));
        for policy in [Missed::Skip, Missed::Once, Missed::All] {
            trigger(|| Schedule::new("0 */2 * * *").unwrap().missed(policy));
        }
        trigger(|| all([new_labels(400), not(any([drift(), harm()]))]));
        trigger(|| any([new_labels(400), drift()]).cooldown(hours(6)));
        trigger(|| any([new_labels(40), drift()]).daily_budget(1).back_off(hours(1), hours(9)));
        trigger(|| all([]));
        trigger(|| any([]));
        trigger(|| {
            trigger_fn("mine", |status, _| Ok((status.labels > 9 && !status.running, format!("{}", status.labels))))
        });
    }

    fn broken(make: impl Fn() -> Box<dyn RetrainTrigger>) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trigger(make))).is_err()
    }

    #[test]
    fn a_trigger_that_counts_by_itself_explains_nothing_or_does_not_wait_is_found_out() {
        assert!(broken(|| {
            let calls = AtomicU64::new(0);
            trigger_fn("counts", move |_, _| Ok((calls.fetch_add(1, Ordering::Relaxed) % 9 == 8, "n".into()))).boxed()
        }));
        assert!(broken(|| trigger_fn("silent", |_, _| Ok((false, String::new()))).boxed()));
        assert!(broken(|| trigger_fn("hasty", |status, _| Ok((status.running, "now".into()))).boxed()));
    }
}
