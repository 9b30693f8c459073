//! Where a detector sees a stream change.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use feedloop::{
    Alarm, BoxError, ChunkBuffer, Detector, Findings, KsDrift, Label, ModelVersion, Observation, Output, OutputDrift,
    PredictionId, Reference, References, Row, Schema, Target, Truth, predicted_label, top_class,
};
use serde::Serialize;
use uuid::Uuid;

use crate::common::data::Stream;
use crate::common::model::{Kind, Model};
use crate::common::protocol::Split;

/// The detectors that watch a stream.
pub(crate) const NAMES: [&str; 2] = ["ks", "output"];

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

/// Runs the detector called `name` and prints its alarms.
pub(crate) fn run(data: &Stream, name: &str, window: usize, per_test: f64) -> Result<(), BoxError> {
    let mut detector: Box<dyn Detector> = match name {
        "ks" => Box::new(KsDrift::default().window(window).false_alarm_rate(per_test)),
        "output" => Box::new(OutputDrift::default().window(window).false_alarm_rate(per_test)),
        _ => {
            let names = NAMES.join(", ");
            return Err(format!("unknown detector '{name}' for drift, expected one of {names}").into());
        }
    };
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
