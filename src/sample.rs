//! A prediction that the loop kept: why, what became of it, and every label that it got.

mod state;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{Label, ModelVersion, Observation, PredictionId};
use crate::retrain::{BatchId, RunId};
use crate::schema::Row;
use crate::schema::row_floats;
pub use state::{SampleState, Transition};

/// Code of the step by which a sample whose label is in doubt goes back to the review queue.
pub(crate) const ADJUDICATED: &str = "adjudicate";

/// State of the records whose content was erased with their sample.
pub(crate) const ERASED: &str = "erased";
/// Code of the quarantine of labels that a label-fault check found to be wrong.
pub(crate) const LABEL_FAULT: &str = "label_fault";

/// A reason that a person can read and a program can count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, short, snake case: for counting.
    pub code: String,
    /// The particulars.
    pub detail: String,
}

impl Reason {
    /// A reason.
    pub fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Reason { code: code.into(), detail: detail.into() }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// Share of one column in a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Name of the column.
    pub column: String,
    /// Its share; what it is a share of is the detector's to say.
    pub share: f64,
}

/// Why a detector pointed at a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flag {
    /// Name of the detector; the pipeline fills it in.
    #[serde(default)]
    pub detector: String,
    /// The prediction.
    pub prediction: PredictionId,
    /// The score that crossed the threshold.
    pub score: f64,
    /// The threshold.
    pub threshold: f64,
    /// The chance that an ordinary row scores as high, if the detector knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
    /// The columns that caused it, largest share first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Was it raised when a truth or a user's opinion came, so that it may depend on the label? The pipeline fills it in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
}

impl Flag {
    /// A flag without p-value and causes; the pipeline fills in the detector, and whether a label was known.
    pub fn new(prediction: PredictionId, score: f64, threshold: f64) -> Self {
        Flag { detector: String::new(), prediction, score, threshold, p_value: None, causes: Vec::new(), told: false }
    }
}

/// Which lane chose a sample; see [the guide](crate::guide::labels) on lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Drawn uniformly from live traffic; blind, never auto-labelled; unbiased estimates come from here.
    Random,
    /// Drawn uniformly where an open candidate and the champion disagree; blind, never auto-labelled.
    Comparison,
    /// The router drew it because the model is unsure of it; for learning, with a floor under the inclusion probability.
    Uncertain,
    /// The router drew it because it is unlike what is labelled already; for learning, with a floor likewise.
    Diverse,
    /// A detector pointed at it.
    Flagged,
    /// Its truth arrived by itself.
    Outcome,
}

impl Lane {
    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Random => "random",
            Lane::Comparison => "comparison",
            Lane::Uncertain => "uncertain",
            Lane::Diverse => "diverse",
            Lane::Flagged => "flagged",
            Lane::Outcome => "outcome",
        }
    }

    /// Do labels of this lane judge models (and are therefore never made by a model)?
    pub fn judges(self) -> bool {
        matches!(self, Lane::Random | Lane::Comparison)
    }
}

/// Who said what a label is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Annotator {
    /// A person who labels for us.
    Human(String),
    /// A model.
    Model(ModelVersion),
    /// A user of the host, by feedback.
    User(String),
    /// The world: an outcome.
    GroundTruth,
}

impl Annotator {
    /// Did a person or the world say it, rather than a model?
    pub fn is_independent(&self) -> bool {
        !matches!(self, Annotator::Model(_))
    }

    /// May a label of theirs judge? Users correct what is wrong more often than what is right, and models do not judge
    /// themselves.
    pub(crate) fn is_fair(&self) -> bool {
        matches!(self, Annotator::Human(_) | Annotator::GroundTruth)
    }
}

/// One label of one sample. Never overwritten: a correction or a retraction is a new entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Which sample.
    pub sample: PredictionId,
    /// The label; `None` retracts what this annotator said before.
    pub label: Option<Label>,
    /// Who.
    pub annotator: Annotator,
    /// When.
    pub time: DateTime<Utc>,
    /// How sure, from 0 to 1.
    pub confidence: f64,
    /// How long it took, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Was the model's opinion hidden from the annotator?
    pub blind: bool,
}

/// What is left of a content that was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When.
    pub time: DateTime<Utc>,
    /// Who erased it: a person, or the part of the loop.
    pub by: String,
    /// Why.
    pub why: String,
    /// SHA-256 of the sample as it was.
    pub content: String,
    /// SHA-256 of row, label and weight as they count in the digest of its batch, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
}

fn one() -> f64 {
    1.0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

/// What another model than the served one said of a prediction, recorded by the host at the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// The model.
    pub model: ModelVersion,
    /// Its output, as [`Observation::output`] lays it out.
    #[serde(with = "row_floats")]
    pub output: Vec<f64>,
}

/// A prediction that the loop kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prediction with its input.
    pub observation: Observation,
    /// Position in the stream.
    pub sequence: u64,
    /// Where the sample is on its way.
    pub state: SampleState,
    /// Which lane chose it.
    pub lane: Lane,
    /// Probability that the lane chose it, in (0, 1].
    pub inclusion: f64,
    /// Who pointed at it, and why; empty if it was only drawn.
    pub flags: Vec<Flag>,
    /// What an annotator should see beside the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// What models in the shadow said of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    /// Every label that it got, oldest first; never overwritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    /// The label that counts now: the truth before people, people before users, users before the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Annotation>,
    /// How many different people were to answer, if people were asked.
    #[serde(default)]
    pub overlap: u32,
    /// Has its label judged the models that were live when it came? Only then may it be trained on.
    #[serde(default)]
    pub judged: bool,
    /// Has its label passed the label-fault check? Only then may it judge or be trained on, if that check is on.
    #[serde(default)]
    pub checked: bool,
    /// The run whose candidate was compared on it, if the comparison lane drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<RunId>,
    /// The cohort that its auto-label was made in, if a model labelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<u64>,
    /// The batch that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// Its training weight in that batch; 1 before.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: f64,
    /// The label that it has in that batch; later corrections change `label`, never this. [The next batch](crate::Manifest::corrected)
    /// says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Label>,
    /// Every step so far, oldest first.
    pub history: Vec<Transition>,
    /// Set if its content was erased; then row, output, shadows, payload, flags and labels are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erasure>,
}

impl Sample {
    /// A sample just kept.
    pub fn new(observation: Observation, sequence: u64, lane: Lane, inclusion: f64) -> Self {
        Sample {
            observation,
            sequence,
            state: SampleState::Flagged,
            lane,
            inclusion,
            flags: Vec::new(),
            payload: None,
            shadows: Vec::new(),
            annotations: Vec::new(),
            label: None,
            overlap: 1,
            judged: false,
            checked: false,
            compared: None,
            cohort: None,
            weight: 1.0,
            batch: None,
            sealed: None,
            history: Vec::new(),
            erased: None,
        }
    }

    /// Its name: that of the prediction.
    pub fn id(&self) -> PredictionId {
        self.observation.id
    }

    /// Was its label in doubt once, so that a majority of people decided it?
    pub fn is_adjudicated(&self) -> bool {
        self.history.iter().any(|step| step.reason.code == ADJUDICATED)
    }

    /// Does its label tell models apart that have yet to be trained on it? Rows of the judging lanes do, and others that were
    /// chosen for what was seen of input and output alone, if people labelled them without knowing what the model said.
    /// The latter are no fair sample of the stream.
    pub(crate) fn may_race(&self) -> bool {
        let blind = |label: &Annotation| label.blind && matches!(label.annotator, Annotator::Human(_));
        let chosen_unseen = self.lane != Lane::Outcome && self.flags.iter().all(|flag| !flag.told);
        self.lane.judges() || (chosen_unseen && self.label.as_ref().is_some_and(blind))
    }

    /// The run whose candidate it judges, if it was drawn for one: of models that took no part in the draw it is no fair sample.
    pub(crate) fn drawn_by(&self) -> Option<RunId> {
        self.compared.filter(|_| self.lane == Lane::Comparison)
    }

    /// Takes out the content; `row` is an empty one. What is left are names, times, states, codes and digests.
    pub(crate) fn empty(&mut self, erasure: Erasure, row: Row) {
        self.advance(SampleState::Erased, &erasure.by, Reason::new("erased", ""), erasure.time);
        self.observation.row = row;
        self.observation.output.fill(f64::NAN);
        (self.flags, self.annotations, self.shadows) = (Vec::new(), Vec::new(), Vec::new());
        (self.payload, self.label, self.sealed) = (None, None, None);
        for step in &mut self.history {
            step.reason.detail.clear();
            if step.by.starts_with("user-") {
                "user".clone_into(&mut step.by);
            }
        }
        self.erased = Some(erasure);
    }

    /// Is it in quarantine because a label-fault check doubts its label?
    pub(crate) fn is_label_fault(&self) -> bool {
        self.state == SampleState::Quarantined
            && self.history.last().is_some_and(|step| step.reason.code == LABEL_FAULT)
    }

    /// Was its label taken back after its batch was sealed, because a label-fault check found it wrong?
    pub(crate) fn is_taken_back(&self) -> bool {
        self.state == SampleState::Batched && self.history.last().is_some_and(|step| step.reason.code == LABEL_FAULT)
    }

    /// Moves the sample; an illegal move is refused and changes nothing.
    pub(crate) fn advance(&mut self, to: SampleState, by: &str, reason: Reason, time: DateTime<Utc>) -> bool {
        if !self.state.may_become(to) {
            return false;
        }
        self.history.push(Transition { time, from: self.state, to, by: by.into(), reason });
        self.state = to;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schema::{Field, Schema, Target};

    #[test]
    fn a_label_races_if_neither_who_gave_it_nor_who_chose_the_row_knew_what_would_favour_a_model() {
        let schema = Schema::new([Field::number("x")], Target::classes(["no", "yes"])).unwrap();
        let may_race = |lane, annotator: Annotator, blind, told| {
            let mut sample = Sample::new(Observation::new(&schema), 1, lane, 1.0);
            let (id, time, label) = (sample.id(), sample.observation.time, Some(Label::Class(1)));
            sample.flags = vec![Flag { told, ..Flag::new(id, 2.0, 1.0) }];
            sample.label =
                Some(Annotation { sample: id, label, annotator, time, confidence: 1.0, seconds: None, blind });
            sample.may_race()
        };
        let ann = || Annotator::Human("ann".into());
        assert!(may_race(Lane::Flagged, ann(), true, false) && may_race(Lane::Uncertain, ann(), true, false));
        assert!(!may_race(Lane::Flagged, ann(), false, false), "ann saw what the model said");
        assert!(!may_race(Lane::Flagged, ann(), true, true), "a user or the truth pointed at it");
        assert!(!may_race(Lane::Flagged, Annotator::User("eve".into()), true, false));
        assert!(!may_race(Lane::Flagged, Annotator::GroundTruth, true, false), "which truths come may depend on them");
        assert!(!may_race(Lane::Outcome, ann(), true, false));
        assert!(may_race(Lane::Random, Annotator::GroundTruth, false, true), "the draw knew nothing");
    }
}
