//! Loads golden values: numbers that other libraries computed, kept as JSON.
//!
//! Files come from the directory in `FEEDLOOP_GOLDEN` if set, else from `tests/golden`.
//! `null` stands for NaN; `"inf"` and `"-inf"` for the infinities.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

/// One golden case.
pub(crate) struct Case {
    /// Its name, for messages.
    pub(crate) name: String,
    /// What goes in.
    pub(crate) inputs: Value,
    /// What must come out.
    pub(crate) outputs: Value,
}

/// All cases of `<file>.json`.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let folder = std::env::var("FEEDLOOP_GOLDEN")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").to_owned());
    let path = format!("{folder}/{file}.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let root: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    root["cases"]
        .as_array()
        .unwrap_or_else(|| panic!("{path}: no cases"))
        .iter()
        .map(|case| Case {
            name: case["name"].as_str().unwrap_or("?").to_owned(),
            inputs: case["inputs"].clone(),
            outputs: case["outputs"].clone(),
        })
        .collect()
}

/// A number; `null` is NaN.
pub(crate) fn number(value: &Value) -> f64 {
    match value {
        Value::Null => f64::NAN,
        Value::Number(x) => x.as_f64().unwrap(),
        Value::String(s) if s == "inf" => f64::INFINITY,
        Value::String(s) if s == "-inf" => f64::NEG_INFINITY,
        Value::String(s) if s == "nan" => f64::NAN,
        other => panic!("expected a number, found {other}"),
    }
}

/// A list of numbers.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// A list of rows of numbers.
pub(crate) fn matrix(value: &Value) -> ndarray::Array2<f64> {
    let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
    let columns = rows.first().map_or(0, Vec::len);
    ndarray::Array2::from_shape_vec((rows.len(), columns), rows.concat()).unwrap()
}

/// Checks |found − expected| ≤ tolerance · |expected| + absolute; NaN equals NaN.
#[track_caller]
pub(crate) fn assert_close(found: f64, expected: f64, relative: f64, absolute: f64, what: &str) {
    let close = (found.is_nan() && expected.is_nan())
        || found == expected
        || (found - expected).abs() <= relative * expected.abs() + absolute;
    assert!(close, "{what}: found {found:e}, expected {expected:e}");
}
