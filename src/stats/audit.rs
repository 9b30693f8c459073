//! Anytime-valid tests on labels of which a random share is audited.

use super::beta::{beta_tails, ln_binomial_probability};

/// The bets of a [`Release`], as shares of the largest one that is permitted.
const BETS: [f64; 3] = [0.35, 0.65, 0.95];

/// Evidence that, of a sequence of labels, those that nobody audited have an error of at most ε.
///
/// Every label is audited with probability a, by a coin that knows nothing of the label; whatever else made the labels is
/// free: errors may be autocorrelated, drift, or depend on earlier audits. Let D = Σ (e − ε) over the labels up to
/// some position that were not audited. For 0 < s < −ln(1 − a)/(1 − ε) the product of exp(s·(e − ε)) for a label not audited,
/// u₀ = (1 − (1 − a)·exp(−sε))/a for a right one audited, and u₁ = (1 − (1 − a)·exp(s(1 − ε)))/a for a wrong one has
/// expectation 1 at every step, hence exceeds c anywhere with a chance of at most 1/c (Ville 1939). Where D > 0 the product of
/// the audited factors alone is smaller; so if *that* reaches c, then D ≤ 0, but for the chance 1/c, at whatever position
/// and moment one looks. Three bets s are mixed (Robbins 1970), since the error is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Release {
    /// ln u₀ and ln u₁ for every bet.
    ln_factors: [(f64, f64); BETS.len()],
}

/// What the audits of a prefix are worth: the logarithm of the product for every bet; starts at 0.
pub(crate) type LnWealth = [f64; BETS.len()];

impl Release {
    /// For an error of at most `error` among the labels not audited, each being audited with probability `audit`; both in
    /// (0, 1).
    pub(crate) fn new(error: f64, audit: f64) -> Self {
        let free = 1.0 - audit;
        Release {
            ln_factors: BETS.map(|bet| {
                let s = -bet * free.ln() / (1.0 - error);
                let right = -(free * (-s * error).exp_m1() - audit) / audit;
                let wrong = (1.0 - free.powf(1.0 - bet)) / audit;
                (right.ln(), wrong.ln())
            }),
        }
    }

    /// Adds audits to a wealth.
    pub(crate) fn add(&self, wealth: &mut LnWealth, errors: u64, audits: u64) {
        let right = audits.saturating_sub(errors);
        for (ln, (ln_right, ln_wrong)) in wealth.iter_mut().zip(self.ln_factors) {
            *ln += right as f64 * ln_right + errors as f64 * ln_wrong;
        }
    }

    /// How many audits without an error make `wealth` reach `ln_level`; at most `most`.
    pub(crate) fn needed(&self, wealth: &LnWealth, ln_level: f64, most: u64) -> u64 {
        let reached = |n: u64| {
            let mut after = *wealth;
            self.add(&mut after, 0, n);
            ln_mean(&after) >= ln_level
        };
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = low + (high - low) / 2;
            if reached(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }
}

/// Logarithm of the mean over the bets.
pub(crate) fn ln_mean(wealth: &LnWealth) -> f64 {
    let top = wealth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + (wealth.iter().map(|ln| (ln - top).exp()).sum::<f64>() / BETS.len() as f64).ln()
}

/// Logarithm of the e-value against "an audit finds an error with a chance of at most `error`": below `error` it ever
/// reaches c with a chance of at most 1/c. The chance under the alternative is mixed (Robbins 1970) by the
/// distribution Beta(1, 1 + ½/ε) beyond ε: an error of some times ε is expected, so that one error at once is
/// no proof.
pub(crate) fn ln_excess_e_value(errors: u64, audits: u64, error: f64) -> f64 {
    let prior = (0.5 / error).round();
    ln_uniform_mixture(errors as f64, audits.max(errors) as f64 + prior, error) - ln_uniform_mixture(0.0, prior, error)
}

/// The same with a uniform mixture over (`error`, 1].
fn ln_uniform_mixture(k: f64, n: f64, error: f64) -> f64 {
    let ln_beyond = beta_tails(k + 1.0, n - k + 1.0, error, 1.0 - error).ln_upper;
    ln_beyond - (-error).ln_1p() - n.ln_1p() - ln_binomial_probability(k, n, error, 1.0 - error)
}

/// After how many trials, each a success with chance `p`, the share `share` of all runs has reached the boundary;
/// `reached(successes, trials)` says whether it has. `None` if fewer have after `most` trials. Exact, by dynamic programming.
pub(crate) fn first_passage(p: f64, share: f64, most: u64, reached: impl Fn(u64, u64) -> bool) -> Option<u64> {
    let (mut alive, mut passed) = (vec![1.0_f64], 0.0);
    // Successes below the boundary stay below it with more trials: it is looked for upwards from the last one.
    let mut boundary = 0_usize;
    for n in 1..=most {
        while boundary as u64 <= n && !reached(boundary as u64, n) {
            boundary += 1;
        }
        let mut next = vec![0.0; (alive.len() + 1).min(boundary + 1)];
        for (k, chance) in alive.iter().enumerate() {
            for (k, chance) in [(k, chance * (1.0 - p)), (k + 1, chance * p)] {
                if k >= boundary { passed += chance } else { next[k] += chance }
            }
        }
        alive = next;
        if passed >= share {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn every_factor_has_expectation_one_whether_the_label_is_right_or_wrong() {
        for (error, audit) in [(0.02, 0.05), (0.05, 0.2), (0.2, 0.5), (0.01, 0.01)] {
            for (bet, (right, wrong)) in BETS.iter().zip(Release::new(error, audit).ln_factors) {
                let s = -bet * f64::ln(1.0 - audit) / (1.0 - error);
                for (e, audited) in [(0.0, right), (1.0, wrong)] {
                    let mean = audit * audited.exp() + (1.0 - audit) * (s * (e - error)).exp();
                    assert!((mean - 1.0).abs() < 1e-12, "{error} {audit} {bet} {e}: {mean}");
                }
            }
        }
    }

    /// Errors that come in long runs, or where the evidence is high, so that about as many are above ε as below.
    #[test]
    fn a_prefix_with_too_many_errors_is_released_no_more_often_than_stated() {
        let (error, audit, runs) = (0.1, 0.2, 2_000);
        let release = Release::new(error, audit);
        let mut rng = StdRng::seed_from_u64(11);
        let (mut broken, mut released) = (0, 0);
        for run in 0..runs {
            let (mut wealth, mut excess, mut bad, mut any) = ([0.0; 3], 0.0, false, false);
            for n in 0..1_000 {
                let high = ln_mean(&wealth) > 1.5;
                let p = if run % 2 == 0 { 0.2 * f64::from((n / 100) % 2) } else { 0.02 + 0.2 * f64::from(high) };
                let wrong = rng.random::<f64>() < p;
                if rng.random::<f64>() < audit {
                    release.add(&mut wealth, u64::from(wrong), 1);
                } else {
                    excess += f64::from(wrong) - error;
                }
                if ln_mean(&wealth) >= 20_f64.ln() {
                    any = true;
                    bad |= excess > 0.0;
                }
            }
            broken += u64::from(bad);
            released += u64::from(any);
        }
        let least = crate::stats::binomial::lower(broken, runs, 0.999);
        assert!(least <= 0.05, "{broken} of {runs}");
        assert!(released > 50, "only {released} runs released anything");
    }

    #[test]
    fn clean_audits_release_after_about_as_many_as_the_exact_binomial_asks_for() {
        let release = Release::new(0.02, 0.05);
        let needed = release.needed(&[0.0; 3], 20_f64.ln(), 10_000);
        assert!((149..=230).contains(&needed), "{needed}");
        let mut wealth = [0.0; 3];
        release.add(&mut wealth, 0, needed);
        assert!(ln_mean(&wealth) >= 20_f64.ln());
        let mut wealth = [0.0; 3];
        release.add(&mut wealth, 0, needed - 1);
        assert!(ln_mean(&wealth) < 20_f64.ln());
    }

    #[test]
    fn the_excess_e_value_matches_the_integral_and_averages_to_itself() {
        // One error: 1/(1 − ε)·∫ p/ε dp over (ε, 1] = (1 + ε)/(2ε).
        assert!((ln_uniform_mixture(1.0, 1.0, 0.02).exp() - 1.02 / 0.04).abs() < 1e-9);
        assert_eq!(ln_excess_e_value(0, 0, 0.02), 0.0);
        assert!(ln_excess_e_value(1, 1, 0.02).exp() < 5.0, "one error at once is no proof");
        for (k, n) in [(0, 0), (0, 30), (4, 90), (40, 200)] {
            let next = |k: u64| ln_excess_e_value(k, n + 1, 0.05).exp();
            let mean = 0.05 * next(k + 1) + 0.95 * next(k);
            assert!((mean / ln_excess_e_value(k, n, 0.05).exp() - 1.0).abs() < 1e-9, "{k} of {n}");
        }
    }

    #[test]
    fn first_passage_agrees_with_the_geometric_law() {
        // One success at 10 %: the median of the first is ⌈ln ½ / ln .9⌉ = 7.
        assert_eq!(first_passage(0.1, 0.5, 100, |k, _| k >= 1), Some(7));
        assert_eq!(first_passage(0.1, 0.5, 6, |k, _| k >= 1), None);
        assert_eq!(first_passage(1.0, 0.95, 100, |k, _| k >= 30), Some(30));
    }

    /// 10 % true error, 2 % promised: the reference states a median of 48 audits until a stop.
    #[test]
    fn a_stop_takes_about_fifty_audits() {
        let level = 20_f64.ln();
        let median = first_passage(0.1, 0.5, 1_000, |k, n| ln_excess_e_value(k, n, 0.02) >= level).unwrap();
        assert!((40..=56).contains(&median), "{median}");
    }
}
