//! The truth behind the votes of several workers, with the errors that each of them makes (Dawid and Skene 1979).

/// Smallest count and smallest class share: what has not been seen yet may still come.
const FLOOR: f64 = 1e-10;

/// One answer. A worker may answer a task more than once; every answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Which task, from 0.
    pub(crate) task: usize,
    /// Who, from 0.
    pub(crate) worker: usize,
    /// What was answered, from 0.
    pub(crate) class: usize,
}

/// What votes say about tasks, classes and workers. Assumes that, given the truth of a task, the workers err
/// independently of each other, each with the same confusion matrix on every task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DawidSkene {
    classes: usize,
    /// By task, class.
    posteriors: Vec<f64>,
    priors: Vec<f64>,
    /// By worker, answer, truth.
    errors: Vec<f64>,
    log_likelihood: f64,
    iterations: usize,
}

impl DawidSkene {
    /// Expectation maximisation from the shares of the votes: at most `iterations` steps, and none after one that
    /// raises the log-likelihood per vote by less than `tolerance` (negative infinity: all are done). Votes outside the
    /// counts of tasks, workers and classes are left out.
    ///
    /// As in crowd-kit, no count and no class share is below 1e-10. The result is the local maximum near the majority:
    /// where most workers err alike, it errs with them. Memory: 8 bytes per task and class, and 17 per worker and pair
    /// of classes. Time of a step: as votes times classes.
    pub(crate) fn fit(
        votes: &[Vote],
        (tasks, workers, classes): (usize, usize, usize),
        iterations: usize,
        tolerance: f64,
    ) -> Self {
        let usable = |vote: &&Vote| vote.task < tasks && vote.worker < workers && vote.class < classes;
        let votes: Vec<Vote> = votes.iter().filter(usable).copied().collect();
        let mut fit = DawidSkene {
            classes,
            posteriors: vec![0.0; tasks * classes],
            priors: vec![0.0; classes],
            errors: vec![0.0; workers * classes * classes],
            log_likelihood: f64::NEG_INFINITY,
            iterations: 0,
        };
        if votes.is_empty() {
            fit.priors.fill(1.0 / classes as f64);
            fit.fill_unvoted(&vec![false; tasks]);
            return fit;
        }
        let mut voted = vec![false; tasks];
        let mut answered = vec![false; workers * classes];
        for vote in &votes {
            voted[vote.task] = true;
            answered[vote.worker * classes + vote.class] = true;
            fit.posteriors[vote.task * classes + vote.class] += 1.0;
        }
        for task in fit.posteriors.chunks_exact_mut(classes) {
            let count: f64 = task.iter().sum();
            task.iter_mut().for_each(|share| *share /= count.max(1.0));
        }
        fit.maximise(&votes, &voted, &answered);
        let mut logarithms = vec![0.0; fit.errors.len()];
        while fit.iterations < iterations {
            let before = fit.log_likelihood;
            fit.log_likelihood = fit.expect(&votes, &voted, &mut logarithms) / votes.len() as f64;
            fit.maximise(&votes, &voted, &answered);
            fit.iterations += 1;
            if fit.log_likelihood - before < tolerance {
                break;
            }
        }
        fit.fill_unvoted(&voted);
        fit
    }

    /// Probability of each class for a task. A task without votes has the shares of the classes.
    pub(crate) fn posterior(&self, task: usize) -> &[f64] {
        &self.posteriors[task * self.classes..][..self.classes]
    }

    /// Share of each class among the tasks that have votes; equal shares if none has.
    pub(crate) fn priors(&self) -> &[f64] {
        &self.priors
    }

    /// Probability that `worker` gives `answer`, for each truth; for a truth, the sum over the answers is 1. An answer
    /// that the worker never gave has 0 throughout, and so has every answer of a worker without votes.
    pub(crate) fn errors(&self, worker: usize, answer: usize) -> &[f64] {
        &self.errors[(worker * self.classes + answer) * self.classes..][..self.classes]
    }

    /// Log-likelihood per vote under the estimates before the last step; negative infinity without a step.
    #[cfg(test)]
    pub(crate) fn log_likelihood(&self) -> f64 {
        self.log_likelihood
    }

    /// Steps done.
    #[cfg(test)]
    pub(crate) fn iterations(&self) -> usize {
        self.iterations
    }

    /// The shares of the classes and the errors of the workers that suit the posteriors best.
    fn maximise(&mut self, votes: &[Vote], voted: &[bool], answered: &[bool]) {
        let classes = self.classes;
        self.priors.fill(0.0);
        for (task, _) in self.posteriors.chunks_exact(classes).zip(voted).filter(|(_, voted)| **voted) {
            self.priors.iter_mut().zip(task).for_each(|(share, p)| *share += p);
        }
        let count = voted.iter().filter(|voted| **voted).count() as f64;
        self.priors.iter_mut().for_each(|share| *share /= count);
        self.errors.fill(0.0);
        for vote in votes {
            let errors = &mut self.errors[(vote.worker * classes + vote.class) * classes..][..classes];
            let task = &self.posteriors[vote.task * classes..][..classes];
            errors.iter_mut().zip(task).for_each(|(count, p)| *count += p);
        }
        let mut totals = vec![0.0; classes];
        let answered = answered.chunks_exact(classes);
        for (worker, answered) in self.errors.chunks_exact_mut(classes * classes).zip(answered) {
            totals.fill(0.0);
            for (answer, _) in worker.chunks_exact_mut(classes).zip(answered).filter(|(_, answered)| **answered) {
                for (count, total) in answer.iter_mut().zip(&mut totals) {
                    *count = count.max(FLOOR);
                    *total += *count;
                }
            }
            for (answer, _) in worker.chunks_exact_mut(classes).zip(answered).filter(|(_, answered)| **answered) {
                answer.iter_mut().zip(&totals).for_each(|(count, total)| *count /= total);
            }
        }
    }

    /// The posteriors that follow from the shares and the errors; returns the log-likelihood. Sums logarithms and takes
    /// the largest of a task out before the exponential, so that no number of votes underflows.
    fn expect(&mut self, votes: &[Vote], voted: &[bool], logarithms: &mut [f64]) -> f64 {
        let classes = self.classes;
        let priors: Vec<f64> = self.priors.iter().map(|share| share.max(FLOOR).ln()).collect();
        logarithms.iter_mut().zip(&self.errors).for_each(|(logarithm, error)| *logarithm = error.ln());
        self.posteriors.chunks_exact_mut(classes).for_each(|task| task.copy_from_slice(&priors));
        for vote in votes {
            let errors = &logarithms[(vote.worker * classes + vote.class) * classes..][..classes];
            let task = &mut self.posteriors[vote.task * classes..][..classes];
            task.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
        }
        let mut log_likelihood = 0.0;
        for (task, _) in self.posteriors.chunks_exact_mut(classes).zip(voted).filter(|(_, voted)| **voted) {
            let largest = task.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            task.iter_mut().for_each(|logarithm| *logarithm = (*logarithm - largest).exp());
            let sum: f64 = task.iter().sum();
            task.iter_mut().for_each(|p| *p /= sum);
            log_likelihood += largest + sum.ln();
        }
        log_likelihood
    }

    fn fill_unvoted(&mut self, voted: &[bool]) {
        if self.classes > 0 {
            for (task, _) in self.posteriors.chunks_exact_mut(self.classes).zip(voted).filter(|(_, voted)| !**voted) {
                task.copy_from_slice(&self.priors);
            }
        }
    }
}

#[cfg(test)]
mod tests;
