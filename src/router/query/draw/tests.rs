#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::event::{Output, PredictionId};
use crate::gate::testing::at;
use crate::reference::{Reference, References};
use crate::router::{HumanRouter, LabelRouter};
use crate::sample::Flag;
use crate::schema::{Field, Row, Schema};
use crate::stage::{Snapshot, Stage};

/// Two independent standard normal columns and two classes.
struct World {
    schema: Arc<Schema>,
    references: References,
}

fn normal(seed: u64, n: u64, what: u64) -> f64 {
    let unit = |part: u64| unit_interval(seed ^ (what << 8) ^ (part << 40), &n.to_le_bytes());
    (-2.0 * (1.0 - unit(1)).ln()).sqrt() * (std::f64::consts::TAU * unit(2)).cos()
}

fn uniform(seed: u64, n: u64, what: u64) -> f64 {
    unit_interval(seed ^ (what << 8) ^ (3 << 40), &n.to_le_bytes())
}

impl World {
    fn of(columns: usize, target: Target) -> Self {
        let schema = Arc::new(Schema::numeric(columns, target).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for n in 0..500 {
            let values: Vec<f64> = (0..columns as u64).map(|column| normal(77, n, column)).collect();
            builder.push(&Row::from_values(&schema, &values).unwrap(), None, None).unwrap();
        }
        World { references: References::starting_with(Arc::new(builder.finish())), schema }
    }

    fn classes() -> Self {
        World::of(2, Target::classes(["a", "b"]))
    }

    fn router(&self, budget: Budget, strategy: QueryStrategy) -> HumanRouter {
        let mut router = HumanRouter::new(budget).strategy(strategy);
        router.rebase(&self.references).unwrap();
        router
    }

    /// Candidate `n`, of which the model is sure by `confidence`.
    fn sample(&self, n: u64, values: &[f64], confidence: f64) -> Sample {
        let mut observation = crate::event::Observation::new(&self.schema);
        observation.id = PredictionId::from_uuid(uuid::Uuid::from_u64_pair(1, n));
        observation.row.copy_values(values).unwrap();
        observation.set_output(Output::Probabilities(&[confidence, 1.0 - confidence]));
        let mut sample = Sample::new(observation, n, Lane::Flagged, 1.0);
        sample.flags.push(Flag { detector: "first".into(), ..Flag::new(sample.id(), 2.0, 1.0) });
        sample
    }

    /// An ordinary candidate: a normal row, any confidence.
    fn ordinary(&self, n: u64) -> Sample {
        self.sample(n, &[normal(5, n, 0), normal(5, n, 1)], 0.5 + 0.5 * uniform(5, n, 2))
    }

    fn route(&self, router: &mut HumanRouter, sample: &Sample, now: DateTime<Utc>, alarm: bool) -> Route {
        let context = RouteContext {
            schema: &self.schema,
            references: &self.references,
            now,
            waiting: 0,
            alarm,
            standing: alarm,
        };
        router.route(sample, &context).unwrap()
    }
}

fn drawn(route: &Route) -> Option<Drawn> {
    match route {
        Route::Ask { drawn, .. } => *drawn,
        _ => None,
    }
}

fn code(route: &Route) -> &str {
    match route {
        Route::Ask { why, .. } | Route::Skip(why) => &why.code,
        route => panic!("{route:?}"),
    }
}

fn saved(router: &HumanRouter) -> Snapshot {
    let text = serde_json::to_string(&router.snapshot().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

const MINUTE: i64 = 60;

#[test]
fn the_recorded_probability_is_the_frequency_of_being_drawn() {
    let world = World::classes();
    let budget = Budget::per_day(480);
    let mut past = world.router(budget, QueryStrategy::margin());
    for n in 0..300 {
        world.route(&mut past, &world.ordinary(n), at(n as i64 * MINUTE), false);
    }
    for n in [1_000, 1_001, 1_002] {
        let sample = world.ordinary(n);
        let repetitions = 3_000;
        let (mut inclusion, mut times) = (None, 0_u32);
        for seed in 0..repetitions {
            let mut router = past.clone();
            router.query.strategy = router.query.strategy.seed(seed);
            if let Some(drawn) = drawn(&world.route(&mut router, &sample, at(301 * MINUTE), false)) {
                assert_eq!(*inclusion.get_or_insert(drawn.inclusion), drawn.inclusion, "the past alone decides on it");
                times += 1;
            }
        }
        let p = inclusion.expect("drawn at least once");
        let (share, sd) = (f64::from(times) / repetitions as f64, (p * (1.0 - p) / repetitions as f64).sqrt());
        assert!((share - p).abs() <= 4.0 * sd, "sample {n}: drawn in {share} of the cases, recorded {p}");
    }
}

/// What is estimated rises with uncertainty, so that the questions are a biased sample of it.
#[test]
fn weighted_sums_are_unbiased_and_plain_ones_are_not() {
    let world = World::classes();
    let (repetitions, candidates) = (100_u64, 450_u64);
    let (mut weighted, mut plain, mut closed) = (Vec::new(), Vec::new(), 0);
    for seed in 0..repetitions {
        let mut router = world.router(Budget::per_day(240), QueryStrategy::margin().agreement(0.2).seed(seed));
        let (mut truth, mut estimate, mut asked, mut seen, mut questions) = (0.0, 0.0, 0.0, 0_u64, 0_u64);
        for n in 0..candidates {
            let sample = world.ordinary(n);
            let value = 1.0 - sample.observation.output()[0];
            let route = world.route(&mut router, &sample, at(n as i64 * 2 * MINUTE), false);
            if code(&route) == "budget" {
                closed += 1;
                continue;
            }
            (truth, seen) = (truth + value, seen + 1);
            if let Some(drawn) = drawn(&route) {
                estimate += value / drawn.inclusion;
                (asked, questions) = (asked + value, questions + 1);
            }
        }
        weighted.push((estimate - truth) / seen as f64);
        assert!(questions > 0, "seed {seed} asks nothing of {seen}");
        plain.push(asked / questions as f64 - truth / seen as f64);
    }
    let count = repetitions as f64;
    let moments = |all: &[f64]| {
        let mean = all.iter().sum::<f64>() / count;
        (mean, (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0) / count).sqrt())
    };
    let ((mean, error), (off, off_error)) = (moments(&weighted), moments(&plain));
    println!("weighted {mean:.5} ± {error:.5}, plain {off:.5} ± {off_error:.5}, {closed} closed");
    assert!(mean.abs() <= 3.3 * error, "weighted sums are off by {mean} ± {error}");
    assert!(error < 0.01, "the test would miss a bias");
    assert!(off > 10.0 * off_error, "plain means should be off: {off} ± {off_error}");
    let share = closed as f64 / (repetitions * candidates) as f64;
    assert!(share < 0.05, "an empty bucket is no rare event: {share}");
}

/// Nine tenths are one cloud in which the model is unsure; the rest are ten distant clusters in which it is sure.
#[test]
fn diversity_covers_clusters_that_uncertainty_and_chance_miss() {
    let world = World::classes();
    let covered = |strategy: QueryStrategy, seed: u64| {
        let mut router = world.router(Budget::per_day(60).reserve(0.0), strategy.flagged(0.0).seed(seed));
        let mut clusters = [false; 10];
        let mut asked = 0;
        for n in 0..2_880 {
            let noise = [normal(seed, n, 10), normal(seed, n, 11)];
            let cluster = (uniform(seed, n, 12) < 0.05).then(|| (uniform(seed, n, 13) * 10.0) as usize);
            let sample = match cluster {
                None => world.sample(n, &noise, 0.5 + 0.2 * uniform(seed, n, 14)),
                Some(cluster) => {
                    let (sin, cos) = (std::f64::consts::TAU * cluster as f64 / 10.0).sin_cos();
                    world.sample(n, &[12.0 * cos + 0.3 * noise[0], 12.0 * sin + 0.3 * noise[1]], 0.95)
                }
            };
            if let Route::Ask { .. } = world.route(&mut router, &sample, at(n as i64 * MINUTE), false) {
                asked += 1;
                if let Some(cluster) = cluster {
                    clusters[cluster] = true;
                }
            }
        }
        assert!((90..=125).contains(&asked), "two days at 60 a day: {asked}");
        clusters.iter().filter(|covered| **covered).count() as f64
    };
    let seeds = 20;
    let mean = |strategy: QueryStrategy| (0..seeds).map(|seed| covered(strategy, seed)).sum::<f64>() / seeds as f64;
    let margin = QueryStrategy::margin();
    let (diverse, chance, unsure) = (mean(margin.diverse(0.5)), mean(margin.floor(1.0)), mean(margin.diverse(0.0)));
    println!("of 10 clusters: diverse {diverse}, at random {chance}, by margin {unsure}");
    assert!(diverse >= 8.0 && diverse > 1.3 * chance && chance > 1.3 * unsure, "{diverse}, {chance}, {unsure}");
}

#[test]
fn the_budget_is_kept_spent_evenly_and_nearly_all_used() {
    let world = World::classes();
    for (per_day, every) in [(240, 30), (240, 300), (24, 60), (1_000, 20)] {
        let mut router = world.router(Budget::per_day(per_day), QueryStrategy::margin().diverse(0.0).agreement(0.1));
        let (mut asked, mut closed): (Vec<(i64, u32)>, u64) = (Vec::new(), 0);
        let days = 8;
        let candidates = days * 86_400 / every;
        for n in 0..candidates {
            let now = n * every;
            let route = world.route(&mut router, &world.ordinary(n as u64), at(now), false);
            closed += u64::from(code(&route) == "budget");
            if let Route::Ask { ask, .. } = route {
                asked.push((now, ask.overlap));
            }
        }
        let within = |from: i64, to: i64| {
            let times = asked.iter().filter(|(time, _)| (from..to).contains(time));
            times.map(|(_, questions)| questions).sum::<u32>()
        };
        for (from, _) in &asked {
            let day = within(*from, from + 86_400);
            assert!(day <= per_day, "{day} of {per_day} in the 24 hours from {from}");
        }
        // The first day starts with a full bucket and without knowing the stream.
        let used = f64::from(within(86_400, days * 86_400)) / (days - 1) as f64;
        let quarter = used / 4.0;
        let share = closed as f64 / candidates as f64;
        println!("{per_day} a day, a candidate every {every} s: {used:.1} a day, {:.2} % closed", 100.0 * share);
        assert!(used >= 0.75 * f64::from(per_day), "{used} of {per_day} are used");
        assert!(share < if per_day < 100 { 0.15 } else { 0.05 }, "closed for {share} of the candidates");
        for part in 4..4 * days {
            let found = f64::from(within(part * 21_600, (part + 1) * 21_600));
            // The bucket smooths: its content, and four standard deviations of the draws within it.
            let slack = router_capacity(per_day) + 4.0 * router_capacity(per_day).sqrt();
            assert!((found - quarter).abs() <= slack, "{found} in quarter {part}, on average {quarter}, slack {slack}");
        }
    }
}

fn router_capacity(per_day: u32) -> f64 {
    Budget::per_day(per_day).capacity().unwrap()
}

#[test]
fn a_flood_of_unusable_outputs_does_not_break_the_budget() {
    let world = World::classes();
    let mut router = world.router(Budget::per_day(100), QueryStrategy::entropy());
    let asked = (0..5_000_i64).filter(|&n| {
        let mut sample = world.ordinary(n as u64);
        sample.observation.set_output(Output::Probabilities(&[f64::NAN, 0.5]));
        sample.observation.row.copy_values(&[f64::NAN, f64::INFINITY]).unwrap();
        let route = world.route(&mut router, &sample, at(n * 17), false);
        if let Route::Ask { ask, .. } = &route {
            assert!(ask.priority.is_finite());
        }
        matches!(route, Route::Ask { .. })
    });
    let asked = asked.count();
    assert!((60..=100).contains(&asked), "{asked}");
}

#[test]
fn an_alarm_opens_the_reserve_to_flagged_candidates_only() {
    let world = World::classes();
    let mut router = world.router(Budget::per_day(100).reserve(0.2), QueryStrategy::margin());
    for n in 0..1_440_u64 {
        let route = world.route(&mut router, &world.ordinary(n), at(n as i64 * MINUTE), false);
        assert_ne!(code(&route), "alarm");
    }
    let mut asked = 0;
    for n in 2_000..2_200 {
        let mut sample = world.ordinary(n);
        if n % 2 == 0 {
            sample.lane = Lane::Outcome;
        }
        let route = world.route(&mut router, &sample, at(1_440 * MINUTE), true);
        if code(&route) == "alarm" {
            assert_eq!((sample.lane, drawn(&route)), (Lane::Flagged, None));
            asked += 1;
        }
        if let Route::Ask { ask, .. } = route {
            assert!(ask.priority >= 1.0, "asked before what came without an alarm");
        }
    }
    assert_eq!(asked, 20);
}

#[test]
fn what_two_detectors_flag_has_its_share() {
    let world = World::classes();
    let mut router = world.router(Budget::per_day(480), QueryStrategy::margin().diverse(0.0).flagged(0.25));
    let (mut all, mut flagged) = (0_u32, 0);
    for n in 0..8_000_u64 {
        let mut sample = world.ordinary(n);
        let second = Flag { detector: "second".into(), ..sample.flags[0].clone() };
        if n % 4 == 0 {
            sample.flags.push(second);
        } else {
            sample.flags.push(sample.flags[0].clone());
        }
        let route = world.route(&mut router, &sample, at(n as i64 * MINUTE), false);
        all += u32::from(matches!(route, Route::Ask { .. }));
        if code(&route) == "flagged" {
            assert!(n % 4 == 0 && drawn(&route).is_none());
            flagged += 1;
        }
        assert!(f64::from(flagged) <= 0.25 * f64::from(all) + CREDIT, "{flagged} of {all}");
    }
    assert!(f64::from(flagged) >= 0.2 * f64::from(all), "{flagged} of {all}");
}

#[test]
fn a_share_of_the_questions_is_asked_of_two_people() {
    let world = World::classes();
    let mut router =
        world.router(Budget::per_day(2_000), QueryStrategy::margin().diverse(0.0).agreement(0.3).flagged(0.0));
    let overlaps: Vec<u32> = (0..20_000_u64)
        .filter_map(|n| match world.route(&mut router, &world.ordinary(n), at(n as i64 * 20), false) {
            Route::Ask { ask, .. } => Some(ask.overlap),
            _ => None,
        })
        .collect();
    let (n, two) = (overlaps.len() as f64, overlaps.iter().filter(|overlap| **overlap == 2).count() as f64);
    assert!(overlaps.iter().all(|overlap| (1..=2).contains(overlap)) && n > 3_000.0);
    assert!((two / n - 0.3).abs() <= 4.0 * (0.21 / n).sqrt(), "{two} of {n}");
}

/// Both lanes get their share, and each kind of score decides where it should.
#[test]
fn lanes_follow_their_shares_and_scores() {
    let world = World::classes();
    let chances = |strategy: QueryStrategy, sample: &Sample| {
        let mut router = world.router(Budget::per_day(480), strategy);
        for n in 0..500 {
            world.route(&mut router, &world.ordinary(n), at(n as i64 * MINUTE), false);
        }
        let candidate = router.query.candidate(sample, world.schema.target());
        router.query.inclusion(candidate, Some((4.0, 8.0)), 1).unwrap()
    };
    for strategy in [QueryStrategy::least_confidence(), QueryStrategy::margin(), QueryStrategy::entropy()] {
        let strategy = strategy.diverse(0.0);
        let [sure, unsure] = [0.95, 0.55].map(|p| chances(strategy, &world.sample(9_999, &[0.0, 0.0], p)));
        assert!(sure > 0.0 && unsure > 2.0 * sure, "{strategy:?}: {unsure}, {sure}");
        assert_eq!(chances(strategy.floor(1.0), &world.sample(9_999, &[0.0, 0.0], 0.95)), {
            chances(strategy.floor(1.0), &world.sample(9_999, &[0.0, 0.0], 0.55))
        });
    }
    let diverse = QueryStrategy::margin().diverse(1.0);
    let [near, far] = [0.1, 9.0].map(|x| chances(diverse, &world.sample(9_999, &[x, x], 0.7)));
    assert!(near > 0.0 && far > 3.0 * near, "{far}, {near}");

    let mut router = world.router(Budget::per_day(300), QueryStrategy::margin().diverse(0.4));
    let lanes: Vec<Lane> = (0..10_000)
        .filter_map(|n| drawn(&world.route(&mut router, &world.ordinary(n), at(n as i64 * 40), false)))
        .map(|drawn| drawn.lane)
        .collect();
    let (n, far) = (lanes.len() as f64, lanes.iter().filter(|lane| **lane == Lane::Diverse).count() as f64);
    assert!((far / n - 0.4).abs() <= 4.0 * (0.24 / n).sqrt() + 0.02, "{far} of {n}");
}

#[test]
fn wide_intervals_are_asked_about_first() {
    let world = World::of(2, Target::Value);
    let mut router = world.router(Budget::unlimited(), QueryStrategy::margin().diverse(0.0));
    let mut priority = |value: f64, interval: Option<(f64, f64)>| {
        let mut sample = world.ordinary(1);
        sample.observation.set_output(Output::Value { value, interval });
        match world.route(&mut router, &sample, at(0), false) {
            Route::Ask { ask, drawn: Some(Drawn { inclusion: 1.0, .. }), .. } => ask.priority,
            route => panic!("{route:?}"),
        }
    };
    let [narrow, wide] = [1.0, 4.0].map(|width| priority(100.0, Some((100.0 - width, 100.0 + width))));
    assert!(0.0 < narrow && narrow < wide && wide < 1.0, "{narrow} {wide}");
    assert_eq!(priority(f64::NAN, None), 1.0);
    assert_eq!(priority(7.0, None), 0.5);
}

#[test]
fn rows_that_judge_models_are_always_asked_and_use_the_ordinary_part() {
    let world = World::classes();
    let mut router = world.router(Budget::per_day(100).reserve(0.1), QueryStrategy::margin());
    for n in 0..50 {
        let mut sample = world.ordinary(n);
        sample.lane = Lane::Random;
        let route = world.route(&mut router, &sample, at(0), false);
        assert!(matches!(route, Route::Ask { drawn: None, ask: Ask { priority: 3.0, .. }, .. }));
    }
    assert_eq!(code(&world.route(&mut router, &world.ordinary(99), at(0), false)), "budget");
    assert_eq!(code(&world.route(&mut router, &world.ordinary(99), at(0), true)), "alarm");
}

#[test]
fn every_reason_tells_scores_probability_budget_and_alarm() {
    let world = World::classes();
    let mut router = world.router(Budget::per_day(100), QueryStrategy::margin());
    let mut codes = BTreeSet::new();
    for n in 0..400 {
        let route = world.route(&mut router, &world.ordinary(n), at(n as i64 * MINUTE), n > 300);
        let (Route::Ask { why, .. } | Route::Skip(why)) = &route else { panic!("{route:?}") };
        for part in ["uncertainty by margin", "distance", "questions left", "alarm"] {
            assert!(why.detail.contains(part), "{why}");
        }
        if let Some(Drawn { inclusion, lane }) = drawn(&route) {
            assert_eq!(why.code, lane.as_str());
            assert!(why.detail.contains(&format!("probability {inclusion:.4}")), "{why}");
        }
        codes.insert(why.code.clone());
    }
    assert!(["uncertain", "diverse", "not_drawn", "alarm"].iter().all(|code| codes.contains(*code)), "{codes:?}");
}

#[test]
fn the_state_stays_small() {
    let world = World::of(32, Target::classes(["a", "b"]));
    let mut router = world.router(Budget::unlimited(), QueryStrategy::margin());
    for n in 0..1_000 {
        let values: Vec<f64> = (0..32).map(|column| normal(9, n, column)).collect();
        world.route(&mut router, &world.sample(n, &values, 0.7), at(n as i64), false);
    }
    let bytes = serde_json::to_string(&router.snapshot().unwrap()).unwrap().len();
    println!("{bytes} bytes");
    assert!(bytes < 64_000, "{bytes}");
    assert_eq!(router.query.points.len(), CENTRES);
}

#[test]
fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
    let world = World::classes();
    let margin = QueryStrategy::margin();
    for strategy in [
        margin.diverse(1.1),
        margin.diverse(f64::NAN),
        margin.floor(0.0),
        margin.floor(1.1),
        margin.flagged(1.0),
        margin.agreement(-0.1),
    ] {
        let mut router = HumanRouter::new(Budget::per_day(5)).strategy(strategy);
        assert!(router.rebase(&world.references).is_err(), "{strategy:?}");
    }
    assert!(HumanRouter::new(Budget::per_day(5).reserve(2.0)).rebase(&world.references).is_err());
}

#[test]
fn centres_from_before_the_schema_got_a_column_are_dropped() {
    let query = |fields: &[Field]| {
        let schema = Arc::new(Schema::new(fields.to_vec(), Target::classes(["a", "b"])).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for n in 0..500 {
            let mut row = Row::new(&schema);
            for ((value, field), column) in row.values.iter_mut().zip(fields).zip(0..) {
                *value = if field.name() == "constant" { 7.0 } else { normal(77, n, column) };
            }
            builder.push(&row, None, None).unwrap();
        }
        let mut query = Query::new(QueryStrategy::margin());
        query.rebase(&References::starting_with(Arc::new(builder.finish()))).unwrap();
        (schema, query)
    };
    let numbers = ["x", "y"].map(Field::number);
    let (schema, mut old) = query(&numbers);
    let mut observation = crate::event::Observation::new(&schema);
    observation.row.copy_values(&[0.0, 0.0]).unwrap();
    old.asked(&Sample::new(observation, 1, Lane::Flagged, 1.0));
    let (_, mut same) = query(&numbers);
    same.restore(old.state().clone());
    assert_eq!((same.points.len(), same.state().centres.len()), (1, 1));
    let added = ["another", "constant"].map(|name| Field::number(name).nullable());
    for field in added.into_iter().chain([Field::category("category", ["p", "q"]).nullable()]) {
        let (schema, mut new) = query(&[numbers[0].clone(), numbers[1].clone(), field]);
        new.restore(old.state().clone());
        assert_eq!((new.points.len(), new.state().centres.len()), (0, 0), "{:?}", schema.fields()[2]);
        let mut observation = crate::event::Observation::new(&schema);
        observation.row.values[..2].copy_from_slice(&[0.0, 0.0]);
        let sample = Sample::new(observation, 2, Lane::Flagged, 1.0);
        assert_eq!(new.distance(&sample), None, "nothing was asked yet");
        new.asked(&sample);
        assert!(new.distance(&sample).unwrap() < 1e-3, "as it is stored, in steps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Wherever the stream is cut by a restart, the same is asked with the same probabilities and reasons.
    #[test]
    fn restarts_anywhere_change_nothing(
        cuts in prop::collection::btree_set(0..400_u64, 0..6),
        seed in 0..1_000_u64,
        pauses in prop::collection::vec(0..600_i64, 400),
    ) {
        let world = World::classes();
        let make = || world.router(Budget::per_day(200), QueryStrategy::entropy().agreement(0.2).seed(seed));
        let (mut whole, mut parts) = (make(), make());
        let mut now = at(0);
        for n in 0..400 {
            if cuts.contains(&n) {
                let state = saved(&parts);
                parts = make();
                parts.restore(&state).unwrap();
            }
            now += TimeDelta::seconds(pauses[n as usize]);
            let mut sample = world.ordinary(n);
            if n % 9 == 0 {
                sample.lane = Lane::Random;
            }
            let alarm = n % 100 > 90;
            let (one, other) = (world.route(&mut whole, &sample, now, alarm), world.route(&mut parts, &sample, now, alarm));
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(saved(&whole), saved(&parts));
    }
}

#[test]
fn a_row_that_is_erased_is_no_centre_any_more() {
    let world = World::classes();
    let mut query = Query::new(QueryStrategy::margin().diverse(0.5));
    query.rebase(&world.references).unwrap();
    let (first, other) = (world.sample(1, &[0.5, 0.5], 0.6), world.sample(2, &[-1.0, 2.0], 0.6));
    query.asked(&first);
    query.asked(&other);
    query.forget(&first);
    assert_eq!((query.points.len(), query.state().centres.len()), (1, 1));
    assert!(query.distance(&other).unwrap() < 0.1 && query.distance(&first).unwrap() > 0.3);
}
