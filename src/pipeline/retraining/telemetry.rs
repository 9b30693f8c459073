//! What the trigger looks at, what it says of it, and the log of both.

use chrono::{DateTime, TimeDelta, Utc};

use super::super::Pipeline;
use super::super::outbox::{at, parse};
use super::{Phase, Retraining};
use crate::error::Error;
use crate::store::{Indexed, Kind, Scan, Store};
use crate::trigger::{Explanation, LoopStatus, decide};

/// Statuses that the log holds: one for each minute of two weeks.
const KEPT: i64 = 14 * 24 * 60;
const STATE: &str = "kept";
/// Records read at a time.
const PAGE: usize = 512;

/// Where the log of statuses stands.
#[derive(Default)]
pub(super) struct TriggerLog {
    /// The minute in which the status was looked at last, and what was kept last.
    minute: Option<i64>,
    last: Option<LoopStatus>,
    /// Has the tally changed since it was saved?
    pub(super) unsaved: bool,
}

impl Retraining {
    fn status(&self, now: DateTime<Utc>) -> LoopStatus {
        let unjudged = self.unjudged.len() as u64;
        let mut status = LoopStatus {
            now,
            labels: self.ready.len() as u64 + unjudged,
            independent_labels: self.labels.independent(),
            corrected_labels: self.taught.corrected(),
            coverage: self.coverage.status(),
            label_quality: self.labels.status(),
            last_run: self.state.last_run,
            running: self.state.run.as_ref().is_some_and(|run| run.state.in_flight()),
            ..LoopStatus::new(self.state.started)
        };
        self.state.tally.fill(&mut status);
        status
    }

    /// Why the trigger is not asked at present, if it is not.
    fn holds(&self, now: DateTime<Utc>) -> Option<String> {
        let state = &self.state;
        if let Some(why) = &state.frozen {
            return Some(format!("the loop is frozen: {why}"));
        }
        if self.redeploy {
            return Some(format!("{} is being loaded again", state.champion));
        }
        if let Phase::Deploying { to, .. } = &state.phase {
            return Some(format!("{to} is being deployed"));
        }
        if let Some(run) = state.run.as_ref().filter(|_| !self.may_be_superseded()) {
            return Some(format!("{} is in flight ({})", run.id, run.state.as_str()));
        }
        if let Some(round) = &state.round {
            return Some(format!("the labels of {} judge the models first", round.key));
        }
        if state.cool_off > 0 {
            return Some(format!("after a rollback, waits for {} more batch(es) of labels", state.cool_off));
        }
        let until = state.back_off.filter(|until| now < *until)?;
        Some(format!("after a run that failed, waits until {}", until.format("%F %T UTC")))
    }
}

impl Pipeline {
    /// What the trigger looks at.
    pub(in super::super) fn loop_status(&self) -> LoopStatus {
        self.loop_status_at(self.now)
    }

    fn loop_status_at(&self, now: DateTime<Utc>) -> LoopStatus {
        let mut metrics = Vec::new();
        for stage in &self.detectors {
            for mut metric in stage.ask(|detector| detector.metrics()) {
                metric.name = format!("{}/{}", stage.name, metric.name);
                metrics.extend(metric.value.is_finite().then_some(metric));
            }
        }
        LoopStatus {
            observations: self.counters.predictions,
            open_alarms: self.flow.open_alarms,
            last_alarm: self.flow.last_alarm,
            open_harm_alarms: self.flow.open_harm_alarms,
            last_harm_alarm: self.flow.last_harm_alarm,
            metrics,
            ..self.retraining.status(now)
        }
    }

    /// Why the loop retrains, or what it waits for, at this moment: what holds the loop back, if anything does, and what
    /// each part of the trigger says. It asks without consequences: no memory is kept, and nothing is started.
    ///
    /// The explanation has fired if the next [`poll`](Pipeline::poll) requests a run.
    pub fn explain(&self) -> Explanation {
        let now = self.clock.now().max(self.now);
        let explained = |fired, text: String, parts| Explanation { trigger: "loop".into(), fired, text, parts };
        let holds = self.retraining.holds(now);
        let Some(trigger) = &self.trigger else {
            let text = holds.unwrap_or_else(|| "there is no trigger: a run begins when somebody asks for one".into());
            return explained(false, text, Vec::new());
        };
        let mut memory = self.retraining.state.memory.clone();
        match decide(trigger, &self.loop_status_at(now), &mut memory) {
            Ok(decision) => {
                let fires = decision.fires() && holds.is_none();
                let text = if fires { "the next poll requests a run" } else { "the trigger waits" };
                explained(fires, holds.unwrap_or_else(|| text.to_owned()), vec![decision.why().clone()])
            }
            Err(error) => explained(false, format!("the trigger `{}` failed: {error}", trigger.name()), Vec::new()),
        }
    }

    /// Keeps the status in the log if it has changed; looks once a minute. Time and number of observations alone are no
    /// change.
    pub(in super::super) fn log_status(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.retraining.log.unsaved) {
            self.save_loop(Vec::new())?;
        }
        let minute = self.now.timestamp().div_euclid(60);
        if self.retraining.log.minute == Some(minute) || self.outbox.failures > 0 {
            return Ok(());
        }
        self.retraining.log.minute = Some(minute);
        let status = self.loop_status();
        let unchanged = self.retraining.log.last.as_ref().is_some_and(|last| {
            let (now, observations) = (last.now, last.observations);
            LoopStatus { now, observations, ..status.clone() } == *last
        });
        if !unchanged {
            // A minute has one place, which it takes over from the minute two weeks before: the log cannot grow.
            let id = format!("{:05}", minute.rem_euclid(KEPT));
            let indexed = Indexed { state: STATE, rank: at(status.now), due: None };
            let write = self.outbox.json(Kind::TriggerLog, &id, indexed, &status)?;
            self.outbox.push(vec![write]);
            self.retraining.log.last = Some(status);
        }
        Ok(())
    }

    /// What the trigger looked at in the last two weeks, oldest first, for [`simulate`](crate::simulate).
    ///
    /// The loop keeps its status when labels, alarms, runs or metrics have changed, at most once a minute (at most 20,160
    /// records of about 1 KB). What is not durable yet is not among them.
    ///
    /// # Errors
    /// The store cannot be read.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{TriggerExt, any, drift, hours, new_labels, simulate};
    /// # use feedloop::*;
    /// # fn main() -> Result<(), BoxError> {
    /// # let schema = std::sync::Arc::new(Schema::numeric(1, Target::classes(["no", "yes"]))?);
    /// # let training = Dataset::from_values(schema.clone(), (0..100_u32).map(|i| ([f64::from(i)], Label::Class(i % 2))))?;
    /// # let pipeline = Pipeline::builder("log", schema).training_data(training).build()?;
    /// let policy = any([new_labels(200), drift()]).cooldown(hours(6));
    /// for firing in simulate(&policy, &pipeline.trigger_log()?, hours(1))? {
    ///     println!("{} with {} labels: {}", firing.time, firing.labels, firing.why);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn trigger_log(&self) -> Result<Vec<LoopStatus>, Error> {
        read_trigger_log(&**self.store(), self.name(), self.clock.now().max(self.now))
    }
}

/// The log as of `now`; see [`Pipeline::trigger_log`].
pub(in super::super) fn read_trigger_log(
    store: &dyn Store,
    pipeline: &str,
    now: DateTime<Utc>,
) -> Result<Vec<LoopStatus>, Error> {
    let mut log = Vec::new();
    let mut after = (at(now - TimeDelta::minutes(KEPT)), String::new());
    loop {
        let after_record = Some((after.0, after.1.as_str()));
        let scan = Scan { pipeline, kind: Kind::TriggerLog, state: Some(STATE), after: after_record, limit: PAGE };
        let page = store.scan(&scan).map_err(Error::store("read the trigger log"))?;
        let Some(last) = page.last() else { return Ok(log) };
        after = (last.rank, last.key.id.clone());
        for record in &page {
            log.push(parse(record)?);
        }
    }
}

#[cfg(test)]
mod tests;
