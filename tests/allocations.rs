//! What the hot path takes from the allocator: nothing, once it has warmed up.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use feedloop::uuid::Uuid;
use feedloop::{
    Event, Field, GuardVerdict, KsDrift, LowConfidence, Mahalanobis, ModelVersion, Observation, Output, OutputDrift,
    Pipeline, PipelineBuilder, PredictionError, PredictionId, Reference, Row, Schema, Target, UserFeedback,
};
use serde::Serialize;

/// The system's allocator, with a count of the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no count any more.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread asked for memory during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

#[derive(Serialize)]
struct Payment {
    amount: f64,
    items: u32,
    urgent: bool,
    country: &'static str,
    note: String,
}

fn schema() -> Arc<Schema> {
    let fields = [
        Field::number("amount"),
        Field::integer("items"),
        Field::boolean("urgent"),
        Field::category("country", ["DE", "FR"]),
        Field::text("note", 64),
    ];
    Arc::new(Schema::new(fields, Target::classes(["good", "fraud"])).unwrap())
}

fn payment(n: u32) -> Payment {
    Payment {
        amount: f64::from(n.wrapping_mul(2_654_435_761) >> 16),
        items: n % 7,
        urgent: n.is_multiple_of(3),
        country: if n.is_multiple_of(2) { "DE" } else { "FR" },
        note: "an ordinary note".into(),
    }
}

/// Class probabilities of a confident model, in the same order for ever.
fn probabilities(n: u32) -> [f64; 2] {
    let top = 0.75 + 0.25 * f64::from(n.wrapping_mul(0x9e37_79b9) >> 8) / f64::from(1 << 24);
    if n.is_multiple_of(2) { [top, 1.0 - top] } else { [1.0 - top, top] }
}

fn builder(schema: &Arc<Schema>) -> PipelineBuilder {
    let mut reference = Reference::builder(schema.clone());
    for n in 0..4_000 {
        let mut row = Row::new(schema);
        row.encode(schema, &payment(n));
        reference.push(&row, Some(&probabilities(n)), None).unwrap();
    }
    Pipeline::builder("payments", schema.clone()).reference(reference.finish()).remember(1_024, 256)
}

#[test]
fn recording_allocates_nothing() {
    let schema = schema();
    let (recorder, control, worker) = builder(&schema).inbox(64, 8).build().and_then(Pipeline::spawn).unwrap();
    let payments: Vec<_> = (0..4_000).map(payment).collect();
    let values = [1.0, 2.0, 1.0];
    for (n, payment) in payments.iter().enumerate() {
        let output = Output::Probabilities(&[0.9, 0.1]);
        let calls = allocations(|| {
            recorder.record(ModelVersion::FIRST, output, payment).unwrap();
            recorder.record_values(ModelVersion::FIRST, output, &values).unwrap();
        });
        // The first text of each slot makes its buffer.
        assert!(calls == 0 || n < 2_000, "{calls} allocations in call {n}");
        if n % 16 == 0 {
            control.flush().unwrap();
        }
    }
    assert_eq!(recorder.refused(), (0, 0));
    worker.stop(std::time::Duration::from_secs(10)).unwrap();
}

#[test]
fn a_slot_of_numbers_is_two_pieces_of_memory() {
    let schema = Schema::numeric(32, Target::classes(["no", "yes"])).unwrap();
    let calls = allocations(|| drop(black_box(Box::new(Observation::new(&schema)))));
    assert_eq!(calls, 2, "a record waits for the cache lines of each piece");
    assert!(size_of::<Observation>() <= 3 * 64, "{} bytes", size_of::<Observation>());
}

#[test]
fn a_map_is_encoded_without_allocating() {
    let schema = Schema::new([Field::number("amount"), Field::number("age")], Target::Value).unwrap();
    let map = BTreeMap::from([("age".to_owned(), 41.0), ("amount".to_owned(), 9.5)]);
    let mut row = Row::new(&schema);
    // The first key makes the buffer of all.
    row.encode(&schema, &map);
    assert_eq!(allocations(|| row.encode(&schema, &map)), 0);
    assert_eq!((row.values(), row.violations().len()), (&[9.5, 41.0][..], 0));
}

#[test]
fn numbers_are_recorded_without_a_first_allocation() {
    let schema = Arc::new(Schema::numeric(32, Target::classes(["no", "yes"])).unwrap());
    let reference = Reference::builder(schema.clone()).finish();
    let pipeline = Pipeline::builder("numbers", schema).reference(reference).build().unwrap();
    let (recorder, _control, _worker) = pipeline.spawn().unwrap();
    let calls = allocations(|| {
        for _ in 0..1_000 {
            recorder.record_values(ModelVersion::FIRST, Output::Probabilities(&[0.9, 0.1]), &[0.5; 32]).unwrap();
        }
    });
    assert_eq!(calls, 0);
}

#[test]
fn a_verdict_of_the_guard_allocates_nothing() {
    let schema = schema();
    let stages = builder(&schema).detect(LowConfidence::below(0.6)).detect(Mahalanobis::default());
    let mut pipeline = stages.build().unwrap();
    let guard = pipeline.guard();
    let mut probe = pipeline.observation();
    let mut verdicts = [0; 2];
    for n in 0..4_000 {
        let (output, amount) = if n % 2 == 0 { (probabilities(n), 1.0) } else { ([0.55, 0.45], 1e9) };
        probe.row.encode(&schema, &Payment { amount, ..payment(n) });
        probe.set_output(Output::Probabilities(&output));
        let calls = allocations(|| verdicts[usize::from(guard.check(&probe) == GuardVerdict::Pass)] += 1);
        assert!(calls == 0 || n == 0, "{calls} allocations in call {n}");
    }
    assert!(verdicts[0] >= 2_000 && verdicts[1] > 1_000, "{verdicts:?}");
}

#[test]
fn observations_that_nobody_flags_are_ingested_without_allocating() {
    let schema = schema();
    let mut pipeline = builder(&schema)
        .detect(LowConfidence::below(0.6))
        .detect(OutputDrift::default())
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .build()
        .unwrap();
    let guard = pipeline.guard();
    let mut probe = pipeline.observation();
    let fill = |observation: &mut Observation, n: u32| {
        observation.row.encode(&schema, &payment(n));
        observation.set_output(Output::Probabilities(&probabilities(n)));
    };
    // The rows that no detector flags.
    let quiet: Vec<u32> = (0..4_000)
        .filter(|&n| {
            fill(&mut probe, n);
            guard.check(&probe) == GuardVerdict::Pass
        })
        .collect();
    let mut made = 0;
    let mut ingest = |pipeline: &mut Pipeline| {
        let mut events = Vec::with_capacity(500);
        for _ in 0..500 {
            let mut observation = pipeline.observation();
            observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(made, made));
            fill(&mut observation, quiet[made as usize % quiet.len()]);
            events.push(Event::Prediction(observation));
            made += 1;
        }
        allocations(|| {
            pipeline.ingest(events).unwrap();
        })
    };
    for _ in 0..20 {
        ingest(&mut pipeline);
    }
    let calls: Vec<u64> = (0..20).map(|_| ingest(&mut pipeline)).collect();
    let status = pipeline.status().unwrap();
    assert_eq!((status.counters.flags, status.counters.alarms), (0, 0), "the stream is ordinary");
    assert_eq!(calls.iter().sum::<u64>(), 0, "{calls:?}");
}
