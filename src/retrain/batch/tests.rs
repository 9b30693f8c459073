use serde_json::{Value, json};

use super::*;
use crate::event::Label;
use crate::sample::{Annotator, Lane};
use crate::schema::{Row, Target};
use crate::{Field, Observation, PredictionId};

fn schema() -> Arc<Schema> {
    let fields = [Field::number("amount"), Field::category("country", ["DE", "FR"]).nullable()];
    Arc::new(Schema::new(fields, Target::classes(["good", "fraud"])).unwrap())
}

fn labelled(schema: &Schema, number: u64) -> (Sample, Annotation) {
    let mut observation = Observation::new(schema);
    observation.id = PredictionId::from_uuid(uuid::Uuid::from_u64_pair(0, number));
    observation.row = Row::from_values(schema, &[number as f64 / 4.0]).unwrap();
    let sample =
        Sample::new(observation, number, if number.is_multiple_of(2) { Lane::Random } else { Lane::Flagged }, 0.5);
    let sample = Sample { judged: number > 0, ..sample };
    let annotation = Annotation {
        sample: sample.id(),
        label: Some(Label::Class((number % 2) as u32)),
        annotator: if number == 0 { Annotator::GroundTruth } else { Annotator::Human("ada".into()) },
        time: DateTime::UNIX_EPOCH,
        confidence: 1.0,
        seconds: None,
        blind: true,
    };
    (sample, annotation)
}

/// A batch of the samples of these numbers.
struct Sealed {
    schema: Arc<Schema>,
    samples: Vec<(Sample, Annotation)>,
    corrections: Vec<(PredictionId, Said)>,
    manifest: Manifest,
    data: Dataset,
}

fn rows(samples: &[(Sample, Annotation)]) -> Vec<BatchRow<'_>> {
    samples.iter().map(|(sample, annotation)| BatchRow { sample, annotation, weight: 1.5 }).collect()
}

fn sealed(numbers: &[u64]) -> Sealed {
    sealed_with(numbers, &[])
}

fn sealed_with(numbers: &[u64], corrections: &[(PredictionId, Said)]) -> Sealed {
    let schema = schema();
    let samples: Vec<_> = numbers.iter().map(|&number| labelled(&schema, number)).collect();
    let gates = [("dedup".to_owned(), vec![Reason::new("clean", "no duplicates")])].into();
    let rows = rows(&samples);
    let manifest = seal("fraud", &schema, None, &rows, corrections, gates, DateTime::UNIX_EPOCH).unwrap();
    let mut data = Dataset::new(schema.clone());
    for row in &rows {
        data.push(row.sample.observation.row.clone(), row.annotation.label.unwrap(), row.weight).unwrap();
    }
    let corrections = corrections.to_vec();
    Sealed { schema, samples: samples.clone(), corrections, manifest, data }
}

impl Sealed {
    fn export(&self, directory: &Path) -> Result<(PathBuf, Manifest), Error> {
        self.export_as(directory, &self.manifest)
    }

    fn export_as(&self, directory: &Path, manifest: &Manifest) -> Result<(PathBuf, Manifest), Error> {
        let lines: Vec<_> = rows(&self.samples).iter().map(|row| row.line().unwrap()).collect();
        export(directory, manifest, &self.schema, &lines, &self.corrections)
    }
}

#[test]
fn the_id_is_the_digest_of_the_content() {
    let Sealed { manifest, data, .. } = sealed(&[0, 1, 2]);
    assert_eq!((&manifest.batch.0, &manifest.digest), (&data.digest(), &data.digest()));
    assert_eq!(sealed(&[2, 1, 0]).manifest.batch, manifest.batch, "the order is not content");
    assert_ne!(sealed(&[0, 1]).manifest.batch, manifest.batch);
    assert_ne!(sealed(&[0, 1, 2, 2]).manifest.batch, manifest.batch, "a row that occurs twice counts twice");
    assert_eq!(manifest.sources, [("ground_truth".to_owned(), 1), ("human".to_owned(), 2)].into());
    assert_eq!(manifest.lanes, [("flagged".to_owned(), 1), ("random".to_owned(), 2)].into());
    assert_eq!(manifest.splits, [("judge".to_owned(), 1), ("train".to_owned(), 2)].into());
    assert_eq!((manifest.rows, manifest.samples.len()), (3, 3));
}

#[test]
fn a_retracted_label_cannot_be_sealed() {
    let schema = schema();
    let (sample, annotation) = labelled(&schema, 1);
    let annotation = Annotation { label: None, ..annotation };
    let rows = [BatchRow { sample: &sample, annotation: &annotation, weight: 1.0 }];
    assert!(seal("fraud", &schema, None, &rows, &[], BTreeMap::new(), DateTime::UNIX_EPOCH).is_err());
}

#[test]
fn an_exported_batch_can_be_read_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1, 2]);
    let (path, exported) = batch.export(directory.path()).unwrap();
    assert_eq!(path, directory.path().join(&batch.manifest.batch.0));
    let verified = verify_batch(&path).unwrap();
    assert_eq!(verified.manifest, exported);
    let data = verified.data.unwrap();
    assert_eq!((data.rows(), data.labels()), (batch.data.rows(), batch.data.labels()));
    let text = fs::read_to_string(path.join(DATA)).unwrap();
    let second: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let expected = json!({
        "row": {"amount": 0.25, "country": null}, "label": "fraud", "weight": 1.5,
        "sample": "00000000-0000-0000-0000-000000000001", "time": "1970-01-01T00:00:00Z", "annotator": {"human": "ada"},
        "source": "human", "lane": "flagged", "inclusion": 0.5, "split": "train",
    });
    assert_eq!(second, expected);

    let later = Manifest { sealed: Utc::now(), ..batch.manifest.clone() };
    let again = batch.export_as(directory.path(), &later).unwrap();
    assert_eq!(again, (path.clone(), exported.clone()), "exporting twice changes nothing");
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), exported.files.len() + 1, "no temporary file stays behind: {files:?}");
}

#[test]
fn corrections_of_earlier_batches_are_content_and_come_back_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let id = |number| PredictionId::from_uuid(uuid::Uuid::from_u64_pair(0, number));
    let corrections = [(id(7), Some((2, Label::Class(1)))), (id(8), None)];
    let batch = sealed_with(&[0, 1], &corrections);
    assert_ne!(batch.manifest.digest, batch.data.digest());
    for other in [&corrections[..1], &[corrections[0], (id(8), Some((0, Label::Class(0))))]] {
        assert_ne!(sealed_with(&[0, 1], other).manifest.digest, batch.manifest.digest);
    }
    let (path, exported) = batch.export(directory.path()).unwrap();
    let text = fs::read_to_string(path.join(CORRECTED)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = json!([
        {"sample": "00000000-0000-0000-0000-000000000007", "annotation": 2, "label": "fraud"},
        {"sample": "00000000-0000-0000-0000-000000000008", "annotation": null, "label": null},
    ]);
    assert_eq!(json!(lines), expected);
    let verified = verify_batch(&path).unwrap();
    assert_eq!(verified.manifest, exported);
    assert_eq!(verified.corrected, [(id(7), Some(Label::Class(1))), (id(8), None)].into());

    // Nothing but corrections is a batch, too.
    let (path, exported) = sealed_with(&[], &corrections).export(directory.path()).unwrap();
    let verified = verify_batch(&path).unwrap();
    assert_eq!((exported.rows, verified.data.unwrap().len(), verified.corrected.len()), (0, 0, 2));

    let why = |change: &dyn Fn(String) -> String| {
        let (path, _) = batch.export(directory.path()).unwrap();
        forge(&path, CORRECTED, change);
        verify_batch(&path).unwrap_err().to_string()
    };
    let fewer = why(&|text| text.lines().take(1).map(|line| format!("{line}\n")).collect());
    assert!(fewer.contains("`corrected.jsonl` has other corrections than its manifest"), "{fewer}");
    let garbage = why(&|text| text.replacen("fraud", "spam", 1));
    assert!(garbage.contains("`corrected.jsonl`: line 1: the label \"spam\" does not fit"), "{garbage}");
    forge(&path, MANIFEST, |text| text.replacen("\"corrected.jsonl\"", "\"other.jsonl\"", 1));
    assert!(verify_batch(&path).unwrap_err().to_string().contains("names no `corrected.jsonl`"));
}

#[test]
fn damage_is_named_and_repaired_by_another_export() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1, 2]);
    let (path, _) = batch.export(directory.path()).unwrap();
    let file = path.join(DATA);
    let whole = fs::read(&file).unwrap();
    let why = || verify_batch(&path).unwrap_err().to_string();

    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    assert!(why().contains("`data.jsonl` is truncated: 2 of 3 rows are whole"), "{}", why());
    let mut changed = whole.clone();
    changed[20] ^= 1;
    fs::write(&file, changed).unwrap();
    assert!(why().contains("`data.jsonl` was changed"), "{}", why());
    fs::remove_file(&file).unwrap();
    assert!(why().contains("`data.jsonl` is missing"), "{}", why());

    batch.export(directory.path()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), whole);
    fs::remove_file(path.join(MANIFEST)).unwrap();
    assert!(why().contains("cannot read the manifest"), "a batch without its manifest was never finished");
    batch.export(directory.path()).unwrap();
    assert!(verify_batch(&path).is_ok());
}

#[test]
fn no_manifest_stands_beside_data_that_could_not_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1, 2]);
    let path = directory.path().join(&batch.manifest.batch.0);
    for name in batch.export(directory.path()).unwrap().1.files.keys() {
        fs::remove_dir_all(&path).unwrap();
        // a directory is not replaced by a file
        fs::create_dir_all(path.join(name).join("in the way")).unwrap();
        assert!(matches!(batch.export(directory.path()), Err(Error::File { .. })), "{name}");
        assert!(!path.join(MANIFEST).exists(), "{name}");
        fs::remove_dir_all(path.join(name)).unwrap();
        batch.export(directory.path()).unwrap();
        assert!(verify_batch(&path).is_ok());
    }
}

/// Changes a file of a batch and lets its manifest agree.
fn forge(path: &Path, name: &str, change: impl FnOnce(String) -> String) {
    let text = change(fs::read_to_string(path.join(name)).unwrap());
    fs::write(path.join(name), &text).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(path.join(MANIFEST)).unwrap()).unwrap();
    manifest.files.insert(name.into(), sha256(text.as_bytes()));
    fs::write(path.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn the_content_digest_finds_what_the_digests_of_files_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1, 2]);
    let why = |name: &str, change: &dyn Fn(String) -> String| {
        let (path, _) = batch.export(directory.path()).unwrap();
        forge(&path, name, change);
        verify_batch(&path).unwrap_err().to_string()
    };
    let edited = why(DATA, &|text| text.replacen("\"good\"", "\"fraud\"", 1));
    assert!(edited.contains("its content has digest"), "{edited}");
    let weighed = why(DATA, &|text| text.replacen("\"weight\":1.5", "\"weight\":1.25", 1));
    assert!(weighed.contains("its content has digest"), "{weighed}");
    let shorter = why(DATA, &|text| text.lines().take(2).map(|line| format!("{line}\n")).collect());
    assert!(shorter.contains("`data.jsonl` has 2 rows, its manifest says 3"), "{shorter}");
    let garbage = why(DATA, &|text| text.replacen("\"fraud\"", "\"spam\"", 1));
    assert!(garbage.contains("`data.jsonl`: line 2: the label \"spam\" does not fit"), "{garbage}");
    let other = why(SCHEMA, &|text| text.replacen("amount", "sum", 1));
    assert!(other.contains("`schema.json` has fingerprint"), "{other}");

    // the same rows in another order are the same content
    let (path, _) = batch.export(directory.path()).unwrap();
    forge(&path, DATA, |text| text.lines().rev().map(|line| format!("{line}\n")).collect());
    assert!(verify_batch(&path).is_ok());
}

#[test]
fn a_batch_of_an_earlier_version_is_checked_as_far_as_it_goes_and_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1]);
    let (path, _) = batch.export(directory.path()).unwrap();
    let mut old: Value = serde_json::from_slice(&fs::read(path.join(MANIFEST)).unwrap()).unwrap();
    let fields = old.as_object_mut().unwrap();
    for field in ["digest", "splits", "columns"] {
        fields.remove(field);
    }
    let data = sha256(&fs::read(path.join(DATA)).unwrap());
    fields["files"] = json!({ DATA: data });
    fs::write(path.join(MANIFEST), old.to_string()).unwrap();
    let verified = verify_batch(&path).unwrap();
    assert!(verified.data.is_none());
    assert_eq!(verified.manifest.digest, batch.manifest.batch.0);
    let (_, anew) = batch.export(directory.path()).unwrap();
    assert_eq!(verify_batch(&path).unwrap().manifest, anew);
}

#[test]
fn other_samples_with_the_same_content_do_not_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let batch = sealed(&[0, 1]);
    batch.export(directory.path()).unwrap();
    let samples = batch.manifest.samples.iter().rev().copied().collect();
    let other = Manifest { samples, ..batch.manifest.clone() };
    assert!(matches!(batch.export_as(directory.path(), &other), Err(Error::Refused(_))));
}

#[test]
fn columns_beside_the_fields_make_way_for_fields_of_their_name() {
    let fields = [Field::number("label"), Field::number("_label"), Field::number("weight")];
    let columns = columns(&Schema::new(fields, Target::Value).unwrap());
    assert_eq!((&*columns["label"], &*columns["weight"], &*columns["time"]), ("__label", "_weight", "time"));
    assert_eq!(columns.len(), 8);
}
