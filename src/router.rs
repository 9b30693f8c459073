//! Label routers: who labels a sample, if anybody.

mod budget;
mod confidence;
mod human;
mod query;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::BoxError;
use crate::event::Label;
use crate::reference::References;
use crate::sample::{Lane, Reason, Sample};
use crate::schema::Schema;
use crate::stage::Stage;

pub use budget::Budget;
pub use confidence::{
    AutoLabelPlan, ConfidenceRouter, ConfidenceStatus, DriftExposure, PromotionPlan, Traffic, plan_promotion,
};
pub use human::HumanRouter;
pub use query::QueryStrategy;

/// What a router may look at beside the sample.
#[derive(Debug, Clone, Copy)]
pub struct RouteContext<'a> {
    /// The schema of the rows.
    pub schema: &'a Schema,
    /// The references in force.
    pub references: &'a References,
    /// The present time.
    pub now: DateTime<Utc>,
    /// Tasks that wait in the review queue.
    pub waiting: u64,
    /// Is an alarm open? Auto-labelling should stop while the world changes.
    pub alarm: bool,
    /// Does an alarm stand: is one open, or was note taken of one while the stream is still compared with the same baseline?
    /// The reserve of a [`Budget`] is open meanwhile.
    pub standing: bool,
}

/// How people are asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Larger comes first.
    pub priority: f64,
    /// How many different people should answer, at least 1.
    pub overlap: u32,
    /// Hide the model's opinion from them.
    pub blind: bool,
}

/// A draw that decided to ask about a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// [`Lane::Uncertain`] or [`Lane::Diverse`]; lanes that judge models are not a router's to draw.
    pub lane: Lane,
    /// The probability with which the sample was drawn, in (0, 1].
    pub inclusion: f64,
}

/// Who labels a sample.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Route {
    /// The model's own label is good enough; provisional until its cohort's audit passes.
    Auto {
        /// The label.
        label: Label,
        /// How sure, from 0 to 1.
        confidence: f64,
        /// Also ask a person, blind, to audit the rule.
        audit: Option<Ask>,
        /// The cohort that it is released or rejected with.
        cohort: u64,
        /// Why; kept with the sample.
        why: Reason,
    },
    /// People label it.
    Ask {
        /// How.
        ask: Ask,
        /// The lane that drew it and with which probability, if a draw decided; the sample then belongs to that lane.
        drawn: Option<Drawn>,
        /// Why; kept with the sample.
        why: Reason,
    },
    /// Nobody does.
    Skip(Reason),
}

impl Route {
    /// People label it, without a draw.
    pub fn ask(ask: Ask, why: Reason) -> Self {
        Route::Ask { ask, drawn: None, why }
    }
}

/// A person or the world gave the label of a sample on which the model had an opinion, auto-labelled or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Audited<'a> {
    /// The sample.
    pub sample: &'a Sample,
    /// What the model says by its output.
    pub auto: Label,
    /// How sure the model was.
    pub confidence: f64,
    /// What the person or the world said.
    pub human: Label,
    /// When.
    pub time: DateTime<Utc>,
}

/// What is to become of the auto-labels of a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CohortVerdict {
    /// The promise holds: release them.
    Release,
    /// It does not: people must label them.
    Reject,
}

/// Decides who labels a sample: the model, people, or nobody.
///
/// The pipeline asks only about samples that may be auto-labelled or asked; rows of the random and comparison lanes
/// always go to people, blind, whatever the router says.
pub trait LabelRouter: Stage {
    /// The route of one sample.
    ///
    /// # Errors
    /// Only if the router itself cannot work; then the sample waits and is tried again.
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError>;

    /// Learns from an independent label of a sample, beside what the model said of it. Called for every such label, also of
    /// lanes that judge models.
    ///
    /// # Errors
    /// Only if the router itself cannot work.
    fn learn(&mut self, audited: &Audited<'_>) -> Result<(), BoxError> {
        let _ = audited;
        Ok(())
    }

    /// The cohorts of provisional auto-labels that are decided since the last call, by number; all others wait. `alarm`: is one
    /// open now?
    fn cohorts(&mut self, now: DateTime<Utc>, alarm: bool) -> Vec<(u64, CohortVerdict)> {
        let _ = (now, alarm);
        Vec::new()
    }

    /// Largest share of auto-labels among the rows of one label in a batch; what is beyond it waits for a later batch.
    fn auto_share(&self) -> f64 {
        1.0
    }
}

impl<R: LabelRouter + ?Sized> LabelRouter for Box<R> {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        (**self).route(sample, context)
    }

    fn learn(&mut self, audited: &Audited<'_>) -> Result<(), BoxError> {
        (**self).learn(audited)
    }

    fn cohorts(&mut self, now: DateTime<Utc>, alarm: bool) -> Vec<(u64, CohortVerdict)> {
        (**self).cohorts(now, alarm)
    }

    fn auto_share(&self) -> f64 {
        (**self).auto_share()
    }
}

/// A router made of a closure.
pub fn router_fn<F>(name: impl Into<String>, route: F) -> RouterFn<F>
where
    F: FnMut(&Sample, &RouteContext<'_>) -> Result<Route, BoxError> + Send + 'static,
{
    RouterFn { name: name.into(), route }
}

/// See [`router_fn`].
pub struct RouterFn<F> {
    name: String,
    route: F,
}

impl<F: Send + 'static> Stage for RouterFn<F> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<F> LabelRouter for RouterFn<F>
where
    F: FnMut(&Sample, &RouteContext<'_>) -> Result<Route, BoxError> + Send + 'static,
{
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        (self.route)(sample, context)
    }
}

#[allow(unused)]
fn _object_safe(_: Box<dyn LabelRouter>) {}
