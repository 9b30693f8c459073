//! A run from its request to its end, whatever the world does: restarts in every phase, trainers that lie, training data
//! that is made again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use feedloop::{
    Artifact, Audit, BatchDraft, BoxError, Chunk, Dataset, Deployer, Error, Evaluator, Event, Findings, FnTrainer,
    GateContext, JobStatus, Label, MemoryStore, Mode, ModelRecord, ModelVersion, Outcome, PairedEvaluator, Pipeline,
    PipelineBuilder, Profile, QualityGate, Recipe, RunId, RunState, SampleState, ScoreJob, Scores, Snapshot, Stage,
    TrainJob, Trained, Trainer, detector_fn, new_labels, verify_batch,
};
use support::disk::Disk;
use support::host::Host;
use support::{base, evaluator, fit, id, prediction, schema};

/// Digests of what was trained on, by key.
type Log = Arc<Mutex<BTreeMap<String, String>>>;

fn logging(log: &Log) -> FnTrainer {
    let log = log.clone();
    FnTrainer::inline(move |job: &TrainJob| {
        assert_eq!(job.dataset.digest, job.data.digest());
        log.lock().unwrap().insert(job.key.clone(), job.data.digest());
        Ok(fit(job))
    })
}

/// Model versions and the digests of what they were trained on.
fn trained(host: &Host) -> Vec<(ModelVersion, String)> {
    let runs = host.pipeline.status().unwrap().runs;
    let runs = (1..=runs).map(|run| host.pipeline.run(RunId(run)).unwrap().unwrap());
    runs.flat_map(|run| run.models)
        .map(|version| (version, host.pipeline.trained_on(version).unwrap().digest()))
        .collect()
}

#[test]
fn what_every_model_was_trained_on_is_made_again_from_the_store_and_from_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::default();
    let build = |builder: PipelineBuilder| {
        builder
            .trigger(new_labels(40))
            .train(logging(&log))
            .evaluate(evaluator(Profile::adaptive()))
            .training_rows(200)
            .export(directory.path().join("batches"))
            .directory(directory.path().join("jobs"))
    };
    let mut host = Host::new(build);
    for turn in 0..7 {
        host.turn(60, 0.3 + 0.1 * f64::from(turn % 3));
    }
    let before = trained(&host);
    assert!(before.len() >= 8, "{} models", before.len());
    let digests: Vec<_> = before.iter().map(|(_, digest)| digest.clone()).collect();
    assert!(log.lock().unwrap().values().all(|digest| digests.contains(digest)));
    host.restart(build);
    assert_eq!(trained(&host), before);
    let mut parts = (0, 0);
    for (version, digest) in &before {
        let record = host.pipeline.model(*version).unwrap().unwrap();
        assert!(matches!(&record.artifact, Artifact::Inline(bytes) if !bytes.is_empty()));
        let dataset = record.dataset.unwrap();
        assert_eq!(dataset.compose().unwrap().digest(), *digest);
        parts = (parts.0.max(dataset.batches.len()), host.pipeline.batches(*version).unwrap().len());
    }
    assert!(parts.0 < parts.1, "batches that the newest rows do not reach are not named: {parts:?}");
    assert!(matches!(host.pipeline.trained_on(ModelVersion::FIRST), Err(Error::Refused(_))));

    // The base data was lost and another one given: that is found, not hidden.
    host.restart(|builder| build(builder).training_data(base().newest(10)));
    let why = host.pipeline.trained_on(before[0].0).map(|data| data.len()).unwrap_err().to_string();
    assert!(why.contains("the training data is not what it was"), "{why}");
}

#[test]
fn rows_weigh_by_the_inverse_of_their_inclusion_probability_up_to_the_clip_if_that_is_asked_for() {
    let weights = |clip: Option<f64>| {
        let trained = Arc::new(Mutex::new(Vec::new()));
        let log = trained.clone();
        let mut host = Host::new(|builder| {
            let train = FnTrainer::inline(move |job: &TrainJob| {
                if job.recipe == Recipe::All {
                    *log.lock().unwrap() = job.data.weights()[base().len()..].to_vec();
                }
                Ok(fit(job))
            });
            let builder = builder.trigger(new_labels(40)).train(train).evaluate(evaluator(Profile::adaptive()));
            // A fifth is drawn for the random lane, a detector points at the rest.
            match clip {
                Some(clip) => builder.inclusion_weights(clip),
                None => builder,
            }
        });
        (0..4).for_each(|_| host.turn(60, 0.6));
        let world = support::check(&*host.store, "closed");
        let sealed = world.samples.values().filter(|sample| sample.state == SampleState::Batched);
        let mut found: Vec<_> = sealed.map(|sample| (sample.inclusion, sample.weight)).collect();
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        found.dedup();
        let trained = trained.lock().unwrap();
        assert!(!trained.is_empty() && trained.iter().all(|weight| found.iter().any(|(_, said)| said == weight)));
        found
    };
    assert_eq!(weights(None), [(0.2, 1.0), (1.0, 1.0)]);
    assert_eq!(weights(Some(10.0)), [(0.2, 5.0), (1.0, 1.0)]);
    assert_eq!(weights(Some(3.0)), [(0.2, 3.0), (1.0, 1.0)]);
}

/// A pipeline that seals every truth by itself.
fn light(directory: &Path, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Pipeline {
    let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
        chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
        Ok(())
    });
    let builder = Pipeline::builder("light", schema()).training_data(base()).detect(flag_all);
    change(builder.trigger(new_labels(1)).export(directory)).build().unwrap()
}

#[test]
fn batches_of_the_same_content_have_names_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut pipeline = light(directory.path(), |builder| builder);
    for n in 0..3 {
        let truth = Outcome::truth(id(n), Label::Class(1));
        pipeline.ingest([prediction(n, &[0.25, 0.5]), Event::Outcome(truth)]).unwrap();
        pipeline.poll().unwrap();
    }
    let batches: Vec<_> = (1..=3).map(|run| pipeline.run(RunId(run)).unwrap().unwrap().batch.unwrap()).collect();
    let digest = batches[0].0.clone();
    assert_eq!(
        batches.iter().map(|id| id.0.clone()).collect::<Vec<_>>(),
        [&*digest, &format!("{digest}-2"), &format!("{digest}-3")]
    );
    for (n, batch) in batches.iter().enumerate() {
        let found = verify_batch(directory.path().join(&batch.0)).unwrap();
        assert_eq!((found.manifest.digest, found.manifest.samples), (digest.clone(), vec![id(n as u64)]));
        assert_eq!(found.manifest.parent.as_ref(), n.checked_sub(1).map(|before| &batches[before]));
        assert_eq!(found.manifest.splits, [("train".to_owned(), 1)].into());
    }
}

/// A training service that outlives the host, and remembers or forgets its jobs.
#[derive(Clone, Default)]
struct Service {
    hold: Arc<AtomicBool>,
    forgets: Arc<AtomicBool>,
    jobs: Arc<Mutex<BTreeMap<String, Artifact>>>,
    starts: Log,
}

impl Trainer for Service {
    fn name(&self) -> &str {
        "service"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        let digest = job.data.digest();
        let same = self.starts.lock().unwrap().insert(job.key.clone(), digest.clone());
        assert!(same.is_none_or(|before| before == digest), "{} stands for two trainings", job.key);
        self.jobs.lock().unwrap().insert(job.key, Artifact::Inline(b"0.8".to_vec()));
        Ok(())
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        if self.forgets.swap(false, Ordering::Relaxed) {
            self.jobs.lock().unwrap().clear();
        }
        Ok(match self.jobs.lock().unwrap().get(key) {
            None => JobStatus::Unknown,
            Some(_) if self.hold.load(Ordering::Relaxed) => JobStatus::Running,
            Some(artifact) => JobStatus::Done(artifact.clone().into()),
        })
    }

    fn cancel(&mut self, key: &str) -> Result<(), BoxError> {
        self.jobs.lock().unwrap().remove(key);
        Ok(())
    }
}

/// An evaluator whose smoke tests, or a deployer whose answers, can be held back.
struct Held<T>(T, Arc<AtomicBool>);

impl Evaluator for Held<PairedEvaluator> {
    fn profile(&self) -> &Profile {
        Evaluator::profile(&self.0)
    }

    fn start(&mut self, job: ScoreJob) -> Result<(), BoxError> {
        Evaluator::start(&mut self.0, job)
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Vec<Scores>>, BoxError> {
        let held = key.contains("smoke") && self.1.load(Ordering::Relaxed);
        if held { Ok(JobStatus::Running) } else { Evaluator::poll(&mut self.0, key) }
    }
}

impl Deployer for Held<()> {
    fn prepare(&mut self, _: &ModelRecord) -> Result<(), BoxError> {
        Ok(())
    }

    fn poll(&mut self, _: ModelVersion) -> Result<JobStatus<()>, BoxError> {
        Ok(if self.1.load(Ordering::Relaxed) { JobStatus::Running } else { JobStatus::Done(()) })
    }

    fn activate(&mut self, _: ModelVersion) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Where the host is restarted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Requested,
    Training,
    TrainingForgotten,
    Smoke,
    Judging,
    AwaitingApproval,
    Deploying,
}

#[test]
fn a_run_goes_on_after_a_restart_in_every_phase() {
    use Place::*;
    for place in [Requested, Training, TrainingForgotten, Smoke, Judging, AwaitingApproval, Deploying] {
        let service = Service::default();
        let (scoring, loading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let build = |builder: PipelineBuilder| {
            let mode = if place == AwaitingApproval { Mode::Approval } else { Mode::Unattended };
            builder
                .compare(1.0)
                .mode(mode)
                .train(service.clone())
                .evaluate(Held(evaluator(Profile::confirm()), scoring.clone()))
                .deploy(Held((), loading.clone()))
        };
        let mut host = Host::new(build);
        let run = |host: &Host| host.pipeline.run(RunId(1)).unwrap().unwrap();
        host.turn(80, 0.8);
        host.turn(80, 0.8);
        let go = |host: &mut Host, until: RunState| {
            for _ in 0..30 {
                if run(host).state == until {
                    return;
                }
                host.turn(40, 0.8);
            }
            panic!("{place:?}: {until:?} was never reached: {:?}", run(host));
        };

        service.hold.store(true, Ordering::Relaxed);
        host.pipeline.retrain_now("ada").unwrap();
        if place == Requested {
            assert_eq!(run(&host).state, RunState::Requested);
            host.restart(build);
        }
        go(&mut host, RunState::Training);
        if matches!(place, Training | TrainingForgotten) {
            service.forgets.store(place == TrainingForgotten, Ordering::Relaxed);
            host.restart(build);
            assert_eq!(run(&host).state, RunState::Training);
        }
        if place == Smoke {
            scoring.store(true, Ordering::Relaxed);
        }
        loading.store(place == Deploying, Ordering::Relaxed);
        service.hold.store(false, Ordering::Relaxed);
        host.pipeline.poll().unwrap();
        if place == Smoke {
            // Trained, but nobody has scored the candidate: the run shows it, and still counts as training.
            assert_eq!((run(&host).state, run(&host).candidate), (RunState::Training, Some(ModelVersion(1))));
            host.restart(build);
            scoring.store(false, Ordering::Relaxed);
        }
        go(&mut host, RunState::Judging);
        if place == Judging {
            host.turn(40, 0.8);
            assert_eq!(run(&host).state, RunState::Judging);
            host.restart(build);
            assert_eq!(run(&host).state, RunState::Judging);
        }
        if place == AwaitingApproval {
            go(&mut host, RunState::AwaitingApproval);
            host.restart(build);
            assert_eq!(run(&host).state, RunState::AwaitingApproval);
            host.pipeline.approve("ada").unwrap();
        }
        if place == Deploying {
            for _ in 0..10 {
                host.turn(40, 0.8);
            }
            assert_eq!(host.pipeline.champion(), ModelVersion::FIRST);
            host.restart(build);
            loading.store(false, Ordering::Relaxed);
        }
        go(&mut host, RunState::Watched);
        let promotions = host.pipeline.promotions().unwrap();
        assert_eq!((promotions.len(), promotions[0].to), (1, ModelVersion(1)), "{place:?}");
        let keys: Vec<_> = service.starts.lock().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["run-1-all"], "{place:?}");
        assert_eq!(run(&host).models, [ModelVersion(1)], "{place:?}: one model of one batch");
    }
}

#[test]
fn a_run_whose_training_data_changed_under_it_fails_and_says_so() {
    let service = Service::default();
    let with = |data: Dataset| {
        let service = service.clone();
        move |builder: PipelineBuilder| {
            builder.training_data(data).train(service).evaluate(evaluator(Profile::confirm()))
        }
    };
    let mut host = Host::new(with(base()));
    host.turn(80, 0.8);
    host.turn(80, 0.8);
    service.hold.store(true, Ordering::Relaxed);
    host.pipeline.retrain_now("ada").unwrap();
    host.pipeline.poll().unwrap();
    service.forgets.store(true, Ordering::Relaxed);
    host.restart(with(base().newest(100)));
    let run = host.pipeline.run(RunId(1)).unwrap().unwrap();
    assert_eq!(run.state, RunState::Failed);
    let why = run.notes.last().unwrap().1.to_string();
    assert!(why.contains("the training data is not what it was when the run began"), "{why}");
}

#[test]
fn a_trainer_that_lies_ends_its_run_with_a_reason_and_not_the_loop() {
    let lies =
        [("garbage", "invalid float literal"), ("nan", "finite numbers were expected"), ("", "from empty string")];
    for (lie, expected) in lies {
        let mut host = Host::new(|builder| {
            builder
                .trigger(new_labels(40))
                .train(FnTrainer::inline(move |_: &TrainJob| Ok(Artifact::Inline(lie.into()))))
                .evaluate(evaluator(Profile::confirm()))
        });
        for _ in 0..4 {
            host.turn(80, 0.8);
        }
        let run = host.pipeline.run(RunId(1)).unwrap().unwrap();
        let why = run.notes.last().unwrap().1.to_string();
        assert_eq!(run.state, RunState::Rejected, "{lie}");
        assert!(why.starts_with("smoke_test: v1 failed: ") && why.contains(expected), "{lie}: {why}");
        assert_eq!(host.pipeline.champion(), ModelVersion::FIRST);
        let candidate = host.pipeline.model(run.candidate.unwrap()).unwrap().unwrap();
        assert!(candidate.quarantined.is_some(), "{lie}: {why}");
        assert!(host.pipeline.status().unwrap().runs > 1, "the loop goes on");
    }
}

/// The store fails from the audit of a batch on.
struct FailsTheStore(Disk<MemoryStore>);

impl Stage for FailsTheStore {
    fn name(&self) -> &str {
        "fails_the_store"
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Ok(Snapshot::Stateless)
    }

    fn restore(&mut self, _: &Snapshot) -> Result<(), BoxError> {
        Ok(())
    }
}

impl QualityGate for FailsTheStore {
    fn audit(&mut self, _: &BatchDraft<'_>, _: &GateContext<'_>) -> Result<Audit, BoxError> {
        self.0.commits_fail();
        Ok(Audit::Pass(vec![]))
    }
}

#[test]
fn nothing_is_exported_before_its_name_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Disk::new(MemoryStore::new());
    let mut pipeline =
        light(directory.path(), |builder| builder.store(store.clone()).gate(FailsTheStore(store.clone())));
    let truth = Outcome::truth(id(0), Label::Class(1));
    pipeline.ingest([prediction(0, &[0.25, 0.5]), Event::Outcome(truth)]).unwrap();
    let _ = pipeline.poll();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(pipeline.pending() > 0, "the seal was tried");
}
