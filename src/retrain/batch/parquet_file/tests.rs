use std::io::Write;
use std::process::Command;

use chrono::{DateTime, TimeDelta};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use super::*;
use crate::event::{Label, PredictionId};
use crate::retrain::batch::line::Origin;
use crate::sample::{Annotator, Lane};
use crate::schema::Row;

/// Every kind of field; one of them has the name of a column of ours.
fn schema(target: Target) -> Schema {
    let fields = [
        Field::number("amount"),
        Field::integer("count"),
        Field::boolean("member"),
        Field::category("country", ["DE", "FR"]),
        Field::text("weight", 100),
        Field::timestamp("at"),
        Field::embedding("vector", 2),
    ];
    Schema::new(fields.map(Field::nullable), target).unwrap()
}

fn rows(schema: &Schema) -> Vec<Row> {
    let full = json!({"amount": 0.1, "count": 3, "member": true, "country": "FR", "weight": "so \"it\" is, ünï",
        "at": "2023-11-14T22:13:20.250Z", "vector": [1.5, -2.0]});
    let unseen = json!({"amount": -0.0, "member": false, "country": "AT", "weight": ""});
    let mut rows: Vec<Row> = [full, unseen, json!({})]
        .iter()
        .map(|value| {
            let mut row = Row::new(schema);
            row.encode(schema, value);
            row
        })
        .collect();
    let mut odd = Row::from_values(schema, &[f64::INFINITY, 7.0, f64::NAN, f64::NAN, 4.0]).unwrap();
    odd.violations.clear();
    rows.push(odd);
    rows
}

fn file(target: Target, label: impl Fn(usize) -> Label, from_samples: bool) -> Vec<u8> {
    let schema = schema(target);
    let annotators = [Annotator::Human("ada".into()), Annotator::GroundTruth];
    let rows = rows(&schema);
    let lines: Vec<Line<'_>> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let origin = Origin {
                sample: PredictionId::from_uuid(uuid::Uuid::from_u128(index as u128)),
                time: DateTime::UNIX_EPOCH + TimeDelta::microseconds(1_700_000_000_250_001),
                annotator: &annotators[index % 2],
                lane: Lane::Random,
                inclusion: 0.25,
                judged: index == 1,
            };
            Line { row, label: label(index), weight: 1.0 + index as f64 / 2.0, origin: from_samples.then_some(origin) }
        })
        .collect();
    parquet(&schema, &lines).unwrap()
}

fn batch() -> Vec<u8> {
    file(Target::classes(["good", "fraud"]), |index| Label::Class((index % 2) as u32), true)
}

fn read(file: &[u8]) -> Vec<Value> {
    let mut on_disk = tempfile::tempfile().unwrap();
    on_disk.write_all(file).unwrap();
    let reader = SerializedFileReader::new(on_disk).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| to_json(&row.unwrap())).collect()
}

fn to_json(row: &parquet::record::Row) -> Value {
    use parquet::record::Field as Cell;
    fn cell(found: &Cell) -> Value {
        match found {
            Cell::Null => Value::Null,
            Cell::Bool(value) => json!(value),
            Cell::Double(value) => {
                serde_json::Number::from_f64(*value).map_or_else(|| json!(value.to_string()), Value::Number)
            }
            Cell::Str(text) => json!(text),
            Cell::TimestampMicros(micros) => json!(micros),
            Cell::ListInternal(list) => list.elements().iter().map(cell).collect(),
            other => panic!("{other:?}"),
        }
    }
    row.get_column_iter().map(|(name, found)| (name.clone(), cell(found))).collect()
}

#[test]
fn every_kind_of_field_and_every_missing_value_is_read_back() {
    let rows = read(&batch());
    let sample = |n: u32| format!("00000000-0000-0000-0000-00000000000{n}");
    let time = 1_700_000_000_250_001_i64;
    let first = json!({"amount": 0.1, "count": 3.0, "member": true, "country": "FR", "weight": "so \"it\" is, ünï",
        "at": 1_700_000_000_250_000_i64, "vector": [1.5, -2.0], "label": "good", "_weight": 1.0, "sample": sample(0),
        "time": time, "source": "human", "lane": "random", "inclusion": 0.25, "split": "train"});
    let second = json!({"amount": -0.0, "count": null, "member": false, "country": "__unseen__", "weight": "",
        "at": null, "vector": null, "label": "fraud", "_weight": 1.5, "sample": sample(1),
        "time": time, "source": "ground_truth", "lane": "random", "inclusion": 0.25, "split": "judge"});
    assert_eq!(rows[..2], [first, second]);
    let fields = ["amount", "count", "member", "country", "weight", "at", "vector"];
    assert!(fields.iter().all(|field| rows[2][field].is_null()), "{}", rows[2]);
    assert_eq!(
        (&rows[3]["amount"], &rows[3]["count"], &rows[3]["vector"]),
        (&json!("inf"), &json!(7.0), &json!([null, 4.0]))
    );
    assert_eq!(rows.len(), 4);
}

#[test]
fn values_are_doubles_and_rows_without_samples_have_no_columns_of_theirs() {
    let rows = read(&file(Target::Value, |index| Label::Value(index as f64 / 4.0), false));
    assert_eq!((&rows[3]["label"], &rows[3]["_weight"]), (&json!(0.75), &json!(2.5)));
    assert_eq!(rows[0].as_object().unwrap().len(), 9);
    let schema = schema(Target::Value);
    assert!(read(&parquet(&schema, &[]).unwrap()).is_empty());
}

/// What pyarrow, pandas and DuckDB must find in the file.
const SCRIPT: &str = include_str!("read_back.py");

/// A Python with pyarrow, pandas and DuckDB: that of `FEEDLOOP_PYTHON`, which must have them, or `python3` if it has.
fn python() -> Option<String> {
    let named = std::env::var("FEEDLOOP_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let output = Command::new(&python).args(["-c", "import duckdb, pandas, pyarrow"]).output();
    let usable = output.as_ref().is_ok_and(|output| output.status.success());
    assert!(usable || named.is_none(), "FEEDLOOP_PYTHON={python} lacks duckdb, pandas or pyarrow: {output:?}");
    usable.then_some(python)
}

#[test]
fn pyarrow_pandas_and_duckdb_read_it_as_it_is() {
    let Some(python) = python() else {
        eprintln!("skipped: python3 has no duckdb, pandas and pyarrow; name one that has in FEEDLOOP_PYTHON");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.parquet");
    std::fs::write(&path, batch()).unwrap();
    let output = Command::new(python).args(["-c", SCRIPT]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "pyarrow, pandas and duckdb agree");
}
