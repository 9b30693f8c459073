//! Tries a detector on a file: how well it finds anomalies, or where it sees a stream change.
//!
//! ```text
//! cargo run --release --example detect -- --csv FILE --detector NAME [--rate 0.01] [--seed 1]
//! cargo run --release --example detect -- --csv FILE --detector NAME --stream [--window 500] [--per-test 0.01] [--signal error]
//! ```
//!
//! FILE is plain or gzip CSV with a header `x0..xk,y`; an empty cell or `nan` is a missing feature.
//!
//! **Anomalies** (`y` = 1 is an anomaly): a half of the normal rows, drawn by `--seed`, is the reference; the rest is scored.
//! The last line is JSON: `auroc` and `average_precision` of the scores, `flagged_rate_on_normals` (beside the stated
//! `--rate`) and `ns_per_row`, the time of `inspect` on the normal rows in chunks of 256.
//!
//! **Drift** (`--stream`, rows in the order of the stream, `y` a class): of the first 10 % of the rows (200 to 2,000), the first half
//! trains a logistic regression, the second half with its predictions is the reference. The rest is predicted and
//! inspected. Every alarm is a line of JSON with its `position`, the row's number in the file; the last line counts them.

#[path = "common/mod.rs"]
mod common;

#[path = "detect/anomalies.rs"]
mod anomalies;
#[path = "detect/drift.rs"]
mod drift;

use std::path::PathBuf;
use std::process::ExitCode;

use common::arguments::{self, Options};
use common::data;
use feedloop::BoxError;

const USAGE: &str = "\
usage: detect --csv FILE --detector NAME [options]

  --csv FILE          plain or gzip CSV, header x0..xk,y
  --detector NAME     one of those below
  --rate SHARE        anomalies: share of normal rows that may be flagged  [default: 0.01]
  --seed SEED         anomalies: draws the half of the normal rows         [default: 1]
  --stream            look for drift, rows in stream order
  --window ROWS       drift: rows per window                               [default: 500]
  --per-test SHARE    drift: chance of a false alarm per test              [default: 0.01]
  --signal SIGNAL     drift, for detectors of one signal: error, confidence or a column [default: error]
  -h, --help          print this";

/// What the user asked for.
struct Arguments {
    csv: PathBuf,
    detector: String,
    rate: f64,
    seed: u64,
    stream: bool,
    window: usize,
    per_test: f64,
    signal: String,
}

impl Arguments {
    /// Reads the arguments; `None` means that help was asked for.
    fn parse(mut options: Options) -> Result<Option<Self>, String> {
        let (mut csv, mut detector) = (None, None);
        let mut arguments = Self {
            csv: PathBuf::new(),
            detector: String::new(),
            rate: 0.01,
            seed: 1,
            stream: false,
            window: 500,
            per_test: 0.01,
            signal: "error".to_owned(),
        };
        while let Some(given) = options.next() {
            match given.name.as_str() {
                "-h" | "--help" => return Ok(None),
                "--csv" => csv = Some(PathBuf::from(options.value(&given)?)),
                "--detector" => detector = Some(options.value(&given)?),
                "--rate" => arguments.rate = options.share(&given)?,
                "--seed" => arguments.seed = options.number(&given, "a whole number of at least 0")?,
                "--stream" => arguments.stream = true,
                "--window" => arguments.window = options.number(&given, "a whole number of at least 2")?,
                "--per-test" => arguments.per_test = options.share(&given)?,
                "--signal" => arguments.signal = options.value(&given)?,
                unknown => return Err(format!("unknown argument '{unknown}'")),
            }
        }
        arguments.csv = csv.ok_or("--csv FILE is missing")?;
        arguments.detector = detector.ok_or("--detector NAME is missing")?;
        Ok(Some(arguments))
    }
}

fn main() -> ExitCode {
    let usage =
        format!("{USAGE}\n\nanomalies: {}\ndrift:     {}", anomalies::NAMES.join(", "), drift::NAMES.join(", "));
    arguments::main("detect", &usage, Arguments::parse, run)
}

fn run(arguments: &Arguments) -> Result<(), BoxError> {
    let data = data::read_csv(&arguments.csv)?;
    if arguments.stream {
        let Arguments { detector, window, per_test, signal, .. } = arguments;
        drift::run(&data, &drift::Look { detector, window: *window, per_test: *per_test, signal })
    } else {
        let report = anomalies::run(&data, &arguments.detector, arguments.rate, arguments.seed)?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}
