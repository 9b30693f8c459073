//! Schema, completeness and exact duplicates over 100,000 samples of 32 columns: the rules and the data of the peers'
//! `e_schema` cases (16 numbers, 8 whole numbers, 4 categories of 8 words, 4 numbers of which 5 % are missing; 0.3 % of
//! the rows break one rule).
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::{Noise, Stream, ThreadTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use feedloop::chrono::DateTime;
use feedloop::uuid::Uuid;
use feedloop::{
    BatchDraft, Completeness, Deduplicate, DraftRow, Field, GateContext, Label, Lane, Observation, Output,
    PredictionId, QualityGate, Reference, References, Row, Sample, Schema, SchemaGate, Stage, Target,
};
use serde_json::{Map, Value, json};

const SAMPLES: usize = 100_000;
/// So few samples stay in a cache of 1 MB: what is left is the work itself.
const FEW: usize = 500;
/// Rows that are encoded from JSON, as in the peers' `e_row` cases.
const TEXTS: usize = 20_000;
const WORDS: [&str; 8] = ["red", "green", "blue", "cyan", "pink", "grey", "teal", "gold"];

fn schema() -> Schema {
    let numbers = (0..16).map(|j| Field::number(format!("f{j}")).range(-8.0, 8.0));
    let wholes = (0..8).map(|j| Field::integer(format!("i{j}")).range(0.0, 100.0));
    let words = (0..4).map(|j| Field::category(format!("s{j}"), WORDS));
    let gaps = (0..4).map(|j| Field::number(format!("q{j}")).range(-8.0, 8.0).nullable());
    Schema::new(numbers.chain(wholes).chain(words).chain(gaps), Target::Value).expect("a valid schema")
}

fn json_row(noise: &mut Noise, n: usize, bad: bool) -> Value {
    let mut row = Map::new();
    for j in 0..16 {
        row.insert(format!("f{j}"), json!(noise.normal()));
    }
    for j in 0..8 {
        row.insert(format!("i{j}"), json!((noise.uniform() * 101.0) as i64));
    }
    for j in 0..4 {
        row.insert(format!("s{j}"), json!(WORDS[(noise.uniform() * 8.0) as usize]));
    }
    for j in 0..4 {
        let value = noise.normal();
        row.insert(format!("q{j}"), if noise.uniform() < 0.05 { Value::Null } else { json!(value) });
    }
    if bad && n.is_multiple_of(300) {
        match n / 300 % 3 {
            0 => row.insert("f3".into(), json!(99.0)),
            1 => row.insert("i2".into(), json!(-5)),
            _ => row.insert("s1".into(), json!("mauve")),
        };
    }
    Value::Object(row)
}

struct World {
    schema: Arc<Schema>,
    references: References,
    texts: Vec<String>,
    json: Vec<Value>,
    good: Vec<Sample>,
    bad: Vec<Sample>,
}

impl World {
    fn new() -> Self {
        let (schema, mut noise) = (Arc::new(schema()), Stream::new(1).noise);
        let mut reference = Reference::builder(schema.clone());
        for n in 0..common::REFERENCE {
            let mut row = Row::new(&schema);
            row.encode(&schema, &json_row(&mut noise, n, false));
            reference.push(&row, None, None).expect("a row of the schema");
        }
        let json: Vec<_> = (0..TEXTS).map(|n| json_row(&mut noise, n, true)).collect();
        let texts = json.iter().map(Value::to_string).collect();
        let mut samples = |bad| (0..SAMPLES).map(|n| sample(&schema, n, &json_row(&mut noise, n, bad))).collect();
        let (good, bad) = (samples(false), samples(true));
        World { references: References::starting_with(Arc::new(reference.finish())), texts, json, good, bad, schema }
    }

    fn context(&self) -> GateContext<'_> {
        GateContext { schema: &self.schema, references: &self.references, now: DateTime::UNIX_EPOCH }
    }
}

fn sample(schema: &Schema, n: usize, json: &Value) -> Sample {
    let mut observation = Observation::new(schema);
    observation.id = PredictionId::from_uuid(Uuid::from_u64_pair((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), 1));
    observation.row.encode(schema, json);
    observation.set_output(Output::Value { value: 1.0, interval: None });
    Sample::new(observation, n as u64, Lane::Random, 1.0)
}

fn admit_all(gate: &mut impl QualityGate, samples: &[Sample], context: &GateContext<'_>) {
    for sample in samples {
        black_box(gate.admit(black_box(sample), context).expect("the gate works"));
    }
}

fn audit_all(gate: &mut Completeness, rows: &[DraftRow<'_>], context: &GateContext<'_>) {
    black_box(gate.audit(&BatchDraft { rows: black_box(rows) }, context).expect("the gate works"));
}

fn ready(world: &World) -> Completeness {
    let mut gate = Completeness::default().overall(0.9).every_field(0.5);
    gate.rebase(&world.references).expect("the reference suits");
    gate
}

fn index() -> Deduplicate {
    Deduplicate::exact().capacity(2 * SAMPLES)
}

fn quality(c: &mut Criterion<ThreadTime>) {
    let world = World::new();
    let context = world.context();
    let label = Label::Value(1.0);
    let rows: Vec<_> = world.bad.iter().map(|sample| DraftRow { sample, label, weight: 1.0 }).collect();
    let mut group = c.benchmark_group("quality");
    group.throughput(Throughput::Elements(SAMPLES as u64)).sample_size(10);
    for (name, samples) in [("all good", &world.good), ("0.3 % bad", &world.bad)] {
        group.bench_function(format!("schema, {name}"), |b| {
            b.iter_batched_ref(SchemaGate::default, |gate| admit_all(gate, samples, &context), BatchSize::PerIteration);
        });
    }
    group.bench_function("completeness", |b| {
        b.iter_batched_ref(|| ready(&world), |gate| audit_all(gate, &rows, &context), BatchSize::PerIteration);
    });
    group.bench_function("exact duplicates", |b| {
        b.iter_batched_ref(index, |gate| admit_all(gate, &world.bad, &context), BatchSize::PerIteration);
    });
    group.bench_function("schema, completeness and exact duplicates", |b| {
        b.iter_batched_ref(
            || (SchemaGate::default(), ready(&world), index()),
            |(schema, completeness, duplicates)| {
                for sample in &world.bad {
                    let refused = schema.admit(black_box(sample), &context).expect("the gate works");
                    black_box(refused);
                    black_box(duplicates.admit(sample, &context).expect("the gate works"));
                }
                audit_all(completeness, &rows, &context);
            },
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(FEW as u64));
    let (mut schema, mut completeness) = (SchemaGate::default(), ready(&world));
    group.bench_function("schema, few samples", |b| b.iter(|| admit_all(&mut schema, &world.good[..FEW], &context)));
    group.bench_function("completeness, few samples", |b| {
        b.iter(|| audit_all(&mut completeness, &rows[..FEW], &context));
    });
    group.throughput(Throughput::Elements(TEXTS as u64));
    let mut row = Row::new(&world.schema);
    group.bench_function("encode a JSON value and check", |b| {
        b.iter(|| {
            let broken = |json: &&Value| {
                row.encode(&world.schema, *json);
                !world.schema.check(&row).is_empty()
            };
            black_box(world.json.iter().filter(broken).count())
        });
    });
    group.bench_function("parse JSON text, encode and check", |b| {
        b.iter(|| {
            let broken = |text: &&String| {
                row.encode(&world.schema, &serde_json::from_str::<Value>(text).expect("JSON"));
                !world.schema.check(&row).is_empty()
            };
            black_box(world.texts.iter().filter(broken).count())
        });
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = quality }
criterion_main!(benches);
