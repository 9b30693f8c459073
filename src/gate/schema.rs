//! The gate that keeps rows out of training which break the schema.

mod memory;
mod report;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use self::memory::Memory;
use self::report::Tally;
pub use self::report::{Rule, RuleReport, SchemaReport};
use crate::error::{BoxError, message};
use crate::event::predicted_label;
use crate::gate::{Admission, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::schema::{Row, Schema, Target, Violation, ViolationKind};
use crate::stage::{Snapshot, Stage};

const FORMAT: u32 = 1;
/// Longest list of particulars in a reason, in bytes (cut at a whole violation).
const MOST_DETAIL: usize = 1_000;
/// Samples and values that are remembered for unique and increasing fields.
const CAPACITY: usize = 100_000;

/// A rule across fields: does the row keep it?
type Across = Box<dyn Fn(&Row, &Schema) -> bool + Send>;

/// Quarantines samples whose row breaks the schema or whose output cannot be used.
///
/// A sample passes if its row was encoded without a violation and keeps every rule of its fields and every
/// [rule across fields](SchemaGate::rule), and if the output is usable: probabilities that are finite and between 0 and
/// 1, or a finite value. Otherwise it is quarantined with the reason `schema` and all violations (at most about 1,000
/// bytes of them) in the detail. [`SchemaGate::report`] counts them per rule.
///
/// Guarantee: no row that breaks a declared rule passes. It says nothing of rules that the schema does not declare:
/// wrong but allowed values are the business of detectors and of [`Relevance`](crate::Relevance). All lanes are treated
/// alike: a broken row of the random lane is quarantined too, so estimates speak of well-formed traffic only.
///
/// Verdicts do not depend on the order of the samples, with two exceptions, which need other rows: of samples with the
/// same value in a [`unique`](crate::Field::unique) field the first one passes, and an
/// [`increasing`](crate::Field::increasing) field is compared with the samples before. Both look back at samples that
/// passed, within what is [remembered](SchemaGate::remember); a remembered sample that is offered again gets the same
/// verdict.
///
/// Memory: a few numbers per broken rule. For schemas with unique or increasing fields about 100 bytes per remembered
/// sample and another 70 per unique field; a snapshot takes about as much. A clean row costs no allocation otherwise.
///
/// # Examples
/// ```
/// use feedloop::SchemaGate;
/// let gate = SchemaGate::default()
///     .completeness(0.8)
///     .allow_unknown_fields()
///     .rule("net_at_most_gross", |row, _| row.values()[0].is_nan() || row.values()[0] <= row.values()[1]);
/// assert_eq!(gate.report().refused, 0);
/// ```
pub struct SchemaGate {
    completeness: Option<f64>,
    unknown_fields: bool,
    unusable_outputs: bool,
    rules: Vec<(String, Across)>,
    capacity: usize,
    memory: Memory,
    tally: Tally,
}

#[derive(Serialize, Deserialize)]
struct State {
    tally: Tally,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<memory::State>,
}

impl Default for SchemaGate {
    fn default() -> Self {
        SchemaGate {
            completeness: None,
            unknown_fields: false,
            unusable_outputs: false,
            rules: Vec::new(),
            capacity: CAPACITY,
            memory: Memory::new(CAPACITY),
            tally: Tally::default(),
        }
    }
}

impl std::fmt::Debug for SchemaGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules: Vec<&str> = self.rules.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("SchemaGate")
            .field("completeness", &self.completeness)
            .field("unknown_fields", &self.unknown_fields)
            .field("unusable_outputs", &self.unusable_outputs)
            .field("rules", &rules)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
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

    /// Adds a rule across fields: samples pass only if `keeps` is true of their row.
    ///
    /// It is asked about every row that has the shape of the schema, broken ones and rows with missing values (NaN)
    /// included. If it panics, the gate has failed and the pipeline treats it as any stage that fails.
    pub fn rule(mut self, name: impl Into<String>, keeps: impl Fn(&Row, &Schema) -> bool + Send + 'static) -> Self {
        self.rules.push((name.into(), Box::new(keeps)));
        self
    }

    /// Remembers at most so many samples, and as many values of each unique field; 100,000 unless told. Without unique
    /// or increasing fields nothing is remembered.
    pub fn remember(mut self, samples: usize) -> Self {
        self.capacity = samples;
        self.memory = Memory::new(samples);
        self
    }

    /// What was refused, by rule, since the gate was made; it survives restarts.
    ///
    /// A sample counts each time it is offered: again after a failure of a later gate.
    pub fn report(&self) -> SchemaReport {
        self.tally.report()
    }

    /// Share of fields with a value, if it is below the level that was asked for.
    fn incomplete(&self, schema: &Schema, row: &Row) -> Option<(f64, f64)> {
        let least = self.completeness?;
        let fields = schema.fields().len();
        let present = (0..fields).filter(|&field| !row.is_missing(schema, field)).count();
        let share = present as f64 / fields.max(1) as f64;
        (share < least).then_some((share, least))
    }

    /// Everything that is wrong with the row of a sample.
    fn violations(&mut self, sample: &Sample, schema: &Schema) -> Vec<Violation> {
        let row = &sample.observation.row;
        let mut violations = schema.check_at(row, sample.observation.time);
        if self.unknown_fields {
            violations.retain(|violation| !matches!(violation.kind, ViolationKind::UnknownField(_)));
        }
        if schema.has_shape_of(row) {
            violations.extend(self.memory.violations(sample, schema));
            let broken = self.rules.iter().filter(|(_, keeps)| !keeps(row, schema));
            violations.extend(
                broken.map(|(name, _)| Violation { field: String::new(), kind: ViolationKind::Rule(name.clone()) }),
            );
        }
        violations
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
        if let Some(share) = self.completeness.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(message(format!("completeness is {share}, a share from 0 to 1 is expected")));
        }
        if self.capacity == 0 {
            return Err(message("remember is 0, at least 1 sample must be remembered"));
        }
        let twice = |(at, (name, _)): (usize, &(String, Across))| self.rules[..at].iter().any(|(n, _)| n == name);
        match self.rules.iter().enumerate().position(twice) {
            Some(at) => Err(message(format!("two rules are called `{}`", self.rules[at].0))),
            None => Ok(()),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &State { tally: self.tally.clone(), memory: self.memory.save()? })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        self.memory = Memory::load(self.capacity, state.memory.unwrap_or_default())?;
        self.tally = state.tally;
        Ok(())
    }

    fn forget(&mut self, sample: &Sample) {
        self.memory.forget(sample.id());
    }
}

impl QualityGate for SchemaGate {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        let (schema, row, id) = (context.schema, &sample.observation.row, sample.id());
        let violations = self.violations(sample, schema);
        let mut list = Detail::default();
        for violation in &violations {
            list.add(violation.to_string());
            self.tally.count(Rule::of(violation), schema.field_index(&violation.field).map(|_| &*violation.field), id);
        }
        let readable = schema.has_shape_of(row);
        if readable && let Some((share, least)) = self.incomplete(schema, row) {
            list.add(format!("only {share:.2} of the fields have a value, at least {least:.2} was asked for"));
            self.tally.count(Rule::Completeness, None, id);
        }
        if readable && !self.unusable_outputs && !usable(schema.target(), sample.observation.output()) {
            list.add("the output is not usable".into());
            self.tally.count(Rule::Output, None, id);
        }
        self.tally.rows += 1;
        if list.refused() {
            self.tally.refused += 1;
            return Ok(Admission::Quarantine(Reason::new("schema", list.finish())));
        }
        self.memory.passed(sample, schema);
        Ok(Admission::Pass)
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
mod tests;
