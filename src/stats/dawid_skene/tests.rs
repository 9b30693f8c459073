#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::stats::golden::{Case, assert_close, cases, number};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn vote(task: usize, worker: usize, class: usize) -> Vote {
    Vote { task, worker, class }
}

/// Index of a string in a sorted list.
fn at(list: &[String], name: &str) -> usize {
    list.iter().position(|known| known == name).unwrap()
}

/// Votes, names of the tasks, workers and classes.
fn golden_votes(case: &Case) -> (Vec<Vote>, [Vec<String>; 3]) {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<[String; 3]> =
        case.inputs["rows"].as_array().unwrap().iter().map(|row| [0, 1, 2].map(|i| text(&row[i]))).collect();
    let names = [0, 1, 2].map(|i| {
        let mut names: Vec<String> = rows.iter().map(|row| row[i].clone()).collect();
        names.sort();
        names.dedup();
        names
    });
    let votes = rows.iter().map(|row| vote(at(&names[0], &row[0]), at(&names[1], &row[1]), at(&names[2], &row[2])));
    (votes.collect(), names)
}

#[test]
fn golden_posteriors_shares_and_errors_match_crowd_kit() {
    for case in cases("dawid_skene") {
        let (votes, [tasks, workers, classes]) = golden_votes(&case);
        // crowd-kit stops by a bound of its own that counts the prior once per vote: as many steps as it did
        let steps = case.outputs["loss_history"].as_array().unwrap().len();
        let counts = (tasks.len(), workers.len(), classes.len());
        let fit = DawidSkene::fit(&votes, counts, steps, f64::NEG_INFINITY);
        assert_eq!(fit.iterations(), steps);
        for (row, task) in case.outputs["posterior_rows"].as_array().unwrap().iter().enumerate() {
            let posterior = fit.posterior(at(&tasks, task.as_str().unwrap()));
            for (column, class) in case.outputs["posterior_columns"].as_array().unwrap().iter().enumerate() {
                let expected = number(&case.outputs["posterior"][row][column]);
                // crowd-kit raises what it returns to 1e-10
                let found = posterior[at(&classes, class.as_str().unwrap())].max(1e-10);
                assert_close(found, expected, 1e-9, 1e-12, &format!("{} {task} {class}", case.name));
            }
            let best = (0..classes.len()).max_by(|a, b| posterior[*a].total_cmp(&posterior[*b])).unwrap();
            assert_eq!(classes[best], case.outputs["labels"][row].to_string(), "{} {task}", case.name);
        }
        for (class, share) in case.outputs["priors"].as_object().unwrap() {
            assert_close(fit.priors()[at(&classes, class)], number(share), 1e-9, 0.0, &case.name);
        }
        for (worker, answers) in case.outputs["errors_worker_observed_true"].as_object().unwrap() {
            for (answer, truths) in answers.as_object().unwrap() {
                let errors = fit.errors(at(&workers, worker), at(&classes, answer));
                for (truth, expected) in truths.as_object().unwrap() {
                    let what = format!("{} {worker} {answer} {truth}", case.name);
                    assert_close(errors[at(&classes, truth)], number(expected), 1e-9, 1e-12, &what);
                }
            }
        }
        let start = DawidSkene::fit(&votes, counts, 0, 0.0);
        for (row, task) in case.outputs["posterior_rows"].as_array().unwrap().iter().enumerate() {
            for (column, class) in case.outputs["posterior_columns"].as_array().unwrap().iter().enumerate() {
                let found = start.posterior(at(&tasks, task.as_str().unwrap()))[at(&classes, class.as_str().unwrap())];
                let expected = number(&case.outputs["majority_posterior"][row][column]);
                assert_close(found, expected, 1e-12, 0.0, &case.name);
            }
        }
    }
}

/// 800 tasks of three classes, answered by five workers; worker w is right with probability `right[w]`, else answers
/// the next class. Each vote is missing with probability 0.2. Returns votes and truths.
fn world(right: [f64; 5], seed: u64) -> (Vec<Vote>, Vec<usize>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let truths: Vec<usize> = (0..800).map(|_| [0, 0, 1, 2][rng.random_range(0..4_usize)]).collect();
    let mut votes = Vec::new();
    for (task, truth) in truths.iter().enumerate() {
        for (worker, right) in right.iter().enumerate() {
            if rng.random::<f64>() < 0.8 {
                let off = usize::from(rng.random::<f64>() >= *right);
                votes.push(vote(task, worker, (truth + off) % 3));
            }
        }
    }
    (votes, truths)
}

fn accuracy(fit: &DawidSkene, truths: &[usize]) -> f64 {
    let best = |task| (0..3).max_by(|a, b| fit.posterior(task)[*a].total_cmp(&fit.posterior(task)[*b])).unwrap();
    truths.iter().enumerate().filter(|(task, truth)| best(*task) == **truth).count() as f64 / truths.len() as f64
}

#[test]
fn planted_errors_and_shares_are_found_and_the_majority_is_beaten() {
    let right = [0.95, 0.9, 0.45, 0.5, 0.55];
    for seed in 0..5 {
        let (votes, truths) = world(right, seed);
        let majority = DawidSkene::fit(&votes, (800, 5, 3), 0, 0.0);
        let fit = DawidSkene::fit(&votes, (800, 5, 3), 100, 1e-7);
        assert!(accuracy(&fit, &truths) > accuracy(&majority, &truths) + 0.1, "seed {seed}");
        // 640 votes per worker, a quarter of them of the rarest class: standard error below 0.04
        for (worker, right) in right.iter().enumerate() {
            for truth in 0..3 {
                assert_close(fit.errors(worker, truth)[truth], *right, 0.0, 0.13, &format!("{seed} {worker} {truth}"));
                let sum: f64 = (0..3).map(|answer| fit.errors(worker, answer)[truth]).sum();
                assert_close(sum, 1.0, 1e-12, 0.0, "answers");
            }
        }
        for (share, planted) in fit.priors().iter().zip([0.5, 0.25, 0.25]) {
            assert_close(*share, planted, 0.0, 0.07, "shares");
        }
    }
}

#[test]
fn the_likelihood_rises_until_a_step_gains_less_than_the_tolerance() {
    let (votes, _) = world([0.9, 0.8, 0.5, 0.6, 0.7], 9);
    let at = |steps| DawidSkene::fit(&votes, (800, 5, 3), steps, f64::NEG_INFINITY).log_likelihood();
    let history: Vec<f64> = (1..40).map(at).collect();
    assert!(history.windows(2).all(|pair| pair[1] >= pair[0] - 1e-12), "{history:?}");
    let stopped = DawidSkene::fit(&votes, (800, 5, 3), 1_000, 1e-4);
    let expected = 2 + history.windows(2).position(|pair| pair[1] - pair[0] < 1e-4).unwrap();
    assert_eq!(stopped.iterations(), expected);
}

#[test]
fn tasks_workers_and_classes_without_votes_have_their_stated_values() {
    let votes = [vote(0, 0, 0), vote(1, 0, 1), vote(3, 0, 1), vote(9, 0, 1), vote(0, 7, 1), vote(0, 0, 8)];
    let fit = DawidSkene::fit(&votes, (4, 2, 3), 50, 1e-9);
    assert_eq!(fit.posterior(2), fit.priors());
    assert_close(fit.priors()[1], 2.0 / 3.0, 1e-6, 0.0, "shares are of tasks with votes");
    assert_close(fit.posterior(3)[1], 1.0, 1e-6, 0.0, "one worker is believed");
    assert_eq!([0, 1, 2].map(|answer| fit.errors(1, answer).to_vec()), [[0.0; 3]; 3].map(Vec::from));
    assert_eq!(fit.errors(0, 2), [0.0; 3]);
    let none = DawidSkene::fit(&[], (2, 1, 4), 50, 1e-9);
    assert_eq!((none.posterior(1), none.priors(), none.iterations()), (&[0.25; 4][..], &[0.25; 4][..], 0));
    assert_eq!(DawidSkene::fit(&votes, (4, 2, 0), 50, 1e-9).priors(), [0.0; 0]);
}

#[test]
fn thousands_of_votes_on_one_task_do_not_underflow() {
    let votes: Vec<Vote> =
        (0..20_000).map(|n| vote(n % 2, n / 2, usize::from(n % 2 == 0) ^ usize::from(n % 10 == 0))).collect();
    let fit = DawidSkene::fit(&votes, (2, 10_000, 2), 20, 1e-9);
    for task in 0..2 {
        assert!(fit.posterior(task).iter().all(|p| p.is_finite()));
        assert_close(fit.posterior(task)[1 - task], 1.0, 1e-9, 0.0, "nine of ten");
    }
}

proptest! {
    #[test]
    fn the_names_of_tasks_and_workers_do_not_matter(
        given in prop::collection::vec((0..6_usize, 0..4_usize, 0..3_usize), 1..60),
        turn in 1..6_usize,
    ) {
        let votes: Vec<Vote> = given.iter().map(|(t, w, c)| vote(*t, *w, *c)).collect();
        let turned: Vec<Vote> =
            given.iter().rev().map(|(t, w, c)| vote((t + turn) % 6, (w + turn) % 4, *c)).collect();
        let fit = DawidSkene::fit(&votes, (6, 4, 3), 5, f64::NEG_INFINITY);
        let other = DawidSkene::fit(&turned, (6, 4, 3), 5, f64::NEG_INFINITY);
        for task in 0..6 {
            let sum: f64 = fit.posterior(task).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-12);
            for (a, b) in fit.posterior(task).iter().zip(other.posterior((task + turn) % 6)) {
                prop_assert!((a - b).abs() < 1e-6, "{} {}", a, b);
            }
        }
    }
}

/// 5,000 tasks, five votes each of 20 workers on five classes.
/// `cargo test --release --lib twenty_steps -- --ignored --nocapture`
#[test]
#[ignore = "prints a time"]
fn twenty_steps_over_25k_votes() {
    let mut rng = StdRng::seed_from_u64(92);
    let mut votes = Vec::new();
    for task in 0..5_000 {
        let truth = rng.random_range(0..5_usize);
        let first = rng.random_range(0..20_usize);
        for n in 0..5 {
            let class = if rng.random::<f64>() < 0.75 { truth } else { rng.random_range(0..5_usize) };
            votes.push(vote(task, (first + n * 3) % 20, class));
        }
    }
    let start = std::time::Instant::now();
    let fit = DawidSkene::fit(&votes, (5_000, 20, 5), 20, f64::NEG_INFINITY);
    println!("{:?}: {:?}", start.elapsed(), fit.priors());
}
