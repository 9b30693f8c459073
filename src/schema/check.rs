//! Checks an encoded row against the rules of its schema.

use chrono::{DateTime, Utc};

use super::encode::{MOST_VIOLATIONS, cut};
use super::row::MISSING_INTEGER;
use super::{Field, FieldKind, MISSING_CODE, Row, Schema, Slot, UNSEEN_CODE, Violation, ViolationKind};

/// So many microseconds may a timestamp lie in the future: clocks differ.
const AHEAD: i64 = 60_000_000;

impl Schema {
    /// Everything that is wrong with `row`: what its encoding noted, and every rule of the schema that it breaks; at
    /// most 32 violations, encoding first.
    ///
    /// Checked are required fields, ranges, finite numbers (NaN is a missing value, an infinity is a violation; an
    /// embedding must be finite throughout or missing as a whole), whole numbers and booleans that came as plain
    /// numbers, allowed categories, the length of texts and their patterns; not whether a timestamp is fresh
    /// ([`Schema::check_at`]), and not what other rows are needed for (unique, increasing). A field that the encoding
    /// complained about is not complained about again. A row of another schema has one violation without a field name.
    ///
    /// A clean row allocates nothing.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{Field, Row, Schema, Target, ViolationKind};
    /// let schema = Schema::new([Field::number("age").range(0.0, 150.0)], Target::Value)?;
    /// assert!(schema.check(&Row::from_values(&schema, &[40.0])?).is_empty());
    /// let violations = schema.check(&Row::from_values(&schema, &[400.0])?);
    /// assert_eq!(violations[0].kind, ViolationKind::OutOfRange(400.0));
    /// # Ok::<(), feedloop::SchemaError>(())
    /// ```
    pub fn check(&self, row: &Row) -> Vec<Violation> {
        let mut violations = Vec::new();
        if !self.has_shape_of(row) {
            violations.push(Violation { field: String::new(), kind: ViolationKind::WrongLength(row.values.len()) });
            return violations;
        }
        if row.violations.is_empty() {
            if self.plan().keeps(row) {
                return violations;
            }
        } else {
            violations.extend(row.violations.iter().take(MOST_VIOLATIONS).cloned());
        }
        for (index, field) in self.fields().iter().enumerate() {
            if violations.len() >= MOST_VIOLATIONS {
                break;
            }
            if let Some(kind) = self.broken_rule(row, index, field)
                && !row.violations.iter().any(|violation| violation.field == field.name())
            {
                violations.push(Violation { field: field.name().into(), kind });
            }
        }
        violations
    }

    /// As [`Schema::check`], and whether the timestamps with a largest age were [fresh](Field::fresh) at `time`.
    pub fn check_at(&self, row: &Row, time: DateTime<Utc>) -> Vec<Violation> {
        let mut violations = self.check(row);
        if self.plan().fresh.is_empty() || !self.has_shape_of(row) {
            return violations;
        }
        let now = time.timestamp_micros();
        for &(field, at, max_age) in &self.plan().fresh {
            let then = row.integers[at];
            let age = now.saturating_sub(then);
            if then == MISSING_INTEGER || (-AHEAD..=max_age).contains(&age) {
                continue;
            }
            let seconds = age.unsigned_abs() as f64 / 1e6;
            let kind = if age < 0 { ViolationKind::Future(seconds) } else { ViolationKind::Stale(seconds) };
            let name = self.fields()[field].name();
            if violations.len() < MOST_VIOLATIONS && !violations.iter().any(|violation| violation.field == name) {
                violations.push(Violation { field: name.into(), kind });
            }
        }
        violations
    }

    #[cfg(test)]
    pub(super) fn every_broken_rule(&self, row: &Row) -> usize {
        let fields = self.fields().iter().enumerate();
        fields.filter(|(index, field)| self.broken_rule(row, *index, field).is_some()).count()
    }

    pub(crate) fn has_shape_of(&self, row: &Row) -> bool {
        row.values.len() == self.value_columns().len()
            && row.integers.len() == self.integer_count()
            && row.codes.len() == self.code_columns().len()
            && row.texts.len() == self.text_limits().len()
    }

    /// The first rule of field `index` that the row breaks.
    fn broken_rule(&self, row: &Row, index: usize, field: &Field) -> Option<ViolationKind> {
        if row.is_missing(self, index) {
            return (!field.is_nullable()).then_some(ViolationKind::Missing);
        }
        match (self.slot(index), field.kind()) {
            (Slot::Values { at, .. }, FieldKind::Integer { range }) => {
                let whole = row.integer(self, index);
                broken_whole(row.values[at], whole, *range)
            }
            (Slot::Values { at, len, .. }, kind) => broken_number(&row.values[at..at + len], kind),
            (Slot::Code { at }, FieldKind::Category { allowed }) => match row.codes[at] {
                UNSEEN_CODE => Some(ViolationKind::NotAllowed("a value that the schema does not list".into())),
                code if code != MISSING_CODE && code as usize >= allowed.len() => {
                    Some(ViolationKind::NotAllowed(format!("code {code}")))
                }
                _ => None,
            },
            (Slot::Text { at }, FieldKind::Text { max_bytes }) => {
                let text = row.texts[at].as_deref().unwrap_or_default();
                if text.len() > *max_bytes {
                    return Some(ViolationKind::WrongLength(text.len()));
                }
                let matches = self.plan().pattern(at).is_none_or(|pattern| pattern.is_match(text));
                (!matches).then(|| ViolationKind::Mismatch(cut(text, 64).into()))
            }
            _ => None,
        }
    }
}

fn broken_number(values: &[f64], kind: &FieldKind) -> Option<ViolationKind> {
    if values.iter().any(|value| !value.is_finite()) {
        return Some(ViolationKind::NotFinite);
    }
    match (kind, values) {
        (FieldKind::Number { range: Some((low, high)) }, [value]) if value < low || value > high => {
            Some(ViolationKind::OutOfRange(*value))
        }
        (FieldKind::Boolean, [value]) if *value != 0.0 && *value != 1.0 => {
            Some(ViolationKind::NotAllowed(value.to_string()))
        }
        _ => None,
    }
}

/// `whole` is the exact value; a row that came as a plain slice has `value` only.
fn broken_whole(value: f64, whole: Option<i64>, range: Option<(i64, i64)>) -> Option<ViolationKind> {
    if !value.is_finite() {
        return Some(ViolationKind::NotFinite);
    }
    let outside = match (whole, range) {
        (None, _) if value.fract() != 0.0 => return Some(ViolationKind::WrongType("a real number".into())),
        (_, None) => false,
        (Some(whole), Some((low, high))) => whole < low || whole > high,
        (None, Some((low, high))) => value < low as f64 || value > high as f64,
    };
    outside.then_some(ViolationKind::OutOfRange(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schema::Target;

    fn schema() -> Schema {
        Schema::new(
            [
                Field::number("amount").range(0.0, 100.0),
                Field::number("rate").nullable(),
                Field::integer("count").range(0.0, 10.0),
                Field::boolean("new"),
                Field::category("country", ["DE", "FR"]),
                Field::text("note", 8).nullable(),
                Field::embedding("vector", 2).nullable(),
            ],
            Target::classes(["a", "b"]),
        )
        .unwrap()
    }

    fn good(schema: &Schema) -> Row {
        let json = serde_json::json!({"amount": 5.0, "rate": null, "count": 3, "new": true, "country": "DE",
            "note": "fine", "vector": [0.5, -0.5]});
        let mut row = Row::new(schema);
        row.encode(schema, &json);
        assert!(row.violations().is_empty());
        row
    }

    fn kinds(schema: &Schema, row: &Row) -> Vec<(String, ViolationKind)> {
        schema.check(row).into_iter().map(|v| (v.field, v.kind)).collect()
    }

    #[test]
    fn a_clean_row_has_no_violations_and_allocates_nothing() {
        let schema = schema();
        assert_eq!(schema.check(&good(&schema)).capacity(), 0);
    }

    #[test]
    fn each_rule_is_checked_without_help_of_the_encoding() {
        use ViolationKind::*;
        let schema = schema();
        let broken = |change: &dyn Fn(&mut Row)| {
            let mut row = good(&schema);
            change(&mut row);
            kinds(&schema, &row)
        };
        let one = |field: &str, kind| vec![(field.to_owned(), kind)];
        assert_eq!(broken(&|r| r.values[0] = 100.5), one("amount", OutOfRange(100.5)));
        assert_eq!(broken(&|r| r.values[0] = f64::NAN), one("amount", Missing));
        assert_eq!(broken(&|r| r.values[0] = f64::INFINITY), one("amount", NotFinite));
        assert_eq!(broken(&|r| r.values[1] = f64::NEG_INFINITY), one("rate", NotFinite));
        assert_eq!(broken(&|r| r.integers[0] = 11), one("count", OutOfRange(3.0)));
        assert_eq!(broken(&|r| r.values[3] = 0.5), one("new", NotAllowed("0.5".into())));
        assert_eq!(broken(&|r| r.codes[0] = MISSING_CODE), one("country", Missing));
        assert_eq!(broken(&|r| r.codes[0] = 7), one("country", NotAllowed("code 7".into())));
        assert!(matches!(broken(&|r| r.codes[0] = UNSEEN_CODE)[..], [(_, NotAllowed(_))]));
        assert_eq!(broken(&|r| r.texts[0] = Some("too long a text".into())), one("note", WrongLength(15)));
        assert_eq!(broken(&|r| r.values[4] = f64::NAN), one("vector", NotFinite));
        assert_eq!(broken(&|r| r.values[4..].fill(f64::NAN)), []);
    }

    #[test]
    fn a_field_that_the_encoding_complained_about_is_listed_once() {
        let schema = schema();
        let mut row = Row::new(&schema);
        let json = serde_json::json!({"amount": "much", "count": 3, "new": true, "country": "XX", "what": 1});
        row.encode(&schema, &json);
        let found = kinds(&schema, &row);
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["amount", "country", "what"].map(|f| f), "{found:?}");
    }

    #[test]
    fn whole_numbers_of_a_plain_slice_are_checked_too() {
        let schema = Schema::new([Field::integer("n").range(0.0, 10.0)], Target::Value).unwrap();
        let check = |value: f64| kinds(&schema, &Row::from_values(&schema, &[value]).unwrap());
        assert_eq!(check(10.0), []);
        assert!(matches!(check(10.5)[..], [(_, ViolationKind::WrongType(_))]));
        assert!(matches!(check(11.0)[..], [(_, ViolationKind::OutOfRange(_))]));
    }

    #[test]
    fn a_row_of_another_schema_is_refused_not_read() {
        let other = Schema::numeric(3, Target::Value).unwrap();
        let found = kinds(&schema(), &Row::from_values(&other, &[1.0; 3]).unwrap());
        assert_eq!(found, [(String::new(), ViolationKind::WrongLength(3))]);
    }

    #[test]
    fn the_list_is_bounded() {
        let wide = Schema::new((0..100).map(|i| Field::number(format!("x{i}"))), Target::Value).unwrap();
        assert_eq!(wide.check(&Row::new(&wide)).len(), MOST_VIOLATIONS);
    }
}
