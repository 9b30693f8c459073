//! The gate that tells a broken feed from new data, and holds a batch only for the former.

mod column;

use std::sync::Arc;

use self::column::{Column, columns};
use crate::error::{BoxError, message};
use crate::gate::missing::{FEWEST_ROWS, typical};
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::Reason;
use crate::schema::ViolationKind;
use crate::stage::Stage;

/// Chance, over all columns, that a sound batch counts as one whose column lost its values.
const LEVEL: f64 = 1e-4;
/// A column lost its values if its missing share rose at least by this.
const JUMP: f64 = 0.2;
/// Longest list of columns in a reason.
const MOST_COLUMNS: usize = 5;

/// Holds a batch that comes from a broken feed; passes new data, with the share of it as a note.
///
/// New data is what retraining is for, so it is never a reason to hold. The note `novel_share` gives the share of rows
/// of which a numeric value lies outside the training data (its 0.1 % to 99.9 % quantiles, widened at both ends by half
/// of the distance between the quartiles) or a category did not occur there; the same share of the training rows
/// stands beside it, as it grows with the number of columns. The note `missing_shift` lists the columns whose missing
/// share moved most.
///
/// The batch is held with the reason `broken_feed` only if
/// - a column lost its values: the missing share rose by at least 20 points, and by more than chance explains (the
///   Clopper–Pearson limits of both shares lie apart; together at most 0.01 % of sound batches),
/// - or a unit or scale is wrong: the median magnitude of a column is 100 times that of the training data and beyond
///   its 99.9 % quantile, or a 100th of it and below the 5 % quantile (zeros aside, 20 values on both sides),
/// - or more than 5 % of the rows break a range of the schema or hold an infinity ([`Relevance::out_of_range`]).
///
/// Rows that detectors pointed at are not typical of the feed. So the first two look at the rows of the random lane if
/// there are 20 of them, and at all rows otherwise; then a detector that points at missing or tiny values can hold
/// a batch whose feed is sound, which is when the claims above do not hold. Under 20 rows nothing is held.
///
/// Memory: a few numbers per column; nothing is kept from batch to batch.
#[derive(Debug, Clone)]
pub struct Relevance {
    out_of_range: f64,
    known: Option<Known>,
}

/// What follows from the training reference.
#[derive(Debug, Clone)]
struct Known {
    reference: Arc<Reference>,
    columns: Vec<Column>,
    /// Share of the training sample's rows that would count as novel.
    novel: f64,
}

impl Default for Relevance {
    fn default() -> Self {
        Relevance { out_of_range: 0.05, known: None }
    }
}

impl Relevance {
    /// The largest share of rows that may break a range of the schema, from 0 to 1; 0.05 unless told.
    pub fn out_of_range(mut self, share: f64) -> Self {
        self.out_of_range = share;
        self
    }

    fn learn(&mut self, reference: &Arc<Reference>) -> &Known {
        if !self.known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.reference, reference)) {
            self.known = None;
        }
        self.known.get_or_insert_with(|| {
            let columns = columns(reference);
            let rows = reference.sample().count();
            let novel = reference.sample().filter(|row| is_novel(&columns, &row.values, &row.codes)).count();
            Known { reference: reference.clone(), columns, novel: novel as f64 / rows.max(1) as f64 }
        })
    }
}

fn is_novel(columns: &[Column], values: &[f64], codes: &[u32]) -> bool {
    columns.iter().any(|column| column.is_novel(values, codes))
}

/// Rows that break a range of the schema, or hold an infinity.
fn broken_ranges(batch: &BatchDraft<'_>, context: &GateContext<'_>) -> usize {
    let physical = |kind: &ViolationKind| matches!(kind, ViolationKind::OutOfRange(_) | ViolationKind::NotFinite);
    let breaks = |row: &&DraftRow<'_>| {
        context.schema.check(&row.sample.observation.row).iter().any(|violation| physical(&violation.kind))
    };
    batch.rows.iter().filter(breaks).count()
}

impl Stage for Relevance {
    fn name(&self) -> &str {
        "relevance"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if !(0.0..=1.0).contains(&self.out_of_range) {
            return Err(message(format!("out_of_range is {}, a share from 0 to 1 is expected", self.out_of_range)));
        }
        self.learn(&references.training);
        Ok(())
    }
}

impl QualityGate for Relevance {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let rows = batch.rows.len();
        if rows < FEWEST_ROWS {
            let text = format!("{rows} rows say too little of the feed, {FEWEST_ROWS} are needed");
            return Ok(Audit::Pass(vec![Reason::new("too_few_rows", text)]));
        }
        let out_of_range = self.out_of_range;
        let broken = broken_ranges(batch, context);
        let known = self.learn(&context.references.training);
        let mut failures = Vec::new();
        if broken as f64 > out_of_range * rows as f64 {
            failures.push(format!("{broken} of {rows} rows break a range of the schema or hold an infinity"));
        }
        let (typical, _) = typical(batch);
        let mut shifts = Vec::new();
        for column in &known.columns {
            let shift = column.missing_shift(&typical);
            if shift.broken(JUMP, LEVEL, known.columns.len()) {
                failures.push(format!("`{}` is missing in {} rows", column.name, shift));
            }
            failures.extend(column.wrong_scale(&typical));
            shifts.push((shift.points(), column));
        }
        if !failures.is_empty() {
            let more = failures.len().saturating_sub(MOST_COLUMNS);
            failures.truncate(MOST_COLUMNS);
            if more > 0 {
                failures.push(format!("and {more} more"));
            }
            return Ok(Audit::Hold(Reason::new("broken_feed", failures.join("; "))));
        }
        let novel = |row: &&DraftRow<'_>| {
            let row = &row.sample.observation.row;
            is_novel(&known.columns, row.values(), row.codes())
        };
        let share = batch.rows.iter().filter(novel).count() as f64 / rows as f64;
        let text = format!("{share:.4} of {rows} rows lie outside the training data ({:.4} of its own)", known.novel);
        let mut notes = vec![Reason::new("novel_share", text)];
        shifts.retain(|(points, _)| points.abs() >= 0.01);
        shifts.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        if !shifts.is_empty() {
            let list: Vec<String> = shifts
                .iter()
                .take(MOST_COLUMNS)
                .map(|(shift, column)| format!("`{}` {:+.1} points", column.name, shift * 100.0))
                .collect();
            notes.push(Reason::new("missing_shift", list.join(", ")));
        }
        Ok(Audit::Pass(notes))
    }
}

#[cfg(test)]
mod tests;
