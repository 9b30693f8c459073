//! P-values of Kolmogorov–Smirnov distances that were asked before.

use super::ks::{Method, p_value};

/// Window sizes that are remembered: missing values make it vary by a few.
const SIZES: u64 = 8;

/// What is known of the p-values against one reference, at a few sizes of the window.
///
/// For given sizes a p-value never rises with the distance: one p-value above a level answers for all smaller distances, one
/// below it for all larger ones.
#[derive(Clone, Debug)]
pub(crate) struct KnownPValues {
    n: u64,
    sizes: Box<[Known; SIZES as usize]>,
}

/// What is known at one size of the window; pairs of a distance and its p-value.
#[derive(Clone, Copy, Debug)]
struct Known {
    m: u64,
    method: Method,
    /// The last one above its level, and the last one not.
    above: (f64, f64),
    within: (f64, f64),
    /// The last one of [`Method::Auto`].
    last: (f64, f64),
}

impl Known {
    fn nothing(m: u64, method: Method) -> Self {
        Known { m, method, above: (0.0, 1.0), within: (f64::INFINITY, 0.0), last: (0.0, 1.0) }
    }
}

impl KnownPValues {
    /// Of references of `n` values.
    pub(crate) fn new(n: u64) -> Self {
        KnownPValues { n, sizes: Box::new([Known::nothing(0, Method::Auto); SIZES as usize]) }
    }

    /// Is the [`p_value`] of a distance at most `level`?
    pub(crate) fn is_within(&mut self, m: u64, d: f64, method: Method, level: f64) -> bool {
        let n = self.n;
        let known = self.of(m);
        if known.method != method {
            *known = Known::nothing(m, method);
        }
        if d <= known.above.0 && known.above.1 > level {
            return false;
        }
        if d >= known.within.0 && known.within.1 <= level {
            return true;
        }
        let p = match method {
            Method::Auto => self.p_value(m, d),
            method => p_value(n, m, d, method),
        };
        let known = self.of(m);
        *(if p > level { &mut known.above } else { &mut known.within }) = (d, p);
        p <= level
    }

    /// The [`p_value`] of a distance by [`Method::Auto`].
    pub(crate) fn p_value(&mut self, m: u64, d: f64) -> f64 {
        let n = self.n;
        let known = self.of(m);
        if known.last.0 != d {
            known.last = (d, p_value(n, m, d, Method::Auto));
        }
        known.last.1
    }

    fn of(&mut self, m: u64) -> &mut Known {
        let known = &mut self.sizes[(m % SIZES) as usize];
        if known.m != m {
            *known = Known::nothing(m, known.method);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_as_the_p_value_does_whatever_was_asked_before(
            n in 1..300_u64,
            asked in prop::collection::vec((1..40_u64, 0.0..1.0_f64, 0..4_i32, any::<bool>()), 1..200),
        ) {
            let mut known = KnownPValues::new(n);
            for (m, share, tens, exact) in asked {
                let d = (share * share * (n * m) as f64).round() / (n * m) as f64;
                let method = if exact { Method::Auto } else { Method::Asymptotic };
                let level = 0.3 * 10_f64.powi(-tens);
                prop_assert_eq!(known.is_within(m, d, method, level), p_value(n, m, d, method) <= level);
                prop_assert_eq!(known.p_value(m, d).to_bits(), p_value(n, m, d, Method::Auto).to_bits());
            }
        }
    }
}
