//! Retrain at fixed times.

use std::cmp::Ordering;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Timelike, Utc};
use croner::errors::CronError;
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};

use super::{Decision, LoopStatus, Memory, RetrainTrigger, settle};
use crate::error::{BoxError, Error};

/// Where the due time that last fired is remembered.
const LAST: &str = "last";

/// Fires at the times of a cron pattern, in UTC; see [`schedule`].
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    pattern: String,
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
        Ok(Schedule { cron, pattern: pattern.to_owned() })
    }
}

/// Fires at the times of the cron `pattern`, in UTC: `"0 3 * * *"` is every day at three.
///
/// It fires once per due time; due times missed while the loop did not run count as one, and a run requested for another
/// reason after a due time counts for it. A clock that goes back does not fire again.
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
        let now = Moment(status.now.with_nanosecond(0).unwrap_or(status.now));
        let last: Option<DateTime<Utc>> = memory.get(LAST);
        let since = [last, status.last_run].into_iter().flatten().fold(status.started, DateTime::max);
        let due = self.cron.find_previous_occurrence(&now, true).ok().map(|due| due.0);
        if let Some(due) = due.filter(|&due| due > since) {
            let text = format!("`{}` was due at {}", self.pattern, shown(due));
            let decision = settle(self.name(), status, 1.0, text);
            if decision.fires() {
                memory.set(LAST, &due)?;
            }
            return Ok(decision);
        }
        let Ok(Moment(next)) = self.cron.find_next_occurrence(&now, false) else {
            return Ok(settle(self.name(), status, 0.0, format!("`{}` is never due again", self.pattern)));
        };
        let length = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).as_seconds_f64();
        let begun = due.unwrap_or(since).max(since).min(status.now);
        let progress = length(begun, status.now) / length(begun, next).max(1.0);
        let text = format!("`{}` is next due at {}", self.pattern, shown(next));
        Ok(settle(self.name(), status, progress.clamp(0.0, 0.999), text))
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.format("%F %H:%M UTC").to_string()
}

/// A time in UTC as `croner` searches it: every time of day exists once.
#[derive(Debug, Clone)]
struct Moment(DateTime<Utc>);

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let t = self.0;
        let date = CivilDate::from_parts_unchecked(t.year(), t.month(), t.day());
        CivilDateTime::new(date, CivilTime::from_parts_unchecked(t.hour(), t.minute(), t.second()))
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().num_days_from_sunday())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let date = NaiveDate::from_ymd_opt(civil.year(), civil.month(), civil.day()).ok_or(CronError::InvalidDate)?;
        let time =
            date.and_hms_opt(civil.hour(), civil.minute(), civil.second()).ok_or(CronError::InvalidTime)?.and_utc();
        Ok(Resolution::Single(Moment(time)))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add_signed(TimeDelta::try_seconds(seconds)?).map(Moment)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{at, status};
    use super::*;

    fn at_time(now: &str) -> LoopStatus {
        LoopStatus { now: at(now), ..status() }
    }

    /// The times among `times` at which the nightly schedule fires; the loop was started on 1 January at noon.
    fn fires(times: &[&str]) -> Vec<usize> {
        let (nightly, mut memory) = (schedule("0 3 * * *").unwrap(), Memory::default());
        let fired = |time: &&str| nightly.evaluate(&at_time(time), &mut memory).unwrap().fires();
        times.iter().map(fired).enumerate().filter_map(|(index, fired)| fired.then_some(index)).collect()
    }

    #[test]
    fn fires_once_per_due_time() {
        let times = [
            "2026-01-01T12:00:00Z",
            "2026-01-02T02:59:59.999Z",
            "2026-01-02T03:00:00.5Z",
            "2026-01-02T03:00:01Z",
            "2026-01-03T02:00:00Z",
            "2026-01-03T03:00:00Z",
        ];
        assert_eq!(fires(&times), [2, 5]);
    }

    #[test]
    fn missed_times_count_as_one() {
        assert_eq!(fires(&["2026-01-09T12:00:00Z", "2026-01-09T12:01:00Z"]), [0]);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_fire_again() {
        let times = ["2026-01-05T03:10:00Z", "2026-01-04T03:10:00Z", "2026-01-05T02:00:00Z", "2026-01-05T03:10:00Z"];
        assert_eq!(fires(&times), [0]);
    }

    #[test]
    fn a_run_after_the_due_time_counts_for_it_and_one_in_flight_delays_it() {
        let (nightly, mut memory) = (schedule("0 3 * * *").unwrap(), Memory::default());
        let mut decide = |status: LoopStatus| nightly.evaluate(&status, &mut memory).unwrap();
        let late = at_time("2026-01-02T04:00:00Z");
        assert!(!decide(LoopStatus { last_run: Some(at("2026-01-02T03:30:00Z")), ..late.clone() }).fires());
        let early_run = LoopStatus { last_run: Some(at("2026-01-02T02:30:00Z")), ..late };
        let waits = decide(LoopStatus { running: true, ..early_run.clone() });
        assert_eq!(waits.why().text, "`0 3 * * *` was due at 2026-01-02 03:00 UTC; waits for the run in flight");
        assert!(decide(early_run).fires(), "the due time is not lost");
    }

    #[test]
    fn tells_when_it_is_next_due() {
        let waits = super::super::tests::evaluate(&schedule("0 3 * * *").unwrap(), &at_time("2026-01-02T15:00:00Z"));
        assert!(waits.fires(), "it was due in the morning");
        let run = LoopStatus { last_run: Some(at("2026-01-02T03:00:00Z")), ..at_time("2026-01-02T15:00:00Z") };
        let waits = super::super::tests::evaluate(&schedule("0 3 * * *").unwrap(), &run);
        assert_eq!(waits.why().text, "`0 3 * * *` is next due at 2026-01-03 03:00 UTC");
        assert_eq!(waits.progress(), 0.5);
    }

    #[test]
    fn mistakes_in_the_pattern_are_named() {
        let why = |pattern: &str| schedule(pattern).err().unwrap().to_string();
        assert!(why("0 25 * * *").contains("schedule `0 25 * * *`"), "{}", why("0 25 * * *"));
        assert!(why("0 0 30 2 *").contains("schedule `0 0 30 2 *`"));
    }
}
