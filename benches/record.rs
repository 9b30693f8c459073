//! What the host's thread pays per recorded prediction: one thread, d = 32, two classes.
//!
//! "drained" records while the worker empties the inbox, as in production. "alone" holds the worker fast meanwhile, so
//! that the two do not compete for the queues.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Stream, ThreadTime, Wide};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    Chunk, Control, Findings, ModelVersion, Output, Pipeline, PredictionId, Recorder, Refused, Worker, detector_fn,
};

const OUTPUT: Output<'static> = Output::Probabilities(&[0.9, 0.1]);
/// Slots of the inbox, and calls that are timed in one go; what was recorded is then waited for, outside the time.
const SLOTS: usize = 4_096;
const BURST: usize = 2_048;

/// A running pipeline without detectors, and a gate that can hold its worker.
struct Running {
    recorder: Recorder,
    control: Control,
    _worker: Worker,
    gate: Arc<Mutex<()>>,
    waits: Arc<AtomicBool>,
}

fn lock(gate: &Mutex<()>) -> MutexGuard<'_, ()> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn start(stream: &mut Stream) -> Self {
        let (gate, waits) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let (theirs, signal) = (gate.clone(), waits.clone());
        let hold = detector_fn("hold", move |_: &Chunk<'_>, _: &mut Findings| {
            signal.store(true, Ordering::Release);
            drop(lock(&theirs));
            Ok(())
        });
        let (recorder, control, worker) = Pipeline::builder("bench", stream.schema.clone())
            .reference(stream.reference())
            .inbox(SLOTS, SLOTS / 8)
            .detect(hold)
            .build()
            .and_then(Pipeline::spawn)
            .expect("a pipeline");
        Running { recorder, control, _worker: worker, gate, waits }
    }

    /// Waits until everything that was recorded is applied.
    fn settle(&self) {
        self.control.flush().expect("the worker lives");
    }

    /// Makes the worker wait at the gate, in the middle of its work.
    fn hold<T>(&self, record: &impl Fn(&Recorder) -> T) -> MutexGuard<'_, ()> {
        self.waits.store(false, Ordering::Release);
        let held = lock(&self.gate);
        record(&self.recorder);
        while !self.waits.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        held
    }

    fn time(&self, calls: u64, held: bool, record: impl Fn(&Recorder) -> Result<PredictionId, Refused>) -> Duration {
        let mut time = Duration::ZERO;
        for burst in (0..calls).step_by(BURST) {
            let gate = held.then(|| self.hold(&record));
            let start = ThreadTime::now();
            for _ in burst..calls.min(burst + BURST as u64) {
                black_box(record(&self.recorder)).expect("the inbox has room");
            }
            time += ThreadTime::now().saturating_sub(start);
            drop(gate);
            self.settle();
        }
        time
    }
}

fn record(c: &mut Criterion<ThreadTime>) {
    let mut stream = Stream::new(32);
    let running = Running::start(&mut stream);
    let values = stream.values();
    let row = Wide::new(&values);
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(1));
    for (mode, held) in [("drained", false), ("alone", true)] {
        group.bench_function(format!("slice/{mode}"), |b| {
            b.iter_custom(|calls| {
                running.time(calls, held, |to| to.record_values(ModelVersion::FIRST, OUTPUT, black_box(&values)))
            });
        });
        group.bench_function(format!("struct/{mode}"), |b| {
            b.iter_custom(|calls| {
                running.time(calls, held, |to| to.record(ModelVersion::FIRST, OUTPUT, black_box(&row)))
            });
        });
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = record }
criterion_main!(benches);
