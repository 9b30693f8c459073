//! A kill at every commit of a whole loop on SQLite: flag, label, seal, train, judge, promote, watch, keep or roll back.
//!
//! The process dies before or after each commit in turn. It starts again, the host sends again what it has no answer for,
//! and everything ends as it does without a kill: samples with their labels and histories, batches, runs, models and
//! promotions are compared as they are in the store, positions in the stream aside.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Artifact, BoxError, Chunk, Clock, Event, Findings, JobStatus, ManualClock, ModelSlot, ModelVersion, Pipeline,
    Profile, PromotionKind, ReviewQueue, RunState, SampleState, SqliteStore, TrainJob, Trained, Trainer, TriggerExt,
    days, detector_fn, new_labels,
};

use support::disk::{Disk, Kill, Killed};
use support::{Rng, World, base, check, evaluator, first_model, load, observation, schema, start, truth};

const NAME: &str = "killed";
const TURNS: u64 = 7;
const ROWS: u64 = 24;
/// From this turn on the world is again what it was at first, if it is to end with a rollback.
const TURNED: u64 = 3;

/// Trainings by key, with the digest of their data: a trainer that keeps its word about keys.
type Trainings = Arc<Mutex<BTreeMap<String, String>>>;

struct Keyed(Trainings);

impl Trainer for Keyed {
    fn name(&self) -> &str {
        "keyed"
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        let data = job.data.digest();
        let mut trainings = self.0.lock().map_err(|_| "poisoned")?;
        match trainings.insert(job.key.clone(), data.clone()) {
            Some(before) if before != data => Err(format!("{} has other data than before", job.key).into()),
            _ => Ok(()),
        }
    }

    fn poll(&mut self, key: &str) -> Result<JobStatus<Trained>, BoxError> {
        let known = self.0.lock().map_err(|_| "poisoned")?.contains_key(key);
        let trained = Trained { artifact: Artifact::Inline(b"0.8".to_vec()), log: String::new() };
        Ok(if known { JobStatus::Done(trained) } else { JobStatus::Unknown })
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Host {
    file: PathBuf,
    clock: ManualClock,
    trainings: Trainings,
    slot: ModelSlot<f64>,
    disk: Option<Disk<SqliteStore>>,
    pipeline: Option<Pipeline>,
    kill: Option<(u64, Kill)>,
    rng: Rng,
    served: u64,
}

impl Host {
    fn open(&mut self) -> Pipeline {
        let disk = Disk::new(SqliteStore::open(&self.file).unwrap());
        if let Some((commit, place)) = self.kill {
            disk.kill(commit, place);
        }
        self.slot = ModelSlot::new(0.5, load).inline();
        self.disk = Some(disk.clone());
        let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
            Ok(())
        });
        Pipeline::builder(NAME, schema())
            .training_data(base())
            .first_model(first_model())
            .detect(flag_all)
            // Every row judges: what the comparison lane draws from lives in memory, and a kill empties it.
            .explore(1.0)
            .label_batch(10)
            .trigger(new_labels(20).cooldown(days(1)))
            .train(Keyed(self.trainings.clone()))
            .evaluate(evaluator(Profile::confirm()))
            .deploy(self.slot.clone())
            .checkpoint(40, TimeDelta::minutes(15))
            .clock(self.clock.clone())
            .store(disk)
            .build()
            .unwrap()
    }

    /// Does it; if the process dies of it, starts it again and does it again.
    fn act(&mut self, what: impl Fn(&mut Pipeline)) {
        loop {
            let lived = catch_unwind(AssertUnwindSafe(|| {
                let mut pipeline = match self.pipeline.take() {
                    Some(pipeline) => pipeline,
                    None => {
                        let mut pipeline = self.open();
                        // The champion comes back into service before the first request.
                        pipeline.poll().unwrap();
                        pipeline
                    }
                };
                what(&mut pipeline);
                self.pipeline = Some(pipeline);
            }));
            match lived {
                Ok(()) => return,
                Err(payload) if payload.is::<Killed>() => self.kill = None,
                Err(payload) => resume_unwind(payload),
            }
        }
    }

    fn turn(&mut self, concept: f64) {
        self.clock.advance(TimeDelta::minutes(10));
        let mut rows = Vec::new();
        for _ in 0..ROWS {
            let values = [self.rng.unit(), self.rng.unit()];
            let (threshold, version) = self.slot.predict(|threshold, version| (*threshold, version));
            let mut made = observation(self.served, version, threshold, &values);
            made.time = self.clock.now();
            rows.push(Event::Prediction(made));
            self.served += 1;
        }
        self.act(|pipeline| assert_eq!(pipeline.ingest(rows.clone()).unwrap().pending, 0));
        self.act(|pipeline| {
            pipeline.poll().unwrap();
        });
        // Two people in a process of their own, each of whom has an own half of the world to judge.
        let store = Arc::new(SqliteStore::open(&self.file).unwrap());
        let queue = ReviewQueue::open(store, NAME, schema().target().clone(), Arc::new(self.clock.clone()));
        for (who, half) in [("ann", 0), ("bob", 1)] {
            for ticket in queue.claim(who, 1_000, TimeDelta::minutes(5)).unwrap() {
                let (id, values) = (ticket.task.sample, ticket.task.row.values());
                match values[1].to_bits() % 2 == half {
                    true => drop(queue.annotate(id, who, truth(values, concept), 1.0, None).unwrap()),
                    false => queue.release(id, who).unwrap(),
                }
            }
        }
        self.act(|pipeline| {
            pipeline.poll().unwrap();
        });
    }
}

/// How a loop ended, and how many commits it took until the world turned and altogether.
struct End {
    world: World,
    trainings: BTreeMap<String, String>,
    turned: u64,
    commits: u64,
}

fn loop_ends(ends_with_rollback: bool, kill: Option<(u64, Kill)>) -> End {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host {
        file: directory.path().join("loop.db"),
        clock: ManualClock::starting_at(start()),
        trainings: Trainings::default(),
        slot: ModelSlot::new(0.5, load).inline(),
        disk: None,
        pipeline: None,
        kill,
        rng: Rng(3),
        served: 0,
    };
    let mut turned = 0;
    for turn in 0..TURNS {
        if turn == TURNED {
            turned = host.disk.as_ref().map_or(0, Disk::commits);
        }
        host.turn(if ends_with_rollback && turn >= TURNED { 0.5 } else { 0.8 });
    }
    assert!(kill.is_none() || host.kill.is_none(), "nobody was killed: {kill:?}");
    let mut world = check(&SqliteStore::open(&host.file).unwrap(), NAME);
    assert_eq!(host.slot.version(), world.champion, "the champion serves");
    world.samples.values_mut().for_each(|sample| sample.sequence = 0);
    // How sure production was of a model is counted from the last checkpoint on; it is told with the verdict.
    for (_, reason) in world.runs.values_mut().flat_map(|run| &mut run.notes).filter(|(_, r)| r.code == "kept") {
        reason.detail.clear();
    }
    let trainings = host.trainings.lock().unwrap().clone();
    let commits = host.disk.map_or(0, |disk| disk.commits());
    End { world, trainings, turned, commits }
}

fn killed_at_every_commit(ends_with_rollback: bool) -> World {
    let End { world: whole, trainings, turned, commits } = loop_ends(ends_with_rollback, None);
    assert_eq!(trainings.len(), whole.batches.len(), "one training for each batch");
    // Until the world turns, both loops are one.
    let first = if ends_with_rollback { turned + 1 } else { 1 };
    for commit in first..=commits {
        for place in [Kill::Before, Kill::After] {
            let End { world, trainings: trained, .. } = loop_ends(ends_with_rollback, Some((commit, place)));
            let how = format!("killed at commit {commit} of {commits}, {place:?}");
            assert_eq!(trained, trainings, "{how}");
            assert_eq!(world.promotions, whole.promotions, "{how}");
            assert_eq!(world.runs, whole.runs, "{how}");
            assert_eq!(world.batches, whole.batches, "{how}");
            assert_eq!(world.models, whole.models, "{how}");
            assert_eq!(world.champion, whole.champion, "{how}");
            assert_eq!(world.samples.len(), whole.samples.len(), "{how}");
            for (killed, sample) in world.samples.values().zip(whole.samples.values()) {
                assert_eq!(killed, sample, "{how}");
            }
        }
    }
    eprintln!("{commits} commits");
    whole
}

#[test]
fn a_loop_killed_at_any_commit_ends_with_the_model_that_it_would_have_kept() {
    let world = killed_at_every_commit(false);
    assert_eq!(world.runs[&1].state, RunState::Kept, "{:?}", world.runs[&1].notes);
    assert!(world.samples.values().any(|sample| sample.state == SampleState::Batched));
}

#[test]
fn a_loop_killed_at_any_commit_ends_with_the_rollback_that_it_would_have_made() {
    let world = killed_at_every_commit(true);
    let kinds: Vec<_> = world.promotions.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [PromotionKind::Promotion, PromotionKind::Rollback]);
    assert_eq!((world.champion, world.runs[&1].state), (ModelVersion::FIRST, RunState::RolledBack));
}
