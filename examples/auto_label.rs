//! Auto-labels under a promise: replays a stream of labelled rows through a `ConfidenceRouter` and says what its released
//! labels were worth.
//!
//! ```text
//! cargo run --release --example auto_label -- --csv FILE [--error 0.02] [--audit 0.05] [--cap 0.5]
//!     [--model logistic|forest] [--retrain 0] [--delay 100] [--seed 1]
//! ```
//!
//! The first 10 % of the rows (200 to 2,000) train the model; every later row is a sample that the router is asked about.
//! People answer every question, with the true label, `--delay` rows later. `--retrain N` trains again on the newest 3,000
//! labels of people after every N of the 40 batches; with 0 the first model serves for ever. The last line is JSON: `error` is
//! that of the released labels that nobody audited, `coverage` their share of all rows, `bought` the answers of people,
//! audits included.

#[path = "common/mod.rs"]
mod common;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use common::arguments::{self, Options};
use common::data;
use common::model::Kind;
use common::protocol::{Split, TRAINING_CAP, newest, train};
use feedloop::chrono::{DateTime, TimeDelta};
use feedloop::uuid::Uuid;
use feedloop::{
    Audited, BoxError, CohortVerdict, ConfidenceRouter, Label, LabelRouter, Lane, ModelVersion, Observation, Output,
    PredictionId, Reference, References, Route, RouteContext, Sample, Schema, Stage, Target, predicted_label,
    top_class,
};
use serde_json::json;

const USAGE: &str = "\
usage: auto_label --csv FILE [options]

  --csv FILE       plain or gzip CSV, header x0..xk,y, rows in stream order
  --error SHARE    the promised error                       [default: 0.02]
  --audit SHARE    share of the auto-labels that is audited [default: 0.05]
  --cap SHARE      largest share of auto-labels per class   [default: 0.5]
  --model MODEL    logistic or forest                       [default: logistic]
  --retrain N      batches between trainings, 0 for never   [default: 0]
  --delay ROWS     rows from a question to its answer       [default: 100]
  --seed N         seed of every draw                       [default: 1]";

#[derive(Debug)]
struct Arguments {
    csv: PathBuf,
    error: f64,
    audit: f64,
    cap: f64,
    model: Kind,
    retrain: usize,
    delay: usize,
    seed: u64,
}

fn parse(mut options: Options) -> Result<Option<Arguments>, String> {
    let mut csv = None;
    let mut parsed = Arguments {
        csv: PathBuf::new(),
        error: 0.02,
        audit: 0.05,
        cap: 0.5,
        model: Kind::Logistic,
        retrain: 0,
        delay: 100,
        seed: 1,
    };
    while let Some(given) = options.next() {
        match given.name.as_str() {
            "--csv" => csv = Some(options.value(&given)?),
            "--error" => parsed.error = options.share(&given)?,
            "--audit" => parsed.audit = options.share(&given)?,
            "--cap" => parsed.cap = options.share(&given)?,
            "--model" => parsed.model = options.value(&given)?.parse()?,
            "--retrain" => parsed.retrain = options.number(&given, "a number of batches")?,
            "--delay" => parsed.delay = options.number(&given, "a number of rows")?,
            "--seed" => parsed.seed = options.number(&given, "an integer")?,
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown option {other}")),
        }
    }
    parsed.csv = csv.ok_or("--csv is missing")?.into();
    Ok(Some(parsed))
}

fn main() -> ExitCode {
    arguments::main("auto_label", USAGE, parse, run)
}

fn run(arguments: &Arguments) -> Result<(), BoxError> {
    let stream = data::read_csv(&arguments.csv)?;
    let split = Split::of(&stream)?;
    let classes = (0..stream.classes).map(|class| format!("class-{class}"));
    let schema = Arc::new(Schema::numeric(stream.columns.len(), Target::classes(classes))?);
    let references = References::starting_with(Arc::new(Reference::builder(schema.clone()).finish()));
    let mut router =
        ConfidenceRouter::max_error(arguments.error).audit(arguments.audit).cap(arguments.cap).seed(arguments.seed);
    router.rebase(&references)?;

    let mut rows_known: Vec<usize> = (0..split.initial).collect();
    let mut model = train(&stream, arguments.model, &rows_known, None, arguments.seed);
    let mut version = ModelVersion::FIRST;
    let mut asked: VecDeque<(usize, Sample)> = VecDeque::new();
    // Per cohort: labels that nobody audits, and errors among them.
    let mut cohorts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let (mut released, mut wrong, mut rejected, mut bought) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut right, mut scored, mut auto, mut auto_wrong, mut most) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let mut probabilities = Vec::new();

    for (number, batch) in split.batches.iter().enumerate() {
        for row in batch.clone() {
            let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(row as i64);
            while asked.front().is_some_and(|(due, _)| *due <= row) {
                let Some((_, sample)) = asked.pop_front() else { break };
                let answered = sample.sequence as usize;
                rows_known.push(answered);
                let human = Label::Class(stream.labels[answered] as u32);
                let auto = predicted_label(schema.target(), sample.observation.output());
                let confidence = top_class(sample.observation.output()).map_or(0.0, |(_, p)| p);
                if let Some(auto) = auto {
                    router.learn(&Audited { sample: &sample, auto, confidence, human, time: now })?;
                }
            }
            model.probabilities(&stream.features[row], &mut probabilities);
            let mut observation = Observation::new(&schema);
            observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(arguments.seed, row as u64));
            (observation.model, observation.time) = (version, now);
            observation.row.copy_values(&stream.features[row])?;
            observation.set_output(Output::Probabilities(&probabilities));
            let truth = Label::Class(stream.labels[row] as u32);
            let correct = predicted_label(schema.target(), observation.output()) == Some(truth);
            (right, scored) = (right + u64::from(correct), scored + 1);
            let sample = Sample::new(observation, row as u64, Lane::Flagged, 1.0);
            let context = RouteContext {
                schema: &schema,
                references: &references,
                now,
                waiting: 0,
                alarm: false,
                standing: false,
            };
            let ask = match router.route(&sample, &context)? {
                Route::Auto { audit, cohort, .. } => {
                    let book = cohorts.entry(cohort).or_default();
                    (auto, auto_wrong) = (auto + 1, auto_wrong + u64::from(!correct));
                    if audit.is_none() {
                        *book = (book.0 + 1, book.1 + u64::from(!correct));
                    }
                    audit.is_some()
                }
                Route::Ask { .. } => true,
                _ => false,
            };
            if ask {
                bought += 1;
                asked.push_back((row + arguments.delay, sample));
            }
            most = most.max(cohorts.values().map(|book| book.0).sum());
            let verdicts = router.cohorts(now, false);
            if verdicts.iter().any(|(_, verdict)| *verdict == CohortVerdict::Reject) {
                let waited: u64 = cohorts.values().map(|book| book.0).sum();
                println!("row {row}: stop; {waited} labels waited");
            }
            for (cohort, verdict) in verdicts {
                let (labels, errors) = cohorts.remove(&cohort).unwrap_or_default();
                if verdict == CohortVerdict::Release {
                    (released, wrong) = (released + labels, wrong + errors);
                } else {
                    rejected += 1;
                }
            }
        }
        if arguments.retrain > 0 && (number + 1) % arguments.retrain == 0 {
            model = train(&stream, arguments.model, newest(&rows_known, TRAINING_CAP), None, arguments.seed);
            version = ModelVersion(version.0 + 1);
        }
    }
    let status = router.status(DateTime::UNIX_EPOCH);
    if let Some(drift) = status.drift {
        println!("stated: {drift}");
    }
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    println!(
        "{}",
        json!({
            "stream": stream.name, "promise": arguments.error, "retrain": arguments.retrain, "rows": scored,
            "accuracy": share(right, scored), "bought": bought, "auto_labelled": auto,
            "auto_label_error": share(auto_wrong, auto), "released": released, "error": share(wrong, released),
            "coverage": share(released, scored), "rejected_cohorts": rejected, "stops": status.stops,
            "most_waiting": most, "audits_waiting": status.cohort_audits, "audit_errors_waiting": status.cohort_errors, "waiting": cohorts.values().map(|book| book.0).sum::<u64>(),
        })
    );
    Ok(())
}
