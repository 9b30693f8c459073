#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::Noise;
use crate::stats::binomial::lower;

/// May `found` of `trials` come of a probability of at most `rate`? Wrong once in a million runs.
fn holds(found: usize, trials: usize, rate: f64) -> bool {
    lower(found as u64, trials as u64, 1.0 - 1e-6) <= rate
}

/// Runs that alarm within `length` values, each after a baseline of its own.
fn alarms(
    name: &str,
    (runs, length, baseline): (usize, usize, usize),
    detector: &ConformalMartingale,
    mut value: impl FnMut(&mut Noise, usize) -> f64,
) -> usize {
    let mut noise = Noise::new(name);
    let mut run = |_: &usize| {
        let mut detector = detector.clone();
        let baseline: Vec<f64> = (0..baseline).map(|_| value(&mut noise, 0)).collect();
        detector.rebase(&baseline).unwrap();
        (1..=length).any(|at| detector.update(value(&mut noise, at)) == Change::Drift)
    };
    (0..runs).filter(&mut run).count()
}

fn error(noise: &mut Noise, rate: f64) -> f64 {
    f64::from(u8::from(noise.chance(rate)))
}

/// M − n is a martingale, so a run of n values alarms with a probability of at most n / length.
fn run_length_holds(runs: usize) {
    type Value = fn(&mut Noise, usize) -> f64;
    let kinds: [(&str, Value); 4] = [
        ("normal", |noise, _| noise.normal()),
        ("heavy tails", |noise, _| noise.normal() / noise.normal()),
        ("rounded", |noise, _| noise.normal().round()),
        ("errors", |noise, _| error(noise, 0.05)),
    ];
    for direction in [Direction::Both, Direction::Up] {
        let detector = ConformalMartingale::default().average_run_length(1_000.0).direction(direction).baseline(20);
        for (name, value) in kinds {
            // a small baseline, where a fixed reference would fail
            let found = alarms(name, (runs, 300, 20), &detector, value);
            assert!(holds(found, runs, 0.3), "{found} of {runs} runs of {name}");
            assert!(found >= runs / 50, "{found} of {runs} runs of {name}: far too strict");
        }
    }
}

#[test]
fn the_run_length_holds_for_every_distribution() {
    run_length_holds(300);
}

#[test]
#[ignore = "heavy: the same with 10,000 runs each"]
fn the_run_length_holds_for_every_distribution_with_many_runs() {
    run_length_holds(10_000);
}

#[test]
fn bets_pay_one_on_average() {
    let mut noise = Noise::new("payments");
    let (mut sums, runs) = ([0.0; BETS.len()], 40_000);
    for _ in 0..runs / 20 {
        let baseline: Vec<f64> = (0..30).map(|_| noise.normal().round()).collect();
        let mut ranks = Ranks::new(&baseline);
        for _ in 0..20 {
            let (from, to) = ranks.rank(noise.normal().round());
            assert!((0.0..1.0).contains(&from) && from < to && to <= 1.0);
            sums.iter_mut().zip(densities(from, to)).for_each(|(sum, paid)| *sum += paid);
        }
    }
    for ((bet, ..), sum) in BETS.iter().zip(sums) {
        let mean = sum / f64::from(runs);
        assert!((mean - 1.0).abs() < 0.04, "{bet:?} pays {mean}");
    }
}

#[test]
fn densities_are_densities() {
    let whole = densities(0.0, 1.0);
    assert!(whole.iter().all(|paid| (paid - 1.0).abs() < 1e-12), "{whole:?}");
    // two parts average to the whole, wherever the cut is
    for cut in [0.1, 0.25, 1.0 / 512.0, 0.9999] {
        let (low, high) = (densities(0.0, cut), densities(cut, 1.0));
        for (low, high) in low.iter().zip(high) {
            assert!((cut * low + (1.0 - cut) * high - 1.0).abs() < 1e-9);
        }
    }
    // a shift by 1 at the middle: exp(−1/2)
    let shift = BETS.iter().position(|(bet, ..)| *bet == Bet::Shift(1.0)).unwrap();
    assert!((densities(0.4999, 0.5001)[shift] - (-0.5_f64).exp()).abs() < 2e-3);
}

#[test]
fn finds_a_shift_a_spread_and_more_errors() {
    let sizes = (60, 300, 300);
    let numbers = ConformalMartingale::default();
    let after = |at: usize| at > 50;
    let shifted = |noise: &mut Noise, at: usize| noise.normal() - f64::from(u8::from(after(at)));
    assert_eq!(alarms("shift", sizes, &numbers, shifted), 60);
    let spread = |noise: &mut Noise, at: usize| noise.normal() * if after(at) { 2.0 } else { 1.0 };
    assert_eq!(alarms("spread", sizes, &numbers, spread), 60);
    let errors = |noise: &mut Noise, at: usize| error(noise, if after(at) { 0.4 } else { 0.1 });
    let up = numbers.clone().direction(Direction::Up);
    assert_eq!(alarms("errors", sizes, &up, errors), 60);
    assert_eq!(alarms("wrong side", sizes, &up, shifted), 0);
}

/// Counts of lower values and of equal ones, as far as the kept points tell.
#[test]
fn ranks_count_all_values_so_far() {
    let mut noise = Noise::new("ranks");
    let baseline: Vec<f64> = (0..1_500).map(|_| (noise.normal() * 50.0).round()).collect();
    let (mut ranks, mut seen) = (Ranks::new(&baseline), baseline);
    for _ in 0..500 {
        let value = (noise.normal() * 60.0).round();
        let (from, to) = ranks.rank(value);
        let at_point = ranks.points().contains(&value);
        let all = (seen.len() + 1) as f64;
        let less = seen.iter().filter(|&&other| other < value).count() as f64;
        let equal = seen.iter().filter(|&&other| other == value).count() as f64;
        if at_point {
            assert_eq!((from, to), (less / all, (less + equal + 1.0) / all));
        } else {
            assert!(from <= less / all && (less + equal + 1.0) / all <= to);
        }
        seen.push(value);
    }
    let again = Ranks::restore(ranks.points().to_vec(), ranks.counts()).unwrap();
    assert_eq!(again, ranks);
    assert!(Ranks::restore(vec![2.0, 1.0], &[0; 5]).is_none());
    assert!(Ranks::restore(vec![1.0], &[0; 2]).is_none());
}

#[test]
fn without_a_baseline_the_stream_gives_one() {
    let mut noise = Noise::new("baseline");
    let mut detector = ConformalMartingale::default();
    detector.rebase(&[]).unwrap();
    assert!(detector.blind().unwrap().contains("0 of the 300"));
    for _ in 0..300 {
        detector.update(noise.normal());
    }
    assert_eq!(detector.blind(), None);
    let delay = (1..).find(|_| detector.update(2.0 + noise.normal()) == Change::Drift).unwrap();
    assert!(delay < 30, "{delay}");
    assert!(detector.evidence().effect >= 0.25 && detector.evidence().statistic >= 1e4);
    detector.update(2.0);
    assert!(detector.blind().is_some(), "after an alarm it learns anew");
}

#[test]
fn a_state_of_another_baseline_is_not_taken_over() {
    let baseline: Vec<f64> = (0..400).map(f64::from).collect();
    let (mut first, mut second) = (ConformalMartingale::default(), ConformalMartingale::default());
    first.rebase(&baseline).unwrap();
    (0..5).for_each(|_| {
        first.update(1e3);
    });
    second.rebase(&baseline[1..]).unwrap();
    second.restore(&first.snapshot().unwrap()).unwrap();
    assert_eq!(second.evidence().statistic, 0.0);
    second.rebase(&baseline).unwrap();
    second.restore(&first.snapshot().unwrap()).unwrap();
    assert_eq!(second.evidence(), first.evidence());
}

#[test]
fn a_long_change_in_the_other_direction_does_not_deafen_it() {
    let mut noise = Noise::new("the other direction");
    let baseline: Vec<f64> = (0..4_000).map(|_| noise.normal()).collect();
    let mut detector = ConformalMartingale::default().direction(Direction::Up);
    detector.rebase(&baseline).unwrap();
    for _ in 0..5_000 {
        assert_eq!(detector.update(noise.normal() - 2.0), Change::None);
    }
    assert!(detector.statistic().is_finite());
    let delay = (0..5_000).position(|_| detector.update(noise.normal() + 2.0) == Change::Drift);
    assert!(delay.is_some_and(|delay| delay < 3_000), "{delay:?}");
}
