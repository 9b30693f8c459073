//! How a policy is judged on a stream, and the policies that feedloop is compared with.
//!
//! The first rows train the first model. The rest arrives in 40 batches. Each batch is predicted first and scored on
//! all its labels, which only the judge knows; then the policy may buy labels of that batch and retrain; the new model
//! serves from the next batch on (prequential accuracy).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Instant;

use feedloop::BoxError;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use super::data::Stream;
use super::fault::Fault;
use super::harm::Harm;
use super::loop_policy;
use super::model::{Kind, Model};
use super::progress::Progress;

/// Batches after the initial rows.
pub const BATCHES: usize = 40;
/// Most rows that one training uses, the newest.
pub const TRAINING_CAP: usize = 3_000;
/// The initial rows are this share of the stream …
const INITIAL_SHARE: f64 = 0.1;
/// … but never fewer or more than this.
const INITIAL_ROWS: Range<usize> = 200..2_000;

/// What decides on labels and retraining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The first model for ever.
    Never,
    /// Random labels from every batch, retraining after every batch on all labels.
    Scheduled,
    /// feedloop.
    Loop,
    /// All labels, retraining after every batch; the better of two windows, chosen in hindsight.
    Oracle,
}

impl Policy {
    const ALL: [Self; 4] = [Self::Never, Self::Scheduled, Self::Loop, Self::Oracle];

    /// The name that [`FromStr`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Scheduled => "scheduled",
            Self::Loop => "loop",
            Self::Oracle => "oracle",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| format!("unknown policy '{name}', expected never, scheduled, loop or oracle"))
    }
}

/// How much evidence feedloop asks for before it promotes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Follow the drift: serve what validated best so far.
    Adaptive,
    /// Promote only what is shown to be better.
    Confirm,
    /// As confirm, but also promote what is only likely to be better; no error is promised then.
    Likely,
}

impl Profile {
    const ALL: [Self; 3] = [Self::Adaptive, Self::Confirm, Self::Likely];

    /// The name that [`FromStr`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Confirm => "confirm",
            Self::Likely => "likely",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| format!("unknown profile '{name}', expected adaptive, confirm or likely"))
    }
}

/// How one policy did on one stream; the last line of a replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The stream's name.
    pub stream: String,
    /// The policy.
    pub policy: Policy,
    /// The promotion profile; null for a policy that has none.
    pub profile: Option<Profile>,
    /// What was wrong with the labels; null for the other policies, whose labels are right.
    pub fault: Option<Fault>,
    /// The kind of model.
    pub model: Kind,
    /// The share of `rows` that people could be asked to label: 0 for never, 1 for oracle.
    pub budget: f64,
    /// The seed.
    pub seed: u64,
    /// Rows after the initial ones: those that were predicted and scored.
    pub rows: usize,
    /// The share of `rows` that was predicted correctly.
    pub accuracy: f64,
    /// Labels bought from people.
    pub labels: usize,
    /// Trainings after the first.
    pub retrains: usize,
    /// Models that replaced the served one.
    pub promotions: usize,
    /// Those of them that changed at least 1 % of the predictions of the batch after them.
    pub changes: usize,
    /// Those of the changes that lost at least 1 point there (one-sided exact test of McNemar, p < .05).
    pub harmful: usize,
    /// The accuracy that those cost while they served.
    pub harm: f64,
    /// Candidates that were refused.
    pub rejected: usize,
    /// Returns to an earlier model.
    pub rollbacks: usize,
    /// Times that the loop froze after too many rollbacks and a person let it go on before the next batch.
    pub freezes: usize,
    /// Second opinions that the label-fault check asked for; they are among the labels.
    pub second_opinions: usize,
    /// Its checks that found the labels wrong, and those that found them right.
    pub label_faults: (usize, usize),
    /// Rows that were flagged.
    pub flagged: usize,
    /// Rows that a gate refused.
    pub quarantined: usize,
    /// Rows that were labelled without people.
    pub auto_labelled: usize,
    /// The share of wrong ones among them; null if there were none.
    pub auto_label_error: Option<f64>,
    /// Those of them that were released into training: their cohort's audit passed.
    pub auto_released: usize,
    /// The share of wrong ones among the released; null if there were none.
    pub auto_released_error: Option<f64>,
    /// How long the policy took, reading the file excluded.
    pub seconds: f64,
    /// `rows` per second.
    pub observations_per_second: f64,
}

/// Which rows train the first model and how the others arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows `0..initial` train the first model.
    pub initial: usize,
    /// The ranges of the batches, in order; they cover all rows after the initial ones.
    pub batches: Vec<Range<usize>>,
}

impl Split {
    /// The split of the protocol: 10 % of the rows first, but 200 to 2,000.
    ///
    /// # Errors
    /// If no row would be left.
    pub fn of(stream: &Stream) -> Result<Self, TooShort> {
        let share = (INITIAL_SHARE * stream.len() as f64) as usize;
        Self::after(share.clamp(INITIAL_ROWS.start, INITIAL_ROWS.end), stream.len())
    }

    /// A split with a chosen number of initial rows. The edges are those of `numpy.linspace(initial, rows, 41)`,
    /// rounded down.
    ///
    /// # Errors
    /// If no row would be left.
    pub fn after(initial: usize, rows: usize) -> Result<Self, TooShort> {
        if rows <= initial {
            return Err(TooShort { rows, initial });
        }
        let step = (rows - initial) as f64 / BATCHES as f64;
        let edge = |batch: usize| match batch {
            BATCHES => rows,
            _ => (batch as f64 * step + initial as f64) as usize,
        };
        Ok(Self { initial, batches: (0..BATCHES).map(|batch| edge(batch)..edge(batch + 1)).collect() })
    }

    /// The number of rows after the initial ones.
    pub fn judged(&self) -> usize {
        self.batches.iter().map(Range::len).sum()
    }
}

/// The stream has no row after those that train the first model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream has {rows} rows, but the first {initial} only train the first model; bring more")]
pub struct TooShort {
    rows: usize,
    initial: usize,
}

/// Replays a stream under a policy; `labels` are what is wrong with them, and whether the loop looks for it.
///
/// # Errors
/// If the stream is too short, or the loop cannot work.
pub fn run(
    stream: &Stream,
    policy: Policy,
    profile: Profile,
    budget: f64,
    kind: Kind,
    labels: (Fault, bool),
    seed: u64,
) -> Result<Outcome, BoxError> {
    match policy {
        Policy::Never => Ok(never(stream, &Split::of(stream)?, kind, seed)),
        Policy::Scheduled => Ok(scheduled(stream, &Split::of(stream)?, budget, kind, seed)),
        Policy::Oracle => Ok(oracle(stream, &Split::of(stream)?, kind, seed)),
        Policy::Loop => loop_policy::run(stream, profile, budget, kind, labels, seed),
    }
}

/// The first model serves for ever.
pub fn never(stream: &Stream, split: &Split, kind: Kind, seed: u64) -> Outcome {
    let start = Instant::now();
    let tally = replay(stream, split, kind, seed, "never", |_| Step::default());
    tally.outcome(stream, Policy::Never, 0.0, kind, seed, start)
}

/// Every batch, a share `budget` of its rows is labelled at random and a model is trained on the newest
/// [`TRAINING_CAP`] labelled rows, the initial ones included; it is served untested.
pub fn scheduled(stream: &Stream, split: &Split, budget: f64, kind: Kind, seed: u64) -> Outcome {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut allowance = Allowance::new(budget);
    let mut labelled: Vec<usize> = (0..split.initial).collect();
    let tally = replay(stream, split, kind, seed, "scheduled", |batch| {
        let bought = random_rows(&batch, allowance.grant(batch.len()), &mut rng);
        labelled.extend(&bought);
        Step { labels: bought.len(), train_on: (!bought.is_empty()).then(|| newest(&labelled, TRAINING_CAP).to_vec()) }
    });
    tally.outcome(stream, Policy::Scheduled, budget, kind, seed, start)
}

/// Every label is known and a model is trained after every batch: once on as many of the newest rows as there were
/// initial ones, once on the newest [`TRAINING_CAP`]. The better of the two is reported, chosen in hindsight.
pub fn oracle(stream: &Stream, split: &Split, kind: Kind, seed: u64) -> Outcome {
    let start = Instant::now();
    let with_window = |window: usize| {
        let what = format!("oracle, newest {window}");
        replay(stream, split, kind, seed, &what, |batch| Step {
            labels: batch.len(),
            train_on: Some((batch.end.saturating_sub(window)..batch.end).collect()),
        })
    };
    let short = with_window(split.initial);
    let long = with_window(TRAINING_CAP);
    let better = if short.correct > long.correct { short } else { long };
    better.outcome(stream, Policy::Oracle, 1.0, kind, seed, start)
}

/// What a policy does after a batch.
#[derive(Debug, Default)]
struct Step {
    /// How many labels it bought.
    labels: usize,
    /// The rows to train the next model on; `None` keeps the served one.
    train_on: Option<Vec<usize>>,
}

/// What a replay counted.
#[derive(Debug, Default)]
struct Tally {
    judged: usize,
    correct: usize,
    labels: usize,
    retrains: usize,
    changes: usize,
    harmful: usize,
    harm: f64,
}

impl Tally {
    fn outcome(&self, stream: &Stream, policy: Policy, budget: f64, model: Kind, seed: u64, start: Instant) -> Outcome {
        let seconds = start.elapsed().as_secs_f64();
        Outcome {
            stream: stream.name.clone(),
            policy,
            profile: None,
            fault: None,
            model,
            budget,
            seed,
            rows: self.judged,
            accuracy: self.correct as f64 / self.judged as f64,
            labels: self.labels,
            retrains: self.retrains,
            promotions: self.retrains,
            changes: self.changes,
            harmful: self.harmful,
            harm: self.harm,
            rejected: 0,
            rollbacks: 0,
            freezes: 0,
            second_opinions: 0,
            label_faults: (0, 0),
            flagged: 0,
            quarantined: 0,
            auto_labelled: 0,
            auto_label_error: None,
            auto_released: 0,
            auto_released_error: None,
            seconds,
            observations_per_second: self.judged as f64 / seconds,
        }
    }
}

/// Trains the first model, then serves, scores and follows the policy batch by batch.
fn replay(
    stream: &Stream,
    split: &Split,
    kind: Kind,
    seed: u64,
    what: &str,
    mut after: impl FnMut(Range<usize>) -> Step,
) -> Tally {
    let progress = Progress::new(split.batches.len(), what);
    let initial: Vec<usize> = (0..split.initial).collect();
    let mut model = train(stream, kind, &initial, None, seed);
    let mut harm = Harm::new(model.clone());
    let mut tally = Tally::default();
    let mut scratch = Vec::new();
    for batch in &split.batches {
        tally.judged += batch.len();
        tally.correct += batch
            .clone()
            .filter(|&row| model.predict(&stream.features[row], &mut scratch) == stream.labels[row])
            .count();
        harm.judge(stream, batch);
        let step = after(batch.clone());
        tally.labels += step.labels;
        if let Some(rows) = step.train_on {
            model = train(stream, kind, &rows, None, seed);
            harm.switch(model.clone(), true);
            tally.retrains += 1;
        }
        progress.step();
    }
    (tally.changes, tally.harmful, tally.harm) = (harm.changes, harm.harmful, harm.cost(tally.judged));
    tally
}

/// Trains a model on the given rows of a stream, optionally weighted.
pub fn train(stream: &Stream, kind: Kind, rows: &[usize], weights: Option<&[f64]>, seed: u64) -> Model {
    let features: Vec<&[f64]> = rows.iter().map(|&row| stream.features[row].as_slice()).collect();
    let labels: Vec<usize> = rows.iter().map(|&row| stream.labels[row]).collect();
    Model::fit(kind, &features, &labels, weights, stream.classes, seed)
}

/// The labels that a budget allows, batch by batch; what is left of one batch is carried to the next.
#[derive(Debug, Clone)]
pub struct Allowance {
    budget: f64,
    seen: usize,
    granted: usize,
}

impl Allowance {
    /// At most `budget` labels per row.
    pub fn new(budget: f64) -> Self {
        Self { budget, seen: 0, granted: 0 }
    }

    /// The labels that may be bought from a batch of `rows` rows. All grants together never exceed the budget of all
    /// rows so far.
    pub fn grant(&mut self, rows: usize) -> usize {
        self.seen += rows;
        let allowed = (self.budget * self.seen as f64) as usize;
        let granted = allowed.saturating_sub(self.granted).min(rows);
        self.granted += granted;
        granted
    }

    /// One label in advance on what later batches bring; never beyond the budget of `all` rows of the stream.
    pub fn advance(&mut self, all: usize) -> bool {
        let grant = self.granted < (self.budget * all as f64) as usize;
        self.granted += usize::from(grant);
        grant
    }
}

/// `n` different rows of a batch, drawn at random; all of them if there are fewer.
pub fn random_rows(batch: &Range<usize>, n: usize, rng: &mut StdRng) -> Vec<usize> {
    index::sample(rng, batch.len(), n.min(batch.len())).into_iter().map(|offset| batch.start + offset).collect()
}

/// The last `n` elements, or all.
pub fn newest(rows: &[usize], n: usize) -> &[usize] {
    &rows[rows.len().saturating_sub(n)..]
}
