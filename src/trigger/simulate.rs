//! When a policy would have fired over a recorded log.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    CoverageStatus, DAY, Decision, Explanation, LabelQualityStatus, LoopStatus, Memory, RetrainTrigger, decide,
};
use crate::error::StageError;

/// How often the policy is asked between two entries of the log.
const STEP: TimeDelta = TimeDelta::minutes(1);
/// Most times that it is asked between two entries.
const MOST_STEPS: i32 = 20_160;

/// A run that a simulated policy would have requested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    /// When.
    pub time: DateTime<Utc>,
    /// Why.
    pub why: Explanation,
    /// The labels that waited to be trained on.
    pub labels: u64,
}

/// Lists when `trigger` would have requested runs over `log`, oldest status first, if each run had taken `run_takes`.
/// Nothing is touched: this is how to try a policy on what the loop [recorded](crate::Pipeline::trigger_log).
///
/// The policy starts without memory, with the last run as it was recorded first, and is asked at every entry and every
/// minute in between. Its own runs take the place of the recorded ones: whether a run is in flight, when the last one was
/// requested and how many there were in a day are those of the simulation; each takes all labels that wait and takes note of
/// the open alarms, and none fails. Labels and alarms come as they were recorded, and alarms that a person acknowledged are
/// acknowledged.
///
/// A log cannot say what another policy would have led to: metrics stay those of the models that were served, and coverage
/// and label quality keep their recorded shares, counted from the simulated run on.
///
/// # Errors
/// The trigger fails.
///
/// # Examples
/// ```
/// use feedloop::chrono::{DateTime, TimeDelta};
/// use feedloop::{LoopStatus, TriggerExt, hours, new_labels, simulate};
/// let start = LoopStatus::new(DateTime::UNIX_EPOCH);
/// // Ten labels an hour.
/// let log: Vec<LoopStatus> = (0..24)
///     .map(|hour| LoopStatus { now: start.now + TimeDelta::hours(hour), labels: 10 * hour as u64, ..start.clone() })
///     .collect();
/// assert_eq!(simulate(&new_labels(50), &log, hours(1))?.len(), 4);
/// assert_eq!(simulate(&new_labels(50).cooldown(hours(8)), &log, hours(1))?.len(), 3);
/// # Ok::<(), feedloop::Error>(())
/// ```
pub fn simulate<T: RetrainTrigger + ?Sized>(
    trigger: &T,
    log: &[LoopStatus],
    run_takes: TimeDelta,
) -> Result<Vec<Firing>, StageError> {
    let Some(first) = log.first() else { return Ok(Vec::new()) };
    let (mut simulated, mut memory, mut firings) = (Simulated::new(first), Memory::default(), Vec::new());
    let mut now = first.now;
    for (index, entry) in log.iter().enumerate() {
        let previous = index.checked_sub(1).map(|before| &log[before]);
        now = now.max(entry.now);
        simulated.record(entry, previous);
        let end = log.get(index + 1).map_or(now, |next| next.now);
        let step = STEP.max((end - now) / MOST_STEPS);
        loop {
            let status = simulated.status(entry, now);
            let decided = decide(trigger, &status, &mut memory).map_err(|source| StageError {
                stage: trigger.name().to_owned(),
                what: "evaluate",
                source,
            })?;
            // A policy that ignores the run in flight gets no second one, as in the loop.
            if let (Decision::Fire(why), false) = (decided, status.running) {
                firings.push(Firing { time: now, why, labels: status.labels });
                simulated.run(entry, now, run_takes);
            }
            if now + step >= end {
                break;
            }
            now += step;
        }
    }
    Ok(firings)
}

/// The state of the loop as the simulated policy would have left it.
struct Simulated {
    last_run: Option<DateTime<Utc>>,
    /// Until when the run in flight takes.
    until: Option<DateTime<Utc>>,
    recent_runs: Vec<DateTime<Utc>>,
    /// Labels that were there when the last run took them, in batches or not.
    taken: (u64, u64),
    alarms: Alarms,
    harm: Alarms,
    /// What was counted when the last run began; nothing once a recorded batch has begun a new count.
    counted: Option<(CoverageStatus, LabelQualityStatus, u64)>,
}

#[derive(Default)]
struct Alarms {
    open: u64,
    last: Option<DateTime<Utc>>,
}

impl Alarms {
    /// Takes over what was raised between two entries. `taken`: was a batch sealed, which takes note of open alarms?
    fn record(&mut self, now: (u64, Option<DateTime<Utc>>), before: (u64, Option<DateTime<Utc>>), taken: bool) {
        let newer = now.0 > 0 && now.1 > before.1;
        if now.0 < before.0 && !taken {
            *self = Alarms::default();
        }
        let raised = if now.0 < before.0 { now.0 } else { now.0 - before.0 };
        let raised = raised.max(u64::from(newer));
        if raised > 0 {
            *self = Alarms { open: self.open + raised, last: now.1 };
        }
    }
}

impl Simulated {
    fn new(first: &LoopStatus) -> Self {
        Simulated {
            last_run: first.last_run,
            until: None,
            recent_runs: first.recent_runs.clone(),
            taken: (first.sealed_labels, first.sealed_independent_labels),
            alarms: Alarms::default(),
            harm: Alarms::default(),
            counted: None,
        }
    }

    /// Takes over what happened up to `entry`.
    fn record(&mut self, entry: &LoopStatus, previous: Option<&LoopStatus>) {
        let taken = previous.is_some_and(|previous| entry.sealed_labels > previous.sealed_labels);
        let open = |status: &LoopStatus| (status.open_alarms, status.last_alarm);
        let harm = |status: &LoopStatus| (status.open_harm_alarms, status.last_harm_alarm);
        self.alarms.record(open(entry), previous.map_or((0, None), open), taken);
        self.harm.record(harm(entry), previous.map_or((0, None), harm), taken);
        if taken {
            self.counted = None;
        }
    }

    fn status(&self, entry: &LoopStatus, now: DateTime<Utc>) -> LoopStatus {
        let supply = supply(entry);
        let mut status = LoopStatus {
            now,
            labels: supply.0.saturating_sub(self.taken.0),
            independent_labels: supply.1.saturating_sub(self.taken.1),
            open_alarms: self.alarms.open,
            last_alarm: self.alarms.last,
            open_harm_alarms: self.harm.open,
            last_harm_alarm: self.harm.last,
            last_run: self.last_run,
            running: self.until.is_some_and(|until| now < until),
            recent_runs: self.recent_runs.iter().copied().filter(|run| now - *run < DAY).collect(),
            failed_runs: 0,
            last_failed_run: None,
            ..entry.clone()
        };
        if let Some((coverage, quality, corrected)) = &self.counted {
            let since = |count: &mut u64, before: u64| *count = count.saturating_sub(before);
            since(&mut status.coverage.flagged, coverage.flagged);
            since(&mut status.coverage.labels, coverage.labels);
            since(&mut status.label_quality.labels, quality.labels);
            since(&mut status.label_quality.compared, quality.compared);
            since(&mut status.label_quality.doubted, quality.doubted);
            since(&mut status.label_quality.settled, quality.settled);
            since(&mut status.label_quality.quarantined, quality.quarantined);
            since(&mut status.corrected_labels, *corrected);
        }
        status
    }

    /// A run was requested.
    fn run(&mut self, entry: &LoopStatus, now: DateTime<Utc>, takes: TimeDelta) {
        self.last_run = Some(now);
        self.until = now.checked_add_signed(takes);
        self.recent_runs.retain(|run| now - *run < DAY);
        self.recent_runs.push(now);
        self.taken = supply(entry);
        (self.alarms, self.harm) = (Alarms::default(), Alarms::default());
        self.counted = Some((entry.coverage.clone(), entry.label_quality.clone(), entry.corrected_labels));
    }
}

/// Labels so far, of all and of people or the world: in batches, or waiting for one.
fn supply(entry: &LoopStatus) -> (u64, u64) {
    let independent = entry.sealed_independent_labels + entry.independent_labels;
    (entry.sealed_labels + entry.labels, independent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
