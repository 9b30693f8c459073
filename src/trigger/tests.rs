use super::*;

pub(crate) fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

/// A loop that was started on 1 January 2026 at noon, where nothing has happened yet.
pub(crate) fn status() -> LoopStatus {
    LoopStatus {
        now: at("2026-01-01T12:00:00Z"),
        started: at("2026-01-01T12:00:00Z"),
        observations: 0,
        labels: 0,
        independent_labels: 0,
        coverage: CoverageStatus::default(),
        open_alarms: 0,
        last_alarm: None,
        last_run: None,
        running: false,
    }
}

/// What `trigger` says without any memory.
pub(crate) fn evaluate(trigger: &dyn RetrainTrigger, status: &LoopStatus) -> Decision {
    trigger.evaluate(status, &mut Memory::default()).unwrap()
}
