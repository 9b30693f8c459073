//! What the builder takes for evaluations: requirements, costs, slices and the audit set.

use std::any::Any;
use std::collections::BTreeSet;

use super::PipelineBuilder;
use crate::dataset::Dataset;
use crate::gate::Leakage;
use crate::retrain::{CostMatrix, EvaluatedOn, Profile, Requirement};
use crate::schema::{Row, Schema};

impl PipelineBuilder {
    /// Something that a candidate must reach beside what the profile asks; may be called several times.
    ///
    /// What refuses: a failed requirement refuses the candidate, an open one holds its promotion back until there are labels
    /// enough, and an evaluation of which nothing is asked never passes: in the profile `confirm` that is `confirm_at` of 1 or
    /// less, no `likely`, and no requirement on live rows or the audit set. The paired superiority of the profile's own rules
    /// is a threshold: with them, requirements may be left out.
    pub fn require(mut self, requirement: Requirement) -> Self {
        self.parts.evaluation.requirements.push(requirement);
        self
    }

    /// What each decision costs: evaluations then show the mean cost too.
    pub fn costs(mut self, costs: CostMatrix) -> Self {
        self.parts.evaluation.costs = Some(costs);
        self
    }

    /// A slice of the data that evaluations look at by itself, beside those of [`segment_by`](Self::segment_by): the rows for
    /// which `holds`. Runs on the worker, for labelled rows only; a panic counts as no.
    pub fn slice(mut self, name: impl Into<String>, holds: impl Fn(&Schema, &Row) -> bool + Send + 'static) -> Self {
        self.parts.evaluation.slices.push((name.into(), Box::new(holds)));
        self
    }

    /// A frozen set that every candidate is evaluated on and nobody trains on: its contents are kept out of every batch by the
    /// gate [`Leakage`], which is added if it is not there. At most 10,000 rows of it are scored, a fixed draw.
    pub fn audit_set(mut self, set: Dataset) -> Self {
        self.parts.evaluation.audit_set = Some(set);
        self
    }

    /// Checks what was set, and guards the audit set.
    pub(super) fn check_evaluation(&mut self, mistakes: &mut Vec<String>) {
        let settings = &self.parts.evaluation;
        let target = self.schema.target();
        let mut names = BTreeSet::new();
        for (name, _) in &settings.slices {
            if !names.insert(name) {
                mistakes.push(format!("slice: `{name}` is there twice"));
            }
        }
        for requirement in &settings.requirements {
            if let Err(error) = requirement.metric().check(target, settings.costs.as_ref()) {
                mistakes.push(format!("require: {error}"));
            }
            if !requirement.is_sensible() {
                mistakes.push(format!("require: {requirement}: a finite number is expected, and no margin below 0"));
            }
            if requirement.rows() == EvaluatedOn::Audit && settings.audit_set.is_none() {
                mistakes.push(format!("require: {requirement}, but there is none: `.audit_set(..)`"));
            }
        }
        if let Some(costs) = &settings.costs
            && let Err(error) = crate::retrain::Metric::Cost.check(target, Some(costs))
        {
            mistakes.push(format!("costs: {error}"));
        }
        let live = settings.requirements.iter().any(|requirement| requirement.rows() == EvaluatedOn::Live);
        match &self.parts.evaluator {
            None if !settings.requirements.is_empty() => {
                mistakes.push("require: nothing is evaluated without an evaluator: `.evaluate(..)`".into());
            }
            Some(evaluator) if live && matches!(evaluator.profile(), Profile::Adaptive(_)) => mistakes.push(
                "require: the profile `adaptive` promotes a refit before any label judges it: require it on the audit set"
                    .into(),
            ),
            _ => {}
        }
        let Some(set) = settings.audit_set.clone() else { return };
        if set.schema().fingerprint() != self.schema.fingerprint() {
            return mistakes.push("audit_set: it has another schema than the pipeline".into());
        }
        let contents: BTreeSet<u128> = set.rows().iter().map(Row::content_hash).collect();
        let base = self.base.iter().flat_map(|base| base.rows());
        let shared = base.filter(|row| contents.contains(&row.content_hash())).count();
        if shared > 0 {
            mistakes.push(format!("audit_set: {shared} rows of the training data have the content of a row of it"));
        }
        let mut gates = self.gates.iter_mut();
        match gates.find_map(|gate| (gate.as_mut() as &mut dyn Any).downcast_mut::<Leakage>()) {
            Some(gate) => *gate = std::mem::take(gate).audit_set(&set),
            None => self.gates.push(Box::new(Leakage::default().audit_set(&set))),
        }
    }
}
