//! A host in Rust whose models are trained in Python.
//!
//! ```text
//! pip install pyarrow scikit-learn
//! cargo run --features parquet --example python_trainer
//! ```
//!
//! The wines of `closed_loop` are served in the order of their alcohol. The first model was fitted in Rust and falls behind;
//! what people answer is sealed in batches, exported as Parquet, and trained on by `examples/train.py`, which reads base data
//! and batches with pyarrow and fits scikit-learn. The candidate is judged on answers that it has not seen (profile `confirm`)
//! and takes over: from then on the host serves a model that came from Python, as JSON of coefficients. What the first model would have
//! said to the rows since stands beside it.
//!
//! The Python of `FEEDLOOP_PYTHON` is used, or `python3`; without pyarrow and scikit-learn the example says so and ends. The
//! last line is JSON.

#[path = "common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::data::Stream;
use common::model::{Kind, Model, most_probable};
use common::protocol::{Split, train};
use feedloop::chrono::{DateTime, TimeDelta};
use feedloop::uuid::Uuid;
use feedloop::{
    Artifact, BoxError, Clock, CommandTrainer, Dataset, Deduplicate, Event, Field, Label, LowConfidence, ManualClock,
    ModelRecord, ModelSlot, ModelVersion, Output, PairedEvaluator, Pipeline, PredictionId, ReviewQueue, Row, RunId,
    Schema, SchemaGate, Target, new_labels,
};
use serde::{Deserialize, Serialize};

const INITIAL_ROWS: usize = 400;
const SEED: u64 = 1;
/// Batches that are served after the promotion, to see what it was worth.
const AFTER: usize = 12;

/// The model that `train.py` writes.
#[derive(Debug, Clone, Deserialize)]
struct Linear {
    fill: Vec<f64>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    coefficients: Vec<Vec<f64>>,
    intercepts: Vec<f64>,
}

impl Linear {
    fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        let scaled = row.iter().enumerate().map(|(column, &value)| {
            let value = if value.is_finite() { value } else { self.fill[column] };
            (value - self.mean[column]) / self.scale[column]
        });
        let scaled: Vec<f64> = scaled.collect();
        let scores = self.coefficients.iter().zip(&self.intercepts).map(|(coefficients, intercept)| {
            intercept + coefficients.iter().zip(&scaled).map(|(c, x)| c * x).sum::<f64>()
        });
        out.clear();
        out.extend(scores);
        let largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.iter_mut().for_each(|score| *score = (*score - largest).exp());
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|score| *score /= sum);
    }

    fn is_sound(&self, columns: usize) -> bool {
        let numbers = [&self.fill, &self.mean, &self.scale].into_iter().chain(&self.coefficients);
        let whole = numbers.clone().all(|numbers| numbers.len() == columns);
        whole && self.intercepts.len() == self.coefficients.len() && numbers.flatten().all(|number| number.is_finite())
    }
}

/// What the host serves: the first model is of Rust, the others are of Python.
#[derive(Clone)]
enum Served {
    Rust(Model),
    Python(Linear),
}

impl Served {
    fn load(record: &ModelRecord) -> Result<Self, BoxError> {
        match &record.artifact {
            Artifact::Inline(bytes) => Ok(Served::Rust(Model::from_bytes(bytes)?)),
            Artifact::File(path) => {
                let model: Linear = serde_json::from_slice(&std::fs::read(path)?)?;
                if model.is_sound(model.mean.len()) {
                    Ok(Served::Python(model))
                } else {
                    Err("the model is unsound".into())
                }
            }
        }
    }

    fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        match self {
            Served::Rust(model) => model.probabilities(row, out),
            Served::Python(model) => model.probabilities(row, out),
        }
    }
}

/// The last line.
#[derive(Serialize)]
struct Summary {
    runs: u64,
    promotions: u64,
    served_version: u64,
    rows_after: usize,
    accuracy_after: f64,
    never_accuracy_after: f64,
}

fn main() -> Result<(), BoxError> {
    let Some(python) = python()? else {
        println!("skipped: python3 with pyarrow and scikit-learn is needed (pip install pyarrow scikit-learn)");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let stream = common::data::wine(SEED);
    let split = Split::after(INITIAL_ROWS, stream.len())?;
    let mut host = Host::start(&stream, &split, &python, directory.path())?;

    let (mut after, mut left) = ((0, 0, 0), AFTER);
    for batch in &split.batches {
        let of_python = host.slot.version() != ModelVersion::FIRST;
        if of_python && left == 0 {
            break;
        }
        let (right, never_right) = host.serve(batch)?;
        if of_python {
            left -= 1;
            after = (after.0 + right, after.1 + never_right, after.2 + batch.len());
        }
        host.turn()?;
    }
    let status = host.pipeline.status()?;
    for id in 1..=status.runs {
        let Some(run) = host.pipeline.run(RunId(id))? else { continue };
        let why = run.notes.last().map(|(_, reason)| reason.to_string()).unwrap_or_default();
        println!("{} {}: {why}", run.id, run.state.as_str());
    }
    let champion = host.pipeline.champion();
    if champion == ModelVersion::FIRST {
        return Err("no model of Python was promoted".into());
    }

    // What the served model was trained on can be read again, from the store and from the files.
    let trained_on = host.pipeline.trained_on(champion)?;
    let record = host.pipeline.model(champion)?.ok_or("the served model has no record")?;
    let dataset = record.dataset.ok_or("the served model does not say what it was trained on")?;
    assert_eq!(dataset.compose()?.digest(), trained_on.digest());
    println!("{champion} was trained on {} rows: base data and {} batches", trained_on.len(), dataset.batches.len());

    let (right, never_right, rows) = after;
    let summary = Summary {
        runs: status.runs,
        promotions: status.promotions,
        served_version: champion.0,
        rows_after: rows,
        accuracy_after: right as f64 / rows.max(1) as f64,
        never_accuracy_after: never_right as f64 / rows.max(1) as f64,
    };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// A Python that can train; one that is named must be able to.
fn python() -> Result<Option<String>, BoxError> {
    let named = std::env::var("FEEDLOOP_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let output = Command::new(&python).args(["-c", "import pyarrow, sklearn"]).output();
    match output {
        Ok(output) if output.status.success() => Ok(Some(python)),
        _ if named.is_none() => Ok(None),
        Ok(output) => Err(format!("{python} cannot train: {}", String::from_utf8_lossy(&output.stderr)).into()),
        Err(error) => Err(format!("{python} cannot be run: {error}").into()),
    }
}

struct Host<'a> {
    stream: &'a Stream,
    first: Model,
    pipeline: Pipeline,
    slot: ModelSlot<Served>,
    queue: ReviewQueue,
    clock: ManualClock,
    rows: HashMap<PredictionId, usize>,
}

impl<'a> Host<'a> {
    fn start(stream: &'a Stream, split: &Split, python: &str, directory: &Path) -> Result<Self, BoxError> {
        let initial: Vec<usize> = (0..split.initial).collect();
        let first = train(stream, Kind::Logistic, &initial, None, SEED);
        let schema = Schema::new(stream.columns.iter().map(Field::number), Target::classes(["plain", "good"]))?;
        let schema = Arc::new(schema);
        let base = initial.iter().map(|&row| (&stream.features[row], Label::Class(stream.labels[row] as u32)));
        let base = Dataset::from_values(schema.clone(), base)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/train.py");
        let trainer = CommandTrainer::program(python, [script]).timeout(Duration::from_secs(300)).retries(1);
        let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
            let model = Served::load(record)?;
            Ok(move |row: &Row, output: &mut [f64]| {
                let mut probabilities = Vec::with_capacity(output.len());
                model.probabilities(row.values(), &mut probabilities);
                output.copy_from_slice(&probabilities);
                Ok(())
            })
        });
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let slot = ModelSlot::new(Served::Rust(first.clone()), Served::load).inline();
        let pipeline = Pipeline::builder("wine", schema.clone())
            .training_data(base)
            .first_model(Artifact::Inline(first.to_bytes()?))
            .detect(LowConfidence::below(0.7))
            .gate(SchemaGate::default())
            .gate(Deduplicate::exact())
            .trigger(new_labels(60))
            .train(trainer)
            .evaluate(evaluator.inline())
            .deploy(slot.clone())
            .explore(0.5)
            .compare(1.0)
            .export(directory.join("batches"))
            .directory(directory.join("jobs"))
            .clock(clock.clone())
            .seed(SEED)
            .build()?;
        let queue =
            ReviewQueue::open(pipeline.store().clone(), "wine", schema.target().clone(), Arc::new(clock.clone()));
        Ok(Host { stream, first, pipeline, slot, queue, clock, rows: HashMap::new() })
    }

    /// Serves a batch; returns how many predictions were right, and how many of the first model would have been.
    fn serve(&mut self, batch: &Range<usize>) -> Result<(usize, usize), BoxError> {
        self.clock.advance(TimeDelta::hours(1));
        let (mut right, mut never_right, mut events, mut probabilities) = (0, 0, Vec::new(), Vec::new());
        for row in batch.clone() {
            let features = &self.stream.features[row];
            never_right += usize::from(self.first.predict(features, &mut probabilities) == self.stream.labels[row]);
            let version = self.slot.predict(|model, version| {
                model.probabilities(features, &mut probabilities);
                version
            });
            right += usize::from(most_probable(&probabilities) == self.stream.labels[row]);
            let mut observation = self.pipeline.observation();
            observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(SEED, row as u64));
            (observation.model, observation.time) = (version, self.clock.now());
            observation.row.copy_values(features)?;
            observation.set_output(Output::Probabilities(&probabilities));
            self.rows.insert(observation.id, row);
            events.push(Event::Prediction(observation));
        }
        self.pipeline.ingest(events)?;
        self.pipeline.poll()?;
        Ok((right, never_right))
    }

    /// Two people answer every question, then the loop goes as far as it can; training is waited for.
    fn turn(&mut self) -> Result<(), BoxError> {
        for who in ["ann", "bob"] {
            let tickets =
                self.queue.claim(who, self.queue.waiting()?.div_ceil(2).max(1) as usize, TimeDelta::minutes(5))?;
            for ticket in tickets {
                let row = self.rows[&ticket.task.sample];
                self.queue.annotate(
                    ticket.task.sample,
                    who,
                    Label::Class(self.stream.labels[row] as u32),
                    1.0,
                    None,
                )?;
            }
        }
        self.pipeline.poll()?;
        while self.pipeline.status()?.run.is_some_and(|run| run.state.as_str() == "training") {
            std::thread::sleep(Duration::from_millis(20));
            self.pipeline.poll()?;
        }
        Ok(())
    }
}
