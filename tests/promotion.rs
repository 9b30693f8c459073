//! How a candidate comes into service and out of it: aliases and the claim of a switch, shadow and canary, what ends a
//! promotion without labels, and the kill switch.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Aliases, Artifact, BoxError, Committed, ConfidenceRouter, Deployer, Error, Evaluator, Event, Expect, Fence,
    FnTrainer, Indexed, JobStatus, Key, Kind, Label, Mode, ModelRecord, ModelSlot, ModelVersion, Observation, Outcome,
    Output, PairedEvaluator, PipelineBuilder, Profile, PromotionKind, Role, RunId, RunState, SampleState, ScoreJob,
    Scores, Store, TrainJob, Trained, Trainer, Write, new_labels,
};
use support::host::Host;
use support::{evaluator, fit, observation};

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
fn promote(host: &mut Host) -> ModelVersion {
    while host.pipeline.champion().0 == 0 && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    assert!(host.pipeline.champion().0 > 0, "nothing was promoted: {:?}", host.run_states());
    host.pipeline.champion()
}

fn last_note(host: &Host) -> String {
    let runs = host.pipeline.status().unwrap().runs;
    let run = host.pipeline.run(RunId(runs)).unwrap().unwrap();
    run.notes.last().map(|(_, reason)| reason.to_string()).unwrap_or_default()
}

// Aliases ----------------------------------------------------------------------------------------------------------------

#[test]
fn aliases_have_a_history_without_gaps_that_other_processes_can_read() {
    let mut host = Host::new(confirming("0.8"));
    let promoted = promote(&mut host);
    host.pipeline.rollback("test").unwrap();
    host.pipeline.poll().unwrap();
    let history = host.pipeline.alias_history().unwrap();
    let numbers: Vec<u64> = history.iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..=history.len() as u64).collect::<Vec<_>>());
    assert!(history.windows(2).all(|pair| pair[0].aliases != pair[1].aliases && pair[0].time <= pair[1].time));
    let mut champions: Vec<u64> = history.iter().map(|record| record.aliases.champion.0).collect();
    champions.dedup();
    assert_eq!(champions, [0, promoted.0, 0]);
    let judged = history.iter().position(|record| record.aliases.challenger == Some(promoted)).expect("no challenger");
    let serves = history.iter().position(|record| record.aliases.champion == promoted).unwrap();
    assert!(judged < serves, "the candidate is the challenger before it serves");
    assert_eq!(history[serves].aliases.previous, Some(ModelVersion(0)));
    let status = host.pipeline.status().unwrap();
    let read = Aliases::read(&*host.store, "closed").unwrap().unwrap();
    assert_eq!((read.champion, read.previous, read.kept), (status.champion, status.previous, status.kept));
    assert_eq!(Aliases::read(&*host.store, "another").unwrap(), None);
}

/// A slot whose loads take as long as a test wants.
struct Gated {
    slot: ModelSlot<f64>,
    open: Arc<AtomicBool>,
}

impl Deployer for Gated {
    fn prepare(&mut self, model: &ModelRecord) -> Result<(), BoxError> {
        self.slot.prepare(model)
    }

    fn poll(&mut self, version: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        let status = self.slot.poll(version)?;
        Ok(if self.open.load(Ordering::Relaxed) || status == JobStatus::Unknown { status } else { JobStatus::Running })
    }

    fn activate(&mut self, version: ModelVersion) -> Result<(), BoxError> {
        self.slot.activate(version)
    }

    fn challenge(&mut self, challenger: Option<(ModelVersion, f64)>) -> Result<(), BoxError> {
        self.slot.challenge(challenger)
    }
}

/// A loop whose candidate has passed and is being loaded, and the gate that ends the load.
fn loading() -> (Host, Arc<AtomicBool>, ModelSlot<f64>) {
    let open = Arc::new(AtomicBool::new(false));
    let slot = ModelSlot::new(0.5, support::load).inline();
    let gated = Gated { slot: slot.clone(), open: open.clone() };
    let mut host = Host::new(|builder| confirming("0.8")(builder).deploy(gated));
    host.slot = slot.clone();
    while !last_note_is_promoting(&host) && host.served < 4_000 {
        host.turn(40, 0.8);
    }
    assert!(last_note_is_promoting(&host), "{:?}", host.run_states());
    assert_eq!(slot.version().0, 0);
    (host, open, slot)
}

fn last_note_is_promoting(host: &Host) -> bool {
    let state = host.store.get("closed", Kind::Control, "loop").unwrap().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state.body).unwrap();
    state["phase"]["deploying"]["kind"] == "promotion"
}

#[test]
fn a_process_that_lost_the_pipeline_switches_nothing_and_says_why() {
    let (mut host, open, slot) = loading();
    let (other, other_open) = (ModelSlot::new(0.5, support::load).inline(), open.clone());
    let gated = Gated { slot: other.clone(), open: other_open };
    let mut winner = Host::sharing(&host, |builder| confirming("0.8")(builder).deploy(gated));
    open.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = host.pipeline.poll().unwrap_err();
        let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(why.contains("outdated"), "{error}: {why}");
    }
    assert_eq!((slot.version().0, host.pipeline.champion().0), (0, 0), "the loser has switched");
    winner.pipeline.poll().unwrap();
    assert!(winner.pipeline.champion().0 > 0);
    assert_eq!(other.version(), winner.pipeline.champion());
    assert_eq!(Aliases::read(&*host.store, "closed").unwrap().unwrap().champion, other.version());
}

#[test]
fn aliases_that_somebody_else_changed_stop_the_switch_until_a_person_has_looked() {
    let (mut host, open, slot) = loading();
    let found = host.store.get("closed", Kind::Control, "aliases").unwrap().unwrap();
    let mut body: serde_json::Value = serde_json::from_slice(&found.body).unwrap();
    body["aliases"]["champion"] = 77.into();
    let write = Write {
        kind: Kind::Control,
        key: Key::new(&"closed".into(), "aliases"),
        expect: Expect::Rev(found.rev),
        indexed: Indexed { state: "current", rank: 0, due: None },
        body: serde_json::to_vec(&body).unwrap().into(),
    };
    let mut out = Vec::new();
    host.store.commit(&[&[write]], &Fence::None, &mut out).unwrap();
    assert_eq!(out, [Committed::Applied]);
    open.store(true, Ordering::Relaxed);
    host.pipeline.poll().unwrap();
    assert_eq!(slot.version().0, 0);
    let frozen = host.pipeline.status().unwrap().frozen.expect("it goes on");
    assert!(frozen.contains("v77"), "{frozen}");
    assert_eq!(Aliases::read(&*host.store, "closed").unwrap().unwrap().champion.0, 0, "what the loop knows is back");
    host.pipeline.unfreeze().unwrap();
    host.pipeline.poll().unwrap();
    assert!(slot.version().0 > 0);
    assert_eq!(slot.version(), host.pipeline.champion());
}

// Rollback and the kill switch -------------------------------------------------------------------------------------------

#[test]
fn a_rollback_ends_a_promotion_that_is_under_way() {
    let open = Arc::new(AtomicBool::new(true));
    let slot = ModelSlot::new(0.5, support::load).inline();
    let gated = Gated { slot: slot.clone(), open: open.clone() };
    let mut host = Host::new(|builder| {
        let builder = builder.trigger(new_labels(60)).train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))));
        builder.evaluate(evaluator(Profile::adaptive())).deploy(gated)
    });
    host.slot = slot.clone();
    let first = promote(&mut host);
    open.store(false, Ordering::Relaxed);
    let mut concept = 0.2;
    while !last_note_is_promoting(&host) && host.served < 8_000 {
        host.turn(60, concept);
        concept = 1.0 - concept;
    }
    assert!(last_note_is_promoting(&host), "{:?}", host.run_states());
    assert_eq!(host.pipeline.rollback("it is wrong").unwrap().0, 0);
    open.store(true, Ordering::Relaxed);
    host.pipeline.poll().unwrap();
    assert_eq!((slot.version().0, host.pipeline.champion().0), (0, 0));
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from, last.reason.detail.as_str()), (PromotionKind::Rollback, first, "it is wrong"));
    assert_eq!(host.run_states().last(), Some(&RunState::Cancelled));
    support::check(&*host.store, "closed");
}

/// Trains for ever from the second run on, and cannot be told to stop.
struct Stubborn(Arc<AtomicBool>);

impl Trainer for Stubborn {
    fn name(&self) -> &str {
        "stubborn"
    }

    fn start(&mut self, _: TrainJob) -> Result<(), BoxError> {
        Ok(())
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        Ok(if key.starts_with("run-1-") || self.0.load(Ordering::Relaxed) {
            JobStatus::Done(Trained { artifact: Artifact::Inline(b"0.8".to_vec()), log: String::new() })
        } else {
            JobStatus::Running
        })
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        Err("no such process".into())
    }
}

#[test]
fn a_rollback_waits_for_no_trainer_and_does_not_lift_a_freeze() {
    let done = Arc::new(AtomicBool::new(false));
    let theirs = done.clone();
    let change = move |builder: PipelineBuilder| {
        let builder = builder.trigger(new_labels(60)).compare(1.0).train(Stubborn(theirs.clone()));
        builder.evaluate(evaluator(Profile::confirm()))
    };
    let mut host = Host::new(&change);
    let promoted = promote(&mut host);
    while host.run_states().last() != Some(&RunState::Training) && host.served < 6_000 {
        host.turn(40, 0.8);
    }
    assert_eq!(host.run_states().last(), Some(&RunState::Training));
    // The trainer cannot end its job: it is said, and the loop stands still all the same.
    assert!(host.pipeline.kill("ada", "numbers look wrong").is_err());
    assert_eq!(host.run_states().last(), Some(&RunState::Cancelled));
    host.restart(&change);
    let frozen = host.pipeline.status().unwrap().frozen.expect("the freeze is gone after a restart");
    assert!(frozen.contains("killed by ada") && frozen.contains("numbers look wrong"), "{frozen}");
    assert_eq!(host.slot.version(), promoted, "the champion serves on, frozen or not");
    host.pipeline.rollback("worse").unwrap();
    host.pipeline.poll().unwrap();
    assert_eq!((host.pipeline.champion().0, host.slot.version().0), (0, 0));
    let model = support::check(&*host.store, "closed").models.remove(&promoted).unwrap();
    assert_eq!(model.quarantined.map(|reason| reason.detail), Some("worse".to_owned()));
    assert_eq!(host.pipeline.status().unwrap().frozen, Some(frozen), "the rollback has lifted the freeze");
    let runs = host.pipeline.status().unwrap().runs;
    for _ in 0..4 {
        host.turn(80, 0.8);
    }
    assert_eq!(host.pipeline.status().unwrap().runs, runs);
    assert!(matches!(host.pipeline.retrain_now("ada"), Err(Error::Refused(_))));
    done.store(true, Ordering::Relaxed);
    host.pipeline.unfreeze().unwrap();
    for _ in 0..4 {
        host.turn(80, 0.8);
    }
    assert!(host.pipeline.status().unwrap().runs > runs);
}

#[test]
fn a_killed_loop_labels_nothing_by_itself_and_still_records_flags_and_asks() {
    let mut host = Host::new(|builder| {
        builder
            .route(ConfidenceRouter::max_error(0.05).audit(0.3).cap(0.8))
            .trigger(new_labels(400))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    let auto = |host: &Host| {
        let mut released = 0;
        host.pipeline
            .each_sample(|sample| {
                released += u32::from(sample.history.iter().any(|step| step.reason.code == "released"));
                Ok(())
            })
            .unwrap();
        let counters = host.pipeline.status().unwrap().counters;
        (counters.auto_labels, released)
    };
    while auto(&host).1 == 0 && host.served < 6_000 {
        host.turn(120, 0.5);
    }
    let before = auto(&host);
    assert!(before.1 > 0, "nothing was released");
    let status = host.pipeline.status().unwrap();
    host.pipeline.kill("ada", "labels look wrong").unwrap();
    for _ in 0..3 {
        host.turn(120, 0.5);
    }
    assert_eq!(auto(&host), before);
    let killed = host.pipeline.status().unwrap();
    assert_eq!(killed.counters.predictions, status.counters.predictions + 360);
    assert_eq!(killed.counters.flags, status.counters.flags + 360);
    assert!(killed.counters.human_labels > status.counters.human_labels, "the random lane asks on");
    assert!(killed.samples[&SampleState::Admitted] > 200, "{:?}", killed.samples);
    host.pipeline.unfreeze().unwrap();
    for _ in 0..5 {
        host.turn(120, 0.5);
    }
    assert!(auto(&host).0 > before.0);
    assert_eq!(host.pipeline.status().unwrap().samples.get(&SampleState::Admitted), None, "nobody waits any more");
}

#[test]
fn a_rollback_waits_a_label_batch_and_the_second_freezes() {
    let mut host = Host::new(|builder| confirming("0.8")(builder));
    promote(&mut host);
    while host.pipeline.status().unwrap().trigger_view.labels < 60 && host.served < 6_000 {
        host.turn(40, 0.8);
    }
    host.pipeline.rollback("first").unwrap();
    let runs = host.pipeline.status().unwrap().runs;
    for _ in 0..3 {
        host.pipeline.poll().unwrap();
    }
    assert_eq!(host.pipeline.champion().0, 0);
    let status = host.pipeline.status().unwrap();
    assert!(status.trigger_view.labels >= 60 && status.runs == runs, "a run in the cool-off: {status:?}");
    assert_eq!(status.frozen, None);
    let rounds = |host: &Host| {
        let state = host.store.get("closed", Kind::Control, "loop").unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&state.body).unwrap()["next_round"].as_u64().unwrap()
    };
    let before = rounds(&host);
    while rounds(&host) == before {
        assert_eq!(host.pipeline.status().unwrap().runs, runs);
        host.turn(40, 0.8);
    }
    host.pipeline.poll().unwrap();
    assert!(host.pipeline.status().unwrap().runs > runs, "a label batch ends the cool-off");
    promote(&mut host);
    host.pipeline.rollback("second").unwrap();
    host.pipeline.poll().unwrap();
    let frozen = host.pipeline.status().unwrap().frozen.expect("two rollbacks in ten promotions freeze");
    assert!(frozen.contains("flapping"), "{frozen}");
    let runs = host.pipeline.status().unwrap().runs;
    for _ in 0..4 {
        host.turn(80, 0.8);
    }
    assert_eq!(host.pipeline.status().unwrap().runs, runs);
}

#[test]
fn a_candidate_must_beat_the_last_kept_model_while_the_served_one_is_watched() {
    let mut host = Host::new(|builder| {
        let builder = builder.trigger(new_labels(20)).compare(1.0).train(always("0.8"));
        builder.evaluate(evaluator(Profile::confirm()))
    });
    let promoted = promote(&mut host);
    // The same threshold again is as good as the served model and better than the kept one.
    let mut found = None;
    while found.is_none() && host.served < 8_000 {
        host.turn(40, 0.8);
        let run = RunId(host.pipeline.status().unwrap().runs);
        let evaluation = host.pipeline.evaluation(run).unwrap();
        found = evaluation.filter(|evaluation| {
            let evidence = evaluation.evidence.as_ref();
            evaluation.champion == promoted && evidence.is_some_and(|evidence| evidence.against_kept.is_some())
        });
    }
    let found = found.expect("no run was judged while the promotion was watched");
    let evidence = found.evidence.as_ref().unwrap();
    assert_eq!((found.kept, evidence.against_current.decisive()), (Some(ModelVersion(0)), 0), "{found}");
    assert_eq!(evidence.against_kept.unwrap().losses, 0, "{found}");
    (0..6).for_each(|_| host.turn(40, 0.8));
    assert_eq!(host.pipeline.promotions().unwrap().len(), 1, "one of the two is not enough");
}

#[test]
fn outcomes_of_a_young_model_are_compared_at_their_age() {
    let mut host = Host::new(confirming("0.8"));
    let tell = |host: &mut Host, ids: std::ops::Range<u64>| {
        let truths = ids.map(|n| Event::Outcome(Outcome::truth(support::id(n), Label::Class(0))));
        host.pipeline.ingest(truths.collect::<Vec<_>>()).unwrap();
    };
    host.turn(40, 0.8);
    tell(&mut host, 0..40);
    assert_eq!(host.pipeline.status().unwrap().maturity, None);
    let promoted = promote(&mut host);
    assert_eq!(host.pipeline.status().unwrap().maturity, None, "nothing is known of it yet");
    let from = host.served;
    host.turn(30, 0.8);
    tell(&mut host, from..from + 30);
    host.clock.advance(TimeDelta::days(20));
    tell(&mut host, 40..120);
    let text = host.pipeline.status().unwrap().maturity.unwrap();
    assert!(text.starts_with(&format!("{promoted}: loss by outcome")) && text.contains("only 33 %"), "{text}");
    assert!(text.contains("claimed accuracy"), "{text}");
    host.restart(confirming("0.8"));
    assert!(host.pipeline.status().unwrap().maturity.is_some());
}

// Shadow and canary ------------------------------------------------------------------------------------------------------

/// Remembers the names of the jobs that it is given, and says of each model how long it took.
struct Watched {
    inner: PairedEvaluator,
    started: Arc<Mutex<Vec<String>>>,
    /// The candidate is slow in this many measurements more.
    slow: Arc<AtomicU32>,
}

impl Watched {
    fn new(profile: Profile, slow: u32) -> Watched {
        Watched { inner: evaluator(profile), started: Arc::default(), slow: Arc::new(AtomicU32::new(slow)) }
    }
}

impl Evaluator for Watched {
    fn profile(&self) -> &Profile {
        Evaluator::profile(&self.inner)
    }

    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError> {
        self.started.lock().unwrap().push(job.key.clone());
        self.inner.start(job)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError> {
        let mut status = self.inner.poll(key)?;
        if let JobStatus::Done(scores) = &mut status
            && key.contains("smoke")
        {
            let slow = self.slow.load(Ordering::Relaxed);
            self.slow.store(slow.saturating_sub(1), Ordering::Relaxed);
            for scores in scores {
                let times = if scores.model.0 > 0 && slow > 0 { 10 } else { 1 };
                scores.latency = Some(Duration::from_millis(times));
            }
        }
        Ok(status)
    }
}

fn shadow_of(served: &Observation, model: ModelVersion, threshold: f64, n: u64, values: &[f64]) -> Box<Observation> {
    let mut shadow = observation(n, model, threshold, values);
    (shadow.role, shadow.id) = (Role::Shadow, served.id);
    shadow
}

/// Serves with a canary and lets the other model predict in the shadow.
#[allow(clippy::vec_box)]
fn with_shadow(slot: &ModelSlot<f64>, n: u64, values: &[f64]) -> Vec<Box<Observation>> {
    let served = slot.route(support::id(n), |threshold, version| observation(n, version, *threshold, values));
    let shadow = slot.shadow(served.model, |threshold, version| shadow_of(&served, version, *threshold, n, values));
    [Some(served), shadow].into_iter().flatten().collect()
}

#[test]
fn recorded_shadows_judge_a_candidate_without_scoring_it_again() {
    let mut verdicts = Vec::new();
    for shadowed in [false, true] {
        let evaluator = Watched::new(Profile::confirm(), 0);
        let started = evaluator.started.clone();
        let mut host = Host::new(|builder| {
            let builder = builder.trigger(new_labels(60)).compare(1.0).train(always("0.8"));
            builder.evaluate(evaluator)
        });
        while host.pipeline.champion().0 == 0 && host.served < 4_000 {
            if shadowed {
                host.turn_by(40, 0.8, with_shadow);
            } else {
                host.turn(40, 0.8);
            }
        }
        let jobs = started.lock().unwrap().clone();
        // The round before the first candidate has one model; smoke test and validation are always scored.
        let scored = jobs.iter().filter(|key| !key.contains("smoke") && !key.contains("validation")).count();
        assert_eq!(scored == 0, shadowed, "{jobs:?}");
        let promotion = host.pipeline.promotions().unwrap().remove(0);
        verdicts.push((promotion.time, promotion.reason.detail));
        assert_eq!(host.pipeline.status().unwrap().counters.shadow > 0, shadowed);
        assert_eq!(host.pipeline.status().unwrap().counters.duplicate_predictions, 0);
    }
    assert_eq!(verdicts[0], verdicts[1], "a shadow says what the evaluator would have found");
}

#[test]
fn the_recorder_joins_a_shadow_to_its_prediction() {
    let pipeline = feedloop::Pipeline::builder("recorded", support::schema())
        .training_data(support::base())
        .first_model(support::first_model())
        .explore(1.0)
        .build()
        .unwrap();
    let (recorder, control, _worker) = pipeline.spawn().unwrap();
    let (id, another) = (recorder.next_id(), recorder.next_id());
    assert_ne!(id, another);
    let output = Output::Probabilities(&[0.2, 0.8]);
    let draft = recorder.prediction(ModelVersion(0), output).id(id).latency(Duration::from_millis(3));
    assert_eq!(draft.values(&[0.1, 0.2]).unwrap(), id);
    recorder.shadow(id, ModelVersion(0), Output::Probabilities(&[0.6, 0.4])).unwrap();
    recorder.shadow(id, ModelVersion(9), Output::Probabilities(&[0.6, 0.4])).unwrap();
    let counters = control.status().unwrap().counters;
    assert_eq!((counters.predictions, counters.shadow, counters.duplicate_predictions), (1, 2, 0));
    let sample = control.sample(id).unwrap().unwrap();
    let said: Vec<_> = sample.shadows.iter().map(|shadow| (shadow.model.0, shadow.output.clone())).collect();
    assert_eq!(said, [(0, vec![0.6, 0.4])], "nobody judges version 9");
    assert_eq!(sample.observation.latency, Some(Duration::from_millis(3)));
}

#[test]
fn a_shadow_is_found_wherever_the_stream_is_cut_and_after_a_restart() {
    let evidence = |cut: usize| {
        let change = confirming("0.8");
        let mut host = Host::new(&change);
        while host.slot.challenger().is_none() && host.served < 2_000 {
            host.turn_by(cut, 0.8, with_shadow);
        }
        for _ in 0..120 / cut {
            host.turn_by(cut, 0.8, with_shadow);
        }
        let challenger = host.slot.challenger().expect("it is still judged");
        host.restart(&change);
        assert_eq!(host.slot.challenger(), Some(challenger), "a restart offers the challenger again");
        let (mut both, mut drawn) = (0, 0);
        host.pipeline
            .each_sample(|sample| {
                let later = sample.lane.judges() && sample.shadows.len() == 1;
                both += u32::from(later && sample.shadows[0].model == challenger);
                drawn += u32::from(sample.lane.judges());
                Ok(())
            })
            .unwrap();
        assert!(both > 0 && drawn > both, "{both} of {drawn}");
    };
    evidence(40);
    evidence(1);
}

#[test]
fn a_canary_serves_its_share_judges_and_ends_with_the_run() {
    let mut host = Host::new(|builder| confirming("0.8")(builder).canary(0.3));
    let mut served = [0_u32; 2];
    let mut rejected = false;
    while host.slot.challenger().is_none() && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    let challenger = host.slot.challenger().expect("no candidate");
    // The old concept comes back, and the candidate is worse.
    for _ in 0..40 {
        let (mut canaries, offered) = (0, host.slot.challenger().is_some());
        host.turn_by(40, 0.5, |slot, n, values| {
            let served = slot.route(support::id(n), |threshold, version| observation(n, version, *threshold, values));
            canaries += u32::from(served.model.0 > 0);
            vec![served]
        });
        assert!(offered || canaries == 0, "a canary without a candidate");
        served[0] += 40 * u32::from(offered);
        served[1] += canaries;
        rejected = host.run_states().contains(&RunState::Rejected);
        if rejected {
            break;
        }
    }
    assert!(rejected, "{:?}", host.run_states());
    assert_ne!(host.slot.challenger(), Some(challenger), "it ends with the run");
    assert_eq!(host.pipeline.champion().0, 0);
    let share = f64::from(served[1]) / f64::from(served[0]);
    // Five standard deviations of the share among the rows served with a candidate.
    let width = 5.0 * (0.3 * 0.7 / f64::from(served[0])).sqrt();
    assert!((share - 0.3).abs() < width, "{served:?}");
    let mut judged = 0;
    host.pipeline
        .each_sample(|sample| {
            judged += u32::from(sample.lane.judges() && sample.judged && sample.observation.model.0 > 0);
            Ok(())
        })
        .unwrap();
    assert!(judged > 0, "rows of the canary judge as well");
}

#[test]
fn a_freeze_and_advisory_mode_have_no_canary() {
    for mode in [Mode::Unattended, Mode::Advisory] {
        let mut host = Host::new(|builder| confirming("0.8")(builder).canary(1.0).mode(mode));
        while host.slot.challenger().is_none() && host.served < 2_000 {
            host.turn(40, 0.8);
        }
        let challenger = host.slot.challenger().expect("no candidate");
        let serves = |host: &Host| host.slot.route(support::id(1), |_, version| version);
        assert_eq!(serves(&host) == challenger, mode == Mode::Unattended);
        host.pipeline.freeze("wait").unwrap();
        assert_eq!((serves(&host).0, host.slot.challenger()), (0, None), "without a poll");
        host.pipeline.unfreeze().unwrap();
        host.pipeline.poll().unwrap();
        assert_eq!(host.slot.challenger(), Some(challenger));
    }
}

// What needs no label ----------------------------------------------------------------------------------------------------

/// An output that is no prediction.
fn broken(n: u64, model: ModelVersion, values: &[f64]) -> Box<Observation> {
    observation(n, model, f64::NAN, values)
}

#[test]
fn a_canary_that_says_nan_is_refused_at_once() {
    let mut host = Host::new(|builder| confirming("0.8")(builder).canary(0.2));
    while host.slot.challenger().is_none() && host.served < 2_000 {
        host.turn(40, 0.8);
    }
    host.turn_by(40, 0.8, |slot, n, values| {
        vec![slot.route(support::id(n), |threshold, version| match version.0 {
            0 => observation(n, version, *threshold, values),
            _ => broken(n, version, values),
        })]
    });
    assert_eq!(host.run_states().last(), Some(&RunState::Rejected));
    assert!(last_note(&host).starts_with("not_finite"), "{}", last_note(&host));
    assert_eq!(host.slot.challenger(), None);
}

#[test]
fn an_unusable_output_of_a_promoted_model_rolls_back_at_once() {
    let mut host = Host::new(confirming("0.8"));
    let promoted = promote(&mut host);
    let labels = host.pipeline.status().unwrap().counters.human_labels;
    host.turn_by(1, 0.8, |slot, n, values| vec![broken(n, slot.version(), values)]);
    let last = host.pipeline.promotions().unwrap().pop().unwrap();
    assert_eq!((last.kind, last.from, last.reason.code.as_str()), (PromotionKind::Rollback, promoted, "not_finite"));
    assert!(host.pipeline.status().unwrap().counters.human_labels <= labels + 1);
    assert_eq!(host.slot.version().0, 0);
}

#[test]
fn an_output_that_the_previous_model_cannot_give_either_is_the_inputs_fault() {
    let mut host = Host::new(confirming("0.8"));
    let promoted = promote(&mut host);
    // The first number is missing: neither model can say anything.
    host.turn_by(5, 0.8, |slot, n, values| vec![observation(n, slot.version(), 0.8, &[f64::NAN, values[1]])]);
    assert_eq!(host.pipeline.champion(), promoted);
    assert_eq!(host.pipeline.promotions().unwrap().len(), 1);
}

#[test]
fn a_promoted_model_that_is_much_slower_is_rolled_back_and_one_that_is_hardly_is_not() {
    for (after, back) in [(20, true), (3, false)] {
        let mut host = Host::new(confirming("0.8"));
        let timed = |slot: &ModelSlot<f64>, n: u64, values: &[f64]| {
            let served = slot.get();
            let mut observation = observation(n, served.version, served.model, values);
            observation.latency = Some(Duration::from_millis(if served.version.0 == 0 { 2 } else { after }));
            vec![observation]
        };
        while host.pipeline.champion().0 == 0 && host.served < 4_000 {
            host.turn_by(40, 0.8, timed);
        }
        let promoted = host.pipeline.champion();
        host.turn_by(250, 0.8, timed);
        let last = host.pipeline.promotions().unwrap().pop().unwrap();
        assert_eq!(last.kind == PromotionKind::Rollback, back, "{last:?}");
        if back {
            assert_eq!((last.from, last.reason.code.as_str()), (promoted, "latency"));
        }
    }
}

#[test]
fn a_candidate_that_is_slow_in_every_smoke_test_is_refused_and_one_pause_is_not() {
    for (slow, refused) in [(u32::MAX, true), (2, false)] {
        let mut host = Host::new(|builder| {
            let builder = builder.trigger(new_labels(60)).compare(1.0).train(always("0.8"));
            builder.evaluate(Watched::new(Profile::confirm(), slow))
        });
        while host.pipeline.status().unwrap().runs < 1 && host.served < 2_000 {
            host.turn(40, 0.8);
        }
        host.turn(40, 0.8);
        let run = host.pipeline.run(RunId(1)).unwrap().unwrap();
        assert_eq!(run.state == RunState::Rejected, refused, "{:?}", run.notes);
        assert_eq!(run.notes.last().unwrap().1.code == "latency", refused, "{:?}", run.notes);
    }
}

#[test]
fn the_status_tells_what_can_be_found() {
    let host = Host::new(confirming("0.8"));
    let power = host.pipeline.status().unwrap().power.unwrap();
    assert!(power.contains("5 points at 10 % disagreement") && power.contains("23 decisive labels"), "{power}");
}
