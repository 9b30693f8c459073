//! Which changes of a schema keep the rows that are stored readable and valid.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::row::{MISSING_CODE, MISSING_INTEGER};
use super::{Field, FieldKind, Row, Schema, SchemaError};

/// How one field became wider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Widening {
    /// A new nullable field behind all others.
    Added,
    /// The value may be missing now.
    Nullable,
    /// The range contains the old one, or is gone.
    Range,
    /// These values are allowed too, behind the old ones.
    Allowed(Vec<String>),
    /// Texts may have so many bytes now.
    MaxBytes(usize),
    /// The pattern is gone.
    Pattern,
    /// Values need not be unique any more.
    Unique,
    /// Timestamps may be older, or of any age.
    Fresh,
    /// Values need not increase any more.
    Increasing,
}

/// How a field changed from one schema to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChange {
    /// The field.
    pub field: String,
    /// How it became wider.
    pub widening: Widening,
}

/// A compatible change of a schema: every row of the old one is a row of the new one, with the new fields missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evolution {
    /// Fingerprint of the old schema.
    pub from: String,
    /// Fingerprint of the new schema.
    pub to: String,
    /// What changed, field by field; empty if the schemas are equal.
    pub changes: Vec<SchemaChange>,
}

impl Schema {
    /// Can `next` take over from this schema, so that everything stored stays readable and valid?
    ///
    /// Compatible are: new nullable fields behind all others; a range that contains the old one; required fields that
    /// become nullable; more allowed values behind the old ones; longer texts; a larger largest age; and a pattern, unique
    /// or increasing rule that is gone. Everything else is not: fields that go, move or change their kind, anything
    /// narrower, another target.
    ///
    /// # Errors
    /// [`SchemaError::Incompatible`] with both fingerprints and every reason.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{Field, Schema, Target, Widening};
    /// let old = Schema::new([Field::number("amount").range(0.0, 10.0)], Target::Value)?;
    /// let new = Schema::new([Field::number("amount"), Field::text("note", 80).nullable()], Target::Value)?;
    /// let changes = old.evolve(&new)?.changes;
    /// assert_eq!([&changes[0].widening, &changes[1].widening], [&Widening::Range, &Widening::Added]);
    /// assert!(new.evolve(&old).is_err());
    /// # Ok::<(), feedloop::SchemaError>(())
    /// ```
    pub fn evolve(&self, next: &Schema) -> Result<Evolution, SchemaError> {
        let (mut changes, mut why) = (Vec::new(), Vec::new());
        if self.target() != next.target() {
            why.push("the target is another one".to_owned());
        }
        for (index, old) in self.fields().iter().enumerate() {
            match next.fields().get(index) {
                Some(new) if new.name() == old.name() => compare(old, new, &mut changes, &mut why),
                _ if next.field_index(old.name()).is_some() => why.push(format!("field `{}` has moved", old.name())),
                _ => why.push(format!("field `{}` is gone", old.name())),
            }
        }
        // one that is not behind all others has moved another, which is said above
        for new in next.fields().iter().filter(|new| self.field_index(new.name()).is_none()) {
            if !new.is_nullable() {
                why.push(format!("the new field `{}` is not nullable", new.name()));
            }
            changes.push(SchemaChange { field: new.name().into(), widening: Widening::Added });
        }
        let (from, to) = (self.fingerprint().to_owned(), next.fingerprint().to_owned());
        if why.is_empty() {
            return Ok(Evolution { from, to, changes });
        }
        Err(SchemaError::Incompatible { found: to, expected: from, why })
    }

    /// Do both schemas have the columns that detectors and references see?
    pub(crate) fn same_columns(&self, other: &Schema) -> bool {
        self.value_columns() == other.value_columns() && self.code_columns() == other.code_columns()
    }
}

/// One field in both schemas.
fn compare(old: &Field, new: &Field, changes: &mut Vec<SchemaChange>, why: &mut Vec<String>) {
    let name = old.name();
    let mut widens = |widening| changes.push(SchemaChange { field: name.into(), widening });
    let mut narrows = |what: &str| why.push(format!("field `{name}`: {what}"));
    match (old.is_nullable(), new.is_nullable()) {
        (false, true) => widens(Widening::Nullable),
        (true, false) => narrows("it was nullable and is required now"),
        _ => {}
    }
    match (old.kind(), new.kind()) {
        (FieldKind::Number { range: before }, FieldKind::Number { range: after }) => {
            range(*before, *after, &mut widens, &mut narrows);
        }
        (FieldKind::Integer { range: before }, FieldKind::Integer { range: after }) => {
            range(*before, *after, &mut widens, &mut narrows);
        }
        (FieldKind::Category { allowed: before }, FieldKind::Category { allowed: after }) => {
            match after.strip_prefix(before.as_slice()) {
                Some([]) => {}
                Some(more) => widens(Widening::Allowed(more.to_vec())),
                None => narrows("its allowed values are not the old ones with others behind them"),
            }
        }
        (FieldKind::Text { max_bytes: before }, FieldKind::Text { max_bytes: after }) => match after.cmp(before) {
            std::cmp::Ordering::Greater => widens(Widening::MaxBytes(*after)),
            std::cmp::Ordering::Less => narrows("its texts are shorter"),
            std::cmp::Ordering::Equal => {}
        },
        (before, after) if before == after => {}
        _ => narrows("it is of another kind"),
    }
    let (before, after) = (old.rules(), new.rules());
    match (&before.pattern, &after.pattern) {
        (before, after) if before == after => {}
        (_, None) => widens(Widening::Pattern),
        _ => narrows("its pattern is new"),
    }
    match (before.fresh, after.fresh) {
        (before, after) if before == after => {}
        (Some(_), None) => widens(Widening::Fresh),
        (Some(before), Some(after)) if after > before => widens(Widening::Fresh),
        _ => narrows("its largest age is smaller"),
    }
    for (before, after, widening, what) in [
        (before.unique, after.unique, Widening::Unique, "it is unique now"),
        (before.increasing, after.increasing, Widening::Increasing, "it increases now"),
    ] {
        match (before, after) {
            (true, false) => widens(widening),
            (false, true) => narrows(what),
            _ => {}
        }
    }
}

fn range<T: PartialOrd>(
    before: Option<(T, T)>,
    after: Option<(T, T)>,
    widens: &mut impl FnMut(Widening),
    narrows: &mut impl FnMut(&str),
) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(_), None) => widens(Widening::Range),
        (Some(before), Some(after)) if after.0 <= before.0 && before.1 <= after.1 => widens(Widening::Range),
        _ => narrows("its range is narrower"),
    }
}

impl Row {
    /// Makes a row of an earlier version of `schema` a row of `schema`: fields that came since are missing.
    ///
    /// Schemas grow at their end only ([`Schema::evolve`]), so an older row is a shorter one. A row that is longer is
    /// left as it is; [`Schema::check`] refuses it.
    pub fn fit(&mut self, schema: &Schema) {
        fn grow<T: Clone, L: Deref<Target = [T]> + From<Vec<T>>>(list: &mut L, length: usize, missing: T) {
            if list.len() < length {
                let mut longer = list.to_vec();
                longer.resize(length, missing);
                *list = longer.into();
            }
        }
        grow(&mut self.values, schema.value_columns().len(), f64::NAN);
        grow(&mut self.integers, schema.integer_count(), MISSING_INTEGER);
        grow(&mut self.codes, schema.code_columns().len(), MISSING_CODE);
        grow(&mut self.texts, schema.text_limits().len(), None);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::schema::Target;

    fn schema(fields: impl IntoIterator<Item = Field>) -> Schema {
        Schema::new(fields, Target::Value).unwrap()
    }

    fn one(old: Field, new: Field) -> Result<Vec<Widening>, Vec<String>> {
        match schema([old]).evolve(&schema([new])) {
            Ok(evolution) => Ok(evolution.changes.into_iter().map(|change| change.widening).collect()),
            Err(SchemaError::Incompatible { why, .. }) => Err(why),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_is_wider_is_compatible_and_its_reverse_is_not() {
        let (n, i, c, t, at) = (
            || Field::number("x"),
            || Field::integer("x"),
            |allowed: &[&str]| Field::category("x", allowed.iter().copied()),
            |bytes| Field::text("x", bytes),
            || Field::timestamp("x"),
        );
        let cases = [
            (n().range(0.0, 1.0), n().range(0.0, 2.0), Widening::Range),
            (n().range(0.0, 1.0), n(), Widening::Range),
            (i().range(0.0, 1.0), i().range(-1.0, 1.0), Widening::Range),
            (n(), n().nullable(), Widening::Nullable),
            (c(&["a"]), c(&["a", "b"]), Widening::Allowed(vec!["b".into()])),
            (t(8), t(9), Widening::MaxBytes(9)),
            (t(8).pattern("a"), t(8), Widening::Pattern),
            (t(8).unique(), t(8), Widening::Unique),
            (n().increasing(), n(), Widening::Increasing),
            (at().fresh(TimeDelta::hours(1)), at().fresh(TimeDelta::hours(2)), Widening::Fresh),
            (at().fresh(TimeDelta::hours(1)), at(), Widening::Fresh),
        ];
        for (narrow, wide, widening) in cases {
            assert_eq!(one(narrow.clone(), wide.clone()), Ok(vec![widening]), "{narrow:?} to {wide:?}");
            assert!(one(wide.clone(), narrow.clone()).is_err(), "{wide:?} to {narrow:?}");
            assert_eq!(one(narrow.clone(), narrow), Ok(vec![]));
        }
    }

    #[test]
    fn what_is_merely_different_is_not_compatible() {
        assert!(one(Field::number("x").range(0.0, 2.0), Field::number("x").range(1.0, 3.0)).is_err());
        assert!(one(Field::category("x", ["a", "b"]), Field::category("x", ["b", "a", "c"])).is_err());
        assert!(one(Field::integer("x"), Field::number("x")).is_err());
        assert!(one(Field::embedding("x", 2), Field::embedding("x", 3)).is_err());
        assert!(one(Field::text("x", 8).pattern("a"), Field::text("x", 8).pattern("b")).is_err());
        let (a, b) = (|| Field::number("a"), || Field::number("b"));
        assert!(schema([a(), b()]).evolve(&schema([b(), a()])).is_err());
        assert!(schema([a(), b()]).evolve(&schema([a()])).is_err());
        assert!(schema([a()]).evolve(&schema([a(), b()])).is_err(), "a new required field");
        assert!(schema([b()]).evolve(&schema([a().nullable(), b()])).is_err(), "a new field in front");
        let classes = Schema::new([a()], Target::classes(["a", "b"])).unwrap();
        assert!(schema([a()]).evolve(&classes).is_err());
    }

    #[test]
    fn an_incompatible_change_names_both_fingerprints_and_every_reason() {
        let old = schema([Field::number("a"), Field::number("b"), Field::text("c", 8)]);
        let new = schema([Field::number("a").range(0.0, 1.0), Field::text("c", 4), Field::number("d")]);
        let error = old.evolve(&new).unwrap_err().to_string();
        for part in [old.fingerprint(), new.fingerprint(), "`a`", "`b` is gone", "`c` has moved", "`d` is not nullable"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn an_older_row_reads_as_one_whose_new_fields_are_missing() {
        let old = schema([Field::number("a"), Field::integer("i"), Field::category("c", ["x"]), Field::text("t", 9)]);
        let more = [
            Field::embedding("e", 2).nullable(),
            Field::timestamp("at").nullable(),
            Field::integer("j").nullable(),
            Field::category("d", ["y"]).nullable(),
            Field::text("u", 9).nullable(),
        ];
        let new = schema(old.fields().iter().cloned().chain(more));
        let json = serde_json::json!({"a": 1.5, "i": 9_007_199_254_740_993_i64, "c": "x", "t": "text"});
        let (mut row, mut fresh) = (Row::new(&old), Row::new(&new));
        row.encode(&old, &json);
        fresh.encode(&new, &json);
        assert!(new.fields()[4..].iter().enumerate().all(|(i, _)| row.is_missing(&new, i + 4)), "even before it fits");
        assert_eq!((row.text(&new, 8), row.integer(&new, 6)), (None, None));
        assert_eq!(row.to_json(&new), fresh.to_json(&new));
        row.fit(&new);
        assert_eq!(format!("{row:?}"), format!("{fresh:?}"), "NaN does not equal itself");
        assert!(new.check(&row).is_empty());
    }

    #[test]
    fn a_row_has_one_hash_before_and_after_it_fits_and_no_two_contents_share_one() {
        let fields = || {
            [
                Field::number("a").nullable(),
                Field::timestamp("at").nullable(),
                Field::category("c", ["x", "y"]).nullable(),
                Field::text("t", 9).nullable(),
            ]
        };
        let old = schema(fields());
        let more = [
            Field::number("b").nullable(),
            Field::timestamp("until").nullable(),
            Field::category("d", ["x", "y"]).nullable(),
            Field::text("u", 9).nullable(),
        ];
        let new = schema(fields().into_iter().chain(more));
        let mut hashes = std::collections::BTreeSet::new();
        // every cell is missing, 0 (an empty text) or another value
        for content in 0..3_u32.pow(8) {
            let cell = |index: u32| content / 3_u32.pow(index) % 3;
            let mut row = Row::new(&new);
            for at in 0..2 {
                let [value, time, code, text] = [0, 2, 4, 6].map(|first| cell(first + at as u32).checked_sub(1));
                value.into_iter().for_each(|value| row.values[at] = f64::from(value));
                time.into_iter().for_each(|time| row.integers[at] = i64::from(time));
                code.into_iter().for_each(|code| row.codes[at] = code);
                text.into_iter().for_each(|text| row.put_text(at, &"x".repeat(text as usize)));
            }
            assert!(hashes.insert(row.content_hash()), "{row:?}");
            if (0..4).all(|section| cell(2 * section + 1) == 0) {
                let mut before = Row::new(&old);
                before.values[0] = row.values[0];
                before.integers[0] = row.integers[0];
                before.codes[0] = row.codes[0];
                before.texts[0] = row.texts[0].clone();
                assert_eq!(before.content_hash(), row.content_hash(), "{row:?}");
            }
        }
    }
}
