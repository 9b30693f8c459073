use std::slice::from_ref;

use super::*;
use crate::event::ModelVersion;
use crate::gate::testing::sample;

/// An export with all fields that Label Studio 1.23.2 writes, and all traps that are known of it.
const EXPORT: &[u8] = include_bytes!("../../../../tests/fixtures/label_studio_1_23_2.json");

fn studio() -> ExchangeFormat {
    ExchangeFormat::label_studio()
}

fn with_tombstones() -> ExchangeFormat {
    ExchangeFormat::LabelStudio(LabelStudioOptions::default().tombstones())
}

fn with_truths() -> ExchangeFormat {
    ExchangeFormat::LabelStudio(LabelStudioOptions::default().ground_truth())
}

/// An annotation `key` of person `by`, updated on a day of March.
fn finished(key: u128, by: u64, label: &str, day: u32) -> Value {
    json!({
        "unique_id": uuid::Uuid::from_u128(key), "completed_by": by, "was_cancelled": false, "ground_truth": false,
        "result": [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}],
        "created_at": "2026-03-01T00:00:00Z", "updated_at": format!("2026-03-{day:02}T00:00:00Z"),
    })
}

fn exported(tasks: &[(u128, &[Value])]) -> String {
    let task = |(n, annotations): &(u128, &[Value])| json!({"data": {"_loop_key": id(*n)}, "annotations": annotations});
    Value::from(tasks.iter().map(task).collect::<Vec<_>>()).to_string()
}

fn altered(mut annotation: Value, name: &str, value: Value) -> Value {
    annotation[name] = value;
    annotation
}

#[test]
fn a_realistic_export_with_every_trap() {
    let bench = Bench::with(5);
    let report = bench.import(EXPORT, studio());
    let expected = [
        (2, "several_labels"),
        (2, "unknown_class"),
        (2, "no_label"),
        (2, "no_label"),
        (4, "no_key"),
        (5, "unknown_sample"),
        (6, "bad_key"),
        (6, "no_annotator"),
    ];
    let mut found = codes(&report.refusals);
    found.sort_by_key(|(place, _)| *place);
    for place in [2, 4, 5, 6] {
        let sorted = |codes: &[(u64, &str)]| {
            let mut codes: Vec<_> = codes.iter().filter(|(at, _)| *at == place).map(|(_, c)| c.to_string()).collect();
            codes.sort();
            codes
        };
        assert_eq!(sorted(&found), sorted(&expected), "task {place}");
    }
    // 14 annotations with a task of ours or of nobody's, two of them of the first sample's twin.
    let counts = [report.recorded, report.confirmed, report.corrected, report.skipped, report.refused];
    assert_eq!((counts, counted(&report)), ([6, 1, 1, 1, 8], 17));
    assert_eq!((report.truths, report.cut_off), (0, None));

    assert_eq!(bench.standing(1), people(&[("label-studio-1", 1)]), "asked twice, and counted once");
    assert_eq!(bench.task(1).1.skipped_by, ["label-studio-2"], "half an answer is none, a draft neither");
    assert_eq!(bench.standing(2), people(&[("label-studio-5", 1)]));
    let third = [("label-studio-3", 1), ("label-studio-4", 0), ("label-studio-5", 0)];
    assert_eq!(bench.standing(3), people(&third), "the newer of two annotations of one person");
    assert_eq!(bench.standing(5), people(&[("label-studio-1", 1)]), "anybody may mark a ground truth");
    let first = &bench.annotations(1)[0];
    assert_eq!((first.time, first.seconds), (time("2026-03-02T10:00:00.25Z"), Some(12.5)));
    for annotation in bench.annotations(3) {
        let by = |n: u64| annotation.annotator == Annotator::Human(format!("label-studio-{n}"));
        assert_eq!(annotation.blind, !by(4), "a prediction was shown to number 4");
        assert!(annotation.time <= time("2026-04-01T00:00:00Z"));
    }
}

/// Imports duplicate (label-studio#2016, #3651, #8838).
#[test]
fn label_studio_2016_3651_8838_the_same_export_twice_changes_nothing() {
    for format in [studio(), with_tombstones(), with_truths()] {
        let bench = Bench::with(5);
        let first = bench.import(EXPORT, format);
        let before = bench.content();
        bench.clock.advance(TimeDelta::hours(1));
        let again = bench.import(EXPORT, format);
        assert_eq!(bench.content(), before);
        assert_eq!((again.known, again.refused, again.truths), (counted(&first) - 8, 8, 0));
    }
}

/// Annotations are lost in a network failure (label-studio#6675).
#[test]
fn label_studio_6675_an_export_that_is_cut_off_anywhere_gives_what_is_whole_and_says_where_it_ends() {
    let task = |n: u128| (n, [finished(n, 1, "good", 2), finished(n + 10, 2, "fraud", 3)]);
    let tasks = [task(1), task(2), task(3)];
    let text = exported(&[(1, &tasks[0].1), (2, &tasks[1].1), (3, &tasks[2].1)]);
    let ends: Vec<usize> = (1..=3_u128).map(|n| 1 + exported(&[(n, &task(n).1)]).len() - 2).collect();
    let ends = [ends[0], ends[0] + ends[1], ends[0] + ends[1] + ends[2]];
    let whole = Bench::with(3);
    assert_eq!(whole.import(&text, studio()).recorded, 6);
    for cut in 0..text.len() {
        let bench = Bench::with(3);
        let complete = ends.iter().filter(|end| **end <= cut).count() as u64;
        let report = bench.import(&text[..cut], with_tombstones());
        assert_eq!((report.recorded, report.refused), (2 * complete, 0), "cut at {cut}");
        let end = report.cut_off.unwrap();
        assert_eq!((end.place, end.reason.code.as_str()), (complete + 1, "cut_off"));
        assert_eq!(bench.import(&text, studio()).known, 2 * complete);
        assert_eq!(bench.content(), whole.content());
    }
    let longer = whole.import(text + "]", studio());
    assert_eq!((longer.known, longer.cut_off.unwrap().place), (6, 4));
}

#[test]
fn what_is_no_export_is_cut_off_at_its_beginning() {
    let bench = Bench::with(1);
    for text in ["", "{\"detail\": \"Invalid token.\"}", "<html>", "null"] {
        let report = bench.import(text, studio());
        assert_eq!((counted(&report), report.cut_off.unwrap().place), (0, 1), "{text}");
    }
    let report = bench.import(
        format!("[1, {}]", &exported(&[(1, &[finished(1, 1, "good", 2)])])[1..].trim_end_matches(']')),
        studio(),
    );
    assert_eq!((report.recorded, codes(&report.refusals)), (1, vec![(1, "malformed")]));
}

#[test]
fn an_edited_annotation_becomes_a_correction_and_an_older_export_changes_nothing() {
    let bench = Bench::with(1);
    let old = exported(&[(1, &[finished(1, 1, "good", 2)])]);
    let between = exported(&[(1, &[finished(1, 1, "good", 3)])]);
    let new = exported(&[(1, &[finished(1, 1, "fraud", 4)])]);
    assert_eq!(bench.import(&old, studio()).recorded, 1);
    assert_eq!(bench.import(&new, studio()).corrected, 1);
    assert_eq!(bench.import(&old, studio()).known, 1);
    assert_eq!(bench.import(&between, studio()).outdated, 1);
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 1)]));
    let history: Vec<_> =
        bench.annotations(1).iter().map(|answer| (answer.label.unwrap().number(), answer.time)).collect();
    assert_eq!(history, [(0.0, time("2026-03-02T00:00:00Z")), (1.0, time("2026-03-04T00:00:00Z"))]);

    let unclear = exported(&[(1, &[finished(1, 1, "maybe", 5)])]);
    assert_eq!(codes(&bench.import(unclear, studio()).refusals), [(1, "unknown_class")]);
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 1)]));
}

#[test]
fn an_email_is_the_name_and_an_annotation_keeps_the_name_that_it_had() {
    let bench = Bench::with(1);
    let full = |email: Value| json!({"id": 1, "email": email, "first_name": "A", "last_name": ""});
    let named = altered(finished(1, 1, "good", 2), "completed_by", full(json!("ann@example.com")));
    let nameless = altered(finished(2, 1, "good", 2), "completed_by", full(json!("")));
    assert_eq!(bench.import(exported(&[(1, &[named, nameless])]), studio()).recorded, 2);
    assert_eq!(bench.standing(1), people(&[("ann@example.com", 0), ("label-studio-1", 0)]));
    // The next export has numbers only.
    assert_eq!(bench.import(exported(&[(1, &[finished(1, 1, "good", 2)])]), studio()).known, 1);
    assert_eq!(bench.import(exported(&[(1, &[finished(1, 1, "fraud", 5)])]), studio()).corrected, 1);
    assert_eq!(bench.standing(1), people(&[("ann@example.com", 1), ("label-studio-1", 0)]));
}

#[test]
fn who_skips_after_an_answer_takes_it_back_and_may_answer_again() {
    let bench = Bench::with(1);
    let skip = |day| altered(finished(1, 1, "good", day), "was_cancelled", json!(true));
    assert_eq!(bench.import(exported(&[(1, &[finished(1, 1, "good", 2)])]), studio()).recorded, 1);
    let report = bench.import(exported(&[(1, &[skip(3)])]), studio());
    assert_eq!((report.retracted, report.skipped), (1, 0));
    assert_eq!((bench.standing(1), bench.task(1).1.skipped_by), (people(&[]), vec!["label-studio-1".to_owned()]));
    assert_eq!(bench.import(exported(&[(1, &[skip(3)])]), studio()).known, 1);
    assert_eq!(bench.import(exported(&[(1, &[finished(1, 1, "fraud", 4)])]), studio()).recorded, 1);
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 1)]));
    assert_eq!(bench.annotations(1).len(), 3);
}

#[test]
fn an_annotation_that_vanished_is_kept_unless_tombstones_are_asked_for() {
    let bench = Bench::with(2);
    let twin = finished(3, 2, "fraud", 3);
    let both = exported(&[(1, &[finished(1, 1, "good", 2)]), (2, &[finished(2, 1, "good", 2)]), (1, from_ref(&twin))]);
    let _ = bench.import(&both, studio());
    let less = exported(&[(1, &[]), (1, from_ref(&twin))]);
    let _ = bench.import(&less, studio());
    let stands = people(&[("label-studio-1", 0), ("label-studio-2", 1)]);
    assert_eq!(bench.standing(1), stands);

    let cut = bench.import(&less[..less.len() - 1], with_tombstones());
    assert_eq!((cut.retracted, bench.standing(1)), (0, stands.clone()), "a file that is not whole says nothing");
    let odd = exported(&[(1, &[json!({"unique_id": 7})]), (1, from_ref(&twin))]);
    let unreadable = bench.import(odd, with_tombstones());
    assert_eq!((unreadable.retracted, unreadable.refused, bench.standing(1)), (0, 1, stands.clone()));
    let malformed = bench.import(format!("[7, {}", &less[1..]), with_tombstones());
    assert_eq!((malformed.retracted, malformed.refused, bench.standing(1)), (0, 1, stands));

    let report = bench.import(&less, with_tombstones());
    assert_eq!((report.retracted, report.known), (1, 1));
    assert_eq!(bench.standing(1), people(&[("label-studio-2", 1)]), "the twin's annotation is still there");
    assert_eq!(bench.standing(2), people(&[("label-studio-1", 0)]), "its task is not in the file");
    assert_eq!(bench.annotations(1).len(), 3, "an entry of its own");
    let before = bench.content();
    bench.clock.advance(TimeDelta::hours(1));
    assert_eq!(bench.import(&less, with_tombstones()).retracted, 0);
    assert_eq!(bench.content(), before);
    // An old file does not bring it back, an edit does.
    assert_eq!(bench.import(&both, with_tombstones()).known, 3);
    assert_eq!(bench.standing(1), people(&[("label-studio-2", 1)]));
    bench.clock.advance(TimeDelta::days(60));
    let edited = altered(finished(1, 1, "good", 2), "updated_at", json!("2026-05-01T00:00:00Z"));
    assert_eq!(bench.import(exported(&[(1, &[edited, twin])]), with_tombstones()).recorded, 1);
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 0), ("label-studio-2", 1)]));
}

#[test]
fn a_retraction_leaves_alone_what_the_person_said_elsewhere_since() {
    let bench = Bench::with(1);
    let _ = bench.import(exported(&[(1, &[finished(1, 1, "good", 2)])]), studio());
    bench.queue.correct(id(1), "label-studio-1", Label::Class(1), 1.0, None).unwrap();
    let report = bench.import(exported(&[(1, &[])]), with_tombstones());
    assert_eq!((report.retracted, bench.standing(1)), (0, people(&[("label-studio-1", 1)])));
}

#[test]
fn a_ground_truth_is_one_only_if_asked_and_goes_with_its_mark() {
    let bench = Bench::with(1);
    let marked = |key, by, label, day| altered(finished(key, by, label, day), "ground_truth", json!(true));
    let text = exported(&[(1, &[marked(1, 1, "good", 2)])]);
    let _ = bench.import(&text, studio());
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 0)]));
    let report = bench.import(&text, with_truths());
    assert_eq!((report.known, report.truths), (1, 1));
    assert_eq!(bench.standing(1), people(&[("label-studio-1", 0), ("the truth", 0)]));

    // Label Studio takes the first mark away without touching `updated_at`.
    let moved = exported(&[(1, &[finished(1, 1, "good", 2), marked(2, 2, "fraud", 3)])]);
    let report = bench.import(&moved, with_truths());
    assert_eq!((report.recorded, report.known, report.truths), (1, 1, 2));
    let before = bench.content();
    let everybody = people(&[("label-studio-1", 0), ("label-studio-2", 1), ("the truth", 1)]);
    assert_eq!(bench.standing(1), everybody);
    assert_eq!(bench.import(&moved, with_truths()).truths, 0);
    assert_eq!(bench.content(), before);
}

#[test]
fn tasks_go_out_as_label_studio_imports_them() {
    let fields = [
        Field::number("amount"),
        Field::category("country", ["DE", "FR"]).nullable(),
        Field::embedding("vector", 2),
        Field::text("note", 20).nullable(),
    ];
    let bench = Bench::new(Schema::new(fields, classes()).unwrap());
    let values = |task: &mut Task| task.row.values.copy_from_slice(&[12.5, 1.0, 2.0]);
    bench.ask(1, |task| {
        values(task);
        (task.ask.blind, task.output, task.payload) = (false, vec![0.25, 0.75], Some("see <b>".into()));
    });
    bench.ask(2, |task| {
        values(task);
        task.output = vec![0.25, 0.75];
    });
    let mut kept = sample(&bench.schema, 1);
    kept.observation.model = ModelVersion(7);
    let body = serde_json::to_vec(&kept).unwrap().into();
    let indexed = Indexed { state: "queued", rank: 0, due: None };
    let key = Key::new(&"p".into(), id(1).to_string());
    bench.commit(Write { kind: Kind::Sample, key, expect: Expect::Absent, indexed, body });

    let (text, report) = bench.export(studio());
    assert_eq!(report.tasks, 2);
    let meta = json!({"created": "2026-02-28T09:00:00Z", "priority": 0.5, "overlap": 2});
    let data =
        |n, text: &str| json!({"amount": 12.5, "country": null, "note": null, "_loop_key": id(n), "_loop_text": text});
    let result = json!([{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["fraud"]}}]);
    let fields = "amount: 12.5\ncountry: (missing)\nnote: (missing)";
    let expected = json!([
        {
            "data": data(1, &format!("see <b>\n\n{fields}")),
            "meta": meta,
            "predictions": [{"model_version": "v7", "score": 0.75, "result": result}],
        },
        { "data": data(2, fields), "meta": meta },
    ]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    assert_eq!(Bench::with(0).export(studio()).0, "[\n\n]\n");
}

#[test]
fn values_go_out_and_come_back_as_numbers() {
    let bench = Bench::new(payments(Target::Value));
    bench.ask(1, |task| (task.ask.blind, task.output) = (false, vec![1.5, 1.0, f64::NAN]));
    bench.ask(2, |task| (task.ask.blind, task.output) = (false, vec![f64::NAN; 3]));
    let tasks: Value = serde_json::from_str(&bench.export(studio()).0).unwrap();
    let result = json!([{"from_name": "label", "to_name": "text", "type": "number", "value": {"number": 1.5}}]);
    assert_eq!(tasks[0]["predictions"], json!([{"result": result}]));
    assert!(tasks[1].get("predictions").is_none(), "an unusable output is shown to nobody");
    let answer = |key, value: Value| {
        let result = json!([{"from_name": "label", "type": "number", "value": {"number": value}}]);
        altered(finished(key, 1, "", 2), "result", result)
    };
    let report = bench.import(exported(&[(1, &[answer(1, json!(-2.5))]), (2, &[answer(2, json!("2.5"))])]), studio());
    assert_eq!((report.recorded, codes(&report.refusals)), (1, vec![(2, "unusable_label")]));
    assert_eq!(bench.annotations(1)[0].label, Some(Label::Value(-2.5)));
}

#[test]
fn the_configuration_asks_for_the_classes_or_a_number() {
    let schema = payments(Target::classes(["good", "<R&D \"quoted\">", "in $US", "two\nlines"]));
    let expected = r#"<View>
  <Text name="text" value="$_loop_text"/>
  <Choices name="label" toName="text" choice="single-radio" required="true">
    <Choice value="good"/>
    <Choice value="&lt;R&amp;D &quot;quoted&quot;&gt;"/>
    <Choice value="in $_US" alias="in $US"/>
    <Choice value="two&#10;lines"/>
  </Choices>
</View>
"#;
    assert_eq!(label_studio_config(&schema).unwrap(), expected.replace("$_US", "$\u{2060}US"));
    let expected = r#"<View>
  <Text name="text" value="$_loop_text"/>
  <Number name="label" toName="text" step="any" required="true"/>
</View>
"#;
    assert_eq!(label_studio_config(&payments(Target::Value)).unwrap(), expected);
    for name in ["", " ", "a\u{1}", "\u{ffff}"] {
        assert!(label_studio_config(&payments(Target::classes(["good", name]))).is_err(), "{name:?}");
    }
}

#[test]
fn fields_that_the_exchange_needs_for_itself_are_refused() {
    for name in ["_loop_key", "_loop_text"] {
        let schema = Schema::new([Field::number(name)], classes()).unwrap();
        let bench = Bench::new(schema.clone());
        assert!(label_studio_config(&schema).unwrap_err().to_string().contains(name));
        let export = bench.queue.export_tasks(&schema, &mut Vec::new(), studio());
        assert!(export.unwrap_err().to_string().contains(name));
        assert!(bench.queue.export_tasks(&schema, &mut Vec::new(), ExchangeFormat::JsonLines).is_ok());
    }
}
