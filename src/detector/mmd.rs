//! Drift of the inputs together: window against reference by their mean embeddings.

use ndarray::Array2;

use super::Reading;
use super::ks::Inputs;
use super::window::WindowDrift;
use super::window::rows::Rows;
use super::window::settings::Settings;
use super::window::source::{Answer, Baseline, Question, Restored, Source, Tests};
use crate::chunk::Chunk;
use crate::error::BoxError;
use crate::reference::References;
use crate::stage::Blind;
use crate::stats::fourier::{FourierFeatures, MeanEmbedding};

/// Frequencies of the kernel: more see finer and cost more.
const FREQUENCIES: usize = 64;

const SEED: u64 = 0x6d6d_645f_6472_6966;

/// What the reading of the one test is called.
const TOGETHER: &str = "numeric columns";

/// Drift of the numeric inputs together: also of what they have to do with each other, which no column shows for itself.
///
/// The maximum mean discrepancy of a Gaussian kernel (Gretton et al. 2012) by 64 random Fourier frequencies (Rahimi and Recht
/// 2007), seeded, on columns standardised by the reference; the bandwidth is the median distance of rows of the reference. The
/// p-value is analytic: under no change the statistic is a sum of chi-square variables, weighted by the eigenvalues of the
/// reference's embeddings. The effect is the discrepancy without what chance adds to it, from 0 to 1.41. Windows,
/// rates and the guarantee: [`WindowDrift`].
///
/// It says that something has changed, not where: [`KsDrift`](crate::KsDrift) beside it names the columns, and sees a change of
/// a single one of many columns earlier.
///
/// **Missing** and non-finite values count as the column's mean, and as a column of their own. **Not looked at**: category
/// columns, texts and timestamps. Of a column that is constant in the reference only the missing values are seen.
///
/// **Guarantee**: that of [`WindowDrift`], by the central limit theorem: an approximation that wants some 50 rows in
/// window and reference, and one chosen set of frequencies.
///
/// **Memory**: 8 bytes per observation of the window and column; 1 KB per column for the frequencies. **Time**: the work, 64
/// multiplications per value and 64 sines and cosines per observation, is done when a window is tested; a
/// [sliding](WindowDrift::sliding) one is computed anew each time.
///
/// # Examples
/// ```
/// use feedloop::MmdDrift;
/// let drift = MmdDrift::default().window(2_000).false_alarms_per_day(0.1);
/// # let _ = drift;
/// ```
pub type MmdDrift = WindowDrift<Together>;

/// The numeric columns of the input, row by row; see [`MmdDrift`].
#[derive(Debug, Clone, Default)]
pub struct Together(Inputs);

impl Source for Together {
    const NAME: &'static str = "mmd_drift";
    const FORMAT: u32 = 1;
    type Tests = Embedded;
    type State = ();

    fn rebase(&mut self, references: &References) -> Result<Option<Baseline>, BoxError> {
        let Some(mut baseline) = self.0.rebase(references)? else { return Ok(None) };
        let ignored = baseline.levels.drain(..);
        let reason = "not computed: categories have no distance";
        baseline.blind.extend(ignored.map(|column| Blind::column(column.name, reason)));
        Ok(Some(baseline))
    }

    fn read(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError> {
        self.0.read(chunk)
    }

    fn values<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [f64] {
        self.0.values(chunk, column)
    }

    fn codes<'a>(&'a self, chunk: &Chunk<'a>, column: usize) -> &'a [u32] {
        self.0.codes(chunk, column)
    }

    fn save(&self) {}

    fn load(&mut self, (): (), _: usize) -> Result<Restored, BoxError> {
        Ok(Restored::Same)
    }
}

/// The test of mean embeddings.
#[derive(Debug, Clone)]
pub struct Embedded {
    fitted: Option<(FourierFeatures, MeanEmbedding)>,
    /// Room for a row, its embedding, and the mean of all.
    row: Vec<f64>,
    embedding: Vec<f64>,
    mean: Vec<f64>,
}

impl Tests for Embedded {
    fn new(baseline: Baseline, _: &Settings) -> (Self, Vec<Blind>) {
        let columns = baseline.numbers.len();
        let rows = baseline.numbers.first().map_or(0, |column| column.values.len());
        let reference = Array2::from_shape_fn((rows, columns), |(row, column)| baseline.numbers[column].values[row]);
        let constant = |values: &[f64]| {
            let mut finite = values.iter().filter(|value| value.is_finite());
            let first = finite.next();
            finite.all(|value| Some(value) == first)
        };
        let reason = "not computed: constant or empty in the reference, only its missing values are seen";
        let still = baseline.numbers.iter().filter(|column| constant(&column.values));
        let blind = still.map(|column| Blind::column(&column.name, reason)).collect();
        let fitted = FourierFeatures::fit(reference.view(), FREQUENCIES, SEED).and_then(|features| {
            let mean = MeanEmbedding::fit(&features, reference.view())?;
            Some((features, mean))
        });
        let width = fitted.as_ref().map_or(0, |(features, _)| features.width());
        (Embedded { fitted, row: vec![0.0; columns], embedding: vec![0.0; width], mean: vec![0.0; width] }, blind)
    }

    fn count(&self) -> usize {
        usize::from(self.fitted.is_some())
    }

    fn compare(&mut self, rows: &Rows, _: Question, answers: &mut Vec<Answer>) {
        let Some((features, reference)) = &self.fitted else { return };
        self.mean.fill(0.0);
        let share = 1.0 / rows.len() as f64;
        let columns: Vec<&[f64]> = (0..self.row.len()).map(|column| rows.values(column)).collect();
        for row in 0..rows.len() {
            self.row.iter_mut().zip(&columns).for_each(|(cell, column)| *cell = column[row]);
            features.embed(&self.row, &mut self.embedding);
            self.mean.iter_mut().zip(&self.embedding).for_each(|(mean, part)| *mean += share * part);
        }
        answers.extend(reference.test(&self.mean, rows.len() as u64).map(Answer::of));
    }

    fn reading(&self, answer: &Answer) -> Reading {
        let Answer { statistic, p_value, effect, .. } = *answer;
        Reading { column: TOGETHER.into(), statistic, p_value, effect }
    }

    fn column(&self, _: &Answer) -> &str {
        TOGETHER
    }

    fn summary(&self, _: usize) -> String {
        "the columns together differ from".into()
    }

    fn text(&self, answer: &Answer) -> String {
        format!("{TOGETHER} (MMD {:.3}, p {:.1e})", answer.effect, answer.p_value.unwrap_or(1.0))
    }

    fn starved(&self, _: f64) -> Vec<Blind> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
