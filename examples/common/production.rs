//! Production, simulated around a feedloop pipeline: a stream is served row by row, people answer from the true labels.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use feedloop::chrono::{DateTime, TimeDelta};
use feedloop::uuid::Uuid;
use feedloop::{
    Annotator, Artifact, BoxError, Budget, ConfidenceRouter, Dataset, Deduplicate, Event, FnTrainer, KsDrift, Label,
    LabelConsistency, LowConfidence, Mahalanobis, ManualClock, ModelRecord, ModelSlot, ModelVersion, Output,
    OutputDrift, PairedEvaluator, Pipeline, PipelineBuilder, PredictionId, Profile, Relevance, ReviewQueue, Row, RunId,
    SampleState, Schema, SchemaGate, Store, Target, any, drift, new_labels,
};

use super::data::Stream;
use super::fault::{Crowd, Fault};
use super::harm::Harm;
use super::model::{Kind, Model};
use super::protocol::{Split, TRAINING_CAP, train};

/// How production is set up.
pub struct Setting {
    /// The rules of promotion.
    pub profile: Profile,
    /// Share of the rows that people may label.
    pub budget: f64,
    /// The kind of model.
    pub kind: Kind,
    /// The seed of every draw.
    pub seed: u64,
    /// New labels that start a run.
    pub retrain_on: u64,
    /// Accepted error of auto-labels.
    pub auto_label_error: f64,
    /// This run trains on labels with shifted classes, as a broken labelling script would make them.
    pub sabotage: Option<RunId>,
    /// What is wrong with the labels.
    pub fault: Fault,
    /// Are the labels checked for faults?
    pub label_check: bool,
}

/// What can be counted at the end.
#[derive(Debug, Default, Clone, Copy)]
pub struct Census {
    /// Samples that a detector pointed at.
    pub flagged: usize,
    /// Samples that a gate refused.
    pub quarantined: usize,
    /// Samples that a model labelled.
    pub auto_labelled: usize,
    /// Those of them that it labelled wrongly.
    pub auto_wrong: usize,
    /// Those of them whose cohort was released.
    pub auto_released: usize,
    /// Those of the released that are wrong.
    pub auto_released_wrong: usize,
}

/// A served stream with its loop and its annotators.
pub struct Production<'a> {
    stream: &'a Stream,
    /// The loop.
    pub pipeline: Pipeline,
    /// The served model.
    pub slot: ModelSlot<Model>,
    queue: ReviewQueue,
    clock: ManualClock,
    rows: HashMap<PredictionId, usize>,
    seed: u64,
    people: usize,
    crowd: Crowd,
    /// What its promotions did.
    pub harm: Harm,
    version: ModelVersion,
}

fn load(record: &ModelRecord) -> Result<Model, BoxError> {
    match &record.artifact {
        Artifact::Inline(bytes) => Ok(Model::from_bytes(bytes)?),
        Artifact::File(path) => Ok(Model::from_bytes(&std::fs::read(path)?)?),
    }
}

impl<'a> Production<'a> {
    /// Trains the first model on the initial rows and builds the loop around it.
    ///
    /// # Errors
    /// If the pipeline cannot be built on `store`.
    pub fn start(
        stream: &'a Stream,
        split: &Split,
        setting: &Setting,
        store: Arc<dyn Store>,
    ) -> Result<Self, BoxError> {
        let initial: Vec<usize> = (0..split.initial).collect();
        let first = train(stream, setting.kind, &initial, None, setting.seed);
        let classes = (0..stream.classes).map(|class| format!("class-{class}"));
        let schema = Arc::new(Schema::numeric(stream.columns.len(), Target::classes(classes))?);
        let base = Dataset::from_values(
            schema.clone(),
            initial.iter().map(|&row| (&stream.features[row], Label::Class(stream.labels[row] as u32))),
        )?;
        let clock = ManualClock::starting_at(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let slot = ModelSlot::new(first.clone(), load).inline();
        let (kind, classes, sabotage) = (setting.kind, stream.classes, setting.sabotage);
        let trainer = FnTrainer::inline(move |job: &feedloop::TrainJob| {
            let rows: Vec<&[f64]> = job.data.rows().iter().map(Row::values).collect();
            let mut labels = job.data.class_labels();
            if sabotage == Some(job.run) {
                labels.iter_mut().for_each(|label| *label = (*label + 1) % classes);
            }
            // The blend of other models is fitted like every recipe.
            let voting = job.members.iter().filter(|_| kind == Kind::Forest);
            let members = voting.map(|member| Ok((member.share, load(&member.model)?)));
            let blend = Model::blend(&members.collect::<Result<Vec<_>, BoxError>>()?, &rows);
            let model =
                blend.unwrap_or_else(|| Model::fit(kind, &rows, &labels, Some(job.data.weights()), classes, job.seed));
            Ok(Artifact::Inline(model.to_bytes()?))
        });
        let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
            let model = load(record)?;
            Ok(move |row: &Row, output: &mut [f64]| {
                let mut probabilities = Vec::with_capacity(output.len());
                model.probabilities(row.values(), &mut probabilities);
                output.copy_from_slice(&probabilities);
                Ok(())
            })
        });
        let checked = |builder: PipelineBuilder| match setting.label_check {
            true => builder,
            false => builder.without_label_faults(),
        };
        let per_batch = (setting.budget * split.judged() as f64 / split.batches.len() as f64).max(2.0);
        let pipeline = checked(Pipeline::builder("production", schema.clone()))
            .training_data(base)
            .first_model(Artifact::Inline(first.to_bytes()?))
            .detect(LowConfidence::below(0.9))
            .detect(Mahalanobis::default().false_alarm_rate(0.01))
            .detect(KsDrift::default().window(split.batches.first().map_or(500, ExactSizeIterator::len).max(50)))
            .detect(OutputDrift::default())
            .gate(SchemaGate::default())
            .gate(Deduplicate::exact())
            .gate(LabelConsistency::default())
            .gate(Relevance::default())
            .route(ConfidenceRouter::max_error(setting.auto_label_error).audit(0.05).budget(Budget::unlimited()))
            .trigger(any([new_labels(setting.retrain_on), drift()]))
            .train(trainer)
            .evaluate(evaluator.profile(setting.profile.clone()).inline())
            .deploy(slot.clone())
            .explore(setting.budget / 2.0)
            .label_batch((per_batch / 2.0) as usize)
            .compare(1.0)
            .training_rows(TRAINING_CAP)
            .learn_from_outcomes(0.0)
            .flags_per_minute(u32::MAX)
            .expire_tasks(TimeDelta::minutes(30))
            .clock(clock.clone())
            .seed(setting.seed)
            .store(store.clone())
            .build()?;
        let crowd = Crowd::new(stream, split, setting.fault, setting.seed);
        let queue = ReviewQueue::open(store, "production", schema.target().clone(), Arc::new(clock.clone()));
        Ok(Production {
            stream,
            pipeline,
            slot,
            queue,
            clock,
            rows: HashMap::new(),
            seed: setting.seed,
            people: 0,
            crowd,
            harm: Harm::new(first),
            version: ModelVersion::FIRST,
        })
    }

    /// Serves a batch: every row is predicted by the model of the moment. Returns how many predictions were right.
    ///
    /// # Errors
    /// If the loop takes no more events.
    pub fn serve(&mut self, batch: &Range<usize>) -> Result<usize, BoxError> {
        self.clock.advance(TimeDelta::hours(1));
        let served = self.slot.get();
        if served.version != self.version {
            // A version that is not newer was served before.
            self.harm.switch(served.model.clone(), served.version > self.version);
            self.version = served.version;
        }
        self.harm.judge(self.stream, batch);
        let mut right = 0;
        let mut events = Vec::with_capacity(batch.len());
        let mut probabilities = Vec::new();
        for row in batch.clone() {
            let features = &self.stream.features[row];
            let version = self.slot.predict(|model, version| {
                model.probabilities(features, &mut probabilities);
                version
            });
            right += usize::from(super::model::most_probable(&probabilities) == self.stream.labels[row]);
            let mut observation = self.pipeline.observation();
            observation.id = PredictionId::from_uuid(Uuid::from_u64_pair(self.seed, row as u64));
            (observation.model, observation.time) = (version, feedloop::Clock::now(&self.clock));
            observation.row.copy_values(features)?;
            observation.set_output(Output::Probabilities(&probabilities));
            self.rows.insert(observation.id, row);
            events.push(Event::Prediction(observation));
        }
        self.pipeline.ingest(events)?;
        self.poll()?;
        Ok(right)
    }

    /// People answer up to `labels` questions, the most urgent first. Returns how many were answered.
    ///
    /// # Errors
    /// If the review queue cannot be used.
    pub fn answer(&mut self, labels: usize) -> Result<usize, BoxError> {
        let annotator = format!("annotator-{}", self.people % 3);
        self.people += 1;
        let tickets = self.queue.claim(&annotator, labels, TimeDelta::minutes(10))?;
        for ticket in &tickets {
            let row = self.rows[&ticket.task.sample];
            let label = Label::Class(self.crowd.says(row) as u32);
            self.queue.annotate(ticket.task.sample, &annotator, label, 1.0, None)?;
        }
        Ok(tickets.len())
    }

    /// A second person answers what the label-fault check asks, one question at a time, while `allowed` says so. Returns how
    /// many were answered.
    ///
    /// # Errors
    /// If the review queue or the loop cannot be used.
    pub fn answer_check(&mut self, mut allowed: impl FnMut() -> bool) -> Result<usize, BoxError> {
        const WHO: &str = "second-annotator";
        let mut answered = 0;
        while self.pipeline.status()?.label_check.is_some_and(|check| check.asked > 0) {
            let Some(ticket) = self.queue.claim(WHO, 1, TimeDelta::minutes(10))?.pop() else { break };
            let sample = ticket.task.sample;
            let row = self.rows[&sample];
            if !self.crowd.was_asked(row) || !allowed() {
                self.queue.release(sample, WHO)?;
                break;
            }
            let label = Label::Class(self.crowd.says(row) as u32);
            self.queue.annotate(sample, WHO, label, 1.0, None)?;
            answered += 1;
            self.poll()?;
        }
        Ok(answered)
    }

    /// Lets the loop do what is due.
    ///
    /// # Errors
    /// If the store or a stage fails.
    pub fn poll(&mut self) -> Result<(), BoxError> {
        self.pipeline.poll()?;
        Ok(())
    }

    /// Counts what became of the samples.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn census(&self) -> Result<Census, BoxError> {
        let mut census = Census::default();
        self.pipeline.each_sample(|sample| {
            census.flagged += usize::from(!sample.flags.is_empty());
            census.quarantined += usize::from(sample.state == SampleState::Quarantined);
            let auto = sample.annotations.iter().find(|a| matches!(a.annotator, Annotator::Model(_)));
            if let (Some(auto), Some(&row)) = (auto, self.rows.get(&sample.id())) {
                census.auto_labelled += 1;
                let wrong = usize::from(auto.label != Some(Label::Class(self.stream.labels[row] as u32)));
                // Once released, the model's label counts, unless an audit has said otherwise.
                let released = sample.label.as_ref().is_some_and(|label| label.annotator == auto.annotator)
                    && matches!(sample.state, SampleState::Labelled | SampleState::Batched);
                census.auto_wrong += wrong;
                census.auto_released += usize::from(released);
                census.auto_released_wrong += wrong * usize::from(released);
            }
            Ok(())
        })?;
        Ok(census)
    }
}
