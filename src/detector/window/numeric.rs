//! Tests of a numeric column.

use super::marginals::Ask;
use super::settings::{NumericTest, Settings};
use super::source::Answer;
use crate::stats::bins::Bins;
use crate::stats::divergence::{Distance, binned_p_value};
use crate::stats::ks::{EXACT_TIED_CELLS, Method, p_value, p_value_with_ties};
use crate::stats::ks_known::KnownPValues;
use crate::stats::ks_window::KsWindow;
use crate::stats::pooled::{Pooled, sorted};
use crate::stats::{cramer_von_mises, wasserstein};
use statrs::function::erf::erfc;

/// Up to this product of two sample sizes the exact p-value costs little.
const SMALL: u64 = 20_000;

/// Bins of a reference.
const BINS: usize = 10;

const SEED: u64 = 0x6269_6e73_2066_6978;

/// Values beyond this would overflow the sums of a distance; they count as this far.
const FAR: f64 = 1e280;

/// Where the p-value of a quiet window would need permutations, it is computed as finely as this level asks.
const LATE_LEVEL: f64 = 0.05;

/// From this chance on that two values of a reference are equal, its ties are heavy.
const HEAVY_TIES: f64 = 0.01;

/// The reference of a numeric column, prepared for its test.
#[derive(Debug, Clone)]
pub(super) enum Numeric {
    /// Kolmogorov–Smirnov; `tied`: given the ties.
    Ks { window: KsWindow, known: KnownPValues, sliding: bool, tied: bool },
    /// Both samples in order.
    Ordered { reference: Vec<f64>, test: Ordered },
    /// Counts of bins.
    Binned { distance: Distance, bins: Bins, reference: Vec<u64>, counts: Vec<u64> },
}

/// A test of two samples in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ordered {
    /// Does it need permutations?
    CramerVonMises { permutes: bool },
    /// The unit of the effect.
    Wasserstein { scale: f64 },
}

impl Numeric {
    /// Prepares the values of a reference (not finite = missing), or says why they cannot be compared.
    pub(super) fn new(values: &[f64], settings: &Settings) -> Result<Self, &'static str> {
        let reference = sorted(values);
        match (reference.first(), reference.last()) {
            (Some(first), Some(last)) if first < last => {}
            (None, _) => return Err("not computed: no value in the reference"),
            _ => return Err("not computed: constant in the reference"),
        }
        let ordered = |reference: Vec<f64>, test| Ok(Numeric::Ordered { reference, test });
        let binned = |distance| match Bins::split(&reference, BINS, SEED) {
            Some((bins, reference)) => Ok(Numeric::Binned { distance, counts: reference.clone(), bins, reference }),
            None => Err("not computed: no value in the reference"),
        };
        match settings.numeric {
            NumericTest::KolmogorovSmirnov | NumericTest::KolmogorovSmirnovTies => {
                let tied = settings.numeric == NumericTest::KolmogorovSmirnovTies || heavily_tied(&reference);
                Ok(Numeric::Ks {
                    window: KsWindow::new(&reference, settings.window),
                    known: KnownPValues::new(reference.len() as u64),
                    sliding: settings.every.is_some(),
                    tied,
                })
            }
            NumericTest::CramerVonMises => {
                let distinct = reference.chunk_by(|a, b| a == b).count();
                let few = settings.window.min(reference.len()) < cramer_von_mises::LIMIT as usize;
                let permutes = few || cramer_von_mises::tied(distinct as u64, reference.len() as u64);
                ordered(reference, Ordered::CramerVonMises { permutes })
            }
            NumericTest::Wasserstein => {
                let reference: Vec<f64> = reference.iter().map(|value| value.clamp(-FAR, FAR)).collect();
                let scale = wasserstein::scale(&reference).ok_or("not computed: without spread in the reference")?;
                ordered(reference, Ordered::Wasserstein { scale })
            }
            NumericTest::PopulationStability => binned(Distance::Psi),
            NumericTest::JensenShannon => binned(Distance::JensenShannon),
            NumericTest::Hellinger => binned(Distance::Hellinger),
        }
    }

    /// Compares the values of a window, of which the first `old` are known already. The number of missing ones beside.
    pub(super) fn compare(&mut self, values: &[f64], old: usize, ask: Ask) -> (Option<Answer>, usize) {
        match self {
            Numeric::Ks { window, known, sliding, tied } => {
                if *sliding {
                    if old == 0 {
                        window.clear();
                    }
                    window.extend(values[old..].iter().copied());
                } else {
                    window.replace(values);
                }
                (ks(window, known, *tied, ask), window.missing())
            }
            Numeric::Ordered { reference, test } => {
                let window = sorted(values);
                let missing = values.len() - window.len();
                (test.compare(reference, window, ask), missing)
            }
            Numeric::Binned { distance, bins, reference, counts } => {
                counts.fill(0);
                bins.add(values, counts);
                // missing values have a test of their own
                let missing = counts.pop().unwrap_or(0);
                let answer = binned(*distance, &reference[..counts.len()], counts, ask);
                counts.push(missing);
                (answer, missing as usize)
            }
        }
    }

    /// The p-value of the newest window where [`Numeric::compare`] left it out, if it costs little; an approximation below the
    /// minimum effect.
    pub(super) fn late_p_value(&self, minimum_effect: f64) -> Option<f64> {
        match self {
            Numeric::Ks { window, tied, .. } => {
                let (n, m, d) = (window.reference_len(), window.compared() as u64, window.distance());
                (m > 0).then(|| match tied {
                    true => p_value_with_ties(&window.ties(), n, m, d, LATE_LEVEL, 0),
                    false if d >= minimum_effect => p_value(n, m, d, cheap_method(n, m)),
                    false => p_value(n, m, d, Method::Asymptotic),
                })
            }
            _ => None,
        }
    }

    /// Is it a test by permutation?
    pub(super) fn permutes(&self) -> bool {
        match self {
            Numeric::Ks { window, tied, .. } => {
                *tied && window.reference_len() * window.capacity() as u64 > EXACT_TIED_CELLS
            }
            Numeric::Ordered { test: Ordered::CramerVonMises { permutes }, .. } => *permutes,
            Numeric::Ordered { test: Ordered::Wasserstein { .. }, .. } | Numeric::Binned { .. } => true,
        }
    }

    /// What the effect is called in an alarm.
    pub(super) fn effect_name(&self) -> &'static str {
        match self {
            Numeric::Ks { .. } => "D",
            Numeric::Ordered { test: Ordered::CramerVonMises { .. }, .. } => "root mean square distance",
            Numeric::Ordered { test: Ordered::Wasserstein { .. }, .. } => "Wasserstein distance",
            Numeric::Binned { distance, .. } => distance_name(*distance),
        }
    }
}

impl Ordered {
    /// Compares samples in order.
    fn compare(self, reference: &[f64], mut window: Vec<f64>, ask: Ask) -> Option<Answer> {
        match self {
            Ordered::Wasserstein { scale } => {
                window.iter_mut().for_each(|value| *value = value.clamp(-FAR, FAR));
                let statistic = wasserstein::distance(reference, &window);
                let effect = statistic / scale;
                if effect < ask.minimum_effect || !ask.permutable() {
                    return (!window.is_empty()).then_some(Answer { test: 0, statistic, effect, p_value: None });
                }
                let pooled = Pooled::new(reference, &window)?;
                Some(Answer::of(wasserstein::test(&pooled, scale, ask.strict, ask.seed)))
            }
            Ordered::CramerVonMises { permutes } => {
                let pooled = Pooled::new(reference, &window)?;
                if permutes && !ask.permutable() {
                    let (statistic, effect) = cramer_von_mises::statistic_and_effect(&pooled);
                    return Some(Answer { test: 0, statistic, effect, p_value: None });
                }
                Some(Answer::of(cramer_von_mises::test(&pooled, ask.strict, ask.seed)))
            }
        }
    }
}

/// What a distance is called in an alarm.
pub(super) fn distance_name(distance: Distance) -> &'static str {
    match distance {
        Distance::Psi => "PSI",
        Distance::JensenShannon => "Jensen–Shannon distance",
        Distance::Hellinger => "Hellinger distance",
    }
}

/// Is the chance that two values of a sorted sample are equal above [`HEAVY_TIES`]?
fn heavily_tied(sorted: &[f64]) -> bool {
    let all = sorted.len() as f64;
    let pairs: f64 = sorted.chunk_by(|a, b| a == b).map(|equal| (equal.len() * (equal.len() - 1)) as f64).sum();
    pairs > HEAVY_TIES * all * (all - 1.0)
}

fn ks(window: &KsWindow, known: &mut KnownPValues, tied: bool, ask: Ask) -> Option<Answer> {
    let (n, m, d) = (window.reference_len(), window.compared() as u64, window.distance());
    if m == 0 {
        return None;
    }
    // the exact p-value may cost milliseconds: not where a cheaper one says that it is far above the level
    let mut within = || match (tied, cheap_method(n, m)) {
        (true, Method::Asymptotic) => p_at_the_middle(window, d) <= 4.0 * ask.loose,
        (true, _) => true,
        (false, Method::Asymptotic) => known.is_within(m, d, Method::Asymptotic, 4.0 * ask.loose),
        (false, exact) => known.is_within(m, d, exact, ask.loose),
    };
    let matters = d >= ask.minimum_effect && within();
    // what is announced as not computed costs nothing
    let starved = tied && n * m > EXACT_TIED_CELLS && !ask.permutable();
    let p_value = (matters && !starved).then(|| match tied {
        true => p_value_with_ties(&window.ties(), n, m, d, ask.strict, ask.seed),
        false => known.p_value(m, d),
    });
    Some(Answer { test: 0, statistic: d, effect: d, p_value })
}

/// The p-value of samples of any size that costs little: exact where these are small.
fn cheap_method(n: u64, m: u64) -> Method {
    if n * m <= SMALL { Method::Auto } else { Method::Asymptotic }
}

/// About the chance that the shares of both samples up to one value differ by `d`: the p-value over all values, given the
/// ties, is at least that.
fn p_at_the_middle(window: &KsWindow, d: f64) -> f64 {
    let share = window.middle_share();
    let variance = share * (1.0 - share) * (1.0 / window.reference_len() as f64 + 1.0 / window.compared() as f64);
    if variance > 0.0 { erfc(d / (2.0 * variance).sqrt()) } else { 0.0 }
}

/// Tests a distance of counts over the same cells by permutation.
pub(super) fn binned(distance: Distance, reference: &[u64], window: &[u64], ask: Ask) -> Option<Answer> {
    let statistic = distance.between(reference, window)?;
    if statistic < ask.minimum_effect || !ask.permutable() {
        return Some(Answer { test: 0, statistic, effect: statistic, p_value: None });
    }
    binned_p_value(distance, reference, window, ask.strict, ask.seed).map(Answer::of)
}
