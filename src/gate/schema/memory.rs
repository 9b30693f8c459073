//! What the schema gate remembers of earlier samples, for fields that are unique or increase.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::recent::Recent;
use crate::sample::Sample;
use crate::schema::{FieldKind, Row, Schema, Violation, ViolationKind};

/// Hexadecimal digits of a hash or an id.
const DIGITS: usize = 32;

/// Samples, values and largest values so far; fields by name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Memory {
    capacity: usize,
    /// What was found wrong with a sample when it was first offered.
    verdicts: Recent<Vec<Violation>>,
    /// The first sample with each value of a unique field, among those that passed.
    values: BTreeMap<String, Recent<PredictionId>>,
    /// The largest value of an increasing field, among the samples that passed.
    largest: BTreeMap<String, Number>,
}

/// Whole numbers and times are compared exactly.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Number {
    Whole(i64),
    Real(f64),
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Ids of the remembered samples, oldest first.
    samples: String,
    /// Those with something wrong.
    verdicts: BTreeMap<PredictionId, Vec<Violation>>,
    /// Hash and first sample of each value, oldest first.
    values: BTreeMap<String, String>,
    largest: BTreeMap<String, Number>,
}

impl Number {
    /// The value of a field, if it is there and finite.
    fn of(row: &Row, schema: &Schema, field: usize) -> Option<Number> {
        if let Some(whole) = row.integer(schema, field) {
            return Some(Number::Whole(whole));
        }
        let value = row.number(schema, field).filter(|value| value.is_finite())?;
        // a row that came as a plain slice has no exact whole numbers
        let whole = matches!(schema.fields()[field].kind(), FieldKind::Integer { .. });
        Some(if whole { Number::Whole(value as i64) } else { Number::Real(value) })
    }

    fn real(self) -> f64 {
        match self {
            Number::Whole(value) => value as f64,
            Number::Real(value) => value,
        }
    }
}

/// Equal values of a field have equal hashes.
fn value_hash(row: &Row, schema: &Schema, field: usize) -> u128 {
    let mut hasher = Xxh3::new();
    match Number::of(row, schema, field) {
        Some(Number::Whole(value)) => hasher.update(&value.to_le_bytes()),
        Some(Number::Real(value)) => hasher.update(&(value + 0.0).to_bits().to_le_bytes()),
        None => row.feed_field(schema, field, |bytes| hasher.update(bytes)),
    }
    hasher.digest128()
}

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        Memory { capacity, verdicts: Recent::new(capacity), values: BTreeMap::new(), largest: BTreeMap::new() }
    }

    /// What is wrong with the sample beside those that passed before it.
    pub(super) fn violations(&mut self, sample: &Sample, schema: &Schema) -> Vec<Violation> {
        if schema.plan().stateful.is_empty() {
            return Vec::new();
        }
        let key = sample.id().uuid().as_u128();
        if let Some(known) = self.verdicts.get(key) {
            return known.clone();
        }
        let mut violations = Vec::new();
        let row = &sample.observation.row;
        for &index in &schema.plan().stateful {
            if row.is_missing(schema, index) {
                continue;
            }
            let field = &schema.fields()[index];
            let mut violate = |kind| violations.push(Violation { field: field.name().into(), kind });
            if field.rules().unique
                && let Some(values) = self.values.get(field.name())
                && let Some(first) = values.get(value_hash(row, schema, index))
                && *first != sample.id()
            {
                violate(ViolationKind::Repeated(*first));
            }
            if field.rules().increasing
                && let (Some(value), Some(largest)) = (Number::of(row, schema, index), self.largest.get(field.name()))
                && value < *largest
            {
                violate(ViolationKind::Decreased { value: value.real(), largest: largest.real() });
            }
        }
        self.verdicts.entry(key, || violations.clone());
        violations
    }

    /// The sample passed: later ones are compared with it.
    pub(super) fn passed(&mut self, sample: &Sample, schema: &Schema) {
        let row = &sample.observation.row;
        for &index in &schema.plan().stateful {
            if row.is_missing(schema, index) {
                continue;
            }
            let field = &schema.fields()[index];
            if field.rules().unique {
                if !self.values.contains_key(field.name()) {
                    self.values.insert(field.name().into(), Recent::new(self.capacity));
                }
                if let Some(values) = self.values.get_mut(field.name()) {
                    values.entry(value_hash(row, schema, index), || sample.id());
                }
            }
            if field.rules().increasing
                && let Some(value) = Number::of(row, schema, index)
            {
                let largest = self.largest.entry(field.name().into()).or_insert(value);
                if value > *largest {
                    *largest = value;
                }
            }
        }
    }

    /// Forgets the values in what was found wrong with a sample. The largest value of a field stays.
    pub(super) fn forget(&mut self, id: PredictionId) {
        let verdict = self.verdicts.get_mut(id.uuid().as_u128());
        for violation in verdict.into_iter().flatten() {
            if let ViolationKind::Decreased { value, largest } = &mut violation.kind {
                (*value, *largest) = (0.0, 0.0);
            }
        }
    }

    /// `None` if nothing is remembered.
    pub(super) fn save(&self) -> Result<Option<State>, BoxError> {
        if self.verdicts.len() == 0 {
            return Ok(None);
        }
        let mut state = State { largest: self.largest.clone(), ..State::default() };
        for (id, verdict) in self.verdicts.iter() {
            write!(state.samples, "{id:032x}")?;
            if !verdict.is_empty() {
                state.verdicts.insert(PredictionId::from_uuid(Uuid::from_u128(id)), verdict.clone());
            }
        }
        for (field, values) in &self.values {
            let list = state.values.entry(field.clone()).or_default();
            for (hash, first) in values.iter() {
                write!(list, "{hash:032x}{:032x}", first.uuid().as_u128())?;
            }
        }
        Ok(Some(state))
    }

    pub(super) fn load(capacity: usize, mut state: State) -> Result<Self, BoxError> {
        let mut memory = Memory::new(capacity);
        for id in numbers(&state.samples)? {
            let verdict = state.verdicts.remove(&PredictionId::from_uuid(Uuid::from_u128(id)));
            memory.verdicts.entry(id, || verdict.unwrap_or_default());
        }
        for (field, list) in &state.values {
            let mut values = Recent::new(capacity);
            for pair in numbers(list)?.chunks_exact(2) {
                values.entry(pair[0], || PredictionId::from_uuid(Uuid::from_u128(pair[1])));
            }
            memory.values.insert(field.clone(), values);
        }
        memory.largest = state.largest;
        Ok(memory)
    }
}

fn numbers(list: &str) -> Result<Vec<u128>, BoxError> {
    if !list.len().is_multiple_of(DIGITS) || !list.is_ascii() {
        return Err(message("the list of remembered samples is damaged"));
    }
    (0..list.len()).step_by(DIGITS).map(|at| Ok(u128::from_str_radix(&list[at..at + DIGITS], 16)?)).collect()
}
