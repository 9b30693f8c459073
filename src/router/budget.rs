//! How many questions people can take.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{BoxError, message};

/// Share of a day's questions that waits for an alarm, unless told otherwise.
const RESERVE: f64 = 0.1;
const DAY: f64 = 86_400e6;
/// Rounding of the fill that is no missing question.
const ROUNDING: f64 = 1e-9;

/// How many questions may be asked of people: spread over the day, with a reserve for alarms.
///
/// Two token buckets (Turner 1986), driven by the time that they are told. The larger part of the income goes to ordinary
/// questions; of those, only a few can be saved up ([`Budget::burst`]), so that they are spread over the day. The
/// reserve ([`Budget::reserve`]) opens while an alarm stands, open or acknowledged; once used, it fills up again within about a day.
///
/// Guarantee: any 24 hours get at most the day's questions, those of the reserve and saved ones included. What a reserve
/// and a burst can add is therefore taken off the steady income: of 200 a day with a reserve of 0.1, ordinary questions
/// get 173 on a day without an alarm. Questions that judge models are asked in any case and use the ordinary part up.
///
/// # Examples
/// ```
/// use feedloop::Budget;
/// let some = Budget::per_day(200).reserve(0.2).burst(0.05);
/// assert_ne!(some, Budget::unlimited());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    per_day: Option<u32>,
    reserve: f64,
    burst: Option<f64>,
}

/// What follows from a limited budget, in questions.
struct Sizes {
    ordinary: f64,
    reserve: f64,
    /// A day's.
    income: f64,
}

impl Budget {
    /// So many questions in any 24 hours.
    pub fn per_day(questions: u32) -> Self {
        Budget { per_day: Some(questions), reserve: RESERVE, burst: None }
    }

    /// No limit.
    pub fn unlimited() -> Self {
        Budget { per_day: None, reserve: RESERVE, burst: None }
    }

    /// Share of a day's questions that only an alarm opens, rounded to whole questions; 0.1 unless told.
    pub fn reserve(mut self, share: f64) -> Self {
        self.reserve = share;
        self
    }

    /// Share of a day's questions that can be saved up and asked at once, at least one question. Unless told an hour's,
    /// at least 4, but not more than a quarter of the day's.
    pub fn burst(mut self, share: f64) -> Self {
        self.burst = Some(share);
        self
    }

    pub(super) fn check(&self) -> Result<(), BoxError> {
        for (what, share) in [("reserve", Some(self.reserve)), ("burst", self.burst)] {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(message(format!("the {what} of the budget is {share}: give a share from 0 to 1")));
            }
        }
        Ok(())
    }

    /// Asking n questions in less than a day takes n < what was saved + a day's income: that bounds the income.
    fn sizes(&self) -> Option<Sizes> {
        let day = f64::from(self.per_day?);
        let reserve = (self.reserve * day).round().clamp(0.0, day);
        let burst = self.burst.map_or((day / 24.0).max(4.0).min(day / 4.0), |share| share * day);
        let ordinary = burst.max(1.0).min(day - reserve);
        let income = if day > 0.0 { day + 1.0 - reserve - ordinary } else { 0.0 };
        Some(Sizes { ordinary, reserve, income })
    }

    /// Most ordinary questions that can be saved; `None` without a limit.
    pub(super) fn capacity(&self) -> Option<f64> {
        self.sizes().map(|sizes| sizes.ordinary)
    }

    /// Questions that come in between two times; 0 without a limit.
    pub(super) fn income(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
        let micros = to.signed_duration_since(from).num_microseconds().unwrap_or(i64::MAX).max(0);
        self.sizes().map_or(0.0, |sizes| sizes.income * (micros as f64 / DAY))
    }

    /// Share of the income that the reserve gets until it is full.
    fn refill(&self) -> f64 {
        self.reserve.clamp(0.0, 1.0)
    }
}

/// The parts of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Ordinary,
    Reserve,
}

/// The questions that are left of a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Bucket {
    /// `None` until the first question: the bucket starts full.
    filled: Option<Fill>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Fill {
    ordinary: f64,
    reserve: f64,
    at: DateTime<Utc>,
}

impl Bucket {
    pub(super) fn full() -> Self {
        Bucket { filled: None }
    }

    /// The fill at `now`; `None` without a limit. Time that goes back stands still.
    fn fill(&self, budget: Budget, now: DateTime<Utc>) -> Option<Fill> {
        let sizes = budget.sizes()?;
        let Some(Fill { ordinary, reserve, at }) = self.filled else {
            return Some(Fill { ordinary: sizes.ordinary, reserve: sizes.reserve, at: now });
        };
        let earned = budget.income(at, now);
        let kept = (earned * budget.refill()).min((sizes.reserve - reserve).max(0.0));
        let ordinary = ordinary + earned - kept;
        let over = (ordinary - sizes.ordinary).max(0.0);
        let reserve = (reserve + kept + over).min(sizes.reserve);
        Some(Fill { ordinary: ordinary - over, reserve, at: at.max(now) })
    }

    /// Questions left at `now`, the reserve included; `None` without a limit.
    pub(super) fn left(&self, budget: Budget, now: DateTime<Utc>) -> Option<f64> {
        self.fill(budget, now).map(|fill| fill.ordinary + fill.reserve)
    }

    /// Ordinary questions left at `now`; `None` without a limit.
    pub(super) fn ordinary(&self, budget: Budget, now: DateTime<Utc>) -> Option<f64> {
        self.fill(budget, now).map(|fill| fill.ordinary)
    }

    /// Takes so many questions if there are; `reserve` opens the part that is kept for alarms.
    pub(super) fn take(&mut self, budget: Budget, now: DateTime<Utc>, questions: u32, reserve: bool) -> bool {
        self.spend(budget, now, questions, Part::Ordinary)
            || (reserve && self.spend(budget, now, questions, Part::Reserve))
    }

    /// Takes so many questions from a part, or none.
    pub(super) fn spend(&mut self, budget: Budget, now: DateTime<Utc>, questions: u32, part: Part) -> bool {
        let Some(mut fill) = self.fill(budget, now) else { return true };
        let cost = f64::from(questions);
        let left = match part {
            Part::Ordinary => &mut fill.ordinary,
            Part::Reserve => &mut fill.reserve,
        };
        let taken = *left >= cost - ROUNDING;
        if taken {
            *left = (*left - cost).max(0.0);
        }
        self.filled = Some(fill);
        taken
    }

    /// Does the reserve hold so many questions?
    pub(super) fn reserve(&self, budget: Budget, now: DateTime<Utc>, questions: u32) -> bool {
        self.fill(budget, now).is_none_or(|fill| fill.reserve >= f64::from(questions) - ROUNDING)
    }

    /// Takes ordinary questions whether or not there are any.
    pub(super) fn force(&mut self, budget: Budget, now: DateTime<Utc>, questions: u32) {
        if let Some(mut fill) = self.fill(budget, now) {
            fill.ordinary = (fill.ordinary - f64::from(questions)).max(0.0);
            self.filled = Some(fill);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::gate::testing::at;
    use crate::stats::sampling::unit_interval;

    const HOUR: i64 = 3_600;

    fn taken(bucket: &mut Bucket, budget: Budget, seconds: i64, tries: u32, reserve: bool) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(budget, at(seconds), 1, reserve))).sum()
    }

    /// Times of questions, asked for greedily at random times with pauses, the reserve open now and then.
    fn greedy(budget: Budget, seed: u64, days: i64) -> Vec<i64> {
        let (mut bucket, mut asked, mut now) = (Bucket::full(), Vec::new(), 0);
        for step in 0_u64.. {
            let draw = |what: u64| unit_interval(seed ^ (what << 32), &step.to_le_bytes());
            now += if draw(0) < 0.01 { (30.0 * HOUR as f64 * draw(1)) as i64 } else { (600.0 * draw(1)) as i64 };
            if now > days * 24 * HOUR {
                break;
            }
            let tries = 1 + (20.0 * draw(2)) as u32;
            let got = taken(&mut bucket, budget, now, tries, draw(3) < 0.3);
            asked.extend(std::iter::repeat_n(now, got as usize));
        }
        asked
    }

    #[test]
    fn any_24_hours_get_at_most_the_days_questions() {
        for per_day in [0, 1, 2, 3, 5, 10, 24, 100, 1_000] {
            let plain = Budget::per_day(per_day);
            let budgets =
                [plain, plain.reserve(0.0), plain.reserve(1.0), plain.burst(0.0), plain.reserve(0.3).burst(1.0)];
            for (seed, budget) in budgets.into_iter().enumerate() {
                let asked = greedy(budget, seed as u64, 20);
                let mut first = 0;
                for (last, &time) in asked.iter().enumerate() {
                    while asked[first] <= time - 24 * HOUR {
                        first += 1;
                    }
                    let found = last + 1 - first;
                    assert!(found <= per_day as usize, "{found} of {per_day} a day, {budget:?}");
                }
                assert!(per_day == 0 || !asked.is_empty(), "{budget:?} never asks");
            }
        }
    }

    #[test]
    fn a_steady_stream_is_asked_evenly_and_gets_its_income() {
        for per_day in [48, 240, 2_400] {
            let budget = Budget::per_day(per_day);
            let sizes = budget.sizes().unwrap();
            let mut bucket = Bucket::full();
            let mut total = 0;
            for hour in 0..240 {
                let asked: u32 = (0..240).map(|i| taken(&mut bucket, budget, hour * HOUR + 15 * i, 1, false)).sum();
                // Between two moments of a full and an empty bucket an hour differs by its content and a part question.
                let even = sizes.income / 24.0;
                let off = if hour == 0 { sizes.ordinary + 1.0 } else { 1.0 };
                assert!((f64::from(asked) - even).abs() <= off, "hour {hour}: {asked}, expected {even}");
                total += asked;
            }
            let all = 10.0 * sizes.income + sizes.ordinary;
            assert!((f64::from(total) - all).abs() <= 1.0, "{total} of {all}");
            assert!(sizes.income >= 0.8 * f64::from(per_day), "{} of {per_day}", sizes.income);
        }
    }

    #[test]
    fn an_alarm_at_the_end_of_the_day_still_finds_its_reserve() {
        let budget = Budget::per_day(100).reserve(0.2);
        let mut bucket = Bucket::full();
        for minute in 0..24 * 60 {
            taken(&mut bucket, budget, 60 * minute, 5, false);
        }
        taken(&mut bucket, budget, 24 * HOUR, 5, false);
        assert_eq!(taken(&mut bucket, budget, 24 * HOUR, 500, true), 20);
        assert_eq!(taken(&mut bucket, budget, 24 * HOUR, 500, true), 0);
        // It fills up beside the ordinary questions of the next days.
        let ordinary: u32 = (0..48 * 60).map(|m| taken(&mut bucket, budget, 24 * HOUR + 60 * m, 5, false)).sum();
        assert!(ordinary > 120, "{ordinary} of two days");
        taken(&mut bucket, budget, 72 * HOUR, 5, false);
        assert_eq!(taken(&mut bucket, budget, 72 * HOUR, 500, true), 20);
    }

    #[test]
    fn forced_questions_leave_the_reserve_alone() {
        let budget = Budget::per_day(100);
        let mut bucket = Bucket::full();
        (0..50).for_each(|_| bucket.force(budget, at(0), 1));
        assert_eq!((bucket.ordinary(budget, at(0)), bucket.left(budget, at(0))), (Some(0.0), Some(10.0)));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let budget = Budget::per_day(100);
        let mut bucket = Bucket::full();
        assert_eq!(taken(&mut bucket, budget, 86_400, 500, true), 14);
        assert_eq!(taken(&mut bucket, budget, 0, 500, true), 0);
        assert_eq!(taken(&mut bucket, budget, 86_400, 500, true), 0, "nor when it returns");
    }

    #[test]
    fn without_a_limit_everything_may_be_asked() {
        let mut bucket = Bucket::full();
        assert!((0..1_000).all(|_| bucket.take(Budget::unlimited(), at(0), 1, false)));
        assert_eq!(bucket.left(Budget::unlimited(), at(0)), None);
    }

    #[test]
    fn shares_beyond_the_whole_are_refused() {
        for budget in
            [Budget::per_day(9).reserve(1.1), Budget::per_day(9).burst(-0.1), Budget::per_day(9).burst(f64::NAN)]
        {
            assert!(budget.check().is_err(), "{budget:?}");
        }
    }
}
