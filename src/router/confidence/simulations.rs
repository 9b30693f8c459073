//! Whole runs of the router, simulated: does what is released keep the promise?
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::event::{Label, Output};
use crate::gate::testing::{at, references, sample};
use crate::router::{Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::Sample;
use crate::schema::{Schema, Target};
use crate::stage::Stage;
use crate::stats::binomial;

/// How wrong the model is.
#[derive(Debug, Clone, Copy)]
enum World {
    /// Errors of sure rows with this chance.
    Steady(f64),
    /// A fifth of this while a threshold is learned, for the first tenth; then this.
    Worsening(f64),
    /// Bad stretches of about 100 rows with ten times the errors of the others; this on average.
    Autocorrelated(f64),
    /// The surest rows are the worst: 4 times this from .95 on, a quarter of it below.
    Miscalibrated(f64),
    /// The first error, from the half on the second, from seven tenths on the first again.
    Drift(f64, f64),
}

#[derive(Clone, Copy)]
struct Case {
    world: World,
    error: f64,
    audit: f64,
    cap: f64,
    rows: u128,
    /// Rows from a question to its answer.
    delay: u128,
}

#[derive(Default, Debug)]
struct Run {
    /// Labels released that nobody audited, and their errors.
    released: u64,
    wrong: u64,
    /// Was the error of all released ones ever too large?
    ever_broken: bool,
    /// Those made after the onset of the drift.
    after_onset: u64,
    /// Rows from the end of the drift to the next auto-label.
    resumed: Option<u128>,
    stops: u64,
    questions: u64,
    most_exposed: u64,
}

impl World {
    fn error(self, confidence: f64, n: u128, rows: u128, bad: bool) -> f64 {
        if confidence < 0.6 {
            return 0.4;
        }
        match self {
            World::Steady(error) => error,
            World::Worsening(error) => error * if n < rows / 10 { 0.2 } else { 1.0 },
            World::Autocorrelated(error) => error * if bad { 5.0 } else { 0.5 },
            World::Miscalibrated(error) => error * if confidence >= 0.95 { 4.0 } else { 0.25 },
            World::Drift(before, during) => {
                if n >= rows / 2 && n < rows * 7 / 10 {
                    during
                } else {
                    before
                }
            }
        }
    }
}

/// The same sample, reused: what the router looks at is set anew.
fn play(case: Case, seed: u64, restart_at: Option<u128>) -> (Run, ConfidenceRouter) {
    let schema = Schema::numeric(1, Target::classes(["a", "b"])).unwrap();
    let references = references(&schema);
    let make = || ConfidenceRouter::max_error(case.error).audit(case.audit).cap(case.cap).seed(seed);
    let mut router = make();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut run, mut bad) = (Run::default(), false);
    let mut asked: VecDeque<(u128, Sample, u32, f64, bool)> = VecDeque::new();
    // Per cohort: labels not audited, errors among them, labels after the onset.
    let mut books: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
    let mut auto_seen_since_recovery = false;
    for n in 0..case.rows {
        if restart_at == Some(n) {
            let snapshot = serde_json::to_string(&router.snapshot().unwrap()).unwrap();
            router = make();
            router.restore(&serde_json::from_str(&snapshot).unwrap()).unwrap();
        }
        while asked.front().is_some_and(|(due, ..)| *due <= n) {
            let (_, sample, class, confidence, correct) = asked.pop_front().unwrap();
            let (auto, human) = (Label::Class(class), Label::Class(if correct { class } else { 1 - class }));
            router.learn(&Audited { sample: &sample, auto, confidence, human, time: at(n as i64) }).unwrap();
        }
        bad = rng.random::<f64>() < if bad { 0.99 } else { 1.0 / 800.0 };
        let confidence = 0.5 + 0.5 * rng.random::<f64>();
        let class = u32::from(rng.random::<f64>() < 0.3);
        let correct = rng.random::<f64>() >= case.world.error(confidence, n, case.rows, bad);
        let mut sample = sample(&schema, n);
        let sure = [confidence, 1.0 - confidence];
        sample.observation.set_output(Output::Probabilities(&[sure[class as usize], sure[1 - class as usize]]));
        let now = at(n as i64);
        let context =
            RouteContext { schema: &schema, references: &references, now, waiting: 0, alarm: false, standing: false };
        match router.route(&sample, &context).unwrap() {
            Route::Auto { audit, cohort, .. } => {
                if n >= case.rows * 7 / 10 && !auto_seen_since_recovery {
                    auto_seen_since_recovery = true;
                    run.resumed = Some(n - case.rows * 7 / 10);
                }
                let book = books.entry(cohort).or_default();
                if audit.is_some() {
                    run.questions += 1;
                    asked.push_back((n + case.delay, sample, class, confidence, correct));
                } else {
                    book.0 += 1;
                    book.1 += u64::from(!correct);
                }
                book.2 += u64::from(n >= case.rows / 2 && n < case.rows * 7 / 10);
            }
            Route::Ask { .. } => {
                run.questions += 1;
                asked.push_back((n + case.delay, sample, class, confidence, correct));
            }
            Route::Skip(reason) => panic!("{reason}"),
        }
        if n % 20 == 0 {
            run.most_exposed = run.most_exposed.max(books.values().map(|book| book.0).sum());
            for (cohort, verdict) in router.cohorts(now, false) {
                let (labels, wrong, after_onset) = books.remove(&cohort).unwrap_or_default();
                if verdict == CohortVerdict::Release {
                    run.released += labels;
                    run.wrong += wrong;
                    run.after_onset += after_onset;
                    run.ever_broken |= run.wrong as f64 > case.error * run.released as f64;
                }
            }
        }
    }
    run.stops = router.status(at(0)).stops;
    (run, router)
}

/// Plays `repetitions` runs, checks the promise by a binomial bound, and prints what was found. Returns the mean coverage.
fn promise_holds(name: &str, case: Case, repetitions: u64) -> f64 {
    let runs: Vec<Run> = (0..repetitions).map(|seed| play(case, seed, None).0).collect();
    let broken = runs.iter().filter(|run| run.wrong as f64 > case.error * run.released as f64).count() as u64;
    let ever = runs.iter().filter(|run| run.ever_broken).count() as u64;
    let (released, wrong): (u64, u64) = runs.iter().fold((0, 0), |(r, w), run| (r + run.released, w + run.wrong));
    let rows = case.rows as f64;
    let mut coverage: Vec<f64> = runs.iter().map(|run| run.released as f64 / rows).collect();
    coverage.sort_by(f64::total_cmp);
    let mean = coverage.iter().sum::<f64>() / repetitions as f64;
    let most = runs.iter().map(|run| run.most_exposed).max().unwrap();
    let stops = runs.iter().map(|run| run.stops).sum::<u64>() as f64 / repetitions as f64;
    let asked = runs.iter().map(|run| run.questions).sum::<u64>() as f64 / repetitions as f64 / rows;
    println!(
        "{name}: broken {broken} of {repetitions} (upper 95 % limit {:.3}; ever {ever}), error {:.4}, coverage mean {mean:.3} lowest tenth {:.3}, \
         {stops:.2} stops, {asked:.3} asked, at most {most} waiting",
        binomial::upper(broken, repetitions, 0.95),
        wrong as f64 / released.max(1) as f64,
        coverage[coverage.len() / 10],
    );
    let least = binomial::lower(ever, repetitions, 0.999);
    assert!(least <= 0.05, "{name}: {ever} of {repetitions} runs broke the promise");
    mean
}

/// A drift in the middle: what is released after its onset, and when auto-labelling goes on.
fn drift_is_contained(name: &str, case: Case, repetitions: u64) {
    let stated = ConfidenceRouter::max_error(case.error).audit(case.audit).drift_exposure().unwrap();
    let runs: Vec<Run> = (0..repetitions).map(|seed| play(case, seed, None).0).collect();
    let beyond = runs.iter().filter(|run| run.after_onset > stated.labels).count() as u64;
    let mut after: Vec<u64> = runs.iter().map(|run| run.after_onset).collect();
    after.sort_unstable();
    let mut resumed: Vec<u128> = runs.iter().map(|run| run.resumed.unwrap_or(u128::MAX)).collect();
    resumed.sort_unstable();
    let middle = runs.len() / 2;
    println!(
        "{name}: stated `{stated}`; released after onset median {}, 95 % {}, most {}; beyond {beyond} of {repetitions}; resumed after {} rows in the median, {} in 90 %",
        after[middle],
        after[runs.len() * 95 / 100],
        after[runs.len() - 1],
        resumed[middle],
        resumed[runs.len() * 9 / 10],
    );
    assert!(binomial::lower(beyond, repetitions, 0.999) <= 0.05, "{beyond} of {repetitions} released more");
    assert!(runs.iter().filter(|run| run.stops > 0).count() as u64 * 10 >= 9 * repetitions, "a drift stops it");
    assert!(resumed[runs.len() * 9 / 10] < case.rows * 3 / 10, "auto-labelling resumes in nine of ten runs");
}

const LIGHT: Case = Case { world: World::Steady(0.02), error: 0.1, audit: 0.2, cap: 0.9, rows: 1_500, delay: 30 };

#[test]
fn released_labels_keep_the_promise_over_a_whole_run() {
    let coverage = promise_holds("steady", LIGHT, 40);
    assert!(coverage >= 0.3, "feasible, so {coverage} is no pass");
    promise_holds("just too bad", Case { world: World::Worsening(0.115), ..LIGHT }, 30);
    promise_holds("autocorrelated", Case { world: World::Autocorrelated(0.05), ..LIGHT }, 30);
    promise_holds("miscalibrated", Case { world: World::Miscalibrated(0.05), ..LIGHT }, 30);
}

#[test]
fn a_drift_releases_no_more_than_is_stated_and_auto_labelling_resumes() {
    let case = Case { world: World::Drift(0.02, 0.5), rows: 3_000, ..LIGHT };
    drift_is_contained("drift", case, 20);
}

/// A restart anywhere changes nothing.
#[test]
fn a_restart_in_the_middle_changes_nothing() {
    let mut decided = 0;
    for (world, at) in [(World::Steady(0.02), 1_100), (World::Drift(0.02, 0.5), 777), (World::Worsening(0.3), 400)] {
        let case = Case { world, rows: 1_500, ..LIGHT };
        let (whole, router) = play(case, 5, None);
        let (cut, other) = play(case, 5, Some(at));
        assert_eq!(router.snapshot().unwrap(), other.snapshot().unwrap());
        assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        decided += whole.released + whole.stops;
    }
    assert!(decided > 500, "{decided}");
}

/// 500 repetitions at 0.02 and at 0.05, without a drift and with one in the middle:
/// `cargo test --release --lib -- --ignored --nocapture five_hundred`.
fn five_hundred_runs(error: f64, during: f64, rows: u128) {
    let case = Case { world: World::Steady(error / 5.0), error, audit: 0.1, cap: 0.9, rows, delay: 100 };
    let coverage = promise_holds(&format!("{error}, steady"), case, 500);
    assert!(coverage >= 0.3, "feasible, so {coverage} is no pass");
    let case = Case { world: World::Drift(error / 5.0, during), ..case };
    promise_holds(&format!("{error}, with a drift to {during}"), case, 500);
    drift_is_contained(&format!("{error}, with a drift to {during}"), case, 500);
}

#[test]
#[ignore = "minutes"]
fn five_hundred_runs_at_two_percent() {
    five_hundred_runs(0.02, 0.1, 20_000);
}

#[test]
#[ignore = "minutes"]
fn five_hundred_runs_at_five_percent() {
    five_hundred_runs(0.05, 0.3, 10_000);
}

/// The other worlds, with 5 % audits and the sizes of production.
#[test]
#[ignore = "an hour in release"]
fn worlds_at_real_sizes() {
    for (error, rows) in [(0.02, 40_000), (0.05, 20_000)] {
        let case = Case { world: World::Steady(error / 5.0), error, audit: 0.05, cap: 0.8, rows, delay: 200 };
        let worlds = [
            World::Steady(error / 5.0),
            World::Steady(error / 2.0),
            World::Worsening(error * 1.1),
            World::Autocorrelated(error * 0.5),
            World::Miscalibrated(error * 0.6),
        ];
        for world in worlds {
            promise_holds(&format!("{error} {world:?}"), Case { world, ..case }, 500);
        }
    }
}
