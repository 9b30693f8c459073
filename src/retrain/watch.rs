//! Watching a promoted model, and freezing a loop that swaps to and fro.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Paired;
use super::Profile;
use super::compare::Comparison;
use crate::event::{Label, ModelVersion, predicted_label};
use crate::sample::Reason;
use crate::schema::Target;

/// e-value for the previous model at which the promotion is taken back.
pub(crate) const ROLL_BACK_AT: f64 = 20.0;
/// *Likely*: fewest decisive rows and posterior probability.
const LIKELY: (u64, f64) = (6, 0.95);
/// Decisive labels without alarm after which a model is kept.
const KEPT_AT: u64 = 30;
/// Label batches after which it is kept unproven.
const MOST_ROUNDS: u32 = 8;
/// Flapping: the last promotions that count, rollbacks among them, and returns of one pair.
const FLAPPING: (usize, usize, usize) = (10, 2, 2);

/// Paired comparison of a promoted model with its predecessor, which stays loaded and is re-scored on the same rows: a
/// worse world is not mistaken for a worse model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The promoted model.
    pub current: ModelVersion,
    /// Its predecessor.
    pub previous: ModelVersion,
    /// Wins are for the **previous** model: it is right and the current one is wrong.
    pub paired: Paired,
    /// Label batches so far.
    pub rounds: u32,
    /// Rows for which the current model gave no usable output, and the previous one did.
    #[serde(default)]
    pub unusable: u64,
}

/// What the watch says at present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchVerdict {
    /// Too early to say. A loss of 5 points at 10 % disagreement takes a median of 23 decisive labels.
    Watching {
        /// Decisive labels so far.
        decisive: u64,
    },
    /// Take the promotion back.
    RollBack(Reason),
    /// Enough decisive labels without an alarm.
    Kept,
    /// Too few decisive labels in all the time; it stays, and the loop goes on.
    KeptUnproven,
}

impl Watch {
    /// Starts to watch.
    pub fn new(current: ModelVersion, previous: ModelVersion) -> Self {
        Watch { current, previous, paired: Paired::default(), rounds: 0, unusable: 0 }
    }

    /// Counts one labelled row of the random or comparison lane.
    pub(crate) fn observe(&mut self, target: &Target, current: &[f64], previous: &[f64], label: Label) {
        self.paired.count(Comparison::of(target, previous, current, label));
        let usable = |output| predicted_label(target, output).is_some();
        // What neither can predict is the input's fault.
        self.unusable += u64::from(usable(previous) && !usable(current));
    }

    /// Judges the promotion. *Likely* alarms count where promotions may be likely only: in the profile `adaptive`, and in
    /// `confirm` with `likely`.
    pub fn judge(&self, profile: &Profile) -> WatchVerdict {
        let Paired { wins, losses } = self.paired;
        let (current, previous) = (self.current, self.previous);
        if self.unusable > 0 {
            let text = format!("{current} gave no usable output on {} rows", self.unusable);
            return WatchVerdict::RollBack(Reason::new("not_finite", text));
        }
        let e = self.paired.e_value();
        if e >= ROLL_BACK_AT {
            let text = format!("{wins} : {losses} for {previous} against {current}, e-value {e:.1}");
            return WatchVerdict::RollBack(Reason::new("worse", text));
        }
        let likely_counts = match profile {
            Profile::Adaptive(_) => true,
            Profile::Confirm(rules) => rules.likely,
        };
        let (decisive, posterior) = (self.paired.decisive(), self.paired.posterior_better());
        if likely_counts && decisive >= LIKELY.0 && posterior >= LIKELY.1 {
            let text = format!("{wins} : {losses} for {previous} against {current}, P {posterior:.3}");
            return WatchVerdict::RollBack(Reason::new("likely_worse", text));
        }
        if decisive >= KEPT_AT {
            WatchVerdict::Kept
        } else if self.rounds >= MOST_ROUNDS {
            WatchVerdict::KeptUnproven
        } else {
            WatchVerdict::Watching { decisive }
        }
    }
}

/// Sees a loop that swaps models to and fro: two rollbacks in ten promotions, or one pair that has swapped back twice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flapping {
    moves: VecDeque<Move>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    from: ModelVersion,
    to: ModelVersion,
    rollback: bool,
}

impl Flapping {
    /// A promotion took place.
    pub fn promoted(&mut self, from: ModelVersion, to: ModelVersion) {
        self.moves.push_back(Move { from, to, rollback: false });
        while self.moves.iter().filter(|step| !step.rollback).count() > FLAPPING.0 {
            self.moves.pop_front();
        }
    }

    /// A rollback took place.
    pub fn rolled_back(&mut self, from: ModelVersion, to: ModelVersion) {
        self.moves.push_back(Move { from, to, rollback: true });
    }

    /// Why the loop must be frozen, if it must.
    pub fn frozen(&self) -> Option<Reason> {
        let (promotions, most_rollbacks, most_returns) = FLAPPING;
        let rollbacks = self.moves.iter().filter(|step| step.rollback).count();
        if rollbacks >= most_rollbacks {
            let text = format!("{rollbacks} rollbacks in the last {promotions} promotions");
            return Some(Reason::new("flapping", text));
        }
        let pair = |step: &Move| (step.from.min(step.to), step.from.max(step.to));
        let swapped = self
            .moves
            .iter()
            .find(|step| self.moves.iter().filter(|other| pair(other) == pair(step)).count() > most_returns)?;
        let text = format!(
            "{} and {} have swapped places {} times since the promotion",
            swapped.from, swapped.to, most_returns
        );
        Some(Reason::new("flapping", text))
    }

    /// Forgets everything: a person has looked into it and lets the loop go on.
    pub fn clear(&mut self) {
        self.moves.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::retrain::ConfirmRules;

    fn watched(wins: u64, losses: u64, rounds: u32) -> Watch {
        Watch { paired: Paired { wins, losses }, rounds, ..Watch::new(ModelVersion(1), ModelVersion(0)) }
    }

    fn code(verdict: WatchVerdict) -> String {
        match verdict {
            WatchVerdict::RollBack(reason) => reason.code,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn rolls_back_when_the_e_value_reaches_twenty() {
        let confirm = Profile::confirm();
        // E(w, 0) = 2 (2^(w+1) - 1) / (2 (w+1)): 18.1 at 6 : 0 and 31.9 at 7 : 0.
        assert_eq!(watched(6, 0, 1).judge(&confirm), WatchVerdict::Watching { decisive: 6 });
        assert_eq!(code(watched(7, 0, 1).judge(&confirm)), "worse");
    }

    #[test]
    fn adaptive_rolls_back_on_likely_harm_and_confirm_does_not() {
        let likely = Profile::Confirm(ConfirmRules { likely: true, ..ConfirmRules::default() });
        assert_eq!(code(watched(6, 0, 1).judge(&Profile::adaptive())), "likely_worse");
        assert_eq!(code(watched(6, 0, 1).judge(&likely)), "likely_worse");
        assert_eq!(watched(5, 0, 1).judge(&Profile::adaptive()), WatchVerdict::Watching { decisive: 5 });
        assert_eq!(watched(5, 1, 1).judge(&Profile::adaptive()), WatchVerdict::Watching { decisive: 6 });
    }

    #[test]
    fn thirty_quiet_decisive_labels_keep_and_eight_rounds_keep_unproven() {
        let confirm = Profile::confirm();
        assert_eq!(watched(15, 15, 1).judge(&confirm), WatchVerdict::Kept);
        assert_eq!(watched(15, 14, 7).judge(&confirm), WatchVerdict::Watching { decisive: 29 });
        assert_eq!(watched(15, 14, 8).judge(&confirm), WatchVerdict::KeptUnproven);
        assert_eq!(watched(0, 0, 8).judge(&confirm), WatchVerdict::KeptUnproven);
    }

    #[test]
    fn an_unusable_output_rolls_back_at_once() {
        let target = Target::classes(["no", "yes"]);
        let mut watch = Watch::new(ModelVersion(1), ModelVersion(0));
        watch.observe(&target, &[f64::NAN, f64::NAN], &[0.9, 0.1], Label::Class(1));
        assert_eq!(code(watch.judge(&Profile::confirm())), "not_finite");
    }

    #[test]
    fn a_win_is_the_previous_models() {
        let target = Target::classes(["no", "yes"]);
        let mut watch = Watch::new(ModelVersion(1), ModelVersion(0));
        watch.observe(&target, &[0.9, 0.1], &[0.1, 0.9], Label::Class(1));
        watch.observe(&target, &[0.9, 0.1], &[0.9, 0.1], Label::Class(1));
        assert_eq!(watch.paired, Paired { wins: 1, losses: 0 });
    }

    #[test]
    fn two_rollbacks_in_ten_freeze() {
        let v = ModelVersion;
        let mut flapping = Flapping::default();
        flapping.promoted(v(0), v(1));
        flapping.rolled_back(v(1), v(0));
        assert_eq!(flapping.frozen(), None);
        for version in 2..10 {
            flapping.promoted(v(if version == 2 { 0 } else { version - 1 }), v(version));
        }
        flapping.promoted(v(9), v(10));
        let mut later = flapping.clone();
        flapping.rolled_back(v(10), v(9));
        assert_eq!(flapping.frozen().unwrap().code, "flapping");
        later.promoted(v(10), v(11));
        later.rolled_back(v(11), v(10));
        assert_eq!(
            later.frozen().unwrap().code,
            "flapping",
            "the first rollback is still among the last ten promotions"
        );
        later.clear();
        assert_eq!(later.frozen(), None);
    }

    #[test]
    fn an_old_rollback_is_forgotten_after_ten_promotions() {
        let v = ModelVersion;
        let mut flapping = Flapping::default();
        flapping.promoted(v(0), v(1));
        flapping.rolled_back(v(1), v(0));
        flapping.promoted(v(0), v(2));
        for version in 3..13 {
            flapping.promoted(v(version - 1), v(version));
        }
        flapping.rolled_back(v(12), v(11));
        assert_eq!(flapping.frozen(), None);
    }

    #[test]
    fn one_pair_swapped_back_twice_freezes() {
        let v = ModelVersion;
        let mut flapping = Flapping::default();
        flapping.promoted(v(0), v(1));
        flapping.promoted(v(1), v(0));
        assert_eq!(flapping.frozen(), None);
        flapping.promoted(v(0), v(1));
        assert!(flapping.frozen().unwrap().detail.contains("swapped"));
    }
}
