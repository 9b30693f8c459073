//! What the schema gate refused, by rule.

use serde::{Deserialize, Serialize};

use crate::event::PredictionId;
use crate::schema::{Violation, ViolationKind};

/// Most examples of one rule.
const MOST_EXAMPLES: usize = 5;

/// A rule that a sample can break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// A required field has a value.
    Required,
    /// A value has the type of its field.
    Type,
    /// A number is finite.
    Finite,
    /// A number lies in the range of its field.
    Range,
    /// A value is one of the allowed ones.
    Allowed,
    /// A text or embedding has the right length.
    Length,
    /// A text matches the pattern of its field.
    Pattern,
    /// No earlier sample has the same value.
    Unique,
    /// A timestamp is neither too old nor in the future.
    Fresh,
    /// A value is not smaller than before.
    Increasing,
    /// The schema knows the field.
    KnownField,
    /// The row is one of the schema.
    Shape,
    /// Enough fields have a value.
    Completeness,
    /// The output can be used.
    Output,
    /// A rule across fields, by its name.
    Across(String),
}

impl Rule {
    /// The rule that a violation breaks.
    pub(super) fn of(violation: &Violation) -> Rule {
        match &violation.kind {
            ViolationKind::Missing => Rule::Required,
            ViolationKind::WrongType(_) => Rule::Type,
            ViolationKind::NotFinite => Rule::Finite,
            ViolationKind::OutOfRange(_) => Rule::Range,
            ViolationKind::NotAllowed(_) => Rule::Allowed,
            ViolationKind::WrongLength(_) if violation.field.is_empty() => Rule::Shape,
            ViolationKind::WrongLength(_) => Rule::Length,
            ViolationKind::UnknownField(_) => Rule::KnownField,
            ViolationKind::Mismatch(_) => Rule::Pattern,
            ViolationKind::Stale(_) | ViolationKind::Future(_) => Rule::Fresh,
            ViolationKind::Repeated(_) => Rule::Unique,
            ViolationKind::Decreased { .. } => Rule::Increasing,
            ViolationKind::Rule(name) => Rule::Across(name.clone()),
        }
    }
}

/// How often a rule was broken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleReport {
    /// The field; none if the rule is about the sample as a whole, or the field is not one of the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The rule.
    pub rule: Rule,
    /// Samples that broke it.
    pub count: u64,
    /// The newest of them, at most 5, oldest first.
    pub examples: Vec<PredictionId>,
}

/// What a [`SchemaGate`](crate::SchemaGate) saw and refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SchemaReport {
    /// Samples that were looked at.
    pub rows: u64,
    /// Samples that were refused; one may break several rules.
    pub refused: u64,
    /// The rules that were broken, in the order in which they first were.
    pub rules: Vec<RuleReport>,
}

/// Counts as they grow: bounded by the fields times the rules.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) refused: u64,
    rules: Vec<RuleReport>,
}

impl Tally {
    /// Sample `id` breaks `rule` of `field`; once, however many parts of the field break it.
    pub(super) fn count(&mut self, rule: Rule, field: Option<&str>, id: PredictionId) {
        let known = self.rules.iter().position(|report| report.rule == rule && report.field.as_deref() == field);
        let at = known.unwrap_or_else(|| {
            let field = field.map(str::to_owned);
            self.rules.push(RuleReport { field, rule, count: 0, examples: Vec::new() });
            self.rules.len() - 1
        });
        let report = &mut self.rules[at];
        if report.examples.last() == Some(&id) {
            return;
        }
        report.count += 1;
        if report.examples.len() == MOST_EXAMPLES {
            report.examples.remove(0);
        }
        report.examples.push(id);
    }

    pub(super) fn report(&self) -> SchemaReport {
        SchemaReport { rows: self.rows, refused: self.refused, rules: self.rules.clone() }
    }
}
