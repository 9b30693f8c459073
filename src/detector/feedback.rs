//! What users say about predictions.

use std::borrow::Cow;

use super::{Detector, Findings};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::event::{Label, Opinion};
use crate::reference::References;
use crate::stage::{Snapshot, Stage};

const FORMAT: u32 = 1;

/// Flags predictions that users corrected, rejected or rated badly.
///
/// The score is the dissatisfaction from 0 to 1: 1 for a correction that differs from what was predicted (for values: by more
/// than the [`tolerance`](UserFeedback::tolerance)) and for a rejection, 1 − rating for a rating; the threshold is 1 − the least
/// good rating. A correction to the same label and a good rating are no flag. It assumes honest users: weigh them in a
/// gate, not here.
///
/// **Bad input** (a rating that is NaN or outside 0..=1, a correction that does not fit the target) is never a flag; it
/// is counted in [`UserFeedback::ignored`]. Memory: that counter.
#[derive(Debug, Clone)]
pub struct UserFeedback {
    name: Cow<'static, str>,
    least_rating: f64,
    tolerance: f64,
    ignored: u64,
}

impl Default for UserFeedback {
    /// Ratings below 0.5 are bad; every difference of a correction counts.
    fn default() -> Self {
        UserFeedback { name: "user_feedback".into(), least_rating: 0.5, tolerance: 0.0, ignored: 0 }
    }
}

impl UserFeedback {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Ratings below `rating` (0 to 1) are flagged; 0.5 unless told.
    pub fn rating_below(mut self, rating: f64) -> Self {
        self.least_rating = rating;
        self
    }

    /// Regression: a correction by at most `difference` agrees with the prediction; 0 unless told.
    pub fn tolerance(mut self, difference: f64) -> Self {
        self.tolerance = difference;
        self
    }

    /// How many opinions could not be understood.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn agrees(&self, predicted: Option<Label>, corrected: Label) -> bool {
        match (predicted, corrected) {
            (Some(Label::Value(predicted)), Label::Value(corrected)) => (predicted - corrected).abs() <= self.tolerance,
            (predicted, corrected) => predicted == Some(corrected),
        }
    }
}

impl Stage for UserFeedback {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, _: &References) -> Result<(), BoxError> {
        if !(0.0..=1.0).contains(&self.least_rating) {
            return Err(message(format!("the least rating is {}, from 0 to 1 is expected", self.least_rating)));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            let text = format!("the tolerance is {}, a finite number of at least 0 is expected", self.tolerance);
            return Err(message(text));
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Snapshot::save(FORMAT, &self.ignored)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.ignored = snapshot.load(FORMAT)?;
        Ok(())
    }
}

impl Detector for UserFeedback {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let threshold = 1.0 - self.least_rating;
        for heard in chunk.feedback() {
            let prediction = heard.feedback.prediction;
            match heard.feedback.opinion {
                Opinion::Correction(label) if !label.fits(chunk.schema().target()) => self.ignored += 1,
                Opinion::Correction(label) if self.agrees(heard.predicted, label) => {}
                Opinion::Correction(_) | Opinion::Rejection => findings.flag(prediction, 1.0, threshold),
                Opinion::Rating(rating) if !(0.0..=1.0).contains(&rating) => self.ignored += 1,
                Opinion::Rating(rating) if rating < self.least_rating => {
                    findings.flag(prediction, 1.0 - rating, threshold);
                }
                Opinion::Rating(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkBuffer, Heard};
    use crate::conformance::{self, World};
    use crate::event::Feedback;

    /// The scores of the flags for these opinions about a prediction, and how many were ignored.
    fn hear(world: &mut World, predicted: Label, opinions: &[Opinion]) -> (Vec<f64>, u64) {
        let mut detector = UserFeedback::default().tolerance(0.5);
        detector.rebase(&world.references(10)).unwrap();
        let mut buffer = ChunkBuffer::new(world.schema());
        for (sequence, opinion) in (0..).zip(opinions) {
            let prediction = world.observation().id;
            let feedback = Feedback { prediction, user: "ann".into(), opinion: opinion.clone() };
            buffer.push_feedback(Heard { sequence, feedback, predicted: Some(predicted) });
        }
        let mut findings = Findings::new();
        detector.inspect(&buffer.view(world.schema()), &mut findings).unwrap();
        (findings.flags().iter().map(|flag| flag.score).collect(), detector.ignored())
    }

    #[test]
    fn passes_the_suite() {
        conformance::detector(UserFeedback::default);
        conformance::detector(|| UserFeedback::default().rating_below(0.2).tolerance(0.1).named("users"));
    }

    #[test]
    fn dissatisfaction_is_flagged_and_consent_is_not() {
        use Opinion::{Correction, Rating, Rejection};
        let mut world = World::classification("dissatisfaction");
        let same = Label::Class(1);
        let said = [Correction(same), Correction(Label::Class(0)), Rejection, Rating(0.5), Rating(0.25), Rating(0.0)];
        assert_eq!(hear(&mut world, same, &said), (vec![1.0, 1.0, 0.75, 1.0], 0));
        let mut world = World::regression("dissatisfaction");
        let said = [Correction(Label::Value(10.5)), Correction(Label::Value(10.51))];
        assert_eq!(hear(&mut world, Label::Value(10.0), &said), (vec![1.0], 0));
    }

    #[test]
    fn bad_input_is_counted_and_never_flagged() {
        use Opinion::{Correction, Rating};
        let mut world = World::classification("bad input");
        let said = [Rating(f64::NAN), Rating(-0.1), Rating(1.5), Correction(Label::Class(99))];
        assert_eq!(hear(&mut world, Label::Class(0), &said), (vec![], 4));
        assert_eq!(hear(&mut world, Label::Class(0), &[Correction(Label::Value(f64::NAN))]), (vec![], 1));
    }

    #[test]
    fn mistakes_are_reported_by_rebase() {
        let references = World::classification("mistakes").references(10);
        assert!(UserFeedback::default().rating_below(f64::NAN).rebase(&references).is_err());
        assert!(UserFeedback::default().rating_below(1.1).rebase(&references).is_err());
        assert!(UserFeedback::default().tolerance(-1.0).rebase(&references).is_err());
    }
}
