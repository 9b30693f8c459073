//! What [`LivePerformance`](super::LivePerformance) reports.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{Label, ModelVersion, PredictionId};
use crate::schema::Target;
use crate::stage::LiveMetric;
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

    /// The figures as metrics, named after the measure and this age.
    pub(super) fn named(&self) -> impl Iterator<Item = LiveMetric> {
        let age = match self.seconds {
            seconds if seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
            seconds if seconds % 3_600 == 0 => format!("{}h", seconds / 3_600),
            seconds if seconds % 60 == 0 => format!("{}min", seconds / 60),
            seconds => format!("{seconds}s"),
        };
        let values = [
            ("mean_absolute_error", self.mean_absolute_error),
            ("root_mean_squared_error", self.root_mean_squared_error),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let all = self.metrics.named().chain(values).filter(|(_, value)| value.is_finite());
        all.map(move |(name, value)| LiveMetric { name: format!("{name}@{age}"), value, rows: self.labelled })
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
    let (mut hits, mut predicted, mut truths) = (vec![0.0; count], vec![0.0; count], vec![0.0; count]);
    let add = |counts: &mut Vec<f64>, label: Option<Label>| {
        if let Some(Label::Class(class)) = label
            && let Some(count) = counts.get_mut(class as usize)
        {
            *count += 1.0;
        }
    };
    let mut scores = Vec::new();
    for fate in judged {
        add(&mut truths, Some(fate.truth));
        add(&mut predicted, fate.predicted);
        add(&mut hits, fate.predicted.filter(|label| *label == fate.truth));
        if let (2, Some(score), Some(Label::Class(predicted))) = (count, fate.score, fate.predicted) {
            scores.push((if predicted == 1 { score } else { 1.0 - score }, fate.truth.number()));
        }
    }
    let all = judged.len() as f64;
    let confusions: Vec<Confusion> = (0..count)
        .map(|class| {
            let (false_positive, false_negative) = (predicted[class] - hits[class], truths[class] - hits[class]);
            let true_negative = all - hits[class] - false_positive - false_negative;
            Confusion { true_positive: hits[class], false_positive, false_negative, true_negative }
        })
        .collect();
    let accuracy = (!judged.is_empty()).then(|| hits.iter().sum::<f64>() / all);
    Metrics::new(&confusions, accuracy, auroc(&mut scores))
}
