//! The distribution of a weighted sum of chi-square variables.

/// Steps of the quadrature per distance to the nearest singularity: the error is near exp(−2π · steps).
const STEPS: f64 = 6.0;

/// P(Σ wᵢ·χ²₁ > x) for weights ≥ 0; others count as 0. 1 when `x` ≤ 0 or NaN; 0 when no weight is positive.
///
/// The inversion integral of the Laplace transform along a parabola through the saddlepoint (Rice 1980; the saddlepoint as
/// in Kuonen 1999), by the trapezoidal rule: also a small tail keeps its digits.
pub(crate) fn upper_tail(weights: &[f64], x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 1.0;
    }
    let largest = weights.iter().copied().filter(|w| w.is_finite()).fold(0.0, f64::max);
    if largest <= 0.0 || x == f64::INFINITY {
        return 0.0;
    }
    // in units of the largest weight; what is too small to matter would only cost time
    let weights: Vec<f64> = weights.iter().map(|w| w / largest).filter(|w| *w > 1e-13 && *w <= 1.0).collect();
    let x = x / largest;
    let saddle = saddlepoint(&weights, x);
    let spread = (2.0 * weights.iter().map(|w| w * w).sum::<f64>()).sqrt();
    // the integrand has a pole at 0: pass it at a distance
    let least = (0.5 / spread).min(0.2);
    let start = if saddle.abs() >= least { saddle } else { least.copysign(saddle) };
    let rate = |w: f64| w / (1.0 - 2.0 * start * w);
    let second = 2.0 * weights.iter().map(|&w| rate(w).powi(2)).sum::<f64>();
    let third = 8.0 * weights.iter().map(|&w| rate(w).powi(3)).sum::<f64>();
    let bend = third / (6.0 * second);
    let step = (1.0 / second.sqrt()).min(start.abs()).min(0.5 - start) / STEPS;
    // ln of the transform at the start is taken out, so that nothing overflows
    let scale = -0.5 * weights.iter().map(|&w| (-2.0 * start * w).ln_1p()).sum::<f64>() - start * x;
    let (mut sum, mut largest) = (0.0, 0.0_f64);
    for i in 0..20_000_u32 {
        let t = f64::from(i) * step;
        let (re, im) = (start + bend * t * t, t);
        // −½·Σ ln(1 − 2sw), continuous along the path
        let (mut ln_square, mut angle) = (0.0, 0.0);
        for &w in &weights {
            let (a, b) = (1.0 - 2.0 * re * w, -2.0 * im * w);
            ln_square += (a * a + b * b).ln();
            angle += b.atan2(a);
        }
        let modulus = (-0.25 * ln_square - re * x - scale).exp();
        let phase = -0.5 * angle - im * x;
        // (cos + i·sin)·(i + 2·bend·t)/s, the imaginary part
        let (cos, sin) = (phase.cos(), phase.sin());
        let (top_re, top_im) = (2.0 * bend * t * cos - sin, cos + 2.0 * bend * t * sin);
        let square = re * re + im * im;
        sum += modulus * (top_im * re - top_re * im) / square * if i == 0 { 0.5 } else { 1.0 };
        let size = modulus * (1.0 + 2.0 * bend * t) / square.sqrt();
        largest = largest.max(size);
        if size < largest * 1e-17 {
            break;
        }
    }
    let integral = sum * step / std::f64::consts::PI * scale.exp();
    let upper = if start > 0.0 { integral } else { 1.0 + integral };
    if upper.is_nan() { 1.0 } else { upper.clamp(0.0, 1.0) }
}

/// The s below ½ where Σ w/(1 − 2sw) = x, for weights in (0, 1], by bisection with Newton steps.
fn saddlepoint(weights: &[f64], x: f64) -> f64 {
    // w = 1 alone gives s = (1 − 1/x)/2, all weights as 1 give s = (1 − k/x)/2: the root lies between
    let mut low = 0.5 * (1.0 - weights.len() as f64 / x);
    let mut high = 0.5 * (1.0 - 1.0 / x);
    let mut s = 0.5 * (low + high);
    for _ in 0..200 {
        let (mut value, mut slope) = (-x, 0.0);
        for &w in weights {
            let rate = w / (1.0 - 2.0 * s * w);
            value += rate;
            slope += 2.0 * rate * rate;
        }
        if value > 0.0 {
            high = s
        } else {
            low = s
        }
        let next = s - value / slope;
        let next = if next > low && next < high { next } else { 0.5 * (low + high) };
        if (next - s).abs() <= 1e-9 * (0.5 - s) {
            return next; // need not be exact: any point near it serves
        }
        s = next;
    }
    s
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::categorical::chi_square_upper;
    use crate::stats::golden::assert_close;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn equal_weights_are_a_chi_square() {
        for k in [1, 2, 3, 7, 30, 128, 500] {
            for weight in [1e-9, 0.3, 1.0, 40.0] {
                for share in [0.01, 0.3, 0.8, 0.99, 1.0, 1.01, 1.5, 3.0, 8.0] {
                    let x = share * f64::from(k);
                    let expected = chi_square_upper(x, k as usize);
                    let found = upper_tail(&vec![weight; k as usize], x * weight);
                    assert_close(found, expected, 1e-9, 1e-290, &format!("{k} {weight} {x}"));
                }
            }
        }
    }

    #[test]
    fn pairs_of_weights_are_a_sum_of_exponentials() {
        // Σ wⱼ·χ²₂ has the tail Σ exp(−x/(2wⱼ))·Π wⱼ/(wⱼ − wᵢ) (Box 1954)
        let weights = [1.0, 0.6, 0.25, 0.1];
        let twice: Vec<f64> = weights.iter().flat_map(|&w| [w, w]).collect();
        for x in [0.5, 1.0, 3.0, 3.9, 10.0, 40.0, 200.0] {
            let expected: f64 = weights
                .iter()
                .map(|&w| {
                    let others = weights.iter().filter(|&&v| v != w).map(|v| w / (w - v)).product::<f64>();
                    others * (-0.5 * x / w).exp()
                })
                .sum();
            assert_close(upper_tail(&twice, x), expected, 1e-11, 0.0, &format!("{x}"));
        }
    }

    #[test]
    fn a_mixture_matches_simulation() {
        let weights: Vec<f64> = (0..20).map(|i| 0.7_f64.powi(i)).collect();
        let mut random = StdRng::seed_from_u64(4);
        let runs = 40_000;
        let sums: Vec<f64> = (0..runs)
            .map(|_| {
                let pairs = weights.iter().map(|w| {
                    let radius = -2.0 * (1.0 - random.random::<f64>()).ln();
                    w * radius * (std::f64::consts::TAU * random.random::<f64>()).cos().powi(2)
                });
                pairs.sum()
            })
            .collect();
        for x in [1.0, 2.0, 3.3, 6.0, 10.0] {
            let share = sums.iter().filter(|&&s| s > x).count() as f64 / f64::from(runs);
            let p = upper_tail(&weights, x);
            assert!((p - share).abs() < 4.0 * (p * (1.0 - p) / f64::from(runs)).sqrt() + 1e-5, "{x}: {p} {share}");
        }
    }

    #[test]
    fn degenerate_sums_have_a_tail_too() {
        assert_eq!(upper_tail(&[], 1.0), 0.0);
        assert_eq!(upper_tail(&[0.0, f64::NAN, -1.0], 1.0), 0.0);
        assert_eq!(upper_tail(&[1.0], 0.0), 1.0);
        assert_eq!(upper_tail(&[1.0], f64::NAN), 1.0);
        assert_eq!(upper_tail(&[1.0], f64::INFINITY), 0.0);
    }

    proptest! {
        #[test]
        fn falls_with_x_and_stays_a_probability(
            weights in prop::collection::vec(0.001..5.0_f64, 1..30),
            x in 0.01..100.0_f64,
        ) {
            let (p, q) = (upper_tail(&weights, x), upper_tail(&weights, x * 1.1));
            prop_assert!((0.0..=1.0).contains(&p) && q <= p + 1e-12);
        }
    }
}
