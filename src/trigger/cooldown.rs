//! A least distance between runs, and short words for durations.

use chrono::TimeDelta;

use super::{Decision, Explanation, LoopStatus, Memory, RetrainTrigger};
use crate::error::BoxError;

/// A trigger that stays quiet for a while after every run; see [`TriggerExt::cooldown`].
#[derive(Debug, Clone)]
pub struct Cooldown<T> {
    inner: T,
    gap: TimeDelta,
}

/// What every trigger can do.
pub trait TriggerExt: RetrainTrigger + Sized + 'static {
    /// Waits at least `gap` after the last run was requested, whoever requested it. What fires meanwhile is not lost: the
    /// trigger's memory stays as it is until the decision counts.
    fn cooldown(self, gap: TimeDelta) -> Box<dyn RetrainTrigger> {
        Box::new(Cooldown { inner: self, gap })
    }

    /// The trigger in a box, to stand beside others in [`any`](crate::any) and [`all`](crate::all).
    fn boxed(self) -> Box<dyn RetrainTrigger> {
        Box::new(self)
    }
}

impl<T: RetrainTrigger + Sized + 'static> TriggerExt for T {}

impl<T: RetrainTrigger> RetrainTrigger for Cooldown<T> {
    fn name(&self) -> &str {
        "cooldown"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let mut tried = memory.child(0).clone();
        let decision = self.inner.evaluate(status, &mut tried)?;
        let ready = status.last_run.map(|last| last.checked_add_signed(self.gap).unwrap_or(last));
        let text = match ready.filter(|&ready| status.now < ready) {
            Some(ready) => format!("quiet until {}", ready.format("%F %T UTC")),
            None => match &decision {
                Decision::Fire(_) => "fired".to_owned(),
                Decision::Wait { .. } => "over".to_owned(),
            },
        };
        let held = decision.fires() && ready.is_some_and(|ready| status.now < ready);
        if !held {
            *memory.child(0) = tried;
        }
        let fired = decision.fires() && !held;
        let progress = decision.progress();
        let part = match decision {
            Decision::Fire(why) | Decision::Wait { why, .. } => why,
        };
        let why = Explanation { trigger: self.name().to_owned(), fired, text, parts: vec![part] };
        Ok(if fired { Decision::Fire(why) } else { Decision::Wait { progress, why } })
    }
}

/// A duration of `count` minutes.
pub fn minutes(count: u32) -> TimeDelta {
    TimeDelta::minutes(i64::from(count))
}

/// A duration of `count` hours.
pub fn hours(count: u32) -> TimeDelta {
    TimeDelta::hours(i64::from(count))
}

/// A duration of `count` days.
pub fn days(count: u32) -> TimeDelta {
    TimeDelta::days(i64::from(count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;
    use crate::trigger::{new_labels, schedule};

    fn after_run(now: &str) -> LoopStatus {
        LoopStatus { now: at(now), last_run: Some(at("2026-01-01T13:00:00Z")), labels: 9, ..status() }
    }

    #[test]
    fn stays_quiet_for_the_gap_after_a_run() {
        let trigger = new_labels(5).cooldown(hours(6));
        let waits = evaluate(&trigger, &after_run("2026-01-01T18:59:59Z"));
        assert!(!waits.fires());
        assert_eq!(
            waits.why().to_string(),
            "cooldown: quiet until 2026-01-01 19:00:00 UTC [new_labels: 9 of 5 labels]"
        );
        assert!(evaluate(&trigger, &after_run("2026-01-01T19:00:00Z")).fires());
        assert!(evaluate(&trigger, &LoopStatus { labels: 9, ..status() }).fires(), "there was no run yet");
    }

    #[test]
    fn a_clock_that_goes_back_does_not_end_it() {
        assert!(!evaluate(&new_labels(5).cooldown(hours(6)), &after_run("2026-01-01T09:00:00Z")).fires());
    }

    #[test]
    fn a_due_time_within_the_gap_is_not_lost() {
        let (trigger, mut memory) = (schedule("0 15 * * *").unwrap().cooldown(hours(6)), Memory::default());
        assert!(!trigger.evaluate(&after_run("2026-01-01T15:00:00Z"), &mut memory).unwrap().fires());
        assert!(trigger.evaluate(&after_run("2026-01-01T19:00:00Z"), &mut memory).unwrap().fires());
        assert!(!trigger.evaluate(&after_run("2026-01-01T19:01:00Z"), &mut memory).unwrap().fires());
    }

    #[test]
    fn words_for_durations() {
        assert_eq!((minutes(90), hours(48)), (TimeDelta::seconds(5400), days(2)));
    }
}
