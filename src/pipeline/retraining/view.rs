//! What the status shows of retraining.

use super::{HeldBatch, Retraining};
use crate::event::ModelVersion;
use crate::retrain::Run;

/// Labels on which the recipes of a race must differ before anything is claimed about harm.
const HARM_CLAIM: u64 = 25;

/// The parts of [`Retraining`] that the status shows.
pub(in crate::pipeline) struct View {
    pub(in crate::pipeline) previous: Option<ModelVersion>,
    pub(in crate::pipeline) kept: Option<ModelVersion>,
    pub(in crate::pipeline) run: Option<Run>,
    pub(in crate::pipeline) watch: Option<String>,
    pub(in crate::pipeline) power: Option<String>,
    pub(in crate::pipeline) maturity: Option<String>,
    pub(in crate::pipeline) race: Option<String>,
    pub(in crate::pipeline) runs: u64,
    pub(in crate::pipeline) promotions: u64,
    pub(in crate::pipeline) rollbacks: u64,
    pub(in crate::pipeline) rejected: u64,
    pub(in crate::pipeline) frozen: Option<String>,
    pub(in crate::pipeline) held: Option<HeldBatch>,
}

impl Retraining {
    pub(in crate::pipeline) fn view(&self) -> View {
        let state = &self.state;
        View {
            previous: state.previous,
            kept: state.kept,
            run: state.run.clone().filter(|run| run.state.in_flight()),
            watch: state.watch.as_ref().map(|watch| {
                let (wins, losses) = (watch.paired.wins, watch.paired.losses);
                format!(
                    "{} against {}: {losses} rows only the new one has right, {wins} only the old one, {} rounds",
                    watch.current, watch.previous, watch.rounds
                )
            }),
            power: self.power(),
            maturity: self.maturity(),
            race: (!state.race_models.is_empty()).then(|| {
                let ((leader, _), decisive) = (state.race.leader(), state.race.decisive);
                let claim = if decisive < HARM_CLAIM { ", too few for any claim about harm" } else { "" };
                format!("recipe `{leader}` leads; the recipes differ on {decisive} labels so far{claim}")
            }),
            runs: state.next_run - 1,
            promotions: state.promotions,
            rollbacks: state.rollbacks,
            rejected: state.rejected,
            frozen: state.frozen.clone(),
            held: state.held.clone(),
        }
    }
}
