//! Erasure: the content is gone from the file, everything that it was part of is named, and the loop goes on without it.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    BatchCheck, Budget, Deduplicate, Event, Feedback, FnTrainer, HumanRouter, Kind, Label, LabelConsistency, Opinion,
    Outcome, PipelineBuilder, PredictionId, Profile, QueryStrategy, Sample, SampleState, SqliteStore, TrainJob,
    new_labels,
};
use support::host::Host;
use support::{check, check_journal, evaluator, fit, id, observation};

/// First numbers of all rows that a job was given, job by job.
type Jobs = Arc<Mutex<Vec<BTreeSet<u64>>>>;

/// Everything that remembers rows is in it.
fn remembering(builder: PipelineBuilder, jobs: &Jobs) -> PipelineBuilder {
    let jobs = jobs.clone();
    builder
        .payload(|_, row| format!("payment of {} by customer {}", row.values()[0], row.values()[1]))
        .gate(Deduplicate::exact().near(1e-9))
        .gate(LabelConsistency::default().near(1e-9))
        .route(HumanRouter::new(Budget::per_day(100_000)).strategy(QueryStrategy::margin().diverse(0.5)))
        .trigger(new_labels(60))
        .train(FnTrainer::inline(move |job: &TrainJob| {
            jobs.lock().unwrap().push(job.data.rows().iter().map(|row| row.values()[0].to_bits()).collect());
            Ok(fit(job))
        }))
        .evaluate(evaluator(Profile::adaptive()))
}

fn looped(file: &Path, jobs: &Jobs) -> Host<SqliteStore> {
    let mut host = Host::on(SqliteStore::open(file).unwrap(), |builder| remembering(builder, jobs));
    for turn in 0..8 {
        host.turn(60, if turn < 2 { 0.5 } else { 0.8 });
    }
    host
}

/// Where the row's numbers, as text or as they are in memory, occur in the file and what lies beside it: what stands before.
fn traces(file: &Path, sample: &Sample) -> Vec<String> {
    let directory = std::fs::read_dir(file.parent().unwrap()).unwrap();
    // One character per byte: searching texts is fast.
    let read = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let all: String = directory.map(|entry| read(&std::fs::read(entry.unwrap().path()).unwrap())).collect();
    let values = sample.observation.row.values();
    let wanted = values.iter().flat_map(|value| [value.to_string(), read(&value.to_le_bytes())]);
    let before = |at: usize| all[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
    wanted.flat_map(|wanted| all.match_indices(&wanted).map(|(at, _)| before(at)).collect::<Vec<_>>()).collect()
}

fn find(host: &Host<SqliteStore>, wanted: impl Fn(&Sample) -> bool) -> Sample {
    let mut found = None;
    host.pipeline
        .each_sample(|sample| {
            if found.is_none() && wanted(&sample) {
                found = Some(sample);
            }
            Ok(())
        })
        .unwrap();
    found.expect("such a sample")
}

#[test]
fn what_was_erased_is_not_in_the_file_any_more_and_not_trained_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feedloop.db");
    let jobs = Jobs::default();
    let mut host = looped(&file, &jobs);
    let batched = find(&host, |sample| sample.state == SampleState::Batched && sample.payload.is_some());
    let open = find(&host, |sample| matches!(sample.state, SampleState::Queued | SampleState::Skipped));
    let first = |sample: &Sample| sample.observation.row.values()[0].to_bits();
    assert!(jobs.lock().unwrap().iter().any(|rows| rows.contains(&first(&batched))), "it was trained on");
    assert!(traces(&file, &batched).len() > 2 && !traces(&file, &open).is_empty());
    let heads = host.pipeline.verify_journal(&[]).unwrap().heads;

    let erased = host.pipeline.erase(batched.id(), "ann", "the customer asked for it").unwrap();
    let batch = batched.batch.clone().unwrap();
    assert_eq!(erased.batches, std::slice::from_ref(&batch));
    assert!(erased.scrubbed && !erased.runs.is_empty() && !erased.models.is_empty(), "{erased:?}");
    let manifest_run = host.pipeline.run(erased.runs[0]).unwrap().unwrap();
    assert_eq!(manifest_run.batch, Some(batch.clone()), "the first is the one that the batch was sealed for");
    assert_eq!(host.pipeline.erase(batched.id(), "ann", "again").unwrap(), erased, "erasing again says the same");
    let none = host.pipeline.erase(open.id(), "ann", "the customer asked for it").unwrap();
    assert!(none.batches.is_empty() && none.models.is_empty() && none.runs.is_empty());
    for sample in [&batched, &open] {
        assert_eq!(traces(&file, sample), [""; 0], "{} is still in the file", sample.id());
    }

    // What is left.
    let check_of = |host: &Host<SqliteStore>| host.pipeline.verify_batch(&batch).unwrap();
    let rows = check_of(&host).rows;
    assert_eq!(check_of(&host), BatchCheck { rows, erased: 1, intact: true });
    let stub = find(&host, |sample| sample.id() == batched.id());
    assert_eq!((stub.state, &stub.batch), (SampleState::Batched, &Some(batch.clone())));
    assert_eq!(stub.erased.as_ref().map(|erasure| erasure.why.as_str()), Some("the customer asked for it"));
    assert_eq!(stub.history.len(), batched.history.len());
    assert!(stub.annotations.is_empty() && stub.label.is_none() && stub.sealed.is_none() && stub.payload.is_none());
    assert_eq!(find(&host, |sample| sample.id() == open.id()).state, SampleState::Erased);
    let journal = host.pipeline.verify_journal(&heads).unwrap();
    assert_eq!((journal.broken, journal.unlisted), (None, 0));

    // Nothing about them comes back in: from the world, users, annotators, or a log that is replayed.
    for sample in [&batched, &open] {
        let feedback =
            Feedback { prediction: sample.id(), user: "eve".into(), opinion: Opinion::Correction(Label::Class(1)) };
        let events =
            [Event::Outcome(Outcome::truth(sample.id(), Label::Class(1))), Event::Feedback(Box::new(feedback))];
        host.pipeline.ingest(events).unwrap();
        assert!(host.queue.annotate(sample.id(), "ann", Label::Class(0), 1.0, None).is_err());
    }
    let mut again = Box::new(batched.observation.clone());
    again.model = host.pipeline.champion();
    host.pipeline.ingest([Event::Prediction(again)]).unwrap();
    assert_eq!(host.pipeline.status().unwrap().counters.after_erasure, 4);
    host.pipeline.poll().unwrap();

    // Later training leaves the row out, in this process and in the next.
    let done = jobs.lock().unwrap().len();
    for restart in [false, true] {
        if restart {
            host.restart(|builder| remembering(builder, &jobs));
        }
        let before = jobs.lock().unwrap().len();
        for _ in 0..3 {
            host.turn(60, 0.8);
        }
        assert!(jobs.lock().unwrap().len() > before, "something was trained");
    }
    assert!(jobs.lock().unwrap()[done..].iter().all(|rows| !rows.contains(&first(&batched))));
    assert!(check_of(&host).intact);
    check(&**host.pipeline.store(), "closed");
    check_journal(&**host.pipeline.store(), "closed");
    for sample in [&batched, &open] {
        assert_eq!(traces(&file, sample), [""; 0], "{} came back into the file", sample.id());
    }
}

#[test]
fn an_answer_that_is_under_way_while_its_sample_is_erased_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feedloop.db");
    let mut host = looped(&file, &Jobs::default());
    host.clock.advance(TimeDelta::minutes(1));
    let served = host.slot.get();
    let new = (90_000..90_100).map(|n| observation(n, served.version, served.model, &[n as f64 / 1e5, 0.5]));
    host.pipeline.ingest(new.map(Event::Prediction)).unwrap();
    let asked = find(&host, |sample| sample.state == SampleState::Queued);
    host.queue.annotate(asked.id(), "ann", Label::Class(1), 0.875, None).unwrap();
    // The pipeline has not seen the answer yet.
    host.pipeline.erase(asked.id(), "bob", "asked").unwrap();
    host.pipeline.poll().unwrap();
    let left = support::records(&**host.pipeline.store(), "closed", Kind::Annotation);
    let of_it = left.iter().find(|record| record.key.id.starts_with(&asked.id().to_string())).unwrap();
    assert_eq!((of_it.state.as_str(), &*of_it.body), ("erased", &br#"{"erased":true}"#[..]));
    assert!(host.queue.annotations(asked.id()).unwrap().is_empty());
    check_journal(&**host.pipeline.store(), "closed");
}

#[test]
fn exported_files_with_it_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let (file, export) = (directory.path().join("feedloop.db"), directory.path().join("batches"));
    let mut host = Host::on(SqliteStore::open(file).unwrap(), |builder| {
        remembering(builder, &Jobs::default()).export(export.clone())
    });
    for _ in 0..4 {
        host.turn(60, 0.8);
    }
    let batched = find(&host, |sample| sample.state == SampleState::Batched);
    let erased = host.pipeline.erase(batched.id(), "ann", "asked").unwrap();
    assert!(!erased.files.is_empty());
    let named = erased.files.iter().any(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.contains(&batched.id().to_string())
    });
    assert!(named, "{:?}", erased.files);
}

#[test]
fn a_prediction_that_nobody_kept_can_be_erased_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = looped(&directory.path().join("feedloop.db"), &Jobs::default());
    let unknown: PredictionId = id(1_234_567);
    let erased = host.pipeline.erase(unknown, "ann", "asked").unwrap();
    assert!(erased.scrubbed && erased.batches.is_empty());
    check_journal(&**host.pipeline.store(), "closed");
}
