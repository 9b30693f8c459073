//! What comes between two steps of the loop: trainers that do not stop, evaluators that lie, erasures, restarts, failing
//! stores and deployers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Aliases, Artifact, BoxError, Deployer, Error, Evaluator, Event, Feedback, FnTrainer, JobStatus, Label, LabelFaults,
    MemoryStore, Mode, ModelRecord, ModelSlot, ModelVersion, Observation, Opinion, PipelineBuilder, PredictionId,
    Profile, PromotionKind, Role, RunId, RunState, Sample, ScoreJob, Scores, Store, TrainJob, Trained, Trainer,
    new_labels,
};
use support::disk::Disk;
use support::host::Host;
use support::{evaluator, fit, observation, observation_of};

/// Every run trains the same threshold.
fn always(threshold: &'static str) -> FnTrainer {
    FnTrainer::inline(move |_: &TrainJob| Ok(Artifact::Inline(threshold.into())))
}

fn confirming(threshold: &'static str) -> impl Fn(PipelineBuilder) -> PipelineBuilder {
    move |builder| {
        let builder = builder.trigger(new_labels(60)).compare(1.0).train(always(threshold));
        builder.evaluate(evaluator(Profile::confirm()))
    }
}

/// Serves the concept 0.8, which the first model gets wrong, until a candidate is promoted.
fn promote<S: Store + 'static>(host: &mut Host<S>) -> ModelVersion {
    while host.pipeline.champion().0 == 0 && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    assert!(host.pipeline.champion().0 > 0, "nothing was promoted: {:?}", host.run_states());
    host.pipeline.champion()
}

fn notes<S: Store + 'static>(host: &Host<S>, run: u64) -> String {
    let run = host.pipeline.run(RunId(run)).unwrap().unwrap();
    run.notes.iter().map(|(_, reason)| format!("{reason}\n")).collect()
}

/// The stored state of the loop.
fn state<S: Store + 'static>(host: &Host<S>) -> serde_json::Value {
    let record = host.store.get("closed", feedloop::Kind::Control, "loop").unwrap().unwrap();
    serde_json::from_slice(&record.body).unwrap()
}

fn sample(store: &dyn Store, pipeline: &str, id: PredictionId) -> Sample {
    let record = store.get(pipeline, feedloop::Kind::Sample, &id.to_string()).unwrap().unwrap();
    serde_json::from_slice(&record.body).unwrap()
}

// Evaluators -------------------------------------------------------------------------------------------------------------

type Change = dyn FnMut(&str, JobStatus<Vec<Scores>>) -> Result<JobStatus<Vec<Scores>>, BoxError> + Send;

/// An evaluator whose answers are changed on their way, and that may refuse to start.
struct Between {
    inner: feedloop::PairedEvaluator,
    refuses: Arc<AtomicBool>,
    cancelled: Arc<Mutex<Vec<String>>>,
    change: Box<Change>,
}

impl Between {
    fn new(
        profile: Profile,
        change: impl FnMut(&str, JobStatus<Vec<Scores>>) -> Result<JobStatus<Vec<Scores>>, BoxError> + Send + 'static,
    ) -> Self {
        Between {
            inner: evaluator(profile),
            refuses: Arc::default(),
            cancelled: Arc::default(),
            change: Box::new(change),
        }
    }

    /// What it is asked about `part` is under way for as long as `held`.
    fn held(profile: Profile, part: &'static str, held: &Arc<AtomicBool>) -> Self {
        let held = held.clone();
        Between::new(profile, move |key, status| {
            // What is taken already is made again under its name when the time has come.
            Ok(if key.contains(part) && held.load(Ordering::Relaxed) { JobStatus::Unknown } else { status })
        })
    }
}

impl Evaluator for Between {
    fn profile(&self) -> &Profile {
        Evaluator::profile(&self.inner)
    }

    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err("not now".into());
        }
        self.inner.start(job)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError> {
        let status = self.inner.poll(key)?;
        (self.change)(key, status)
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.cancelled.lock().unwrap().push(key.to_owned());
        self.inner.cancel(key)
    }
}

/// What every model but the first one says is changed.
fn later_models(
    mut status: JobStatus<Vec<Scores>>,
    change: impl Fn(&mut Result<Vec<f64>, String>),
) -> JobStatus<Vec<Scores>> {
    if let JobStatus::Done(scores) = &mut status {
        scores.iter_mut().filter(|scores| scores.model.0 > 0).for_each(|scores| change(&mut scores.outputs));
    }
    status
}

#[test]
fn an_evaluator_that_says_too_little_or_nothing_usable_promotes_nothing() {
    type Spoil = fn(&mut Vec<f64>);
    let spoils: [(Spoil, &str); 3] = [
        (|outputs| outputs.truncate(3), "3 numbers"),
        (|outputs| outputs.fill(f64::NAN), "no usable output"),
        (|outputs| outputs[0] = f64::INFINITY, "no usable output"),
    ];
    for (spoil, expected) in spoils {
        let lying = Between::new(Profile::adaptive(), move |key, status| {
            let spoilt = |outputs: &mut Result<Vec<f64>, String>| outputs.iter_mut().for_each(spoil);
            Ok(if key.contains("smoke") { later_models(status, spoilt) } else { status })
        });
        let mut host = Host::new(|builder| {
            let builder = builder.trigger(new_labels(40)).train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))));
            builder.evaluate(lying)
        });
        for _ in 0..4 {
            host.turn(80, 0.8);
        }
        assert_eq!(host.run_states()[0], RunState::Rejected, "{}", notes(&host, 1));
        assert!(notes(&host, 1).contains(expected), "{}", notes(&host, 1));
        assert_eq!(host.pipeline.champion(), ModelVersion::FIRST);
    }
}

#[test]
fn a_candidate_that_cannot_be_scored_any_more_ends_its_run() {
    let gone = |everybody: bool| {
        Between::new(Profile::confirm(), move |key, mut status| {
            if let JobStatus::Done(scores) = &mut status
                && key.starts_with("round-")
            {
                let missing = scores.iter_mut().filter(|scores| everybody || scores.model.0 > 0);
                missing.for_each(|scores| scores.outputs = Err("no such file".into()));
            }
            Ok(status)
        })
    };
    let run = |everybody| {
        let mut host = Host::new(|builder| confirming("0.8")(builder).evaluate(gone(everybody)));
        while !matches!(host.run_states().first(), Some(state) if !state.in_flight()) && host.served < 2_000 {
            host.turn(80, 0.8);
        }
        (host.run_states()[0], notes(&host, 1))
    };
    let (state, why) = run(false);
    assert!(state == RunState::Rejected && why.contains("no such file"), "{state:?} {why}");
    let (state, why) = run(true);
    assert!(state == RunState::Inconclusive, "{state:?} {why}");
}

/// The first number is missing: no model can say anything.
fn missing(slot: &ModelSlot<f64>, n: u64, values: &[f64]) -> Box<Observation> {
    observation(n, slot.version(), 0.5, &[f64::NAN, values[1]])
}

#[test]
fn a_row_that_no_model_can_predict_is_held_against_none_of_them() {
    for profile in [Profile::confirm(), Profile::adaptive()] {
        let mut host = Host::new(|builder| {
            let builder = builder.trigger(new_labels(60)).compare(1.0).train(always("0.8")).canary(0.0);
            builder.evaluate(evaluator(profile.clone()))
        });
        while host.pipeline.champion().0 == 0 && host.served < 4_000 {
            // One row in ten.
            host.turn_by(40, 0.8, |slot, n, values| {
                let served = slot.get();
                let whole = observation(n, served.version, served.model, values);
                vec![if n % 10 == 0 { missing(slot, n, values) } else { whole }]
            });
        }
        assert!(host.pipeline.champion().0 > 0, "{profile:?}: {:?} {}", host.run_states(), notes(&host, 1));
        assert_eq!(host.pipeline.status().unwrap().rejected, 0, "{profile:?}: {}", notes(&host, 1));
        for _ in 0..4 {
            host.turn_by(40, 0.8, |slot, n, values| vec![missing(slot, n, values)]);
        }
        assert!(host.pipeline.champion().0 > 0, "{profile:?}: rolled back for the input's fault");
        assert_eq!(host.pipeline.status().unwrap().rollbacks, 0, "{profile:?}");
    }
}

#[test]
fn slow_smoke_tests_of_one_candidate_are_not_those_of_the_next() {
    // The first candidate is slow twice, the second one once.
    let mut slow = BTreeMap::from([(1, 2), (2, 1)]);
    let timed = Between::new(Profile::confirm(), move |key, mut status| {
        if let JobStatus::Done(scores) = &mut status
            && key.contains("smoke")
        {
            let newest = scores.iter().map(|scores| scores.model).max();
            let left = newest.and_then(|newest| slow.get_mut(&newest.0)).filter(|left| **left > 0);
            let is_slow = left.map(|left| *left -= 1).is_some();
            for scores in scores {
                let times = if Some(scores.model) == newest && is_slow { 10 } else { 1 };
                scores.latency = Some(Duration::from_millis(times));
            }
        }
        Ok(status)
    });
    let mut host = Host::new(|builder| confirming("0.8")(builder).evaluate(timed));
    promote(&mut host);
    while host.pipeline.status().unwrap().runs < 2 && host.served < 6_000 {
        host.turn(40, 0.8);
    }
    host.turn(40, 0.8);
    assert_eq!(host.pipeline.run(RunId(2)).unwrap().unwrap().candidate, Some(ModelVersion(2)));
    assert!(!notes(&host, 2).contains("latency"), "one pause has refused it: {}", notes(&host, 2));
}

#[test]
fn scores_that_nobody_waits_for_any_more_are_given_up() {
    let held = Arc::new(AtomicBool::new(true));
    let theirs = held.clone();
    let between = Between::new(Profile::confirm(), move |key, status| {
        Ok(if key.contains("compare") && theirs.load(Ordering::Relaxed) { JobStatus::Running } else { status })
    });
    let cancelled = between.cancelled.clone();
    let mut host = Host::new(|builder| confirming("0.8")(builder).evaluate(between));
    while host.run_states().last() != Some(&RunState::Judging) && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    host.turn(80, 0.8);
    host.turn(80, 0.8);
    host.pipeline.cancel_run("ada").unwrap();
    let cancelled = cancelled.lock().unwrap().clone();
    assert!(cancelled.iter().any(|key| key.contains("compare")), "{cancelled:?}");
}

// Trainers ---------------------------------------------------------------------------------------------------------------

/// What a service of trainers was told, and what it does with a job.
#[derive(Clone, Default)]
struct Site {
    starts: Arc<Mutex<BTreeMap<String, u32>>>,
    cancelled: Arc<Mutex<Vec<String>>>,
    /// Recipes whose jobs cannot be ended, have failed, or cannot be asked about.
    stubborn: Option<&'static str>,
    failed: Option<&'static str>,
    silent: Option<&'static str>,
    done: Arc<AtomicBool>,
    reported: Arc<Mutex<Vec<String>>>,
}

impl Trainer for Site {
    fn name(&self) -> &str {
        "site"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        *self.starts.lock().unwrap().entry(job.key.clone()).or_default() += 1;
        self.reported.lock().unwrap().retain(|key| *key != job.key);
        Ok(())
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        let is = |what: Option<&str>| what.is_some_and(|recipe| key.ends_with(&format!("-{recipe}")));
        if !self.starts.lock().unwrap().contains_key(key) || self.reported.lock().unwrap().contains(&key.to_owned()) {
            return Ok(JobStatus::Unknown);
        }
        if is(self.silent) {
            return Err("no answer".into());
        }
        if is(self.failed) {
            // A finished job is forgotten once it was reported.
            self.reported.lock().unwrap().push(key.to_owned());
            return Ok(JobStatus::Failed { reason: "singular".into(), log: String::new() });
        }
        Ok(match self.done.load(Ordering::Relaxed) {
            true => JobStatus::Done(Artifact::Inline(b"0.8".to_vec()).into()),
            false => JobStatus::Running,
        })
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        if self.stubborn.is_some_and(|recipe| key.ends_with(&format!("-{recipe}"))) {
            return Err("no such process".into());
        }
        self.cancelled.lock().unwrap().push(key.to_owned());
        Ok(())
    }
}

/// A loop of the profile `adaptive` whose first run trains at `site`.
fn racing(site: &Site) -> Host {
    let mut host = Host::new(|builder| builder.train(site.clone()).evaluate(evaluator(Profile::adaptive())));
    host.turn(80, 0.8);
    host.turn(80, 0.8);
    host.pipeline.retrain_now("ada").unwrap();
    let _ = host.pipeline.poll();
    assert_eq!(host.run_states(), [RunState::Training]);
    host
}

#[test]
fn one_job_that_cannot_be_ended_keeps_neither_the_others_nor_the_run_alive() {
    let site = Site { stubborn: Some("all"), ..Site::default() };
    let mut host = racing(&site);
    host.pipeline.cancel_run("ada").unwrap();
    assert_eq!(host.run_states(), [RunState::Cancelled]);
    assert!(notes(&host, 1).contains("no such process"), "{}", notes(&host, 1));
    let cancelled = site.cancelled.lock().unwrap().clone();
    let going_on: Vec<_> = site.starts.lock().unwrap().keys().filter(|key| !cancelled.contains(key)).cloned().collect();
    assert_eq!(going_on, ["run-1-all"], "all but the stubborn one");
    // It goes on training, and nobody cares.
    site.done.store(true, Ordering::Relaxed);
    let starts = site.starts.lock().unwrap().clone();
    for _ in 0..3 {
        host.pipeline.poll().unwrap();
    }
    assert_eq!((host.pipeline.champion(), site.starts.lock().unwrap().clone()), (ModelVersion::FIRST, starts));
}

#[test]
fn a_rollback_while_a_trainer_goes_on_takes_nothing_of_what_it_makes() {
    let site = Site { stubborn: Some("all"), ..Site::default() };
    let theirs = site.clone();
    let mut host = Host::new(|builder| {
        // The first model is wrong about the rows that come then, which would be checked first.
        let builder = builder.trigger(new_labels(60)).compare(1.0).train(theirs).without_label_faults();
        builder.evaluate(evaluator(Profile::confirm()))
    });
    site.done.store(true, Ordering::Relaxed);
    let failed = promote(&mut host);
    site.done.store(false, Ordering::Relaxed);
    while host.run_states().last() != Some(&RunState::Training) && host.served < 6_000 {
        host.turn(40, 0.8);
    }
    let run = host.pipeline.status().unwrap().runs;
    host.pipeline.rollback("numbers look wrong").unwrap();
    site.done.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        host.pipeline.poll().unwrap();
    }
    assert_eq!((host.pipeline.champion(), host.slot.version()), (ModelVersion::FIRST, ModelVersion::FIRST));
    let ended = host.pipeline.run(RunId(run)).unwrap().unwrap();
    assert_eq!((ended.state, ended.models), (RunState::Cancelled, vec![]), "what comes too late is nobody's");
    assert!(notes(&host, run).contains("could not be ended"), "{}", notes(&host, run));
    assert!(host.pipeline.model(failed).unwrap().unwrap().quarantined.is_some());
    // The next run is another one, and its job has another name.
    host.turn(80, 0.8);
    host.pipeline.retrain_now("ada").unwrap();
    host.pipeline.poll().unwrap();
    assert_eq!(site.starts.lock().unwrap().get(&format!("run-{}-all", run + 1)), Some(&1));
    support::check(&*host.store, "closed");
}

#[test]
fn a_job_that_failed_is_not_begun_again_because_another_one_is_not_over() {
    for silent in [None, Some("decayed")] {
        let site = Site { failed: Some("all"), silent, ..Site::default() };
        let mut host = racing(&site);
        for _ in 0..3 {
            let _ = host.pipeline.poll();
        }
        if silent.is_none() {
            host.restart(|builder| builder.train(site.clone()).evaluate(evaluator(Profile::adaptive())));
            host.pipeline.poll().unwrap();
        }
        let starts = site.starts.lock().unwrap().clone();
        assert_eq!(starts["run-1-all"], 1, "silent {silent:?}: {starts:?}");
    }
}

// People and deployers ---------------------------------------------------------------------------------------------------

/// A deployer that does nothing about challengers, and may be slow to load.
struct Reluctant {
    slot: ModelSlot<f64>,
    open: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    activated: Arc<Mutex<Vec<ModelVersion>>>,
}

impl Reluctant {
    fn new(slot: &ModelSlot<f64>) -> Self {
        let open = Arc::new(AtomicBool::new(true));
        Reluctant { slot: slot.clone(), open, deaf: Arc::default(), activated: Arc::default() }
    }
}

impl Deployer for Reluctant {
    fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError> {
        self.slot.prepare(model)
    }

    fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        let status = self.slot.poll(version)?;
        Ok(if self.open.load(Ordering::Relaxed) || status == JobStatus::Unknown { status } else { JobStatus::Running })
    }

    fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError> {
        self.activated.lock().unwrap().push(version);
        self.slot.activate(version)
    }

    fn challenge(&mut self, challenger: Option<(ModelVersion, f64)>) -> Result<(), BoxError> {
        if self.deaf.load(Ordering::Relaxed) { Err("no answer".into()) } else { self.slot.challenge(challenger) }
    }
}

#[test]
fn the_kill_switch_ends_the_run_whatever_the_deployer_says() {
    let slot = ModelSlot::new(0.5, support::load).inline();
    let deployer = Reluctant::new(&slot);
    let deaf = deployer.deaf.clone();
    let mut host = Host::new(|builder| confirming("0.8")(builder).deploy(deployer));
    host.slot = slot;
    while host.run_states().last() != Some(&RunState::Judging) && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    deaf.store(true, Ordering::Relaxed);
    assert!(host.pipeline.kill("ada", "numbers look wrong").is_err(), "it is said");
    assert_eq!(host.run_states().last(), Some(&RunState::Cancelled));
    assert!(host.pipeline.status().unwrap().frozen.is_some());
}

#[test]
fn a_canary_that_says_nan_while_it_is_being_promoted_is_refused() {
    let slot = ModelSlot::new(0.5, support::load).inline();
    let deployer = Reluctant::new(&slot);
    let open = deployer.open.clone();
    let mut host = Host::new(|builder| confirming("0.8")(builder).mode(Mode::Approval).canary(0.3).deploy(deployer));
    host.slot = slot;
    while host.run_states().last() != Some(&RunState::AwaitingApproval) && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    open.store(false, Ordering::Relaxed);
    host.pipeline.approve("ada").unwrap();
    let run = host.run_states().len();
    host.turn_by(40, 0.8, |slot, n, values| {
        vec![slot.route(support::id(n), |threshold, version| match version.0 {
            0 => observation(n, version, *threshold, values),
            _ => observation(n, version, f64::NAN, values),
        })]
    });
    open.store(true, Ordering::Relaxed);
    host.pipeline.poll().unwrap();
    assert_eq!(host.pipeline.champion(), ModelVersion::FIRST, "{:?}", host.run_states());
    assert_eq!(host.run_states()[run - 1], RunState::Rejected);
}

#[test]
fn a_rollback_of_a_model_that_was_kept_names_the_run_that_made_it() {
    let mut host = Host::new(confirming("0.8"));
    let promoted = promote(&mut host);
    let run = host.pipeline.model(promoted).unwrap().unwrap().run;
    while host.pipeline.status().unwrap().kept != Some(promoted) && host.served < 8_000 {
        host.turn(40, 0.8);
    }
    assert_eq!(host.pipeline.status().unwrap().kept, Some(promoted), "{:?}", host.run_states());
    host.pipeline.rollback("a person knows better").unwrap();
    host.pipeline.poll().unwrap();
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from, last.run), (PromotionKind::Rollback, promoted, run));
}

#[test]
fn a_label_batch_that_came_before_a_rollback_does_not_end_its_cool_off() {
    let held = Arc::new(AtomicBool::new(false));
    let between = Between::held(Profile::confirm(), "round-", &held);
    let mut host = Host::new(|builder| confirming("0.8")(builder).evaluate(between));
    promote(&mut host);
    held.store(true, Ordering::Relaxed);
    while state(&host)["round"].is_null() && host.served < 6_000 {
        host.turn(40, 0.8);
    }
    host.pipeline.rollback("numbers look wrong").unwrap();
    held.store(false, Ordering::Relaxed);
    for _ in 0..4 {
        host.pipeline.poll().unwrap();
    }
    assert_eq!((state(&host)["round"].is_null(), host.pipeline.champion()), (true, ModelVersion::FIRST));
    let why = host.pipeline.explain().to_string();
    assert!(why.contains("waits for 1 more batch(es) of labels"), "{why}");
}

// The watch --------------------------------------------------------------------------------------------------------------

/// Serves with a latency that depends on the version.
fn timed(first: u64, later: u64) -> impl FnMut(&ModelSlot<f64>, u64, &[f64]) -> Vec<Box<Observation>> {
    move |slot, n, values| {
        let served = slot.get();
        let mut made = observation(n, served.version, served.model, values);
        made.latency = Some(Duration::from_millis(if served.version.0 == 0 { first } else { later }));
        vec![made]
    }
}

#[test]
fn a_sustained_latency_rolls_back_once_there_are_timings_enough_and_pauses_do_not() {
    let mut host = Host::new(confirming("0.8"));
    while host.pipeline.champion().0 == 0 && host.served < 4_000 {
        host.turn_by(40, 0.8, timed(2, 2));
    }
    let promoted = host.pipeline.champion();
    assert!(promoted.0 > 0);
    // One answer in three takes ten times as long: the median does not move. Nobody labels anything.
    let serve = |host: &mut Host, later: &dyn Fn(u64) -> u64| {
        let from = host.served;
        let made = (from..from + 50).flat_map(|n| timed(2, later(n))(&host.slot, n, &[n as f64 / 1e4, 0.5]));
        let made: Vec<Event> = made.map(Event::Prediction).collect();
        host.served += 50;
        host.pipeline.ingest(made).unwrap();
        host.pipeline.poll().unwrap();
    };
    for _ in 0..4 {
        serve(&mut host, &|n| if n % 3 == 0 { 20 } else { 2 });
    }
    assert_eq!(host.pipeline.champion(), promoted);
    assert!(host.pipeline.status().unwrap().watch.is_some(), "it is watched still");
    // From here on every answer does.
    let mut slow = 0;
    while host.pipeline.champion() == promoted && slow < 600 {
        serve(&mut host, &|_| 20);
        slow += 50;
    }
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from, last.reason.code.as_str()), (PromotionKind::Rollback, promoted, "latency"));
    assert!((100..=300).contains(&slow), "{slow} slow answers");
}

#[test]
fn how_long_the_predecessor_took_is_known_after_a_restart() {
    let change = |builder: PipelineBuilder| confirming("0.8")(builder).explore(1.0);
    let mut host = Host::new(change);
    host.turn_by(120, 0.8, timed(2, 20));
    while host.run_states().last() != Some(&RunState::Judging) && host.served < 2_000 {
        host.turn_by(40, 0.8, timed(2, 20));
    }
    assert!(host.served >= 120, "{} timings of the first model", host.served);
    host.restart(change);
    let restarted = host.served;
    while host.pipeline.champion().0 == 0 && host.served < 4_000 {
        host.turn_by(20, 0.8, timed(2, 20));
    }
    assert!(host.pipeline.champion().0 > 0 && host.served - restarted < 100, "too many timings to need the old ones");
    host.turn_with(1, 0.8, |_, _, _| None);
    host.turn_by(120, 0.8, timed(2, 20));
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.reason.code.as_str()), (PromotionKind::Rollback, "latency"));
}

#[test]
fn latency_does_not_wait_for_the_check_of_labels() {
    let mut host = Host::new(|builder| confirming("0.8")(builder).label_faults(LabelFaults::default()));
    while host.pipeline.champion().0 == 0 && host.served < 6_000 {
        host.turn_by(40, 0.8, timed(2, 20));
    }
    let promoted = host.pipeline.champion();
    assert!(promoted.0 > 0, "{:?}", host.run_states());
    // Labels contradict the model, and nobody gives a second opinion.
    let swapped = |_: &str, overlap: u32, truth: Label| (overlap == 1).then(|| Label::Class(1 - truth.number() as u32));
    host.turn_with(60, 0.8, swapped);
    assert!(host.pipeline.status().unwrap().label_check.is_some(), "the labels are not suspect");
    host.turn_by(120, 0.8, timed(2, 20));
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from, last.reason.code.as_str()), (PromotionKind::Rollback, promoted, "latency"));
}

#[test]
fn a_verdict_to_roll_back_survives_a_store_that_fails_at_that_moment() {
    let (held, breaks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let store = Disk::new(MemoryStore::new());
    let (waits, fails, disk) = (held.clone(), breaks.clone(), store.clone());
    let between = Between::new(Profile::confirm(), move |key, status| {
        if !key.starts_with("round-") || !matches!(status, JobStatus::Done(_)) {
            return Ok(status);
        }
        if fails.load(Ordering::Relaxed) {
            disk.commits_fail();
        }
        Ok(if waits.load(Ordering::Relaxed) { JobStatus::Unknown } else { status })
    });
    let mut host = Host::on(store.clone(), |builder| confirming("0.8")(builder).evaluate(between));
    let promoted = promote(&mut host);
    held.store(true, Ordering::Relaxed);
    // The old concept is back.
    host.turn(240, 0.5);
    assert!(!state(&host)["round"].is_null());
    held.store(false, Ordering::Relaxed);
    breaks.store(true, Ordering::Relaxed);
    assert!(host.pipeline.poll().is_err());
    breaks.store(false, Ordering::Relaxed);
    store.heal();
    for _ in 0..3 {
        host.pipeline.poll().unwrap();
    }
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from), (PromotionKind::Rollback, promoted), "{:?}", host.pipeline.status().unwrap());
}

#[test]
fn a_watched_model_that_is_kept_after_a_restart_moves_the_baseline() {
    let change = confirming("0.8");
    let mut host = Host::new(&change);
    let promoted = promote(&mut host);
    host.restart(&change);
    // Rows enough for a baseline come before the labels that keep the model.
    host.turn_with(240, 0.8, |_, _, _| None);
    while host.pipeline.status().unwrap().kept != Some(promoted) && host.served < 8_000 {
        host.turn(80, 0.8);
    }
    assert_eq!(host.pipeline.status().unwrap().kept, Some(promoted), "{:?}", host.run_states());
    assert_eq!(host.pipeline.references().serving.model(), promoted);
}

#[test]
fn a_candidate_need_not_beat_a_model_that_is_not_the_last_kept_one_any_more() {
    let mut host = Host::new(confirming("0.8"));
    promote(&mut host);
    let mut compared = 0;
    for _ in 0..16 {
        host.turn(40, 0.8);
        let status = host.pipeline.status().unwrap();
        let Some(run) = status.run.filter(|run| run.state == RunState::Judging) else { continue };
        let evidence = host.pipeline.evaluation(run.id).unwrap().unwrap().evidence.unwrap();
        if status.kept == Some(host.pipeline.champion()) {
            assert_eq!(evidence.against_kept, None, "{} is kept, and the candidate must beat an older one", run.base);
        } else {
            compared += u32::from(evidence.against_kept.is_some());
        }
    }
    assert!(compared > 0, "no candidate was judged while the watch was open");
}

#[test]
fn a_rollback_after_a_restart_brings_the_reference_of_the_older_model_back() {
    let threshold = Arc::new(Mutex::new("0.8"));
    let theirs = threshold.clone();
    let change = move |builder: PipelineBuilder| {
        let threshold = theirs.clone();
        let trainer = FnTrainer::inline(move |_: &TrainJob| {
            let threshold = *threshold.lock().unwrap();
            Ok(Artifact::Inline(threshold.into()))
        });
        builder.trigger(new_labels(60)).compare(1.0).train(trainer).evaluate(evaluator(Profile::confirm()))
    };
    let mut host = Host::new(&change);
    let first = promote(&mut host);
    while host.pipeline.status().unwrap().kept != Some(first) && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    let reference = |host: &Host| {
        let references = host.pipeline.references();
        (references.model, serde_json::to_value(&*references.training).unwrap())
    };
    let before = reference(&host);
    assert_eq!(before.0, first);
    *threshold.lock().unwrap() = "0.2";
    while host.pipeline.champion() == first && host.served < 8_000 {
        host.turn(40, 0.2);
    }
    let second = host.pipeline.champion();
    assert!(second > first, "{:?}", host.run_states());
    host.turn(10, 0.2);
    host.restart(&change);
    assert_eq!(host.pipeline.rollback("it is wrong").unwrap(), first);
    host.pipeline.poll().unwrap();
    host.turn(10, 0.2);
    assert!(reference(&host) == before, "it is another reference");
}

// Crashes ----------------------------------------------------------------------------------------------------------------

/// What is in the store when the process dies between the claim of a switch and what follows it.
#[test]
fn a_process_that_dies_between_claim_and_switch_is_followed_by_one_that_makes_the_switch_once() {
    for (switched, cancelled) in [(false, false), (true, false), (false, true), (true, true)] {
        let store = Disk::new(MemoryStore::new());
        let slot = ModelSlot::new(0.5, support::load).inline();
        let dying = Arc::new(AtomicBool::new(false));
        /// The deployer outlives the process; the disk fails as soon as it is asked to switch.
        struct Dying(Reluctant, Arc<AtomicBool>, bool, Disk<MemoryStore>);
        impl Deployer for Dying {
            fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError> {
                self.0.prepare(model)
            }
            fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError> {
                self.0.poll(version)
            }
            fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError> {
                if self.1.load(Ordering::Relaxed) {
                    self.3.commits_fail();
                    self.3.reads_fail();
                    return if self.2 { self.0.activate(version) } else { Err("the power is gone".into()) };
                }
                self.0.activate(version)
            }
        }
        let deployer = |open: &Arc<AtomicBool>| {
            Dying(Reluctant { open: open.clone(), ..Reluctant::new(&slot) }, dying.clone(), switched, store.clone())
        };
        let open = Arc::new(AtomicBool::new(false));
        let mut host = Host::on(store.clone(), |builder| confirming("0.8")(builder).deploy(deployer(&open)));
        host.slot = slot.clone();
        while state(&host)["phase"]["deploying"].is_null() && host.served < 4_000 {
            host.turn(40, 0.8);
        }
        dying.store(true, Ordering::Relaxed);
        open.store(true, Ordering::Relaxed);
        let _ = host.pipeline.poll();
        dying.store(false, Ordering::Relaxed);
        store.heal();
        let claimed = host.store.get("closed", feedloop::Kind::Control, "aliases").unwrap().unwrap();
        let claimed: serde_json::Value = serde_json::from_slice(&claimed.body).unwrap();
        assert_eq!(claimed["switching_to"], 1, "the switch was claimed before it was made: {claimed}");
        assert_eq!(slot.version().0, u64::from(switched));
        // The next process, with a deployer that has lived on.
        let next = deployer(&open);
        let activated = next.0.activated.clone();
        let mut host = Host::sharing(&host, |builder| confirming("0.8")(builder).deploy(next));
        if cancelled {
            host.pipeline.cancel_run("ada").unwrap();
        }
        host.pipeline.poll().unwrap();
        let (champion, states) = if cancelled { (0, RunState::Cancelled) } else { (1, RunState::Watched) };
        let how = format!("switched {switched}, cancelled {cancelled}");
        assert_eq!((host.pipeline.champion().0, slot.version().0), (champion, champion), "{how}");
        assert_eq!(host.run_states()[0], states, "{how}");
        assert_eq!(*activated.lock().unwrap(), [ModelVersion(champion)], "{how}");
        assert_eq!(host.pipeline.promotions().unwrap().len() as u64, champion, "{how}");
        assert_eq!(Aliases::read(&*host.store, "closed").unwrap().unwrap().champion.0, champion, "{how}");
        let history = host.pipeline.alias_history().unwrap();
        let numbers: Vec<u64> = history.iter().map(|record| record.number).collect();
        assert_eq!(numbers, (1..=history.len() as u64).collect::<Vec<_>>(), "{how}");
        assert!(history.iter().all(|record| record.switching_to.is_none()), "{how}");
        support::check(&*host.store, "closed");
    }
}

// Erasure ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_row_that_is_erased_while_its_round_is_under_way_takes_only_itself_out() {
    let between = Between::new(Profile::confirm(), |_, status| Ok(status));
    let refuses = between.refuses.clone();
    let mut host = Host::new(|builder| confirming("0.8")(builder).evaluate(between));
    while host.run_states().last() != Some(&RunState::Judging) && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    let rows = |host: &Host| host.pipeline.evaluation(RunId(1)).unwrap().unwrap().evidence.unwrap().rows;
    let before = rows(&host);
    refuses.store(true, Ordering::Relaxed);
    let mut errors = 0;
    while state(&host)["round"].is_null() && errors < 40 {
        // `turn` does not mind errors of the last poll only.
        errors += 1;
        host.turn_through_errors(40, 0.8);
    }
    let round: Vec<PredictionId> = serde_json::from_value(state(&host)["round"]["samples"].clone()).unwrap();
    assert!(round.len() >= 20);
    host.pipeline.erase(round[3], "ann", "asked").unwrap();
    refuses.store(false, Ordering::Relaxed);
    host.pipeline.poll().unwrap();
    assert!(state(&host)["round"].is_null());
    let judged = rows(&host) - before;
    assert!(judged >= round.len() as u64 / 2, "{judged} of {} rows have judged", round.len());
    let erased = sample(&*host.store, "closed", round[3]);
    assert!(!erased.judged && erased.erased.is_some());
}

/// The rows on which evaluations rest, as they are stored.
fn live_rows(host: &Host) -> Vec<String> {
    let records = support::records(&*host.store, "closed", feedloop::Kind::Evaluation).into_iter();
    let rows = records.filter(|record| record.key.id.contains('/'));
    rows.map(|record| String::from_utf8(record.body.to_vec()).unwrap()).collect()
}

#[test]
fn what_a_row_said_for_a_candidate_goes_with_it_and_with_the_run() {
    let mut host = Host::new(confirming("0.8"));
    while live_rows(&host).is_empty() && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    let first = live_rows(&host).remove(0);
    let rows: serde_json::Value = serde_json::from_str(&first).unwrap();
    let id: PredictionId = serde_json::from_value(rows["rows"][0]["id"].clone()).unwrap();
    host.pipeline.erase(id, "ann", "asked").unwrap();
    let named = |host: &Host| live_rows(host).iter().filter(|rows| rows.contains(&id.to_string())).count();
    assert_eq!(named(&host), 0);
    assert!(host.pipeline.evaluation(RunId(1)).unwrap().is_some(), "the others judge on");
    promote(&mut host);
    host.pipeline.cancel_run("ada").ok();
    assert!(!live_rows(&host).is_empty() && live_rows(&host).iter().all(|rows| rows.contains(r#""rows":[]"#)));
    support::check_journal(&*host.store, "closed");
}

#[test]
fn what_models_said_in_the_shadow_of_a_row_goes_with_it() {
    let pipeline = feedloop::Pipeline::builder("erased", support::schema())
        .training_data(support::base())
        .first_model(support::first_model())
        .explore(1.0);
    let mut pipeline = pipeline.build().unwrap();
    let served = observation(1, ModelVersion::FIRST, 0.5, &[0.2, 0.3]);
    let mut shadow = observation(1, ModelVersion::FIRST, 0.7, &[0.2, 0.3]);
    shadow.role = Role::Shadow;
    pipeline.ingest([Event::Prediction(served), Event::Prediction(shadow)]).unwrap();
    let id = support::id(1);
    assert_eq!(sample(&**pipeline.store(), "erased", id).shadows.len(), 1);
    pipeline.erase(id, "ann", "asked").unwrap();
    // A second one comes too late.
    let mut late = observation(1, ModelVersion::FIRST, 0.7, &[0.2, 0.3]);
    late.role = Role::Shadow;
    pipeline.ingest([Event::Prediction(late)]).unwrap();
    assert_eq!(pipeline.status().unwrap().counters.after_erasure, 1);
    assert_eq!(sample(&**pipeline.store(), "erased", id).shadows, []);
}

// What production says ---------------------------------------------------------------------------------------------------

#[test]
fn feedback_on_a_young_model_is_compared_at_its_age() {
    let mut host = Host::new(confirming("0.8"));
    let hear = |host: &mut Host, ids: std::ops::Range<u64>, refused: u64| {
        let heard = ids.map(|n| {
            let opinion = if n % 10 < refused { Opinion::Rejection } else { Opinion::Rating(1.0) };
            Event::Feedback(Box::new(Feedback { prediction: support::id(n), user: format!("u{n}"), opinion }))
        });
        host.pipeline.ingest(heard.collect::<Vec<_>>()).unwrap();
    };
    // Of the old model, early reports are content and late ones are not.
    host.turn(80, 0.8);
    hear(&mut host, 0..40, 1);
    let promoted = promote(&mut host);
    let from = host.served;
    host.turn(40, 0.8);
    hear(&mut host, from..from + 40, 1);
    host.clock.advance(TimeDelta::days(20));
    hear(&mut host, 40..80, 9);
    let text = host.pipeline.status().unwrap().maturity.unwrap();
    assert!(text.starts_with(&format!("{promoted}: loss by feedback 0.1000, 0.1000 of v0 at the same age")), "{text}");
    assert!(text.contains("only 50 % of the reports on v0 came that early"), "{text}");
    // The late reports on the new model come in: now the comparison is of all of them.
    let late = host.served;
    host.turn(40, 0.8);
    host.clock.advance(TimeDelta::days(20));
    hear(&mut host, late..late + 40, 5);
    let text = host.pipeline.status().unwrap().maturity.unwrap();
    assert!(text.contains("loss by feedback 0.3000, 0.5000 of v0 at the same age"), "{text}");
    assert!(!text.contains("only"), "{text}");
}

#[test]
fn outputs_beyond_all_measure_do_not_make_the_store_unreadable() {
    let change = confirming("0.8");
    let mut host = Host::new(&change);
    host.turn_by(60, 0.8, |slot, n, values| vec![observation_of(n, slot.version(), [1e308, 0.0], values)]);
    host.restart(&change);
    host.turn(40, 0.8);
    assert!(matches!(host.pipeline.approve("ada"), Err(Error::Refused(_))));
}
