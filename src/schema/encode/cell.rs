//! The value of one field.

use chrono::DateTime;
use serde::ser::{self, Serialize};

use super::super::{FieldKind, Row, Schema, Slot, UNSEEN_CODE, Violation, ViolationKind};
use super::{MOST_VIOLATIONS, Problem, cut};

/// One field of the row, or one part of an embedding.
pub(super) struct Cell<'a> {
    pub(super) schema: &'a Schema,
    pub(super) row: &'a mut Row,
    pub(super) field: usize,
    pub(super) part: Option<usize>,
}

impl Cell<'_> {
    fn violate(&mut self, kind: ViolationKind) {
        if self.row.violations.len() < MOST_VIOLATIONS {
            let field = self.schema.fields()[self.field].name().to_owned();
            self.row.violations.push(Violation { field, kind });
        }
    }

    fn wrong(mut self, found: &str) -> Result<(), Problem> {
        self.violate(ViolationKind::WrongType(found.into()));
        Ok(())
    }

    fn float(mut self, value: f64) -> Result<(), Problem> {
        match (self.schema.slot(self.field), self.part, self.schema.fields()[self.field].kind()) {
            (Slot::Values { at, len, .. }, Some(part), FieldKind::Embedding { .. }) => {
                if part < len {
                    self.row.values[at + part] = value;
                    if !value.is_finite() {
                        self.violate(ViolationKind::NotFinite);
                    }
                }
                Ok(())
            }
            (Slot::Values { at, .. }, None, FieldKind::Number { .. }) => {
                self.row.values[at] = value;
                if value.is_infinite() {
                    self.violate(ViolationKind::NotFinite);
                }
                Ok(())
            }
            (Slot::Values { .. }, None, FieldKind::Integer { .. }) | (Slot::Time { .. }, None, _)
                if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 =>
            {
                self.whole(value as i64)
            }
            _ => self.wrong("a real number"),
        }
    }

    fn whole(self, value: i64) -> Result<(), Problem> {
        match (self.schema.slot(self.field), self.part, self.schema.fields()[self.field].kind()) {
            (Slot::Values { at, integer: Some(integer), .. }, None, FieldKind::Integer { .. }) => {
                self.row.values[at] = value as f64;
                self.row.integers[integer] = value;
                Ok(())
            }
            (Slot::Time { at }, None, _) => {
                self.row.integers[at] = value;
                Ok(())
            }
            (Slot::Values { .. }, _, FieldKind::Number { .. } | FieldKind::Embedding { .. }) => {
                self.float(value as f64)
            }
            _ => self.wrong("a whole number"),
        }
    }

    fn text(mut self, value: &str) -> Result<(), Problem> {
        match (self.schema.slot(self.field), self.part) {
            (Slot::Code { at }, None) => {
                self.row.codes[at] = match self.schema.category_code(at, value) {
                    Some(code) => code,
                    None => {
                        self.violate(ViolationKind::NotAllowed(cut(value, 64).into()));
                        UNSEEN_CODE
                    }
                };
                Ok(())
            }
            (Slot::Text { at }, None) => {
                let kept = cut(value, self.schema.text_limits()[at]);
                if kept.len() < value.len() {
                    self.violate(ViolationKind::WrongLength(value.len()));
                }
                self.row.put_text(at, kept);
                Ok(())
            }
            (Slot::Time { at }, None) => match DateTime::parse_from_rfc3339(value) {
                Ok(time) => {
                    self.row.integers[at] = time.timestamp_micros();
                    Ok(())
                }
                Err(_) => self.wrong("a text that is not an RFC 3339 time"),
            },
            _ => self.wrong("a text"),
        }
    }
}

impl<'a> ser::Serializer for Cell<'a> {
    type Ok = ();
    type Error = Problem;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = ser::Impossible<(), Problem>;
    type SerializeMap = ser::Impossible<(), Problem>;
    type SerializeStruct = ser::Impossible<(), Problem>;
    type SerializeStructVariant = ser::Impossible<(), Problem>;

    fn serialize_bool(self, value: bool) -> Result<(), Problem> {
        match (self.schema.slot(self.field), self.part, self.schema.fields()[self.field].kind()) {
            (Slot::Values { at, .. }, None, FieldKind::Boolean) => {
                self.row.values[at] = f64::from(u8::from(value));
                Ok(())
            }
            _ => self.wrong("a boolean"),
        }
    }

    fn serialize_i8(self, value: i8) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Problem> {
        self.whole(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Problem> {
        self.whole(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Problem> {
        match i64::try_from(value) {
            Ok(value) => self.whole(value),
            Err(_) => self.wrong("a whole number above 2^63 - 1"),
        }
    }

    fn serialize_f32(self, value: f32) -> Result<(), Problem> {
        self.float(value.into())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Problem> {
        match self.schema.plain_number(self.field) {
            Some(at) if self.part.is_none() && !value.is_infinite() => {
                self.row.values[at] = value;
                Ok(())
            }
            _ => self.float(value),
        }
    }

    fn serialize_char(self, value: char) -> Result<(), Problem> {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Problem> {
        self.text(value)
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Problem> {
        self.wrong("bytes")
    }

    fn serialize_none(self) -> Result<(), Problem> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Problem> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Problem> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Problem> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Problem> {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Problem> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Problem> {
        self.wrong("an enum with content")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Problem> {
        Ok(Parts { cell: self, count: 0 })
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Problem> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Problem> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Problem> {
        Err(Problem("an enum with content".into()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Problem> {
        Err(Problem("a map".into()))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Problem> {
        Err(Problem("a struct".into()))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Problem> {
        Err(Problem("an enum with content".into()))
    }
}

/// The parts of an embedding.
pub(super) struct Parts<'a> {
    cell: Cell<'a>,
    count: usize,
}

impl Parts<'_> {
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Problem> {
        let cell =
            Cell { schema: self.cell.schema, row: self.cell.row, field: self.cell.field, part: Some(self.count) };
        self.count += 1;
        value.serialize(cell)
    }

    fn finish(mut self) -> Result<(), Problem> {
        match self.cell.schema.fields()[self.cell.field].kind() {
            FieldKind::Embedding { dimension } if *dimension != self.count => {
                self.cell.violate(ViolationKind::WrongLength(self.count));
                Ok(())
            }
            FieldKind::Embedding { .. } => Ok(()),
            _ if self.count == 0 => self.cell.wrong("an empty sequence"),
            // Each part has complained already.
            _ => Ok(()),
        }
    }
}

impl ser::SerializeSeq for Parts<'_> {
    type Ok = ();
    type Error = Problem;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Problem> {
        self.part(value)
    }

    fn end(self) -> Result<(), Problem> {
        self.finish()
    }
}

impl ser::SerializeTuple for Parts<'_> {
    type Ok = ();
    type Error = Problem;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Problem> {
        self.part(value)
    }

    fn end(self) -> Result<(), Problem> {
        self.finish()
    }
}

impl ser::SerializeTupleStruct for Parts<'_> {
    type Ok = ();
    type Error = Problem;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Problem> {
        self.part(value)
    }

    fn end(self) -> Result<(), Problem> {
        self.finish()
    }
}
