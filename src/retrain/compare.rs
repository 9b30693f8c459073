//! What two models say of the same row.

use serde::{Deserialize, Serialize};

use crate::event::{Label, predicted_label};
use crate::schema::Target;

/// How one model did against another on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Only the first is right, or it is nearer to the value.
    Win,
    /// Only the second is right, or it is nearer to the value.
    Loss,
    /// Both are right, both are wrong, or both are equally near.
    Tie,
}

impl Comparison {
    /// Compares two models' outputs for a row with its label. An unusable output is wrong, and infinitely far from
    /// every value.
    pub fn of(target: &Target, first: &[f64], second: &[f64], label: Label) -> Self {
        let miss = |output: &[f64]| match (predicted_label(target, output), label) {
            (Some(Label::Class(said)), Label::Class(truth)) => f64::from(said != truth),
            (Some(Label::Value(said)), Label::Value(truth)) => (said - truth).abs(),
            _ => f64::INFINITY,
        };
        let worst = if matches!(target, Target::Classes(_)) { 1.0 } else { f64::INFINITY };
        let (first, second) = (miss(first).min(worst), miss(second).min(worst));
        if first < second {
            Comparison::Win
        } else if first > second {
            Comparison::Loss
        } else {
            Comparison::Tie
        }
    }
}

/// Share of rows on which two models say different things; 0 without rows.
///
/// For values, a difference counts if it exceeds a twentieth of the standard deviation of the first model's values. Of
/// two unusable outputs neither differs from the other.
pub(crate) fn changed_share(target: &Target, first: &[f64], second: &[f64]) -> f64 {
    let width = target.output_width();
    let said =
        |outputs: &[f64]| -> Vec<_> { outputs.chunks_exact(width).map(|o| predicted_label(target, o)).collect() };
    let (first, second) = (said(first), said(second));
    let values: Vec<f64> = first.iter().flatten().map(|label| label.number()).collect();
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let differ = |pair: &(&Option<Label>, &Option<Label>)| match pair {
        (Some(Label::Value(a)), Some(Label::Value(b))) => (a - b).abs() > spread / 20.0,
        (a, b) => a != b,
    };
    first.iter().zip(&second).filter(differ).count() as f64 / first.len().max(1) as f64
}
