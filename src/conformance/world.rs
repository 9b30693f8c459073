//! A small seeded world: rows, outputs, truths and feedback that a test can shift at will.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::chunk::{CHUNK_ROWS, ChunkBuffer};
use crate::detector::{Detector, Findings};
use crate::event::{Label, Observation, Output, PredictionId};
use crate::reference::{Reference, References};
use crate::schema::{Field, MISSING_CODE, Schema, Target, UNSEEN_CODE};
use crate::stats::sampling::{keyed, unit_interval};

/// Random numbers that are the same on every machine and in every release.
#[derive(Debug, Clone)]
pub struct Noise {
    seed: u64,
    drawn: u64,
}

impl Noise {
    /// Seeded by the hash of a name: that of the test.
    pub fn new(name: &str) -> Self {
        Noise { seed: keyed(0, name.as_bytes()), drawn: 0 }
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.drawn += 1;
        unit_interval(self.seed, &self.drawn.to_le_bytes())
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }
}

/// Makes observations with four numeric columns (`a` and `b` correlated, `c` a whole number, `still` always 3) and a category
/// column `kind` with three values; three classes or a value as the target.
#[derive(Debug, Clone)]
pub struct World {
    schema: Arc<Schema>,
    noise: Noise,
    made: u64,
    /// Added to `a`, to the odds of the last class, and to a predicted value.
    pub shift: f64,
    /// Probability that a cell of `a`, `c` or `kind` is missing.
    pub missing: f64,
    /// Probability that an output is unusable.
    pub unusable: f64,
    /// Does a predicted value come with an interval?
    pub intervals: bool,
}

impl World {
    fn new(name: &str, target: Target) -> Self {
        let fields = [
            Field::number("a").nullable(),
            Field::number("b"),
            Field::integer("c").nullable(),
            Field::number("still"),
            Field::category("kind", ["x", "y", "z"]).nullable(),
        ];
        #[allow(clippy::expect_used, reason = "a schema of constants; this module exists to panic in tests")]
        let schema = Arc::new(Schema::new(fields, target).expect("the schema is valid"));
        let noise = Noise::new(name);
        World { schema, noise, made: 0, shift: 0.0, missing: 0.0, unusable: 0.0, intervals: true }
    }

    /// A world of three classes, seeded by the name of the test.
    pub fn classification(name: &str) -> Self {
        World::new(name, Target::classes(["low", "middle", "high"]))
    }

    /// A world of values with intervals, seeded by the name of the test.
    pub fn regression(name: &str) -> Self {
        World::new(name, Target::Value)
    }

    /// The schema of its rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Its source of randomness.
    pub fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }

    /// When observation `number` is made: one per second.
    pub fn time(&self, number: u64) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(number as i64)
    }

    /// The next observation.
    pub fn observation(&mut self) -> Observation {
        let mut observation = Observation::new(&self.schema);
        let (missing, noise) = (self.missing, &mut self.noise);
        let (common, own) = (noise.normal(), noise.normal());
        let a = 10.0 + common + self.shift;
        let b = 1e3 * (0.8 * common + 0.6 * own);
        let c = (noise.uniform() * 20.0).floor();
        let kind = (noise.uniform() * noise.uniform() * 3.0) as u32;
        let holes = [noise.chance(missing), noise.chance(missing), noise.chance(missing)];
        observation.row.values.copy_from_slice(&[
            if holes[0] { f64::NAN } else { a },
            b,
            if holes[1] { f64::NAN } else { c },
            3.0,
        ]);
        observation.row.codes[0] = match holes[2] {
            true if noise.chance(0.5) => UNSEEN_CODE,
            true => MISSING_CODE,
            false => kind,
        };
        let unusable = noise.chance(self.unusable);
        match self.schema.target() {
            Target::Classes(_) => {
                let odds = [0.0, 0.0, self.shift].map(|shift| (1.5 * noise.normal() + shift).exp());
                let sum: f64 = odds.iter().sum();
                observation
                    .set_output(Output::Probabilities(&odds.map(|odd| if unusable { f64::NAN } else { odd / sum })));
            }
            Target::Value => {
                let (value, half) = (noise.normal() + self.shift, noise.uniform());
                let value = if unusable { f64::INFINITY } else { value };
                let interval = self.intervals.then_some((value - half, value + half));
                observation.set_output(Output::Value { value, interval });
            }
        }
        self.made += 1;
        observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(0x7000, (0b10 << 62) | self.made));
        observation.time = self.time(self.made);
        observation
    }

    /// The label that a truth may have.
    pub fn label(&mut self) -> Label {
        match self.schema.target() {
            Target::Classes(_) => Label::Class((self.noise.uniform() * 3.0) as u32),
            Target::Value => Label::Value(self.noise.normal()),
        }
    }

    /// A reference of `rows` fresh observations with their outputs and labels.
    pub fn reference(&mut self, rows: usize) -> Reference {
        self.reference_of(rows, true)
    }

    /// A reference of `rows` fresh observations with labels, without outputs.
    pub fn reference_without_outputs(&mut self, rows: usize) -> Reference {
        self.reference_of(rows, false)
    }

    /// A label for which the output is right: the class drawn with its probabilities, or the value with some noise. Drawn by
    /// the id, so that it uses up no randomness.
    pub(crate) fn drawn_label(&self, observation: &Observation) -> Option<Label> {
        let mut left = unit_interval(self.noise.seed ^ 1, observation.id.bytes());
        match self.schema.target() {
            Target::Value => observation.output().first().map(|value| Label::Value(value + left - 0.5)),
            Target::Classes(_) => {
                let drawn = observation.output().iter().position(|&p| {
                    left -= p;
                    left < 0.0
                });
                drawn.map(|class| Label::Class(class as u32))
            }
        }
    }

    fn reference_of(&mut self, rows: usize, outputs: bool) -> Reference {
        let mut builder = Reference::builder(self.schema.clone());
        for _ in 0..rows {
            let observation = self.observation();
            let label = self.drawn_label(&observation);
            let pushed = builder.push(&observation.row, outputs.then_some(observation.output()), label);
            debug_assert!(pushed.is_ok(), "a row of this schema");
        }
        builder.finish()
    }

    /// All three references from `rows` fresh observations with their outputs.
    pub fn references(&mut self, rows: usize) -> References {
        References::starting_with(Arc::new(self.reference(rows)))
    }

    /// Shows `rows` fresh observations to `detector`, in whole chunks, and collects what it finds.
    ///
    /// # Panics
    /// The detector returns an error.
    pub fn run<D: Detector + ?Sized>(&mut self, detector: &mut D, rows: usize) -> Findings {
        let observations: Vec<_> = (0..rows).map(|_| self.observation()).collect();
        self.show(detector, &observations)
    }

    /// Shows these observations to `detector`, in whole chunks, and collects what it finds.
    ///
    /// # Panics
    /// The detector returns an error.
    pub fn show<D: Detector + ?Sized>(&self, detector: &mut D, observations: &[Observation]) -> Findings {
        let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(&self.schema));
        for (chunk, observations) in observations.chunks(CHUNK_ROWS).enumerate() {
            buffer.clear();
            for (row, observation) in observations.iter().enumerate() {
                buffer.push((chunk * CHUNK_ROWS + row) as u64, observation);
            }
            let done = detector.inspect(&buffer.view(&self.schema), &mut findings);
            assert!(done.is_ok(), "`{}` failed to inspect: {done:?}", detector.name());
        }
        findings
    }
}
