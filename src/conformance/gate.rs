//! What every gate promises.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::World;
use crate::event::Observation;
use crate::gate::{Admission, Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::{Annotator, Lane, Sample};
use crate::schema::Schema;
use crate::stage::Snapshot;

/// Checks that the gates which `make` makes keep the promises of [`QualityGate`], as they are and boxed.
///
/// Checked for classes and for values: a name that does not change; `rebase` may be repeated, also on references without
/// rows; no row panics or fails, whether its values are missing, infinite, unseen or of another schema; nor does a batch,
/// the empty one included; refusals have a reason and name samples of the batch; a sample that is offered again gets the
/// same verdict; verdicts do not depend on a snapshot and restore in between, nor on what an instance saw before rebase
/// and restore; a foreign state is refused.
///
/// # Panics
/// A promise is broken; the message says which.
pub fn gate<G: QualityGate>(make: impl Fn() -> G) {
    suite(&make);
    suite(&|| Box::new(make()) as Box<dyn QualityGate>);
}

const SAMPLES: usize = 300;

fn suite<G: QualityGate>(make: &impl Fn() -> G) {
    let name = make().name().to_owned();
    assert!(!name.is_empty(), "a gate has a name");
    assert_eq!(name, make().name(), "every instance has the same name");
    for world in [World::classification("gate"), World::regression("gate")] {
        let mut ordinary = world.clone();
        let references = ordinary.references(400);
        let empty = References::starting_with(Arc::new(Reference::builder(world.schema().clone()).finish()));
        let case = Case { make, name: &name, schema: world.schema().clone() };
        let samples = super::samples(world, SAMPLES);
        case.broken_rows(&references);
        case.broken_rows(&empty);
        case.verdicts(&mut case.fitted(&empty), &samples, &empty);
        case.survives_restarts(&samples, &references);
    }
}

struct Case<'a, F> {
    make: &'a F,
    name: &'a str,
    schema: Arc<Schema>,
}

impl<G: QualityGate, F: Fn() -> G> Case<'_, F> {
    fn fitted(&self, references: &References) -> G {
        let mut gate = (self.make)();
        for time in ["once", "twice"] {
            let done = gate.rebase(references);
            assert!(done.is_ok(), "`{}` cannot be rebased {time}: {done:?}", self.name);
            assert_eq!(gate.name(), self.name, "the name does not change");
        }
        gate
    }

    fn admit(&self, gate: &mut G, sample: &Sample, references: &References) -> Admission {
        let context = GateContext { schema: &self.schema, references, now: sample.observation.time };
        let verdict = gate.admit(sample, &context);
        assert!(verdict.is_ok(), "`{}` failed on {:?}: {verdict:?}", self.name, sample.observation.row);
        let verdict = verdict.unwrap_or(Admission::Pass);
        if let Admission::Quarantine(reason) = &verdict {
            assert!(!reason.code.is_empty() && !reason.detail.is_empty(), "`{}` refuses without a reason", self.name);
        }
        verdict
    }

    fn audit(&self, gate: &mut G, samples: &[Sample], references: &References) -> Audit {
        let label = |sample: &Sample| sample.label.as_ref().and_then(|annotation| annotation.label);
        let rows: Vec<_> =
            samples.iter().filter_map(|sample| Some(DraftRow { sample, label: label(sample)?, weight: 1.0 })).collect();
        let now = samples.last().map_or(DateTime::<Utc>::UNIX_EPOCH, |sample| sample.observation.time);
        let verdict = gate.audit(&BatchDraft { rows: &rows }, &GateContext { schema: &self.schema, references, now });
        assert!(verdict.is_ok(), "`{}` failed on a batch of {}: {verdict:?}", self.name, rows.len());
        let verdict = verdict.unwrap_or(Audit::Pass(Vec::new()));
        match &verdict {
            Audit::Pass(notes) => assert!(notes.iter().all(|note| !note.code.is_empty())),
            Audit::Hold(reason) | Audit::SignOff(reason) => {
                assert!(!reason.detail.is_empty(), "`{}` holds without a reason", self.name)
            }
            Audit::Quarantine(refused) | Audit::Adjudicate(refused) => {
                for (id, reason) in refused {
                    assert!(!reason.detail.is_empty(), "`{}` refuses without a reason", self.name);
                    let known = rows.iter().any(|row| row.sample.id() == *id);
                    assert!(known, "`{}` refuses {id}, which is not in the batch", self.name);
                }
            }
        }
        verdict
    }

    /// Everything that the gate says of the samples one by one, and of batches of them.
    fn verdicts(&self, gate: &mut G, samples: &[Sample], references: &References) -> Vec<String> {
        let mut said = Vec::new();
        for batch in samples.chunks(60) {
            for sample in batch {
                let verdict = self.admit(gate, sample, references);
                let again = self.admit(gate, sample, references);
                assert_eq!(verdict, again, "`{}` changes its mind about a sample that is offered again", self.name);
                said.push(format!("{verdict:?}"));
            }
            said.push(format!("{:?}", self.audit(gate, batch, references)));
        }
        said
    }

    fn broken_rows(&self, references: &References) {
        let mut gate = self.fitted(references);
        let mut samples = Vec::new();
        for (number, row) in super::broken_rows(&self.schema).into_iter().enumerate() {
            let mut observation = Observation::new(&self.schema);
            observation.row = row;
            observation.id = crate::PredictionId::from_uuid(uuid::Uuid::from_u64_pair(7, number as u64));
            let mut sample = Sample::new(observation, number as u64, Lane::Flagged, 1.0);
            sample.label = Some(super::annotation(&sample, Annotator::GroundTruth, super::some_label(&self.schema)));
            self.admit(&mut gate, &sample, references);
            samples.push(sample);
        }
        self.audit(&mut gate, &samples, references);
        self.audit(&mut gate, &samples[..1], references);
        self.audit(&mut gate, &[], references);
    }

    fn survives_restarts(&self, samples: &[Sample], references: &References) {
        let whole = self.verdicts(&mut self.fitted(references), samples, references);
        for at in [0, 60, 240] {
            let mut first = self.fitted(references);
            let mut said = self.verdicts(&mut first, &samples[..at], references);
            let snapshot = super::saved(&first, self.name);
            let mut second = self.fitted(references);
            super::restored(&mut second, &snapshot, self.name);
            assert_eq!(super::saved(&second, self.name), snapshot, "`{}` has another state after a restart", self.name);
            said.extend(self.verdicts(&mut second, &samples[at..], references));
            assert_eq!(said, whole, "`{}` decides otherwise after a restart at {at}", self.name);
        }
        let mut used = self.fitted(references);
        let new = super::saved(&used, self.name);
        self.verdicts(&mut used, samples, references);
        let done = used.rebase(references);
        assert!(done.is_ok(), "`{}` cannot be rebased in use: {done:?}", self.name);
        super::restored(&mut used, &new, self.name);
        if new != Snapshot::Stateless {
            assert_eq!(self.verdicts(&mut used, samples, references), whole, "`{}` keeps something", self.name);
        }
        super::refuses_foreign_states(&mut self.fitted(references), self.name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::event::Label;
    use crate::sample::Annotation;
    use crate::schema::{Row, Target};
    use crate::{
        ClassBalance, Completeness, Deduplicate, LabelConsistency, Leakage, Reason, Relevance, SchemaGate, SourceCap,
        gate_fn,
    };

    #[test]
    fn our_gates_keep_their_promises() {
        gate(Completeness::default);
        gate(|| Completeness::default().overall(0.999).every_field(0.99));
        gate(SchemaGate::default);
        gate(|| SchemaGate::default().completeness(0.9).allow_unknown_fields().allow_unusable_outputs());
        gate(Deduplicate::exact);
        gate(|| Deduplicate::exact().capacity(20).window(TimeDelta::seconds(100)));
        gate(|| Deduplicate::exact().near(0.5).near_capacity(50));
        gate(|| Leakage::default().reserve(0.2).expects_judging());
        gate(SourceCap::default);
        gate(|| SourceCap::default().annotators(0.1).users(0.1).segment("kind", 0.3));
        gate(ClassBalance::default);
        gate(|| ClassBalance::default().hold_below(15));
        gate(LabelConsistency::default);
        gate(|| LabelConsistency::default().tolerance(0.1).near(0.3).confident_learning(20));
        gate(|| LabelConsistency::default().tolerance(0.5).capacity(50));
        gate(Relevance::default);
        gate(|| gate_fn("mine", |_, _| Ok(Admission::Pass)));
    }

    fn broken<G: QualityGate>(make: impl Fn() -> G) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gate(make))).is_err()
    }

    #[test]
    fn a_gate_that_forgets_refuses_without_reason_or_fails_on_bad_rows_is_found_out() {
        assert!(broken(|| {
            let mut seen = 0;
            gate_fn("forgets", move |_, _| {
                seen += 1;
                Ok(if seen > 400 { Admission::Quarantine(Reason::new("many", "many")) } else { Admission::Pass })
            })
        }));
        assert!(broken(|| gate_fn("silent", |_, _| Ok(Admission::Quarantine(Reason::new("", ""))))));
        assert!(broken(|| {
            gate_fn("strict", |sample, _| {
                if sample.observation.row.values()[0].is_nan() { Err("missing".into()) } else { Ok(Admission::Pass) }
            })
        }));
    }

    #[test]
    fn the_rows_and_labels_of_the_suite_are_of_all_kinds() {
        let samples = super::super::samples(World::classification("gate"), SAMPLES);
        let schema = World::classification("gate").schema().clone();
        assert!(samples.iter().any(|s| matches!(s.label.as_ref().unwrap().annotator, Annotator::Model(_))));
        assert!(samples.iter().any(|sample| sample.observation.row.values()[0].is_nan()));
        let hashes: std::collections::BTreeSet<_> =
            samples.iter().map(|sample| sample.observation.row.content_hash()).collect();
        assert!(hashes.len() < samples.len(), "there are copies");
        let rows: Vec<Row> = super::super::broken_rows(&schema);
        assert!(rows.iter().any(|row| row.values().len() != schema.value_columns().len()));
        let _: (Annotation, Label, Target) =
            (samples[0].label.clone().unwrap(), super::super::some_label(&schema), schema.target().clone());
    }
}
