//! Streams for the tests of the window detectors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::TimeDelta;

use super::super::{Alarm, Detector, Findings};
use crate::chunk::ChunkBuffer;
use crate::conformance::Noise;
use crate::event::{Label, Observation};
use crate::reference::{Reference, References};
use crate::schema::{Field, MISSING_CODE, Row, Schema, Target, UNSEEN_CODE};
use crate::stats::binomial;

/// A world of plain columns, all drawn in the same way: a category column takes the drawn number as its level (NaN is
/// missing, too high is unseen).
pub(in super::super) struct Plain {
    pub(in super::super) schema: Arc<Schema>,
    noise: Noise,
    shown: u64,
}

impl Plain {
    /// Numeric columns x0, x1, …
    pub(in super::super) fn new(name: &str, columns: usize) -> Self {
        Plain::of(name, Schema::numeric(columns, Target::classes(["no", "yes"])).unwrap())
    }

    /// Category columns c0, c1, … of some levels.
    pub(in super::super) fn categories(name: &str, columns: usize, levels: usize) -> Self {
        let values: Vec<String> = (0..levels).map(|level| format!("level {level}")).collect();
        let field = |column| Field::category(format!("c{column}"), values.clone()).nullable();
        Plain::of(name, Schema::new((0..columns).map(field), Target::classes(["no", "yes"])).unwrap())
    }

    pub(in super::super) fn of(name: &str, schema: Schema) -> Self {
        Plain { schema: Arc::new(schema), noise: Noise::new(name), shown: 0 }
    }

    fn row(&mut self, mut cell: impl FnMut(&mut Noise) -> f64) -> Row {
        let mut row = Row::new(&self.schema);
        row.values.iter_mut().for_each(|value| *value = cell(&mut self.noise));
        for (column, code) in row.codes.iter_mut().enumerate() {
            let level = cell(&mut self.noise);
            let allowed = self.schema.category_values(column).len();
            *code = if level.is_nan() {
                MISSING_CODE
            } else if (level as usize) < allowed {
                level as u32
            } else {
                UNSEEN_CODE
            };
        }
        row
    }

    pub(in super::super) fn references(&mut self, rows: usize, mut cell: impl FnMut(&mut Noise) -> f64) -> References {
        let mut builder = Reference::builder(self.schema.clone());
        for _ in 0..rows {
            let row = self.row(&mut cell);
            builder.push(&row, None, Some(Label::Class(0))).unwrap();
        }
        References::starting_with(Arc::new(builder.finish()))
    }

    pub(in super::super) fn observations(
        &mut self,
        rows: usize,
        mut cell: impl FnMut(&mut Noise) -> f64,
    ) -> Vec<Observation> {
        (0..rows)
            .map(|_| {
                let mut observation = Observation::new(&self.schema);
                observation.row = self.row(&mut cell);
                observation
            })
            .collect()
    }

    /// Shows observations to a detector; each is later in the stream than all before.
    pub(in super::super) fn show(&mut self, detector: &mut impl Detector, observations: &[Observation]) -> Vec<Alarm> {
        let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(&self.schema));
        for observation in observations {
            if !buffer.accepts(observation) {
                detector.inspect(&buffer.view(&self.schema), &mut findings).unwrap();
                buffer.clear();
            }
            buffer.push(self.shown, observation);
            self.shown += 1;
        }
        detector.inspect(&buffer.view(&self.schema), &mut findings).unwrap();
        findings.alarms().to_vec()
    }

    /// Alarms when `live` observations meet a reference of `rows`.
    pub(in super::super) fn alarms(
        &mut self,
        detector: &mut impl Detector,
        rows: usize,
        live: usize,
        reference: impl FnMut(&mut Noise) -> f64,
        cell: impl FnMut(&mut Noise) -> f64,
    ) -> Vec<Alarm> {
        detector.rebase(&self.references(rows, reference)).unwrap();
        let observations = self.observations(live, cell);
        self.show(detector, &observations)
    }
}

/// Lets time pass from observation to observation.
pub(in super::super) fn every_seconds(observations: &mut [Observation], start: i64, seconds: f64) {
    for (row, observation) in observations.iter_mut().enumerate() {
        let milliseconds = start * 1_000 + (row as f64 * seconds * 1e3) as i64;
        observation.time = chrono::DateTime::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds);
    }
}

/// May `found` of `trials` false alarms come of a rate of at most `rate`? Wrong once in a million runs.
pub(in super::super) fn holds(found: usize, trials: usize, rate: f64) -> bool {
    binomial::lower(found as u64, trials as u64, 1.0 - 1e-6) <= rate
}
