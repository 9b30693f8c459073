//! The router at work: routing, learning, and the verdict on a cohort.

use chrono::{DateTime, TimeDelta, Utc};

use super::audits::{Promise, Thresholds};
use super::{ConfidenceRouter, FORMAT, State};
use crate::error::{BoxError, message};
use crate::event::{Label, top_class};
use crate::reference::References;
use crate::router::query::{Query, QueryState};
use crate::router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Lane, Reason, Sample};
use crate::schema::Target;
use crate::stage::{Snapshot, Stage};
use crate::stats::sampling::unit_interval;

/// Auto-labels of one class that may follow each other without a question.
const BURST: f64 = 50.0;
/// Rows that judge models come first, then the audits of auto-labels, then unusable outputs, then the doubtful.
const JUDGING: f64 = 3.0;
const AUDIT: f64 = 2.0;
const UNUSABLE: f64 = 1.0;
const DOUBTFUL: f64 = 0.999;
/// Doubt is multiplied by the odds of a uniform number to this power, so by a factor with median 1 that is between .6 and 1.6 for
/// two rows in three: of many rows that are alike not all are asked.
const SPREAD: f64 = 0.28;

impl ConfidenceRouter {
    fn ask(&self, priority: f64) -> Ask {
        Ask { priority, overlap: self.overlap, blind: true }
    }

    /// The thresholds in force, renewed by the audits so far.
    fn thresholds(&mut self) -> &Thresholds {
        if std::mem::take(&mut self.state.audited) {
            let certified = self.state.window.thresholds(self.promise);
            self.state.thresholds.renew(certified);
        }
        &self.state.thresholds
    }

    /// Only samples that come from now on may certify a threshold.
    fn recalibrate(&mut self) {
        self.state.window.clear();
        self.state.since = self.state.newest.saturating_add(1);
        self.state.thresholds = Thresholds::default();
        self.state.audited = false;
    }

    /// Another model, or an alarm: what was learned before says little of what comes.
    fn note(&mut self, sample: &Sample, context: &RouteContext<'_>) {
        let (model, alarm) = (sample.observation.model, context.alarm);
        if model != self.state.model || (alarm && !self.state.alarm) {
            self.state.cohorts.close(context.now);
            self.recalibrate();
        }
        (self.state.model, self.state.alarm) = (model, alarm);
        self.state.newest = self.state.newest.max(sample.sequence);
    }

    /// With `hold` nothing is released, only stopped.
    fn decide(&mut self, hold: bool) {
        if self.state.cohorts.decide(hold) || self.is_stuck(hold) {
            self.recalibrate();
        }
    }

    /// Do as many labels wait as may, with every audit answered, so that no answer will ever decide about them? Then they go to
    /// people.
    fn is_stuck(&mut self, hold: bool) -> bool {
        let cohorts = &mut self.state.cohorts;
        let stuck = !hold && cohorts.exposure() >= self.max_exposure && cohorts.waiting() == 0;
        if stuck {
            cohorts.reject();
        }
        stuck
    }

    fn credit(&mut self, class: u32) -> &mut f64 {
        let class = class as usize;
        if self.state.credit.len() <= class {
            self.state.credit.resize(class + 1, 0.0);
        }
        &mut self.state.credit[class]
    }

    /// From which confidence on the model may label this sample, which it does; or why it may not.
    fn trusts(&mut self, class: u32, confidence: f64, context: &RouteContext<'_>) -> Result<f64, String> {
        if context.alarm {
            return Err("an alarm is open".into());
        }
        let Some(threshold) = self.thresholds().of(class) else {
            let (audits, group) = (self.state.window.len(), self.group(class));
            return Err(format!("no threshold is certified for {group}, {audits} audits"));
        };
        let (exposure, most) = (self.state.cohorts.exposure(), self.max_exposure);
        if confidence < threshold {
            Err(format!("confidence {confidence:.4} is below {threshold} for {}", self.group(class)))
        } else if exposure >= most {
            Err(format!("{exposure} labels wait for release, the most permitted"))
        } else if self.cap < 1.0 && *self.credit(class) < 1.0 {
            Err(format!("the cap of {} on class {class} is reached", self.cap))
        } else if self.state.bucket.left(self.budget, context.now).is_some_and(|left| left < f64::from(self.overlap)) {
            // Asked before the coin that chooses audits: an audit that cannot be afforded must not be left out alone.
            Err("no question is left for an audit".into())
        } else {
            Ok(threshold)
        }
    }

    /// The classes that are judged together with this one.
    fn group(&mut self, class: u32) -> String {
        if self.thresholds().is_alone(class) { format!("class {class}") } else { "the classes pooled".into() }
    }

    fn chosen(&self, sample: &Sample) -> bool {
        unit_interval(self.seed, sample.id().bytes()) < self.audit
    }

    fn left(&self, now: DateTime<Utc>) -> String {
        self.state.bucket.left(self.budget, now).map_or("no limit".into(), |left| format!("{left:.0} questions left"))
    }

    /// The model labels it; a share of these samples is asked of people as well.
    fn auto_label(&mut self, sample: &Sample, top: (u32, f64), threshold: f64, now: DateTime<Utc>) -> Route {
        let (class, confidence) = top;
        let audited = self.chosen(sample);
        if audited {
            self.state.bucket.take(self.budget, now, self.overlap, true);
        }
        *self.credit(class) -= 1.0;
        let cohort = self.state.cohorts.add(sample.id(), audited, now);
        let text = format!(
            "confidence {confidence:.4}, at least {threshold} for {}; cohort {cohort}{}; {} of {} labels wait; cap {}; no alarm; {}",
            self.group(class),
            if audited { ", audited" } else { "" },
            self.state.cohorts.exposure(),
            self.max_exposure,
            self.cap,
            self.left(now),
        );
        let (label, why) = (Label::Class(class), Reason::new("auto_labelled", text));
        Route::Auto { label, confidence, audit: audited.then(|| self.ask(AUDIT)), cohort, why }
    }

    /// People label it, if they can take the question; `refused` says why the model does not.
    fn ask_people(
        &mut self,
        sample: &Sample,
        top: Option<(u32, f64)>,
        refused: &str,
        context: &RouteContext<'_>,
    ) -> Route {
        // The same share as of the auto-labels is asked in any case, so that a threshold can be certified (again).
        let calibrates = top.is_some() && self.chosen(sample);
        let drawn = self.query.as_mut().filter(|_| !calibrates);
        let mut route = if let Some(query) = drawn {
            query.route(sample, context, (self.budget, &mut self.state.bucket), self.overlap)
        } else if self.state.bucket.take(self.budget, context.now, self.overlap, calibrates || context.standing) {
            let priority = match (context.schema.target(), top) {
                (Target::Value, _) => value_priority(sample),
                (Target::Classes(classes), Some((_, confidence))) => {
                    let doubt = if calibrates {
                        // Any doubt but its own: if people have no time for all, as many of these are left out.
                        unit_interval(self.seed ^ 1, sample.id().bytes()) * (1.0 - 1.0 / classes.len() as f64)
                    } else {
                        1.0 - confidence
                    };
                    let u = unit_interval(!self.seed, sample.id().bytes());
                    (doubt * (u / (1.0 - u)).powf(SPREAD)).min(DOUBTFUL)
                }
                (_, None) => UNUSABLE,
            };
            let drawn = if calibrates { "drawn to calibrate; " } else { "" };
            Route::ask(self.ask(priority), Reason::new("asked", format!("{drawn}{}", self.left(context.now))))
        } else {
            Route::Skip(Reason::new("budget", "no questions are left at present"))
        };
        if let (Route::Ask { .. }, Some((class, _))) = (&route, top) {
            let earned = self.cap / (1.0 - self.cap).max(f64::EPSILON);
            let credit = self.credit(class);
            *credit = (*credit + earned).min(BURST);
        }
        if let Route::Ask { why, .. } | Route::Skip(why) = &mut route {
            why.detail = format!("{refused}; {}", why.detail);
        }
        route
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
        if !(self.audit > 0.0 && self.audit <= 0.5) {
            let audit = self.audit;
            return Err(message(format!(
                "audit is {audit}: without audits no auto-label is released; give a share up to 0.5"
            )));
        }
        self.budget.check()?;
        if self.patience <= TimeDelta::zero() {
            return Err(message(format!("patience is {}, it must be above 0", self.patience)));
        }
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
        self.state.cohorts.adopt(self.promise, self.audit);
        if let (Some(query), Some(asked)) = (&mut self.query, asked) {
            query.restore(asked);
        }
        Ok(())
    }

    fn forget(&mut self, sample: &Sample) {
        if let Some(query) = &mut self.query {
            query.forget(sample);
        }
    }
}

impl LabelRouter for ConfidenceRouter {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        if sample.lane.judges() {
            self.state.bucket.force(self.budget, context.now, self.overlap);
            if let Some(query) = &mut self.query {
                query.asked(sample);
            }
            let why = Reason::new(sample.lane.as_str(), "the row judges models: a person labels it, blind");
            return Ok(Route::ask(self.ask(JUDGING), why));
        }
        self.note(sample, context);
        let top = match context.schema.target() {
            Target::Classes(_) => top_class(sample.observation.output()).filter(|(_, p)| (0.0..=1.0).contains(p)),
            Target::Value => None,
        };
        let trusted = match top {
            Some((class, confidence)) => {
                self.trusts(class, confidence, context).map(|threshold| (class, confidence, threshold))
            }
            None => Err("no class is predicted".into()),
        };
        Ok(match trusted {
            Ok((class, confidence, threshold)) => self.auto_label(sample, (class, confidence), threshold, context.now),
            Err(refused) => self.ask_people(sample, top, &refused, context),
        })
    }

    /// Takes a label as an audit if it came from the world, or blind from somebody; others are passed over. One of the random
    /// lane may only stop auto-labelling; one of the comparison lane, where models disagree, says nothing.
    fn learn(&mut self, audited: &Audited<'_>) -> Result<(), BoxError> {
        let sample = audited.sample;
        let (Label::Class(auto), Label::Class(human)) = (audited.auto, audited.human) else { return Ok(()) };
        let sighted = sample
            .label
            .as_ref()
            .is_some_and(|label| !label.blind && matches!(label.annotator, Annotator::Human(_) | Annotator::User(_)));
        if sighted || !(0.0..=1.0).contains(&audited.confidence) {
            return Ok(());
        }
        let correct = auto == human;
        let newest = sample.observation.model == self.state.model && sample.sequence >= self.state.since;
        if !sample.lane.judges() {
            self.state.cohorts.judge(sample.id(), correct);
            if newest {
                self.state.window.push(sample.id(), auto, audited.confidence, correct);
                self.state.audited = true;
            }
        } else if newest && sample.lane == Lane::Random {
            if self.thresholds().of(auto).is_none_or(|threshold| audited.confidence < threshold) {
                return Ok(());
            }
            self.state.cohorts.judge_outside(sample.id(), correct);
        } else {
            return Ok(());
        }
        // Whether an alarm is open now is known when cohorts are asked for.
        self.decide(true);
        Ok(())
    }

    fn cohorts(&mut self, now: DateTime<Utc>, alarm: bool) -> Vec<(u64, CohortVerdict)> {
        self.state.cohorts.age(now, self.patience);
        self.decide(alarm);
        self.state.cohorts.take_verdicts()
    }

    fn auto_share(&self) -> f64 {
        self.cap
    }
}
