use super::*;
use crate::sample::Lane;
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

fn sealed(numbers: &[u64]) -> (Manifest, Dataset, Vec<Value>) {
    let schema = schema();
    let rows: Vec<_> = numbers.iter().map(|&number| labelled(&schema, number)).collect();
    let rows: Vec<_> = rows.iter().map(|(sample, annotation)| BatchRow { sample, annotation, weight: 1.5 }).collect();
    let gates = [("dedup".to_owned(), vec![Reason::new("clean", "no duplicates")])].into();
    let (manifest, data) = seal("fraud", &schema, None, &rows, gates, DateTime::UNIX_EPOCH).unwrap();
    let lines = rows.iter().map(|row| batch_json(&schema, row)).collect();
    (manifest, data, lines)
}

#[test]
fn the_id_is_the_digest_of_the_content() {
    let (manifest, data, _) = sealed(&[0, 1, 2]);
    assert_eq!(manifest.batch.0, data.digest());
    assert_eq!(sealed(&[2, 1, 0]).0.batch, manifest.batch, "the order is not content");
    assert_ne!(sealed(&[0, 1]).0.batch, manifest.batch);
    assert_eq!(manifest.sources, [("ground_truth".to_owned(), 1), ("human".to_owned(), 2)].into());
    assert_eq!(manifest.lanes, [("flagged".to_owned(), 1), ("random".to_owned(), 2)].into());
    assert_eq!((manifest.rows, manifest.samples.len()), (3, 3));
}

#[test]
fn a_retracted_label_cannot_be_sealed() {
    let schema = schema();
    let (sample, annotation) = labelled(&schema, 1);
    let annotation = Annotation { label: None, ..annotation };
    let rows = [BatchRow { sample: &sample, annotation: &annotation, weight: 1.0 }];
    assert!(seal("fraud", &schema, None, &rows, BTreeMap::new(), DateTime::UNIX_EPOCH).is_err());
}

#[test]
fn an_exported_batch_can_be_read_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let (manifest, _, lines) = sealed(&[0, 1, 2]);
    let (path, exported) = export(directory.path(), &manifest, lines.clone()).unwrap();
    assert_eq!(path, directory.path().join(&manifest.batch.0));
    assert_eq!(verify(&path).unwrap(), exported);
    let text = fs::read_to_string(path.join(DATA)).unwrap();
    let second: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let expected = json!({
        "row": {"amount": 0.25, "country": null}, "label": "fraud", "weight": 1.5,
        "sample": "00000000-0000-0000-0000-000000000001", "annotator": {"human": "ada"},
    });
    assert_eq!(second, expected);

    let again = export(directory.path(), &Manifest { sealed: Utc::now(), ..manifest.clone() }, lines).unwrap();
    assert_eq!(again, (path, exported), "exporting twice changes nothing");
    let hidden = fs::read_dir(directory.path().join(&manifest.batch.0)).unwrap().count();
    assert_eq!(hidden, 2, "no temporary file stays behind");
}

#[test]
fn damage_is_named_and_repaired_by_another_export() {
    let directory = tempfile::tempdir().unwrap();
    let (manifest, _, lines) = sealed(&[0, 1, 2]);
    let (path, _) = export(directory.path(), &manifest, lines.clone()).unwrap();
    let file = path.join(DATA);
    let whole = fs::read(&file).unwrap();
    let why = || verify(&path).unwrap_err().to_string();

    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    assert!(why().contains("`data.jsonl` is truncated: 2 of 3 rows are whole"), "{}", why());
    let mut changed = whole.clone();
    changed[20] ^= 1;
    fs::write(&file, changed).unwrap();
    assert!(why().contains("`data.jsonl` was changed"), "{}", why());
    fs::remove_file(&file).unwrap();
    assert!(why().contains("`data.jsonl` is missing"), "{}", why());

    export(directory.path(), &manifest, lines.clone()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), whole);
    fs::remove_file(path.join(MANIFEST)).unwrap();
    assert!(why().contains("cannot read the manifest"), "a batch without its manifest was never finished");
    export(directory.path(), &manifest, lines).unwrap();
    assert!(verify(&path).is_ok());
}

#[test]
fn other_samples_with_the_same_content_do_not_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let (manifest, _, lines) = sealed(&[0, 1]);
    export(directory.path(), &manifest, lines.clone()).unwrap();
    let other = Manifest { samples: manifest.samples.iter().rev().copied().collect(), ..manifest };
    assert!(matches!(export(directory.path(), &other, lines), Err(Error::Refused(_))));
}
