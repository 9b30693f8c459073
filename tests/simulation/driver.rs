//! One seed, one life of a loop: what the host, its users, annotators and operators do, and what goes wrong.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use feedloop::chrono::TimeDelta;
use feedloop::{
    ConfidenceRouter, ConfirmRules, Deduplicate, Error, Event, Feedback, Kind, KsDrift, Label, LabelConsistency,
    LowConfidence, Mahalanobis, ManualClock, MemoryStore, Mode, ModelSlot, Opinion, Outcome, OutputDrift, Pipeline,
    PipelineBuilder, PredictionError, PredictionId, Profile, PromotionKind, PromotionRecord, Relevance, ReviewQueue,
    Sample, SampleState, SchemaGate, Store, TriggerExt, UserFeedback, any, drift, new_labels,
};

use super::NAME;
use super::checker::{COOLDOWN, Checker};
use super::disk::{Disk, Kill, Killed};
use super::outside::{Judge, Outside, Remote, Service, Shared, Threshold, bits, lock, slot};
use super::stages::{MARKED, Marker, Moods, Moody, Shaky};
use crate::support::{Rng, base, check_journal, first_model, id, observation_of, records, schema, start, truth};

pub struct Simulation {
    rng: Rng,
    clock: ManualClock,
    disk: Disk<MemoryStore>,
    outside: Shared,
    slot: ModelSlot<Threshold>,
    profile: Profile,
    mode: Mode,
    overlap: u32,
    generous: bool,
    pipeline: Option<Pipeline>,
    checker: Checker,
    made: u64,
    values: BTreeMap<PredictionId, [f64; 2]>,
    concept: f64,
    /// Questions that somebody took home, to answer later or never.
    late: Vec<(PredictionId, String)>,
    pub kills: u64,
    pub steps: u64,
}

/// What a life amounted to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Life {
    pub samples: usize,
    pub batches: usize,
    pub promotions: usize,
    pub rollbacks: usize,
    pub kills: u64,
}

impl Life {
    pub fn add(&mut self, other: Life) {
        self.samples += other.samples;
        self.batches += other.batches;
        self.promotions += other.promotions;
        self.rollbacks += other.rollbacks;
        self.kills += other.kills;
    }
}

/// Every record of the store.
pub type Dump = Vec<(Kind, String, String, i64, u64, Vec<u8>)>;

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let confirm = |likely| Profile::Confirm(ConfirmRules { likely, ..ConfirmRules::default() });
        let profile = [confirm(false), confirm(true)].get(rng.below(5)).cloned().unwrap_or_else(Profile::adaptive);
        let mode = [Mode::Approval, Mode::Approval, Mode::Advisory].get(rng.below(12)).copied().unwrap_or_default();
        let disk = Disk::new(MemoryStore::new());
        let outside = Outside::new(seed, disk.content().clone());
        // Every fifth loop lives among people and machines that do their work.
        lock(&outside).wicked = !rng.chance(0.2);
        Simulation {
            clock: ManualClock::starting_at(start()),
            outside,
            slot: slot(),
            checker: Checker::new(profile.clone(), mode),
            profile,
            mode,
            overlap: 1 + u32::from(rng.chance(0.2)),
            generous: rng.chance(0.3),
            disk,
            pipeline: None,
            made: 0,
            values: BTreeMap::new(),
            concept: 0.2 + 0.1 * rng.below(4) as f64,
            late: Vec::new(),
            kills: 0,
            steps: 0,
            rng,
        }
    }

    fn builder(&self) -> PipelineBuilder {
        let outside = &self.outside;
        let marker = Marker { outside: outside.clone(), flagged: self.checker.marks.clone() };
        let router = ConfidenceRouter::max_error(0.2).audit(0.3).overlap(self.overlap);
        let trigger = Moods { inner: any([new_labels(12), drift()]), outside: outside.clone() };
        Pipeline::builder(NAME, schema())
            .training_data(base())
            .first_model(first_model())
            .detect(marker)
            .detect(LowConfidence::below(0.8))
            .detect(Mahalanobis::default().false_alarm_rate(0.02))
            .detect(KsDrift::default().window(60))
            .detect(OutputDrift::default().window(60))
            .detect(PredictionError::default())
            .detect(UserFeedback::default())
            .gate(SchemaGate::default())
            .gate(Deduplicate::exact())
            .gate(LabelConsistency::default())
            .gate(Relevance::default())
            .gate(Moody(outside.clone()))
            .route(Shaky { inner: router, generous: self.generous, newest: 0, outside: outside.clone() })
            .trigger(trigger.cooldown(COOLDOWN))
            .train(Remote(outside.clone()))
            .evaluate(Judge::new(self.profile.clone(), outside.clone()))
            .deploy(Service::new(self.slot.clone(), outside.clone()))
            .mode(self.mode)
            .explore(0.35)
            .learn_from_outcomes(0.5)
            .label_batch(5)
            .expire_tasks(TimeDelta::minutes(40))
            .checkpoint(50, TimeDelta::minutes(5))
            .clock(self.clock.clone())
            .seed(3)
            .store(self.disk.clone())
    }

    /// The process does something; it may die of it, and must not panic.
    fn process<R>(&mut self, what: impl FnOnce(&mut Pipeline) -> R) -> Option<R> {
        let fresh = self.pipeline.is_none();
        if fresh {
            // A new process: what only the old one knew is gone.
            self.slot = slot();
            self.checker.marks.lock().unwrap().clear();
        }
        let mut pipeline = self.pipeline.take();
        let builder = fresh.then(|| self.builder());
        let lived = catch_unwind(AssertUnwindSafe(move || {
            if let Some(builder) = builder {
                match builder.build() {
                    Ok(built) => pipeline = Some(built),
                    Err(error) => {
                        assert!(matches!(error, Error::Store { .. }), "a store that was left by a crash: {error}");
                        return (None, None);
                    }
                }
            }
            let done = pipeline.as_mut().map(what);
            (pipeline, done)
        }));
        match lived {
            Ok((pipeline, done)) => {
                self.pipeline = pipeline;
                done
            }
            Err(payload) if payload.is::<Killed>() => {
                self.kills += 1;
                None
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn ingest(&mut self, events: Vec<Event>) {
        let (count, reads_failed) = (events.len(), self.disk.reads_failed());
        let marked = self.checker.marks.lock().unwrap().len();
        let ingested = self.process(|pipeline| pipeline.ingest(events));
        // A flag that could not be looked up is counted, and may be lost.
        if self.disk.reads_failed() > reads_failed {
            self.checker.marks.lock().unwrap().truncate(marked);
        }
        self.follow();
        if let Some(Ok(ingested)) = ingested {
            assert_eq!(ingested.events, count, "every event is consumed");
            if ingested.pending == 0 {
                self.checker.all_durable();
            }
        }
    }

    fn poll(&mut self) {
        let Some(polled) = self.process(Pipeline::poll) else { return };
        self.follow();
        let pending = self.pipeline.as_ref().map_or(0, Pipeline::pending);
        if pending == 0 {
            self.checker.all_durable();
        }
        assert!(polled.is_err() || pending == 0, "a poll that went well leaves {pending} changes pending");
    }

    fn follow(&mut self) {
        self.checker.follow(&self.disk, &self.outside);
    }

    fn queue(&self) -> ReviewQueue {
        let store: Arc<dyn Store> = Arc::new(self.disk.content().clone());
        ReviewQueue::open(store, NAME, schema().target().clone(), Arc::new(self.clock.clone()))
    }

    fn predict(&mut self) {
        self.clock.advance(TimeDelta::seconds(self.rng.below(120) as i64));
        let count = 1 + self.rng.below(25);
        let mut events = Vec::new();
        for _ in 0..count {
            let copied = self.rng.chance(0.03).then(|| id(self.rng.next() % (self.made + 1)));
            let copied = copied.and_then(|id| self.values.get(&id).copied());
            let values = copied.unwrap_or_else(|| {
                let mark = if self.rng.chance(0.04) { MARKED + 4.0 } else { 0.0 };
                [self.rng.unit() * 1.2, self.rng.unit() + mark]
            });
            // Now and then a name comes twice.
            let twice = self.rng.chance(0.02).then(|| self.rng.next() % (self.made + 1));
            let n = twice.filter(|n| self.values.contains_key(&id(*n))).unwrap_or(self.made);
            if copied.is_some() || n < self.made {
                lock(&self.outside).copied.insert(bits(&values));
            }
            let (output, version) = self.slot.predict(|model, version| (model.predict(&values), version));
            let mut observation = observation_of(n, version, output, &values);
            if self.rng.chance(0.1) {
                // The host's clock is another one than ours.
                observation.time += TimeDelta::minutes(self.rng.below(600) as i64 - 300);
            }
            events.push(Event::Prediction(observation));
            if n == self.made {
                self.values.insert(id(n), values);
                self.made += 1;
            }
        }
        self.ingest(events);
    }

    fn known(&mut self) -> Option<PredictionId> {
        let recent = if self.rng.chance(0.1) { 0 } else { self.made.saturating_sub(200) };
        let n = recent + self.rng.next() % (self.made - recent).max(1);
        self.values.contains_key(&id(n)).then(|| id(n))
    }

    fn outcomes(&mut self) {
        let mut events = Vec::new();
        for _ in 0..1 + self.rng.below(12) {
            let Some(known) = self.known() else { return };
            let right = truth(&self.values[&known], self.concept);
            let event = match self.rng.below(11) {
                0 => Event::Outcome(Outcome::retraction(known)),
                1 => Event::Outcome(Outcome::truth(known, Label::Class(self.rng.below(3) as u32))),
                // Of a prediction that never comes, and of one that comes later.
                2 => Event::Outcome(Outcome::truth(id(1_000_000 + self.rng.below(50) as u64), right)),
                3 => Event::Outcome(Outcome::truth(id(self.made + self.rng.below(30) as u64), right)),
                4 => {
                    let opinion = match self.rng.below(3) {
                        0 => Opinion::Correction(right),
                        1 => Opinion::Rejection,
                        _ => Opinion::Rating(self.rng.unit()),
                    };
                    Event::Feedback(Box::new(Feedback { prediction: known, user: "u".into(), opinion }))
                }
                _ => Event::Outcome(Outcome::truth(known, right)),
            };
            if self.rng.chance(0.1) {
                events.push(event.clone());
            }
            events.push(event);
        }
        self.ingest(events);
    }

    fn annotators(&mut self) {
        let queue = self.queue();
        let name = format!("person-{}", self.rng.below(3));
        let most = 1 + self.rng.below(20);
        let careful = !lock(&self.outside).wicked;
        for ticket in queue.claim(&name, most, TimeDelta::minutes(5)).unwrap() {
            let sample = ticket.task.sample;
            let right = truth(ticket.task.row.values(), self.concept);
            let wrong = Label::Class(u32::from(right == Label::Class(0)));
            match if careful { 12 } else { self.rng.below(13) } {
                0 => queue.skip(sample, &name).unwrap(),
                1 => queue.release(sample, &name).unwrap(),
                2 => {} // went home
                3 => self.late.push((sample, name.clone())),
                4 => drop(queue.annotate(sample, &name, wrong, 0.5, None).unwrap()),
                5 => {
                    queue.annotate(sample, &name, wrong, 1.0, None).unwrap();
                    queue.correct(sample, &name, right, 1.0, Some(3.0)).unwrap();
                }
                6 => {
                    queue.annotate(sample, &name, right, 1.0, None).unwrap();
                    if self.rng.chance(0.5) {
                        self.poll();
                    }
                    queue.retract(sample, &name).unwrap();
                }
                _ => drop(queue.annotate(sample, &name, right, 1.0, None).unwrap()),
            }
        }
    }

    /// Somebody answers long after the lease, whatever has become of the question.
    fn answer_late(&mut self) {
        while let Some((sample, name)) = self.late.pop() {
            let right = truth(&self.values[&sample], self.concept);
            let _ = self.queue().annotate(sample, &name, right, 1.0, None);
            if self.rng.chance(0.2) {
                return;
            }
        }
    }

    fn operator(&mut self) {
        match self.rng.below(18) {
            0 | 16 | 17 => drop(self.process(|pipeline| pipeline.rollback("test"))),
            1 => drop(self.process(|pipeline| pipeline.freeze("test"))),
            2 | 3 => drop(self.process(|pipeline| pipeline.cancel_run("test"))),
            4 | 5 => drop(self.process(|pipeline| pipeline.retrain_now("test"))),
            6 | 7 => drop(self.process(|pipeline| pipeline.approve("test"))),
            8 => drop(self.process(|pipeline| pipeline.acknowledge_alarms("ada"))),
            9 | 10 => {
                let sign = self.rng.chance(0.7);
                self.process(|pipeline| {
                    let Some(held) = pipeline.status().ok().and_then(|status| status.held) else { return };
                    if sign {
                        drop(pipeline.sign_off(&held, "boss"))
                    } else {
                        drop(pipeline.refuse_batch(&held, "boss"))
                    }
                });
            }
            11 => {
                let nth = self.rng.below(20);
                let quarantined = |sample: &&Sample| sample.state == SampleState::Quarantined;
                let some = self.checker.world.samples.values().filter(quarantined).nth(nth).map(Sample::id);
                some.into_iter().for_each(|id| drop(self.process(|pipeline| pipeline.readmit(id, "test"))));
            }
            12 => self.revive(),
            _ => {
                self.checker.unfreezes();
                self.process(|pipeline| drop(pipeline.unfreeze()));
            }
        }
    }

    fn revive(&mut self) {
        for stage in ["marker", "moody", "shaky"] {
            self.process(|pipeline| pipeline.revive(stage).unwrap());
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.rng.below(44) {
            0..=11 => self.predict(),
            12..=16 => self.outcomes(),
            17..=26 => {
                self.annotators();
                if self.rng.chance(0.6) {
                    self.poll();
                }
            }
            27..=32 => self.poll(),
            33 | 34 => {
                let by = match self.rng.below(10) {
                    0 | 1 => -TimeDelta::seconds(self.rng.below(900) as i64),
                    2 => TimeDelta::days(self.rng.below(3) as i64),
                    _ => TimeDelta::seconds(self.rng.below(900) as i64),
                };
                self.clock.advance(by);
            }
            35 => {
                // A restart without a word: what was not durable is gone.
                self.disk.heal();
                self.pipeline = None;
                self.poll();
            }
            36 => match self.rng.below(3) {
                0 => self.disk.commits_fail(),
                1 => self.disk.reads_fail(),
                _ => self.disk.fail_read(1 + self.rng.below(40) as u64),
            },
            37 => self.disk.heal(),
            38 | 39 => {
                let place = match self.rng.below(4) {
                    0 => Kill::Before,
                    1 => Kill::After,
                    _ => Kill::Within(self.rng.below(4)),
                };
                self.disk.kill(1 + self.rng.below(8) as u64, place);
            }
            40 if self.rng.chance(0.3) => self.concept = 0.2 + 0.1 * self.rng.below(6) as f64,
            40 => self.answer_late(),
            _ => self.operator(),
        }
        self.follow();
        self.checker.step_ends();
        if self.steps.is_multiple_of(40) && !self.checker.world.samples.is_empty() {
            self.checker.whole(&self.disk);
        }
    }

    /// Lives for so many steps; then everything is mended, and the loop must come to rest and serve its champion.
    pub fn live(&mut self, steps: u64) -> Life {
        (0..steps).for_each(|_| self.step());
        self.come_to_rest();
        self.checker.whole(&self.disk);
        check_journal(self.disk.content(), NAME);
        self.walk_the_lineage();
        let world = &self.checker.world;
        let back = |change: &&PromotionRecord| change.kind == PromotionKind::Rollback;
        let rollbacks = world.promotions.iter().filter(back).count();
        Life {
            samples: world.samples.len(),
            batches: world.batches.len(),
            promotions: world.promotions.len() - rollbacks,
            rollbacks,
            kills: self.kills,
        }
    }

    fn walk_the_lineage(&mut self) {
        let samples = self.checker.world.samples.values().filter(|sample| sample.batch.is_some());
        let samples: Vec<_> = samples.map(Sample::id).take(20).collect();
        let versions: Vec<_> = self.checker.world.models.keys().copied().collect();
        self.process(|pipeline| {
            for id in samples {
                assert!(pipeline.lineage(id).unwrap().nodes.len() >= 3, "sample, batch and run of {id}");
            }
            for version in versions {
                assert!(!pipeline.lineage(version).unwrap().nodes.is_empty());
            }
        });
    }

    fn come_to_rest(&mut self) {
        self.disk.heal();
        lock(&self.outside).wicked = false;
        self.revive();
        self.checker.unfreezes();
        self.process(Pipeline::unfreeze).expect("a healthy disk opens").expect("a healthy disk is written");
        for _ in 0..10 {
            self.clock.advance(TimeDelta::minutes(10));
            self.poll();
        }
        self.checker.step_ends();
        let status = self.process(|pipeline| pipeline.status().unwrap()).unwrap();
        assert_eq!((status.pending, status.poll_error.clone()), (0, None), "a healthy loop has nothing left to do");
        let unread = records(self.disk.content(), NAME, Kind::Annotation).iter().filter(|r| r.state == "new").count();
        assert_eq!(unread, 0, "answers were left unread");
        let champion = self.checker.world.champion;
        assert_eq!(status.champion, champion);
        let serves = self.slot.version() == champion;
        assert!(serves || status.frozen.is_some(), "{} is served, not {champion}", self.slot.version());
        for state in [SampleState::Flagged, SampleState::Admitted] {
            let stuck = self.checker.world.samples.values().filter(|sample| sample.state == state).count();
            assert_eq!(stuck, 0, "{stuck} samples are stuck in {}", state.as_str());
        }
    }

    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.outside).seen.clone()
    }

    pub fn dump(&self) -> Dump {
        let all = Kind::ALL.into_iter().flat_map(|kind| records(self.disk.content(), NAME, kind));
        all.map(|r| (r.kind, r.key.id, r.state, r.rank, r.rev, r.body.to_vec())).collect()
    }
}
