//! Checks what was put together, and makes the pipeline of it.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::super::flow::Flow;
use super::super::isolated::{AsStage, Isolated};
use super::super::ledger::Ledger;
use super::super::outbox::Outbox;
use super::super::retraining::Retraining;
use super::super::shadow::Shadows;
use super::super::{Counters, Pipeline};
use super::PipelineBuilder;
use crate::chunk::ChunkBuffer;
use crate::detector::Findings;
use crate::error::Error;
use crate::event::ModelVersion;
use crate::reference::{Reference, References};
use crate::retrain::LabelFaults;
use crate::schema::{FieldKind, Target};
use crate::stage::isolate;
use crate::store::MemoryStore;

impl PipelineBuilder {
    /// Builds the pipeline: rebases every stage on the reference and takes over what an earlier process left in the store.
    ///
    /// # Errors
    /// [`Error::Build`] with every mistake that was found; a store that cannot be used; a stored state that does not fit.
    pub fn build(mut self) -> Result<Pipeline, Error> {
        let mut mistakes = std::mem::take(&mut self.mistakes);
        let reference = self.reference_or_fit(&mut mistakes);
        self.check_parts(&mut mistakes);
        self.check_evaluation(&mut mistakes);
        self.share_budget(&mut mistakes);
        self.check_label_faults(&mut mistakes);
        let references = References::starting_with(reference);
        let mut detectors: Vec<_> = self.detectors.into_iter().map(Isolated::new).collect();
        let mut gates: Vec<_> = self.gates.into_iter().map(Isolated::new).collect();
        let mut router = self.router.map(Isolated::new);
        rebase_all(&mut detectors, &references, &mut mistakes);
        rebase_all(&mut gates, &references, &mut mistakes);
        rebase_all(router.as_mut_slice(), &references, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Error::Build(mistakes));
        }
        let name: Arc<str> = self.name.into();
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let outbox = Outbox::new(store, name.clone(), self.schema.clone())?;
        let retraining = Retraining::new(self.parts, &self.schema, &references.training, self.clock.now());
        let mut pipeline = Pipeline {
            name,
            buffer: ChunkBuffer::new(&self.schema),
            now: DateTime::<Utc>::MIN_UTC,
            clock: self.clock,
            payload: self.payload,
            redaction: self.redaction,
            detectors,
            gates,
            router,
            trigger: self.trigger,
            references,
            cumulative_drift: Vec::new(),
            stage_model: ModelVersion::FIRST,
            ledger: Ledger::new(self.ledger, self.rows),
            shadows: Shadows::new(self.rows),
            findings: Findings::new(),
            drawn: Vec::new(),
            spare: Vec::new(),
            outbox,
            sequence: 0,
            counters: Counters::default(),
            flow: Flow::default(),
            retraining,
            base: self.base,
            poll_error: None,
            schema: self.schema,
            settings: self.settings,
        };
        pipeline.read_clock();
        pipeline.reopen_retraining()?;
        pipeline.reopen()?;
        pipeline.outbox.commit()?;
        Ok(pipeline)
    }

    fn reference_or_fit(&mut self, mistakes: &mut Vec<String>) -> Arc<Reference> {
        let fitted = match (&self.reference, &self.base) {
            (Some(reference), _) => Ok(reference.clone()),
            (None, Some(base)) => Reference::fit(base).map(Arc::new),
            (None, None) => {
                mistakes.push(
                    "a reference or the training data is needed: `.reference(..)` or `.training_data(..)`".into(),
                );
                Ok(Arc::new(Reference::builder(self.schema.clone()).finish()))
            }
        };
        let reference = fitted.unwrap_or_else(|error| {
            mistakes.push(error.to_string());
            Arc::new(Reference::builder(self.schema.clone()).finish())
        });
        let reference = match reference.schema().fingerprint() == self.schema.fingerprint() {
            true => reference,
            false => reference.carried(&self.schema).map(Arc::new).unwrap_or_else(|| {
                mistakes.push(format!(
                    "the reference has schema {}, the pipeline {}",
                    reference.schema().fingerprint(),
                    self.schema.fingerprint()
                ));
                reference
            }),
        };
        if let Some(base) = &self.base
            && base.schema().fingerprint() != self.schema.fingerprint()
        {
            mistakes.push("the training data has another schema than the pipeline".into());
        }
        reference
    }

    /// Gives each detector that can hold it an equal share of the budget.
    fn share_budget(&mut self, mistakes: &mut Vec<String>) {
        let Some(budget) = self.false_alarms_per_day else { return };
        if !(budget > 0.0 && budget.is_finite()) {
            mistakes.push(format!("false_alarms_per_day: {budget} was asked, a finite number above 0 is allowed"));
            return;
        }
        let mut give = |share: f64| {
            let mut holders = 0_u32;
            for detector in &mut self.detectors {
                match isolate(|| Ok(detector.alarm_budget(share))) {
                    Ok(holds) => holders += u32::from(holds),
                    Err(error) => mistakes.push(format!("`{}`: {error}", detector.name())),
                }
            }
            holders
        };
        match give(budget) {
            0 => mistakes.push(
                "false_alarms_per_day: no detector can hold the budget; each has a rate of its own, or raises no alarms at a stated rate"
                    .into(),
            ),
            1 => {}
            holders => drop(give(budget / f64::from(holders))),
        }
    }

    fn check_label_faults(&self, mistakes: &mut Vec<String>) {
        let Some(rules) = &self.parts.label_faults else { return };
        mistakes.extend(rules.mistakes());
        // The default rules say nothing about values.
        if !matches!(self.schema.target(), Target::Classes(_)) && *rules != LabelFaults::default() {
            mistakes.push("label_faults: labels that are values cannot be checked, only classes".into());
        }
    }

    fn check_parts(&mut self, mistakes: &mut Vec<String>) {
        let mut names: Vec<String> = self.detectors.iter().map(|stage| stage.name().to_owned()).collect();
        names.sort();
        let twice = |names: &[String]| names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
        if let Some(name) = twice(&names) {
            mistakes.push(format!("two detectors are called `{name}`"));
        }
        let mut names: Vec<String> = self.gates.iter().map(|stage| stage.name().to_owned()).collect();
        names.sort();
        if let Some(name) = twice(&names) {
            mistakes.push(format!("two gates are called `{name}`"));
        }
        if self.parts.evaluator.is_some() {
            if self.parts.first_model.is_none() {
                mistakes.push("an evaluator needs the served model to compare with: `.first_model(..)`".into());
            }
            if self.settings.explore <= 0.0 {
                mistakes.push("an evaluator judges on the random lane: `.explore(share)` must be above 0".into());
            }
        }
        if self.parts.deployer.is_some() && self.parts.evaluator.is_none() {
            mistakes.push("nothing is deployed without an evaluator: `.evaluate(..)`".into());
        }
        if let Some(segment) = self.segment.take() {
            let index = self.schema.field_index(&segment);
            match index.map(|index| self.schema.fields()[index].kind()) {
                Some(FieldKind::Category { .. }) => {
                    self.parts.segment = self.schema.code_columns().iter().position(|name| *name == segment);
                }
                Some(_) => mistakes.push(format!("segment_by: `{segment}` is not a category")),
                None => mistakes.push(format!("segment_by: there is no field `{segment}`")),
            }
        }
        if matches!(self.schema.target(), Target::Classes(names) if names.len() > 10_000) {
            mistakes.push("more than 10,000 classes".into());
        }
    }
}

fn rebase_all<S: ?Sized + AsStage>(stages: &mut [Isolated<S>], references: &References, mistakes: &mut Vec<String>) {
    for stage in stages {
        if let Err(error) = stage.rebase(references) {
            mistakes.push(format!("`{}`: {error}", stage.name));
        }
    }
}
