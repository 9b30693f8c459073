//! Tests of a numeric column.

use super::marginals::Ask;
use super::settings::{NumericTest, Settings};
use super::source::Answer;
use crate::stats::ks::{Method, p_value};
use crate::stats::ks_window::KsWindow;

/// Up to this product of two sample sizes the exact p-value costs little.
const SMALL: u64 = 20_000;

/// The reference of a numeric column, prepared for its test.
#[derive(Debug, Clone)]
pub(super) enum Numeric {
    Ks(KsWindow),
}

impl Numeric {
    /// Prepares the values of a reference (not finite = missing), or says why they cannot be compared.
    pub(super) fn new(mut values: Vec<f64>, settings: &Settings) -> Result<Self, &'static str> {
        values.retain(|value| value.is_finite());
        match values.first() {
            None => return Err("not computed: no value in the reference"),
            Some(first) if values.iter().all(|value| value == first) => {
                return Err("not computed: constant in the reference");
            }
            _ => {}
        }
        Ok(Numeric::Ks(KsWindow::new(&values, settings.window)))
    }

    /// Compares the values of a window, of which the first `old` are known already. The number of missing ones beside.
    pub(super) fn compare(&mut self, values: &[f64], old: usize, ask: Ask) -> (Option<Answer>, usize) {
        match self {
            Numeric::Ks(window) => {
                if old == 0 {
                    window.clear();
                }
                window.extend(values[old..].iter().copied());
                (ks(window, ask), window.missing())
            }
        }
    }

    /// The p-value of the newest window where [`Numeric::compare`] left it out.
    pub(super) fn late_p_value(&self) -> Option<f64> {
        match self {
            Numeric::Ks(window) => {
                let (n, m, d) = (window.reference_len(), window.compared() as u64, window.distance());
                (m > 0).then(|| p_value(n, m, d, Method::Asymptotic))
            }
        }
    }

    /// Is it a test by permutation?
    pub(super) fn permutes(&self) -> bool {
        false
    }

    /// What the effect is called in an alarm.
    pub(super) fn effect_name(&self) -> &'static str {
        "D"
    }
}

fn ks(window: &KsWindow, ask: Ask) -> Option<Answer> {
    let (n, m, d) = (window.reference_len(), window.compared() as u64, window.distance());
    if m == 0 {
        return None;
    }
    // the exact p-value may cost milliseconds: not where the approximate one is far above the level
    let hopeless = || n * m > SMALL && p_value(n, m, d, Method::Asymptotic) > 4.0 * ask.loose;
    let p_value = (d >= ask.minimum_effect && !hopeless()).then(|| p_value(n, m, d, Method::Auto));
    Some(Answer { test: 0, statistic: d, effect: d, p_value })
}
