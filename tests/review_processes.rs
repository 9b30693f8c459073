//! Many annotators on one file, in several processes' worth of stores: no task twice, none lost, every answer applied.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Annotator, Chunk, Clock, Findings, Kind, ManualClock, Pipeline, PredictionId, ReviewQueue, SampleState,
    SqliteStore, detector_fn,
};
use support::{Rng, base, check, id, prediction, records, schema, start, truth};

const TASKS: u64 = 240;

fn everything(chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), feedloop::BoxError> {
    chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.0));
    Ok(())
}

fn values(n: u64) -> [f64; 2] {
    let mut rng = Rng(n);
    [rng.unit(), n as f64]
}

fn open(file: &std::path::Path, clock: &ManualClock) -> Pipeline {
    Pipeline::builder("reviewed", schema())
        .training_data(base())
        .detect(detector_fn("everything", everything))
        .clock(clock.clone())
        .store(SqliteStore::open(file).unwrap())
        .build()
        .unwrap()
}

#[test]
fn no_task_is_given_twice_and_every_answer_is_applied_though_two_processes_share_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loop.db");
    let clock = ManualClock::starting_at(start());
    let mut pipeline = open(&file, &clock);
    pipeline.ingest((0..TASKS).map(|n| prediction(n, &values(n)))).unwrap();
    // As two processes would: a store each. The clock stands still, so no lease ends.
    let stores = [(); 2].map(|()| Arc::new(SqliteStore::open(&file).unwrap()));
    let given: Mutex<BTreeMap<PredictionId, Vec<String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for person in 0..8_usize {
            let (clock, given) = (Arc::new(clock.clone()) as Arc<dyn Clock>, &given);
            let queue = ReviewQueue::open(stores[person % 2].clone(), "reviewed", schema().target().clone(), clock);
            scope.spawn(move || {
                let name = format!("person-{person}");
                let mut rng = Rng(person as u64);
                loop {
                    let tickets = queue.claim(&name, 1 + rng.below(5), TimeDelta::minutes(10)).unwrap();
                    if tickets.is_empty() {
                        return;
                    }
                    for ticket in tickets {
                        let sample = ticket.task.sample;
                        given.lock().unwrap().entry(sample).or_default().push(name.clone());
                        let label = truth(ticket.task.row.values(), 0.5);
                        queue.annotate(sample, &name, label, 1.0, None).unwrap();
                    }
                }
            });
        }
        // The pipeline goes on in between, in the middle of the answers.
        for _ in 0..20 {
            pipeline.poll().unwrap();
        }
    });
    pipeline.poll().unwrap();
    let given = given.into_inner().unwrap();
    let expected: BTreeSet<PredictionId> = (0..TASKS).map(id).collect();
    assert_eq!(given.keys().copied().collect::<BTreeSet<_>>(), expected, "every task was given to somebody");
    let twice: Vec<_> = given.iter().filter(|(_, people)| people.len() > 1).collect();
    assert!(twice.is_empty(), "given twice: {twice:?}");
    let world = check(&**pipeline.store(), "reviewed");
    for n in 0..TASKS {
        let sample = &world.samples[&id(n)];
        assert_eq!(sample.state, SampleState::Labelled);
        assert_eq!(sample.annotations.len(), 1, "an answer counts once");
        let label = sample.label.as_ref().unwrap();
        assert_eq!(label.label, Some(truth(&values(n), 0.5)));
        assert_eq!(label.annotator, Annotator::Human(given[&id(n)][0].clone()));
    }
    let left = records(&*stores[1], "reviewed", Kind::Task).iter().filter(|task| task.state != "done").count();
    assert_eq!(left, 0);
    let waiting = records(&*stores[0], "reviewed", Kind::Annotation).iter().filter(|a| a.state == "new").count();
    assert_eq!(waiting, 0, "every annotation was applied");
}

#[test]
fn what_a_gone_annotator_held_goes_to_the_next_one_and_skipped_tasks_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loop.db");
    let clock = ManualClock::starting_at(start());
    let mut pipeline = open(&file, &clock);
    pipeline.ingest((0..30).map(|n| prediction(n, &values(n)))).unwrap();
    let queue = |store: &Arc<SqliteStore>| {
        ReviewQueue::open(store.clone(), "reviewed", schema().target().clone(), Arc::new(clock.clone()))
    };
    let stores = [(); 2].map(|()| Arc::new(SqliteStore::open(&file).unwrap()));
    let (one, two) = (queue(&stores[0]), queue(&stores[1]));
    let held = one.claim("gone", 10, TimeDelta::minutes(1)).unwrap();
    let skipped = one.claim("picky", 10, TimeDelta::minutes(1)).unwrap();
    skipped.iter().for_each(|ticket| one.skip(ticket.task.sample, "picky").unwrap());
    assert_eq!(two.claim("second", 100, TimeDelta::minutes(1)).unwrap().len(), 20, "what is held is not given away");
    clock.advance(TimeDelta::minutes(2));
    assert_eq!(one.claim("picky", 100, TimeDelta::minutes(1)).unwrap().len(), 20, "what was skipped stays skipped");
    clock.advance(TimeDelta::minutes(2));
    let all = two.claim("third", 100, TimeDelta::minutes(1)).unwrap();
    assert_eq!(all.len(), 30);
    // An answer after the lease counts too, and the one who has the task now does no harm.
    let late = held[0].task.sample;
    one.annotate(late, "gone", truth(held[0].task.row.values(), 0.5), 1.0, None).unwrap();
    for ticket in all {
        two.annotate(ticket.task.sample, "third", truth(ticket.task.row.values(), 0.5), 1.0, None).unwrap();
    }
    pipeline.poll().unwrap();
    let world = check(&**pipeline.store(), "reviewed");
    assert!(world.samples.values().all(|sample| sample.state == SampleState::Labelled));
    assert_eq!(world.samples[&late].annotations.len(), 2);
}

#[test]
fn an_annotator_who_takes_an_answer_back_or_another_one_can_answer_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loop.db");
    let clock = ManualClock::starting_at(start());
    let mut pipeline = open(&file, &clock);
    pipeline.ingest([prediction(1, &values(1))]).unwrap();
    let store = Arc::new(SqliteStore::open(&file).unwrap());
    let queue = ReviewQueue::open(store, "reviewed", schema().target().clone(), Arc::new(clock.clone()));
    let right = truth(&values(1), 0.5);
    for _ in 0..3 {
        queue.annotate(id(1), "ann", right, 1.0, None).unwrap();
        pipeline.poll().unwrap();
        assert_eq!(check(&**pipeline.store(), "reviewed").samples[&id(1)].state, SampleState::Labelled);
        queue.retract(id(1), "ann").unwrap();
        pipeline.poll().unwrap();
        assert_eq!(check(&**pipeline.store(), "reviewed").samples[&id(1)].state, SampleState::Queued);
    }
    assert!(queue.claim("ann", 5, TimeDelta::minutes(1)).unwrap().is_empty(), "not to the same person");
    let tickets = queue.claim("bob", 5, TimeDelta::minutes(1)).unwrap();
    assert_eq!(tickets.len(), 1);
    queue.annotate(id(1), "bob", right, 1.0, None).unwrap();
    pipeline.poll().unwrap();
    let world = check(&**pipeline.store(), "reviewed");
    let sample = &world.samples[&id(1)];
    assert_eq!((sample.state, sample.annotations.len()), (SampleState::Labelled, 7));
    assert_eq!(sample.label.as_ref().unwrap().annotator, Annotator::Human("bob".into()));
}
