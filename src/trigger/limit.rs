//! Limits on how often a trigger may fire, and short words for durations.

use chrono::TimeDelta;

use super::{BackOff, Cooldown, DailyBudget, Decision, Explanation, LoopStatus, Memory, RetrainTrigger};
use crate::error::BoxError;

/// What every trigger can do.
///
/// What fires while a limit holds it back is not lost: the trigger's memory stays as it is until the decision counts.
/// Limits can be stacked; then each of them must let it pass.
///
/// # Examples
/// ```
/// use feedloop::{TriggerExt, any, drift, hours, minutes, new_labels};
/// let trigger = any([new_labels(500), drift()]).cooldown(hours(6)).daily_budget(3).back_off(minutes(10), hours(12));
/// # let _ = trigger;
/// ```
pub trait TriggerExt: RetrainTrigger + Sized + 'static {
    /// Waits at least `gap` after the last run was requested, whoever requested it.
    fn cooldown(self, gap: TimeDelta) -> Box<dyn RetrainTrigger> {
        Box::new(Cooldown::new(self, gap))
    }

    /// Waits while `runs` runs (1 to 1,000) were requested in the last 24 hours, whoever requested them.
    fn daily_budget(self, runs: u32) -> Box<dyn RetrainTrigger> {
        Box::new(DailyBudget::new(self, runs))
    }

    /// After a failed run, waits `base`, and twice as long with every further failure in a row, at most `most`. A run that
    /// does not fail ends it.
    fn back_off(self, base: TimeDelta, most: TimeDelta) -> Box<dyn RetrainTrigger> {
        Box::new(BackOff::new(self, base, most))
    }

    /// The trigger in a box, to stand beside others in [`any`](crate::any) and [`all`](crate::all).
    fn boxed(self) -> Box<dyn RetrainTrigger> {
        Box::new(self)
    }
}

impl<T: RetrainTrigger + Sized + 'static> TriggerExt for T {}

/// Whether a limit lets pass what fires, and why.
pub(super) enum Limit {
    Open(String),
    Holds(String),
}

/// The decision of `inner` under a limit.
pub(super) fn limited(
    name: &str,
    limit: Limit,
    inner: &impl RetrainTrigger,
    status: &LoopStatus,
    memory: &mut Memory,
) -> Result<Decision, BoxError> {
    let mut tried = memory.child(0).clone();
    let decision = inner.evaluate(status, &mut tried)?;
    let (open, text) = match limit {
        Limit::Open(text) => (true, text),
        Limit::Holds(text) => (false, text),
    };
    let fired = decision.fires() && open;
    if fired || !decision.fires() {
        *memory.child(0) = tried;
    }
    let progress = decision.progress();
    let part = match decision {
        Decision::Fire(why) | Decision::Wait { why, .. } => why,
    };
    let why = Explanation { trigger: name.to_owned(), fired, text, parts: vec![part] };
    Ok(if fired { Decision::Fire(why) } else { Decision::Wait { progress, why } })
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
mod tests {
    use super::*;

    #[test]
    fn words_for_durations() {
        assert_eq!((minutes(90), hours(48)), (TimeDelta::seconds(5400), days(2)));
    }
}
