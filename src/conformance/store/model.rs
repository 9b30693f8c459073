//! A naive store, and random operations that a store must answer as it does.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{at, ok};
use crate::store::{Committed, Expect, Fence, Fenced, Indexed, Key, Kind, Record, Scan, Store, Write};

const PIPELINES: [&str; 2] = ["p", "q"];
const KINDS: [Kind; 2] = [Kind::Task, Kind::Sample];
const STATES: [&str; 4] = ["open", "claimed", "done", "other"];

/// One write, with small numbers for its parts.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) pipeline: u8,
    pub(super) kind: u8,
    pub(super) id: u8,
    pub(super) expect: u8,
    pub(super) state: u8,
    pub(super) rank: i8,
    pub(super) due: Option<u8>,
    pub(super) body: u8,
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Commit { units: Vec<Vec<Draft>>, fence: Option<(u8, u8)> },
    TakeOver { pipeline: u8 },
    Claim { pipeline: u8, kind: u8, n: u8, now: u8, lease: u8, except: u8 },
}

pub(super) fn random(store: &dyn Store, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let ops: Vec<Op> = (0..40).map(|_| op(&mut rng)).collect();
    run(store, &ops, &format!("seed {seed}"));
}

fn op(rng: &mut StdRng) -> Op {
    match rng.random_range(0..10) {
        0 => Op::TakeOver { pipeline: rng.random() },
        1..4 => Op::Claim {
            pipeline: rng.random(),
            kind: rng.random(),
            n: rng.random_range(0..6),
            now: rng.random_range(0..100),
            lease: rng.random_range(0..100),
            except: rng.random(),
        },
        _ => Op::Commit {
            units: (0..rng.random_range(0..5))
                .map(|_| (0..rng.random_range(0..4)).map(|_| draft(rng)).collect())
                .collect(),
            fence: rng.random_bool(0.5).then(|| (rng.random(), rng.random_range(0..4))),
        },
    }
}

fn draft(rng: &mut StdRng) -> Draft {
    Draft {
        pipeline: rng.random(),
        kind: rng.random(),
        id: rng.random_range(0..12),
        expect: rng.random(),
        state: rng.random(),
        rank: rng.random_range(-2..3),
        due: rng.random_bool(0.5).then(|| rng.random_range(0..100)),
        body: rng.random(),
    }
}

/// Does the same with the store and with the model, and compares all that can be read after each step.
pub(super) fn run(store: &dyn Store, ops: &[Op], case: &str) {
    let mut model = Model::default();
    for (step, op) in ops.iter().enumerate() {
        model.step(store, op, &format!("{case}, step {step}, {op:?}"));
        model.compare(store, &format!("{case}, step {step}, {op:?}"));
    }
}

#[derive(Default)]
struct Model {
    records: BTreeMap<(String, Kind, String), Record>,
    newest: BTreeMap<&'static str, u64>,
}

fn pick<T: Copy>(from: &[T], index: u8) -> T {
    from[usize::from(index) % from.len()]
}

impl Model {
    fn step(&mut self, store: &dyn Store, op: &Op, case: &str) {
        match op {
            Op::TakeOver { pipeline } => {
                let pipeline = pick(&PIPELINES, *pipeline);
                let newest = self.newest.entry(pipeline).or_default();
                *newest += 1;
                assert_eq!(ok(store.take_over(pipeline)), *newest, "token at {case}");
            }
            Op::Commit { units, fence } => {
                let units: Vec<Vec<Write>> =
                    units.iter().map(|unit| unit.iter().map(|draft| self.write(draft)).collect()).collect();
                let units: Vec<&[Write]> = units.iter().map(Vec::as_slice).collect();
                let mut out = Vec::new();
                let (fence, refused) = self.fence(*fence);
                let made = store.commit(&units, &fence, &mut out);
                match refused {
                    Some(expected) => {
                        let error = made.err().and_then(|error| error.downcast::<Fenced>().ok());
                        assert_eq!(error.as_deref(), Some(&expected), "fence at {case}");
                    }
                    None => {
                        ok(made);
                        let expected: Vec<Committed> = units.iter().map(|unit| self.unit(unit)).collect();
                        assert_eq!(out, expected, "verdicts at {case}");
                    }
                }
            }
            Op::Claim { pipeline, kind, n, now, lease, except } => {
                let (pipeline, kind) = (pick(&PIPELINES, *pipeline), pick(&KINDS, *kind));
                let (now, lease) = (at(i64::from(*now)), at(i64::from(*lease)));
                let except = |id: &str| id.bytes().next_back().is_some_and(|last| last % 8 == except % 8);
                let claimed = ok(store.claim(pipeline, kind, usize::from(*n), now, lease, "ann", &except));
                let mut free: Vec<&mut Record> = self
                    .records
                    .values_mut()
                    .filter(|record| {
                        record.kind == kind && &*record.key.pipeline == pipeline && !except(&record.key.id)
                    })
                    .filter(|record| match record.state.as_str() {
                        "open" => true,
                        "claimed" => record.due.is_some_and(|due| due < now),
                        _ => false,
                    })
                    .collect();
                free.sort_by(|a, b| (a.rank, &a.key.id).cmp(&(b.rank, &b.key.id)));
                let expected: Vec<Record> = free
                    .into_iter()
                    .take(usize::from(*n))
                    .map(|record| {
                        record.state = "claimed".to_owned();
                        record.due = Some(lease);
                        record.holder = Some("ann".to_owned());
                        record.rev += 1;
                        record.clone()
                    })
                    .collect();
                assert_eq!(claimed, expected, "claim at {case}");
            }
        }
    }

    fn write(&self, draft: &Draft) -> Write {
        let kind = pick(&KINDS, draft.kind);
        let key = Key::new(&pick(&PIPELINES, draft.pipeline).into(), format!("id{}", draft.id));
        let rev = self.rev(kind, &key).unwrap_or(0);
        let expect = match draft.expect % 8 {
            0..3 => Expect::Absent,
            3 => Expect::Any,
            4 => Expect::Rev(rev + 1),
            _ => Expect::Rev(rev),
        };
        let indexed = Indexed {
            state: pick(&STATES, draft.state),
            rank: draft.rank.into(),
            due: draft.due.map(|second| at(second.into())),
        };
        Write { kind, key, expect, indexed, body: Arc::from([draft.body]) }
    }

    fn rev(&self, kind: Kind, key: &Key) -> Option<u64> {
        self.records.get(&(key.pipeline.to_string(), kind, key.id.clone())).map(|record| record.rev)
    }

    /// A fence whose token is the newest or a little below or above it.
    fn fence(&mut self, fence: Option<(u8, u8)>) -> (Fence, Option<Fenced>) {
        let Some((pipeline, token)) = fence else { return (Fence::None, None) };
        let pipeline = pick(&PIPELINES, pipeline);
        let newest = self.newest.entry(pipeline).or_default();
        let token = (*newest + u64::from(token)).saturating_sub(2);
        let outdated = token < *newest;
        *newest = token.max(*newest);
        let refused = outdated.then(|| Fenced { pipeline: pipeline.to_owned(), token, newest: *newest });
        (Fence::Worker { pipeline: pipeline.into(), token }, refused)
    }

    fn unit(&mut self, unit: &[Write]) -> Committed {
        let before = self.records.clone();
        for (index, write) in unit.iter().enumerate() {
            let found = self.rev(write.kind, &write.key);
            let expected = match write.expect {
                Expect::Absent => found.is_none(),
                Expect::Rev(rev) => found == Some(rev),
                Expect::Any => true,
            };
            if !expected {
                self.records = before;
                return Committed::Conflict { write: index, found };
            }
            let name = (write.key.pipeline.to_string(), write.kind, write.key.id.clone());
            let holder = self.records.get(&name).and_then(|record| record.holder.clone());
            let record = Record {
                kind: write.kind,
                key: write.key.clone(),
                rev: found.unwrap_or(0) + 1,
                state: write.indexed.state.to_owned(),
                rank: write.indexed.rank,
                due: write.indexed.due,
                holder: holder.filter(|_| write.indexed.state == "claimed"),
                body: write.body.clone(),
            };
            self.records.insert(name, record);
        }
        Committed::Applied
    }

    fn compare(&self, store: &dyn Store, case: &str) {
        for pipeline in PIPELINES {
            for kind in KINDS {
                for state in STATES.iter().map(|state| Some(*state)).chain([None]) {
                    let mut expected: Vec<Record> = self
                        .records
                        .values()
                        .filter(|record| record.kind == kind && &*record.key.pipeline == pipeline)
                        .filter(|record| state.is_none_or(|state| record.state == state))
                        .cloned()
                        .collect();
                    match state {
                        Some(_) => expected.sort_by(|a, b| (a.rank, &a.key.id).cmp(&(b.rank, &b.key.id))),
                        None => expected.sort_by(|a, b| a.key.id.cmp(&b.key.id)),
                    }
                    let count = ok(store.count(pipeline, kind, state));
                    assert_eq!(count, expected.len() as u64, "count of {kind:?} in {state:?} at {case}");
                    let scan = Scan { pipeline, kind, state, after: None, limit: 1_000 };
                    assert_eq!(ok(store.scan(&scan)), expected, "scan of {kind:?} in {state:?} at {case}");
                }
            }
        }
        for ((pipeline, kind, id), record) in &self.records {
            assert_eq!(ok(store.get(pipeline, *kind, id)).as_ref(), Some(record), "get at {case}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn drafts() -> impl Strategy<Value = Draft> {
        (0..2_u8, 0..2_u8, 0..12_u8, 0..8_u8, 0..4_u8, -2..3_i8, proptest::option::of(0..100_u8), any::<u8>()).prop_map(
            |(pipeline, kind, id, expect, state, rank, due, body)| Draft {
                pipeline,
                kind,
                id,
                expect,
                state,
                rank,
                due,
                body,
            },
        )
    }

    fn ops() -> impl Strategy<Value = Op> {
        let units = proptest::collection::vec(proptest::collection::vec(drafts(), 0..4), 0..5);
        prop_oneof![
            6 => (units, proptest::option::of((0..2_u8, 0..4_u8))).prop_map(|(units, fence)| Op::Commit { units, fence }),
            1 => (0..2_u8).prop_map(|pipeline| Op::TakeOver { pipeline }),
            3 => (0..2_u8, 0..2_u8, 0..6_u8, 0..100_u8, 0..100_u8, 0..8_u8).prop_map(
                |(pipeline, kind, n, now, lease, except)| Op::Claim { pipeline, kind, n, now, lease, except }
            ),
        ]
    }

    /// Random operations that shrink to the shortest ones that go wrong.
    pub(crate) fn follows_the_model(cases: u32, make: impl Fn() -> Arc<dyn Store>) {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let checked = runner.run(&proptest::collection::vec(ops(), 1..30), |ops| {
            run(&*make(), &ops, "shrunk");
            Ok(())
        });
        if let Err(error) = checked {
            panic!("{error}");
        }
    }
}
