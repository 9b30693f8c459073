//! One JSON object per line.

use std::io::{BufRead, Read};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::change::SEPARATOR;
use super::super::{ReviewQueue, Task};
use super::ImportReport;
use super::statement::{Said, Statement, Trouble, part};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::schema::{Schema, Target};

/// The longest line of annotations, in bytes.
const LONGEST_LINE: u64 = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Serialize)]
struct TaskLine<'a> {
    key: PredictionId,
    created: DateTime<Utc>,
    priority: f64,
    overlap: u32,
    blind: bool,
    row: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<&'a [String]>,
}

/// Appends the line of a task to `text`.
pub(super) fn write(schema: &Schema, task: &Task, text: &mut Vec<u8>) -> serde_json::Result<()> {
    let shown = !task.ask.blind && !task.output.is_empty();
    let line = TaskLine {
        key: task.sample,
        created: task.created,
        priority: task.ask.priority,
        overlap: task.ask.overlap,
        blind: task.ask.blind,
        row: task.row.to_json(schema),
        payload: task.payload.as_deref(),
        output: shown.then(|| output(schema.target(), &task.output)),
        classes: match schema.target() {
            Target::Classes(names) => Some(names),
            Target::Value => None,
        },
    };
    serde_json::to_writer(&mut *text, &line)?;
    text.push(b'\n');
    Ok(())
}

fn output(target: &Target, output: &[f64]) -> Value {
    match target {
        Target::Classes(names) => names.iter().cloned().zip(output.iter().map(|&p| Value::from(p))).collect(),
        Target::Value => json!({ "value": output[0], "low": output[1], "high": output[2] }),
    }
}

#[derive(Deserialize)]
struct AnnotationLine {
    key: Option<String>,
    annotator: Option<String>,
    label: Option<Value>,
    annotation: Option<String>,
    time: Option<String>,
    confidence: Option<f64>,
    seconds: Option<f64>,
}

pub(super) fn import(
    queue: &ReviewQueue,
    schema: &Schema,
    mut input: impl BufRead,
    report: &mut ImportReport,
) -> Result<(), Error> {
    let mut line = Vec::new();
    for place in 1.. {
        line.clear();
        let read = input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
        let too_long = line.len() as u64 > LONGEST_LINE;
        // Of a line that is too long only the first part is kept.
        let read = if too_long && !line.ends_with(b"\n") { input.skip_until(b'\n') } else { read };
        if let Err(error) = read {
            report.ends_at(place, error);
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        let text = if place == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if too_long {
            report.note(place, None, Err(Trouble::refused("too_long", "the line has more than 1 MiB")))?;
            continue;
        }
        match serde_json::from_slice::<AnnotationLine>(text) {
            Ok(read) => report.note(place, read.annotation.as_deref(), take(queue, schema, &read))?,
            // Only the last line can be without an end.
            Err(error) if error.is_eof() && !line.ends_with(b"\n") => report.ends_at(place, error),
            Err(error) => {
                let code = if error.is_data() { "malformed" } else { "no_json" };
                report.note(place, None, Err(Trouble::refused(code, error.to_string())))?;
            }
        }
    }
    Ok(())
}

fn take(queue: &ReviewQueue, schema: &Schema, line: &AnnotationLine) -> Result<Said, Trouble> {
    let missing = |code, what: &str| Trouble::refused(code, format!("there is no `{what}`"));
    let key = line.key.as_deref().ok_or_else(|| missing("unknown_sample", "key"))?;
    let sample = key.parse().map_err(|_| Trouble::refused("unknown_sample", format!("`{key}` is no sample")))?;
    let who = line.annotator.clone().filter(|name| !name.trim().is_empty());
    let who = who.ok_or_else(|| missing("no_annotator", "annotator"))?;
    let label = line.label.as_ref().ok_or_else(|| missing("no_label", "label"))?;
    let annotation = line.annotation.as_deref().ok_or_else(|| missing("bad_key", "annotation"))?;
    queue.say(&Statement {
        sample,
        stream: format!("key-{}{SEPARATOR}{}", part(&who)?, part(annotation)?),
        who,
        truth: false,
        label: Some(self::label(schema, label)?),
        time: line.time.as_deref().map(time).transpose()?,
        confidence: line.confidence.unwrap_or(1.0),
        seconds: line.seconds,
        shown: false,
    })
}

/// The name of a class or a finite number, as the schema wants it.
pub(super) fn label(schema: &Schema, stated: &Value) -> Result<Label, Trouble> {
    match (schema.target(), stated) {
        (Target::Classes(names), Value::String(name)) => schema
            .class_index(name)
            .map(Label::Class)
            .ok_or_else(|| Trouble::refused("unknown_class", format!("`{name}` is none of {}", names.join(", ")))),
        (Target::Value, Value::Number(number)) => {
            let value = number.as_f64().filter(|value| value.is_finite());
            value.map(Label::Value).ok_or_else(|| Trouble::refused("not_finite", format!("{number} is not finite")))
        }
        (Target::Classes(_), other) => {
            Err(Trouble::refused("unusable_label", format!("{other} was found, the name of a class is expected")))
        }
        (Target::Value, other) => {
            Err(Trouble::refused("unusable_label", format!("{other} was found, a number is expected")))
        }
    }
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, Trouble> {
    let time = DateTime::parse_from_rfc3339(text);
    let refused = |error| Trouble::refused("bad_time", format!("`{text}` is no time by RFC 3339: {error}"));
    time.map(|time| time.to_utc()).map_err(refused)
}
