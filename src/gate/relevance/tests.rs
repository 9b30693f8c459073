#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::event::Label;
use crate::gate::testing::{context, sample};
use crate::sample::{Lane, Sample};
use crate::schema::{Field, MISSING_CODE, Row, Schema, Target, UNSEEN_CODE, Violation, ViolationKind};
use crate::stats::sampling::unit_interval;

fn schema() -> Schema {
    let fields = [
        Field::number("size").nullable(),
        Field::number("sparse").nullable(),
        Field::number("age").nullable().range(0.0, 1e9),
        Field::category("country", ["DE", "FR", "IT"]).nullable(),
        Field::boolean("new").nullable(),
        Field::number("wealth").nullable(),
    ];
    Schema::new(fields, Target::Value).unwrap()
}

/// Row `n`: size about 1,000 ± 50, sparse 0 nine times of ten, age 0 to 80, country DE or FR, new 0 or 1, wealth from 1
/// to a million, evenly in its logarithm, 5 % of sizes missing.
fn fill(row: &mut Row, n: u64) {
    let unit = |what: u64| unit_interval(what, &n.to_le_bytes());
    row.values[0] = if unit(0) < 0.05 { f64::NAN } else { 1_000.0 + 100.0 * (unit(1) - 0.5) };
    row.values[1] = if unit(2) < 0.9 { 0.0 } else { unit(3) + 0.5 };
    row.values[2] = 80.0 * unit(4);
    row.values[3] = f64::from(unit(5) < 0.01);
    row.codes[0] = u32::from(unit(6) < 0.5);
    row.values[4] = 10.0_f64.powf(6.0 * unit(7));
}

fn training() -> References {
    let schema = Arc::new(schema());
    let mut builder = Reference::builder(schema.clone());
    for n in 0..3_000 {
        let mut row = Row::new(&schema);
        fill(&mut row, n);
        builder.push(&row, None, None).unwrap();
    }
    References::starting_with(Arc::new(builder.finish()))
}

fn batch(rows: u64, lane: Lane, change: impl Fn(u64, &mut Row)) -> Vec<Sample> {
    let schema = schema();
    (0..rows)
        .map(|n| {
            let mut sample = sample(&schema, u128::from(n));
            fill(&mut sample.observation.row, n + 1_000_000);
            change(n, &mut sample.observation.row);
            sample.lane = lane;
            sample
        })
        .collect()
}

fn audit(gate: &mut Relevance, references: &References, samples: &[Sample]) -> Audit {
    let schema = schema();
    let rows: Vec<_> =
        samples.iter().map(|sample| DraftRow { sample, label: Label::Value(0.0), weight: 1.0 }).collect();
    gate.audit(&BatchDraft { rows: &rows }, &context(&schema, references)).unwrap()
}

fn held(change: impl Fn(u64, &mut Row)) -> Option<String> {
    match audit(&mut Relevance::default(), &training(), &batch(300, Lane::Flagged, change)) {
        Audit::Hold(reason) => {
            assert_eq!(reason.code, "broken_feed");
            Some(reason.detail)
        }
        _ => None,
    }
}

fn novel_share(audit: &Audit) -> f64 {
    let Audit::Pass(notes) = audit else { panic!("{audit:?}") };
    assert_eq!(notes[0].code, "novel_share");
    notes[0].detail.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn sound_batches_pass_with_hardly_anything_novel() {
    let (mut gate, references) = (Relevance::default(), training());
    for seed in 0..200 {
        let samples = batch(50, Lane::Random, |n, row| fill(row, 5_000_000 + 50 * seed + n));
        let share = novel_share(&audit(&mut gate, &references, &samples));
        assert!(share <= 0.1, "batch {seed}: {share}");
    }
}

#[test]
fn novelty_passes_and_its_share_is_noted() {
    let references = training();
    let share = |change: fn(u64, &mut Row)| {
        novel_share(&audit(&mut Relevance::default(), &references, &batch(300, Lane::Flagged, change)))
    };
    assert_eq!(share(|_, row| row.values[0] = 2_000.0), 1.0, "a new region is no broken feed");
    assert!((share(|n, row| row.values[2] = if n < 150 { 900.0 } else { 40.0 }) - 0.5).abs() < 0.05);
    assert_eq!(share(|_, row| row.codes[0] = 2), 1.0, "allowed, but not in the training data");
    assert_eq!(share(|_, row| row.codes[0] = UNSEEN_CODE), 1.0);
}

#[test]
fn a_column_that_lost_its_values_holds_the_batch() {
    assert!(
        held(|n, row| row.values[2] = if n % 2 == 0 { f64::NAN } else { row.values[2] }).unwrap().contains("`age`")
    );
    assert!(held(|n, row| row.codes[0] = if n % 2 == 0 { MISSING_CODE } else { 0 }).unwrap().contains("`country`"));
}

#[test]
fn a_small_or_uncertain_rise_of_missing_values_is_a_note_only() {
    let references = training();
    let samples = batch(300, Lane::Flagged, |n, row| {
        if n % 6 == 0 {
            row.values[2] = f64::NAN
        }
    });
    let Audit::Pass(notes) = audit(&mut Relevance::default(), &references, &samples) else { panic!() };
    assert!(notes[1].code == "missing_shift" && notes[1].detail.starts_with("`age` +16.7 points"), "{notes:?}");
    let samples = batch(20, Lane::Flagged, |n, row| row.values[0] = if n < 6 { f64::NAN } else { 1_000.0 });
    let verdict = audit(&mut Relevance::default(), &references, &samples);
    assert!(matches!(verdict, Audit::Pass(_)), "6 of 20 may be chance: {verdict:?}");
}

#[test]
fn a_wrong_unit_holds_the_batch_in_both_directions() {
    assert!(held(|_, row| row.values[0] *= 1_000.0).unwrap().contains("unit or scale"));
    assert!(held(|_, row| row.values[2] /= 1_000.0).unwrap().contains("`age`"));
    assert!(held(|_, row| row.values[1] *= 1_000.0).unwrap().contains("`sparse`"));
    assert_eq!(held(|_, row| row.values[0] *= 50.0), None, "a factor of 50 may be the world");
    assert_eq!(held(|_, row| row.values[4] = 4e5), None, "400 times the median, but the training data goes further");
    assert_eq!(held(|_, row| row.values[1] = 0.0), None, "only zeros have no scale");
    assert_eq!(held(|n, row| row.values[0] *= if n < 100 { 1e6 } else { 1.0 }), None, "a third of new values");
}

#[test]
fn values_outside_the_physical_range_hold_the_batch_from_a_share_on() {
    assert!(held(|n, row| row.values[2] = if n < 16 { -1.0 } else { 40.0 }).unwrap().contains("16 of 300"));
    assert_eq!(held(|n, row| row.values[2] = if n < 15 { -1.0 } else { 40.0 }), None);
    assert!(held(|n, row| row.values[0] = if n < 16 { f64::INFINITY } else { 1_000.0 }).is_some());
}

#[test]
fn rows_of_the_random_lane_speak_for_the_feed_when_there_are_enough() {
    let references = training();
    let mut samples = batch(300, Lane::Flagged, |_, row| row.values[2] = f64::NAN);
    assert!(matches!(audit(&mut Relevance::default(), &references, &samples), Audit::Hold(_)));
    samples.extend(batch(20, Lane::Random, |_, _| ()));
    assert!(matches!(audit(&mut Relevance::default(), &references, &samples), Audit::Pass(_)));
}

#[test]
fn a_handful_of_rows_passes_with_a_note() {
    let verdict =
        audit(&mut Relevance::default(), &training(), &batch(19, Lane::Flagged, |_, row| row.values.fill(1e9)));
    assert!(matches!(&verdict, Audit::Pass(notes) if notes[0].code == "too_few_rows"), "{verdict:?}");
}

#[test]
fn a_moved_reference_is_taken_over_even_without_rebase() {
    let (old, new) = (training(), crate::gate::testing::references(&schema()));
    let mut gate = Relevance::default();
    let samples = batch(300, Lane::Flagged, |_, _| ());
    assert!(novel_share(&audit(&mut gate, &old, &samples)) < 0.1);
    assert_eq!(novel_share(&audit(&mut gate, &new, &samples)), 1.0, "nothing is known without rows");
    assert!(Relevance::default().out_of_range(f64::NAN).rebase(&old).is_err());
}

#[test]
fn a_share_of_rows_that_break_the_schema_holds_the_batch_but_new_categories_and_fields_do_not() {
    let violated = |kind: fn(u64) -> ViolationKind, field: &'static str| {
        move |n: u64, row: &mut Row| {
            if n < 61 {
                row.violations.push(Violation { field: field.into(), kind: kind(n) });
            }
        }
    };
    let wrong_type = violated(|_| ViolationKind::WrongType("text".into()), "wealth");
    assert!(held(wrong_type).unwrap().contains("61 of 300 rows break the schema"));
    assert_eq!(
        held(|n, row| if n > 0 {
            wrong_type(n, row)
        }),
        None,
        "60 of 300 are allowed"
    );
    assert_eq!(held(violated(|_| ViolationKind::NotAllowed("XX".into()), "country")), None);
    assert_eq!(held(violated(|_| ViolationKind::UnknownField("more".into()), "")), None);
    assert!(held(violated(|_| ViolationKind::NotAllowed("2".into()), "new")).is_some(), "a boolean has no third value");
    assert!(Relevance::default().violations(1.5).rebase(&training()).is_err());
}

#[test]
fn the_columns_that_moved_furthest_are_noted_with_their_effects() {
    let references = training();
    let notes = |change: fn(u64, &mut Row)| {
        let verdict = audit(&mut Relevance::default(), &references, &batch(300, Lane::Random, change));
        let Audit::Pass(notes) = verdict else { panic!("{verdict:?}") };
        notes.into_iter().find(|note| note.code == "moved").map(|note| note.detail)
    };
    assert_eq!(notes(|_, _| ()), None);
    let detail = notes(|n, row| {
        row.values[2] += 40.0;
        row.codes[0] = u32::from(n % 10 == 0);
    });
    let detail = detail.unwrap();
    // Age, even over 0 to 80, moved by half of its range; the codes were even and are 90 to 10.
    let effects: Vec<f64> = ["KS ", "total variation "]
        .map(|what| {
            let at = detail.find(what).unwrap() + what.len();
            detail[at..at + 5].parse().unwrap()
        })
        .to_vec();
    assert!(
        detail.starts_with("2 columns by more than chance: `age` KS") && detail.contains("`country` total"),
        "{detail}"
    );
    assert!((effects[0] - 0.5).abs() < 0.06 && (effects[1] - 0.4).abs() < 0.06, "{detail}");
}

#[test]
fn sound_batches_have_a_moved_column_as_seldom_as_promised() {
    let references = training();
    let before = moved::before(&references.training);
    let runs = 150;
    let moved = (0..runs).filter(|seed| {
        let rows = batch(40, Lane::Random, |n, row| fill(row, 9_000_000 + 40 * seed + n));
        let rows: Vec<&Row> = rows.iter().map(|sample| &sample.observation.row).collect();
        moved::moved(&references.training, &before, &rows).is_some()
    });
    let count = moved.count() as u64;
    assert!(lower(count, runs, 0.9999) <= 0.01, "{count} of {runs}");
}

/// What the gate says of a feed of 500 rows of which the newest `newest` are changed.
fn feed(newest: u64, change: impl Fn(u64, &mut Row)) -> Option<String> {
    let (schema, references) = (schema(), training());
    let samples = batch(500, Lane::Random, |n, row| {
        if n >= 500 - newest {
            change(n, row)
        }
    });
    let observations: Vec<&Observation> = samples.iter().map(|sample| &sample.observation).collect();
    let reason = Relevance::default().feed(&observations, &context(&schema, &references)).unwrap()?;
    assert_eq!(reason.code, "broken_feed");
    Some(reason.detail)
}

#[test]
fn a_feed_that_broke_a_moment_ago_is_found_and_new_data_is_no_failure() {
    for newest in [20, 30, 100, 500] {
        assert!(feed(newest, |_, row| row.values[2] *= 1_000.0).unwrap().contains("unit or scale"), "{newest}");
        assert!(feed(newest, |_, row| row.codes[0] = MISSING_CODE).unwrap().contains("`country` is missing"));
        assert!(feed(newest, |_, row| row.values[2] = -1.0).unwrap().contains("break a range"));
        assert_eq!(feed(newest, |_, row| row.values[0] *= 50.0), None, "a factor of 50 may be the world");
        assert_eq!(feed(newest, |_, row| row.codes[0] = UNSEEN_CODE), None);
        assert_eq!(feed(newest, |_, row| row.values[2] += 80.0), None);
    }
    assert_eq!(
        feed(500, |n, row| if n % 10 == 0 {
            row.values[2] = f64::NAN
        }),
        None,
        "10 points are no failure"
    );
    assert_eq!(
        feed(500, |n, row| if n % 18 == 0 {
            row.values[2] = -1.0
        }),
        None,
        "28 of 500 may be 5 % by chance"
    );
}

#[test]
fn a_sound_feed_is_hardly_ever_called_broken_and_few_rows_say_nothing() {
    let (schema, references) = (schema(), training());
    let mut gate = Relevance::default();
    for seed in 0..60 {
        let samples = batch(500, Lane::Random, |n, row| fill(row, 20_000_000 + 500 * seed + n));
        let observations: Vec<&Observation> = samples.iter().map(|sample| &sample.observation).collect();
        assert_eq!(gate.feed(&observations, &context(&schema, &references)).unwrap(), None);
    }
    let samples = batch(19, Lane::Random, |_, row| row.values.fill(f64::NAN));
    let observations: Vec<&Observation> = samples.iter().map(|sample| &sample.observation).collect();
    assert_eq!(gate.feed(&observations, &context(&schema, &references)).unwrap(), None);
    assert_eq!(gate.feed(&[], &context(&schema, &references)).unwrap(), None);
}
