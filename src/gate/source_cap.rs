//! The gate that asks a person before one source makes up much of a batch.

use std::collections::BTreeMap;

use crate::error::{BoxError, message};
use crate::gate::{Audit, BatchDraft, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Annotator, Reason};
use crate::schema::{MISSING_CODE, Schema, Slot, UNSEEN_CODE};
use crate::stage::Stage;

/// Largest share of one user unless told.
const USERS: f64 = 0.2;
/// A source with fewer rows is never too large.
const FEWEST_OF_SOURCE: usize = 10;
/// Under so many rows nothing is said unless told.
const FEWEST_ROWS: usize = 30;
/// Longest list of sources in a reason.
const MOST_SOURCES: usize = 5;

/// Asks for a sign-off before a batch is sealed of which one user, annotator or segment gave too large a share.
///
/// Somebody who feeds a loop with wrong labels, and a client that repeats itself, show as one source with many rows. A
/// source whose share of the rows is above its cap, with at least 10 rows, makes the verdict
/// [`Audit::SignOff`](crate::Audit::SignOff) with the reason `source_share`, which names the sources with their counts, the
/// largest first. The rows go on when a person has agreed.
///
/// - Users ([`Annotator::User`](crate::Annotator::User)): at most 20 % each unless told ([`SourceCap::users`]).
/// - Annotators ([`Annotator::Human`](crate::Annotator::Human)): not capped unless told ([`SourceCap::annotators`]), as in
///   a small team one person rightly labels everything.
/// - Segments: values of a category field that is named ([`SourceCap::segment`]); a missing value is none.
///
/// The world and models have no cap. A row counts for the annotator of the label that counts, shares are of all rows of the
/// batch, and rows count as one each whatever they weigh. Under 30 rows nothing is said
/// ([`SourceCap::min_rows`]). The order of the rows does not matter. It does not see one person behind several names.
///
/// Memory: one count per source of a batch; nothing is kept from batch to batch.
///
/// # Examples
/// ```
/// use feedloop::SourceCap;
/// let gate = SourceCap::default().users(0.1).annotators(0.6).segment("country", 0.8);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SourceCap {
    users: f64,
    annotators: f64,
    segments: BTreeMap<String, f64>,
    min_rows: usize,
}

impl Default for SourceCap {
    fn default() -> Self {
        SourceCap { users: USERS, annotators: 1.0, segments: BTreeMap::new(), min_rows: FEWEST_ROWS }
    }
}

/// Who or what gave rows, in the words of the reason.
type Source = (&'static str, String);

impl SourceCap {
    /// The largest share of the rows that one user may have labelled, more than 0 and at most 1; 0.2 unless told. 1 is no
    /// cap.
    pub fn users(mut self, share: f64) -> Self {
        self.users = share;
        self
    }

    /// The largest share of the rows that one person who labels for us may have labelled; no cap unless told.
    pub fn annotators(mut self, share: f64) -> Self {
        self.annotators = share;
        self
    }

    /// The largest share of the rows that one value of the category field `field` may have; no cap unless told.
    pub fn segment(mut self, field: impl Into<String>, share: f64) -> Self {
        self.segments.insert(field.into(), share);
        self
    }

    /// Says nothing of a batch with fewer rows; 30 unless told.
    pub fn min_rows(mut self, rows: usize) -> Self {
        self.min_rows = rows;
        self
    }
}

/// The place of the category field `field` among the codes.
fn code_column(schema: &Schema, field: &str) -> Option<usize> {
    match schema.slot(schema.field_index(field)?) {
        Slot::Code { at } => Some(at),
        _ => None,
    }
}

impl Stage for SourceCap {
    fn name(&self) -> &str {
        "source_cap"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let shares = [("users", self.users), ("annotators", self.annotators)].into_iter();
        for (what, share) in shares.chain(self.segments.iter().map(|(field, share)| (field.as_str(), *share))) {
            if !(share > 0.0 && share <= 1.0) {
                return Err(message(format!("{what}: the share is {share}, more than 0 and at most 1 is expected")));
            }
        }
        let schema = references.training.schema();
        match self.segments.keys().find(|field| code_column(schema, field).is_none()) {
            Some(field) => Err(message(format!("segment: the schema has no category field `{field}`"))),
            None => Ok(()),
        }
    }
}

impl QualityGate for SourceCap {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let rows = batch.rows.len();
        if rows < self.min_rows {
            return Ok(Audit::Pass(Vec::new()));
        }
        let mut counts: BTreeMap<Source, (usize, f64)> = BTreeMap::new();
        let mut count = |source: Source, cap: f64| counts.entry(source).or_insert((0, cap)).0 += 1;
        for row in batch.rows {
            match row.sample.label.as_ref().map(|label| &label.annotator) {
                Some(Annotator::User(name)) => count(("user", name.clone()), self.users),
                Some(Annotator::Human(name)) => count(("annotator", name.clone()), self.annotators),
                _ => {}
            }
            for (field, cap) in &self.segments {
                let column = code_column(context.schema, field);
                let code = column.and_then(|column| Some((column, *row.sample.observation.row.codes().get(column)?)));
                let value = match code {
                    None | Some((_, MISSING_CODE)) => continue,
                    Some((_, UNSEEN_CODE)) => "a value that the schema does not list",
                    Some((column, code)) => context
                        .schema
                        .category_values(column)
                        .get(code as usize)
                        .map_or("an unknown code", String::as_str),
                };
                count(("segment", format!("{field} = {value}")), *cap);
            }
        }
        let above = |(count, cap): (usize, f64)| count >= FEWEST_OF_SOURCE && count as f64 > cap * rows as f64;
        let mut large: Vec<_> = counts.into_iter().filter(|(_, found)| above(*found)).collect();
        if large.is_empty() {
            return Ok(Audit::Pass(Vec::new()));
        }
        // A stable sort: equal counts stay in the order of the names.
        large.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let more = large.len().saturating_sub(MOST_SOURCES);
        let mut list: Vec<String> = large
            .iter()
            .take(MOST_SOURCES)
            .map(|((kind, name), (count, cap))| {
                format!("{kind} `{name}` gave {count} of {rows} rows ({:.3}, cap {cap})", *count as f64 / rows as f64)
            })
            .collect();
        if more > 0 {
            list.push(format!("and {more} more"));
        }
        Ok(Audit::SignOff(Reason::new("source_share", list.join("; "))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::{Label, ModelVersion};
    use crate::gate::DraftRow;
    use crate::gate::testing::{annotation, context, references, sample};
    use crate::sample::Sample;
    use crate::schema::{Field, Target};

    fn schema() -> Schema {
        let fields = [Field::category("country", ["DE", "FR"]).nullable(), Field::number("amount").nullable()];
        Schema::new(fields, Target::classes(["a", "b"])).unwrap()
    }

    /// `rows` labels of each annotator, the country in turn.
    fn said(gate: &mut SourceCap, given: &[(Annotator, usize)]) -> Option<String> {
        let (schema, references) = (schema(), references(&schema()));
        gate.rebase(&references).unwrap();
        let annotators = given.iter().flat_map(|(annotator, rows)| std::iter::repeat_n(annotator, *rows));
        let samples: Vec<Sample> = annotators
            .zip(0_u128..)
            .map(|(annotator, n)| {
                let mut sample = sample(&schema, n);
                sample.observation.row.codes[0] = [0, 0, 1, MISSING_CODE, UNSEEN_CODE][n as usize % 5];
                sample.label = Some(annotation(n, annotator.clone(), Label::Class(0)));
                sample
            })
            .collect();
        let rows: Vec<_> =
            samples.iter().map(|sample| DraftRow { sample, label: Label::Class(0), weight: 1.0 }).collect();
        match gate.audit(&BatchDraft { rows: &rows }, &context(&schema, &references)).unwrap() {
            Audit::Pass(notes) => {
                assert_eq!(notes, []);
                None
            }
            Audit::SignOff(reason) => {
                assert_eq!(reason.code, "source_share");
                Some(reason.detail)
            }
            other => panic!("{other:?}"),
        }
    }

    fn user(name: &str, rows: usize) -> (Annotator, usize) {
        (Annotator::User(name.into()), rows)
    }

    fn person(name: &str, rows: usize) -> (Annotator, usize) {
        (Annotator::Human(name.into()), rows)
    }

    #[test]
    fn a_user_above_the_cap_is_named_with_the_count() {
        let mut gate = SourceCap::default();
        assert_eq!(said(&mut gate, &[user("eve", 20), person("ann", 80)]), None, "at the cap");
        let detail = said(&mut gate, &[user("eve", 21), user("bob", 19), person("ann", 60)]).unwrap();
        assert_eq!(detail, "user `eve` gave 21 of 100 rows (0.210, cap 0.2)");
        let detail = said(&mut gate, &[user("bob", 30), user("eve", 40), user("ada", 30)]).unwrap();
        let names: Vec<_> = detail.split("; ").map(|part| part.split('`').nth(1).unwrap()).collect();
        assert_eq!(names, ["eve", "ada", "bob"]);
        assert_eq!(said(&mut gate.users(1.0), &[user("eve", 100)]), None);
    }

    #[test]
    fn by_default_neither_one_annotator_nor_the_world_nor_a_model_is_stopped() {
        for only in [person("ann", 200), (Annotator::GroundTruth, 200), (Annotator::Model(ModelVersion(3)), 200)] {
            assert_eq!(said(&mut SourceCap::default(), &[only]), None);
        }
        let given = [person("ann", 70), person("bob", 30)];
        let detail = said(&mut SourceCap::default().annotators(0.6), &given).unwrap();
        assert_eq!(detail, "annotator `ann` gave 70 of 100 rows (0.700, cap 0.6)");
        assert_eq!(said(&mut SourceCap::default().annotators(0.7), &given), None);
    }

    #[test]
    fn a_segment_above_its_cap_is_named() {
        let given = [(Annotator::GroundTruth, 100)];
        let detail = said(&mut SourceCap::default().segment("country", 0.19), &given).unwrap();
        assert_eq!(
            detail,
            "segment `country = DE` gave 40 of 100 rows (0.400, cap 0.19); \
             segment `country = FR` gave 20 of 100 rows (0.200, cap 0.19); \
             segment `country = a value that the schema does not list` gave 20 of 100 rows (0.200, cap 0.19)"
        );
        assert_eq!(said(&mut SourceCap::default().segment("country", 0.4), &given), None);
    }

    #[test]
    fn few_rows_say_nothing() {
        assert_eq!(said(&mut SourceCap::default(), &[user("eve", 29)]), None);
        assert!(said(&mut SourceCap::default(), &[user("eve", 30)]).is_some());
        assert_eq!(said(&mut SourceCap::default().min_rows(1), &[user("eve", 9)]), None, "9 rows are nobody's flood");
        assert!(said(&mut SourceCap::default().min_rows(1), &[user("eve", 10)]).is_some());
        let few: Vec<_> = (0..12).map(|n| user(&format!("u{n}"), 10)).collect();
        let detail = said(&mut SourceCap::default().users(0.05), &few).unwrap();
        assert!(detail.ends_with("; and 7 more"), "{detail}");
    }

    #[test]
    fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
        let bad = [
            SourceCap::default().users(0.0),
            SourceCap::default().annotators(1.5),
            SourceCap::default().segment("country", f64::NAN),
            SourceCap::default().segment("amount", 0.5),
            SourceCap::default().segment("nothing", 0.5),
        ];
        for mut gate in bad {
            assert!(gate.rebase(&references(&schema())).is_err(), "{gate:?}");
        }
    }
}
