//! How far the columns of a batch lie from those of the training data.

use std::collections::BTreeMap;

use super::MOST_COLUMNS;
use crate::reference::Reference;
use crate::sample::Reason;
use crate::schema::Row;
use crate::stats::bins::Bins;
use crate::stats::categorical::homogeneity;
use crate::stats::divergence::Distance;
use crate::stats::ks::{Method, distance, p_value};
use crate::stats::pooled::{Pooled, sorted};

/// Chance, over all columns, that a batch of the training distribution has a column that counts as moved.
const LEVEL: f64 = 0.01;
/// Bins of the population stability index.
const BINS: usize = 10;

/// One column: by how much it moved, from 0 to 1, the probability of as much by chance, and the words for it.
struct Moved {
    effect: f64,
    p_value: f64,
    text: String,
}

/// A numeric column of the training data's sample, ready for the comparison.
#[derive(Debug, Clone)]
pub(super) struct Before {
    /// Its finite values.
    sorted: Vec<f64>,
    bins: Bins,
    /// How many of them lie in each bin.
    counts: Vec<u64>,
}

/// The numeric columns of `reference`; `None` for one without a finite value.
pub(super) fn before(reference: &Reference) -> Vec<Option<Before>> {
    let column = |at| {
        let sorted = sorted(&reference.column(at));
        let bins = Bins::new(&sorted, BINS)?;
        let counts = bins.count(&sorted);
        Some(Before { sorted, bins, counts })
    };
    (0..reference.schema().value_columns().len()).map(column).collect()
}

/// The columns that moved by more than chance explains, furthest first; `None` if there is none. `before` is that of the
/// same reference.
pub(super) fn moved(reference: &Reference, before: &[Option<Before>], rows: &[&Row]) -> Option<Reason> {
    let schema = reference.schema();
    let numbers = schema.value_columns().iter().zip(before).enumerate();
    let numbers = numbers.map(|(at, (name, before))| number(before.as_ref()?, rows, at, name));
    let codes = schema.code_columns().iter().enumerate().map(|(at, name)| category(reference, rows, at, name));
    let level = LEVEL / (schema.value_columns().len() + schema.code_columns().len()).max(1) as f64;
    let mut found: Vec<Moved> = numbers.chain(codes).flatten().filter(|moved| moved.p_value < level).collect();
    found.sort_by(|a, b| b.effect.total_cmp(&a.effect));
    let list: Vec<String> = found.iter().take(MOST_COLUMNS).map(|moved| moved.text.clone()).collect();
    let count = found.len();
    (count > 0).then(|| Reason::new("moved", format!("{count} columns by more than chance: {}", list.join(", "))))
}

/// Finite values against those of the reference's sample. Ties make the p-value too large, not too small.
fn number(before: &Before, rows: &[&Row], at: usize, name: &str) -> Option<Moved> {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.values().get(at).copied()).collect();
    let now = sorted(&values);
    let pooled = Pooled::new(&before.sorted, &now)?;
    let effect = distance(&pooled);
    let psi = Distance::Psi.between(&before.counts, &before.bins.count(&now))?;
    let p_value = p_value(pooled.n, pooled.m, effect, Method::Asymptotic);
    Some(Moved { effect, p_value, text: format!("`{name}` KS {effect:.3} (PSI {psi:.2})") })
}

/// Codes, missing and unseen ones included, against those of all rows of the reference.
fn category(reference: &Reference, rows: &[&Row], at: usize, name: &str) -> Option<Moved> {
    let mut counts: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
    for (code, count) in reference.code_counts(at) {
        counts.entry(*code).or_default()[0] += count;
    }
    for code in rows.iter().filter_map(|row| row.codes().get(at)) {
        counts.entry(*code).or_default()[1] += 1;
    }
    let side = |side: usize| counts.values().map(|pair| pair[side]).collect::<Vec<u64>>();
    let (before, now) = (side(0), side(1));
    let test = homogeneity(&before, &now)?;
    let psi = Distance::Psi.between(&before, &now)?;
    let effect = test.total_variation;
    let text = format!("`{name}` total variation {effect:.3} (PSI {psi:.2})");
    Some(Moved { effect, p_value: test.p_value, text })
}
