use super::*;
use crate::stats::sampling::unit_interval;
use crate::{Dataset, Label, Schema, Target};
use std::sync::Arc;

fn id(number: u64) -> PredictionId {
    PredictionId::from_uuid(uuid::Uuid::from_u64_pair(1, number))
}

/// Row `number`, uniform in a square of side 1 around (`centre`, `centre`).
fn row(schema: &Schema, number: u64, centre: f64) -> Row {
    let at = |seed| centre - 0.5 + unit_interval(seed, &number.to_le_bytes());
    Row::from_values(schema, &[at(1), at(2)]).unwrap()
}

struct Setting {
    schema: Arc<Schema>,
    tracker: CoverageTracker,
}

impl Setting {
    fn new() -> Self {
        let schema = Arc::new(Schema::numeric(2, Target::classes(["no", "yes"])).unwrap());
        let mut training = Dataset::new(schema.clone());
        for number in 0..1_000 {
            training.push(row(&schema, 1_000_000 + number, 0.0), Label::Class(0), 1.0).unwrap();
        }
        let tracker = CoverageTracker::new(&Reference::fit(&training).unwrap(), 3);
        Setting { schema, tracker }
    }

    fn flag(&mut self, numbers: impl IntoIterator<Item = u64>, centre: f64, detector: &str) {
        for number in numbers {
            self.tracker.flagged(id(number), &row(&self.schema, number, centre), detector, Some(1));
        }
    }

    fn label(&mut self, numbers: impl IntoIterator<Item = u64>, centre: f64) {
        for number in numbers {
            self.tracker.labelled(id(number), &row(&self.schema, number, centre));
        }
    }

    fn covered(&self) -> f64 {
        self.tracker.status().covered
    }

    /// Every distance searched anew, as the definition says.
    fn by_definition(&self) -> f64 {
        let tracker = &self.tracker;
        let distance = |a: &Kept, b: &Point| tracker.encoder.distance_squared(&a.point, b);
        let covered = |(key, kept): (&u64, &Kept)| {
            let cell = tracker.samples.iter().filter(|(other, there)| *other != key && there.cell == kept.cell);
            let mut near: Vec<_> = cell.map(|(_, there)| distance(kept, &there.point)).collect();
            near.sort_by(f64::total_cmp);
            let reach = near.get(4).or(near.last()).copied().unwrap_or(0.0);
            tracker.labels.values().any(|label| distance(kept, label) <= reach)
        };
        tracker.samples.iter().filter(|&entry| covered(entry)).count() as f64 / tracker.samples.len() as f64
    }
}

#[test]
fn nothing_is_covered_without_labels_and_everything_with_all() {
    let mut setting = Setting::new();
    setting.flag(0..100, 3.0, "knn");
    assert_eq!(setting.covered(), 0.0);
    setting.label(0..100, 3.0);
    let expected = CoverageStatus { covered: 1.0, flagged: 100, labels: 100, cells: vec![1.0] };
    assert_eq!(setting.tracker.status(), expected);
}

#[test]
fn a_label_more_never_covers_less() {
    let mut setting = Setting::new();
    setting.flag(0..200, 3.0, "knn");
    let mut last = 0.0;
    for number in 100..300 {
        setting.label([number], 3.0);
        assert!(setting.covered() >= last);
        last = setting.covered();
    }
    assert!(last > 0.9);
}

#[test]
fn a_new_unlabelled_cluster_lowers_the_coverage() {
    let mut setting = Setting::new();
    setting.flag(0..100, 3.0, "knn");
    setting.label(0..60, 3.0);
    let before = setting.covered();
    setting.flag(100..200, 30.0, "knn");
    assert!(before > 0.9 && (setting.covered() - before / 2.0).abs() < 0.05, "{before} {}", setting.covered());
}

#[test]
fn random_labels_cover_what_the_rule_of_thumb_says() {
    for (share, expected) in [(0.1, 0.48), (0.2, 0.75), (0.3, 0.89)] {
        let mut setting = Setting::new();
        setting.flag(0..1_000, 3.0, "knn");
        let drawn: Vec<u64> = (0..1_000).filter(|n: &u64| unit_interval(9, &n.to_le_bytes()) < share).collect();
        setting.label(drawn, 3.0);
        assert!((setting.covered() - expected).abs() < 0.06, "{share}: {}", setting.covered());
    }
}

#[test]
fn cells_are_apart_and_small_ones_do_not_count() {
    let mut setting = Setting::new();
    setting.flag(0..100, 3.0, "knn");
    setting.flag(100..200, 3.0, "confidence");
    setting.flag(200..205, 3.0, "output");
    setting.label(0..100, 3.0);
    let status = setting.tracker.status();
    // "confidence", then "knn"; "output" holds less than a tenth.
    assert_eq!(status.cells.len(), 2);
    assert_eq!(status.cells[1], 1.0);
    assert!(
        status.cells[0] > 0.8 && status.cells[0] < 1.0,
        "labels of the one speak for the other where they are near"
    );
}

#[test]
fn increments_agree_with_the_definition() {
    let mut setting = Setting::new();
    for step in 0..600_u64 {
        let number = step * 7 % 400;
        match step % 6 {
            0..=2 => setting.flag([number], 3.0, if number % 3 == 0 { "knn" } else { "confidence" }),
            3 => setting.label([number], 3.0),
            4 => setting.tracker.retract(id((step * 11) % 400)),
            _ => setting.tracker.unlabelled(id((step * 13) % 400)),
        }
        if step > 20 && step % 20 == 0 {
            assert_eq!(setting.covered(), setting.by_definition(), "step {step}");
        }
    }
    assert!(setting.covered() > 0.0 && setting.covered() < 1.0);
}

#[test]
fn the_reservoir_is_bounded_and_still_right() {
    let mut setting = Setting::new();
    setting.tracker.capacity = 200;
    setting.label(5_000..5_020, 3.0);
    setting.flag(0..300, 3.0, "knn");
    assert_eq!((setting.tracker.samples.len(), setting.tracker.status().flagged), (200, 300));
    assert_eq!(setting.covered(), setting.by_definition());
    let (gone, kept): (Vec<u64>, Vec<u64>) =
        (0..300).partition(|&n| setting.tracker.key(id(n)) >= setting.tracker.limit);
    assert_eq!(gone.len(), 100);
    setting.tracker.retract(id(gone[0]));
    setting.tracker.retract(id(kept[0]));
    assert_eq!((setting.tracker.samples.len(), setting.tracker.status().flagged), (199, 298));
    setting.flag(300..301, 3.0, "knn");
    assert!(setting.tracker.samples.keys().all(|&key| key < setting.tracker.limit), "it stays a uniform sample");
}

#[test]
fn duplicates_stay_cheap_and_covered_by_one_label() {
    let mut setting = Setting::new();
    let same = row(&setting.schema, 1, 3.0);
    for number in 0..500 {
        setting.tracker.flagged(id(number), &same, "knn", None);
    }
    assert_eq!(setting.covered(), 0.0);
    setting.tracker.labelled(id(0), &same);
    assert_eq!(setting.covered(), 1.0);
    for number in 1..400 {
        setting.tracker.retract(id(number));
    }
    assert_eq!((setting.covered(), setting.tracker.status().flagged), (1.0, 101));
}

#[test]
fn a_retracted_label_covers_nothing() {
    let mut setting = Setting::new();
    setting.flag(0..50, 3.0, "knn");
    setting.label([0, 1], 3.0);
    setting.tracker.unlabelled(id(0));
    setting.tracker.unlabelled(id(1));
    assert_eq!((setting.covered(), setting.tracker.status().labels), (0.0, 0));
}
