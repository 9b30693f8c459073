//! Evaluations: what is stored of them, what a requirement does, and that an empty gate lets nobody through.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use feedloop::{
    AdaptiveRules, Artifact, BoxError, ConfirmRules, CostMatrix, Dataset, Error, EvaluatedOn, Event, Feedback,
    FnTrainer, JobStatus, Kind, Label, Lane, Leakage, LineageNode, Metric, ModelRecord, ModelVersion, Observation,
    Opinion, Outcome, Output, PairedEvaluator, Pipeline, PipelineBuilder, Profile, Race, Recipe, Requirement, Row,
    RunId, RunState, Sample, SampleState, Schema, Store, Target, TrainJob, Trained, Trainer, UserFeedback, Verdict,
    new_labels,
};
use support::host::Host;
use support::{Rng, base, check, evaluator, first_model, fit, id, schema, start, truth};

/// Every run trains the same `threshold`, and is judged by `profile`.
fn training(threshold: &'static str, profile: Profile) -> impl Fn(PipelineBuilder) -> PipelineBuilder + Clone {
    move |builder| {
        builder
            .trigger(new_labels(60))
            .compare(1.0)
            .train(FnTrainer::inline(move |_: &TrainJob| Ok(Artifact::Inline(threshold.into()))))
            .evaluate(evaluator(profile.clone()))
            .slice("left", |_, row: &Row| row.values()[1] < 0.5)
            .slice("broken", |_, row: &Row| row.values()[99] > 0.0)
    }
}

fn audit_set(concept: f64) -> Dataset {
    let mut rng = Rng(77);
    let rows = (0..300).map(|_| [rng.unit(), rng.unit()]);
    Dataset::from_values(schema(), rows.map(|row| (row, truth(&row, concept))).collect::<Vec<_>>()).unwrap()
}

fn notes(host: &Host, run: u64) -> String {
    let run = host.pipeline.run(RunId(run)).unwrap().unwrap();
    run.notes.iter().map(|(_, reason)| format!("{reason}\n")).collect()
}

#[test]
fn the_evaluation_of_a_promotion_is_stored_linked_and_found_again() {
    let settings = |builder: PipelineBuilder| {
        training("0.8", Profile::confirm())(builder)
            .audit_set(audit_set(0.8))
            .require(Requirement::new(Metric::Accuracy, 0.7))
            .require(Requirement::no_worse(Metric::LogLoss, 0.1).on(EvaluatedOn::Audit).in_slice("left"))
    };
    let mut host = Host::new(settings);
    let mut waiting = None;
    for _ in 0..20 {
        host.turn(80, 0.8);
        let run = host.pipeline.run(RunId(1)).unwrap();
        if run.is_some_and(|run| run.state == RunState::Judging) {
            waiting = host.pipeline.evaluation(RunId(1)).unwrap();
        }
    }
    let waiting = waiting.expect("judging takes more than one label batch");
    assert_eq!(waiting.verdict, None);
    assert!(waiting.audit.is_some() && !waiting.reasons.is_empty(), "{waiting}");
    let run = host.pipeline.run(RunId(1)).unwrap().unwrap();
    assert!(matches!(run.state, RunState::Watched | RunState::Kept | RunState::KeptUnproven), "{}", notes(&host, 1));
    let found = host.pipeline.evaluation(RunId(1)).unwrap().unwrap();
    assert_eq!((found.verdict, Some(found.candidate), found.champion), (Some(Verdict::Pass), run.candidate, run.base));
    assert_eq!(found.checks.iter().filter(|check| check.outcome == Verdict::Pass).count(), 2, "{found}");
    let live = found.live.as_ref().unwrap();
    assert!(
        live.all.rows >= 30 && live.all.of(found.candidate, Metric::Accuracy).unwrap().value == Some(1.0),
        "{found}"
    );
    let training = found.training.as_ref().unwrap();
    assert!(training.all.rows > 200 && training.slices.contains_key("left"), "base data and the first batch\n{found}");
    assert!(!training.slices.contains_key("broken"), "a closure that panics holds nothing");
    let audit = found.audit.as_ref().unwrap();
    assert_eq!((audit.all.rows, audit.all.of(found.candidate, Metric::Accuracy).unwrap().value), (300, Some(1.0)));
    assert!(audit.all.difference(found.champion, Metric::Accuracy).unwrap().interval.unwrap().0 > 0.2);
    assert!(run.evaluation.as_ref().is_some_and(|digest| digest.len() == 64));
    let lineage = host.pipeline.lineage(found.candidate).unwrap();
    assert!(lineage.nodes.contains(&LineageNode::Evaluation(Box::new(found.clone()))), "{lineage}");
    assert!(lineage.to_string().contains("evaluation of v1 against v0: pass"), "{lineage}");
    host.restart(settings);
    assert_eq!(host.pipeline.evaluation(RunId(1)).unwrap(), Some(found));
    assert_eq!(host.pipeline.evaluation(RunId(99)).unwrap(), None);
    assert!(host.pipeline.gate::<Leakage>().is_some(), "the audit set is kept out of every batch");
}

#[test]
fn a_restart_while_judging_goes_on_with_the_same_evaluation() {
    let settings = |builder: PipelineBuilder| {
        training("0.7", Profile::confirm())(builder)
            .audit_set(audit_set(0.7))
            .require(Requirement::new(Metric::Accuracy, 0.5))
    };
    let judged = |restart: bool| {
        let mut host = Host::new(settings);
        for _ in 0..15 {
            host.turn(80, 0.7);
            if restart {
                host.restart(settings);
            }
        }
        (host.run_states(), host.pipeline.evaluation(RunId(1)).unwrap().unwrap())
    };
    let (states, through) = judged(false);
    assert_eq!(judged(true), (states, through));
}

#[test]
fn a_better_candidate_that_misses_a_requirement_is_refused() {
    let worse_than_wanted = Requirement::new(Metric::Accuracy, 0.99);
    let run = |on| {
        let mut host = Host::new(|builder| {
            training("0.7", Profile::confirm())(builder)
                .audit_set(audit_set(0.8))
                .require(worse_than_wanted.clone().on(on))
        });
        for _ in 0..12 {
            host.turn(80, 0.8);
        }
        assert_eq!(host.pipeline.champion().0, 0, "{:?} {}", host.run_states(), notes(&host, 1));
        (host.run_states()[0], host.pipeline.evaluation(RunId(1)).unwrap().unwrap().reasons[0].code.clone())
    };
    assert_eq!(run(EvaluatedOn::Audit), (RunState::Rejected, "requirement_failed".into()));
    assert_eq!(run(EvaluatedOn::Live), (RunState::Rejected, "requirement_failed".into()));
    assert_eq!(run(EvaluatedOn::Training).0, RunState::Rejected);
}

#[test]
fn every_run_validates_the_base_data_and_all_batches_anew() {
    let mut host = Host::new(training("0.8", Profile::confirm()));
    (0..16).for_each(|_| host.turn(80, 0.65));
    let world = support::check(&*host.store, "closed");
    let mut rows = base().len() as u64;
    let mut validated = Vec::new();
    for run in world.runs.values() {
        let Some(batch) = &run.batch else { continue };
        rows += world.batches[&batch.0].rows;
        let Some(evaluation) = host.pipeline.evaluation(run.id).unwrap() else { continue };
        // at most 2,000 rows are drawn
        assert_eq!(evaluation.training.unwrap().all.rows, rows.min(2_000), "{}", run.id);
        validated.push(rows);
    }
    assert!(validated.len() >= 3 && validated[2] < 2_000, "{validated:?}");
}

#[test]
fn a_candidate_whose_decisions_cost_too_much_is_refused() {
    // A model that says yes too seldom is wrong as often as one that says it too often, and that costs ten times as much.
    let costs = CostMatrix::new(vec![vec![0.0, 1.0], vec![10.0, 0.0]]).unwrap();
    let run = |threshold: &'static str| {
        let mut host = Host::new(|builder| {
            training(threshold, Profile::confirm())(builder)
                .costs(costs.clone())
                .audit_set(audit_set(0.8))
                .require(Requirement::new(Metric::Accuracy, 0.7).on(EvaluatedOn::Audit))
                .require(Requirement::new(Metric::Cost, 0.4).on(EvaluatedOn::Audit))
        });
        // One that is superseded hands its evidence on.
        let mut run = RunId(1);
        let evaluation = loop {
            host.turn(40, 0.8);
            assert!(host.served < 2_000);
            match host.pipeline.evaluation(run).unwrap() {
                Some(found) if found.verdict == Some(Verdict::Inconclusive) => run.0 += 1,
                Some(found) if found.verdict.is_some() => break found,
                _ => {}
            }
        };
        let cost =
            evaluation.audit.as_ref().unwrap().all.of(evaluation.candidate, Metric::Cost).unwrap().value.unwrap();
        (evaluation.verdict, cost, evaluation.to_string())
    };
    let (verdict, cost, shown) = run("0.68");
    assert!(verdict == Some(Verdict::Pass) && cost < 0.3, "{cost}\n{shown}");
    let (verdict, cost, shown) = run("0.92");
    assert!(verdict == Some(Verdict::Fail) && cost > 0.7 && shown.contains("cost"), "{cost}\n{shown}");
}

/// A loop whose models predict a value: the truth is twice the row's, a model multiplies by a factor of its own.
#[test]
fn a_model_of_values_is_judged_by_the_nearer_one_and_measured_by_its_errors() {
    let schema = Arc::new(Schema::numeric(1, Target::Value).unwrap());
    let factor = |record: &ModelRecord| -> Result<f64, BoxError> {
        let Artifact::Inline(bytes) = &record.artifact else { return Err("not a factor".into()) };
        Ok(std::str::from_utf8(bytes)?.parse()?)
    };
    let run = |bound: f64| {
        let evaluator = PairedEvaluator::new(move |record: &ModelRecord| {
            let factor = factor(record)?;
            Ok(move |row: &Row, output: &mut [f64]| {
                output.copy_from_slice(&[factor * row.values()[0], f64::NAN, f64::NAN]);
                Ok(())
            })
        });
        let mut rng = Rng(3);
        let base: Vec<_> = (0..50).map(|_| ([rng.unit()], Label::Value(1.0))).collect();
        let mut pipeline = Pipeline::builder("values", schema.clone())
            .training_data(Dataset::from_values(schema.clone(), base).unwrap())
            .first_model(Artifact::Inline(b"1.0".to_vec()))
            .explore(1.0)
            .trigger(new_labels(20))
            .train(FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(b"1.9".to_vec()))))
            .evaluate(evaluator.inline())
            .require(Requirement::new(Metric::MeanAbsoluteError, bound))
            .require(Requirement::no_worse(Metric::RSquared, 0.0))
            .build()
            .unwrap();
        for n in 0..300 {
            let value = rng.unit();
            let mut observation = Box::new(Observation::new(&schema));
            (observation.id, observation.time) = (id(n), start());
            observation.row.copy_values(&[value]).unwrap();
            observation.set_output(Output::Value { value, interval: None });
            let truth = Outcome::truth(id(n), Label::Value(2.0 * value));
            pipeline.ingest([Event::Prediction(observation), Event::Outcome(truth)]).unwrap();
            pipeline.poll().unwrap();
        }
        (pipeline.promotions().unwrap().len(), pipeline.evaluation(RunId(1)).unwrap().unwrap())
    };
    let (promotions, evaluation) = run(0.1);
    assert_eq!((promotions, evaluation.verdict), (1, Some(Verdict::Pass)), "{evaluation}");
    let live = &evaluation.live.as_ref().unwrap().all;
    let error = |metric| live.of(evaluation.candidate, metric).unwrap().value.unwrap();
    // A tenth of a value between 0 and 1, whose mean is 1/2 and whose mean square is 1/3.
    assert!((error(Metric::MeanAbsoluteError) - 0.05).abs() < 0.02, "{evaluation}");
    assert!((error(Metric::RootMeanSquaredError) - 0.1 / 3.0_f64.sqrt()).abs() < 0.02, "{evaluation}");
    assert!(error(Metric::RSquared) > 0.97, "{evaluation}");
    assert!(live.difference(evaluation.champion, Metric::MeanAbsoluteError).unwrap().interval.unwrap().1 < 0.0);
    let (promotions, evaluation) = run(0.01);
    assert_eq!((promotions, evaluation.verdict), (0, Some(Verdict::Fail)), "{evaluation}");
}

#[test]
fn rules_that_ask_for_nothing_promote_nothing() {
    let nothing = || Profile::Confirm(ConfirmRules { confirm_at: 1.0, ..ConfirmRules::default() });
    let mut host = Host::new(training("0.8", nothing()));
    (0..10).for_each(|_| host.turn(80, 0.8));
    assert_eq!((host.pipeline.champion().0, host.run_states()[0]), (0, RunState::Inconclusive));
    assert!(notes(&host, 1).contains("no_threshold"), "{}", notes(&host, 1));
    let required = Requirement::new(Metric::Accuracy, 0.9);
    let mut host = Host::new(|builder| training("0.8", nothing())(builder).require(required));
    (0..10).for_each(|_| host.turn(80, 0.8));
    assert!(host.pipeline.champion().0 > 0, "a requirement is a threshold: {}", notes(&host, 1));
}

#[test]
fn the_leader_of_a_race_must_meet_what_is_required_on_the_audit_set() {
    let run = |concept: f64| {
        let mut host = Host::new(|builder| {
            training("0.8", Profile::adaptive())(builder)
                .audit_set(audit_set(concept))
                .require(Requirement::new(Metric::Accuracy, 0.9).on(EvaluatedOn::Audit))
        });
        (0..10).for_each(|_| host.turn(80, 0.8));
        let evaluation = host.pipeline.evaluation(RunId(1)).unwrap().unwrap();
        assert!(evaluation.race.is_some() && evaluation.training.is_some(), "{evaluation}");
        (host.pipeline.champion().0 > 0, evaluation.verdict)
    };
    assert_eq!(run(0.8), (true, Some(Verdict::Pass)));
    assert_eq!(run(0.3), (false, Some(Verdict::Fail)));
}

#[test]
fn recipes_may_race_for_who_becomes_the_candidate_that_has_to_be_confirmed() {
    let rules = ConfirmRules { race: Some(AdaptiveRules::default()), ..ConfirmRules::default() };
    let mut host = Host::new(|builder| {
        let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
        training("0.8", Profile::Confirm(rules.clone()))(builder).train(trainer)
    });
    (0..20).for_each(|_| host.turn(80, 0.8));
    let history = host.pipeline.promotions().unwrap();
    let (run, model) = (history[0].run.unwrap(), history[0].to);
    let evaluation = host.pipeline.evaluation(run).unwrap().unwrap();
    let run = host.pipeline.run(run).unwrap().unwrap();
    let evidence = evaluation.evidence.unwrap();
    assert!(evidence.against_current.e_value() >= 20.0, "promoted on evidence of its own");
    let judged = |sample: &&Sample| {
        let time = sample.label.as_ref().map(|label| label.time);
        sample.lane.judges() && time.is_some_and(|time| (run.requested..=evaluation.time).contains(&time))
    };
    let judging = check(&*host.store, "closed").samples.values().filter(judged).count() as u64;
    assert!(evidence.rows <= judging, "{} rows for a verdict, {judging} in the judging lanes", evidence.rows);
    assert!(evaluation.race.unwrap().weight > 40.0, "more labels judge the recipes");
    let recipe = |version: &ModelVersion| host.pipeline.model(*version).unwrap().unwrap().recipe.unwrap();
    assert_eq!((recipe(&model), run.candidate), (Recipe::Blend, Some(model)));
    let mut trained: Vec<Recipe> = run.models.iter().map(recipe).collect();
    trained.retain(|recipe| *recipe != Recipe::Blend);
    assert_eq!(trained, Recipe::RACING);
    assert!((host.slot.get().model - 0.8).abs() < 0.11, "it serves {}", host.slot.get().model);
}

#[test]
fn blind_labels_of_every_row_that_was_chosen_unseen_race_and_those_that_users_pointed_at_do_not() {
    let rules = AdaptiveRules { discount: 1.0, ..AdaptiveRules::default() };
    let mut host = Host::new(|builder| {
        let trainer = FnTrainer::inline(|job: &TrainJob| Ok(fit(job)));
        let builder = training("0.8", Profile::Adaptive(rules.clone()))(builder).train(trainer);
        builder.detect(UserFeedback::default())
    });
    let raced = |host: &Host| state(host)["race"]["weight"].as_f64().unwrap();
    host.turn(80, 0.8);
    assert_eq!(raced(&host), 0.0, "there was nobody to race");
    host.turn(80, 0.8);
    assert_eq!(raced(&host), 80.0, "the random fifth, and what the detector pointed at");
    // Of these rows users reject ten before people answer.
    host.turn_with(80, 0.8, |_, _, _| None);
    let samples = check(&*host.store, "closed").samples;
    let rejected: Vec<_> = (160..240).map(id).filter(|id| samples[id].lane == Lane::Flagged).take(10).collect();
    let rejection = |&prediction| Feedback { prediction, user: "eve".into(), opinion: Opinion::Rejection };
    let events = rejected.iter().map(|id| Event::Feedback(Box::new(rejection(id))));
    host.pipeline.ingest(events).unwrap();
    host.turn(80, 0.8);
    assert_eq!(raced(&host), 80.0 + 160.0 - 10.0);
    let world = check(&*host.store, "closed");
    for (id, sample) in world.samples.iter().filter(|(_, sample)| sample.sequence >= 80) {
        assert_eq!(sample.judged, !rejected.contains(id), "{id}");
        assert_eq!(sample.state, SampleState::Batched, "{id}: what does not race trains");
    }
}

/// What the store says of the loop.
fn state(host: &Host) -> serde_json::Value {
    let state = host.store.get("closed", Kind::Control, "loop").unwrap().unwrap();
    serde_json::from_slice(&state.body).unwrap()
}

#[test]
fn a_label_batch_is_full_with_the_rows_of_the_judging_lanes() {
    let mut host = Host::new(|builder| {
        builder
            .trigger(new_labels(1_000))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    loop {
        host.turn(20, 0.8);
        let samples = check(&*host.store, "closed").samples;
        let judging = samples.values().filter(|sample| sample.lane.judges()).count();
        let rounds = state(&host)["next_round"].as_u64().unwrap() - 1;
        assert_eq!(rounds, u64::from(judging >= 20), "{judging} of {} labels judge", samples.len());
        if rounds > 0 {
            return assert!(samples.len() > 60, "the other lanes fill none");
        }
    }
}

/// A service that needs a while for every job, for blends as long as it is held up, and cannot train by `Newest`.
struct Slow {
    jobs: BTreeMap<String, (TrainJob, bool)>,
    begun: Arc<Mutex<Vec<TrainJob>>>,
    held_up: Arc<AtomicBool>,
}

impl Trainer for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        self.begun.lock().unwrap().push(job.clone());
        self.jobs.insert(job.key.clone(), (job, false));
        Ok(())
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        let Some((job, asked)) = self.jobs.get_mut(key) else { return Ok(JobStatus::Unknown) };
        let waits = job.recipe == Recipe::Blend && self.held_up.load(Ordering::Relaxed);
        if !std::mem::replace(asked, true) || waits {
            return Ok(JobStatus::Running);
        }
        match job.recipe {
            Recipe::Newest => Ok(JobStatus::Failed { reason: "too few rows".into(), log: String::new() }),
            _ => Ok(JobStatus::Done(fit(job).into())),
        }
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn a_blend_is_begun_when_its_members_are_there_and_gets_them_again_after_a_restart() {
    let (begun, held_up) = (Arc::<Mutex<Vec<TrainJob>>>::default(), Arc::new(AtomicBool::new(true)));
    let change = |builder: PipelineBuilder| {
        let trainer = Slow { jobs: BTreeMap::new(), begun: begun.clone(), held_up: held_up.clone() };
        builder.trigger(new_labels(60)).train(trainer).evaluate(evaluator(Profile::adaptive()))
    };
    let blends = |run: u64| {
        let jobs = begun.lock().unwrap();
        let blends = jobs.iter().filter(|job| job.recipe == Recipe::Blend && job.run == RunId(run));
        blends.cloned().collect::<Vec<_>>()
    };
    let mut host = Host::new(change);
    while blends(1).is_empty() {
        host.turn(80, 0.8);
        assert!(host.served < 8_000, "no blend was begun");
    }
    let run = host.pipeline.run(RunId(1)).unwrap().unwrap();
    assert_eq!((run.state, run.models.len()), (RunState::Training, 5), "five recipes have ended well, one has not");
    let first = blends(1).remove(0);
    let recipes: Vec<Option<Recipe>> = first.members.iter().map(|member| member.model.recipe).collect();
    let others = Recipe::RACING.into_iter().filter(|recipe| *recipe != Recipe::Newest).map(Some);
    assert_eq!(recipes, others.chain([None]).collect::<Vec<_>>(), "the first model has no recipe");
    for member in &first.members {
        assert_eq!(Some(&member.model), host.pipeline.model(member.model.version).unwrap().as_ref());
        assert!((member.share - 1.0 / 6.0).abs() < 1e-12, "nobody has earned anything, and one of seven is not there");
    }
    assert!(begun.lock().unwrap().iter().all(|job| job.members.is_empty() == (job.recipe != Recipe::Blend)));

    host.restart(change);
    let [before, after] = &blends(1)[..] else { panic!("nobody knows the job after a restart, so it is begun anew") };
    assert_eq!((&before.key, &before.members), (&after.key, &after.members));
    held_up.store(false, Ordering::Relaxed);
    while blends(3).is_empty() {
        host.turn(80, 0.8);
        assert!(host.served < 20_000, "the loop does not go on: {:?}", host.run_states());
    }
    let third = blends(3).remove(0);
    let sum: f64 = third.members.iter().map(|member| member.share).sum();
    assert!((sum - 1.0).abs() < 1e-12 && third.members.iter().all(|member| member.share > 0.0));
    for (name, member) in third.members.iter().map(|m| (m.model.recipe.map_or(Race::KEEP, Recipe::as_str), m)) {
        let (mine, first) = (third.dataset.shares[name], &third.members[0]);
        let proportion = mine / third.dataset.shares[first.model.recipe.unwrap().as_str()];
        assert!((member.share / first.share - proportion).abs() < 1e-9, "{name}");
    }
    assert!(third.members.iter().any(|member| (member.share - 1.0 / 6.0).abs() > 0.01), "labels have judged");
}

#[test]
fn settings_without_sense_are_reported_together() {
    let build = |change: &dyn Fn(PipelineBuilder) -> PipelineBuilder| {
        let builder = Pipeline::builder("evaluated", schema()).training_data(base()).first_model(first_model());
        match change(builder.explore(0.1)).build() {
            Err(Error::Build(mistakes)) => mistakes.join("\n"),
            other => panic!("{:?}", other.map(drop)),
        }
    };
    let confirm = |builder: PipelineBuilder| builder.evaluate(evaluator(Profile::confirm()));
    let found = build(&|builder| {
        confirm(builder)
            .require(Requirement::new(Metric::RSquared, 0.5))
            .require(Requirement::new(Metric::Cost, 0.5))
            .require(Requirement::new(Metric::Accuracy, f64::NAN))
            .require(Requirement::no_worse(Metric::Accuracy, -0.1))
            .require(Requirement::new(Metric::Accuracy, 0.5).on(EvaluatedOn::Audit))
            .slice("a", |_, _| true)
            .slice("a", |_, _| true)
    });
    for part in ["R² is of a value", "needs a cost matrix", "NaN", "-0.1", "`.audit_set(..)`", "`a` is there twice"] {
        assert!(found.contains(part), "`{part}` is not in\n{found}");
    }
    assert!(build(&|builder| confirm(builder).audit_set(base())).contains("200 rows of the training data"));
    assert!(
        build(&|builder| builder.require(Requirement::new(Metric::Accuracy, 0.5))).contains("without an evaluator")
    );
    let adaptive = build(&|builder| {
        builder.evaluate(evaluator(Profile::adaptive())).require(Requirement::new(Metric::Accuracy, 0.5))
    });
    assert!(adaptive.contains("require it on the audit set"), "{adaptive}");
}
