//! The hottest kernels, each a given number of times and nothing else, for `.ci/instructions`, which counts their instructions
//! under callgrind: `instructions KERNEL TIMES`. Counts do not move with the load of the machine, as times do.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;

use common::{Stream, Wide};
use feedloop::chrono::DateTime;
use feedloop::{
    Adwin, ChangeDetector, Detector, Findings, GateContext, Isolation, KsDrift, Lane, MahalanobisDistance,
    ModelVersion, NoveltyScore, Output, Pipeline, QualityGate, Row, RowView, Sample, SchemaGate, Stage,
};

const WIDTH: usize = 32;
/// Different inputs, taken in turn.
const INPUTS: usize = 256;
/// The most that `record` can take while its worker is away.
const SLOTS: usize = 1 << 14;

/// What is counted: the work of one iteration, told its number.
type Kernel = Box<dyn FnMut(usize)>;

/// A kernel of that name, ready to run.
fn kernel(name: &str) -> Option<Kernel> {
    match name {
        "record_slice" => Some(record_slice()),
        "encode_struct" => Some(encode_struct()),
        "mahalanobis_row" => Some(novelty(&MahalanobisDistance::default())),
        "isolation_forest_row" => Some(novelty(&Isolation::default())),
        "ks_drift_chunk" => Some(ks_drift_chunk()),
        "schema_admit" => Some(schema_admit()),
        "adwin_value" => Some(adwin_value()),
        _ => None,
    }
}

/// On the thread that is counted; the worker's is told apart from it.
fn record_slice() -> Kernel {
    let mut stream = Stream::new(WIDTH);
    let (recorder, control, worker) = Pipeline::builder("instructions", stream.schema.clone())
        .reference(stream.reference())
        .inbox(SLOTS, SLOTS / 8)
        .build()
        .and_then(Pipeline::spawn)
        .expect("a pipeline");
    let rows: Vec<_> = (0..INPUTS).map(|_| stream.values()).collect();
    Box::new(move |n| {
        let _running = (&control, &worker);
        let output = Output::Probabilities(&[0.9, 0.1]);
        black_box(recorder.record_values(ModelVersion::FIRST, output, &rows[n % INPUTS])).expect("the inbox has room");
    })
}

fn encode_struct() -> Kernel {
    let mut stream = Stream::new(WIDTH);
    let rows: Vec<_> = (0..INPUTS).map(|_| Wide::new(&stream.values())).collect();
    let mut row = Row::new(&stream.schema);
    Box::new(move |n| {
        row.encode(&stream.schema, &rows[n % INPUTS]);
        black_box(&row);
    })
}

fn novelty(score: &impl NoveltyScore) -> Kernel {
    let mut stream = Stream::new(WIDTH);
    let model = score.fit(&stream.references(), &mut Vec::new()).expect("the reference suits").expect("it can score");
    let rows: Vec<_> = (0..INPUTS).map(|_| stream.observation()).collect();
    let mut scratch = Vec::new();
    Box::new(move |n| {
        black_box(model.score(RowView::from(black_box(&rows[n % INPUTS])), &mut scratch));
    })
}

/// Over 125 chunks of 256, windows of 1,000 end at all places of a chunk.
fn ks_drift_chunk() -> Kernel {
    let mut stream = Stream::new(WIDTH);
    let (references, chunks) = (stream.references(), stream.chunks(125));
    let (mut detector, mut findings) = (KsDrift::default(), Findings::new());
    detector.rebase(&references).expect("the reference suits");
    Box::new(move |n| {
        findings.clear();
        detector.inspect(&chunks[n % chunks.len()].view(&stream.schema), &mut findings).expect("the detector works");
        black_box(&findings);
    })
}

fn schema_admit() -> Kernel {
    let mut stream = Stream::new(WIDTH);
    let references = stream.references();
    let samples: Vec<_> =
        (0..INPUTS as u64).map(|n| Sample::new(stream.observation(), n, Lane::Flagged, 1.0)).collect();
    let mut gate = SchemaGate::default();
    gate.rebase(&references).expect("the reference suits");
    Box::new(move |n| {
        let context = GateContext { schema: &stream.schema, references: &references, now: DateTime::UNIX_EPOCH };
        black_box(gate.admit(black_box(&samples[n % INPUTS]), &context).expect("the gate works"));
    })
}

fn adwin_value() -> Kernel {
    let noise = &mut Stream::new(1).noise;
    let values: Vec<f64> = (0..4_096).map(|_| noise.normal()).collect();
    let mut detector = Adwin::default();
    Box::new(move |n| {
        black_box(detector.update(values[n % values.len()]));
    })
}

fn main() {
    let told: Vec<String> = std::env::args().skip(1).filter(|told| !told.starts_with("--")).collect();
    let [name, times] = &told[..] else {
        println!("instructions: run by .ci/instructions, under callgrind");
        return;
    };
    let mut work = kernel(name).expect("the name of a kernel");
    for n in 0..times.parse().expect("how many times") {
        work(black_box(n));
    }
}
