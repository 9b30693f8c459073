use std::path::Path;
use std::sync::Arc;

use chrono::DateTime;

use super::*;
use crate::dataset::correction_digest;
use crate::event::{Label, PredictionId};
use crate::retrain::batch::{base_manifest, export, lines_of};
use crate::retrain::taught::Said;
use crate::schema::{Field, Row, Schema, Target};

fn schema(more: bool) -> Arc<Schema> {
    let later = more.then(|| Field::number("later").nullable());
    let fields = [Field::number("amount")].into_iter().chain(later);
    Arc::new(Schema::new(fields, Target::classes(["no", "yes"])).unwrap())
}

fn rows(schema: &Arc<Schema>, numbers: std::ops::Range<usize>) -> Dataset {
    let mut data = Dataset::new(schema.clone());
    for number in numbers {
        let mut row = Row::new(schema);
        row.encode(schema, &serde_json::json!({ "amount": number as f64 }));
        data.push(row, Label::Class((number % 2) as u32), 1.0 + number as f64).unwrap();
    }
    data
}

fn id(number: f64) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u128(number as u128))
}

/// Writes data and says where; the samples are named by their first values.
fn part(directory: &Path, data: &Dataset) -> DataRef {
    part_with(directory, data, &[])
}

fn part_with(directory: &Path, data: &Dataset, corrections: &[(PredictionId, Said)]) -> DataRef {
    let corrected: BTreeMap<_, _> = corrections.iter().map(|(id, said)| (*id, said.map(|said| said.0))).collect();
    let digest = data.digest_with(corrected.iter().map(|(id, said)| correction_digest(*id, *said)));
    let mut manifest = base_manifest("fraud", data, &digest, DateTime::UNIX_EPOCH);
    manifest.samples = data.rows().iter().map(|row| id(row.values()[0])).collect();
    manifest.corrected = corrected;
    let lines = lines_of(data).collect::<Vec<_>>();
    let (path, _) = export(directory, &manifest, data.schema(), &lines, corrections).unwrap();
    DataRef { id: manifest.batch, rows: data.len() as u64, path: Some(path) }
}

#[test]
fn a_version_is_composed_from_disk_as_its_recipe_took_it() {
    let directory = tempfile::tempdir().unwrap();
    let schema = schema(false);
    let (base, first, second) = (rows(&schema, 0..20), rows(&schema, 20..90), rows(&schema, 90..100));
    let parts = [&base, &first, &second].map(|data| part(directory.path(), data));
    let [base_part, batches @ ..] = parts;
    let mut labelled = first.clone();
    labelled.extend(&second).unwrap();
    let shares: BTreeMap<_, _> = [("keep".to_owned(), 0.3), ("newest".to_owned(), 0.7)].into();
    for recipe in Recipe::RACING.into_iter().chain([Recipe::Blend]) {
        for most_rows in [50, 85, 1_000] {
            let data = compose(recipe, Some(&base), &labelled.newest(most_rows), most_rows, &shares).unwrap();
            let version =
                DatasetVersion::of(&data, (recipe, &shares), most_rows, Some(base_part.clone()), batches.to_vec());
            let version: DatasetVersion = serde_json::from_str(&serde_json::to_string(&version).unwrap()).unwrap();
            let again = version.compose().unwrap();
            assert_eq!((again.rows(), again.labels(), again.weights()), (data.rows(), data.labels(), data.weights()));
        }
    }
}

#[test]
fn batches_of_an_earlier_schema_are_part_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (rows(&schema(false), 0..5), rows(&schema(true), 5..10));
    let batches = vec![part(directory.path(), &old), part(directory.path(), &new)];
    let mut labelled = Dataset::new(schema(true));
    labelled.extend_older(&old).unwrap();
    labelled.extend(&new).unwrap();
    let version = DatasetVersion::of(&labelled, (Recipe::All, &BTreeMap::new()), 100, None, batches);
    let again = version.compose().unwrap();
    assert_eq!(again.len(), 10);
    assert!(again.rows()[0].values()[1].is_nan());
}

/// The second batch takes the label of row 3 back and changes that of row 4, the third gives row 3 one again.
#[test]
fn a_batch_corrects_those_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let schema = schema(false);
    let back = Some((1, Label::Class(0)));
    let corrections = [vec![], vec![(id(3.0), None), (id(4.0), Some((1, Label::Class(1))))], vec![(id(3.0), back)]];
    let numbers = [0..5, 5..6, 6..6];
    let parts: Vec<DataRef> = numbers
        .clone()
        .into_iter()
        .zip(&corrections)
        .map(|(numbers, corrections)| part_with(directory.path(), &rows(&schema, numbers), corrections))
        .collect();
    // The classes of rows 0 to 5 by the batches so far; no class: not trained on.
    let expected: [&[Option<u32>]; 3] = [
        &[Some(0), Some(1), Some(0), Some(1), Some(0)],
        &[Some(0), Some(1), Some(0), None, Some(1), Some(1)],
        &[Some(0), Some(1), Some(0), Some(0), Some(1), Some(1)],
    ];
    for (batches, expected) in (1..).zip(expected) {
        let mut data = Dataset::new(schema.clone());
        let all = rows(&schema, 0..6);
        for (row, class) in expected.iter().enumerate().filter_map(|(row, class)| Some((row, (*class)?))) {
            data.push(all.rows()[row].clone(), Label::Class(class), all.weights()[row]).unwrap();
        }
        for most in [3, 100] {
            let taken = data.newest(most);
            let version =
                DatasetVersion::of(&taken, (Recipe::All, &BTreeMap::new()), most, None, parts[..batches].to_vec());
            let again = version.compose().unwrap();
            assert_eq!((again.rows(), again.labels()), (taken.rows(), taken.labels()), "{batches} batches");
        }
    }
}

#[test]
fn what_cannot_be_made_again_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let schema = schema(false);
    let (base, batch) = (rows(&schema, 0..5), rows(&schema, 5..10));
    let mut all = base.clone();
    all.extend(&batch).unwrap();
    let [base_part, batch_part] = [&base, &batch].map(|data| part(directory.path(), data));
    let version = DatasetVersion::of(
        &all,
        (Recipe::All, &BTreeMap::new()),
        100,
        Some(base_part.clone()),
        vec![batch_part.clone()],
    );
    assert!(version.compose().is_ok());
    let why = |change: &dyn Fn(&mut DatasetVersion)| {
        let mut changed = version.clone();
        change(&mut changed);
        changed.compose().unwrap_err().to_string()
    };
    assert!(why(&|v| v.base = None).contains("the training data is not what it was: 5 rows of digest"));
    assert!(why(&|v| v.batches[0].path = None).contains("is not on disk: read it from the store instead"));
    assert!(why(&|v| v.batches[0].path = base_part.path.clone()).contains("was expected"));
    assert!(why(&|v| v.schema = "other".into()).contains("no part has schema other"));
    std::fs::remove_file(batch_part.path.as_ref().unwrap().join("data.jsonl")).unwrap();
    assert!(why(&|_| {}).contains("`data.jsonl` is missing"));
}
