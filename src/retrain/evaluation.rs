//! Evaluation: what models are measured by, what is demanded of a candidate, and the report on it.

mod figures;
mod metric;
mod report;
mod requirement;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use metric::{CostMatrix, Metric};
pub use report::Evaluation;
pub use requirement::{Check, EvaluatedOn, Requirement};
pub use table::{LabelledRows, Measured, MetricTable, ModelFigures, SliceFigures, Tabulate};
