#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;

use super::super::testing::task;
use super::super::{Answer, task_write};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::gate::testing::{at, id};
use crate::store::{MemoryStore, Store};

const LEASE: TimeDelta = TimeDelta::seconds(60);
const GOLD: u128 = 1_000_000;

struct Bench {
    store: MemoryStore,
    clock: ManualClock,
    queue: ReviewQueue,
}

/// `tasks` tasks of this overlap and `gold` gold questions, whose answer is their number modulo 3.
fn bench(tasks: u128, overlap: u32, gold: u128) -> Bench {
    let (store, clock) = (MemoryStore::new(), ManualClock::starting_at(at(0)));
    let target = Target::classes(["a", "b", "c"]);
    let queue = ReviewQueue::open(Arc::new(store.clone()), "p", target, Arc::new(clock.clone()));
    let mut out = vec![];
    for n in 1..=tasks {
        let mut task = task(n, 0.5, overlap, true);
        task.payload = Some("seen".into());
        store.commit(&[&[task_write(&"p".into(), &task).unwrap()]], &Fence::None, &mut out).unwrap();
    }
    clock.advance(TimeDelta::hours(1));
    for n in 0..gold {
        put(&queue, n, n as u32 % 3).unwrap();
    }
    Bench { store, clock, queue }
}

fn put(queue: &ReviewQueue, n: u128, class: u32) -> Result<(), Error> {
    queue.put_gold(id(GOLD + n), task(1, 0.0, 1, true).row, Some("seen".into()), Label::Class(class))
}

/// Claims and answers until nothing is left; gives the numbers of the gold questions and of the tasks that came.
fn answer_all(bench: &Bench, annotator: &str, n: usize) -> (Vec<u128>, Vec<u128>) {
    let (mut gold, mut tasks) = (vec![], vec![]);
    loop {
        let tickets = bench.queue.claim(annotator, n, LEASE).unwrap();
        if tickets.is_empty() {
            return (gold, tasks);
        }
        assert!(tickets.len() <= n);
        for ticket in tickets {
            let number = ticket.task.sample.uuid().as_u128();
            if number >= GOLD {
                gold.push(number - GOLD)
            } else {
                tasks.push(number)
            }
            bench.queue.annotate(ticket.task.sample, annotator, Label::Class(0), 1.0, None).unwrap();
        }
    }
}

#[test]
fn one_ticket_in_twenty_is_a_gold_question_and_no_task_is_lost_by_it() {
    let bench = bench(2_000, 1, 500);
    let (gold, tasks) = answer_all(&bench, "ann", 7);
    assert_eq!(tasks.iter().collect::<BTreeSet<_>>().len(), 2_000);
    assert_eq!(tasks.len(), 2_000, "every task is answered once");
    // About 2,105 draws: 105 expected, standard deviation 10.
    assert!((65..=145).contains(&gold.len()), "{}", gold.len());
}

#[test]
fn everybody_gets_each_gold_question_at_most_once_and_several_at_the_same_time() {
    let bench = bench(600, 2, 8);
    for annotator in ["ann", "bob"] {
        let (mut gold, tasks) = answer_all(&bench, annotator, 3);
        assert_eq!(tasks.len(), 600);
        gold.sort_unstable();
        assert_eq!(gold, (0..8).collect::<Vec<_>>());
    }
    assert_eq!(bench.queue.waiting().unwrap(), 0, "gold questions do not wait for anybody");
    let held = self::bench(600, 1, 1);
    let got = |annotator: &str| {
        let tickets = held.queue.claim(annotator, 200, LEASE).unwrap();
        tickets.iter().filter(|ticket| ticket.task.sample == id(GOLD)).count()
    };
    assert_eq!((got("ann"), got("bob"), got("ann")), (1, 1, 0), "unanswered, but given");
}

#[test]
fn a_gold_ticket_looks_as_any_other() {
    let bench = bench(400, 2, 30);
    for n in 1..=400 {
        bench.queue.skip(id(n), "zoe").unwrap();
    }
    for annotator in ["ann", "bob"] {
        let tickets = bench.queue.claim(annotator, 200, LEASE).unwrap();
        let is_gold = |ticket: &&Ticket| ticket.task.sample.uuid().as_u128() >= GOLD;
        let (gold, other): (Vec<&Ticket>, Vec<&Ticket>) = tickets.iter().partition(is_gold);
        assert!(!gold.is_empty());
        let shown = |ticket: &Ticket| {
            let mut text = serde_json::to_value(ticket).unwrap();
            (text["task"]["sample"], text["rev"]) = ("".into(), 0.into());
            text
        };
        for ticket in gold {
            assert_eq!(shown(ticket), shown(other[0]), "only the name differs");
            assert!(other.iter().any(|other| other.rev == ticket.rev), "others have been claimed as often");
            let replies = [ticket, other[0]]
                .map(|ticket| bench.queue.annotate(ticket.task.sample, annotator, Label::Class(1), 1.0, None).unwrap());
            assert!(replies[0] == Answer::Recorded { done: false }, "the first of two answers: {replies:?}");
        }
    }
}

#[test]
fn answers_to_gold_questions_are_kept_apart_and_may_be_corrected() {
    let bench = bench(300, 1, 2);
    let (gold, _) = answer_all(&bench, "ann", 10);
    assert_eq!(gold.len(), 2);
    bench.queue.correct(id(GOLD), "ann", Label::Class(2), 1.0, None).unwrap();
    bench.queue.skip(id(GOLD), "bob").unwrap();
    bench.queue.release(id(GOLD), "ann").unwrap();
    let count = |state| bench.store.count("p", Kind::Annotation, Some(state)).unwrap();
    assert_eq!((count("gold"), count("new")), (3, 300));
    assert_eq!(bench.queue.annotations(id(GOLD)).unwrap().len(), 2);
    assert_eq!(bench.store.count("p", Kind::Task, Some("gold")).unwrap(), 2);
    bench.queue.withdraw_gold(id(GOLD)).unwrap();
    bench.queue.correct(id(GOLD), "ann", Label::Class(0), 1.0, None).unwrap();
    assert_eq!((count("gold"), count("new")), (4, 300), "an answer to one that was taken back is no label either");
    assert_eq!(bench.store.count("p", Kind::Task, Some("gold")).unwrap(), 1);
}

#[test]
fn the_same_gold_question_again_changes_nothing_and_what_makes_no_sense_is_refused() {
    let bench = bench(1, 1, 1);
    put(&bench.queue, 0, 0).unwrap();
    let refused = |made: Result<(), Error>| made.unwrap_err().to_string();
    assert!(refused(put(&bench.queue, 0, 1)).contains("another task"));
    assert!(refused(put(&bench.queue, 1, 3)).contains("from 0 to 2"));
    assert!(refused(bench.queue.put_gold(id(1), task(1, 0.0, 1, true).row, None, Label::Class(0))).contains("another"));
    assert!(refused(bench.queue.withdraw_gold(id(1))).contains("no gold question"));
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let values = ReviewQueue::open(Arc::new(bench.store.clone()), "p", Target::Value, clock);
    assert!(refused(values.put_gold(id(7), task(1, 0.0, 1, true).row, None, Label::Value(1.0))).contains("classes"));
}

#[test]
fn who_hands_on_a_gold_question_hears_what_they_would_hear_of_a_task() {
    for overlap in [1, 2] {
        let bench = bench(300, overlap, 1);
        let tickets = bench.queue.claim("ann", 300, LEASE).unwrap();
        let (gold, tasks): (Vec<_>, Vec<_>) =
            tickets.iter().map(|ticket| ticket.task.sample).partition(|id| id.uuid().as_u128() >= GOLD);
        let (gold, task) = (gold[0], tasks[0]);
        let same = |to: &str, within| {
            let [gold, task] = [gold, task].map(|sample| {
                let reply = bench.queue.reassign(sample, "ann", to, within);
                reply.map_err(|error| error.to_string().replace(&sample.to_string(), "it"))
            });
            assert_eq!(gold, task, "overlap {overlap}, to {to}");
            gold
        };
        let both = |say: &dyn Fn(PredictionId)| [gold, task].into_iter().for_each(say);
        assert_eq!(same("bob", LEASE), Ok(()));
        assert!(same("bob", TimeDelta::zero()).is_err());
        both(&|sample| bench.queue.skip(sample, "cat").unwrap());
        assert!(same("cat", LEASE).is_err());
        both(&|sample| {
            bench.queue.annotate(sample, "ann", Label::Class(0), 1.0, None).unwrap();
        });
        assert!(same("ann", LEASE).is_err());
        assert_eq!(same("bob", LEASE).is_ok(), overlap == 2);
        both(&|sample| {
            bench.queue.retract(sample, "ann").unwrap();
        });
        assert_eq!(same("bob", LEASE), Ok(()));
        assert_eq!(bench.store.count("p", Kind::Task, Some("gold")).unwrap(), 1, "it stays a gold question");
    }
}
