//! Retrain when the stream has changed.

use chrono::{DateTime, Utc};

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;

/// Fires when an alarm is open; see [`drift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DriftAlarm;

/// Fires when an alarm of any kind was raised since the last run and nobody has acknowledged it; [`harm`](crate::harm)
/// fires on those only that say that the served model errs more.
pub fn drift() -> Box<dyn RetrainTrigger> {
    Box::new(DriftAlarm)
}

impl RetrainTrigger for DriftAlarm {
    fn name(&self) -> &str {
        "drift"
    }

    fn evaluate(&self, status: &LoopStatus, _: &mut Memory) -> Result<Decision, BoxError> {
        Ok(alarmed(self.name(), "alarm", status, status.open_alarms, status.last_alarm))
    }
}

/// The decision of a trigger that fires while an alarm is open.
pub(super) fn alarmed(name: &str, what: &str, status: &LoopStatus, open: u64, last: Option<DateTime<Utc>>) -> Decision {
    let several = if open > 1 { "s" } else { "" };
    // The plural goes behind the noun: "alarms about harm".
    let what = what.replacen("alarm", &format!("alarm{several}"), 1);
    let text = match (open, last) {
        (0, _) => format!("no open {what}"),
        (open, None) => format!("{open} open {what}"),
        (open, Some(last)) => format!("{open} open {what}, the last at {}", last.format("%F %T UTC")),
    };
    settle(name, status, if open > 0 { 1.0 } else { 0.0 }, text)
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
        assert_eq!(fires.why().text, "2 open alarms, the last at 2026-01-01 11:00:00 UTC");
        assert!(!evaluate(&drift(), &LoopStatus { running: true, ..alarmed }).fires());
    }
}
