#![allow(clippy::unwrap_used, clippy::expect_used)]

mod json_lines;
mod label_studio;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::report::MOST_REFUSALS;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::error::BoxError;
use crate::event::Label;
use crate::gate::testing::id;
use crate::review::{consensus::standing, task_write};
use crate::sample::{Annotation, Annotator};
use crate::schema::{Field, Target};
use crate::store::{Committed, Expect, Fence, Indexed, Key, MemoryStore, Store, Write};

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn payments(target: Target) -> Schema {
    Schema::new([Field::number("amount"), Field::category("country", ["DE", "FR"]).nullable()], target).unwrap()
}

fn classes() -> Target {
    Target::classes(["good", "fraud"])
}

struct Bench {
    store: MemoryStore,
    clock: ManualClock,
    schema: Schema,
    queue: ReviewQueue,
}

impl Bench {
    fn new(schema: Schema) -> Self {
        let (store, clock) = (MemoryStore::new(), ManualClock::starting_at(time("2026-04-01T00:00:00Z")));
        let queue = ReviewQueue::open(
            Arc::new(store.clone()),
            "p",
            schema.target().clone(),
            Arc::new(clock.clone()) as Arc<dyn Clock>,
        );
        Bench { store, clock, schema, queue }
    }

    /// Blind tasks `1..=tasks` of two classes, each for two people.
    fn with(tasks: u128) -> Self {
        let bench = Bench::new(payments(classes()));
        (1..=tasks).for_each(|n| bench.ask(n, |_| {}));
        bench
    }

    /// Puts task `n` into the queue, as `change` makes it.
    fn ask(&self, n: u128, change: impl FnOnce(&mut Task)) {
        let mut row = Row::new(&self.schema);
        row.values[0] = n as f64 / 2.0;
        let task = json!({ "sample": id(n), "ask": { "priority": 0.5, "overlap": 2, "blind": true },
            "created": "2026-02-28T09:00:00Z", "row": row });
        let mut task: Task = serde_json::from_value(task).unwrap();
        change(&mut task);
        self.commit(task_write(&"p".into(), &task).unwrap());
    }

    fn commit(&self, write: Write) {
        let mut out = vec![];
        self.store.commit(&[&[write]], &Fence::None, &mut out).unwrap();
        assert_eq!(out, [Committed::Applied]);
    }

    fn export(&self, format: ExchangeFormat) -> (String, ExportReport) {
        let mut out = Vec::new();
        let report = self.queue.export_tasks(&self.schema, &mut out, format).unwrap();
        (String::from_utf8(out).unwrap(), report)
    }

    fn import(&self, text: impl AsRef<[u8]>, format: ExchangeFormat) -> ImportReport {
        self.queue.import_annotations(&self.schema, text.as_ref(), format).unwrap()
    }

    fn annotations(&self, n: u128) -> Vec<Annotation> {
        self.queue.annotations(id(n)).unwrap()
    }

    /// Who stands for which class, by name.
    fn standing(&self, n: u128) -> BTreeMap<String, u32> {
        let annotations = self.annotations(n);
        let read = |(annotator, label): (&Annotator, Label)| match (annotator, label) {
            (Annotator::Human(name), Label::Class(class)) => (name.clone(), class),
            (Annotator::GroundTruth, Label::Class(class)) => ("the truth".into(), class),
            other => panic!("{other:?}"),
        };
        standing(&annotations).into_iter().map(read).collect()
    }

    fn task(&self, n: u128) -> (String, Task) {
        let record = self.store.get("p", Kind::Task, &id(n).to_string()).unwrap().unwrap();
        (record.state.clone(), Stored::read(record).unwrap().task)
    }

    /// Everything that is stored.
    fn content(&self) -> Vec<Record> {
        let scan = |kind| Scan { pipeline: "p", kind, state: None, after: None, limit: usize::MAX };
        [Kind::Task, Kind::Annotation].into_iter().flat_map(|kind| self.store.scan(&scan(kind)).unwrap()).collect()
    }
}

/// Place and code of each refusal.
fn codes(refusals: &[Refusal]) -> Vec<(u64, &str)> {
    refusals.iter().map(|refusal| (refusal.place, refusal.reason.code.as_str())).collect()
}

fn counted(report: &ImportReport) -> u64 {
    let taken = report.recorded + report.confirmed + report.corrected + report.retracted;
    taken + report.skipped + report.known + report.outdated + report.refused
}

fn people(names: &[(&str, u32)]) -> BTreeMap<String, u32> {
    names.iter().map(|(name, class)| ((*name).to_owned(), *class)).collect()
}

#[test]
fn the_schema_must_have_the_target_of_the_queue() {
    let bench = Bench::with(1);
    let other = payments(Target::classes(["fraud", "good"]));
    for format in [ExchangeFormat::JsonLines, ExchangeFormat::label_studio()] {
        let export = bench.queue.export_tasks(&other, &mut Vec::new(), format).unwrap_err();
        let import = bench.queue.import_annotations(&other, &b""[..], format).unwrap_err();
        assert!(export.to_string().contains("target") && import.to_string().contains("target"));
    }
}

#[test]
fn urgent_tasks_come_first_and_those_that_somebody_holds_are_left_out() {
    let bench = Bench::with(0);
    for (n, priority) in [(1, 0.1), (2, 0.9), (3, 0.5), (4, 0.7), (5, 0.6)] {
        bench.ask(n, |task| task.ask.priority = priority);
    }
    let held = |minutes| bench.queue.claim("ann", 1, TimeDelta::minutes(minutes)).unwrap()[0].task.sample;
    assert_eq!((held(5), held(60)), (id(2), id(4)));
    bench.clock.advance(TimeDelta::minutes(30));
    for format in [ExchangeFormat::JsonLines, ExchangeFormat::label_studio()] {
        let (text, report) = bench.export(format);
        assert_eq!((report.tasks, report.held, report.refused), (4, 1, 0));
        let found: Vec<usize> = [5, 3, 1, 2].map(|n| text.find(&id(n).to_string()).unwrap()).into();
        assert!(found.is_sorted(), "the one whose lease has ended comes last: {text}");
        assert!(!text.contains(&id(4).to_string()));
    }
}

#[test]
fn a_task_that_cannot_be_written_does_not_stop_the_others() {
    let bench = Bench::with(3);
    bench.ask(4, |task| task.row.values = [1.0; 4].into());
    bench.ask(5, |task| (task.ask.blind, task.output) = (false, vec![1.0]));
    let write = Write {
        kind: Kind::Task,
        key: Key::new(&"p".into(), id(6).to_string()),
        expect: Expect::Absent,
        indexed: Indexed { state: "open", rank: 0, due: None },
        body: Arc::from(&b"{"[..]),
    };
    bench.commit(write);
    for format in [ExchangeFormat::JsonLines, ExchangeFormat::label_studio()] {
        let (_, report) = bench.export(format);
        assert_eq!((report.tasks, report.refused), (3, 3));
        let mut codes: Vec<_> = report.refusals.iter().map(|r| (r.key.clone().unwrap(), &*r.reason.code)).collect();
        codes.sort();
        let expected = [(4, "other_schema"), (5, "other_schema"), (6, "corrupt")];
        assert_eq!(codes, expected.map(|(n, code)| (id(n).to_string(), code)));
    }
}

#[test]
fn a_task_from_before_the_schema_grew_is_written_with_the_new_fields_missing() {
    let bench = Bench::with(2);
    let grown = |field: Field| {
        let fields = bench.schema.fields().iter().cloned();
        Schema::new(fields.chain([field]), classes()).unwrap()
    };
    for format in [ExchangeFormat::JsonLines, ExchangeFormat::label_studio()] {
        let mut out = Vec::new();
        let newer = grown(Field::text("note", 50).nullable());
        let report = bench.queue.export_tasks(&newer, &mut out, format).unwrap();
        assert_eq!((report.tasks, report.refused), (2, 0), "{:?}", report.refusals);
        let report = bench.queue.export_tasks(&grown(Field::text("note", 50)), &mut out, format).unwrap();
        assert_eq!((report.tasks, report.refused), (0, 2), "no version of this schema lacked a required field");
    }
}

#[test]
fn a_blind_task_hides_the_output_even_if_its_record_has_it() {
    let bench = Bench::with(0);
    bench.ask(1, |task| (task.ask.blind, task.output) = (false, vec![0.25, 0.75]));
    let shown = |text: &str| text.contains("0.75") || text.contains("predictions");
    let formats = [ExchangeFormat::JsonLines, ExchangeFormat::label_studio()];
    assert!(formats.iter().all(|format| shown(&bench.export(*format).0)));
    let (_, mut task) = bench.task(1);
    task.ask.blind = true;
    let mut write = task_write(&"p".into(), &task).unwrap();
    (write.expect, write.body) = (Expect::Any, serde_json::to_vec(&task).unwrap().into());
    bench.commit(write);
    assert!(!formats.iter().any(|format| shown(&bench.export(*format).0)));
}

/// A store that refuses to hand out everything at once, or to be written to after some commits.
struct Strict(MemoryStore, std::sync::atomic::AtomicU64);

impl Store for Strict {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        use std::sync::atomic::Ordering::Relaxed;
        self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).map_err(|_| "the disk is full")?;
        self.0.commit(units, fence, out)
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        self.0.take_over(pipeline)
    }

    fn claim(
        &self,
        pipeline: &str,
        kind: Kind,
        n: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Record>, BoxError> {
        self.0.claim(pipeline, kind, n, now, lease_until, holder, except)
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        self.0.get(pipeline, kind, id)
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        assert!(scan.limit <= PAGE, "{} records at once", scan.limit);
        self.0.scan(scan)
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        self.0.count(pipeline, kind, state)
    }
}

fn strict(bench: &Bench, commits: u64) -> ReviewQueue {
    let store = Strict(bench.store.clone(), commits.into());
    ReviewQueue::open(Arc::new(store), "p", bench.schema.target().clone(), Arc::new(bench.clock.clone()))
}

/// Counts what is written, and keeps the largest piece.
#[derive(Default)]
struct Pieces {
    text: Vec<u8>,
    largest: usize,
}

impl io::Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.largest = self.largest.max(piece.len());
        self.text.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Label Studio's export times out at 18,000 tasks (label-studio#5811).
#[test]
fn label_studio_5811_twenty_thousand_tasks_go_out_and_come_back_piece_by_piece() {
    const TASKS: u128 = 20_000;
    let bench = Bench::with(TASKS);
    let queue = strict(&bench, u64::MAX);
    let mut lines = Pieces::default();
    let report = queue.export_tasks(&bench.schema, &mut lines, ExchangeFormat::JsonLines).unwrap();
    assert_eq!((report.tasks, lines.text.iter().filter(|byte| **byte == b'\n').count()), (20_000, 20_000));
    assert!(lines.largest < 1_000);
    let mut array = Pieces::default();
    let report = queue.export_tasks(&bench.schema, &mut array, ExchangeFormat::label_studio()).unwrap();
    assert_eq!(report.tasks, 20_000);
    assert!(array.largest < 1_000);

    // The first half is answered as lines, the second as Label Studio would have it.
    let mut answers = String::new();
    let mut exported = Vec::new();
    let tasks: Vec<Value> = serde_json::from_slice(&array.text).unwrap();
    for (n, task) in tasks.into_iter().enumerate() {
        if n < 10_000 {
            let key = &task["data"]["_loop_key"];
            answers += &format!("{}\n", json!({"key": key, "annotator": "ann", "label": "good", "annotation": "1"}));
        } else {
            let result = json!([{"from_name": "label", "type": "choices", "value": {"choices": ["fraud"]}}]);
            let annotation = json!({"unique_id": uuid::Uuid::from_u128(n as u128), "completed_by": 1,
                "result": result, "updated_at": "2026-03-02T10:00:00Z"});
            exported.push(json!({"data": task["data"], "annotations": [annotation]}));
        }
    }
    let half = queue.import_annotations(&bench.schema, answers.as_bytes(), ExchangeFormat::JsonLines).unwrap();
    assert_eq!((half.recorded, counted(&half), half.cut_off), (10_000, 10_000, None));
    let exported = serde_json::to_vec(&exported).unwrap();
    let half = queue.import_annotations(&bench.schema, &exported[..], ExchangeFormat::label_studio()).unwrap();
    assert_eq!((half.recorded, counted(&half), half.cut_off), (10_000, 10_000, None));
    assert_eq!(bench.store.count("p", Kind::Annotation, Some("new")).unwrap(), 20_000);
}

#[test]
fn an_import_that_the_store_stops_is_repeated_without_harm() {
    let line =
        |n, who: &str| format!("{}\n", json!({"key": id(n), "annotator": who, "label": "good", "annotation": who}));
    let answers: String = (1..=4).flat_map(|n| [line(n, "ann"), line(n, "bob")]).collect();
    let exported = include_bytes!("../../../tests/fixtures/label_studio_1_23_2.json");
    let cases = [(answers.as_bytes(), ExchangeFormat::JsonLines), (exported, ExchangeFormat::label_studio())];
    for (text, format) in cases {
        let whole = Bench::with(5);
        let _ = whole.import(text, format);
        for commits in 0..8 {
            let bench = Bench::with(5);
            let failed = strict(&bench, commits).import_annotations(&bench.schema, text, format).unwrap_err();
            assert!(matches!(failed, Error::Store { .. }), "{failed}");
            let again = bench.import(text, format);
            assert!(again.known >= commits.min(1));
            assert_eq!(bench.content(), whole.content());
        }
    }
}

#[test]
fn the_reports_of_wrong_input_stay_small() {
    let bench = Bench::with(1);
    let report = bench.import("nonsense\n".repeat(MOST_REFUSALS + 5), ExchangeFormat::JsonLines);
    assert_eq!((report.refused, report.refusals.len()), (MOST_REFUSALS as u64 + 5, MOST_REFUSALS));
    assert_eq!(report.refusals[2].to_string(), "3: no_json: expected ident at line 1 column 2");
}
