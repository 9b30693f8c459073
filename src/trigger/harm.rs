//! Retrain when the served model has become worse.

use super::drift::alarmed;
use super::{Decision, LoopStatus, Memory, RetrainTrigger};
use crate::error::BoxError;

/// Fires when an alarm about harm is open; see [`harm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HarmAlarm;

/// Fires when an alarm about [harm](crate::AlarmKind::Harm) was raised since the last run and nobody has acknowledged it.
///
/// Such an alarm says, by the truths that came, that the served model errs more than before: it comes from a
/// [`HarmMonitor`](crate::HarmMonitor) or from [`StreamDrift::errors`](crate::StreamDrift::errors). A change of the inputs
/// or outputs alone does not fire it; [`drift`](crate::drift) fires on alarms of both kinds.
pub fn harm() -> Box<dyn RetrainTrigger> {
    Box::new(HarmAlarm)
}

impl RetrainTrigger for HarmAlarm {
    fn name(&self) -> &str {
        "harm"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        Ok(alarmed(self.name(), "alarm about harm", status, status.open_harm_alarms, status.last_harm_alarm))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;

    #[test]
    fn fires_on_harm_and_not_on_a_drift_of_the_inputs() {
        let drifted = LoopStatus { open_alarms: 2, last_alarm: Some(at("2026-01-01T11:00:00Z")), ..status() };
        let waits = evaluate(&harm(), &drifted);
        assert_eq!((waits.fires(), waits.why().text.as_str()), (false, "no open alarm about harm"));
        let last_harm_alarm = Some(at("2026-01-01T10:00:00Z"));
        let harmed = LoopStatus { open_harm_alarms: 1, last_harm_alarm, ..drifted };
        let fires = evaluate(&harm(), &harmed);
        assert!(fires.fires());
        assert_eq!(fires.why().text, "1 open alarm about harm, the last at 2026-01-01 10:00:00 UTC");
        assert!(!evaluate(&harm(), &LoopStatus { running: true, ..harmed }).fires());
    }
}
