//! What a candidate must reach beside being better: absolute bounds, and bounds on how much worse it may be.

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::table::{Measured, MetricTable, SliceFigures};
use crate::event::ModelVersion;
use crate::retrain::Verdict;
use crate::sample::Reason;

/// Fewest rows that a requirement is checked on.
const FEWEST: u64 = 30;

/// Rows that a candidate is evaluated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatedOn {
    /// Rows of the random lane that were labelled after the candidate was trained, weighted by the inverse of their inclusion
    /// probability: they stand for the live traffic.
    #[default]
    Live,
    /// The frozen audit set ([`PipelineBuilder::audit_set`](crate::PipelineBuilder::audit_set)), which nobody trains on.
    Audit,
    /// Base data and all batches. The candidate has seen them: they may condemn it, but nothing speaks for it there.
    Training,
}

impl std::fmt::Display for EvaluatedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EvaluatedOn::Live => "live rows",
            EvaluatedOn::Audit => "the audit set",
            EvaluatedOn::Training => "training rows",
        })
    }
}

/// How good is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    /// The metric itself: at least this, or at most, for a loss.
    Absolute(f64),
    /// At most so much worse than the served model.
    Worse(f64),
}

/// Which rows of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    All,
    Slice(String),
    EverySlice,
}

/// Something that a candidate must reach before it is promoted, beside what the [`Profile`](crate::Profile) asks.
///
/// On live rows and on the audit set it is met when the whole 95 % interval is on the good side of the bound, failed when the whole
/// interval is on the bad side, and open in between or on fewer than 30 rows: an open one holds the promotion back until there
/// are labels enough. The interval is for one look; after k label batches a requirement that is barely met has had k chances.
/// On training rows the figure itself decides, as their labels cannot be waited for.
///
/// # Examples
/// ```
/// use feedloop::{EvaluatedOn, Metric, Requirement};
/// let good = Requirement::new(Metric::Accuracy, 0.9);
/// let everywhere = Requirement::new(Metric::Accuracy, 0.8).in_every_slice();
/// let no_step_back = Requirement::no_worse(Metric::LogLoss, 0.02).on(EvaluatedOn::Audit);
/// assert_eq!(good.to_string(), "accuracy of at least 0.9 on live rows");
/// assert_eq!(no_step_back.to_string(), "log loss at most 0.02 worse than the served model's on the audit set");
/// # let _ = everywhere;
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    metric: Metric,
    bound: Bound,
    on: EvaluatedOn,
    part: Part,
}

impl Requirement {
    /// `metric` is at least `bound`; at most, if less of it is better.
    pub fn new(metric: Metric, bound: f64) -> Self {
        Requirement { metric, bound: Bound::Absolute(bound), on: EvaluatedOn::Live, part: Part::All }
    }

    /// `metric` is at most `margin` worse than the served model's on the same rows.
    pub fn no_worse(metric: Metric, margin: f64) -> Self {
        Requirement { bound: Bound::Worse(margin), ..Requirement::new(metric, margin) }
    }

    /// Checks it on these rows; on live ones unless told.
    pub fn on(mut self, rows: EvaluatedOn) -> Self {
        self.on = rows;
        self
    }

    /// Checks it in one slice, by name.
    pub fn in_slice(mut self, name: impl Into<String>) -> Self {
        self.part = Part::Slice(name.into());
        self
    }

    /// Checks it in every slice with at least 30 rows. It is open as long as there is none.
    pub fn in_every_slice(mut self) -> Self {
        self.part = Part::EverySlice;
        self
    }

    /// What is measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// On which rows.
    pub fn rows(&self) -> EvaluatedOn {
        self.on
    }

    /// Is the bound a finite number, and a margin at least 0?
    pub(crate) fn is_sensible(&self) -> bool {
        match self.bound {
            Bound::Absolute(bound) => bound.is_finite(),
            Bound::Worse(margin) => margin.is_finite() && margin >= 0.0,
        }
    }

    /// Checks it on `table`, where `candidate` is compared with `current`.
    pub(crate) fn check(
        &self,
        table: Option<&MetricTable>,
        candidate: ModelVersion,
        current: ModelVersion,
    ) -> Vec<Check> {
        let Some(table) = table else { return vec![self.open(None, 0, "they were not evaluated", None)] };
        match &self.part {
            Part::All => vec![self.check_part(None, &table.all, candidate, current)],
            Part::Slice(name) => vec![match table.slices.get(name) {
                Some(slice) => self.check_part(Some(name), slice, candidate, current),
                None => self.open(Some(name), 0, &format!("fewer than {FEWEST} rows"), None),
            }],
            Part::EverySlice if table.slices.is_empty() => {
                vec![self.open(None, 0, &format!("no slice has {FEWEST} rows"), None)]
            }
            Part::EverySlice => {
                let slices = table.slices.iter();
                slices.map(|(name, slice)| self.check_part(Some(name), slice, candidate, current)).collect()
            }
        }
    }

    fn open(&self, slice: Option<&str>, rows: u64, why: &str, missing_labels: Option<u64>) -> Check {
        Check {
            requirement: self.clone(),
            slice: slice.map(str::to_owned),
            outcome: Verdict::Inconclusive,
            rows,
            found: None,
            reason: why.to_owned(),
            missing_labels,
        }
    }

    fn check_part(
        &self,
        slice: Option<&str>,
        figures: &SliceFigures,
        candidate: ModelVersion,
        current: ModelVersion,
    ) -> Check {
        let rows = figures.rows;
        let found = match self.bound {
            Bound::Absolute(_) => figures.of(candidate, self.metric),
            Bound::Worse(_) => figures.difference(current, self.metric),
        };
        let Some(found) = found else { return self.open(slice, rows, "a model was not scored", None) };
        let Some(value) = found.value else {
            return self.open(slice, rows, found.reason.as_deref().unwrap_or("it is undefined"), None);
        };
        if rows < FEWEST {
            return self.open(slice, rows, &format!("{rows} of {FEWEST} rows"), Some(FEWEST - rows));
        }
        // More is better from here on, and the bound is 0.
        let sign = if self.metric.larger_is_better() { 1.0 } else { -1.0 };
        let above = |figure: f64| match self.bound {
            Bound::Absolute(bound) => sign * (figure - bound),
            Bound::Worse(margin) => sign * figure + margin,
        };
        let (first, last) = match (self.on, found.interval) {
            (EvaluatedOn::Training, _) => (value, value),
            (_, Some(ends)) => ends,
            (_, None) => return self.open(slice, rows, "the rows do not give it an interval", None),
        };
        let (low, high) = (above(first).min(above(last)), above(first).max(above(last)));
        let (outcome, missing_labels) = match (low, high) {
            (low, _) if low >= 0.0 => (Verdict::Pass, None),
            (_, high) if high < 0.0 => (Verdict::Fail, None),
            _ => (Verdict::Inconclusive, missing(rows, above(value), low)),
        };
        let reason = match found.interval.filter(|_| self.on != EvaluatedOn::Training) {
            Some((low, high)) => format!("{value:.4}, from {low:.4} to {high:.4} on {rows} rows"),
            None => format!("{value:.4} on {rows} rows"),
        };
        let (requirement, slice, found) = (self.clone(), slice.map(str::to_owned), Some(found.clone()));
        Check { requirement, slice, outcome, rows, found, reason, missing_labels }
    }
}

/// Labels still missing until the lower end of the interval, now at `low`, reaches 0, if the estimate stays at `value` and the
/// interval shrinks with the root of the number of rows; `None` if the estimate itself is not above 0.
fn missing(rows: u64, value: f64, low: f64) -> Option<u64> {
    if value.is_nan() || value <= 0.0 {
        return None;
    }
    let wanted = rows as f64 * ((value - low) / value).powi(2);
    // Beyond that nobody waits.
    (wanted < 1e9).then(|| (wanted.ceil() as u64).saturating_sub(rows).max(1))
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.metric.larger_is_better() { "least" } else { "most" };
        match self.bound {
            Bound::Absolute(bound) => write!(f, "{} of at {side} {bound}", self.metric)?,
            Bound::Worse(margin) => write!(f, "{} at most {margin} worse than the served model's", self.metric)?,
        }
        match &self.part {
            Part::All => {}
            Part::Slice(name) => write!(f, " in `{name}`")?,
            Part::EverySlice => f.write_str(" in every slice")?,
        }
        write!(f, " on {}", self.on)
    }
}

/// How a [`Requirement`] stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is required.
    pub requirement: Requirement,
    /// In which slice, if in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// Met, failed, or open.
    pub outcome: Verdict,
    /// Rows that it was checked on.
    pub rows: u64,
    /// The figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Measured>,
    /// What was found, or why nothing was.
    pub reason: String,
    /// Labels still missing if things go on as they are; `None` if nobody can foresee it or none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_labels: Option<u64>,
}

impl Check {
    /// The reason that it gives a verdict.
    pub(crate) fn as_reason(&self) -> Reason {
        let code = match self.outcome {
            Verdict::Pass => "requirement_met",
            Verdict::Fail => "requirement_failed",
            Verdict::Inconclusive => "requirement_open",
        };
        Reason::new(code, self.text())
    }

    fn text(&self) -> String {
        match &self.slice {
            Some(slice) => format!("{}, `{slice}`: {}", self.requirement, self.reason),
            None => format!("{}: {}", self.requirement, self.reason),
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_reason().fmt(f)
    }
}
