//! Retrain at fixed times.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, TimeZone, Timelike, Utc};
use croner::Cron;
use croner::errors::CronError;

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle, span};
use crate::error::{BoxError, Error};

mod moment;

use moment::Moment;

/// Where the due time that last fired is remembered.
const LAST: &str = "last";
/// A due time found later than this was missed.
const LATE: TimeDelta = TimeDelta::minutes(5);
/// Most missed due times that are counted for the explanation.
const MOST_COUNTED: usize = 20;

/// What becomes of due times at which nothing was started: the loop was not running, a run was in flight, or a limit held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// One that is found more than five minutes late is let go.
    Skip,
    /// All that were missed count as one, and a run requested for another reason after a due time counts for it.
    #[default]
    Once,
    /// Every one gets a run of its own, one after the other, oldest first; runs for other reasons do not count. Those
    /// before the trigger was first asked are not made up for, save the last.
    All,
}

/// Fires at the times of a cron pattern, in UTC or in a time zone; see [`schedule`].
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    pattern: String,
    zone: Zone,
    missed: Missed,
}

/// Where the pattern is read.
#[derive(Debug, Clone, Copy)]
enum Zone {
    Utc,
    #[cfg(feature = "time-zones")]
    Named(chrono_tz::Tz),
}

impl Schedule {
    /// The times of `pattern`: minute, hour, day of month, month, day of week; or an alias such as `@daily`.
    ///
    /// # Errors
    /// The pattern cannot be understood, or there is no such time.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        let mistake = |error: CronError| Error::Build(vec![format!("schedule `{pattern}`: {error}")]);
        let cron = Cron::from_str(pattern).map_err(mistake)?;
        cron.find_next_occurrence(&Moment(DateTime::UNIX_EPOCH), true).map_err(mistake)?;
        Ok(Schedule { cron, pattern: pattern.to_owned(), zone: Zone::Utc, missed: Missed::default() })
    }

    /// Reads the pattern on the clocks of a time zone of the IANA database, such as `Europe/Berlin` (feature `time-zones`).
    ///
    /// A fixed time that the clock skips in spring is due at the first moment after the gap; one that comes twice in autumn
    /// is due the first time only. A pattern with a wildcard or step in minute or hour skips what does not exist and is due
    /// in both hours of the same name.
    ///
    /// # Errors
    /// There is no such time zone.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{Schedule, TriggerExt};
    /// let nightly = Schedule::new("30 2 * * *")?.time_zone("Europe/Berlin")?.boxed();
    /// assert!(Schedule::new("30 2 * * *")?.time_zone("Berlin").is_err());
    /// # let _ = nightly;
    /// # Ok::<(), feedloop::Error>(())
    /// ```
    #[cfg(feature = "time-zones")]
    pub fn time_zone(mut self, name: &str) -> Result<Self, Error> {
        let zone = chrono_tz::Tz::from_str(name).map_err(|_| {
            let text = format!("schedule `{}`: there is no time zone `{name}`, as in `Europe/Berlin`", self.pattern);
            Error::Build(vec![text])
        })?;
        self.zone = Zone::Named(zone);
        Ok(self)
    }

    /// What becomes of due times that were missed; [`Missed::Once`] unless told.
    pub fn missed(mut self, policy: Missed) -> Self {
        self.missed = policy;
        self
    }

    /// The newest due time at or before `now`.
    fn newest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        fn find<Z: TimeZone>(cron: &Cron, now: DateTime<Z>) -> Option<DateTime<Utc>> {
            cron.find_previous_occurrence(&Moment(now), true).ok().map(|due| due.0.to_utc())
        }
        match self.zone {
            Zone::Utc => find(&self.cron, now),
            #[cfg(feature = "time-zones")]
            Zone::Named(zone) => find(&self.cron, now.with_timezone(&zone)),
        }
    }

    /// The first due time after `time`.
    fn next(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        fn find<Z: TimeZone>(cron: &Cron, time: DateTime<Z>) -> Option<DateTime<Utc>> {
            cron.find_next_occurrence(&Moment(time), false).ok().map(|due| due.0.to_utc())
        }
        match self.zone {
            Zone::Utc => find(&self.cron, time),
            #[cfg(feature = "time-zones")]
            Zone::Named(zone) => find(&self.cron, time.with_timezone(&zone)),
        }
    }

    fn shown(&self, time: DateTime<Utc>) -> String {
        const FORMAT: &str = "%F %H:%M %Z";
        match self.zone {
            Zone::Utc => time.format(FORMAT).to_string(),
            #[cfg(feature = "time-zones")]
            Zone::Named(zone) => time.with_timezone(&zone).format(FORMAT).to_string(),
        }
    }

    /// The due time that asks for a run, and what else is to be said of it.
    fn due(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Due, BoxError> {
        let now = status.now.with_nanosecond(0).unwrap_or(status.now);
        let newest = self.newest(now);
        let last: Option<DateTime<Utc>> = memory.get(LAST);
        let handled = [last, status.last_run].into_iter().flatten().fold(status.started, DateTime::max);
        let open = newest.filter(|due| *due > handled);
        let found = |due| Due { due, begun: newest.unwrap_or(handled).max(handled), note: String::new() };
        match self.missed {
            Missed::Once => Ok(found(open)),
            Missed::Skip => {
                let late = open.filter(|due| now - *due > LATE);
                let note = late.map_or(String::new(), |due| format!("; the one at {} was missed", self.shown(due)));
                Ok(Due { note, ..found(open.filter(|_| late.is_none())) })
            }
            Missed::All => {
                let from = match last {
                    Some(last) => last,
                    None => {
                        let from = open.map_or(now, |due| due - TimeDelta::seconds(1));
                        memory.set(LAST, &from)?;
                        from
                    }
                };
                let due = self.next(from).filter(|due| *due <= now);
                let waiting = std::iter::successors(due, |due| self.next(*due).filter(|due| *due <= now));
                let note = match waiting.take(MOST_COUNTED).count() {
                    0 | 1 => String::new(),
                    MOST_COUNTED => format!("; {MOST_COUNTED} or more due times wait for a run"),
                    count => format!("; {count} due times wait for a run"),
                };
                Ok(Due { note, begun: newest.unwrap_or(from), due })
            }
        }
    }
}

/// A due time that asks for a run.
struct Due {
    due: Option<DateTime<Utc>>,
    /// Since when the next one is waited for.
    begun: DateTime<Utc>,
    note: String,
}

/// Fires at the times of the cron `pattern`, in UTC: `"0 3 * * *"` is every day at three.
///
/// It fires once per due time; due times missed while the loop did not run count as one, and a run requested for another
/// reason after a due time counts for it ([`Schedule::missed`] says otherwise). A clock that goes back does not fire again.
///
/// # Errors
/// The pattern cannot be understood, or there is no such time.
///
/// # Examples
/// ```
/// use feedloop::schedule;
/// let nightly = schedule("0 3 * * *")?;
/// assert!(schedule("0 0 30 2 *").is_err(), "there is no 30th of February");
/// # let _ = nightly;
/// # Ok::<(), feedloop::Error>(())
/// ```
pub fn schedule(pattern: &str) -> Result<Box<dyn RetrainTrigger>, Error> {
    Ok(Box::new(Schedule::new(pattern)?))
}

impl RetrainTrigger for Schedule {
    fn name(&self) -> &str {
        "schedule"
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        let Due { due, begun, note } = self.due(status, memory)?;
        if let Some(due) = due {
            let text = format!("`{}` was due at {}{note}", self.pattern, self.shown(due));
            let decision = settle(self.name(), status, 1.0, text);
            if decision.fires() {
                memory.set(LAST, &due)?;
            }
            return Ok(decision);
        }
        let Some(next) = self.next(status.now) else {
            return Ok(settle(self.name(), status, 0.0, format!("`{}` is never due again{note}", self.pattern)));
        };
        let length = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).as_seconds_f64();
        let begun = begun.min(status.now);
        let progress = length(begun, status.now) / length(begun, next).max(1.0);
        let left = span(next - status.now);
        let text = format!("`{}` is next due at {}, in {left}{note}", self.pattern, self.shown(next));
        Ok(settle(self.name(), status, progress.clamp(0.0, 0.999), text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
