//! False alarms under no change stay within the stated rate, and a change is found; for every test.

use super::super::testing::{Plain, holds};
use super::{CATEGORY, NUMERIC};
use crate::conformance::Noise;
use crate::schema::{Field, Schema, Target};
use crate::{KsDrift, NumericTest, Stage};

/// What the cells of a stream look like.
#[derive(Debug, Clone, Copy)]
enum Cells {
    Continuous,
    Rounded,
    Discrete,
    Levels,
}

impl Cells {
    fn draw(self, noise: &mut Noise, missing: f64, shift: f64) -> f64 {
        if noise.chance(missing) {
            return f64::NAN;
        }
        match self {
            Cells::Continuous => noise.normal() + shift,
            Cells::Rounded => ((noise.normal() + shift) * 2.0).round() / 2.0,
            // counts with much mass at 0
            Cells::Discrete => ((noise.normal() + shift).exp() * 0.7).floor(),
            Cells::Levels => ((noise.normal() + shift) * 1.2 + 3.0).clamp(0.0, 6.9).floor(),
        }
    }
}

/// One case of the simulation.
#[derive(Debug, Clone, Copy)]
struct Case {
    cells: Cells,
    missing: f64,
    columns: usize,
    reference: usize,
    window: usize,
}

impl Case {
    fn plain(self, name: &str) -> Plain {
        let name = format!("{name} {self:?}");
        match self.cells {
            Cells::Levels => Plain::categories(&name, self.columns, 7),
            _ => Plain::new(&name, self.columns),
        }
    }

    /// Trials with an alarm, each with a reference of its own: under no change, and after a shift.
    fn alarms(self, name: &str, drift: &KsDrift, trials: usize, shift: f64) -> usize {
        let mut plain = self.plain(name);
        let found = |_: &usize| {
            let mut drift = drift.clone().window(self.window);
            let still = |noise: &mut Noise| self.cells.draw(noise, self.missing, 0.0);
            let moved = |noise: &mut Noise| self.cells.draw(noise, self.missing, shift);
            !plain.alarms(&mut drift, self.reference, self.window, still, moved).is_empty()
        };
        (0..trials).filter(found).count()
    }

    fn check(self, name: &str, drift: &KsDrift, trials: usize, rate: f64) {
        let drift = drift.clone().false_alarm_rate(rate).minimum_effect(0.0);
        let found = self.alarms(name, &drift, trials, 0.0);
        assert!(holds(found, trials, rate), "{name} {self:?}: {found} of {trials} at {rate}");
    }
}

/// A shift of one standard deviation is found.
fn power(name: &str, drift: &KsDrift, case: Case) {
    let drift = drift.clone().false_alarm_rate(0.02);
    let found = case.alarms(name, &drift, 15, 1.0);
    assert!(found >= 14, "{name} {case:?}: {found} of 15");
}

const MIDDLE: Case = Case { cells: Cells::Continuous, missing: 0.0, columns: 1, reference: 120, window: 60 };

/// The level is scaled up, so that few repetitions say much and permutations stop early.
const SCALED: f64 = 0.4;

#[test]
fn numeric_tests_hold_their_rate_and_find_a_shift() {
    for test in NUMERIC {
        let (name, drift) = (format!("{test:?}"), KsDrift::default().numeric_test(test));
        for (cells, missing) in [(Cells::Continuous, 0.0), (Cells::Rounded, 0.0), (Cells::Discrete, 0.2)] {
            let case = Case { cells, missing, ..MIDDLE };
            case.check(&name, &drift, 250, SCALED);
            power(&name, &drift, Case { window: 200, reference: 400, ..case });
        }
        Case { columns: 8, ..MIDDLE }.check(&name, &drift, 100, SCALED);
    }
}

#[test]
fn category_tests_hold_their_rate_and_find_a_shift() {
    for test in CATEGORY {
        let (name, drift) = (format!("{test:?}"), KsDrift::default().category_test(test));
        for missing in [0.0, 0.2] {
            let case = Case { cells: Cells::Levels, missing, ..MIDDLE };
            case.check(&name, &drift, 250, SCALED);
            Case { columns: 8, ..case }.check(&name, &drift, 100, SCALED);
            power(&name, &drift, Case { window: 200, reference: 400, ..case });
        }
    }
}

/// False alarms of every test on the same data, and what they find after a shift of one standard deviation.
fn grid(case: Case, trials: usize, rate: f64) {
    let name = "grid";
    let tests: Vec<(String, KsDrift)> = match case.cells {
        Cells::Levels => CATEGORY.map(|test| (format!("{test:?}"), KsDrift::default().category_test(test))).into(),
        _ => NUMERIC.map(|test| (format!("{test:?}"), KsDrift::default().numeric_test(test))).into(),
    };
    let (mut false_alarms, mut found) = (vec![0; tests.len()], vec![0; tests.len()]);
    let mut plain = case.plain(name);
    for _ in 0..trials {
        let references = plain.references(case.reference, |noise| case.cells.draw(noise, case.missing, 0.0));
        let still = plain.observations(case.window, |noise| case.cells.draw(noise, case.missing, 0.0));
        let moved = plain.observations(case.window, |noise| case.cells.draw(noise, case.missing, 1.0));
        for (test, (_, drift)) in tests.iter().enumerate() {
            let mut drift = drift.clone().window(case.window).false_alarm_rate(rate).minimum_effect(0.0);
            drift.rebase(&references).unwrap();
            false_alarms[test] += plain.show(&mut drift, &still).len();
            found[test] += plain.show(&mut drift, &moved).len();
        }
    }
    for (test, (name, _)) in tests.iter().enumerate() {
        let (wrong, right) = (false_alarms[test], found[test]);
        println!("{name} {case:?}: {wrong} false, {right} found, of {trials} at {rate}");
        assert!(holds(wrong, trials, rate), "{name} {case:?}: {wrong} of {trials} at {rate}");
        // 20 values leave a test of counts little to see: no floor there
        let enough = case.window < 200 || right * 10 >= trials * 9;
        assert!(enough, "{name} {case:?}: found {right} of {trials}");
    }
}

/// All kinds of cells, with and without missing ones, in 1, 8 and 64 columns.
fn full_grid(reference: usize, window: usize, trials: usize) {
    for columns in [1, 8, 64] {
        for missing in [0.0, 0.2] {
            for cells in [Cells::Continuous, Cells::Rounded, Cells::Discrete, Cells::Levels] {
                grid(Case { cells, missing, columns, reference, window }, (trials / columns).max(40), 0.2);
            }
        }
    }
}

#[test]
#[ignore = "minutes: the full grid of columns and kinds of data"]
fn every_test_holds_its_rate_in_windows_of_20() {
    full_grid(20, 20, 1_000);
    full_grid(4_000, 20, 250);
}

#[test]
#[ignore = "minutes: the full grid of columns and kinds of data"]
fn every_test_holds_its_rate_in_windows_of_200() {
    full_grid(500, 200, 500);
}

#[test]
#[ignore = "half an hour: the full grid of columns and kinds of data"]
fn every_test_holds_its_rate_in_windows_of_2_000() {
    full_grid(4_000, 2_000, 100);
}

#[test]
#[ignore = "half an hour: the full grid of columns and kinds of data"]
fn every_test_holds_its_rate_in_windows_of_20_000() {
    full_grid(20_000, 20_000, 50);
}

#[test]
fn numbers_and_categories_share_one_rate() {
    let fields = [Field::number("number").nullable(), Field::category("category", ["0", "1", "2"]).nullable()];
    let schema = Schema::new(fields, Target::classes(["no", "yes"])).unwrap();
    let (mut found, trials) = (0, 300);
    let mut plain = Plain::of("one rate", schema);
    for _ in 0..trials {
        let cell = |noise: &mut Noise| (noise.normal() + 1.0).clamp(0.0, 2.5);
        let mut drift = KsDrift::default()
            .numeric_test(NumericTest::PopulationStability)
            .window(80)
            .false_alarm_rate(0.1)
            .minimum_effect(0.0);
        found += plain.alarms(&mut drift, 160, 80, cell, cell).len();
        assert!(drift.blind().is_empty());
    }
    assert!(holds(found, trials, 0.1), "{found} of {trials}");
    assert!(found > 0, "never an alarm: far too strict");
}
