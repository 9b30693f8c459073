//! A time as `croner` searches it, on the clocks of its time zone.

use std::cmp::Ordering;

use chrono::{DateTime, Datelike, LocalResult, NaiveDate, TimeDelta, TimeZone, Timelike};
use croner::errors::CronError;
use croner::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};

#[derive(Debug, Clone)]
pub(super) struct Moment<Z: TimeZone>(pub(super) DateTime<Z>);

impl<Z: TimeZone> CronDateTime for Moment<Z> {
    fn to_civil(&self) -> CivilDateTime {
        let t = &self.0;
        let date = CivilDate::from_parts_unchecked(t.year(), t.month(), t.day());
        CivilDateTime::new(date, CivilTime::from_parts_unchecked(t.hour(), t.minute(), t.second()))
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().num_days_from_sunday())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let date = NaiveDate::from_ymd_opt(civil.year(), civil.month(), civil.day()).ok_or(CronError::InvalidDate)?;
        let time = date.and_hms_opt(civil.hour(), civil.minute(), civil.second()).ok_or(CronError::InvalidTime)?;
        Ok(match self.0.timezone().from_local_datetime(&time) {
            LocalResult::Single(time) => Resolution::Single(Moment(time)),
            LocalResult::Ambiguous(first, second) => Resolution::Ambiguous(Moment(first), Moment(second)),
            LocalResult::None => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.clone().checked_add_signed(TimeDelta::try_seconds(seconds)?).map(Moment)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
