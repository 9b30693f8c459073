//! The gate that tells a broken feed from new data, and holds a batch only for the former.

mod column;
mod feed;
mod moved;

use std::sync::Arc;

use self::column::{Column, columns};
use self::feed::{Broken, breaks};
use self::moved::Before;
use crate::error::{BoxError, message};
use crate::event::Observation;
use crate::gate::missing::{FEWEST_ROWS, typical};
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::Reason;
use crate::schema::Row;
use crate::stage::Stage;
use crate::stats::binomial::lower;

/// Chance, over all columns, that a sound batch counts as one whose column lost its values.
const LEVEL: f64 = 1e-4;
/// Longest list of columns in a reason.
const MOST_COLUMNS: usize = 5;

/// Holds a batch that comes from a broken feed; passes new data, with the share of it as a note.
///
/// New data is what retraining is for, so it is never a reason to hold. The note `novel_share` gives the share of rows
/// of which a numeric value lies outside the training data (its 0.1 % to 99.9 % quantiles, widened at both ends by half
/// of the distance between the quartiles) or a category did not occur there; the same share of the training rows
/// stands beside it, as it grows with the number of columns. The note `moved` compares the batch with the training data
/// column by column (Kolmogorov–Smirnov distance or total variation, and the population stability index over ten
/// quantile bins or the categories) and lists the columns that moved by more than chance explains (p below 1 % over all
/// columns), furthest first. The note `missing_shift` lists the columns whose missing share moved most.
///
/// The batch is held with the reason `broken_feed` only if
/// - a column lost its values: the missing share rose by at least 20 points, and by more than chance explains (the
///   Clopper–Pearson limits of both shares lie apart; together at most 0.01 % of sound batches),
/// - or a unit or scale is wrong: the median magnitude of a column is 100 times that of the training data and beyond
///   its 99.9 % quantile, or a 100th of it and below the 5 % quantile (zeros aside, 20 values on both sides),
/// - or more than 5 % of the rows break a range of the schema or hold an infinity ([`Relevance::out_of_range`]),
/// - or more than 20 % of the rows break the schema in any way ([`Relevance::violations`]), but for categories and
///   fields that it does not list: those are news, not failures.
///
/// Rows that detectors pointed at are not typical of the feed. So the first two look at the rows of the random lane if
/// there are 20 of them, and at all rows otherwise; then a detector that points at missing or tiny values can hold
/// a batch whose feed is sound, which is when the claims above do not hold. Under 20 rows nothing is held.
///
/// When a drift alarm is raised, the same rules judge the live rows before it ([`QualityGate::feed`]): the newest 20, 40, 80
/// and so on up to 500, as a failure may have begun just before. The two shares must then be exceeded by more than chance
/// explains. A broken feed suppresses the alarm; new data of any extent does not.
///
/// The order of the rows of a batch does not matter.
///
/// Memory: some 8 bytes per numeric column and row of the training sample (33 KB per column at 4,096 rows); nothing is kept
/// from batch to batch.
#[derive(Debug, Clone)]
pub struct Relevance {
    out_of_range: f64,
    violations: f64,
    known: Option<Known>,
}

/// What follows from the training reference.
#[derive(Debug, Clone)]
struct Known {
    reference: Arc<Reference>,
    columns: Vec<Column>,
    before: Vec<Option<Before>>,
    /// Share of the training sample's rows that would count as novel.
    novel: f64,
}

impl Default for Relevance {
    fn default() -> Self {
        Relevance { out_of_range: 0.05, violations: 0.2, known: None }
    }
}

impl Relevance {
    /// The largest share of rows that may break a range of the schema, from 0 to 1; 0.05 unless told.
    pub fn out_of_range(mut self, share: f64) -> Self {
        self.out_of_range = share;
        self
    }

    /// The largest share of rows that may break the schema, from 0 to 1; 0.2 unless told.
    pub fn violations(mut self, share: f64) -> Self {
        self.violations = share;
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
            let novel = novel as f64 / rows.max(1) as f64;
            Known { reference: reference.clone(), columns, before: moved::before(reference), novel }
        })
    }
}

fn is_novel(columns: &[Column], values: &[f64], codes: &[u32]) -> bool {
    columns.iter().any(|column| column.is_novel(values, codes))
}

impl Stage for Relevance {
    fn name(&self) -> &str {
        "relevance"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        for (what, share) in [("out_of_range", self.out_of_range), ("violations", self.violations)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(message(format!("{what} is {share}, a share from 0 to 1 is expected")));
            }
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
        let (out_of_range, violations) = (self.out_of_range, self.violations);
        let known = self.learn(&context.references.training);
        let broken: Vec<Broken> = (batch.rows.iter())
            .map(|row| &row.sample.observation)
            .map(|observation| breaks(context.schema, &observation.row, observation.time))
            .collect();
        let above = |count: usize, share: f64| count as f64 > share * rows as f64;
        let mut failures = feed::schema_failures(&broken, out_of_range, violations, above);
        let typical: Vec<&Row> = typical(batch).0.into_iter().map(|row| &row.sample.observation.row).collect();
        failures.extend(feed::column_failures(&known.columns, &typical, LEVEL));
        if let Some(reason) = feed::reason(failures) {
            return Ok(Audit::Hold(reason));
        }
        let novel = |row: &&DraftRow<'_>| {
            let row = &row.sample.observation.row;
            is_novel(&known.columns, row.values(), row.codes())
        };
        let share = batch.rows.iter().filter(novel).count() as f64 / rows as f64;
        let text = format!("{share:.4} of {rows} rows lie outside the training data ({:.4} of its own)", known.novel);
        let mut notes = vec![Reason::new("novel_share", text)];
        let all: Vec<&Row> = batch.rows.iter().map(|row| &row.sample.observation.row).collect();
        notes.extend(moved::moved(&known.reference, &known.before, &all));
        let shifts = known.columns.iter().map(|column| (column.missing_shift(&typical).points(), column));
        let mut shifts: Vec<_> = shifts.collect();
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

    fn feed(&mut self, newest: &[&Observation], context: &GateContext<'_>) -> Result<Option<Reason>, BoxError> {
        let (out_of_range, violations) = (self.out_of_range, self.violations);
        let known = self.learn(&context.references.training);
        let rows: Vec<&Row> = newest.iter().map(|observation| &observation.row).collect();
        let broken: Vec<Broken> =
            newest.iter().map(|observation| breaks(context.schema, &observation.row, observation.time)).collect();
        let looks: Vec<usize> = feed::looks(rows.len()).collect();
        let level = LEVEL / looks.len().max(1) as f64;
        for look in looks {
            let from = rows.len() - look;
            let above = |count: usize, share: f64| lower(count as u64, look as u64, 1.0 - level) > share;
            let mut failures = feed::schema_failures(&broken[from..], out_of_range, violations, above);
            failures.extend(feed::column_failures(&known.columns, &rows[from..], level));
            if let Some(reason) = feed::reason(failures) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
