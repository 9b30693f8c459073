//! The rows of a data file: what is written of each, as JSON Lines, and how they are read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dataset::Dataset;
use crate::error::{BoxError, message};
use crate::event::{Label, PredictionId};
use crate::retrain::taught::Said;
use crate::sample::{Annotator, Lane};
use crate::schema::{Row, Schema, Target};

/// One row of a data file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) row: &'a Row,
    pub(crate) label: Label,
    pub(crate) weight: f64,
    /// The sample that it was; rows of base data and of jobs name none.
    pub(crate) origin: Option<Origin<'a>>,
}

/// What is known of the sample behind a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) sample: PredictionId,
    pub(crate) time: DateTime<Utc>,
    pub(crate) annotator: &'a Annotator,
    pub(crate) lane: Lane,
    pub(crate) inclusion: f64,
    pub(crate) judged: bool,
}

impl Origin<'_> {
    /// Who gave the label.
    pub(crate) fn source(&self) -> &'static str {
        match self.annotator {
            Annotator::Human(_) => "human",
            Annotator::User(_) => "user",
            Annotator::GroundTruth => "ground_truth",
            Annotator::Model(_) => "model",
        }
    }

    /// `judge` for a row that judged models before it trains, `train` for every other.
    pub(crate) fn split(&self) -> &'static str {
        if self.lane.judges() && self.judged { "judge" } else { "train" }
    }
}

impl Line<'_> {
    /// One JSON object: `row` (field names to values), `label` (name of the class, or the value) and `weight`; of a sample
    /// also `sample`, `time`, `annotator`, `source`, `lane`, `inclusion` and `split`.
    pub(crate) fn json(&self, schema: &Schema) -> Value {
        let label = label_json(self.label, schema);
        let mut object = json!({ "row": self.row.to_json(schema), "label": label, "weight": self.weight });
        if let Some(origin) = &self.origin {
            object["sample"] = json!(origin.sample);
            object["time"] = json!(origin.time);
            object["annotator"] = json!(origin.annotator);
            object["source"] = json!(origin.source());
            object["lane"] = json!(origin.lane.as_str());
            object["inclusion"] = json!(origin.inclusion);
            object["split"] = json!(origin.split());
        }
        object
    }
}

/// Name of the class; `None` for a value.
pub(crate) fn class(label: Label, schema: &Schema) -> Option<&str> {
    match (label, schema.target()) {
        (Label::Class(class), Target::Classes(names)) => names.get(class as usize).map(String::as_str),
        _ => None,
    }
}

/// The name of the class, or the value.
fn label_json(label: Label, schema: &Schema) -> Value {
    match label {
        Label::Class(_) => json!(class(label, schema)),
        Label::Value(value) => json!(value),
    }
}

fn read_label(schema: &Schema, label: &Value) -> Result<Label, BoxError> {
    let read = match schema.target() {
        Target::Classes(_) => label.as_str().and_then(|name| schema.class_index(name)).map(Label::Class),
        Target::Value => label.as_f64().map(Label::Value),
    };
    read.ok_or_else(|| message(format!("the label {label} does not fit")))
}

/// What a batch says of rows of earlier ones: one JSON object each with `sample`, `annotation` (its number) and `label`, both
/// null if the label was taken back.
pub(crate) fn corrected_lines(schema: &Schema, corrections: &[(PredictionId, Said)]) -> Vec<u8> {
    let line = |(sample, said): &(PredictionId, Said)| {
        let (annotation, label) = said.map(|(number, label)| (number, label_json(label, schema))).unzip();
        format!("{}\n", json!({ "sample": sample, "annotation": annotation, "label": label })).into_bytes()
    };
    corrections.iter().flat_map(line).collect()
}

/// Reads what [`corrected_lines`] wrote.
///
/// # Errors
/// It names the line that is no correction or does not fit the schema.
pub(crate) fn read_corrected(schema: &Schema, bytes: &[u8]) -> Result<BTreeMap<PredictionId, Said>, BoxError> {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let read = |line: &[u8]| -> Result<(PredictionId, Said), BoxError> {
        let object: Value = serde_json::from_slice(line)?;
        let sample = PredictionId::deserialize(&object["sample"])?;
        let annotation = Option::<u32>::deserialize(&object["annotation"])?;
        let said =
            annotation.map(|number| Ok::<_, BoxError>((number, read_label(schema, &object["label"])?))).transpose()?;
        Ok((sample, said))
    };
    let named = |(index, line)| read(line).map_err(|error| message(format!("line {}: {error}", index + 1)));
    lines.enumerate().map(named).collect()
}

/// The rows of a dataset as lines without samples.
pub(crate) fn lines_of(data: &Dataset) -> impl Iterator<Item = Line<'_>> {
    let rows = data.rows().iter().zip(data.labels()).zip(data.weights());
    rows.map(|((row, &label), &weight)| Line { row, label, weight, origin: None })
}

/// Rows as JSON Lines.
pub(crate) fn json_lines(schema: &Schema, lines: &[Line<'_>]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{}\n", line.json(schema)).into_bytes()).collect()
}

/// Reads rows, labels and weights of JSON Lines.
///
/// # Errors
/// It names the line that does not fit the schema.
pub(crate) fn read_json_lines(schema: &Arc<Schema>, bytes: &[u8]) -> Result<Dataset, BoxError> {
    let mut data = Dataset::new(schema.clone());
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    for (index, line) in lines.enumerate() {
        let read = || -> Result<(Row, Label, f64), BoxError> {
            let object: Value = serde_json::from_slice(line)?;
            let label = read_label(schema, &object["label"])?;
            let weight = object["weight"].as_f64().ok_or_else(|| message("it has no weight"))?;
            Ok((Row::from_json(schema, &object["row"])?, label, weight))
        };
        let (row, label, weight) = read().map_err(|error| message(format!("line {}: {error}", index + 1)))?;
        data.push(row, label, weight)?;
    }
    Ok(data)
}

/// What a column beside the fields holds.
pub(crate) const COLUMNS: [&str; 8] = ["label", "weight", "sample", "time", "source", "lane", "inclusion", "split"];

/// The names of the columns beside the fields of `schema`: the usual one, with an underscore before it for each field that
/// has the name already.
pub(crate) fn columns(schema: &Schema) -> BTreeMap<String, String> {
    let free = |usual: &str| {
        let mut name = usual.to_owned();
        while schema.field_index(&name).is_some() {
            name.insert(0, '_');
        }
        name
    };
    COLUMNS.iter().map(|usual| ((*usual).to_owned(), free(usual))).collect()
}
