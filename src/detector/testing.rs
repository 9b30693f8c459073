//! What the tests of all novelty scores share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::{ConformalDetector, NoveltyScore, RowView};
use crate::conformance::{Noise, World};
use crate::reference::{Half, Reference, References};
use crate::schema::{Row, Schema, Target};
use crate::stage::Stage;

/// How often does split conformal flag `found` or more of `n` rows, given `m` calibration rows and the rate? The count is
/// beta-binomial over the draw of the calibration rows: n trials, Beta(k, m + 1 − k) with k = ⌊rate·(m + 1)⌋.
pub(super) fn beta_binomial_upper(found: usize, n: usize, m: usize, rate: f64) -> f64 {
    let ln_beta = |a: f64, b: f64| {
        use statrs::function::gamma::ln_gamma;
        ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
    };
    let k = (rate * (m as f64 + 1.0)).floor();
    let rest = m as f64 + 1.0 - k;
    let mass = |x: usize| {
        let (x, n) = (x as f64, n as f64);
        let ln_choose = -(n + 1.0).ln() - ln_beta(x + 1.0, n - x + 1.0);
        (ln_choose + ln_beta(x + k, n - x + rest) - ln_beta(k, rest)).exp()
    };
    (found..=n).map(mass).sum()
}

/// References of numeric rows.
pub(super) fn numeric(rows: &[Vec<f64>]) -> References {
    let schema = Arc::new(Schema::numeric(rows[0].len(), Target::Value).unwrap());
    let mut builder = Reference::builder(schema.clone());
    for row in rows {
        builder.push(&Row::from_values(&schema, row).unwrap(), None, None).unwrap();
    }
    References::starting_with(Arc::new(builder.finish()))
}

/// Fresh rows are flagged at the stated rate, neither more often nor much less, over draws of the reference.
pub(super) fn the_rate_holds<S: NoveltyScore>(name: &str, make: impl Fn() -> ConformalDetector<S>) {
    let (mut total, cases) = (0, 40);
    for case in 0..cases {
        let mut world = World::classification(&format!("{name} {case}"));
        world.missing = 0.1;
        let references = world.references(400);
        let calibration = references.training.half(Half::Calibration).count();
        let mut detector = make().false_alarm_rate(0.05);
        detector.rebase(&references).unwrap();
        let found = world.run(&mut detector, 500).flags().len();
        let chance = beta_binomial_upper(found, 500, calibration, 0.05);
        assert!(chance > 1e-6, "{found} of 500 flagged: chance {chance}");
        total += found;
    }
    // over calibration draws the rate lies in (0.05 − 1/(m+1), 0.05]; one draw spreads by about 0.018
    let rate = f64::from(total as u32) / (500.0 * f64::from(cases));
    let spread = 5.0 * 0.018 / f64::from(cases).sqrt();
    assert!((0.045 - spread..0.05 + spread).contains(&rate), "{rate}");
}

/// Of 200 rows that are `shift` standard deviations off in one of three columns, at least `least` are flagged at the `rate`, and
/// `a`, the column that is off, is the first cause of nine in ten.
pub(super) fn far_rows_are_found<S: NoveltyScore>(
    mut detector: ConformalDetector<S>,
    shift: f64,
    rate: f64,
    least: usize,
) {
    let mut world = World::classification("far rows");
    detector = detector.false_alarm_rate(rate);
    detector.rebase(&world.references(1_000)).unwrap();
    world.shift = shift;
    let findings = world.run(&mut detector, 200);
    let flags = findings.flags();
    assert!(flags.len() >= least, "{} of 200", flags.len());
    let named = flags.iter().filter(|flag| flag.causes[0].column == "a").count();
    assert!(10 * named >= 9 * flags.len(), "{named} of {}", flags.len());
    for flag in flags {
        assert!((1..=3).contains(&flag.causes.len()) && flag.score > flag.threshold && flag.p_value.unwrap() <= rate);
        assert!(flag.causes.is_sorted_by(|a, b| a.share >= b.share));
    }
}

/// A column twice, a column without values and a constant one: the last two are blind, with their names, and the others scored.
/// A hole is left out. Scoring changes nothing: neither a row's score nor what comes after it.
pub(super) fn odd_columns_do_no_harm<S: NoveltyScore>(mut detector: ConformalDetector<S>) {
    let mut noise = Noise::new("odd columns");
    let mut row = || {
        let (x, y) = (noise.normal(), noise.normal());
        vec![x, x, y, f64::NAN, 4.0]
    };
    let rows: Vec<_> = (0..600).map(|_| row()).collect();
    detector.rebase(&numeric(&rows)).unwrap();
    let blind: Vec<_> = detector.blind().into_iter().filter_map(|blind| blind.column).collect();
    assert_eq!(blind, ["x3", "x4"]);
    let score =
        |detector: &ConformalDetector<S>, row: &[f64]| detector.score(RowView { values: row, ..RowView::default() });
    let ordinary = score(&detector, &[0.1, 0.1, 0.1, 0.0, 4.0]).unwrap();
    let scores: Vec<_> = rows.iter().map(|row| score(&detector, row).unwrap()).collect();
    assert!(scores.iter().any(|&other| other != scores[0]), "all rows score {}", scores[0]);
    for far in [[6.0, 6.0, 0.0, 0.0, 4.0], [0.0, 0.0, -6.0, 0.0, 4.0]] {
        let far = score(&detector, &far).unwrap();
        assert!(far > ordinary && detector.p_value(far).unwrap() < 0.25, "{far} {ordinary}");
    }
    let whole = score(&detector, &[0.1, 0.1, f64::NAN, 9.0, 9.0]).unwrap();
    assert!(whole.is_finite() && whole < score(&detector, &[5.0, 5.0, f64::NAN, 0.0, 4.0]).unwrap());
    assert_eq!(
        score(&detector, &[0.1, 0.1, f64::INFINITY, f64::NAN, f64::NAN]),
        Some(whole),
        "missing and infinite are one"
    );
    assert!(score(&detector, &[f64::NAN; 5]).is_none_or(|score| score == 0.0), "nothing to score");
    let again: Vec<_> = rows.iter().rev().map(|row| score(&detector, row).unwrap()).collect();
    assert!(again.iter().rev().eq(&scores), "scoring changes the scores");
}

/// A row gets the same score whatever rows share its chunk.
pub(super) fn rows_do_not_influence_each_other<S: NoveltyScore>(mut detector: ConformalDetector<S>) {
    let mut world = World::classification("rows beside each other");
    world.missing = 0.1;
    detector = detector.false_alarm_rate(0.5);
    detector.rebase(&world.references(300)).unwrap();
    let mut rows: Vec<_> = (0..100).map(|_| world.observation()).collect();
    let alone: Vec<_> =
        rows.iter().flat_map(|row| world.show(&mut detector, std::slice::from_ref(row)).flags().to_vec()).collect();
    for row in rows.iter_mut().skip(1).step_by(2) {
        row.row.values.fill(1e9);
    }
    let beside = world.show(&mut detector, &rows);
    let even: Vec<_> = rows.iter().step_by(2).map(|row| row.id).collect();
    let of_even = |flags: &[crate::sample::Flag]| -> Vec<_> {
        flags.iter().filter(|flag| even.contains(&flag.prediction)).cloned().collect()
    };
    let alone = of_even(&alone);
    assert!(alone.len() > 5, "{}", alone.len());
    assert_eq!(of_even(beside.flags()), alone);
}
