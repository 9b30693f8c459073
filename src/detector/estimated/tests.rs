#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, Noise, World};
use crate::event::{Observation, Output};
use crate::reference::Reference;
use crate::schema::{Row as Encoded, Schema};
use crate::stats::binomial;
use crate::stats::metrics::{Confusion, auroc, mean};

/// Outputs of a binary classifier and their labels: right as often as it says, or surer than it should be.
struct Maker {
    schema: Arc<Schema>,
    noise: Noise,
    /// The true log-odds are the stated ones times this.
    honesty: f64,
    /// Share of rows of which the model knows nothing.
    unknown: f64,
    /// Probabilities in steps of 0.1.
    rounded: bool,
}

impl Maker {
    fn new(name: &str) -> Self {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
        Maker { schema, noise: Noise::new(name), honesty: 1.0, unknown: 0.0, rounded: false }
    }

    /// An output, and the probability that the label is 1.
    fn output(&mut self) -> ([f64; 2], f64) {
        let odds = if self.noise.chance(self.unknown) { 0.0 } else { 3.0 * self.noise.normal() };
        let logistic = |odds: f64| 1.0 / (1.0 + (-odds).exp());
        let p = logistic(odds);
        let p = if self.rounded { (10.0 * p).round() / 10.0 } else { p };
        ([1.0 - p, p], logistic(self.honesty * odds))
    }

    fn references(&mut self, rows: u32) -> References {
        let mut builder = Reference::builder(self.schema.clone());
        for number in 0..rows {
            let (output, truth) = self.output();
            let row = Encoded::from_values(&self.schema, &[f64::from(number) + self.noise.uniform()]).unwrap();
            builder.push(&row, Some(&output), Some(Label::Class(self.noise.chance(truth).into()))).unwrap();
        }
        References::starting_with(Arc::new(builder.finish()))
    }

    /// Shows `rows` outputs; `None` stands for an unusable one.
    fn show(
        &mut self,
        detector: &mut EstimatedPerformance,
        rows: u64,
        change: impl Fn(u64, [f64; 2]) -> [f64; 2],
    ) -> Findings {
        let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(&self.schema));
        let mut observation = Observation::new(&self.schema);
        for number in 0..rows {
            let (output, _) = self.output();
            observation.set_output(Output::Probabilities(&change(number, output)));
            if !buffer.accepts(&observation) {
                detector.inspect(&buffer.view(&self.schema), &mut findings).unwrap();
                buffer.clear();
            }
            buffer.push(number, &observation);
        }
        detector.inspect(&buffer.view(&self.schema), &mut findings).unwrap();
        findings
    }
}

fn same(_: u64, output: [f64; 2]) -> [f64; 2] {
    output
}

#[test]
fn passes_the_suite() {
    conformance::detector(|| EstimatedPerformance::default().window(100));
    conformance::detector(|| EstimatedPerformance::default().window(301).false_alarm_rate(0.2).named("other"));
}

/// Windows that alarm, of two for each of `references` references.
fn alarms(maker: &mut Maker, references: u64, rows: u32, window: u64, unknown: f64, rate: f64) -> u64 {
    let mut found = 0;
    for _ in 0..references {
        maker.unknown = 0.0;
        let mut detector =
            EstimatedPerformance::default().window(window as usize).false_alarm_rate(rate).minimum_effect(0.0);
        detector.rebase(&maker.references(rows)).unwrap();
        assert!(detector.blind().is_empty(), "{:?}", detector.blind());
        maker.unknown = unknown;
        found += maker.show(&mut detector, 2 * window, same).alarms().len() as u64;
    }
    found
}

#[test]
fn the_false_alarm_rate_is_the_stated_one() {
    for (name, rows, window, rounded) in
        [("20", 300, 20, false), ("ties", 300, 60, true), ("window larger than the reference", 200, 400, false)]
    {
        let mut maker = Maker::new(name);
        (maker.rounded, maker.honesty) = (rounded, 0.5);
        let found = alarms(&mut maker, 500, rows, window, 0.0, 0.1);
        println!("{name}: {found} of 1000 windows alarm at 0.1");
        // two windows share a reference: their alarms are not independent, the bound is for half as many
        assert!(binomial::lower(found / 2, 500, 1.0 - 1e-4) <= 0.1, "{name}: {found} of 1000");
        assert!(found >= 40, "so rare that the level cannot be the stated one: {name}, {found} of 1000");
    }
}

#[test]
fn a_tenth_of_unknown_rows_is_found() {
    let found = alarms(&mut Maker::new("power"), 20, 2_000, 1_000, 0.1, 0.01);
    println!("{found} of 40 windows alarm with a tenth of the rows unknown");
    assert!(found >= 36, "{found} of 40");
}

#[test]
fn estimates_come_close_to_what_the_hidden_labels_say() {
    let mut maker = Maker::new("honest estimates");
    maker.honesty = 0.4; // its probabilities are far too sure
    let mut detector = EstimatedPerformance::default().window(4_000);
    detector.rebase(&maker.references(4_000)).unwrap();
    assert_eq!(detector.estimates(), None);
    maker.show(&mut detector, 4_000, same);
    let (mut right, mut stated) = (0.0, 0.0);
    for _ in 0..40_000 {
        let (output, truth) = maker.output();
        right += if output[1] > output[0] { truth } else { 1.0 - truth };
        stated += output[0].max(output[1]);
    }
    let found = detector.estimates().unwrap();
    let accuracy = found.metrics.accuracy.unwrap();
    // 2,000 labelled rows: a standard error of about .01
    assert!((accuracy - right / 4e4).abs() < 0.04, "{accuracy}, {}", right / 4e4);
    assert!(stated / 4e4 - accuracy > 0.05, "not calibrated: {accuracy}, {}", stated / 4e4);
    assert!((found.reference.accuracy.unwrap() - accuracy).abs() < 0.04);
    assert_eq!((found.observations, found.sequence, found.model), (4_000, 3_999, ModelVersion::FIRST));
    assert!(found.metrics.auroc.is_some_and(|area| area > 0.6) && found.metrics.f1.is_some());
    assert_eq!(detector.metrics()[0], LiveMetric { name: "accuracy".into(), value: accuracy, rows: 4_000 });
}

#[test]
fn three_classes_are_estimated_one_against_the_rest() {
    let mut world = World::classification("three classes");
    let mut detector = EstimatedPerformance::default().window(3_000);
    detector.rebase(&world.references(3_000)).unwrap();
    let observations: Vec<_> = (0..3_000).map(|_| world.observation()).collect();
    let (mut confusions, mut areas) = (vec![Confusion::default(); 3], Vec::new());
    let labelled: Vec<_> = observations
        .iter()
        .map(|made| {
            (made.output(), top_class(made.output()).unwrap().0, world.drawn_label(made).unwrap().number() as u32)
        })
        .collect();
    for (class, confusion) in (0..).zip(&mut confusions) {
        let is = |label: u32| f64::from(u8::from(label == class));
        labelled.iter().for_each(|(_, predicted, label)| confusion.push(*predicted == class, is(*label)));
        let mut scores: Vec<_> =
            labelled.iter().map(|(output, _, label)| (output[class as usize], is(*label))).collect();
        areas.push(auroc(&mut scores));
    }
    let right = labelled.iter().filter(|(_, predicted, label)| predicted == label).count() as f64 / 3_000.0;
    let truth = Metrics::new(&confusions, Some(right), mean(areas));
    world.show(&mut detector, &observations);
    let found = detector.estimates().unwrap().metrics;
    // 1,500 labelled rows to learn from, about 1,000 per class to compare with: standard errors of at most .02
    let close = |found: Option<f64>, truth: Option<f64>| (found.unwrap() - truth.unwrap()).abs() < 0.06;
    assert!(close(found.accuracy, truth.accuracy) && close(found.auroc, truth.auroc), "{found:?} {truth:?}");
    assert!(close(found.precision, truth.precision) && close(found.recall, truth.recall), "{found:?} {truth:?}");
    assert!(
        close(found.f1, truth.f1) && close(found.balanced_accuracy, truth.balanced_accuracy),
        "{found:?} {truth:?}"
    );
    println!("estimated {found:?}, true {truth:?}");
}

#[test]
fn unusable_outputs_and_single_class_windows_are_no_failure() {
    let mut maker = Maker::new("odd windows");
    let mut detector = EstimatedPerformance::default().window(50);
    detector.rebase(&maker.references(400)).unwrap();
    maker.show(&mut detector, 60, |_, _| [f64::NAN, 0.5]);
    maker.show(&mut detector, 60, |_, _| [f64::INFINITY, 0.5]);
    assert_eq!((detector.ignored(), detector.estimates()), (120, None));
    maker.show(&mut detector, 9, same);
    maker.show(&mut detector, 41, |_, _| [1.0, 0.0]);
    assert!(detector.estimates().unwrap().metrics.accuracy.is_some());
    maker.show(&mut detector, 50, |_, _| [1.0, 0.0]);
    let metrics = detector.estimates().unwrap().metrics;
    assert_eq!(metrics.precision, None, "nothing was predicted to be positive");
    assert!(metrics.accuracy.is_some_and(|accuracy| accuracy > 0.9));
}

#[test]
fn blind_without_labelled_outputs_of_the_model() {
    let mut world = World::classification("blind");
    let mut detector = EstimatedPerformance::default();
    detector.rebase(&References::starting_with(Arc::new(world.reference_without_outputs(500)))).unwrap();
    assert!(detector.blind()[0].reason.contains("50 in each"), "{:?}", detector.blind());
    detector.rebase(&world.references(60)).unwrap();
    assert_eq!(detector.blind().len(), 1);
    let mut references = world.references(500);
    detector.rebase(&references).unwrap();
    assert!(detector.blind().is_empty());
    references.model = ModelVersion(4);
    detector.rebase(&references).unwrap();
    assert_eq!(detector.blind().len(), 1, "the outputs are another model's");
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(5);
    let refused = |detector: EstimatedPerformance| detector.clone().rebase(&references).is_err();
    assert!(refused(EstimatedPerformance::default().window(1)));
    assert!(refused(EstimatedPerformance::default().false_alarm_rate(1e-4)));
    assert!(refused(EstimatedPerformance::default().false_alarm_rate(f64::NAN)));
    assert!(refused(EstimatedPerformance::default().minimum_effect(1.0)));
    assert!(EstimatedPerformance::default().rebase(&World::regression("mistakes").references(5)).is_err());
}
