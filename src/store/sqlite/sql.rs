//! Every statement on the tables; `queries_use_their_indexes` looks at the plan of each.

macro_rules! statements {
    ($($name:ident = $sql:expr;)*) => {
        $(pub(super) const $name: &str = $sql;)*
        #[cfg(test)]
        pub(super) const ALL: &[&str] = &[$($name),*];
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, rev, state, rank, due, holder, bodies.body \
             FROM entries CROSS JOIN bodies ON n = entries.body WHERE space = ?1 ",
            $rest
        )
    };
}

statements! {
    SPACE = "SELECT space FROM spaces WHERE pipeline = ?1 AND kind = ?2";
    NEW_SPACE = "INSERT INTO spaces (pipeline, kind) VALUES (?1, ?2) RETURNING space";
    STATE = "SELECT state FROM states WHERE name = ?1";
    STATE_NAME = "SELECT name FROM states WHERE state = ?1";
    NEW_STATE = "INSERT INTO states (name) VALUES (?1) RETURNING state";

    GET = select!("AND id = ?2");
    SCAN = select!("ORDER BY id LIMIT ?2");
    SCAN_AFTER = select!("AND id > ?3 ORDER BY id LIMIT ?2");
    SCAN_STATE = select!("AND state = ?3 ORDER BY rank, id LIMIT ?2");
    SCAN_STATE_AFTER = select!("AND state = ?3 AND (rank, id) > (?4, ?5) ORDER BY rank, id LIMIT ?2");

    FOUND = "SELECT rev, state, body FROM entries WHERE space = ?1 AND id = ?2";
    LAST_BODY = "SELECT ifnull(max(n), 0) FROM bodies";
    INSERT = "INSERT INTO entries (space, id, rev, state, rank, due, body) VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6) \
              ON CONFLICT DO NOTHING";
    INSERT_BODY = "INSERT INTO bodies (n, body) VALUES (?1, ?2)";
    UPDATE = "UPDATE entries SET rev = rev + 1, state = ?3, rank = ?4, due = ?5, holder = CASE WHEN ?6 THEN holder END \
              WHERE space = ?1 AND id = ?2";
    // Most changes of a state leave the content alone: then its page is not written again.
    UPDATE_BODY = "UPDATE bodies SET body = ?2 WHERE n = ?1 AND body IS NOT ?2";

    CLAIMABLE = "SELECT 0 AS held, rank, id, NULL AS due FROM entries \
                 WHERE space = ?1 AND state = ?2 AND (rank, id) >= (?4, ?5) \
                 UNION ALL SELECT 1 AS held, rank, id, due FROM entries \
                 WHERE space = ?1 AND state = ?3 AND due IS NOT NULL AND (rank, id) >= (?4, ?5) \
                 ORDER BY rank, id";
    CLAIM = "UPDATE entries SET rev = rev + 1, state = ?3, due = ?4, holder = ?5 WHERE space = ?1 AND id = ?2";

    COUNT = "SELECT ifnull(sum(n), 0) FROM counts WHERE space = ?1";
    COUNT_STATE = "SELECT ifnull(sum(n), 0) FROM counts WHERE space = ?1 AND state = ?2";
    ADD = "INSERT INTO counts (space, state, n) VALUES (?1, ?2, ?3) \
           ON CONFLICT (space, state) DO UPDATE SET n = n + excluded.n";

    TAKE_OVER = "INSERT INTO fences (pipeline, token) VALUES (?1, 1) \
                 ON CONFLICT (pipeline) DO UPDATE SET token = token + 1 RETURNING token";
    TOKEN = "SELECT token FROM fences WHERE pipeline = ?1";
    NEW_TOKEN = "INSERT INTO fences (pipeline, token) VALUES (?1, ?2) \
                 ON CONFLICT (pipeline) DO UPDATE SET token = excluded.token";
}
