//! When is a model too slow?

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewest timings that a claim about a served model rests on.
pub(crate) const ENOUGH: usize = 100;
/// Timings that are remembered.
const WINDOW: usize = 512;

/// How much slower than its predecessor a model may be.
///
/// Medians are compared, so that single pauses of the machine do not matter. A model is too slow if its median exceeds
/// `ratio` times the other one's **and** is longer by at least `least`: below that, noise decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyBound {
    /// Largest accepted ratio of the two medians.
    pub ratio: f64,
    /// Smallest difference that counts.
    pub least: Duration,
}

impl Default for LatencyBound {
    /// Twice as slow, and by at least a millisecond.
    fn default() -> Self {
        LatencyBound { ratio: 2.0, least: Duration::from_millis(1) }
    }
}

impl LatencyBound {
    /// Is `mine` too slow beside `theirs`?
    pub fn is_broken(&self, mine: Duration, theirs: Duration) -> bool {
        mine.saturating_sub(theirs) >= self.least && mine.as_secs_f64() > self.ratio * theirs.as_secs_f64()
    }
}

/// The median; `None` without timings.
pub(crate) fn median(mut times: Vec<Duration>) -> Option<Duration> {
    let middle = times.len() / 2;
    (!times.is_empty()).then(|| *times.select_nth_unstable(middle).1)
}

/// The newest timings of the served model, as the host reported them. Bounded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timings {
    newest: Vec<Duration>,
    next: usize,
}

impl Timings {
    pub(crate) fn push(&mut self, time: Duration) {
        if self.newest.len() < WINDOW {
            self.newest.push(time);
        } else {
            self.newest[self.next] = time;
            self.next = (self.next + 1) % WINDOW;
        }
    }

    /// The median, once there are enough timings for a claim.
    pub(crate) fn median(&self) -> Option<Duration> {
        if self.newest.len() < ENOUGH { None } else { median(self.newest.clone()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn both_the_ratio_and_the_difference_must_be_exceeded() {
        let bound = LatencyBound::default();
        let broken = |mine, theirs| bound.is_broken(Duration::from_micros(mine), Duration::from_micros(theirs));
        assert!(broken(2_001, 1_000));
        assert!(!broken(2_000, 1_000), "exactly twice is accepted");
        assert!(!broken(900, 1), "nobody sees 0.9 ms");
        assert!(!broken(11_500, 10_000), "1.5 ms more, but 15 %");
    }

    #[test]
    fn a_few_pauses_do_not_move_the_median_and_few_timings_claim_nothing() {
        let mut timings = Timings::default();
        for n in 0..ENOUGH - 1 {
            timings.push(Duration::from_micros(if n % 3 == 0 { 90_000 } else { 50 }));
        }
        assert_eq!(timings.median(), None);
        timings.push(Duration::from_micros(50));
        assert_eq!(timings.median(), Some(Duration::from_micros(50)));
        for _ in 0..WINDOW {
            timings.push(Duration::from_micros(70));
        }
        assert_eq!((timings.median(), timings.newest.len()), (Some(Duration::from_micros(70)), WINDOW));
        assert_eq!(median(Vec::new()), None);
    }
}
