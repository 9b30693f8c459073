//! How far annotators agree, and how good each of them is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::consensus::{majority, standing};
use super::{Consensus, ReviewQueue};
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::sample::Annotator;
use crate::schema::Target;
use crate::stats::agreement::{Scale, Weights, cohen_kappa, krippendorff_alpha};
use crate::stats::binomial::interval;
use crate::stats::dawid_skene::{DawidSkene, Vote};

/// Numbers that the model of Dawid and Skene may take, once for tasks and once for annotators: 80 MB each.
const MOST_NUMBERS: usize = 10_000_000;
const ITERATIONS: usize = 100;
/// Gain of the log-likelihood per answer below which the iteration ends.
const TOLERANCE: f64 = 1e-6;
/// Confidence of the limits of an annotator's accuracy.
const LEVEL: f64 = 0.95;

/// How far people agree; see [`ReviewQueue::agreement`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Every pair of annotators with tasks in common, by name.
    pub pairs: Vec<PairAgreement>,
    /// Krippendorff's alpha (2011) over all: 1 if people always agree on a task, 0 if as often as on different ones.
    /// Nominal for classes, interval for values. `None` if no task has two answers or all answers are equal.
    pub alpha: Option<f64>,
    /// Tasks with at least two answers.
    pub tasks: u64,
}

/// How far two people agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairAgreement {
    /// One of them.
    pub first: String,
    /// The other.
    pub second: String,
    /// Tasks that both answered.
    pub tasks: u64,
    /// Share of them on which their labels are equal.
    pub observed: f64,
    /// Cohen's kappa (1960), without weights; `None` for values, and if both gave one class only, and the same.
    pub kappa: Option<f64>,
}

/// What all answers together say; see [`ReviewQueue::pooled_labels`].
#[derive(Debug, Clone, PartialEq)]
pub struct PooledLabels {
    /// Every task with an answer, by id.
    pub tasks: Vec<PooledLabel>,
    /// Every annotator, by name; empty for values.
    pub annotators: Vec<AnnotatorErrors>,
    /// Estimated share of each class; empty for values.
    pub shares: Vec<f64>,
}

/// What the answers to one task say.
#[derive(Debug, Clone, PartialEq)]
pub struct PooledLabel {
    /// The sample.
    pub sample: PredictionId,
    /// People whose answer stands.
    pub people: u32,
    /// What more than half of them say.
    pub majority: Consensus,
    /// Probability of each class, given who said what; empty for values.
    pub posterior: Vec<f64>,
}

/// What errors an annotator is estimated to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnotatorErrors {
    /// Their name.
    pub name: String,
    /// Tasks that they answered.
    pub answers: u64,
    /// Estimated probability of each answer (inner) for each true class (outer).
    pub confusion: Vec<Vec<f64>>,
    /// Estimated probability that an answer is right, at the estimated shares of the classes.
    pub accuracy: f64,
}

/// How good an annotator is; see [`ReviewQueue::annotators`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnotatorQuality {
    /// Their name.
    pub name: String,
    /// Tasks that they answered, gold questions aside.
    pub answers: u64,
    /// Gold questions that they answered.
    pub gold_asked: u64,
    /// How many of those they got right.
    pub gold_right: u64,
    /// Lower limit of their accuracy by the gold questions (Clopper and Pearson 1934, two-sided, 95 %); 0 without any.
    pub low: f64,
    /// Upper limit; 1 without any.
    pub high: f64,
    /// Tasks on which more than half of the others gave one label.
    pub compared: u64,
    /// Share of those on which this annotator gave it too; `None` if there are none.
    pub agreement_with_consensus: Option<f64>,
}

impl PooledLabels {
    /// What answers from elsewhere amount to: each is a task, who answered it, and the class. Where somebody answered a task
    /// more than once, the last answer counts. Otherwise as [`ReviewQueue::pooled_labels`].
    ///
    /// # Errors
    /// There are too many annotators and classes, or a class is not below `classes`.
    ///
    /// # Examples
    /// ```
    /// use feedloop::{PooledLabels, PredictionId, uuid::Uuid};
    ///
    /// let task = |number| PredictionId::from_uuid(Uuid::from_u128(number));
    /// let answers = [(1, "ada", 0), (1, "bob", 0), (1, "eve", 1), (2, "ada", 1), (2, "bob", 1), (2, "eve", 0)];
    /// let pooled = PooledLabels::of(answers.map(|(number, who, class)| (task(number), who, class)), 2)?;
    /// assert!(pooled.tasks[0].posterior[0] > 0.99 && pooled.tasks[1].posterior[1] > 0.99);
    /// # Ok::<(), feedloop::Error>(())
    /// ```
    pub fn of<'a>(
        answers: impl IntoIterator<Item = (PredictionId, &'a str, u32)>,
        classes: usize,
    ) -> Result<PooledLabels, Error> {
        let mut all = Answers::default();
        for (task, who, class) in answers {
            if class as usize >= classes {
                return Err(Error::Refused(format!("{who} answered class {class} of {classes}")));
            }
            all.push(task, who, Some(Label::Class(class)));
        }
        all.pooled(classes)
    }
}

impl Answers {
    fn pooled(mut self, classes: usize) -> Result<PooledLabels, Error> {
        let workers = self.names.len();
        if workers * classes * classes > MOST_NUMBERS {
            return Err(Error::Refused(format!(
                "{workers} annotators and {classes} classes: annotators times squared classes must be at most {MOST_NUMBERS}"
            )));
        }
        while self.tasks.len() * classes > MOST_NUMBERS {
            self.tasks.pop_first();
        }
        let votes: Vec<Vote> = self
            .tasks
            .values()
            .enumerate()
            .flat_map(|(task, labels)| {
                let vote =
                    move |(worker, label): &(usize, Label)| Some(Vote { task, worker: *worker, class: class(*label)? });
                labels.iter().filter_map(vote)
            })
            .collect();
        let fit = DawidSkene::fit(&votes, (self.tasks.len(), workers, classes), ITERATIONS, TOLERANCE);
        let tasks = self.tasks.iter().enumerate().map(|(task, (sample, labels))| PooledLabel {
            sample: *sample,
            people: labels.len() as u32,
            majority: majority(labels.iter().map(|(_, label)| *label), 0.0),
            posterior: fit.posterior(task).to_vec(),
        });
        let mut counts = vec![0; workers];
        votes.iter().for_each(|vote| counts[vote.worker] += 1);
        let errors = |worker: usize| {
            let confusion: Vec<Vec<f64>> = (0..classes)
                .map(|truth| (0..classes).map(|answer| fit.errors(worker, answer)[truth]).collect())
                .collect();
            let accuracy = fit.priors().iter().enumerate().map(|(truth, share)| share * confusion[truth][truth]).sum();
            AnnotatorErrors { name: self.names[worker].clone(), answers: counts[worker], confusion, accuracy }
        };
        let mut annotators: Vec<AnnotatorErrors> = (0..workers).filter(|w| counts[*w] > 0).map(errors).collect();
        annotators.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(PooledLabels { tasks: tasks.collect(), annotators, shares: fit.priors().to_vec() })
    }
}

impl ReviewQueue {
    /// How far the annotators agree, pair by pair and over all.
    ///
    /// What each said last counts; what was retracted does not; gold questions are left out. It looks at the newest 200,000
    /// annotations and reads all that there are, page by page. Memory: at most 100 MB for them, and 32 bytes per task and
    /// pair of people who answered it.
    ///
    /// # Errors
    /// The store fails, or holds something else than annotations.
    pub fn agreement(&self) -> Result<Agreement, Error> {
        let answers = self.answers()?;
        let mut pairs: BTreeMap<(usize, usize), Vec<(Label, Label)>> = BTreeMap::new();
        for task in answers.tasks.values() {
            for (index, (a, x)) in task.iter().enumerate() {
                for (b, y) in &task[index + 1..] {
                    let (pair, labels) = if a < b { ((*a, *b), (*x, *y)) } else { ((*b, *a), (*y, *x)) };
                    pairs.entry(pair).or_default().push(labels);
                }
            }
        }
        let mut pairs: Vec<PairAgreement> = pairs
            .into_iter()
            .map(|((a, b), labels)| self.pair(&answers.names[a], &answers.names[b], &labels))
            .collect();
        pairs.sort_by(|one, other| (&one.first, &one.second).cmp(&(&other.first, &other.second)));
        let units = answers.tasks.values().filter(|task| task.len() > 1);
        let ratings = units.clone().map(|task| task.iter().map(|(_, label)| label.number()).collect::<Vec<f64>>());
        let scale = if self.target == Target::Value { Scale::Interval } else { Scale::Nominal };
        Ok(Agreement { pairs, alpha: krippendorff_alpha(ratings, scale), tasks: units.count() as u64 })
    }

    fn pair(&self, one: &str, other: &str, labels: &[(Label, Label)]) -> PairAgreement {
        let kappa = match &self.target {
            Target::Classes(names) => {
                let classes: Vec<(usize, usize)> =
                    labels.iter().filter_map(|(a, b)| Some((class(*a)?, class(*b)?))).collect();
                cohen_kappa(&classes, names.len(), Weights::Unweighted)
            }
            Target::Value => None,
        };
        let equal = labels.iter().filter(|(a, b)| a == b).count();
        let (first, second) = if one < other { (one, other) } else { (other, one) };
        PairAgreement {
            first: first.to_owned(),
            second: second.to_owned(),
            tasks: labels.len() as u64,
            observed: equal as f64 / labels.len() as f64,
            kappa,
        }
    }

    /// What the answers to each task amount to: by majority, and by the model of Dawid and Skene (1979), which estimates the
    /// errors of every annotator and weighs their answers by them.
    ///
    /// The model assumes that, given the truth, people err independently of each other and alike on every task; where most
    /// of them err in the same way, it errs with them. Majority is what the loop trains on; the model helps to settle what
    /// people cannot agree on and shows who confuses what. Answers are looked at as in [`ReviewQueue::agreement`]. Memory
    /// beside that: 16 bytes per task and class, and 17 per annotator and pair of classes, each at most 170 MB; more
    /// tasks are cut to the newest, by id.
    ///
    /// # Errors
    /// The store fails, or holds something else than annotations, or there are too many annotators and classes.
    pub fn pooled_labels(&self) -> Result<PooledLabels, Error> {
        let classes = if let Target::Classes(names) = &self.target { names.len() } else { 0 };
        self.answers()?.pooled(classes)
    }

    /// How good each annotator is, by name: by the gold questions ([`ReviewQueue::put_gold`]) with the limits that their
    /// number allows, and beside what the others said.
    ///
    /// Gold questions count by what the annotator said last. Other answers are looked at as in [`ReviewQueue::agreement`].
    ///
    /// # Errors
    /// The store fails, or holds something that it should not.
    pub fn annotators(&self) -> Result<Vec<AnnotatorQuality>, Error> {
        let mut people: BTreeMap<String, AnnotatorQuality> = BTreeMap::new();
        let answers = self.answers()?;
        let mut agreed: BTreeMap<usize, (u64, u64, u64)> = BTreeMap::new();
        for task in answers.tasks.values() {
            for (person, label) in task {
                let (count, compared, same) = agreed.entry(*person).or_default();
                *count += 1;
                let others = task.iter().filter(|(other, _)| other != person).map(|(_, label)| *label);
                if let Consensus::Agreed(consensus, _) = majority(others, 0.0) {
                    *compared += 1;
                    *same += u64::from(consensus == *label);
                }
            }
        }
        for (person, (count, compared, same)) in agreed {
            let quality = entry(&mut people, &answers.names[person]);
            (quality.answers, quality.compared) = (count, compared);
            quality.agreement_with_consensus = (compared > 0).then(|| same as f64 / compared as f64);
        }
        self.each_gold(|stored| {
            if let Some(gold) = &stored.task.hidden.gold {
                for (annotator, label) in standing(&stored.task.answers) {
                    let Annotator::Human(name) = annotator else { continue };
                    let quality = entry(&mut people, name);
                    quality.gold_asked += 1;
                    quality.gold_right += u64::from(label == gold.label);
                }
            }
            Ok(true)
        })?;
        let limits = |mut quality: AnnotatorQuality| {
            let limits = interval(quality.gold_right, quality.gold_asked, LEVEL);
            (quality.low, quality.high) = (limits.low, limits.high);
            quality
        };
        Ok(people.into_values().map(limits).collect())
    }
}

fn entry<'a>(people: &'a mut BTreeMap<String, AnnotatorQuality>, name: &str) -> &'a mut AnnotatorQuality {
    people.entry(name.to_owned()).or_insert_with(|| AnnotatorQuality {
        name: name.to_owned(),
        answers: 0,
        gold_asked: 0,
        gold_right: 0,
        low: 0.0,
        high: 1.0,
        compared: 0,
        agreement_with_consensus: None,
    })
}

fn class(label: Label) -> Option<usize> {
    match label {
        Label::Class(class) => Some(class as usize),
        Label::Value(_) => None,
    }
}

#[cfg(test)]
mod tests;
