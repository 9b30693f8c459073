//! Annotators who are wrong: faults of the labels, and second opinions.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::data::Stream;
use super::protocol::Split;

/// Where the three bursts begin, as shares of the batches; each is a tenth of them long.
const BURSTS: [f64; 3] = [0.15, 0.45, 0.75];
/// So often a random label stands in for the true one in a burst of [`Fault::Random`].
const RANDOM: f64 = 0.6;
/// So often a second opinion is wrong.
const SECOND_IS_WRONG: f64 = 0.1;

/// What is wrong with the labels in the bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// 60 % of them are drawn from all classes at random.
    Random,
    /// Each is the class after the true one.
    Swap,
}

impl Fault {
    const ALL: [Self; 3] = [Self::None, Self::Random, Self::Swap];

    /// The name that [`FromStr`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Random => "random",
            Self::Swap => "swap",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|fault| fault.name() == name);
        known.ok_or_else(|| format!("unknown fault '{name}', expected none, random or swap"))
    }
}

/// The people who label a stream. Whoever is asked first about a row says what the fault makes of it; whoever is asked
/// after that says the truth, but for one time in ten, when it is another class.
#[derive(Debug)]
pub struct Crowd {
    first: Vec<usize>,
    truth: Vec<usize>,
    classes: usize,
    asked: HashSet<usize>,
    rng: StdRng,
}

impl Crowd {
    /// The people for a stream that arrives as `split` says.
    pub fn new(stream: &Stream, split: &Split, fault: Fault, seed: u64) -> Self {
        // A sequence of its own: other draws of the replay have the plain seed.
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xfa17);
        let mut first = stream.labels.clone();
        let (batches, long) = (split.batches.len(), split.batches.len() / 10);
        for start in BURSTS {
            let from = (start * batches as f64) as usize;
            for row in split.batches.iter().skip(from).take(long).cloned().flatten() {
                match fault {
                    Fault::None => {}
                    Fault::Random if rng.random::<f64>() >= RANDOM => {}
                    Fault::Random => first[row] = rng.random_range(0..stream.classes),
                    Fault::Swap => first[row] = (first[row] + 1) % stream.classes,
                }
            }
        }
        Crowd { first, truth: stream.labels.clone(), classes: stream.classes, asked: HashSet::new(), rng }
    }

    /// Has anybody been asked about a row?
    pub fn was_asked(&self, row: usize) -> bool {
        self.asked.contains(&row)
    }

    /// What the next person says of a row.
    pub fn says(&mut self, row: usize) -> usize {
        if self.asked.insert(row) {
            return self.first[row];
        }
        let wrong = self.classes > 1 && self.rng.random::<f64>() < SECOND_IS_WRONG;
        let off = if wrong { self.rng.random_range(1..self.classes) } else { 0 };
        (self.truth[row] + off) % self.classes
    }
}
