//! The light version of the loop: detectors, a schedule, and a directory that a cron job trains from.
//!
//! ```text
//! cargo run --release --example light
//! ```
//!
//! No trainer, no server, one file. Once a night, what was flagged and labelled since the last time is checked, sealed
//! and exported as `DIRECTORY/<batch>/data.jsonl` with its schema and a `manifest.json` beside it.

use feedloop::chrono::{DateTime, TimeDelta};
use feedloop::{
    Deduplicate, Event, Field, Label, LowConfidence, Mahalanobis, ManualClock, Outcome, Output, Pipeline, PredictionId,
    Reference, Row, Schema, SchemaGate, SqliteStore, Target, schedule, uuid::Uuid, verify_batch,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?.keep();
    let schema = Schema::new(
        [Field::number("amount").range(0.0, 1e6), Field::number("age").nullable()],
        Target::classes(["good", "fraud"]),
    )?;
    let schema = std::sync::Arc::new(schema);
    let mut training = Reference::builder(schema.clone());
    for i in 0..1_000 {
        let row = Row::from_values(&schema, &[f64::from(i % 97), f64::from(18 + i % 61)])?;
        training.push(&row, None, None)?;
    }

    // The loop itself.
    let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH);
    let mut pipeline = Pipeline::builder("fraud", schema.clone())
        .reference(training.finish())
        .detect(LowConfidence::below(0.6))
        .detect(Mahalanobis::default().false_alarm_rate(0.01))
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .trigger(schedule("0 3 * * *")?)
        .export(directory.join("batches"))
        .store(SqliteStore::open(directory.join("feedloop.db"))?)
        .learn_from_outcomes(0.0)
        .clock(clock.clone())
        .build()?;

    // A day of production: the truth about each payment arrives with it, to keep the example short.
    for i in 0..500u32 {
        let p = f64::from(i % 100) / 100.0;
        let mut observation = pipeline.observation();
        observation.id = PredictionId::from_uuid(Uuid::from_u128(u128::from(i)));
        observation.row.copy_values(&[f64::from(i % 120), f64::from(18 + i % 59)])?;
        observation.set_output(Output::Probabilities(&[p, 1.0 - p]));
        let truth = Outcome::truth(observation.id, Label::Class(u32::from(p < 0.5)));
        pipeline.ingest([Event::Prediction(observation), Event::Outcome(truth)])?;
    }
    clock.advance(TimeDelta::days(1));
    pipeline.poll()?;

    let status = pipeline.status()?;
    println!(
        "{} observations, {} samples kept: {:?}",
        status.counters.predictions, status.counters.samples, status.samples
    );
    for entry in std::fs::read_dir(directory.join("batches"))? {
        let path = entry?.path();
        // What a training script should do first: is the batch what its manifest says?
        let batch = verify_batch(&path)?;
        println!("train from {}: {} rows, {:?}", path.display(), batch.manifest.rows, batch.manifest.sources);
    }
    Ok(())
}
