//! Cases that broke other libraries, each by its name; for every test of a column.

use super::super::testing::{Plain, holds};
use super::{CATEGORY, NUMERIC};
use crate::conformance::Noise;
use crate::schema::{Field, Schema, Target};
use crate::{KsDrift, NumericTest, Stage};

fn drift(test: NumericTest) -> KsDrift {
    KsDrift::default().numeric_test(test).window(200)
}

fn shifted(noise: &mut Noise) -> f64 {
    noise.normal() + 1.0
}

/// Alternates between the cells of two columns.
fn pair(
    mut first: impl FnMut(&mut Noise) -> f64,
    mut second: impl FnMut(&mut Noise) -> f64,
) -> impl FnMut(&mut Noise) -> f64 {
    let mut column = 0;
    move |noise| {
        column += 1;
        if column % 2 == 1 { first(noise) } else { second(noise) }
    }
}

#[test]
fn a_constant_or_empty_reference_column_is_not_computed_and_the_rest_is_tested() {
    for test in NUMERIC {
        for (value, reason) in
            [(4.0, "not computed: constant in the reference"), (f64::NAN, "not computed: no value in the reference")]
        {
            let mut plain = Plain::new("degenerate reference", 2);
            let mut drift = drift(test);
            let alarms = plain.alarms(&mut drift, 400, 200, pair(|_| value, Noise::normal), pair(|_| value, shifted));
            assert_eq!(drift.blind().len(), 1, "{test:?}");
            assert_eq!((drift.blind()[0].column.as_deref(), drift.blind()[0].reason.as_str()), (Some("x0"), reason));
            let columns: Vec<_> = alarms[0].readings.iter().map(|reading| reading.column.as_str()).collect();
            assert_eq!(columns, ["x1"], "{test:?}");
        }
    }
}

#[test]
fn an_empty_column_of_the_window_does_not_kill_the_report() {
    for test in NUMERIC {
        let mut plain = Plain::new("empty column", 2);
        let empty = pair(|_| f64::NAN, shifted);
        let alarms = plain.alarms(&mut drift(test), 400, 200, Noise::normal, empty);
        let mut columns: Vec<_> = alarms[0].readings.iter().map(|reading| reading.column.as_str()).collect();
        columns.sort_unstable();
        assert_eq!(columns, ["x0", "x1"], "{test:?}: the values of the one, the missing share of the other");
    }
}

#[test]
fn a_shift_of_the_null_rate_is_visible() {
    for test in NUMERIC {
        let mut plain = Plain::new("null rate", 1);
        let holes = |noise: &mut Noise| if noise.chance(0.2) { f64::NAN } else { noise.normal() };
        let alarms = plain.alarms(&mut drift(test), 400, 200, Noise::normal, holes);
        assert!(alarms[0].text.contains("missing 0.0 % →"), "{test:?}: {}", alarms[0].text);
    }
}

#[test]
fn unseen_categories_and_missing_ones_are_levels() {
    for test in CATEGORY {
        for odd in [9.0, f64::NAN] {
            let mut plain = Plain::categories("unseen", 1, 4);
            let mut drift = KsDrift::default().category_test(test).window(200);
            let live = |noise: &mut Noise| if noise.chance(0.15) { odd } else { (noise.uniform() * 4.0).floor() };
            let alarms = plain.alarms(&mut drift, 600, 200, |noise| (noise.uniform() * 4.0).floor(), live);
            assert_eq!(alarms.len(), 1, "{test:?} {odd}");
        }
    }
}

#[test]
fn a_category_that_is_absent_from_the_window_or_the_reference_counts() {
    for test in CATEGORY {
        for (before, after) in [(4.0, 3.0), (3.0, 4.0)] {
            let level = |levels: f64| move |noise: &mut Noise| (noise.uniform() * levels).floor();
            let mut plain = Plain::categories("absent", 1, 4);
            let mut drift = KsDrift::default().category_test(test).window(200);
            let alarms = plain.alarms(&mut drift, 600, 200, level(before), level(after));
            assert_eq!(alarms.len(), 1, "{test:?}: {before} levels, then {after}");
        }
    }
}

#[test]
fn columns_of_all_types_are_tested_or_named_as_blind() {
    let fields = [
        Field::number("number").nullable(),
        Field::integer("integer"),
        Field::boolean("boolean"),
        Field::category("category", ["0", "1"]),
        Field::text("text", 8).nullable(),
        Field::timestamp("timestamp").nullable(),
    ];
    let schema = Schema::new(fields, Target::classes(["no", "yes"])).unwrap();
    let mut plain = Plain::of("mixed types", schema);
    let coin = |noise: &mut Noise| f64::from(u8::from(noise.chance(0.5)));
    let biased = |noise: &mut Noise| f64::from(u8::from(noise.chance(0.9)));
    for test in NUMERIC {
        let mut drift = drift(test);
        let alarms = plain.alarms(&mut drift, 400, 200, coin, biased);
        let blind: Vec<_> = drift.blind().into_iter().filter_map(|blind| blind.column).collect();
        assert_eq!(blind, ["text", "timestamp"], "{test:?}");
        assert_eq!(alarms[0].readings.len(), 4, "{test:?}: {:?}", alarms[0]);
    }
}

#[test]
fn high_cardinality_neither_floods_nor_hides() {
    for test in CATEGORY {
        let level = |noise: &mut Noise| (noise.uniform() * noise.uniform() * 2_000.0).floor();
        let mut found = 0;
        for case in 0..40 {
            let mut plain = Plain::categories(&format!("high cardinality {case}"), 1, 2_000);
            let mut drift =
                KsDrift::default().category_test(test).window(200).false_alarm_rate(0.05).minimum_effect(0.0);
            found += plain.alarms(&mut drift, 1_000, 200, level, level).len();
        }
        assert!(holds(found, 40, 0.05), "{test:?}: {found} of 40");
        let mut plain = Plain::categories("high cardinality, changed", 1, 2_000);
        let mut drift = KsDrift::default().category_test(test).window(200);
        let one = |noise: &mut Noise| if noise.chance(0.2) { 1_999.0 } else { level(noise) };
        assert_eq!(plain.alarms(&mut drift, 1_000, 200, level, one).len(), 1, "{test:?}");
    }
}

#[test]
fn counts_are_tested_for_homogeneity_not_for_goodness_of_fit() {
    // a goodness-of-fit test that takes 200 reference rows for the truth rejects a third of the windows at 0.05
    let level = |noise: &mut Noise| (noise.uniform() * 5.0).floor();
    for test in CATEGORY {
        let found: usize = (0..300)
            .map(|case| {
                let mut plain = Plain::categories(&format!("homogeneity {case}"), 1, 5);
                let mut drift =
                    KsDrift::default().category_test(test).window(200).false_alarm_rate(0.05).minimum_effect(0.0);
                plain.alarms(&mut drift, 200, 200, level, level).len()
            })
            .sum();
        assert!(holds(found, 300, 0.05), "{test:?}: {found} of 300");
        assert!(found > 0, "{test:?} never rejects");
    }
}

#[test]
fn the_smallest_window_is_tested() {
    // two observations below all of the reference: 2 of C(102, 2) arrangements are as extreme
    for test in NUMERIC {
        let mut plain = Plain::new("two observations", 1);
        let mut drift = drift(test).window(2).false_alarm_rate(0.05);
        plain.alarms(&mut drift, 100, 2, Noise::normal, |noise| noise.normal() - 50.0);
        let p = drift.last_readings()[0].p_value.unwrap();
        let binned =
            [NumericTest::PopulationStability, NumericTest::JensenShannon, NumericTest::Hellinger].contains(&test);
        // both in one of ten bins
        assert!(if binned { (0.005..0.2).contains(&p) } else { p < 0.01 }, "{test:?}: {p}");
    }
}

#[test]
fn huge_ranges_take_no_memory_and_no_time() {
    for test in NUMERIC {
        let mut plain = Plain::new("huge range", 1);
        let wide = |noise: &mut Noise| noise.normal() * 10_f64.powf(600.0 * noise.uniform() - 300.0);
        let alarms = plain.alarms(&mut drift(test), 400, 200, wide, wide);
        assert!(alarms.is_empty(), "{test:?}: {alarms:?}");
        let larger = |noise: &mut Noise| 1e300 * (1.0 + noise.uniform());
        let alarms = plain.alarms(&mut drift(test), 400, 200, wide, larger);
        assert_eq!(alarms.len(), 1, "{test:?}");
        assert!(alarms[0].readings.iter().all(|r| r.statistic.is_finite() && r.effect.is_finite()), "{test:?}");
    }
}

#[test]
fn one_outlier_of_a_million_does_not_hide_a_shift() {
    let spoilt = |live: bool| {
        let mut first = true;
        move |noise: &mut Noise| {
            if std::mem::take(&mut first) { 1e6 } else { noise.normal() + f64::from(u8::from(live)) }
        }
    };
    for test in NUMERIC.into_iter().filter(|&test| test != NumericTest::Wasserstein) {
        let mut plain = Plain::new("outlier", 1);
        assert_eq!(plain.alarms(&mut drift(test), 400, 200, Noise::normal, spoilt(true)).len(), 1, "{test:?}: window");
        assert_eq!(plain.alarms(&mut drift(test), 400, 200, spoilt(false), shifted).len(), 1, "{test:?}: reference");
    }
}

#[test]
fn an_offset_changes_nothing() {
    for test in NUMERIC {
        let readings = |offset: f64| {
            // values on a grid that the offset keeps exact
            let cell = move |noise: &mut Noise| (noise.normal() * 1024.0).round() / 1024.0 + offset;
            let mut plain = Plain::new("offset", 1);
            let mut drift = drift(test).minimum_effect(0.0);
            assert!(plain.alarms(&mut drift, 400, 200, cell, cell).is_empty(), "{test:?}");
            drift.last_readings().remove(0)
        };
        let (near, far) = (readings(0.0), readings(1e4));
        assert_eq!(near.p_value, far.p_value, "{test:?}");
        assert!((near.statistic - far.statistic).abs() < 1e-9, "{test:?}: {near:?} {far:?}");
    }
}

#[test]
fn ties_do_not_make_kolmogorov_smirnov_blind() {
    // without ties taken into account it rejects 0.7 % at a nominal 5 %
    let rounded = |noise: &mut Noise| noise.normal().round();
    for test in [NumericTest::KolmogorovSmirnov, NumericTest::KolmogorovSmirnovTies] {
        let (mut found, trials) = (0, 600);
        for case in 0..trials {
            let mut plain = Plain::new(&format!("ties {case}"), 1);
            // two tests share the level, the missing share never alarms
            let mut drift = drift(test).window(100).false_alarm_rate(0.1).minimum_effect(0.0);
            found += plain.alarms(&mut drift, 300, 100, rounded, rounded).len();
        }
        assert!(holds(found, trials, 0.05), "{test:?}: {found} of {trials}");
        assert!(found * 100 >= trials * 2, "{test:?}: {found} of {trials}, 5 % are allowed");
    }
}

#[test]
fn the_p_value_of_ten_against_ten_is_exact() {
    // D = 0.4: exact 0.41752 (scipy.stats.ks_2samp), asymptotic 0.31
    let p_value = |minimum_effect: f64| {
        let mut drift = KsDrift::default().window(10).minimum_effect(minimum_effect);
        let mut plain = Plain::new("ten", 1);
        let (mut before, mut after) = (0.0, 3.5);
        let up = |next: &mut f64| {
            *next += 1.0;
            *next
        };
        plain.alarms(&mut drift, 10, 10, |_| up(&mut before), |_| up(&mut after));
        let reading = &drift.last_readings()[0];
        assert!((reading.statistic - 0.4).abs() < 1e-12);
        reading.p_value.unwrap()
    };
    assert!((p_value(0.0) - 0.417_523_652_817_770_4).abs() < 1e-9, "{}", p_value(0.0));
    // below the minimum effect an approximation will do
    assert!((p_value(0.5) - 0.31).abs() < 0.01, "{}", p_value(0.5));
}

#[test]
fn infinities_are_missing_and_never_reach_json() {
    for test in NUMERIC {
        for odd in [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN] {
            let mut plain = Plain::new("infinity", 1);
            let mut drift = drift(test);
            let alarms = plain.alarms(&mut drift, 400, 200, Noise::normal, |_| odd);
            assert_eq!(alarms.len(), 1, "{test:?} {odd}");
            let text = serde_json::to_string(&(&alarms, drift.last_readings())).unwrap();
            assert!(!text.contains("null"), "{test:?} {odd}: {text}");
            let back: (Vec<crate::Alarm>, Vec<crate::Reading>) = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0, alarms);
        }
    }
}
