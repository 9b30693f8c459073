#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::Noise;
use crate::stats::golden::{assert_close, cases, number, numbers};

#[test]
fn golden_tests_of_river_with_its_draws() {
    for case in cases("river_kswin") {
        let size = |key: &str| case.inputs[key].as_u64().unwrap() as usize;
        let mut kswin =
            Kswin::default().alpha(number(&case.inputs["alpha"])).window(size("window_size")).recent(size("stat_size"));
        kswin.rebase(&[]).unwrap();
        let drifts = numbers(&case.outputs["drift"]);
        let pairs = case.outputs["index_pvalue"].as_array().unwrap().iter().map(numbers);
        let mut picks = case.outputs["picked_positions"].as_array().unwrap().iter().map(numbers).zip(pairs).peekable();
        let mut found = Vec::new();
        for (index, value) in numbers(&case.inputs["values"]).into_iter().enumerate() {
            let full = kswin.push(value);
            // elsewhere nobody knows what River drew, only that it saw no drift
            let Some((positions, pair)) = picks.next_if(|(_, pair)| pair[0] == index as f64) else {
                continue;
            };
            assert!(full, "{} at {index}: a test without a window", case.name);
            let older = kswin.positions.len();
            kswin.sides[..older].fill(0);
            positions.iter().for_each(|&position| kswin.sides[position as usize] = -1);
            if kswin.test() == Change::Drift {
                found.push(index as f64);
            }
            assert_close(
                kswin.p_value(kswin.state.difference),
                pair[1],
                1e-9,
                1e-300,
                &format!("{} {index}", case.name),
            );
        }
        assert!(picks.next().is_none());
        assert_eq!(found, drifts, "{}", case.name);
    }
}

#[test]
fn draws_are_uniform_and_without_repetition() {
    let mut kswin = Kswin::default();
    kswin.rebase(&[]).unwrap();
    let mut counts = [0_u32; 70];
    for seen in 0..7_000 {
        kswin.state.seen = seen;
        kswin.draw();
        assert_eq!(kswin.sides[..70].iter().filter(|&&side| side == -1).count(), 30);
        kswin.sides.iter().zip(&mut counts).for_each(|(&side, count)| *count += u32::from(side == -1));
    }
    // 3,000 each, standard deviation 41
    assert!(counts.iter().all(|&count| (2_790..3_210).contains(&count)), "{counts:?}");
}

#[test]
fn finds_a_shift_of_two_deviations_again_and_again() {
    let mut noise = Noise::new("kswin");
    let mut kswin = Kswin::default().alpha(1e-5);
    kswin.rebase(&[]).unwrap();
    let mut found = Vec::new();
    for at in 0..3_000 {
        let level = if at / 1_000 == 1 { 2.0 } else { 0.0 };
        if kswin.update(level + noise.normal()) == Change::Drift {
            found.push(at);
        }
    }
    assert_eq!(found.iter().map(|at| at / 1_000).collect::<Vec<_>>(), [1, 2], "{found:?}");
}
