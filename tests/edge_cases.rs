//! Each way in which a detector of another library broke on real data, as a test that ours does not.
//!
//! The list is that of the surveyed peers; issue numbers are theirs. Sequences of the stream detectors (buckets of ADWIN,
//! alarms that repeat) are compared with their golden values beside the code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use feedloop::chrono::{DateTime, TimeDelta, Utc};
use feedloop::uuid::Uuid;
use feedloop::*;
use serde_json::{Value, json};

/// Seeded standard normal numbers (SplitMix64, Box and Muller).
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }
}

const NUMERIC: [NumericTest; 7] = [
    NumericTest::KolmogorovSmirnov,
    NumericTest::KolmogorovSmirnovTies,
    NumericTest::CramerVonMises,
    NumericTest::Wasserstein,
    NumericTest::PopulationStability,
    NumericTest::JensenShannon,
    NumericTest::Hellinger,
];

const CATEGORICAL: [CategoryTest; 4] =
    [CategoryTest::ChiSquare, CategoryTest::GTest, CategoryTest::PopulationStability, CategoryTest::JensenShannon];

fn numeric(columns: usize) -> Arc<Schema> {
    Arc::new(Schema::numeric(columns, Target::classes(["no", "yes"])).unwrap())
}

fn references(schema: &Arc<Schema>, rows: &[Value]) -> References {
    part(schema, rows, 0)
}

/// References of a part of the rows, from row `first` on.
fn part(schema: &Arc<Schema>, rows: &[Value], first: usize) -> References {
    let (mut builder, mut row) = (Reference::builder(schema.clone()).starting_at(first as u64), Row::new(schema));
    for (n, value) in rows.iter().enumerate() {
        row.encode(schema, value);
        let p = 0.6 + 0.3 * (n % 7) as f64 / 7.0;
        builder.push(&row, Some(&[1.0 - p, p]), Some(Label::Class(1))).unwrap();
    }
    References::starting_with(Arc::new(builder.finish()))
}

/// Shows rows to a detector, `cut` at a time.
fn show(detector: &mut dyn Detector, schema: &Schema, rows: &[Value], cut: usize) -> Findings {
    let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(schema));
    for (chunk, rows) in rows.chunks(cut).enumerate() {
        buffer.clear();
        for (offset, value) in rows.iter().enumerate() {
            let n = chunk * cut + offset;
            let mut observation = Observation::new(schema);
            observation.id = PredictionId::from_uuid(Uuid::from_u128(n as u128 + 1));
            observation.time = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(n as i64);
            observation.row.encode(schema, value);
            observation.set_output(Output::Probabilities(&[0.3, 0.7]));
            buffer.push(n as u64, &observation);
        }
        detector.inspect(&buffer.view(schema), &mut findings).unwrap();
    }
    findings
}

fn one(values: &[f64]) -> Vec<Value> {
    values.iter().map(|x| json!({ "x0": if x.is_finite() { json!(x) } else { Value::Null } })).collect()
}

fn fitted<D: Detector>(mut detector: D, references: &References) -> D {
    detector.rebase(references).unwrap();
    detector
}

/// Every test of a numeric column, one window of `window` rows.
fn numeric_detectors(window: usize, rate: f64) -> impl Iterator<Item = (NumericTest, KsDrift)> {
    let detector = move |test| KsDrift::default().window(window).false_alarm_rate(rate).numeric_test(test);
    NUMERIC.into_iter().map(move |test| (test, detector(test)))
}

/// alibi-detect scored exactly 0 for every row when one column was constant; singular covariance, scikit-learn#21818.
#[test]
fn a_constant_a_nearly_constant_and_a_duplicated_column_do_not_silence_the_distance() {
    let (schema, mut noise) = (numeric(4), Noise(1));
    let row = |x: f64, tiny: f64| json!({ "x0": x, "x1": x, "x2": 5.0, "x3": 1.0 + 1e-13 * tiny });
    let rows: Vec<_> = (0..1_000).map(|_| row(noise.normal(), noise.normal())).collect();
    let references = references(&schema, &rows);
    for covariance in [Covariance::LedoitWolf, Covariance::Empirical] {
        let detector = Mahalanobis::default().covariance(covariance).false_alarm_rate(0.01);
        let mut detector = fitted(detector, &references);
        let blind: Vec<_> = detector.blind().into_iter().filter_map(|blind| blind.column).collect();
        assert_eq!(blind, ["x2", "x3"], "{covariance:?}");
        let found = show(&mut detector, &schema, &[row(9.0, 0.0), row(0.1, 0.0)], 2);
        assert_eq!(found.flags().len(), 1, "{covariance:?}");
        assert!(found.flags()[0].score > 10.0);
    }
}

/// Fed row by row, a peer's covariance was off by a factor of 2.
#[test]
fn one_row_at_a_time_and_in_batches_is_the_same() {
    let (schema, mut noise) = (numeric(2), Noise(2));
    let rows: Vec<_> = (0..900).map(|_| json!({ "x0": noise.normal(), "x1": 3.0 * noise.normal() })).collect();
    let whole = references(&schema, &rows);
    let mut parts = Reference::builder(schema.clone()).finish();
    for (number, rows) in rows.chunks(7).enumerate() {
        parts.merge(&part(&schema, rows, 7 * number).training).unwrap();
    }
    for half in [Half::Fit, Half::Calibration] {
        let ((mean, covariance, n), (other_mean, other, m)) = (parts.moments(half), whole.training.moments(half));
        assert_eq!(n, m);
        for (a, b) in mean.iter().chain(&covariance).zip(other_mean.iter().chain(&other)) {
            assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} {b}");
        }
    }
    let found = |cut| {
        let mut detectors: [Box<dyn Detector>; 2] = [
            Box::new(Mahalanobis::default().false_alarm_rate(0.05)),
            Box::new(KsDrift::default().window(100).false_alarm_rate(0.5).minimum_effect(0.0)),
        ];
        detectors.each_mut().map(|detector| {
            detector.rebase(&whole).unwrap();
            let found = show(detector, &schema, &rows, cut);
            (found.flags().to_vec(), found.alarms().to_vec())
        })
    };
    assert_eq!(found(1), found(256));
    assert_eq!(found(1), found(13));
}

/// alibi-detect updates its covariance while it scores.
#[test]
fn scoring_does_not_change_the_fitted_state() {
    let (schema, mut noise) = (numeric(1), Noise(3));
    let references = references(&schema, &one(&noise.normals(2_000)));
    let mut detector = fitted(Mahalanobis::default().false_alarm_rate(0.01), &references);
    let score = |detector: &Mahalanobis| detector.score(RowView { values: &[1.5], ..RowView::default() });
    let before = score(&detector);
    show(&mut detector, &schema, &one(&vec![50.0; 5_000]), 256);
    assert_eq!(score(&detector), before);
}

/// One NaN disabled ADWIN and Page–Hinkley of River for good.
#[test]
fn one_missing_value_disables_nothing() {
    let (schema, mut noise) = (numeric(1), Noise(4));
    let references = references(&schema, &one(&noise.normals(2_000)));
    let mut values = vec![f64::NAN];
    values.extend(noise.normals(1_000));
    values.push(f64::NAN);
    values.extend(noise.normals(4_000).into_iter().map(|x| x + 3.0));
    let rows = one(&values);
    let mut detectors: Vec<Box<dyn Detector>> = vec![
        Box::new(StreamDrift::column(Adwin::default(), "x0")),
        Box::new(StreamDrift::column(PageHinkley::default(), "x0")),
        Box::new(StreamDrift::column(Kswin::default(), "x0")),
        Box::new(StreamDrift::column(Cusum::default(), "x0")),
        Box::new(StreamDrift::column(ConformalMartingale::default(), "x0")),
    ];
    detectors.extend(numeric_detectors(500, 0.01).map(|(_, detector)| Box::new(detector) as Box<dyn Detector>));
    for mut detector in detectors {
        detector.rebase(&references).unwrap();
        let found = show(&mut detector, &schema, &rows, 256);
        assert!(found.alarms().iter().any(|alarm| alarm.sequence > 1_000), "{}", detector.name());
    }
}

/// A sketch-based PSI at an offset of 10,000 gave 12.4 where nothing had changed.
#[test]
fn a_large_offset_is_no_change() {
    let (schema, mut noise) = (numeric(1), Noise(5));
    for (test, detector) in numeric_detectors(500, 0.001) {
        for offset in [1e4, 1e9, -1e12] {
            let values: Vec<_> = noise.normals(2_500).iter().map(|x| x + offset).collect();
            let mut detector = fitted(detector.clone(), &references(&schema, &one(&values[..2_000])));
            let found = show(&mut detector, &schema, &one(&values[2_000..]), 256);
            assert!(found.alarms().is_empty(), "{test:?} at {offset}");
            let reading = &detector.last_readings()[0];
            // the mean square contingency of ten bins is about 9·(1/n + 1/m) = 0.02
            assert!(reading.effect < 0.2, "{test:?} at {offset}: {}", reading.effect);
        }
    }
}

/// One value of 1e6 in the reference or the window hid a shift by a standard deviation: PSI .917 became .00007.
#[test]
fn one_far_outlier_does_not_hide_a_shift() {
    let (schema, mut noise) = (numeric(1), Noise(6));
    for (test, detector) in numeric_detectors(500, 0.01) {
        let mut values = noise.normals(2_000);
        let mut shifted: Vec<_> = noise.normals(500).iter().map(|x| x + 1.0).collect();
        for outlier in [&mut values[77], &mut shifted[77]] {
            *outlier = 1e6;
        }
        // a distance in units of the column is at the mercy of one value, and its docs say so
        if test != NumericTest::Wasserstein {
            let mut detector = fitted(detector, &references(&schema, &one(&values)));
            let found = show(&mut detector, &schema, &one(&shifted), 256);
            assert_eq!(found.alarms().len(), 1, "{test:?}");
        }
    }
}

/// evidently#330, #1929, #1480; alibi-detect#221; nannyml#333: an empty or constant column failed the whole fit, or was
/// passed over in silence.
#[test]
fn empty_and_constant_columns_are_reported_and_the_others_tested() {
    let (schema, mut noise) = (numeric(3), Noise(7));
    let rows = |n, shift: f64, noise: &mut Noise| -> Vec<Value> {
        (0..n).map(|_| json!({ "x0": 1.0, "x1": null, "x2": shift + noise.normal() })).collect()
    };
    let references = references(&schema, &rows(1_000, 0.0, &mut noise));
    for (test, detector) in numeric_detectors(200, 0.01) {
        let mut detector = fitted(detector, &references);
        for (blind, column) in detector.blind().iter().zip(["x0", "x1"]) {
            assert_eq!(blind.column.as_deref(), Some(column), "{test:?}");
            assert!(blind.reason.starts_with("not computed: "), "{test:?}: {}", blind.reason);
        }
        let found = show(&mut detector, &schema, &rows(200, 2.0, &mut noise), 256);
        assert_eq!(found.alarms()[0].readings[0].column, "x2", "{test:?}");
    }
}

/// evidently#187: the share of missing values moved and nothing was to be seen.
#[test]
fn a_change_of_the_missing_share_is_seen() {
    let (schema, mut noise) = (numeric(1), Noise(8));
    let references = references(&schema, &one(&noise.normals(1_000)));
    for (test, detector) in numeric_detectors(300, 0.01) {
        let mut detector = fitted(detector, &references);
        let every_fifth = |(n, x)| if n % 5 == 0 { f64::NAN } else { x };
        let values: Vec<_> = noise.normals(300).into_iter().enumerate().map(every_fifth).collect();
        let found = show(&mut detector, &schema, &one(&values), 256);
        assert!(found.alarms()[0].text.contains("missing"), "{test:?}: {}", found.alarms()[0].text);
    }
}

/// river PR#1052: DDM fired on a stream of ones only.
#[test]
fn a_stream_of_errors_only_has_no_drift() {
    let mut ddm = Ddm::default();
    ddm.rebase(&[]).unwrap();
    assert!((0..10_000).all(|_| ddm.update(1.0) == Change::None));
    let mut eddm = Eddm::default();
    eddm.rebase(&[]).unwrap();
    assert!((0..10_000).all(|_| eddm.update(1.0) != Change::Drift));
}

/// nannyml#88: nine chunks crashed.
#[test]
fn the_number_of_windows_does_not_matter() {
    let (schema, mut noise) = (numeric(1), Noise(9));
    let references = references(&schema, &one(&noise.normals(500)));
    for windows in 1..=12 {
        let mut detector = fitted(KsDrift::default().window(50), &references);
        show(&mut detector, &schema, &one(&noise.normals(50 * windows)), 256);
        assert_eq!(detector.last_readings().len(), 2, "the distribution and the missing share");
    }
}

fn coloured(levels: &[&str]) -> Arc<Schema> {
    let field = Field::category("c", levels.iter().copied()).nullable();
    Arc::new(Schema::new([field, Field::number("x").nullable()], Target::classes(["no", "yes"])).unwrap())
}

/// alibi-detect#191 (unseen categories failed), levels that the reference lacks were left out (scouter), evidently#329
/// (mixed types), deepchecks#1816 (rare levels).
#[test]
fn unseen_absent_rare_and_mistyped_levels_are_counted() {
    let schema = coloured(&["red", "green", "blue", "never"]);
    let usual = |n: usize| json!({ "c": (["red", "green", "blue"][n % 3]), "x": 0.5 });
    let references = references(&schema, &(0..3_000).map(usual).collect::<Vec<_>>());
    let mixed: [(&str, Value); 4] = [
        ("unseen", json!("pink")),
        ("absent from the reference", json!("never")),
        ("missing", Value::Null),
        ("mistyped", json!(17)),
    ];
    for (name, value) in mixed {
        for test in CATEGORICAL {
            let detector = KsDrift::default().window(300).category_test(test);
            let mut detector = fitted(detector, &references);
            let rows: Vec<_> =
                (0..300).map(|n| if n % 10 == 0 { json!({ "c": value, "x": 0.5 }) } else { usual(n) }).collect();
            let found = show(&mut detector, &schema, &rows, 256);
            assert_eq!(found.alarms().len(), 1, "{name}, {test:?}");
            assert_eq!(found.alarms()[0].readings[0].column, "c", "{name}, {test:?}");
        }
    }
    // one row of a rare level is no drift
    for test in CATEGORICAL {
        let mut detector = fitted(KsDrift::default().window(300).category_test(test), &references);
        let mut rows: Vec<_> = (0..300).map(usual).collect();
        rows[0] = json!({ "c": "never", "x": 0.5 });
        assert!(show(&mut detector, &schema, &rows, 256).alarms().is_empty(), "{test:?}");
    }
}

/// nannyml#292: columns with very many levels.
#[test]
fn a_thousand_levels_hold_the_rate() {
    let names: Vec<String> = (0..1_000).map(|level| format!("level {level}")).collect();
    let schema = coloured(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut noise = Noise(10);
    let row = |noise: &mut Noise| json!({ "c": (names[(noise.unit() * noise.unit() * 1_000.0) as usize]), "x": 0.5 });
    let references = references(&schema, &(0..4_000).map(|_| row(&mut noise)).collect::<Vec<_>>());
    for test in CATEGORICAL {
        let detector = KsDrift::default().window(500).category_test(test).minimum_effect(0.0).false_alarm_rate(0.05);
        let mut detector = fitted(detector, &references);
        let rows: Vec<_> = (0..10_000).map(|_| row(&mut noise)).collect();
        // 20 tests at 5 %: six or more alarms have a chance of 3e-4
        let alarms = show(&mut detector, &schema, &rows, 256).alarms().len();
        assert!(alarms <= 5, "{test:?}: {alarms} of 20");
    }
}

/// alibi-detect PR#203, Evidently: chi-square as goodness of fit takes the reference's shares for the truth, and alarms in
/// a third of the cases at 5 % (200 against 200 rows, five levels).
#[test]
fn the_sampling_error_of_the_reference_counts() {
    let (schema, mut noise) = (coloured(&["a", "b", "c", "d", "e"]), Noise(11));
    let row = |noise: &mut Noise| json!({ "c": (["a", "b", "c", "d", "e"][(noise.unit() * 5.0) as usize]), "x": 0.5 });
    for test in CATEGORICAL {
        let mut alarms = 0;
        for _ in 0..400 {
            let reference = references(&schema, &(0..200).map(|_| row(&mut noise)).collect::<Vec<_>>());
            let detector =
                KsDrift::default().window(200).category_test(test).minimum_effect(0.0).false_alarm_rate(0.05);
            let mut detector = fitted(detector, &reference);
            let rows: Vec<_> = (0..200).map(|_| row(&mut noise)).collect();
            alarms += show(&mut detector, &schema, &rows, 256).alarms().len();
        }
        // Binomial(400, 0.05) exceeds 37 with a chance of 1e-4; goodness of fit gives about 130
        assert!(alarms <= 37, "{test:?}: {alarms} of 400");
    }
}

/// alibi-detect#960: a permutation p-value of 0.
#[test]
fn no_p_value_is_zero() {
    let (schema, mut noise) = (numeric(1), Noise(12));
    let references = references(&schema, &one(&noise.normals(1_000)));
    let far: Vec<_> = noise.normals(200).iter().map(|x| x + 20.0).collect();
    for (test, detector) in numeric_detectors(200, 0.01) {
        let mut detector = fitted(detector, &references);
        let found = show(&mut detector, &schema, &one(&far), 256);
        let p = found.alarms()[0].readings[0].p_value.unwrap();
        assert!(p > 0.0 && p < 0.01, "{test:?}: {p}");
    }
}

/// Rounded data made KS reject .7 % where 5 % was stated: nearly blind. And n = 10: .42 is exact, .31 the asymptotic one.
#[test]
fn ties_do_not_blind_and_small_windows_are_exact() {
    let (schema, mut noise) = (numeric(1), Noise(13));
    let detector = KsDrift::default().window(100).minimum_effect(0.0).false_alarm_rate(0.05);
    let (mut alarms, tests) = (0, 1_000);
    for _ in 0..tests / 10 {
        let values: Vec<_> = noise.normals(1_400).iter().map(|x| x.round()).collect();
        let mut detector = fitted(detector.clone(), &references(&schema, &one(&values[..400])));
        alarms += show(&mut detector, &schema, &one(&values[400..]), 256).alarms().len();
    }
    // the missing share is tested too: 2.5 % are left for the distribution. Above 1 % it is not blind; the 10 windows of a
    // reference hang together, hence the wide band
    assert!((10..=80).contains(&alarms), "{alarms} of {tests}");

    // scipy.stats.ks_2samp(range(10), [x + 3.5 for x in range(10)], method="exact"): D = 0.4, p = 0.4175
    let ten = |shift: f64| one(&(0..10).map(|x| f64::from(x) + shift).collect::<Vec<_>>());
    let detector = KsDrift::default().window(10).false_alarm_rate(0.5).minimum_effect(0.0);
    let mut detector = fitted(detector, &references(&schema, &ten(0.0)));
    show(&mut detector, &schema, &ten(3.5), 256);
    let reading = &detector.last_readings()[0];
    assert!(
        (reading.statistic - 0.4).abs() < 1e-12 && (reading.p_value.unwrap() - 0.417_524).abs() < 1e-4,
        "{reading:?}"
    );
}

/// great_expectations#327: infinity is no JSON.
#[test]
fn findings_and_states_are_json() {
    let (schema, mut noise) = (numeric(1), Noise(14));
    let references = references(&schema, &one(&noise.normals(1_000)));
    let mut distance = fitted(Mahalanobis::default().false_alarm_rate(0.01), &references);
    let found = show(&mut distance, &schema, &one(&[1e300, -1e300]), 2);
    assert_eq!(found.flags().len(), 2);
    for flag in found.flags() {
        let text = serde_json::to_string(flag).unwrap();
        assert_eq!(serde_json::from_str::<Flag>(&text).unwrap(), *flag);
    }
    let mut drift = fitted(KsDrift::default().window(10), &references);
    show(&mut drift, &schema, &one(&[f64::INFINITY, f64::NAN, 1.0]), 2);
    let text = serde_json::to_string(&drift.snapshot().unwrap()).unwrap();
    drift.restore(&serde_json::from_str(&text).unwrap()).unwrap();
}

/// numpy#10297: bins of equal width over a huge range took all memory.
#[test]
fn a_huge_range_costs_no_memory() {
    let (schema, mut noise) = (numeric(1), Noise(15));
    let mut values = noise.normals(1_000);
    values.extend([f64::MAX, f64::MIN, 1e-308]);
    let references = references(&schema, &one(&values));
    for (test, detector) in numeric_detectors(100, 0.01) {
        let mut detector = fitted(detector, &references);
        let mut window = noise.normals(98);
        window.extend([f64::MAX, f64::MIN]);
        show(&mut detector, &schema, &one(&window), 256);
        assert!(detector.last_readings().iter().all(|reading| reading.effect.is_finite()), "{test:?}");
    }
}

/// Histories that grew with the stream.
#[test]
fn a_state_does_not_grow_with_the_stream() {
    let (schema, mut noise) = (numeric(1), Noise(16));
    let references = references(&schema, &one(&noise.normals(500)));
    let mut detectors: Vec<Box<dyn Detector>> = vec![
        Box::new(KsDrift::default().window(100)),
        Box::new(OutputDrift::default().window(100)),
        Box::new(StreamDrift::column(Kswin::default(), "x0")),
        Box::new(StreamDrift::column(ConformalMartingale::default(), "x0")),
    ];
    for detector in &mut detectors {
        detector.rebase(&references).unwrap();
        let mut size = |rows| {
            show(detector, &schema, &one(&noise.normals(rows)), 256);
            serde_json::to_string(&detector.snapshot().unwrap()).unwrap().len()
        };
        let (early, late) = (size(3_050), size(30_000));
        assert!(late < early + early / 2 + 500, "{}: {early} bytes, then {late}", detector.name());
    }
}

/// driftwatch: a fitted detector could not be saved. It is its reference and its state.
#[test]
fn a_fitted_detector_survives_a_file() {
    let (schema, mut noise) = (numeric(2), Noise(17));
    let rows: Vec<_> = (0..1_500).map(|_| json!({ "x0": noise.normal(), "x1": noise.normal() })).collect();
    let before = references(&schema, &rows);
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("reference.json");
    before.training.save(&path).unwrap();
    let after = References::starting_with(Arc::new(Reference::load(&path).unwrap()));
    let score = |references| {
        let detector = fitted(Mahalanobis::default().false_alarm_rate(0.01), references);
        detector.score(RowView { values: &[2.0, -1.0], ..RowView::default() })
    };
    assert_eq!(score(&after), score(&before));
}

/// whylogs#681: sketches of different parameters were merged without a word.
#[test]
fn references_of_different_schemas_do_not_merge() {
    let mut left = Reference::builder(numeric(1)).finish();
    let error = left.merge(&Reference::builder(numeric(2)).finish()).unwrap_err();
    assert!(matches!(error, SchemaError::Fingerprint { .. }), "{error}");
}

/// nannyml#419: fitting twice doubled the results.
#[test]
fn fitting_twice_is_fitting_once() {
    let (schema, mut noise) = (numeric(1), Noise(18));
    let references = references(&schema, &one(&noise.normals(1_000)));
    let rows = one(&noise.normals(1_000).iter().map(|x| x + 0.5).collect::<Vec<_>>());
    for (test, detector) in numeric_detectors(200, 0.01) {
        let mut once = fitted(detector.clone(), &references);
        let mut twice = fitted(fitted(detector, &references), &references);
        let (once, twice) = (show(&mut once, &schema, &rows, 256), show(&mut twice, &schema, &rows, 256));
        assert_eq!(once.alarms(), twice.alarms(), "{test:?}");
    }
}

/// evidently#450: a single row against the reference is a question for a score, and a window of one for an error.
#[test]
fn one_sample_can_be_compared() {
    let (schema, mut noise) = (numeric(1), Noise(19));
    let references = references(&schema, &one(&noise.normals(4_000)));
    let detector = fitted(Mahalanobis::default(), &references);
    let p = |x: f64| detector.p_value(detector.score(RowView { values: &[x], ..RowView::default() }).unwrap()).unwrap();
    assert!(p(0.0) > 0.9 && p(10.0) < 0.001);
    let refusal = KsDrift::default().window(1).rebase(&references).unwrap_err();
    assert!(refusal.to_string().contains("at least 2"), "{refusal}");
}
