//! How often no difference is taken for one: promotions by superiority, and rollbacks, between models that are equally good.
//! Of the rules alone; `tests/false_promotions.rs` shows it of the whole pipeline.

use super::{ConfirmRules, Evidence};
use crate::retrain::{Paired, Profile, Verdict, Watch, WatchVerdict};
use crate::stats::binomial;
use crate::{Annotator, ModelVersion};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// What labels bring: rows of a label batch, and how often the models disagree on one.
#[derive(Clone, Copy)]
struct Traffic {
    batch: u32,
    disagreement: f64,
}

/// A label batch of which the first model wins each decisive row with probability `wins`.
fn batch(traffic: Traffic, wins: f64, paired: &mut Paired, rng: &mut StdRng) {
    for _ in 0..traffic.batch {
        if rng.random::<f64>() < traffic.disagreement {
            let won = rng.random::<f64>() < wins;
            *(if won { &mut paired.wins } else { &mut paired.losses }) += 1;
        }
    }
}

/// A label batch of the candidate, and what is said of it then.
fn judged(evidence: &mut Evidence, traffic: Traffic, wins: f64, rng: &mut StdRng) -> Option<Verdict> {
    batch(traffic, wins, &mut evidence.against_current, rng);
    evidence.rounds += 1;
    evidence.rows += u64::from(traffic.batch);
    evidence.disagreeing = evidence.against_current.decisive();
    evidence.judge(&ConfirmRules::default(), 1).verdict
}

fn no_evidence() -> Evidence {
    Evidence { annotators: [Annotator::GroundTruth].into(), ..Evidence::default() }
}

fn is_promoted(traffic: Traffic, wins: f64, rng: &mut StdRng) -> bool {
    let mut evidence = no_evidence();
    loop {
        if let Some(verdict) = judged(&mut evidence, traffic, wins, rng) {
            return verdict == Verdict::Pass;
        }
    }
}

/// Is one of a line of candidates promoted, each of which is judged in one label batch and hands its evidence on?
fn is_one_promoted(traffic: Traffic, wins: f64, rng: &mut StdRng) -> bool {
    let mut evidence = no_evidence();
    loop {
        if let Some(verdict) = judged(&mut evidence, traffic, wins, rng) {
            return verdict == Verdict::Pass;
        }
        match evidence.handed_on() {
            Some(next) => evidence = next,
            None => return false,
        }
    }
}

/// Is the promotion taken back? The previous model wins with probability `wins`.
fn is_rolled_back(traffic: Traffic, wins: f64, rng: &mut StdRng) -> bool {
    let mut watch = Watch::new(ModelVersion(1), ModelVersion(0));
    loop {
        batch(traffic, wins, &mut watch.paired, rng);
        watch.rounds += 1;
        match watch.judge(&Profile::confirm()) {
            WatchVerdict::Watching { .. } => {}
            WatchVerdict::RollBack(_) => return true,
            WatchVerdict::Kept | WatchVerdict::KeptUnproven => return false,
        }
    }
}

type Run = fn(Traffic, f64, &mut StdRng) -> bool;

fn count(run: Run, traffic: Traffic, wins: f64, runs: u64, seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..runs).filter(|_| run(traffic, wins, &mut rng)).count() as u64
}

/// All claim at most 1 / 20, whatever the traffic. Beside every rate stands a power floor.
fn false_verdicts_are_rare(batches: &[u32], runs: u64) {
    let run: [(&str, Run); 3] =
        [("promotion", is_promoted), ("promotion of a line", is_one_promoted), ("rollback", is_rolled_back)];
    for (name, run) in run {
        let mut power = 0.0_f64;
        for &batch in batches {
            for disagreement in [0.1, 0.5, 1.0] {
                let traffic = Traffic { batch, disagreement };
                let found = count(run, traffic, 0.5, runs, 0x6e75 ^ u64::from(batch));
                let at_least = binomial::lower(found, runs, 0.9999);
                assert!(at_least <= 0.05, "{name}, {batch} rows at {disagreement}: {found} of {runs}");
                power = power.max(count(run, traffic, 0.8, runs / 10, 1) as f64 / (runs / 10) as f64);
            }
        }
        assert!(power > 0.9, "{name}: found in {power} at most, although it wins four of five");
    }
}

#[test]
fn false_promotions_and_rollbacks_are_rare() {
    false_verdicts_are_rare(&[5, 25], 2_000);
}

/// `cargo test --release --lib false_promotions_over -- --ignored`
#[test]
#[ignore = "heavy"]
fn false_promotions_and_rollbacks_are_rare_over_many_runs() {
    false_verdicts_are_rare(&[1, 2, 5, 10, 25, 60, 200, 1_000], 100_000);
}
