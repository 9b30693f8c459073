//! The candidate that is judged is offered to the host: it may predict in the shadow, and serve a canary share.

use super::super::Pipeline;
use super::super::builder::Mode;
use crate::error::{Error, StageError};
use crate::event::ModelVersion;
use crate::retrain::{JobStatus, RunState};
use crate::sample::Reason;
use crate::stage::isolate;

impl Pipeline {
    /// The candidate that may predict beside the champion now, and the share of the traffic that it may serve: nobody while
    /// the loop is frozen, and no share in advisory mode.
    fn wanted_challenger(&self) -> Option<(ModelVersion, f64)> {
        let candidate = self.retraining.judged().filter(|_| !self.retraining.is_frozen())?;
        let share = if self.retraining.parts.mode == Mode::Advisory { 0.0 } else { self.retraining.parts.canary };
        Some((candidate, share))
    }

    /// Tells the deployer about the challenger when that has changed. A candidate that does not load there is refused.
    pub(super) fn offer_challenger(&mut self) -> Result<bool, Error> {
        let wanted = self.wanted_challenger();
        // After a restart the champion comes first.
        let waits = self.retraining.parts.deployer.is_none() || self.retraining.redeploy;
        if waits || self.retraining.offered == Some(wanted) {
            return Ok(false);
        }
        if let Some((candidate, _)) = wanted {
            match self.load(candidate)? {
                JobStatus::Unknown | JobStatus::Running => return Ok(false),
                JobStatus::Done(()) => {}
                // The step of the deployment says so itself.
                JobStatus::Failed { .. } if self.is_promoting() => return Ok(false),
                JobStatus::Failed { reason, .. } => {
                    let reason = Reason::new("cannot_load", format!("{candidate}: {reason}"));
                    let writes = self.quarantine(candidate, reason.clone())?;
                    self.outbox.join(writes);
                    return self.end_run(RunState::Failed, reason).map(|()| true);
                }
            }
        }
        self.outbox.check_place()?;
        let Some(deployer) = &mut self.retraining.parts.deployer else { return Ok(false) };
        let failed = |source| StageError { stage: "deployer".into(), what: "challenge", source };
        isolate(|| deployer.challenge(wanted)).map_err(failed)?;
        self.retraining.offered = Some(wanted);
        Ok(false)
    }
}
