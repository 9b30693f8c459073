//! Training of the challengers, and the smoke test of the one that is chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::Pipeline;
use super::models::job_key;
use super::rounds::Scored;
use super::{Job, Phase};
use crate::dataset::Dataset;
use crate::error::{Error, StageError};
use crate::event::{Label, ModelVersion, predicted_label};
use crate::reference::Reference;
use crate::retrain::compare::changed_share;
use crate::retrain::recipe::compose;
use crate::retrain::{Comparison, Evidence, JobStatus, ModelRecord, Paired, Profile, Race, Recipe, RunState, TrainJob};
use crate::sample::Reason;
use crate::schema::Row;
use crate::stage::isolate;
use crate::store::{Indexed, Kind, Write};

/// Live rows of a smoke test.
const SMOKE_ROWS: usize = 500;
/// Fewest and most training rows of a smoke test.
const TRAINED_ROWS: (usize, usize) = (60, 300);
/// Smoke tests in a row by which a candidate must be too slow to be refused.
const SLOW_SMOKES: u32 = 3;
/// A candidate that is probably worse even on labels that it was trained on is broken.
const BROKEN: f64 = 0.99;

impl Pipeline {
    pub(super) fn profile(&self) -> Option<Profile> {
        self.retraining.parts.evaluator.as_ref().map(|evaluator| evaluator.profile().clone())
    }

    pub(super) fn start_training(&mut self) -> Result<(), Error> {
        let Some(run) = self.retraining.state.run.as_ref().map(|run| run.id) else {
            return Err(Error::Corrupt("no run is in flight".into()));
        };
        let mut recipes = vec![Recipe::All];
        self.retraining.state.shares.clear();
        if let Some(rules) = self.profile().as_ref().and_then(Profile::race) {
            let state = &mut self.retraining.state;
            if state.race_models.is_empty() {
                state.race = Race::new(Recipe::RACING.map(Recipe::as_str).into_iter().chain([Race::KEEP]));
            }
            // Labels may judge the recipes meanwhile: the run keeps the shares that it started with.
            state.shares = state.race.shares(rules);
            recipes = Recipe::RACING.into_iter().chain([Recipe::Blend]).collect();
        }
        let mut jobs = Vec::new();
        for recipe in recipes {
            let data = self.training_data(recipe)?;
            let dataset = self.dataset_version(recipe, &data)?;
            let (key, digest) = (job_key(run, recipe), dataset.digest.clone());
            jobs.push(Job { key, recipe, digest, dataset: Some(dataset), version: None, failed: None });
        }
        let text = jobs.iter().map(|job| job.recipe.as_str()).collect::<Vec<_>>().join(", ");
        let write = self.run_becomes(RunState::Training, Reason::new("training", text))?;
        self.retraining.state.phase = Phase::Training(jobs);
        self.save_loop(vec![write])
    }

    fn training_data(&self, recipe: Recipe) -> Result<Dataset, Error> {
        let retraining = &self.retraining;
        let cap = retraining.parts.training_rows;
        Ok(compose(recipe, self.base.as_ref(), &retraining.taught.newest(cap)?, cap, &retraining.state.shares)?)
    }

    /// Starts jobs that nobody knows, takes the results of those that ended.
    pub(super) fn step_training(&mut self, mut jobs: Vec<Job>) -> Result<bool, Error> {
        let Some(run) = self.retraining.state.run.clone() else { return Ok(false) };
        let failed = |what| move |source| StageError { stage: "trainer".into(), what, source };
        let racing = jobs.iter().any(|job| job.recipe != Recipe::Blend && job.is_open());
        let trained: Vec<(Recipe, ModelVersion)> =
            jobs.iter().filter_map(|job| Some((job.recipe, job.version?))).collect();
        for job in jobs.iter_mut().filter(|job| job.is_open()) {
            if racing && job.recipe == Recipe::Blend {
                continue;
            }
            let Some(trainer) = &mut self.retraining.parts.trainer else { return Ok(false) };
            let mut status = isolate(|| trainer.poll(&job.key)).map_err(failed("report on a job"))?;
            if status == JobStatus::Unknown {
                let data = Arc::new(self.training_data(job.recipe)?);
                if data.digest() != job.digest {
                    // The key stands for what was decided: nothing else is trained under it.
                    job.failed = Some("the training data is not what it was when the run began".into());
                    return self.job_ended(jobs, Vec::new());
                }
                let dataset = match &job.dataset {
                    Some(dataset) => dataset.clone(),
                    // An earlier version has begun this run.
                    None => self.dataset_version(job.recipe, &data)?,
                };
                job.dataset = Some(dataset.clone());
                let dataset = self.with_batches(&dataset)?;
                let directory = self.retraining.parts.directory.as_ref().map(|directory| directory.join(&job.key));
                let seed = self.retraining.parts.seed ^ run.id.0;
                let key = job.key.clone();
                let members = self.retraining.members(job.recipe, &trained);
                let train = TrainJob { key, run: run.id, recipe: job.recipe, data, dataset, members, seed, directory };
                self.outbox.check_place()?;
                let Some(trainer) = &mut self.retraining.parts.trainer else { return Ok(false) };
                status = match isolate(|| trainer.start(train)) {
                    Ok(()) => isolate(|| trainer.poll(&job.key)).map_err(failed("report on a job"))?,
                    Err(error) => JobStatus::Failed { reason: error.to_string(), log: String::new() },
                };
            }
            match status {
                JobStatus::Unknown | JobStatus::Running => {}
                JobStatus::Failed { reason, log } => {
                    job.failed = Some(if log.is_empty() { reason } else { format!("{reason}; log: {log}") });
                    return self.job_ended(jobs, Vec::new());
                }
                JobStatus::Done(trained) => {
                    let dataset = job.dataset.as_ref().map(|dataset| self.with_batches(dataset)).transpose()?;
                    let state = &mut self.retraining.state;
                    let version = ModelVersion(state.next_version);
                    state.next_version += 1;
                    job.version = Some(version);
                    let record = ModelRecord {
                        version,
                        artifact: trained.artifact,
                        run: Some(run.id),
                        recipe: Some(job.recipe),
                        base: Some(run.base),
                        batch: state.last_batch.clone(),
                        digest: Some(job.digest.clone()),
                        dataset,
                        trained: self.now,
                        quarantined: None,
                        removed: None,
                    };
                    let mut writes = self.retraining.save_model(&self.outbox, &record)?;
                    self.retraining.models.insert(version, record);
                    if let Some(run) = &mut self.retraining.state.run {
                        run.models.push(version);
                        let run = run.clone();
                        writes.push(self.retraining.save_run(&self.outbox, &run)?);
                    }
                    return self.job_ended(jobs, writes);
                }
            }
        }
        if jobs.iter().any(Job::is_open) {
            self.retraining.state.phase = Phase::Training(jobs);
            return Ok(false);
        }
        self.choose(&jobs)?;
        Ok(true)
    }

    /// Writes the end of a job down at once: its trainer may have forgotten it by now, and would begin it again.
    fn job_ended(&mut self, jobs: Vec<Job>, writes: Vec<Write>) -> Result<bool, Error> {
        self.retraining.state.phase = Phase::Training(jobs);
        self.save_loop(writes).map(|()| true)
    }

    /// Chooses the candidate among the models that were trained: the leading recipe's, or the only one.
    fn choose(&mut self, jobs: &[Job]) -> Result<(), Error> {
        let mut notes = Vec::new();
        for job in jobs {
            if let Some(why) = &job.failed {
                notes.push(Reason::new("training_failed", format!("{}: {why}", job.recipe.as_str())));
            }
        }
        let trained: Vec<(Recipe, ModelVersion)> =
            jobs.iter().filter_map(|job| Some((job.recipe, job.version?))).collect();
        if trained.is_empty() {
            let reason = notes.into_iter().next().unwrap_or_else(|| Reason::new("training_failed", "no model"));
            return self.end_run(RunState::Failed, reason);
        }
        let state = &mut self.retraining.state;
        let mut candidate = trained.last().map(|(_, version)| *version);
        if !state.shares.is_empty() {
            let (racing, blend): (Vec<_>, Vec<_>) = trained.iter().partition(|(recipe, _)| *recipe != Recipe::Blend);
            let leader = state.race.leader().0.to_owned();
            let led = racing.iter().find(|(recipe, _)| recipe.as_str() == leader);
            candidate = blend.first().or(led).map(|(_, version)| *version).or(candidate);
            state.race_models = racing.into_iter().collect();
            notes.push(Reason::new("blend", shown(&state.shares)));
        }
        let now = self.now;
        let champion = state.champion;
        if let Some(run) = &mut state.run {
            run.candidate = candidate;
            run.notes.extend(notes.into_iter().map(|reason| (now, reason)));
        }
        if candidate == Some(champion) {
            let reason = Reason::new("unchanged", "the leading recipe is the served model");
            return self.end_run(RunState::Rejected, reason);
        }
        state.phase = Phase::Smoke;
        let run = state.run.clone();
        let write = run.map(|run| self.retraining.save_run(&self.outbox, &run)).transpose()?;
        self.save_loop(write.into_iter().collect())
    }

    /// The smoke test: usable outputs, a change worth the switch, and not clearly worse on labels that it has seen.
    pub(super) fn step_smoke(&mut self) -> Result<bool, Error> {
        let (champion, target) = (self.retraining.state.champion, self.schema.target().clone());
        let Some((run, Some(candidate))) = self.retraining.state.run.as_ref().map(|run| (run.id, run.candidate)) else {
            return Err(Error::Corrupt("a smoke test without a candidate".into()));
        };
        let profile = self.profile();
        if profile.is_none() {
            return self.after_smoke(candidate, profile).map(|()| true);
        }
        if self.retraining.smoking.is_none() {
            let trained = self.trained_rows(candidate)?;
            let trained = trained.into_iter().map(|(row, label, weight)| (row, Some((label, weight))));
            let recent = self.ledger.recent().take(SMOKE_ROWS).map(|observation| (observation.row.clone(), None));
            let rows: Vec<(Row, Option<(Label, f64)>)> = trained.chain(recent).collect();
            if rows.is_empty() {
                // Right after a restart there is nothing to try it on: the next observations serve.
                return Ok(false);
            }
            let key = row_key(&format!("{run}-smoke"), rows.iter().map(|(row, _)| row));
            self.retraining.smoking = Some((key, rows));
        }
        let Some((key, rows)) = self.retraining.smoking.clone() else { return Ok(false) };
        let inputs = Arc::new(rows.iter().map(|(row, _)| row.clone()).collect());
        let scores = match self.poll_row_scores(&key, &[champion, candidate], inputs)? {
            JobStatus::Running | JobStatus::Unknown => return Ok(false),
            JobStatus::Failed { reason, .. } => {
                let reason = Reason::new("smoke_test", format!("{candidate} cannot be scored: {reason}"));
                return self.end_run(RunState::Failed, reason).map(|()| true);
            }
            JobStatus::Done(scores) => scores,
        };
        self.retraining.smoking = None;
        let width = target.output_width();
        let scored = Scored::new(&scores, width);
        let (ours, theirs) = match (scored.outputs(champion), scored.outputs(candidate)) {
            (Some(Ok(ours)), Some(Ok(theirs))) => (ours, theirs),
            (_, Some(Err(why))) => {
                let text = format!("{candidate} failed: {why}");
                return self.refuse(candidate, Reason::new("smoke_test", text)).map(|()| true);
            }
            // The served model itself cannot be scored: a candidate that can is not judged against it.
            (_, Some(Ok(theirs)))
                if theirs.chunks_exact(width).any(|output| predicted_label(&target, output).is_some()) =>
            {
                return self.start_validation().map(|()| true);
            }
            (_, Some(Ok(_))) => {
                let text = format!("{candidate} failed: it has no usable output for any row");
                return self.refuse(candidate, Reason::new("smoke_test", text)).map(|()| true);
            }
            (_, None) => {
                let text = format!("the evaluator said nothing about {candidate}");
                return self.refuse(candidate, Reason::new("smoke_test", text)).map(|()| true);
            }
        };
        // What neither model can predict is the input's fault.
        let pairs = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
        let usable = |output| predicted_label(&target, output).is_some();
        if let Some(row) = pairs.into_iter().position(|(ours, theirs)| usable(ours) && !usable(theirs)) {
            let text = format!("{candidate} failed: it has no usable output for row {row}, and {champion} has");
            return self.refuse(candidate, Reason::new("smoke_test", text)).map(|()| true);
        }
        if let Some(rules) = profile.as_ref().and_then(Profile::race) {
            // On live rows, which stand behind the others; on the training rows if there are none.
            let live = rows.iter().position(|(_, label)| label.is_none()).unwrap_or(0) * width;
            let changed = changed_share(&target, &ours[live..], &theirs[live..]);
            if changed < rules.least_change {
                let text = format!("{candidate} changes {:.2} % of the predictions", 100.0 * changed);
                return self.end_run(RunState::Rejected, Reason::new("unchanged", text)).map(|()| true);
            }
        }
        if let (Some(mine), Some(theirs)) = (scored.latency(candidate), scored.latency(champion))
            && self.retraining.parts.latency.is_broken(mine, theirs)
        {
            self.retraining.slow_smokes += 1;
            if self.retraining.slow_smokes < SLOW_SMOKES {
                // The machine may have been busy just then: measured again, under a key of its own.
                self.retraining.smoking = Some((format!("{key}+"), rows));
                return Ok(true);
            }
            let text = format!("{candidate} takes {mine:?} a row at the median, {champion} takes {theirs:?}");
            return self.refuse(candidate, Reason::new("latency", text)).map(|()| true);
        }
        let compared = rows.iter().enumerate().filter_map(|(row, (_, taught))| {
            let (label, weight) = (*taught)?;
            let (theirs, ours) = (scored.output(candidate, row)?, scored.output(champion, row)?);
            Some((Comparison::of(&target, theirs, ours, label), weight))
        });
        let paired = Paired::weighted(compared);
        if candidate != ModelVersion::FIRST && 1.0 - paired.posterior_better() > BROKEN {
            let (wins, losses) = (paired.wins, paired.losses);
            let text = format!("{candidate} loses {wins} : {losses} to {champion} on rows that it was trained on");
            return self.refuse(candidate, Reason::new("worse_on_training_rows", text)).map(|()| true);
        }
        self.start_validation().map(|()| true)
    }

    /// The newest rows that a candidate was trained on, with their labels and weights: those labelled in production, and with
    /// few of them the end of the base data. A model that loses to the served one even there, by the weights that it was
    /// fitted with, is broken. Nothing for the first model, whose data lies far back.
    fn trained_rows(&self, candidate: ModelVersion) -> Result<Vec<(Row, Label, f64)>, Error> {
        let Some(recipe) = self.retraining.models.get(&candidate).and_then(|record| record.recipe) else {
            return Ok(Vec::new());
        };
        let data = self.training_data(recipe)?;
        let newest = self.retraining.taught.len().clamp(TRAINED_ROWS.0, TRAINED_ROWS.1).min(data.len());
        let rows = (data.len() - newest..data.len()).rev();
        Ok(rows.map(|row| (data.rows()[row].clone(), data.labels()[row], data.weights()[row])).collect())
    }

    /// Refuses a candidate for good: the run is rejected, the version quarantined.
    pub(super) fn refuse(&mut self, candidate: ModelVersion, reason: Reason) -> Result<(), Error> {
        let writes = self.quarantine(candidate, reason.clone())?;
        self.outbox.join(writes);
        self.end_run(RunState::Rejected, reason)
    }

    /// Marks a version as not to be served any more.
    pub(super) fn quarantine(&mut self, version: ModelVersion, reason: Reason) -> Result<Vec<Write>, Error> {
        if version == ModelVersion::FIRST {
            return Ok(Vec::new());
        }
        let Some(record) = self.retraining.models.get_mut(&version) else { return Ok(Vec::new()) };
        record.quarantined = Some(reason);
        let record = record.clone();
        self.retraining.save_model(&self.outbox, &record)
    }

    pub(super) fn after_smoke(&mut self, candidate: ModelVersion, profile: Option<Profile>) -> Result<(), Error> {
        match profile {
            Some(Profile::Confirm(_)) => {
                let reason = Reason::new("judging", format!("{candidate} is frozen and judged on new labels"));
                let write = self.run_becomes(RunState::Judging, reason)?;
                self.retraining.state.phase = Phase::Judging;
                if self.retraining.state.line.is_empty() {
                    self.retraining.state.evidence = Some(Evidence::default());
                    self.retraining.state.compared = (0, 0);
                }
                self.save_loop(vec![write])
            }
            Some(Profile::Adaptive(_)) => {
                let reason = Reason::new("blend", shown(&self.retraining.state.shares));
                self.settle_race(candidate, reason)
            }
            None => {
                let text = "there is no evaluator, so nobody can say whether it is better";
                self.end_run(RunState::Inconclusive, Reason::new("no_evaluator", text))
            }
        }
    }

    /// The reference of the data that `version` was trained on.
    pub(super) fn reference_of(&self, version: ModelVersion) -> Result<Arc<Reference>, Error> {
        let Some((record, recipe)) = self.retraining.models.get(&version).and_then(|r| Some((r, r.recipe?))) else {
            return Ok(self.references.anchor.clone());
        };
        let mut data = self.training_data(recipe)?;
        if record.digest.as_ref() != Some(&data.digest()) {
            // There are newer labels. Of rows that were taken out of the store since, nobody can make a reference.
            match self.trained_on(version) {
                Ok(found) => data = found,
                Err(Error::Corrupt(_) | Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(Reference::fit(&data)?))
    }

    /// The reference of the served version, also if it has not taken over yet.
    pub(super) fn champion_reference(&self) -> Arc<Reference> {
        let upcoming = self.retraining.upcoming.as_ref();
        let upcoming = upcoming.filter(|(version, _)| *version == self.retraining.state.champion);
        upcoming.map_or(&self.references.training, |(_, reference)| reference).clone()
    }

    /// The reference of `version` from now on, or from its first observation on.
    pub(super) fn set_reference(&mut self, version: ModelVersion, training: Arc<Reference>) -> Result<(), Error> {
        if training.rows() == 0 {
            return Ok(());
        }
        let indexed = Indexed { state: "saved", rank: 0, due: None };
        let write = self.outbox.json(Kind::Control, "reference/training", indexed, &*training)?;
        self.outbox.join(vec![write]);
        self.retraining.upcoming = Some((version, training));
        Ok(())
    }
}

/// The shares of the recipes, largest first.
fn shown(shares: &BTreeMap<String, f64>) -> String {
    let mut shares: Vec<_> = shares.iter().collect();
    shares.sort_by(|a, b| b.1.total_cmp(a.1));
    shares.iter().map(|(name, share)| format!("{name} {share:.2}")).collect::<Vec<_>>().join(", ")
}

/// A key that names its rows: the same key is never used for other inputs, not even by the next process.
pub(super) fn row_key<'a>(prefix: &str, rows: impl Iterator<Item = &'a Row>) -> String {
    let digest = rows.fold(0u128, |digest, row| digest.rotate_left(1) ^ row.content_hash());
    format!("{prefix}-{digest:032x}")
}
