#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use chrono::TimeDelta;

use super::super::task_write;
use super::super::testing::task;
use super::*;
use crate::clock::ManualClock;
use crate::gate::testing::{at, id};
use crate::stats::golden::{assert_close, cases, number, numbers};
use crate::store::{Expect, Fence, Kind, MemoryStore, Scan, Store};

struct Bench {
    store: MemoryStore,
    clock: ManualClock,
    queue: ReviewQueue,
}

impl Bench {
    fn of(target: Target, tasks: u128) -> Self {
        let store = MemoryStore::new();
        let clock = ManualClock::starting_at(at(0));
        let queue = ReviewQueue::open(Arc::new(store.clone()), "p", target, Arc::new(clock.clone()));
        let bench = Bench { store, clock, queue };
        for n in 1..=tasks {
            let write = task_write(&"p".into(), &task(n, 0.0, 9, true)).unwrap();
            bench.store.commit(&[&[write]], &Fence::None, &mut vec![]).unwrap();
        }
        bench
    }

    fn classes(classes: usize, tasks: u128) -> Self {
        Bench::of(Target::Classes((0..classes).map(|class| class.to_string()).collect()), tasks)
    }

    fn say(&self, n: u128, annotator: &str, label: Label) {
        self.clock.advance(TimeDelta::milliseconds(1));
        self.queue.annotate(id(n), annotator, label, 1.0, None).unwrap();
    }

    fn class(&self, n: u128, annotator: &str, class: usize) {
        self.say(n, annotator, Label::Class(class as u32));
    }

    /// As the pipeline does it.
    fn apply(&self) {
        let scan = Scan { pipeline: "p", kind: Kind::Annotation, state: Some("new"), after: None, limit: usize::MAX };
        for record in self.store.scan(&scan).unwrap() {
            let indexed = crate::store::Indexed { state: "applied", rank: record.rank, due: None };
            let (kind, key, expect, body) = (record.kind, record.key, Expect::Any, record.body);
            let write = crate::store::Write { kind, key, expect, indexed, body };
            self.store.commit(&[&[write]], &Fence::None, &mut vec![]).unwrap();
        }
    }
}

#[test]
fn kappa_of_two_annotators_is_that_of_scikit_learn() {
    for case in cases("cohen_kappa") {
        let labels = numbers(&case.inputs["labels"]);
        let class = |label: f64| labels.iter().position(|known| *known == label).unwrap();
        let (a, b) = (numbers(&case.inputs["a"]), numbers(&case.inputs["b"]));
        let bench = Bench::classes(labels.len(), a.len() as u128);
        for (n, (a, b)) in (1..).zip(a.iter().zip(&b)) {
            // Who answers first must not matter.
            let mut both = [("bob", class(*a)), ("ann", class(*b))];
            both.rotate_left(n as usize % 2);
            both.iter().for_each(|(who, class)| bench.class(n, who, *class));
        }
        let found = bench.queue.agreement().unwrap();
        assert_eq!(found.tasks, a.len() as u64);
        let pair = &found.pairs[0];
        assert_eq!((pair.first.as_str(), pair.second.as_str(), pair.tasks), ("ann", "bob", a.len() as u64));
        assert_close(pair.kappa.unwrap(), number(&case.outputs["kappa_None"]), 1e-12, 1e-12, &case.name);
        assert_close(pair.observed, number(&case.outputs["observed"]), 1e-12, 1e-12, &case.name);
    }
}

#[test]
fn alpha_is_that_of_the_krippendorff_package_nominal_for_classes_and_interval_for_values() {
    for case in cases("krippendorff") {
        let ratings: Vec<Vec<f64>> = case.inputs["ratings_by_rater"].as_array().unwrap().iter().map(numbers).collect();
        let units = ratings[0].len() as u128;
        for (target, key) in [
            (Target::Classes((0..30).map(|c| c.to_string()).collect()), "alpha_nominal"),
            (Target::Value, "alpha_interval"),
        ] {
            let bench = Bench::of(target.clone(), units);
            for (rater, given) in ratings.iter().enumerate() {
                for (n, rating) in (1..).zip(given).filter(|(_, rating)| rating.is_finite()) {
                    let label =
                        if target == Target::Value { Label::Value(*rating) } else { Label::Class(*rating as u32) };
                    bench.say(n, &format!("rater {rater}"), label);
                }
            }
            let found = bench.queue.agreement().unwrap();
            assert_close(found.alpha.unwrap(), number(&case.outputs[key]), 1e-9, 1e-9, &format!("{} {key}", case.name));
            assert!(found.pairs.iter().all(|pair| pair.kappa.is_none() || target != Target::Value));
        }
    }
}

#[test]
fn pooled_labels_find_the_truth_that_crowd_kit_finds_and_who_errs() {
    for case in cases("dawid_skene") {
        let rows = case.inputs["rows"].as_array().unwrap();
        let names = case.outputs["posterior_rows"].as_array().unwrap();
        let posterior = crate::stats::golden::matrix(&case.outputs["posterior"]);
        let bench = Bench::classes(posterior.ncols(), names.len() as u128);
        for row in rows {
            let n = names.iter().position(|name| *name == row[0]).unwrap() as u128 + 1;
            bench.class(n, row[1].as_str().unwrap(), row[2].as_u64().unwrap() as usize);
        }
        let found = bench.queue.pooled_labels().unwrap();
        assert_eq!(found.tasks.len(), names.len());
        let given = rows.iter().map(|row| {
            let n = names.iter().position(|name| *name == row[0]).unwrap() as u128 + 1;
            (id(n), row[1].as_str().unwrap(), row[2].as_u64().unwrap() as u32)
        });
        assert_eq!(PooledLabels::of(given, posterior.ncols()).unwrap(), found, "the same without a queue");
        let truths: Vec<u64> = case.inputs["truth"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
        let (mut right, mut expected_right) = (0, 0);
        let best = |p: &[f64]| (0..p.len()).max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap() as u64;
        for (n, task) in found.tasks.iter().enumerate() {
            assert_eq!(task.sample, id(n as u128 + 1));
            assert_close(task.posterior.iter().sum::<f64>(), 1.0, 1e-9, 0.0, &case.name);
            right += usize::from(best(&task.posterior) == truths[n]);
            expected_right += usize::from(best(posterior.row(n).as_slice().unwrap()) == truths[n]);
        }
        // It iterates further than the case did, so the posteriors are not the same to the digit.
        assert!(right.abs_diff(expected_right) <= 1 + names.len() / 100, "{}: {right} and {expected_right}", case.name);
        for person in &found.annotators {
            let answered = rows.iter().filter(|row| row[1] == person.name.as_str()).count();
            assert_eq!(person.answers, answered as u64);
            for truth in &person.confusion {
                assert_close(truth.iter().sum::<f64>(), 1.0, 1e-6, 0.0, "the answers to a truth");
            }
        }
    }
}

#[test]
fn of_answers_from_elsewhere_the_last_counts_and_a_class_that_there_is_none_of_is_refused() {
    let last = PooledLabels::of([(id(1), "ada", 0), (id(1), "bob", 1), (id(1), "ada", 1)], 2).unwrap();
    assert_eq!((last.tasks[0].people, last.annotators.len()), (2, 2));
    assert!(last.tasks[0].posterior[1] > 0.99);
    assert!(PooledLabels::of([(id(1), "ada", 2)], 2).unwrap_err().to_string().contains("ada answered class 2 of 2"));
    assert!(PooledLabels::of([], 2).unwrap().tasks.is_empty());
}

#[test]
fn one_good_annotator_outweighs_two_who_guess() {
    let bench = Bench::classes(2, 300);
    let mut random = 7_u64;
    let mut coin = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % 2
    };
    for n in 1..=300 {
        let truth = n as usize % 2;
        ["good", "fine"].iter().for_each(|who| bench.class(n, who, truth));
        bench.class(n, "guesses", coin());
        bench.class(n, "guesses too", coin());
    }
    bench.apply();
    let found = bench.queue.pooled_labels().unwrap();
    assert!(found.tasks.iter().any(|task| task.majority == Consensus::Disputed));
    for (task, n) in found.tasks.iter().zip(1..) {
        assert!(task.posterior[n % 2] > 0.99, "{task:?}");
    }
    let accuracy: BTreeMap<&str, f64> =
        found.annotators.iter().map(|person| (person.name.as_str(), person.accuracy)).collect();
    assert!(accuracy["good"] > 0.99 && (0.4..0.6).contains(&accuracy["guesses"]), "{accuracy:?}");
    assert!(found.annotators[0].confusion[1][1] > 0.99, "fine, of the truths 1");
}

#[test]
fn only_what_stands_counts_applied_or_not() {
    let bench = Bench::classes(3, 3);
    bench.class(1, "ann", 0);
    bench.class(1, "bob", 1);
    bench.apply();
    bench.queue.correct(id(1), "bob", Label::Class(0), 1.0, None).unwrap();
    bench.class(2, "ann", 2);
    bench.queue.retract(id(2), "ann").unwrap();
    bench.class(3, "ann", 2);
    let found = bench.queue.pooled_labels().unwrap();
    assert_eq!(found.tasks.iter().map(|task| (task.sample, task.people)).collect::<Vec<_>>(), [(id(1), 2), (id(3), 1)]);
    assert_eq!(found.tasks[0].majority, Consensus::Agreed(Label::Class(0), 1.0));
    let agreement = bench.queue.agreement().unwrap();
    assert_eq!((agreement.tasks, agreement.pairs.len(), agreement.pairs[0].observed), (1, 1, 1.0));
}

#[test]
fn annotators_are_measured_by_gold_and_by_the_others() {
    let bench = Bench::classes(3, 1_000);
    for n in 0..25 {
        bench.queue.put_gold(id(5_000 + n), task(1, 0.0, 1, true).row, None, Label::Class(1)).unwrap();
    }
    // Ann knows all, bob none, cat answers two tasks without gold.
    for (who, right) in [("ann", true), ("bob", false)] {
        loop {
            let tickets = bench.queue.claim(who, 10, TimeDelta::minutes(1)).unwrap();
            if tickets.is_empty() {
                break;
            }
            for ticket in tickets {
                let n = ticket.task.sample.uuid().as_u128();
                let truth = if n >= 5_000 { 1 } else { n as u32 % 3 };
                let said = if right { truth } else { (truth + 1) % 3 };
                bench.queue.annotate(ticket.task.sample, who, Label::Class(said), 1.0, None).unwrap();
            }
        }
    }
    bench.class(3, "cat", 0);
    bench.class(4, "cat", 1);
    bench.class(3, "dan", 0);
    let found = bench.queue.annotators().unwrap();
    let names: Vec<&str> = found.iter().map(|person| person.name.as_str()).collect();
    assert_eq!(names, ["ann", "bob", "cat", "dan"]);
    let [ann, bob, cat, _] = &found[..] else { panic!() };
    assert_eq!((ann.answers, ann.gold_asked, ann.gold_right), (1_000, 25, 25));
    assert_eq!((bob.answers, bob.gold_asked, bob.gold_right), (1_000, 25, 0));
    // Clopper and Pearson for 25 of 25 in closed form: (α/2)^(1/25).
    assert_close(ann.low, 0.025_f64.powf(1.0 / 25.0), 1e-9, 0.0, "the lower limit");
    assert_close(bob.high, 1.0 - 0.025_f64.powf(1.0 / 25.0), 1e-9, 0.0, "the upper limit");
    assert_eq!((ann.high, bob.low, cat.low, cat.high, cat.gold_asked), (1.0, 0.0, 0.0, 1.0, 0));
    // Of task 3, the others of cat say 0, 1, 0: 0. Of task 4 they say 1 and 2: nothing.
    assert_eq!((cat.answers, cat.compared, cat.agreement_with_consensus), (2, 1, Some(1.0)));
    // Bob is alone against ann on all but these, and there against a majority or none.
    assert_eq!((bob.compared, bob.agreement_with_consensus), (1_000, Some(0.0)));
}

#[test]
fn nothing_said_gives_nothing() {
    let bench = Bench::classes(3, 2);
    assert_eq!(bench.queue.agreement().unwrap(), Agreement { pairs: vec![], alpha: None, tasks: 0 });
    assert_eq!(bench.queue.annotators().unwrap(), []);
    let pooled = bench.queue.pooled_labels().unwrap();
    assert!(pooled.tasks.is_empty() && pooled.annotators.is_empty());
    let values = Bench::of(Target::Value, 1);
    values.say(1, "ann", Label::Value(2.5));
    let pooled = values.queue.pooled_labels().unwrap();
    assert_eq!(pooled.tasks[0].majority, Consensus::Agreed(Label::Value(2.5), 1.0));
    assert!(pooled.tasks[0].posterior.is_empty() && pooled.annotators.is_empty());
}

#[test]
fn more_annotators_and_classes_than_memory_allows_are_refused() {
    let bench = Bench::classes(4_000, 1);
    bench.class(1, "ann", 3_999);
    let text = bench.queue.pooled_labels().unwrap_err().to_string();
    assert!(text.contains("10000000"), "{text}");
}
