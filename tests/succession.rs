//! Candidates of `confirm` that others succeed before there is a verdict: what labels said of them goes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Artifact, Evidence, FnTrainer, Metric, PipelineBuilder, Profile, Requirement, RunId, RunState, Sample, TrainJob,
    new_labels,
};
use support::host::Host;
use support::{check, evaluator, truth};

/// Where the truth lies: the first model is at .5.
const CONCEPT: f64 = 0.56;

/// Every run finds the truth, but those of which `fails` says so.
fn settings(fails: fn(RunId) -> bool) -> impl Fn(PipelineBuilder) -> PipelineBuilder {
    move |builder| {
        builder
            .trigger(new_labels(20))
            .compare(1.0)
            .label_batch(3)
            .train(FnTrainer::inline(move |job: &TrainJob| match fails(job.run) {
                true => Err("no".into()),
                false => Ok(Artifact::Inline(CONCEPT.to_string().into())),
            }))
            .evaluate(evaluator(Profile::confirm()))
    }
}

fn evidence(host: &Host, run: u64) -> Option<Evidence> {
    host.pipeline.evaluation(RunId(run)).unwrap()?.evidence
}

/// Answers the questions about samples of which `asked` says so; the others stay. How many?
fn answer(host: &mut Host, asked: impl Fn(&Sample) -> bool) -> u64 {
    let samples = check(&*host.store, "closed").samples;
    let waiting = host.queue.waiting().unwrap() as usize;
    let mut answered = 0;
    for ticket in host.queue.claim("cleo", waiting, TimeDelta::minutes(5)).unwrap() {
        let sample = &samples[&ticket.task.sample];
        if asked(sample) {
            let label = truth(sample.observation.row.values(), CONCEPT);
            host.queue.annotate(sample.id(), "cleo", label, 1.0, None).unwrap();
            answered += 1;
        } else {
            host.queue.release(sample.id(), "cleo").unwrap();
        }
    }
    host.pipeline.poll().unwrap();
    answered
}

#[test]
fn a_line_of_candidates_is_confirmed_by_what_labels_said_of_all_of_them() {
    let promoted = |restart: bool| {
        let mut host = Host::new(settings(|_| false));
        while host.pipeline.champion().0 == 0 {
            assert!(host.served < 4_000);
            host.turn(40, CONCEPT);
            if restart {
                host.restart(settings(|_| false));
            }
        }
        let states = host.run_states();
        let last = states.iter().position(|state| *state == RunState::Watched).unwrap() as u64 + 1;
        let line: Vec<_> = (1..=last).map(|run| evidence(&host, run).unwrap()).collect();
        (states, line)
    };
    let (states, line) = promoted(false);
    assert!(line.len() > 2 && states.starts_with(&vec![RunState::Superseded; line.len() - 1]), "{states:?}");
    for (before, pair) in line.windows(2).enumerate() {
        assert_eq!(pair[1].taken_over.candidates as usize, before + 1);
        assert_eq!(pair[1].taken_over.rounds, pair[0].rounds);
        assert!(pair[1].taken_over.rows >= pair[0].rows && pair[1].rows > pair[1].taken_over.rows);
    }
    let last = &line[line.len() - 1];
    assert!(last.against_current.e_value() >= 20.0, "{last:?}");
    assert!(last.taken_over.against_current.e_value() < 20.0, "it was confirmed before: {last:?}");
    assert_eq!(promoted(true), (states, line), "with a restart after every turn");
}

#[test]
fn a_label_that_comes_late_judges_the_candidate_that_its_row_was_drawn_for() {
    let mut host = Host::new(settings(|_| false));
    while evidence(&host, 2).is_none() {
        assert!(host.served < 4_000);
        host.turn_with(160, CONCEPT, |_, _, _| None);
        answer(&mut host, |sample| sample.compared.is_none());
    }
    assert_eq!(host.run_states(), [RunState::Superseded, RunState::Judging]);
    let before = evidence(&host, 2).unwrap();
    let late = answer(&mut host, |sample| sample.compared == Some(RunId(1)));
    assert!(late >= 3, "{late}");
    let after = evidence(&host, 2).or_else(|| evidence(&host, 3)).unwrap();
    assert_eq!(after.against_current.wins, before.against_current.wins + late, "the two disagree on every one");
    assert_eq!(after.taken_over.against_current.wins, before.taken_over.against_current.wins + late);
    assert_eq!((after.rows, after.taken_over.rows), (before.rows + late, before.taken_over.rows + late));
}

#[test]
fn a_run_that_fails_leaves_the_evidence_to_the_one_after_it() {
    let mut host = Host::new(settings(|run| run == RunId(2)));
    while evidence(&host, 3).is_none() {
        assert!(host.served < 4_000);
        host.turn(40, CONCEPT);
    }
    assert_eq!(host.run_states()[..2], [RunState::Superseded, RunState::Failed]);
    let (first, third) = (evidence(&host, 1).unwrap(), evidence(&host, 3).unwrap());
    assert_eq!((third.taken_over.candidates, third.taken_over.rounds), (1, first.rounds));
    assert!(third.taken_over.rows >= first.rows);
}

#[test]
fn a_candidate_whose_live_rows_are_measured_is_not_superseded() {
    let required = |builder| settings(|_| false)(builder).require(Requirement::new(Metric::Accuracy, 0.5));
    let mut host = Host::new(required);
    for _ in 0..30 {
        host.turn(40, CONCEPT);
    }
    let states = host.run_states();
    assert!(states.len() > 1 && !states.contains(&RunState::Superseded), "{states:?}");
}
