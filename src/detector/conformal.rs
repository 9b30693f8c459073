//! Any score of novelty, with a threshold that holds its false-alarm rate.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Detector, Findings, Guard, GuardVerdict};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::Observation;
use crate::reference::{Half, Reference, ReferenceRow, References};
use crate::sample::{Cause, Flag};
use crate::stage::{Blind, Stage};
use crate::stats::quantile::conformal_threshold;

/// Most columns that a flag names.
const CAUSES: usize = 3;

/// What a score may look at: one row and what the model said about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowView<'a> {
    /// Numeric values in the order of [`Schema::value_columns`](crate::Schema::value_columns); NaN is missing.
    pub values: &'a [f64],
    /// Category codes in the order of [`Schema::code_columns`](crate::Schema::code_columns).
    pub codes: &'a [u32],
    /// Class probabilities, or value and interval; empty if unknown.
    pub output: &'a [f64],
}

impl<'a> From<&'a ReferenceRow> for RowView<'a> {
    fn from(row: &'a ReferenceRow) -> Self {
        RowView { values: &row.values, codes: &row.codes, output: &row.output }
    }
}

impl<'a> From<&'a Observation> for RowView<'a> {
    fn from(observation: &'a Observation) -> Self {
        RowView { values: observation.row.values(), codes: observation.row.codes(), output: observation.output() }
    }
}

/// How unusual a row is: the settings of a score, before it has seen a reference.
///
/// [`ConformalDetector`] makes a [`Detector`] of it, with the threshold, the p-values, the guard and the report of what it
/// cannot see.
pub trait NoveltyScore: Send + 'static {
    /// Name of the detector unless the user gives another.
    fn name(&self) -> &str;

    /// Fits the score on the **fit half** of a reference ([`Half::Fit`]): the other half calibrates the threshold. Pushes
    /// what it cannot see to `blind`; `None` if it can score no row at all (then `blind` says why).
    ///
    /// # Errors
    /// A setting is wrong, or the score cannot be fitted.
    fn fit(&self, references: &References, blind: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError>;
}

/// A fitted score, frozen: a score is a function of the row and of this model, never of other rows.
pub trait NoveltyModel: Send + Sync + 'static {
    /// The score of a row: the larger, the more unusual. NaN: this row cannot be scored, and is never flagged.
    /// `scratch` is memory to work in, whatever is in it.
    fn score(&self, row: RowView<'_>, scratch: &mut Vec<f64>) -> f64;

    /// The scores of a chunk, to the bit those of [`NoveltyModel::score`]; worth writing where columns are faster than rows.
    fn scores(&self, chunk: &Chunk<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        scratch.each_row(chunk, |row, work| self.score(row, work), out);
    }

    /// The columns behind a high score with their shares, in any order; those without a positive share are left out later.
    fn causes(&self, row: RowView<'_>, chunk: &Chunk<'_>) -> Vec<Cause> {
        let _ = (row, chunk);
        Vec::new()
    }

    /// The chance that an ordinary row scores at least `score`, if theory knows it: then it takes the place of the
    /// calibration half.
    fn tail(&self, score: f64) -> Option<f64> {
        let _ = score;
        None
    }
}

/// Memory that is kept between chunks.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// To be used at will.
    pub work: Vec<f64>,
    row: RowBuffer,
}

impl Scratch {
    /// The score of each row of a chunk, put together row by row.
    pub(super) fn each_row(
        &mut self,
        chunk: &Chunk<'_>,
        score: impl Fn(RowView<'_>, &mut Vec<f64>) -> f64,
        out: &mut [f64],
    ) {
        for (row, out) in out.iter_mut().enumerate() {
            *out = score(self.row.read(chunk, row), &mut self.work);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct RowBuffer {
    values: Vec<f64>,
    codes: Vec<u32>,
}

impl RowBuffer {
    /// Row `row` of a chunk, put together.
    fn read<'a>(&'a mut self, chunk: &Chunk<'a>, row: usize) -> RowView<'a> {
        let schema = chunk.schema();
        self.values.clear();
        self.values.extend((0..schema.value_columns().len()).map(|column| chunk.values(column)[row]));
        self.codes.clear();
        self.codes.extend((0..schema.code_columns().len()).map(|column| chunk.codes(column)[row]));
        RowView { values: &self.values, codes: &self.codes, output: chunk.output(row) }
    }
}

/// Flags rows whose score of novelty exceeds a threshold that follows from the stated false-alarm rate.
///
/// The score is fitted on the fit half of the training reference; its values on the other, held-out half make the threshold
/// and the p-value of a flag (split conformal prediction, Papadopoulos et al. 2002, Vovk et al. 2005).
///
/// **Guarantee**: a row that is exchangeable with the calibration rows is flagged with a probability of at most the rate,
/// marginally over the draw of these rows, whatever the distribution is and however bad the score. With m calibration
/// rows the smallest rate is 1/(m+1): below, the detector flags nothing and shows as blind with the number of rows it needs.
/// It does not hold after a drift, nor where the training data repeat rows (oversampling): their copies stand in both halves,
/// and calibration rows look more ordinary than rows of the stream ever will.
///
/// A score is a function of the row and the reference only; the [guard](Detector::guard) gives the same to the bit.
/// A row that cannot be scored is not flagged. **Memory**: that of the fitted score and 8 bytes per
/// calibration row (at most 33 KB); nothing grows with the stream, nothing is allocated unless a row is flagged.
///
/// # Examples
/// ```
/// use feedloop::{BoxError, Blind, ConformalDetector, NoveltyModel, NoveltyScore, References, RowView};
///
/// /// How far a row is from the origin.
/// struct Norm;
///
/// impl NoveltyScore for Norm {
///     fn name(&self) -> &str { "norm" }
///     fn fit(&self, _: &References, _: &mut Vec<Blind>) -> Result<Option<Box<dyn NoveltyModel>>, BoxError> {
///         Ok(Some(Box::new(Norm)))
///     }
/// }
///
/// impl NoveltyModel for Norm {
///     fn score(&self, row: RowView<'_>, _: &mut Vec<f64>) -> f64 {
///         row.values.iter().filter(|x| x.is_finite()).map(|x| x * x).sum()
///     }
/// }
///
/// let far = ConformalDetector::new(Norm).false_alarm_rate(0.01);
/// # let _ = far;
/// ```
#[derive(Clone)]
pub struct ConformalDetector<S> {
    name: Option<String>,
    pub(super) score: S,
    rate: f64,
    fitted: Option<Arc<Fitted>>,
    blind: Vec<Blind>,
    scratch: Scratch,
    scores: Vec<f64>,
}

struct Fitted {
    model: Box<dyn NoveltyModel>,
    threshold: f64,
    /// Ascending; empty if the model knows its tail.
    calibration: Vec<f64>,
}

impl<S: NoveltyScore + Default> Default for ConformalDetector<S> {
    /// The score's default settings and a false-alarm rate of 0.001.
    fn default() -> Self {
        ConformalDetector::new(S::default())
    }
}

impl<S: NoveltyScore> ConformalDetector<S> {
    /// A detector of `score` with a false-alarm rate of 0.001.
    pub fn new(score: S) -> Self {
        let (scratch, scores) = (Scratch::default(), Vec::new());
        ConformalDetector { name: None, score, rate: 0.001, fitted: None, blind: Vec::new(), scratch, scores }
    }

    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Share of ordinary rows that may be flagged: above 0, at most 0.5; 0.001 unless told.
    pub fn false_alarm_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// The score of a row; `None` before a reference was seen, or if the row cannot be scored.
    pub fn score(&self, row: RowView<'_>) -> Option<f64> {
        let score = self.fitted.as_ref()?.model.score(row, &mut Vec::new());
        (!score.is_nan()).then_some(score)
    }

    /// The conformal p-value of a score: the share of the calibration rows, the row itself counted with them, whose score
    /// is at least as high. `None` before a reference was seen.
    pub fn p_value(&self, score: f64) -> Option<f64> {
        self.fitted.as_ref().map(|fitted| fitted.p_value(score))
    }
}

impl Fitted {
    fn p_value(&self, score: f64) -> f64 {
        self.model.tail(score).unwrap_or_else(|| {
            let below = self.calibration.partition_point(|&calibration| calibration < score);
            (1 + self.calibration.len() - below) as f64 / (1 + self.calibration.len()) as f64
        })
    }

    fn flag(&self, chunk: &Chunk<'_>, row: usize, score: f64, view: RowView<'_>) -> Flag {
        let mut causes = self.model.causes(view, chunk);
        causes.retain(|cause| cause.share.is_finite() && cause.share > 0.0);
        causes.sort_by(|a, b| b.share.total_cmp(&a.share));
        causes.truncate(CAUSES);
        let p_value = Some(self.p_value(score));
        Flag { causes, p_value, ..Flag::new(chunk.ids()[row], score.min(f64::MAX), self.threshold) }
    }
}

/// The threshold that theory gives, by bisection; `None` if theory knows none.
fn analytic_threshold(model: &dyn NoveltyModel, rate: f64) -> Option<f64> {
    let (mut low, mut high) = (0.0, 1.0);
    while model.tail(high)? > rate && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if model.tail(middle)? > rate { low = middle } else { high = middle }
    }
    Some(high)
}

impl<S: NoveltyScore> Stage for ConformalDetector<S> {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.score.name())
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if !(self.rate > 0.0 && self.rate <= 0.5) {
            let text = format!("the false-alarm rate is {}, above 0 and at most 0.5 is allowed", self.rate);
            return Err(message(text));
        }
        self.fitted = None;
        self.blind.clear();
        let Some(model) = self.score.fit(references, &mut self.blind)? else { return Ok(()) };
        if let Some(threshold) = analytic_threshold(&*model, self.rate) {
            self.fitted = Some(Arc::new(Fitted { model, threshold, calibration: Vec::new() }));
            return Ok(());
        }
        let rows = references.training.half(Half::Calibration);
        let mut calibration: Vec<f64> = rows.map(|row| model.score(row.into(), &mut self.scratch.work)).collect();
        calibration.retain(|score| !score.is_nan());
        calibration.shrink_to_fit();
        calibration.sort_unstable_by(f64::total_cmp);
        let threshold = conformal_threshold(&calibration, self.rate);
        if threshold.is_none() {
            let needed = (1.0 / self.rate - 1e-9).ceil() - 1.0;
            self.blind.insert(
                0,
                Blind::all(format!(
                    "a false-alarm rate of {} needs {needed} calibration rows (about half of the training rows), there are {}",
                    self.rate,
                    calibration.len()
                )),
            );
        }
        // without a threshold nothing is ever flagged, but scores and p-values can be read
        let threshold = threshold.unwrap_or(f64::INFINITY);
        self.fitted = Some(Arc::new(Fitted { model, threshold, calibration }));
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        self.blind.clone()
    }
}

impl<S: NoveltyScore> Detector for ConformalDetector<S> {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let Some(fitted) = self.fitted.as_ref().filter(|fitted| fitted.threshold < f64::INFINITY) else {
            return Ok(());
        };
        self.scores.resize(chunk.len(), 0.0);
        fitted.model.scores(chunk, &mut self.scratch, &mut self.scores);
        for (row, &score) in self.scores.iter().enumerate() {
            if score > fitted.threshold {
                let view = self.scratch.row.read(chunk, row);
                findings.push(fitted.flag(chunk, row, score, view));
            }
        }
        Ok(())
    }

    fn guard(&self) -> Option<Arc<dyn Guard>> {
        let fitted = self.fitted.as_ref().filter(|fitted| fitted.threshold < f64::INFINITY)?;
        Some(Arc::clone(fitted) as Arc<dyn Guard>)
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

impl Guard for Fitted {
    fn check(&self, observation: &Observation) -> GuardVerdict {
        let score = SCRATCH.with_borrow_mut(|scratch| self.model.score(observation.into(), scratch));
        if score > self.threshold {
            GuardVerdict::Flag { score: score.min(f64::MAX), threshold: self.threshold }
        } else {
            GuardVerdict::Pass
        }
    }
}

/// Reports the columns that do not vary; false, with the reason, if no column does.
pub(super) fn report_blind(reference: &Reference, columns: &[usize], dimension: usize, blind: &mut Vec<Blind>) -> bool {
    let names = reference.schema().value_columns();
    let column = |&column: &usize| Blind::column(&names[column], "not computed: it does not vary in the training data");
    blind.extend(columns.iter().map(column));
    if dimension == 0 {
        blind.insert(0, Blind::all("no numeric column varies in the training data"));
    }
    dimension > 0
}

/// The numeric values of the fit half's sample.
pub(super) fn fit_rows(reference: &Reference) -> Vec<&[f64]> {
    reference.half(Half::Fit).map(|row| row.values.as_slice()).collect()
}

/// Each column with its share of the total.
pub(super) fn column_shares(parts: &[(usize, f64)], chunk: &Chunk<'_>) -> Vec<Cause> {
    let names = chunk.schema().value_columns();
    let total: f64 = parts.iter().map(|part| part.1).sum();
    parts.iter().map(|&(column, part)| Cause { column: names[column].clone(), share: part / total }).collect()
}

#[cfg(test)]
mod tests;
