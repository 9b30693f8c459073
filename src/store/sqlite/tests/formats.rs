//! Files of older formats.

use super::*;

/// The tables as format 1 had them, word for word.
const FORMAT_1: &str = "
    CREATE TABLE records (
        pipeline TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        rev INTEGER NOT NULL,
        state TEXT NOT NULL,
        rank INTEGER NOT NULL,
        due TEXT,
        holder TEXT,
        body NOT NULL
    );
    CREATE UNIQUE INDEX records_by_id ON records (pipeline, kind, id);
    CREATE INDEX records_by_state ON records (pipeline, kind, state, rank, id);
    CREATE TABLE fences (pipeline TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE counts (
        pipeline TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        n INTEGER NOT NULL,
        PRIMARY KEY (pipeline, kind, state)
    ) WITHOUT ROWID;
";

const DUE: &str = "2026-11-23T15:00:00.123456789Z";

/// A file as an older release left it: two pipelines, tasks in three states, a batch, a body that is no text.
fn old(path: &Path) -> Connection {
    let file = raw(path);
    file.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).unwrap();
    file.execute_batch(FORMAT_1).unwrap();
    file.pragma_update(None, "application_id", open::APPLICATION_ID).unwrap();
    file.pragma_update(None, "user_version", 1).unwrap();
    let mut insert = file
        .prepare("INSERT INTO records (pipeline, kind, id, rev, state, rank, due, holder, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .unwrap();
    for pipeline in ["p", "q"] {
        for n in (0..50_i64).rev() {
            let (state, due, holder) = match n % 3 {
                0 => ("open", None, None),
                1 => ("claimed", Some(DUE), Some("ann")),
                _ => ("done", None, None),
            };
            let body = format!("{{\"n\":{n}}}");
            insert.execute(params![pipeline, "task", format!("t{n:02}"), n + 1, state, -n, due, holder, body]).unwrap();
        }
        insert
            .execute(params![pipeline, "batch", "raw", 1, "sealed", 0, None::<String>, None::<String>, b"\xff"])
            .unwrap();
    }
    drop(insert);
    file.execute_batch(
        "INSERT INTO counts SELECT pipeline, kind, state, count(*) FROM records GROUP BY 1, 2, 3;
         INSERT INTO counts VALUES ('p', 'run', 'gone', 0);
         INSERT INTO fences VALUES ('p', 41);",
    )
    .unwrap();
    file
}

fn tasks(store: &SqliteStore, state: Option<&str>) -> Vec<Record> {
    store.scan(&Scan { pipeline: "p", kind: Kind::Task, state, after: None, limit: 99 }).unwrap()
}

#[test]
fn a_file_of_format_1_becomes_one_of_today() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    drop(old(&path));
    let store = SqliteStore::open(&path).unwrap();
    assert_sound(&path);
    assert_eq!(raw(&path).pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).unwrap(), 2);

    let found = tasks(&store, None);
    assert_eq!(found.len(), 50);
    for (n, record) in (0_i64..).zip(&found) {
        let (state, due, holder) = match n % 3 {
            0 => ("open", None, None),
            1 => ("claimed", Some(DUE.parse().unwrap()), Some("ann".to_owned())),
            _ => ("done", None, None),
        };
        let expected = Record {
            kind: Kind::Task,
            key: Key::new(&"p".into(), format!("t{n:02}")),
            rev: n as u64 + 1,
            state: state.to_owned(),
            rank: -n,
            due,
            holder,
            body: format!("{{\"n\":{n}}}").into_bytes().into(),
        };
        assert_eq!(*record, expected);
    }
    for (state, expected) in [("open", 17), ("claimed", 17), ("done", 16), ("gone", 0)] {
        let page = tasks(&store, Some(state));
        assert_eq!((page.len(), store.count("p", Kind::Task, Some(state)).unwrap()), (expected, expected as u64));
        assert!(page.is_sorted_by_key(|record| record.rank));
    }
    assert_eq!(*store.get("q", Kind::Batch, "raw").unwrap().unwrap().body, *b"\xff");

    assert_eq!(store.take_over("p").unwrap(), 42);
    let now = DateTime::<Utc>::MAX_UTC;
    assert_eq!(store.claim("p", Kind::Task, 99, now, now, "bob", &|_| false).unwrap().len(), 34);
    let conflict = Committed::Conflict { write: 0, found: Some(3) };
    assert_eq!(commit(&store, &[write(Kind::Task, "t02", "open", b"")]), conflict);
    assert_eq!(commit(&store, &[write(Kind::Task, "new", "open", b"")]), Committed::Applied);
    drop(store);
    assert_eq!(tasks(&SqliteStore::open(&path).unwrap(), None).len(), 51);
    assert_sound(&path);
}

#[test]
fn an_empty_file_of_format_1_becomes_one_of_today() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    old(&path).execute_batch("DELETE FROM records; DELETE FROM counts").unwrap();
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(commit(&store, &[write(Kind::Task, "a", "open", b"")]), Committed::Applied);
    assert_sound(&path);
}

#[test]
fn many_open_one_old_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    drop(old(&path));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(tasks(&SqliteStore::open(&path).unwrap(), None).len(), 50));
        }
    });
    assert_sound(&path);
}

#[test]
fn an_old_file_that_cannot_be_brought_to_todays_format_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    // The last statement fails: the name of the index is taken.
    old(&path).execute_batch("CREATE TABLE entries_by_state (a)").unwrap();
    let error = refused(&path);
    assert!(matches!(&error, SqliteError::Failed { doing: "open", .. }), "{error:?}");
    let file = raw(&path);
    let number = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("PRAGMA user_version"), number("SELECT count(*) FROM records WHERE kind = 'task'")), (1, 100));
    assert_eq!(number("SELECT count(*) FROM sqlite_master WHERE name IN ('entries', 'bodies', 'old_records')"), 0);
}

/// A worker of an older release that had the file open must not write into tables that nobody reads any more.
#[test]
fn an_older_release_fails_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feedloop.db");
    let older = old(&path);
    let insert =
        "INSERT INTO records (pipeline, kind, id, rev, state, rank, body) VALUES ('p', 'task', ?1, 1, 'open', 0, '')";
    let mut statement = older.prepare(insert).unwrap();
    statement.execute(["before"]).unwrap();
    drop(SqliteStore::open(&path).unwrap());
    assert!(statement.execute(["after"]).unwrap_err().to_string().contains("view"));
}
