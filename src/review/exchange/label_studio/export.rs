//! Tasks for Label Studio, and the configuration of a project that can show them.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::super::{ReviewQueue, Task};
use super::{CONTROL, KEY, OBJECT, TEXT};
use crate::error::Error;
use crate::event::{Label, ModelVersion, predicted_label, predicted_probability};
use crate::schema::{FieldKind, Schema, Target};
use crate::store::Kind;

/// The labelling configuration of a Label Studio project (release 1.23.2) that asks for the labels of `schema`: it shows
/// `_loop_text` and takes one choice of the classes, or a number. See [`ExchangeFormat`](crate::ExchangeFormat).
///
/// # Errors
/// A class without a name, or with a character that XML 1.0 does not have; a field called `_loop_key` or `_loop_text`.
///
/// # Examples
/// ```
/// use feedloop::{Field, Schema, Target, label_studio_config};
/// # fn main() -> Result<(), feedloop::BoxError> {
/// let schema = Schema::new([Field::number("amount")], Target::classes(["good", "R&D"]))?;
/// assert!(label_studio_config(&schema)?.contains(r#"<Choice value="R&amp;D"/>"#));
/// # Ok(())
/// # }
/// ```
pub fn label_studio_config(schema: &Schema) -> Result<String, Error> {
    must_not_clash(schema)?;
    let mut config = format!("<View>\n  <Text name=\"{OBJECT}\" value=\"${TEXT}\"/>\n");
    match schema.target() {
        Target::Classes(names) => {
            config += &format!(
                "  <Choices name=\"{CONTROL}\" toName=\"{OBJECT}\" choice=\"single-radio\" required=\"true\">\n"
            );
            for name in names {
                config += &format!("    {}\n", choice(name)?);
            }
            config += "  </Choices>\n";
        }
        // Of a step that is no number, Label Studio demands nothing.
        Target::Value => {
            config += &format!("  <Number name=\"{CONTROL}\" toName=\"{OBJECT}\" step=\"any\" required=\"true\"/>\n");
        }
    }
    Ok(config + "</View>\n")
}

fn choice(name: &str) -> Result<String, Error> {
    let escaped = escape(name)?;
    if !name.contains('$') {
        return Ok(format!("<Choice value=\"{escaped}\"/>"));
    }
    // Label Studio replaces `$word` in a value, not in an alias, by the field of that name: a word joiner prevents it.
    Ok(format!("<Choice value=\"{}\" alias=\"{escaped}\"/>", escaped.replace('$', "$\u{2060}")))
}

/// A name as the value of an XML attribute.
fn escape(name: &str) -> Result<String, Error> {
    if name.trim().is_empty() {
        return Err(Error::Refused("a class without a name cannot be a choice in Label Studio".into()));
    }
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // As such they would be read as blanks.
            '\t' | '\n' | '\r' => escaped += &format!("&#{};", character as u32),
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => {
                let text = format!("the class {name:?} has a character that XML does not have, rename it");
                return Err(Error::Refused(text));
            }
            other => escaped.push(other),
        }
    }
    Ok(escaped)
}

pub(in super::super) fn must_not_clash(schema: &Schema) -> Result<(), Error> {
    let clash = [KEY, TEXT].into_iter().find(|name| schema.field_index(name).is_some());
    clash.map_or(Ok(()), |name| {
        Err(Error::Refused(format!("the schema has a field `{name}`, which the exchange with Label Studio needs")))
    })
}

/// Appends a task to `text`.
pub(in super::super) fn write(
    schema: &Schema,
    task: &Task,
    model: Option<ModelVersion>,
    text: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let mut data = task.row.to_json(schema);
    if let Value::Object(fields) = &mut data {
        let embeddings = schema.fields().iter().filter(|field| matches!(field.kind(), FieldKind::Embedding { .. }));
        for field in embeddings {
            fields.remove(field.name());
        }
        let shown = as_text(schema, task, |name| fields.get(name));
        fields.insert(KEY.into(), task.sample.to_string().into());
        fields.insert(TEXT.into(), shown.into());
    }
    let meta = json!({ "created": task.created, "priority": task.ask.priority, "overlap": task.ask.overlap });
    let mut object = json!({ "data": data, "meta": meta });
    if !task.ask.blind
        && let Some(prediction) = prediction(schema, task, model)
    {
        object["predictions"] = json!([prediction]);
    }
    serde_json::to_writer(text, &object)
}

/// The payload, and a line for each field.
fn as_text<'a>(schema: &Schema, task: &Task, value: impl Fn(&str) -> Option<&'a Value>) -> String {
    let mut text = task.payload.as_ref().map_or(String::new(), |payload| format!("{payload}\n\n"));
    for field in schema.fields() {
        // Writing to a string does not fail.
        let _ = match value(field.name()) {
            Some(Value::String(value)) => writeln!(text, "{}: {value}", field.name()),
            Some(Value::Null) => writeln!(text, "{}: (missing)", field.name()),
            Some(value) => writeln!(text, "{}: {value}", field.name()),
            None => Ok(()),
        };
    }
    text.truncate(text.trim_end().len());
    text
}

fn prediction(schema: &Schema, task: &Task, model: Option<ModelVersion>) -> Option<Value> {
    let target = schema.target();
    let (kind, value) = match (predicted_label(target, &task.output)?, target) {
        (Label::Class(class), Target::Classes(names)) => ("choices", json!([names.get(class as usize)?])),
        (Label::Value(value), _) => ("number", json!(value)),
        _ => return None,
    };
    let result = json!([{ "from_name": CONTROL, "to_name": OBJECT, "type": kind, "value": { kind: value } }]);
    let mut prediction = json!({ "result": result });
    if let Some(model) = model {
        prediction["model_version"] = model.to_string().into();
    }
    if let Some(probability) = predicted_probability(target, &task.output) {
        prediction["score"] = probability.into();
    }
    Some(prediction)
}

/// The part of a stored sample that says which model made its prediction.
#[derive(Deserialize)]
struct Kept {
    observation: Made,
}

#[derive(Deserialize)]
struct Made {
    model: ModelVersion,
}

impl ReviewQueue {
    /// The model whose output the task shows, if its sample is stored here.
    pub(in super::super) fn model_of(&self, task: &Task) -> Result<Option<ModelVersion>, Error> {
        let record = self.store.get(&self.pipeline, Kind::Sample, &task.sample.to_string());
        let record = record.map_err(Error::store("read a sample"))?;
        let kept = record.and_then(|record| serde_json::from_slice::<Kept>(&record.body).ok());
        Ok(kept.map(|kept| kept.observation.model))
    }
}
