use std::io::{BufReader, Read};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const LINES: ExchangeFormat = ExchangeFormat::JsonLines;

fn line(n: u128, who: &str, label: &str, annotation: &str, time: &str) -> String {
    let time = Some(time).filter(|time| !time.is_empty());
    let line = json!({"key": id(n), "annotator": who, "label": label, "annotation": annotation, "time": time});
    format!("{line}\n")
}

#[test]
fn a_task_is_one_line_and_a_blind_one_hides_the_output() {
    let bench = Bench::with(0);
    bench.ask(1, |task| {
        (task.ask.blind, task.payload) = (false, Some("a \"payload\"\nof two lines".into()));
        (task.output, task.ask.priority) = (vec![0.25, 0.75], 2.0);
    });
    bench.ask(2, |task| task.output = vec![0.25, 0.75]);
    let (text, _) = bench.export(LINES);
    let lines = [
        r#"{"key":"00000000-0000-0000-0000-000000000001","created":"2026-02-28T09:00:00Z","priority":2.0,"#,
        r#""overlap":2,"blind":false,"row":{"amount":0.5,"country":null},"payload":"a \"payload\"\nof two lines","#,
        r#""output":{"fraud":0.75,"good":0.25},"classes":["good","fraud"]}"#,
        "\n",
        r#"{"key":"00000000-0000-0000-0000-000000000002","created":"2026-02-28T09:00:00Z","priority":0.5,"#,
        r#""overlap":2,"blind":true,"row":{"amount":1.0,"country":null},"classes":["good","fraud"]}"#,
        "\n",
    ];
    assert_eq!(text, lines.concat());
}

#[test]
fn values_have_no_classes_and_infinite_or_missing_outputs_are_null() {
    let bench = Bench::new(payments(Target::Value));
    bench.ask(1, |task| (task.ask.blind, task.output) = (false, vec![1.5, f64::NAN, f64::INFINITY]));
    let task: Value = serde_json::from_str(&bench.export(LINES).0).unwrap();
    assert_eq!(task["output"], json!({"value": 1.5, "low": null, "high": null}));
    assert!(task.get("classes").is_none());

    let text = format!(
        "{}{}{}{}{}",
        format_args!("{{\"key\":\"{}\",\"annotator\":\"ann\",\"label\":-0.25,\"annotation\":\"1\"}}\n", id(1)),
        format_args!("{{\"key\":\"{}\",\"annotator\":\"bob\",\"label\":NaN,\"annotation\":\"2\"}}\n", id(1)),
        format_args!("{{\"key\":\"{}\",\"annotator\":\"bob\",\"label\":1e999,\"annotation\":\"2\"}}\n", id(1)),
        format_args!("{{\"key\":\"{}\",\"annotator\":\"bob\",\"label\":\"1.5\",\"annotation\":\"2\"}}\n", id(1)),
        format_args!("{{\"key\":\"{}\",\"annotator\":\"bob\",\"label\":3,\"annotation\":\"2\"}}\n", id(1)),
    );
    let report = bench.import(text, LINES);
    assert_eq!(report.recorded, 2);
    assert_eq!(codes(&report.refusals), [(2, "no_json"), (3, "no_json"), (4, "unusable_label")]);
    let labels: Vec<_> = bench.annotations(1).iter().map(|annotation| annotation.label.unwrap()).collect();
    assert_eq!(labels, [Label::Value(-0.25), Label::Value(3.0)]);
}

#[test]
fn a_wrong_line_is_refused_with_its_number_and_does_not_stop_the_others() {
    let bench = Bench::with(3);
    let field = |name: &str, value: Value| {
        let mut line = json!({"key": id(1), "annotator": "ann", "label": "good", "annotation": "k"});
        line[name] = value;
        format!("{line}\n")
    };
    let lines = [
        ("no JSON at all\n".into(), Some("no_json")),
        (line(1, "ann", "good", "1", ""), None),
        ("\"a text\"\n".into(), Some("malformed")),
        (line(9, "ann", "good", "1", ""), Some("unknown_sample")),
        (field("key", json!("abc")), Some("unknown_sample")),
        (field("key", Value::Null), Some("unknown_sample")),
        (field("annotator", Value::Null), Some("no_annotator")),
        (field("annotator", json!("  ")), Some("no_annotator")),
        (field("label", Value::Null), Some("no_label")),
        (field("label", json!("maybe")), Some("unknown_class")),
        (field("label", json!(1)), Some("unusable_label")),
        (field("label", json!(["good"])), Some("unusable_label")),
        (field("annotation", Value::Null), Some("bad_key")),
        (field("annotation", json!("")), Some("bad_key")),
        (field("annotation", json!("k".repeat(201))), Some("bad_key")),
        (field("annotation", json!("a\u{0}b")), Some("bad_key")),
        (field("time", json!("yesterday")), Some("bad_time")),
        (field("confidence", json!(1.5)), Some("refused")),
        (field("seconds", json!(-1)), Some("refused")),
        (field("confidence", json!("high")), Some("malformed")),
        ("{\"key\":\"\u{fffd}\"\n".into(), Some("no_json")),
        (line(2, "ann", "fraud", "1", ""), None),
    ];
    let text: String = lines.iter().map(|(line, _)| line.as_str()).collect();
    let report = bench.import(text, LINES);
    let expected: Vec<_> = lines.iter().zip(1..).filter_map(|((_, code), place)| Some((place, (*code)?))).collect();
    assert_eq!(codes(&report.refusals), expected);
    assert_eq!((report.recorded, counted(&report), report.cut_off), (2, lines.len() as u64, None));
    assert_eq!(report.refusals[8].to_string(), "10 (k): unknown_class: `maybe` is none of good, fraud");
    assert_eq!((bench.standing(1), bench.standing(2)), (people(&[("ann", 0)]), people(&[("ann", 1)])));
}

/// Imports duplicate (label-studio#2016, #3651, #8838).
#[test]
fn label_studio_2016_3651_8838_the_same_file_twice_changes_nothing() {
    let bench = Bench::with(2);
    let text = [
        line(1, "ann", "good", "1", "2026-03-01T00:00:00Z"),
        line(1, "bob", "fraud", "2", ""),
        line(2, "ann", "good", "1", "2030-01-01T00:00:00Z"),
        line(2, "ann", "fraud", "1", "2030-01-01T00:00:01Z"),
    ];
    let report = bench.import(text.concat(), LINES);
    assert_eq!((report.recorded, report.corrected), (3, 1));
    let before = bench.content();
    bench.clock.advance(TimeDelta::days(1));
    for text in [text.concat(), text.iter().rev().cloned().collect()] {
        let report = bench.import(text, LINES);
        assert_eq!((report.known, counted(&report)), (4, 4));
        assert_eq!(bench.content(), before);
    }
}

#[test]
fn label_studio_8838_two_imports_at_once_record_each_annotation_once() {
    let bench = Bench::with(40);
    let names = ["ann", "bob", "cy"];
    let text: String = (1..=40).flat_map(|n| names.map(|who| line(n, who, "good", who, ""))).collect();
    let reports: Vec<ImportReport> = std::thread::scope(|scope| {
        let imports: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.import(&text, LINES))).collect();
        imports.into_iter().map(|import| import.join().unwrap()).collect()
    });
    assert_eq!(reports.iter().map(|report| report.recorded).sum::<u64>(), 120);
    assert_eq!(reports.iter().map(|report| report.known).sum::<u64>(), 360);
    for n in 1..=40 {
        assert_eq!(bench.annotations(n).len(), 3);
        assert_eq!(bench.task(n).1.answers.len(), 3);
    }
}

/// Annotations are lost in a network failure (label-studio#6675).
#[test]
fn label_studio_6675_a_file_that_is_cut_off_anywhere_gives_what_is_whole_and_says_where_it_ends() {
    let text = [
        line(1, "ann", "good", "1", "2026-03-01T00:00:00Z"),
        line(1, "bo\u{df}", "fraud", "2", ""),
        line(2, "ann", "fraud", "1", "2026-03-01T00:00:00Z"),
    ];
    let text = text.concat();
    let whole = Bench::with(2);
    assert_eq!(whole.import(&text, LINES).recorded, 3);
    for cut in 0..text.len() {
        let bench = Bench::with(2);
        let (start, rest) = text.as_bytes().split_at(cut);
        let lines = start.iter().filter(|byte| **byte == b'\n').count() as u64;
        // An object is whole without the end of its line.
        let complete = lines + u64::from(rest[0] == b'\n');
        let report = bench.import(start, LINES);
        assert_eq!((report.recorded, report.refused), (complete, 0), "cut at {cut}");
        let ends_inside = rest[0] != b'\n' && !start.is_empty() && !start.ends_with(b"\n");
        assert_eq!(report.cut_off.map(|end| end.place), ends_inside.then_some(lines + 1), "cut at {cut}");
        let again = bench.import(&text, LINES);
        assert_eq!((again.recorded, again.known), (3 - complete, complete));
        assert_eq!(bench.content(), whole.content());
    }
}

#[test]
fn label_studio_6675_a_reader_that_fails_gives_what_came_before() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection reset"))
        }
    }
    let bench = Bench::with(1);
    let text = line(1, "ann", "good", "1", "") + "{\"key\":";
    let reader = BufReader::new(text.as_bytes().chain(Broken));
    let report = bench.queue.import_annotations(&bench.schema, reader, LINES).unwrap();
    assert_eq!(report.recorded, 1);
    assert_eq!(report.cut_off.unwrap().to_string(), "2: cut_off: connection reset");
}

#[test]
fn an_annotation_keeps_its_time_but_none_of_the_future() {
    let bench = Bench::with(1);
    let text = [
        line(1, "ann", "good", "1", "2026-03-01T12:00:00.5+02:00"),
        line(1, "bob", "good", "2", "2027-03-01T12:00:00Z"),
        line(1, "cy", "good", "3", ""),
    ];
    let _ = bench.import(text.concat(), LINES);
    let found: Vec<_> = bench.annotations(1).into_iter().map(|answer| (answer.annotator, answer.time)).collect();
    let now = time("2026-04-01T00:00:00Z");
    let human = |name: &str| Annotator::Human(name.into());
    let expected = [(human("ann"), time("2026-03-01T10:00:00.5Z")), (human("bob"), now), (human("cy"), now)];
    assert_eq!(found, expected);
}

#[test]
fn confidence_and_seconds_are_kept() {
    let bench = Bench::with(1);
    let answer = json!({"key": id(1), "annotator": "ann", "label": "good", "annotation": "1", "confidence": 0.75,
        "seconds": 3.5, "mood": "cheerful"});
    assert_eq!(bench.import(answer.to_string(), LINES).recorded, 1);
    let answer = &bench.annotations(1)[0];
    assert_eq!((answer.confidence, answer.seconds, answer.blind), (0.75, Some(3.5), true));
}

#[test]
fn an_answer_counts_though_somebody_holds_the_task_or_it_is_done() {
    let bench = Bench::with(1);
    assert_eq!(bench.queue.claim("ann", 1, TimeDelta::minutes(5)).unwrap().len(), 1);
    let _ = bench.import(line(1, "bob", "good", "1", "2026-03-01T00:00:00Z"), LINES);
    assert_eq!(bench.task(1).0, "claimed");
    bench.queue.annotate(id(1), "ann", Label::Class(0), 1.0, None).unwrap();
    assert_eq!(bench.task(1).0, "done");
    let report = bench.import(line(1, "cy", "fraud", "1", "2026-03-01T00:00:00Z"), LINES);
    assert_eq!((report.recorded, bench.task(1).0.as_str()), (1, "done"));
    assert_eq!(bench.standing(1), people(&[("ann", 0), ("bob", 0), ("cy", 1)]));
}

#[test]
fn a_later_label_is_a_correction_and_an_older_one_changes_nothing() {
    let bench = Bench::with(1);
    let say = |label: &str, key: &str, day: u32| {
        let report = bench.import(line(1, "ann", label, key, &format!("2026-03-{day:02}T00:00:00Z")), LINES);
        let ImportReport { recorded, confirmed, corrected, known, outdated, refused, .. } = report;
        [recorded, confirmed, corrected, known, outdated, refused]
    };
    assert_eq!(say("good", "a", 5), [1, 0, 0, 0, 0, 0]);
    assert_eq!(say("fraud", "a", 7), [0, 0, 1, 0, 0, 0], "the same annotation, changed");
    assert_eq!(say("good", "a", 5), [0, 0, 0, 1, 0, 0]);
    assert_eq!(say("good", "a", 6), [0, 0, 0, 0, 1, 0], "changed, but before what is known");
    assert_eq!(say("good", "b", 6), [0, 0, 0, 0, 1, 0]);
    assert_eq!(say("good", "a", 7), [0, 0, 0, 0, 0, 1], "one key and time stand for two labels");
    assert_eq!(say("good", "b", 8), [0, 0, 1, 0, 0, 0], "another annotation of the same person");
    assert_eq!(say("good", "c", 9), [0, 1, 0, 0, 0, 0]);
    let history: Vec<_> = bench.annotations(1).iter().map(|answer| answer.label.unwrap().number()).collect();
    assert_eq!(history, [0.0, 1.0, 0.0, 0.0], "nothing is overwritten");
}

#[test]
fn what_a_person_says_in_the_queue_later_stands() {
    let bench = Bench::with(1);
    let _ = bench.import(line(1, "ann", "good", "a", "2026-03-05T00:00:00Z"), LINES);
    bench.queue.correct(id(1), "ann", Label::Class(1), 1.0, None).unwrap();
    let report = bench.import(line(1, "ann", "good", "b", "2026-03-06T00:00:00Z"), LINES);
    assert_eq!((report.outdated, bench.standing(1)), (1, people(&[("ann", 1)])));
    bench.queue.retract(id(1), "ann").unwrap();
    let report = bench.import(line(1, "ann", "good", "b", "2026-03-06T00:00:00Z"), LINES);
    assert_eq!((report.outdated, bench.standing(1)), (1, people(&[])));
}

#[test]
fn keys_and_names_of_any_kind_do_not_meet() {
    let bench = Bench::with(1);
    let names = ["/key-a", "/key-a/a", "key-a/00000000000000000000", "a", "/", "%2F", "0000"];
    let keys = ["a", "a/00000000000000000000", "a%2F", "a/", "%2F", "/", "0000", "a-b"];
    for name in names {
        bench.queue.annotate(id(1), name, Label::Class(0), 1.0, None).unwrap();
    }
    for key in keys {
        for who in keys {
            let text = line(1, who, "fraud", key, "");
            let report = bench.import(&text, LINES);
            assert_eq!(report.refused + report.known, 0, "{key} of {who}: {report:?}");
            assert_eq!(bench.import(&text, LINES).known, 1, "{key} of {who}");
        }
    }
    assert_eq!(bench.annotations(1).len(), names.len() + keys.len() * keys.len());
}

#[test]
fn in_whatever_order_annotations_come_the_newest_of_each_person_stands() {
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..200 {
        // Each person has two annotations and changes them now and then; all times differ.
        let mut said: Vec<(&str, &str, String)> = Vec::new();
        for moment in 0..8 {
            let person = ["ann", "bob"][rng.random_range(0..2)];
            let key = format!("{person}-{}", rng.random_range(0..2));
            let label = ["good", "fraud"][rng.random_range(0..2)];
            said.push((person, label, line(1, person, label, &key, &format!("2026-03-01T00:00:{moment:02}Z"))));
        }
        let newest: BTreeMap<String, u32> =
            said.iter().map(|(who, label, _)| ((*who).to_owned(), u32::from(*label == "fraud"))).collect();
        let mut left: Vec<String> = said.into_iter().map(|(_, _, line)| line).collect();
        let bench = Bench::with(1);
        while !left.is_empty() {
            let next = left.swap_remove(rng.random_range(0..left.len()));
            assert_eq!(bench.import(next, LINES).refused, 0);
        }
        assert_eq!(bench.standing(1), newest);
    }
}

#[test]
fn lines_of_other_systems_are_read_and_endless_ones_are_refused_unread() {
    let bench = Bench::with(2);
    let windows = line(1, "ann", "good", "1", "").replace('\n', "\r\n");
    let text = format!("\u{feff}{windows}\r\n\n  \n{}", line(1, "bob", "good", "2", "").trim_end());
    let report = bench.import(text, LINES);
    assert_eq!((report.recorded, counted(&report), report.cut_off), (2, 2, None));

    let endless = io::repeat(b'x').take(3 << 20).chain(&b"\n"[..]);
    let ok = line(2, "ann", "good", "1", "");
    let reader = BufReader::new(endless.chain(ok.as_bytes()));
    let report = bench.queue.import_annotations(&bench.schema, reader, LINES).unwrap();
    assert_eq!((report.recorded, codes(&report.refusals)), (1, vec![(1, "too_long")]));
    // A line may be as long as the limit.
    let padded = line(2, "bob", "good", "1", "").replacen('{', &format!("{{{}", " ".repeat((1 << 20) - 200)), 1);
    assert_eq!(bench.import(padded, LINES).recorded, 1);
}
