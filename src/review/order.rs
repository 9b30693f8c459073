//! In which order tasks are given out.

use super::Task;

/// Microseconds of waiting that a point of priority is worth: a day.
const POINT: f64 = 86_400e6;

/// Order within the queue, smallest first.
///
/// The urgency of a task is its priority plus one point per day that it has waited, so an old task of low priority comes
/// before a newer one of higher priority after as many days as they differ in points: nothing waits for ever. All tasks
/// age alike, so their order never changes, and a rank that is fixed when the task is put into the queue gives it: the
/// time of its creation less its priority in days. Equal ranks go by id. A task that judges models (a priority of a
/// million) stays before all of ordinary priority: these would have to wait for 2,700 years to overtake it.
///
/// A task that was handed to somebody comes before all others: only that person gets it.
pub(super) fn rank(task: &Task) -> i64 {
    if task.assigned.is_some() {
        return i64::MIN;
    }
    // A cast of a float saturates; so does the difference.
    let worth = (task.ask.priority * POINT).round() as i64;
    task.created.timestamp_micros().saturating_sub(worth)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::super::testing::task;
    use super::*;
    use crate::gate::testing::at;

    fn rank_of(priority: f64, created: DateTime<Utc>) -> i64 {
        let mut task = task(1, priority, 1, true);
        task.created = created;
        rank(&task)
    }

    #[test]
    fn a_task_overtakes_newer_ones_after_a_day_per_point_of_priority() {
        let old = rank_of(0.5, at(0));
        assert!(rank_of(3.0, at(0) + TimeDelta::hours(59)) < old, "2.5 points more, 59 hours later");
        assert!(rank_of(3.0, at(0) + TimeDelta::hours(61)) > old, "2.5 points more, 61 hours later");
        assert!(rank_of(0.5, at(1)) > old, "of equal priority the older one");
    }

    #[test]
    fn the_fixed_order_is_that_of_priority_plus_days_waited_at_every_time() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..2_000 {
            let mut draw = || (rng.random_range(-5.0..5.0), rng.random_range(0..864_000));
            let ((p, s), (q, t)): ((f64, i64), (f64, i64)) = (draw(), draw());
            for now in [864_000, 8_640_000] {
                let urgency = |priority: f64, created: i64| priority + (now - created) as f64 / 86_400.0;
                let (first, second) = (urgency(p, s), urgency(q, t));
                if (first - second).abs() > 1e-9 {
                    assert_eq!(rank_of(p, at(s)) < rank_of(q, at(t)), first > second, "{p} at {s}, {q} at {t}");
                }
            }
        }
    }

    #[test]
    fn judging_tasks_come_first_however_long_others_have_waited() {
        let century = at(0) + TimeDelta::days(36_525);
        let ordinary = [0.0, 1.0, 1_000.0, -7.0];
        for priority in ordinary {
            assert!(rank_of(2e6, century) < rank_of(1e6, at(0)), "the random lane before the comparison lane");
            assert!(rank_of(1e6, century) < rank_of(priority, at(0)));
        }
    }

    #[test]
    fn no_priority_and_no_time_overflows() {
        let ends = [DateTime::<Utc>::MIN_UTC, at(0), DateTime::<Utc>::MAX_UTC];
        for time in ends {
            assert!(rank_of(f64::MAX, time) <= rank_of(0.0, time) && rank_of(0.0, time) <= rank_of(f64::MIN, time));
        }
    }
}
