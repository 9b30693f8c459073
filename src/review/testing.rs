//! What the tests of the queue share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{Hidden, Task};
use crate::gate::testing::{at, id};
use crate::router::Ask;
use crate::schema::{Row, Schema, Target};

/// The task of sample `n` among three classes, of the year 2001.
pub(super) fn task(n: u128, priority: f64, overlap: u32, blind: bool) -> Task {
    let schema = Schema::numeric(1, Target::classes(["a", "b", "c"])).unwrap();
    Task {
        sample: id(n),
        ask: Ask { priority, overlap, blind },
        created: at(0),
        row: Row::new(&schema),
        payload: None,
        output: vec![0.5, 0.3, 0.2],
        answers: vec![],
        skipped_by: vec![],
        assigned: None,
        hidden: Hidden::default(),
    }
}
