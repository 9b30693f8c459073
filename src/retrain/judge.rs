//! Judging a candidate on paired evidence: the rules of the profile `confirm`.

use serde::{Deserialize, Serialize};

use super::compare::Paired;
use super::{Check, ConfirmRules, EvaluatedOn, Evidence, Verdict};
use crate::sample::{Annotator, Reason};

/// *Likely*: fewest decisive rows, posterior probability and gain.
const LIKELY: (u64, f64, f64) = (4, 0.9, 0.005);
/// Fewest label batches before any verdict.
const FEWEST_ROUNDS: u32 = 2;

/// What the evidence says at present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict; `None`: wait for more labels.
    pub verdict: Option<Verdict>,
    /// Why, or what is missing.
    pub reasons: Vec<Reason>,
    /// Estimated difference in accuracy to the served model (for values: in the share of rows on which it is nearer).
    pub estimated_gain: f64,
    /// Labels still missing for *Confirmed* if things go on as they are; `None` if nobody can foresee it or none are.
    pub missing_labels: Option<u64>,
}

impl Evidence {
    /// Judges the candidate by `rules`, with `candidates_in_play` candidates being judged at the same time.
    ///
    /// It must beat the served model and the last kept one. *Fail* comes before everything; a slice veto holds a Pass
    /// back as long as it stands, and is a Fail when the rounds are over. No verdict rests on a single label batch.
    ///
    /// Rules that ask for nothing are refused: an e-value is 1 without any evidence, so `confirm_at` of 1 or less asks for
    /// no superiority, and without [`Requirement`](crate::Requirement)s or `likely` there is never a Pass then, but
    /// *Inconclusive* at once with the reason `no_threshold`.
    ///
    /// A candidate is *Inconclusive* when [`most_rounds`](ConfirmRules::most_rounds) label batches have judged it without a
    /// verdict. One that took evidence over passes only if its own labels speak for it, too.
    pub fn judge(&self, rules: &ConfirmRules, candidates_in_play: u32) -> Judgement {
        self.judge_with(rules, candidates_in_play, &[])
    }

    /// The same, with the requirements on top: a failed one is a Fail, an open one holds a Pass back.
    pub(crate) fn judge_with(&self, rules: &ConfirmRules, candidates_in_play: u32, checks: &[Check]) -> Judgement {
        let estimated_gain = self.estimated_gain();
        let decided = |verdict: Option<Verdict>, reasons: Vec<Reason>| Judgement {
            verdict,
            reasons,
            estimated_gain,
            missing_labels: None,
        };
        if self.unusable > 0 {
            let text = format!("no usable output on {} of {} labelled rows", self.unusable, self.rows);
            return decided(Some(Verdict::Fail), vec![Reason::new("not_finite", text)]);
        }
        let bound = rules.confirm_at * f64::from(candidates_in_play.max(1));
        let score = |code: &str, name: &str, paired: Paired, e: f64| {
            Reason::new(code, format!("{} : {} against {name}, e-value {e:.1}", paired.wins, paired.losses))
        };
        let alone =
            !rules.single_annotator && self.annotators.len() == 1 && !self.annotators.contains(&Annotator::GroundTruth);
        let enough_rounds = self.rounds >= FEWEST_ROUNDS && !alone;
        let worse = self.opponents().find(|(_, paired)| paired.mirrored_e_value() >= rules.fail_at);
        if let Some((name, paired)) = worse.filter(|_| enough_rounds) {
            let reason = score("worse", name, paired, paired.mirrored_e_value());
            return decided(Some(Verdict::Fail), vec![reason]);
        }
        let of = |outcome| checks.iter().filter(move |check| check.outcome == outcome);
        // What was seen on the audit set does not wait for labels.
        let counts = |check: &&Check| enough_rounds || check.requirement.rows() != EvaluatedOn::Live;
        let failed: Vec<_> = of(Verdict::Fail).filter(counts).map(Check::as_reason).collect();
        if !failed.is_empty() {
            return decided(Some(Verdict::Fail), failed);
        }
        let superiority = rules.confirm_at > 1.0;
        let required = checks.iter().any(|check| check.requirement.rows() != EvaluatedOn::Training);
        if !(superiority || rules.likely || required) {
            let text = "nothing is asked of a candidate: raise `confirm_at` above 1, or set a requirement";
            return decided(Some(Verdict::Inconclusive), vec![Reason::new("no_threshold", text)]);
        }
        // What was taken over does not speak for a candidate that its own labels do not speak for.
        let (own, before) = (self.own(), self.taken_over);
        let leads = before.candidates == 0 || own.wins > own.losses;
        let open: Vec<_> = of(Verdict::Inconclusive).map(Check::as_reason).collect();
        let confirmed = superiority && leads && self.opponents().all(|(_, paired)| paired.e_value() >= bound);
        let is_likely = |paired: Paired| paired.decisive() >= LIKELY.0 && paired.posterior_better() >= LIKELY.1;
        let likely = rules.likely
            && leads
            && estimated_gain >= LIKELY.2
            && self.opponents().all(|(_, paired)| is_likely(paired));
        let good = if superiority || rules.likely { confirmed || likely } else { open.is_empty() };
        let mut vetoes = self.vetoes();
        if good && open.is_empty() && enough_rounds && vetoes.is_empty() {
            let code = match (confirmed, likely) {
                (true, _) => "confirmed",
                (_, true) => "likely",
                _ => "as_required",
            };
            let scores = self.opponents().map(|(name, paired)| score(code, name, paired, paired.e_value()));
            return decided(Some(Verdict::Pass), scores.chain(of(Verdict::Pass).map(Check::as_reason)).collect());
        }
        let rounds = self.own_rounds().saturating_add(self.unscored);
        if rounds >= rules.most_rounds.max(FEWEST_ROUNDS) {
            if good && open.is_empty() && !vetoes.is_empty() {
                return decided(Some(Verdict::Fail), vetoes);
            }
            let text = format!("no verdict after {rounds} label batches ({} rows)", self.rows);
            let scores = self.opponents().map(|(name, paired)| score("inconclusive", name, paired, paired.e_value()));
            if alone {
                vetoes.push(single_annotator());
            }
            vetoes.splice(0..0, std::iter::once(Reason::new("inconclusive", text)).chain(scores));
            vetoes.extend(open);
            return decided(Some(Verdict::Inconclusive), vetoes);
        }
        let mut reasons: Vec<_> = self
            .opponents()
            .map(|(name, paired)| {
                let Paired { wins, losses } = paired;
                Reason::new(
                    "waiting",
                    format!("{wins} : {losses} against {name}, e-value {:.1} of {bound}", paired.e_value()),
                )
            })
            .collect();
        if before.candidates > 0 {
            let Paired { wins, losses } = own;
            let text = format!("{wins} : {losses} of it its own, the rest of {} before it", before.candidates);
            reasons.push(Reason::new("taken_over", text));
        }
        if alone {
            reasons.push(single_annotator());
        } else if !enough_rounds {
            let text = format!("{} of {FEWEST_ROUNDS} label batches: no verdict rests on a single one", self.rounds);
            reasons.push(Reason::new("single_batch", text));
        }
        reasons.append(&mut vetoes);
        reasons.extend(open);
        let asked = self.opponents().filter(|_| superiority);
        let missing = asked.map(|(_, paired)| paired.missing(bound)).try_fold(0, |most, n| Some(n?.max(most)));
        let for_superiority = missing.map(|decisive| {
            let rows_each = self.rows as f64 / self.against_current.decisive().max(1) as f64;
            (decisive as f64 * rows_each.max(1.0)).ceil() as u64
        });
        let for_checks = of(Verdict::Inconclusive).try_fold(0, |most, check| Some(check.missing_labels?.max(most)));
        let missing_labels = for_superiority.zip(for_checks).map(|(a, b)| a.max(b)).filter(|&labels| labels > 0);
        Judgement { verdict: None, reasons, estimated_gain, missing_labels }
    }
}

fn single_annotator() -> Reason {
    Reason::new("single_annotator", "every label is by one person: no verdict rests on a single annotator")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod simulation;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
