//! A host with people who answer everything.

use std::collections::HashMap;
use std::sync::Arc;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Chunk, Event, Findings, Label, ManualClock, MemoryStore, ModelSlot, Pipeline, PipelineBuilder, PredictionId,
    ReviewQueue, RunId, RunState, detector_fn,
};

use super::{Rng, base, first_model, load, observation, schema, start, truth};

/// Drives a pipeline: serves rows of a moving concept, lets people answer everything, polls.
pub struct Host {
    pub pipeline: Pipeline,
    pub slot: ModelSlot<f64>,
    pub queue: ReviewQueue,
    pub clock: ManualClock,
    store: Arc<MemoryStore>,
    rng: Rng,
    rows: HashMap<PredictionId, Vec<f64>>,
    pub served: u64,
}

impl Host {
    pub fn new(change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Host {
        let clock = ManualClock::starting_at(start());
        let store = Arc::new(MemoryStore::new());
        let (pipeline, slot) = open(&clock, &store, change);
        let queue = ReviewQueue::open(store.clone(), "closed", schema().target().clone(), Arc::new(clock.clone()));
        Host { pipeline, slot, queue, clock, store, rng: Rng(5), rows: HashMap::new(), served: 0 }
    }

    /// The process ends and begins again, on the same store.
    pub fn restart(&mut self, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) {
        (self.pipeline, self.slot) = open(&self.clock, &self.store, change);
        self.pipeline.poll().unwrap();
    }

    /// Serves `rows` rows whose truth lies at `concept`; two people in turn answer every question.
    pub fn turn(&mut self, rows: usize, concept: f64) {
        self.turn_with(rows, concept, |_, _, truth| Some(truth));
    }

    /// As `turn`; `say` makes an answer of who is asked, how many are to answer, and the truth, or leaves the question.
    pub fn turn_with(&mut self, rows: usize, concept: f64, mut say: impl FnMut(&str, u32, Label) -> Option<Label>) {
        self.clock.advance(TimeDelta::minutes(10));
        let mut events = Vec::new();
        for _ in 0..rows {
            let values = vec![self.rng.unit(), self.rng.unit()];
            let served = self.slot.get();
            let mut observation = observation(self.served, served.version, served.model, &values);
            observation.time = feedloop::Clock::now(&self.clock);
            self.served += 1;
            self.rows.insert(observation.id, values);
            events.push(Event::Prediction(observation));
        }
        self.pipeline.ingest(events).unwrap();
        self.pipeline.poll().unwrap();
        let people = if (self.served / rows as u64).is_multiple_of(2) { ["ann", "bob"] } else { ["bob", "ann"] };
        for (turn, who) in people.into_iter().enumerate() {
            let waiting = self.queue.waiting().unwrap() as usize;
            let share = if turn == 0 { waiting / 2 } else { waiting };
            for ticket in self.queue.claim(who, share, TimeDelta::minutes(5)).unwrap() {
                let id = ticket.task.sample;
                match say(who, ticket.task.ask.overlap, truth(&self.rows[&id], concept)) {
                    Some(label) => drop(self.queue.annotate(id, who, label, 1.0, None).unwrap()),
                    None => self.queue.release(id, who).unwrap(),
                }
            }
        }
        self.pipeline.poll().unwrap();
    }

    pub fn run_states(&self) -> Vec<RunState> {
        let runs = self.pipeline.status().unwrap().runs;
        (1..=runs).map(|id| self.pipeline.run(RunId(id)).unwrap().unwrap().state).collect()
    }
}

fn open(
    clock: &ManualClock,
    store: &Arc<MemoryStore>,
    change: impl FnOnce(PipelineBuilder) -> PipelineBuilder,
) -> (Pipeline, ModelSlot<f64>) {
    let slot = ModelSlot::new(0.5, load).inline();
    let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
        chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
        Ok(())
    });
    let builder = Pipeline::builder("closed", schema())
        .training_data(base())
        .first_model(first_model())
        .detect(flag_all)
        .explore(0.2)
        .label_batch(20)
        .learn_from_outcomes(0.0)
        .flags_per_minute(u32::MAX)
        .deploy(slot.clone())
        .clock(clock.clone())
        .store(store.clone());
    (change(builder).build().unwrap(), slot)
}
