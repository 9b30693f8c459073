#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::{Label, Output, top_class};
use crate::gate::testing::{annotation, at, references, sample};
use crate::reference::References;
use crate::router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Flag, Lane, Sample};
use crate::schema::{Schema, Target};
use crate::stage::{Snapshot, Stage};
use crate::stats::binomial;
use crate::stats::sampling::unit_interval;

struct Bench {
    schema: Schema,
    references: References,
    router: ConfidenceRouter,
    routed: u64,
    auto: u64,
    /// Labels and errors of the present cohort.
    provisional: (u64, u64),
    /// Labels and errors of each cohort that was released.
    released: Vec<(u64, u64)>,
    rejected: u64,
}

impl Bench {
    fn new(router: ConfidenceRouter) -> Self {
        let schema = Schema::numeric(1, Target::classes(["a", "b", "c"])).unwrap();
        let references = references(&schema);
        Bench { references, schema, router, routed: 0, auto: 0, provisional: (0, 0), released: vec![], rejected: 0 }
    }

    fn sample(&self, n: u128, class: u32, confidence: f64) -> Sample {
        let mut sample = sample(&self.schema, n);
        let mut output = [(1.0 - confidence) / 2.0; 3];
        output[class as usize] = confidence;
        sample.observation.set_output(Output::Probabilities(&output));
        sample
    }

    fn context(&self, seconds: i64) -> RouteContext<'_> {
        let (schema, references) = (&self.schema, &self.references);
        RouteContext { schema, references, now: at(seconds), waiting: 0, alarm: false }
    }

    fn route_with(&mut self, sample: &Sample, change: impl Fn(&mut RouteContext<'_>)) -> Route {
        let mut router = self.router.clone();
        let mut context = self.context(0);
        change(&mut context);
        let route = router.route(sample, &context).unwrap();
        self.router = router;
        route
    }

    fn route(&mut self, sample: &Sample) -> Route {
        let context =
            RouteContext { schema: &self.schema, references: &self.references, now: at(0), waiting: 0, alarm: false };
        self.router.route(sample, &context).unwrap()
    }

    fn learn(&mut self, sample: &Sample, correct: bool) {
        let (auto, confidence) = top_class(sample.observation.output()).unwrap();
        let human = Label::Class(if correct { auto } else { (auto + 1) % 3 });
        let audited = Audited { sample, auto: Label::Class(auto), confidence, human, time: at(0) };
        self.router.learn(&audited).unwrap();
    }

    /// One sample goes through the loop; everybody who is asked answers at once, and is right.
    fn step(&mut self, n: u128, class: u32, confidence: f64, correct: bool) {
        let sample = self.sample(n, class, confidence);
        self.routed += 1;
        match self.route(&sample) {
            Route::Auto { audit, .. } => {
                self.auto += 1;
                self.provisional.0 += 1;
                self.provisional.1 += u64::from(!correct);
                if audit.is_some() {
                    self.learn(&sample, correct);
                }
            }
            Route::Ask { .. } => self.learn(&sample, correct),
            Route::Skip(_) => {}
        }
        let Some((_, verdict)) = self.router.cohorts(at(0)).pop() else { return };
        match verdict {
            CohortVerdict::Release => self.released.push(self.provisional),
            CohortVerdict::Reject => self.rejected += 1,
        }
        self.provisional = (0, 0);
    }

    fn certify(&mut self) {
        for n in 0..300 {
            let sample = self.sample(1_000_000 + n, (n % 3) as u32, 0.97);
            self.learn(&sample, true);
        }
    }
}

fn unit(seed: u64, n: u128, what: u8) -> f64 {
    unit_interval(seed, &[&n.to_le_bytes()[..], &[what]].concat())
}

fn is_auto(route: &Route) -> bool {
    matches!(route, Route::Auto { .. })
}

/// The model was good while it was certified, then its error jumps to some level: 300 cohorts in all.
#[test]
fn a_released_cohort_breaks_the_promise_no_more_often_than_stated() {
    let eps = 0.05;
    for error in [0.04, 0.055, 0.07] {
        let (repetitions, mut broken, mut routed_by_model) = (100, 0, 0);
        for seed in 0..repetitions {
            let mut bench = Bench::new(ConfidenceRouter::max_error(eps).audit(0.5).cap(1.0).seed(seed));
            bench.certify();
            let mut n = 0;
            while bench.released.is_empty() && bench.rejected == 0 && n < 800 {
                let confidence = 0.5 + 0.5 * unit(seed, n, 0);
                bench.step(n, (n % 3) as u32, confidence, unit(seed, n, 1) >= error);
                n += 1;
            }
            routed_by_model += bench.auto;
            broken += u64::from(bench.released.iter().any(|(labels, errors)| *errors as f64 > eps * *labels as f64));
        }
        assert!(routed_by_model > 100 * repetitions, "the case must exercise cohorts");
        let least = binomial::lower(broken, repetitions, 0.999);
        println!("error {error}: {broken} of {repetitions} broken");
        assert!(least <= 0.05, "error {error}: {broken} of {repetitions} released cohorts broke the promise");
    }
}

/// The whole way from nothing: feasible, so zero auto-labels would be no pass.
#[test]
fn a_good_model_earns_its_auto_labels_and_they_keep_the_promise() {
    let (eps, repetitions, mut broken, mut releases) = (0.05, 40, 0, 0);
    for seed in 0..repetitions {
        let mut bench = Bench::new(ConfidenceRouter::max_error(eps).audit(0.2).seed(seed));
        for n in 0..2_000 {
            let confidence = 0.5 + 0.5 * unit(seed, n, 0);
            let error = if confidence >= 0.6 { 0.01 } else { 0.4 };
            bench.step(n, (n % 3) as u32, confidence, unit(seed, n, 1) >= error);
        }
        let share = bench.auto as f64 / bench.routed as f64;
        assert!((0.25..=0.5).contains(&share), "seed {seed}: {share} automatic");
        releases += bench.released.len() as u64;
        broken += bench.released.iter().filter(|(labels, errors)| *errors as f64 > eps * *labels as f64).count() as u64;
    }
    assert!(releases >= repetitions, "{releases} cohorts were released");
    println!("{broken} of {releases} broken");
    assert!(binomial::lower(broken, releases, 0.999) <= 0.05, "{broken} of {releases}");
}

#[test]
fn without_certification_nothing_is_auto_labelled_and_everything_is_asked_blind() {
    for error in [0.05, 0.3] {
        let mut bench = Bench::new(ConfidenceRouter::max_error(0.02));
        for n in 0..1_000 {
            let sample = bench.sample(n, 0, 0.9999);
            let route = bench.route(&sample);
            assert!(matches!(route, Route::Ask { ask: Ask { blind: true, .. }, .. }), "sample {n}, error {error}");
            bench.learn(&sample, unit(9, n, 0) >= error);
        }
        assert_eq!(bench.router.status(at(0)).threshold, None);
    }
    let mut fresh = Bench::new(ConfidenceRouter::max_error(0.02));
    let sample = fresh.sample(1, 0, 1.0);
    assert!(!is_auto(&fresh.route(&sample)));
    assert_eq!(fresh.router.status(at(0)).audits_needed, 263);
}

#[test]
fn an_open_alarm_stops_auto_labels_and_releases() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(1.0).cap(1.0));
    bench.certify();
    let sample = bench.sample(1, 0, 0.98);
    assert!(!is_auto(&bench.route_with(&sample, |context| context.alarm = true)));
    assert!(is_auto(&bench.route(&sample)));
    for n in 0..200 {
        let sample = bench.sample(n, 0, 0.98);
        assert!(is_auto(&bench.route(&sample)));
        bench.learn(&sample, true);
    }
    bench.route_with(&sample, |context| context.alarm = true);
    assert_eq!(bench.router.cohorts(at(0)), []);
    bench.route(&sample);
    assert_eq!(bench.router.cohorts(at(0)), [(0, CohortVerdict::Release)]);
    assert_eq!(bench.router.status(at(0)).released, 202);
}

#[test]
fn a_bad_cohort_is_rejected_and_auto_labelling_stops_itself() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(0.2).cap(1.0));
    bench.certify();
    let mut n = 0;
    while bench.rejected == 0 {
        bench.step(n, 0, 0.98, n % 5 != 0);
        n += 1;
        assert!(n < 1_000, "an error of 20 % must be noticed");
    }
    let sample = bench.sample(10_000, 0, 0.98);
    assert!(!is_auto(&bench.route(&sample)), "the old audits are forgotten");
    let status = bench.router.status(at(0));
    assert_eq!((status.threshold, status.audits, status.released), (None, 0, 0));
    assert!(status.rejected > 0);
}

#[test]
fn auto_labelling_stops_before_anybody_asks_for_the_verdict() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(1.0).cap(1.0));
    bench.certify();
    let made = (0..100).filter(|n| {
        let sample = bench.sample(*n, 0, 0.98);
        let auto = is_auto(&bench.route(&sample));
        bench.learn(&sample, false);
        auto
    });
    assert!(made.count() <= 3);
}

#[test]
fn the_cap_holds_for_every_class_at_every_moment() {
    for cap in [0.0, 0.25, 0.5, 0.9] {
        let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).cap(cap).audit(0.1));
        bench.certify();
        let mut counts = [(0_u64, 0_u64); 3];
        for n in 0..3_000 {
            let class = if n % 10 == 0 { 2 } else { (n % 2) as u32 };
            let sample = bench.sample(n, class, 0.98);
            let (auto, routed) = &mut counts[class as usize];
            *auto += u64::from(is_auto(&bench.route(&sample)));
            *routed += 1;
            assert!(*auto as f64 <= cap * *routed as f64 + 1e-9, "cap {cap}: {auto} of {routed} of class {class}");
        }
        assert!(counts.iter().all(|(auto, routed)| *auto as f64 >= cap * *routed as f64 - 11.0), "{counts:?}");
    }
}

#[test]
fn exposure_is_bounded_while_no_audit_is_answered() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).cap(1.0).max_exposure(40));
    bench.certify();
    let made = (0..500).filter(|n| {
        let sample = bench.sample(*n, 0, 0.98);
        is_auto(&bench.route(&sample))
    });
    assert_eq!(made.count(), 40);
    assert_eq!(bench.router.status(at(0)).exposure, 40);
}

#[test]
fn only_blind_audits_of_the_routed_population_and_of_this_model_count() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05));
    let human = |blind| {
        let mut label = annotation(1, Annotator::Human("ann".into()), Label::Class(0));
        label.blind = blind;
        Some(label)
    };
    for n in 0..300 {
        let mut sample = bench.sample(3 * n, 0, 0.98);
        sample.lane = Lane::Random;
        bench.learn(&sample, true);
        let mut sample = bench.sample(3 * n + 1, 0, 0.98);
        sample.label = human(false);
        bench.learn(&sample, true);
        let mut sample = bench.sample(3 * n + 2, 0, 0.98);
        sample.label = human(true);
        sample.observation.model = ModelVersion(7);
        bench.learn(&sample, true);
    }
    let sample = bench.sample(1, 0, 0.98);
    assert!((0..10).all(|_| !is_auto(&bench.route(&sample))));
    assert_eq!(bench.router.status(at(0)).audits, 0);
    let mut sample = sample;
    sample.observation.model = ModelVersion(7);
    assert!(is_auto(&bench.route(&sample)));
    assert_eq!(bench.router.status(at(0)).audits, 300);
}

#[test]
fn the_budget_limits_questions_but_not_those_that_judge_models() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).budget(Budget::per_day(10)));
    let asked = |bench: &mut Bench, lane: Lane, seconds: i64, alarm: bool| {
        let mut sample = bench.sample(1, 0, 0.7);
        sample.lane = lane;
        match bench.route_with(&sample, |context| (context.now, context.alarm) = (at(seconds), alarm)) {
            Route::Ask { .. } => true,
            Route::Skip(reason) => {
                assert_eq!(reason.code, "budget");
                false
            }
            route => panic!("{route:?}"),
        }
    };
    let count =
        |bench: &mut Bench, lane, seconds, alarm| (0..50).filter(|_| asked(bench, lane, seconds, alarm)).count();
    // A quarter of the day's questions at once, and one in reserve.
    assert_eq!(count(&mut bench, Lane::Flagged, 0, false), 2);
    assert_eq!(count(&mut bench, Lane::Flagged, 0, true), 1);
    assert_eq!(count(&mut bench, Lane::Random, 43_200, false), 50);
    assert_eq!(count(&mut bench, Lane::Flagged, 43_200, false), 0);
    assert!(bench.router.status(at(43_200)).questions_left.is_some_and(|left| left < 1.0 + 1e-9));
}

#[test]
fn priorities_rank_judging_rows_audits_unusable_outputs_and_uncertainty() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).audit(1.0).cap(1.0).overlap(2));
    bench.certify();
    let mut judging = bench.sample(1, 0, 0.6);
    judging.lane = Lane::Comparison;
    let audit = bench.sample(2, 0, 0.99);
    let unusable = sample(&bench.schema, 3);
    let (unsure, surer) = (bench.sample(4, 0, 0.36), bench.sample(5, 0, 0.4));
    let samples = [judging, audit, unusable, unsure, surer];
    let priorities: Vec<f64> = samples
        .iter()
        .map(|sample| match bench.route(sample) {
            Route::Ask { ask, .. } | Route::Auto { audit: Some(ask), .. } => {
                assert!(ask.blind && ask.overlap == 2);
                ask.priority
            }
            route => panic!("{route:?}"),
        })
        .collect();
    assert!(priorities.windows(2).all(|pair| pair[0] > pair[1]), "{priorities:?}");
}

#[test]
fn regression_is_asked_by_width_or_score_and_never_auto_labelled() {
    let schema = Schema::numeric(1, Target::Value).unwrap();
    let references = references(&schema);
    let mut router = ConfidenceRouter::max_error(0.05).cap(1.0);
    let mut priority = |interval: Option<(f64, f64)>, score: f64| {
        let mut sample = sample(&schema, 1);
        sample.observation.set_output(Output::Value { value: 10.0, interval });
        let prediction = sample.id();
        sample.flags.push(Flag { detector: "d".into(), ..Flag::new(prediction, score, 1.0) });
        let audited = Audited {
            sample: &sample,
            auto: Label::Value(10.0),
            confidence: 1.0,
            human: Label::Value(10.0),
            time: at(0),
        };
        (0..300).for_each(|_| router.learn(&audited).unwrap());
        let context = RouteContext { schema: &schema, references: &references, now: at(0), waiting: 0, alarm: false };
        match router.route(&sample, &context).unwrap() {
            Route::Ask { ask, .. } => ask.priority,
            route => panic!("{route:?}"),
        }
    };
    assert!(priority(Some((9.0, 11.0)), 1.0) < priority(Some((5.0, 15.0)), 1.0));
    assert!(priority(None, 1.5) < priority(None, 3.0));
    assert!((0.0..1.0).contains(&priority(None, f64::NAN)));
}

#[test]
fn a_restored_router_goes_on_as_the_saved_one() {
    let make = || ConfidenceRouter::max_error(0.05).audit(0.3).budget(Budget::per_day(500).burst(0.9));
    let mut bench = Bench::new(make());
    let drive = |bench: &mut Bench, from: u128, to: u128| {
        for n in from..to {
            bench.step(n, (n % 3) as u32, 0.5 + 0.5 * unit(3, n, 0), unit(3, n, 1) >= 0.02);
        }
    };
    drive(&mut bench, 0, 450);
    let text = serde_json::to_string(&bench.router.snapshot().unwrap()).unwrap();
    let mut other = Bench::new(make());
    other.router.restore(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(other.router.state, bench.router.state);
    drive(&mut bench, 450, 900);
    drive(&mut other, 450, 900);
    assert_eq!(other.router.state, bench.router.state);
    assert!(bench.auto > 0);
    assert!(other.router.restore(&Snapshot::Stateless).is_err());
}

#[test]
fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
    let references = Bench::new(ConfidenceRouter::max_error(0.02)).references;
    for mut router in [
        ConfidenceRouter::max_error(0.0),
        ConfidenceRouter::max_error(f64::NAN),
        ConfidenceRouter::max_error(0.02).confidence(1.0),
        ConfidenceRouter::max_error(0.02).audit(0.0),
        ConfidenceRouter::max_error(0.02).cap(1.5),
        ConfidenceRouter::max_error(0.02).overlap(0),
    ] {
        assert!(router.rebase(&references).is_err(), "{router:?}");
    }
    assert!(ConfidenceRouter::max_error(0.02).rebase(&references).is_ok());
}
