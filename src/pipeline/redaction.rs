//! Redaction: what the host takes out of a prediction before anything of it is stored.

use super::Pipeline;
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::sample::{Erasure, Sample};
use crate::schema::{FieldKind, MISSING_CODE, Row, Schema, Slot, ViolationKind};
use crate::stage::isolate;

/// Takes things out of a prediction that becomes a sample.
pub(super) type Redact = Box<dyn Fn(&mut Redaction<'_>) -> Result<(), BoxError> + Send>;

/// A prediction that is about to become a sample; see [`PipelineBuilder::redact`](crate::PipelineBuilder::redact).
#[derive(Debug)]
pub struct Redaction<'a> {
    schema: &'a Schema,
    id: PredictionId,
    row: &'a mut Row,
}

impl Redaction<'_> {
    /// Schema of the row.
    pub fn schema(&self) -> &Schema {
        self.schema
    }

    /// Name of the prediction.
    pub fn id(&self) -> PredictionId {
        self.id
    }

    /// The row as it is so far.
    pub fn row(&self) -> &Row {
        self.row
    }

    /// Takes the value of a field out: it is missing from now on, so the field should be nullable, or
    /// [`SchemaGate`](crate::SchemaGate) refuses the row. What the violations of the field say of its value goes too.
    ///
    /// # Errors
    /// There is no such field.
    pub fn clear(&mut self, field: &str) -> Result<(), BoxError> {
        match self.slot(field)? {
            Slot::Values { at, len, integer } => {
                self.row.values[at..at + len].fill(f64::NAN);
                if let Some(integer) = integer {
                    self.row.integers[integer] = i64::MIN;
                }
            }
            Slot::Time { at } => self.row.integers[at] = i64::MIN,
            Slot::Code { at } => self.row.codes[at] = MISSING_CODE,
            Slot::Text { at } => self.row.texts[at] = None,
        }
        self.clear_violations(field);
        Ok(())
    }

    /// Replaces the text of a text field, as by a digest or a shortened form.
    ///
    /// # Errors
    /// There is no such text field, or the text is longer than it may be.
    pub fn set_text(&mut self, field: &str, text: &str) -> Result<(), BoxError> {
        let Slot::Text { at } = self.slot(field)? else { return Err(message(format!("`{field}` is no text"))) };
        let most = self.schema.text_limits()[at];
        if text.len() > most {
            return Err(message(format!("a text of {} bytes for `{field}`, which has at most {most}", text.len())));
        }
        self.row.put_text(at, text);
        self.clear_violations(field);
        Ok(())
    }

    /// Replaces the value of a number, whole number or boolean, as by a rounded one.
    ///
    /// # Errors
    /// There is no such field, or the value is not finite, or no whole number where one is needed.
    pub fn set_number(&mut self, field: &str, value: f64) -> Result<(), BoxError> {
        let Slot::Values { at, len: 1, integer } = self.slot(field)? else {
            return Err(message(format!("`{field}` is no single number")));
        };
        if !value.is_finite() || (integer.is_some() && value.fract() != 0.0) {
            return Err(message(format!("{value} cannot be the value of `{field}`")));
        }
        self.row.values[at] = value;
        if let Some(integer) = integer {
            self.row.integers[integer] = value as i64;
        }
        self.clear_violations(field);
        Ok(())
    }

    fn slot(&self, field: &str) -> Result<Slot, BoxError> {
        let index = self.schema.field_index(field).ok_or_else(|| message(format!("there is no field `{field}`")))?;
        if let FieldKind::Embedding { dimension: 1 } = self.schema.fields()[index].kind() {
            return Err(message(format!("`{field}` is an embedding")));
        }
        Ok(self.schema.slot(index))
    }

    /// That something was wrong stays; what it was, goes.
    fn clear_violations(&mut self, field: &str) {
        for violation in self.row.violations.iter_mut().filter(|violation| violation.field == field) {
            match &mut violation.kind {
                ViolationKind::NotAllowed(text) | ViolationKind::Mismatch(text) | ViolationKind::WrongType(text) => {
                    text.clear();
                }
                ViolationKind::OutOfRange(value) => *value = 0.0,
                _ => {}
            }
        }
    }
}

impl Pipeline {
    /// Lets the host redact a prediction that becomes a sample. If that fails, nothing of the content is left.
    pub(super) fn redact(&mut self, sample: &mut Sample) {
        let Some(redact) = &self.redaction else { return };
        let (schema, id) = (&*self.schema, sample.id());
        let row = &mut sample.observation.row;
        // What it says when it fails may hold what it was to take out: it is not kept.
        if isolate(|| redact(&mut Redaction { schema, id, row })).is_err() {
            self.counters.redaction_failures += 1;
            let (time, by, why) = (self.now, "redaction".to_owned(), "the redaction failed".to_owned());
            let erasure = Erasure { time, by, why, content: String::new(), row: None };
            sample.empty(erasure, Row::new(schema));
        }
    }
}
