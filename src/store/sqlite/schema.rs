//! The tables, and how a file of an older format gets them.

use rusqlite::Connection;

/// Format that this release writes.
pub(super) const FORMAT: i32 = 2;

/// Bytes of a page in a new file: with pages of 4 KB a body of 1 KB wastes more, with larger ones a small commit writes more.
const PAGE: i32 = 8192;

/// A record is a thin row that queries look at and a body that they leave alone. What would repeat in every row and in the
/// index, names of pipelines, kinds and states, is a number there; `records` shows it all.
const TABLES: &str = "
    CREATE TABLE spaces (
        space INTEGER PRIMARY KEY,
        pipeline TEXT NOT NULL,
        kind TEXT NOT NULL,
        UNIQUE (pipeline, kind)
    );
    CREATE TABLE states (state INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE bodies (n INTEGER PRIMARY KEY, body NOT NULL);
    CREATE TABLE entries (
        space INTEGER NOT NULL,
        id TEXT NOT NULL,
        rev INTEGER NOT NULL,
        state INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        due TEXT,
        holder TEXT,
        body INTEGER NOT NULL,
        PRIMARY KEY (space, id)
    ) WITHOUT ROWID;
    CREATE TABLE counts (
        space INTEGER NOT NULL,
        state INTEGER NOT NULL,
        n INTEGER NOT NULL,
        PRIMARY KEY (space, state)
    ) WITHOUT ROWID;
    CREATE VIEW records AS
        SELECT pipeline, kind, id, rev, name AS state, rank, due, holder, bodies.body
        FROM spaces CROSS JOIN entries USING (space)
        CROSS JOIN states USING (state) CROSS JOIN bodies ON n = entries.body;
";

const FENCES: &str = "CREATE TABLE fences (pipeline TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL) WITHOUT ROWID";

/// Made last, so that a file of an older format fills it in its order.
const INDEX: &str = "CREATE INDEX entries_by_state ON entries (space, state, rank, id)";

/// Format 1 had one table, with the names in every row and in both of its indexes.
const FROM_1: [&str; 2] = [
    "ALTER TABLE records RENAME TO old_records;
     ALTER TABLE counts RENAME TO old_counts;",
    "INSERT INTO spaces (pipeline, kind) SELECT DISTINCT pipeline, kind FROM old_records ORDER BY pipeline, kind;
     INSERT INTO states (name) SELECT DISTINCT state FROM old_records;
     INSERT INTO bodies SELECT rowid, body FROM old_records ORDER BY rowid;
     INSERT INTO entries
         SELECT space, id, rev, states.state, rank, due, holder, old.rowid
         FROM old_records AS old JOIN spaces USING (pipeline, kind) JOIN states ON name = old.state
         ORDER BY pipeline, kind, id;
     INSERT INTO counts
         SELECT space, states.state, n FROM old_counts AS old
         JOIN spaces USING (pipeline, kind) JOIN states ON name = old.state;
     DROP TABLE old_records;
     DROP TABLE old_counts;",
];

/// Before the file has content.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE)
}

/// Makes the tables; in the caller's transaction.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    [TABLES, FENCES, INDEX].iter().try_for_each(|sql| connection.execute_batch(sql))?;
    connection.pragma_update(None, "user_version", FORMAT)
}

/// Moves everything from the tables of format 1 into those of today; in the caller's transaction.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let [rename, copy] = FROM_1;
    [rename, TABLES, copy, INDEX].iter().try_for_each(|sql| connection.execute_batch(sql))?;
    connection.pragma_update(None, "user_version", FORMAT)
}
