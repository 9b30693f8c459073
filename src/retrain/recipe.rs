//! Which labelled rows a challenger is trained on, and how they are weighted.

use std::collections::BTreeMap;

use super::Recipe;
use crate::dataset::Dataset;
use crate::schema::SchemaError;

/// Most rows that a challenger is trained on unless told otherwise.
pub(crate) const MOST_ROWS: usize = 3000;

/// [`Recipe::Newest`]: fewest rows, and rows per class.
const NEWEST: (usize, usize) = (60, 6);

/// Half-lives of [`Recipe::Decayed`] and [`Recipe::FastDecayed`], in rows.
const HALF_LIVES: (f64, f64) = (200.0, 50.0);

/// [`Recipe::Anchored`]: the half-life of a label in rows, and the weight of all base data together.
const ANCHORED: (f64, f64) = (30.0, 30.0);

/// [`Recipe::Blend`]: labels, in multiples of those that [`Recipe::Newest`] takes, from which on it is twice as heavy.
const SETTLED: f64 = 2.0;

/// [`Recipe::Blend`] leaves out rows of less than this share of the largest weight.
const NEGLIGIBLE: f64 = 1e-4;

/// Which rows there are: base data first, then the labels, oldest first.
#[derive(Clone, Copy)]
struct Rows {
    base: usize,
    labels: usize,
    cap: usize,
    classes: usize,
}

impl Rows {
    /// How many [`Recipe::Newest`] takes.
    fn few(self) -> usize {
        NEWEST.0.max(NEWEST.1 * self.classes)
    }
}

/// The rows that `recipe` takes of the `base` data and the labels so far (oldest first), with their weights. `shares` are
/// those of the race, for [`Recipe::Blend`].
///
/// Without base data, *Window* takes what *All* takes. *Newest* does so until there are enough labels.
///
/// # Errors
/// Base data and labels have different schemas.
pub(crate) fn compose(
    recipe: Recipe,
    base: Option<&Dataset>,
    labelled: &Dataset,
    cap: usize,
    shares: &BTreeMap<String, f64>,
) -> Result<Dataset, SchemaError> {
    let mut all = base.cloned().unwrap_or_else(|| Dataset::new(labelled.schema().clone()));
    all.extend(labelled)?;
    let classes = labelled.schema().classes();
    let rows = Rows { base: all.len() - labelled.len(), labels: labelled.len(), cap, classes };
    let weights = match recipe {
        Recipe::Blend => blend(rows, all.weights(), shares),
        _ => weigh(Some(recipe), rows, all.weights()),
    };
    Ok(all.reweighted(&weights))
}

/// The weight of every row under `recipe`, 0 for rows that it does not take; `given` are the weights that the rows have of
/// their own. No recipe is to keep the first model: it takes the base data.
fn weigh(recipe: Option<Recipe>, rows: Rows, given: &[f64]) -> Vec<f64> {
    let Rows { base, labels, cap, .. } = rows;
    let few = rows.few();
    let newest = match recipe {
        Some(Recipe::Window) if base > 0 => base.min(cap),
        Some(Recipe::Newest) if labels >= few => few.min(cap),
        _ => cap,
    } as f64;
    let weight = |(row, given): (usize, &f64)| {
        let age = (base + labels - 1 - row) as f64;
        let base_row = row < base && base - row <= cap;
        let share = match recipe {
            None => f64::from(base_row),
            Some(Recipe::Anchored) if base_row => (ANCHORED.1 / base as f64).min(1.0),
            Some(Recipe::Anchored) if row >= base && age < cap as f64 => (-age / ANCHORED.0).exp2(),
            Some(Recipe::Anchored) => 0.0,
            Some(_) if age >= newest => 0.0,
            Some(Recipe::Decayed) => (-age / HALF_LIVES.0).exp2(),
            Some(Recipe::FastDecayed) => (-age / HALF_LIVES.1).exp2(),
            Some(_) => 1.0,
        };
        share * given
    };
    given.iter().enumerate().map(weight).collect()
}

/// Every recipe's weights, scaled to the same sum, in the proportion that the race gives them.
///
/// Together they are as heavy as the recipes' effective numbers of rows, and up to twice as heavy once there are labels enough
/// ([`SETTLED`]): a model that shrinks its weights would otherwise fit a mixture less closely than it fits its parts, which are
/// mostly the same rows; with a handful of labels that is as well.
fn blend(rows: Rows, given: &[f64], shares: &BTreeMap<String, f64>) -> Vec<f64> {
    let mut mixed = vec![0.0; given.len()];
    let mut effective = 0.0;
    for (name, share) in shares {
        let recipe = Recipe::RACING.into_iter().find(|recipe| recipe.as_str() == name);
        let weights = weigh(recipe, rows, given);
        let sum: f64 = weights.iter().sum();
        if sum > 0.0 {
            mixed.iter_mut().zip(&weights).for_each(|(mixed, weight)| *mixed += share * weight / sum);
            effective += share * sum * sum / weights.iter().map(|weight| weight * weight).sum::<f64>();
        }
    }
    effective *= 1.0 + (rows.labels as f64 / (SETTLED * rows.few() as f64)).min(1.0);
    let least = NEGLIGIBLE * mixed.iter().copied().fold(0.0, f64::max);
    mixed.iter().map(|weight| if *weight > least { weight * effective } else { 0.0 }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::{Label, Schema, Target};
    use std::sync::Arc;

    fn rows(numbers: std::ops::Range<usize>) -> Dataset {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
        Dataset::from_values(schema, numbers.map(|i| ([i as f64], Label::Class((i % 2) as u32)))).unwrap()
    }

    fn taken(recipe: Recipe, base: usize, labels: usize) -> (f64, usize) {
        let taken =
            compose(recipe, Some(&rows(0..base)), &rows(base..base + labels), MOST_ROWS, &BTreeMap::new()).unwrap();
        (taken.rows()[0].values()[0], taken.len())
    }

    #[test]
    fn all_takes_base_and_labels_up_to_the_newest_3000() {
        assert_eq!(taken(Recipe::All, 200, 100), (0.0, 300));
        assert_eq!(taken(Recipe::All, 200, 3000), (200.0, 3000));
        assert_eq!(compose(Recipe::All, None, &rows(0..5), MOST_ROWS, &BTreeMap::new()).unwrap().len(), 5);
    }

    #[test]
    fn the_window_is_as_long_as_the_base() {
        assert_eq!(taken(Recipe::Window, 200, 50), (50.0, 200));
        assert_eq!(compose(Recipe::Window, None, &rows(0..5), MOST_ROWS, &BTreeMap::new()).unwrap().len(), 5);
    }

    #[test]
    fn newest_takes_sixty_or_six_per_class_once_there_are_enough() {
        assert_eq!(taken(Recipe::Newest, 200, 60), (200.0, 60));
        assert_eq!(taken(Recipe::Newest, 200, 59), (0.0, 259));
        let names = (0..15).map(|class| class.to_string());
        let schema = Arc::new(Schema::numeric(1, Target::classes(names)).unwrap());
        let many = |count: u32| {
            let values = (0..count).map(|i| ([f64::from(i)], Label::Class(i % 15)));
            Dataset::from_values(schema.clone(), values).unwrap()
        };
        let many = compose(Recipe::Newest, Some(&many(200)), &many(100), MOST_ROWS, &BTreeMap::new()).unwrap();
        assert_eq!(many.len(), 90);
    }

    #[test]
    fn weights_halve_with_age() {
        for (recipe, half_life) in [(Recipe::Decayed, 200), (Recipe::FastDecayed, 50)] {
            let decayed = compose(recipe, Some(&rows(0..200)), &rows(0..100), MOST_ROWS, &BTreeMap::new()).unwrap();
            let weights = decayed.weights();
            assert_eq!((weights.len(), weights[299]), (300, 1.0));
            assert!((weights[299 - half_life] - 0.5).abs() < 1e-12);
        }
    }

    #[test]
    fn anchored_gives_the_base_data_the_weight_of_thirty_rows() {
        let anchored = |base, labels| {
            compose(Recipe::Anchored, Some(&rows(0..base)), &rows(0..labels), MOST_ROWS, &BTreeMap::new()).unwrap()
        };
        let large = anchored(400, 200);
        let weights = large.weights();
        assert!((weights[..400].iter().sum::<f64>() - 30.0).abs() < 1e-9);
        assert_eq!((weights.len(), weights[599]), (600, 1.0));
        assert!((weights[569] - 0.5).abs() < 1e-12);
        assert_eq!(anchored(20, 2).weights()[0], 1.0, "no row weighs more than a fresh label");
    }

    /// Each recipe has its share of the weight, whatever the number of its rows.
    #[test]
    fn a_blend_mixes_the_recipes_by_their_shares() {
        let (base, labels) = (rows(0..200), rows(200..300));
        let blend = |shares: &[(&str, f64)]| {
            let shares = shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
            compose(Recipe::Blend, Some(&base), &labels, MOST_ROWS, &shares).unwrap()
        };
        let alone = blend(&[("fast_decayed", 1.0)]);
        let decayed = compose(Recipe::FastDecayed, Some(&base), &labels, MOST_ROWS, &BTreeMap::new()).unwrap();
        let proportion = alone.weights()[alone.len() - 1] / decayed.weights()[299];
        for (row, weight) in alone.weights().iter().enumerate() {
            let expected = proportion * decayed.weights()[300 - alone.len() + row];
            assert!((weight - expected).abs() < 1e-12, "one recipe alone is itself, up to a factor");
        }
        // keep: 200 base rows; newest: the last 60.
        let two = blend(&[("keep", 0.75), ("newest", 0.25)]);
        assert_eq!(two.len(), 260);
        let total: f64 = two.weights().iter().sum();
        let heavier = 1.0 + 100.0 / 120.0;
        assert!((total - heavier * (0.75 * 200.0 + 0.25 * 60.0)).abs() < 1e-9, "{total}");
        assert!((two.weights()[..200].iter().sum::<f64>() / total - 0.75).abs() < 1e-12);
        assert_eq!(two.rows()[200].values()[0], 240.0);
        let more = [("keep".to_owned(), 1.0)].into();
        let settled = compose(Recipe::Blend, Some(&base), &rows(200..500), MOST_ROWS, &more).unwrap();
        assert!(settled.weights().iter().all(|weight| (weight - 2.0).abs() < 1e-12), "never more than twice as heavy");
        // A recipe without a share, or without rows, takes nothing.
        assert_eq!(blend(&[("keep", 1.0), ("all", 1e-9)]).len(), 200);
        let nothing = compose(Recipe::Blend, None, &labels, MOST_ROWS, &[("keep".to_owned(), 1.0)].into()).unwrap();
        assert!(nothing.is_empty());
    }

    #[test]
    fn another_schema_is_refused() {
        let other = Arc::new(Schema::numeric(2, Target::classes(["no", "yes"])).unwrap());
        assert!(compose(Recipe::All, Some(&Dataset::new(other)), &rows(0..5), MOST_ROWS, &BTreeMap::new()).is_err());
    }
}
