//! Retention: what is old enough, or too much, loses its content.

use chrono::TimeDelta;

use super::Pipeline;
use super::outbox::parse;
use crate::error::Error;
use crate::event::PredictionId;
use crate::retrain::ModelRecord;
use crate::sample::{Sample, SampleState};
use crate::store::{Indexed, Kind, Record, Write};

/// Samples emptied in one step, and so in one entry of the journal.
const STEP: usize = 256;
/// How long after a step that left nothing to do the next one comes.
const PAUSE: TimeDelta = TimeDelta::minutes(1);
/// States in which a sample is in no batch and has content.
const LOOSE: [SampleState; 7] = [
    SampleState::Skipped,
    SampleState::Quarantined,
    SampleState::Queued,
    SampleState::AutoLabelled,
    SampleState::Labelled,
    SampleState::Admitted,
    SampleState::Flagged,
];

/// How long content is kept; nothing goes unless told.
///
/// A sample whose time is over is emptied as by [`Pipeline::erase`]: its record stays and says when and why. Gates and
/// references do not forget it; their own windows do. [`Pipeline::poll`] does it in steps of 256 samples, each one entry of
/// the journal, oldest first as far as times follow the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Samples that are in no batch go when their prediction is so old, whatever they wait for: questions are withdrawn, and
    /// labels that nobody has trained on in this time are lost.
    pub samples_for: Option<TimeDelta>,
    /// At most so many samples that are in no batch keep their content: the oldest go that are skipped or quarantined. What
    /// waits for people or for training stays, and counts.
    pub most_samples: Option<u64>,
    /// Outcomes and feedback whose prediction never came go after so long.
    pub unmatched_for: Option<TimeDelta>,
    /// Rows of batches go so long after their batch was sealed; for ever unless told. The batch keeps its name, and later
    /// models are trained without them.
    pub batches_for: Option<TimeDelta>,
    /// At most so many models that are not needed any more keep what was trained: the oldest lose the bytes that are in the store, and
    /// the directory of their job if the pipeline has a working directory. Needed are the first model, the served one, what it
    /// can be rolled back to, and what takes part in a race or a run. The records stay, with the time
    /// ([`ModelRecord::removed`](crate::ModelRecord::removed)), and so does a file that the host keeps elsewhere.
    pub most_models: Option<u64>,
}

impl Retention {
    /// What is wrong with it.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let times = [
            ("samples_for", self.samples_for),
            ("unmatched_for", self.unmatched_for),
            ("batches_for", self.batches_for),
        ];
        let wrong =
            times.into_iter().filter_map(|(name, time)| Some((name, time.filter(|t| *t <= TimeDelta::zero())?)));
        wrong.map(|(name, time)| format!("retain: {name} is {time}, a positive time is expected")).collect()
    }
}

impl Pipeline {
    /// Empties what the retention says, a step at a time.
    pub(super) fn step_retention(&mut self) -> Result<(), Error> {
        let Some(retention) = self.settings.retention else { return Ok(()) };
        if self.flow.retain_after.is_some_and(|after| self.now < after) {
            return Ok(());
        }
        let old = self.old_samples(&retention)?;
        let batched = old.iter().any(|(sample, _)| sample.batch.is_some());
        let done = old.len();
        let mut unit = self.old_unmatched(&retention)?;
        let unmatched = unit.len();
        let models = self.old_models(&retention)?;
        let removed = models.len();
        for model in models {
            unit.extend(self.remove_model(model)?);
        }
        let mut reasons: Vec<&str> = Vec::new();
        for (sample, why) in old {
            unit.extend(self.emptied_records(sample.id())?);
            self.ledger.forget(sample.id());
            self.flow.unasked.remove(&sample.id());
            self.empty_sample(sample, "retention", why)?;
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
        self.flow.retain_after = (done.max(removed) < STEP).then(|| self.now + PAUSE);
        if done + unmatched + removed == 0 {
            return Ok(());
        }
        if removed > 0 {
            reasons.push("the models are not needed any more");
        }
        let subject = format!("{done} samples, {unmatched} unmatched, {removed} models");
        self.note("expired", subject, Some("retention"), Some(&reasons.join("; ")));
        self.outbox.push_with_samples(unit)?;
        self.outbox.commit()?;
        self.flow.unscrubbed = true;
        if batched { self.reload_training_rows() } else { Ok(()) }
    }

    /// Samples that are to lose their content, and why; at most a step.
    fn old_samples(&mut self, retention: &Retention) -> Result<Vec<(Sample, &'static str)>, Error> {
        let mut found: Vec<(Sample, &'static str)> = Vec::new();
        if let Some(cutoff) = retention.samples_for.and_then(|time| self.now.checked_sub_signed(time)) {
            for state in LOOSE {
                for record in self.outbox.page(Kind::Sample, state.as_str(), None, STEP - found.len())? {
                    let old = |sample: &Sample| sample.observation.time < cutoff;
                    found.extend(self.loose(&record)?.filter(old).map(|sample| (sample, "its time is over")));
                }
                if found.len() == STEP {
                    return Ok(found);
                }
            }
        }
        if let Some(most) = retention.most_samples {
            let mut total = 0;
            for state in LOOSE {
                total += self.outbox.count(Kind::Sample, Some(state.as_str()))?;
            }
            let over = total.saturating_sub(found.len() as u64).saturating_sub(most).min((STEP - found.len()) as u64);
            let mut oldest: Vec<Record> = Vec::new();
            for state in [SampleState::Skipped, SampleState::Quarantined] {
                oldest.extend(self.outbox.page(Kind::Sample, state.as_str(), None, found.len() + over as usize)?);
            }
            oldest.sort_by(|a, b| (a.rank, &a.key.id).cmp(&(b.rank, &b.key.id)));
            let mut left = over;
            for record in oldest {
                let known = |sample: &Sample| found.iter().any(|(other, _)| other.id() == sample.id());
                if left > 0
                    && let Some(sample) = self.loose(&record)?.filter(|sample| !known(sample))
                {
                    found.push((sample, "there are more than may be kept"));
                    left -= 1;
                }
            }
        }
        if let Some(cutoff) = retention.batches_for.and_then(|time| self.now.checked_sub_signed(time)) {
            let rows = self.rows_of_old_batches(cutoff, STEP - found.len())?;
            found.extend(rows.into_iter().map(|sample| (sample, "the time of its batch is over")));
        }
        Ok(found)
    }

    /// The sample of a record as it is now, if it still is in no batch and has content.
    fn loose(&mut self, record: &Record) -> Result<Option<Sample>, Error> {
        let Ok(id) = record.key.id.parse() else { return Ok(None) };
        let sample = self.outbox.sample(id)?.filter(|sample| sample.batch.is_none() && sample.erased.is_none());
        Ok(sample.cloned())
    }

    /// The writes that empty what waits for a prediction since too long; at most a step. What was put aside by a release
    /// that did not note the time stays.
    fn old_unmatched(&mut self, retention: &Retention) -> Result<Vec<Write>, Error> {
        let Some(cutoff) = retention.unmatched_for.and_then(|time| self.now.checked_sub_signed(time)) else {
            return Ok(Vec::new());
        };
        let mut unit = Vec::new();
        for record in self.outbox.page(Kind::Parked, "waiting", None, STEP)? {
            if record.due.is_some_and(|since| since < cutoff) {
                let indexed = Indexed { state: "expired", rank: record.rank, due: None };
                unit.push(self.outbox.raw(Kind::Parked, &record.key.id, indexed, b"[]".to_vec()));
                if let Ok(id) = record.key.id.parse::<PredictionId>() {
                    self.flow.parked.remove(&id);
                }
            }
        }
        Ok(unit)
    }

    /// Models that are to lose what was trained, the oldest first; at most a step.
    fn old_models(&self, retention: &Retention) -> Result<Vec<ModelRecord>, Error> {
        let Some(most) = retention.most_models else { return Ok(Vec::new()) };
        let needed = self.retraining.live_versions();
        let [kept @ .., _] = ModelRecord::STATES;
        let mut total = 0;
        for state in kept {
            total += self.outbox.count(Kind::Model, Some(state))?;
        }
        let over = total.saturating_sub(needed.len() as u64).saturating_sub(most).min(STEP as u64) as usize;
        if over == 0 {
            return Ok(Vec::new());
        }
        let mut oldest: Vec<ModelRecord> = Vec::new();
        for state in kept {
            for record in self.outbox.page(Kind::Model, state, None, over + needed.len())? {
                oldest.push(parse(&record)?);
            }
        }
        oldest.retain(|model| !needed.contains(&model.version));
        oldest.sort_by_key(|model| model.version);
        oldest.truncate(over);
        Ok(oldest)
    }
}
