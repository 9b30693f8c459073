//! What the host's threads wait for `record`: its rate and the distribution of single calls, d = 32, two classes.
//!
//! One, two and four threads while the worker empties the inbox; one thread on a full inbox (every call is refused); one
//! thread while the worker writes flagged rows to disk. On the wall, so only a quiet machine with a free processor for
//! each thread and the worker says something; reading the clock is part of each call, and shown by itself.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Stream;
use feedloop::{
    Chunk, Control, Findings, MemoryStore, ModelVersion, Output, Pipeline, Recorder, SqliteStore, Store, Worker,
    detector_fn,
};

const OUTPUT: Output<'static> = Output::Probabilities(&[0.9, 0.1]);
const CALLS: usize = 400_000;
/// Calls between two pauses, after which the inbox is empty again: fewer than it has slots.
const BURST: usize = 512;

/// A running pipeline that flags one row in so many, if any.
fn start(stream: &mut Stream, store: impl Store + 'static, one_in: Option<usize>) -> (Recorder, Control, Worker) {
    let mut seen = 0;
    let detector = detector_fn("some", move |chunk: &Chunk<'_>, findings: &mut Findings| {
        for &id in chunk.ids() {
            seen += 1;
            if one_in.is_some_and(|one_in| seen % one_in == 0) {
                findings.flag(id, 1.0, 0.0);
            }
        }
        Ok(())
    });
    Pipeline::builder("latency", stream.schema.clone())
        .reference(stream.reference())
        .store(store)
        .detect(detector)
        .flags_per_minute(u32::MAX)
        .build()
        .and_then(Pipeline::spawn)
        .expect("a pipeline")
}

/// The time of each call of one thread, in nanoseconds, and how many were accepted; with a pause after each `burst` of them.
fn calls(recorder: &Recorder, values: &[f64], burst: usize, pause: impl Fn()) -> (Vec<u64>, usize) {
    let mut times = Vec::with_capacity(CALLS);
    let mut accepted = 0;
    for call in 0..CALLS {
        if call % burst == 0 {
            pause();
        }
        let start = Instant::now();
        accepted += usize::from(black_box(recorder.record_values(ModelVersion::FIRST, OUTPUT, values)).is_ok());
        times.push(start.elapsed().as_nanos() as u64);
    }
    (times, accepted)
}

fn show(name: &str, mut times: Vec<u64>, accepted: usize, rate: Option<f64>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let rate = rate.map_or(String::new(), |rate| format!("{:.2} M/s", rate / 1e6));
    let taken = 100.0 * accepted as f64 / times.len() as f64;
    println!("{name:<44} {:>7} {:>7} {:>7} {:>9} {taken:>6.1} % {rate:>10}", at(0.5), at(0.99), at(0.999), at(1.0));
}

fn clock() {
    let times = (0..CALLS).map(|_| {
        let start = Instant::now();
        start.elapsed().as_nanos() as u64
    });
    show("reading the clock twice", times.collect(), CALLS, None);
}

/// Several threads record while the worker empties the inbox: first timed as a whole, then call by call.
fn threads(stream: &mut Stream, count: usize) {
    let (recorder, control, _worker) = start(stream, MemoryStore::default(), None);
    let values = stream.values();
    let barrier = Barrier::new(count);
    let whole = || {
        barrier.wait();
        let mut time = Duration::ZERO;
        for _ in 0..CALLS / BURST {
            let start = Instant::now();
            for _ in 0..BURST / count {
                let _ = black_box(recorder.record_values(ModelVersion::FIRST, OUTPUT, &values));
            }
            time += start.elapsed();
            barrier.wait();
            control.flush().expect("the worker lives");
            barrier.wait();
        }
        (CALLS / BURST * (BURST / count)) as f64 / time.as_secs_f64()
    };
    let rate = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(whole)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let single = || calls(&recorder, &values, BURST, || control.flush().expect("the worker lives"));
    let found: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(single)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let accepted = found.iter().map(|(_, accepted)| accepted).sum();
    let times = found.into_iter().flat_map(|(times, _)| times).collect();
    show(&format!("{count} thread(s), inbox emptied"), times, accepted, Some(rate));
}

/// The worker is held in a detector, so that the inbox stays full.
fn full(stream: &mut Stream) {
    static HELD: AtomicBool = AtomicBool::new(true);
    let hold = detector_fn("hold", |_: &Chunk<'_>, _: &mut Findings| {
        while HELD.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let builder = Pipeline::builder("full", stream.schema.clone()).reference(stream.reference()).detect(hold);
    let (recorder, _control, _worker) = builder.build().and_then(Pipeline::spawn).expect("a pipeline");
    let values = stream.values();
    while recorder.refused().0 < 10_000 {
        let _ = recorder.record_values(ModelVersion::FIRST, OUTPUT, &values);
    }
    let (times, accepted) = calls(&recorder, &values, CALLS, || {});
    HELD.store(false, Ordering::Release);
    show("1 thread, inbox full", times, accepted, None);
}

fn writing(stream: &mut Stream) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let store = SqliteStore::open(directory.path().join("latency.db")).expect("a store");
    let (recorder, _control, _worker) = start(stream, store, Some(8));
    let values = stream.values();
    // Some 50,000 calls a second: the worker writes all the time and keeps up.
    let (times, accepted) = calls(&recorder, &values, 64, || thread::sleep(Duration::from_millis(1)));
    show("1 thread, every eighth row goes to disk", times, accepted, None);
}

fn main() {
    let mut stream = Stream::new(32);
    println!("{:<44} {:>7} {:>7} {:>7} {:>9} {:>8} {:>10}", "ns", "p50", "p99", "p99.9", "most", "taken", "rate");
    clock();
    for count in [1, 2, 4] {
        threads(&mut stream, count);
    }
    full(&mut stream);
    writing(&mut stream);
}
