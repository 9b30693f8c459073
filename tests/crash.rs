//! A killed process loses nothing: a child records and flags, is killed at random points, and its file is reopened.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Artifact, Chunk, Findings, FnTrainer, LowConfidence, ModelSlot, ModelVersion, Output, Pipeline, PipelineBuilder,
    PredictionId, Profile, SqliteStore, TrainJob, TriggerExt, detector_fn, new_labels,
};
use support::{Rng, World, base, check, evaluator, first_model, fit, load, probabilities, schema, truth};

const CHILD: &str = "FEEDLOOP_CRASH_CHILD";
const SEED: &str = "FEEDLOOP_CRASH_SEED";
const KILLS: u64 = 56;
/// A new file after so many kills.
const PER_FILE: u64 = 14;

/// The same pipeline in the child and in the parent that looks at what is left.
fn builder(file: &Path, slot: &ModelSlot<f64>) -> PipelineBuilder {
    let log = file.with_extension("trained");
    let trainer = FnTrainer::inline(move |job: &TrainJob| {
        let mut log = OpenOptions::new().create(true).append(true).open(&log)?;
        log.write_all(format!("{}\n", job.key).as_bytes())?;
        Ok(fit(job))
    });
    Pipeline::builder("crash", schema())
        .training_data(base())
        .first_model(first_model())
        .detect(LowConfidence::below(0.65))
        .detect(detector_fn("negative", |chunk: &Chunk<'_>, findings: &mut Findings| {
            for (row, &value) in chunk.values(1).iter().enumerate() {
                if value < 0.0 {
                    findings.flag(chunk.ids()[row], value, 0.0);
                }
            }
            Ok(())
        }))
        .trigger(new_labels(15).cooldown(TimeDelta::milliseconds(150)))
        .train(trainer)
        .evaluate(evaluator(Profile::adaptive()))
        .deploy(slot.clone())
        .explore(0.25)
        .label_batch(6)
        .training_rows(300)
        .flags_per_minute(u32::MAX)
        .poll_every(Duration::from_millis(4))
        .remember(2_000, 256)
        .checkpoint(500, TimeDelta::seconds(1))
        .store(SqliteStore::open(file).unwrap())
}

fn slot() -> ModelSlot<f64> {
    ModelSlot::new(0.5, load).inline()
}

/// The child: two threads record, a third answers, a fourth flushes and says what is safe. Runs until it is killed.
#[test]
#[ignore = "started by the test below, in a process of its own"]
fn child() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let slot = slot();
    let mut pipeline = builder(Path::new(&file), &slot).build().unwrap();
    // The champion comes back into service before the first request.
    pipeline.poll().unwrap();
    let (recorder, control, _worker) = pipeline.spawn().unwrap();
    let recorded: Arc<Mutex<Vec<(PredictionId, ModelVersion)>>> = Arc::default();
    let inputs: Arc<Mutex<BTreeMap<PredictionId, f64>>> = Arc::default();
    // The world moves with every seventh process: there is something to learn, and time to learn it.
    let concept = if (seed / 7).is_multiple_of(2) { 0.2 } else { 0.8 };
    for thread in 0..2 {
        let (recorder, slot, recorded, inputs) = (recorder.clone(), slot.clone(), recorded.clone(), inputs.clone());
        std::thread::spawn(move || {
            let mut rng = Rng(seed * 2 + thread);
            loop {
                let flagged = rng.chance(0.2);
                let values = [rng.unit(), if flagged { -rng.unit() - 0.01 } else { rng.unit() }];
                let sent = slot.predict(|threshold, version| {
                    let output = probabilities(*threshold, &values);
                    recorder.record_values(version, Output::Probabilities(&output), &values).map(|id| (id, version))
                });
                if let Ok((id, version)) = sent {
                    inputs.lock().unwrap().insert(id, values[0]);
                    if flagged {
                        recorded.lock().unwrap().push((id, version));
                    }
                    if rng.chance(0.1) {
                        let _ = recorder.truth(id, truth(&values, concept));
                    }
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
    }
    let (review, known) = (control.review(), inputs);
    std::thread::spawn(move || {
        loop {
            for ticket in review.claim("ann", 8, TimeDelta::seconds(5)).unwrap_or_default() {
                let id = ticket.task.sample;
                let value = known.lock().unwrap().get(&id).copied().unwrap_or(ticket.task.row.values()[0]);
                let _ = review.annotate(id, "ann", truth(&[value], concept), 1.0, None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut out = std::io::stdout().lock();
    loop {
        // Taken before the flush: all of these were recorded before it.
        let ids = std::mem::take(&mut *recorded.lock().unwrap());
        control.flush().unwrap();
        for (id, version) in ids {
            // A straggler of a version that was replaced meanwhile is not inspected, so it was never flagged.
            let kept = control.sample(id).unwrap().is_some_and(|sample| !sample.flags.is_empty());
            match kept {
                true => writeln!(out, "safe {id}").unwrap(),
                false if version == slot.version() => writeln!(out, "lost {id}").unwrap(),
                false => {}
            }
        }
        writeln!(out, "flushed").unwrap();
        out.flush().unwrap();
    }
}

/// Runs one child until it is killed; returns what it said was safe.
fn run_and_kill(file: &Path, seed: u64, after: Duration) -> Vec<PredictionId> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, file)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        said.push_str(&line);
        if line.starts_with("flushed") {
            break;
        }
        line.clear();
    }
    assert!(line.starts_with("flushed"), "the child ended by itself: {said}");
    // The pipe is read meanwhile, so that the child never waits for it.
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut lines, &mut rest).unwrap();
        rest
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    said.push_str(&reader.join().unwrap());
    // The last line may be cut off.
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    let lost: Vec<&str> = whole.lines().filter(|line| line.starts_with("lost ")).collect();
    assert!(lost.is_empty(), "flagged and flushed, but not in the store: {lost:?}");
    whole.lines().filter_map(|line| line.strip_prefix("safe ")).map(|id| id.parse().unwrap()).collect()
}

/// How often each job was started so far.
fn trainings(file: &Path) -> BTreeMap<String, usize> {
    let log = std::fs::read_to_string(file.with_extension("trained")).unwrap_or_default();
    let mut counts = BTreeMap::new();
    for key in log.lines() {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    counts
}

/// Jobs whose result is in the store: they must never be started again.
fn recorded_jobs(world: &World) -> BTreeSet<String> {
    let job = |model: &feedloop::ModelRecord| Some(format!("{}-{}", model.run?, model.recipe?.as_str()));
    world.models.values().filter_map(job).collect()
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing_and_trains_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut rng = Rng(7);
    let (mut sealed, mut promoted, mut safe_ids) = (0, 0, 0);
    for first in (0..KILLS).step_by(PER_FILE as usize) {
        let file = directory.path().join(format!("loop-{first}.db"));
        let mut safe: BTreeSet<PredictionId> = BTreeSet::new();
        let mut finished: BTreeMap<String, usize> = BTreeMap::new();
        let mut batches: BTreeMap<String, Vec<PredictionId>> = BTreeMap::new();
        for kill in first..first + PER_FILE {
            let after = Duration::from_millis(rng.below(151) as u64);
            safe.extend(run_and_kill(&file, kill, after));
            // Reopening is part of the promise: nothing is in the way of going on.
            let slot = slot();
            let mut pipeline = builder(&file, &slot).build().unwrap();
            let world = check(&**pipeline.store(), "crash");
            for id in &safe {
                let sample = world.samples.get(id).unwrap_or_else(|| panic!("{id} was flushed and is gone"));
                assert!(!sample.flags.is_empty(), "{id} has lost its flag");
            }
            for (batch, samples) in &batches {
                assert_eq!(&world.batches[batch].samples, samples, "batch {batch} has changed");
            }
            let counts = trainings(&file);
            for (key, before) in &finished {
                assert_eq!(counts.get(key), Some(before), "{key} had a result and was trained again");
            }
            finished = recorded_jobs(&world)
                .into_iter()
                .map(|key| (key.clone(), *counts.get(&key).unwrap_or_else(|| panic!("{key} was never trained"))))
                .collect();
            let trained = world.models.values().filter(|model| matches!(model.artifact, Artifact::Inline(_)));
            // The newest: each walk reads all that the model was trained on.
            for model in trained.rev().take(3) {
                let lineage = pipeline.lineage(model.version).unwrap();
                assert!(!lineage.nodes.is_empty());
            }
            for id in safe.iter().take(5) {
                assert!(!pipeline.lineage(*id).unwrap().nodes.is_empty());
            }
            // The champion comes back into service, whichever it is.
            pipeline.poll().unwrap();
            assert_eq!(slot.version(), pipeline.champion());
            let after_poll = check(&**pipeline.store(), "crash");
            for key in recorded_jobs(&after_poll) {
                finished.insert(key.clone(), trainings(&file)[&key]);
            }
            batches = after_poll.batches.iter().map(|(id, batch)| (id.clone(), batch.samples.clone())).collect();
        }
        let world = check(&SqliteStore::open(&file).unwrap(), "crash");
        (sealed, promoted) = (sealed + world.batches.len(), promoted + world.promotions.len());
        safe_ids += safe.len();
        let connection = rusqlite::Connection::open(&file).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
    // Were these small, the test would have shown nothing.
    eprintln!("{safe_ids} acknowledged, {sealed} batches, {promoted} changes of the champion");
    assert!(safe_ids > 100, "only {safe_ids} samples were acknowledged");
    assert!(sealed > 10, "only {sealed} batches were sealed");
    assert!(promoted > 0, "only {promoted} promotions");
}
