//! Two models' outcomes and feedback, compared at the same label age.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::event::ModelVersion;

/// Reports of a model below which its loss is not told.
const FEWEST: u64 = 20;
/// Share of the reference's reports that must be as young as the others before nothing is missing.
const MATURE: f64 = 0.9;

/// How badly predictions did, by how long it took to hear of it: for each power of two of seconds, the number of reports
/// and the sum of their losses.
///
/// A model that has just been promoted has only early reports, and early reports may be better or worse than late ones (a
/// fraud is charged back after weeks). The loss at one label age does not depend on how long a model has served, so two models
/// are compared age by age, weighted by the ages of the reference.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ByAge(BTreeMap<u32, (u64, f64)>);

/// Two models at the same label ages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compared {
    /// Mean loss of the first model, at the ages that both have.
    pub(crate) mine: f64,
    /// Mean loss of the reference.
    pub(crate) theirs: f64,
    /// Share of the reference's reports that are of these ages.
    pub(crate) covered: f64,
}

impl ByAge {
    /// Counts a report that came `after` the prediction; a negative time is none. A loss that is not finite is left out.
    pub(crate) fn push(&mut self, after: TimeDelta, loss: f64) {
        if loss.is_finite() {
            let age = u64::BITS - (after.num_seconds().max(0) as u64).leading_zeros();
            let (reports, sum) = self.0.entry(age).or_default();
            // An infinite sum could not be read back.
            (*reports, *sum) = (*reports + 1, (*sum + loss).min(f64::MAX));
        }
    }

    fn reports(&self) -> u64 {
        self.0.values().map(|(reports, _)| reports).sum()
    }

    /// Compares with a reference; `None` with few reports of either, or none of the same age.
    pub(crate) fn against(&self, reference: &ByAge) -> Option<Compared> {
        let all = reference.reports();
        if self.reports() < FEWEST || all < FEWEST {
            return None;
        }
        let (mut mine, mut theirs, mut covered) = (0.0, 0.0, 0.0);
        for (age, (reports, sum)) in &reference.0 {
            let Some((my_reports, my_sum)) = self.0.get(age) else { continue };
            let weight = *reports as f64 / all as f64;
            mine += weight * my_sum / *my_reports as f64;
            theirs += weight * sum / *reports as f64;
            covered += weight;
        }
        (covered > 0.0).then(|| Compared { mine: mine / covered, theirs: theirs / covered, covered })
    }
}

/// What production says of one version.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Cohort {
    /// The version.
    pub(crate) model: ModelVersion,
    /// Losses by outcome: 1 for a wrong class, the distance for a value.
    pub(crate) outcomes: ByAge,
    /// Losses by feedback, from 0 (content) to 1.
    pub(crate) feedback: ByAge,
    /// Served predictions with a probability, and its sum: the accuracy that the model claims for itself.
    pub(crate) claimed: (u64, f64),
}

impl Cohort {
    /// Nothing is known of `model` yet.
    pub(crate) fn new(model: ModelVersion) -> Self {
        Cohort { model, ..Cohort::default() }
    }

    /// One sentence for each thing that can be compared; `None` if nothing can.
    pub(crate) fn against(&self, reference: &Cohort) -> Option<String> {
        let said = |what: &str, mine: &ByAge, theirs: &ByAge| {
            let Compared { mine, theirs, covered } = mine.against(theirs)?;
            let young = if covered < MATURE {
                format!("; only {:.0} % of the reports on {} came that early", 100.0 * covered, reference.model)
            } else {
                String::new()
            };
            Some(format!("loss by {what} {mine:.4}, {theirs:.4} of {} at the same age{young}", reference.model))
        };
        let share = |(n, sum): (u64, f64)| (n >= FEWEST).then(|| sum / n as f64);
        let claimed = share(self.claimed).zip(share(reference.claimed));
        let parts = [
            said("outcome", &self.outcomes, &reference.outcomes),
            said("feedback", &self.feedback, &reference.feedback),
            claimed.map(|(mine, theirs)| format!("claimed accuracy {mine:.3}, {theirs:.3} of {}", reference.model)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}: {}", self.model, parts.join(", ")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Half of the reports come after a minute and are mostly good, half after a month and are mostly bad.
    fn reports(early: u64, late: u64) -> ByAge {
        let mut reports = ByAge::default();
        (0..early).for_each(|n| reports.push(TimeDelta::seconds(60), f64::from(n % 10 == 0)));
        (0..late).for_each(|n| reports.push(TimeDelta::days(30), f64::from(n % 2 == 0)));
        reports
    }

    #[test]
    fn a_young_model_is_not_taken_for_a_better_one() {
        let (young, old) = (reports(200, 0), reports(200, 200));
        let compared = young.against(&old).unwrap();
        assert_eq!((compared.mine, compared.theirs, compared.covered), (0.1, 0.1, 0.5), "the raw losses are .1 and .3");
        let grown = reports(200, 100).against(&old).unwrap();
        assert!((grown.mine - 0.3).abs() < 1e-12 && (grown.theirs - 0.3).abs() < 1e-12, "{grown:?}");
        assert_eq!(grown.covered, 1.0, "how many reports of an age there are does not matter");
    }

    #[test]
    fn few_reports_and_other_ages_claim_nothing() {
        assert_eq!(reports(19, 0).against(&reports(200, 200)), None);
        assert_eq!(reports(200, 0).against(&reports(0, 200)), None);
        let mut odd = reports(0, 0);
        odd.push(TimeDelta::seconds(-5), 1.0);
        odd.push(TimeDelta::zero(), f64::NAN);
        assert_eq!(odd.0, [(0, (1, 1.0))].into());
    }

    #[test]
    fn losses_beyond_all_measure_can_be_read_back() {
        let mut reports = ByAge::default();
        (0..3).for_each(|_| reports.push(TimeDelta::zero(), f64::MAX));
        let stored = serde_json::to_string(&reports).unwrap();
        assert_eq!(serde_json::from_str::<ByAge>(&stored).unwrap(), reports);
    }

    #[test]
    fn the_sentence_says_when_reports_are_young() {
        let cohort = |model, outcomes| Cohort { outcomes, ..Cohort::new(ModelVersion(model)) };
        let text = cohort(2, reports(200, 0)).against(&cohort(1, reports(200, 200))).unwrap();
        let expected =
            "v2: loss by outcome 0.1000, 0.1000 of v1 at the same age; only 50 % of the reports on v1 came that early";
        assert_eq!(text, expected);
        let text = cohort(2, reports(200, 9)).against(&cohort(1, reports(200, 200))).unwrap();
        assert!(!text.contains("only"), "{text}");
        assert_eq!(Cohort::new(ModelVersion(2)).against(&Cohort::new(ModelVersion(1))), None);
    }
}
