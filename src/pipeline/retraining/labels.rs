//! What a label that comes, changes or goes means, and how good the labels are that wait for a batch: kept up to date sample
//! by sample.

use hashbrown::HashMap;

use super::super::opinions::people;
use super::Retraining;
use crate::event::{Label, PredictionId, predicted_label};
use crate::review::{Consensus, consensus};
use crate::sample::{Annotation, Sample, SampleState};
use crate::schema::Schema;
use crate::trigger::LabelQualityStatus;

/// Sums over the samples that wait with a label, or for another opinion; about 40 bytes for each.
#[derive(Default)]
pub(super) struct LabelTracker {
    known: HashMap<PredictionId, Known>,
    /// Samples with a label of people or the world.
    independent: u64,
    labels: u64,
    compared: u64,
    answers: u64,
    agreeing: u64,
    doubted: u64,
    settled: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    labelled: bool,
    independent: bool,
    /// People whose answer stands, and how many of them say what most say.
    people: u64,
    agreeing: u64,
    doubted: bool,
}

impl Known {
    fn of(sample: &Sample) -> Self {
        let answers: Vec<Annotation> = people(sample).into_iter().cloned().collect();
        let people = answers.len() as u64;
        let agreeing = match consensus(&answers, 1) {
            Consensus::Agreed(_, share) => (share * people as f64).round() as u64,
            Consensus::Disputed | Consensus::Waiting => 0,
        };
        Known {
            labelled: sample.state == SampleState::Labelled,
            independent: sample.label.as_ref().is_some_and(|label| label.annotator.is_independent()),
            people,
            agreeing,
            doubted: people > 0 && (sample.is_adjudicated() || agreeing < people),
        }
    }
}

impl LabelTracker {
    /// A sample's label came, changed or went. Did a sample that people had answered go into quarantine?
    pub(super) fn observe(&mut self, sample: &Sample) -> bool {
        let before = self.forget(sample.id());
        match sample.state {
            SampleState::Labelled | SampleState::Queued => {
                let known = Known::of(sample);
                self.count(&known, |count, by| *count += by);
                self.known.insert(sample.id(), known);
                false
            }
            state => state == SampleState::Quarantined && before.is_some_and(|known| known.people > 0),
        }
    }

    /// A sample waits no longer.
    pub(super) fn forget(&mut self, id: PredictionId) -> Option<Known> {
        let known = self.known.remove(&id)?;
        self.count(&known, |count, by| *count -= by);
        Some(known)
    }

    fn count(&mut self, known: &Known, change: impl Fn(&mut u64, u64)) {
        let one = u64::from;
        let compared = known.people >= 2;
        change(&mut self.independent, one(known.labelled && known.independent));
        change(&mut self.labels, one(known.labelled && known.people > 0));
        change(&mut self.compared, one(compared));
        change(&mut self.answers, if compared { known.people } else { 0 });
        change(&mut self.agreeing, if compared { known.agreeing } else { 0 });
        change(&mut self.doubted, one(known.doubted));
        change(&mut self.settled, one(known.doubted && known.labelled));
    }

    /// Samples that wait with a label of people or the world.
    pub(super) fn independent(&self) -> u64 {
        self.independent
    }

    pub(super) fn status(&self) -> LabelQualityStatus {
        LabelQualityStatus {
            labels: self.labels,
            compared: self.compared,
            agreement: (self.answers > 0).then(|| self.agreeing as f64 / self.answers as f64),
            doubted: self.doubted,
            settled: self.settled,
            quarantined: 0,
        }
    }
}

impl Retraining {
    /// A sample passed or failed the gates.
    pub(in super::super) fn flagged(&mut self, sample: &Sample, schema: &Schema) {
        if sample.state == SampleState::Admitted && !sample.flags.is_empty() {
            let predicted = match predicted_label(schema.target(), sample.observation.output()) {
                Some(Label::Class(class)) => Some(class),
                _ => None,
            };
            let detector = sample.flags.first().map_or("", |flag| flag.detector.as_str());
            self.coverage.flagged(sample.id(), &sample.observation.row, detector, predicted);
        }
    }

    /// A sample's label came, changed or went.
    pub(in super::super) fn labelled(&mut self, sample: &Sample) {
        let key = (sample.sequence, sample.id());
        self.ready.remove(&key);
        self.unjudged.remove(&key);
        if self.labels.observe(sample) {
            self.state.tally.label_quarantined();
            self.log.unsaved = true;
        }
        self.unchecked.remove(&key);
        self.state.checking.keep_only(sample.id(), sample.label.as_ref().and_then(|annotation| annotation.label));
        let independent = sample.label.as_ref().is_some_and(|label| label.annotator.is_independent());
        match sample.state {
            SampleState::Labelled => {}
            SampleState::Quarantined | SampleState::Erased => return self.coverage.retract(sample.id()),
            SampleState::Queued => return self.coverage.unlabelled(sample.id()),
            SampleState::Batched => return self.taught.observe(sample),
            _ => return,
        }
        // Labels that may not judge train at once.
        let fair = sample.label.as_ref().is_some_and(|label| label.annotator.is_fair());
        let judges = match &self.parts.evaluator {
            Some(evaluator) if evaluator.profile().race().is_some() => sample.may_race(),
            Some(_) => sample.lane.judges(),
            None => false,
        };
        if self.waits_for_check(sample) {
            // It comes again when it is cleared.
        } else if judges && fair && !sample.judged {
            self.unjudged.insert(key, sample.lane.judges());
        } else {
            self.ready.insert(key, independent);
        }
        if independent {
            self.coverage.labelled(sample.id(), &sample.observation.row);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::Label;
    use crate::gate::testing::{annotation, sample};
    use crate::sample::{Annotator, Reason};
    use crate::schema::{Field, Schema, Target};

    fn schema() -> Schema {
        Schema::new([Field::number("x")], Target::classes(["no", "yes"])).unwrap()
    }

    fn answered(number: u64, state: SampleState, answers: &[(&str, u32)]) -> Sample {
        let mut sample = sample(&schema(), u128::from(number));
        let by = |(name, class): &(&str, u32)| {
            annotation(u128::from(number), Annotator::Human((*name).to_owned()), Label::Class(*class))
        };
        sample.annotations = answers.iter().map(by).collect();
        (sample.state, sample.label) = (state, sample.annotations.first().cloned());
        sample
    }

    #[test]
    fn agreement_is_of_those_that_two_or_more_answered() {
        let mut tracker = LabelTracker::default();
        assert_eq!(tracker.status(), LabelQualityStatus::default());
        tracker.observe(&answered(1, SampleState::Labelled, &[("ann", 1)]));
        assert_eq!(tracker.status().agreement, None);
        tracker.observe(&answered(2, SampleState::Labelled, &[("ann", 1), ("bob", 1)]));
        tracker.observe(&answered(3, SampleState::Queued, &[("ann", 1), ("bob", 0)]));
        tracker.observe(&answered(4, SampleState::Labelled, &[("ann", 1), ("bob", 0), ("eve", 1)]));
        let expected = LabelQualityStatus {
            labels: 3,
            compared: 3,
            agreement: Some(4.0 / 7.0),
            doubted: 2,
            settled: 1,
            quarantined: 0,
        };
        assert_eq!(tracker.status(), expected);
    }

    #[test]
    fn a_sample_counts_as_it_is_now_and_not_once_it_left() {
        let mut tracker = LabelTracker::default();
        for answers in [&[("ann", 1)][..], &[("ann", 1), ("bob", 0)], &[("ann", 1), ("bob", 1)]] {
            tracker.observe(&answered(1, SampleState::Labelled, answers));
        }
        assert_eq!((tracker.status().labels, tracker.status().agreement), (1, Some(1.0)));
        assert_eq!((tracker.status().doubted, tracker.independent()), (0, 1));
        tracker.forget(answered(1, SampleState::Batched, &[]).id());
        assert_eq!((tracker.status(), tracker.independent()), (LabelQualityStatus::default(), 0));
    }

    #[test]
    fn a_label_that_a_gate_sent_back_is_in_doubt_until_it_is_labelled_again() {
        let mut tracker = LabelTracker::default();
        let mut sample = answered(1, SampleState::Labelled, &[("ann", 1)]);
        let reason = Reason::new(crate::sample::ADJUDICATED, "like others of another class");
        assert!(sample.advance(SampleState::Queued, "gate", reason, chrono::DateTime::UNIX_EPOCH));
        tracker.observe(&sample);
        assert_eq!((tracker.status().doubted, tracker.status().settled, tracker.status().labels), (1, 0, 0));
        sample.state = SampleState::Labelled;
        tracker.observe(&sample);
        assert_eq!((tracker.status().doubted, tracker.status().settled, tracker.status().labels), (1, 1, 1));
    }

    #[test]
    fn quarantine_is_told_once_and_only_of_what_people_had_answered() {
        let mut tracker = LabelTracker::default();
        assert!(!tracker.observe(&answered(1, SampleState::Quarantined, &[])), "a gate refused it at once");
        tracker.observe(&answered(2, SampleState::Queued, &[("ann", 1)]));
        assert!(tracker.observe(&answered(2, SampleState::Quarantined, &[("ann", 1), ("bob", 0)])));
        assert!(!tracker.observe(&answered(2, SampleState::Quarantined, &[("ann", 1), ("bob", 0)])));
        assert_eq!(tracker.status(), LabelQualityStatus::default());
    }
}
