//! The evaluation of a candidate: the live rows that judge it, how the requirements stand, and the stored report.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::Pipeline;
use super::rounds::Scored;
use super::{Phase, Retraining};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::event::{Label, ModelVersion, PredictionId};
use crate::retrain::{
    Check, CostMatrix, EvaluatedOn, Evaluation, Evidence, Judgement, LabelledRows, MetricTable, Profile, Requirement,
    RunId, RunState, Tabulate, Verdict,
};
use crate::sample::{Reason, Sample};
use crate::schema::{Row, Schema, hex, row_floats};
use crate::stage::isolate;
use crate::stats::sampling::keyed;
use crate::store::{Indexed, Kind, Store, Write};

/// Most live rows of an evaluation. Of more, a draw by keyed hash.
const LIVE_ROWS: usize = 2_000;
/// Most numbers that one model says about the rows of an evaluation: with many classes fewer rows are taken.
const NUMBERS: usize = 1_000_000;
/// Tells the draws of evaluations from other draws with the same seed.
pub(super) const SALT: u64 = 0x6576_616c_7561_7465;

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
                weight: if sample.inclusion > 0.0 { 1.0 / sample.inclusion } else { 1.0 },
                slices: slices.to_vec(),
                outputs: outputs.concat(),
            });
        }
    }
}

/// The checks of the requirements, and at which round and row they were made.
pub(super) type Checked = (u32, u64, Vec<Check>);

pub(super) fn add(rows: &mut LabelledRows, label: Label, weight: f64, slices: Vec<String>) {
    for slice in slices {
        rows.slices.entry(slice).or_default().push(rows.labels.len());
    }
    rows.labels.push(label);
    rows.weights.push(weight);
}

/// At most `most` rows, with outputs so wide.
pub(super) fn most_rows(most: usize, width: usize) -> usize {
    most.min(NUMBERS / width.max(1)).max(1)
}

/// Keeps a draw of the rows, in an order that depends on their names only.
fn draw_live(seed: u64, rows: &mut Vec<LiveRow>) {
    rows.sort_by_cached_key(|row| (keyed(seed ^ SALT, row.id.bytes()), row.id));
    let width = rows.first().map_or(0, |row| row.outputs.len());
    rows.truncate(most_rows(LIVE_ROWS, width));
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
        let mut names: Vec<String> = segment.into_iter().chain(named.map(|(name, _)| name.clone())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(super) fn tabulate(&self, schema: &Schema) -> Tabulate {
        let settings = &self.parts.evaluation;
        let mut tabulate = Tabulate::new(schema.target().clone()).seed(self.parts.seed ^ SALT);
        if let Some(costs) = &settings.costs {
            tabulate = tabulate.costs(costs.clone());
        }
        tabulate.also(settings.requirements.iter().map(Requirement::metric))
    }

    /// Forgets what belongs to the run that has ended, and gives up what was being scored for it.
    pub(super) fn forget_run(&mut self) {
        self.forget_tests();
        self.forget_comparison();
        self.pool.clear();
        (self.evaluation, self.checked, self.slow_smokes) = (None, None, 0);
    }

    /// Forgets what is known of the candidate, and of those before it.
    pub(super) fn forget_evidence(&mut self) {
        self.state.evidence = None;
        self.state.line.clear();
    }

    /// Gives up the smoke test or validation that is under way: one that is needed begins again.
    pub(super) fn forget_tests(&mut self) {
        let smoking = self.smoking.take().map(|(key, _)| key);
        let validating = self.validating.take().map(|validation| validation.key().to_owned());
        smoking.into_iter().chain(validating).for_each(|key| self.give_up(&key));
    }

    /// Gives up the look at disagreements that is under way.
    pub(super) fn forget_comparison(&mut self) {
        if let Some(comparing) = self.comparing.take() {
            self.give_up(&comparing.key);
        }
    }

    /// Nobody waits for these scores any more.
    pub(super) fn give_up(&mut self, key: &str) {
        if let Some(evaluator) = &mut self.parts.evaluator {
            // Whether it can be ended or not, its result is not asked for.
            let _ = isolate(|| evaluator.cancel(key));
        }
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
    pub(super) fn new_evaluation(&self, run: RunId, candidate: ModelVersion) -> Evaluation {
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

    /// The writes that empty the live rows of the run that ends: its evaluation holds what was measured on them.
    pub(super) fn spent_rows(&mut self) -> Result<Vec<Write>, Error> {
        let names = std::mem::take(&mut self.retraining.state.live_rows);
        let indexed = || Indexed { state: "spent", rank: 0, due: None };
        let empty = LiveRows::default();
        names.iter().map(|name| self.outbox.json(Kind::Evaluation, name, indexed(), &empty)).collect()
    }

    /// The writes that take a sample out of the live rows of the run in flight.
    pub(super) fn live_rows_without(&self, id: PredictionId) -> Result<Vec<Write>, Error> {
        let mut writes = Vec::new();
        for name in &self.retraining.state.live_rows {
            let Some(record) = self.outbox.record(Kind::Evaluation, name)? else { continue };
            let mut live: LiveRows = super::super::outbox::parse(&record)?;
            let before = live.rows.len();
            live.rows.retain(|row| row.id != id);
            if live.rows.len() < before {
                let indexed = Indexed { state: "rows", rank: record.rank, due: None };
                writes.push(self.outbox.json(Kind::Evaluation, name, indexed, &live)?);
            }
        }
        Ok(writes)
    }

    /// Metrics of the rows of the random lane that have judged the candidate.
    fn live_table(&self) -> Result<Option<MetricTable>, Error> {
        let mut rounds: Vec<LiveRows> = Vec::new();
        for name in &self.retraining.state.live_rows {
            let Some(live) = self.outbox.read(Kind::Evaluation, name)? else {
                return Err(Error::Corrupt(format!("the evaluated rows `{name}` are not in the store")));
            };
            rounds.push(live);
        }
        // The last kept model may have become the served one since.
        let mut models = rounds.first().map_or_else(Vec::new, |live| live.models.clone());
        models.retain(|model| rounds.iter().all(|live| live.models.contains(model)));
        let width = self.schema.target().output_width();
        let mut rows = Vec::new();
        for LiveRows { models: scored, rows: live } in rounds {
            for mut row in live {
                let of = |model: &ModelVersion| {
                    let at = scored.iter().position(|other| other == model)? * width;
                    row.outputs.get(at..at + width)
                };
                let outputs: Vec<&[f64]> = models.iter().filter_map(of).collect();
                row.outputs = outputs.concat();
                rows.push(row);
            }
        }
        draw_live(self.retraining.parts.seed, &mut rows);
        if rows.is_empty() {
            return Ok(None);
        }
        let mut labelled = LabelledRows::default();
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
        let checks = self.current_evaluation()?.checks;
        self.retraining.checked = Some((at.0, at.1, checks.clone()));
        Ok(checks)
    }

    /// The evaluation as things stand, before it is judged.
    fn current_evaluation(&self) -> Result<Evaluation, Error> {
        let mut evaluation = self.open_evaluation()?;
        evaluation.time = self.now;
        evaluation.live = self.live_table()?;
        evaluation.checks = self.check_all(&evaluation);
        Ok(evaluation)
    }

    /// Stores the evaluation with its verdict, and links it from the run.
    pub(super) fn conclude(&mut self, evidence: Evidence, judgement: Judgement) -> Result<(), Error> {
        let mut evaluation = self.current_evaluation()?;
        evaluation.judged(evidence, judgement);
        self.store_final(evaluation)
    }

    fn store_final(&mut self, mut evaluation: Evaluation) -> Result<(), Error> {
        evaluation.race = self.profile().as_ref().and_then(Profile::race).map(|_| self.retraining.state.race.clone());
        let write = self.save_evaluation(&evaluation, "final")?;
        if let Some(run) = &mut self.retraining.state.run {
            run.evaluation = Some(hex(&Sha256::digest(&write.body)));
        }
        self.outbox.join(vec![write]);
        Ok(())
    }

    pub(super) fn save_evaluation(&self, evaluation: &Evaluation, state: &'static str) -> Result<Write, Error> {
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
        self.store_final(evaluation)?;
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
            let mut evaluation = self.current_evaluation()?;
            let judgement = evidence.judge_with(rules, 1, &evaluation.checks);
            evaluation.judged(evidence.clone(), judgement);
            return Ok(Some(evaluation));
        }
        stored(&**self.store(), self.name(), run)
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

/// The stored evaluation of `run`.
pub(in super::super) fn stored(store: &dyn Store, pipeline: &str, run: RunId) -> Result<Option<Evaluation>, Error> {
    let found = store.get(pipeline, Kind::Evaluation, &run.to_string()).map_err(Error::store("read a record"))?;
    found.map(|record| super::super::outbox::parse(&record)).transpose()
}
