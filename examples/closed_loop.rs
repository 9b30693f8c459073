//! The closed loop on real measurements, from the first model to the last promotion.
//!
//! ```text
//! cargo run --release --example closed_loop
//! ```
//!
//! The data is the wine-quality set that the crate `linfa-datasets` carries: eleven physical and chemical measurements
//! of 1,599 red wines; the label is "quality of at least 6". **The drift comes from the order**: the wines are served in
//! the order of their alcohol (with a seeded jitter of 0.3 standard deviations), as if production moved to ever stronger
//! wines. The first 400 train a logistic regression (crate `linfa-logistic`) that falls to about 0.43 accuracy on the
//! rest if it is left alone.
//!
//! The other wines arrive in 40 batches. feedloop flags what is uncertain, far from the training data, or drifting;
//! checks it; asks simulated annotators, who know the true label and answer one batch late; retrains four recipes on the
//! answers, and promotes the recipe that has predicted best so far (profile `adaptive`). People label at most 10 % of
//! the wines. In the eighth run the labels of the trainer are shifted on purpose, as a broken script would do it: that
//! candidate must not reach production for long.
//!
//! Everything is kept in one SQLite file, whose path is printed. The last line is JSON.

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Instant;

use common::fault::Fault;
use common::model::Kind;
use common::production::{Production, Setting};
use common::progress::Progress;
use common::protocol::{Allowance, Split, never};
use feedloop::{BoxError, RunId, SqliteStore};
use serde::Serialize;

const INITIAL_ROWS: usize = 400;
const BUDGET: f64 = 0.10;
const SEED: u64 = 1;
const SABOTAGED: RunId = RunId(8);

/// The last line.
#[derive(Serialize)]
struct Summary {
    rows: usize,
    accuracy: f64,
    never_accuracy: f64,
    labels: usize,
    flagged: usize,
    auto_labelled: usize,
    quarantined: usize,
    retrains: u64,
    promotions: u64,
    rejected: u64,
    rollbacks: u64,
    seconds: f64,
}

fn main() -> Result<(), BoxError> {
    let started = Instant::now();
    let stream = common::data::wine(SEED);
    let split = Split::after(INITIAL_ROWS, stream.len())?;
    let never = never(&stream, &split, Kind::Logistic, SEED);
    println!("{} wines: {INITIAL_ROWS} train the first model, {} are served", stream.len(), split.judged());
    println!("left alone, the first model is right on {:.1} % of them\n", 100.0 * never.accuracy);

    let directory = tempfile::tempdir()?.keep();
    let file = directory.join("feedloop.db");
    let setting = Setting {
        profile: feedloop::Profile::adaptive(),
        budget: BUDGET,
        kind: Kind::Logistic,
        seed: SEED,
        retrain_on: 1,
        auto_label_error: 0.05,
        sabotage: Some(SABOTAGED),
        fault: Fault::None,
        label_check: false,
    };
    let mut production = Production::start(&stream, &split, &setting, Arc::new(SqliteStore::open(&file)?))?;
    let mut allowance = Allowance::new(BUDGET);
    let (mut right, mut labels, mut told) = (0, 0, 0);
    let progress = Progress::new(split.batches.len(), "wines");
    for (number, batch) in split.batches.iter().enumerate() {
        let correct = production.serve(batch)?;
        right += correct;
        labels += production.answer(allowance.grant(batch.len()))?;
        production.poll()?;
        progress.step();
        let account = account(&production, &mut told)?;
        if !account.is_empty() {
            progress.print(&format!(
                "batch {:2}: {:4.1} % right, {labels} labels{account}",
                number + 1,
                100.0 * correct as f64 / batch.len() as f64
            ));
        }
    }

    let census = production.census()?;
    let status = production.pipeline.status()?;
    walk(&production)?;
    println!("\neverything is in {}", file.display());
    let summary = Summary {
        rows: split.judged(),
        accuracy: right as f64 / split.judged() as f64,
        never_accuracy: never.accuracy,
        labels,
        flagged: census.flagged,
        auto_labelled: census.auto_labelled,
        quarantined: census.quarantined,
        retrains: status.runs,
        promotions: status.promotions,
        rejected: status.rejected,
        rollbacks: status.rollbacks,
        seconds: started.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// What the runs decided since the last time, one line each.
fn account(production: &Production<'_>, told: &mut u64) -> Result<String, BoxError> {
    let mut text = String::new();
    let status = production.pipeline.status()?;
    while *told < status.runs {
        *told += 1;
        let Some(run) = production.pipeline.run(RunId(*told))? else { continue };
        let last = run.notes.last().map(|(_, reason)| reason.to_string()).unwrap_or_default();
        text += &format!("\n          {} {}: {last}", run.id, run.state.as_str());
    }
    Ok(text)
}

/// Walks from one sample that was trained on to the model that it helped to make.
fn walk(production: &Production<'_>) -> Result<(), BoxError> {
    let mut example = None;
    production.pipeline.each_sample(|sample| {
        if example.is_none() && sample.batch.is_some() && !sample.flags.is_empty() {
            example = Some(sample.id());
        }
        Ok(())
    })?;
    if let Some(id) = example {
        println!("\nwhere one wine went:");
        print!("{}", production.pipeline.lineage(id)?);
    }
    Ok(())
}
