//! The opposite of a trigger.

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fires while its trigger waits; see [`not`].
#[derive(Debug, Clone)]
pub struct Not<T>(T);

/// Fires while `trigger` waits: a condition beside others in [`all`](crate::all), as in "enough labels, and no harm".
///
/// What `trigger` fires for is not used up: its memory stays as it is until it waits again.
///
/// # Examples
/// ```
/// use feedloop::{all, drift, new_labels, not};
/// let trigger = all([new_labels(500), not(drift())]);
/// # let _ = trigger;
/// ```
pub fn not(trigger: impl RetrainTrigger + 'static) -> Box<dyn RetrainTrigger> {
    Box::new(Not(trigger))
}

impl<T: RetrainTrigger> RetrainTrigger for Not<T> {
    fn name(&self) -> &str {
        "not"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let mut tried = memory.child(0).clone();
        // As if no run were in flight: one that only waits for the run has what it waits for.
        let free = LoopStatus { running: false, ..status.clone() };
        let decision = self.0.evaluate(&free, &mut tried)?;
        let (progress, text) = if decision.fires() { (0.0, "its part fires") } else { (1.0, "its part waits") };
        let decided = settle(self.name(), status, progress, text.to_owned());
        if !decision.fires() && !status.running {
            *memory.child(0) = tried;
        }
        let part = match decision {
            Decision::Fire(why) | Decision::Wait { why, .. } => why,
        };
        Ok(match decided {
            Decision::Fire(mut why) => {
                why.parts.push(part);
                Decision::Fire(why)
            }
            Decision::Wait { progress, mut why } => {
                why.parts.push(part);
                Decision::Wait { progress, why }
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;
    use crate::trigger::{all, drift, new_labels, schedule};

    #[test]
    fn fires_while_its_part_waits() {
        let calm = evaluate(&not(drift()), &status());
        assert_eq!((calm.fires(), calm.progress()), (true, 1.0));
        assert_eq!(calm.why().to_string(), "not: its part waits [drift: no open alarm]");
        let alarmed = evaluate(&not(drift()), &LoopStatus { open_alarms: 1, ..status() });
        assert_eq!((alarmed.fires(), alarmed.progress()), (false, 0.0));
        assert_eq!(alarmed.why().to_string(), "not: its part fires [drift: 1 open alarm]");
    }

    #[test]
    fn does_not_fire_because_a_run_is_in_flight() {
        let running = LoopStatus { labels: 9, running: true, ..status() };
        assert!(!evaluate(&not(drift()), &running).fires());
        let waits = evaluate(&not(new_labels(5)), &running);
        assert_eq!(waits.why().text, "its part fires");
    }

    #[test]
    fn holds_back_the_others_and_uses_nothing_up() {
        let trigger = all([new_labels(5), not(schedule("0 3 * * *").unwrap())]);
        let mut memory = Memory::default();
        let mut fires = |now: &str, last_run: Option<&str>| {
            let status = LoopStatus { now: at(now), labels: 9, last_run: last_run.map(at), ..status() };
            trigger.evaluate(&status, &mut memory).unwrap().fires()
        };
        assert!(fires("2026-01-02T02:59:00Z", None));
        assert!(!fires("2026-01-02T03:00:00Z", None));
        assert!(!fires("2026-01-02T04:00:00Z", None), "the due time was not used up");
        assert!(fires("2026-01-02T04:01:00Z", Some("2026-01-02T04:00:00Z")), "a run counted for it");
    }
}
