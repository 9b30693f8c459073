use super::*;
use crate::event::{Label, ModelVersion};
use crate::schema::Target;
use crate::stats::golden::{assert_close, cases, matrix, number, numbers};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;

const NEW: ModelVersion = ModelVersion(1);
const OLD: ModelVersion = ModelVersion(0);

fn target(classes: usize) -> Target {
    Target::classes((0..classes).map(|class| class.to_string()))
}

fn rows(labels: Vec<Label>, weights: Vec<f64>) -> LabelledRows {
    LabelledRows { labels, weights, slices: BTreeMap::new() }
}

fn value(table: &SliceFigures, metric: Metric) -> Option<f64> {
    table.of(NEW, metric).unwrap().value
}

#[test]
fn golden_metrics_match_scikit_learn() {
    let cases = cases("evaluation_metrics");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let (y, weights) = (numbers(&case.inputs["y"]), numbers(&case.inputs["w"]));
        let expected = |key: &str| number(&case.outputs[key]);
        let check = |table: &MetricTable, metric: Metric, expected: f64| {
            let found = value(&table.all, metric).unwrap_or(f64::NAN);
            assert_close(found, expected, 1e-11, 1e-13, &format!("{} {metric}", case.name));
        };
        if case.inputs["kind"] == "values" {
            let rows = rows(y.into_iter().map(Label::Value).collect(), weights);
            let outputs: Vec<f64> =
                numbers(&case.inputs["p"]).into_iter().flat_map(|p| [p, f64::NAN, f64::NAN]).collect();
            let table = Tabulate::new(Target::Value).repetitions(0).table(&rows, &[(NEW, &outputs)]).unwrap();
            check(&table, Metric::MeanAbsoluteError, expected("mae"));
            check(&table, Metric::RootMeanSquaredError, expected("rmse"));
            check(&table, Metric::RSquared, expected("r2"));
            continue;
        }
        let (p, costs) = (matrix(&case.inputs["p"]), matrix(&case.inputs["costs"]));
        let classes = p.ncols();
        let rows = rows(y.into_iter().map(|class| Label::Class(class as u32)).collect(), weights);
        let costs = CostMatrix::new(costs.outer_iter().map(|row| row.to_vec()).collect()).unwrap();
        let mut metrics = Metric::all(&target(classes), Some(&costs));
        metrics.extend((0..classes as u32).map(Metric::F1Of));
        let tabulate = Tabulate::new(target(classes)).metrics(metrics).costs(costs).repetitions(0);
        let table = tabulate.table(&rows, &[(NEW, p.as_slice().unwrap())]).unwrap();
        for (metric, key) in [
            (Metric::Accuracy, "accuracy"),
            (Metric::BalancedAccuracy, "balanced_accuracy"),
            (Metric::F1, "f1_macro"),
            (Metric::Auroc, "auroc"),
            (Metric::LogLoss, "log_loss"),
            (Metric::Brier, "brier"),
            (Metric::CalibrationError, "ece"),
            (Metric::Cost, "cost"),
        ] {
            check(&table, metric, expected(key));
        }
        for (class, expected) in numbers(&case.outputs["f1"]).into_iter().enumerate() {
            check(&table, Metric::F1Of(class as u32), expected);
        }
    }
}

#[test]
fn what_rows_do_not_determine_is_told_with_the_reason() {
    let one_class = rows(vec![Label::Class(0); 3], vec![1.0; 3]);
    let outputs = [0.9, 0.1, 0.8, 0.2, 0.7, 0.3];
    let all = |rows: &LabelledRows, outputs: &[f64]| {
        let metrics = [Metric::all(&target(2), None), vec![Metric::F1Of(1)]].concat();
        Tabulate::new(target(2)).metrics(metrics).table(rows, &[(NEW, outputs)]).unwrap().all
    };
    let table = all(&one_class, &outputs);
    assert_eq!((value(&table, Metric::Accuracy), value(&table, Metric::Auroc)), (Some(1.0), None));
    assert_eq!(table.of(NEW, Metric::Auroc).unwrap().reason.as_deref(), Some("only one class occurs"));
    let reason = table.of(NEW, Metric::F1Of(1)).unwrap().reason.clone().unwrap();
    assert_eq!(reason, "class 1 neither occurs nor is predicted");
    let none = all(&rows(Vec::new(), Vec::new()), &[]);
    assert!(none.models[0].figures.iter().all(|figure| figure.value.is_none()));
    assert_eq!(none.of(NEW, Metric::Accuracy).unwrap().reason.as_deref(), Some("there are no rows"));
    let weightless = all(&rows(vec![Label::Class(0); 3], vec![0.0; 3]), &outputs);
    assert_eq!(weightless.of(NEW, Metric::Accuracy).unwrap().reason.as_deref(), Some("the rows weigh nothing"));
    let broken = all(&one_class, &[0.9, 0.1, f64::NAN, 0.2, 0.7, 0.3]);
    assert_close(value(&broken, Metric::Accuracy).unwrap(), 2.0 / 3.0, 1e-12, 0.0, "an unusable output is wrong");
    assert_eq!(broken.of(NEW, Metric::LogLoss).unwrap().reason.as_deref(), Some("1 of 3 outputs are unusable"));
    let constant = rows(vec![Label::Value(1e9); 3], vec![0.3; 3]);
    let outputs: Vec<f64> = [1.0, 2.0, 3.0].into_iter().flat_map(|p| [1e9 + p, f64::NAN, f64::NAN]).collect();
    let table = Tabulate::new(Target::Value).table(&constant, &[(NEW, &outputs)]).unwrap().all;
    assert_eq!(table.of(NEW, Metric::RSquared).unwrap().reason.as_deref(), Some("the labels do not vary"));
    assert_eq!(value(&table, Metric::MeanAbsoluteError), Some(2.0));
}

#[test]
fn a_table_of_something_else_is_refused() {
    let good = rows(vec![Label::Class(0), Label::Class(1)], vec![1.0; 2]);
    let outputs: &[f64] = &[0.9, 0.1, 0.2, 0.8];
    let refused = |tabulate: Tabulate, rows: &LabelledRows, outputs: &[f64]| {
        tabulate.table(rows, &[(NEW, outputs)]).unwrap_err().to_string()
    };
    let plain = || Tabulate::new(target(2));
    assert!(plain().table(&good, &[(NEW, outputs)]).is_ok());
    assert!(refused(plain(), &good, &outputs[..3]).contains("3 numbers"));
    assert!(refused(plain(), &rows(vec![Label::Class(2)], vec![1.0]), &outputs[..2]).contains("Class(2)"));
    assert!(refused(plain(), &rows(good.labels.clone(), vec![1.0, f64::NAN]), outputs).contains("NaN"));
    assert!(refused(plain(), &rows(good.labels.clone(), vec![1.0]), outputs).contains("1 weights"));
    assert!(refused(plain().metrics([Metric::Cost]), &good, outputs).contains("cost matrix"));
    assert!(refused(plain().metrics([Metric::RSquared]), &good, outputs).contains("of a value"));
    assert!(refused(plain().metrics([Metric::F1Of(2)]), &good, outputs).contains("2 classes"));
    let wide = CostMatrix::new(vec![vec![0.0; 3]; 3]).unwrap();
    assert!(refused(plain().costs(wide), &good, outputs).contains("3 classes"));
    let mut sliced = good.clone();
    sliced.slices.insert("a".into(), vec![2]);
    assert!(refused(plain(), &sliced, outputs).contains("row 2"));
    assert!(CostMatrix::new(vec![vec![0.0, 1.0], vec![f64::NAN, 0.0]]).is_err());
    assert!(CostMatrix::new(vec![vec![0.0, 1.0]]).is_err());
    assert!(serde_json::from_str::<CostMatrix>("[[0,1],[1]]").is_err());
}

/// A model of two classes that knows the probability, and one that is off; n rows, of which every fourth is in a slice.
fn world(n: usize, seed: u64) -> (LabelledRows, Vec<f64>, Vec<f64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut known, mut off) = (Vec::new(), Vec::new());
    let labels = (0..n)
        .map(|_| {
            let p: f64 = rng.random();
            let q = (p + rng.random_range(-0.4..0.4)).clamp(0.01, 0.99);
            known.extend([1.0 - p, p]);
            off.extend([1.0 - q, q]);
            Label::Class(u32::from(rng.random::<f64>() < p))
        })
        .collect();
    let slices = BTreeMap::from([("fourth".into(), (0..n).step_by(4).collect()), ("few".into(), vec![1, 5])]);
    (LabelledRows { labels, weights: vec![1.0; n], slices }, known, off)
}

#[test]
fn a_slice_is_what_its_rows_alone_give_and_small_ones_are_left_out() {
    let (all, new, old) = world(400, 1);
    let tabulate = Tabulate::new(target(2)).seed(3).repetitions(200);
    let table = tabulate.table(&all, &[(NEW, &new), (OLD, &old)]).unwrap();
    assert_eq!((table.slices.len(), table.slices_left_out), (1, 1));
    let slice = &table.slices["fourth"];
    let keep = |outputs: &[f64]| -> Vec<f64> { outputs.chunks(2).step_by(4).flatten().copied().collect() };
    let alone = rows(all.labels.iter().step_by(4).copied().collect(), vec![1.0; 100]);
    let alone = tabulate.table(&alone, &[(NEW, &keep(&new)), (OLD, &keep(&old))]).unwrap();
    assert_eq!(slice.rows, 100);
    for (found, expected) in slice.models[0].figures.iter().zip(&alone.all.models[0].figures) {
        assert_eq!(found.value, expected.value, "{}", found.metric);
        let (found, expected) = (found.interval.unwrap(), expected.interval.unwrap());
        assert!((found.0 - expected.0).abs() < 0.05 && (found.1 - expected.1).abs() < 0.05, "{found:?} {expected:?}");
    }
    let again = tabulate.table(&all, &[(NEW, &new), (OLD, &old)]).unwrap();
    assert_eq!(again, table, "the same seed gives the same table");
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<MetricTable>(&text).unwrap(), table);
}

#[test]
fn weights_stand_for_copies_of_a_row() {
    let (all, new, _) = world(60, 2);
    let weights: Vec<f64> = (0..60).map(|row| f64::from(row % 3)).collect();
    let copies = |row: usize| std::iter::repeat_n(row, row % 3);
    let labels = (0..60).flat_map(copies).map(|row| all.labels[row]).collect();
    let outputs: Vec<f64> = (0..60).flat_map(copies).flat_map(|row| [new[2 * row], new[2 * row + 1]]).collect();
    let copied = rows(labels, vec![1.0; 60]);
    let tabulate = Tabulate::new(target(2)).repetitions(0);
    let weighted = tabulate.table(&rows(all.labels, weights), &[(NEW, &new)]).unwrap();
    let copied = tabulate.table(&copied, &[(NEW, &outputs)]).unwrap();
    for (found, expected) in weighted.all.models[0].figures.iter().zip(&copied.all.models[0].figures) {
        assert_close(found.value.unwrap(), expected.value.unwrap(), 1e-12, 0.0, &found.metric.to_string());
    }
}

/// The intervals of every metric hold their confidence: over 300 draws of 150 rows, the figure of the whole world (100,000
/// rows) lies inside in 95 %; between 91 % and 98.5 % is what 300 draws and an approximate method allow. The calibration
/// error is left out: it is biased upwards on few rows, and its documentation says so.
#[test]
fn intervals_cover_the_truth() {
    let (everything, new, old) = world(100_000, 7);
    let metrics: Vec<Metric> =
        Metric::all(&target(2), None).into_iter().filter(|metric| *metric != Metric::CalibrationError).collect();
    let tabulate = Tabulate::new(target(2)).metrics(metrics.clone()).repetitions(0);
    let truth = tabulate.table(&everything, &[(NEW, &new), (OLD, &old)]).unwrap().all;
    let tabulate = tabulate.repetitions(400);
    let mut inside = vec![0_u32; metrics.len() * 2];
    for draw in 0..300 {
        let (sample, new, old) = world(150, 1_000 + draw);
        let table = tabulate.table(&sample, &[(NEW, &new), (OLD, &old)]).unwrap().all;
        let pairs = table.models[0].figures.iter().zip(&truth.models[0].figures);
        let pairs = pairs.chain(table.differences[0].figures.iter().zip(&truth.differences[0].figures));
        for (inside, (found, truth)) in inside.iter_mut().zip(pairs) {
            let (low, high) = found.interval.unwrap();
            *inside += u32::from((low..=high).contains(&truth.value.unwrap()));
        }
    }
    assert!(inside.iter().all(|inside| (273..=295).contains(inside)), "{metrics:?}: {inside:?} of 300");
}
