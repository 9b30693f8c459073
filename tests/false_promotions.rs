//! False promotions and false rollbacks through the whole pipeline, profile `confirm`: models that are equally good go from
//! the trigger to the verdict of the watch, with labels by people or as outcomes, some of them late, some never.
//!
//! `src/retrain/judge/simulation.rs` shows it of the rules alone. Here everything around them could break the promise too:
//! which rows are drawn and asked about, which labels judge whom, when a model is frozen, when anybody looks. So a candidate
//! knows the rows that it was trained on by heart: a label that is trained on and then judges would speak for it.
//!
//! Every test prints its rates with `--nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeSet, HashMap};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Artifact, BoxError, Clock, ConfirmRules, Dataset, Event, Evidence, FnTrainer, Label, ManualClock, ModelRecord,
    ModelSlot, Outcome, PairedEvaluator, Pipeline, PredictionId, Profile, ReviewQueue, Row, RunId, RunState, TrainJob,
    new_labels, plan_promotion,
};
use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};
use support::{Rng, id, observation_of, schema, start, truth};

const CONCEPT: f64 = 0.5;
/// Label batches are small here, and there are many of them: what is promised holds however often one looks.
const MOST_ROUNDS: u32 = 30;

/// A model that is wrong on a share of the rows, by a coin of its own. The second value of a row is the state of the world.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Coin {
    seed: u64,
    /// Share of wrong predictions in each state of the world.
    errors: [f64; 2],
    by_heart: BTreeSet<u64>,
}

impl Coin {
    fn probabilities(&self, values: &[f64]) -> [f64; 2] {
        let row = values[0].to_bits();
        let wrong = Rng(self.seed ^ row).chance(self.errors[values[1] as usize]) && !self.by_heart.contains(&row);
        let says_yes = (truth(values, CONCEPT) == Label::Class(1)) != wrong;
        if says_yes { [0.1, 0.9] } else { [0.9, 0.1] }
    }

    fn artifact(&self) -> Artifact {
        Artifact::Inline(serde_json::to_vec(self).unwrap())
    }

    fn load(record: &ModelRecord) -> Result<Coin, BoxError> {
        match &record.artifact {
            Artifact::Inline(bytes) => Ok(serde_json::from_slice(bytes)?),
            Artifact::File(path) => Ok(serde_json::from_slice(&std::fs::read(path)?)?),
        }
    }
}

/// How wrong the first model and every candidate are, in each state of the world.
#[derive(Debug, Clone, Copy)]
struct Case {
    first: [f64; 2],
    candidate: [f64; 2],
    /// Candidates are wrong where the first model is, but for the rows that they were trained on.
    same_coin: bool,
    /// Shares of the random and of the comparison lane.
    lanes: (f64, f64),
}

/// A loop and the world around it. The seed decides on the label batch, and whether people label or outcomes come.
struct Life {
    pipeline: Pipeline,
    slot: ModelSlot<Coin>,
    queue: ReviewQueue,
    clock: ManualClock,
    rng: Rng,
    rows: HashMap<PredictionId, Vec<f64>>,
    served: u64,
    by_people: bool,
    /// Truths under way.
    coming: Vec<(u64, PredictionId)>,
    turns: u64,
    label_batch: usize,
    /// The run whose candidate is judged.
    run: RunId,
    /// Decisive rows of the lines before.
    spent: u64,
}

impl Life {
    fn new(seed: u64, case: Case) -> Life {
        let mut rng = Rng(seed);
        let clock = ManualClock::starting_at(start());
        let (first_seed, candidate_seed) = (rng.next(), rng.next());
        let first = Coin { seed: first_seed, errors: case.first, by_heart: BTreeSet::new() };
        let train = FnTrainer::inline(move |job: &TrainJob| {
            let own = candidate_seed ^ job.run.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let seed = if case.same_coin { first_seed } else { own };
            let by_heart = job.data.rows().iter().map(|row| row.values()[0].to_bits()).collect();
            Ok(Coin { seed, errors: case.candidate, by_heart }.artifact())
        });
        let rules = ConfirmRules { most_rounds: MOST_ROUNDS, ..ConfirmRules::default() };
        let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
            let model = Coin::load(record)?;
            Ok(move |row: &Row, output: &mut [f64]| {
                output.copy_from_slice(&model.probabilities(row.values()));
                Ok(())
            })
        });
        let slot = ModelSlot::new(first.clone(), Coin::load).inline();
        let base = (0..4).map(|_| {
            let values = [rng.unit(), 0.0];
            (values, truth(&values, CONCEPT))
        });
        let base = Dataset::from_values(schema(), base.collect::<Vec<_>>()).unwrap();
        let label_batch = [2, 4, 8][rng.below(3)];
        let pipeline = Pipeline::builder("coins", schema())
            .training_data(base)
            .first_model(first.artifact())
            .explore(case.lanes.0)
            .compare(case.lanes.1)
            .label_batch(label_batch)
            .learn_from_outcomes(0.1)
            .trigger(new_labels(10))
            .train(train)
            .evaluate(evaluator.profile(Profile::Confirm(rules)).inline())
            .deploy(slot.clone())
            .seed(seed)
            .clock(clock.clone())
            .build()
            .unwrap();
        let target = schema().target().clone();
        let queue = ReviewQueue::open(pipeline.store().clone(), "coins", target, std::sync::Arc::new(clock.clone()));
        let by_people = rng.chance(0.5);
        let (rows, coming) = (HashMap::new(), Vec::new());
        Life {
            pipeline,
            slot,
            queue,
            clock,
            rng,
            rows,
            served: 0,
            by_people,
            coming,
            turns: 0,
            label_batch,
            run: RunId(1),
            spent: 0,
        }
    }

    /// Serves some rows and lets labels come.
    fn turn(&mut self, world: usize) {
        self.clock.advance(TimeDelta::minutes(10));
        self.turns += 1;
        assert!(self.turns < 1_000, "a life without an end: {:?}", self.pipeline.status().unwrap());
        let served = self.slot.get();
        let mut events = Vec::new();
        for _ in 0..40 {
            let values = vec![self.rng.unit(), world as f64];
            let output = served.model.probabilities(&values);
            let mut observation = observation_of(self.served, served.version, output, &values);
            observation.time = self.clock.now();
            events.push(Event::Prediction(observation));
            // One truth of ten never comes.
            if !self.by_people && !self.rng.chance(0.1) {
                self.coming.push((self.turns + self.rng.below(3) as u64, id(self.served)));
            }
            self.rows.insert(id(self.served), values);
            self.served += 1;
        }
        self.pipeline.ingest(events).unwrap();
        self.pipeline.poll().unwrap();
        if self.by_people {
            self.answer();
        }
        let turns = self.turns;
        let arrived: Vec<_> = self.coming.extract_if(.., |(when, _)| *when <= turns).collect();
        let truths = arrived.into_iter().map(|(_, id)| Outcome::truth(id, truth(&self.rows[&id], CONCEPT)));
        self.pipeline.ingest(truths.map(Event::Outcome)).unwrap();
        self.pipeline.poll().unwrap();
    }

    /// Two people answer most of the questions; what they leave is asked again.
    fn answer(&mut self) {
        for who in ["ann", "bob"] {
            let share = self.queue.waiting().unwrap().div_ceil(2) as usize;
            for ticket in self.queue.claim(who, share, TimeDelta::minutes(5)).unwrap() {
                let id = ticket.task.sample;
                match self.rows.get(&id) {
                    Some(values) => drop(self.queue.annotate(id, who, truth(values, CONCEPT), 1.0, None).unwrap()),
                    None => self.queue.skip(id, who).unwrap(),
                }
            }
        }
    }

    /// Serves this state of the world until a candidate of the line is promoted, `true`, or none of it is: one that the trigger
    /// supersedes hands its evidence on, or a new line begins after it.
    fn is_promoted(&mut self, world: usize) -> bool {
        loop {
            self.turn(world);
            match self.pipeline.run(self.run).unwrap().map(|run| run.state) {
                Some(RunState::Watched) => return true,
                Some(RunState::Rejected | RunState::Inconclusive) => return false,
                Some(RunState::Superseded) => {
                    let (line_ends, decisive) = (!self.hands_on(), self.evidence().against_current.decisive());
                    self.run.0 += 1;
                    if line_ends {
                        self.spent += decisive;
                        return false;
                    }
                }
                Some(state) => assert!(state.in_flight(), "{state:?}"),
                None => {}
            }
        }
    }

    /// Is a candidate of one of the next lines promoted?
    fn is_promoted_at_last(&mut self, world: usize) -> bool {
        (0..20).any(|_| self.is_promoted(world))
    }

    /// Does the candidate that was judged last hand its evidence on?
    fn hands_on(&self) -> bool {
        let run = self.pipeline.run(self.run).unwrap().unwrap();
        run.notes.last().unwrap().1.to_string().contains("takes its evidence over")
    }

    fn evidence(&self) -> Evidence {
        self.pipeline.evaluation(self.run).unwrap().unwrap().evidence.unwrap()
    }

    /// Serves this state of the world until the watch over the promoted candidate ends: is it taken back? Rows of the
    /// state before get no labels any more.
    fn is_rolled_back(&mut self, world: usize) -> bool {
        self.rows.clear();
        self.coming.clear();
        loop {
            self.turn(world);
            match self.pipeline.run(self.run).unwrap().expect("a run").state {
                RunState::RolledBack => return true,
                RunState::Kept | RunState::KeptUnproven => return false,
                state => assert_eq!(state, RunState::Watched),
            }
        }
    }
}

/// Fails if `found` of `of` can hardly be, were each of them to come with probability `rate` at most.
fn at_most(rate: f64, found: u64, of: u64, what: &str) {
    println!("{what}: {found} of {of}, at most {rate} are promised");
    let chance = Binomial::new(rate, of).unwrap().sf(found.max(1) - 1);
    assert!(found == 0 || chance > 1e-3, "{what}: {found} of {of}, at most {rate} are promised");
}

/// Fails if `found` of `of` can hardly be so few, were each of them to come with probability `rate` at least.
fn at_least(rate: f64, found: u64, of: u64, what: &str) {
    println!("{what}: {found} of {of}, at least {rate} are promised");
    let chance = Binomial::new(rate, of).unwrap().cdf(found);
    assert!(chance > 1e-3, "{what}: {found} of {of}, at least {rate} are promised");
}

/// Of a candidate that is as good as the first model and knows its training rows by heart.
fn equal(seed: u64) -> Case {
    let errors = [0.3, 0.45][seed as usize % 2];
    // A comparison lane beside a small random one, or a random lane that has to bring all labels.
    let lanes = [(0.05, 1.0), (0.1, 0.0)][seed as usize / 2 % 2];
    Case { first: [errors; 2], candidate: [errors; 2], same_coin: false, lanes }
}

/// Of a candidate that is better by ten points, until the world changes to the second state.
fn better(then: [f64; 2]) -> Case {
    let (first, candidate, lanes) = ([0.15, then[0]], [0.05, then[1]], (0.2, 1.0));
    Case { first, candidate, same_coin: false, lanes }
}

fn false_promotions(lives: u64) {
    let promoted = (0..lives).filter(|&seed| Life::new(seed, equal(seed)).is_promoted(0)).count();
    at_most(0.05, promoted as u64, lives, "promotions of a candidate that is equally good");
}

/// A candidate that is better is promoted, and within the labels that the plan promises in the median, counted up to the
/// end of a label batch; then the world makes the two equally good.
fn false_rollbacks(lives: u64) {
    let disagreement = 0.15 * 0.95 + 0.85 * 0.05;
    let planned = plan_promotion(0.1, disagreement, 50.0, 1).unwrap().confirmed;
    let (mut promoted, mut in_time, mut rolled_back) = (0, 0, 0);
    for seed in 0..lives {
        let mut life = Life::new(seed, better([0.3, 0.3]));
        if !life.is_promoted_at_last(0) {
            continue;
        }
        promoted += 1;
        let decisive = life.spent + life.evidence().against_current.decisive();
        in_time += u64::from(decisive <= planned + life.label_batch as u64);
        rolled_back += u64::from(life.is_rolled_back(1));
    }
    at_least(0.8, promoted, lives, "promotions of a candidate that is better by 10 points");
    at_least(0.5, in_time, lives, &format!("and within {planned} decisive labels and a label batch"));
    at_most(0.05, rolled_back, promoted, "rollbacks of a model that is as good as the one before");
}

/// The same promotion, and then the promoted model is the worse one.
fn true_rollbacks(lives: u64) {
    let (mut promoted, mut rolled_back) = (0, 0);
    for seed in 0..lives {
        let mut life = Life::new(seed, better([0.1, 0.4]));
        if life.is_promoted_at_last(0) {
            promoted += 1;
            rolled_back += u64::from(life.is_rolled_back(1));
        }
    }
    at_least(0.8, rolled_back, promoted, "rollbacks of a model that is worse by 30 points");
}

#[test]
fn an_equally_good_candidate_is_rarely_promoted() {
    false_promotions(50);
}

#[test]
fn a_better_one_is_promoted_as_planned_and_rarely_taken_back() {
    false_rollbacks(16);
}

#[test]
fn a_promoted_model_that_becomes_worse_is_taken_back() {
    true_rollbacks(6);
}

#[test]
fn a_promoted_model_that_never_differs_again_is_kept_unproven_and_blocks_nothing() {
    let mut life = Life::new(1, better([0.0, 0.0]));
    assert!(life.is_promoted_at_last(0));
    assert!(!life.is_rolled_back(1));
    assert_eq!(life.pipeline.run(life.run).unwrap().unwrap().state, RunState::KeptUnproven);
    let runs = life.pipeline.status().unwrap().runs;
    (0..30).for_each(|_| life.turn(1));
    assert!(life.pipeline.status().unwrap().runs > runs, "the loop goes on");
}

#[test]
fn no_label_judges_a_model_that_was_trained_on_it() {
    for seed in 0..4 {
        let mut life = Life::new(seed, Case { same_coin: true, ..equal(seed) });
        while life.run < RunId(9) {
            life.turn(0);
            let superseded = life.pipeline.run(life.run).unwrap().is_some_and(|run| run.state == RunState::Superseded);
            life.run.0 += u64::from(superseded);
        }
        life.run.0 -= 1;
        let evidence = life.evidence();
        assert_eq!((evidence.against_current.decisive(), evidence.taken_over.candidates), (0, 7), "seed {seed}");
        assert!(evidence.rows >= 20, "seed {seed}");
    }
}

/// `cargo test --release --test false_promotions -- --ignored --nocapture`, and so the next one.
#[test]
#[ignore = "heavy"]
fn an_equally_good_candidate_is_rarely_promoted_in_many_lives() {
    false_promotions(2_000);
}

#[test]
#[ignore = "heavy"]
fn a_better_one_is_promoted_as_planned_and_rarely_taken_back_in_many_lives() {
    false_rollbacks(2_000);
    true_rollbacks(200);
}
