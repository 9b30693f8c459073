use super::*;
use crate::event::{Label, ModelVersion};
use crate::retrain::{ConfirmRules, Evidence, Paired, Verdict};
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
    let far = rows(vec![Label::Value(1e300), Label::Value(0.0)], vec![1.0; 2]);
    let outputs = [-1e300, f64::NAN, f64::NAN, 0.0, f64::NAN, f64::NAN];
    let table = Tabulate::new(Target::Value).table(&far, &[(NEW, &outputs)]).unwrap().all;
    let found = table.of(NEW, Metric::RootMeanSquaredError).unwrap();
    assert_eq!(found.reason.as_deref(), Some("it is too large for a number"), "infinity cannot be stored");
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

/// The intervals of every metric hold their confidence: over 200 draws of 150 rows, the figure of the whole world (50,000
/// rows) lies inside in 95 %; between 89 % and 99 % is what 200 draws and an approximate method allow. The calibration
/// error is left out: it is biased upwards on few rows, and its documentation says so.
#[test]
fn intervals_cover_the_truth() {
    let (everything, new, old) = world(50_000, 7);
    let metrics: Vec<Metric> =
        Metric::all(&target(2), None).into_iter().filter(|metric| *metric != Metric::CalibrationError).collect();
    let tabulate = Tabulate::new(target(2)).metrics(metrics.clone()).repetitions(0);
    let truth = tabulate.table(&everything, &[(NEW, &new), (OLD, &old)]).unwrap().all;
    let tabulate = tabulate.repetitions(150);
    let mut inside = vec![0_u32; metrics.len() * 2];
    for draw in 0..200 {
        let (sample, new, old) = world(150, 1_000 + draw);
        let table = tabulate.table(&sample, &[(NEW, &new), (OLD, &old)]).unwrap().all;
        let pairs = table.models[0].figures.iter().zip(&truth.models[0].figures);
        let pairs = pairs.chain(table.differences[0].figures.iter().zip(&truth.differences[0].figures));
        for (inside, (found, truth)) in inside.iter_mut().zip(pairs) {
            let (low, high) = found.interval.unwrap();
            *inside += u32::from((low..=high).contains(&truth.value.unwrap()));
        }
    }
    assert!(inside.iter().all(|inside| (178..=198).contains(inside)), "{metrics:?}: {inside:?} of 200");
}

/// Two models of two classes on `n` rows: the new one is right on the first `new` of them, the old one on the first `old`.
fn right_on(n: usize, new: usize, old: usize) -> MetricTable {
    let said = |right: usize| -> Vec<f64> {
        (0..n).flat_map(|row| if row < right { [0.1, 0.9] } else { [0.9, 0.1] }).collect()
    };
    let slices = BTreeMap::from([("half".into(), (0..n).step_by(2).collect())]);
    let rows = LabelledRows { labels: vec![Label::Class(1); n], weights: vec![1.0; n], slices };
    Tabulate::new(target(2)).table(&rows, &[(NEW, &said(new)), (OLD, &said(old))]).unwrap()
}

fn outcome(requirement: &Requirement, table: &MetricTable) -> (Verdict, Option<u64>) {
    let checks = requirement.check(Some(table), NEW, OLD);
    assert_eq!(checks.len(), 1, "{checks:?}");
    (checks[0].outcome, checks[0].missing_labels)
}

#[test]
fn a_requirement_is_met_or_failed_by_the_whole_interval_and_open_in_between() {
    let requirement = Requirement::new(Metric::Accuracy, 0.9);
    assert_eq!(outcome(&requirement, &right_on(400, 380, 0)), (Verdict::Pass, None));
    assert_eq!(outcome(&requirement, &right_on(400, 320, 0)), (Verdict::Fail, None));
    assert_eq!(outcome(&requirement, &right_on(400, 350, 0)), (Verdict::Inconclusive, None), "it may never be met");
    assert_eq!(outcome(&requirement, &right_on(20, 20, 0)), (Verdict::Inconclusive, Some(10)), "10 rows to 30");
    let (open, missing) = outcome(&requirement, &right_on(60, 57, 0));
    assert_eq!(open, Verdict::Inconclusive);
    let later = 60 + missing.unwrap() as usize;
    assert!((61..300).contains(&later), "{later}");
    assert_eq!(outcome(&requirement, &right_on(later + 40, (later + 40) * 19 / 20, 0)).0, Verdict::Pass);
    let loss = Requirement::new(Metric::LogLoss, 0.2);
    assert_eq!(outcome(&loss, &right_on(400, 400, 0)).0, Verdict::Pass, "the loss is .105");
    assert_eq!(outcome(&loss, &right_on(400, 300, 0)).0, Verdict::Fail);
    let undefined = requirement.check(None, NEW, OLD);
    assert_eq!(
        (undefined[0].outcome, undefined[0].reason.as_str()),
        (Verdict::Inconclusive, "they were not evaluated")
    );
    assert_eq!(outcome(&Requirement::new(Metric::Auroc, 0.5), &right_on(400, 380, 0)), (Verdict::Inconclusive, None));
}

#[test]
fn no_worse_compares_with_the_served_model_on_the_same_rows() {
    let requirement = Requirement::no_worse(Metric::Accuracy, 0.02);
    assert_eq!(outcome(&requirement, &right_on(400, 300, 300)).0, Verdict::Pass, "they say the same");
    assert_eq!(outcome(&requirement, &right_on(400, 300, 360)).0, Verdict::Fail);
    assert_eq!(outcome(&requirement, &right_on(400, 294, 300)).0, Verdict::Inconclusive, "1.5 points, give or take");
    let loss = Requirement::no_worse(Metric::LogLoss, 0.05);
    assert_eq!(outcome(&loss, &right_on(400, 360, 300)).0, Verdict::Pass, "less loss");
    assert_eq!(outcome(&loss, &right_on(400, 300, 360)).0, Verdict::Fail);
}

#[test]
fn slices_are_required_by_name_or_all_of_them() {
    let table = right_on(400, 380, 0);
    let requirement = Requirement::new(Metric::Accuracy, 0.85);
    assert_eq!(outcome(&requirement.clone().in_slice("half"), &table).0, Verdict::Pass);
    assert_eq!(outcome(&requirement.clone().in_every_slice(), &table).0, Verdict::Pass);
    assert_eq!(outcome(&requirement.clone().in_slice("nowhere"), &table).0, Verdict::Inconclusive);
    let few = right_on(40, 40, 0);
    assert!(few.slices.is_empty());
    assert_eq!(outcome(&requirement.in_every_slice(), &few).0, Verdict::Inconclusive, "an empty gate is not a met one");
}

#[test]
fn rows_seen_in_training_condemn_by_the_figure_alone() {
    let requirement = Requirement::new(Metric::Accuracy, 0.9).on(EvaluatedOn::Training);
    assert_eq!(outcome(&requirement, &right_on(60, 54, 0)).0, Verdict::Pass);
    assert_eq!(outcome(&requirement, &right_on(60, 53, 0)).0, Verdict::Fail);
}

#[test]
fn the_report_is_a_table_and_survives_a_restart() {
    let mut evaluation = Evaluation::new(crate::RunId(3), chrono::DateTime::UNIX_EPOCH, "confirm", NEW, OLD);
    evaluation.live = Some(right_on(400, 380, 300));
    evaluation.checks = Requirement::new(Metric::Accuracy, 0.9).check(evaluation.live.as_ref(), NEW, OLD);
    let against_current = Paired { wins: 80, losses: 0 };
    let evidence = Evidence { against_current, rounds: 2, rows: 400, disagreeing: 80, ..Evidence::default() };
    evaluation.judged(evidence.clone(), evidence.judge(&ConfirmRules::default(), 1));
    let text = evaluation.to_string();
    for part in [
        "run-3: v1 against v0, profile confirm: pass",
        "confirmed: 80 : 0 against the served model",
        "exact McNemar p 0.0000",
        "requirement_met: accuracy of at least 0.9 on live rows: 0.9500, from 0.9",
        "live rows: 400 rows",
        "  `half`: 200 rows",
        "+0.2000 [+0.1",
        "AUROC                                           undefined",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let stored = serde_json::to_string(&evaluation).unwrap();
    assert_eq!(serde_json::from_str::<Evaluation>(&stored).unwrap(), evaluation);
}
