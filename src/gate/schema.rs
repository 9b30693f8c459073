//! The gate that keeps rows out of training which break the schema.

use std::fmt::Write;

use crate::error::{BoxError, message};
use crate::event::predicted_label;
use crate::gate::{Admission, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::schema::{Row, Schema, Target, ViolationKind};
use crate::stage::Stage;

/// Longest list of particulars in a reason, in bytes (cut at a whole violation).
const MOST_DETAIL: usize = 1_000;

/// Quarantines samples whose row breaks the schema or whose output cannot be used.
///
/// A sample passes if its row was encoded without a violation and keeps every rule that [`Schema::check`] knows, and if
/// the output is usable: probabilities that are finite and between 0 and 1, or a finite value. Otherwise it is
/// quarantined with the reason `schema` and all violations (at most about 1,000 bytes of them) in the detail.
///
/// Guarantee: no row that breaks a declared rule passes. It says nothing of rules that the schema does not declare:
/// wrong but allowed values are the business of detectors and of [`Relevance`](crate::Relevance). All lanes are treated
/// alike: a broken row of the random lane is quarantined too, so estimates speak of well-formed traffic only.
///
/// Memory: none. A clean row costs no allocation.
///
/// # Examples
/// ```
/// use feedloop::SchemaGate;
/// let gate = SchemaGate::default().completeness(0.8).allow_unknown_fields();
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SchemaGate {
    completeness: Option<f64>,
    unknown_fields: bool,
    unusable_outputs: bool,
}

impl SchemaGate {
    /// Also asks that at least this share of the fields (nullable ones included) has a value; from 0 to 1.
    pub fn completeness(mut self, min_share: f64) -> Self {
        self.completeness = Some(min_share);
        self
    }

    /// Does not mind fields that the schema does not have.
    pub fn allow_unknown_fields(mut self) -> Self {
        self.unknown_fields = true;
        self
    }

    /// Lets samples pass whose output cannot be used: people can still label the row.
    pub fn allow_unusable_outputs(mut self) -> Self {
        self.unusable_outputs = true;
        self
    }

    /// Share of fields with a value, if it is below the level that was asked for.
    fn incomplete(&self, schema: &Schema, row: &Row) -> Option<(f64, f64)> {
        let least = self.completeness?;
        let fields = schema.fields().len();
        let present = (0..fields).filter(|&field| !row.is_missing(schema, field)).count();
        let share = present as f64 / fields.max(1) as f64;
        (share < least).then_some((share, least))
    }
}

/// Can the output be used: probabilities, or a finite value?
fn usable(target: &Target, output: &[f64]) -> bool {
    let probabilities = |p: &[f64]| p.iter().all(|p| (-1e-6..=1.0 + 1e-6).contains(p));
    predicted_label(target, output).is_some() && (matches!(target, Target::Value) || probabilities(output))
}

impl Stage for SchemaGate {
    fn name(&self) -> &str {
        "schema"
    }

    fn rebase(&mut self, _: &References) -> Result<(), BoxError> {
        match self.completeness {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(message(format!("completeness is {share}, a share from 0 to 1 is expected")))
            }
            _ => Ok(()),
        }
    }
}

impl QualityGate for SchemaGate {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        let (schema, row) = (context.schema, &sample.observation.row);
        let violations = schema.check(row);
        let counted = violations
            .iter()
            .filter(|v| !(self.unknown_fields && matches!(v.kind, ViolationKind::UnknownField(_))))
            .map(ToString::to_string);
        let mut list = Detail::default();
        counted.for_each(|violation| list.add(violation));
        if list.refused() && violations.iter().any(|v| v.field.is_empty()) {
            return Ok(Admission::Quarantine(Reason::new("schema", list.text)));
        }
        if let Some((share, least)) = self.incomplete(schema, row) {
            list.add(format!("only {share:.2} of the fields have a value, at least {least:.2} was asked for"));
        }
        if !self.unusable_outputs && !usable(schema.target(), sample.observation.output()) {
            list.add("the output is not usable".into());
        }
        Ok(if list.refused() { Admission::Quarantine(Reason::new("schema", list.finish())) } else { Admission::Pass })
    }
}

/// A bounded list of particulars.
#[derive(Default)]
struct Detail {
    text: String,
    more: usize,
}

impl Detail {
    fn add(&mut self, what: String) {
        if self.text.len() + what.len() > MOST_DETAIL {
            self.more += 1;
            return;
        }
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(&what);
    }

    fn refused(&self) -> bool {
        !self.text.is_empty() || self.more > 0
    }

    fn finish(mut self) -> String {
        if self.more > 0 {
            let _ = write!(self.text, "; and {} more", self.more);
        }
        self.text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::Output;
    use crate::gate::testing::{context, references, sample};
    use crate::schema::Field;

    fn schema() -> Schema {
        let fields = [
            Field::number("amount").range(0.0, 10.0),
            Field::number("rate").nullable(),
            Field::category("country", ["DE", "FR"]).nullable(),
        ];
        Schema::new(fields, Target::classes(["a", "b"])).unwrap()
    }

    fn verdict(gate: &mut SchemaGate, json: serde_json::Value, output: [f64; 2]) -> Option<String> {
        let (schema, references) = (schema(), references(&schema()));
        let mut sample = sample(&schema, 1);
        sample.observation.row.encode(&schema, &json);
        sample.observation.set_output(Output::Probabilities(&output));
        match gate.admit(&sample, &context(&schema, &references)).unwrap() {
            Admission::Pass => None,
            Admission::Quarantine(reason) => {
                assert_eq!(reason.code, "schema");
                Some(reason.detail)
            }
        }
    }

    #[test]
    fn a_row_that_keeps_the_rules_passes_with_missing_optional_fields() {
        let json = serde_json::json!({"amount": 3.0, "rate": f64::NAN, "country": null});
        assert_eq!(verdict(&mut SchemaGate::default(), json, [0.2, 0.8]), None);
    }

    #[test]
    fn every_violation_is_named() {
        let json = serde_json::json!({"amount": 30.0, "rate": 1.0, "country": "XX", "extra": 1});
        let detail = verdict(&mut SchemaGate::default(), json, [f64::NAN, 0.8]).unwrap();
        for part in ["`amount` is out of range: 30", "XX", "`extra` is unknown", "the output is not usable"] {
            assert!(detail.contains(part), "{part} in {detail}");
        }
    }

    #[test]
    fn unknown_fields_and_unusable_outputs_can_be_allowed() {
        let json = serde_json::json!({"amount": 3.0, "extra": 1});
        let mut gate = SchemaGate::default().allow_unknown_fields();
        assert_eq!(verdict(&mut gate, json.clone(), [0.2, 0.8]), None);
        assert!(verdict(&mut gate, json.clone(), [0.2, 1.8]).is_some(), "not a probability");
        assert_eq!(verdict(&mut gate.allow_unusable_outputs(), json, [0.2, 1.8]), None);
    }

    #[test]
    fn completeness_counts_fields_with_a_value() {
        let mut gate = SchemaGate::default().completeness(0.6);
        let two_of_three = serde_json::json!({"amount": 3.0, "country": "DE"});
        assert_eq!(verdict(&mut gate, two_of_three, [0.2, 0.8]), None);
        let detail = verdict(&mut gate, serde_json::json!({"amount": 3.0}), [0.2, 0.8]).unwrap();
        assert!(detail.contains("only 0.33"), "{detail}");
    }

    #[test]
    fn the_reason_is_bounded_whatever_the_feed_sends() {
        let fields: serde_json::Map<_, _> =
            (0..500).map(|i| (format!("{i}-{}", "x".repeat(90)), serde_json::json!(1))).collect();
        let detail = verdict(&mut SchemaGate::default(), fields.into(), [0.2, 0.8]).unwrap();
        assert!(detail.len() < MOST_DETAIL + 50 && detail.contains("more"), "{}", detail.len());
    }

    #[test]
    fn a_row_of_another_schema_is_quarantined() {
        let (schema, other) = (schema(), Schema::numeric(1, Target::classes(["a", "b"])).unwrap());
        let references = references(&schema);
        let verdict = SchemaGate::default().completeness(0.5).admit(&sample(&other, 1), &context(&schema, &references));
        assert!(matches!(verdict, Ok(Admission::Quarantine(_))));
    }

    #[test]
    fn a_share_that_is_none_is_reported_when_the_pipeline_is_built() {
        let references = references(&schema());
        assert!(SchemaGate::default().completeness(1.5).rebase(&references).is_err());
        assert!(SchemaGate::default().completeness(f64::NAN).rebase(&references).is_err());
    }
}
