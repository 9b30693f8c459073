//! Judging a frozen candidate: the verdict after each round, and the lane of disagreements.

use super::super::Pipeline;
use super::super::builder::Mode;
use super::super::shadow::recorded;
use super::deploy::left_over;
use super::rounds::Scored;
use super::training::row_key;
use super::{Comparing, POOL_ROWS, Phase, Retraining};
use crate::error::{Error, StageError};
use crate::event::{ModelVersion, predicted_label};
use crate::retrain::{EvaluatedOn, Evidence, JobStatus, Judgement, Profile, RunState, Verdict};
use crate::sample::Reason;
use crate::stage::isolate;

/// Candidates before the one that is judged for which labels are still waited for: rows that were drawn to judge earlier ones
/// judge nobody.
const LINE: usize = 5;

impl Retraining {
    /// May a fresh candidate take the place of the one that is judged? Live rows that a requirement is measured on are its own:
    /// they cannot be handed on.
    pub(super) fn may_be_superseded(&self) -> bool {
        let measured = self.parts.evaluation.requirements.iter().any(|need| need.rows() == EvaluatedOn::Live);
        let judged = self.state.evidence.as_ref().is_some_and(Evidence::may_be_handed_on);
        self.state.phase == Phase::Judging && judged && !measured
    }
}

impl Pipeline {
    pub(super) fn step_judging(&mut self) -> Result<bool, Error> {
        if self.step_comparison()? {
            return Ok(true);
        }
        let (Some(evidence), Some(run)) = (self.retraining.state.evidence.clone(), &self.retraining.state.run) else {
            return Err(Error::Corrupt("judging without a candidate".into()));
        };
        let Some(candidate) = run.candidate else { return Err(Error::Corrupt("judging without a candidate".into())) };
        let Some(Profile::Confirm(rules)) = self.retraining.parts.evaluator.as_ref().map(|e| e.profile().clone())
        else {
            let text = "the profile was changed while it was judged";
            return self.end_run(RunState::Cancelled, Reason::new("profile_changed", text)).map(|()| true);
        };
        let checks = self.checks(&evidence)?;
        let judgement = evidence.judge_with(&rules, 1, &checks);
        let Some(verdict) = judgement.verdict else { return self.step_succession(evidence, judgement) };
        self.conclude(evidence, judgement.clone())?;
        let text = judgement.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match verdict {
            Verdict::Pass => self.pass(candidate, Reason::new("passed", text))?,
            Verdict::Fail => self.refuse(candidate, Reason::new("failed", text))?,
            Verdict::Inconclusive => self.end_run(RunState::Inconclusive, Reason::new("inconclusive", text))?,
        }
        Ok(true)
    }

    /// Lets a fresh candidate take the place of one that a label batch has judged without a verdict, if the trigger asks for a
    /// run. What the labels said goes on to it.
    fn step_succession(&mut self, evidence: Evidence, mut judgement: Judgement) -> Result<bool, Error> {
        if !self.retraining.may_be_superseded() {
            return Ok(false);
        }
        let Some(why) = self.ask_trigger()? else { return Ok(false) };
        let Some((run, candidate)) = self.retraining.state.run.as_ref().and_then(|run| Some((run.id, run.candidate?)))
        else {
            return Ok(false);
        };
        let handed_on = evidence.handed_on();
        let what = if handed_on.is_some() { "takes its evidence over" } else { "begins without its evidence" };
        let reason = Reason::new("superseded", format!("a fresh candidate {what}: {why}"));
        judgement.verdict = Some(Verdict::Inconclusive);
        judgement.reasons.insert(0, reason.clone());
        self.conclude(evidence, judgement)?;
        let state = &mut self.retraining.state;
        if handed_on.is_some() {
            state.line.insert(run, candidate);
        } else {
            state.line.clear();
        }
        if state.line.len() > LINE {
            state.line.pop_first();
        }
        state.evidence = handed_on;
        self.end_run(RunState::Superseded, reason)?;
        self.request(why)?;
        Ok(true)
    }

    /// Finds live rows on which the rivals do not all agree, and asks people about them.
    fn step_comparison(&mut self) -> Result<bool, Error> {
        let champion = self.retraining.state.champion;
        let Some((run, Some(candidate))) = self.retraining.state.run.as_ref().map(|run| (run.id, run.candidate)) else {
            return Ok(false);
        };
        if self.retraining.comparing.is_none() {
            if self.retraining.pool.len() < POOL_ROWS.0 {
                return Ok(false);
            }
            let rows = std::mem::take(&mut self.retraining.pool);
            let key = row_key(&format!("{run}-compare"), rows.iter().map(|observation| &observation.row));
            // Every rival takes part: only then do the rows drawn judge each pair of them fairly. Recipes race elsewhere.
            let models: Vec<_> = self.rivals().into_iter().collect();
            let known = rows.iter().map(|row| recorded(row, self.shadows.of(row.id), &models)).collect();
            self.retraining.comparing = Some(Comparing { key, rows, models, known });
        }
        let Some(comparing) = self.retraining.comparing.take() else { return Ok(false) };
        let Comparing { key, rows, models, known } = &comparing;
        let scores = match self.poll_scores(key, models, rows.iter().map(|observation| &observation.row), known) {
            Ok(JobStatus::Running | JobStatus::Unknown) => {
                self.retraining.comparing = Some(comparing);
                return Ok(false);
            }
            Ok(JobStatus::Failed { .. }) => return Ok(false),
            Ok(JobStatus::Done(scores)) => scores,
            Err(error) => {
                self.retraining.comparing = Some(comparing);
                return Err(error);
            }
        };
        let Comparing { rows, models, .. } = comparing;
        let target = self.schema.target().clone();
        let scored = Scored::new(&scores, target.output_width());
        let compared = rows.len();
        let said = |model, row| scored.output(model, row).and_then(|output| predicted_label(&target, output));
        let differ = |row: &usize| said(champion, *row) != said(candidate, *row);
        let differing = (0..compared).filter(differ).count();
        let disagreeing: Vec<_> = rows
            .into_iter()
            .enumerate()
            .filter(|(row, _)| {
                // A model that could not be scored disagrees with nobody.
                let mut opinions = models.iter().filter_map(|&model| said(model, *row));
                opinions.next().is_some_and(|first| opinions.any(|other| other != first))
            })
            .map(|(_, observation)| observation)
            .collect();
        let state = &mut self.retraining.state;
        state.compared = (state.compared.0 + differing as u64, state.compared.1 + compared as u64);
        if let Some(evidence) = &mut state.evidence {
            evidence.disagreement = Some(state.compared.0 as f64 / state.compared.1.max(1) as f64);
        }
        // As many as a label batch: the pool is a uniform draw, and so is the beginning of it.
        let wanted = self.retraining.parts.label_batch.max(1);
        let taken = disagreeing.len().min(wanted);
        let inclusion = self.retraining.parts.compare_share * taken as f64 / disagreeing.len().max(1) as f64;
        for observation in disagreeing.into_iter().take(taken) {
            self.compare(observation, inclusion, run)?;
        }
        self.save_loop(Vec::new())?;
        Ok(true)
    }

    /// A candidate may be promoted: by the loop itself, by a person, or in no case, as the mode says.
    pub(super) fn pass(&mut self, candidate: ModelVersion, reason: Reason) -> Result<(), Error> {
        match self.retraining.parts.mode {
            Mode::Unattended => self.start_promotion(candidate, reason),
            Mode::Approval => {
                let write = self.run_becomes(RunState::AwaitingApproval, reason)?;
                self.retraining.state.phase = Phase::AwaitingApproval;
                self.save_loop(vec![write])
            }
            Mode::Advisory => {
                let text = format!("{candidate} would be promoted: {reason}");
                self.end_run(RunState::Inconclusive, Reason::new("advisory", text))
            }
        }
    }

    /// A person lets the candidate that waits be promoted.
    ///
    /// # Errors
    /// No candidate waits for approval.
    pub fn approve(&mut self, who: &str) -> Result<(), Error> {
        let candidate = self.awaiting()?;
        self.note("approved", candidate.to_string(), Some(who), None);
        self.start_promotion(candidate, Reason::new("approved", format!("by {who}")))?;
        self.outbox.commit()
    }

    /// A person refuses the candidate that waits, or ends the run in flight, up to the moment of the switch. Jobs that the
    /// trainer cannot end are named in the run's last note; what they make is not taken.
    ///
    /// # Errors
    /// No run is in flight, or the store fails.
    pub fn cancel_run(&mut self, who: &str) -> Result<(), Error> {
        if self.retraining.state.run.is_none() {
            return Err(Error::Refused("no run is in flight".into()));
        }
        self.outbox.check_place()?;
        let left = left_over(&self.cancel_jobs());
        self.note("run_cancelled", "loop", Some(who), None);
        self.end_run(RunState::Cancelled, Reason::new("cancelled", format!("by {who}{left}")))?;
        self.outbox.commit()
    }

    /// Ends the training jobs of the run in flight: every one that can be ended. The caller has made sure that this process
    /// still holds the pipeline.
    pub(super) fn cancel_jobs(&mut self) -> Result<(), Error> {
        let (Phase::Training(jobs), Some(trainer)) = (&self.retraining.state.phase, &mut self.retraining.parts.trainer)
        else {
            return Ok(());
        };
        let mut all = Ok(());
        for job in jobs {
            let failed = |source| StageError { stage: "trainer".into(), what: "cancel", source };
            all = all.and(isolate(|| trainer.cancel(&job.key)).map_err(failed));
        }
        Ok(all?)
    }

    fn awaiting(&self) -> Result<ModelVersion, Error> {
        match (&self.retraining.state.phase, &self.retraining.state.run) {
            (Phase::AwaitingApproval, Some(run)) => {
                run.candidate.ok_or_else(|| Error::Corrupt("approval without a candidate".into()))
            }
            _ => Err(Error::Refused("no candidate waits for approval".into())),
        }
    }
}
