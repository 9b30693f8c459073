//! What every store promises.

mod model;

#[cfg(test)]
pub(crate) use model::tests::follows_the_model;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::BoxError;
use crate::store::{Committed, Expect, Fence, Fenced, Indexed, Key, Kind, Record, Scan, Store, Write};

/// Checks a [`Store`] against its contract, and by random sequences of operations against a naive model.
///
/// `make` gives an empty store at every call. Times are whole microseconds, ids hold no NUL.
///
/// # Panics
/// The store breaks a promise; the message says which.
pub fn store(make: impl Fn() -> Arc<dyn Store>) {
    expectations(&*make());
    units(&*make());
    fences(&*make());
    pages(&*make());
    isolation(&*make());
    names(&*make());
    bodies(&*make());
    claims(&*make());
    claims_may_read(&*make());
    claims_of_what_is_far_behind(&*make());
    holders(&*make());
    claims_from_threads(&*make());
    writes_from_threads(&*make());
    scans_see_whole_units(&*make());
    for seed in 0..24 {
        model::random(&*make(), seed);
    }
}

fn expectations(store: &dyn Store) {
    let write = |expect| write(Kind::Run, "a", "x", expect);
    assert_eq!(get(store, Kind::Run, "a"), None, "an empty store has no record");
    let absent = Committed::Conflict { write: 0, found: None };
    assert_eq!(one(store, &write(Expect::Rev(1))), absent, "a revision is expected, but nothing is there");
    assert_eq!(one(store, &write(Expect::Rev(0))), absent, "absent is not revision 0");
    assert_eq!(one(store, &write(Expect::Absent)), Committed::Applied, "absent, and it is");
    assert_eq!(get(store, Kind::Run, "a").map(|record| record.rev), Some(1), "revisions start at 1");
    let first = Committed::Conflict { write: 0, found: Some(1) };
    assert_eq!(one(store, &write(Expect::Absent)), first, "absent, but it is there");
    assert_eq!(one(store, &write(Expect::Rev(2))), first, "a later revision is expected");
    assert_eq!(one(store, &write(Expect::Rev(u64::MAX))), first, "the largest revision is expected");
    assert_eq!(one(store, &write(Expect::Rev(1))), Committed::Applied, "the right revision is expected");
    assert_eq!(one(store, &write(Expect::Rev(1))), Committed::Conflict { write: 0, found: Some(2) }, "an old revision");
    assert_eq!(one(store, &write(Expect::Any)), Committed::Applied, "anything is expected");
    assert_eq!(get(store, Kind::Run, "a").map(|record| record.rev), Some(3), "every write adds 1");
    assert_eq!(
        one(store, &write_to("q", Kind::Run, "new", "x", Expect::Any)),
        Committed::Applied,
        "nothing is anything"
    );

    let mut full = write(Expect::Any);
    full.indexed = Indexed { state: "y", rank: i64::MIN, due: Some(at(7)) };
    full.body = Arc::from(*b"{\"n\":1}");
    one(store, &full);
    let expected = Record {
        kind: Kind::Run,
        key: full.key.clone(),
        rev: 4,
        state: "y".to_owned(),
        rank: i64::MIN,
        due: Some(at(7)),
        holder: None,
        body: full.body.clone(),
    };
    assert_eq!(get(store, Kind::Run, "a"), Some(expected), "a record is what was written");
}

fn units(store: &dyn Store) {
    let absent = |id| write(Kind::Sample, id, "x", Expect::Absent);
    let good = [absent("a"), absent("b")];
    let bad = [absent("c"), absent("d"), absent("a"), absent("e")];
    let twice = [absent("f"), write(Kind::Sample, "f", "y", Expect::Rev(1)), absent("g")];
    let undone = [
        write(Kind::Sample, "f", "z", Expect::Any),
        write(Kind::Sample, "f", "z", Expect::Any),
        write(Kind::Sample, "f", "z", Expect::Rev(2)),
    ];
    let last = [absent("c")];
    let out = commit(store, &[&good, &bad, &[], &twice, &undone, &last], &Fence::None);
    let expected = vec![
        Committed::Applied,
        Committed::Conflict { write: 2, found: Some(1) },
        Committed::Applied,
        Committed::Applied,
        Committed::Conflict { write: 2, found: Some(4) },
        Committed::Applied,
    ];
    assert_eq!(out, expected, "a conflict fails its unit and no other; a unit sees the writes before it");
    let ids: Vec<String> = scan(store, Kind::Sample, None, None, 100).into_iter().map(|record| record.key.id).collect();
    assert_eq!(ids, ["a", "b", "c", "f", "g"], "a unit is made as a whole or not at all");
    let record = get(store, Kind::Sample, "f");
    assert_eq!(
        record.map(|record| (record.rev, record.state)),
        Some((2, "y".to_owned())),
        "a conflict undoes its unit"
    );
    assert_eq!(count(store, Kind::Sample, Some("x")), 4, "a conflict leaves the counts alone");
    assert_eq!(count(store, Kind::Sample, Some("z")), 0, "a conflict leaves the counts alone");
    assert_eq!(commit(store, &[], &Fence::None), vec![], "nothing to do; `out` is cleared");
}

fn fences(store: &dyn Store) {
    assert_eq!(ok(store.take_over("p")), 1, "tokens start at 1");
    assert_eq!(ok(store.take_over("p")), 2, "tokens rise by 1");
    assert_eq!(ok(store.take_over("q")), 1, "every pipeline has tokens of its own");
    let fence = |token| Fence::Worker { pipeline: "p".into(), token };
    let unit = [write(Kind::Batch, "a", "x", Expect::Any)];
    let mut out = vec![Committed::Applied];
    match store.commit(&[&unit], &fence(1), &mut out) {
        Ok(()) => panic!("an outdated worker was let in"),
        Err(error) => {
            let expected = Fenced { pipeline: "p".to_owned(), token: 1, newest: 2 };
            assert_eq!(error.downcast_ref::<Fenced>(), Some(&expected), "the error is `Fenced`");
        }
    }
    assert_eq!(out, vec![], "`out` is cleared also when a worker is refused");
    assert_eq!(get(store, Kind::Batch, "a"), None, "a refused worker writes nothing");
    assert!(
        store.commit(&[], &fence(1), &mut out).is_err(),
        "an outdated worker is told so also when it has nothing to write"
    );
    assert_eq!(commit(store, &[&unit], &fence(2)), [Committed::Applied], "the newest worker writes");
    assert_eq!(commit(store, &[&unit], &Fence::None), [Committed::Applied], "annotators need no token");
    assert_eq!(
        commit(store, &[&unit], &fence(9)),
        [Committed::Applied],
        "a token that the store has not seen is newer"
    );
    assert!(store.commit(&[&unit], &fence(8), &mut out).is_err(), "a token that was seen outdates all before it");
    assert_eq!(ok(store.take_over("p")), 10, "a new token is above all that were seen");
}

fn pages(store: &dyn Store) {
    let total = 3_000_u64;
    let writes: Vec<Write> = (0..total)
        .map(|n| {
            let mut write = write(Kind::Sample, &format!("s{:05}", n * 7919 % total), "x", Expect::Absent);
            write.indexed.rank = i64::try_from(n % 5).unwrap_or(0) - 2;
            write.indexed.state = if n % 3 == 0 { "y" } else { "x" };
            write
        })
        .collect();
    let units: Vec<&[Write]> = writes.chunks(1).collect();
    assert!(commit(store, &units, &Fence::None).iter().all(|made| *made == Committed::Applied), "all ids are new");

    for state in [None, Some("x"), Some("y"), Some("z")] {
        let mut expected: Vec<(i64, String)> = writes
            .iter()
            .filter(|write| state.is_none_or(|state| write.indexed.state == state))
            .map(|write| (write.indexed.rank, write.key.id.clone()))
            .collect();
        match state {
            Some(_) => expected.sort(),
            None => expected.sort_by(|a, b| a.1.cmp(&b.1)),
        }
        assert_eq!(count(store, Kind::Sample, state), expected.len() as u64, "the count is what a scan finds");
        for limit in [7, 100, 1_000, usize::MAX] {
            let mut found: Vec<(i64, String)> = Vec::new();
            loop {
                let after = found.last().map(|(rank, id)| (*rank, id.as_str()));
                let page = scan(store, Kind::Sample, state, after, limit);
                assert!(page.len() <= limit, "a page is within its limit");
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|record| (record.rank, record.key.id)));
                assert!(found.len() <= expected.len(), "pages do not overlap");
            }
            assert!(found == expected, "pages of {limit} in state {state:?} give every record once and in order");
        }
    }
    assert_eq!(scan(store, Kind::Sample, None, None, 0), [], "a page of nothing");
    let first = |rank| scan(store, Kind::Sample, None, Some((rank, "s00000")), 1).pop().map(|record| record.key.id);
    assert_eq!(first(i64::MAX), Some("s00001".to_owned()), "without a state, the rank of `after` is ignored");
    assert_eq!(first(i64::MIN), Some("s00001".to_owned()), "without a state, the rank of `after` is ignored");
    let after = scan(store, Kind::Sample, Some("x"), Some((0, "")), 1).pop().map(|record| record.rank);
    assert_eq!(after, Some(0), "`after` need not be a record");
}

fn isolation(store: &dyn Store) {
    let writes = [
        write_to("p", Kind::Task, "a", "open", Expect::Absent),
        write_to("q", Kind::Task, "a", "done", Expect::Absent),
        write_to("p", Kind::Model, "a", "open", Expect::Absent),
    ];
    assert_eq!(
        commit(store, &[&writes], &Fence::None),
        [Committed::Applied],
        "pipelines and kinds have their own names"
    );
    for (pipeline, kind, state) in
        [("p", Kind::Task, "open"), ("q", Kind::Task, "done"), ("p", Kind::Model, "open"), ("r", Kind::Task, "open")]
    {
        let expected = u64::from(pipeline != "r");
        assert_eq!(ok(store.count(pipeline, kind, None)), expected, "counts are per pipeline and kind");
        assert_eq!(ok(store.count(pipeline, kind, Some(state))), expected, "counts are per pipeline and kind");
        let scan = Scan { pipeline, kind, state: Some(state), after: None, limit: 9 };
        assert_eq!(ok(store.scan(&scan)).len() as u64, expected, "scans are per pipeline and kind");
    }
    let claimed = ok(store.claim("q", Kind::Task, 9, at(0), at(1), "ann", &|_| false));
    assert_eq!(claimed, [], "claims are per pipeline");
    let claimed = ok(store.claim("p", Kind::Task, 9, at(0), at(1), "ann", &|_| false));
    assert_eq!(claimed.len(), 1, "claims are per pipeline and kind");
    assert_eq!(get(store, Kind::Model, "a").map(|record| record.rev), Some(1), "claims are per kind");
}

fn names(store: &dyn Store) {
    let sorted = ["", " ", "%_'\"\\;--", "Z", "a", "a ", "ab", "e\u{301}", "é", "日本", "\u{fffd}", "🦀"];
    for id in sorted.iter().rev() {
        let mut write = write_to("päper 🦀", Kind::Alarm, id, "öpen", Expect::Absent);
        write.body = id.as_bytes().into();
        assert_eq!(one(store, &write), Committed::Applied, "every text is a name");
    }
    for state in [None, Some("öpen")] {
        let scan = Scan { pipeline: "päper 🦀", kind: Kind::Alarm, state, after: None, limit: 99 };
        let found: Vec<String> = ok(store.scan(&scan)).into_iter().map(|record| record.key.id).collect();
        assert_eq!(found, sorted, "names are ordered by their bytes");
    }
    for id in sorted {
        let record = ok(store.get("päper 🦀", Kind::Alarm, id));
        assert_eq!(record.map(|record| record.body.to_vec()), Some(id.as_bytes().to_vec()), "a name gives its record");
    }
}

fn bodies(store: &dyn Store) {
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| b'a' + (n % 26) as u8).collect();
    let binary: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let bodies: [&[u8]; 7] = [b"", b"{}", b"\0", &[0xff, 0xfe], "\u{feff}日本\0x".as_bytes(), &large, &binary];
    for (n, body) in bodies.iter().enumerate() {
        let mut write = write(Kind::Checkpoint, &n.to_string(), "x", Expect::Absent);
        write.body = Arc::from(*body);
        one(store, &write);
    }
    for (n, body) in bodies.iter().enumerate() {
        let found = get(store, Kind::Checkpoint, &n.to_string()).map(|record| record.body);
        assert!(found.as_deref() == Some(*body), "body {n} of {} bytes comes back as it was", body.len());
    }
    let found = scan(store, Kind::Checkpoint, Some("x"), None, 99);
    assert!(found.iter().zip(&bodies).all(|(record, body)| *record.body == **body), "scans bring the bodies");
}

fn task(store: &dyn Store, id: &str, state: &'static str, rank: i64, due: Option<DateTime<Utc>>) {
    let mut write = write(Kind::Task, id, state, Expect::Absent);
    write.indexed = Indexed { state, rank, due };
    write.body = id.as_bytes().into();
    one(store, &write);
}

fn claims(store: &dyn Store) {
    task(store, "late", "open", 9, None);
    task(store, "b", "open", 1, Some(at(0)));
    task(store, "a", "open", 1, None);
    task(store, "expired", "claimed", 0, Some(at(9)));
    task(store, "held", "claimed", 0, Some(at(10)));
    task(store, "forever", "claimed", 0, None);
    task(store, "done", "done", 0, Some(at(1)));
    let claim = |n, now, holder, except: &dyn Fn(&str) -> bool| {
        ok(store.claim("p", Kind::Task, n, at(now), at(now + 10), holder, except))
    };
    let ids = |records: &[Record]| records.iter().map(|record| record.key.id.clone()).collect::<Vec<_>>();

    assert_eq!(claim(0, 10, "ann", &|_| false), [], "a claim of nothing");
    let first = claim(3, 10, "ann", &|id| id == "a");
    assert_eq!(ids(&first), ["expired", "b", "late"], "open or expired, in order, without exceptions");
    for record in &first {
        assert_eq!(record.state, "claimed", "what is claimed says so");
        assert_eq!(record.due, Some(at(20)), "a lease ends when the claim said");
        assert_eq!(record.holder.as_deref(), Some("ann"), "what is claimed names its holder");
        assert_eq!(record.rev, 2, "a claim is one revision");
        assert_eq!(*record.body, *record.key.id.as_bytes(), "a claim keeps the body");
        assert_eq!(get(store, Kind::Task, &record.key.id).as_ref(), Some(record), "a claim gives what is stored");
    }
    assert_eq!(first.iter().map(|record| record.rank).collect::<Vec<_>>(), [0, 1, 9], "a claim keeps the rank");
    assert_eq!(count(store, Kind::Task, Some("open")), 1, "counts follow claims");
    assert_eq!(count(store, Kind::Task, Some("claimed")), 5, "counts follow claims");

    assert_eq!(ids(&claim(9, 10, "bob", &|_| false)), ["a"], "what is held is not given away");
    assert_eq!(ids(&claim(9, 20, "bob", &|_| false)), ["held"], "a lease that ends now is still held");
    let again = claim(9, 21, "eve", &|id| id == "late");
    assert_eq!(ids(&again), ["expired", "a", "b"], "an expired lease is open again");
    assert!(again.iter().all(|record| record.rev == 3), "one more revision");
    assert_eq!(
        again.first().and_then(|record| record.holder.as_deref()),
        Some("eve"),
        "the new holder replaces the old"
    );
    let stale = write(Kind::Task, "b", "done", Expect::Rev(2));
    let lost = Committed::Conflict { write: 0, found: Some(3) };
    assert_eq!(one(store, &stale), lost, "who lost a lease cannot answer by it");

    let past = ok(store.claim("p", Kind::Task, 99, at(99), at(1), "ann", &|_| false));
    let distinct: BTreeSet<String> = ids(&past).into_iter().collect();
    assert_eq!(
        (past.len(), distinct.len()),
        (5, 5),
        "one claim gives a record once, even if its lease ends in the past"
    );
}

fn claims_may_read(store: &dyn Store) {
    task(store, "a", "open", 0, None);
    task(store, "b", "open", 0, None);
    let except = |id: &str| ok(store.get("p", Kind::Task, id)).is_some_and(|record| *record.body == *b"a");
    let claimed = ok(store.claim("p", Kind::Task, 9, at(0), at(1), "ann", &except));
    assert_eq!(claimed.len(), 1, "`except` may read the store");
}

fn claims_of_what_is_far_behind(store: &dyn Store) {
    let total = 5_000;
    let writes: Vec<Write> = (0..total)
        .map(|n| {
            let mut write = write(Kind::Task, &format!("t{n:04}"), "open", Expect::Absent);
            write.indexed.rank = n / 1_000;
            write
        })
        .collect();
    commit(store, &[&writes], &Fence::None);
    for (wanted, expected) in [(["t0015", "t0016"], 2), (["t4500", "t4999"], 2), (["t0015", "t5000"], 0)] {
        let except = |id: &str| !wanted.contains(&id);
        let claimed = ok(store.claim("p", Kind::Task, 9, at(0), at(1), "ann", &except));
        assert_eq!(claimed.len(), expected, "what is behind many exceptions is found, and found once: {wanted:?}");
    }
}

fn holders(store: &dyn Store) {
    task(store, "a", "open", 0, None);
    ok(store.claim("p", Kind::Task, 1, at(0), at(1), "ann", &|_| false));
    let holder = || get(store, Kind::Task, "a").and_then(|record| record.holder);
    one(store, &write(Kind::Task, "a", "claimed", Expect::Rev(2)));
    assert_eq!(holder().as_deref(), Some("ann"), "a write that leaves a record claimed leaves it to its holder");
    one(store, &write(Kind::Task, "a", "open", Expect::Rev(3)));
    assert_eq!(holder(), None, "what is not claimed has no holder");
    one(store, &write(Kind::Task, "a", "claimed", Expect::Rev(4)));
    assert_eq!(holder(), None, "a holder does not come back");
}

fn claims_from_threads(store: &dyn Store) {
    let total = 200;
    for n in 0..total {
        task(store, &format!("t{n}"), if n % 2 == 0 { "open" } else { "claimed" }, n % 7, Some(at(0)));
    }
    let claimed: Vec<Vec<String>> = thread::scope(|scope| {
        let work = |holder: usize| {
            let mut mine = Vec::new();
            loop {
                let page = ok(store.claim("p", Kind::Task, 7, at(1), at(99), &format!("h{holder}"), &|_| false));
                if page.is_empty() {
                    return mine;
                }
                assert!(page.iter().all(|record| record.rev == 2), "a record is claimed once");
                mine.extend(page.into_iter().map(|record| record.key.id));
            }
        };
        let threads: Vec<_> = (0..4).map(|holder| scope.spawn(move || work(holder))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let all: Vec<&String> = claimed.iter().flatten().collect();
    assert_eq!(all.len(), total as usize, "every record is claimed, and none twice");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), total as usize, "no record is given to two holders");
    assert_eq!(count(store, Kind::Task, Some("claimed")), total as u64, "counts follow claims");
}

fn writes_from_threads(store: &dyn Store) {
    one(store, &write(Kind::Control, "n", "x", Expect::Absent));
    let applied: usize = thread::scope(|scope| {
        let work = || {
            let next = |_| {
                let rev = get(store, Kind::Control, "n").map_or(0, |record| record.rev);
                one(store, &write(Kind::Control, "n", "x", Expect::Rev(rev)))
            };
            (0..50).map(next).filter(|made| *made == Committed::Applied).count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    });
    let rev = get(store, Kind::Control, "n").map(|record| record.rev);
    assert_eq!(rev, Some(applied as u64 + 1), "no write is lost under another");
    assert_eq!(count(store, Kind::Control, None), 1, "counts follow writes");
}

fn scans_see_whole_units(store: &dyn Store) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = SetOnDrop(&stop);
            for n in 0..100_u64 {
                let body: Arc<[u8]> = n.to_string().into_bytes().into();
                let mut unit = [write(Kind::Model, "a", "x", Expect::Any), write(Kind::Model, "b", "x", Expect::Any)];
                unit.iter_mut().for_each(|write| write.body = body.clone());
                commit(store, &[&unit], &Fence::None);
            }
        });
        while !stop.load(Ordering::Relaxed) {
            let found = scan(store, Kind::Model, Some("x"), None, 9);
            assert!(matches!(found.len(), 0 | 2), "a scan sees a unit as a whole");
            assert!(found.windows(2).all(|pair| pair[0].body == pair[1].body), "a scan sees a unit as a whole");
        }
    });
}

/// Set also when the thread panics, so that nobody waits for it for ever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(1_700_000_000 + second) + TimeDelta::microseconds(123_457)
}

fn write(kind: Kind, id: &str, state: &'static str, expect: Expect) -> Write {
    write_to("p", kind, id, state, expect)
}

fn write_to(pipeline: &str, kind: Kind, id: &str, state: &'static str, expect: Expect) -> Write {
    let indexed = Indexed { state, ..Indexed::default() };
    Write { kind, key: Key::new(&pipeline.into(), id), expect, indexed, body: Arc::from(*b"{}") }
}

#[track_caller]
fn ok<T>(result: Result<T, BoxError>) -> T {
    result.unwrap_or_else(|error| panic!("the store failed: {error}: {:?}", error.source()))
}

#[track_caller]
fn commit(store: &dyn Store, units: &[&[Write]], fence: &Fence) -> Vec<Committed> {
    let mut out = vec![Committed::Applied; 3];
    ok(store.commit(units, fence, &mut out));
    assert_eq!(out.len(), units.len(), "one verdict per unit");
    out
}

#[track_caller]
fn one(store: &dyn Store, write: &Write) -> Committed {
    commit(store, &[std::slice::from_ref(write)], &Fence::None).swap_remove(0)
}

#[track_caller]
fn get(store: &dyn Store, kind: Kind, id: &str) -> Option<Record> {
    ok(store.get("p", kind, id))
}

#[track_caller]
fn count(store: &dyn Store, kind: Kind, state: Option<&str>) -> u64 {
    ok(store.count("p", kind, state))
}

#[track_caller]
fn scan(store: &dyn Store, kind: Kind, state: Option<&str>, after: Option<(i64, &str)>, limit: usize) -> Vec<Record> {
    ok(store.scan(&Scan { pipeline: "p", kind, state, after, limit }))
}
