//! What [`LivePerformance`](super::LivePerformance) reports.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{Label, ModelVersion, PredictionId};
use crate::schema::Target;
use crate::stats::metrics::{Confusion, Metrics, auroc};

/// How good a model was, by label maturity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveReport {
    /// The model.
    pub model: ModelVersion,
    /// The time of the newest event.
    pub as_of: DateTime<Utc>,
    /// One entry per age, youngest first.
    pub maturities: Vec<Maturity>,
}

/// How good predictions were, judged by the truths that came within a certain time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Maturity {
    /// Age at which the truths were known, in whole seconds.
    pub seconds: i64,
    /// The predictions were made from here …
    pub from: DateTime<Utc>,
    /// … to before here.
    pub to: DateTime<Utc>,
    /// How many there were, labelled or not.
    pub predictions: u64,
    /// How many of them were labelled at that age.
    pub labelled: u64,
    /// Classification: how good these were. AUROC with two classes only.
    pub metrics: Metrics,
    /// Regression: the mean distance from the truth.
    pub mean_absolute_error: Option<f64>,
    /// Regression: the root of the mean squared distance.
    pub root_mean_squared_error: Option<f64>,
}

impl Maturity {
    /// How good these predictions were.
    pub(super) fn judge(target: Option<&Target>, judged: &[&Fate]) -> Self {
        let mut found = Maturity {
            seconds: 0,
            from: DateTime::UNIX_EPOCH,
            to: DateTime::UNIX_EPOCH,
            predictions: 0,
            labelled: judged.len() as u64,
            metrics: Metrics::default(),
            mean_absolute_error: None,
            root_mean_squared_error: None,
        };
        match target {
            Some(Target::Classes(names)) => found.metrics = classes(names.len(), judged),
            Some(Target::Value) => {
                let errors: Vec<_> = judged.iter().filter_map(|fate| fate.error()).collect();
                let count = errors.len() as f64;
                let mean = |sum: f64| (count > 0.0 && sum.is_finite()).then(|| sum / count);
                found.labelled = errors.len() as u64;
                found.mean_absolute_error = mean(errors.iter().sum());
                found.root_mean_squared_error = mean(errors.iter().map(|error| error * error).sum()).map(f64::sqrt);
            }
            None => {}
        }
        found
    }

    /// Share of the predictions that were labelled; `None` without predictions.
    pub fn labelled_share(&self) -> Option<f64> {
        (self.predictions > 0).then(|| self.labelled as f64 / self.predictions as f64)
    }
}

/// What became of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Fate {
    pub(super) prediction: PredictionId,
    pub(super) model: ModelVersion,
    pub(super) predicted: Option<Label>,
    pub(super) score: Option<f64>,
    pub(super) truth: Label,
    pub(super) predicted_at: i64,
    pub(super) known_at: i64,
}

impl Fate {
    /// Distance of a value from the truth.
    fn error(&self) -> Option<f64> {
        match (self.predicted?, self.truth) {
            (Label::Value(predicted), Label::Value(truth)) => Some((predicted - truth).abs()),
            _ => None,
        }
    }
}

fn classes(count: usize, judged: &[&Fate]) -> Metrics {
    let mut confusions = vec![Confusion::default(); count];
    let (mut right, mut scores) = (0.0, Vec::new());
    for fate in judged {
        for (class, confusion) in (0..).zip(&mut confusions) {
            let is = |label: Option<Label>| label == Some(Label::Class(class));
            confusion.push(is(fate.predicted), if is(Some(fate.truth)) { 1.0 } else { 0.0 });
        }
        right += if fate.predicted == Some(fate.truth) { 1.0 } else { 0.0 };
        if let (2, Some(score), Some(Label::Class(predicted))) = (count, fate.score, fate.predicted) {
            scores.push((if predicted == 1 { score } else { 1.0 - score }, fate.truth.number()));
        }
    }
    let accuracy = (!judged.is_empty()).then(|| right / judged.len() as f64);
    Metrics::new(&confusions, accuracy, auroc(&mut scores))
}
