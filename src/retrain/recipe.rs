//! Which labelled rows a challenger is trained on, and how they are weighted.

use super::Recipe;
use crate::dataset::Dataset;
use crate::schema::SchemaError;

/// Most rows that a challenger is trained on unless told otherwise.
pub(crate) const MOST_ROWS: usize = 3000;

/// [`Recipe::Newest`]: fewest rows, and rows per class.
const NEWEST: (usize, usize) = (60, 6);

/// Shortest half-life of [`Recipe::Decayed`], in rows.
const SHORTEST_HALF_LIFE: f64 = 30.0;

/// The rows that `recipe` takes of the `base` data and the labels so far (oldest first), at most `cap` of them.
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
    classes: usize,
) -> Result<Dataset, SchemaError> {
    let mut all = base.cloned().unwrap_or_else(|| Dataset::new(labelled.schema().clone()));
    all.extend(labelled)?;
    let few = NEWEST.0.max(NEWEST.1 * classes);
    let rows = match recipe {
        Recipe::All | Recipe::Decayed => cap,
        Recipe::Window => base.map(Dataset::len).filter(|&rows| rows > 0).unwrap_or(cap),
        Recipe::Newest if labelled.len() >= few => few,
        Recipe::Newest => cap,
    };
    let mut taken = all.newest(rows.min(cap));
    if recipe == Recipe::Decayed {
        let new = labelled.len().min(taken.len());
        let half_life = (new as f64 / 2.0).max(SHORTEST_HALF_LIFE);
        let (last, weights) = (taken.len().saturating_sub(1), taken.weights().to_vec());
        taken.set_weights(|index| weights[index] * (-((last - index) as f64) / half_life).exp2());
    }
    Ok(taken)
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
        let taken = compose(recipe, Some(&rows(0..base)), &rows(base..base + labels), MOST_ROWS, 2).unwrap();
        (taken.rows()[0].values()[0], taken.len())
    }

    #[test]
    fn all_takes_base_and_labels_up_to_the_newest_3000() {
        assert_eq!(taken(Recipe::All, 200, 100), (0.0, 300));
        assert_eq!(taken(Recipe::All, 200, 3000), (200.0, 3000));
        assert_eq!(compose(Recipe::All, None, &rows(0..5), MOST_ROWS, 2).unwrap().len(), 5);
    }

    #[test]
    fn the_window_is_as_long_as_the_base() {
        assert_eq!(taken(Recipe::Window, 200, 50), (50.0, 200));
        assert_eq!(compose(Recipe::Window, None, &rows(0..5), MOST_ROWS, 2).unwrap().len(), 5);
    }

    #[test]
    fn newest_takes_sixty_or_six_per_class_once_there_are_enough() {
        assert_eq!(taken(Recipe::Newest, 200, 60), (200.0, 60));
        assert_eq!(taken(Recipe::Newest, 200, 59), (0.0, 259));
        let many = compose(Recipe::Newest, Some(&rows(0..200)), &rows(0..100), MOST_ROWS, 15).unwrap();
        assert_eq!(many.len(), 90);
    }

    #[test]
    fn weights_halve_over_half_of_the_new_rows() {
        let decayed = compose(Recipe::Decayed, Some(&rows(0..200)), &rows(0..100), MOST_ROWS, 2).unwrap();
        let weights = decayed.weights();
        assert_eq!((weights.len(), weights[299]), (300, 1.0));
        assert!((weights[249] - 0.5).abs() < 1e-12);
        let short = compose(Recipe::Decayed, Some(&rows(0..200)), &rows(0..10), MOST_ROWS, 2).unwrap();
        assert!((short.weights()[209 - 30] - 0.5).abs() < 1e-12, "the half-life is never below 30 rows");
    }

    #[test]
    fn another_schema_is_refused() {
        let other = Arc::new(Schema::numeric(2, Target::classes(["no", "yes"])).unwrap());
        assert!(compose(Recipe::All, Some(&Dataset::new(other)), &rows(0..5), MOST_ROWS, 2).is_err());
    }
}
