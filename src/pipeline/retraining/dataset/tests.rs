use std::fs;
use std::sync::Arc;

use super::*;
use crate::chunk::Chunk;
use crate::detector::{Findings, detector_fn};
use crate::event::{Event, Label, Outcome, Output};
use crate::gate::testing::id;
use crate::retrain::batch::base_manifest;
use crate::schema::{Schema, Target};
use crate::trigger::new_labels;

fn base() -> Dataset {
    let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
    let rows = (0..50).map(|n| ([f64::from(n)], Label::Class(u32::from(n > 20))));
    Dataset::from_values(schema, rows).unwrap()
}

/// Seals every truth in a batch of its own.
fn pipeline(directory: &Path) -> Pipeline {
    let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
        chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
        Ok(())
    });
    let base = base();
    let builder = Pipeline::builder("orders", base.schema().clone()).training_data(base).detect(flag_all);
    builder.trigger(new_labels(1)).export(directory).build().unwrap()
}

fn record(pipeline: &mut Pipeline, n: u128, value: f64) {
    let mut observation = pipeline.observation();
    observation.id = id(n);
    observation.row.copy_values(&[value]).unwrap();
    observation.set_output(Output::Probabilities(&[0.4, 0.6]));
    let truth = Outcome::truth(observation.id, Label::Class(1));
    pipeline.ingest([Event::Prediction(observation), Event::Outcome(truth)]).unwrap();
    pipeline.poll().unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_export_that_was_never_sealed_is_taken_away_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(directory.path());
    record(&mut pipeline, 1, 1.0);
    let sealed = pipeline.retraining.state.last_batch.clone().unwrap();
    assert_eq!((names(directory.path()), &pipeline.retraining.state.exporting), (vec![sealed.0.clone()], &None));

    // A crash came between an export and its seal; beside it lies what is not ours, or was sealed.
    let orphan = |name: &str, owner: &str| {
        let mut manifest = base_manifest(owner, &base(), &base().digest(), pipeline.now);
        manifest.batch = BatchId(format!("{}-{name}", manifest.digest));
        batch::export(directory.path(), &manifest, base().schema(), &lines_of(&base()).collect::<Vec<_>>(), &[])
            .unwrap();
        manifest.batch
    };
    let (left, stranger) = (orphan("7", "orders"), orphan("9", "bills"));
    for exporting in [stranger.clone(), sealed.clone(), left.clone()] {
        let path = directory.path().join(&exporting.0);
        let before = path.exists();
        pipeline.retraining.state.exporting = Some(exporting.clone());
        let number = pipeline.retraining.state.batches;
        record(&mut pipeline, 10 + u128::from(number), number as f64);
        assert!(before && path.exists() == (exporting != left), "{exporting}");
    }
    let newest = pipeline.newest_batches(usize::MAX).unwrap();
    let mut expected: Vec<String> =
        newest.iter().map(|found| &found.batch).chain([&stranger]).map(|id| id.0.clone()).collect();
    expected.sort();
    assert_eq!(names(directory.path()), expected);
    assert!(
        newest.iter().any(|found| found.batch.0 != found.digest),
        "batches of equal content have names of their own"
    );
    assert!(
        newest.iter().all(|found| pipeline.verify_batch(&found.batch).unwrap().intact),
        "and are as they were sealed"
    );
}

#[test]
fn batches_of_equal_content_have_names_of_their_own_and_are_as_they_were_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(directory.path());
    (1..4).for_each(|n| record(&mut pipeline, n, 7.0));
    let sealed = pipeline.newest_batches(usize::MAX).unwrap();
    let digest = &sealed[0].digest;
    let names: Vec<&str> = sealed.iter().map(|found| found.batch.0.as_str()).collect();
    assert_eq!(names, [digest.clone(), format!("{digest}-2"), format!("{digest}-3")]);
    assert!(sealed.iter().all(|found| pipeline.verify_batch(&found.batch).unwrap().intact));
}
