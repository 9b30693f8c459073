//! Has the probability of an error ever been above a limit? Evidence that may be looked at after every row.

use serde::{Deserialize, Serialize};

/// Limits that are tested: the stated one, and higher ones for the confidence bound.
const LIMITS: usize = 16;
/// Bets against each limit: on a rise by a half of the way to 1, a quarter, an eighth, …
const BETS: usize = 7;

/// Tests "the probability of an error, given the past, never exceeds the limit" by betting.
///
/// A bet on the error probability q > limit multiplies its stake by q/limit at an error and by (1−q)/(1−limit) otherwise: under
/// the null hypothesis a supermartingale (Wald 1945; Waudby-Smith and Ramdas 2023). Bets start at **every** row t, with stake
/// w(t) = 1/(1+ln t) − 1/(1+ln(t+1)); stakes sum to 1, so the sum of all bets reaches c with probability at most 1/c, ever
/// (Ville 1939). A rise after a long good phase of T rows costs about ln T + 2 ln ln T nats more than one at the start; a
/// test that starts only once would have to win back everything that it lost in the good phase.
///
/// Constant memory and time per row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RiseTest {
    limits: [f64; LIMITS],
    /// What an error, and what a right row multiplies a bet by.
    factors: [[(f64, f64); BETS]; LIMITS],
    state: RiseState,
}

/// What the rows left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RiseState {
    rows: u64,
    bets: [[f64; BETS]; LIMITS],
}

impl RiseTest {
    /// Against `limit`, above 0 and below 1.
    pub(crate) fn new(limit: f64) -> Self {
        let limits = std::array::from_fn(|at| limit + (1.0 - limit) * (at as f64 / LIMITS as f64).powi(2));
        let factors = limits.map(|limit: f64| {
            std::array::from_fn(|bet| {
                let q = limit + (1.0 - limit) * 0.5_f64.powi(bet as i32 + 1);
                (q / limit, (1.0 - q) / (1.0 - limit))
            })
        });
        RiseTest { limits, factors, state: RiseState { rows: 0, bets: [[0.0; BETS]; LIMITS] } }
    }

    /// Takes a row.
    pub(crate) fn push(&mut self, error: bool) {
        self.state.rows += 1;
        let rows = self.state.rows as f64;
        let stake = 1.0 / (1.0 + rows.ln()) - 1.0 / (1.0 + (rows + 1.0).ln());
        for (bets, factors) in self.state.bets.iter_mut().zip(&self.factors) {
            for (bet, &(wrong, right)) in bets.iter_mut().zip(factors) {
                let factor = if error { wrong } else { right };
                *bet = ((*bet + stake) * factor).min(f64::MAX);
            }
        }
    }

    /// The e-value against the limit: under the null hypothesis it reaches c with probability at most 1/c, ever.
    pub(crate) fn evidence(&self) -> f64 {
        self.evidence_against(0)
    }

    /// Lower confidence bound: with probability at least 1 − `alpha`, it never exceeds the largest error probability that
    /// there has been. `None` while that may be the limit or less.
    pub(crate) fn lower_bound(&self, alpha: f64) -> Option<f64> {
        let rejected = (0..LIMITS).take_while(|&at| self.evidence_against(at) >= 1.0 / alpha).last();
        rejected.map(|at| self.limits[at])
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.state.rows
    }

    /// What the rows left.
    pub(crate) fn state(&self) -> &RiseState {
        &self.state
    }

    /// The test with what the rows left.
    pub(crate) fn with(mut self, state: RiseState) -> Self {
        self.state = state;
        self
    }

    fn evidence_against(&self, limit: usize) -> f64 {
        self.state.bets[limit].iter().map(|bet| bet / BETS as f64).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::binomial;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// The first row at which the evidence reaches `1 / alpha`, for error probability `p(row)`.
    fn alarm(limit: f64, alpha: f64, rows: u64, seed: u64, p: impl Fn(u64) -> f64) -> Option<u64> {
        let (mut test, mut rng) = (RiseTest::new(limit), StdRng::seed_from_u64(seed));
        (1..=rows).find(|&row| {
            test.push(rng.random::<f64>() < p(row));
            test.evidence() >= 1.0 / alpha
        })
    }

    #[test]
    fn the_recursion_is_the_sum_over_all_starts() {
        let errors = [false, true, true, false, true, false, false, true];
        let mut test = RiseTest::new(0.2);
        errors.iter().for_each(|error| test.push(*error));
        let mut expected = 0.0;
        for bet in 1..=BETS as i32 {
            let q = 0.2 + 0.8 * 0.5_f64.powi(bet);
            for start in 0..errors.len() {
                let stake = |row: usize| 1.0 / (1.0 + (row as f64).ln());
                let won: f64 =
                    errors[start..].iter().map(|error| if *error { q / 0.2 } else { (1.0 - q) / 0.8 }).product();
                expected += (stake(start + 1) - stake(start + 2)) * won / BETS as f64;
            }
        }
        assert!((test.evidence() / expected - 1.0).abs() < 1e-12, "{} {expected}", test.evidence());
    }

    #[test]
    fn ever_alarming_at_the_limit_is_as_rare_as_stated() {
        for (limit, alpha) in [(0.05, 0.05), (0.3, 0.1)] {
            let runs = 1_000;
            let found = (0..runs).filter(|&seed| alarm(limit, alpha, 2_000, seed, |_| limit).is_some()).count() as u64;
            assert!(binomial::lower(found, runs, 1.0 - 1e-4) <= alpha, "limit {limit}: {found} of {runs}");
            assert!(found > 0, "so rare that the level cannot be the stated one");
        }
    }

    #[test]
    fn the_bound_stays_below_the_highest_probability() {
        let runs = 400;
        let found = (0..runs).filter(|&seed| {
            let (mut test, mut rng) = (RiseTest::new(0.05), StdRng::seed_from_u64(seed ^ 0xb0d));
            (0..1_500).any(|row| {
                test.push(rng.random::<f64>() < if row < 500 { 0.05 } else { 0.3 });
                test.lower_bound(0.1).is_some_and(|bound| bound > 0.3)
            })
        });
        let found = found.count() as u64;
        assert!(binomial::lower(found, runs, 1.0 - 1e-4) <= 0.1, "{found} of {runs}");
        let mut test = RiseTest::new(0.05);
        (0..2_000).for_each(|row| test.push(row % 10 < 3));
        assert!(test.lower_bound(0.05).unwrap() > 0.2, "{:?}", test.lower_bound(0.05));
    }

    #[test]
    fn a_rise_after_a_long_good_phase_is_found_soon() {
        for (good, most) in [(0, 150), (1_000, 350), (20_000, 450)] {
            let mut delays: Vec<_> = (0..41)
                .map(|seed| {
                    let found = alarm(0.08, 0.05, good + 3_000, seed, |row| if row <= good { 0.05 } else { 0.2 });
                    found.unwrap().saturating_sub(good)
                })
                .collect();
            delays.sort_unstable();
            println!(
                "0.05 → 0.2 against 0.08 after {good} good rows: median delay {}, longest {}",
                delays[20], delays[40]
            );
            assert!(delays[20] <= most, "median delay {} after {good}", delays[20]);
        }
    }
}
