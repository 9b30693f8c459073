//! How soon the stream detectors find a change, each tuned to at most 1 % of null streams with any alarm.
//!
//! `cargo test --release --no-default-features --test power -- --ignored --nocapture` prints the table. Streams: 4,000
//! points, change at 2,000: errors at a rate of 0.1 that becomes 0.3 (at once, or over 1,000 points) or 0.15; values from
//! N(0, 1) that become N(1, 1) (at once, or over 1,000 points) or N(0, 4). The classical detectors give the alarms of
//! River's, see the golden sequences beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use feedloop::{
    Adwin, Change, ChangeDetector, ChunkBuffer, ConformalMartingale, Cusum, Ddm, Detector, Direction, EDetector, Eddm,
    Findings, HddmA, HddmW, KsDrift, Kswin, Observation, PageHinkley, Reference, References, Row, Schema, Stage,
    Target,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const LENGTH: usize = 4_000;
const CHANGE: usize = 2_000;

#[derive(Clone, Copy, PartialEq)]
enum Scenario {
    Errors { after: f64, ramp: usize },
    Values { shift: f64, deviation: f64, ramp: usize },
}

const NO_ERRORS: Scenario = Scenario::Errors { after: 0.1, ramp: 0 };
const NO_VALUES: Scenario = Scenario::Values { shift: 0.0, deviation: 1.0, ramp: 0 };
const SCENARIOS: [(&str, Scenario); 6] = [
    ("err_abrupt", Scenario::Errors { after: 0.3, ramp: 0 }),
    ("err_gradual", Scenario::Errors { after: 0.3, ramp: 1_000 }),
    ("err_small", Scenario::Errors { after: 0.15, ramp: 0 }),
    ("val_abrupt", Scenario::Values { shift: 1.0, deviation: 1.0, ramp: 0 }),
    ("val_gradual", Scenario::Values { shift: 1.0, deviation: 1.0, ramp: 1_000 }),
    ("val_variance", Scenario::Values { shift: 0.0, deviation: 2.0, ramp: 0 }),
];

fn normal(random: &mut StdRng) -> f64 {
    (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt() * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

impl Scenario {
    fn stream(self, seed: u64) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        let part = |at: usize, ramp: usize| match at {
            at if at < CHANGE => 0.0,
            at if at < CHANGE + ramp => (at - CHANGE) as f64 / (ramp - 1) as f64,
            _ => 1.0,
        };
        let value = |at: usize| match self {
            Scenario::Errors { after, ramp } => {
                f64::from(u8::from(random.random::<f64>() < 0.1 + (after - 0.1) * part(at, ramp)))
            }
            Scenario::Values { shift, deviation, ramp } => {
                let factor = if at < CHANGE { 1.0 } else { deviation };
                shift * part(at, ramp) + factor * normal(&mut random)
            }
        };
        (0..LENGTH).map(value).collect()
    }

    fn null(self) -> Scenario {
        if matches!(self, Scenario::Errors { .. }) { NO_ERRORS } else { NO_VALUES }
    }

    fn baseline(self) -> usize {
        if matches!(self, Scenario::Errors { .. }) { 300 } else { 500 }
    }
}

/// A detector at a sensitivity from 0 (deaf) to 1.
struct Entry {
    name: &'static str,
    ours: bool,
    make: Box<dyn Fn(f64) -> Box<dyn ChangeDetector>>,
}

/// From `low` to `high` on a logarithmic scale.
fn between(low: f64, high: f64, sensitivity: f64) -> f64 {
    (low.ln() + (high / low).ln() * sensitivity).exp()
}

fn entries(scenario: Scenario) -> Vec<Entry> {
    fn entry<C: ChangeDetector>(name: &'static str, ours: bool, make: impl Fn(f64) -> C + 'static) -> Entry {
        Entry { name, ours, make: Box::new(move |sensitivity| Box::new(make(sensitivity))) }
    }
    let errors = matches!(scenario, Scenario::Errors { .. });
    let direction = if errors { Direction::Up } else { Direction::Both };
    let baseline = scenario.baseline() as u64;
    let mut entries = vec![
        entry("conformal martingale", true, move |s| {
            ConformalMartingale::default().average_run_length(between(1e7, 1e2, s)).direction(direction)
        }),
        entry("ADWIN", false, |s| Adwin::default().delta(between(1e-9, 0.9999, s))),
        entry("Page-Hinkley", false, move |s| {
            PageHinkley::default().threshold(between(1e3, 1.0, s)).direction(direction)
        }),
        entry("CUSUM", false, move |s| {
            Cusum::default().threshold(between(1e3, 1.0, s)).direction(direction).warm_up(baseline)
        }),
    ];
    if errors {
        entries.push(entry("e-detector", true, |s| EDetector::default().average_run_length(between(1e7, 1e1, s))));
        entries.push(entry("DDM", false, |s| {
            let level = between(100.0, 0.5, s);
            Ddm::default().levels(level, level)
        }));
        entries.push(entry("EDDM", false, |s| {
            let level = between(1e-2, 0.95, s);
            Eddm::default().levels(level, level)
        }));
        entries.push(entry("HDDM-A", false, |s| {
            let confidence = between(1e-12, 0.5, s);
            HddmA::default().confidences(confidence, confidence)
        }));
        entries.push(entry("HDDM-W", false, |s| {
            let confidence = between(1e-12, 0.5, s);
            HddmW::default().confidences(confidence, confidence)
        }));
    } else {
        entries.push(entry("e-detector", true, |s| {
            let range = EDetector::default().range(-4.0, 4.0).direction(Direction::Both);
            range.average_run_length(between(1e7, 1e1, s))
        }));
        entries.push(entry("KSWIN", false, |s| Kswin::default().alpha(between(1e-14, 0.05, s))));
        entries.push(entry("KSWIN 300/100", false, |s| {
            Kswin::default().window(300).recent(100).alpha(between(1e-14, 0.05, s))
        }));
    }
    entries
}

/// The first alarm from `from` on.
fn first_alarm(entry: &Entry, sensitivity: f64, scenario: Scenario, stream: &[f64], from: usize) -> Option<usize> {
    let mut detector = (entry.make)(sensitivity);
    // ours get their baseline beforehand, as from a reference
    let start = if entry.ours { scenario.baseline() } else { 0 };
    detector.rebase(&stream[..start]).unwrap();
    (start..LENGTH).find(|&at| detector.update(stream[at]) == Change::Drift && at >= from)
}

fn null_rate(entry: &Entry, sensitivity: f64, scenario: Scenario, seeds: std::ops::Range<u64>) -> f64 {
    let count = seeds.end - seeds.start;
    let null = scenario.null();
    let alarms = seeds.filter(|&seed| first_alarm(entry, sensitivity, scenario, &null.stream(seed), 0).is_some());
    alarms.count() as f64 / count as f64
}

/// The highest sensitivity at which at most 1 % of null streams see an alarm.
fn tune(entry: &Entry, scenario: Scenario, seeds: u64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..10 {
        let middle = f64::midpoint(low, high);
        if null_rate(entry, middle, scenario, 0..seeds) <= 0.01 { low = middle } else { high = middle }
    }
    low
}

struct Found {
    name: &'static str,
    ours: bool,
    share: f64,
    /// Of all streams; infinite if most changes were not found.
    delay: f64,
}

fn measure(entry: &Entry, sensitivity: f64, scenario: Scenario, seeds: u64) -> Found {
    let delay = |seed| {
        let stream = scenario.stream(1_000_000 + seed);
        let alarm = first_alarm(entry, sensitivity, scenario, &stream, CHANGE);
        alarm.map_or(f64::INFINITY, |at| (at - CHANGE) as f64)
    };
    let mut delays: Vec<f64> = (0..seeds).map(delay).collect();
    delays.sort_by(f64::total_cmp);
    let found = delays.iter().filter(|delay| delay.is_finite()).count();
    let (middle, share) = (delays.len() / 2, found as f64 / seeds as f64);
    Found { name: entry.name, ours: entry.ours, share, delay: f64::midpoint(delays[middle - 1], delays[middle]) }
}

#[test]
#[ignore = "a minute in a release build; prints the table"]
fn table() {
    let mut tuned: Vec<(Scenario, Vec<(Entry, f64)>)> = Vec::new();
    for null in [NO_ERRORS, NO_VALUES] {
        let mut list = Vec::new();
        for entry in entries(null) {
            let sensitivity = tune(&entry, null, 1_000);
            let rate = null_rate(&entry, sensitivity, null, 500_000..502_000);
            println!(
                "{:22} null {rate:.4} sensitivity {sensitivity:.3} {:?}",
                entry.name,
                (entry.make)(sensitivity).evidence().threshold
            );
            list.push((entry, sensitivity));
        }
        tuned.push((null, list));
    }
    for (name, scenario) in SCENARIOS {
        println!("{name}");
        for (_, list) in tuned.iter().filter(|(null, _)| *null == scenario.null()) {
            let mut found: Vec<Found> =
                list.iter().map(|(entry, sensitivity)| measure(entry, *sensitivity, scenario, 300)).collect();
            found.sort_by(|a, b| a.delay.total_cmp(&b.delay));
            for Found { name, ours, share, delay } in found {
                println!("  {name:22}{} found {share:.3} median delay {delay}", if ours { "*" } else { " " });
            }
        }
    }
}
