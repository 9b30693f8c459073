//! The router at work: routing, learning, and the verdict on a cohort.

use chrono::{DateTime, Utc};

use super::audits::{Cohort, Judged, Promise};
use super::{ConfidenceRouter, FORMAT, Standing, State};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, top_class};
use crate::reference::References;
use crate::router::query::{Query, QueryState};
use crate::router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Reason, Sample};
use crate::schema::Target;
use crate::stage::{Snapshot, Stage};
use crate::stats::sampling::unit_interval;

/// Auto-labels of one class that may follow each other without a question.
const BURST: f64 = 50.0;
/// Rows that judge models come first, then audits, then unusable outputs, then by uncertainty (below 1).
const JUDGING: f64 = 3.0;
const AUDIT: f64 = 2.0;
const UNUSABLE: f64 = 1.0;

impl ConfidenceRouter {
    fn ask(&self, priority: f64) -> Ask {
        Ask { priority, overlap: self.overlap, blind: true }
    }

    fn threshold(&mut self, model: ModelVersion) -> Option<f64> {
        if let Some(standing) = self.standing.filter(|standing| standing.model == model) {
            return standing.threshold;
        }
        let rejected = self.state.cohort.verdict(self.promise) == Some(CohortVerdict::Reject);
        let threshold = if rejected { None } else { self.state.window.threshold(model, self.promise) };
        self.standing = Some(Standing { model, threshold });
        threshold
    }

    fn credit(&mut self, class: u32) -> &mut f64 {
        let class = class as usize;
        if self.state.credit.len() <= class {
            self.state.credit.resize(class + 1, 0.0);
        }
        &mut self.state.credit[class]
    }

    /// May the model label this sample?
    fn trusts(&mut self, sample: &Sample, class: u32, confidence: f64, context: &RouteContext<'_>) -> bool {
        !context.alarm
            && self.state.cohort.labels < self.max_exposure
            && self.threshold(sample.observation.model).is_some_and(|threshold| confidence >= threshold)
            && (self.cap >= 1.0 || *self.credit(class) >= 1.0)
    }
}

/// How uncertain a regression output is, from 0 to 1.
fn value_priority(sample: &Sample) -> f64 {
    let part = |part: f64, whole: f64| if part > 0.0 { part / (part + whole) } else { 0.0 };
    match sample.observation.output() {
        [value, ..] if !value.is_finite() => UNUSABLE,
        [value, low, high] if (high - low).is_finite() => part(high - low, value.abs()),
        _ => {
            let excess =
                sample.flags.iter().filter(|flag| flag.threshold > 0.0).map(|flag| flag.score / flag.threshold);
            part(excess.filter(|excess| excess.is_finite()).fold(0.0, f64::max), 1.0)
        }
    }
}

impl Stage for ConfidenceRouter {
    fn name(&self) -> &str {
        "confidence"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        let open = |value: f64| value > 0.0 && value < 1.0;
        let Promise { error, confidence } = self.promise;
        if !open(error) || !open(confidence) {
            return Err(message(format!(
                "max_error is {error} and confidence {confidence}, both must be between 0 and 1"
            )));
        }
        if !(self.audit > 0.0 && self.audit <= 1.0) {
            let audit = self.audit;
            return Err(message(format!(
                "audit is {audit}: without audits no auto-label is released; give a share up to 1"
            )));
        }
        self.budget.check()?;
        if !(0.0..=1.0).contains(&self.cap) || self.overlap == 0 {
            return Err(message(format!("cap is {}, overlap {}: a share and at least 1", self.cap, self.overlap)));
        }
        self.query.as_mut().map_or(Ok(()), |query| query.rebase(references))
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &(&self.state, self.query.as_ref().map(Query::state)))
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let (state, asked): (State, Option<QueryState>) = snapshot.load(FORMAT)?;
        self.state = state;
        if let (Some(query), Some(asked)) = (&mut self.query, asked) {
            query.restore(asked);
        }
        self.standing = None;
        Ok(())
    }
}

impl LabelRouter for ConfidenceRouter {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        let (budget, now) = (self.budget, context.now);
        if sample.lane.judges() {
            self.state.bucket.force(budget, now);
            if let Some(query) = &mut self.query {
                query.asked(sample);
            }
            let why = Reason::new(sample.lane.as_str(), "the row judges models: a person labels it, blind");
            return Ok(Route::ask(self.ask(JUDGING), why));
        }
        (self.state.model, self.state.alarm) = (sample.observation.model, context.alarm);
        let out_of_budget = || Route::Skip(Reason::new("budget", "no questions are left at present"));
        let top = match context.schema.target() {
            Target::Classes(_) => top_class(sample.observation.output()).filter(|(_, p)| (0.0..=1.0).contains(p)),
            Target::Value => None,
        };
        if let Some((class, confidence)) = top
            && self.trusts(sample, class, confidence, context)
        {
            let audited = unit_interval(self.seed, sample.id().bytes()) < self.audit;
            if audited && !self.state.bucket.take(budget, now, true) {
                return Ok(out_of_budget());
            }
            *self.credit(class) -= 1.0;
            self.state.cohort.add(sample.id(), audited);
            let audit = audited.then(|| self.ask(AUDIT));
            let threshold = self.threshold(sample.observation.model).unwrap_or(1.0);
            let why = Reason::new("auto_labelled", format!("confidence {confidence:.4}, threshold {threshold}"));
            let cohort = self.state.released + self.state.rejected;
            return Ok(Route::Auto { label: Label::Class(class), confidence, audit, cohort, why });
        }
        let route = if let Some(query) = &mut self.query {
            query.route(sample, context, (budget, &mut self.state.bucket), self.overlap)
        } else if self.state.bucket.take(budget, now, context.alarm) {
            let priority = match (context.schema.target(), top) {
                (Target::Value, _) => value_priority(sample),
                (_, Some((_, confidence))) => 1.0 - confidence,
                (_, None) => UNUSABLE,
            };
            Route::ask(self.ask(priority), Reason::new("asked", "not certain enough"))
        } else {
            out_of_budget()
        };
        if let (Route::Ask { .. }, Some((class, _))) = (&route, top) {
            let earned = self.cap / (1.0 - self.cap).max(f64::EPSILON);
            let credit = self.credit(class);
            *credit = (*credit + earned).min(BURST);
        }
        Ok(route)
    }

    /// Takes a label as an audit if it came from the world, or blind from somebody; others are passed over, as are rows
    /// of lanes that judge models.
    fn learn(&mut self, audited: &Audited<'_>) -> Result<(), BoxError> {
        let sample = audited.sample;
        let (Label::Class(auto), Label::Class(human)) = (audited.auto, audited.human) else { return Ok(()) };
        let sighted = sample
            .label
            .as_ref()
            .is_some_and(|label| !label.blind && matches!(label.annotator, Annotator::Human(_) | Annotator::User(_)));
        if sighted || sample.lane.judges() || !(0.0..=1.0).contains(&audited.confidence) {
            return Ok(());
        }
        let correct = auto == human;
        let (model, confidence) = (sample.observation.model, audited.confidence);
        self.state.window.push(Judged { sample: sample.id(), model, confidence, correct });
        self.state.cohort.judge(sample.id(), correct);
        self.standing = None;
        Ok(())
    }

    fn cohorts(&mut self, _: DateTime<Utc>) -> Vec<(u64, CohortVerdict)> {
        let Some(verdict) = self.state.cohort.verdict(self.promise) else { return Vec::new() };
        if verdict == CohortVerdict::Release && self.state.alarm {
            return Vec::new();
        }
        let number = self.state.released + self.state.rejected;
        let labels = self.state.cohort.labels;
        match verdict {
            CohortVerdict::Release => self.state.released += labels,
            CohortVerdict::Reject => {
                self.state.rejected += labels;
                self.state.window.clear();
            }
        }
        self.state.cohort = Cohort::default();
        self.standing = None;
        vec![(number, verdict)]
    }

    fn auto_share(&self) -> f64 {
        self.cap
    }
}
