#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::{Label, Output, top_class};
use crate::gate::testing::{annotation, at, id, references, sample};
use crate::reference::References;
use crate::router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Flag, Lane, Sample};
use crate::schema::{Schema, Target};
use crate::stage::{Snapshot, Stage};
use crate::stats::sampling::unit_interval;

struct Bench {
    schema: Schema,
    references: References,
    router: ConfidenceRouter,
    routed: u64,
    auto: u64,
    rejected: u64,
}

impl Bench {
    fn new(router: ConfidenceRouter) -> Self {
        let schema = Schema::numeric(1, Target::classes(["a", "b", "c"])).unwrap();
        let references = references(&schema);
        Bench { references, schema, router, routed: 0, auto: 0, rejected: 0 }
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
        RouteContext { schema, references, now: at(seconds), waiting: 0, alarm: false, standing: false }
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
        let context = RouteContext {
            schema: &self.schema,
            references: &self.references,
            now: at(0),
            waiting: 0,
            alarm: false,
            standing: false,
        };
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
                if audit.is_some() {
                    self.learn(&sample, correct);
                }
            }
            Route::Ask { .. } => self.learn(&sample, correct),
            Route::Skip(_) => {}
        }
        self.rejected +=
            self.router.cohorts(at(0), false).iter().filter(|(_, v)| *v == CohortVerdict::Reject).count() as u64;
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

#[test]
fn without_certification_nothing_is_auto_labelled_and_everything_is_asked_blind() {
    for error in [0.05, 0.3] {
        let mut bench = Bench::new(ConfidenceRouter::max_error(0.02));
        for n in 0..1_000 {
            let sample = bench.sample(n, 0, 0.9999);
            let route = bench.route(&sample);
            assert!(matches!(&route, Route::Ask { ask: Ask { blind: true, .. }, .. }), "sample {n}, error {error}");
            let Route::Ask { why, .. } = route else { continue };
            assert!(why.detail.contains("no threshold is certified for"), "{why}");
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
fn an_alarm_stops_auto_labels_and_releases_and_recalibrates() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(0.5).cap(1.0));
    bench.certify();
    let sample = |bench: &Bench, n| bench.sample(n, 0, 0.98);
    let mut waiting = Vec::new();
    for n in 0..1_000 {
        let sample = sample(&bench, n);
        match bench.route(&sample) {
            Route::Auto { audit: Some(_), .. } => waiting.push(sample),
            Route::Auto { .. } => {}
            route => panic!("{route:?}"),
        }
    }
    let during = sample(&bench, 1_000);
    assert!(!is_auto(&bench.route_with(&during, |context| context.alarm = true)));
    waiting.iter().for_each(|sample| bench.learn(sample, true));
    assert_eq!(bench.router.cohorts(at(0), true), [], "nothing is released while the alarm is open");
    let after = sample(&bench, 1_001);
    let route = bench.route(&after);
    let released = bench.router.cohorts(at(0), false);
    assert!(released.len() > 20 && released.iter().all(|(_, verdict)| *verdict == CohortVerdict::Release));
    assert_eq!(bench.router.status(at(0)).released, 1_000);
    let Route::Ask { why, .. } = route else {
        panic!("answers to questions of before the alarm certify nothing: {route:?}")
    };
    assert!(why.detail.contains("no threshold is certified"), "{why}");
    for n in 2_000..2_300 {
        let sample = sample(&bench, n);
        bench.route(&sample);
        bench.learn(&sample, true);
    }
    let resumed = sample(&bench, 3_000);
    assert!(is_auto(&bench.route(&resumed)));
}

#[test]
fn auto_labelling_stops_before_anybody_asks_for_the_verdict() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(0.5).cap(1.0));
    bench.certify();
    let mut audits = 0;
    for n in 0..100 {
        let sample = bench.sample(n, 0, 0.98);
        if let Route::Auto { audit: Some(_), .. } = bench.route(&sample) {
            audits += 1;
            bench.learn(&sample, false);
        }
    }
    assert!((1..=3).contains(&audits), "{audits}");
}

/// A blind label of the random lane on a row that the model would label itself.
#[test]
fn the_random_lane_may_stop_auto_labelling_and_never_certify_it() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).audit(0.05).cap(1.0));
    let judge = |bench: &mut Bench, n: u128, lane: Lane, confidence: f64, correct: bool| {
        let mut sample = bench.sample(n, 0, confidence);
        sample.lane = lane;
        bench.learn(&sample, correct);
    };
    (0..400).for_each(|n| judge(&mut bench, n, Lane::Random, 0.98, true));
    assert_eq!(bench.router.status(at(0)).threshold, None);
    bench.certify();
    for n in 400..410 {
        judge(&mut bench, n, Lane::Random, 0.3, false);
        judge(&mut bench, n + 100, Lane::Comparison, 0.98, false);
    }
    assert_eq!(
        bench.router.status(at(0)).stops,
        0,
        "neither rows that nobody would label nor those where models disagree"
    );
    (600..610).for_each(|n| judge(&mut bench, n, Lane::Random, 0.98, false));
    let status = bench.router.status(at(0));
    assert_eq!((status.stops, status.threshold), (1, None));
}

#[test]
fn an_audit_that_nobody_answers_holds_its_cohort_and_then_counts_as_an_error() {
    let make = || ConfidenceRouter::max_error(0.05).audit(0.5).cap(1.0).patience(TimeDelta::hours(1));
    for (seconds, late) in [(3_599, false), (3_600, true)] {
        let mut bench = Bench::new(make());
        bench.certify();
        let (mut n, mut unanswered) = (0, None);
        while bench.router.status(at(0)).cohort_audits < 400 {
            let sample = bench.sample(n, 0, 0.98);
            if let Route::Auto { audit: Some(_), .. } = bench.route(&sample) {
                if unanswered.is_none() { unanswered = Some(sample) } else { bench.learn(&sample, true) }
            }
            n += 1;
        }
        assert_eq!(bench.router.cohorts(at(0), false), [], "the first cohort holds all that follow");
        let released = bench.router.cohorts(at(seconds), false).len();
        let status = bench.router.status(at(seconds));
        assert_eq!((released > 10, status.cohort_audits_waiting), (late, u64::from(!late)), "{status:?}");
        if !late {
            bench.learn(&unanswered.unwrap(), true);
            assert!(bench.router.cohorts(at(seconds), false).len() > 10);
        }
    }
    // Were all left open, all would be errors.
    let mut bench = Bench::new(make());
    bench.certify();
    for n in 0..200 {
        let sample = bench.sample(n, 0, 0.98);
        bench.route(&sample);
    }
    let verdicts = bench.router.cohorts(at(3_600), false);
    assert!(!verdicts.is_empty() && verdicts.iter().all(|(_, verdict)| *verdict == CohortVerdict::Reject));
}

/// The flaw of one open cohort: early answers decided about labels made after them.
#[test]
fn answers_to_early_audits_release_no_label_made_later() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).audit(0.5).cap(1.0));
    bench.certify();
    let (mut cohorts, mut chosen) = (Vec::new(), Vec::new());
    for n in 0..2_000 {
        let sample = bench.sample(n, 0, 0.98);
        let Route::Auto { cohort, audit, .. } = bench.route(&sample) else { panic!("sample {n}") };
        cohorts.push(cohort);
        if audit.is_some() {
            chosen.push((n as usize, sample));
        }
    }
    let half = chosen.len() / 2;
    let mut released = Vec::new();
    for (_, sample) in &chosen[..half] {
        bench.learn(sample, true);
        released.extend(bench.router.cohorts(at(0), false).into_iter().map(|(cohort, _)| cohort));
    }
    assert!(!released.is_empty());
    assert!(released.iter().all(|cohort| *cohort < cohorts[chosen[half].0]), "released beyond the last answer");
    assert!(released.windows(2).all(|pair| pair[0] < pair[1]), "in order");
}

#[test]
fn a_class_with_audits_enough_is_judged_alone() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).cap(1.0));
    for n in 0..1_500 {
        let class = [0, 0, 1, 1, 2][n as usize % 5];
        let sample = bench.sample(n, class, 0.98);
        bench.learn(&sample, class != 1 || n % 20 != 2);
    }
    let mut trusted = |class| {
        let sample = bench.sample(2_000, class, 0.98);
        bench.route(&sample)
    };
    assert!(is_auto(&trusted(0)));
    assert!(!is_auto(&trusted(1)), "class 1 has 12 % errors");
}

#[test]
fn another_model_or_other_settings_start_afresh() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).audit(0.3).cap(1.0));
    bench.certify();
    for n in 0..50 {
        let sample = bench.sample(n, 0, 0.98);
        assert!(is_auto(&bench.route(&sample)));
    }
    let snapshot = bench.router.snapshot().unwrap();
    let mut other = ConfidenceRouter::max_error(0.01).audit(0.3).cap(1.0);
    other.restore(&snapshot).unwrap();
    assert!(other.cohorts(at(0), false).iter().all(|(_, verdict)| *verdict == CohortVerdict::Reject));
    assert_eq!((other.status(at(0)).exposure, other.status(at(0)).rejected), (0, 50));
    let mut sample = bench.sample(60, 0, 0.98);
    sample.observation.model = ModelVersion(4);
    assert!(!is_auto(&bench.route(&sample)), "audits of another model certify nothing");
    assert_eq!(bench.router.status(at(0)).exposure, 50, "what waits is judged by its own audits");
}

#[test]
fn an_auto_label_says_why() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).cap(1.0).budget(Budget::per_day(300)).max_exposure(1));
    bench.certify();
    let sample = bench.sample(1, 0, 0.98);
    let Route::Auto { why, cohort: 0, .. } = bench.route(&sample) else { panic!("trusted") };
    for part in [
        "confidence 0.9800",
        "at least 0.5",
        "classes pooled",
        "cohort 0",
        "1 of 1 labels wait",
        "cap 1",
        "no alarm",
        "questions left",
    ] {
        assert!(why.detail.contains(part), "{part} is not in {why}");
    }
    let sample = bench.sample(2, 0, 0.98);
    let Route::Ask { why, .. } = bench.route(&sample) else { panic!("the exposure is reached") };
    assert!(why.detail.contains("1 labels wait for release, the most permitted"), "{why}");
}

#[test]
fn the_saved_state_is_small() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).cap(0.9));
    for n in 0..4_000 {
        let sample = bench.sample(n, (n % 3) as u32, 0.98);
        bench.route(&sample);
        bench.learn(&sample, true);
    }
    let bytes = serde_json::to_string(&bench.router.snapshot().unwrap()).unwrap().len();
    assert!((15_000..21_000).contains(&bytes), "{bytes} bytes with a full window");
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
fn labels_that_no_answer_will_decide_about_go_to_people_and_the_router_goes_on() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).cap(1.0).audit(0.1).max_exposure(100));
    bench.certify();
    let mut audits = Vec::new();
    for n in 0..500 {
        let sample = bench.sample(n, 0, 0.98);
        if let Route::Auto { audit: Some(_), .. } = bench.route(&sample) {
            audits.push(sample);
        }
    }
    assert_eq!(bench.router.status(at(0)).exposure, 100);
    assert_eq!(bench.router.cohorts(at(0), false), [], "answers may still decide");
    audits.iter().for_each(|sample| bench.learn(sample, true));
    assert_eq!(bench.router.cohorts(at(0), true), [], "not while an alarm is open");
    let verdicts = bench.router.cohorts(at(0), false);
    assert!(!verdicts.is_empty() && verdicts.iter().all(|(_, verdict)| *verdict == CohortVerdict::Reject));
    assert_eq!(bench.router.status(at(0)).exposure, 0);
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
}

#[test]
fn the_budget_limits_questions_but_not_those_that_judge_models() {
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.02).budget(Budget::per_day(10)));
    let asked = |bench: &mut Bench, lane: Lane, seconds: i64, alarm: bool| {
        let mut sample = bench.sample(1, 0, 0.7);
        sample.lane = lane;
        match bench.route_with(&sample, |context| {
            (context.now, context.alarm, context.standing) = (at(seconds), alarm, alarm);
        }) {
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
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).audit(0.5).cap(1.0).overlap(2));
    bench.certify();
    let chosen = (0..100).find(|n| unit_interval(SEED, id(*n).bytes()) < 0.5).unwrap();
    let left = |from: u128| (from..).find(|n| unit_interval(SEED, id(*n).bytes()) >= 0.5).unwrap();
    let mut judging = bench.sample(1, 0, 0.6);
    judging.lane = Lane::Comparison;
    let audit = bench.sample(chosen, 0, 0.99);
    let unusable = sample(&bench.schema, 3);
    let doubtful = bench.sample(left(100), 0, 0.36);
    let samples = [judging, audit, unusable, doubtful];
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

/// People who have time for a tenth of the questions get mostly the doubtful ones, not all of them alike, and of those that
/// only calibrate their share.
#[test]
fn where_people_have_little_time_doubt_decides_and_calibration_takes_its_share() {
    const SHARE: f64 = 0.05;
    let mut bench = Bench::new(ConfidenceRouter::max_error(0.05).audit(SHARE));
    let mut asked = Vec::new();
    for n in 0..4_000 {
        let doubt = unit(7, n, 0) * 2.0 / 3.0;
        let sample = bench.sample(n, 0, 1.0 - doubt);
        let Route::Ask { ask, .. } = bench.route(&sample) else { panic!("nothing is certified") };
        asked.push((ask.priority, doubt, unit_interval(SEED, id(n).bytes()) < SHARE));
    }
    asked.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert!(asked[0].0 < 1.0, "unusable outputs come before");
    let top = &asked[..400];
    let calibrate = top.iter().filter(|(.., calibrates)| *calibrates).count();
    // 20 of 400 would be the share; beyond three deviations on either side is not chance.
    assert!((4..=34).contains(&calibrate), "{calibrate} of 400 calibrate");
    let doubts: Vec<f64> = top.iter().filter(|(.., calibrates)| !calibrates).map(|(_, doubt, _)| *doubt).collect();
    let mean = doubts.iter().sum::<f64>() / doubts.len() as f64;
    assert!(mean > 0.5, "the mean over all is 1/3, that of the most doubtful tenth .63: {mean}");
    assert!(doubts.iter().any(|doubt| *doubt < 0.45), "rows of less doubt are asked as well");
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
        let context = RouteContext {
            schema: &schema,
            references: &references,
            now: at(0),
            waiting: 0,
            alarm: false,
            standing: false,
        };
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
        ConfidenceRouter::max_error(0.02).audit(0.6),
        ConfidenceRouter::max_error(0.02).patience(TimeDelta::zero()),
        ConfidenceRouter::max_error(0.02).cap(1.5),
        ConfidenceRouter::max_error(0.02).overlap(0),
    ] {
        assert!(router.rebase(&references).is_err(), "{router:?}");
    }
    assert!(ConfidenceRouter::max_error(0.02).rebase(&references).is_ok());
}
