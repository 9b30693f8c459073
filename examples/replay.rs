//! Replays a stream of labelled rows as if it were production, under one of four policies, and says how each did.
//!
//! ```text
//! cargo run --release --example replay -- --csv FILE [--policy never|scheduled|loop|oracle]
//!     [--profile adaptive|confirm|likely] [--budget 0.05] [--model logistic|forest] [--fault none|random|swap]
//!     [--seed 1] [--seeds 1]
//! ```
//!
//! FILE is plain or gzip CSV with a header `x0..xk,y`, one row per observation in stream order; `y` is an integer
//! class, an empty cell or `nan` a missing feature.
//!
//! The first 10 % of the rows (200 to 2,000) train the first model. The rest arrives in 40 batches; each is predicted
//! and scored before anything is learned from it. What the policies may do after each batch:
//!
//! - `never`: nothing. The first model serves for ever.
//! - `scheduled`: label a share `--budget` of the batch, drawn at random, and train again on the newest 3,000 labels.
//! - `loop`: feedloop decides what to label within `--budget`, when to train and what to promote; `--profile` says how
//!   much evidence it wants: `adaptive` follows drift, `confirm` promotes only what is shown to be better, `likely` also
//!   what is only likely to be. The recipes race in each of them.
//! - `oracle`: every label is known. The better of two training windows, chosen in hindsight: what no policy can know.
//!
//! `--fault` makes the people of `loop` wrong in three bursts of a tenth of the batches each: with `random`, 60 % of their
//! labels are drawn at random, with `swap` each is the next class. Whoever is asked for a second opinion about a row says
//! the truth nine times out of ten, with every fault and with none. All answers count towards the budget.
//! `loop` looks for faults of the labels, unless `--no-label-check` forbids it.
//!
//! `--seeds N` replays it N times, with the seeds from `--seed` on.
//!
//! The last lines are JSON, one for each replay; `rows` are the rows that were predicted and scored, and `accuracy` and `budget`
//! are shares of them.

#[path = "common/mod.rs"]
mod common;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use common::arguments::{self, Options};
use common::data;
use common::fault::Fault;
use common::model::Kind;
use common::protocol::{self, Policy, Profile, Split};
use feedloop::BoxError;

const USAGE: &str = "\
usage: replay --csv FILE [options]

  --csv FILE          plain or gzip CSV, header x0..xk,y, rows in stream order
  --policy POLICY     never, scheduled, loop or oracle      [default: loop]
  --profile PROFILE   adaptive, confirm or likely (loop)    [default: adaptive]
  --budget SHARE      share of the rows that people label   [default: 0.05]
  --model MODEL       logistic or forest                    [default: logistic]
  --fault FAULT       none, random or swap (loop)           [default: none]
  --no-label-check    does not look for faults of the labels (loop)
  --seed SEED         a whole number                        [default: 1]
  --seeds N           replays, each with the next seed      [default: 1]
  -h, --help          print this";

/// What the user asked for.
struct Arguments {
    csv: PathBuf,
    policy: Policy,
    profile: Profile,
    budget: f64,
    model: Kind,
    fault: Fault,
    label_check: bool,
    seed: u64,
    seeds: NonZeroU64,
}

impl Arguments {
    /// Reads the arguments; `None` means that help was asked for.
    fn parse(mut options: Options) -> Result<Option<Self>, String> {
        let mut csv = None;
        let mut policy = Policy::Loop;
        let mut profile = Profile::Adaptive;
        let mut budget = 0.05;
        let mut model = Kind::Logistic;
        let mut fault = Fault::None;
        let mut label_check = true;
        let mut seed = 1;
        let mut seeds = NonZeroU64::MIN;
        while let Some(given) = options.next() {
            match given.name.as_str() {
                "-h" | "--help" => return Ok(None),
                "--csv" => csv = Some(PathBuf::from(options.value(&given)?)),
                "--policy" => policy = options.value(&given)?.parse()?,
                "--profile" => profile = options.value(&given)?.parse()?,
                "--budget" => budget = options.share(&given)?,
                "--model" => model = options.value(&given)?.parse()?,
                "--fault" => fault = options.value(&given)?.parse()?,
                "--no-label-check" => label_check = false,
                "--seed" => seed = options.number(&given, "a whole number of at least 0")?,
                "--seeds" => seeds = options.number(&given, "a whole number of at least 1")?,
                unknown => return Err(format!("unknown argument '{unknown}'")),
            }
        }
        Ok(Some(Self {
            csv: csv.ok_or("--csv FILE is missing")?,
            policy,
            profile,
            budget,
            model,
            fault,
            label_check,
            seed,
            seeds,
        }))
    }
}

fn main() -> ExitCode {
    arguments::main("replay", USAGE, Arguments::parse, run)
}

/// Reads the stream, replays it and prints the account, the JSON last.
fn run(arguments: &Arguments) -> Result<(), BoxError> {
    let stream = data::read_csv(&arguments.csv)?;
    let split = Split::of(&stream)?;
    println!(
        "{}: {} rows, {} features, {} classes; {} train the first model, {} follow in {} batches",
        stream.name,
        stream.len(),
        stream.columns.len(),
        stream.classes,
        split.initial,
        split.judged(),
        split.batches.len(),
    );
    let mut outcomes = Vec::new();
    for seed in (0..arguments.seeds.get()).map(|more| arguments.seed.wrapping_add(more)) {
        let Arguments { policy, profile, budget, model, fault, label_check, .. } = *arguments;
        let outcome = protocol::run(&stream, policy, profile, budget, model, (fault, label_check), seed)?;
        println!(
            "{} with {}: accuracy {:.4} with {} labels ({:.1} % of the rows) in {:.1} s",
            outcome.policy,
            outcome.model,
            outcome.accuracy,
            outcome.labels,
            100.0 * outcome.labels as f64 / outcome.rows as f64,
            outcome.seconds,
        );
        outcomes.push(outcome);
    }
    for outcome in &outcomes {
        println!("{}", serde_json::to_string(outcome)?);
    }
    Ok(())
}
