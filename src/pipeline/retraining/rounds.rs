//! Rounds: new labels of the judging lanes judge every live model, and only then may they be trained on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::Pipeline;
use super::super::shadow::{Recorded, merge, recorded_of};
use super::evaluation::LiveRows;
use super::{Phase, Round};
use crate::error::Error;
use crate::event::ModelVersion;
use crate::retrain::evidence::JudgedRow;
use crate::retrain::{JobStatus, Profile, Race, RunState, ScoreJob, Scores, WatchVerdict};
use crate::sample::{Lane, Reason, Sample, SampleState};
use crate::schema::Row;
use crate::stage::isolate;

/// Rounds whose scoring failed before the loop gives up on them.
const MOST_ROUND_FAILURES: u32 = 3;

/// What each model said about the rows of a job.
pub(super) struct Scored<'a> {
    scores: &'a [Scores],
    width: usize,
}

impl<'a> Scored<'a> {
    pub(super) fn new(scores: &'a [Scores], width: usize) -> Self {
        Scored { scores, width }
    }

    /// Output of `model` for row `row`; `None` if the model failed.
    pub(super) fn output(&self, model: ModelVersion, row: usize) -> Option<&'a [f64]> {
        let scores = self.scores.iter().find(|scores| scores.model == model)?;
        scores.outputs.as_ref().ok()?.get(row * self.width..(row + 1) * self.width)
    }

    pub(super) fn latency(&self, model: ModelVersion) -> Option<std::time::Duration> {
        self.scores.iter().find(|scores| scores.model == model)?.latency
    }

    pub(super) fn outputs(&self, model: ModelVersion) -> Option<&'a Result<Vec<f64>, String>> {
        self.scores.iter().find(|scores| scores.model == model).map(|scores| &scores.outputs)
    }

    /// Why `candidate` could not be scored at all, where `champion` could.
    fn failure(&self, candidate: ModelVersion, champion: ModelVersion) -> Option<&'a str> {
        match (self.outputs(candidate)?, self.outputs(champion)?) {
            (Err(why), Ok(_)) => Some(why),
            _ => None,
        }
    }
}

/// The scores, where those of a model that said too little or too much are none.
fn whole(mut scores: Vec<Scores>, numbers: usize) -> Vec<Scores> {
    for scores in &mut scores {
        if let Ok(outputs) = &scores.outputs
            && outputs.len() != numbers
        {
            let found = outputs.len();
            scores.outputs = Err(format!("the evaluator said {found} numbers of it, {numbers} were expected"));
        }
    }
    scores
}

fn is_erased(sample: &Sample) -> bool {
    sample.erased.is_some()
}

impl Pipeline {
    /// Starts a round when enough labels wait, or a run does; takes its result when it is there.
    pub(super) fn step_round(&mut self) -> Result<bool, Error> {
        if self.retraining.state.round.is_some() {
            return self.poll_round();
        }
        let waiting = &self.retraining.unjudged;
        let judging = waiting.values().filter(|judges| **judges).count();
        let due = judging >= self.retraining.parts.label_batch
            || (!waiting.is_empty() && self.retraining.state.phase == Phase::Requested);
        if !due || self.retraining.parts.evaluator.is_none() {
            return Ok(false);
        }
        let samples: Vec<_> = self.retraining.unjudged.keys().map(|(_, id)| *id).collect();
        let mut models = self.live_models();
        for id in &samples {
            let drawn_by = self.outbox.sample(*id)?.and_then(|sample| sample.drawn_by());
            let model = drawn_by.and_then(|run| self.retraining.state.line.get(&run));
            models.extend(model.filter(|model| !models.contains(model)));
        }
        let mut recorded = BTreeSet::new();
        for id in &samples {
            if self.outbox.sample(*id)?.is_some_and(|sample| recorded_of(sample, &models).is_some()) {
                recorded.insert(*id);
            }
        }
        let state = &mut self.retraining.state;
        let key = format!("round-{}", state.next_round);
        state.next_round += 1;
        state.round = Some(Round { key, samples, models, recorded });
        self.save_loop(Vec::new())?;
        Ok(true)
    }

    /// Every model that new labels say something about.
    pub(super) fn live_models(&self) -> Vec<ModelVersion> {
        let state = &self.retraining.state;
        let mut models = self.rivals();
        if !state.race_models.is_empty() {
            models.extend(state.race_models.values());
            models.insert(ModelVersion::FIRST);
        }
        models.into_iter().collect()
    }

    /// The served model, and those that are compared with it or with each other.
    pub(super) fn rivals(&self) -> BTreeSet<ModelVersion> {
        let state = &self.retraining.state;
        let mut models = BTreeSet::from([state.champion]);
        models.extend(state.watch.as_ref().map(|watch| watch.previous));
        if state.phase == Phase::Judging {
            models.extend(state.run.as_ref().and_then(|run| run.candidate));
            models.extend(state.kept);
        }
        models
    }

    fn poll_round(&mut self) -> Result<bool, Error> {
        let Some(round) = self.retraining.state.round.clone() else { return Ok(false) };
        // All of them, in order, whatever became of their labels since: scores are matched to rows by position.
        let mut samples: Vec<Sample> = Vec::with_capacity(round.samples.len());
        for id in &round.samples {
            let Some(sample) = self.outbox.sample(*id)? else {
                return Err(Error::Corrupt(format!("sample {id} of {} is not in the store", round.key)));
            };
            samples.push(sample.clone());
        }
        if let Some(round) = self.retraining.state.round.as_mut().filter(|_| samples.iter().any(is_erased)) {
            // What is left of these rows says nothing. Scores are matched by position: the job is another one.
            round.samples = samples.iter().filter(|sample| !is_erased(sample)).map(Sample::id).collect();
            let key = format!("{}+", round.key);
            let before = std::mem::replace(&mut round.key, key);
            self.retraining.give_up(&before);
            self.save_loop(Vec::new())?;
            return Ok(true);
        }
        // A single live model has nobody to be compared with.
        if round.models.len() < 2 {
            return self.finish_round(&samples, &[]);
        }
        let known: Vec<_> = samples
            .iter()
            .map(|sample| recorded_of(sample, &round.models).filter(|_| round.recorded.contains(&sample.id())))
            .collect();
        let rows = samples.iter().map(|sample| &sample.observation.row);
        match self.poll_scores(&round.key, &round.models, rows, &known)? {
            JobStatus::Running | JobStatus::Unknown => Ok(false),
            JobStatus::Done(scores) => self.finish_round(&samples, &scores),
            JobStatus::Failed { reason, .. } => {
                self.retraining.state.round_failures += 1;
                if self.retraining.state.round_failures >= MOST_ROUND_FAILURES {
                    let why = format!("models cannot be scored ({reason}); check how they are loaded, then unfreeze");
                    self.retraining.state.frozen = Some(why);
                }
                // The next attempt is a new job: a finished key is never started again.
                if let Some(round) = &mut self.retraining.state.round {
                    round.key.push('+');
                }
                self.save_loop(Vec::new())?;
                Ok(false)
            }
        }
    }

    /// Scores of `models` on `rows`, by a job that is started if nobody knows it; rows that are `known` are not scored again.
    pub(super) fn poll_scores<'a>(
        &mut self,
        key: &str,
        models: &[ModelVersion],
        rows: impl Iterator<Item = &'a Row>,
        known: &[Recorded],
    ) -> Result<JobStatus<Vec<Scores>>, Error> {
        let rows: Vec<Row> = rows.zip(known).filter(|(_, known)| known.is_none()).map(|(row, _)| row.clone()).collect();
        let width = self.schema.target().output_width();
        if rows.is_empty() {
            return Ok(JobStatus::Done(merge(models, width, known, Vec::new())));
        }
        Ok(match self.poll_row_scores(key, models, Arc::new(rows))? {
            JobStatus::Done(scored) => JobStatus::Done(merge(models, width, known, scored)),
            other => other,
        })
    }

    pub(super) fn poll_row_scores(
        &mut self,
        key: &str,
        models: &[ModelVersion],
        rows: Arc<Vec<Row>>,
    ) -> Result<JobStatus<Vec<Scores>>, Error> {
        let models: Vec<_> = models.iter().filter_map(|version| self.retraining.models.get(version).cloned()).collect();
        let width = self.schema.target().output_width();
        let numbers = rows.len() * width;
        let Some(evaluator) = &mut self.retraining.parts.evaluator else { return Ok(JobStatus::Unknown) };
        let failed = |source| crate::error::StageError { stage: "evaluator".into(), what: "score", source };
        let mut status = isolate(|| evaluator.poll(key)).map_err(failed)?;
        if status == JobStatus::Unknown {
            isolate(|| evaluator.start(ScoreJob { key: key.to_owned(), models, width, rows })).map_err(failed)?;
            status = isolate(|| evaluator.poll(key)).map_err(failed)?;
        }
        Ok(match status {
            JobStatus::Done(scores) => JobStatus::Done(whole(scores, numbers)),
            other => other,
        })
    }

    /// Counts what the labels say for and against each model, and frees the labels for training.
    fn finish_round(&mut self, samples: &[Sample], scores: &[Scores]) -> Result<bool, Error> {
        let target = self.schema.target().clone();
        let scored = Scored::new(scores, target.output_width());
        let profile = self.retraining.parts.evaluator.as_ref().map(|evaluator| evaluator.profile().clone());
        let judged_models: Vec<_> = self.retraining.judged_models();
        let usable = |model: &ModelVersion| matches!(scored.outputs(*model), Some(Ok(_)));
        let mut live = LiveRows::new(judged_models.into_iter().filter(usable).collect());
        let judging = self.retraining.state.evidence.is_some();
        let slices: Vec<Vec<String>> = match judging {
            true => samples.iter().map(|s| self.retraining.slices_of(&self.schema, &s.observation.row)).collect(),
            false => Vec::new(),
        };
        let state = &mut self.retraining.state;
        let candidate = state.run.as_ref().and_then(|run| run.candidate);
        let champion = state.champion;
        let failure = candidate.and_then(|candidate| scored.failure(candidate, champion)).map(str::to_owned);
        let run = state.run.as_ref().map(|run| run.id);
        let (watched_run, rows_before) =
            (state.watched_run, state.evidence.as_ref().map_or(0, |evidence| evidence.rows));
        let mut watched = 0;
        for (row, sample) in samples.iter().enumerate() {
            // A label that was taken back since judges nothing.
            let Some(annotation) = sample.label.as_ref().filter(|_| sample.state == SampleState::Labelled) else {
                continue;
            };
            let Some(label) = annotation.label else { continue };
            if let (Some(rules), false) = (profile.as_ref().and_then(Profile::race), state.race_models.is_empty()) {
                let mut outputs: Vec<(&str, &[f64])> = Vec::new();
                if let Some(output) = scored.output(ModelVersion::FIRST, row) {
                    outputs.push((Race::KEEP, output));
                }
                for (recipe, version) in &state.race_models {
                    if let Some(output) = scored.output(*version, row) {
                        outputs.push((recipe.as_str(), output));
                    }
                }
                state.race.observe(&target, &outputs, label, rules);
            }
            if !sample.lane.judges() {
                continue;
            }
            // A row of the comparison lane judges only models that took part when it was drawn.
            let drawn_by = sample.drawn_by();
            if let Some(watch) = &mut state.watch
                && drawn_by.is_none_or(|drawn_by| Some(drawn_by) >= watched_run)
                && let (Some(current), Some(previous)) =
                    (scored.output(watch.current, row), scored.output(watch.previous, row))
            {
                watch.observe(&target, current, previous, label);
                watched += 1;
            }
            let own = drawn_by.is_none_or(|drawn_by| Some(drawn_by) == run);
            let judged = if own { candidate } else { drawn_by.and_then(|run| state.line.get(&run).copied()) };
            if let (Some(evidence), Some(judged)) = (&mut state.evidence, judged)
                && let (Some(theirs), Some(ours)) = (scored.output(judged, row), scored.output(champion, row))
            {
                let kept = state.kept.filter(|kept| *kept != champion && *kept != judged);
                let judged = JudgedRow {
                    candidate: theirs,
                    current: ours,
                    kept: kept.and_then(|kept| scored.output(kept, row)),
                    own,
                    label,
                    annotator: &annotation.annotator,
                    slices: &slices[row],
                };
                evidence.observe(&target, &judged);
                // Only the random lane stands for the live traffic.
                if sample.lane == Lane::Random {
                    live.push(sample, label, &slices[row], row, &scored);
                }
            }
        }
        let round = self.retraining.state.round.take();
        let live = self.save_live_rows(round.as_ref().map_or("", |round| round.key.as_str()), live)?;
        let state = &mut self.retraining.state;
        let mut writes = Vec::new();
        if let Some((name, write)) = live {
            state.live_rows.push(name);
            writes.push(write);
        }
        if let Some(watch) = state.watch.as_mut().filter(|_| watched > 0) {
            watch.rounds += 1;
        }
        let judged = state.phase == Phase::Judging;
        if let Some(evidence) = state.evidence.as_mut().filter(|_| judged) {
            match evidence.rows > rows_before {
                true => evidence.rounds += 1,
                false => evidence.unscored += 1,
            }
        }
        (state.failures_in_a_row, state.round_failures) = (0, 0);
        state.cool_off = state.cool_off.saturating_sub(1);
        for id in round.iter().flat_map(|round| &round.samples) {
            let Some(sample) = self.outbox.sample(*id)? else { continue };
            let key = (sample.sequence, *id);
            if sample.state == SampleState::Labelled && sample.label.is_some() {
                sample.judged = true;
                let sample = sample.clone();
                self.outbox.touch(*id);
                self.retraining.labelled(&sample);
            }
            self.retraining.unjudged.remove(&key);
        }
        self.save_loop(writes)?;
        if let Some((candidate, why)) = candidate.filter(|_| judged).zip(failure) {
            let text = format!("{candidate} cannot be scored any more, and {champion} can: {why}");
            self.refuse(candidate, Reason::new("not_scored", text))?;
        }
        Ok(true)
    }

    /// Keeps, or rolls back, what was promoted last, if the labels so far say so. Asked again whenever nothing else is under
    /// way: what a failing store or a freeze kept from being done is done then.
    pub(super) fn judge_watch(&mut self) -> Result<bool, Error> {
        let profile = self.retraining.parts.evaluator.as_ref().map(|evaluator| evaluator.profile());
        let (Some(watch), Some(profile)) = (&self.retraining.state.watch, profile) else { return Ok(false) };
        let (current, previous) = (watch.current, watch.previous);
        match watch.judge(profile) {
            WatchVerdict::Watching { .. } => Ok(false),
            WatchVerdict::RollBack(reason) => self.start_rollback(previous, reason).map(|()| true),
            verdict @ (WatchVerdict::Kept | WatchVerdict::KeptUnproven) => {
                let proven = verdict == WatchVerdict::Kept;
                let state = if proven { RunState::Kept } else { RunState::KeptUnproven };
                let late = self.retraining.maturity().map(|late| format!("; {late}")).unwrap_or_default();
                let text = format!("{current} against {previous}: no alarm{late}");
                self.end_watch(state, Reason::new(state.as_str(), text)).map(|()| true)
            }
        }
    }
}
