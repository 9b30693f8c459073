use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

#[test]
fn tails_are_those_of_the_binomial() {
    // 1 - F of the binomial distribution by hand: 4·.1³·.9 + .1⁴, and for 8 the sum of four terms.
    assert!((chance_by_mistakes(4, 3, 0.1) - 0.0037).abs() < 1e-12);
    assert!((chance_by_mistakes(8, 4, 0.1) - 0.005_024_4).abs() < 1e-7);
    assert_eq!((chance_by_mistakes(8, 0, 0.1), chance_by_mistakes(0, 0, 0.1)), (1.0, 1.0));
}

/// The chance of *Fault* over both looks, by going through every sequence of opinions.
fn chance_of_fault(wrong: f64, most: u64) -> f64 {
    let mut fault = 0.0;
    for opinions in 0..(1_u64 << most) {
        let contradicted = |n: u64| (opinions & ((1 << n) - 1)).count_ones().into();
        let first = FIRST_LOOK.min(most);
        let mut verdict = judge(first, contradicted(first), 0.1, most == first);
        if verdict == SecondOpinions::Ask {
            verdict = judge(most, contradicted(most), 0.1, true);
        }
        let k: u64 = contradicted(most);
        let chance = wrong.powi(k as i32) * (1.0 - wrong).powi((most - k) as i32);
        fault += if verdict == SecondOpinions::Fault { chance } else { 0.0 };
    }
    fault
}

#[test]
fn right_labels_are_called_wrong_with_a_chance_of_one_percent_at_most() {
    for most in 1..=8 {
        let chance = chance_of_fault(0.1, most);
        assert!(chance <= FALSE_FAULT, "{most} opinions: {chance}");
    }
    assert!(chance_of_fault(0.1, 8) > 0.003, "so rare that the rule cannot be the stated one");
}

#[test]
fn wrong_labels_are_found() {
    assert!(chance_of_fault(0.9, 8) > 0.998);
    assert!(chance_of_fault(0.9, 4) > 0.94);
    assert!(chance_of_fault(0.5, 8) > 0.6, "half of the contradicting labels are wrong");
}

/// Labels until the CUSUM reaches ln 50, at most `most`.
fn delay(level: f64, chance: f64, most: u32, rng: &mut StdRng) -> u32 {
    let mut sum = 0.0_f64;
    let found = (1..=most).find(|_| {
        sum = (sum + ln_collapse(level, rng.random::<f64>() < chance)).max(0.0);
        sum >= 50.0_f64.ln()
    });
    found.unwrap_or(most)
}

#[test]
fn a_collapse_is_suspected_soon_and_seldom_without_a_cause() {
    let mut rng = StdRng::seed_from_u64(7);
    for level in [0.05, 0.25, 0.4] {
        let runs = 400;
        let mut mean = |chance: f64| {
            f64::from((0..runs).map(|_| delay(level, chance, 1_000, &mut rng)).sum::<u32>()) / f64::from(runs)
        };
        // The claim is 50; capping the runs only makes the mean smaller. Its standard error is below 50 labels.
        let without = mean(level);
        assert!(without > 150.0, "{level}: {without} labels until an opening without a cause");
        let with = mean(1.0 - level);
        assert!(with < if level < 0.3 { 20.0 } else { 80.0 }, "{level}: {with} labels until a swap is suspected");
    }
}

#[test]
fn levels_begin_with_the_claim_and_follow_the_labels() {
    let mut levels = Levels::default();
    let before = levels.chance(0.9);
    assert!(before > 0.1 && before < 0.4, "the claim is 0.1, and little is known: {before}");
    assert!((levels.mean(0.9, 0.1) - 0.1).abs() < 1e-12);
    for row in 0..300 {
        levels.observe(0.9, row % 2 == 0);
    }
    let half = levels.chance(0.9);
    assert!(half > 0.4 && half < 0.65, "half of the labels contradict: {half}");
    assert_eq!(levels.chance(0.7), Levels::default().chance(0.7), "other bins know nothing of it");
    levels.restart(&[(0.9, false); 30]);
    assert!(levels.chance(0.9) < 0.15);
}

#[test]
fn no_input_leaves_the_numbers() {
    let mut levels = Levels::default();
    for sure in [f64::NAN, -1.0, 0.0, 1.0, 7.0] {
        let chance = levels.chance(sure);
        assert!((MARGIN..=1.0 - MARGIN).contains(&chance), "{sure}: {chance}");
        levels.observe(sure, true);
        assert!(ln_collapse(levels.chance(sure), true).is_finite());
        assert!(ln_collapse(levels.chance(sure), false).is_finite());
    }
}
