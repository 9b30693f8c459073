//! A long stream through the whole pipeline on SQLite: cost per observation, `poll` and memory, tenth by tenth.
//!
//! `cargo bench --bench soak -- 100000000`; a million observations unless told. Nothing is flagged.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::time::Instant;

use common::ThreadTime;
use common::feed::{BURST, Feed, whole};
use feedloop::SqliteStore;

/// Bytes of this process in memory, where the system tells (Linux).
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse::<usize>().ok());
    let bursts = asked.unwrap_or(1_000_000).div_ceil(10 * BURST);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut feed = Feed::new();
    feed.quieten();
    let store = SqliteStore::open(directory.path().join("soak.db")).expect("a store");
    let mut pipeline = whole(feed.builder(store)).build().expect("a pipeline");

    println!("{:>12} {:>14} {:>12} {:>12} {:>10}", "observations", "ns each", "poll, µs", "resident, MB", "samples");
    for tenth in 1..=10 {
        let start = ThreadTime::now();
        for _ in 0..bursts {
            feed.ingest(&mut pipeline);
        }
        let time = ThreadTime::now().saturating_sub(start);
        let polled = Instant::now();
        pipeline.poll().expect("a poll");
        let polled = polled.elapsed();
        let status = pipeline.status().expect("a status");
        println!(
            "{:>12} {:>14.0} {:>12.0} {:>12.1} {:>10}",
            tenth * bursts * BURST,
            time.as_nanos() as f64 / (bursts * BURST) as f64,
            polled.as_secs_f64() * 1e6,
            resident().map_or(f64::NAN, |bytes| bytes as f64 / 1e6),
            status.counters.samples,
        );
    }
}
