//! What the host, its users, annotators and operators do.

use feedloop::chrono::TimeDelta;
use feedloop::{Event, Feedback, Label, Opinion, Outcome, PredictionId, PromotionKind, Sample, SampleState};

use super::driver::Simulation;
use super::outside::{bits, lock};
use super::stages::MARKED;
use crate::support::{id, observation_of, truth};

impl Simulation {
    pub fn predict(&mut self, most: usize) {
        self.clock.advance(TimeDelta::seconds(self.rng.below(120) as i64));
        let count = 1 + self.rng.below(most);
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

    fn concept(&self) -> f64 {
        lock(&self.outside).concept
    }

    /// Traffic, the truth about most of it, and a look at the loop.
    pub fn day(&mut self) {
        // A model that was right when it was trained may be wrong as soon as it is promoted.
        let changes = &self.checker.world.promotions;
        let fresh = changes.len() > self.changes && changes[changes.len() - 1].kind == PromotionKind::Promotion;
        self.changes = changes.len();
        if self.rng.chance(if fresh && !self.calm { 0.6 } else { 0.06 }) {
            let away = self.concept() > 0.45;
            lock(&self.outside).concept = if away { 0.2 } else { 0.7 };
        }
        let before = self.made;
        self.predict(20);
        let concept = self.concept();
        let known = (before..self.made).filter(|_| self.rng.chance(0.9)).collect::<Vec<_>>().into_iter();
        let known = known.map(|n| Event::Outcome(Outcome::truth(id(n), truth(&self.values[&id(n)], concept))));
        let known = known.collect();
        self.ingest(known);
        (0..2).for_each(|_| self.poll());
        if self.rng.chance(0.3) {
            self.process(|pipeline| drop(pipeline.approve("ada")));
        }
        if !self.calm && self.rng.chance(0.06) {
            self.process(|pipeline| drop(pipeline.rollback("impatience")));
        }
    }

    fn known(&mut self) -> Option<PredictionId> {
        let recent = if self.rng.chance(0.1) { 0 } else { self.made.saturating_sub(200) };
        let n = recent + self.rng.next() % (self.made - recent).max(1);
        self.values.contains_key(&id(n)).then(|| id(n))
    }

    pub fn outcomes(&mut self) {
        let mut events = Vec::new();
        for _ in 0..1 + self.rng.below(12) {
            let Some(known) = self.known() else { return };
            let right = truth(&self.values[&known], self.concept());
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

    pub fn annotators(&mut self) {
        let queue = self.queue();
        let name = format!("person-{}", self.rng.below(3));
        let most = 1 + self.rng.below(20);
        let careful = !lock(&self.outside).wicked;
        for ticket in queue.claim(&name, most, TimeDelta::minutes(5)).unwrap() {
            let sample = ticket.task.sample;
            let right = truth(ticket.task.row.values(), self.concept());
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
    pub fn answer_late(&mut self) {
        while let Some((sample, name)) = self.late.pop() {
            let right = truth(&self.values[&sample], self.concept());
            let _ = self.queue().annotate(sample, &name, right, 1.0, None);
            if self.rng.chance(0.2) {
                return;
            }
        }
    }

    pub fn operator(&mut self) {
        match self.rng.below(20) {
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
            18 | 19 => self.erase(),
            _ => drop(self.unfreeze()),
        }
    }

    /// Somebody asks for a sample to be forgotten.
    fn erase(&mut self) {
        let nth = self.rng.below(self.checker.world.samples.len().max(1));
        let Some(id) = self.checker.world.samples.keys().nth(nth).copied() else { return };
        let erased = self.process(|pipeline| pipeline.erase(id, "ada", "asked for"));
        self.follow();
        if let Some(Ok(_)) = erased {
            assert!(self.checker.world.samples[&id].erased.is_some(), "{id} was called erased and is not");
        }
    }

    pub fn revive(&mut self) {
        for stage in ["marker", "moody", "shaky"] {
            self.process(|pipeline| pipeline.revive(stage).unwrap());
        }
    }
}
