#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, World};
use crate::detector::stream::{
    Adwin, ChangeEvidence, ConformalMartingale, Cusum, Ddm, Direction, EDetector, Eddm, HddmA, HddmW, Kswin,
    PageHinkley,
};

#[test]
fn passes_the_suite() {
    conformance::detector(|| StreamDrift::errors(Adwin::default().delta(0.5)));
    conformance::detector(|| StreamDrift::column(PageHinkley::default().threshold(20.0), "a"));
    conformance::detector(|| StreamDrift::column(Cusum::default(), "a"));
    conformance::detector(|| StreamDrift::errors(Ddm::default()));
    conformance::detector(|| StreamDrift::errors(Eddm::default()));
    conformance::detector(|| StreamDrift::errors(HddmA::default().two_sided()));
    conformance::detector(|| StreamDrift::errors(HddmW::default().two_sided()));
    conformance::detector(|| StreamDrift::column(Kswin::default(), "c"));
    conformance::detector(|| StreamDrift::errors(EDetector::default().baseline(50)));
    let both = EDetector::default().direction(Direction::Both);
    conformance::detector(|| StreamDrift::new(both.clone(), Signal::Confidence));
    conformance::detector(|| StreamDrift::column(ConformalMartingale::default(), "a"));
    conformance::detector(|| StreamDrift::new(ConformalMartingale::default(), Signal::Value));
    conformance::detector(|| StreamDrift::errors(Box::new(Ddm::default()) as Box<dyn ChangeDetector>).named("boxed"));
}

/// Keeps what it was given; warns at 2, alarms at 3.
#[derive(Default)]
struct Listener {
    baseline: Vec<f64>,
    heard: Vec<f64>,
}

impl ChangeDetector for Listener {
    fn name(&self) -> &str {
        "listener"
    }

    fn rebase(&mut self, baseline: &[f64]) -> Result<(), BoxError> {
        self.baseline = baseline.to_vec();
        Ok(())
    }

    fn update(&mut self, value: f64) -> Change {
        self.heard.push(value);
        if value == 2.0 {
            Change::Warning
        } else if value == 3.0 {
            Change::Drift
        } else {
            Change::None
        }
    }

    fn evidence(&self) -> ChangeEvidence {
        ChangeEvidence { statistic: 0.25, threshold: 0.5, effect: -1.0 }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Ok(Snapshot::Stateless)
    }

    fn restore(&mut self, _: &Snapshot) -> Result<(), BoxError> {
        Ok(())
    }
}

fn truth(world: &mut World, sequence: u64, predicted: Option<u32>, label: Option<u32>, replaces: Option<u32>) -> Truth {
    let (time, class) = (world.time(sequence), |class: Option<u32>| class.map(Label::Class));
    Truth {
        sequence,
        prediction: world.observation().id,
        model: ModelVersion::FIRST,
        predicted: class(predicted),
        score: None,
        lane: None,
        label: class(label),
        replaces: class(replaces),
        predicted_at: time,
        time,
    }
}

#[test]
fn only_first_truths_of_the_served_model_count() {
    let mut world = World::classification("first truths");
    let mut stage = StreamDrift::errors(Listener::default());
    stage.rebase(&world.references(20)).unwrap();
    assert_eq!(stage.detector().baseline.len(), 20, "the errors of the reference's outputs");
    let mut buffer = ChunkBuffer::new(world.schema());
    buffer.push_truth(truth(&mut world, 0, Some(1), Some(1), None));
    buffer.push_truth(truth(&mut world, 1, Some(1), Some(0), None));
    buffer.push_truth(truth(&mut world, 2, Some(1), Some(0), Some(1)));
    buffer.push_truth(truth(&mut world, 3, Some(1), None, Some(1)));
    buffer.push_truth(truth(&mut world, 4, None, Some(2), None));
    buffer.push_truth(truth(&mut world, 5, Some(1), Some(99), None));
    buffer.push_truth(Truth { model: ModelVersion(7), ..truth(&mut world, 6, Some(1), Some(0), None) });
    let again = truth(&mut world, 7, Some(1), Some(0), None);
    buffer.push_truth(Truth { label: None, replaces: Some(Label::Class(1)), ..again });
    buffer.push_truth(again);
    stage.inspect(&buffer.view(world.schema()), &mut Findings::new()).unwrap();
    assert_eq!(stage.detector().heard, [0.0, 1.0, 1.0], "a truth that comes back is not the first");
}

#[test]
fn a_warning_is_raised_when_it_begins() {
    let mut world = World::classification("warnings");
    let mut stage = StreamDrift::column(Listener::default(), "a");
    stage.rebase(&world.references(20)).unwrap();
    assert_eq!(stage.detector().baseline.len(), 20);
    let observations: Vec<_> = [1.0, 2.0, 2.0, f64::NAN, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 3.0]
        .into_iter()
        .map(|value| {
            let mut observation = world.observation();
            observation.row.values[0] = value;
            observation
        })
        .collect();
    let findings = world.show(&mut stage, &observations);
    let found: Vec<_> = findings.alarms().iter().map(|alarm| (alarm.sequence, alarm.level)).collect();
    use Level::{Drift, Warning};
    assert_eq!(found, [(1, Warning), (5, Drift), (6, Warning), (8, Warning), (9, Drift), (10, Drift)]);
    let reading = &findings.alarms()[0].readings[0];
    assert_eq!((reading.column.as_str(), reading.statistic, reading.effect), ("a", 0.25, -1.0));
}

#[test]
fn the_baseline_is_that_of_the_served_model() {
    let mut world = World::classification("baseline");
    let mut builder = Reference::builder(world.schema().clone());
    for at in 0..40 {
        let observation = world.observation();
        let class = predicted_label(world.schema().target(), observation.output()).unwrap().number() as u32;
        let label = if at % 4 == 0 { (class + 1) % 3 } else { class };
        builder.push(&observation.row, Some(observation.output()), Some(Label::Class(label))).unwrap();
    }
    let mut references = References::starting_with(Arc::new(builder.finish()));
    let mut stage = StreamDrift::errors(Listener::default());
    stage.rebase(&references).unwrap();
    let baseline = &stage.detector().baseline;
    assert_eq!((baseline.len(), baseline.iter().sum::<f64>()), (40, 10.0));
    let mut confidence = StreamDrift::new(Listener::default(), Signal::Confidence);
    confidence.rebase(&references).unwrap();
    assert!(confidence.detector().baseline.iter().all(|doubt| (0.0..0.667).contains(doubt)));
    references.model = ModelVersion(1);
    stage.rebase(&references).unwrap();
    assert!(stage.detector().baseline.is_empty(), "these were another model's errors");
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let classes = World::classification("mistakes").references(20);
    let values = World::regression("mistakes").references(20);
    let on = |signal: Signal| StreamDrift::new(Ddm::default(), signal);
    assert!(on(Signal::Value).rebase(&classes).is_err() && on(Signal::Value).rebase(&values).is_ok());
    assert!(on(Signal::Confidence).rebase(&values).is_err() && on(Signal::Confidence).rebase(&classes).is_ok());
    assert!(on(Signal::Column("kind".into())).rebase(&classes).is_err());
    assert!(StreamDrift::errors(Ddm::default().levels(-1.0, 3.0)).rebase(&classes).is_err());
    assert_eq!(on(Signal::Column("a".into())).name(), "ddm_a");
}

/// From the stream to the alarm, with a baseline from the reference.
#[test]
fn a_shifted_column_is_found() {
    let mut world = World::classification("found");
    let mut stage = StreamDrift::column(ConformalMartingale::default(), "a");
    stage.rebase(&world.references(600)).unwrap();
    assert!(stage.blind().is_empty());
    assert!(world.run(&mut stage, 1_000).alarms().is_empty());
    world.shift = 1.0;
    let findings = world.run(&mut stage, 100);
    assert_eq!(findings.alarms().len(), 1);
    assert!(findings.alarms()[0].readings[0].effect > 0.0);
    assert_eq!(stage.blind()[0].column.as_deref(), Some("a"), "it learns a new baseline");
}
