//! How many questions people can take.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Part of a full bucket that only samples which detectors pointed at may use.
const RESERVE: f64 = 0.2;
const DAY: f64 = 86_400e6;

/// How many questions may be asked of people; a token bucket (Turner 1986) driven by the time that it is told.
///
/// # Examples
/// ```
/// use feedloop::Budget;
/// let (some, any) = (Budget::per_day(200), Budget::unlimited());
/// assert_ne!(some, any);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    per_day: Option<u32>,
}

impl Budget {
    /// So many questions a day, and at most so many at once: unused ones are saved for one day. The last fifth of the
    /// saved ones is for samples that detectors pointed at.
    pub fn per_day(questions: u32) -> Self {
        Budget { per_day: Some(questions) }
    }

    /// No limit.
    pub fn unlimited() -> Self {
        Budget { per_day: None }
    }
}

/// The questions that are left of a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Bucket {
    /// `None` until the first question: the bucket starts full.
    filled: Option<(f64, DateTime<Utc>)>,
}

impl Bucket {
    pub(super) fn full() -> Self {
        Bucket { filled: None }
    }

    /// Questions left at `now`; `None` without a limit. Time that goes back stands still.
    pub(super) fn left(&self, budget: Budget, now: DateTime<Utc>) -> Option<f64> {
        let size = f64::from(budget.per_day?);
        Some(match self.filled {
            None => size,
            Some((left, then)) => {
                let micros = now.signed_duration_since(then).num_microseconds().unwrap_or(i64::MAX).max(0);
                (left + size * (micros as f64 / DAY)).min(size)
            }
        })
    }

    /// Takes a question if there is one; `reserve` opens the part that is kept for flagged samples.
    pub(super) fn take(&mut self, budget: Budget, now: DateTime<Utc>, reserve: bool) -> bool {
        let Some(left) = self.left(budget, now) else { return true };
        let kept = if reserve { 0.0 } else { RESERVE * budget.per_day.map_or(0.0, f64::from) };
        let taken = left - kept >= 1.0;
        let then = self.filled.map_or(now, |(_, then)| then.max(now));
        self.filled = Some((if taken { left - 1.0 } else { left }, then));
        taken
    }

    /// Takes a question whether or not there is one.
    pub(super) fn force(&mut self, budget: Budget, now: DateTime<Utc>) {
        if !self.take(budget, now, true)
            && let Some((left, _)) = &mut self.filled
        {
            *left = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::testing::at;

    fn taken(bucket: &mut Bucket, seconds: i64, tries: u32, reserve: bool) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(Budget::per_day(100), at(seconds), reserve))).sum()
    }

    #[test]
    fn a_day_gives_the_days_questions_and_no_more_are_saved() {
        let mut bucket = Bucket::full();
        assert_eq!(taken(&mut bucket, 0, 500, true), 100);
        assert_eq!(taken(&mut bucket, 43_200, 500, true), 50);
        assert_eq!(taken(&mut bucket, 43_200 + 10 * 86_400, 500, true), 100);
        let hourly: u32 = (1..=240).map(|hour| taken(&mut bucket, 11 * 86_400 + 3_600 * hour, 50, true)).sum();
        assert!((1_000..=1_051).contains(&hourly), "ten days: {hourly}");
    }

    #[test]
    fn the_last_fifth_is_kept_for_flagged_samples() {
        let mut bucket = Bucket::full();
        assert_eq!(taken(&mut bucket, 0, 500, false), 80);
        assert_eq!(taken(&mut bucket, 0, 500, true), 20);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = Bucket::full();
        assert_eq!(taken(&mut bucket, 86_400, 500, true), 100);
        assert_eq!(taken(&mut bucket, 0, 500, true), 0);
        assert_eq!(taken(&mut bucket, 86_400, 500, true), 0, "nor when it returns");
    }

    #[test]
    fn without_a_limit_everything_may_be_asked() {
        let mut bucket = Bucket::full();
        assert!((0..1_000).all(|_| bucket.take(Budget::unlimited(), at(0), false)));
        assert_eq!(bucket.left(Budget::unlimited(), at(0)), None);
    }
}
