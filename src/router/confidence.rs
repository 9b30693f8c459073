//! The router that trusts the model where audits say that it may be trusted.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::audits::{Cohort, Judged, Promise, Window};
use super::budget::{Bucket, Budget};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, top_class};
use crate::reference::References;
use crate::router::{Ask, Audited, CohortVerdict, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Lane, Reason, Sample};
use crate::schema::Target;
use crate::stage::{Snapshot, Stage};
use crate::stats::sampling::unit_interval;

const FORMAT: u32 = 1;
const SEED: u64 = 0x6175_6469_7465_6421;
/// Auto-labels of one class that may follow each other without a question.
const BURST: f64 = 50.0;
/// Rows that judge models come first, then audits, then unusable outputs, then by uncertainty (below 1).
const JUDGING: f64 = 3.0;
const AUDIT: f64 = 2.0;
const UNUSABLE: f64 = 1.0;

/// Auto-labels a sample if the model is confident enough and audits certify what that confidence is worth; asks people
/// otherwise.
///
/// **From which confidence on.** Every blind or true label of a sample whose prediction is known is an audit ([`learn`]);
/// the newest 2,000 count, those of the model at hand only. Ten fixed thresholds from 0.5 to 0.999 are tried; the
/// lowest is used for which the upper Clopper–Pearson limit of the error, at the confidence corrected for ten looks
/// (Bonferroni), is at most `max_error`. Without one nothing is auto-labelled: for 0.02 at 95 % that takes 263 audits
/// without an error. Rows of the random and comparison lanes are no audits: they are no sample of what is routed here.
///
/// **The promise.** Auto-labels are provisional. A share of them, chosen by a keyed hash of the id, is asked of people
/// all the same, blind; only those answers judge the cohort ([`cohort`]). It is released when they certify an error
/// of at most `max_error`. The cohort is looked at after every answer, so the permitted miss is spread over the number
/// of errors found (½, ¼, ⅛ …): 183 audits without an error for 0.02 at 95 %, where one look at a number fixed
/// beforehand would take 149. It is rejected when the lower limit exceeds `max_error`; then all audits are forgotten
/// and auto-labelling stops until new ones certify it again. Guarantee: a cohort whose error is above `max_error` is
/// released with a probability of at most 1 − `confidence`. It does not hold if people see the model's opinion, leave
/// the hard audits unanswered or err themselves, nor for labels made since a drift began that no answer has reached
/// yet: those are at most [`max_exposure`](ConfidenceRouter::max_exposure). While an alarm is open nothing is
/// auto-labelled and no cohort released.
///
/// **The cap.** Of the labels routed for a predicted class at most the share `cap` is automatic, at every moment.
///
/// **Priorities.** Rows that judge models 3, audits 2, unusable outputs 1, the rest 1 − confidence. Regression is never
/// auto-labelled; its priority is the width of the predictive interval beside the value, or by how much the score
/// exceeded the detector's threshold.
///
/// Memory: about 150 KB, and 40 bytes per audit of the present cohort.
///
/// [`learn`]: LabelRouter::learn
/// [`cohort`]: LabelRouter::cohort
///
/// # Examples
/// ```
/// use feedloop::{Budget, ConfidenceRouter};
/// let router = ConfidenceRouter::max_error(0.02).confidence(0.95).audit(0.05).budget(Budget::per_day(200)).cap(0.5);
/// # let _ = router;
/// ```
#[derive(Debug, Clone)]
pub struct ConfidenceRouter {
    promise: Promise,
    audit: f64,
    budget: Budget,
    cap: f64,
    overlap: u32,
    max_exposure: u64,
    seed: u64,
    state: State,
    standing: Option<Standing>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    model: ModelVersion,
    window: Window,
    cohort: Cohort,
    bucket: Bucket,
    /// Auto-labels that the questions so far permit, per predicted class.
    credit: Vec<f64>,
    alarm: bool,
    released: u64,
    rejected: u64,
}

/// What follows from the audits; kept until the next one.
#[derive(Debug, Clone, Copy)]
struct Standing {
    model: ModelVersion,
    threshold: Option<f64>,
}

/// How a [`ConfidenceRouter`] stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceStatus {
    /// The model that the last routed sample came from.
    pub model: ModelVersion,
    /// Confidence from which on that model is trusted; `None`: nothing is auto-labelled.
    pub threshold: Option<f64>,
    /// Audits of that model.
    pub audits: u64,
    /// More audits, all without an error, until a threshold is certified; 0 if one is.
    pub audits_needed: u64,
    /// Provisional labels that wait for release.
    pub exposure: u64,
    /// Audits of those that were answered.
    pub cohort_audits: u64,
    /// Errors among them.
    pub cohort_errors: u64,
    /// More audits, all without an error, until they are released.
    pub cohort_audits_needed: u64,
    /// Auto-labels released so far.
    pub released: u64,
    /// Auto-labels rejected so far.
    pub rejected: u64,
    /// Questions left; `None` without a limit.
    pub questions_left: Option<f64>,
}

impl ConfidenceRouter {
    /// Releases auto-labels with an error of at most `max_error`; above 0 and below 1. Unless told otherwise at 95 %
    /// confidence, with 5 % audited, at most half of a class automatic, and no limit to the questions.
    pub fn max_error(max_error: f64) -> Self {
        ConfidenceRouter {
            promise: Promise { error: max_error, confidence: 0.95 },
            audit: 0.05,
            budget: Budget::unlimited(),
            cap: 0.5,
            overlap: 1,
            max_exposure: 20_000,
            seed: SEED,
            state: State {
                model: ModelVersion::FIRST,
                window: Window::default(),
                cohort: Cohort::default(),
                bucket: Bucket::full(),
                credit: Vec::new(),
                alarm: false,
                released: 0,
                rejected: 0,
            },
            standing: None,
        }
    }

    /// Confidence of the promise; above 0 and below 1.
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.promise.confidence = confidence;
        self
    }

    /// Share of the auto-labels that people audit, blind; above 0 and at most 1.
    pub fn audit(mut self, share: f64) -> Self {
        self.audit = share;
        self
    }

    /// How many questions people can take. Questions that judge models are asked in any case, and counted.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Largest share of auto-labels among the labels routed for one predicted class; from 0 to 1.
    pub fn cap(mut self, share: f64) -> Self {
        self.cap = share;
        self
    }

    /// How many different people answer each question; 1 unless told.
    pub fn overlap(mut self, people: u32) -> Self {
        self.overlap = people;
        self
    }

    /// At most so many provisional labels wait for release; 20,000 unless told.
    pub fn max_exposure(mut self, labels: u64) -> Self {
        self.max_exposure = labels;
        self
    }

    /// Seed of the choice of audits.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How the router stands at `now`.
    pub fn status(&self, now: DateTime<Utc>) -> ConfidenceStatus {
        let State { model, window, cohort, bucket, released, rejected, .. } = &self.state;
        let (cohort_errors, cohort_audits) = cohort.counts();
        ConfidenceStatus {
            model: *model,
            threshold: window.threshold(*model, self.promise),
            audits: window.len(*model),
            audits_needed: window.needed(*model, self.promise),
            exposure: cohort.labels,
            cohort_audits,
            cohort_errors,
            cohort_audits_needed: cohort.needed(self.promise),
            released: *released,
            rejected: *rejected,
            questions_left: bucket.left(self.budget, now),
        }
    }

    fn ask(&self, priority: f64) -> Ask {
        Ask { priority, overlap: self.overlap, blind: true }
    }

    fn threshold(&mut self, model: ModelVersion) -> Option<f64> {
        if let Some(standing) = self.standing.filter(|standing| standing.model == model) {
            return standing.threshold;
        }
        let rejected = self.state.cohort.verdict(self.promise) == CohortVerdict::Reject;
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

    fn rebase(&mut self, _: &References) -> Result<(), BoxError> {
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
        if !(0.0..=1.0).contains(&self.cap) || self.overlap == 0 {
            return Err(message(format!("cap is {}, overlap {}: a share and at least 1", self.cap, self.overlap)));
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.state)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.state = snapshot.load(FORMAT)?;
        self.standing = None;
        Ok(())
    }
}

impl LabelRouter for ConfidenceRouter {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        let (budget, now) = (self.budget, context.now);
        if sample.lane.judges() {
            self.state.bucket.force(budget, now);
            return Ok(Route::Ask(self.ask(JUDGING)));
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
            return Ok(Route::Auto { label: Label::Class(class), confidence, audit });
        }
        if !self.state.bucket.take(budget, now, sample.lane == Lane::Flagged) {
            return Ok(out_of_budget());
        }
        if let Some((class, _)) = top {
            let earned = self.cap / (1.0 - self.cap).max(f64::EPSILON);
            let credit = self.credit(class);
            *credit = (*credit + earned).min(BURST);
        }
        let priority = match (context.schema.target(), top) {
            (Target::Value, _) => value_priority(sample),
            (_, Some((_, confidence))) => 1.0 - confidence,
            (_, None) => UNUSABLE,
        };
        Ok(Route::Ask(self.ask(priority)))
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

    fn cohort(&mut self, _: DateTime<Utc>) -> CohortVerdict {
        let verdict = match self.state.cohort.verdict(self.promise) {
            CohortVerdict::Release if self.state.alarm => CohortVerdict::Wait,
            verdict => verdict,
        };
        let labels = self.state.cohort.labels;
        match verdict {
            CohortVerdict::Wait => return verdict,
            CohortVerdict::Release => self.state.released += labels,
            CohortVerdict::Reject => {
                self.state.rejected += labels;
                self.state.window.clear();
            }
        }
        self.state.cohort = Cohort::default();
        self.standing = None;
        verdict
    }
}

#[cfg(test)]
#[path = "confidence_tests.rs"]
mod tests;
