//! Drift of the inputs: column by column, window against reference.

use super::window::WindowDrift;
use super::window::marginals::Marginals;
use super::window::source::{Baseline, Levels, Numbers, Restored, Source};
use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::reference::References;
use crate::schema::FieldKind;
use crate::stage::Blind;

/// Drift of the inputs: every column of a window of observations against the serving reference.
///
/// Numeric columns by the two-sample Kolmogorov–Smirnov test (Kolmogorov 1933, Smirnov 1939), exact where the samples are
/// small, with ties taken into account; category columns by a test of homogeneity (Pearson's chi-square 1900 over common
/// levels, Fisher's exact test 1922 for each level). Other tests: [`NumericTest`](crate::NumericTest),
/// [`CategoryTest`](crate::CategoryTest). Windows, rates and the guarantee: [`WindowDrift`].
///
/// **Missing** and non-finite values are a mass of their own, with an exact test per column; in a category column, missing and
/// unseen are levels of their own. A numeric column that is constant or empty in the reference is blind ("not computed")
/// except for its missing share. Texts and timestamps are not looked at.
///
/// **Guarantee**: that of [`WindowDrift`]. The chi-square part is an approximation, kept to levels with 20 expected
/// observations. Category columns are compared with the counts of all rows of the reference, numeric columns with its sample.
///
/// **Memory**: per numeric column 8 bytes per observation of the window (sliding: 12) and up to 130 KB for the reference's sample; 4 bytes per
/// observation and category column. A snapshot holds the observations since the last test (of a sliding window: the window),
/// as JSON, which takes several times their memory.
///
/// # Examples
/// ```
/// use feedloop::{KsDrift, NumericTest};
/// let drift = KsDrift::default().window(2_000).false_alarms_per_day(0.1);
/// let spread = KsDrift::default().numeric_test(NumericTest::CramerVonMises).named("cramer_von_mises");
/// # let _ = (drift, spread);
/// ```
pub type KsDrift = WindowDrift<Inputs>;

/// The columns of the input; see [`KsDrift`].
#[derive(Debug, Clone, Default)]
pub struct Inputs(());

impl Source for Inputs {
    const NAME: &'static str = "ks_drift";
    const FORMAT: u32 = 2;
    type Tests = Marginals;
    type State = ();

    fn rebase(&mut self, references: &References) -> Result<Option<Baseline>, BoxError> {
        let reference = &references.serving;
        let (schema, rows) = (reference.schema(), reference.rows());
        let mut baseline = Baseline::default();
        for (column, name) in schema.value_columns().iter().enumerate() {
            let missing = (reference.missing_share(column) * rows as f64).round() as u64;
            baseline.numbers.push(Numbers { name: name.into(), values: reference.column(column), missing, rows });
        }
        for (column, name) in schema.code_columns().iter().enumerate() {
            let counts = reference.code_counts(column).iter().map(|(&code, &count)| (code, count));
            baseline.levels.push(Levels::new(name, schema.category_values(column).len(), counts));
        }
        let unseen = |kind: &FieldKind| matches!(kind, FieldKind::Text { .. } | FieldKind::Timestamp);
        for field in schema.fields().iter().filter(|field| unseen(field.kind())) {
            let reason = "not computed: texts and timestamps are not compared";
            baseline.blind.push(Blind::column(field.name(), reason));
        }
        Ok(Some(baseline))
    }

    fn read(&mut self, _: &Chunk<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn values<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [f64] {
        chunk.values(column)
    }

    fn codes<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [u32] {
        chunk.codes(column)
    }

    fn save(&self) {}

    fn load(&mut self, (): (), _: usize) -> Result<Restored, BoxError> {
        Ok(Restored::Same)
    }
}

#[cfg(test)]
mod tests;
