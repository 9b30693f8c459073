//! Anytime-valid evidence from paired wins and losses.

use super::beta::{beta_tails, ln_binomial_probability};

/// E-value against H0 "the candidate wins at most half of the decisive rows".
///
/// `wins` and `losses` count the rows where exactly one of the two is right, for and against the
/// candidate. The win probability under the alternative is mixed uniformly over (1/2, 1] (Robbins
/// 1970, method of mixtures): E = 2·2^(w+l)·B(1+w, 1+l)·P(Beta(1+w, 1+l) > 1/2). Under H0 the
/// chance that E ever reaches c is at most 1/c (Ville 1939), at whatever moment one looks.
/// `E(0, 0)` = 1; never NaN, infinite at most.
pub(crate) fn paired_e_value(wins: u64, losses: u64) -> f64 {
    ln_paired_e_value(wins, losses).exp()
}

/// Natural logarithm of [`paired_e_value`].
pub(crate) fn ln_paired_e_value(wins: u64, losses: u64) -> f64 {
    let (w, l) = (wins as f64, losses as f64);
    let n = w + l;
    if n == 0.0 {
        return 0.0;
    }
    // 2^n·B(1+w, 1+l) = 1 / ((n + 1)·P(Binomial(n, 1/2) = w))
    let ln_posterior = beta_tails(1.0 + w, 1.0 + l, 0.5, 0.5).ln_upper;
    std::f64::consts::LN_2 + ln_posterior - n.ln_1p() - ln_binomial_probability(w, n, 0.5, 0.5)
}

/// P(Beta(1 + wins, 1 + losses) > 1/2): the posterior probability, from a uniform prior, that the
/// candidate wins more than half of the decisive rows. Not an error guarantee.
pub(crate) fn posterior_better(wins: u64, losses: u64) -> f64 {
    beta_tails(1.0 + wins as f64, 1.0 + losses as f64, 0.5, 0.5).ln_upper.exp()
}

/// Median number of decisive rows until [`paired_e_value`] reaches `bound`, if the candidate wins each of them with
/// probability `win`: exact, by following the distribution of the wins among the runs that have not reached it yet.
/// `None` if the median exceeds `most`.
pub(crate) fn median_decisive(win: f64, bound: f64, most: u64) -> Option<u64> {
    // open[w]: probability of w wins so far without having reached the bound
    let (mut open, mut reached) = (vec![1.0], 0.0);
    for rows in 1..=most {
        let mut next = vec![0.0; open.len() + 1];
        for (wins, probability) in open.iter().enumerate() {
            next[wins] += probability * (1.0 - win);
            next[wins + 1] += probability * win;
        }
        // more wins of as many rows is more evidence: what reaches the bound is at the end
        while let Some((wins, probability)) = next.iter().enumerate().next_back() {
            if paired_e_value(wins as u64, rows - wins as u64) < bound {
                break;
            }
            reached += probability;
            next.pop();
        }
        if reached >= 0.5 {
            return Some(rows);
        }
        open = next;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// Five points at 10 % disagreement: of the decisive rows 7.5 : 2.5 are won. The rules of this crate's statistics give
    /// a median of 23.
    #[test]
    fn five_points_at_ten_percent_disagreement_take_23_decisive_rows() {
        assert_eq!(median_decisive(0.75, 20.0, 1_000), Some(23));
        assert_eq!(median_decisive(1.0, 20.0, 1_000), Some(7), "E(6, 0) = 18.1, E(7, 0) = 31.9");
        assert_eq!(
            median_decisive(0.5, 20.0, 1_000),
            None,
            "an equal candidate reaches it with probability 1/20 at most"
        );
    }

    #[test]
    fn the_exact_median_is_that_of_simulated_runs() {
        let exact = median_decisive(0.65, 20.0, 10_000).unwrap();
        let found = f64::from(alarms(0.65, 2_000, exact, 9)) / 2_000.0;
        // Five standard errors of a share of 2,000.
        assert!((found - 0.5).abs() < 0.056 + 0.02, "{found} of the runs within {exact} rows");
    }

    /// Smallest number of wins among n decisive rows with E ≥ 20.
    fn boundary(steps: u64) -> Vec<u64> {
        let mut wins = 0;
        (0..=steps)
            .map(|n| {
                while wins <= n && paired_e_value(wins, n - wins) < 20.0 {
                    wins += 1;
                }
                wins
            })
            .collect()
    }

    /// Runs among `runs` in which E reaches 20 within `steps` decisive rows.
    fn alarms(win_probability: f64, runs: u32, steps: u64, seed: u64) -> u32 {
        let boundary = boundary(steps);
        let mut rng = StdRng::seed_from_u64(seed);
        (0..runs)
            .filter(|_| {
                let mut wins = 0;
                (1..=steps).any(|n| {
                    wins += u64::from(rng.random::<f64>() < win_probability);
                    wins >= boundary[n as usize]
                })
            })
            .count() as u32
    }

    #[test]
    fn small_counts_match_the_integral() {
        assert_eq!(paired_e_value(0, 0), 1.0);
        // 2·∫ 2p dp over (1/2, 1] = 3/2, and 2·∫ 2(1-p) dp = 1/2
        assert!((paired_e_value(1, 0) - 1.5).abs() < 1e-13);
        assert!((paired_e_value(0, 1) - 0.5).abs() < 1e-13);
        // 2·8·∫ p²(1-p) dp over (1/2, 1] = 16·(1/12 - 5/192)
        assert!((paired_e_value(2, 1) - 16.0 * (1.0 / 12.0 - 5.0 / 192.0)).abs() < 1e-12);
    }

    #[test]
    fn averages_to_itself_under_a_fair_coin() {
        for (w, l) in [(0, 0), (3, 9), (40, 12), (500, 480)] {
            let mean = 0.5 * (paired_e_value(w + 1, l) + paired_e_value(w, l + 1));
            assert!((mean / paired_e_value(w, l) - 1.0).abs() < 1e-11, "{w} {l}");
        }
    }

    #[test]
    fn never_nan_at_extremes() {
        for (w, l) in [(0, 1_000_000), (1_000_000, 0), (5_000_000, 5_000_000), (3, 100_000)] {
            let e = paired_e_value(w, l);
            assert!(!e.is_nan() && e >= 0.0, "{w} {l}: {e}");
            assert!((0.0..=1.0).contains(&posterior_better(w, l)));
        }
    }

    #[test]
    fn posterior_of_four_to_nothing() {
        assert!((posterior_better(4, 0) - (1.0 - 0.5_f64.powi(5))).abs() < 1e-14);
        assert!((posterior_better(7, 7) - 0.5).abs() < 1e-13);
    }

    #[test]
    fn ever_reaching_twenty_is_rare_under_a_fair_coin() {
        let runs = 4_000;
        let rate = f64::from(alarms(0.5, runs, 1_000, 0x5EED)) / f64::from(runs);
        let slack = 3.1 * (0.05 * 0.95 / f64::from(runs)).sqrt();
        assert!(rate <= 0.05 + slack, "rate {rate}");
        assert!(rate > 0.005, "so rare that the e-value cannot be the stated one: {rate}");
    }

    #[test]
    fn finds_a_seventy_percent_winner() {
        let rate = f64::from(alarms(0.7, 1_000, 100, 0xACE)) / 1_000.0;
        assert!(rate > 0.75, "power {rate}");
    }
}
