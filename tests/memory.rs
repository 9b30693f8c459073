//! What detectors keep in memory: no more than their documentation says, and not less than half of it.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use feedloop::{
    ChunkBuffer, Detector, Ecod, Findings, IsolationForest, KsDrift, LowConfidence, Mahalanobis, MmdDrift,
    NearestNeighbours, Observation, Output, OutputDrift, Reference, References, Schema, Target, UserFeedback,
};

/// The system's allocator, with the bytes that each thread holds.
struct Counting;

thread_local! {
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn add(bytes: i64) {
    // A thread that is ending has no count any more.
    let _ = BYTES.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rows of the training data: as many as a reference keeps.
const REFERENCE: usize = 4_096;
/// Chunks of 256 rows that are inspected: more than any default window.
const CHUNKS: u64 = 5;

/// Uniform in [0, 1), scattered (splitmix64).
fn uniform(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

fn fill(observation: &mut Observation, n: u64, columns: u64) {
    let values: Vec<f64> = (0..columns).map(|column| uniform(n * columns + column)).collect();
    observation.row.copy_values(&values).unwrap();
    let top = 0.75 + 0.25 * uniform(!n);
    observation.set_output(Output::Probabilities(&[top, 1.0 - top]));
}

fn references(schema: &Arc<Schema>, columns: u64) -> References {
    let (mut builder, mut observation) = (Reference::builder(schema.clone()), Observation::new(schema));
    for n in 0..REFERENCE as u64 {
        fill(&mut observation, n, columns);
        builder.push(&observation.row, Some(observation.output()), None).unwrap();
    }
    References::starting_with(Arc::new(builder.finish()))
}

/// The most that a detector holds of `columns` columns, between the chunks of a stream.
fn held(mut detector: impl Detector, columns: u64) -> i64 {
    let schema = Arc::new(Schema::numeric(columns as usize, Target::classes(["no", "yes"])).unwrap());
    let references = references(&schema, columns);
    let (mut observation, mut buffer) = (Observation::new(&schema), ChunkBuffer::new(&schema));
    let (mut findings, before, mut most) = (Findings::default(), BYTES.get(), 0);
    detector.rebase(&references).unwrap();
    let mut sequence = 0;
    for _ in 0..CHUNKS {
        buffer.clear();
        loop {
            fill(&mut observation, REFERENCE as u64 + sequence, columns);
            if !buffer.accepts(&observation) {
                break;
            }
            sequence += 1;
            buffer.push(sequence, &observation);
        }
        detector.inspect(&buffer.view(&schema), &mut findings).unwrap();
        findings = Findings::default();
        most = most.max(BYTES.get() - before);
    }
    most
}

/// A detector holds what is stated of `columns` columns, give or take: at most a tenth and 20 KB more, at least half.
fn holds<D: Detector>(detector: impl Fn() -> D, stated: impl Fn(i64) -> i64) {
    for columns in [8, 32] {
        let detector = detector();
        let name = detector.name().to_owned();
        let (held, stated) = (held(detector, columns as u64), stated(columns));
        println!("{name}, {columns} columns: {held} bytes, {stated} stated");
        assert!(held <= stated + stated / 10 + 20_000, "{name} holds {held} bytes of {columns} columns, not {stated}");
        assert!(held >= stated / 2, "{name} holds only {held} bytes of {columns} columns, {stated} are stated");
    }
}

#[test]
fn detectors_hold_what_their_documentation_says() {
    let half = REFERENCE as i64 / 2;
    let calibration = 8 * half;
    holds(|| LowConfidence::below(0.6), |_| 0);
    holds(UserFeedback::default, |_| 0);
    let ks_column = 8 * 1_000 + 130_000;
    holds(OutputDrift::default, |_| ks_column + 4 * 1_000);
    holds(Mahalanobis::default, |d| 8 * d * d / 2 + 1_024 * d + calibration);
    holds(Ecod::default, |d| 8 * d * half + calibration);
    holds(NearestNeighbours::default, |d| 4 * d * half * 9 / 8 + calibration);
    holds(IsolationForest::default, |_| 600_000 + calibration);
    holds(KsDrift::default, |d| d * ks_column);
    holds(|| KsDrift::default().sliding(1), |d| d * (ks_column + 4 * 1_000));
    holds(MmdDrift::default, |d| d * (8 * 1_000 + 1_000));
}
