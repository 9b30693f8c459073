//! The gate that holds a batch whose fields lack values.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{BoxError, message};
use crate::gate::missing::{FEWEST_ROWS, Shift};
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::{Lane, Reason};
use crate::schema::{MISSING_CODE, MissingCounts, Schema, Slot};
use crate::stage::{Blind, Stage};

/// Chance, over all fields, that a sound batch is held for a missing share that rose.
const LEVEL: f64 = 1e-4;
/// The missing share of a field must rise at least by this.
const RISE: f64 = 0.1;
/// Longest list of fields in a reason or note.
const MOST_FIELDS: usize = 5;

/// Holds a batch in which too many values are missing.
///
/// The batch is held with the reason `incomplete`, which names the fields with their counts, if
/// - the share of values that are there, over all fields, is below [`overall`](Completeness::overall), or that of one
///   field below its own minimum ([`every_field`](Completeness::every_field), [`field`](Completeness::field)): plain
///   shares of this batch, without an allowance for chance; no minimum unless told,
/// - or the missing share of a field rose against the training data by at least 10 points
///   ([`rise`](Completeness::rise)) and by more than chance explains: the Clopper–Pearson limits (1934) of both shares
///   lie apart, which happens to at most 0.01 % of sound batches, all fields together.
///
/// An absent field and an explicit null are both missing; NaN is a missing number; an embedding is missing if all of it
/// is. A category that the schema does not list is a value. The training reference keeps no texts and no timestamps:
/// their missing share cannot rise, which [`Stage::blind`] says; their minimum holds all the same.
///
/// Rows that detectors pointed at are not typical of the feed, so the rows of the random lane are judged if there are 20
/// of them, and all rows otherwise. In the second case the reason or a note `not_typical` says so: a detector that
/// points at missing values can then hold a batch whose feed is sound, and the claim of 0.01 % does not hold. Under 20
/// rows nothing is held. A batch that passes gets the note `completeness` with the shares. The order of the rows does
/// not matter.
///
/// Memory: a few numbers per field; nothing is kept from batch to batch but the [report](Completeness::report), which
/// does not outlive the process.
///
/// # Examples
/// ```
/// use feedloop::Completeness;
/// let gate = Completeness::default().overall(0.9).field("amount", 1.0).rise(0.05);
/// assert!(gate.report().is_none());
/// ```
#[derive(Debug, Clone)]
pub struct Completeness {
    overall: f64,
    every_field: f64,
    fields: BTreeMap<String, f64>,
    rise: f64,
    known: Option<Known>,
    report: Option<CompletenessReport>,
}

/// Missing values and rows of each field in the training reference; `None` where it does not keep the field.
#[derive(Debug, Clone)]
struct Known {
    reference: Arc<Reference>,
    fields: Vec<Option<(u64, u64)>>,
}

/// What a [`Completeness`] gate found in the last batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CompletenessReport {
    /// Rows that were judged.
    pub rows: u64,
    /// Are they typical of the feed: all of the random lane?
    pub typical: bool,
    /// Share of the values that are there, over all fields; 1 without rows.
    pub overall: f64,
    /// Every field, in the order of the schema.
    pub fields: Vec<FieldCompleteness>,
    /// Was the batch held?
    pub held: bool,
}

/// Missing values of one field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FieldCompleteness {
    /// The field.
    pub field: String,
    /// Rows without a value.
    pub missing: u64,
    /// Rows without a value and rows of the training data, if its reference keeps the field.
    pub training: Option<(u64, u64)>,
    /// Is the share of values below the minimum?
    pub below_minimum: bool,
    /// Did the missing share rise?
    pub rose: bool,
}

impl Default for Completeness {
    fn default() -> Self {
        Completeness { overall: 0.0, every_field: 0.0, fields: BTreeMap::new(), rise: RISE, known: None, report: None }
    }
}

impl Completeness {
    /// The smallest share of values over all fields, from 0 to 1.
    pub fn overall(mut self, least: f64) -> Self {
        self.overall = least;
        self
    }

    /// The smallest share of values of each field without a minimum of its own, from 0 to 1.
    pub fn every_field(mut self, least: f64) -> Self {
        self.every_field = least;
        self
    }

    /// The smallest share of values of one field, from 0 to 1.
    pub fn field(mut self, name: impl Into<String>, least: f64) -> Self {
        self.fields.insert(name.into(), least);
        self
    }

    /// By how much a missing share must rise above that of the training data; 0.1 unless told.
    pub fn rise(mut self, points: f64) -> Self {
        self.rise = points;
        self
    }

    /// What was found in the last batch that this process looked at.
    pub fn report(&self) -> Option<&CompletenessReport> {
        self.report.as_ref()
    }

    fn learn(&mut self, reference: &Arc<Reference>) -> &Known {
        if !self.known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.reference, reference)) {
            self.known = None;
        }
        self.known.get_or_insert_with(|| {
            let fields = (0..reference.schema().fields().len()).map(|field| missing_before(reference, field));
            Known { reference: reference.clone(), fields: fields.collect() }
        })
    }

    /// Judges each field by the missing values of the rows.
    fn measure(&mut self, counts: &MissingCounts<'_>, typical: bool, context: &GateContext<'_>) -> CompletenessReport {
        let (schema, count) = (context.schema, counts.rows());
        let (rise, every_field) = (self.rise, self.every_field);
        let own = self.fields.clone();
        let known = self.learn(&context.references.training);
        let compared = known.fields.iter().flatten().count();
        let fields = schema.fields().iter().zip(counts.fields()).enumerate().map(|(index, (field, missing))| {
            let training = known.fields.get(index).copied().flatten();
            let least = own.get(field.name()).copied().unwrap_or(every_field);
            let shift = |before| Shift { before, now: (missing, count) };
            FieldCompleteness {
                field: field.name().into(),
                missing,
                training,
                below_minimum: ((count - missing) as f64) < least * count as f64,
                rose: training.is_some_and(|before| shift(before).broken(rise, LEVEL, compared)),
            }
        });
        let fields: Vec<_> = fields.collect();
        let values = count * schema.fields().len() as u64;
        let missing: u64 = fields.iter().map(|field| field.missing).sum();
        let overall = if values == 0 { 1.0 } else { (values - missing) as f64 / values as f64 };
        CompletenessReport { rows: count, typical, overall, fields, held: false }
    }
}

/// What the rows of a batch that speak for the feed lack: those that [`typical`](crate::gate::missing::typical) takes.
struct Feed<'a> {
    counts: MissingCounts<'a>,
    /// Rows of the random lane among those that were counted.
    random: u64,
    typical: bool,
}

impl<'a> Feed<'a> {
    /// In one pass, as most of the time goes into fetching the samples. Rows of another shape than the schema's are not read.
    fn of(batch: &BatchDraft<'_>, schema: &'a Schema) -> Self {
        let (mut random, mut others) = (MissingCounts::new(schema), MissingCounts::new(schema));
        let mut drawn = 0;
        for DraftRow { sample, .. } in batch.rows {
            let is_random = sample.lane == Lane::Random;
            drawn += usize::from(is_random);
            let row = &sample.observation.row;
            if schema.has_shape_of(row) {
                if is_random { &mut random } else { &mut others }.add(row);
            }
        }
        let enough = drawn >= FEWEST_ROWS;
        let (random, mut counts) = (random.rows(), random);
        if !enough {
            counts.merge(&others);
        }
        Feed { counts, random, typical: enough || drawn == batch.rows.len() }
    }
}

/// Missing values and rows of a field in a reference, if it keeps the field.
fn missing_before(reference: &Reference, field: usize) -> Option<(u64, u64)> {
    let rows = reference.rows();
    match reference.schema().slot(field) {
        // no part of an embedding is missing without the others
        Slot::Values { at, .. } => Some(((reference.missing_share(at) * rows as f64).round() as u64, rows)),
        Slot::Code { at } => Some((reference.code_counts(at).get(&MISSING_CODE).copied().unwrap_or(0), rows)),
        Slot::Time { .. } | Slot::Text { .. } => None,
    }
}

impl CompletenessReport {
    /// What is wrong, most important first; empty if nothing is.
    fn failures(&self, least: f64) -> Vec<String> {
        let mut failures = Vec::new();
        if self.overall < least {
            failures.push(format!("only {:.4} of all values are there, {least} was asked for", self.overall));
        }
        for field in &self.fields {
            let (name, missing, rows) = (&field.field, field.missing, self.rows);
            if let Some(before) = field.training.filter(|_| field.rose) {
                failures.push(format!("`{name}` is missing in {}", Shift { before, now: (missing, rows) }));
            } else if field.below_minimum {
                failures.push(format!("`{name}` is missing in {missing} of {rows}, which is below its minimum"));
            }
        }
        failures
    }

    /// The fields that lack most values.
    fn note(&self) -> Reason {
        let mut lacking: Vec<_> = self.fields.iter().filter(|field| field.missing > 0).collect();
        lacking.sort_by_key(|field| std::cmp::Reverse(field.missing));
        let share = |field: &&FieldCompleteness| {
            format!("`{}` {:.4}", field.field, (self.rows - field.missing) as f64 / self.rows as f64)
        };
        let list = bounded(lacking.iter().map(share).collect()).join(", ");
        let of = format!("{:.4} of the values of {} rows are there", self.overall, self.rows);
        Reason::new("completeness", if list.is_empty() { of } else { format!("{of}: {list}") })
    }
}

fn bounded(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(MOST_FIELDS);
    list.truncate(MOST_FIELDS);
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    list
}

fn share(what: &str, value: f64) -> Result<(), BoxError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(message(format!("{what} is {value}, a share from 0 to 1 is expected")))
}

fn check_names(fields: &BTreeMap<String, f64>, schema: &Schema) -> Result<(), BoxError> {
    match fields.keys().find(|name| schema.field_index(name).is_none()) {
        Some(name) => Err(message(format!("there is no field `{name}`"))),
        None => Ok(()),
    }
}

impl Stage for Completeness {
    fn name(&self) -> &str {
        "completeness"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        share("overall", self.overall)?;
        share("every_field", self.every_field)?;
        share("rise", self.rise)?;
        for (name, least) in &self.fields {
            share(&format!("the minimum of `{name}`"), *least)?;
        }
        check_names(&self.fields, references.training.schema())?;
        self.learn(&references.training);
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        let Some(known) = &self.known else { return Vec::new() };
        let fields = known.reference.schema().fields().iter().zip(&known.fields);
        let unknown = fields.filter(|(_, before)| before.is_none());
        let why = "the reference keeps no texts and timestamps, so a rise of their missing share is not seen";
        unknown.map(|(field, _)| Blind::column(field.name(), why)).collect()
    }
}

impl QualityGate for Completeness {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let Feed { counts, random, typical } = Feed::of(batch, context.schema);
        let (mut report, rows) = (self.measure(&counts, typical, context), counts.rows());
        if rows < FEWEST_ROWS as u64 {
            let text = format!("{rows} rows say too little of the feed, {FEWEST_ROWS} are needed");
            self.report = Some(report);
            return Ok(Audit::Pass(vec![Reason::new("too_few_rows", text)]));
        }
        let failures = bounded(report.failures(self.overall));
        let flagged =
            || format!("judged by all {rows} rows, as only {random} are of the random lane: they need not be typical");
        let verdict = if failures.is_empty() {
            let mut notes = vec![report.note()];
            if !typical {
                notes.push(Reason::new("not_typical", flagged()));
            }
            Audit::Pass(notes)
        } else {
            report.held = true;
            let mut text = failures.join("; ");
            if !typical {
                text = format!("{text} ({})", flagged());
            }
            Audit::Hold(Reason::new("incomplete", text))
        };
        self.report = Some(report);
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests;
