//! A detector, a gate, a router and a trigger of one's own, plugged into a pipeline.
//!
//! ```text
//! cargo run --release --example custom_stages
//! ```
//!
//! The detector keeps state and saves it; gate, router and trigger are closures. A loan model is watched: applications
//! by the same person in a row are flagged, test accounts are kept out of training, large loans go to two people.

use std::sync::Arc;

use feedloop::{
    Admission, Ask, BoxError, Chunk, Dataset, Detector, Event, Field, Findings, Label, LoopStatus, Memory, Output,
    Pipeline, PredictionId, Reason, Route, Row, Schema, Snapshot, Stage, Target, gate_fn, router_fn, trigger_fn,
    uuid::Uuid,
};
use serde::Serialize;

/// The host's own type: it is encoded as it is.
#[derive(Serialize)]
struct Application {
    person: f64,
    amount: f64,
    account: &'static str,
}

/// Flags an application if the same person has applied just before.
#[derive(Default)]
struct Repeats {
    last: Option<f64>,
}

impl Stage for Repeats {
    fn name(&self) -> &str {
        "repeats"
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(1, &self.last)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.last = snapshot.load(1)?;
        Ok(())
    }
}

impl Detector for Repeats {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let person =
            chunk.schema().value_columns().iter().position(|name| name == "person").ok_or("no column `person`")?;
        for (row, &who) in chunk.values(person).iter().enumerate() {
            if self.last == Some(who) {
                findings.flag(chunk.ids()[row], 1.0, 0.5);
            }
            self.last = Some(who);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = Arc::new(Schema::new(
        [Field::number("person"), Field::number("amount"), Field::category("account", ["real", "test"])],
        Target::classes(["repaid", "lost"]),
    )?);
    let mut training = Dataset::new(schema.clone());
    for i in 0..200 {
        let mut row = Row::new(&schema);
        row.encode(&schema, &Application { person: f64::from(i), amount: f64::from(100 + i), account: "real" });
        training.push(row, Label::Class(u32::from(i % 9 == 0)), 1.0)?;
    }

    let no_tests = gate_fn("no-tests", |sample, context| {
        let test = context.schema.category_values(0).iter().position(|value| value == "test");
        Ok(match sample.observation.row.codes().first() {
            Some(&code) if Some(code as usize) == test => {
                Admission::Quarantine(Reason::new("test_account", "test accounts are not trained on"))
            }
            _ => Admission::Pass,
        })
    });
    let by_amount = router_fn("by-amount", |sample, _| {
        let amount = sample.observation.row.values()[1];
        let ask = Ask { priority: amount, overlap: if amount > 1_000.0 { 2 } else { 1 }, blind: true };
        Ok(Route::ask(ask, Reason::new("amount", format!("the amount is {amount}"))))
    });
    let two_labels = trigger_fn("two-labels", |status: &LoopStatus, _: &mut Memory| {
        Ok((status.labels >= 2, format!("{} of 2 labels", status.labels)))
    });

    let mut pipeline = Pipeline::builder("loans", schema.clone())
        .training_data(training)
        .detect(Repeats::default())
        .gate(no_tests)
        .route(by_amount)
        .trigger(two_labels)
        .build()?;

    let applications = [
        Application { person: 1.0, amount: 500.0, account: "real" },
        Application { person: 1.0, amount: 5_000.0, account: "real" },
        Application { person: 2.0, amount: 100.0, account: "test" },
        Application { person: 2.0, amount: 100.0, account: "test" },
    ];
    let mut events = Vec::new();
    for (i, application) in applications.iter().enumerate() {
        let mut observation = pipeline.observation();
        observation.id = PredictionId::from_uuid(Uuid::from_u128(i as u128));
        observation.row.encode(&schema, application);
        observation.set_output(Output::Probabilities(&[0.8, 0.2]));
        events.push(Event::Prediction(observation));
    }
    pipeline.ingest(events)?;
    pipeline.poll()?;

    let status = pipeline.status()?;
    println!("samples: {:?}", status.samples);
    if let Some(decision) = status.decision {
        println!("trigger: {}", decision.why());
    }
    Ok(())
}
