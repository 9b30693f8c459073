//! One seed, one life of a loop: what the host, its users, annotators and operators do, and what goes wrong.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use feedloop::chrono::TimeDelta;
use feedloop::{
    AdaptiveRules, ConfidenceRouter, ConfirmRules, Error, Event, Kind, LabelConsistency, ManualClock, MemoryStore,
    Mode, ModelSlot, Pipeline, PipelineBuilder, PredictionId, Profile, Relevance, ReviewQueue, Sample, SampleState,
    Store, TriggerExt, any, drift, new_labels,
};

use super::NAME;
use super::checker::{COOLDOWN, Checker, Counts};
use super::outside::{Judge, Outside, Remote, Service, Shared, Threshold, lock, slot};
use super::stages::{Marker, Moods, Moody, Shaky, watchful};
use crate::support::disk::{Disk, Kill, Killed};
use crate::support::{Rng, base, check_journal, first_model, records, schema, start};

pub struct Simulation {
    pub rng: Rng,
    pub clock: ManualClock,
    disk: Disk<MemoryStore>,
    pub outside: Shared,
    pub slot: ModelSlot<Threshold>,
    profile: Profile,
    mode: Mode,
    overlap: u32,
    generous: bool,
    /// Truths come soon after most predictions, and the world moves to and fro between two concepts.
    swift: bool,
    /// Models have time to prove themselves.
    pub calm: bool,
    pipeline: Option<Pipeline>,
    pub checker: Checker,
    pub made: u64,
    pub values: BTreeMap<PredictionId, [f64; 2]>,
    /// Questions that somebody took home, to answer later or never.
    pub late: Vec<(PredictionId, String)>,
    /// Promotions and rollbacks, as far as the world has taken note.
    pub changes: usize,
    /// The disk is mended in this step.
    mended_in: u64,
    pub steps: u64,
}

/// Every record of the store.
pub type Dump = Vec<(Kind, String, String, i64, u64, Vec<u8>)>;

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let race = rng.chance(0.3).then(AdaptiveRules::default);
        let confirm = |likely| Profile::Confirm(ConfirmRules { likely, race: race.clone(), ..ConfirmRules::default() });
        let profile = [confirm(false), confirm(true)].get(rng.below(4)).cloned().unwrap_or_else(Profile::adaptive);
        let mode = [Mode::Approval, Mode::Approval, Mode::Advisory].get(rng.below(12)).copied().unwrap_or_default();
        let disk = Disk::new(MemoryStore::new());
        let outside = Outside::new(seed, disk.content().clone());
        let swift = rng.chance(0.5);
        {
            let mut outside = lock(&outside);
            // Some loops live among people and machines that do their work.
            outside.wicked = !rng.chance(if swift { 0.5 } else { 0.2 });
            outside.clever = if swift { 0.9 } else { 0.0 };
            outside.concept = 0.2 + 0.1 * rng.below(4) as f64;
        }
        Simulation {
            clock: ManualClock::starting_at(start()),
            outside,
            slot: slot(),
            checker: Checker::new(profile.clone(), mode),
            profile,
            mode,
            overlap: 1 + u32::from(rng.chance(0.2)),
            generous: rng.chance(0.3),
            swift,
            calm: rng.chance(0.4),
            disk,
            pipeline: None,
            made: 0,
            values: BTreeMap::new(),
            late: Vec::new(),
            changes: 0,
            mended_in: 0,
            steps: 0,
            rng,
        }
    }

    fn builder(&self) -> PipelineBuilder {
        let outside = &self.outside;
        let marker = Marker { outside: outside.clone(), flagged: self.checker.marks.clone() };
        let router = ConfidenceRouter::max_error(0.2).audit(0.3).overlap(self.overlap);
        // Some candidates of `confirm` are judged to the end, others are superseded before.
        let inner = match self.profile {
            Profile::Confirm(_) if self.generous => any([new_labels(100)]),
            _ => any([new_labels(12), drift()]),
        };
        let trigger = Moods { inner, outside: outside.clone() };
        watchful(Pipeline::builder(NAME, schema()).training_data(base()).detect(marker))
            .first_model(first_model())
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
            .compare(0.9)
            .learn_from_outcomes(0.5)
            .label_batch(if self.calm { 12 } else { 5 })
            .expire_tasks(TimeDelta::minutes(40))
            .checkpoint(50, TimeDelta::minutes(5))
            .clock(self.clock.clone())
            .seed(3)
            .store(self.disk.clone())
    }

    /// The process does something; it may die of it, and must not panic.
    pub fn process<R>(&mut self, what: impl FnOnce(&mut Pipeline) -> R) -> Option<R> {
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
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }

    pub fn ingest(&mut self, events: Vec<Event>) {
        let (count, reads_failed) = (events.len(), self.disk.reads_failed());
        // A new process begins without marks.
        let marked = if self.pipeline.is_some() { self.checker.marks.lock().unwrap().len() } else { 0 };
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

    pub fn poll(&mut self) {
        let Some(polled) = self.process(Pipeline::poll) else { return };
        self.follow();
        let pending = self.pipeline.as_ref().map_or(0, Pipeline::pending);
        if pending == 0 {
            self.checker.all_durable();
        }
        assert!(polled.is_err() || pending == 0, "a poll that went well leaves {pending} changes pending");
    }

    pub fn follow(&mut self) {
        self.checker.follow(&self.disk, &self.outside);
    }

    pub fn queue(&self) -> ReviewQueue {
        let store: Arc<dyn Store> = Arc::new(self.disk.content().clone());
        ReviewQueue::open(store, NAME, schema().target().clone(), Arc::new(self.clock.clone()))
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.steps == self.mended_in {
            self.disk.mend();
        }
        if self.checker.frozen() && self.rng.chance(0.1) {
            self.unfreeze();
        }
        if self.swift && self.rng.chance(0.6) {
            self.day();
        } else {
            self.something();
        }
        self.follow();
        self.checker.step_ends();
        if self.steps.is_multiple_of(40) && !self.checker.world.samples.is_empty() {
            self.checker.whole(&self.disk);
        }
    }

    fn something(&mut self) {
        match self.rng.below(43) {
            0..=11 => self.predict(25),
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
                self.disk.mend();
                self.pipeline = None;
                self.poll();
            }
            36 => {
                match self.rng.below(3) {
                    0 => self.disk.commits_fail(),
                    1 => self.disk.reads_fail(),
                    _ => self.disk.fail_read(1 + self.rng.below(40) as u64),
                }
                self.mended_in = self.steps + 1 + self.rng.below(12) as u64;
            }
            37 | 38 => {
                let place = match self.rng.below(4) {
                    0 => Kill::Before,
                    1 => Kill::After,
                    _ => Kill::Within(self.rng.below(3)),
                };
                let kinds = [
                    Kind::Promotion,
                    Kind::Promotion,
                    Kind::Model,
                    Kind::Batch,
                    Kind::Run,
                    Kind::Sample,
                    Kind::Checkpoint,
                ];
                match kinds.get(self.rng.below(2 * kinds.len())) {
                    Some(kind) => self.disk.kill_at(*kind, place),
                    None => self.disk.kill(1 + self.rng.below(8) as u64, place),
                }
            }
            39 if self.rng.chance(0.3) => lock(&self.outside).concept = 0.2 + 0.1 * self.rng.below(6) as f64,
            39 => self.answer_late(),
            _ => self.operator(),
        }
    }

    /// Lives for so many steps; then everything is mended, and the loop must come to rest and serve its champion.
    pub fn live(&mut self, steps: u64) {
        (0..steps).for_each(|_| self.step());
        self.come_to_rest();
        self.checker.whole(&self.disk);
        check_journal(self.disk.content(), NAME);
        self.walk_the_lineage();
    }

    fn walk_the_lineage(&mut self) {
        let samples = self.checker.world.samples.values().filter(|sample| sample.batch.is_some());
        let samples: Vec<_> = samples.map(Sample::id).take(4).collect();
        let versions: Vec<_> = self.checker.world.models.keys().rev().take(2).copied().collect();
        self.process(|pipeline| {
            for id in samples {
                assert!(pipeline.lineage(id).unwrap().nodes.len() >= 3, "sample, batch and run of {id}");
            }
            for version in versions {
                assert!(!pipeline.lineage(version).unwrap().nodes.is_empty());
            }
        });
    }

    pub fn unfreeze(&mut self) -> Option<Result<(), Error>> {
        self.checker.unfreezes();
        self.process(Pipeline::unfreeze)
    }

    fn come_to_rest(&mut self) {
        self.disk.heal();
        lock(&self.outside).wicked = false;
        self.revive();
        self.unfreeze().expect("a healthy disk opens").expect("a healthy disk is written");
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

    /// How often each thing happened.
    pub fn counts(&self) -> Counts {
        let mut counts = self.checker.counts();
        for (what, times) in &lock(&self.outside).seen {
            *counts.entry((*what).to_owned()).or_default() += times;
        }
        for (place, kinds) in self.disk.killed() {
            let place = format!("{place:?}").split('(').next().unwrap_or_default().to_lowercase();
            let kinds = kinds.iter().map(|kind| format!("killed with: {}", kind.as_str()));
            kinds.chain([format!("killed {place} a commit")]).for_each(|what| *counts.entry(what).or_default() += 1);
        }
        counts
    }

    pub fn dump(&self) -> Dump {
        let all = Kind::ALL.into_iter().flat_map(|kind| records(self.disk.content(), NAME, kind));
        all.map(|r| (r.kind, r.key.id, r.state, r.rank, r.rev, r.body.to_vec())).collect()
    }
}
