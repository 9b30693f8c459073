#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::stats::golden::{Case, assert_close, cases, matrix, number, numbers};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const RULES: [(IssueRule, &str); 7] = [
    (IssueRule::PruneByNoiseRate, "prune_by_noise_rate"),
    (IssueRule::PruneByClass, "prune_by_class"),
    (IssueRule::Both, "both"),
    (IssueRule::ConfidentLearning, "confident_learning"),
    (IssueRule::PredictedNotGiven, "predicted_neq_given"),
    (IssueRule::LowNormalizedMargin, "low_normalized_margin"),
    (IssueRule::LowSelfConfidence, "low_self_confidence"),
];

/// Labels, probabilities row by row, number of classes.
fn given(case: &Case) -> (Vec<u32>, Vec<f64>, usize) {
    let probabilities = matrix(&case.inputs["pred_probs"]);
    let labels = numbers(&case.inputs["labels"]).into_iter().map(|label| label as u32).collect();
    (labels, probabilities.iter().copied().collect(), probabilities.ncols())
}

fn assert_matrix(found: &Array2<f64>, expected: &serde_json::Value, what: &str) {
    for (a, b) in found.iter().zip(&matrix(expected)) {
        assert_close(*a, *b, 1e-12, 1e-14, what);
    }
}

#[test]
fn golden_counts_and_rates_match_cleanlab() {
    for case in cases("cleanlab") {
        let (labels, probabilities, classes) = given(&case);
        let fit = Confident::new(Labelled { labels: &labels, probabilities: &probabilities, classes });
        for (found, expected) in fit.thresholds.iter().zip(numbers(&case.outputs["thresholds"])) {
            assert_close(*found, expected, 1e-12, 0.0, &case.name);
        }
        let count = |counts: &Array2<u64>| counts.mapv(|count| count as f64);
        assert_eq!(count(&fit.counted), matrix(&case.outputs["confident_joint_uncalibrated"]), "{}", case.name);
        assert_eq!(count(&fit.joint), matrix(&case.outputs["confident_joint"]), "{}", case.name);
        assert_matrix(&fit.noise_matrix(), &case.outputs["noise_matrix"], &case.name);
        assert_matrix(&fit.inverse_noise_matrix(), &case.outputs["inverse_noise_matrix"], &case.name);
        for (found, expected) in fit.prior().into_iter().zip(numbers(&case.outputs["py"])) {
            assert_close(found, expected, 1e-12, 0.0, &case.name);
        }
    }
}

#[test]
fn golden_issues_and_scores_match_cleanlab() {
    for case in cases("cleanlab") {
        let (labels, probabilities, classes) = given(&case);
        let data = Labelled { labels: &labels, probabilities: &probabilities, classes };
        let fit = Confident::new(data);
        for (rule, name) in RULES {
            let found: Vec<f64> = fit.issues(data, rule).into_iter().map(|row| row as f64).collect();
            let mut expected = numbers(&case.outputs[name]);
            expected.sort_by(f64::total_cmp);
            assert_eq!(found, expected, "{} {name}", case.name);
        }
        let few = number(&case.outputs["num_label_issues"]);
        assert_eq!(fit.issues(data, IssueRule::ConfidentLearning).len() as f64, few, "{}", case.name);
        let quality = &case.outputs["quality"];
        for row in 0..labels.len() {
            let (confidence, margin) = (&quality["self_confidence"][row], &quality["normalized_margin"][row]);
            assert_close(data.self_confidence(row), number(confidence), 1e-12, 0.0, &case.name);
            assert_close(data.normalized_margin(row), number(margin), 1e-12, 1e-14, &case.name);
        }
    }
}

/// `n` rows of three classes; each label is wrong with probability `noise`, which is class + 1 then. The model gives
/// the true class 0.6 to 0.9. Returns labels, probabilities, wrong rows.
fn noisy(n: usize, noise: f64, seed: u64) -> (Vec<u32>, Vec<f64>, Vec<usize>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut labels, mut probabilities, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..n {
        let truth = rng.random_range(0..3_usize);
        let off = usize::from(rng.random::<f64>() < noise);
        wrong.extend((off == 1).then_some(row));
        labels.push(((truth + off) % 3) as u32);
        let (top, split) = (rng.random_range(0.6..0.9), rng.random::<f64>());
        let mut row = [0.0; 3];
        row[truth] = top;
        row[(truth + 1) % 3] = (1.0 - top) * split;
        row[(truth + 2) % 3] = (1.0 - top) * (1.0 - split);
        probabilities.extend(row);
    }
    (labels, probabilities, wrong)
}

#[test]
fn planted_noise_is_found_with_its_rates() {
    for seed in 0..5 {
        let (labels, probabilities, wrong) = noisy(3_000, 0.1, seed);
        let data = Labelled { labels: &labels, probabilities: &probabilities, classes: 3 };
        let fit = Confident::new(data);
        for rule in
            [IssueRule::PruneByNoiseRate, IssueRule::PruneByClass, IssueRule::Both, IssueRule::PredictedNotGiven]
        {
            let found = fit.issues(data, rule);
            let right = found.iter().filter(|row| wrong.contains(row)).count();
            assert!(right as f64 > 0.95 * found.len() as f64, "{rule:?}: {right} of {}", found.len());
            assert!(right as f64 > 0.85 * wrong.len() as f64, "{rule:?}: {right} of {}", wrong.len());
        }
        let noise = fit.noise_matrix();
        for class in 0..3 {
            // 1,000 rows per class: standard error below 0.01
            assert_close(noise[[class, class]], 0.9, 0.0, 0.04, "right");
            assert_close(noise[[(class + 1) % 3, class]], 0.1, 0.0, 0.04, "wrong");
            assert_close(fit.prior()[class], 1.0 / 3.0, 0.0, 0.04, "share");
        }
    }
}

#[test]
fn rounding_keeps_the_total_and_favours_what_is_kept() {
    assert_eq!(round_to(&[0.5, 0.5], 1, 0), [1, 0]);
    assert_eq!(round_to(&[0.5, 0.5], 1, 1), [0, 1]);
    assert_eq!(round_to(&[1.5, 1.5], 3, 0), [2, 1]);
    assert_eq!(round_to(&[1.5, 1.5], 3, 1), [1, 2]);
    assert_eq!(round_to(&[0.4, 0.3, 0.3], 1, 2), [1, 0, 0]);
    assert_eq!(round_to(&[2.0, 0.0], 2, 0), [2, 0]);
}

proptest! {
    #[test]
    fn odd_rows_do_no_harm(
        rows in prop::collection::vec((0..4_u32, prop::collection::vec(0..5_u8, 4)), 0..40),
    ) {
        let labels: Vec<u32> = rows.iter().map(|row| row.0).collect();
        let probabilities: Vec<f64> = rows.iter().flat_map(|row| row.1.iter().map(|p| f64::from(*p) / 4.0)).collect();
        let data = Labelled { labels: &labels, probabilities: &probabilities, classes: 4 };
        let fit = Confident::new(data);
        prop_assert_eq!(fit.joint.sum(), labels.len() as u64);
        prop_assert!((0..4).all(|class| labels.contains(&class) == (fit.joint[[class as usize, class as usize]] > 0)));
        prop_assert!(fit.prior().iter().chain(&fit.noise_matrix()).chain(&fit.inverse_noise_matrix()).all(|x| (0.0..=1.0).contains(x)));
        for (rule, name) in RULES {
            let found = fit.issues(data, rule);
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{}", name);
            prop_assert!(found.iter().all(|row| *row < labels.len()), "{}", name);
            let may_agree = matches!(rule, IssueRule::LowNormalizedMargin | IssueRule::LowSelfConfidence);
            prop_assert!(may_agree || found.iter().all(|row| !data.agrees(*row)), "{}", name);
        }
        let both = fit.issues(data, IssueRule::Both);
        let one = fit.issues(data, IssueRule::PruneByClass);
        prop_assert!(both.iter().all(|row| one.contains(row)));
    }
}
