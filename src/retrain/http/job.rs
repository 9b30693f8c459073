//! One job of a training service, from its start to its artifact.

use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

use super::Order;
use super::client::{Client, Method, Trouble};
use crate::error::BoxError;
use crate::retrain::batch::lines_of;
use crate::retrain::jobs::Failure;
use crate::retrain::orders::{describe, write_data};
use crate::retrain::signal::Signal;
use crate::retrain::{Artifact, TrainJob, Trained};

/// What a service says of a job.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Said {
    Running,
    Done {
        #[serde(default)]
        artifact: Option<PathBuf>,
        #[serde(default)]
        log: String,
    },
    Failed {
        #[serde(default)]
        reason: String,
        #[serde(default)]
        log: String,
    },
}

/// Why a job has no artifact.
enum End {
    Unwanted,
    Failed { reason: String, log: String },
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unwanted => End::Unwanted,
            Trouble::Final(reason) => failed(format!("the service cannot be used: {reason}")),
        }
    }
}

fn failed(reason: impl Into<String>) -> End {
    End::Failed { reason: reason.into(), log: String::new() }
}

/// Runs the job.
pub(super) fn train(order: &Order, job: &TrainJob, signal: &Signal, gone: &Signal) -> Result<Trained, BoxError> {
    let digest: String = job.dataset.digest.chars().take(16).collect();
    let name = format!("{}-{digest}", job.key);
    let description = description(job, &name)?;
    let client = Client::new(order, signal, gone);
    let address = format!("{}/{name}", order.address);
    match follow(&client, order, &Method::Post(description, name), &address) {
        Ok(trained) => Ok(trained),
        Err(end) => {
            // Whatever the service still does for this job, nobody wants it; but a host that ends comes back for it.
            if signal.raised() || !gone.raised() {
                client.tell(&Method::Delete, &address);
            }
            Err(match end {
                End::Unwanted => Failure::new("the job was cancelled", ""),
                End::Failed { reason, log } => Failure::new(reason, log),
            }
            .into())
        }
    }
}

fn description(job: &TrainJob, name: &str) -> Result<String, BoxError> {
    let mut description = describe(job);
    description["name"] = json!(name);
    match &job.directory {
        Some(directory) => {
            let directory = std::path::absolute(directory)?;
            std::fs::create_dir_all(&directory)?;
            description["data"] = json!(write_data(job, &directory)?);
        }
        None => description["lines"] = lines_of(&job.data).map(|line| line.json(job.data.schema())).collect(),
    }
    Ok(description.to_string())
}

fn follow(client: &Client<'_>, order: &Order, start: &Method, address: &str) -> Result<Trained, End> {
    let begun = Instant::now();
    let mut starts = 0;
    loop {
        let started = client.ask(start, &order.address)?;
        if !started.is_good() && started.status != 409 {
            return Err(failed(format!("the service does not take the job: {}", started.text())));
        }
        starts += 1;
        loop {
            let answer = client.ask(&Method::Get, address)?;
            if answer.status == 404 {
                break;
            }
            if !answer.is_good() {
                return Err(failed(format!("the service does not tell of the job: {}", answer.text())));
            }
            let Ok(said) = serde_json::from_slice(&answer.body) else {
                return Err(failed(format!("the service says what is no status of a job: {}", answer.text())));
            };
            match said {
                Said::Running => {}
                Said::Failed { reason, log } => {
                    return Err(End::Failed { reason: format!("the service failed: {reason}"), log });
                }
                Said::Done { artifact, log } => {
                    return Ok(Trained { artifact: fetch(client, artifact, address)?, log });
                }
            }
            if begun.elapsed() >= order.timeout {
                return Err(failed(format!("the training was ended after {:?}", order.timeout)));
            }
            client.pause(order.poll_every);
        }
        if starts > order.retries {
            return Err(failed(format!("the service has forgotten the job {starts} times")));
        }
        client.pause(order.poll_every);
    }
}

fn fetch(client: &Client<'_>, place: Option<PathBuf>, address: &str) -> Result<Artifact, End> {
    if let Some(path) = place {
        return match path.try_exists() {
            Ok(true) => Ok(Artifact::File(path)),
            _ => Err(failed(format!("the service says the artifact is {}, which is not there", path.display()))),
        };
    }
    let answer = client.download(&format!("{address}/artifact"))?;
    if !answer.is_good() {
        return Err(failed(format!("the artifact cannot be downloaded: {}", answer.text())));
    }
    if answer.body.is_empty() {
        return Err(failed("the artifact is empty"));
    }
    Ok(Artifact::Inline(answer.body))
}
