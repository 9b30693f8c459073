//! Retrain when the stream has changed.

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fires when a drift alarm is open; see [`drift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DriftAlarm;

/// Fires when a drift alarm was raised since the last run and nobody has acknowledged it.
pub fn drift() -> Box<dyn RetrainTrigger> {
    Box::new(DriftAlarm)
}

impl RetrainTrigger for DriftAlarm {
    fn name(&self) -> &str {
        "drift"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        let text = match (status.open_alarms, status.last_alarm) {
            (0, _) => "no open alarm".to_owned(),
            (open, None) => format!("{open} open alarm(s)"),
            (open, Some(last)) => format!("{open} open alarm(s), the last at {}", last.format("%F %T UTC")),
        };
        Ok(settle(self.name(), status, if status.open_alarms > 0 { 1.0 } else { 0.0 }, text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, evaluate, status};
    use super::*;

    #[test]
    fn fires_while_an_alarm_is_open() {
        assert_eq!(evaluate(&drift(), &status()).why().to_string(), "drift: no open alarm");
        let alarmed = LoopStatus { open_alarms: 2, last_alarm: Some(at("2026-01-01T11:00:00Z")), ..status() };
        let fires = evaluate(&drift(), &alarmed);
        assert!(fires.fires());
        assert_eq!(fires.why().text, "2 open alarm(s), the last at 2026-01-01 11:00:00 UTC");
        assert!(!evaluate(&drift(), &LoopStatus { running: true, ..alarmed }).fires());
    }
}
