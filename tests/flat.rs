//! What a step of the loop costs does not grow with what the loop has done before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use feedloop::chrono::TimeDelta;
use feedloop::{
    AdaptiveRules, Chunk, Event, Findings, FnTrainer, Kind, Label, Lineage, LineageNode, ManualClock, MemoryStore,
    ModelSlot, ModelVersion, Outcome, Pipeline, Profile, Retention, RunId, Store, TrainJob, days, detector_fn,
    new_labels,
};
use support::disk::Disk;
use support::{base, check, evaluator, first_model, fit, id, load, observation_of, schema, start};

const BATCHES: u64 = 210;
/// The most is looked at over so many batches: the first ones fill the training data, later ones only add to the history.
const WINDOW: usize = 70;
/// Rows of a model, and so the most batches that its training data is named by.
const ROWS: usize = 30;

/// Bytes of the largest record that was written of each kind, the state of the loop apart, and of all that was read of it.
type Cost = BTreeMap<String, usize>;

struct Loop {
    pipeline: Pipeline,
    slot: ModelSlot<f64>,
    clock: ManualClock,
    disk: Disk<MemoryStore>,
}

impl Loop {
    fn new(profile: Profile) -> Loop {
        Loop::open(profile, ManualClock::starting_at(start()), Disk::new(MemoryStore::new()))
    }

    fn open(profile: Profile, clock: ManualClock, disk: Disk<MemoryStore>) -> Loop {
        let slot = ModelSlot::new(0.5, load).inline();
        let flag_all = detector_fn("everything", |chunk: &Chunk<'_>, findings: &mut Findings| {
            chunk.ids().iter().for_each(|id| findings.flag(*id, 1.0, 0.5));
            Ok(())
        });
        let pipeline = Pipeline::builder("flat", schema())
            .training_data(base())
            .first_model(first_model())
            .detect(flag_all)
            .trigger(new_labels(1))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(profile))
            .explore(1e-9)
            .learn_from_outcomes(0.0)
            .deploy(slot.clone())
            .training_rows(ROWS)
            .retain(Retention { batches_for: Some(days(2)), ..Retention::default() })
            .without_label_faults()
            .clock(clock.clone())
            .store(disk.clone())
            .build()
            .unwrap();
        Loop { pipeline, slot, clock, disk }
    }

    /// A row comes with its truth: a batch is sealed with it, models are trained, validated, and served or not.
    fn turn(&mut self, n: u64) -> Cost {
        self.clock.advance(TimeDelta::hours(1));
        let version = self.slot.get().version;
        let mut observation = observation_of(n, version, [0.4, 0.6], &[0.3 + 0.001 * n as f64, 0.5]);
        observation.time = feedloop::Clock::now(&self.clock);
        let truth = Outcome::truth(id(n), Label::Class(u32::from(n.is_multiple_of(2))));
        self.pipeline.ingest([Event::Prediction(observation), Event::Outcome(truth)]).unwrap();
        for _ in 0..3 {
            self.pipeline.poll().unwrap();
        }
        let status = self.pipeline.status().unwrap();
        assert_eq!((status.runs, &status.frozen), (n + 1, &None));
        if status.run.is_some() {
            self.pipeline.cancel_run("ann").unwrap();
            self.pipeline.poll().unwrap();
        }
        let read = self.disk.bytes_read().into_iter();
        let mut cost: Cost = read.map(|(kind, bytes)| (format!("{} read", kind.as_str()), bytes)).collect();
        for write in self.disk.applied().into_iter().flatten() {
            let name = if write.key.id == "loop" { "loop" } else { write.kind.as_str() };
            let most = cost.entry(format!("{name} written")).or_default();
            *most = write.body.len().max(*most);
        }
        cost
    }
}

fn most(costs: &[Cost]) -> Cost {
    let mut most = Cost::new();
    for (name, cost) in costs.iter().flatten() {
        let known = most.entry(name.clone()).or_default();
        *known = (*known).max(*cost);
    }
    most
}

fn costs_stay(profile: Profile) {
    let mut looped = Loop::new(profile.clone());
    let costs: Vec<Cost> = (0..BATCHES).map(|n| looped.turn(n)).collect();
    assert_eq!(check(looped.disk.content(), "flat").batches.len() as u64, BATCHES);
    let (before, after) = (most(&costs[WINDOW..2 * WINDOW]), most(&costs[2 * WINDOW..]));
    // Of samples, more is read until the validation draws 2,000; references and the ledger fill up likewise.
    let loops = ["loop", "run", "model", "batch", "journal"].map(|name| format!("{name} written"));
    for name in loops.into_iter().chain(["batch", "run"].map(|name| format!("{name} read"))) {
        let of = |costs: &Cost| costs.get(&name).copied().unwrap_or_default();
        // Numbers and names get longer.
        assert!(of(&after) < of(&before) * 21 / 20 + 32, "{name}: {} bytes, then {}", of(&before), of(&after));
    }
    let manifest = after["batch written"];

    // What came of a new row does not depend on what came before it.
    looped.disk.bytes_read();
    assert!(looped.pipeline.lineage(id(BATCHES - 1)).unwrap().nodes.len() > 4);
    let read = looped.disk.bytes_read();
    assert!(read[&Kind::Model] < 20 * after["model written"], "{read:?}");

    // A walk reads no more than it has room for.
    let newest = looped.disk.content().get("flat", Kind::Control, "loop").unwrap().unwrap();
    let newest: serde_json::Value = serde_json::from_slice(&newest.body).unwrap();
    let version = ModelVersion(newest["next_version"].as_u64().unwrap() - 1);
    let cut = Lineage::walk(&looped.disk, "flat", version, 40).unwrap();
    let batch = |node: &LineageNode| if let LineageNode::Batch(batch) = node { batch.run } else { None };
    let batches: Vec<_> = cut.nodes.iter().filter_map(batch).collect();
    assert_eq!(batches, (BATCHES - 19..=BATCHES).map(RunId).collect::<Vec<_>>(), "the newest, oldest first");
    assert!(cut.truncated && cut.nodes.iter().any(|node| node.id() == format!("model/{version}")));
    let read = looped.disk.bytes_read();
    assert!(read[&Kind::Batch] <= 21 * manifest && read[&Kind::Sample] < 20 * after["sample written"], "{read:?}");

    // The next process begins with what is trained on next, and goes on with retention where this one was.
    let mut looped = Loop::open(profile, looped.clock, looped.disk);
    looped.pipeline.poll().unwrap();
    let read = looped.disk.bytes_read();
    assert!(read[&Kind::Batch] < (ROWS + 10) * manifest, "{read:?}");
}

#[test]
fn what_a_run_of_confirm_writes_and_reads_does_not_grow_with_the_batches_before() {
    costs_stay(Profile::confirm());
}

#[test]
fn what_a_run_of_adaptive_writes_and_reads_does_not_grow_with_the_batches_before() {
    costs_stay(Profile::Adaptive(AdaptiveRules { least_change: 0.0, ..AdaptiveRules::default() }));
}
