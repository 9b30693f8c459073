//! What the integration tests share: a small world with a model, and a checker of everything that a store must satisfy.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod disk;
pub mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use feedloop::chrono::{DateTime, TimeDelta, Utc};
use feedloop::uuid::Uuid;
use feedloop::{
    AlarmRecord, Artifact, BatchId, BoxError, Dataset, Event, Kind, Label, Manifest, ModelRecord, ModelVersion,
    Observation, Output, PairedEvaluator, PredictionId, Profile, PromotionKind, PromotionRecord, Record, Row, Run,
    RunState, Sample, SampleState, Scan, Schema, Store, Target, TrainJob, verify_journal,
};

/// Small seeded random numbers (SplitMix64, Steele et al. 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// Two numbers, two classes.
pub fn schema() -> Arc<Schema> {
    Arc::new(Schema::numeric(2, Target::classes(["no", "yes"])).unwrap())
}

pub fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

pub fn id(n: u64) -> PredictionId {
    PredictionId::from_uuid(Uuid::from_u64_pair(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n))
}

/// The truth: is the first number beyond the threshold of the moment?
pub fn truth(values: &[f64], concept: f64) -> Label {
    Label::Class(u32::from(values[0] > concept))
}

/// A model is a threshold on the first number.
pub fn probabilities(threshold: f64, values: &[f64]) -> [f64; 2] {
    let yes = 1.0 / (1.0 + (-8.0 * (values[0] - threshold)).exp());
    [1.0 - yes, yes]
}

pub fn observation(n: u64, model: ModelVersion, threshold: f64, values: &[f64]) -> Box<Observation> {
    observation_of(n, model, probabilities(threshold, values), values)
}

pub fn observation_of(n: u64, model: ModelVersion, output: [f64; 2], values: &[f64]) -> Box<Observation> {
    let mut observation = Box::new(Observation::new(&schema()));
    (observation.id, observation.model, observation.time) = (id(n), model, start() + TimeDelta::seconds(n as i64));
    observation.row.copy_values(values).unwrap();
    observation.set_output(Output::Probabilities(&output));
    observation
}

pub fn prediction(n: u64, values: &[f64]) -> Event {
    Event::Prediction(observation(n, ModelVersion::FIRST, 0.5, values))
}

/// 200 rows of the concept 0.5.
pub fn base() -> Dataset {
    let mut rng = Rng(1);
    let rows = (0..200).map(|_| {
        let values = [rng.unit(), rng.unit()];
        (values, truth(&values, 0.5))
    });
    Dataset::from_values(schema(), rows.collect::<Vec<_>>()).unwrap()
}

pub fn first_model() -> Artifact {
    Artifact::Inline(b"0.5".to_vec())
}

pub fn load(record: &ModelRecord) -> Result<f64, BoxError> {
    match &record.artifact {
        Artifact::Inline(bytes) => Ok(std::str::from_utf8(bytes)?.parse()?),
        Artifact::File(path) => Ok(std::fs::read_to_string(path)?.parse()?),
    }
}

/// The threshold with the smallest weighted error on the rows.
pub fn fit(job: &TrainJob) -> Artifact {
    let (rows, labels, weights) = (job.data.rows(), job.data.class_labels(), job.data.weights());
    let loss = |threshold: f64| -> f64 {
        let wrong = |(row, label): (&Row, &usize)| usize::from(row.values()[0] > threshold) != *label;
        rows.iter().zip(&labels).zip(weights).map(|(pair, weight)| if wrong(pair) { *weight } else { 0.0 }).sum()
    };
    let tried = (0..=20).map(|step| f64::from(step) / 10.0 - 0.5);
    let best = tried.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap();
    Artifact::Inline(best.to_string().into_bytes())
}

pub fn evaluator(profile: Profile) -> PairedEvaluator {
    let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
        let threshold = load(record)?;
        Ok(move |row: &Row, output: &mut [f64]| {
            output.copy_from_slice(&probabilities(threshold, row.values()));
            Ok(())
        })
    });
    evaluator.profile(profile).inline()
}

/// Every record of a kind, by id.
pub fn records(store: &dyn Store, pipeline: &str, kind: Kind) -> Vec<Record> {
    let mut found: Vec<Record> = Vec::new();
    loop {
        let after = found.last().map(|last| (i64::MIN, last.key.id.clone()));
        let after = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
        let page = store.scan(&Scan { pipeline, kind, state: None, after, limit: 1_000 }).unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

fn parsed<T: serde::de::DeserializeOwned>(store: &dyn Store, pipeline: &str, kind: Kind) -> Vec<(Record, T)> {
    let read = |record: Record| {
        let value = serde_json::from_slice(&record.body)
            .unwrap_or_else(|e| panic!("{} {}: {e}", record.kind.as_str(), record.key.id));
        (record, value)
    };
    records(store, pipeline, kind).into_iter().map(read).collect()
}

/// Everything of a store that the invariants speak of.
#[derive(Debug, Default)]
pub struct World {
    pub samples: BTreeMap<PredictionId, Sample>,
    pub batches: BTreeMap<String, Manifest>,
    pub runs: BTreeMap<u64, Run>,
    pub models: BTreeMap<ModelVersion, ModelRecord>,
    pub promotions: Vec<PromotionRecord>,
    pub alarms: Vec<AlarmRecord>,
    pub champion: ModelVersion,
}

/// Reads everything and checks the invariants 1 to 7 and 10 of the design, as far as a store shows them.
///
/// # Panics
/// One is broken.
pub fn check(store: &dyn Store, pipeline: &str) -> World {
    let mut world = World::default();
    let mut by_state: BTreeMap<SampleState, u64> = BTreeMap::new();
    for (record, sample) in parsed::<Sample>(store, pipeline, Kind::Sample) {
        assert_eq!(record.key.id, sample.id().to_string(), "a sample is stored under its own name");
        assert_eq!(record.state, sample.state.as_str(), "record and sample {} disagree about its state", sample.id());
        *by_state.entry(sample.state).or_default() += 1;
        check_history(&sample);
        world.samples.insert(sample.id(), sample);
    }
    for state in SampleState::ALL {
        let counted = store.count(pipeline, Kind::Sample, Some(state.as_str())).unwrap();
        assert_eq!(counted, by_state.get(&state).copied().unwrap_or(0), "samples counted as {}", state.as_str());
    }
    assert_eq!(by_state.values().sum::<u64>(), world.samples.len() as u64, "each sample is in one state");
    world.batches =
        parsed::<Manifest>(store, pipeline, Kind::Batch).into_iter().map(|(_, b)| (b.batch.0.clone(), b)).collect();
    world.runs = parsed::<Run>(store, pipeline, Kind::Run).into_iter().map(|(_, run)| (run.id.0, run)).collect();
    for record in records(store, pipeline, Kind::Model).into_iter().filter(|record| record.state != "bytes") {
        let model: ModelRecord = serde_json::from_slice(&record.body).unwrap();
        let state = match (model.removed, &model.quarantined) {
            (Some(_), _) => "removed",
            (None, Some(_)) => "quarantined",
            (None, None) => "usable",
        };
        assert_eq!(record.state, state);
        world.models.insert(model.version, model);
    }
    let promotions = parsed::<PromotionRecord>(store, pipeline, Kind::Promotion);
    world.promotions = promotions.into_iter().map(|(_, promotion)| promotion).collect();
    check_alarms(&mut world, parsed(store, pipeline, Kind::Alarm));
    check_batches(&world);
    check_runs(&world);
    check_promotions(&mut world);
    let state = store.get(pipeline, Kind::Control, "loop").unwrap().expect("the state of the loop is stored");
    let state: serde_json::Value = serde_json::from_slice(&state.body).unwrap();
    assert_eq!(state["champion"], world.champion.0, "the champion changes with a promotion record, and only so");
    let newest: Option<BatchId> = serde_json::from_value(state["last_batch"].clone()).unwrap();
    let (counted, reached) = (state["batches"].as_u64(), back_from(&world, newest.as_ref()));
    assert_eq!(
        (counted, reached),
        (Some(world.batches.len() as u64), world.batches.len()),
        "the loop knows every batch"
    );
    let served = world.models.get(&world.champion);
    assert!(served.is_none_or(|model| model.quarantined.is_none()), "{} is quarantined and serves", world.champion);
    world
}

/// The journal says what is stored, and speaks of all of it. It is read from end to end: not for every step.
///
/// # Panics
/// It is broken.
pub fn check_journal(store: &dyn Store, pipeline: &str) {
    let journal = verify_journal(store, pipeline, &[]).unwrap();
    assert_eq!((journal.broken, journal.unlisted), (None, 0), "what is stored is what the journal says");
}

fn check_alarms(world: &mut World, alarms: Vec<(Record, AlarmRecord)>) {
    for ((record, alarm), number) in alarms.into_iter().zip(1..) {
        assert_eq!(alarm.number, number, "alarms are numbered without gaps");
        assert_eq!(record.state, alarm.state().as_str(), "record and alarm {number} disagree about its state");
        let steps = [alarm.acknowledged.as_ref().map(|a| a.when), alarm.cleared.as_ref().map(|c| c.when)];
        let times: Vec<_> = [Some(alarm.raised)].into_iter().chain(steps).flatten().collect();
        assert!(times.is_sorted(), "the history of alarm {number} goes back in time: {times:?}");
        world.alarms.push(alarm);
    }
}

pub fn check_history(sample: &Sample) {
    let mut state = SampleState::Flagged;
    let mut time = DateTime::<Utc>::MIN_UTC;
    for step in &sample.history {
        assert_eq!(step.from, state, "history of {} has a gap: {:?}", sample.id(), sample.history);
        assert!(step.from.may_become(step.to), "illegal step of {}: {step:?}", sample.id());
        assert!(step.time >= time, "history of {} goes back in time", sample.id());
        (state, time) = (step.to, step.time);
    }
    assert_eq!(state, sample.state, "the history of {} ends elsewhere", sample.id());
}

fn check_batches(world: &World) {
    let mut seen: BTreeMap<PredictionId, &str> = BTreeMap::new();
    for (id, batch) in &world.batches {
        assert_eq!(batch.rows as usize, batch.samples.len());
        for sample in &batch.samples {
            if let Some(other) = seen.insert(*sample, id) {
                panic!("sample {sample} is in batch {other} and in {id}");
            }
            let sample = world.samples.get(sample).unwrap_or_else(|| panic!("sample {sample} of {id} is missing"));
            assert_eq!(sample.state, SampleState::Batched, "sample {} of batch {id}", sample.id());
            assert_eq!(sample.batch.as_ref(), Some(&batch.batch));
        }
        if let Some(parent) = &batch.parent {
            assert!(world.batches.contains_key(&parent.0), "the parent of {id} is missing");
        }
        let run = world.runs.get(&batch.run.expect("a batch is sealed for a run").0).expect("the run of a batch");
        assert_eq!(run.batch.as_ref(), Some(&batch.batch), "batch {id} and {} do not know each other", run.id);
    }
    for sample in world.samples.values().filter(|sample| sample.batch.is_some()) {
        assert!(seen.contains_key(&sample.id()), "sample {} is not in the batch that it names", sample.id());
    }
    for sample in world.samples.values().filter(|sample| sample.state == SampleState::Batched) {
        assert!(sample.batch.is_some(), "sample {} is batched without a batch", sample.id());
    }
}

/// How many batches there are from `newest` back to the first one.
fn back_from(world: &World, newest: Option<&BatchId>) -> usize {
    let batch = |id: &BatchId| world.batches.get(&id.0).unwrap_or_else(|| panic!("batch {id} is missing"));
    std::iter::successors(newest.map(batch), |found| found.parent.as_ref().map(batch)).count()
}

fn check_runs(world: &World) {
    let in_flight: Vec<_> = world.runs.values().filter(|run| run.state.in_flight()).map(|run| run.id).collect();
    assert!(in_flight.len() <= 1, "several runs are in flight: {in_flight:?}");
    for run in world.runs.values() {
        if let Some(batch) = &run.batch {
            assert!(world.batches.contains_key(&batch.0), "the batch of {} is missing", run.id);
        }
        for version in &run.models {
            let model = world.models.get(version).unwrap_or_else(|| panic!("{version} of {} is missing", run.id));
            assert_eq!(model.run, Some(run.id));
        }
        if let Some(candidate) = run.candidate {
            let first = candidate == ModelVersion::FIRST;
            assert!(first || world.models.contains_key(&candidate), "candidate {candidate} is missing");
        }
    }
    let mut recipes = BTreeSet::new();
    for model in world.models.values() {
        let sealed = world.batches.values().filter(|batch| batch.run <= model.run && model.batch.is_some()).count();
        assert_eq!(back_from(world, model.batch.as_ref()), sealed, "{} knows the batches until its run", model.version);
        if let Some(run) = model.run {
            let run = world.runs.get(&run.0).expect("the run of a model");
            assert!(run.models.contains(&model.version), "{} does not know {}", run.id, model.version);
            assert!(recipes.insert((run.id, model.recipe)), "{} trained {:?} twice", run.id, model.recipe);
        }
    }
}

fn check_promotions(world: &mut World) {
    let mut serving = ModelVersion::FIRST;
    for (index, change) in world.promotions.iter().enumerate() {
        assert_eq!(change.number, index as u64 + 1, "promotions are numbered without gaps");
        assert_eq!(change.from, serving, "change {} starts from another version", change.number);
        serving = change.to;
        assert_ne!(change.from, change.to);
        match change.kind {
            PromotionKind::Promotion => {
                let run = world.runs.get(&change.run.expect("a promotion has a run").0).expect("its run");
                assert_eq!(run.candidate, Some(change.to), "{} promoted something else", run.id);
                use RunState::{Kept, KeptUnproven, RolledBack, Watched};
                assert!(matches!(run.state, Watched | Kept | KeptUnproven | RolledBack), "{}: {:?}", run.id, run.state);
            }
            PromotionKind::Rollback => {
                let failed = world.models.get(&change.from);
                let first = change.from == ModelVersion::FIRST;
                let quarantined = failed.is_some_and(|model| model.quarantined.is_some());
                assert!(first || quarantined, "{} was rolled back and is not quarantined", change.from);
                let later = world.promotions[index + 1..].iter().find(|later| later.to == change.from);
                assert!(first || later.is_none(), "{} was rolled back and serves again", change.from);
            }
        }
    }
    world.champion = serving;
}
