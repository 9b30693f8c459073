//! Triggers made of triggers.

use super::{Decision, Explanation, LoopStatus, Memory, RetrainTrigger};
use crate::error::BoxError;

/// Fires when any of its triggers does; see [`any`].
pub struct Any(Vec<Box<dyn RetrainTrigger>>);

/// Fires when all of its triggers do; see [`all`].
pub struct All(Vec<Box<dyn RetrainTrigger>>);

/// Fires when any of `triggers` fires. Every one is asked every time, so the explanation is complete.
///
/// # Examples
/// ```
/// use feedloop::{TriggerExt, any, drift, hours, new_labels, schedule};
/// let trigger = any([new_labels(500), drift(), schedule("0 3 * * *")?]).cooldown(hours(6));
/// # let _ = trigger;
/// # Ok::<(), feedloop::Error>(())
/// ```
pub fn any(triggers: impl IntoIterator<Item = Box<dyn RetrainTrigger>>) -> Box<dyn RetrainTrigger> {
    Box::new(Any(triggers.into_iter().collect()))
}

/// Fires when all of `triggers` fire at once. Every one is asked every time; one that fires while another waits keeps its
/// memory, so that its occasion is not lost.
pub fn all(triggers: impl IntoIterator<Item = Box<dyn RetrainTrigger>>) -> Box<dyn RetrainTrigger> {
    Box::new(All(triggers.into_iter().collect()))
}

/// What one part said, with the memory that it would leave behind.
struct Said {
    outcome: Result<Decision, BoxError>,
    memory: Memory,
}

fn ask(parts: &[Box<dyn RetrainTrigger>], status: &LoopStatus, memory: &mut Memory) -> Vec<Said> {
    let mut said = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let mut memory = memory.child(index).clone();
        said.push(Said { outcome: part.evaluate(status, &mut memory), memory });
    }
    said
}

/// The explanation of every part; of one that failed, its error.
fn explain(parts: &[Box<dyn RetrainTrigger>], said: &[Said]) -> Vec<Explanation> {
    let failed = |name: &str, error: &BoxError| Explanation {
        trigger: name.to_owned(),
        fired: false,
        text: format!("failed: {error}"),
        parts: Vec::new(),
    };
    let pairs = parts.iter().zip(said);
    pairs
        .map(|(part, said)| match &said.outcome {
            Ok(decision) => decision.why().clone(),
            Err(error) => failed(part.name(), error),
        })
        .collect()
}

fn count(said: &[Said]) -> usize {
    said.iter().filter(|said| said.outcome.as_ref().is_ok_and(Decision::fires)).count()
}

fn decide(name: &str, fired: bool, progress: f64, said: &[Said], parts: Vec<Explanation>) -> Decision {
    let text = format!("{} of {} fired", count(said), parts.len());
    let why = Explanation { trigger: name.to_owned(), fired, text, parts };
    if fired { Decision::Fire(why) } else { Decision::Wait { progress, why } }
}

impl RetrainTrigger for Any {
    fn name(&self) -> &str {
        "any"
    }

    /// A part that fails does not keep another from firing.
    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let mut said = ask(&self.0, status, memory);
        let fired = count(&said) > 0;
        if let Some(failed) = said.iter().position(|said| said.outcome.is_err()).filter(|_| !fired) {
            return said.swap_remove(failed).outcome;
        }
        let progress = said.iter().flat_map(|said| &said.outcome).map(Decision::progress).fold(0.0, f64::max);
        let decision = decide(self.name(), fired, progress, &said, explain(&self.0, &said));
        for (index, said) in said.into_iter().enumerate().filter(|(_, said)| said.outcome.is_ok()) {
            *memory.child(index) = said.memory;
        }
        Ok(decision)
    }
}

impl RetrainTrigger for All {
    fn name(&self) -> &str {
        "all"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let mut said = ask(&self.0, status, memory);
        if let Some(failed) = said.iter().position(|said| said.outcome.is_err()) {
            return said.swap_remove(failed).outcome;
        }
        let fired = !said.is_empty() && count(&said) == said.len();
        let progress = said.iter().flat_map(|said| &said.outcome).map(Decision::progress).reduce(f64::min);
        let decision = decide(self.name(), fired, progress.unwrap_or(0.0), &said, explain(&self.0, &said));
        for (index, said) in said.into_iter().enumerate() {
            if fired || !said.outcome.is_ok_and(|decision| decision.fires()) {
                *memory.child(index) = said.memory;
            }
        }
        Ok(decision)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;
    use crate::error::message;
    use crate::trigger::{TriggerExt, drift, hours, new_labels, schedule, trigger_fn};

    fn broken() -> Box<dyn RetrainTrigger> {
        trigger_fn("broken", |_, _| Err(message("no connection"))).boxed()
    }

    #[test]
    fn any_explains_every_part_whether_it_fired_or_not() {
        let trigger = any([new_labels(500), drift(), schedule("0 3 * * *").unwrap()]).cooldown(hours(6));
        let waits = evaluate(&trigger, &LoopStatus { labels: 212, ..status() });
        assert_eq!(
            waits.why().to_string(),
            "cooldown: no run so far [any: 0 of 3 fired [new_labels: 212 of 500 labels; drift: no open alarm; \
             schedule: `0 3 * * *` is next due at 2026-01-02 03:00 UTC, in 15 h 0 min]]"
        );
        assert_eq!(waits.progress(), 0.424);
        let fires = evaluate(&trigger, &LoopStatus { labels: 500, ..status() });
        assert!(fires.fires());
        assert_eq!(fires.why().parts[0].parts.len(), 3);
    }

    #[test]
    fn all_needs_every_part_and_is_as_far_as_the_last() {
        let trigger = all([new_labels(100), drift()]);
        let decide = |labels, open_alarms| evaluate(&trigger, &LoopStatus { labels, open_alarms, ..status() });
        assert_eq!((decide(100, 0).fires(), decide(100, 0).progress()), (false, 0.0));
        assert_eq!((decide(50, 1).fires(), decide(50, 1).progress()), (false, 0.5));
        assert!(decide(100, 1).fires());
    }

    #[test]
    fn a_due_time_waits_for_the_other_parts() {
        let (trigger, mut memory) = (all([schedule("0 3 * * *").unwrap(), new_labels(10)]), Memory::default());
        let mut fires = |now: &str, labels| {
            trigger.evaluate(&LoopStatus { now: at(now), labels, ..status() }, &mut memory).unwrap().fires()
        };
        assert!(!fires("2026-01-02T03:00:00Z", 9));
        assert!(fires("2026-01-02T03:20:00Z", 10));
        assert!(!fires("2026-01-02T03:21:00Z", 10));
    }

    #[test]
    fn a_failing_part_stops_all_but_not_any() {
        let ready = LoopStatus { labels: 9, ..status() };
        let fires = evaluate(&any([broken(), new_labels(5)]), &ready);
        assert_eq!(
            fires.why().to_string(),
            "any: 1 of 2 fired [broken: failed: no connection; new_labels: 9 of 5 labels]"
        );
        assert!(any([broken(), new_labels(50)]).evaluate(&ready, &mut Memory::default()).is_err());
        assert!(all([broken(), new_labels(5)]).evaluate(&ready, &mut Memory::default()).is_err());
    }

    #[test]
    fn nothing_fires_out_of_nothing() {
        assert!(!evaluate(&any([]), &status()).fires());
        assert!(!evaluate(&all([]), &status()).fires());
    }
}
