//! Threads and processes claim and answer the tasks of one file, and the processes are killed at random moments.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use feedloop::chrono::{TimeDelta, Utc};
use feedloop::{
    Annotator, Ask, Chunk, Findings, Kind, Pipeline, PredictionId, Reason, ReviewQueue, Route, SampleState,
    SqliteStore, SystemClock, Task, detector_fn, router_fn,
};
use support::{Rng, base, check, id, prediction, records, schema, truth};

const CHILD: &str = "FEEDLOOP_LOAD_CHILD";
const NAME: &str = "FEEDLOOP_LOAD_NAME";
const SEED: &str = "FEEDLOOP_LOAD_SEED";
const PIPELINE: &str = "load";
const THREADS: u64 = 8;
const PROCESSES: u64 = 3;
const LEASE: TimeDelta = TimeDelta::seconds(6);
/// Who has less time left gives the task back: so only the dead let a lease run out.
const ENOUGH: TimeDelta = TimeDelta::seconds(4);

fn values(n: u64) -> [f64; 2] {
    let mut rng = Rng(n);
    [rng.unit(), n as f64]
}

/// Six of ten tasks go to one person, three to two, one to three.
fn overlap(n: u64) -> u32 {
    match n % 10 {
        0..6 => 1,
        6..9 => 2,
        _ => 3,
    }
}

fn queue(file: &Path) -> ReviewQueue {
    let store = Arc::new(SqliteStore::open(file).unwrap());
    ReviewQueue::open(store, PIPELINE, schema().target().clone(), Arc::new(SystemClock))
}

/// Works until nothing waits any more, and writes down what the queue has acknowledged before it goes on.
fn work(queue: &ReviewQueue, name: &str, seed: u64, log: &mut dyn Write) {
    let mut rng = Rng(seed);
    loop {
        let tickets = queue.claim(name, 1 + rng.below(5), LEASE).unwrap();
        if tickets.is_empty() {
            if queue.waiting().unwrap() == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        for ticket in &tickets {
            let (sample, until) = (ticket.task.sample, ticket.expires.timestamp_nanos_opt().unwrap());
            writeln!(log, "claimed {sample} {name} {} {until}", ticket.rev).unwrap();
        }
        for ticket in tickets {
            let sample = ticket.task.sample;
            if ticket.expires - Utc::now() < ENOUGH {
                // Said before it is done: who is killed in between has given it back or not.
                writeln!(log, "released {sample} {name} {}", ticket.rev).unwrap();
                queue.release(sample, name).unwrap();
                continue;
            }
            queue.annotate(sample, name, truth(ticket.task.row.values(), 0.5), 1.0, None).unwrap();
            writeln!(log, "answered {sample} {name}").unwrap();
        }
    }
}

/// One process of an annotator. Runs until there is nothing left or it is killed.
#[test]
#[ignore = "started by the test below, in a process of its own"]
fn child() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let (name, seed): (String, u64) = (std::env::var(NAME).unwrap(), std::env::var(SEED).unwrap().parse().unwrap());
    let file = Path::new(&file);
    let mut log = OpenOptions::new().create_new(true).append(true).open(log_of(file, &name, seed)).unwrap();
    work(&queue(file), &name, seed, &mut log);
}

fn log_of(file: &Path, name: &str, seed: u64) -> std::path::PathBuf {
    file.with_extension(format!("{name}-{seed}.log"))
}

fn start_child(file: &Path, name: &str, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, file)
        .env(NAME, name)
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Starts and kills the processes of one annotator until the work is done.
fn mortal(file: &Path, number: u64, done: &AtomicBool, kills: &AtomicUsize) {
    let name = format!("mortal-{number}");
    let mut rng = Rng(1_000 + number);
    for life in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let mut child = start_child(file, &name, life);
        let end = Instant::now() + Duration::from_millis(100 + rng.below(900) as u64);
        while Instant::now() < end && !done.load(Ordering::Relaxed) {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "a process of {name} failed by itself: {status}");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

fn open(file: &Path) -> Pipeline {
    Pipeline::builder(PIPELINE, schema())
        .training_data(base())
        .detect(detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
            Ok(())
        }))
        .route(router_fn("overlap", |sample, _| {
            let n = sample.observation.row.values()[1] as u64;
            Ok(Route::ask(
                Ask { priority: (n % 7) as f64, overlap: overlap(n), blind: true },
                Reason::new("test", "asked"),
            ))
        }))
        .flags_per_minute(u32::MAX)
        .store(SqliteStore::open(file).unwrap())
        .build()
        .unwrap()
}

fn run(tasks: u64) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("load.db");
    let mut pipeline = open(&file);
    for first in (0..tasks).step_by(500) {
        pipeline.ingest((first..tasks.min(first + 500)).map(|n| prediction(n, &values(n)))).unwrap();
    }
    let shared = queue(&file);
    assert_eq!(shared.waiting().unwrap(), tasks);
    let (done, kills) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        let _stop = SetOnDrop(&done);
        let killers: Vec<_> = (0..PROCESSES)
            .map(|number| {
                scope.spawn({
                    let (f, d, k) = (&file, &done, &kills);
                    move || mortal(f, number, d, k)
                })
            })
            .collect();
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let (queue, file) = (shared.clone(), &file);
                scope.spawn(move || {
                    let name = format!("thread-{number}");
                    work(&queue, &name, number, &mut File::create(log_of(file, &name, 0)).unwrap());
                })
            })
            .collect();
        // The pipeline goes on in between, in the middle of the answers.
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            pipeline.poll().unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
        killers.into_iter().for_each(|killer| killer.join().unwrap());
    });
    let (elapsed, kills) = (start.elapsed().as_secs_f64(), kills.into_inner());
    pipeline.poll().unwrap();

    let log = read_logs(directory.path());
    let mut answers = 0;
    let (mut taken_over, mut by_mortals) = (0, 0);
    for record in records(&**pipeline.store(), PIPELINE, Kind::Task) {
        let task: Task = serde_json::from_slice(&record.body).unwrap();
        let people: Vec<&str> = task.answers.iter().map(|answer| person(&answer.annotator)).collect();
        let wanted = task.ask.overlap as usize;
        assert_eq!(record.state, "done", "{} was lost", task.sample);
        assert_eq!(people.len(), wanted, "{} was to be answered {wanted} times, not by {people:?}", task.sample);
        assert_eq!(people.iter().collect::<BTreeSet<_>>().len(), wanted, "one person answers a task once");
        for name in log.answered.get(&task.sample).into_iter().flatten() {
            assert!(people.contains(&name.as_str()), "the answer of {name} to {} was acknowledged", task.sample);
        }
        by_mortals += people.iter().filter(|name| name.starts_with("mortal")).count();
        taken_over += check_claims(&task.sample, &people, &log);
        answers += people.len();
    }
    let annotations = records(&**pipeline.store(), PIPELINE, Kind::Annotation);
    assert_eq!(annotations.len(), answers, "every answer is an annotation");
    assert!(annotations.iter().all(|record| record.state == "applied"), "every annotation was applied");
    let world = check(&**pipeline.store(), PIPELINE);
    assert_eq!(world.samples.len() as u64, tasks);
    for n in 0..tasks {
        let sample = &world.samples[&id(n)];
        assert_eq!((sample.state, sample.annotations.len()), (SampleState::Labelled, overlap(n) as usize));
        assert_eq!(sample.label.as_ref().unwrap().label, Some(truth(&values(n), 0.5)));
    }
    eprintln!(
        "{tasks} tasks, {answers} answers ({by_mortals} by processes) in {elapsed:.1} s: {:.0} per second; {kills} kills, \
         {taken_over} leases of the dead came back",
        answers as f64 / elapsed
    );
    // Were these small, the test would have shown nothing.
    assert!(kills >= 6 && taken_over > 0 && by_mortals > 0, "{kills} kills, {taken_over} taken over, {by_mortals}");
}

/// No task was given to somebody while another held it; returns how often somebody got it after a lease that ran out.
fn check_claims(sample: &PredictionId, people: &[&str], log: &Log) -> usize {
    let mut ran_out = 0;
    let claims = log.claimed.get(sample).map_or(&[][..], Vec::as_slice);
    for pair in claims.windows(2) {
        let ((rev, holder, until), (next_rev, next, next_until)) = (&pair[0], &pair[1]);
        assert!(rev < next_rev, "{holder} and {next} got {sample} by one claim");
        let asked = next_until - LEASE.num_nanoseconds().unwrap();
        let place = |name: &str| people.iter().position(|person| *person == name);
        let answered = match (place(holder), place(next)) {
            (Some(first), Some(second)) => first < second,
            (first, _) => first.is_some(),
        };
        let released = log.released.contains(&(*sample, holder.clone(), *rev));
        assert!(
            answered || released || asked > *until,
            "{next} got {sample} at {asked} while {holder} held it: answers {people:?}, claims {claims:?}"
        );
        ran_out += usize::from(!answered && !released);
    }
    ran_out
}

/// What was acknowledged to threads and processes.
#[derive(Default)]
struct Log {
    answered: BTreeMap<PredictionId, Vec<String>>,
    /// Revision, holder, end of the lease in nanoseconds: somebody may get a task within a microsecond after that.
    claimed: BTreeMap<PredictionId, Vec<(u64, String, i64)>>,
    released: BTreeSet<(PredictionId, String, u64)>,
}

fn read_logs(directory: &Path) -> Log {
    let mut log = Log::default();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        // The last line may be cut off.
        for line in text[..text.rfind('\n').map_or(0, |end| end + 1)].lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (sample, name) = (words[1].parse().unwrap(), words[2].to_owned());
            match words[0] {
                "answered" => log.answered.entry(sample).or_default().push(name),
                "claimed" => {
                    let claim = (words[3].parse().unwrap(), name, words[4].parse().unwrap());
                    log.claimed.entry(sample).or_default().push(claim);
                }
                _ => drop(log.released.insert((sample, name, words[3].parse().unwrap()))),
            }
        }
    }
    log.claimed.values_mut().for_each(|claims| claims.sort());
    log
}

fn person(annotator: &Annotator) -> &str {
    match annotator {
        Annotator::Human(name) => name,
        other => panic!("{other:?} is no person"),
    }
}

/// Set also on a panic, so that nobody waits for ever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn killed_annotators_lose_no_task_and_none_is_answered_too_often() {
    run(2_000);
}

#[test]
#[ignore = "the same with 20,000 tasks"]
fn killed_annotators_lose_none_of_20_000_tasks() {
    run(20_000);
}

#[test]
#[ignore = "a measurement: run it alone, in release"]
fn what_claims_cost_with_20_000_open_tasks() {
    const TASKS: u64 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("load.db");
    let mut pipeline = open(&file);
    for first in (0..TASKS).step_by(500) {
        pipeline.ingest((first..first + 500).map(|n| prediction(n, &values(n)))).unwrap();
    }
    let store = pipeline.store().clone();
    // The first half of the queue is answered by one person and waits for a second one.
    let mut ranked = records(&*store, PIPELINE, Kind::Task);
    ranked.sort_by(|a, b| (a.rank, &a.key.id).cmp(&(b.rank, &b.key.id)));
    let settled: Vec<Vec<feedloop::Write>> = ranked[..TASKS as usize / 2]
        .iter()
        .map(|record| {
            let mut task: serde_json::Value = serde_json::from_slice(&record.body).unwrap();
            task["ask"]["overlap"] = 2.into();
            task["answers"] = serde_json::json!([{
                "sample": task["sample"], "label": {"class": 0}, "annotator": {"human": "busy"},
                "time": task["created"], "confidence": 1.0, "blind": true
            }]);
            let indexed = feedloop::Indexed { state: "open", rank: record.rank, due: None };
            let (kind, key, expect) = (Kind::Task, record.key.clone(), feedloop::Expect::Any);
            vec![feedloop::Write { kind, key, expect, indexed, body: task.to_string().into_bytes().into() }]
        })
        .collect();
    let units: Vec<&[feedloop::Write]> = settled.iter().map(Vec::as_slice).collect();
    store.commit(&units, &feedloop::Fence::None, &mut Vec::new()).unwrap();
    let shared = queue(&file);
    let per_claim = |what: &str| {
        let start = Instant::now();
        let tickets = shared.claim("busy", 10, LEASE).unwrap();
        eprintln!(
            "{what}: {} tasks behind 10,000 settled ones in {:.1} ms",
            tickets.len(),
            start.elapsed().as_secs_f64() * 1e3
        );
        tickets.iter().for_each(|ticket| shared.release(ticket.task.sample, "busy").unwrap());
    };
    per_claim("first claim");
    (0..3).for_each(|_| per_claim("later claim"));
    for (what, answer) in [("claimed", false), ("claimed and answered", true)] {
        let start = Instant::now();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (queue, count) = (shared.clone(), &count);
                scope.spawn(move || {
                    for _ in 0..25 {
                        let tickets = queue.claim(&format!("{what}-{number}"), 10, TimeDelta::seconds(60)).unwrap();
                        for ticket in &tickets {
                            let sample = ticket.task.sample;
                            let label = truth(ticket.task.row.values(), 0.5);
                            if answer {
                                queue.annotate(sample, &format!("{what}-{number}"), label, 1.0, None).unwrap();
                            }
                        }
                        count.fetch_add(tickets.len(), Ordering::Relaxed);
                    }
                });
            }
        });
        let (count, seconds) = (count.into_inner(), start.elapsed().as_secs_f64());
        eprintln!("8 threads: {count} tasks {what}, {:.0} per second", count as f64 / seconds);
    }
}
