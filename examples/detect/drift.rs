//! Where a detector sees a stream change.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use feedloop::{
    Adwin, Alarm, BoxError, ChangeDetector, ChunkBuffer, ConformalMartingale, Cusum, Ddm, Detector, EDetector, Eddm,
    EstimatedPerformance, Findings, HarmMonitor, HddmA, HddmW, KsDrift, Kswin, Label, MmdDrift, ModelVersion,
    NumericTest, Observation, Output, OutputDrift, PageHinkley, PredictionError, PredictionId, Reference, References,
    Row, Schema, Signal, StreamDrift, Target, Truth, predicted_label, top_class,
};
use serde::Serialize;
use uuid::Uuid;

use crate::common::data::Stream;
use crate::common::model::{Kind, Model};
use crate::common::protocol::Split;

/// The detectors that watch a stream: of the inputs, of the outputs, of the model's errors, and of one signal.
pub(crate) const NAMES: [&str; 22] = [
    "ks",
    "ks_ties",
    "cramer_von_mises",
    "wasserstein",
    "psi",
    "jensen_shannon",
    "hellinger",
    "mmd",
    "output",
    "estimated_performance",
    "harm",
    "prediction_error",
    "adwin",
    "page_hinkley",
    "ddm",
    "eddm",
    "hddm_a",
    "hddm_w",
    "kswin",
    "cusum",
    "e_detector",
    "conformal_martingale",
];

/// How to look.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    /// One of [`NAMES`].
    pub(crate) detector: &'a str,
    /// Rows per window.
    pub(crate) window: usize,
    /// Chance of a false alarm per test of a window.
    pub(crate) per_test: f64,
    /// What the detectors of one signal watch: `error`, `confidence`, or a column.
    pub(crate) signal: &'a str,
}

impl Look<'_> {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        let inputs = |test| KsDrift::default().numeric_test(test).window(self.window).false_alarm_rate(self.per_test);
        Some(match self.detector {
            "ks" => Box::new(inputs(NumericTest::KolmogorovSmirnov)),
            "ks_ties" => Box::new(inputs(NumericTest::KolmogorovSmirnovTies)),
            "cramer_von_mises" => Box::new(inputs(NumericTest::CramerVonMises)),
            "wasserstein" => Box::new(inputs(NumericTest::Wasserstein)),
            "psi" => Box::new(inputs(NumericTest::PopulationStability)),
            "jensen_shannon" => Box::new(inputs(NumericTest::JensenShannon)),
            "hellinger" => Box::new(inputs(NumericTest::Hellinger)),
            "mmd" => Box::new(MmdDrift::default().window(self.window).false_alarm_rate(self.per_test)),
            "output" => Box::new(OutputDrift::default().window(self.window).false_alarm_rate(self.per_test)),
            "estimated_performance" => {
                Box::new(EstimatedPerformance::default().window(self.window).false_alarm_rate(self.per_test))
            }
            "harm" => Box::new(HarmMonitor::default().all_truths()),
            "prediction_error" => Box::new(PredictionError::default().harm_above(0.5)),
            "adwin" => self.watch(Adwin::default()),
            "page_hinkley" => self.watch(PageHinkley::default()),
            "ddm" => self.watch(Ddm::default()),
            "eddm" => self.watch(Eddm::default()),
            "hddm_a" => self.watch(HddmA::default()),
            "hddm_w" => self.watch(HddmW::default()),
            "kswin" => self.watch(Kswin::default()),
            "cusum" => self.watch(Cusum::default()),
            "e_detector" => self.watch(EDetector::default()),
            "conformal_martingale" => self.watch(ConformalMartingale::default()),
            _ => return None,
        })
    }

    fn watch(&self, detector: impl ChangeDetector) -> Box<dyn Detector> {
        let signal = match self.signal {
            "error" => Signal::Error,
            "confidence" => Signal::Confidence,
            column => Signal::Column(column.to_owned()),
        };
        Box::new(StreamDrift::new(detector, signal))
    }
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    position: u64,
    #[serde(flatten)]
    alarm: &'a Alarm,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    set: &'a str,
    detector: &'a str,
    reference_rows: usize,
    rows: usize,
    alarms: usize,
}

/// Runs a detector and prints its alarms.
pub(crate) fn run(data: &Stream, look: &Look<'_>) -> Result<(), BoxError> {
    let name = look.detector;
    let unknown = || format!("unknown detector '{name}' for drift, expected one of {}", NAMES.join(", "));
    let mut detector = look.detector().ok_or_else(unknown)?;
    let production = Production::start(data)?;
    detector.rebase(&production.references)?;
    for blind in detector.blind() {
        eprintln!("blind{}: {}", blind.column.map(|name| format!(" on {name}")).unwrap_or_default(), blind.reason);
    }

    let (mut findings, mut buffer, mut alarms) = (Findings::new(), ChunkBuffer::new(&production.schema), 0);
    for row in production.first..data.len() {
        buffer.clear();
        let observation = production.serve(row)?;
        buffer.push(row as u64, &observation);
        // the truth comes at once, as the protocol of the published streams has it
        buffer.push_truth(production.truth(row, &observation));
        findings.clear();
        detector.inspect(&buffer.view(&production.schema), &mut findings)?;
        for alarm in findings.alarms() {
            let alarm = Alarm { detector: detector.name().to_owned(), ..alarm.clone() };
            println!("{}", serde_json::to_string(&Line { position: alarm.sequence, alarm: &alarm })?);
            alarms += 1;
        }
    }
    let (reference_rows, rows) = (production.references.serving.rows() as usize, data.len() - production.first);
    let summary = Summary { set: &data.name, detector: name, reference_rows, rows, alarms };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// A model, the data it was fitted on, and the stream that it meets.
struct Production<'a> {
    data: &'a Stream,
    schema: Arc<Schema>,
    model: Model,
    references: References,
    /// The first row of the stream.
    first: usize,
}

impl<'a> Production<'a> {
    fn start(data: &'a Stream) -> Result<Self, BoxError> {
        let first = Split::of(data)?.initial;
        let (train, reference) = (0..first / 2, first / 2..first);
        let rows: Vec<&[f64]> = data.features[train.clone()].iter().map(Vec::as_slice).collect();
        let model = Model::fit(Kind::Logistic, &rows, &data.labels[train], None, data.classes, 1);

        let classes = (0..data.classes.max(2)).map(|class| class.to_string());
        let schema = Arc::new(Schema::numeric(data.columns.len(), Target::classes(classes))?);
        let mut builder = Reference::builder(schema.clone());
        let mut output = Vec::new();
        for row in reference {
            model.probabilities(&data.features[row], &mut output);
            let label = Label::Class(data.labels[row] as u32);
            builder.push(&Row::from_values(&schema, &data.features[row])?, Some(&output), Some(label))?;
        }
        let references = References::starting_with(Arc::new(builder.finish()));
        Ok(Self { data, schema, model, references, first })
    }

    fn serve(&self, row: usize) -> Result<Observation, BoxError> {
        let mut observation = Observation::new(&self.schema);
        observation.id = PredictionId::from_uuid(Uuid::from_u128(row as u128));
        // one row per minute
        observation.time = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::minutes(row as i64);
        observation.row.copy_values(&self.data.features[row])?;
        let mut output = Vec::new();
        self.model.probabilities(&self.data.features[row], &mut output);
        observation.set_output(Output::Probabilities(&output));
        Ok(observation)
    }

    fn truth(&self, row: usize, observation: &Observation) -> Truth {
        Truth {
            sequence: row as u64,
            prediction: observation.id,
            model: ModelVersion::FIRST,
            predicted: predicted_label(self.schema.target(), observation.output()),
            score: top_class(observation.output()).map(|(_, probability)| probability),
            lane: None,
            label: Some(Label::Class(self.data.labels[row] as u32)),
            replaces: None,
            predicted_at: observation.time,
            time: observation.time,
        }
    }
}
