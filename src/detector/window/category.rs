//! Tests of a category column.

use super::super::homogeneity::levels;
use super::marginals::Ask;
use super::numeric::{binned, distance_name};
use super::settings::CategoryTest;
use super::source::{Answer, Levels, level_of};
use crate::stats::categorical::{Homogeneity, homogeneity, likelihood_ratio};
use crate::stats::divergence::Distance;

/// The reference of a category column, and its newest window.
#[derive(Debug, Clone)]
pub(super) struct Category {
    reference: Levels,
    counts: Vec<u64>,
    test: Test,
}

#[derive(Debug, Clone, Copy)]
enum Test {
    /// Homogeneity of common levels, and each level for itself.
    Homogeneity(fn(&[u64], &[u64]) -> Option<Homogeneity>),
    Distance(Distance),
}

impl Category {
    pub(super) fn new(reference: Levels, test: CategoryTest) -> Self {
        let counts = vec![0; reference.counts.len()];
        let test = match test {
            CategoryTest::ChiSquare => Test::Homogeneity(homogeneity),
            CategoryTest::GTest => Test::Homogeneity(likelihood_ratio),
            CategoryTest::PopulationStability => Test::Distance(Distance::Psi),
            CategoryTest::JensenShannon => Test::Distance(Distance::JensenShannon),
        };
        Category { reference, counts, test }
    }

    pub(super) fn name(&self) -> &str {
        &self.reference.name
    }

    pub(super) fn is_blind(&self) -> bool {
        self.reference.counts.iter().all(|&count| count == 0)
    }

    /// Compares the codes of a window.
    pub(super) fn compare(&mut self, codes: &[u32], ask: Ask) -> Option<Answer> {
        self.counts.fill(0);
        for &code in codes {
            let level = level_of(code, self.counts.len());
            self.counts[level] += 1;
        }
        let diffuse = match self.test {
            Test::Homogeneity(diffuse) => diffuse,
            Test::Distance(distance) => return binned(distance, &self.reference.counts, &self.counts, ask),
        };
        let found = levels(&self.reference.counts, &self.counts, ask.minimum_effect, diffuse)?;
        let effect = found.total_variation;
        let p_value = (effect >= ask.minimum_effect).then_some(found.p_value);
        Some(Answer { test: 0, statistic: found.statistic, effect, p_value })
    }

    /// The p-value of the newest window where [`Category::compare`] left it out, if it costs little.
    pub(super) fn late_p_value(&self) -> Option<f64> {
        let Test::Homogeneity(diffuse) = self.test else { return None };
        levels(&self.reference.counts, &self.counts, 0.0, diffuse).map(|found| found.p_value)
    }

    /// Is it a test by permutation?
    pub(super) fn permutes(&self) -> bool {
        matches!(self.test, Test::Distance(_)) && !self.is_blind()
    }

    /// What the effect is called in an alarm.
    pub(super) fn effect_name(&self) -> &'static str {
        match self.test {
            Test::Homogeneity(_) => "total variation",
            Test::Distance(distance) => distance_name(distance),
        }
    }
}
