#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::gate::testing::{at, context, id, references, sample, valued};
use crate::sample::Lane;
use crate::schema::{Field, Target};
use crate::stats::sampling::{keyed, unit_interval};
use proptest::prelude::*;

struct Bench {
    schema: Schema,
    references: References,
    gate: Deduplicate,
}

impl Bench {
    fn new(gate: Deduplicate) -> Self {
        let schema = Schema::numeric(1, Target::Value).unwrap();
        Bench { references: references(&schema), schema, gate }
    }

    fn sample(&self, n: u128, value: f64, lane: Lane) -> Sample {
        let mut sample = valued(&self.schema, n, &[value]);
        sample.lane = lane;
        sample
    }

    fn offer_at(&mut self, seconds: i64, n: u128, value: f64, lane: Lane) -> Option<String> {
        let sample = self.sample(n, value, lane);
        let context = GateContext { now: at(seconds), ..context(&self.schema, &self.references) };
        verdict(&mut self.gate, &sample, &context)
    }

    fn offer(&mut self, n: u128, value: f64) -> Option<String> {
        self.offer_at(0, n, value, Lane::Flagged)
    }

    fn weight(&self, n: u128, value: f64) -> f64 {
        self.gate.weight(&self.sample(n, value, Lane::Flagged))
    }
}

fn verdict(gate: &mut Deduplicate, sample: &Sample, context: &GateContext<'_>) -> Option<String> {
    match gate.admit(sample, context).unwrap() {
        Admission::Pass => None,
        Admission::Quarantine(reason) => Some(format!("{reason}")),
    }
}

#[test]
fn a_copy_is_quarantined_naming_the_first() {
    let mut bench = Bench::new(Deduplicate::exact());
    assert_eq!(bench.offer(1, 5.0), None);
    assert_eq!(bench.offer(2, 6.0), None);
    assert_eq!(bench.offer(3, 5.0).unwrap(), format!("duplicate: the same input as sample {}", id(1)));
    assert_eq!(bench.offer(4, f64::NAN), None);
    assert!(bench.offer(5, -f64::NAN).is_some(), "missing equals missing");
}

#[test]
fn the_same_sample_offered_again_gets_the_same_verdict() {
    let mut bench = Bench::new(Deduplicate::exact());
    for _ in 0..2 {
        assert_eq!(bench.offer(1, 5.0), None);
        assert!(bench.offer(2, 5.0).is_some());
    }
}

#[test]
fn rows_that_judge_models_always_pass_and_are_remembered() {
    let mut bench = Bench::new(Deduplicate::exact());
    assert_eq!(bench.offer_at(0, 1, 5.0, Lane::Random), None);
    assert_eq!(bench.offer_at(0, 2, 5.0, Lane::Random), None);
    assert_eq!(bench.offer_at(0, 3, 5.0, Lane::Comparison), None);
    assert!(bench.offer(4, 5.0).unwrap().contains(&id(1).to_string()));
    assert_eq!(
        (bench.weight(1, 5.0), bench.weight(2, 5.0)),
        (2.0, 1.0),
        "only 4 would be lost; 2 and 3 train themselves"
    );
}

#[test]
fn the_first_weighs_as_much_as_its_content_came_up_to_the_cap() {
    let mut bench = Bench::new(Deduplicate::exact());
    for (n, value) in [(1, 5.0), (2, 6.0), (3, 5.0), (4, 5.0), (5, 7.0)] {
        bench.offer(n, value);
    }
    let weights = |bench: &Bench| [(1, 5.0), (2, 6.0), (3, 5.0), (9, 9.0)].map(|(n, value)| bench.weight(n, value));
    assert_eq!(weights(&bench), [3.0, 1.0, 1.0, 1.0]);
    (10..30).for_each(|n| assert!(bench.offer(n, 5.0).is_some()));
    assert_eq!(bench.weight(1, 5.0), 5.0);
    bench.gate = bench.gate.clone().weigh(1);
    assert_eq!(weights(&bench), [1.0; 4]);
    bench.gate = bench.gate.clone().weigh(u32::MAX);
    assert_eq!(bench.weight(1, 5.0), 23.0);
}

#[test]
fn the_effective_sample_size_stays_above_what_the_cap_promises() {
    // All shares of rows that weigh 5 beside rows that weigh 1: Kish's (Σw)²/Σw² per row.
    let most = f64::from(MOST_WEIGHT);
    let least = (0..=1_000)
        .map(|share| f64::from(share) / 1_000.0)
        .map(|s| (1.0 + s * (most - 1.0)).powi(2) / (1.0 + s * (most * most - 1.0)));
    let least = least.fold(f64::INFINITY, f64::min);
    assert!((least - 4.0 * most / (1.0 + most).powi(2)).abs() < 1e-5 && least > 0.5, "{least}");
}

#[test]
fn memory_is_bounded_and_the_oldest_is_forgotten() {
    let mut bench = Bench::new(Deduplicate::exact().capacity(10));
    for n in 0..1_000 {
        assert_eq!(bench.offer(n, n as f64), None);
        assert!(bench.gate.remembered() <= 10);
    }
    assert!(bench.offer(2_000, 999.0).is_some() && bench.offer(2_001, 989.0).is_none());
}

#[test]
fn a_million_inputs_take_as_many_bytes_as_promised() {
    for (inputs, capacity) in [(1_000_000_u64, 1_000_000), (300_000, 100_000)] {
        let mut seen = Recent::new(capacity);
        for n in 0..inputs {
            let content = u128::from(keyed(1, &n.to_le_bytes())) << 64 | u128::from(keyed(2, &n.to_le_bytes()));
            seen.entry(content, || First { id: id(u128::from(n)), time: 0, copies: 0 });
        }
        let each = seen.bytes() as f64 / seen.len() as f64;
        assert!((53.0..=61.0).contains(&each), "{each} bytes per input at {}", seen.len());
    }
}

#[test]
fn an_input_is_forgotten_after_the_window() {
    let mut bench = Bench::new(Deduplicate::exact().window(TimeDelta::seconds(60)));
    assert_eq!(bench.offer_at(0, 1, 5.0, Lane::Flagged), None);
    assert!(bench.offer_at(60, 2, 5.0, Lane::Flagged).is_some());
    assert_eq!(bench.offer_at(61, 3, 5.0, Lane::Flagged), None);
    assert_eq!(bench.gate.remembered(), 1);
}

#[test]
fn a_state_of_the_old_format_or_a_damaged_one_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(Deduplicate::exact().capacity(50));
    for n in 0..70 {
        bench.offer_at(n as i64 - 2_000_000_000, n, (n % 60) as f64, Lane::Flagged);
    }
    let saved = bench.gate.snapshot().unwrap();
    let mut other = Deduplicate::exact().capacity(50);
    other.restore(&saved).unwrap();
    assert_eq!((other.seen.clone(), other.snapshot().unwrap()), (bench.gate.seen.clone(), saved.clone()));
    let old = Snapshot::save(1, &serde_json::json!({"entries": "0".repeat(80)})).unwrap();
    let error = other.restore(&old).unwrap_err().to_string();
    assert!(error.contains("format 1") && error.contains("format 2"), "{error}");
    let bytes = saved.load_bytes(2).unwrap();
    assert_eq!(bytes.len(), 8 + 50 * 44);
    for cut in [0, 7, 9, 60, bytes.len() - 1] {
        assert!(other.restore(&Snapshot::save_bytes(2, &bytes[..cut])).is_err(), "cut at {cut}");
    }
    assert!(
        other.restore(&Snapshot::save_bytes(2, &[0xff; 90])).is_err() && other.restore(&Snapshot::Stateless).is_err()
    );
    assert_eq!(other.snapshot().unwrap(), saved);
}

#[test]
fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
    let references = Bench::new(Deduplicate::exact()).references;
    let bad = [
        Deduplicate::exact().capacity(0),
        Deduplicate::exact().near_capacity(0),
        Deduplicate::exact().window(TimeDelta::zero()),
        Deduplicate::exact().weigh(0),
        Deduplicate::exact().near(-0.1),
        Deduplicate::exact().near(f64::NAN),
        Deduplicate::exact().text("x0", 0.9),
        Deduplicate::exact().text("nothing", 0.9),
    ];
    for mut gate in bad {
        assert!(gate.rebase(&references).is_err(), "{gate:?}");
    }
    assert!(Deduplicate::exact().text("note", 1.5).rebase(&World::new().references).is_err());
}

/// Two numbers of deviation 1 and 100, a category and a note.
struct World {
    schema: Schema,
    references: References,
}

impl World {
    fn new() -> Self {
        World::with(None)
    }

    /// With one more field, that has no values.
    fn with(added: Option<Field>) -> Self {
        let fields = [
            Field::number("a").nullable(),
            Field::number("b").nullable(),
            Field::category("country", ["DE", "FR"]).nullable(),
            Field::text("note", 1_000).nullable(),
        ];
        let schema = Schema::new(fields.into_iter().chain(added), Target::Value).unwrap();
        let mut builder = Reference::builder(Arc::new(schema.clone()));
        for i in 0..400 {
            let mut row = Row::new(&schema);
            row.values[..2].copy_from_slice(&[f64::from(i % 2 * 2), f64::from(i / 2 % 2 * 200)]);
            builder.push(&row, None, None).unwrap();
        }
        World { schema, references: References::starting_with(Arc::new(builder.finish())) }
    }

    fn gate(&self, mut gate: Deduplicate) -> Deduplicate {
        gate.rebase(&self.references).unwrap();
        gate
    }

    fn row(&self, n: u128, values: [f64; 2], code: u32, note: Option<&str>) -> Sample {
        let mut sample = sample(&self.schema, n);
        sample.observation.row.values[..2].copy_from_slice(&values);
        sample.observation.row.codes[0] = code;
        sample.observation.row.texts[0] = note.map(Into::into);
        sample
    }

    fn offer(&self, gate: &mut Deduplicate, sample: &Sample) -> Option<String> {
        verdict(gate, sample, &context(&self.schema, &self.references))
    }
}

#[test]
fn a_near_copy_is_quarantined_naming_the_nearest_and_how_near() {
    let world = World::new();
    let mut gate = world.gate(Deduplicate::exact().near(0.1));
    assert_eq!(gate.blind(), []);
    let first = world.row(1, [1.0, 500.0], 0, None);
    assert_eq!(world.offer(&mut gate, &first), None);
    assert_eq!(world.offer(&mut gate, &world.row(2, [1.15, 500.0], 0, None)), None, "0.15 units away");
    let near = world.row(3, [1.06, 507.5], 0, None);
    let said = world.offer(&mut gate, &near).unwrap();
    assert_eq!(said, format!("near_duplicate: at distance 0.0960 from sample {}", id(1)));
    assert_eq!(world.offer(&mut gate, &near), Some(said), "offered again");
    let nearer = world.offer(&mut gate, &world.row(4, [1.1, 500.0], 0, None)).unwrap();
    assert!(nearer.contains("0.0500") && nearer.contains(&id(2).to_string()), "{nearer}");
    for other in [
        world.row(5, [1.0, 500.0], 1, None),
        world.row(6, [1.0, f64::NAN], 0, None),
        world.row(7, [1.0, 500.0], 0, Some("note")),
    ] {
        assert_eq!(world.offer(&mut gate, &other), None, "another category, a hole, another text");
    }
    assert!(world.offer(&mut gate, &world.row(8, [1.01, f64::NAN], 0, None)).is_some(), "holes at the same places");
    assert_eq!(gate.weight(&first), 3.0, "3 was offered twice");
}

#[test]
fn a_near_copy_of_a_judging_lane_passes_and_its_own_copies_are_caught() {
    let world = World::new();
    let mut gate = world.gate(Deduplicate::exact().near(0.1));
    world.offer(&mut gate, &world.row(1, [1.0, 500.0], 0, None));
    let mut judging = world.row(2, [1.05, 500.0], 0, None);
    judging.lane = Lane::Random;
    assert_eq!(world.offer(&mut gate, &judging), None);
    assert_eq!(gate.weight(&world.row(1, [1.0, 500.0], 0, None)), 1.0);
    let said = world.offer(&mut gate, &world.row(3, [1.05, 500.0], 0, None)).unwrap();
    assert!(said.starts_with("duplicate") && said.contains(&id(2).to_string()), "{said}");
    assert_eq!(gate.near.len(), 1, "a near copy is not compared with: copies do not make chains");
}

#[test]
fn other_units_count_after_a_rebase() {
    let world = World::new();
    let mut gate = world.gate(Deduplicate::exact().near(0.1));
    world.offer(&mut gate, &world.row(1, [1.0, 500.0], 0, None));
    let mut wider = Reference::builder(Arc::new(world.schema.clone()));
    for i in 0..400 {
        let row = world.row(0, [f64::from(i % 2 * 20), f64::from(i / 2 % 2 * 200)], 0, None).observation.row;
        wider.push(&row, None, None).unwrap();
    }
    let moved = References::starting_with(Arc::new(wider.finish()));
    let sample = world.row(2, [1.5, 500.0], 0, None);
    assert_eq!(verdict(&mut gate.clone(), &sample, &context(&world.schema, &world.references)), None);
    let said = verdict(&mut gate, &sample, &context(&world.schema, &moved)).unwrap();
    assert!(said.contains("0.0500"), "{said}");
}

#[test]
fn what_is_remembered_from_before_the_schema_got_a_number_is_near_nothing() {
    let old = World::new();
    let mut gate = old.gate(Deduplicate::exact().near(9.0));
    old.offer(&mut gate, &old.row(1, [1.0, 500.0], 0, None));
    let saved = gate.snapshot().unwrap();
    for added in [Field::number("more").nullable(), Field::category("more", ["x"]).nullable()] {
        let world = World::with(Some(added));
        let mut gate = world.gate(Deduplicate::exact().near(9.0));
        gate.restore(&saved).unwrap();
        let kept = if world.schema.value_columns().len() == 2 { 1 } else { 0 };
        assert_eq!((gate.remembered(), gate.near.len()), (1, kept));
        // A category has no place: it is missing, as it is in the row from before.
        assert_eq!(world.offer(&mut gate, &world.row(2, [1.05, 500.0], 0, None)).is_some(), kept == 1);
        let first = if kept == 1 { id(1) } else { id(2) };
        assert!(world.offer(&mut gate, &world.row(3, [1.1, 500.0], 0, None)).unwrap().contains(&first.to_string()));
    }
    // Texts stay near: their field is the same.
    let text = || Deduplicate::exact().text("note", 0.8);
    let mut gate = old.gate(text());
    old.offer(&mut gate, &old.row(1, [1.0, 500.0], 0, Some(PARCEL)));
    let world = World::with(Some(Field::number("more").nullable()));
    let mut after = world.gate(text());
    after.restore(&gate.snapshot().unwrap()).unwrap();
    assert!(
        world.offer(&mut after, &world.row(2, [1.0, 500.0], 0, Some(PARCEL))).unwrap().contains(&id(1).to_string())
    );
}

#[test]
fn a_reference_without_numbers_that_vary_compares_exactly_and_says_so() {
    let mut bench = Bench::new(Deduplicate::exact().near(1.0));
    bench.gate.rebase(&bench.references).unwrap();
    assert_eq!(bench.gate.blind().len(), 1);
    assert_eq!((bench.offer(1, 1.0), bench.offer(2, 1.0 + 1e-9)), (None, None));
}

const PARCEL: &str = "The parcel arrived two days late and the box was open at one side, please tell me what to do now";

#[test]
fn a_text_with_a_small_change_is_a_near_copy() {
    let world = World::new();
    let mut gate = world.gate(Deduplicate::exact().text("note", 0.8));
    assert_eq!(world.offer(&mut gate, &world.row(1, [1.0, 2.0], 0, Some(PARCEL))), None);
    let changed = PARCEL.replace("two days", "2 days");
    let said = world.offer(&mut gate, &world.row(2, [9.0, 9.0], 1, Some(&changed))).unwrap();
    assert!(
        said.starts_with("near_duplicate: its text has similarity 0.") && said.ends_with(&id(1).to_string()),
        "{said}"
    );
    assert_eq!(world.offer(&mut gate, &world.row(3, [1.0, 2.0], 0, Some("Where is my parcel?"))), None);
    for (n, note) in [(4, None), (5, Some("")), (6, Some(" "))] {
        assert_eq!(world.offer(&mut gate, &world.row(n, [1.0, 2.0], 0, note)), None, "{note:?}");
    }
    assert_eq!(gate.near.len(), 2);

    // With numbers, both must be near.
    let mut gate = world.gate(Deduplicate::exact().text("note", 0.8).near(0.1));
    assert_eq!(world.offer(&mut gate, &world.row(1, [1.0, 2.0], 0, Some(PARCEL))), None);
    assert_eq!(world.offer(&mut gate, &world.row(2, [9.0, 2.0], 0, Some(&changed))), None);
    assert_eq!(world.offer(&mut gate, &world.row(3, [1.0, 2.0], 0, Some("Where is my parcel?"))), None);
    assert_eq!(world.offer(&mut gate, &world.row(4, [1.0, 2.0], 0, None)), None);
    assert!(world.offer(&mut gate, &world.row(5, [1.05, 2.0], 0, Some(&changed))).is_some());
    assert!(world.offer(&mut gate, &world.row(6, [1.05, 2.0], 0, None)).is_some(), "missing in both");
}

#[test]
fn what_is_compared_nearly_is_bounded_and_forgotten_with_the_window() {
    let world = World::new();
    let settings = || Deduplicate::exact().near_capacity(5).window(TimeDelta::seconds(60));
    for (mut gate, by_text) in
        [(world.gate(settings().near(0.01)), false), (world.gate(settings().text("note", 0.9)), true)]
    {
        let offer = |gate: &mut Deduplicate, n: u128, seconds: i64, what: u32| {
            let note = by_text.then(|| format!("{:x}", keyed(7, &what.to_le_bytes())));
            let context = GateContext { now: at(seconds), ..context(&world.schema, &world.references) };
            verdict(gate, &world.row(n, [f64::from(what), 0.001 * n as f64], 0, note.as_deref()), &context)
        };
        for n in 0..20 {
            assert_eq!(offer(&mut gate, u128::from(n), 0, n), None);
            assert!(gate.near.len() <= 5);
        }
        assert_eq!(offer(&mut gate, 100, 10, 3), None, "forgotten: 5 others came since");
        assert!(offer(&mut gate, 101, 60, 19).is_some());
        assert_eq!((offer(&mut gate, 102, 61, 18), gate.near.len()), (None, 2), "after the window");
    }
}

/// Pairs of texts of 60 random words of which some are changed: the gate finds those whose shingles are similar enough,
/// within what the spread of the estimate explains.
#[test]
fn texts_are_found_by_their_true_similarity() {
    let world = World::new();
    let shingles = |text: &str| -> std::collections::BTreeSet<String> {
        text.as_bytes().windows(5).map(|five| String::from_utf8_lossy(five).into_owned()).collect()
    };
    let (mut clear, mut missed, mut wrong) = (0, 0, 0);
    for pair in 0..400_u64 {
        let word = |change: u64, at: u64| format!("{:05}", keyed(change, &(pair * 100 + at).to_le_bytes()) % 100_000);
        let changed = pair % 24;
        let text =
            |change| (0..60).map(|at| word(if at < changed { change } else { 0 }, at)).collect::<Vec<_>>().join(" ");
        let (a, b) = (text(0), text(1));
        let (of_a, of_b) = (shingles(&a), shingles(&b));
        let jaccard = of_a.intersection(&of_b).count() as f64 / of_a.union(&of_b).count() as f64;
        let mut gate = world.gate(Deduplicate::exact().text("note", 0.8));
        world.offer(&mut gate, &world.row(1, [1.0, 2.0], 0, Some(&a)));
        let found = world.offer(&mut gate, &world.row(2, [3.0, 4.0], 0, Some(&b))).is_some();
        // 0.1 is three standard deviations of the estimate.
        clear += usize::from((jaccard - 0.8).abs() > 0.1);
        missed += usize::from(jaccard > 0.9 && !found);
        wrong += usize::from(jaccard < 0.7 && found);
    }
    // At three standard deviations 0.3 % of the clear pairs go wrong at the very edge; a missed candidate is rarer still.
    assert!(clear > 200 && missed <= 4 && wrong <= 4, "{clear} clear, {missed} missed, {wrong} wrong");
}

/// One admission: value, category, note, lane, seconds since the last.
type Offer = (u8, u8, u8, u8, u8);

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    prop::collection::vec((0..40_u8, 0..2_u8, 0..5_u8, 0..4_u8, 0..20_u8), 1..120)
}

fn gates() -> impl Strategy<Value = Deduplicate> {
    prop::sample::select(vec![
        Deduplicate::exact().capacity(15),
        Deduplicate::exact().near(0.12).near_capacity(9).window(TimeDelta::seconds(300)),
        Deduplicate::exact().text("note", 0.8).near_capacity(9).capacity(30),
        Deduplicate::exact().text("note", 0.8).near(0.2),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Restarts between any admissions change no decision and no weight.
    #[test]
    fn a_restart_in_the_middle_changes_nothing(
        gate in gates(),
        offers in offers(),
        restarts in prop::collection::btree_set(0..120_usize, 0..6),
    ) {
        let world = World::new();
        let run = |restarts: &std::collections::BTreeSet<usize>| {
            let mut current = world.gate(gate.clone());
            let (mut seconds, mut said, mut samples) = (0, Vec::new(), Vec::new());
            for (n, (value, code, note, lane, later)) in offers.iter().enumerate() {
                if restarts.contains(&n) {
                    let saved = serde_json::to_string(&current.snapshot().unwrap()).unwrap();
                    current = world.gate(gate.clone());
                    current.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
                }
                let note = (*note > 0).then(|| PARCEL.replace("two", &"2".repeat(usize::from(*note) * 4)));
                let mut sample = world.row(n as u128, [0.1 * f64::from(*value), 100.0], u32::from(*code), note.as_deref());
                sample.lane = [Lane::Flagged, Lane::Random, Lane::Outcome, Lane::Flagged][usize::from(*lane)];
                seconds += i64::from(*later);
                let context = GateContext { now: at(seconds), ..context(&world.schema, &world.references) };
                said.push(verdict(&mut current, &sample, &context));
                samples.push(sample);
            }
            let weights: Vec<f64> = samples.iter().map(|sample| current.weight(sample)).collect();
            (said, weights, current.snapshot().unwrap())
        };
        prop_assert_eq!(run(&restarts), run(&Default::default()));
    }

    /// The frequency of a content is kept: weights add up to the number of admissions, as nothing is capped or forgotten.
    #[test]
    fn weights_of_what_passes_add_up_to_what_was_offered(offers in offers()) {
        let world = World::new();
        let mut gate = world.gate(Deduplicate::exact().near(0.12).weigh(u32::MAX));
        let mut passed = Vec::new();
        for (n, (value, code, _, lane, _)) in offers.iter().enumerate() {
            let mut sample = world.row(n as u128, [0.1 * f64::from(*value), 100.0], u32::from(*code), None);
            sample.lane = [Lane::Flagged, Lane::Random, Lane::Outcome, Lane::Flagged][usize::from(*lane)];
            if world.offer(&mut gate, &sample).is_none() {
                passed.push(sample);
            }
        }
        let total: f64 = passed.iter().map(|sample| gate.weight(sample)).sum();
        prop_assert_eq!(total, offers.len() as f64);
    }

    #[test]
    fn no_bytes_make_a_restart_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0..3_u64) {
        let world = World::new();
        let mut gate = world.gate(Deduplicate::exact().near(0.1));
        let bytes = [&count.to_le_bytes()[..], &bytes].concat();
        if gate.restore(&Snapshot::save_bytes(2, &bytes)).is_ok() {
            let _ = world.offer(&mut gate, &world.row(1, [1.0, unit_interval(0, &bytes)], 0, None));
        }
    }
}

#[test]
fn inputs_from_before_the_schema_grew_are_known_after_a_restart() {
    let old = Schema::numeric(2, Target::Value).unwrap();
    let more = [
        Field::number("more").nullable(),
        Field::category("country", ["DE"]).nullable(),
        Field::text("note", 9).nullable(),
        Field::timestamp("when").nullable(),
    ];
    let new = Schema::new(old.fields().iter().cloned().chain(more), Target::Value).unwrap();
    // two columns of deviation 1
    let references = |schema: &Schema| {
        let mut builder = Reference::builder(Arc::new(schema.clone()));
        for i in 0..400 {
            let mut row = Row::new(schema);
            row.values[..2].copy_from_slice(&[f64::from(i % 2 * 2), f64::from(i / 2 % 2 * 2)]);
            builder.push(&row, None, None).unwrap();
        }
        References::starting_with(Arc::new(builder.finish()))
    };
    let mut gate = Deduplicate::exact().near(0.1);
    let before = references(&old);
    gate.rebase(&before).unwrap();
    assert_eq!(verdict(&mut gate, &valued(&old, 1, &[0.0, 1.0]), &context(&old, &before)), None);
    assert!(verdict(&mut gate, &valued(&old, 2, &[0.0, 1.0]), &context(&old, &before)).is_some());

    let saved = gate.snapshot().unwrap();
    let mut gate = Deduplicate::exact().near(0.1);
    let after = references(&new);
    gate.rebase(&after).unwrap();
    gate.restore(&saved).unwrap();
    let fitted = |n, value| {
        let mut sample = valued(&old, n, &[value, 1.0]);
        sample.observation.row.fit(&new);
        sample
    };
    let mut offer = |sample: &Sample| verdict(&mut gate, sample, &context(&new, &after));
    assert!(offer(&fitted(3, 0.0)).unwrap().starts_with("duplicate: "));
    assert_eq!(offer(&fitted(4, 0.05)), None, "near rows are compared anew");
    assert_eq!(offer(&fitted(5, 5.0)), None);
    let mut other = fitted(6, 0.0);
    other.observation.row.values[2] = 1.0;
    assert_eq!(offer(&other), None, "a value of a new field is another input");
    assert_eq!(gate.weight(&fitted(1, 0.0)), 3.0, "2 and 3 are copies of 1");
}

#[test]
fn the_numbers_of_an_erased_sample_are_forgotten_its_hash_is_not() {
    let world = World::new();
    let mut gate = world.gate(Deduplicate::exact().near(0.1));
    let (first, other) = (world.row(1, [1.0, 500.0], 0, None), world.row(2, [3.0, 500.0], 0, None));
    for sample in [&first, &other] {
        assert_eq!(world.offer(&mut gate, sample), None);
    }
    gate.forget(&first);
    let mut again = world.gate(Deduplicate::exact().near(0.1));
    again.restore(&gate.snapshot().unwrap()).unwrap();
    for gate in [&mut gate, &mut again] {
        assert!(world.offer(gate, &world.row(3, [3.01, 500.0], 0, None)).is_some(), "the other one is known");
        assert!(world.offer(gate, &world.row(4, [1.0, 500.0], 0, None)).unwrap().starts_with("duplicate"));
        assert_eq!(world.offer(gate, &world.row(5, [1.01, 500.0], 0, None)), None, "nothing is near it any more");
    }
}
