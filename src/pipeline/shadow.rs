//! Predictions that the host made in the shadow: they join the served prediction of the same name, and spare the evaluator
//! from scoring its row again.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::Pipeline;
use crate::error::Error;
use crate::event::{ModelVersion, Observation, PredictionId};
use crate::retrain::Scores;
use crate::sample::{Sample, Shadow};

/// What models in the shadow said of the newest predictions that they were asked about. Memory: those of `most` predictions.
pub(super) struct Shadows {
    outputs: HashMap<PredictionId, Vec<Shadow>>,
    order: VecDeque<PredictionId>,
    most: usize,
}

impl Shadows {
    pub(super) fn new(most: usize) -> Self {
        Shadows { outputs: HashMap::new(), order: VecDeque::new(), most }
    }

    fn push(&mut self, id: PredictionId, shadow: Shadow) {
        let outputs = self.outputs.entry(id).or_default();
        if outputs.is_empty() {
            self.order.push_back(id);
        }
        add(outputs, shadow);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.outputs.remove(&oldest);
        }
    }

    /// Forgets what was said of a prediction.
    pub(super) fn forget(&mut self, id: PredictionId) {
        if self.outputs.remove(&id).is_some() {
            self.order.retain(|other| *other != id);
        }
    }

    pub(super) fn of(&self, id: PredictionId) -> &[Shadow] {
        self.outputs.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// The first output of a model counts.
fn add(shadows: &mut Vec<Shadow>, shadow: Shadow) {
    if shadows.iter().all(|known| known.model != shadow.model) {
        shadows.push(shadow);
    }
}

/// One output per model, if every one of them was recorded.
pub(super) type Recorded = Option<Vec<Vec<f64>>>;

impl Pipeline {
    /// A prediction made in the shadow: kept for the sample that its namesake is or becomes. One of a model that is not live
    /// is only counted.
    pub(super) fn take_shadow(&mut self, observation: Box<Observation>) -> Result<(), Error> {
        self.counters.shadow += 1;
        let (id, shadow) = (observation.id, Shadow { model: observation.model, output: observation.output().to_vec() });
        self.give_back(observation);
        if !self.retraining.is_live(shadow.model) {
            return Ok(());
        }
        if self.ledger.get(id).is_some_and(|entry| entry.lane.is_some())
            && let Some(sample) = self.outbox.sample(id)?
        {
            if sample.erased.is_some() {
                self.counters.after_erasure += 1;
                return Ok(());
            }
            let before = sample.shadows.len();
            add(&mut sample.shadows, shadow.clone());
            if sample.shadows.len() > before {
                self.outbox.touch(id);
            }
        }
        self.shadows.push(id, shadow);
        Ok(())
    }
}

/// What every one of `models` said in production about a served prediction; `None` if one of them said nothing.
pub(super) fn recorded(served: &Observation, shadows: &[Shadow], models: &[ModelVersion]) -> Recorded {
    let said = |model: &ModelVersion| {
        if served.model == *model {
            return Some(served.output().to_vec());
        }
        shadows.iter().find(|shadow| shadow.model == *model).map(|shadow| shadow.output.clone())
    };
    models.iter().map(said).collect()
}

/// The same of a sample.
pub(super) fn recorded_of(sample: &Sample, models: &[ModelVersion]) -> Recorded {
    recorded(&sample.observation, &sample.shadows, models)
}

/// Puts what was recorded in production and what was scored into one, row by row: `known` holds an entry per row, and `scored`
/// the rows without one, in order.
pub(super) fn merge(models: &[ModelVersion], width: usize, known: &[Recorded], scored: Vec<Scores>) -> Vec<Scores> {
    if known.iter().all(Option::is_none) {
        return scored;
    }
    let scores = |model, outputs| Scores { model, outputs, latency: None };
    let all = |(place, model): (usize, &ModelVersion)| {
        let theirs = scored.iter().find(|scores| scores.model == *model);
        let mut rest = match theirs.map(|scores| &scores.outputs) {
            Some(Err(why)) => return scores(*model, Err(why.clone())),
            Some(Ok(outputs)) => outputs.chunks_exact(width.max(1)),
            None => [].chunks_exact(1),
        };
        let mut outputs = Vec::with_capacity(known.len() * width);
        for row in known {
            match row {
                Some(said) => outputs.extend_from_slice(&said[place]),
                None => match rest.next() {
                    Some(output) => outputs.extend_from_slice(output),
                    None => return scores(*model, Err("it was not scored on every row".into())),
                },
            }
        }
        scores(*model, Ok(outputs))
    };
    models.iter().enumerate().map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_and_scored_rows_come_back_in_their_order() {
        let models = [ModelVersion(0), ModelVersion(3)];
        let known = [None, Some(vec![vec![0.1], vec![0.2]]), None];
        let scores = |model, outputs| Scores { model: ModelVersion(model), outputs, latency: None };
        let merged = merge(&models, 1, &known, vec![scores(0, Ok(vec![1.0, 2.0])), scores(3, Ok(vec![3.0, 4.0]))]);
        assert_eq!(merged, [scores(0, Ok(vec![1.0, 0.1, 2.0])), scores(3, Ok(vec![3.0, 0.2, 4.0]))]);
        let failed = merge(&models, 1, &known, vec![scores(0, Ok(vec![1.0, 2.0])), scores(3, Err("it fell".into()))]);
        assert_eq!(failed[1].outputs, Err("it fell".to_owned()), "a model that failed on a row failed");
        let short = merge(&models, 1, &known, vec![scores(0, Ok(vec![1.0]))]);
        assert!(short.iter().all(|scores| scores.outputs.is_err()), "{short:?}");
        let whole = merge(&models, 1, &known[1..2], Vec::new());
        assert_eq!(whole, [scores(0, Ok(vec![0.1])), scores(3, Ok(vec![0.2]))]);
    }

    #[test]
    fn the_oldest_shadows_are_forgotten() {
        let id = |n: u128| PredictionId::from_uuid(uuid::Uuid::from_u128(n));
        let shadow = |model| Shadow { model: ModelVersion(model), output: vec![0.5] };
        let mut shadows = Shadows::new(2);
        for n in 0..3 {
            shadows.push(id(n), shadow(1));
        }
        assert!(shadows.of(id(0)).is_empty());
        assert_eq!(shadows.of(id(2)), [shadow(1)]);
        shadows.push(id(2), Shadow { output: vec![0.7], ..shadow(1) });
        assert_eq!(shadows.of(id(2)), [shadow(1)], "the first output of a model counts");
        assert_eq!(shadows.order.len(), 2);
    }
}
