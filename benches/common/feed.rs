//! Observations for a whole pipeline: d = 32, two classes, all default detectors, three gates and a router.

use std::sync::Arc;

use feedloop::{
    ConfidenceRouter, Deduplicate, Event, GuardVerdict, KsDrift, LabelConsistency, LowConfidence, Mahalanobis,
    MemoryStore, Output, OutputDrift, Pipeline, PipelineBuilder, PredictionError, Reference, SchemaGate, Store,
    UserFeedback,
};

use super::Stream;

const WIDTH: usize = 32;
/// Events per call of `ingest`: as many as the worker takes at once.
pub(crate) const BURST: usize = 1_024;
const ROWS: usize = 50 * BURST;

pub(crate) struct Feed {
    stream: Stream,
    reference: Arc<Reference>,
    rows: Vec<(Vec<f64>, [f64; 2])>,
    next: usize,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let mut stream = Stream::new(WIDTH);
        let reference = stream.reference();
        let rows = (0..ROWS).map(|_| (stream.values(), stream.probabilities())).collect();
        Feed { stream, reference, rows, next: 0 }
    }

    /// Leaves out the rows that a detector would flag.
    pub(crate) fn quieten(&mut self) {
        let guard = detectors(self.builder(MemoryStore::default())).build().expect("a pipeline").guard();
        let mut observation = self.stream.observation();
        self.rows.retain(|(values, probabilities)| {
            observation.row.copy_values(values).expect("as wide as the schema");
            observation.set_output(Output::Probabilities(probabilities));
            guard.check(&observation) == GuardVerdict::Pass
        });
    }

    pub(crate) fn builder(&self, store: impl Store + 'static) -> PipelineBuilder {
        Pipeline::builder("bench", self.stream.schema.clone()).reference(self.reference.clone()).store(store)
    }

    /// Applies a burst; how many samples were kept.
    pub(crate) fn ingest(&mut self, pipeline: &mut Pipeline) -> usize {
        let mut events = Vec::with_capacity(BURST);
        for _ in 0..BURST {
            let (values, probabilities) = &self.rows[self.next];
            self.next = (self.next + 1) % self.rows.len();
            let mut observation = pipeline.observation();
            observation.id = self.stream.id();
            observation.row.copy_values(values).expect("as wide as the schema");
            observation.set_output(Output::Probabilities(probabilities));
            events.push(Event::Prediction(observation));
        }
        pipeline.ingest(events).expect("the store works").kept
    }
}

fn detectors(builder: PipelineBuilder) -> PipelineBuilder {
    builder
        .detect(LowConfidence::below(0.6))
        .detect(OutputDrift::default())
        .detect(Mahalanobis::default())
        .detect(KsDrift::default())
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
}

pub(crate) fn whole(builder: PipelineBuilder) -> PipelineBuilder {
    detectors(builder)
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
        .gate(LabelConsistency::default())
        .route(ConfidenceRouter::max_error(0.02))
}
