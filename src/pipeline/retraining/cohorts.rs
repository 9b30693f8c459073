//! What production says of the served version and of its predecessor, as it comes in.

use chrono::{DateTime, Utc};

use super::Retraining;
use crate::event::{Feedback, Label, ModelVersion, Observation, Opinion, predicted_probability};
use crate::retrain::maturity::Cohort;
use crate::schema::Target;

/// When a prediction was made, by which model, and what it said.
#[derive(Debug, Clone, Copy)]
pub(in crate::pipeline) struct Made {
    pub(in crate::pipeline) model: ModelVersion,
    pub(in crate::pipeline) time: DateTime<Utc>,
    pub(in crate::pipeline) predicted: Option<Label>,
}

impl Retraining {
    fn cohort(&mut self, model: ModelVersion) -> Option<&mut Cohort> {
        self.cohorts.iter_mut().find(|cohort| cohort.model == model)
    }

    /// The served version claims an accuracy for itself.
    pub(super) fn claims(&mut self, observation: &Observation, target: &Target) {
        let claimed = predicted_probability(target, observation.output()).filter(|p| (0.0..=1.0).contains(p));
        if let (Some(probability), Some(cohort)) = (claimed, self.cohort(observation.model)) {
            cohort.claimed = (cohort.claimed.0 + 1, cohort.claimed.1 + probability);
        }
    }

    /// The first truth about a prediction came.
    pub(in crate::pipeline) fn outcome_came(&mut self, made: Made, label: Label, now: DateTime<Utc>) {
        if let Some(cohort) = self.cohort(made.model) {
            cohort.outcomes.push(now - made.time, loss(made.predicted, label));
        }
    }

    /// A user spoke.
    pub(in crate::pipeline) fn feedback_came(&mut self, made: Made, feedback: &Feedback, now: DateTime<Utc>) {
        let discontent = match feedback.opinion {
            Opinion::Rejection => 1.0,
            Opinion::Rating(rating) => 1.0 - rating,
            Opinion::Correction(label) => f64::from(made.predicted != Some(label)),
        };
        if let Some(cohort) = self.cohort(made.model) {
            cohort.feedback.push(now - made.time, discontent);
        }
    }

    /// Another version serves: its cohort and that of the version before it are kept.
    pub(super) fn cohorts_change(&mut self, from: ModelVersion, to: ModelVersion) {
        let cohorts = std::mem::take(&mut self.cohorts);
        let known = |model| cohorts.iter().find(|cohort| cohort.model == model).cloned();
        self.cohorts = [to, from].map(|model| known(model).unwrap_or_else(|| Cohort::new(model))).into();
    }

    /// The cohorts for a checkpoint.
    pub(in crate::pipeline) fn cohorts(&self) -> &[Cohort] {
        &self.cohorts
    }

    /// Takes over the cohorts of a checkpoint, which may be older than the last change of the champion.
    pub(in crate::pipeline) fn restore_cohorts(&mut self, cohorts: Vec<Cohort>) {
        self.cohorts = cohorts;
        let champion = self.state.champion;
        if self.cohorts.first().is_none_or(|cohort| cohort.model != champion) {
            self.cohorts_change(self.state.previous.unwrap_or(champion), champion);
        }
    }

    /// The served version beside the one before it.
    pub(super) fn maturity(&self) -> Option<String> {
        match self.cohorts.as_slice() {
            [served, before, ..] if served.model != before.model => served.against(before),
            _ => None,
        }
    }
}

/// 1 for a wrong class or none, the distance for a value.
fn loss(predicted: Option<Label>, truth: Label) -> f64 {
    match (predicted, truth) {
        (Some(Label::Value(said)), Label::Value(truth)) => (said - truth).abs(),
        (said, Label::Class(_)) => f64::from(said != Some(truth)),
        _ => f64::NAN,
    }
}
