//! How often each field has no value, over many rows.

use super::row::MISSING_INTEGER;
use super::{MISSING_CODE, Row, Schema, Slot};

/// Counts cell by cell, as cells of one kind lie side by side; which field a cell belongs to matters at the end only.
#[derive(Debug, Clone)]
pub(crate) struct MissingCounts<'a> {
    schema: &'a Schema,
    rows: u64,
    values: Vec<u64>,
    codes: Vec<u64>,
    texts: Vec<u64>,
    /// In the order of the plan, as the next.
    times: Vec<u64>,
    /// Rows without any part of an embedding.
    embeddings: Vec<u64>,
}

impl<'a> MissingCounts<'a> {
    /// No rows yet.
    pub(crate) fn new(schema: &'a Schema) -> Self {
        let plan = schema.plan();
        MissingCounts {
            schema,
            rows: 0,
            values: vec![0; schema.value_columns().len()],
            codes: vec![0; schema.code_columns().len()],
            texts: vec![0; schema.text_limits().len()],
            times: vec![0; plan.times.len()],
            embeddings: vec![0; plan.embeddings.len()],
        }
    }

    /// Counts a row of the [shape](Schema::has_shape_of) of the schema.
    pub(crate) fn add(&mut self, row: &Row) {
        self.rows += 1;
        // sums instead of branches, so that several columns are counted at a time
        count(&mut self.values, &row.values, |value| value.is_nan());
        count(&mut self.codes, &row.codes, |&code| code == MISSING_CODE);
        count(&mut self.texts, &row.texts, Option::is_none);
        let plan = self.schema.plan();
        count(&mut self.times, &plan.times, |&(at, _)| row.integers[at] == MISSING_INTEGER);
        count(&mut self.embeddings, &plan.embeddings, |&(at, len)| {
            row.values[at..at + len].iter().all(|value| value.is_nan())
        });
    }

    /// Rows that were counted.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds what was counted over other rows of the same schema.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        let own = [&mut self.values, &mut self.codes, &mut self.texts, &mut self.times, &mut self.embeddings];
        let more = [&other.values, &other.codes, &other.texts, &other.times, &other.embeddings];
        for (own, more) in own.into_iter().zip(more) {
            own.iter_mut().zip(more).for_each(|(own, more)| *own += more);
        }
    }

    /// Rows without a value, of every field.
    pub(crate) fn fields(&self) -> Vec<u64> {
        let (mut times, mut embeddings) = (self.times.iter(), self.embeddings.iter());
        let plan = self.schema.plan();
        let field = |slot: &Slot| match *slot {
            Slot::Values { at, .. } if plan.embeddings.iter().any(|&(first, _)| first == at) => embeddings.next(),
            Slot::Values { at, .. } => self.values.get(at),
            Slot::Code { at } => self.codes.get(at),
            Slot::Text { at } => self.texts.get(at),
            Slot::Time { .. } => times.next(),
        };
        let counts = self.schema.slots.iter().map(field);
        counts.map(|count| count.copied().unwrap_or(0)).collect()
    }
}

fn count<T>(counts: &mut [u64], cells: &[T], is_missing: impl Fn(&T) -> bool) {
    for (count, cell) in counts.iter_mut().zip(cells) {
        *count += u64::from(is_missing(cell));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::schema::{Field, Target};
    use proptest::prelude::*;

    fn field(kind: usize, at: usize) -> Field {
        let name = format!("f{at}");
        match kind {
            0 => Field::number(name),
            1 => Field::integer(name),
            2 => Field::boolean(name),
            3 => Field::category(name, ["a", "b"]),
            4 => Field::text(name, 8),
            5 => Field::timestamp(name),
            width => Field::embedding(name, width - 5),
        }
    }

    /// A row whose cells are missing where the bits of `holes` say so, part by part in an embedding.
    fn row(schema: &Schema, holes: u64) -> Row {
        let mut row = Row::new(schema);
        let mut bit = 0;
        let mut there = || {
            bit = (bit + 1) % 64;
            holes >> bit & 1 == 0
        };
        row.values.iter_mut().filter(|_| there()).for_each(|value| *value = 0.5);
        row.integers.iter_mut().filter(|_| there()).for_each(|value| *value = 3);
        row.codes.iter_mut().filter(|_| there()).for_each(|code| *code = 1);
        row.texts.iter_mut().filter(|_| there()).for_each(|text| *text = Some(String::new()));
        row
    }

    proptest! {
        #[test]
        fn each_field_is_counted_as_if_it_were_asked_row_by_row(
            kinds in prop::collection::vec(0..9_usize, 0..24),
            holes in prop::collection::vec(any::<u64>(), 0..20),
            cut in 0..20_usize,
        ) {
            let fields = kinds.iter().enumerate().map(|(at, &kind)| field(kind, at).nullable());
            let schema = Schema::new(fields, Target::Value).unwrap();
            let rows: Vec<Row> = holes.iter().map(|&holes| row(&schema, holes)).collect();
            let counted = |rows: &[Row]| {
                let mut counts = MissingCounts::new(&schema);
                rows.iter().for_each(|row| counts.add(row));
                counts
            };
            let (left, right) = rows.split_at(cut.min(rows.len()));
            let mut counts = counted(left);
            counts.merge(&counted(right));
            let asked: Vec<u64> = (0..kinds.len())
                .map(|field| rows.iter().filter(|row| row.is_missing(&schema, field)).count() as u64)
                .collect();
            prop_assert_eq!(counts.fields(), asked);
            prop_assert_eq!(counts.rows(), rows.len() as u64);
        }
    }
}
