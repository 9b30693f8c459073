//! A host with people who answer everything.

use std::collections::HashMap;
use std::sync::Arc;

use feedloop::chrono::TimeDelta;
use feedloop::{
    Chunk, Event, Findings, Label, ManualClock, MemoryStore, ModelSlot, Observation, Pipeline, PipelineBuilder,
    PredictionId, ReviewQueue, RunId, RunState, Store, detector_fn,
};

use super::{Rng, base, first_model, load, observation, schema, start, truth};

/// Drives a pipeline: serves rows of a moving concept, lets people answer everything, polls.
pub struct Host<S = MemoryStore> {
    pub pipeline: Pipeline,
    pub slot: ModelSlot<f64>,
    pub queue: ReviewQueue,
    pub clock: ManualClock,
    pub store: Arc<S>,
    rng: Rng,
    rows: HashMap<PredictionId, Vec<f64>>,
    pub served: u64,
    forgiving: bool,
}

impl Host {
    pub fn new(change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Host {
        Host::on(MemoryStore::new(), change)
    }
}

impl<S: Store + 'static> Host<S> {
    pub fn on(store: S, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Host<S> {
        let clock = ManualClock::starting_at(start());
        let store = Arc::new(store);
        let (pipeline, slot) = open(&clock, &store, change);
        let queue = ReviewQueue::open(store.clone(), "closed", schema().target().clone(), Arc::new(clock.clone()));
        Host { pipeline, slot, queue, clock, store, rng: Rng(5), rows: HashMap::new(), served: 0, forgiving: false }
    }

    /// Another process on the same store and clock: it takes the pipeline over.
    pub fn sharing(other: &Host<S>, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Host<S> {
        let (clock, store) = (other.clock.clone(), other.store.clone());
        let (pipeline, slot) = open(&clock, &store, change);
        let (queue, rows) = (other.queue.clone(), other.rows.clone());
        Host { pipeline, slot, queue, clock, store, rng: Rng(6), rows, served: other.served, forgiving: false }
    }

    /// The process ends and begins again, on the same store.
    pub fn restart(&mut self, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) {
        (self.pipeline, self.slot) = open(&self.clock, &self.store, change);
        self.pipeline.poll().unwrap();
    }

    /// Serves `rows` rows whose truth lies at `concept`; two people in turn answer every question.
    pub fn turn(&mut self, rows: usize, concept: f64) {
        self.turn_by(rows, concept, served);
    }

    /// The same, with what `serve` records of a row: its number and its values.
    pub fn turn_by(
        &mut self,
        rows: usize,
        concept: f64,
        serve: impl FnMut(&ModelSlot<f64>, u64, &[f64]) -> Vec<Box<Observation>>,
    ) {
        self.work(rows, concept, serve, |_, _, truth| Some(truth));
    }

    /// As `turn`, where polls may fail.
    pub fn turn_through_errors(&mut self, rows: usize, concept: f64) {
        self.forgiving = true;
        self.turn(rows, concept);
        self.forgiving = false;
    }

    /// As `turn`; `say` makes an answer of who is asked, how many are to answer, and the truth, or leaves the question.
    pub fn turn_with(&mut self, rows: usize, concept: f64, say: impl FnMut(&str, u32, Label) -> Option<Label>) {
        self.work(rows, concept, served, say);
    }

    fn work(
        &mut self,
        rows: usize,
        concept: f64,
        mut serve: impl FnMut(&ModelSlot<f64>, u64, &[f64]) -> Vec<Box<Observation>>,
        mut say: impl FnMut(&str, u32, Label) -> Option<Label>,
    ) {
        self.clock.advance(TimeDelta::minutes(10));
        let mut events = Vec::new();
        for _ in 0..rows {
            let values = vec![self.rng.unit(), self.rng.unit()];
            for mut observation in serve(&self.slot, self.served, &values) {
                observation.time = feedloop::Clock::now(&self.clock);
                events.push(Event::Prediction(observation));
            }
            self.rows.insert(super::id(self.served), values);
            self.served += 1;
        }
        self.pipeline.ingest(events).unwrap();
        self.poll();
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
        self.poll();
    }

    fn poll(&mut self) {
        let polled = self.pipeline.poll();
        assert!(self.forgiving || polled.is_ok(), "{polled:?}");
    }

    pub fn run_states(&self) -> Vec<RunState> {
        let runs = self.pipeline.status().unwrap().runs;
        (1..=runs).map(|id| self.pipeline.run(RunId(id)).unwrap().unwrap().state).collect()
    }
}

/// The prediction of the served model.
#[allow(clippy::vec_box)]
fn served(slot: &ModelSlot<f64>, n: u64, values: &[f64]) -> Vec<Box<Observation>> {
    let served = slot.get();
    vec![observation(n, served.version, served.model, values)]
}

fn open(
    clock: &ManualClock,
    store: &Arc<impl Store + 'static>,
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
