//! The race of the recipes: the rules of the profile `adaptive`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::AdaptiveRules;
use super::compare::Comparison;
use crate::event::Label;
use crate::schema::Target;

/// Scores of the recipes by progressive validation: every label first scores the recipe's latest model, and only
/// then trains the next one (Dawid 1984, prequential analysis; discounted). [The guide](crate::guide::retraining) says which
/// labels take part: more than the fair sample of the stream, because recipes differ most on rows that are hard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Race {
    /// Discounted sum of what each contestant earned: on a row two minus its quadratic score, so from 0 to 2 (for values:
    /// the share of the others that it beat).
    pub scores: BTreeMap<String, f64>,
    /// Effective number of labels: the discounted count.
    pub weight: f64,
    /// Labels on which the contestants differed; below about 25 the race promises nothing about harm.
    pub decisive: u64,
}

impl Race {
    /// Name of the contestant that never retrains: the model that the loop started with.
    pub const KEEP: &'static str = "keep";

    /// A race of `contestants` (names of recipes, and [`Race::KEEP`]), level at the start.
    pub fn new<N: Into<String>>(contestants: impl IntoIterator<Item = N>) -> Self {
        let scores = contestants.into_iter().map(|name| (name.into(), 0.0)).collect();
        Race { scores, weight: 0.0, decisive: 0 }
    }

    /// What each contestant earns on one labelled row: for a class, two minus its quadratic score Σ (pₖ − yₖ)² (Brier
    /// 1950), from 0 to 2; for a value, the share of the others that it beats, ties counting half.
    ///
    /// Two models that are both right, or both wrong, are told apart by how sure they were: with the few labels of
    /// a small budget that tells more than counting right rows. Outputs of 0 and 1 earn twice what counting would give.
    pub(crate) fn credits(target: &Target, outputs: &[(&str, &[f64])], label: Label) -> Vec<f64> {
        let against = |mine: &[f64], other: &[f64]| match Comparison::of(target, mine, other, label) {
            Comparison::Win => 1.0,
            Comparison::Tie => 0.5,
            Comparison::Loss => 0.0,
        };
        let quadratic = |mine: &[f64]| {
            let is = |class: usize| f64::from(label == Label::Class(class as u32));
            let score: f64 = mine.iter().enumerate().map(|(class, p)| (p.clamp(0.0, 1.0) - is(class)).powi(2)).sum();
            if score.is_finite() { (2.0 - score).max(0.0) } else { 0.0 }
        };
        let others = outputs.len().saturating_sub(1).max(1) as f64;
        let credit = |index: usize| match target {
            Target::Classes(_) => quadratic(outputs[index].1),
            Target::Value => {
                let rivals = outputs.iter().enumerate().filter(|(other, _)| *other != index);
                rivals.map(|(_, (_, output))| against(outputs[index].1, output)).sum::<f64>() / others
            }
        };
        (0..outputs.len()).map(credit).collect()
    }

    /// Scores one label: what each contestant's latest model said before it was trained on it.
    ///
    /// A contestant without an output (its training failed) earns nothing; one that is new starts level with the best.
    pub(crate) fn observe(&mut self, target: &Target, outputs: &[(&str, &[f64])], label: Label, rules: &AdaptiveRules) {
        let level = self.leader().1;
        let credits = Race::credits(target, outputs, label);
        for (name, _) in outputs {
            self.scores.entry((*name).to_owned()).or_insert(level);
        }
        for score in self.scores.values_mut() {
            *score *= rules.discount;
        }
        for ((name, _), credit) in outputs.iter().zip(&credits) {
            if let Some(score) = self.scores.get_mut(*name) {
                *score += credit;
            }
        }
        self.weight = self.weight * rules.discount + 1.0;
        self.decisive += u64::from(credits.iter().any(|credit| Some(credit) != credits.first()));
    }

    /// What share each contestant deserves of the next model: exp(`rules.rate` · score), over the sum (exponentially weighted
    /// average forecaster; Vovk 1990, Littlestone and Warmuth 1994). Nobody is dropped: while labels are few, the shares
    /// are nearly equal, and a recipe that was overtaken comes back as the old scores fade.
    pub fn shares(&self, rules: &AdaptiveRules) -> BTreeMap<String, f64> {
        let best = self.leader().1;
        let deserved = self.scores.iter().map(|(name, score)| (name.clone(), (rules.rate * (score - best)).exp()));
        let mut shares: BTreeMap<String, f64> = deserved.collect();
        let sum: f64 = shares.values().sum();
        shares.values_mut().for_each(|share| *share /= sum);
        shares
    }

    /// The contestant in front, the first by name of equals, and its score.
    pub fn leader(&self) -> (&str, f64) {
        let best = self.scores.iter().rev().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or((Race::KEEP, 0.0), |(name, score)| (name, *score))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const RIGHT: &[f64] = &[0.1, 0.9];
    const WRONG: &[f64] = &[0.9, 0.1];

    fn target() -> Target {
        Target::classes(["no", "yes"])
    }

    #[test]
    fn scores_are_discounted_per_label() {
        let rules = AdaptiveRules::default();
        let mut race = Race::new(["all", "window", Race::KEEP]);
        for _ in 0..3 {
            race.observe(&target(), &[("all", RIGHT), ("window", WRONG)], Label::Class(1), &rules);
        }
        let expected = 1.0 + 0.98 + 0.98 * 0.98;
        assert!((race.weight - expected).abs() < 1e-12);
        assert!((race.scores["all"] - 1.98 * expected).abs() < 1e-12, "2 - .1² - .1² on each row");
        assert!((race.scores["window"] - 0.38 * expected).abs() < 1e-12, "2 - .9² - .9² on each row");
        assert_eq!((race.scores[Race::KEEP], race.decisive), (0.0, 3));
    }

    #[test]
    fn a_lead_of_one_multiplies_the_proportion_by_exp_rate() {
        let rules = AdaptiveRules { discount: 1.0, ..AdaptiveRules::default() };
        let mut race = Race::new(["all", "newest", Race::KEEP]);
        assert!(race.shares(&rules).values().all(|share| (share - 1.0 / 3.0).abs() < 1e-12), "level at the start");
        // One row is worth 2 - .36 - .36 = 1.28 against 2 - .64 - .64 = .72.
        let (more, less): (&[f64], &[f64]) = (&[0.6, 0.4], &[0.8, 0.2]);
        let outputs = [("all", less), ("newest", more), (Race::KEEP, less)];
        for _ in 0..50 {
            race.observe(&target(), &outputs, Label::Class(1), &rules);
        }
        let shares = race.shares(&rules);
        assert!((shares["newest"] / shares["all"] / (0.5f64 * 50.0 * 0.56).exp() - 1.0).abs() < 1e-9);
        assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!((shares["all"], race.leader().0), (shares[Race::KEEP], "newest"));
    }

    #[test]
    fn no_score_is_too_large_for_shares() {
        let rules = AdaptiveRules { discount: 1.0, rate: 1e6, ..AdaptiveRules::default() };
        let mut race = Race::new(["all", Race::KEEP]);
        for _ in 0..1000 {
            race.observe(&target(), &[("all", RIGHT), (Race::KEEP, WRONG)], Label::Class(1), &rules);
        }
        let shares = race.shares(&rules);
        assert_eq!((shares["all"], shares[Race::KEEP]), (1.0, 0.0));
    }

    #[test]
    fn equals_share_equally() {
        let rules = AdaptiveRules::default();
        let mut race = Race::new(["all", "decayed", Race::KEEP]);
        for _ in 0..50 {
            race.observe(
                &target(),
                &[("all", RIGHT), ("decayed", RIGHT), (Race::KEEP, RIGHT)],
                Label::Class(1),
                &rules,
            );
        }
        assert_eq!(race.decisive, 0);
        assert!(race.shares(&rules).values().all(|share| (share - 1.0 / 3.0).abs() < 1e-12));
    }

    #[test]
    fn an_output_that_is_no_probability_earns_nothing() {
        let outputs: [(&str, &[f64]); 4] =
            [("all", RIGHT), ("decayed", &[f64::NAN, 0.9]), ("newest", &[7.0, -3.0]), ("window", &[0.0, 1.0])];
        let credits = Race::credits(&target(), &outputs, Label::Class(1));
        assert!((credits[0] - 1.98).abs() < 1e-12);
        assert_eq!(credits[1..], [0.0, 0.0, 2.0]);
    }

    /// Two models of the same coin: one knows its probability p, the other one is off by ±0.25. They differ on few rows
    /// in what they predict, and on every row in how sure they are.
    #[test]
    fn fifty_labels_find_the_model_that_knows_its_probabilities() {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let rules = AdaptiveRules::default();
        let mut rng = StdRng::seed_from_u64(20);
        let mut found = 0;
        for _ in 0..400 {
            let mut race = Race::new(["exact", "rough"]);
            for _ in 0..50 {
                let p: f64 = rng.random();
                let off = if rng.random::<bool>() { 0.25 } else { -0.25 };
                let rough = (p + off).clamp(0.0, 1.0);
                let label = Label::Class(u32::from(rng.random::<f64>() < p));
                race.observe(&target(), &[("exact", &[1.0 - p, p]), ("rough", &[1.0 - rough, rough])], label, &rules);
            }
            found += u32::from(race.leader().0 == "exact");
        }
        assert!(found >= 300, "{found} of 400: about 340 by the quadratic score, 230 by counting right rows");
    }

    #[test]
    fn values_earn_the_share_of_the_others_that_they_beat() {
        let value = |v: f64| [v, f64::NAN, f64::NAN];
        let (a, b, c) = (value(1.0), value(2.0), value(2.0));
        let credits = Race::credits(&Target::Value, &[("a", &a), ("b", &b), ("c", &c)], Label::Value(1.1));
        assert_eq!(credits, [1.0, 0.25, 0.25]);
    }

    #[test]
    fn survives_a_restart() {
        let mut race = Race::new(["all", Race::KEEP]);
        race.observe(&target(), &[("all", RIGHT)], Label::Class(1), &AdaptiveRules::default());
        assert_eq!(serde_json::from_str::<Race>(&serde_json::to_string(&race).unwrap()).unwrap(), race);
    }
}
