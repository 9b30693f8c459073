//! A deterministic simulation of the whole loop under faults.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/cuts.rs"]
mod cuts;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/driver.rs"]
mod driver;
#[path = "simulation/outside.rs"]
mod outside;
#[path = "simulation/stages.rs"]
mod stages;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use driver::{Life, Simulation};

const NAME: &str = "simulated";
const STEPS: u64 = 90;

/// One life, or why it broke an invariant.
fn live(seed: u64) -> Result<(Life, BTreeMap<&'static str, u64>), String> {
    let mut simulation = Simulation::new(seed);
    let lived = catch_unwind(AssertUnwindSafe(|| simulation.live(STEPS)));
    lived.map(|life| (life, simulation.seen())).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let why = format!(
            "seed {seed} broke an invariant in step {}: {text}\nagain with:\n    \
             FEEDLOOP_SEED={seed} cargo test --test simulation replay -- --ignored --nocapture",
            simulation.steps
        );
        eprintln!("{why}");
        why
    })
}

/// Lives of every seed, on so many threads; every failure is told.
fn live_all(seeds: Range<u64>, threads: u64) -> (Life, BTreeMap<&'static str, u64>) {
    let lives = std::thread::scope(|scope| {
        let share = |thread| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || seeds.map(live).collect::<Vec<_>>())
        };
        let workers: Vec<_> = (0..threads).map(share).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let (mut total, mut seen, mut broken) = (Life::default(), BTreeMap::<&str, u64>::new(), Vec::new());
    for lived in lives {
        match lived {
            Ok((life, happened)) => {
                total.add(life);
                happened.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
            }
            Err(why) => broken.push(why),
        }
    }
    assert!(broken.is_empty(), "{} seeds failed\n{}", broken.len(), broken.join("\n"));
    eprintln!("{total:?}\n{seen:?}");
    (total, seen)
}

#[test]
fn the_invariants_hold_whatever_happens() {
    live_all(0..200, 1);
}

#[test]
fn the_same_seed_leaves_the_same_store_to_the_byte() {
    for seed in [2, 3, 5] {
        let dump = || {
            let mut simulation = Simulation::new(seed);
            simulation.live(STEPS);
            simulation.dump()
        };
        let (first, second) = (dump(), dump());
        assert_eq!(first.len(), second.len());
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a, b, "{}", String::from_utf8_lossy(&a.5));
        }
    }
}

#[test]
#[ignore = "a hundred times as many; with --release"]
fn the_invariants_hold_for_twenty_thousand_seeds() {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    live_all(0..20_000, threads);
}

#[test]
#[ignore = "one seed or a range of them (7, 7..90), given by FEEDLOOP_SEED"]
fn replay() {
    let Ok(seeds) = std::env::var("FEEDLOOP_SEED") else { return };
    let number = |text: &str| text.parse::<u64>().expect("FEEDLOOP_SEED is a number, or two with `..` between them");
    let seeds = match seeds.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&seeds)..number(&seeds) + 1,
    };
    live_all(seeds, 1);
}
