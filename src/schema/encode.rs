//! Writes a host's own `#[derive(Serialize)]` value straight into a [`Row`], without JSON in between.

mod cell;

use std::fmt::{self, Write};

use serde::ser::{self, Serialize};

use super::{Row, Schema, Violation, ViolationKind};
use cell::Cell;

/// More than this many violations of one row are not kept: a broken feed must not eat memory.
pub(super) const MOST_VIOLATIONS: usize = 32;

impl Row {
    /// Encodes a struct or map of the host into this row.
    ///
    /// Whatever does not fit becomes a [`Violation`]; the rest of the row is encoded all the same. A row that fits
    /// allocates nothing once the buffers of its texts have grown to their size.
    pub fn encode<T: Serialize + ?Sized>(&mut self, schema: &Schema, value: &T) {
        self.reset();
        let mut encoder = RowEncoder { schema, row: self, next: 0, seen: 0 };
        if let Err(problem) = value.serialize(&mut encoder) {
            encoder.violate("", ViolationKind::WrongType(problem.0));
        }
        let complete = encoder.seen == schema.fields().len();
        if !complete || !self.violations.is_empty() {
            self.note_missing(schema);
        }
    }

    /// Adds a violation for each required field without a value and without a violation of its own.
    fn note_missing(&mut self, schema: &Schema) {
        for (index, field) in schema.fields().iter().enumerate() {
            if !field.is_nullable()
                && self.is_missing(schema, index)
                && self.violations.len() < MOST_VIOLATIONS
                && !self.violations.iter().any(|v| v.field == field.name())
            {
                self.violations.push(Violation { field: field.name().into(), kind: ViolationKind::Missing });
            }
        }
    }
}

/// Why a value as a whole cannot be a row.
#[derive(Debug)]
struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl ser::Error for Problem {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Problem(text.to_string())
    }
}

struct RowEncoder<'a> {
    schema: &'a Schema,
    row: &'a mut Row,
    /// The field that probably comes next: hosts serialise their fields in one order.
    next: usize,
    seen: usize,
}

impl RowEncoder<'_> {
    fn violate(&mut self, field: &str, kind: ViolationKind) {
        if self.row.violations.len() < MOST_VIOLATIONS {
            self.row.violations.push(Violation { field: field.into(), kind });
        }
    }

    fn field(&mut self, name: &str) -> Option<usize> {
        let fields = self.schema.fields();
        let index = match fields.get(self.next) {
            Some(field) if same(field.name().as_bytes(), name.as_bytes()) => self.next,
            _ => match self.schema.field_index(name) {
                Some(index) => index,
                None => {
                    self.violate(name, ViolationKind::UnknownField(name.into()));
                    return None;
                }
            },
        };
        self.next = index + 1;
        self.seen += 1;
        Some(index)
    }

    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Problem> {
        if let Some(index) = self.field(name) {
            let cell = Cell { schema: self.schema, row: self.row, field: index, part: None };
            if let Err(problem) = value.serialize(cell) {
                self.violate(name, ViolationKind::WrongType(problem.0));
            }
        }
        Ok(())
    }
}

/// Are two names equal? Most are short: word by word and in place, which is faster than a call of `memcmp` for each.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    a.len() == b.len()
        && a_words.iter().zip(b_words).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
        && a_rest.iter().zip(b_rest).all(|(a, b)| a == b)
}

macro_rules! not_a_row {
    ($($method:ident: $type:ty),* $(,)?) => { $(
        fn $method(self, _: $type) -> Result<(), Problem> {
            Err(Problem(format!("a row is a struct or a map, not a {}", stringify!($type))))
        }
    )* };
}

impl<'a, 'b> ser::Serializer for &'a mut RowEncoder<'b> {
    type Ok = ();
    type Error = Problem;
    type SerializeSeq = ser::Impossible<(), Problem>;
    type SerializeTuple = ser::Impossible<(), Problem>;
    type SerializeTupleStruct = ser::Impossible<(), Problem>;
    type SerializeTupleVariant = ser::Impossible<(), Problem>;
    type SerializeMap = MapEncoder<'a, 'b>;
    type SerializeStruct = Self;
    type SerializeStructVariant = ser::Impossible<(), Problem>;

    not_a_row! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
    }

    fn serialize_none(self) -> Result<(), Problem> {
        Err(Problem("a row is a struct or a map, not nothing".into()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Problem> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Problem> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Problem> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Problem> {
        Err(Problem(format!("a row is a struct or a map, not the variant {variant}")))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Problem> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Problem> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Problem> {
        Err(Problem("a row is a struct or a map, not a sequence".into()))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Problem> {
        Err(Problem("a row is a struct or a map, not a tuple".into()))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Problem> {
        Err(Problem(format!("a row is a struct or a map, not the tuple {name}")))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Problem> {
        Err(Problem(format!("a row is a struct or a map, not the variant {variant}")))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Problem> {
        let key = self.row.spare_text();
        Ok(MapEncoder { encoder: self, key })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Problem> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Problem> {
        Err(Problem(format!("a row is a struct or a map, not the variant {variant}")))
    }
}

impl ser::SerializeStruct for &mut RowEncoder<'_> {
    type Ok = ();
    type Error = Problem;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Problem> {
        self.put(key, value)
    }

    fn end(self) -> Result<(), Problem> {
        Ok(())
    }
}

/// A map, or a struct with `#[serde(flatten)]`: keys arrive as values.
struct MapEncoder<'a, 'b> {
    encoder: &'a mut RowEncoder<'b>,
    key: String,
}

impl ser::SerializeMap for MapEncoder<'_, '_> {
    type Ok = ();
    type Error = Problem;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Problem> {
        self.key.clear();
        write!(self.key, "{}", AsText(key)).map_err(|_| Problem("a map whose keys are no texts".into()))?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Problem> {
        self.encoder.put(&self.key, value)
    }

    fn end(self) -> Result<(), Problem> {
        self.encoder.row.keep_spare(self.key);
        Ok(())
    }
}

/// A key, as serde writes it for [`Display`](fmt::Display).
struct AsText<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Display for AsText<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// The longest prefix of `text` of at most `bytes` bytes that ends between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
