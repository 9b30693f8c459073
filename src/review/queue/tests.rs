#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use super::super::testing::task;
use super::super::{Consensus, consensus, task_write};
use super::*;
use crate::clock::ManualClock;
use crate::gate::testing::{at, id};
use crate::sample::Annotator;
use crate::store::{Committed, Expect, Fence, Indexed, MemoryStore, Record, Write};

const LEASE: TimeDelta = TimeDelta::seconds(60);

struct Bench {
    store: MemoryStore,
    clock: ManualClock,
    queue: ReviewQueue,
}

impl Bench {
    fn new() -> Self {
        let (store, clock) = (MemoryStore::new(), ManualClock::starting_at(at(0)));
        let target = Target::classes(["a", "b", "c"]);
        let queue = ReviewQueue::open(Arc::new(store.clone()), "p", target, Arc::new(clock.clone()));
        Bench { store, clock, queue }
    }

    /// A bench with tasks `1..=tasks`, each to be answered by `overlap` people.
    fn with(tasks: u128, overlap: u32) -> Self {
        let bench = Bench::new();
        for n in 1..=tasks {
            bench.enqueue(n, 0.5, overlap, true);
        }
        bench
    }

    fn enqueue(&self, n: u128, priority: f64, overlap: u32, blind: bool) {
        let task = task(n, priority, overlap, blind);
        assert_eq!(self.commit(task_write(&"p".into(), &task).unwrap()), Committed::Applied);
    }

    fn commit(&self, write: Write) -> Committed {
        let mut out = vec![];
        self.store.commit(&[&[write]], &Fence::None, &mut out).unwrap();
        out.remove(0)
    }

    fn claim(&self, annotator: &str, n: usize) -> Vec<u128> {
        let tickets = self.queue.claim(annotator, n, LEASE).unwrap();
        tickets.iter().map(|ticket| ticket.task.sample.uuid().as_u128()).collect()
    }

    fn answer(&self, n: u128, annotator: &str, class: u32) -> Result<Answer, Error> {
        self.queue.annotate(id(n), annotator, Label::Class(class), 0.9, Some(2.5))
    }

    fn record(&self, n: u128) -> Record {
        self.store.get("p", Kind::Task, &id(n).to_string()).unwrap().unwrap()
    }

    fn labels(&self, n: u128) -> Vec<Option<u32>> {
        let class = |label| match label {
            Label::Class(class) => class,
            Label::Value(_) => panic!("a value"),
        };
        self.queue.annotations(id(n)).unwrap().iter().map(|annotation| annotation.label.map(class)).collect()
    }
}

const DONE: Answer = Answer::Recorded { done: true };
const MORE: Answer = Answer::Recorded { done: false };

#[test]
fn tasks_are_given_out_by_priority_and_then_by_age() {
    let bench = Bench::new();
    for (n, priority) in [(1, 0.2), (2, 3.0), (3, f64::NAN), (4, 0.2), (5, 0.9), (6, -1.0)] {
        bench.enqueue(n, priority, 1, true);
    }
    assert_eq!(bench.claim("ann", 3), [2, 5, 1]);
    assert_eq!(bench.claim("bob", 9), [4, 3, 6]);
    assert_eq!(bench.queue.waiting().unwrap(), 6, "held tasks still wait for an answer");
}

#[test]
fn a_blind_task_shows_neither_the_models_output_nor_the_answers_of_others() {
    let bench = Bench::new();
    bench.enqueue(1, 0.5, 2, true);
    bench.enqueue(2, 0.5, 2, false);
    for n in [1, 2] {
        assert_eq!(bench.answer(n, "ann", 1).unwrap(), MORE);
    }
    let tickets = bench.queue.claim("bob", 2, LEASE).unwrap();
    assert!(tickets[0].task.output.is_empty() && tickets[0].task.answers.is_empty());
    assert!(tickets[1].task.output.len() == 3 && tickets[1].task.answers.len() == 1);
    assert_eq!(bench.answer(1, "bob", 1).unwrap(), DONE);
    assert_eq!(bench.labels(1), [Some(1), Some(1)], "the hidden answer is not lost");
    assert!(bench.queue.annotations(id(1)).unwrap().iter().all(|annotation| annotation.blind));
}

#[test]
fn an_answer_is_stored_as_an_annotation_in_one_unit_with_its_task() {
    let bench = Bench::with(1, 1);
    let ticket = bench.queue.claim("ann", 1, LEASE).unwrap().remove(0);
    assert_eq!((ticket.rev, ticket.expires), (2, at(60)));
    bench.clock.advance(TimeDelta::seconds(5));
    assert_eq!(bench.answer(1, "ann", 2).unwrap(), DONE);
    let task = bench.record(1);
    assert_eq!((task.state.as_str(), task.rev, task.due), ("done", 3, None));
    let page = Scan { pipeline: "p", kind: Kind::Annotation, state: Some("new"), after: None, limit: 9 };
    let records = bench.store.scan(&page).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.id, format!("{}/ann/0000", id(1)));
    assert_eq!(records[0].rank, at(5).timestamp_micros());
    let annotation = bench.queue.annotations(id(1)).unwrap().remove(0);
    assert_eq!(annotation.annotator, Annotator::Human("ann".into()));
    assert_eq!((annotation.label, annotation.time, annotation.confidence), (Some(Label::Class(2)), at(5), 0.9));
    assert_eq!(bench.queue.waiting().unwrap(), 0);
}

#[test]
fn the_same_answer_again_adds_nothing_and_another_one_must_be_a_correction() {
    let bench = Bench::with(1, 2);
    assert_eq!(bench.answer(1, "ann", 2).unwrap(), MORE);
    let before = bench.record(1);
    assert_eq!(bench.answer(1, "ann", 2).unwrap(), Answer::AlreadyRecorded);
    let text = bench.answer(1, "ann", 0).unwrap_err().to_string();
    assert!(text.contains("correct it"), "{text}");
    assert_eq!(bench.record(1), before);
    assert_eq!(bench.labels(1), [Some(2)]);
}

#[test]
fn an_expired_lease_gives_the_task_back_and_the_late_answer_still_counts() {
    let bench = Bench::with(1, 1);
    assert_eq!(bench.claim("ann", 1), [1]);
    bench.clock.advance(TimeDelta::seconds(59));
    assert_eq!(bench.claim("bob", 1), []);
    bench.clock.advance(TimeDelta::seconds(2));
    assert_eq!(bench.claim("bob", 1), [1]);
    assert_eq!(bench.answer(1, "ann", 1).unwrap(), DONE);
    assert_eq!(bench.answer(1, "bob", 2).unwrap(), DONE, "recorded, though the task is done");
    assert_eq!((bench.labels(1), bench.record(1).state.as_str()), (vec![Some(1), Some(2)], "done"));
}

#[test]
fn a_late_answer_does_not_end_the_lease_of_somebody_else() {
    let bench = Bench::with(1, 3);
    assert_eq!(bench.claim("ann", 1), [1]);
    bench.clock.advance(TimeDelta::seconds(61));
    assert_eq!(bench.claim("bob", 1), [1]);
    assert_eq!(bench.answer(1, "ann", 1).unwrap(), MORE);
    bench.queue.release(id(1), "ann").unwrap();
    assert_eq!((bench.record(1).holder.as_deref(), bench.record(1).due), (Some("bob"), Some(at(121))));
    assert_eq!(bench.claim("cat", 1), []);
    assert_eq!(bench.answer(1, "bob", 1).unwrap(), MORE);
    assert_eq!(bench.claim("cat", 1), [1]);
}

#[test]
fn overlap_asks_different_people_and_disagreement_shows() {
    let bench = Bench::with(1, 2);
    assert_eq!(bench.claim("ann", 5), [1]);
    assert_eq!(bench.answer(1, "ann", 0).unwrap(), MORE);
    assert_eq!(bench.claim("ann", 5), [], "one person, one voice");
    bench.enqueue(2, 0.1, 1, true);
    assert_eq!(bench.claim("ann", 1), [2], "what they answered does not stand in the way");
    assert_eq!(bench.claim("bob", 5), [1]);
    assert_eq!(bench.answer(1, "bob", 1).unwrap(), DONE);
    assert_eq!(consensus(&bench.queue.annotations(id(1)).unwrap(), 2), Consensus::Disputed);
    assert_eq!(bench.queue.correct(id(1), "bob", Label::Class(0), 1.0, None).unwrap(), DONE);
    let agreed = consensus(&bench.queue.annotations(id(1)).unwrap(), 2);
    assert_eq!(agreed, Consensus::Agreed(Label::Class(0), 1.0));
    assert_eq!(bench.labels(1), [Some(0), Some(1), Some(0)], "the history keeps what was corrected");
}

#[test]
fn a_retraction_opens_the_task_again_for_others() {
    let bench = Bench::with(1, 1);
    assert_eq!(bench.answer(1, "ann", 0).unwrap(), DONE);
    assert_eq!(bench.queue.retract(id(1), "ann").unwrap(), MORE);
    assert_eq!(bench.queue.retract(id(1), "ann").unwrap(), Answer::AlreadyRecorded);
    assert_eq!(bench.labels(1), [Some(0), None]);
    assert_eq!((bench.claim("ann", 1), bench.claim("bob", 1)), (vec![], vec![1]));
    assert!(bench.queue.correct(id(1), "ann", Label::Class(1), 1.0, None).is_err(), "nothing to correct");
    assert_eq!(bench.answer(1, "ann", 1).unwrap(), DONE, "but they may still say what they think now");
}

#[test]
fn a_correction_of_a_clock_that_went_back_is_still_the_newest() {
    let bench = Bench::with(1, 1);
    bench.clock.set(at(100));
    assert_eq!(bench.answer(1, "ann", 0).unwrap(), DONE);
    bench.clock.set(at(50));
    bench.queue.correct(id(1), "ann", Label::Class(2), 1.0, None).unwrap();
    let annotations = bench.queue.annotations(id(1)).unwrap();
    assert_eq!(consensus(&annotations, 1), Consensus::Agreed(Label::Class(2), 1.0));
}

#[test]
fn a_skipped_task_goes_to_others_and_a_released_one_to_anybody() {
    let bench = Bench::with(2, 1);
    assert_eq!(bench.claim("ann", 2), [1, 2]);
    bench.queue.skip(id(1), "ann").unwrap();
    bench.queue.skip(id(1), "ann").unwrap();
    bench.queue.release(id(2), "ann").unwrap();
    bench.queue.release(id(2), "ann").unwrap();
    bench.queue.release(id(2), "bob").unwrap();
    assert_eq!(bench.claim("ann", 2), [2]);
    assert_eq!(bench.claim("bob", 2), [1]);
    let text = String::from_utf8(bench.record(1).body.to_vec()).unwrap();
    assert_eq!(text.matches("ann").count(), 1, "{text}");
}

#[test]
fn a_sample_has_one_task_and_a_withdrawn_one_stays_withdrawn() {
    let bench = Bench::with(1, 1);
    let record = bench.record(1);
    let write = |state, expect| Write {
        kind: Kind::Task,
        key: record.key.clone(),
        expect,
        indexed: Indexed { state, rank: 0, due: None },
        body: record.body.clone(),
    };
    assert!(matches!(bench.commit(write("open", Expect::Absent)), Committed::Conflict { .. }));
    bench.commit(write("withdrawn", Expect::Rev(1)));
    assert_eq!(bench.claim("ann", 1), []);
    bench.answer(1, "ann", 0).unwrap();
    bench.queue.skip(id(1), "bob").unwrap();
    assert_eq!((bench.record(1).state.as_str(), bench.labels(1)), ("withdrawn", vec![Some(0)]));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_was_expected() {
    let bench = Bench::with(1, 1);
    let refused = |label, confidence, seconds| {
        bench.queue.annotate(id(1), "ann", label, confidence, seconds).unwrap_err().to_string()
    };
    assert!(refused(Label::Class(3), 1.0, None).contains("a class from 0 to 2"));
    assert!(refused(Label::Value(1.0), 1.0, None).contains("a class from 0 to 2"));
    assert!(refused(Label::Class(1), f64::NAN, None).contains("from 0 to 1"));
    assert!(refused(Label::Class(1), 1.0, Some(-1.0)).contains("seconds"));
    assert!(bench.answer(1, " ", 1).unwrap_err().to_string().contains("name"));
    assert!(bench.answer(7, "ann", 1).unwrap_err().to_string().contains("no task"));
    assert!(bench.queue.claim("ann", 1, TimeDelta::zero()).is_err());
    assert!(bench.queue.claim("ann", 1, TimeDelta::MAX).is_err());
    assert_eq!((bench.labels(1), bench.record(1).rev), (vec![], 1));
}

#[test]
fn the_whole_history_is_read_page_by_page_and_of_this_sample_only() {
    let bench = Bench::with(2, 1_000);
    for n in 0..(2 * PAGE + 1) {
        bench.clock.advance(TimeDelta::seconds(1));
        let name = format!("person {}", 1_000 - n);
        bench.answer(1, &name, (n % 3) as u32).unwrap();
        bench.answer(2, &name, 0).unwrap();
    }
    bench.answer(1, "a/0000", 0).unwrap();
    bench.answer(1, "a", 0).unwrap();
    let annotations = bench.queue.annotations(id(1)).unwrap();
    assert_eq!(annotations.len(), 2 * PAGE + 3);
    assert!(annotations.iter().all(|annotation| annotation.sample == id(1)));
    assert!(annotations.windows(2).all(|pair| pair[0].time <= pair[1].time));
}

#[test]
fn two_threads_never_hold_the_same_task() {
    let bench = Bench::with(300, 1);
    let claimed: Vec<Vec<u128>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let bench = &bench;
                scope.spawn(move || {
                    let mut mine = vec![];
                    loop {
                        let got = bench.claim(&format!("person {worker}"), 7);
                        if got.is_empty() {
                            return mine;
                        }
                        mine.extend(got);
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let all: Vec<u128> = claimed.concat();
    assert_eq!(all.len(), 300);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 300);
}

#[test]
fn answers_of_many_at_once_to_one_task_are_all_kept() {
    let bench = Bench::with(1, 8);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let bench = &bench;
            scope.spawn(move || bench.answer(1, &format!("person {worker}"), worker % 3).unwrap());
        }
    });
    assert_eq!((bench.labels(1).len(), bench.record(1).state.as_str()), (8, "done"));
}

#[test]
fn a_request_is_carried_out_once_whatever_was_said_since() {
    let bench = Bench::with(2, 2);
    let answer = |key: &str, n, class| bench.queue.keyed(key).annotate(id(n), "ann", Label::Class(class), 1.0, None);
    assert_eq!(answer("k1", 1, 0).unwrap(), MORE);
    let correct = |key: &str, class| bench.queue.keyed(key).correct(id(1), "ann", Label::Class(class), 1.0, None);
    assert_eq!(correct("k2", 1).unwrap(), MORE);
    let before = bench.record(1);
    assert_eq!(answer("k1", 1, 0).unwrap(), Answer::AlreadyRecorded, "though it was corrected since");
    assert_eq!(correct("k3", 2).unwrap(), MORE);
    assert_eq!(correct("k2", 1).unwrap(), Answer::AlreadyRecorded, "nor does an old correction come back");
    bench.queue.keyed("k4").retract(id(1), "ann").unwrap();
    assert_eq!(answer("k5", 1, 2).unwrap(), MORE);
    bench.queue.keyed("k4").retract(id(1), "ann").unwrap();
    assert_eq!(bench.labels(1), [Some(0), Some(1), Some(2), None, Some(2)]);
    assert!(bench.record(1).rev > before.rev);
    assert_eq!(answer("k1", 2, 0).unwrap(), MORE, "the key of a request counts for its task");
    let bob = bench.queue.keyed("k1").annotate(id(1), "bob", Label::Class(0), 1.0, None);
    assert_eq!(bob.unwrap(), DONE, "and for its annotator");
}

#[test]
fn a_request_that_said_nothing_new_is_remembered_too() {
    let bench = Bench::with(1, 2);
    assert_eq!(bench.answer(1, "ann", 0).unwrap(), MORE);
    let again = || bench.queue.keyed("k").annotate(id(1), "ann", Label::Class(0), 1.0, None).unwrap();
    assert_eq!(again(), Answer::AlreadyRecorded);
    bench.queue.correct(id(1), "ann", Label::Class(1), 1.0, None).unwrap();
    assert_eq!(again(), Answer::AlreadyRecorded);
    let ticket = bench.queue.claim("bob", 1, LEASE).unwrap().remove(0);
    assert!(ticket.task.hidden.is_empty(), "nobody sees the keys of others");
    assert_eq!(bench.answer(1, "bob", 1).unwrap(), DONE);
    assert_eq!(bench.labels(1), [Some(0), Some(1), Some(1)]);
}

#[test]
fn a_task_that_was_handed_on_goes_to_that_person_first_and_to_nobody_else_in_time() {
    let bench = Bench::with(3, 1);
    let hand = |n, to: &str| bench.queue.reassign(id(n), "lead", to, TimeDelta::hours(1));
    assert_eq!(bench.claim("ann", 1), [1]);
    hand(1, "dan").unwrap();
    hand(3, "dan").unwrap();
    hand(3, "eve").unwrap();
    assert_eq!(bench.claim("bob", 9), [2]);
    assert_eq!(bench.claim("dan", 9), [1], "and the lease of ann is over");
    let ticket = bench.queue.claim("eve", 9, LEASE).unwrap().remove(0);
    let assigned = ticket.task.assigned.unwrap();
    assert_eq!((assigned.by.as_str(), assigned.to.as_str(), assigned.until), ("lead", "eve", at(3_600)));
    bench.clock.advance(TimeDelta::seconds(61));
    assert_eq!(bench.claim("bob", 9), [2], "a lease ends, the assignment does not");
    assert_eq!(bench.claim("eve", 9), [3]);
    bench.queue.skip(id(3), "eve").unwrap();
    bench.clock.advance(TimeDelta::seconds(61));
    assert_eq!(bench.claim("bob", 9), [2, 3], "who skips it gives it to all, in its old place");
    assert_eq!(bench.answer(1, "dan", 0).unwrap(), DONE);
    assert_eq!(bench.answer(1, "ann", 0).unwrap(), DONE, "what ann says still counts");
    let refused = |n, to| hand(n, to).unwrap_err().to_string();
    assert!(refused(1, "bob").contains("done"));
    assert!(refused(3, "eve").contains("skipped"));
    assert!(refused(2, " ").contains("name"));
    assert!(refused(9, "bob").contains("no task"));
    assert!(bench.queue.reassign(id(2), "lead", "bob", TimeDelta::zero()).is_err());
}

#[test]
fn a_task_that_was_handed_on_goes_to_anybody_after_its_time_and_back_to_its_place_after_an_answer() {
    let bench = Bench::with(3, 2);
    for n in [2, 3] {
        bench.queue.reassign(id(n), "lead", "dan", TimeDelta::hours(1)).unwrap();
    }
    assert_eq!(bench.claim("dan", 2), [2, 3]);
    assert_eq!(bench.answer(2, "dan", 0).unwrap(), MORE);
    assert_eq!(bench.claim("bob", 1), [1], "2 has its old place again");
    bench.clock.advance(TimeDelta::minutes(59));
    assert_eq!(bench.claim("cat", 9), [1, 2]);
    bench.clock.advance(TimeDelta::minutes(1));
    assert_eq!(bench.claim("bob", 9), [3]);
}

#[test]
fn who_has_settled_many_tasks_still_gets_the_first_that_is_left() {
    let bench = Bench::with(60, 2);
    for n in 1..=40 {
        bench.answer(n, "ann", 0).unwrap();
    }
    bench.queue.skip(id(45), "ann").unwrap();
    for urgent in [100, 101] {
        assert_eq!(bench.claim("ann", 5), [41, 42, 43, 44, 46]);
        bench.enqueue(urgent, 5.0, 1, true);
        assert_eq!(bench.claim("ann", 1), [urgent], "a more urgent one is seen at once");
        assert_eq!(bench.answer(urgent, "ann", 0).unwrap(), DONE);
        bench.clock.advance(TimeDelta::seconds(61));
    }
    assert_eq!(bench.claim("bob", 2), [1, 2], "what ann has settled is not settled for others");
}
