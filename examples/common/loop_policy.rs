//! The policy `loop`: feedloop itself on a stream.

use std::sync::Arc;
use std::time::Instant;

use feedloop::{AdaptiveRules, BoxError, ConfirmRules, MemoryStore};

use super::data::Stream;
use super::fault::Fault;
use super::model::Kind;
use super::production::{Production, Setting};
use super::progress::Progress;
use super::protocol::{Allowance, Outcome, Policy, Profile, Split};

/// Replays `stream` through a feedloop pipeline with the given promotion profile; people make the mistakes of `fault`,
/// which `label_check` looks for.
///
/// A loop that froze after too many rollbacks is let go on after the batch, as a person would who was told.
///
/// At most `budget` of the rows after the initial ones get a label from people, audits and second opinions included. What
/// the label-fault check asks is answered at once, in advance on the labels of later batches.
///
/// # Errors
/// If the stream is too short, or the pipeline cannot work.
pub fn run(
    stream: &Stream,
    profile: Profile,
    budget: f64,
    kind: Kind,
    (fault, label_check): (Fault, bool),
    seed: u64,
) -> Result<Outcome, BoxError> {
    let split = Split::of(stream)?;
    let started = Instant::now();
    let confirm = |likely| {
        let race = Some(AdaptiveRules::default());
        feedloop::Profile::Confirm(ConfirmRules { likely, race, ..ConfirmRules::default() })
    };
    let setting = Setting {
        profile: match profile {
            Profile::Adaptive => feedloop::Profile::adaptive(),
            Profile::Confirm => confirm(false),
            Profile::Likely => confirm(true),
        },
        budget,
        kind,
        seed,
        retrain_on: 1,
        auto_label_error: 0.05,
        sabotage: None,
        fault,
        label_check,
    };
    let mut production = Production::start(stream, &split, &setting, Arc::new(MemoryStore::default()))?;
    let mut allowance = Allowance::new(budget);
    let (mut right, mut labels, mut freezes) = (0, 0, 0);
    let progress = Progress::new(split.batches.len(), "loop");
    for batch in &split.batches {
        right += production.serve(batch)?;
        labels += production.answer(allowance.grant(batch.len()))?;
        production.poll()?;
        labels += production.answer_check(|| allowance.advance(split.judged()))?;
        if production.pipeline.status()?.frozen.is_some() {
            production.pipeline.unfreeze()?;
            freezes += 1;
        }
        progress.step();
    }
    let seconds = started.elapsed().as_secs_f64();
    let census = production.census()?;
    let status = production.pipeline.status()?;
    let rows = split.judged();
    Ok(Outcome {
        stream: stream.name.clone(),
        policy: Policy::Loop,
        profile: Some(profile),
        fault: Some(fault),
        model: kind,
        budget,
        seed,
        rows,
        accuracy: right as f64 / rows as f64,
        labels,
        retrains: status.runs as usize,
        promotions: status.promotions as usize,
        changes: production.harm.changes,
        harmful: production.harm.harmful,
        harm: production.harm.cost(rows),
        rejected: status.rejected as usize,
        rollbacks: status.rollbacks as usize,
        freezes,
        second_opinions: status.label_checks.second_opinions as usize,
        label_faults: (status.label_checks.faults as usize, status.label_checks.drifts as usize),
        flagged: census.flagged,
        quarantined: census.quarantined,
        auto_labelled: census.auto_labelled,
        auto_label_error: share(census.auto_wrong, census.auto_labelled),
        auto_released: census.auto_released,
        auto_released_error: share(census.auto_released_wrong, census.auto_released),
        seconds,
        observations_per_second: rows as f64 / seconds,
    })
}

/// `part` of `whole`; `None` of nothing.
fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
