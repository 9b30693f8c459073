//! The router that only asks people.

use serde::{Deserialize, Serialize};

use super::budget::{Bucket, Budget};
use super::query::{Query, QueryState, QueryStrategy};
use super::{Ask, LabelRouter, Route, RouteContext};
use crate::error::BoxError;
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::stage::{Snapshot, Stage};

const FORMAT: u32 = 1;
/// Rows that judge models come before all others, whose priority is at most 2.
const JUDGING: f64 = 3.0;

/// Asks people about the samples that a [`QueryStrategy`] chooses, within a [`Budget`]; nothing is auto-labelled.
///
/// Every question is blind. Rows that judge models are asked in any case and charged to the budget. Guarantees, scores,
/// probabilities and priorities are those of [`QueryStrategy`] and [`Budget`].
///
/// # Examples
/// ```
/// use feedloop::{Budget, HumanRouter, QueryStrategy};
/// let router = HumanRouter::new(Budget::per_day(100)).strategy(QueryStrategy::entropy().diverse(0.5));
/// # let _ = router;
/// ```
#[derive(Debug, Clone)]
pub struct HumanRouter {
    budget: Budget,
    bucket: Bucket,
    pub(super) query: Query,
}

#[derive(Serialize, Deserialize)]
struct State {
    bucket: Bucket,
    query: QueryState,
}

impl HumanRouter {
    /// Asks as many questions as the budget allows, chosen by margin and distance unless told otherwise.
    pub fn new(budget: Budget) -> Self {
        HumanRouter { budget, bucket: Bucket::full(), query: Query::new(QueryStrategy::default()) }
    }

    /// How the samples are chosen.
    pub fn strategy(mut self, strategy: QueryStrategy) -> Self {
        self.query = Query::new(strategy);
        self
    }
}

impl Stage for HumanRouter {
    fn name(&self) -> &str {
        "human"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.budget.check()?;
        self.query.rebase(references)
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &State { bucket: self.bucket, query: self.query.state().clone() })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let State { bucket, query } = snapshot.load(FORMAT)?;
        self.bucket = bucket;
        self.query.restore(query);
        Ok(())
    }

    fn forget(&mut self, sample: &Sample) {
        self.query.forget(sample);
    }
}

impl LabelRouter for HumanRouter {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        if sample.lane.judges() {
            self.bucket.force(self.budget, context.now, 1);
            self.query.asked(sample);
            let why = Reason::new(sample.lane.as_str(), "the row judges models: a person labels it, blind");
            return Ok(Route::ask(Ask { priority: JUDGING, overlap: 1, blind: true }, why));
        }
        Ok(self.query.route(sample, context, (self.budget, &mut self.bucket), 1))
    }
}
