//! Which samples are worth a question: uncertainty and diversity, drawn with known probabilities within a budget.

mod draw;

use crate::error::{BoxError, message};
use crate::stats::uncertainty::Uncertainty;

pub(super) use draw::{Query, QueryState};

const SEED: u64 = 0x7175_6573_7469_6f6e;

/// Which samples people are asked about: by pool-based active learning (Settles 2009) on a stream, with probabilities.
///
/// Used by [`HumanRouter`](crate::HumanRouter) for every sample and by [`ConfidenceRouter`](crate::ConfidenceRouter) for
/// those that it does not auto-label: these samples are the *candidates*.
///
/// **Scores**, both from 0 to 1. *Uncertainty*: 1 − the largest probability, 1 − the margin of the two largest, or the entropy
/// in units of ln K; for a value w / (w + s), w being the width of the predictive interval and s the standard deviation of the
/// training labels. An unusable output scores 1; a value without an interval has no score and counts as average.
/// *Distance*, for diversity: q / (q + 2D), q being the squared distance to the nearest of the newest 256 rows that were asked
/// about (those that judge models included), in the D numeric columns whitened by the anchor reference; columns without
/// a distance count as in [`Coverage`](crate::Coverage). To take the farthest row is the greedy k-centre method (Sener and
/// Savarese 2018); to draw in proportion to q, as here for small q, is its randomised form (Arthur and Vassilvitskii 2007).
///
/// **The draw.** Each score is divided by its mean over recent candidates (exponential, 500 of them), and the two are mixed
/// by the share of [`diverse`](QueryStrategy::diverse). A candidate is drawn with the probability
/// π = min(1, rate × (floor + (1 − floor) × mixed score)), by a keyed hash of its id, independently of all others (Poisson
/// sampling; the uniform part is the defensive mixture of Hesterberg 1995). π is never 0: at least floor × rate. It is
/// recorded with the sample, which moves into the lane `uncertain` or `diverse`, drawn by what either contributes to π.
/// Sums over **both** lanes with weights 1/π are unbiased for the candidates that came while questions were left.
///
/// **The rate** follows the budget: the questions that came in per recent candidate, other uses deducted, times 2 × fill, where
/// fill is the ordinary part of the budget that is left. A bucket that runs low thus lowers π, and an empty one, in which
/// nothing is drawn and candidates are skipped for the reason `budget`, is rare (of a steady stream 0.3 % of the candidates at
/// 240 questions a day, 13 % at 24): the price are weights that vary with the fill.
/// Whether questions are left depends on earlier candidates only, so it biases no sum; but those sums then say nothing of the
/// candidates in between. Without a limit every candidate is drawn, with π = 1.
///
/// **What detectors point at strongly** and the draw left out keeps its lane `flagged`: while an alarm stands every flagged
/// candidate is asked about as long as the reserve lasts (reason `alarm`); at other times those that at least two
/// detectors flagged, up to the share [`flagged`](QueryStrategy::flagged) of the questions (reason `flagged`). These
/// questions were not drawn: leave them out of weighted sums.
///
/// **Priority**: the scores mixed by `diverse`, without division, an unknown one counting ½: from 0 to 1; 1 more while an
/// alarm stands. If people answer only the most urgent questions, weighted sums over the answers are biased.
///
/// **Missing**: values and categories as in [`Coverage`](crate::Coverage). Memory: 256 encoded rows, 60 KB at 32 columns.
///
/// # Examples
/// ```
/// use feedloop::{Budget, HumanRouter, QueryStrategy};
/// let strategy = QueryStrategy::margin().diverse(0.3).agreement(0.1);
/// let router = HumanRouter::new(Budget::per_day(200)).strategy(strategy);
/// # let _ = router;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryStrategy {
    measure: Uncertainty,
    diverse: f64,
    floor: f64,
    flagged: f64,
    agreement: f64,
    seed: u64,
}

impl Default for QueryStrategy {
    /// By [`QueryStrategy::margin`].
    fn default() -> Self {
        QueryStrategy::margin()
    }
}

impl QueryStrategy {
    fn by(measure: Uncertainty) -> Self {
        QueryStrategy { measure, diverse: 0.3, floor: 0.2, flagged: 0.1, agreement: 0.0, seed: SEED }
    }

    /// Classes are uncertain by 1 − the largest probability (Lewis and Gale 1994).
    pub fn least_confidence() -> Self {
        QueryStrategy::by(Uncertainty::Probability)
    }

    /// Classes are uncertain by 1 − the margin of the two largest probabilities (Scheffer et al. 2001).
    pub fn margin() -> Self {
        QueryStrategy::by(Uncertainty::Margin)
    }

    /// Classes are uncertain by the entropy of their probabilities (Shannon 1948).
    pub fn entropy() -> Self {
        QueryStrategy::by(Uncertainty::Entropy)
    }

    /// Share of the draws by distance rather than by uncertainty; 0.3 unless told.
    pub fn diverse(mut self, share: f64) -> Self {
        self.diverse = share;
        self
    }

    /// Share of the draws by neither, uniformly: it keeps weights below 1 / (floor × rate). Above 0 and at most 1, which is
    /// uniform sampling; 0.2 unless told.
    pub fn floor(mut self, share: f64) -> Self {
        self.floor = share;
        self
    }

    /// Largest share of the questions about samples that two detectors flagged and the draw left out, below 1; 0.1 unless told.
    pub fn flagged(mut self, share: f64) -> Self {
        self.flagged = share;
        self
    }

    /// Share of the questions drawn that one more person is asked, so that agreement can be measured; chosen by a keyed hash
    /// of the id, and charged to the budget as a question of its own. Left out while only one question is left. 0 unless told.
    pub fn agreement(mut self, share: f64) -> Self {
        self.agreement = share;
        self
    }

    /// Seed of the draws.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn check(&self) -> Result<(), BoxError> {
        let QueryStrategy { diverse, floor, flagged, agreement, .. } = self;
        for (name, share) in [("diverse", diverse), ("agreement", agreement)] {
            if !(0.0..=1.0).contains(share) {
                return Err(message(format!("{name} is {share}: give a share from 0 to 1")));
            }
        }
        if !(*floor > 0.0 && *floor <= 1.0) {
            return Err(message(format!("floor is {floor}: without one a candidate may never be asked about")));
        }
        if !(0.0..1.0).contains(flagged) {
            return Err(message(format!("flagged is {flagged}: give a share from 0 to below 1")));
        }
        Ok(())
    }
}
