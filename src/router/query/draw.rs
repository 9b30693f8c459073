//! The draw at work: scores, probabilities, and the rate that follows the budget.

use std::collections::{BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::QueryStrategy;
use crate::encode::{Coarse, Encoder, Point};
use crate::error::BoxError;
use crate::reference::References;
use crate::router::budget::{Bucket, Budget, Part};
use crate::router::{Ask, Drawn, Route, RouteContext};
use crate::sample::{Lane, Reason, Sample};
use crate::schema::Target;
use crate::stats::sampling::unit_interval;
use crate::stats::uncertainty::Uncertainty;

/// Rows asked about that distances are measured to: the newest ones. They are stored with every question.
const CENTRES: usize = 256;
/// Weight that one more candidate leaves to those before it.
const KEEP: f64 = 1.0 - 1.0 / 500.0;
/// What is assumed before the first candidates: one question for ten of them, which weighs as much as ten.
const PRIOR: Mean = Mean { sum: 1.0, weight: 10.0 };
/// Smallest questions per candidate that the rate control works with, so that no probability is 0.
const LEAST: f64 = 1e-4;
/// Questions about strongly flagged samples that can be saved up.
const CREDIT: f64 = 5.0;

/// An exponential mean over candidates.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn push(&mut self, value: f64) {
        (self.sum, self.weight) = (self.sum * KEEP + value, self.weight * KEEP + 1.0);
    }

    fn value(self) -> f64 {
        self.sum / self.weight
    }

    /// `score` beside the mean; 1 if either is unknown, or all scores were 0.
    fn relative(self, score: Option<f64>) -> f64 {
        score.filter(|_| self.sum > 0.0).map_or(1.0, |score| score / self.value())
    }
}

/// What a [`QueryStrategy`] has learned of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::router) struct QueryState {
    uncertainty: Mean,
    distance: Mean,
    /// Questions that came in per candidate, less those that went elsewhere.
    supply: Mean,
    /// Ordinary questions left after the last candidate, and when that was.
    level: Option<(f64, DateTime<Utc>)>,
    /// Questions about strongly flagged samples that the draws so far permit.
    credit: f64,
    /// Rows asked about, oldest first.
    centres: VecDeque<Coarse>,
}

/// A [`QueryStrategy`] at work.
#[derive(Debug, Clone)]
pub(in crate::router) struct Query {
    strategy: QueryStrategy,
    encoder: Option<Encoder>,
    /// Standard deviation of the training labels.
    spread: f64,
    /// The centres, as points.
    points: VecDeque<Point>,
    state: QueryState,
}

/// What is known of a candidate before it is decided on.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    uncertainty: Option<f64>,
    distance: Option<f64>,
    /// The scores beside their means, and a uniform part, mixed; 1 on average.
    mixed: f64,
    /// The share of that which distance contributes.
    diverse: f64,
    priority: f64,
}

impl Query {
    pub(in crate::router) fn new(strategy: QueryStrategy) -> Self {
        let (uncertainty, distance, centres) = (Mean::default(), Mean::default(), VecDeque::new());
        let state = QueryState { uncertainty, distance, supply: PRIOR, level: None, credit: 0.0, centres };
        Query { strategy, encoder: None, spread: 1.0, points: VecDeque::new(), state }
    }

    pub(in crate::router) fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.strategy.check()?;
        self.encoder = Some(Encoder::new(&references.anchor));
        let labels: Vec<f64> = references.training.sample().filter_map(|row| Some(row.label?.number())).collect();
        let count = labels.len().max(1) as f64;
        let mean = labels.iter().sum::<f64>() / count;
        let spread = (labels.iter().map(|label| (label - mean).powi(2)).sum::<f64>() / count).sqrt();
        self.spread = if spread > 0.0 && spread.is_finite() { spread } else { 1.0 };
        self.place();
        Ok(())
    }

    pub(in crate::router) fn state(&self) -> &QueryState {
        &self.state
    }

    pub(in crate::router) fn restore(&mut self, state: QueryState) {
        self.state = state;
        self.place();
    }

    /// Makes points of the centres; those of other columns go.
    fn place(&mut self) {
        let Some(encoder) = &self.encoder else { return };
        self.state.centres.retain(|centre| encoder.restore(centre).is_some());
        self.points = self.state.centres.iter().filter_map(|centre| encoder.restore(centre)).collect();
    }

    /// A person is asked about `sample`, whoever decided it.
    pub(in crate::router) fn asked(&mut self, sample: &Sample) {
        let Some(encoder) = self.encoder.as_ref().filter(|_| self.strategy.diverse > 0.0) else { return };
        let centre = encoder.coarse(&sample.observation.row);
        let Some(point) = encoder.restore(&centre) else { return };
        if self.points.len() >= CENTRES {
            self.points.pop_front();
            self.state.centres.pop_front();
        }
        self.points.push_back(point);
        self.state.centres.push_back(centre);
    }

    /// Takes a row out of those asked about.
    pub(in crate::router) fn forget(&mut self, sample: &Sample) {
        let Some(encoder) = &self.encoder else { return };
        let centre = encoder.coarse(&sample.observation.row);
        if let Some(at) = self.state.centres.iter().position(|known| *known == centre) {
            self.state.centres.remove(at);
            self.place();
        }
    }

    /// Decides whether people are asked about `sample`, at least `overlap` of them.
    pub(in crate::router) fn route(
        &mut self,
        sample: &Sample,
        context: &RouteContext<'_>,
        (budget, bucket): (Budget, &mut Bucket),
        overlap: u32,
    ) -> Route {
        let (now, strategy) = (context.now, self.strategy);
        let mut candidate = self.candidate(sample, context.schema.target());
        candidate.priority += f64::from(u8::from(context.standing));
        let left = bucket.ordinary(budget, now);
        let fill = left.zip(budget.capacity());
        if let Some((left, capacity)) = fill {
            // What a full bucket could not take in came in as well: else a full one would pass for a dry one.
            let came = |(level, then): (f64, DateTime<Utc>)| match left < capacity {
                true => left - level,
                false => (capacity - level).max(budget.income(then, now).min(capacity)),
            };
            self.state.supply.push(self.state.level.map_or(0.0, came));
        }
        let inclusion = self.inclusion(candidate, fill, overlap);
        let unit = |what: u64| unit_interval(strategy.seed ^ what, sample.id().bytes());
        let questions = bucket.left(budget, now).map_or("no limit".into(), |left| format!("{left:.1} questions left"));
        let alarm = if context.standing { "an alarm stands" } else { "no alarm" };
        let facts = format!("{}; {questions}, {alarm}", self.said(candidate));
        let because = |why: &str| format!("{why}; {facts}");
        let ask = |overlap| Ask { priority: candidate.priority, overlap, blind: true };
        let (route, spent) = match inclusion {
            Some(inclusion) if unit(0) < inclusion => {
                let two = unit(1) < strategy.agreement && left.is_none_or(|left| left >= f64::from(overlap) + 1.0);
                let overlap = overlap + u32::from(two);
                let lane = if unit(2) < candidate.diverse { Lane::Diverse } else { Lane::Uncertain };
                let why = Reason::new(lane.as_str(), because(&format!("drawn with probability {inclusion:.4}")));
                let drawn = Some(Drawn { lane, inclusion });
                (Route::Ask { ask: ask(overlap), drawn, why }, Some((overlap, Part::Ordinary)))
            }
            _ if context.standing && sample.lane == Lane::Flagged && bucket.reserve(budget, now, overlap) => {
                let why = Reason::new("alarm", because("flagged, from the reserve"));
                (Route::ask(ask(overlap), why), Some((overlap, Part::Reserve)))
            }
            Some(_) if self.state.credit >= 1.0 && detectors(sample) > 1 => {
                self.state.credit -= 1.0;
                let why = Reason::new("flagged", because(&format!("flagged by {} detectors", detectors(sample))));
                (Route::ask(ask(overlap), why), Some((overlap, Part::Ordinary)))
            }
            Some(inclusion) => {
                let why = because(&format!("the draw with probability {inclusion:.4} left it out"));
                (Route::Skip(Reason::new("not_drawn", why)), None)
            }
            None => (Route::Skip(Reason::new("budget", because("no ordinary question is left"))), None),
        };
        if let Some((questions, part)) = spent {
            bucket.spend(budget, now, questions, part);
            self.asked(sample);
        }
        if matches!(route, Route::Ask { drawn: Some(_), .. }) {
            let earned = strategy.flagged / (1.0 - strategy.flagged);
            self.state.credit = (self.state.credit + earned).min(CREDIT);
        }
        self.state.level = bucket.ordinary(budget, now).map(|left| (left, now));
        route
    }

    /// The scores of a sample, which count for the means.
    fn candidate(&mut self, sample: &Sample, target: &Target) -> Candidate {
        let share = self.strategy.diverse;
        let uncertainty = self.uncertainty(sample, target);
        let distance = if share > 0.0 { self.distance(sample) } else { None };
        let state = &mut self.state;
        if let Some(score) = uncertainty {
            state.uncertainty.push(score);
        }
        if let Some(score) = distance {
            state.distance.push(score);
        }
        let floored = |score: f64| self.strategy.floor + (1.0 - self.strategy.floor) * score;
        let far = share * floored(state.distance.relative(distance));
        let mixed = (1.0 - share) * floored(state.uncertainty.relative(uncertainty)) + far;
        let diverse = far / mixed;
        let priority = (1.0 - share) * uncertainty.unwrap_or(0.5) + share * distance.unwrap_or(0.5);
        Candidate { uncertainty, distance, mixed, diverse, priority }
    }

    fn uncertainty(&self, sample: &Sample, target: &Target) -> Option<f64> {
        let output = sample.observation.output();
        match target {
            Target::Classes(_) => {
                Some(self.strategy.measure.of(output).filter(|score| score.is_finite()).unwrap_or(1.0))
            }
            Target::Value => match output {
                [value, low, high] if value.is_finite() => {
                    let width = high - low;
                    (width >= 0.0).then(|| if width.is_finite() { width / (width + self.spread) } else { 1.0 })
                }
                _ => Some(1.0),
            },
        }
    }

    fn distance(&self, sample: &Sample) -> Option<f64> {
        let encoder = self.encoder.as_ref()?;
        let point = encoder.encode(&sample.observation.row);
        let nearest = self.points.iter().map(|centre| encoder.distance_squared(&point, centre)).reduce(f64::min)?;
        Some(1.0 / (1.0 + 2.0 * encoder.dimension().max(1) as f64 / nearest))
    }

    /// The probability to draw a candidate, of the questions left and their capacity; `None` if too few are left.
    fn inclusion(&self, candidate: Candidate, fill: Option<(f64, f64)>, overlap: u32) -> Option<f64> {
        let Some((left, capacity)) = fill else { return Some(1.0) };
        if left < f64::from(overlap) {
            return None;
        }
        let cost = f64::from(overlap) + self.strategy.agreement;
        let rate = self.state.supply.value().max(LEAST) / cost * 2.0 * left / capacity;
        Some((rate * candidate.mixed).min(1.0))
    }

    /// The scores in words.
    fn said(&self, candidate: Candidate) -> String {
        let measure = match self.strategy.measure {
            Uncertainty::Probability => "uncertainty",
            Uncertainty::Margin => "uncertainty by margin",
            Uncertainty::Entropy => "uncertainty by entropy",
        };
        let score = |name: &str, score: Option<f64>, mean: Mean| match score {
            Some(score) => format!("{name} {score:.3} (mean {:.3})", mean.value()),
            None => format!("{name} unknown"),
        };
        let uncertainty = score(measure, candidate.uncertainty, self.state.uncertainty);
        let distance = score("distance", candidate.distance, self.state.distance);
        format!("{uncertainty}, {distance}")
    }
}

fn detectors(sample: &Sample) -> usize {
    sample.flags.iter().map(|flag| &flag.detector).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests;
