//! Quality gates: what may enter training.

mod class_balance;
mod completeness;
mod consistency;
mod dedup;
mod leakage;
mod missing;
mod near;
mod recent;
mod relevance;
mod schema;
mod source_cap;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::error::BoxError;
use crate::event::{Label, Observation, PredictionId};
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::schema::Schema;
use crate::stage::Stage;

pub use class_balance::ClassBalance;
pub use completeness::{Completeness, CompletenessReport, FieldCompleteness};
pub use consistency::LabelConsistency;
pub use dedup::Deduplicate;
pub use leakage::Leakage;
pub use relevance::Relevance;
pub use schema::{Rule, RuleReport, SchemaGate, SchemaReport};
pub use source_cap::SourceCap;

/// What a gate may look at beside the sample.
#[derive(Debug, Clone, Copy)]
pub struct GateContext<'a> {
    /// The schema of the rows.
    pub schema: &'a Schema,
    /// The references in force.
    pub references: &'a References,
    /// The present time.
    pub now: DateTime<Utc>,
}

/// Verdict on one sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It may go on.
    Pass,
    /// It is kept aside with the reason.
    Quarantine(Reason),
}

/// Verdict on a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Audit {
    /// It may be sealed; the notes go into its manifest.
    Pass(Vec<Reason>),
    /// It must not be sealed now; it is tried again later.
    Hold(Reason),
    /// These samples are taken out and quarantined; the gate is then asked about the rest.
    Quarantine(Vec<(PredictionId, Reason)>),
    /// The labels of these samples are in doubt: they are taken out, and one more person than so far is asked, so that a
    /// majority decides; the gate is then asked about the rest. A sample comes back with
    /// [`Sample::is_adjudicated`]. One whose label is the world's ([`Annotator::GroundTruth`](crate::Annotator::GroundTruth))
    /// cannot be outvoted and is quarantined instead.
    Adjudicate(Vec<(PredictionId, Reason)>),
    /// A person must agree before this batch is sealed: it is held, and the rows of this moment go on after
    /// [`Pipeline::sign_off`](crate::Pipeline::sign_off), whose record stands in the manifest.
    SignOff(Reason),
}

/// One row of a batch that is about to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct DraftRow<'a> {
    /// The sample.
    pub sample: &'a Sample,
    /// The label that would be trained on.
    pub label: Label,
    /// Its training weight.
    pub weight: f64,
}

/// A batch that is about to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct BatchDraft<'a> {
    /// Its rows, oldest first.
    pub rows: &'a [DraftRow<'a>],
}

/// Decides what may enter training: sample by sample when it is flagged, and once more over the whole batch.
///
/// Every method passes everything unless it is overridden.
pub trait QualityGate: Stage {
    /// Looks at one sample before it is routed.
    ///
    /// # Errors
    /// Only if the gate itself cannot work; then the sample waits and is tried again.
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        let _ = (sample, context);
        Ok(Admission::Pass)
    }

    /// Looks at a batch before it is sealed.
    ///
    /// # Errors
    /// Only if the gate itself cannot work; then the batch is held.
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let _ = (batch, context);
        Ok(Audit::Pass(Vec::new()))
    }

    /// What the sample weighs in training beside others, as far as this gate knows: how often its content came, for example.
    /// Asked when a batch is sealed; a weight that is not finite or not above 0 counts as 1. Weights of several gates are
    /// multiplied.
    fn weight(&self, sample: &Sample) -> f64 {
        let _ = sample;
        1.0
    }

    /// Is the feed broken, judging by the `newest` live rows (oldest first, at most 500, up to the row at which a drift
    /// alarm was raised)? Then the alarm is recorded as suppressed, with the reason, and nothing follows from it.
    ///
    /// # Errors
    /// Only if the gate itself cannot work; then the alarm stands.
    fn feed(&mut self, newest: &[&Observation], context: &GateContext<'_>) -> Result<Option<Reason>, BoxError> {
        let _ = (newest, context);
        Ok(None)
    }
}

impl<G: QualityGate + ?Sized> QualityGate for Box<G> {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        (**self).admit(sample, context)
    }

    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        (**self).audit(batch, context)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        (**self).weight(sample)
    }

    fn feed(&mut self, newest: &[&Observation], context: &GateContext<'_>) -> Result<Option<Reason>, BoxError> {
        (**self).feed(newest, context)
    }
}

/// A gate made of a closure that looks at single samples.
pub fn gate_fn<F>(name: impl Into<String>, admit: F) -> GateFn<F>
where
    F: FnMut(&Sample, &GateContext<'_>) -> Result<Admission, BoxError> + Send + 'static,
{
    GateFn { name: name.into(), admit }
}

/// See [`gate_fn`].
pub struct GateFn<F> {
    name: String,
    admit: F,
}

impl<F: Send + 'static> Stage for GateFn<F> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<F> QualityGate for GateFn<F>
where
    F: FnMut(&Sample, &GateContext<'_>) -> Result<Admission, BoxError> + Send + 'static,
{
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        (self.admit)(sample, context)
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn QualityGate>, _: Arc<Schema>) {}
