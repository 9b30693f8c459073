//! Building a `Reference` of 100,000 rows, and a drift report over 10,000 rows against a reference of 10,000; 32 columns.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::{Stream, ThreadTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use feedloop::{
    Chunk, ChunkBuffer, Detector, Field, Findings, KsDrift, Observation, Reading, Reference, References, Row, Schema,
    Stage, Target,
};
use serde_json::json;

const ROWS: usize = 100_000;
const WIDTH: usize = 32;
/// Rows of a report, on either side.
const REPORT: usize = 10_000;

fn build(schema: &Arc<Schema>, rows: &[Row]) -> Reference {
    let mut builder = Reference::builder(schema.clone());
    for row in rows {
        builder.push(row, None, None).expect("a row of the schema");
    }
    builder.finish()
}

/// Rows of numbers, of which the share `missing` is missing.
fn numbers(stream: &mut Stream, rows: usize, missing: f64) -> Vec<Row> {
    let mut row = || {
        let mut values = stream.values();
        values.iter_mut().for_each(|value| {
            if stream.noise.uniform() < missing {
                *value = f64::NAN;
            }
        });
        Row::from_values(&stream.schema, &values).expect("as wide as the schema")
    };
    (0..rows).map(|_| row()).collect()
}

/// 16 numbers, 8 whole numbers, 8 categories of 8 words.
fn mixed(stream: &mut Stream) -> (Arc<Schema>, Vec<Row>) {
    const WORDS: [&str; 8] = ["red", "green", "blue", "cyan", "pink", "grey", "teal", "gold"];
    let numbers = (0..16).map(|j| Field::number(format!("f{j}")));
    let wholes = (0..8).map(|j| Field::integer(format!("i{j}")));
    let words = (0..8).map(|j| Field::category(format!("s{j}"), WORDS));
    let schema = Schema::new(numbers.chain(wholes).chain(words), Target::Value).expect("a valid schema");
    let noise = &mut stream.noise;
    let mut row = || {
        let mut map = serde_json::Map::new();
        map.extend((0..16).map(|j| (format!("f{j}"), json!(noise.normal()))));
        map.extend((0..8).map(|j| (format!("i{j}"), json!((noise.uniform() * 101.0) as i64))));
        map.extend((0..8).map(|j| (format!("s{j}"), json!(WORDS[(noise.uniform() * 8.0) as usize]))));
        let mut row = Row::new(&schema);
        row.encode(&schema, &map);
        row
    };
    let rows = (0..ROWS).map(|_| row()).collect();
    (Arc::new(schema), rows)
}

fn reference(c: &mut Criterion<ThreadTime>) {
    let mut stream = Stream::new(WIDTH);
    let schema = stream.schema.clone();
    let mut group = c.benchmark_group("reference");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    for (name, missing) in [("numbers", 0.0), ("numbers, 5 % missing", 0.05)] {
        let rows = numbers(&mut stream, ROWS, missing);
        group.bench_function(name, |b| b.iter(|| build(&schema, black_box(&rows)).rows()));
    }
    let (schema, rows) = mixed(&mut stream);
    group.bench_function("numbers and categories", |b| b.iter(|| build(&schema, black_box(&rows)).rows()));
}

/// The readings of every column.
fn report(references: &References, chunks: &[Chunk<'_>]) -> Vec<Reading> {
    let mut drift = KsDrift::default().window(REPORT);
    drift.rebase(references).expect("the reference suits");
    let mut findings = Findings::new();
    for chunk in chunks {
        drift.inspect(chunk, &mut findings).expect("the detector works");
    }
    drift.last_readings()
}

/// Chunks of `REPORT` observations, every value moved by so much.
fn moved(stream: &mut Stream, by: f64) -> Vec<ChunkBuffer> {
    let schema = stream.schema.clone();
    let mut chunks = vec![ChunkBuffer::new(&schema)];
    for sequence in 0..REPORT as u64 {
        let mut observation: Observation = stream.observation();
        let values: Vec<f64> = observation.row.values().iter().map(|value| value + by).collect();
        observation.row.copy_values(&values).expect("as wide as the schema");
        if !chunks.last().is_some_and(|chunk| chunk.accepts(&observation)) {
            chunks.push(ChunkBuffer::new(&schema));
        }
        chunks.last_mut().expect("there is one").push(sequence + 1, &observation);
    }
    chunks
}

fn drift_report(c: &mut Criterion<ThreadTime>) {
    let mut stream = Stream::new(WIDTH);
    let schema = stream.schema.clone();
    let rows = numbers(&mut stream, REPORT, 0.0);
    let references = References::starting_with(Arc::new(build(&schema, &rows)));
    let mut group = c.benchmark_group("drift report");
    for (name, by) in [("nothing changed", 0.0), ("every column moved", 0.1)] {
        let buffers = moved(&mut stream, by);
        let chunks: Vec<_> = buffers.iter().map(|buffer| buffer.view(&schema)).collect();
        assert!(report(&references, &chunks).len() >= WIDTH);
        group.bench_function(name, |b| b.iter(|| report(black_box(&references), black_box(&chunks))));
        group.bench_function(format!("{name}, the reference from its rows"), |b| {
            b.iter(|| {
                let references = References::starting_with(Arc::new(build(&schema, black_box(&rows))));
                report(&references, black_box(&chunks))
            });
        });
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = reference, drift_report }
criterion_main!(benches);
