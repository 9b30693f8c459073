//! The evaluation of a candidate: the full validation before it is judged, the live rows while it is, the stored report.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::Pipeline;
use super::rounds::Scored;
use super::training::row_key;
use super::{Phase, Retraining};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::{Label, ModelVersion, PredictionId};
use crate::retrain::{
    Check, CostMatrix, EvaluatedOn, Evaluation, Evidence, JobStatus, Judgement, LabelledRows, Manifest, MetricTable,
    Profile, Race, Requirement, Run, RunId, RunState, Scores, Tabulate, Verdict,
};
use crate::sample::{Reason, Sample, SampleState};
use crate::schema::{Row, Schema, hex, row_floats};
use crate::stage::isolate;
use crate::stats::sampling::{Reservoir, keyed};
use crate::store::{Indexed, Kind, Record, Store, Write};

/// Most rows of an evaluation: live ones, of the audit set, and of base data and batches. Of more, a draw by keyed hash.
const LIVE_ROWS: usize = 2_000;
const AUDIT_ROWS: usize = 10_000;
const TRAINING_ROWS: usize = 2_000;
/// Tells the draws of this file from other draws with the same seed.
const SALT: u64 = 0x6576_616c_7561_7465;

/// Is a row in a slice?
type InSlice = Box<dyn Fn(&Schema, &Row) -> bool + Send>;

/// What the host wants evaluated.
#[derive(Default)]
pub(in super::super) struct EvaluationSettings {
    pub(in super::super) requirements: Vec<Requirement>,
    pub(in super::super) costs: Option<CostMatrix>,
    pub(in super::super) audit_set: Option<Dataset>,
    pub(in super::super) slices: Vec<(String, InSlice)>,
}

/// A row of the random lane that judged the candidate, and what the models said of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LiveRow {
    id: PredictionId,
    label: Label,
    weight: f64,
    slices: Vec<String>,
    /// One output after the other, in the order of the models.
    #[serde(with = "row_floats")]
    outputs: Vec<f64>,
}

/// Those of one round.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LiveRows {
    models: Vec<ModelVersion>,
    rows: Vec<LiveRow>,
}

impl LiveRows {
    pub(super) fn new(models: Vec<ModelVersion>) -> Self {
        LiveRows { models, rows: Vec::new() }
    }

    /// Takes a row if every model has an output for it.
    pub(super) fn push(&mut self, sample: &Sample, label: Label, slices: &[String], row: usize, scored: &Scored<'_>) {
        let outputs: Option<Vec<&[f64]>> = self.models.iter().map(|model| scored.output(*model, row)).collect();
        if let Some(outputs) = outputs {
            self.rows.push(LiveRow {
                id: sample.id(),
                label,
                weight: 1.0 / sample.inclusion,
                slices: slices.to_vec(),
                outputs: outputs.concat(),
            });
        }
    }
}

/// The rows of the full validation while they are scored: those of the audit set first.
#[derive(Debug, Clone)]
pub(super) struct Validation {
    key: String,
    inputs: Arc<Vec<Row>>,
    audit: LabelledRows,
    training: LabelledRows,
    notes: Vec<Reason>,
}

/// The checks of the requirements, and at which round and row they were made.
pub(super) type Checked = (u32, u64, Vec<Check>);

fn empty() -> LabelledRows {
    LabelledRows::default()
}

fn add(rows: &mut LabelledRows, label: Label, weight: f64, slices: Vec<String>) {
    for slice in slices {
        rows.slices.entry(slice).or_default().push(rows.labels.len());
    }
    rows.labels.push(label);
    rows.weights.push(weight);
}

/// Keeps a draw of the rows, in an order that depends on their names only.
fn draw_live(seed: u64, rows: &mut Vec<LiveRow>) {
    rows.sort_by_cached_key(|row| (keyed(seed ^ SALT, row.id.bytes()), row.id));
    rows.truncate(LIVE_ROWS);
}

impl Retraining {
    /// The slices that a row is in: its segment's value, and those of the host's that say so.
    pub(super) fn slices_of(&self, schema: &Schema, row: &Row) -> Vec<String> {
        let segment = self.parts.segment.and_then(|column| {
            let code = *row.codes().get(column)?;
            schema.category_values(column).get(code as usize).cloned()
        });
        let named = self.parts.evaluation.slices.iter();
        let named = named.filter(|(_, holds)| isolate(|| Ok(holds(schema, row))).unwrap_or(false));
        segment.into_iter().chain(named.map(|(name, _)| name.clone())).collect()
    }

    fn tabulate(&self, schema: &Schema) -> Tabulate {
        let settings = &self.parts.evaluation;
        let mut tabulate = Tabulate::new(schema.target().clone()).seed(self.parts.seed ^ SALT);
        if let Some(costs) = &settings.costs {
            tabulate = tabulate.costs(costs.clone());
        }
        tabulate.also(settings.requirements.iter().map(Requirement::metric))
    }

    /// Candidate, served model, and the last kept one if it is a third.
    pub(super) fn judged_models(&self) -> Vec<ModelVersion> {
        let state = &self.state;
        let candidate = state.run.as_ref().and_then(|run| run.candidate);
        let mut models: Vec<_> = candidate.into_iter().chain([state.champion]).collect();
        models.extend(state.kept.filter(|kept| !models.contains(kept)));
        models
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
        let validation = match self.retraining.validating.take() {
            Some(validation) => validation,
            None => self.validation(run)?,
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
                    self.validated(&mut evaluation, &validation, &models, &scores)?;
                }
            }
        }
        self.retraining.validating = None;
        let write = self.save_evaluation(&evaluation, "open")?;
        self.outbox.push(vec![write]);
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
    ) -> Result<(), Error> {
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
        let tabulate = self.retraining.tabulate(&self.schema);
        let table = |tabulate: &Tabulate, rows: &LabelledRows, models: &[(ModelVersion, &[f64])]| {
            let made = (!rows.labels.is_empty()).then(|| tabulate.table(rows, models)).transpose();
            made.map_err(|source| crate::error::StageError { stage: "evaluation".into(), what: "measure", source })
        };
        evaluation.audit = table(&tabulate, &validation.audit, &of_audit)?;
        // Intervals would promise what rows seen in training cannot hold.
        evaluation.training = table(&tabulate.repetitions(0), &validation.training, &of_training)?;
        Ok(())
    }

    /// Chooses the rows of the full validation.
    fn validation(&self, run: RunId) -> Result<Validation, Error> {
        let seed = self.retraining.parts.seed ^ SALT;
        let mut inputs = Vec::new();
        let mut audit = empty();
        if let Some(set) = &self.retraining.parts.evaluation.audit_set {
            let mut chosen = Reservoir::new(AUDIT_ROWS);
            (0..set.len()).for_each(|row| chosen.push(keyed(seed, &(row as u64).to_le_bytes()), || row));
            for (_, &row) in chosen.iter() {
                let slices = self.retraining.slices_of(&self.schema, &set.rows()[row]);
                add(&mut audit, set.labels()[row], set.weights()[row], slices);
                inputs.push(set.rows()[row].clone());
            }
        }
        enum Source {
            Base(usize),
            Batch(PredictionId),
        }
        let mut chosen = Reservoir::new(TRAINING_ROWS);
        for row in 0..self.base.as_ref().map_or(0, Dataset::len) {
            chosen.push(keyed(seed, &(row as u64).to_le_bytes()), || Source::Base(row));
        }
        for batch in &self.retraining.state.batches {
            let Some(manifest) = self.outbox.read::<Manifest>(Kind::Batch, &batch.0)? else { continue };
            for id in manifest.samples {
                chosen.push(keyed(seed, id.bytes()), || Source::Batch(id));
            }
        }
        let (mut training, mut gone) = (empty(), 0);
        for (_, source) in chosen.iter() {
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

    fn new_evaluation(&self, run: RunId, candidate: ModelVersion) -> Evaluation {
        let profile = self.retraining.parts.evaluator.as_ref().map_or("", |evaluator| evaluator.profile().as_str());
        let champion = self.retraining.state.champion;
        let mut evaluation = Evaluation::new(run, self.now, profile, candidate, champion);
        evaluation.kept = self.retraining.judged_models().get(2).copied();
        evaluation
    }

    /// The evaluation of the run in flight as it was left: in memory, or in the store after a restart.
    fn open_evaluation(&self) -> Result<Evaluation, Error> {
        if let Some(evaluation) = &self.retraining.evaluation {
            return Ok(evaluation.clone());
        }
        let Some((run, Some(candidate))) = self.retraining.state.run.as_ref().map(|run| (run.id, run.candidate)) else {
            return Err(Error::Corrupt("an evaluation without a candidate".into()));
        };
        let stored = self.outbox.read(Kind::Evaluation, &run.to_string())?;
        Ok(stored.unwrap_or_else(|| self.new_evaluation(run, candidate)))
    }

    /// The write of a round's live rows, and the name that finds them again.
    pub(super) fn save_live_rows(&self, round: &str, mut live: LiveRows) -> Result<Option<(String, Write)>, Error> {
        let Some(run) = self.retraining.state.run.as_ref().filter(|_| !live.rows.is_empty()) else { return Ok(None) };
        draw_live(self.retraining.parts.seed, &mut live.rows);
        let name = format!("{}/{round}", run.id);
        let indexed = Indexed { state: "rows", rank: run.id.0 as i64, due: None };
        let write = self.outbox.json(Kind::Evaluation, &name, indexed, &live)?;
        Ok(Some((name, write)))
    }

    /// Metrics of the rows of the random lane that have judged the candidate.
    fn live_table(&self) -> Result<Option<MetricTable>, Error> {
        let (mut models, mut rows): (Option<Vec<ModelVersion>>, Vec<LiveRow>) = (None, Vec::new());
        for name in &self.retraining.state.live_rows {
            let Some(live) = self.outbox.read::<LiveRows>(Kind::Evaluation, name)? else {
                return Err(Error::Corrupt(format!("the evaluated rows `{name}` are not in the store")));
            };
            // A round in which another model was scored cannot be put beside the others.
            if *models.get_or_insert_with(|| live.models.clone()) == live.models {
                rows.extend(live.rows);
            }
        }
        draw_live(self.retraining.parts.seed, &mut rows);
        let Some(models) = models.filter(|_| !rows.is_empty()) else { return Ok(None) };
        let width = self.schema.target().output_width();
        let mut labelled = empty();
        let mut outputs = vec![Vec::with_capacity(rows.len() * width); models.len()];
        for row in rows {
            add(&mut labelled, row.label, row.weight, row.slices);
            outputs.iter_mut().zip(row.outputs.chunks(width)).for_each(|(all, output)| all.extend_from_slice(output));
        }
        let models: Vec<_> = models.iter().copied().zip(outputs.iter().map(Vec::as_slice)).collect();
        let table = self.retraining.tabulate(&self.schema).table(&labelled, &models);
        let table =
            table.map_err(|source| crate::error::StageError { stage: "evaluation".into(), what: "measure", source });
        Ok(Some(table?))
    }

    fn check_all(&self, evaluation: &Evaluation) -> Vec<Check> {
        let table = |requirement: &Requirement| match requirement.rows() {
            EvaluatedOn::Live => evaluation.live.as_ref(),
            EvaluatedOn::Audit => evaluation.audit.as_ref(),
            EvaluatedOn::Training => evaluation.training.as_ref(),
        };
        let (candidate, champion) = (evaluation.candidate, evaluation.champion);
        let requirements = self.retraining.parts.evaluation.requirements.iter();
        requirements.flat_map(|requirement| requirement.check(table(requirement), candidate, champion)).collect()
    }

    /// How the requirements stand; measured again only when a round has brought rows.
    pub(super) fn checks(&mut self, evidence: &Evidence) -> Result<Vec<Check>, Error> {
        if self.retraining.parts.evaluation.requirements.is_empty() {
            return Ok(Vec::new());
        }
        let at = (evidence.rounds, evidence.rows);
        if let Some((rounds, rows, checks)) = &self.retraining.checked
            && (*rounds, *rows) == at
        {
            return Ok(checks.clone());
        }
        let mut evaluation = self.open_evaluation()?;
        evaluation.live = self.live_table()?;
        let checks = self.check_all(&evaluation);
        self.retraining.checked = Some((at.0, at.1, checks.clone()));
        Ok(checks)
    }

    /// The evaluation as things stand, judged by the profile `confirm`.
    fn judged_evaluation(&self, evidence: &Evidence, judgement: Judgement) -> Result<Evaluation, Error> {
        let mut evaluation = self.open_evaluation()?;
        evaluation.time = self.now;
        evaluation.live = self.live_table()?;
        evaluation.checks = self.check_all(&evaluation);
        evaluation.judged(evidence.clone(), judgement);
        Ok(evaluation)
    }

    /// Stores the evaluation with its verdict, and links it from the run.
    pub(super) fn conclude(&mut self, evidence: &Evidence, judgement: Judgement) -> Result<(), Error> {
        let evaluation = self.judged_evaluation(evidence, judgement)?;
        self.store_final(&evaluation)
    }

    fn store_final(&mut self, evaluation: &Evaluation) -> Result<(), Error> {
        let write = self.save_evaluation(evaluation, "final")?;
        if let Some(run) = &mut self.retraining.state.run {
            run.evaluation = Some(hex(&Sha256::digest(&write.body)));
        }
        self.outbox.push(vec![write]);
        Ok(())
    }

    fn save_evaluation(&self, evaluation: &Evaluation, state: &'static str) -> Result<Write, Error> {
        let indexed = Indexed { state, rank: evaluation.run.0 as i64, due: None };
        self.outbox.json(Kind::Evaluation, &evaluation.run.to_string(), indexed, evaluation)
    }

    /// The verdict on the leader of a race: it passes unless a requirement says otherwise.
    pub(super) fn conclude_race(&mut self, leader: Reason) -> Result<(Verdict, Reason), Error> {
        let mut evaluation = self.open_evaluation()?;
        let checks = self.check_all(&evaluation);
        let worst =
            |outcome| checks.iter().find(|check| check.outcome == outcome).map(|check| (outcome, check.as_reason()));
        let (verdict, reason) = worst(Verdict::Fail)
            .or_else(|| worst(Verdict::Inconclusive))
            .unwrap_or_else(|| (Verdict::Pass, leader.clone()));
        evaluation.time = self.now;
        evaluation.reasons = std::iter::once(leader).chain(checks.iter().map(Check::as_reason)).collect();
        (evaluation.verdict, evaluation.checks) = (Some(verdict), checks);
        evaluation.race = Some(self.retraining.state.race.clone());
        self.store_final(&evaluation)?;
        Ok((verdict, reason))
    }

    /// The evaluation of a run's candidate: as it was stored with its verdict, or as it stands while it is judged. `None` if there
    /// is no such run or it has not come so far.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn evaluation(&self, run: RunId) -> Result<Option<Evaluation>, Error> {
        let state = &self.retraining.state;
        if let (Some(current), Some(evidence), Phase::Judging) = (&state.run, &state.evidence, &state.phase)
            && current.id == run
            && let Some(Profile::Confirm(rules)) = self.retraining.parts.evaluator.as_ref().map(|e| e.profile())
        {
            let mut evaluation = self.open_evaluation()?;
            evaluation.live = self.live_table()?;
            let judgement = evidence.judge_with(rules, 1, &self.check_all(&evaluation));
            return self.judged_evaluation(evidence, judgement).map(Some);
        }
        let Some(run) = self.run(run)? else { return Ok(None) };
        stored(&**self.store(), self.name(), &run)
    }

    /// What follows the full validation.
    fn after_validation(&mut self, candidate: ModelVersion) -> Result<(), Error> {
        let profile = self.retraining.parts.evaluator.as_ref().map(|evaluator| evaluator.profile().clone());
        self.after_smoke(candidate, profile)
    }

    /// Forgets what belongs to the run that has ended.
    pub(super) fn forget_evaluation(&mut self) {
        self.retraining.state.live_rows.clear();
        (self.retraining.evaluation, self.retraining.validating, self.retraining.checked) = (None, None, None);
    }

    /// Promotes, refuses or lets go the leader of a race.
    pub(super) fn settle_race(&mut self, candidate: ModelVersion, leader: Reason) -> Result<(), Error> {
        match self.conclude_race(leader)? {
            (Verdict::Pass, reason) => self.pass(candidate, reason),
            (Verdict::Fail, reason) => self.refuse(candidate, reason),
            (Verdict::Inconclusive, reason) => self.end_run(RunState::Inconclusive, reason),
        }
    }
}

/// The stored evaluation of `run`, also as earlier versions stored it.
pub(in super::super) fn stored(store: &dyn Store, pipeline: &str, run: &Run) -> Result<Option<Evaluation>, Error> {
    let found = store.get(pipeline, Kind::Evaluation, &run.id.to_string()).map_err(Error::store("read a record"))?;
    found.map(|record| parse(&record, run)).transpose()
}

fn parse(record: &Record, run: &Run) -> Result<Evaluation, Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Whole(Box<Evaluation>),
        Judged(Box<(Evidence, Judgement)>),
        Raced(Race),
    }
    let candidate = run.candidate.unwrap_or(run.base);
    let early = |profile| Evaluation::new(run.id, run.requested, profile, candidate, run.base);
    Ok(match super::super::outbox::parse(record)? {
        Stored::Whole(evaluation) => *evaluation,
        Stored::Judged(both) => {
            let mut evaluation = early("confirm");
            evaluation.judged(both.0, both.1);
            evaluation
        }
        Stored::Raced(race) => {
            let mut evaluation = early("adaptive");
            evaluation.verdict = Some(Verdict::Pass);
            evaluation.race = Some(race);
            evaluation
        }
    })
}
