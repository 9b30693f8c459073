//! Exact draws from the hypergeometric distribution.

use rand::{Rng, RngExt};

/// How many marked values are among `size` drawn without replacement from `marked` and `rest` others; `size` is at most
/// their sum.
///
/// By inversion from the mode outwards (Kachitvichyanukul and Schmeiser 1985, "HIN" started at the mode): about one
/// standard deviation of steps.
pub(crate) fn draw(random: &mut impl Rng, marked: u64, rest: u64, size: u64) -> u64 {
    let (low, high) = (size.saturating_sub(rest), marked.min(size));
    if low >= high {
        return low;
    }
    let (marked_f, rest_f, size_f) = (marked as f64, rest as f64, size as f64);
    let mode = ((size_f + 1.0) * ((marked_f + 1.0) / (marked_f + rest_f + 2.0))) as u64;
    let mode = mode.clamp(low, high);
    let ln_first = ln_binomial(marked, mode) + ln_binomial(rest, size - mode) - ln_binomial(marked + rest, size);
    let first = ln_first.exp();
    let mut left = random.random::<f64>() - first;
    if left < 0.0 {
        return mode;
    }
    let spare = rest_f - size_f; // may be negative
    let (mut above, mut below) = (mode, mode);
    let (mut rising, mut falling) = (first, first);
    while above < high || below > low {
        if above < high {
            let x = above as f64;
            rising *= (marked_f - x) * (size_f - x) / ((x + 1.0) * (spare + x + 1.0));
            above += 1;
            left -= rising;
            if left < 0.0 {
                return above;
            }
        }
        if below > low {
            let x = below as f64;
            falling *= x * (spare + x) / ((marked_f - x + 1.0) * (size_f - x + 1.0));
            below -= 1;
            left -= falling;
            if left < 0.0 {
                return below;
            }
        }
    }
    mode // the probabilities sum to 1 but for rounding
}

fn ln_binomial(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// ln n!, to a few units in the last place: the product, or Stirling's series.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return ((2..=n).product::<u64>() as f64).ln();
    }
    let x = n as f64;
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    (x + 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
    use statrs::function::factorial;

    #[test]
    fn factorials_match_another_library() {
        for n in (0..400).chain([5_000, 100_000, 7_000_000]) {
            let expected = factorial::ln_factorial(n);
            assert!((ln_factorial(n) - expected).abs() <= 1e-12 * expected.max(1.0), "{n}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        for (marked, rest, size) in [(4, 4, 4), (3, 50, 10), (500, 4_500, 900), (40, 3, 30), (3_000, 2_000, 4_000)] {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(marked + 7 * size);
            let draws = 20_000;
            let mut seen = vec![0_u32; marked as usize + 1];
            (0..draws).for_each(|_| seen[draw(&mut random, marked, rest, size) as usize] += 1);
            let probability = |x: u64| {
                let ln = factorial::ln_binomial;
                (ln(marked, x) + ln(rest, size - x) - ln(marked + rest, size)).exp()
            };
            // neighbours pooled to at least 20 expected draws
            let (mut chi, mut cells, mut expected, mut found) = (0.0, 0.0_f64, 0.0, 0.0);
            for x in size.saturating_sub(rest)..=marked.min(size) {
                expected += probability(x) * f64::from(draws);
                found += f64::from(std::mem::take(&mut seen[x as usize]));
                if expected >= 20.0 {
                    chi += (found - expected) * (found - expected) / expected;
                    (cells, expected, found) = (cells + 1.0, 0.0, 0.0);
                }
            }
            assert!(seen.iter().all(|&left| left == 0), "a draw outside the support");
            // about p = 1e-4 by Wilson and Hilferty (1931)
            let freedom = (cells - 1.0).max(1.0);
            let limit = freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.72 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
            assert!(chi < limit, "{marked} {rest} {size}: {chi} > {limit}");
        }
    }

    #[test]
    fn forced_draws_need_no_chance() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        assert_eq!(draw(&mut random, 5, 0, 3), 3);
        assert_eq!(draw(&mut random, 0, 9, 3), 0);
        assert_eq!(draw(&mut random, 5, 4, 9), 5);
        assert_eq!(draw(&mut random, 0, 0, 0), 0);
    }
}
