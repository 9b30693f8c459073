//! The invariants of the design, checked after every unit that the store applies and, as a whole, now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use feedloop::chrono::{DateTime, TimeDelta, Utc};
use feedloop::{
    Annotation, Annotator, Dataset, Kind, Label, Manifest, MemoryStore, Mode, ModelRecord, ModelVersion, PredictionId,
    Profile, PromotionKind, PromotionRecord, Run, RunState, Sample, SampleState, Write,
};
use serde_json::Value;

use super::NAME;
use super::outside::{Shared, lock};
use super::stages::AUTO_SHARE;
use crate::support::disk::Disk;
use crate::support::{World, check, check_history, records, schema};

/// A trigger is quiet for so long after a run.
pub const COOLDOWN: TimeDelta = TimeDelta::minutes(3);
/// Rollbacks in so many promotions, since the last look of a person, at which the loop must be frozen.
const FLAPPING: (usize, usize) = (2, 10);

/// Marked rows with their positions, as the detector saw them.
pub type Marks = Arc<Mutex<Vec<(PredictionId, u64)>>>;

/// How often each thing happened.
pub type Counts = BTreeMap<String, u64>;

/// What is known of the store, kept in step with it unit by unit.
pub struct Checker {
    pub world: World,
    profile: Profile,
    mode: Mode,
    loop_state: Value,
    evaluations: BTreeMap<String, Value>,
    sequences: BTreeMap<u64, PredictionId>,
    /// Why the loop was frozen, each time.
    freezes: Vec<String>,
    last_batch: Option<String>,
    /// The label of each row in a batch, by the batches.
    taught: BTreeMap<PredictionId, Option<Label>>,
    /// Promotions and rollbacks when a person last tried to unfreeze the loop.
    unfrozen_at: usize,
    /// A person tried to unfreeze it in this step.
    unfreezing: bool,
    /// Marked rows that must come into the store.
    pub marks: Marks,
}

impl Checker {
    pub fn new(profile: Profile, mode: Mode) -> Self {
        Checker {
            world: World::default(),
            profile,
            mode,
            loop_state: Value::Null,
            evaluations: BTreeMap::new(),
            sequences: BTreeMap::new(),
            freezes: Vec::new(),
            last_batch: None,
            taught: BTreeMap::new(),
            unfrozen_at: 0,
            unfreezing: false,
            marks: Marks::default(),
        }
    }

    pub fn frozen(&self) -> bool {
        !self.loop_state["frozen"].is_null()
    }

    /// A person tries to unfreeze the loop.
    pub fn unfreezes(&mut self) {
        (self.unfrozen_at, self.unfreezing) = (self.world.promotions.len(), true);
    }

    pub fn step_ends(&mut self) {
        self.unfreezing = false;
    }

    /// Goes on with the units that were applied since, and checks what each of them leaves behind.
    pub fn follow(&mut self, disk: &Disk<MemoryStore>, outside: &Shared) {
        for unit in disk.applied() {
            let was_frozen = self.frozen() && !self.unfreezing;
            let before = self.loop_state.clone();
            for write in &unit {
                self.follow_write(write, was_frozen, &before);
            }
            self.after_unit(&unit);
        }
        let violations = &lock(outside).violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }

    fn follow_write(&mut self, write: &Write, was_frozen: bool, before: &Value) {
        let (state, id) = (write.indexed.state, write.key.id.as_str());
        match write.kind {
            Kind::Sample => self.sample(&write.key.id, state, parse(write)),
            Kind::Batch => {
                let manifest = parse::<Manifest>(write);
                if let Some(known) = self.world.batches.insert(id.to_owned(), manifest.clone()) {
                    assert_eq!(known, manifest, "batch {id} has changed");
                }
            }
            Kind::Run => self.run(state, parse(write), was_frozen, before),
            Kind::Model if state != "bytes" => self.model(state, parse(write)),
            Kind::Evaluation => {
                self.evaluations.insert(id.to_owned(), parse(write));
            }
            Kind::Promotion => {
                let change = parse::<PromotionRecord>(write);
                assert_eq!(change.number, self.world.promotions.len() as u64 + 1, "promotions are numbered");
                let forward = change.kind == PromotionKind::Promotion;
                assert!(!(forward && was_frozen), "a frozen loop promotes {}", change.to);
                self.world.promotions.push(change);
            }
            Kind::Control if id == "loop" => {
                let frozen = self.frozen();
                self.loop_state = parse(write);
                let why = self.loop_state["frozen"].as_str().filter(|_| !frozen);
                self.freezes.extend(why.map(str::to_owned));
            }
            _ => {}
        }
    }

    fn sample(&mut self, id: &str, state: &str, now: Sample) {
        assert_eq!((id, state), (now.id().to_string().as_str(), now.state.as_str()));
        check_history(&now);
        if let Some(other) = self.sequences.insert(now.sequence, now.id()) {
            assert_eq!(other, now.id(), "two samples at position {}", now.sequence);
        }
        if let Some(before) = self.world.samples.get(&now.id()) {
            assert!(before.erased.is_none() || same(&now, before), "{id} came back after its erasure");
            assert_eq!((now.sequence, now.observation.model), (before.sequence, before.observation.model));
            assert!(now.judged || !before.judged, "{id} has judged and does not know any more");
            assert!(before.batch.is_none() || now.batch == before.batch, "{id} has left its batch");
            if now.erased.is_none() {
                assert!(now.history.starts_with(&before.history), "{id} has lost a part of its history");
                assert!(now.annotations.starts_with(&before.annotations), "{id} has lost an annotation");
                assert!(now.flags.starts_with(&before.flags), "{id} has lost a flag");
                let sealed = |sample: &Sample| (sample.sealed, sample.weight, sample.lane);
                assert!(before.batch.is_none() || sealed(&now) == sealed(before), "{id} changed inside its batch");
            }
        }
        if now.erased.is_some() {
            let gone = now.annotations.is_empty() && now.flags.is_empty() && now.label.is_none();
            let gone = gone && now.sealed.is_none() && now.observation.row.values().iter().all(|value| value.is_nan());
            assert!(gone, "{id} is erased, and not all of it is gone");
        }
        let auto = now.annotations.iter().any(|a| matches!(a.annotator, Annotator::Model(_)));
        assert!(!(now.lane.judges() && auto), "{id} of a judging lane was auto-labelled");
        if now.state == SampleState::Labelled {
            let label = now.label.as_ref().unwrap_or_else(|| panic!("{id} is labelled without a label: {now:#?}"));
            let released = now.history.iter().any(|step| step.reason.code == "released");
            assert!(label.annotator.is_independent() || released, "{id} counts as labelled before its audit");
        }
        self.world.samples.insert(now.id(), now);
    }

    fn run(&mut self, state: &str, now: Run, was_frozen: bool, before: &Value) {
        assert_eq!(state, now.state.as_str(), "record and {} disagree", now.id);
        let Some(known) = self.world.runs.get(&now.id.0) else {
            assert_eq!(now.id.0, self.world.runs.len() as u64 + 1, "runs are numbered");
            assert!(!was_frozen, "a frozen loop starts {}", now.id);
            if now.why.trigger == "cooldown" {
                let last = self.world.runs.values().map(|run| run.requested).max();
                assert!(last.is_none_or(|last| now.requested - last >= COOLDOWN), "{} in the cool-down", now.id);
                let until: Option<DateTime<Utc>> = serde_json::from_value(before["back_off"].clone()).unwrap();
                assert!(until.is_none_or(|until| now.requested >= until), "{} in the back-off", now.id);
                assert_eq!(before["cool_off"], 0, "{} in the cool-off", now.id);
            }
            self.world.runs.insert(now.id.0, now);
            return;
        };
        assert!(place(known.state) <= place(now.state), "{} went back: {:?} {:?}", now.id, known.state, now.state);
        assert!(!ended(known.state) || known.state == now.state, "{} had ended: {known:?} {now:?}", now.id);
        assert!(
            now.notes.starts_with(&known.notes) && now.models.starts_with(&known.models),
            "{} forgot: {known:#?} {now:#?}",
            now.id
        );
        assert_eq!((now.base, now.requested, &now.why), (known.base, known.requested, &known.why));
        assert!(known.batch.is_none() || known.batch == now.batch, "{} has another batch", now.id);
        assert!(known.candidate.is_none() || known.candidate == now.candidate, "{} has another candidate", now.id);
        self.world.runs.insert(now.id.0, now);
    }

    fn model(&mut self, state: &str, now: ModelRecord) {
        assert_eq!(state == "quarantined", now.quarantined.is_some());
        if let Some(known) = self.world.models.get(&now.version) {
            assert!(known.quarantined.is_none() || known.quarantined == now.quarantined, "{} is free", now.version);
            let unchanged = ModelRecord { quarantined: known.quarantined.clone(), ..now.clone() };
            assert_eq!(*known, unchanged, "model {} has changed", now.version);
        }
        self.world.models.insert(now.version, now);
    }

    /// What must hold between two units: a crash may leave the store there.
    fn after_unit(&mut self, unit: &[Write]) {
        let in_flight: Vec<_> =
            self.world.runs.values().filter(|run| run.state.in_flight()).map(|run| run.id).collect();
        assert!(in_flight.len() <= 1, "several runs are in flight: {in_flight:?}");
        for write in unit.iter().filter(|write| write.kind == Kind::Batch) {
            self.sealed(&write.key.id);
        }
        let serving = self.world.promotions.last().map_or(ModelVersion::FIRST, |change| change.to);
        if !self.loop_state.is_null() {
            let state = &self.loop_state;
            assert_eq!(state["champion"], serving.0, "the champion changes with a promotion record, and only so");
            assert_eq!(state["next_run"], self.world.runs.len() as u64 + 1, "runs and the state of the loop disagree");
            let run = self.world.runs.values().next_back().filter(|run| run.state.in_flight());
            assert_eq!(state["run"]["id"].as_u64(), run.map(|run| run.id.0), "{:?}", state["run"]);
            if let Some(run) = run {
                assert_eq!(state["run"]["state"], run.state.as_str(), "record and loop disagree about {}", run.id);
            }
            assert_eq!(state["batches"].as_u64(), Some(self.world.batches.len() as u64), "the loop counts every batch");
        }
        let start = self.world.promotions.len() - unit.iter().filter(|w| w.kind == Kind::Promotion).count();
        for index in start..self.world.promotions.len() {
            let change = self.world.promotions[index].clone();
            self.changed(index, &change);
        }
        if let Some(write) = unit.iter().find(|write| write.kind == Kind::Checkpoint && write.key.id == "stages") {
            let until = parse::<Value>(write)["sequence"].as_u64().unwrap();
            let marks = self.marks.lock().unwrap().clone();
            for (id, _) in marks.iter().filter(|(_, sequence)| *sequence <= until) {
                self.expect_mark(*id);
            }
        }
        self.world.champion = serving;
    }

    /// A flagged row that is durable is in the store, with its flag.
    fn expect_mark(&self, id: PredictionId) {
        let sample = self.world.samples.get(&id).unwrap_or_else(|| panic!("{id} was flagged and is not in the store"));
        let marked = sample.erased.is_some() || sample.flags.iter().any(|flag| flag.detector == "marker");
        assert!(marked, "{id} has lost its flag");
    }

    /// Everything that was ingested is durable.
    pub fn all_durable(&self) {
        for (id, _) in std::mem::take(&mut *self.marks.lock().unwrap()) {
            self.expect_mark(id);
        }
    }

    /// A batch was sealed in this unit.
    fn sealed(&mut self, id: &str) {
        let batch = &self.world.batches[id];
        let mut data = Dataset::new(schema());
        let mut by_label: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for sample in &batch.samples {
            let sample = &self.world.samples[sample];
            assert_eq!(sample.state, SampleState::Batched, "{} of batch {id}", sample.id());
            assert_eq!(sample.batch.as_ref(), Some(&batch.batch), "{} is in two batches", sample.id());
            let label = sample.label.as_ref().expect("a batched sample has a label");
            assert_eq!(sample.sealed, label.label, "{} is sealed with another label", sample.id());
            let fair = matches!(label.annotator, Annotator::Human(_) | Annotator::GroundTruth);
            let judging = sample.lane.judges() && fair;
            assert!(!judging || sample.judged, "{} is trained on before it has judged", sample.id());
            let (auto, all) = by_label.entry(label.label.map_or(0, |label| label.number() as u64)).or_default();
            (*auto, *all) = (*auto + u64::from(!label.annotator.is_independent()), *all + 1);
            data.push(sample.observation.row.clone(), label.label.expect("a label"), sample.weight).unwrap();
        }
        for (label, (auto, all)) in by_label {
            assert!(
                auto as f64 <= AUTO_SHARE * all as f64 + 1e-9,
                "{auto} of {all} labels {label} of {id} are automatic"
            );
        }
        // What a batch corrects is content, too.
        if batch.corrected.is_empty() {
            assert_eq!(data.digest(), batch.digest, "the digest of a batch is that of its content");
        }
        let named = batch.batch.0 == batch.digest || batch.batch.0.starts_with(&format!("{}-", batch.digest));
        assert!(named, "{id} is not named by its digest");
        assert_eq!(batch.parent.as_ref().map(|parent| parent.0.clone()), self.last_batch, "the parent of {id}");
        let run = &self.world.runs[&batch.run.expect("a batch is sealed for a run").0];
        assert_eq!(run.batch.as_ref(), Some(&batch.batch), "batch {id} and {} do not know each other", run.id);
        self.last_batch = Some(id.to_owned());
        self.corrected(id);
    }

    /// The batches say of every row in them what counts when the newest is sealed.
    fn corrected(&mut self, id: &str) {
        let batch = &self.world.batches[id];
        let label = |id: &PredictionId| self.world.samples[id].label.as_ref().and_then(|counts| counts.label);
        for (corrected, annotation) in &batch.corrected {
            let said = annotation.map(|number| self.world.samples[corrected].annotations[number as usize].label);
            assert_eq!(said.flatten(), label(corrected), "{id} corrects {corrected}, and something else counts");
            let before = self.taught.insert(*corrected, said.flatten());
            let before = before.unwrap_or_else(|| panic!("{id} corrects {corrected}, which is in no batch before it"));
            assert_ne!(before, said.flatten(), "{id} corrects {corrected}, which had this label");
        }
        self.taught.extend(batch.samples.iter().map(|id| (*id, label(id))));
        self.taught.retain(|id, _| self.world.samples[id].erased.is_none());
        for (row, taught) in &self.taught {
            assert_eq!(*taught, label(row), "{row} is trained on with a label that does not count when {id} is sealed");
        }
    }

    /// The champion changed in this unit.
    fn changed(&self, index: usize, change: &PromotionRecord) {
        let from = if index == 0 { ModelVersion::FIRST } else { self.world.promotions[index - 1].to };
        assert_eq!(change.from, from, "change {} starts from another version", change.number);
        let bad = |version: ModelVersion| self.world.models.get(&version).is_some_and(|m| m.quarantined.is_some());
        assert!(!bad(change.to), "{} is quarantined and is promoted", change.to);
        match change.kind {
            PromotionKind::Promotion => {
                let run = &self.world.runs[&change.run.expect("a promotion has a run").0];
                assert_eq!((run.state, run.candidate), (RunState::Watched, Some(change.to)), "{}", run.id);
                let approved = run.notes.iter().any(|(_, note)| note.code == "approved");
                match self.mode {
                    Mode::Advisory => panic!("{} was promoted, and the loop may only advise", change.to),
                    Mode::Approval => assert!(approved, "{} was promoted, and nobody approved", change.to),
                    Mode::Unattended => {}
                }
                self.passed(run);
            }
            PromotionKind::Rollback => {
                let served = self.world.promotions[..index].iter().any(|earlier| earlier.to == change.to);
                assert!(served || change.to == ModelVersion::FIRST, "a rollback to {}, never served", change.to);
                assert!(change.from == ModelVersion::FIRST || bad(change.from), "{} is not quarantined", change.from);
                let since = self.world.promotions.get(self.unfrozen_at.min(index)..=index).unwrap_or_default();
                let rollbacks = since.iter().filter(|change| change.kind == PromotionKind::Rollback).count();
                let few = since.len() - rollbacks <= FLAPPING.1;
                assert!(rollbacks < FLAPPING.0 || !few || self.frozen(), "{rollbacks} rollbacks: {since:?}");
            }
        }
    }

    /// The run has a stored evaluation, and it is a Pass by rules that are computed here anew.
    fn passed(&self, run: &Run) {
        let report =
            &self.evaluations.get(&run.id.to_string()).unwrap_or_else(|| panic!("{} was not evaluated", run.id));
        let Profile::Confirm(rules) = &self.profile else { return };
        assert_eq!(find(report, "verdict"), Some(&Value::from("pass")), "{} was promoted without a Pass", run.id);
        let count = |paired: &Value, side: &str| paired[side].as_u64().unwrap();
        for name in ["against_current", "against_kept"] {
            let Some(paired) = find(report, name).filter(|paired| !paired.is_null()) else { continue };
            let (wins, losses) = (count(paired, "wins"), count(paired, "losses"));
            let confirmed = e_value(wins, losses) >= rules.confirm_at * 0.999;
            let better = e_value(wins, losses) / (e_value(wins, losses) + e_value(losses, wins));
            let likely = rules.likely && wins + losses >= 4 && better >= 0.899;
            assert!(confirmed || likely, "{} was promoted on {wins} : {losses} {name}", run.id);
        }
        let before = find(report, "taken_over").unwrap();
        if before["candidates"].as_u64().unwrap() > 0 {
            let all = find(report, "against_current").unwrap();
            let own = |side: &str| count(all, side) - count(&before["against_current"], side);
            assert!(own("wins") > own("losses"), "{} took its evidence over", run.id);
        }
        assert!(find(report, "against_current").is_some() && find(report, "rounds").unwrap().as_u64().unwrap() >= 2);
    }

    /// What the life amounted to.
    pub fn counts(&self) -> Counts {
        let world = &self.world;
        let samples = world.samples.values();
        let lanes = samples.clone().map(|sample| format!("sample of the lane {}", sample.lane.as_str()));
        let states = samples.map(|sample| format!("sample is {}", sample.state.as_str()));
        let runs = world.runs.values().map(|run| format!("run is {}", run.state.as_str()));
        let changes = world.promotions.iter();
        let changes = changes.map(|change| format!("{:?}: {}", change.kind, change.reason.code).to_lowercase());
        let judged = self.evaluations.values().filter(|report| report["verdict"].is_string());
        let judged = judged.map(|report| {
            let first = report["reasons"][0]["code"].as_str().unwrap_or_default();
            format!("{}: {} ({first})", self.profile.as_str(), report["verdict"].as_str().unwrap_or_default())
        });
        let freezes = self.freezes.iter().map(|why| format!("frozen: {}", cause(why)));
        let batches = world.batches.keys().map(|_| "batch".to_owned());
        let corrected = world.batches.values().flat_map(|batch| batch.corrected.values());
        let corrected =
            corrected.map(|now| if now.is_some() { "sealed label is corrected" } else { "sealed label is taken back" });
        let alone =
            world.batches.values().filter(|batch| batch.rows == 0).map(|_| "batch of corrections alone".to_owned());
        let mut counts = Counts::new();
        let all = lanes.chain(states).chain(runs).chain(changes).chain(judged).chain(freezes).chain(batches);
        let all = all.chain(corrected.map(str::to_owned)).chain(alone);
        all.for_each(|what| *counts.entry(what).or_default() += 1);
        counts
    }

    /// Everything at once, from the store alone; the store holds what was followed, and nothing else.
    pub fn whole(&mut self, disk: &Disk<MemoryStore>) {
        let world = check(disk.content(), NAME);
        for (stored, followed) in world.samples.values().zip(self.world.samples.values()) {
            assert!(same(stored, followed), "{stored:#?}\nis stored, and this was followed:\n{followed:#?}");
        }
        assert_eq!(world.samples.len(), self.world.samples.len());
        assert!(world.runs == self.world.runs && world.batches == self.world.batches);
        assert!(world.models == self.world.models && world.promotions == self.world.promotions);
        for (before, now) in self.world.alarms.iter().zip(&world.alarms) {
            let kept = before.alarm == now.alarm && before.raised == now.raised;
            assert!(kept && (before.acknowledged.is_none() || before.acknowledged == now.acknowledged), "{now:?}");
            assert!(before.cleared.is_none() || before.cleared == now.cleared, "{now:?}");
        }
        assert!(world.alarms.len() >= self.world.alarms.len(), "an alarm is gone");
        self.world.alarms = world.alarms;
        let mut said: BTreeMap<PredictionId, Vec<Annotation>> = BTreeMap::new();
        for record in records(disk.content(), NAME, Kind::Annotation).iter().filter(|r| r.state == "applied") {
            let annotation: Annotation = serde_json::from_slice(&record.body).unwrap();
            said.entry(annotation.sample).or_default().push(annotation);
        }
        for sample in self.world.samples.values() {
            let mut stored = said.remove(&sample.id()).unwrap_or_default();
            let mut known = sample.annotations.clone();
            let order = |a: &Annotation| (a.time, format!("{:?} {:?}", a.annotator, a.label));
            stored.sort_by_key(order);
            known.sort_by_key(order);
            assert_eq!(known, stored, "what was said about {} and what was applied", sample.id());
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(write: &Write) -> T {
    serde_json::from_slice(&write.body).unwrap_or_else(|e| panic!("{} {}: {e}", write.kind.as_str(), write.key.id))
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields.get(name).or_else(|| fields.values().find_map(|value| find(value, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

/// Why a loop is frozen, in a word.
fn cause(why: &str) -> &'static str {
    let causes = ["flapping", "models cannot be scored", "after the restart", "the rollback failed", "test"];
    causes.into_iter().find(|cause| why.starts_with(cause)).unwrap_or("else")
}

/// Equal, also in what is not a number: an erased row is nothing else.
fn same(a: &Sample, b: &Sample) -> bool {
    a == b || (a.erased.is_some() && format!("{a:?}") == format!("{b:?}"))
}

/// How far a run has come.
fn place(state: RunState) -> u8 {
    match state {
        RunState::Requested => 0,
        RunState::Training => 1,
        RunState::Judging => 2,
        RunState::AwaitingApproval => 3,
        RunState::Watched => 4,
        _ => 5,
    }
}

fn ended(state: RunState) -> bool {
    place(state) == 5
}

/// 2ⁿ⁺¹ ∫ pʷ (1 − p)ˡ dp over p from ½ to 1, by Simpson's rule: the uniform mixture over "better than even".
fn e_value(wins: u64, losses: u64) -> f64 {
    let steps = 2_000;
    let at = |step: i32| {
        let p = 0.5 + 0.5 * f64::from(step) / f64::from(steps);
        (2.0 * p).powi(wins as i32) * (2.0 * (1.0 - p)).powi(losses as i32)
    };
    let inner: f64 = (1..steps).map(|step| if step % 2 == 1 { 4.0 * at(step) } else { 2.0 * at(step) }).sum();
    (at(0) + inner + at(steps)) / (3.0 * f64::from(steps))
}

#[test]
fn the_e_value_is_what_the_book_says() {
    // E(w, 0) = (2^(w+1) - 1) / (w + 1).
    assert!((e_value(6, 0) - 127.0 / 7.0).abs() < 1e-6 && (e_value(7, 0) - 255.0 / 8.0).abs() < 1e-6);
}
