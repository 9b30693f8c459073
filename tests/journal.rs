//! The journal: intact whatever the loop and people do, and broken by every change behind its back.
#![cfg(any(feature = "sqlite", feature = "sqlite-system"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use feedloop::{
    FnTrainer, JournalBreak, JournalReport, Profile, SqliteStore, Store, TrainJob, new_labels, verify_journal,
};
use rusqlite::{Connection, params};
use support::host::Host;
use support::{evaluator, fit};

/// A loop with batches, runs, promotions, people, and acts of people, on a file; its rows are numbered from `first` on.
fn looped(file: &Path, first: u64) -> Host<SqliteStore> {
    let mut host = Host::on(SqliteStore::open(file).unwrap(), |builder| {
        builder
            .trigger(new_labels(60))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    host.served = first;
    for turn in 0..6 {
        host.turn(60, if turn < 2 { 0.5 } else { 0.8 });
    }
    host.pipeline.freeze("the feed is under repair").unwrap();
    host.pipeline.unfreeze().unwrap();
    host
}

fn verified(file: &Path) -> JournalReport {
    verify_journal(&SqliteStore::open(file).unwrap(), "closed", &[]).unwrap()
}

#[test]
fn the_journal_of_a_loop_is_intact_and_says_who_did_what() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feedloop.db");
    let mut host = looped(&file, 0);
    let report = host.pipeline.verify_journal(&[]).unwrap();
    assert_eq!((report.broken.clone(), report.unlisted), (None, 0));
    assert!(report.entries > 50 && report.records > 300, "{} {}", report.entries, report.records);
    let writers: Vec<&str> = report.heads.iter().map(|head| head.writer.as_str()).collect();
    assert_eq!(writers, ["loop", "people/ann", "people/bob"]);

    let entries = host.pipeline.journal_entries("loop", None, usize::MAX).unwrap();
    let acts: Vec<_> = entries.iter().rev().flat_map(|entry| &entry.acts).collect();
    let at = |what: &str| acts.iter().position(|act| act.what == what).unwrap_or_else(|| panic!("no {what}"));
    assert!(at("begun") < at("sample") && at("sample") < at("annotation") && at("annotation") < at("batch"));
    assert!(at("batch") < at("promotion") && at("promotion") < at("frozen"));
    assert_eq!(acts[at("frozen")].why.as_deref(), Some("the feed is under repair"));
    let frozen = entries.iter().find(|entry| entry.acts.iter().any(|act| act.what == "frozen")).unwrap();
    assert!(frozen.acts.iter().any(|act| act.subject == "loop" && act.digest.is_some()), "with what it changed");

    // A second process goes on with the same chain.
    let heads = report.heads;
    drop(host);
    host = looped(&file, 1_000);
    let after = host.pipeline.verify_journal(&heads).unwrap();
    assert!(after.is_intact() && after.entries > report.entries, "{after:?}");
}

/// The file, with a view of its records that can be changed.
fn opened(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    let names = "(SELECT space FROM spaces WHERE pipeline = old.pipeline AND kind = old.kind) AND id = old.id";
    let body = "(SELECT body FROM entries WHERE space = ";
    let triggers = format!(
        "CREATE TEMP TRIGGER changed INSTEAD OF UPDATE ON records BEGIN
             UPDATE bodies SET body = new.body WHERE n = {body} {names});
             UPDATE entries SET id = new.id WHERE space = {names};
         END;
         CREATE TEMP TRIGGER deleted INSTEAD OF DELETE ON records BEGIN
             DELETE FROM bodies WHERE n = {body} {names});
             DELETE FROM entries WHERE space = {names};
         END;
         CREATE TEMP TRIGGER inserted INSTEAD OF INSERT ON records BEGIN
             INSERT INTO bodies SELECT max(n) + 1, new.body FROM bodies;
             INSERT INTO entries SELECT space, new.id, new.rev, state, new.rank, new.due, new.holder, (SELECT max(n) FROM bodies)
             FROM spaces, states WHERE pipeline = new.pipeline AND kind = new.kind AND name = new.state;
         END;"
    );
    connection.execute_batch(&triggers).unwrap();
    connection
}

/// Changes the file behind the back of the journal; gives what breaks.
fn tampered(file: &Path, sql: &str) -> JournalBreak {
    let copy = file.with_extension("copy");
    std::fs::copy(file, &copy).unwrap();
    let connection = opened(&copy);
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_ne!(connection.query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{sql}");
    drop(connection);
    verified(&copy).broken.unwrap_or_else(|| panic!("not found: {sql}"))
}

#[test]
fn whatever_is_changed_behind_its_back_breaks_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feedloop.db");
    drop(looped(&file, 0));
    assert!(verified(&file).is_intact());
    Connection::open(&file).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let last = verified(&file).heads[0].sequence;
    let entry = |n: u64| format!("loop/{n:020}");
    let of = |n| format!("kind = 'journal' AND id = '{}'", entry(n));
    let altered = |sequence| JournalBreak::AlteredEntry { writer: "loop".into(), sequence };

    for n in [1, 2, last / 2, last] {
        // One byte of the entry: a digit of its time.
        let sql = format!("UPDATE records SET body = replace(body, '\"time\":\"2', '\"time\":\"3') WHERE {}", of(n));
        assert_eq!(tampered(&file, &sql), altered(n));
        let gap = JournalBreak::Gap { writer: "loop".into(), sequence: n };
        assert_eq!(tampered(&file, &format!("DELETE FROM records WHERE {}", of(n))), gap);
    }
    let (a, b) = (entry(3), entry(4));
    let swap = format!(
        "UPDATE records SET id = 'x' WHERE kind = 'journal' AND id = '{a}';
         UPDATE records SET id = '{a}' WHERE kind = 'journal' AND id = '{b}';
         UPDATE records SET id = '{b}' WHERE kind = 'journal' AND id = 'x'"
    );
    assert_eq!(tampered(&file, &swap), altered(4));

    // One byte of a content that still exists, of every kind that the loop has made.
    for kind in ["sample", "annotation", "batch", "run", "evaluation", "model", "promotion", "control"] {
        let one = match kind {
            "control" => "id = 'loop'".to_owned(),
            _ => format!("id = (SELECT max(id) FROM records WHERE kind = '{kind}')"),
        };
        let spoil = "CAST(CAST(substr(body, 1, length(body) - 1) AS TEXT) || ' ' || substr(body, -1) AS TEXT)";
        let found = tampered(&file, &format!("UPDATE records SET body = {spoil} WHERE kind = '{kind}' AND {one}"));
        assert!(matches!(&found, JournalBreak::AlteredContent { kind: found, .. } if found == kind), "{kind}: {found}");
        let gone = tampered(&file, &format!("DELETE FROM records WHERE kind = '{kind}' AND {one}"));
        assert!(matches!(&gone, JournalBreak::MissingContent { kind: found, .. } if found == kind), "{kind}: {gone}");
    }

    // A record that nobody has written, a chain without its head, a chain that is cut off.
    let forged =
        "INSERT INTO records SELECT pipeline, kind, id || 'x', rev, state, rank, due, holder, body FROM records
                  WHERE kind = 'promotion' LIMIT 1;
                  UPDATE counts SET n = n + 1 WHERE space = (SELECT space FROM spaces WHERE kind = 'promotion')
                      AND state = (SELECT state FROM states WHERE name = 'done')";
    assert_eq!(tampered(&file, forged), JournalBreak::Unlisted { kind: "promotion".into(), count: 1 });
    let headless = "DELETE FROM records WHERE kind = 'journal' AND id = 'people/ann'";
    assert!(matches!(tampered(&file, headless), JournalBreak::Entries { .. }));
    let cut = format!("DELETE FROM records WHERE {}; UPDATE records SET body = ", of(last));
    let store = SqliteStore::open(&file).unwrap();
    let before = store.get("closed", feedloop::Kind::Journal, &entry(last)).unwrap().unwrap();
    let previous = serde_json::from_slice::<serde_json::Value>(&before.body).unwrap()["previous"].clone();
    let head = serde_json::json!({"writer": "loop", "sequence": last - 1, "digest": previous});
    let cut = format!("{cut} '{head}' WHERE kind = 'journal' AND id = 'loop'");
    let found = tampered(&file, &cut);
    // Without its last entry the chain speaks of an older content.
    assert!(matches!(found, JournalBreak::AlteredContent { .. } | JournalBreak::Entries { .. }), "{found}");
}

#[test]
fn a_chain_that_was_written_anew_is_not_the_one_whose_head_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (directory.path().join("feedloop.db"), directory.path().join("other.db"));
    let kept = looped(&file, 0).pipeline.verify_journal(&[]).unwrap().heads;
    drop(looped(&other, 5_000));
    let host = looped(&other, 9_000);
    let found = host.pipeline.verify_journal(&kept).unwrap();
    assert!(matches!(found.broken, Some(JournalBreak::OtherHistory { .. })), "{:?}", found.broken);
}

#[test]
fn a_store_of_before_goes_on_and_says_how_much_the_journal_does_not_speak_of() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feedloop.db");
    drop(looped(&file, 0));
    // As a release without a journal left it.
    let connection = opened(&file);
    connection.execute("DELETE FROM records WHERE kind = ?1", params!["journal"]).unwrap();
    let counts = "DELETE FROM counts WHERE space IN (SELECT space FROM spaces WHERE kind = ?1)";
    connection.execute(counts, params!["journal"]).unwrap();
    drop(connection);
    let host = looped(&file, 1_000);
    let report = host.pipeline.verify_journal(&[]).unwrap();
    assert_eq!(report.broken, None);
    assert!(report.unlisted > 100 && report.records > 100, "{} {}", report.unlisted, report.records);
}
