//! Has the live error truly risen beyond what is tolerated?

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::retracted::Retracted;
use super::{Alarm, AlarmKind, Detector, Findings, Level, Reading};
use crate::chunk::{Chunk, Truth};
use crate::error::{BoxError, message};
use crate::event::{Label, ModelVersion, predicted_label};
use crate::reference::References;
use crate::sample::Lane;
use crate::schema::Target;
use crate::stage::{Blind, LiveMetric, Snapshot, Stage};
use crate::stats::binomial::upper;
use crate::stats::rise::{RiseState, RiseTest};

const FORMAT: u32 = 1;

/// Newest truths that an alarm tells about.
const RECENT: usize = 100;
/// Truths that make a baseline where the reference has none.
const LEARNED: u64 = 100;

const NO_ROWS: &str = "no baseline: the reference has no rows with an output of this model and a label";

/// Raises an alarm when the live error rate has truly risen more than a tolerance above the baseline's.
///
/// **Looks at** truths of the served model whose rows the random lane drew, because only they are a fair sample;
/// [`all_truths`](HarmMonitor::all_truths) takes every truth, for hosts that learn the truth of every prediction.
/// Wrong is another class, an unusable output, or a value further from the truth than
/// [`wrong_beyond`](HarmMonitor::wrong_beyond).
///
/// **Test** (after Podkopaev and Ramdas 2022): a lower confidence sequence of the live error, by betting, against the upper
/// confidence limit of the baseline error (Clopper and Pearson 1934) plus the tolerance; each gets half of the level. Bets start
/// at every truth with stakes that sum to 1, so that a rise after a long good phase is found soon.
///
/// **Guarantee**: if, at every truth, the probability of an error given the past is at most the baseline's plus the tolerance,
/// the chance that it *ever* alarms is at most the [`false_alarm_rate`](HarmMonitor::false_alarm_rate), whenever and however often
/// one looks. It assumes that the baseline's rows are independent, and that being wrong does not make a truth arrive earlier.
/// After an alarm, and on another baseline or model, the test starts anew: the chance is per baseline and model. A harm that stands
/// alarms again after 100 truths at the earliest.
///
/// **Baseline**: the rows of the serving reference (or else the training reference) that have an out-of-sample output of the
/// served model and a label; or [stated](HarmMonitor::baseline_error). Without one, as after a promotion, whose
/// references have no such rows, it is blind until the first 100 truths of the model came, and compares with those from then on:
/// what was already wrong then stays unseen.
///
/// **Corrections and retractions** do not undo a bet: the first truth of a prediction counts, later ones are counted in
/// [`HarmStatus::revised`]; a truth that is stated again after its retraction (one of the last 256) does not count twice.
/// Truths that do not fit the target are left out. **Memory**: 3 KB, and up to 4 KB of retracted names.
///
/// **Reading**: the statistic is the lower confidence bound of the error rate; the effect is that bound minus the baseline's plain
/// rate and the tolerance.
#[derive(Debug, Clone)]
pub struct HarmMonitor {
    name: Cow<'static, str>,
    tolerance: f64,
    level: f64,
    stated: Option<f64>,
    wrong_beyond: Option<f64>,
    all_truths: bool,
    model: ModelVersion,
    baseline: Result<Baseline, &'static str>,
    /// Does the stream have to give the baseline?
    learns: bool,
    test: RiseTest,
    state: State,
}

/// What the live error is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Baseline {
    /// The plain rate.
    rate: f64,
    /// Upper confidence limit and tolerance.
    limit: f64,
    /// What remains of the level for the live side.
    level: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    errors: u64,
    recent: VecDeque<bool>,
    retracted: Retracted,
    revised: u64,
    /// Errors and truths of the baseline that the stream gives, if the reference gives none.
    learned: (u64, u64),
    /// Did the test start after an alarm?
    alarmed: bool,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    model: ModelVersion,
    limit: Option<f64>,
    test: RiseState,
    state: State,
}

/// What a [`HarmMonitor`] knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HarmStatus {
    /// The model.
    pub model: ModelVersion,
    /// The plain error rate of the baseline.
    pub baseline: f64,
    /// What the error rate is tested against: the upper limit of the baseline's, plus the tolerance.
    pub limit: f64,
    /// Truths since the test started.
    pub truths: u64,
    /// Wrong predictions among them.
    pub errors: u64,
    /// The evidence for harm: an e-value.
    pub evidence: f64,
    /// The evidence at which it alarms.
    pub needed: f64,
    /// Corrections and retractions of truths of the lane.
    pub revised: u64,
}

impl Default for HarmMonitor {
    /// A tolerance of 0.02, a false-alarm rate of 0.05, truths of the random lane.
    fn default() -> Self {
        HarmMonitor {
            name: "harm".into(),
            tolerance: 0.02,
            level: 0.05,
            stated: None,
            wrong_beyond: None,
            all_truths: false,
            model: ModelVersion::FIRST,
            baseline: Err("not fitted"),
            learns: false,
            test: RiseTest::new(0.5),
            state: State::default(),
        }
    }
}

impl HarmMonitor {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// How far the error rate may rise, in points of error: 0.02 allows 10 % instead of 8 %. From 0 to below 1.
    pub fn tolerance(mut self, points: f64) -> Self {
        self.tolerance = points;
        self
    }

    /// The chance of ever raising a false alarm: above 0, at most 0.5.
    pub fn false_alarm_rate(mut self, ever: f64) -> Self {
        self.level = ever;
        self
    }

    /// States the baseline's error rate (0 to below 1), instead of estimating it from the reference. The whole level is then
    /// left for the live side.
    pub fn baseline_error(mut self, rate: f64) -> Self {
        self.stated = Some(rate);
        self
    }

    /// Regression: a value further than this from the truth is wrong (at least 0, in units of the target). Without it, a
    /// pipeline for values cannot be built.
    pub fn wrong_beyond(mut self, difference: f64) -> Self {
        self.wrong_beyond = Some(difference);
        self
    }

    /// Takes every truth, not only those of the random lane: where truths arrive for all predictions, or for an arbitrary
    /// part of them.
    pub fn all_truths(mut self) -> Self {
        self.all_truths = true;
        self
    }

    /// What it knows; `None` without a baseline.
    pub fn status(&self) -> Option<HarmStatus> {
        let baseline = self.baseline.ok()?;
        Some(HarmStatus {
            model: self.model,
            baseline: baseline.rate,
            limit: baseline.limit,
            truths: self.test.rows(),
            errors: self.state.errors,
            evidence: self.test.evidence(),
            needed: 1.0 / baseline.level,
            revised: self.state.revised,
        })
    }

    fn wrong(&self, predicted: Option<Label>, truth: Label) -> bool {
        match (predicted, truth) {
            (Some(Label::Value(predicted)), Label::Value(truth)) => {
                (predicted - truth).abs() > self.wrong_beyond.unwrap_or(0.0)
            }
            (predicted, truth) => predicted != Some(truth),
        }
    }

    fn find_baseline(&self, references: &References) -> Result<Baseline, &'static str> {
        let target = references.serving.schema().target();
        let (rate, most, level) = match self.stated {
            Some(rate) => (rate, rate, self.level),
            None => {
                let rows = references.judged();
                let wrong = rows.iter().filter(|row| {
                    row.label.is_some_and(|label| self.wrong(predicted_label(target, &row.output), label))
                });
                let (errors, rows) = (wrong.count() as u64, rows.len() as u64);
                return self.estimated(errors, rows);
            }
        };
        self.baseline_of(rate, most, level)
    }

    /// The baseline of `errors` among `rows`.
    fn estimated(&self, errors: u64, rows: u64) -> Result<Baseline, &'static str> {
        if rows == 0 {
            return Err(NO_ROWS);
        }
        let half = self.level / 2.0;
        self.baseline_of(errors as f64 / rows as f64, upper(errors, rows, 1.0 - half), half)
    }

    fn baseline_of(&self, rate: f64, most: f64, level: f64) -> Result<Baseline, &'static str> {
        let limit = most + self.tolerance;
        match limit {
            _ if limit >= 1.0 => Err("the baseline's error may be so high that no live error is beyond the tolerance"),
            _ => Ok(Baseline { rate, limit, level }),
        }
    }

    fn start(&mut self) {
        self.test = RiseTest::new(self.baseline.map_or(0.5, |baseline| baseline.limit));
        let State { retracted, learned, .. } = std::mem::take(&mut self.state);
        self.state = State { retracted, learned, ..State::default() };
    }

    /// Takes a truth into the baseline, which the stream has to give.
    fn learn(&mut self, wrong: bool) {
        let (errors, truths) = (self.state.learned.0 + u64::from(wrong), self.state.learned.1 + 1);
        self.state.learned = (errors, truths);
        if truths == LEARNED {
            self.baseline = self.estimated(errors, truths);
            self.start();
        }
    }

    fn hear(&mut self, truth: &Truth, target: &Target, findings: &mut Findings) {
        if self.baseline.is_err_and(|reason| reason != NO_ROWS) {
            return;
        }
        if truth.model != self.model || !(self.all_truths || truth.lane == Some(Lane::Random)) {
            return;
        }
        self.state.revised += u64::from(truth.replaces.is_some());
        if !self.state.retracted.is_first(truth) {
            return;
        }
        let Some(label) = truth.label.filter(|label| label.fits(target)) else { return };
        let wrong = self.wrong(truth.predicted, label);
        let Ok(baseline) = self.baseline else { return self.learn(wrong) };
        if self.state.recent.len() == RECENT {
            self.state.recent.pop_front();
        }
        self.state.recent.push_back(wrong);
        self.state.errors += u64::from(wrong);
        self.test.push(wrong);
        // a harm that stands is told again now and then, not every few truths
        if self.state.alarmed && self.test.rows() < RECENT as u64 {
            return;
        }
        if let Some(low) = self.test.lower_bound(baseline.level) {
            findings.alarm(self.alarm(truth.sequence, low, baseline));
            self.start();
            self.state.alarmed = true;
        }
    }

    fn alarm(&self, sequence: u64, low: f64, baseline: Baseline) -> Alarm {
        let recent = &self.state.recent;
        let text = format!(
            "the error rate of model {} has risen to at least {low:.3} ({:.1} % confidence); at most {:.3} is tolerated; \
             {} of the last {} truths were wrong",
            self.model,
            100.0 * (1.0 - self.level),
            baseline.limit,
            recent.iter().filter(|wrong| **wrong).count(),
            recent.len(),
        );
        let effect = low - baseline.rate - self.tolerance;
        let reading = Reading { column: "error rate".into(), statistic: low, p_value: None, effect };
        Alarm { detector: String::new(), level: Level::Drift, sequence, text, readings: vec![reading] }
    }

    fn check(&self, target: &Target) -> Result<(), BoxError> {
        if !(0.0..1.0).contains(&self.tolerance) {
            return Err(message(format!("the tolerance is {}, from 0 to below 1 is expected", self.tolerance)));
        }
        if !(self.level > 0.0 && self.level <= 0.5) {
            let text = format!("the false-alarm rate is {}, above 0 and at most 0.5 is allowed", self.level);
            return Err(message(text));
        }
        if let Some(rate) = self.stated.filter(|rate| !(0.0..1.0).contains(rate) || rate + self.tolerance <= 0.0) {
            return Err(message(format!(
                "the baseline's error rate is {rate}, from 0 to below 1 is expected, and above 0 without a tolerance"
            )));
        }
        match self.wrong_beyond {
            None if matches!(target, Target::Value) => {
                Err(message("a value is never exactly right: say `HarmMonitor::default().wrong_beyond(…)`"))
            }
            Some(beyond) if !(beyond >= 0.0 && beyond.is_finite()) => {
                Err(message(format!("wrong beyond {beyond} was asked, a finite number of at least 0 is expected")))
            }
            _ => Ok(()),
        }
    }
}

impl Stage for HarmMonitor {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.check(references.serving.schema().target())?;
        let before = (self.model, self.baseline);
        let found = self.find_baseline(references);
        self.learns = found == Err(NO_ROWS);
        if self.learns && references.model == self.model && self.state.learned.1 > 0 {
            return Ok(()); // what the stream gave is worth as much as before
        }
        (self.model, self.baseline) = (references.model, found);
        if before != (self.model, self.baseline) {
            self.state.learned = (0, 0);
            self.start();
        }
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        let text = |reason| match reason {
            NO_ROWS => {
                format!("{NO_ROWS}; {} of the first {LEARNED} truths are there to compare with", self.state.learned.1)
            }
            other => other.to_owned(),
        };
        self.baseline.err().map(|reason| Blind::all(text(reason))).into_iter().collect()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let limit = self.baseline.ok().map(|baseline| baseline.limit);
        let (test, state) = (self.test.state().clone(), self.state.clone());
        Snapshot::save(FORMAT, &Saved { model: self.model, limit, test, state })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let saved: Saved = snapshot.load(FORMAT)?;
        if saved.state.recent.len() > RECENT || !saved.state.retracted.is_sound() {
            return Err(message("the saved state holds more truths than it may"));
        }
        if saved.model == self.model && self.learns {
            let (errors, truths) = saved.state.learned;
            self.state.learned = (errors, truths);
            self.baseline = if truths < LEARNED { Err(NO_ROWS) } else { self.estimated(errors, truths) };
        }
        // what was bet against another baseline is worth nothing against this one
        if (saved.model, saved.limit) == (self.model, self.baseline.ok().map(|baseline| baseline.limit)) {
            self.test = self.test.clone().with(saved.test);
            self.state = saved.state;
        }
        Ok(())
    }
}

impl Detector for HarmMonitor {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        for truth in chunk.truths() {
            self.hear(truth, chunk.schema().target(), findings);
        }
        Ok(())
    }

    fn alarm_kind(&self) -> AlarmKind {
        AlarmKind::Harm
    }

    /// `error_rate`: the share of errors among the last 100 truths of the test under way.
    fn metrics(&self) -> Vec<LiveMetric> {
        let rows = self.state.recent.len();
        let wrong = self.state.recent.iter().filter(|wrong| **wrong).count();
        let rate = || LiveMetric { name: "error_rate".into(), value: wrong as f64 / rows as f64, rows: rows as u64 };
        (rows > 0).then(rate).into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
