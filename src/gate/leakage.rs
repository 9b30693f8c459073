//! The gate that keeps out of training what is to judge models.

use std::sync::Arc;

use super::near::{NearRows, Space, levels};
use crate::dataset::Dataset;
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::{Admission, Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::{Reason, Sample};
use crate::schema::{Row, Schema};
use crate::stage::{Blind, Stage};
use crate::stats::sampling::unit_interval;

const SEED: u64 = 0x6c65_616b_6167_6500;

/// Keeps a frozen audit set, reserved contents and labels that have yet to judge out of every batch.
///
/// - [`audit_set`](Leakage::audit_set): a sample with the content of a row of the set
///   ([`Row::content_hash`](crate::Row::content_hash)) is quarantined as `in_audit_set`, and with
///   [`audit_set_within`](Leakage::audit_set_within) also one that is nearly equal to a row.
/// - [`reserve`](Leakage::reserve): a share of all contents, chosen by a hash of the content, is labelled but never trained
///   on: quarantined as `reserved_for_audit` when a batch is sealed.
/// - [`expects_judging`](Leakage::expects_judging): a label of a judging lane trains only after it has judged.
///
/// Rows of lanes that judge models ([`Lane::judges`](crate::Lane::judges)) pass when they come, so that they are labelled
/// and judge; they are taken out when the batch is sealed. Without any of the three this gate passes everything.
///
/// Guarantee: no row of a sealed batch has the content of the audit set or a reserved one, whatever the order of the rows,
/// up to a collision of 128-bit hashes. What is only similar to a reserved content may train: quarantine such rows by
/// [`Deduplicate::near`](crate::Deduplicate::near). Batches that were sealed before the set was named are not looked
/// at again.
///
/// Memory: 16 bytes per row of the audit set; with a distance also 8 per numeric column and about 100 per row. Nothing is
/// saved: the settings are the state.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use feedloop::{Dataset, Label, Leakage, Schema, Target};
/// let schema = Arc::new(Schema::numeric(2, Target::Value)?);
/// let audit = Dataset::from_values(schema, [([1.0, 2.0], Label::Value(3.0))])?;
/// let gate = Leakage::default().audit_set(&audit).reserve(0.02).expects_judging();
/// # Ok::<(), feedloop::SchemaError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Leakage {
    /// Sorted.
    contents: Vec<u128>,
    schemas: Vec<Arc<Schema>>,
    near: Vec<NearSet>,
    reserve: f64,
    expects_judging: bool,
    units: Option<Arc<Reference>>,
}

/// An audit set that is kept away from.
#[derive(Debug, Clone)]
struct NearSet {
    distance: f64,
    rows: NearRows<usize>,
}

impl Leakage {
    /// Keeps the contents of `set` out of every batch. Called again, it adds to the set.
    pub fn audit_set(mut self, set: &Dataset) -> Self {
        self.contents.extend(set.rows().iter().map(Row::content_hash));
        self.contents.sort_unstable();
        self.contents.dedup();
        self.schemas.push(set.schema().clone());
        self
    }

    /// As [`Leakage::audit_set`], and keeps out what is nearly equal to a row of `set`: at most `distance` away as
    /// [`Deduplicate::near`](crate::Deduplicate::near) measures it, by the training data's standard deviations.
    pub fn audit_set_within(mut self, set: &Dataset, distance: f64) -> Self {
        let mut rows = NearRows::new(Space::none());
        for (number, row) in set.rows().iter().enumerate() {
            rows.push(levels(row, None), row.values(), number);
        }
        self.near.push(NearSet { distance, rows });
        self.units = None;
        self.audit_set(set)
    }

    /// Keeps this share of all contents, at least 0 and less than 1, for a set that never trains. A content is chosen by
    /// its hash, so that all of its copies are, in every process; a larger share holds all that a smaller one holds. The
    /// quarantined samples with their labels are the set.
    pub fn reserve(mut self, share: f64) -> Self {
        self.reserve = share;
        self
    }

    /// Holds a batch, with the reason `unjudged`, in which a label of a judging lane from a person or the world has not
    /// judged the models that were live when it came. A pipeline with an evaluator never seals such a row; this checks it
    /// independently. Without an evaluator nothing judges, and every batch with such rows would be held: hence the option.
    pub fn expects_judging(mut self) -> Self {
        self.expects_judging = true;
        self
    }

    fn learn(&mut self, reference: &Arc<Reference>) {
        if self.near.is_empty() || self.units.as_ref().is_some_and(|units| Arc::ptr_eq(units, reference)) {
            return;
        }
        let space = Space::new(reference);
        for set in &mut self.near {
            set.rows.rescale(space.clone());
        }
        self.units = Some(reference.clone());
    }

    /// Why this row is in the audit set.
    fn in_audit_set(&self, row: &Row, content: u128) -> Option<Reason> {
        if self.contents.binary_search(&content).is_ok() {
            return Some(Reason::new("in_audit_set", "a row of the audit set has the same content"));
        }
        if self.near.is_empty() {
            return None;
        }
        let levels = levels(row, None);
        self.near.iter().find_map(|set| {
            let (found, number) = set.rows.nearest(levels, row.values(), set.distance, |_| true)?;
            let text = format!("at distance {found:.4} from row {number} of the audit set");
            Some(Reason::new("in_audit_set", text))
        })
    }

    fn is_reserved(&self, content: u128) -> bool {
        self.reserve > 0.0 && unit_interval(SEED, &content.to_le_bytes()) < self.reserve
    }
}

/// Has a label that is to judge not done so?
fn is_unjudged(row: &DraftRow<'_>) -> bool {
    let sample = row.sample;
    let fair = sample.label.as_ref().is_none_or(|label| label.annotator.is_fair());
    sample.lane.judges() && fair && !sample.judged
}

impl Stage for Leakage {
    fn name(&self) -> &str {
        "leakage"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if !(0.0..1.0).contains(&self.reserve) {
            return Err(message(format!("reserve is {}, a share from 0 to less than 1 is expected", self.reserve)));
        }
        if let Some(set) = self.near.iter().find(|set| !(set.distance.is_finite() && set.distance >= 0.0)) {
            let text = format!("the distance is {}, a finite number of at least 0 is expected", set.distance);
            return Err(message(text));
        }
        let schema = references.training.schema();
        if let Some(other) = self.schemas.iter().find(|other| *other != schema) {
            let (found, expected) = (other.fingerprint(), schema.fingerprint());
            return Err(message(format!("the audit set has the schema {found}, the pipeline {expected}")));
        }
        self.learn(&references.training);
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        self.near.iter().find_map(|set| set.rows.space().blind()).into_iter().collect()
    }
}

impl QualityGate for Leakage {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        if sample.lane.judges() || self.contents.is_empty() {
            return Ok(Admission::Pass);
        }
        self.learn(&context.references.training);
        let row = &sample.observation.row;
        Ok(self.in_audit_set(row, row.content_hash()).map_or(Admission::Pass, Admission::Quarantine))
    }

    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        self.learn(&context.references.training);
        let mut refused: Vec<(PredictionId, Reason)> = Vec::new();
        for DraftRow { sample, .. } in batch.rows {
            let row = &sample.observation.row;
            let content = row.content_hash();
            if let Some(reason) = self.in_audit_set(row, content) {
                refused.push((sample.id(), reason));
            } else if self.is_reserved(content) {
                let text = format!("a share of {} of all contents never trains, this one among them", self.reserve);
                refused.push((sample.id(), Reason::new("reserved_for_audit", text)));
            }
        }
        if !refused.is_empty() {
            return Ok(Audit::Quarantine(refused));
        }
        let unjudged = batch.rows.iter().filter(|row| self.expects_judging && is_unjudged(row));
        Ok(match unjudged.clone().map(|row| row.sample.id()).min() {
            Some(first) => {
                let count = unjudged.count();
                let text = format!("{count} labels of judging lanes have not judged yet, sample {first} among them");
                Audit::Hold(Reason::new("unjudged", text))
            }
            None => Audit::Pass(Vec::new()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::Label;
    use crate::gate::testing::{annotation, context, id, valued};
    use crate::sample::{Annotator, Lane};
    use crate::schema::Target;
    use crate::stats::binomial::interval;

    struct Bench {
        schema: Arc<Schema>,
        references: References,
    }

    impl Bench {
        /// Two columns of deviation 1 and 100.
        fn new() -> Self {
            let schema = Arc::new(Schema::numeric(2, Target::Value).unwrap());
            let data = Self::data(&schema, (0..400).map(|i| [f64::from(i % 2 * 2), f64::from(i / 2 % 2 * 200)]));
            Bench { references: References::starting_with(Arc::new(Reference::fit(&data).unwrap())), schema }
        }

        fn data(schema: &Arc<Schema>, rows: impl IntoIterator<Item = [f64; 2]>) -> Dataset {
            let rows = rows.into_iter().map(|row| (row, Label::Value(0.0)));
            Dataset::from_values(schema.clone(), rows).unwrap()
        }

        fn audit_set(&self) -> Dataset {
            Self::data(&self.schema, [[5.0, 6.0], [7.0, 8.0]])
        }

        fn sample(&self, n: u128, values: [f64; 2], lane: Lane) -> Sample {
            let mut sample = valued(&self.schema, n, &values);
            sample.lane = lane;
            sample
        }

        fn admitted(&self, gate: &mut Leakage, sample: &Sample) -> Option<String> {
            match gate.admit(sample, &context(&self.schema, &self.references)).unwrap() {
                Admission::Pass => None,
                Admission::Quarantine(reason) => Some(reason.code),
            }
        }

        fn audit(&self, gate: &mut Leakage, samples: &[Sample]) -> Audit {
            let rows: Vec<_> =
                samples.iter().map(|sample| DraftRow { sample, label: Label::Value(0.0), weight: 1.0 }).collect();
            gate.audit(&BatchDraft { rows: &rows }, &context(&self.schema, &self.references)).unwrap()
        }

        fn taken_out(&self, gate: &mut Leakage, samples: &[Sample]) -> Vec<(PredictionId, String)> {
            match self.audit(gate, samples) {
                Audit::Quarantine(list) => list.into_iter().map(|(id, reason)| (id, reason.code)).collect(),
                Audit::Pass(_) => Vec::new(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn nothing_of_the_audit_set_is_trained_on_and_judging_rows_judge_first() {
        let bench = Bench::new();
        let mut gate = Leakage::default().audit_set(&bench.audit_set());
        let code = Some("in_audit_set".to_owned());
        assert_eq!(bench.admitted(&mut gate, &bench.sample(1, [5.0, 6.0], Lane::Flagged)), code);
        assert_eq!(bench.admitted(&mut gate, &bench.sample(2, [5.0, 8.0], Lane::Flagged)), None);
        assert_eq!(bench.admitted(&mut gate, &bench.sample(3, [7.0, 8.0], Lane::Random)), None, "it may judge");
        let rows = [
            bench.sample(1, [1.0, 1.0], Lane::Flagged),
            bench.sample(2, [7.0, 8.0], Lane::Random),
            bench.sample(3, [5.0, 6.0], Lane::Outcome),
        ];
        let expected = [2, 3].map(|n| (id(n), "in_audit_set".to_owned()));
        assert_eq!(bench.taken_out(&mut gate, &rows), expected);
        assert_eq!(bench.taken_out(&mut gate, &rows[..1]), []);
        assert_eq!(bench.taken_out(&mut Leakage::default(), &rows), []);
    }

    #[test]
    fn rows_near_the_audit_set_are_kept_out_in_units_of_the_training_data() {
        let bench = Bench::new();
        let mut gate = Leakage::default().audit_set_within(&bench.audit_set(), 0.1);
        gate.rebase(&bench.references).unwrap();
        assert_eq!(gate.blind(), []);
        let near = bench.sample(1, [5.05, 13.0], Lane::Flagged);
        assert!(bench.admitted(&mut gate, &near).is_some());
        assert_eq!(bench.taken_out(&mut gate, &[near]).len(), 1);
        assert_eq!(bench.admitted(&mut gate, &bench.sample(2, [5.05, 18.0], Lane::Flagged)), None);
        assert_eq!(bench.admitted(&mut gate, &bench.sample(3, [5.0, f64::NAN], Lane::Flagged)), None);
    }

    #[test]
    fn an_audit_set_from_before_the_schema_got_a_column_is_refused_and_near_nothing() {
        let old = Bench::new();
        let schema = Arc::new(Schema::numeric(3, Target::Value).unwrap());
        let data = (0..400).map(|i| (vec![f64::from(i % 2 * 2); 3], Label::Value(0.0)));
        let data = Dataset::from_values(schema.clone(), data).unwrap();
        let references = References::starting_with(Arc::new(Reference::fit(&data).unwrap()));
        let bench = Bench { schema, references };
        let mut gate = Leakage::default().audit_set_within(&old.audit_set(), 9.0);
        assert!(gate.rebase(&bench.references).unwrap_err().to_string().contains("schema"));
        // The pipeline is not built then; should the gate be asked all the same, it takes no row for another.
        let sample = valued(&bench.schema, 1, &[5.0, 6.0, 0.0]);
        assert_eq!(bench.admitted(&mut gate, &sample), None);
        assert_eq!(bench.taken_out(&mut gate, &[sample]), []);
    }

    #[test]
    fn a_share_of_the_contents_is_labelled_but_never_trained_on() {
        let bench = Bench::new();
        let mut gate = Leakage::default().reserve(0.1);
        let rows: Vec<Sample> = (0..4_000)
            .map(|n| bench.sample(n, [n as f64, 0.0], if n % 2 == 0 { Lane::Flagged } else { Lane::Random }))
            .collect();
        assert!(rows.iter().all(|sample| bench.admitted(&mut gate, sample).is_none()), "they are labelled first");
        let reserved = bench.taken_out(&mut gate, &rows);
        assert!(reserved.iter().all(|(_, code)| code == "reserved_for_audit"));
        let share = interval(reserved.len() as u64, 4_000, 0.9999);
        assert!(share.low < 0.1 && 0.1 < share.high, "{}", reserved.len());
        assert_eq!(bench.taken_out(&mut gate.clone(), &rows), reserved, "the same in every process");
        let wider = bench.taken_out(&mut Leakage::default().reserve(0.2), &rows);
        assert!(reserved.iter().all(|row| wider.contains(row)), "a larger share holds the smaller one");
        let copy = bench.sample(9_999, [reserved[0].0.uuid().as_u128() as f64, 0.0], Lane::Outcome);
        assert_eq!(bench.taken_out(&mut gate, &[copy]).len(), 1);
    }

    #[test]
    fn a_label_that_has_yet_to_judge_holds_the_batch_if_judging_is_expected() {
        let bench = Bench::new();
        let mut row = bench.sample(1, [1.0, 1.0], Lane::Random);
        row.label = Some(annotation(1, Annotator::Human("ann".into()), Label::Value(0.0)));
        let held = |row: &Sample| matches!(bench.audit(&mut Leakage::default().expects_judging(), std::slice::from_ref(row)), Audit::Hold(reason) if reason.code == "unjudged");
        assert!(held(&row));
        assert!(!matches!(bench.audit(&mut Leakage::default(), &[row.clone()]), Audit::Hold(_)));
        let mut judged = row.clone();
        judged.judged = true;
        let mut of_a_user = row.clone();
        of_a_user.label = Some(annotation(1, Annotator::User("eve".into()), Label::Value(0.0)));
        let mut flagged = row.clone();
        flagged.lane = Lane::Flagged;
        for passes in [judged, of_a_user, flagged] {
            assert!(!held(&passes), "{passes:?}");
        }
    }

    #[test]
    fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
        let bench = Bench::new();
        let other = Dataset::new(Arc::new(Schema::numeric(3, Target::Value).unwrap()));
        let bad = [
            Leakage::default().reserve(1.0),
            Leakage::default().reserve(f64::NAN),
            Leakage::default().audit_set_within(&bench.audit_set(), f64::INFINITY),
            Leakage::default().audit_set(&other),
        ];
        for mut gate in bad {
            assert!(gate.rebase(&bench.references).is_err(), "{gate:?}");
        }
        let mut blind = Leakage::default().audit_set_within(&bench.audit_set(), 0.1);
        blind.rebase(&crate::gate::testing::references(&bench.schema)).unwrap();
        assert_eq!(blind.blind().len(), 1);
    }
}
