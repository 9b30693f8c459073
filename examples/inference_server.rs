//! An inference server that learns: it serves a model over HTTP, records every prediction, takes outcomes and feedback,
//! and serves the retrained model as soon as it is promoted.
//!
//! ```text
//! cargo run --release --example inference_server            # listens on 127.0.0.1:3000
//! curl -s localhost:3000/predict  -d '{"values":[7.4,0.7,0,1.9,0.076,11,34,0.9978,3.51,0.56,9.4]}' -H 'content-type: application/json'
//! curl -s localhost:3000/outcome  -d '{"id":"…","label":"good"}'                                   -H 'content-type: application/json'
//! curl -s localhost:3000/feedback -d '{"id":"…","user":"ada","correction":"good"}'                 -H 'content-type: application/json'
//! curl -s localhost:3000/status
//! ```
//!
//! `--self-test` serves on a free port, sends itself the wine-quality set with its outcomes, waits for a promotion,
//! prints the status and ends: what `.ci/run` calls.

#[path = "common/mod.rs"]
mod common;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use common::model::{Kind, Model};
use feedloop::{
    Artifact, BoxError, Control, Dataset, Deduplicate, Feedback, FnTrainer, KsDrift, Label, LowConfidence, Mahalanobis,
    ModelRecord, ModelSlot, Opinion, Outcome, Output, PairedEvaluator, Pipeline, PredictionError, PredictionId,
    Profile, Recorder, Refused, Row, Schema, SchemaGate, SqliteStore, Status, Target, UserFeedback, new_labels,
};
use serde::{Deserialize, Serialize};

/// What every request handler shares.
#[derive(Clone)]
struct App {
    slot: ModelSlot<Model>,
    recorder: Recorder,
    control: Control,
    schema: Arc<Schema>,
}

#[derive(Serialize, Deserialize)]
struct Input {
    values: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    /// Name of the prediction, for outcomes and feedback; absent if it could not be recorded.
    id: Option<PredictionId>,
    model: String,
    probabilities: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Said {
    id: PredictionId,
    label: String,
}

#[derive(Serialize, Deserialize)]
struct Opinionated {
    id: PredictionId,
    user: String,
    correction: Option<String>,
    rating: Option<f64>,
}

type Failure = (StatusCode, String);

fn bad(text: impl Into<String>) -> Failure {
    (StatusCode::UNPROCESSABLE_ENTITY, text.into())
}

fn busy(why: Refused) -> Failure {
    (StatusCode::SERVICE_UNAVAILABLE, why.to_string())
}

async fn predict(State(app): State<App>, Json(input): Json<Input>) -> Result<Json<Answer>, Failure> {
    let expected = app.schema.value_columns().len();
    if input.values.len() != expected {
        return Err(bad(format!("{expected} values are needed, {} were sent", input.values.len())));
    }
    // Model and version come from one load: a promotion in between cannot mix them up.
    let mut probabilities = Vec::new();
    let version = app.slot.predict(|model, version| {
        model.probabilities(&input.values, &mut probabilities);
        version
    });
    // Serving does not depend on recording: a full inbox is counted, the answer goes out.
    let id = app.recorder.record_values(version, Output::Probabilities(&probabilities), &input.values).ok();
    Ok(Json(Answer { id, model: version.to_string(), probabilities }))
}

async fn outcome(State(app): State<App>, Json(said): Json<Said>) -> Result<StatusCode, Failure> {
    let class = app.schema.class_index(&said.label).ok_or_else(|| bad("unknown label"))?;
    app.recorder.outcome(Outcome::truth(said.id, Label::Class(class))).map_err(busy)?;
    Ok(StatusCode::ACCEPTED)
}

async fn feedback(State(app): State<App>, Json(said): Json<Opinionated>) -> Result<StatusCode, Failure> {
    let opinion = match (said.correction, said.rating) {
        (Some(name), _) => {
            Opinion::Correction(Label::Class(app.schema.class_index(&name).ok_or_else(|| bad("unknown label"))?))
        }
        (None, Some(rating)) => Opinion::Rating(rating),
        (None, None) => Opinion::Rejection,
    };
    let feedback = Feedback { prediction: said.id, user: said.user, opinion };
    app.recorder.feedback(feedback).map_err(busy)?;
    Ok(StatusCode::ACCEPTED)
}

async fn status(State(app): State<App>) -> Result<Json<Status>, Failure> {
    // The worker answers; a thread that may wait asks it.
    let asked = tokio::task::spawn_blocking(move || app.control.status()).await;
    match asked {
        Ok(Ok(status)) => Ok(Json(status)),
        Ok(Err(error)) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn load(record: &ModelRecord) -> Result<Model, BoxError> {
    match &record.artifact {
        Artifact::Inline(bytes) => Ok(Model::from_bytes(bytes)?),
        Artifact::File(path) => Ok(Model::from_bytes(&std::fs::read(path)?)?),
    }
}

/// Rows that the first model is trained on.
const INITIAL: usize = 400;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let self_test = std::env::args().any(|word| word == "--self-test");
    let stream = common::data::wine(1);
    let schema = Arc::new(Schema::numeric(stream.columns.len(), Target::classes(["poor", "good"]))?);
    let rows: Vec<&[f64]> = stream.features[..INITIAL].iter().map(Vec::as_slice).collect();
    let first = Model::fit(Kind::Logistic, &rows, &stream.labels[..INITIAL], None, 2, 1);
    let base = Dataset::from_values(
        schema.clone(),
        rows.iter().zip(&stream.labels).map(|(row, label)| (*row, Label::Class(*label as u32))),
    )?;

    let directory = tempfile::tempdir()?.keep();
    let slot = ModelSlot::new(first.clone(), load);
    let trainer = FnTrainer::new(|job: &feedloop::TrainJob| {
        let rows: Vec<&[f64]> = job.data.rows().iter().map(Row::values).collect();
        let weights = Some(job.data.weights());
        let model = Model::fit(Kind::Logistic, &rows, &job.data.class_labels(), weights, 2, job.seed);
        Ok(Artifact::Inline(model.to_bytes()?))
    });
    let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
        let model = load(record)?;
        Ok(move |row: &Row, output: &mut [f64]| {
            let mut probabilities = Vec::with_capacity(output.len());
            model.probabilities(row.values(), &mut probabilities);
            output.copy_from_slice(&probabilities);
            Ok(())
        })
    });
    let pipeline = Pipeline::builder("wine", schema.clone())
        .training_data(base)
        .first_model(Artifact::Inline(first.to_bytes()?))
        .detect(LowConfidence::below(0.6))
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .trigger(new_labels(100))
        .train(trainer)
        .evaluate(evaluator.profile(Profile::adaptive()))
        .deploy(slot.clone())
        .explore(0.1)
        .poll_every(Duration::from_millis(100))
        .store(SqliteStore::open(directory.join("feedloop.db"))?)
        .build()?;
    let (recorder, control, worker) = pipeline.spawn()?;
    let app = App { slot: slot.clone(), recorder, control: control.clone(), schema };
    let router = Router::new()
        .route("/predict", post(predict))
        .route("/outcome", post(outcome))
        .route("/feedback", post(feedback))
        .route("/status", get(status))
        .with_state(app);

    let listener = tokio::net::TcpListener::bind(if self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, store in {}", directory.display());
    let server = axum::serve(listener, router);
    if self_test {
        let server = tokio::spawn(async move { server.await });
        let promoted = tokio::task::spawn_blocking(move || try_it(&address.to_string(), &stream)).await?;
        server.abort();
        println!("{}", promoted.map_err(|error| error.to_string())?);
    } else {
        server
            .with_graceful_shutdown(async {
                let _ = tokio::signal::ctrl_c().await;
            })
            .await?;
    }
    worker.stop(Duration::from_secs(10))?;
    Ok(())
}

/// Sends the set with its outcomes, and waits until a retrained model serves.
fn try_it(address: &str, stream: &common::data::Stream) -> Result<String, BoxError> {
    let names = ["poor", "good"];
    for (row, &label) in stream.features[INITIAL..].iter().zip(&stream.labels[INITIAL..]) {
        let answer: Answer = serde_json::from_str(&call(address, "POST", "/predict", &Input { values: row.clone() })?)?;
        if let Some(id) = answer.id {
            call(address, "POST", "/outcome", &Said { id, label: names[label].into() })?;
        }
    }
    for _ in 0..300 {
        let status: Status = serde_json::from_str(&call(address, "GET", "/status", &())?)?;
        if status.promotions > 0 {
            return Ok(format!(
                "{} predictions, {} outcomes, {} runs, {} promotions: {} serves",
                status.counters.predictions, status.counters.outcomes, status.runs, status.promotions, status.champion
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("no model was promoted within 30 seconds".into())
}

/// One HTTP request on a connection of its own; the body of the answer.
fn call<T: Serialize>(address: &str, method: &str, path: &str, body: &T) -> Result<String, BoxError> {
    use std::io::{Read, Write};
    let body = serde_json::to_string(body)?;
    let mut connection = std::net::TcpStream::connect(address)?;
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2')) {
        Ok(body.to_owned())
    } else {
        Err(format!("{path}: {answer}").into())
    }
}
