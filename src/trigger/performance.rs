//! Retrain when the served model is not good enough.

use chrono::{DateTime, Utc};

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::BoxError;
use crate::stage::LiveMetric;

/// Where the time of the last firing is remembered, until the metric has recovered.
const FIRED: &str = "fired";
/// Fewest predictions behind a metric, unless told.
const FEWEST: u64 = 100;

/// Fires when a [metric](LoopStatus::metrics) of the served model crosses a level, once per crossing.
///
/// After it has fired, it is armed again when the metric is back at the level, or at a second one beyond it
/// ([`recovers_at`](Performance::recovers_at)), so that a metric that wavers around the level does not start run after run.
/// A run that failed since then arms it too: what was asked for did not happen. A metric that is missing, or that too few
/// predictions are behind, neither fires nor arms.
///
/// Metrics are measured by the detectors of the pipeline. [`LivePerformance`](crate::LivePerformance) gives them by the age
/// of the truths, as in `live_performance/accuracy@1d`, [`EstimatedPerformance`](crate::EstimatedPerformance) without
/// labels, as in `estimated_performance/accuracy`, and [`HarmMonitor`](crate::HarmMonitor) `harm/error_rate`. A plain
/// crossing states no error rate; [`harm`](crate::harm) does.
///
/// # Examples
/// ```
/// use feedloop::{Performance, TriggerExt, any, new_labels};
/// let accuracy = Performance::below("live_performance/accuracy@1d", 0.85).recovers_at(0.88);
/// let trigger = any([new_labels(500), accuracy.boxed()]);
/// # let _ = trigger;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Performance {
    metric: String,
    below: bool,
    level: f64,
    recovery: f64,
    rows: u64,
}

impl Performance {
    /// Fires when the metric falls below `level`. A level that is no number never fires.
    pub fn below(metric: impl Into<String>, level: f64) -> Self {
        Performance { metric: metric.into(), below: true, level, recovery: level, rows: FEWEST }
    }

    /// Fires when the metric rises above `level`: an error. A level that is no number never fires.
    pub fn above(metric: impl Into<String>, level: f64) -> Self {
        Performance { metric: metric.into(), below: false, level, recovery: level, rows: FEWEST }
    }

    /// The level at which it is armed again: for [`below`](Performance::below) at or above the first one, for
    /// [`above`](Performance::above) at or below it; one on the wrong side counts as the first.
    pub fn recovers_at(mut self, level: f64) -> Self {
        self.recovery = if self.below { level.max(self.level) } else { level.min(self.level) };
        self
    }

    /// Fewest predictions behind the metric; 100 unless told.
    pub fn rows(mut self, least: u64) -> Self {
        self.rows = least;
        self
    }

    fn crossed(&self, value: f64) -> bool {
        if self.below { value < self.level } else { value > self.level }
    }

    fn recovered(&self, value: f64) -> bool {
        if self.below { value >= self.recovery } else { value <= self.recovery }
    }

    /// What is said of a metric that there is not.
    fn missing(&self, metrics: &[LiveMetric]) -> String {
        let known: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        match known.is_empty() {
            true => format!("there is no metric `{}` yet", self.metric),
            false => format!("there is no metric `{}` yet, only {}", self.metric, known.join(", ")),
        }
    }
}

impl RetrainTrigger for Performance {
    fn name(&self) -> &str {
        "performance"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let waits = |text: String| Ok(settle(self.name(), status, 0.0, text));
        let Some(metric) = status.metrics.iter().find(|metric| metric.name == self.metric) else {
            return waits(self.missing(&status.metrics));
        };
        let found = format!("{} is {:.4} of {} rows", metric.name, metric.value, metric.rows);
        if metric.rows < self.rows {
            return waits(format!("{found}, {} more are needed", self.rows - metric.rows));
        }
        let fired: Option<DateTime<Utc>> = memory.get(FIRED).flatten();
        let failed = |fired: DateTime<Utc>| status.failed_runs > 0 && status.last_failed_run >= Some(fired);
        let side = if self.below { "below" } else { "above" };
        if let Some(fired) = fired.filter(|fired| !failed(*fired)) {
            if !self.recovered(metric.value) {
                let (when, recovery) = (fired.format("%F %T UTC"), self.recovery);
                return waits(format!("{found}; fired at {when}, and is armed again when it is back at {recovery}"));
            }
            memory.set(FIRED, &None::<DateTime<Utc>>)?;
        }
        if !self.crossed(metric.value) {
            return waits(format!("{found}, not {side} {}", self.level));
        }
        let decision = settle(self.name(), status, 1.0, format!("{found}, {side} {}", self.level));
        if decision.fires() {
            memory.set(FIRED, &Some(status.now))?;
        }
        Ok(decision)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use chrono::TimeDelta;

    use super::super::tests::{at, evaluate, status};
    use super::*;
    use crate::trigger::TriggerExt;

    const ACCURACY: &str = "live_performance/accuracy@1d";

    fn measured(value: f64, rows: u64) -> LoopStatus {
        let metric = |name: &str, value| LiveMetric { name: name.into(), value, rows };
        LoopStatus { metrics: vec![metric("live_performance/f1@1d", 0.1), metric(ACCURACY, value)], ..status() }
    }

    /// At which of these values, a minute apart, the trigger fires.
    fn fires(trigger: &dyn RetrainTrigger, values: &[f64]) -> Vec<usize> {
        let (mut memory, mut fired) = (Memory::default(), Vec::new());
        for (minute, &value) in values.iter().enumerate() {
            let now = status().now + TimeDelta::minutes(minute as i64);
            let decision = trigger.evaluate(&LoopStatus { now, ..measured(value, 100) }, &mut memory).unwrap();
            fired.extend(decision.fires().then_some(minute));
        }
        fired
    }

    #[test]
    fn fires_once_per_crossing_and_again_after_it_recovered() {
        let values = [0.9, 0.79, 0.78, 0.81, 0.79, 0.85, 0.79, 0.7];
        assert_eq!(fires(&Performance::below(ACCURACY, 0.8), &values), [1, 4, 6]);
        assert_eq!(fires(&Performance::below(ACCURACY, 0.8).recovers_at(0.85), &values), [1, 6]);
        assert_eq!(fires(&Performance::below(ACCURACY, 0.8).recovers_at(0.5), &values), [1, 4, 6]);
        let errors: Vec<f64> = values.iter().map(|value| 1.0 - value).collect();
        assert_eq!(fires(&Performance::above(ACCURACY, 0.2).recovers_at(0.16), &errors), [1, 6]);
        assert_eq!(fires(&Performance::below(ACCURACY, f64::NAN), &values), [] as [usize; 0]);
    }

    #[test]
    fn says_what_it_sees_and_what_is_missing() {
        let trigger = Performance::below(ACCURACY, 0.8).recovers_at(0.85);
        let text = |status: &LoopStatus| evaluate(&trigger, status).why().text.clone();
        assert_eq!(text(&measured(0.7, 100)), format!("{ACCURACY} is 0.7000 of 100 rows, below 0.8"));
        assert_eq!(text(&measured(0.8, 100)), format!("{ACCURACY} is 0.8000 of 100 rows, not below 0.8"));
        assert_eq!(text(&measured(0.7, 60)), format!("{ACCURACY} is 0.7000 of 60 rows, 40 more are needed"));
        assert!(evaluate(&Performance::below(ACCURACY, 0.8).rows(60), &measured(0.7, 60)).fires());
        assert_eq!(text(&status()), format!("there is no metric `{ACCURACY}` yet"));
        let other = evaluate(&Performance::below("accuracy", 0.8), &measured(0.7, 100));
        assert_eq!(
            other.why().text,
            format!("there is no metric `accuracy` yet, only live_performance/f1@1d, {ACCURACY}")
        );
    }

    #[test]
    fn a_failed_run_arms_it_again_and_one_in_flight_does_not_use_it_up() {
        let (trigger, mut memory) = (Performance::below(ACCURACY, 0.8), Memory::default());
        let mut decide = |status: LoopStatus| trigger.evaluate(&status, &mut memory).unwrap();
        assert!(!decide(LoopStatus { running: true, ..measured(0.7, 100) }).fires());
        assert!(decide(measured(0.7, 100)).fires());
        let held = decide(measured(0.7, 100));
        assert_eq!(
            held.why().text,
            format!(
                "{ACCURACY} is 0.7000 of 100 rows; fired at 2026-01-01 12:00:00 UTC, and is armed again when it is back at 0.8"
            )
        );
        let failed = |time: &str| LoopStatus { failed_runs: 1, last_failed_run: Some(at(time)), ..measured(0.7, 100) };
        assert!(!decide(failed("2026-01-01T11:00:00Z")).fires(), "an earlier run failed");
        assert!(decide(failed("2026-01-01T12:01:00Z")).fires());
    }

    #[test]
    fn a_cooldown_does_not_use_the_crossing_up() {
        let (trigger, mut memory) =
            (Performance::below(ACCURACY, 0.8).cooldown(TimeDelta::hours(1)), Memory::default());
        let mut fires = |now: &str| {
            let last_run = Some(at("2026-01-01T12:00:00Z"));
            trigger.evaluate(&LoopStatus { now: at(now), last_run, ..measured(0.7, 100) }, &mut memory).unwrap().fires()
        };
        assert!(!fires("2026-01-01T12:30:00Z"));
        assert!(fires("2026-01-01T13:00:00Z"));
        assert!(!fires("2026-01-01T13:01:00Z"));
    }
}
