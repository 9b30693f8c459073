//! What the tests of gates and routers share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::event::{Label, Observation, PredictionId};
use crate::gate::GateContext;
use crate::reference::{Reference, References};
use crate::sample::{Annotation, Annotator, Lane, Sample};
use crate::schema::Schema;

/// References without rows.
pub(crate) fn references(schema: &Schema) -> References {
    References::starting_with(Arc::new(Reference::builder(Arc::new(schema.clone())).finish()))
}

/// A context in the year 2001.
pub(crate) fn context<'a>(schema: &'a Schema, references: &'a References) -> GateContext<'a> {
    GateContext { schema, references, now: at(0) }
}

/// `seconds` after some second of 2001.
pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000_000 + seconds, 0).unwrap()
}

/// The id with number `n`.
pub(crate) fn id(n: u128) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u128(n))
}

/// An empty flagged sample with number `n`.
pub(crate) fn sample(schema: &Schema, n: u128) -> Sample {
    let mut observation = Observation::new(schema);
    observation.id = id(n);
    observation.time = at(n as i64);
    Sample::new(observation, n as u64, Lane::Flagged, 1.0)
}

/// A flagged sample with these numeric values.
pub(crate) fn valued(schema: &Schema, n: u128, values: &[f64]) -> Sample {
    let mut sample = sample(schema, n);
    sample.observation.row.copy_values(values).unwrap();
    sample
}

/// An annotation of sample `n`.
pub(crate) fn annotation(n: u128, annotator: Annotator, label: Label) -> Annotation {
    let sample = id(n);
    Annotation { sample, label: Some(label), annotator, time: at(0), confidence: 1.0, seconds: None, blind: true }
}
