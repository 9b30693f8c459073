//! The full validation: base data, all batches and the audit set are scored at every run, before the candidate is judged.

use std::sync::Arc;

use super::super::Pipeline;
use super::super::outbox::parse;
use super::evaluation::{SALT, add, most_rows};
use super::rounds::Scored;
use super::training::row_key;
use super::{Phase, SEALED};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::{ModelVersion, PredictionId};
use crate::retrain::{Evaluation, JobStatus, LabelledRows, Manifest, RunId, Scores, Tabulate};
use crate::sample::{Reason, SampleState};
use crate::schema::Row;
use crate::stats::sampling::{Reservoir, keyed};
use crate::store::Kind;

/// Most rows of the audit set, and of base data and batches, that are scored. Of more, a draw by keyed hash.
const AUDIT_ROWS: usize = 10_000;
const TRAINING_ROWS: usize = 2_000;

/// The rows of the full validation while they are scored: those of the audit set first.
#[derive(Debug)]
pub(super) struct Validation {
    key: String,
    inputs: Arc<Vec<Row>>,
    audit: LabelledRows,
    training: LabelledRows,
    notes: Vec<Reason>,
}

/// Where a row of base data and batches is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Base(usize),
    Batch(PredictionId),
}

/// The draw from base data and batches.
pub(super) type TrainingDraw = Reservoir<Source>;

/// Offers the rows of a batch to the draw.
pub(super) fn draw_batch(drawn: &mut TrainingDraw, seed: u64, batch: &Manifest) {
    for id in &batch.samples {
        drawn.push(keyed(seed ^ SALT, id.bytes()), || Source::Batch(*id));
    }
}

impl Validation {
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

impl Pipeline {
    /// Base data, all batches and the audit set are scored before the candidate is judged.
    pub(super) fn start_validation(&mut self) -> Result<(), Error> {
        self.retraining.state.phase = Phase::Validating;
        self.save_loop(Vec::new())
    }

    pub(super) fn step_validating(&mut self) -> Result<bool, Error> {
        let Some((run, Some(candidate))) = self.retraining.state.run.as_ref().map(|run| (run.id, run.candidate)) else {
            return Err(Error::Corrupt("a validation without a candidate".into()));
        };
        let validation = match &self.retraining.validating {
            Some(validation) => validation.clone(),
            None => {
                self.draw_training()?;
                Arc::new(self.validation(run)?)
            }
        };
        self.retraining.validating = Some(validation.clone());
        let models = self.retraining.judged_models();
        let mut evaluation = self.new_evaluation(run, candidate);
        evaluation.notes = validation.notes.clone();
        if !validation.inputs.is_empty() {
            match self.poll_row_scores(&validation.key, &models, validation.inputs.clone())? {
                JobStatus::Running | JobStatus::Unknown => return Ok(false),
                JobStatus::Failed { reason, .. } => evaluation.notes.push(Reason::new("not_validated", reason)),
                JobStatus::Done(scores) => {
                    if let Some(Err(why)) = Scored::new(&scores, 1).outputs(candidate) {
                        self.retraining.validating = None;
                        let text = format!("{candidate} failed on base data, batches or the audit set: {why}");
                        return self.refuse(candidate, Reason::new("validation", text)).map(|()| true);
                    }
                    self.validated(&mut evaluation, &validation, &models, &scores);
                }
            }
        }
        self.retraining.validating = None;
        let write = self.save_evaluation(&evaluation, "open")?;
        self.outbox.join(vec![write]);
        self.retraining.evaluation = Some(evaluation);
        self.after_validation(candidate).map(|()| true)
    }

    /// Fills in what the models scored.
    fn validated(
        &self,
        evaluation: &mut Evaluation,
        validation: &Validation,
        models: &[ModelVersion],
        scores: &[Scores],
    ) {
        let width = self.schema.target().output_width();
        let cut = validation.audit.labels.len() * width;
        let (mut of_audit, mut of_training) = (Vec::new(), Vec::new());
        for model in models {
            match scores.iter().find(|scores| scores.model == *model).map(|scores| &scores.outputs) {
                Some(Ok(outputs)) if outputs.len() == validation.inputs.len() * width => {
                    of_audit.push((*model, &outputs[..cut]));
                    of_training.push((*model, &outputs[cut..]));
                }
                Some(Err(why)) => evaluation.notes.push(Reason::new("not_scored", format!("{model}: {why}"))),
                _ => evaluation.notes.push(Reason::new("not_scored", format!("{model}: the evaluator left it out"))),
            }
        }
        if of_training.first().map(|(model, _)| *model) != Some(evaluation.candidate) {
            return;
        }
        let tabulate = self.retraining.tabulate(&self.schema);
        let mut table = |tabulate: &Tabulate, rows: &LabelledRows, models: &[(ModelVersion, &[f64])]| {
            if rows.labels.is_empty() {
                return None;
            }
            let made = tabulate.table(rows, models);
            made.map_err(|error| evaluation.notes.push(Reason::new("not_measured", error.to_string()))).ok()
        };
        let audit = table(&tabulate, &validation.audit, &of_audit);
        // Intervals would promise what rows seen in training cannot hold.
        let training = table(&tabulate.repetitions(0), &validation.training, &of_training);
        (evaluation.audit, evaluation.training) = (audit, training);
    }

    /// Draws from base data and all batches, unless this process has: then only the batches since were offered.
    fn draw_training(&mut self) -> Result<(), Error> {
        if self.retraining.drawn.is_some() {
            return Ok(());
        }
        let seed = self.retraining.parts.seed;
        let mut drawn = TrainingDraw::new(most_rows(TRAINING_ROWS, self.schema.target().output_width()));
        for row in 0..self.base.as_ref().map_or(0, Dataset::len) {
            drawn.push(keyed(seed ^ SALT, &(row as u64).to_le_bytes()), || Source::Base(row));
        }
        self.outbox.each(Kind::Batch, SEALED, |record| {
            draw_batch(&mut drawn, seed, &parse(&record)?);
            Ok(())
        })?;
        self.retraining.drawn = Some(drawn);
        Ok(())
    }

    /// Chooses the rows of the full validation.
    fn validation(&self, run: RunId) -> Result<Validation, Error> {
        let (seed, width) = (self.retraining.parts.seed ^ SALT, self.schema.target().output_width());
        let mut inputs = Vec::new();
        let mut audit = LabelledRows::default();
        if let Some(set) = &self.retraining.parts.evaluation.audit_set {
            let mut chosen = Reservoir::new(most_rows(AUDIT_ROWS, width));
            (0..set.len()).for_each(|row| chosen.push(keyed(seed, &(row as u64).to_le_bytes()), || row));
            for (_, &row) in chosen.iter() {
                let slices = self.retraining.slices_of(&self.schema, &set.rows()[row]);
                add(&mut audit, set.labels()[row], set.weights()[row], slices);
                inputs.push(set.rows()[row].clone());
            }
        }
        let (mut training, mut gone) = (LabelledRows::default(), 0);
        for (_, source) in self.retraining.drawn.iter().flat_map(TrainingDraw::iter) {
            let (row, label, weight) = match (source, &self.base) {
                (Source::Base(row), Some(base)) => {
                    (base.rows()[*row].clone(), base.labels()[*row], base.weights()[*row])
                }
                (Source::Base(_), None) => continue,
                (Source::Batch(id), _) => {
                    // The label that counts now, not the one that it was sealed with: it may have been corrected.
                    let found = self.outbox.stored_sample(*id)?.and_then(|sample| {
                        let label = sample.label.as_ref()?.label?;
                        (sample.state == SampleState::Batched)
                            .then(|| (sample.observation.row.clone(), label, sample.weight))
                    });
                    let Some(found) = found else {
                        gone += 1;
                        continue;
                    };
                    found
                }
            };
            add(&mut training, label, weight, self.retraining.slices_of(&self.schema, &row));
            inputs.push(row);
        }
        let text = format!("{gone} of the rows that were drawn are not there or have no label any more");
        let notes = (gone > 0).then(|| Reason::new("rows_gone", text)).into_iter().collect();
        let key = row_key(&format!("{run}-validation"), inputs.iter());
        Ok(Validation { key, inputs: Arc::new(inputs), audit, training, notes })
    }

    /// What follows the full validation.
    fn after_validation(&mut self, candidate: ModelVersion) -> Result<(), Error> {
        let profile = self.retraining.parts.evaluator.as_ref().map(|evaluator| evaluator.profile().clone());
        self.after_smoke(candidate, profile)
    }
}
