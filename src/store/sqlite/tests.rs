#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use tempfile::TempDir;

mod formats;

use super::*;
use crate::conformance;
use crate::store::Indexed;

fn maker(directory: &TempDir) -> impl Fn() -> Arc<dyn Store> + use<'_> {
    let made = AtomicUsize::new(0);
    move || {
        let name = format!("{}.db", made.fetch_add(1, Ordering::Relaxed));
        Arc::new(SqliteStore::open(directory.path().join(name)).unwrap())
    }
}

#[test]
fn store_conformance_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    conformance::store(maker(&directory));
}

#[test]
fn follows_the_model() {
    let directory = tempfile::tempdir().unwrap();
    conformance::follows_the_model(32, maker(&directory));
}

fn write(kind: Kind, id: &str, state: &'static str, body: &[u8]) -> Write {
    let indexed = Indexed { state, rank: 0, due: None };
    Write { kind, key: Key::new(&"p".into(), id), expect: Expect::Absent, indexed, body: body.into() }
}

fn commit(store: &SqliteStore, unit: &[Write]) -> Committed {
    let mut out = Vec::new();
    store.commit(&[unit], &Fence::None, &mut out).unwrap();
    out.remove(0)
}

fn all(store: &SqliteStore, kind: Kind) -> Vec<Record> {
    store.scan(&Scan { pipeline: "p", kind, state: None, after: None, limit: usize::MAX }).unwrap()
}

fn raw(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// SQLite's own check, and ours: the counts are what the records say.
fn assert_sound(path: &Path) {
    let connection = raw(path);
    let said: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    let none = |sql: &str| assert_eq!(connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{sql}");
    none(
        "SELECT count(*) FROM
            (SELECT space, state, n FROM counts WHERE n <> 0
             EXCEPT SELECT space, state, count(*) FROM entries GROUP BY 1, 2)",
    );
    none("SELECT (SELECT ifnull(sum(n), 0) FROM counts) - (SELECT count(*) FROM entries)");
    none("SELECT (SELECT count(*) FROM records) - (SELECT count(*) FROM entries)");
    none("SELECT count(*) FROM (SELECT n FROM bodies EXCEPT SELECT body FROM entries)");
    none("SELECT count(*) FROM (SELECT body FROM entries GROUP BY body HAVING count(*) > 1)");
}

/// A transaction that is not finished.
fn begin_with<'c>(connection: &'c mut Connection, write: &Write) -> rusqlite::Transaction<'c> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    Writes::new(&transaction).unwrap().make(&[std::slice::from_ref(write)], &mut Names::default()).unwrap();
    transaction
}

fn refused(path: &Path) -> SqliteError {
    SqliteStore::open(path).unwrap_err()
}

#[test]
fn reopening_finds_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    let mut late = write(Kind::Task, "a", "open", b"{}");
    late.indexed.due = Some(DateTime::<Utc>::UNIX_EPOCH + TimeDelta::nanoseconds(1_700_000_000_123_456_789));
    commit(&store, &[late, write(Kind::Batch, "b", "x", b"\xff")]);
    store.take_over("p").unwrap();
    store.claim("p", Kind::Task, 1, Utc::now(), Utc::now(), "ann", &|_| false).unwrap();
    let before = (all(&store, Kind::Task), all(&store, Kind::Batch));
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!((all(&store, Kind::Task), all(&store, Kind::Batch)), before);
    assert_eq!(store.count("p", Kind::Task, Some("claimed")).unwrap(), 1);
    assert_eq!(store.take_over("p").unwrap(), 2);
    assert_eq!(
        commit(&store, &[write(Kind::Task, "a", "open", b"")]),
        Committed::Conflict { write: 0, found: Some(2) }
    );
    assert_sound(&path);
}

#[test]
fn times_come_back_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    let nanos = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
    let leap = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).unwrap();
    let times = [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::UNIX_EPOCH, nanos, leap, DateTime::<Utc>::MAX_UTC];
    for (n, time) in times.into_iter().enumerate() {
        let mut write = write(Kind::Task, &n.to_string(), "claimed", b"");
        write.indexed.due = Some(time);
        commit(&store, &[write]);
    }
    let found: Vec<_> = all(&store, Kind::Task).into_iter().map(|record| record.due.unwrap()).collect();
    assert_eq!(found, times);
    let late = DateTime::from_timestamp(253_402_300_800, 0).unwrap(); // the year 10000
    let claimed = store.claim("p", Kind::Task, 9, late, late, "ann", &|_| false).unwrap();
    assert_eq!(claimed.len(), 4, "a lease until the end of time does not end");
}

#[test]
fn text_can_be_read_with_sqlite3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    commit(&store, &[write(Kind::Batch, "json", "x", b"{\"n\":1}"), write(Kind::Batch, "raw", "x", b"\xff\0")]);
    let types = "SELECT group_concat(typeof(body)) FROM (SELECT body FROM records ORDER BY id)";
    let found: String = raw(&path).query_row(types, [], |row| row.get(0)).unwrap();
    assert_eq!(found, "text,blob");
    let documented = "SELECT id, state, body FROM records WHERE kind = 'batch'";
    let found: (String, String, String) =
        raw(&path).query_row(documented, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, ("json".to_owned(), "x".to_owned(), "{\"n\":1}".to_owned()));
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    drop(SqliteStore::open(&path).unwrap());
    raw(&path).pragma_update(None, "user_version", 7).unwrap();
    let error = refused(&path);
    assert!(matches!(&error, SqliteError::Newer { found: 7, newest: schema::FORMAT, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("format 7") && text.contains("up to 2") && text.contains("feedloop.db"), "{text}");
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.db");
    raw(&path).execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(refused(&path), SqliteError::Foreign { application_id: 0, .. }));
    raw(&path).pragma_update(None, "application_id", 77).unwrap();
    let text = refused(&path).to_string();
    assert!(text.contains("not a feedloop store") && text.contains("0x0000004d"), "{text}");
    raw(&path).pragma_update(None, "application_id", 0).unwrap();
    // Everything but the change counters of the two updates is as it was.
    let after = fs::read(&path).unwrap();
    assert_eq!((after.len(), &after[..24], &after[100..]), (before.len(), &before[..24], &before[100..]));
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    let content = "certainly not a database\n".repeat(100);
    fs::write(&path, &content).unwrap();
    let error = refused(&path);
    assert!(matches!(&error, SqliteError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("notes.txt` is not an SQLite database"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
}

#[test]
fn a_path_that_leads_nowhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = refused(&directory.path().join("missing").join("feedloop.db"));
    assert!(matches!(&error, SqliteError::NoDirectory { .. }), "{error:?}");
    assert!(error.to_string().contains("its directory does not exist"), "{error}");
    assert!(matches!(refused(directory.path()), SqliteError::Path { .. }));
    assert!(refused(Path::new(":memory:")).to_string().contains("MemoryStore"));
    assert!(matches!(refused(Path::new("")), SqliteError::Path { .. }));
}

#[test]
fn an_empty_file_becomes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    fs::write(&path, b"").unwrap();
    assert_eq!(SqliteStore::open(&path).unwrap().take_over("p").unwrap(), 1);
}

#[test]
fn settings_are_durable() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    let writer = &lock(&store.writer).connection;
    let pragma = |name: &str| writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(pragma("synchronous"), 2, "FULL");
    assert_eq!(pragma("secure_delete"), 1);
    assert_eq!(pragma("page_size"), 8192);
    let mode: String = writer.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

/// A killed writer leaves the file and a log of any length: what a copy of both, cut at any byte, shows.
#[test]
fn a_killed_writer_leaves_a_prefix_of_its_commits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    for n in 0..20 {
        let id = |part: &str| format!("{n:02}{part}");
        let unit = [write(Kind::Sample, &id("a"), "x", &[b'x'; 999]), write(Kind::Sample, &id("b"), "y", b"")];
        assert_eq!(commit(&store, &unit), Committed::Applied);
    }
    // A transaction that is never finished.
    let mut writer = lock(&store.writer);
    let _unfinished = begin_with(&mut writer.connection, &write(Kind::Sample, "99", "x", b""));

    let file = fs::read(&path).unwrap();
    let log = fs::read(directory.path().join("feedloop.db-wal")).unwrap();
    let killed = directory.path().join("killed.db");
    let killed_log = directory.path().join("killed.db-wal");
    let mut found = BTreeSet::new();
    for cut in 0..=40 {
        fs::write(&killed, &file).unwrap();
        fs::write(&killed_log, &log[..log.len() * cut / 40]).unwrap();
        // Cut so early that the file is still empty, it becomes a new store.
        let store = SqliteStore::open(&killed).unwrap();
        let ids: Vec<String> = all(&store, Kind::Sample).into_iter().map(|record| record.key.id).collect();
        let prefix: Vec<String> = (0..ids.len() / 2).flat_map(|n| [format!("{n:02}a"), format!("{n:02}b")]).collect();
        assert_eq!(ids, prefix, "cut at {cut}/40");
        assert_eq!(store.count("p", Kind::Sample, None).unwrap(), ids.len() as u64);
        commit(&store, &[write(Kind::Sample, "new", "x", b"")]);
        drop(store);
        assert_sound(&killed);
        found.insert(ids.len());
    }
    assert!(found.len() > 10 && found.contains(&40), "the cuts met many lengths: {found:?}");
}

#[test]
fn a_failed_commit_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    raw(&path)
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON entries WHEN new.id = 'c' BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .unwrap();
    let units = [
        vec![write(Kind::Sample, "a", "x", b"")],
        vec![write(Kind::Sample, "b", "x", b""), write(Kind::Sample, "c", "x", b"")],
    ];
    let units: Vec<&[Write]> = units.iter().map(Vec::as_slice).collect();
    let mut out = vec![Committed::Applied];
    let error = store.commit(&units, &Fence::None, &mut out).unwrap_err();
    assert!(
        error.to_string().contains("cannot commit to store") && error.to_string().contains("feedloop.db"),
        "{error}"
    );
    assert!(error.source().unwrap().to_string().contains("disk full"), "{error:?}");
    assert_eq!(out, []);
    assert_eq!(all(&store, Kind::Sample), []);
    assert_eq!(commit(&store, &[write(Kind::Sample, "a", "x", b"")]), Committed::Applied, "the store works on");
    assert_sound(&path);
}

#[test]
fn a_panic_in_except_leaves_the_store_usable() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    commit(&store, &[write(Kind::Task, "a", "open", b"")]);
    let claim = |except: &dyn Fn(&str) -> bool| {
        store.claim("p", Kind::Task, 1, Utc::now(), Utc::now(), "ann", except).unwrap().len()
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(&|_| panic!("as tested"))));
    assert!(panicked.is_err());
    assert_eq!(claim(&|_| false), 1);
}

#[test]
fn two_handles_work_on_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let total = 300;
    let claimed: Vec<Vec<String>> = thread::scope(|scope| {
        // Opened at once as well: one of them creates the tables.
        let work = |side: usize| {
            let store = SqliteStore::open(&path).unwrap();
            for n in (side..total).step_by(2) {
                commit(&store, &[write(Kind::Task, &format!("t{n:03}"), "open", b"{}")]);
            }
            let mut mine = Vec::new();
            let start = Instant::now();
            while store.count("p", Kind::Task, Some("claimed")).unwrap() < total as u64 {
                assert!(start.elapsed() < Duration::from_secs(60), "the other side works as well");
                let now = DateTime::<Utc>::UNIX_EPOCH;
                let page = store.claim("p", Kind::Task, 3, now, now, "ann", &|_| false).unwrap();
                assert!(page.iter().all(|record| record.rev == 2));
                mine.extend(page.into_iter().map(|record| record.key.id));
            }
            mine
        };
        let sides = [0, 1].map(|side| scope.spawn(move || work(side)));
        sides.into_iter().map(|side| side.join().unwrap()).collect()
    });
    let all: Vec<&String> = claimed.iter().flatten().collect();
    assert_eq!(all.len(), total);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), total);
    assert_sound(&path);
}

#[test]
fn many_open_one_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let path = directory.path().join(format!("{round}.db"));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| SqliteStore::open(&path).unwrap().take_over("p").unwrap());
            }
        });
        assert_eq!(SqliteStore::open(&path).unwrap().take_over("p").unwrap(), 5);
    }
}

#[test]
fn a_token_of_one_handle_fences_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let (old, new) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let fence = |token| Fence::Worker { pipeline: "p".into(), token };
    let first = fence(old.take_over("p").unwrap());
    let unit = [write(Kind::Control, "a", "x", b"")];
    old.commit(&[&unit], &first, &mut Vec::new()).unwrap();
    new.take_over("p").unwrap();
    let error = old.commit(&[&unit], &first, &mut Vec::new()).unwrap_err();
    assert_eq!(error.downcast_ref::<Fenced>().map(|fenced| fenced.newest), Some(2));
}

#[test]
fn readers_do_not_wait_for_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    commit(&store, &[write(Kind::Task, "a", "open", b"")]);
    let mut writer = lock(&store.writer);
    let transaction = begin_with(&mut writer.connection, &write(Kind::Task, "b", "open", b""));
    assert_eq!(all(&store, Kind::Task).len(), 1, "and see what was committed");
    transaction.commit().unwrap();
    drop(writer);
    assert_eq!(all(&store, Kind::Task).len(), 2);
}

#[test]
fn a_checkpoint_moves_the_log_into_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    for n in 0..50 {
        commit(&store, &[write(Kind::Sample, &n.to_string(), "x", &[b'x'; 1000])]);
    }
    let before = fs::metadata(&path).unwrap().len();
    assert_eq!(store.checkpoint().unwrap(), 0);
    assert!(fs::metadata(&path).unwrap().len() > before + 50_000);
    assert_eq!(all(&store, Kind::Sample).len(), 50);
}

#[test]
fn queries_use_their_indexes() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    let connection = raw(store.path());
    assert!(sql::ALL.len() > 20);
    for sql in sql::ALL {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = explain.parameter_count();
        let plan: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(vec!["1"; count]), |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let plan = plan.join("; ");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        assert!(!sql.starts_with("SELECT") || plan.contains("SEARCH"), "{sql}: {plan}");
    }
}

#[test]
fn no_statement_is_prepared_again_for_what_is_bound() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("feedloop.db")).unwrap();
    let side = lock(&store.writer);
    for sql in sql::ALL {
        for bound in [1, 0, 7, 1] {
            let mut statement = side.connection.prepare_cached(sql).unwrap();
            for place in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(place, bound).unwrap();
            }
            // Whether it finds or breaks anything does not matter.
            let _ = statement.raw_query().next();
            assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
        }
    }
}

/// Commits one record under a new name of pipeline and state.
fn commit_in(
    store: &SqliteStore,
    pipeline: &str,
    units: &[&[(&str, &'static str)]],
) -> Result<Vec<Committed>, BoxError> {
    let name = |(id, state): &(&str, &'static str)| {
        let key = Key::new(&pipeline.into(), *id);
        Write { key, ..write(Kind::Sample, id, state, b"{}") }
    };
    let units: Vec<Vec<Write>> = units.iter().map(|unit| unit.iter().map(name).collect()).collect();
    let units: Vec<&[Write]> = units.iter().map(Vec::as_slice).collect();
    let mut out = Vec::new();
    store.commit(&units, &Fence::None, &mut out).map(|()| out)
}

#[test]
fn a_name_that_came_with_an_undone_write_stays_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.count("p", Kind::Sample, Some("new")).unwrap(), 0, "asked for before there is such a name");

    // A conflict, behind which others use the name.
    let made = commit_in(&store, "p", &[&[("a", "x")], &[("b", "new"), ("a", "x")], &[("c", "new")]]).unwrap();
    assert_eq!(made[1], Committed::Conflict { write: 1, found: Some(1) });
    assert_eq!(store.count("p", Kind::Sample, Some("new")).unwrap(), 1);

    // A transaction that fails as a whole.
    let other = raw(&path);
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON entries WHEN new.id = 'full' BEGIN SELECT RAISE(ABORT, ''); END",
        )
        .unwrap();
    assert!(commit_in(&store, "q", &[&[("full", "newer")]]).is_err());
    other.execute_batch("DROP TRIGGER full").unwrap();
    // Somebody else takes the numbers.
    let second = SqliteStore::open(&path).unwrap();
    commit_in(&second, "r", &[&[("a", "newest")]]).unwrap();
    commit_in(&store, "q", &[&[("full", "newer")]]).unwrap();
    for (pipeline, state) in [("q", "newer"), ("r", "newest")] {
        for store in [&store, &second] {
            let page = Scan { pipeline, kind: Kind::Sample, state: Some(state), after: None, limit: 9 };
            let found: Vec<String> = store.scan(&page).unwrap().into_iter().map(|record| record.state).collect();
            assert_eq!(found, [state]);
            assert_eq!(store.count(pipeline, Kind::Sample, None).unwrap(), 1);
        }
    }
    assert_sound(&path);
}

#[test]
fn a_log_that_grows_moves_into_the_file_beside_the_commits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    let body = vec![b'x'; 1 << 20];
    let (start, mut n) = (Instant::now(), 0);
    let length = || fs::metadata(&path).unwrap().len();
    // Until the file holds what the log held, and the log has started anew.
    let log = || fs::metadata(directory.path().join("feedloop.db-wal")).unwrap().len();
    while length() < 64 << 20 {
        assert!(start.elapsed() < Duration::from_secs(120), "{} bytes after {n} commits", length());
        assert_eq!(commit(&store, &[write(Kind::Sample, &n.to_string(), "x", &body)]), Committed::Applied);
        n += 1;
    }
    assert!(log() < length(), "{} {}", log(), length());
    drop(store);
    assert_sound(&path);
}

#[test]
fn what_was_overwritten_is_nowhere_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    let mut random = 7_u64;
    let mut up_to = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    // Bodies of all sizes, so that pages are split and put together anew; in each, a mark everywhere.
    let mut body = |mark: &str| {
        let most = if up_to(9) == 0 { 4_000 } else { 200 };
        mark.repeat(1 + up_to(most) as usize).into_bytes()
    };
    let (records, rounds) = (300, 12);
    for n in 0..records {
        commit(&store, &[write(Kind::Sample, &n.to_string(), "x", &body(&format!("<{n}:0>")))]);
    }
    for round in 1..=rounds {
        for n in 0..records {
            let mark = if round == rounds { "<kept>".to_owned() } else { format!("<{n}:{round}>") };
            let again = Write { expect: Expect::Any, ..write(Kind::Sample, &n.to_string(), "x", &body(&mark)) };
            if round == rounds || (n * 7 + round) % 3 == 0 {
                commit(&store, &[again]);
            }
        }
        store.checkpoint().unwrap();
    }
    // Not `scrub` alone: SQLite leaves parts of records where it rebuilt a page (`rebuildPage`), `secure_delete` or not.
    store.compact().unwrap();
    assert_eq!(all(&store, Kind::Sample).len(), records);
    let log = fs::read(directory.path().join("feedloop.db-wal")).unwrap_or_default();
    for content in [fs::read(&path).unwrap(), log] {
        let mark = |part: &&[u8]| part[0].is_ascii_digit() && part[1] == b':' && part[2..].contains(&b'>');
        let left = content.windows(6).filter(mark).map(String::from_utf8_lossy).collect::<Vec<_>>();
        assert_eq!(left.len(), 0, "{:?}", left.first());
    }
}

#[test]
fn a_locked_file_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let store = SqliteStore::open(&path).unwrap();
    let other = raw(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let error = store.take_over("p").unwrap_err();
    assert!(start.elapsed() >= Duration::from_secs(5));
    assert!(error.to_string().contains("others kept it locked for 5 s"), "{error}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.take_over("p").unwrap());
        thread::sleep(Duration::from_millis(100));
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
    });
}

#[test]
fn a_busy_writer_does_not_shut_others_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let (busy, other) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut writer = lock(&busy.writer);
                let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                started.store(true, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
                transaction.commit().unwrap();
                // Free for a moment only, but for one even where every core has other work.
                thread::sleep(Duration::from_micros(300));
            }
        });
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let made: Vec<_> = (0..10).map(|_| other.take_over("p").ok()).collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(made, (1..=10).map(Some).collect::<Vec<_>>());
    });
}
