#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::chunk::ChunkBuffer;
use crate::conformance::{self, World};
use crate::event::{Observation, Output, PredictionId};
use crate::schema::Schema;
use crate::stats::golden::{assert_close, cases, number, numbers};
use crate::stats::metrics::Metrics;

fn id(number: u64) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u64_pair(7, number))
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
}

fn binary() -> Arc<Schema> {
    Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap())
}

/// Prediction `number`, made at `made`, and its truth at `known`.
fn truth(number: u64, p: f64, label: Option<u32>, replaces: Option<u32>, made: i64, known: i64) -> Truth {
    let predicted = u32::from(p >= 0.5);
    Truth {
        sequence: number,
        prediction: id(number),
        model: ModelVersion::FIRST,
        predicted: Some(Label::Class(predicted)),
        score: Some(p.max(1.0 - p)),
        lane: None,
        label: label.map(Label::Class),
        replaces: replaces.map(Label::Class),
        predicted_at: at(made),
        time: at(known),
    }
}

struct Stream {
    schema: Arc<Schema>,
    live: LivePerformance,
}

impl Stream {
    fn new(schema: Arc<Schema>, mut live: LivePerformance) -> Self {
        let reference = crate::Reference::builder(schema.clone()).finish();
        live.rebase(&References::starting_with(Arc::new(reference))).unwrap();
        Stream { schema, live }
    }

    fn predictions(&mut self, count: u64, made: i64) {
        let mut buffer = ChunkBuffer::new(&self.schema);
        for number in 0..count {
            let mut observation = Observation::new(&self.schema);
            observation.time = at(made);
            if let Target::Classes(_) = self.schema.target() {
                observation.set_output(Output::Probabilities(&[0.5, 0.5]));
            }
            if !buffer.accepts(&observation) {
                self.live.inspect(&buffer.view(&self.schema), &mut Findings::new()).unwrap();
                buffer.clear();
            }
            buffer.push(number, &observation);
        }
        self.live.inspect(&buffer.view(&self.schema), &mut Findings::new()).unwrap();
    }

    fn tell(&mut self, truths: impl IntoIterator<Item = Truth>) {
        let mut buffer = ChunkBuffer::new(&self.schema);
        truths.into_iter().for_each(|truth| buffer.push_truth(truth));
        let mut findings = Findings::new();
        self.live.inspect(&buffer.view(&self.schema), &mut findings).unwrap();
        assert!(findings.flags().is_empty() && findings.alarms().is_empty());
    }
}

/// Ages of 100 s and 1,000 s, a window of 1,000 s.
fn short() -> LivePerformance {
    let ages = [TimeDelta::seconds(1_000), TimeDelta::seconds(100), TimeDelta::seconds(100)];
    LivePerformance::default().maturities(ages).window(TimeDelta::seconds(1_000))
}

#[test]
fn passes_the_suite() {
    conformance::detector(LivePerformance::default);
    conformance::detector(|| short().truths(20).named("short"));
}

#[test]
fn golden_metrics_match_scikit_learn() {
    for case in cases("classification_metrics") {
        let (p, y) = (numbers(&case.inputs["p"]), numbers(&case.inputs["y"]));
        let mut stream = Stream::new(binary(), short());
        stream.predictions(p.len() as u64, 0);
        let rows = p.iter().zip(&y).zip(0..);
        stream.tell(rows.map(|((p, y), number)| truth(number, *p, Some(*y as u32), None, 0, 50)));
        stream.predictions(1, 200);
        let found = &stream.live.report().maturities[0];
        assert_eq!((found.seconds, found.predictions, found.labelled), (100, p.len() as u64, p.len() as u64));
        // 1 − p and back costs a digit
        assert_close(found.metrics.auroc.unwrap(), number(&case.outputs["roc_auc"]), 1e-12, 0.0, &case.name);
        let right = p.iter().zip(&y).filter(|(p, y)| f64::from(u8::from(**p >= 0.5)) == **y).count();
        assert_eq!(found.metrics.accuracy, Some(right as f64 / p.len() as f64));
    }
}

#[test]
fn figures_are_compared_at_equal_maturity() {
    let mut stream = Stream::new(binary(), short());
    // made at 0: 6 of 10 known within 100 s and all right, 2 more within 1,000 s and both wrong
    stream.predictions(10, 0);
    stream.tell((0..6).map(|number| truth(number, 0.9, Some(1), None, 0, 60)));
    // made at 500: 1 of 4 known so far
    stream.predictions(4, 500);
    stream.tell([truth(20, 0.9, Some(1), None, 500, 550)]);
    stream.tell((6..8).map(|number| truth(number, 0.9, Some(0), None, 0, 900)));
    let young = |stream: &Stream| stream.live.report().maturities[0].clone();
    let old = |stream: &Stream| stream.live.report().maturities[1].clone();
    let found = young(&stream);
    assert_eq!((found.predictions, found.labelled, found.metrics.accuracy), (14, 7, Some(1.0)));
    assert_eq!((old(&stream).predictions, old(&stream).labelled_share()), (0, None), "nothing is that old");
    stream.predictions(1, 1_020);
    let found = old(&stream);
    assert_eq!((found.predictions, found.labelled, found.metrics.accuracy), (10, 8, Some(0.75)));
    assert_eq!(found.labelled_share(), Some(0.8));
    assert_eq!(young(&stream).labelled, 7, "late truths do not reach into a younger age");
    assert!(found.from <= at(0) && found.to <= at(20), "{found:?}");
    assert_eq!(stream.live.report().as_of, at(1_020));
}

#[test]
fn corrections_replace_and_retractions_remove() {
    let mut stream = Stream::new(binary(), short());
    stream.predictions(3, 0);
    stream.tell([truth(0, 0.9, Some(1), None, 0, 10), truth(1, 0.9, Some(0), None, 0, 10)]);
    stream.predictions(1, 150);
    let found = |stream: &Stream| {
        let young = &stream.live.report().maturities[0];
        (young.labelled, young.metrics.accuracy)
    };
    assert_eq!(found(&stream), (2, Some(0.5)));
    stream.tell([truth(1, 0.9, Some(1), Some(0), 0, 170)]);
    assert_eq!(found(&stream), (2, Some(1.0)), "it keeps the time of the first truth");
    stream.tell([truth(0, 0.9, None, Some(1), 0, 175)]);
    assert_eq!(found(&stream), (1, Some(1.0)));
    stream.tell([truth(9, 0.9, Some(1), Some(0), 0, 180), truth(2, 0.9, Some(7), None, 0, 50)]);
    stream.tell([truth(1, 0.9, Some(7), Some(1), 0, 185)]);
    assert_eq!(found(&stream), (1, Some(1.0)), "a correction of what is not there, and a class that there is not");
}

#[test]
fn single_class_windows_are_not_computed_instead_of_a_crash() {
    let mut stream = Stream::new(binary(), short());
    stream.predictions(5, 0);
    stream.tell((0..5).map(|number| truth(number, 0.1, Some(0), None, 0, 10)));
    stream.predictions(1, 150);
    let metrics = stream.live.report().maturities[0].metrics;
    assert_eq!((metrics.accuracy, metrics.balanced_accuracy), (Some(1.0), Some(1.0)));
    assert_eq!((metrics.precision, metrics.recall, metrics.f1, metrics.auroc), (None, None, None, None));
    let unusable = Truth { predicted: None, score: None, ..truth(7, 0.9, Some(0), None, 0, 20) };
    stream.tell([unusable]);
    assert_eq!(stream.live.report().maturities[0].metrics.accuracy, Some(5.0 / 6.0), "an unusable output is wrong");
    assert_eq!(stream.live.report().maturities[1].metrics, Metrics::default());
}

#[test]
fn values_have_absolute_and_squared_errors() {
    let mut stream = Stream::new(Arc::new(Schema::numeric(1, Target::Value).unwrap()), short());
    stream.predictions(4, 0);
    let value = |number, predicted: Option<f64>, label| Truth {
        predicted: predicted.map(Label::Value),
        score: None,
        label: Some(Label::Value(label)),
        ..truth(number, 0.0, None, None, 0, 10)
    };
    stream.tell([
        value(0, Some(1.0), 4.0),
        value(1, Some(1.0), 0.0),
        value(2, None, 1.0),
        value(3, Some(0.0), f64::NAN),
    ]);
    stream.predictions(1, 150);
    let found = stream.live.report().maturities[0].clone();
    assert_eq!((found.predictions, found.labelled), (4, 2));
    assert_eq!((found.mean_absolute_error, found.root_mean_squared_error), (Some(2.0), Some(5_f64.sqrt())));
    assert_eq!(found.metrics, Metrics::default());
}

#[test]
fn memory_is_bounded_and_a_window_that_lost_truths_is_cut() {
    let mut stream = Stream::new(binary(), short().truths(50));
    for second in 0..400 {
        stream.predictions(1, second);
        stream.tell([truth(second as u64, 0.9, Some(1), None, second, second)]);
    }
    let found = stream.live.report().maturities[0].clone();
    assert_eq!((found.predictions, found.labelled), (0, 0), "the newest 50 truths are younger than 100 s: {found:?}");
    stream.predictions(1, 520);
    let found = stream.live.report().maturities[0].clone();
    assert!(found.predictions > 0 && found.labelled_share() == Some(1.0), "{found:?}");
    for second in 0..100 {
        stream.predictions(300, 1_000 + 100 * second);
    }
    let live = &stream.live;
    assert!(live.state.buckets.len() < 300 && live.state.fates.len() <= 50, "{}", live.state.buckets.len());
}

#[test]
fn models_are_reported_apart() {
    let mut stream = Stream::new(binary(), short());
    stream.predictions(2, 0);
    stream.tell([truth(0, 0.9, Some(1), None, 0, 10)]);
    stream.tell([Truth { model: ModelVersion(1), ..truth(1, 0.9, Some(0), None, 0, 10) }]);
    stream.predictions(1, 150);
    assert_eq!(stream.live.report().maturities[0].metrics.accuracy, Some(1.0));
    let other = stream.live.report_of(ModelVersion(1)).maturities[0].clone();
    assert_eq!((other.predictions, other.metrics.accuracy), (1, Some(0.0)));
}

#[test]
fn mistakes_are_reported_by_rebase() {
    let references = World::classification("mistakes").references(5);
    let refused = |live: LivePerformance| live.clone().rebase(&references).is_err();
    assert!(refused(LivePerformance::default().maturities([])));
    assert!(refused(LivePerformance::default().maturities([TimeDelta::zero()])));
    assert!(refused(LivePerformance::default().window(TimeDelta::zero())));
    assert!(refused(LivePerformance::default().truths(0)));
    let mut other = LivePerformance::default();
    other.rebase(&references).unwrap();
    let mut live = short();
    live.rebase(&references).unwrap();
    assert!(live.restore(&other.snapshot().unwrap()).is_err(), "counts of another width");
}

#[test]
fn metrics_are_those_of_the_report_of_the_served_model() {
    let mut stream = Stream::new(binary(), short());
    stream.predictions(4, 0);
    stream.tell((0..4).map(|n| truth(n, 0.9, Some(u32::from(n > 0)), None, 0, 50)));
    let accuracy = |stream: &Stream| -> Vec<LiveMetric> {
        stream.live.metrics().into_iter().filter(|metric| metric.name.starts_with("accuracy")).collect()
    };
    assert_eq!(accuracy(&stream), [], "nothing is a hundred seconds old");
    stream.predictions(1, 200);
    stream.tell([truth(9, 0.9, Some(1), None, 200, 210)]);
    assert_eq!(accuracy(&stream), [LiveMetric { name: "accuracy@100s".into(), value: 0.75, rows: 4 }]);
    let found = &stream.live.report().maturities[0];
    assert_eq!(found.metrics.accuracy, Some(0.75));
    let name = |seconds| Maturity { seconds, ..found.clone() }.named().next().unwrap().name;
    let names = [3_600, 7 * 86_400, 5_400, 61].map(name);
    assert_eq!(names, ["accuracy@1h", "accuracy@7d", "accuracy@90min", "accuracy@61s"]);

    let reference = crate::Reference::builder(stream.schema.clone()).finish();
    let references = References::starting_with(Arc::new(reference));
    stream.live.rebase(&References { model: ModelVersion(1), ..references }).unwrap();
    assert_eq!(stream.live.metrics(), []);
}

#[test]
fn metrics_are_measured_anew_with_every_fiftieth_truth_more() {
    let mut stream = Stream::new(binary(), short());
    stream.predictions(1, 0);
    let right = |number: u64| truth(number, 0.9, Some(1), None, 0, 50);
    stream.tell((0..200).map(right));
    stream.predictions(1, 200);
    let mut changes = Vec::new();
    let mut before = stream.live.metrics();
    for number in 200..212 {
        // They came early enough, and are told late.
        stream.tell([right(number)]);
        if stream.live.metrics() != before {
            changes.push(number);
            before = stream.live.metrics();
        }
    }
    assert!(changes.len() >= 2 && changes.windows(2).all(|pair| pair[1] - pair[0] == 5), "{changes:?}");
}
