//! Cases of alibi-detect (KSDrift and ChiSquareDrift), shown to the detector as a stream.

use super::super::testing::Plain;
use crate::reference::{Reference, References};
use crate::schema::Row;
use crate::stats::categorical::homogeneity;
use crate::stats::golden::{Case, assert_close, cases, matrix, number, numbers};
use crate::stats::ks::{Method, p_value};
use crate::{Correction, KsDrift, Observation, Reading, Stage};

/// The rows of `case` as a reference and a window; the readings of the distributions, and whether there was an alarm.
fn play(case: &Case, plain: &mut Plain, mut drift: KsDrift) -> (Vec<Reading>, bool) {
    let (before, after) = (matrix(&case.inputs["ref"]), matrix(&case.inputs["cur"]));
    let schema = plain.schema.clone();
    let row = |cells: ndarray::ArrayView1<'_, f64>| {
        let mut row = Row::new(&schema);
        row.values.iter_mut().zip(&cells).for_each(|(value, cell)| *value = *cell);
        row.codes.iter_mut().zip(&cells).for_each(|(code, cell)| *code = *cell as u32);
        row
    };
    let mut builder = Reference::builder(schema.clone());
    for cells in before.rows() {
        builder.push(&row(cells), None, None).unwrap();
    }
    let columns = before.ncols();
    // the missing shares, which alibi-detect does not test, share the level
    let tests = if schema.value_columns().is_empty() { columns } else { 2 * columns };
    let rate = number(&case.outputs["threshold"]) * tests as f64;
    drift = drift.window(after.nrows()).false_alarm_rate(rate).minimum_effect(0.0);
    drift.rebase(&References::starting_with(std::sync::Arc::new(builder.finish()))).unwrap();
    let observations: Vec<Observation> = after
        .rows()
        .into_iter()
        .map(|cells| {
            let mut observation = Observation::new(&schema);
            observation.row = row(cells);
            observation
        })
        .collect();
    let alarm = !plain.show(&mut drift, &observations).is_empty();
    let readings = drift.last_readings();
    let step = readings.len() / columns;
    (readings.into_iter().step_by(step).collect(), alarm)
}

#[test]
fn kolmogorov_smirnov_agrees_with_alibi_detect() {
    let mut checked = 0;
    for case in cases("alibi_detect").iter().filter(|case| case.name.starts_with("ks_")) {
        let correction = if case.name == "ks_fdr" { Correction::BenjaminiHochberg } else { Correction::Bonferroni };
        let (readings, alarm) = play(case, &mut Plain::new("golden", 4), KsDrift::default().correction(correction));
        let (distances, p_values) = (numbers(&case.outputs["distance"]), numbers(&case.outputs["p_val"]));
        for (reading, (distance, p)) in readings.iter().zip(distances.iter().zip(&p_values)) {
            // its figures have single precision, and its p-values are asymptotic; ours are exact at this size
            assert_close(reading.statistic, *distance, 1e-6, 0.0, &reading.column);
            assert_close(p_value(150, 100, reading.statistic, Method::Asymptotic), *p, 1e-5, 0.0, &reading.column);
            assert_close(reading.p_value.unwrap(), *p, 0.1, 0.0, &reading.column);
        }
        assert_eq!(alarm, number(&case.outputs["is_drift"]) == 1.0);
        checked += readings.len();
    }
    assert_eq!(checked, 8);
}

#[test]
fn chi_square_agrees_with_alibi_detect() {
    let cases = cases("alibi_detect");
    let case = cases.iter().find(|case| case.name == "chi2_bonferroni").unwrap();
    let (readings, alarm) = play(case, &mut Plain::categories("golden", 3, 4), KsDrift::default());
    let (statistics, p_values) = (numbers(&case.outputs["distance"]), numbers(&case.outputs["p_val"]));
    let counts = |name: &str, column: usize| {
        let mut counts = [0; 4];
        matrix(&case.inputs[name]).column(column).iter().for_each(|&level| counts[level as usize] += 1);
        counts
    };
    for (column, reading) in readings.iter().enumerate() {
        let test = homogeneity(&counts("ref", column), &counts("cur", column)).unwrap();
        assert_close(reading.statistic, statistics[column], 1e-6, 0.0, &reading.column);
        assert_close(test.p_value, p_values[column], 1e-5, 0.0, &reading.column);
        // ours is twice the smaller of this and the exact tests of the levels
        assert!(reading.p_value.unwrap() <= 2.000_01 * p_values[column], "{reading:?}");
    }
    assert_eq!(alarm, number(&case.outputs["is_drift"]) == 1.0);
    assert_eq!(readings.len(), 3);
}
