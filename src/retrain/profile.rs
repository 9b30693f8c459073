//! By which rules a candidate is promoted, and the verdict.

use serde::{Deserialize, Serialize};

/// By which rules a candidate is promoted; see [the guide](crate::guide::retraining) for what each of them
/// promises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Profile {
    /// A frozen candidate is promoted on paired evidence: the unattended default.
    Confirm(ConfirmRules),
    /// Recipes race by progressive validation; a model of their blend is promoted: for fast drift and small budgets.
    Adaptive(AdaptiveRules),
}

impl Profile {
    /// `confirm` with its default rules.
    pub fn confirm() -> Self {
        Profile::Confirm(ConfirmRules::default())
    }

    /// `adaptive` with its default rules.
    pub fn adaptive() -> Self {
        Profile::Adaptive(AdaptiveRules::default())
    }

    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Profile::Confirm(_) => "confirm",
            Profile::Adaptive(_) => "adaptive",
        }
    }

    /// By which rules the recipes race, if they do.
    pub(crate) fn race(&self) -> Option<&AdaptiveRules> {
        match self {
            Profile::Confirm(rules) => rules.race.as_ref(),
            Profile::Adaptive(rules) => Some(rules),
        }
    }
}

/// Rules of the profile `confirm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfirmRules {
    /// e-value at which a candidate is confirmed: 1 / the accepted probability of a harmful promotion.
    pub confirm_at: f64,
    /// Mirrored e-value at which it fails.
    pub fail_at: f64,
    /// Also promote what is only likely better: no error is promised then.
    pub likely: bool,
    /// Label batches without a verdict after which it is inconclusive. Before, a fresh one takes its place, and its evidence
    /// over, if the trigger asks for a run and a label batch has judged it.
    pub most_rounds: u32,
    /// Let one person's labels alone decide. Otherwise a verdict needs labels of two people, or the world's.
    pub single_annotator: bool,
    /// Let the recipes race as in `adaptive`: the candidate is a model of their [blend](crate::Recipe::Blend) instead of one of
    /// all labels. It follows a drift sooner, and a run trains seven models instead of one. The promise is the same.
    pub race: Option<AdaptiveRules>,
}

impl Default for ConfirmRules {
    fn default() -> Self {
        ConfirmRules {
            confirm_at: 20.0,
            fail_at: 10.0,
            likely: false,
            most_rounds: 5,
            single_annotator: false,
            race: None,
        }
    }
}

/// How the recipes race: the rules of the profile `adaptive`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveRules {
    /// Discount of a recipe's score per label.
    pub discount: f64,
    /// How fast recipes gain and lose their shares of the [blend](crate::Recipe::Blend): a lead of one in the discounted score
    /// multiplies the proportion of two shares by exp(rate).
    pub rate: f64,
    /// A refit that changes a smaller share of the predictions is skipped.
    pub least_change: f64,
}

impl Default for AdaptiveRules {
    fn default() -> Self {
        AdaptiveRules { discount: 0.98, rate: 0.5, least_change: 0.01 }
    }
}

/// Verdict on a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may be promoted.
    Pass,
    /// It must not.
    Fail,
    /// Nobody can say with the labels that there are; it is not promoted.
    Inconclusive,
}

impl Verdict {
    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}
