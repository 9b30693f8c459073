//! The serving baseline moves; the anchor does not, so that many small moves add up where everybody sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Pipeline;
use crate::detector::Reading;
use crate::error::Error;
use crate::reference::Reference;
use crate::stats::categorical::homogeneity;
use crate::stats::ks_window::KsWindow;
use crate::store::{Expect, Indexed, Kind, Write};

/// Columns that the status shows.
const MOST_COLUMNS: usize = 10;
/// The serving baseline before the present one: a rollback of the version that moved it brings it back.
pub(super) const BEFORE: &str = "reference/serving_before";

impl Pipeline {
    /// Makes `serving` the baseline for change detection, and remembers the one `before` it for a rollback. The stages
    /// look at it when they are rebased.
    pub(super) fn set_serving(&mut self, serving: Arc<Reference>, before: Option<Arc<Reference>>) -> Result<(), Error> {
        let indexed = || Indexed { state: "saved", rank: 0, due: None };
        let anchor = self.outbox.json(Kind::Control, "reference/anchor", indexed(), &*self.references.anchor)?;
        let moved = vec![
            self.outbox.json(Kind::Control, "reference/serving", indexed(), &*serving)?,
            self.outbox.json(Kind::Control, BEFORE, indexed(), &before.as_deref())?,
        ];
        // Written once: from the first move on it is this one, whatever data the host comes up with after a restart.
        self.outbox.push(vec![Write { expect: Expect::Absent, ..anchor }]);
        self.outbox.join(moved);
        self.references.serving = serving;
        self.measure_drift();
        Ok(())
    }

    /// The serving baseline before the present one, if there was one.
    pub(super) fn serving_before(&self) -> Result<Option<Arc<Reference>>, Error> {
        Ok(self.outbox.read::<Option<Reference>>(Kind::Control, BEFORE)?.flatten().map(Arc::new))
    }

    /// How far the serving baseline is from the anchor.
    pub(super) fn measure_drift(&mut self) {
        let (anchor, serving) = (&self.references.anchor, &self.references.serving);
        self.cumulative_drift = if Arc::ptr_eq(anchor, serving) { Vec::new() } else { distances(anchor, serving) };
    }
}

/// The columns in which two references differ most, largest effect first.
fn distances(anchor: &Reference, now: &Reference) -> Vec<Reading> {
    let schema = anchor.schema();
    let numbers = schema.value_columns().iter().enumerate().map(|(column, name)| {
        let values = now.column(column);
        let mut window = KsWindow::new(&anchor.column(column), values.len());
        window.extend(values.into_iter());
        let (d, missing) = (window.distance(), now.missing_share(column) - anchor.missing_share(column));
        Reading { column: name.clone(), statistic: d, p_value: None, effect: d.max(missing.abs()) }
    });
    let categories = schema.code_columns().iter().enumerate().map(|(column, name)| {
        let (then, now) = (anchor.code_counts(column), now.code_counts(column));
        let codes: BTreeSet<u32> = then.keys().chain(now.keys()).copied().collect();
        let counts = |of: &BTreeMap<u32, u64>| -> Vec<u64> {
            codes.iter().map(|code| of.get(code).copied().unwrap_or(0)).collect()
        };
        let variation = homogeneity(&counts(then), &counts(now)).map_or(0.0, |found| found.total_variation);
        Reading { column: name.clone(), statistic: variation, p_value: None, effect: variation }
    });
    let mut found: Vec<Reading> = numbers.chain(categories).collect();
    found.sort_by(|a, b| b.effect.total_cmp(&a.effect));
    found.truncate(MOST_COLUMNS);
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::ModelVersion;
    use crate::schema::{Field, Row, Schema, Target};
    use crate::store::MemoryStore;

    const ROWS: u32 = 2_000;

    fn schema() -> Arc<Schema> {
        let numbers = ["still", "slow", "holes"].map(|name| Field::number(name).nullable());
        let fields = numbers.into_iter().chain([Field::category("kind", ["x", "y"])]);
        Arc::new(Schema::new(fields, Target::classes(["no", "yes"])).unwrap())
    }

    /// After `steps` steps: `slow` is uniform from 0.03 per step on, `holes` and `y` are 3 points more frequent per step.
    fn reference(steps: u32) -> Reference {
        let schema = schema();
        let mut builder = Reference::builder(schema.clone()).model(ModelVersion(steps.into()));
        for i in 0..ROWS {
            let place = f64::from(i) / f64::from(ROWS);
            let moved = 0.03 * f64::from(steps);
            let hole = f64::from(i * 7_919 % ROWS) / f64::from(ROWS) < 0.1 + moved;
            let holes = if hole { f64::NAN } else { place };
            let mut row = Row::from_values(&schema, &[place, place + moved, holes]).unwrap();
            row.codes[0] = u32::from(place < 0.2 + moved);
            builder.push(&row, None, None).unwrap();
        }
        builder.finish()
    }

    fn pipeline(store: &MemoryStore, given: u32) -> Pipeline {
        Pipeline::builder("slow", schema()).reference(reference(given)).store(store.clone()).build().unwrap()
    }

    #[test]
    fn small_moves_that_no_test_minds_add_up() {
        let store = MemoryStore::new();
        let mut pipeline = pipeline(&store, 0);
        assert_eq!(pipeline.status().unwrap().cumulative_drift, []);
        for step in 1..=10 {
            let before = pipeline.references.serving.clone();
            let now = Arc::new(reference(step));
            let largest = distances(&before, &now)[0].effect;
            // The default minimum effect of the window detectors is 0.05.
            assert!(largest < 0.05, "step {step} moves by {largest}");
            pipeline.set_serving(now, Some(before)).unwrap();
        }
        let drift = pipeline.status().unwrap().cumulative_drift;
        let names: Vec<&str> = drift.iter().map(|reading| reading.column.as_str()).collect();
        assert_eq!((names[3], drift[3].effect), ("still", 0.0));
        for moved in ["slow", "holes", "kind"] {
            let reading = drift.iter().find(|reading| reading.column == moved).unwrap();
            assert!((reading.effect - 0.3).abs() < 2.0 / f64::from(ROWS), "{reading:?}");
            assert_eq!(reading.p_value, None);
        }
        // After a restart, even with other data, the anchor is the first one.
        pipeline.outbox.commit().unwrap();
        let again = super::tests::pipeline(&store, 10);
        assert_eq!(again.status().unwrap().cumulative_drift, drift);
    }

    #[test]
    fn only_the_columns_that_moved_most_are_listed() {
        let schema = Arc::new(Schema::numeric(30, Target::Value).unwrap());
        let reference = |moved: f64| {
            let mut builder = Reference::builder(schema.clone());
            for i in 0..100 {
                let values: Vec<f64> = (0..30).map(|column| f64::from(i) + moved * f64::from(column)).collect();
                builder.push(&Row::from_values(&schema, &values).unwrap(), None, None).unwrap();
            }
            builder.finish()
        };
        let found = distances(&reference(0.0), &reference(1.0));
        assert_eq!(found.len(), MOST_COLUMNS);
        assert_eq!(found[0].column, schema.value_columns()[29]);
        assert!(found.windows(2).all(|pair| pair[0].effect >= pair[1].effect));
    }

    #[test]
    fn a_column_that_goes_missing_altogether_has_moved_altogether() {
        let schema = Arc::new(Schema::new([Field::number("x").nullable()], Target::Value).unwrap());
        let reference = |value: f64| {
            let mut builder = Reference::builder(schema.clone());
            for _ in 0..50 {
                builder.push(&Row::from_values(&schema, &[value]).unwrap(), None, None).unwrap();
            }
            builder.finish()
        };
        let found = distances(&reference(1.0), &reference(f64::NAN));
        assert_eq!((found[0].statistic, found[0].effect), (0.0, 1.0));
    }
}
