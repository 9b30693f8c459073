//! The loop through the tools of others: flagged, exported, answered in a file, imported, labelled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use feedloop::chrono::{DateTime, TimeDelta, Utc};
use feedloop::uuid::Uuid;
use feedloop::{
    Annotator, Chunk, ExchangeFormat, Findings, Label, LabelStudioOptions, ManualClock, MemoryStore, Pipeline,
    PredictionId, ReviewQueue, Sample, SampleState, detector_fn,
};
use serde_json::{Value, json};
use support::{Rng, base, check, id, prediction, schema, start, truth};

const ROWS: u64 = 60;

struct Loop {
    pipeline: Pipeline,
    queue: ReviewQueue,
    store: Arc<MemoryStore>,
}

fn everything(chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), feedloop::BoxError> {
    chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
    Ok(())
}

fn values(n: u64) -> [f64; 2] {
    [Rng(n).unit(), n as f64]
}

/// A loop in which every row is flagged and waits for an answer.
fn asked() -> Loop {
    let clock = ManualClock::starting_at(start() + TimeDelta::days(2));
    let store = Arc::new(MemoryStore::new());
    let mut pipeline = Pipeline::builder("exchange", schema())
        .training_data(base())
        .detect(detector_fn("everything", everything))
        .explore(0.2)
        .flags_per_minute(u32::MAX)
        .clock(clock.clone())
        .store(store.clone())
        .build()
        .unwrap();
    pipeline.ingest((0..ROWS).map(|n| prediction(n, &values(n)))).unwrap();
    let queue = ReviewQueue::open(store.clone(), "exchange", schema().target().clone(), Arc::new(clock));
    assert_eq!(queue.waiting().unwrap(), ROWS);
    Loop { pipeline, queue, store }
}

impl Loop {
    fn export(&self, format: ExchangeFormat) -> Vec<u8> {
        let mut file = Vec::new();
        let report = self.queue.export_tasks(&schema(), &mut file, format).unwrap();
        assert_eq!((report.tasks, report.held, report.refused), (ROWS, 0, 0));
        file
    }

    fn samples(&mut self) -> Vec<Sample> {
        let world = check(&*self.store, "exchange");
        world.samples.into_values().collect()
    }
}

/// When the person in the other tool answered.
fn answered(n: usize) -> DateTime<Utc> {
    start() + TimeDelta::days(1) + TimeDelta::seconds(n as i64)
}

/// What a person says who looks at the row of a task.
fn answer(row: &Value) -> &'static str {
    let Label::Class(class) = truth(&[row["x0"].as_f64().unwrap()], 0.5) else { panic!() };
    ["no", "yes"][class as usize]
}

#[test]
fn json_lines_go_round() {
    let mut it = self::asked();
    let file = String::from_utf8(it.export(ExchangeFormat::JsonLines)).unwrap();
    let mut answers = String::new();
    let mut asked = BTreeMap::new();
    for (n, line) in file.lines().enumerate() {
        let task: Value = serde_json::from_str(line).unwrap();
        assert_eq!(task["blind"] == json!(true), task.get("output").is_none());
        let key: PredictionId = task["key"].as_str().unwrap().parse().unwrap();
        asked.insert(key, (answered(n), task["blind"] == json!(true)));
        let line = json!({"key": task["key"], "annotator": "ada", "label": answer(&task["row"]),
            "annotation": "1", "time": answered(n), "seconds": 2.5});
        answers += &format!("{line}\n");
    }
    let report = it.queue.import_annotations(&schema(), answers.as_bytes(), ExchangeFormat::JsonLines).unwrap();
    assert_eq!((report.recorded, report.refused), (ROWS, 0));
    assert_eq!(it.pipeline.poll().unwrap().annotations, ROWS as usize);
    let samples = it.samples();
    assert_eq!(samples.len(), ROWS as usize);
    for sample in &samples {
        assert_eq!(sample.state, SampleState::Labelled);
        let label = sample.label.as_ref().unwrap();
        assert_eq!(label.label, Some(truth(&sample.observation.row.values()[..1], 0.5)));
        assert_eq!((&label.annotator, label.seconds), (&Annotator::Human("ada".into()), Some(2.5)));
        assert_eq!((label.time, label.blind), asked[&sample.id()]);
    }
    // The whole file once more.
    let again = it.queue.import_annotations(&schema(), answers.as_bytes(), ExchangeFormat::JsonLines).unwrap();
    assert_eq!((again.known, it.pipeline.poll().unwrap().annotations), (ROWS, 0));
    assert_eq!(it.samples(), samples);
    let mut rest = Vec::new();
    let report = it.queue.export_tasks(&schema(), &mut rest, ExchangeFormat::JsonLines).unwrap();
    assert_eq!((report.tasks, rest.len()), (0, 0), "nothing waits any more");
}

/// What Label Studio makes of an import: each task with one annotation.
fn label_studio(file: &[u8], said: impl Fn(usize, &Value) -> &'static str, more: impl Fn(usize) -> Value) -> Vec<u8> {
    let tasks: Vec<Value> = serde_json::from_slice(file).unwrap();
    let annotate = |(n, mut task): (usize, Value)| {
        let result = json!([{"from_name": "label", "to_name": "text", "type": "choices", "origin": "manual",
            "value": {"choices": [said(n, &task["data"])]}}]);
        let mut annotation = json!({"id": n, "completed_by": 3, "unique_id": Uuid::from_u128(n as u128),
            "result": result, "was_cancelled": false, "ground_truth": false, "lead_time": 4.0, "prediction": {},
            "created_at": answered(n), "updated_at": answered(n)});
        annotation.as_object_mut().unwrap().extend(more(n).as_object().unwrap().clone());
        task["id"] = json!(n);
        task["annotations"] = json!([annotation]);
        task
    };
    serde_json::to_vec(&tasks.into_iter().enumerate().map(annotate).collect::<Vec<_>>()).unwrap()
}

#[test]
fn label_studio_goes_round_and_an_edit_there_is_a_correction_here() {
    let mut it = asked();
    let file = it.export(ExchangeFormat::label_studio());
    let format = ExchangeFormat::label_studio();
    let first = label_studio(&file, |_, data| answer(data), |_| json!({}));
    assert_eq!(it.queue.import_annotations(&schema(), &first[..], format).unwrap().recorded, ROWS);
    it.pipeline.poll().unwrap();
    let samples = it.samples();
    for sample in &samples {
        let label = sample.label.as_ref().unwrap();
        assert_eq!((sample.state, label.seconds), (SampleState::Labelled, Some(4.0)));
        assert_eq!(label.annotator, Annotator::Human("label-studio-3".into()));
        assert_eq!(label.label, Some(truth(&sample.observation.row.values()[..1], 0.5)));
        assert!(label.time >= answered(0) && label.time < answered(ROWS as usize));
    }

    // The person thinks again about the first ten, and skips the eleventh after all.
    let edited = |n: usize| match n {
        0..10 => json!({"updated_at": answered(1_000 + n)}),
        10 => json!({"updated_at": answered(1_000), "was_cancelled": true}),
        _ => json!({}),
    };
    let turned = |n: usize, data: &Value| match (n < 10, answer(data)) {
        (true, "yes") => "no",
        (true, _) => "yes",
        (false, said) => said,
    };
    let second = label_studio(&file, turned, edited);
    let report = it.queue.import_annotations(&schema(), &second[..], format).unwrap();
    assert_eq!((report.corrected, report.retracted, report.known), (10, 1, ROWS - 11));
    it.pipeline.poll().unwrap();
    let after = it.samples();
    let changed: Vec<_> = samples.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert_eq!(changed.len(), 11);
    for (before, after) in changed {
        assert_eq!(after.annotations.len(), 2);
        assert_eq!(after.annotations[0], before.annotations[0], "the history stays");
        match after.label.as_ref() {
            Some(label) => {
                assert!(label.label != before.label.as_ref().unwrap().label && label.time >= answered(1_000))
            }
            None => assert_eq!(after.state, SampleState::Queued, "somebody else is asked"),
        }
    }
    assert_eq!(it.queue.waiting().unwrap(), 1);
    assert_eq!(it.queue.claim("label-studio-3", 1, TimeDelta::minutes(5)).unwrap(), [], "not the one who skipped");

    // A ground truth comes before people.
    let truths = ExchangeFormat::LabelStudio(LabelStudioOptions::default().ground_truth());
    let marked = |n: usize| if n == 20 { json!({"ground_truth": true}) } else { edited(n) };
    let third = label_studio(&file, turned, marked);
    let report = it.queue.import_annotations(&schema(), &third[..], truths).unwrap();
    assert_eq!((report.known, report.truths), (ROWS, 1));
    it.pipeline.poll().unwrap();
    let told = |sample: &Sample| sample.label.as_ref().is_some_and(|label| label.annotator == Annotator::GroundTruth);
    assert_eq!(it.samples().iter().filter(|sample| told(sample)).count(), 1);
}

#[test]
fn an_answer_from_outside_counts_though_the_loop_has_no_such_task_any_more() {
    let mut it = asked();
    let file = it.export(ExchangeFormat::label_studio());
    // Meanwhile the truth arrives, and the questions are withdrawn.
    let truths = (0..ROWS).map(|n| feedloop::Event::Outcome(feedloop::Outcome::truth(id(n), Label::Class(0))));
    it.pipeline.ingest(truths).unwrap();
    assert_eq!(it.queue.waiting().unwrap(), 0);
    let answers = label_studio(&file, |_, data| answer(data), |_| json!({}));
    let report = it.queue.import_annotations(&schema(), &answers[..], ExchangeFormat::label_studio()).unwrap();
    assert_eq!(report.recorded, ROWS);
    assert_eq!(it.pipeline.poll().unwrap().annotations, ROWS as usize);
    for sample in it.samples() {
        assert_eq!(sample.annotations.len(), 2, "kept");
        assert_eq!(sample.label.unwrap().annotator, Annotator::GroundTruth, "the truth comes before people");
    }
}
