//! What the machine can do: the limits that the figures of the other benchmarks are to be compared with, a table.
//!
//! Reading, random access and arithmetic are processor time of one thread. A hand-over is a message of so many cache lines
//! that goes to another thread and back through two bounded queues, as a slot of `Recorder::record` does: processor time of
//! the caller, who writes every line, while the other thread reads them ("beside") and while it waits ("apart"); and, on the
//! wall, the time until a single message is back.
#![allow(clippy::expect_used, missing_docs)]

mod common;

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Noise, ThreadTime};
use crossbeam_queue::ArrayQueue;
use multiversion::multiversion;

/// Repetitions of a measurement: the least tells the limit, the median how quiet the machine was.
const REPETITIONS: usize = 25;
const BURSTS: usize = 200;
const SINGLES: usize = 2_000;
/// Bytes that fit a processor's first and second cache and its part of the one that processors share, and beyond all of them.
const PLACES: [(&str, usize); 4] =
    [("L1 (16 KB)", 1 << 14), ("L2 (512 KB)", 1 << 19), ("L3 (4 MB)", 1 << 22), ("memory (512 MB)", 1 << 29)];
/// Slots of the queues, and messages that are timed in one go: as in `record.rs`.
const SLOTS: usize = 4_096;
const BURST: usize = 2_048;

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Least and median time of one of the `each` pieces of a work, in nanoseconds.
fn times(repetitions: usize, each: usize, mut work: impl FnMut() -> Duration) -> (f64, f64) {
    let mut times: Vec<f64> = (0..repetitions).map(|_| work().as_nanos() as f64 / each as f64).collect();
    times.sort_unstable_by(f64::total_cmp);
    (times[0], times[repetitions / 2])
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = ThreadTime::now();
    black_box(work());
    ThreadTime::now().saturating_sub(start)
}

/// A line of the table; `rate` says what the least time comes to.
fn show(what: &str, (least, median): (f64, f64), rate: impl FnOnce(f64) -> String) {
    let digits = if least < 1.0 { 3 } else { 1 };
    println!("| {what} | {least:.digits$} | {median:.digits$} | {} |", rate(least));
}

#[multiversion(targets("x86_64+avx2"))]
fn sum(lines: &[Line]) -> [u64; 8] {
    lines.iter().fold([0; 8], |mut sums, line| {
        sums.iter_mut().zip(line.0).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
        sums
    })
}

/// A walk through all the lines in random order, in which each tells the next (Sattolo 1986).
fn tangle(lines: &mut [Line]) {
    let (mut noise, mut order) = (Noise(42), (0..lines.len()).collect::<Vec<_>>());
    for last in (1..order.len()).rev() {
        order.swap(last, (noise.uniform() * last as f64) as usize);
    }
    for (line, next) in lines.iter_mut().zip(order) {
        line.0[0] = next as u64;
    }
}

fn chase(lines: &[Line], steps: usize) -> usize {
    (0..steps).fold(0, |at, _| lines[at].0[0] as usize)
}

/// Reads lines in random order whose places are known beforehand (Knuth's generator, which takes a nanosecond by itself; there
/// are 2^k lines).
fn hop(lines: &[Line], steps: usize) -> u64 {
    let (mut place, shift) = (1_u64, 64 - lines.len().trailing_zeros());
    (0..steps).fold(0, |sum, _| {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sum ^ lines[(place >> shift) as usize].0[0]
    })
}

fn memory() {
    for (place, bytes) in PLACES {
        let mut lines = vec![Line::default(); bytes / size_of::<Line>()];
        tangle(&mut lines);
        let passes = (1_usize << 26).div_ceil(bytes);
        let reads = times(REPETITIONS, passes * lines.len(), || {
            timed(|| (0..passes).fold(0, |total, _| total ^ sum(black_box(&lines))[0]))
        });
        show(&format!("{place}: a line, in sequence"), reads, |least| format!("{:.1} GB/s", 64.0 / least));
        let steps = 1 << 18;
        let hops = times(REPETITIONS, steps, || timed(|| hop(&lines, steps)));
        show(&format!("{place}: a line, at random, its place known"), hops, |_| String::new());
        let chased = times(REPETITIONS, steps, || timed(|| chase(&lines, steps)));
        show(&format!("{place}: a line, at random, its place read from the one before"), chased, |_| String::new());
    }
}

/// The inner loop of our kernels (`stats/panels.rs`): rows of a matrix times eight rows of data.
#[inline(always)]
fn multiply<const ROWS: usize, const FUSED: bool>(columns: &[[f64; ROWS]], groups: &[[f64; 8]]) -> [[f64; 8]; ROWS] {
    let mut sums = [[0.0; 8]; ROWS];
    for (column, values) in columns.iter().zip(groups) {
        for (sum, &weight) in sums.iter_mut().zip(column) {
            for (sum, &value) in sum.iter_mut().zip(values) {
                *sum = if FUSED { weight.mul_add(value, *sum) } else { *sum + weight * value };
            }
        }
    }
    sums
}

fn plain(columns: &[[f64; 2]], groups: &[[f64; 8]]) -> [[f64; 8]; 2] {
    multiply::<2, false>(columns, groups)
}

#[multiversion(targets("x86_64+avx2"))]
fn wide(columns: &[[f64; 4]], groups: &[[f64; 8]]) -> [[f64; 8]; 4] {
    multiply::<4, false>(columns, groups)
}

/// Without these instructions in the processor it is a call of a function, and slow.
#[multiversion(targets("x86_64+avx2+fma"))]
fn fused(columns: &[[f64; 4]], groups: &[[f64; 8]]) -> [[f64; 8]; 4] {
    multiply::<4, true>(columns, groups)
}

fn arithmetic() {
    // some 10 KB: everything comes from the first cache, as in our kernels
    const COLUMNS: usize = 100;
    const PASSES: usize = 20_000;
    fn line<const ROWS: usize>(what: &str, work: impl Fn(&[[f64; ROWS]], &[[f64; 8]]) -> [[f64; 8]; ROWS]) {
        let (columns, groups) = ([[0.5; ROWS]; COLUMNS], [[1.0; 8]; COLUMNS]);
        let taken = times(REPETITIONS, PASSES * COLUMNS * ROWS * 8, || {
            timed(|| {
                for _ in 0..PASSES {
                    black_box(work(black_box(&columns), black_box(&groups)));
                }
            })
        });
        show(&format!("multiply and add, {what}"), taken, |least| format!("{:.1} multiply-adds per ns", 1.0 / least));
    }
    line("the build's own target", plain);
    line("AVX2, not fused (our kernels)", wide);
    line("AVX2, fused", fused);
}

/// Two queues, as between recorder and worker.
struct Queues {
    free: ArrayQueue<Box<[Line]>>,
    ready: ArrayQueue<Box<[Line]>>,
    held: AtomicBool,
    stopped: AtomicBool,
}

impl Queues {
    fn new(lines: usize) -> Self {
        let queues = Queues {
            free: ArrayQueue::new(SLOTS),
            ready: ArrayQueue::new(SLOTS),
            held: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        };
        (0..SLOTS).for_each(|_| queues.give_back(vec![Line::default(); lines].into()));
        queues
    }

    fn give_back(&self, message: Box<[Line]>) {
        self.free.push(message).expect("room for every message");
    }

    /// Writes a message and hands it over.
    fn send(&self, word: u64) {
        let mut message = self.free.pop().expect("fewer are sent than there are");
        message.fill(Line([word; 8]));
        self.ready.push(message).expect("room for every message");
    }

    fn work(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let is_held = self.held.load(Ordering::Relaxed);
            match if is_held { None } else { self.ready.pop() } {
                Some(message) => {
                    black_box(sum(&message));
                    self.give_back(message);
                }
                None => spin_loop(),
            }
        }
    }

    fn settle(&self) {
        self.held.store(false, Ordering::Relaxed);
        while self.free.len() < SLOTS {
            thread::yield_now();
        }
    }

    fn burst(&self, held: bool) -> Duration {
        self.settle();
        self.held.store(held, Ordering::Relaxed);
        timed(|| (0..BURST as u64).for_each(|word| self.send(word)))
    }

    fn single(&self) -> Duration {
        self.settle();
        let start = Instant::now();
        self.send(1);
        while self.free.len() < SLOTS {
            spin_loop();
        }
        start.elapsed()
    }
}

fn hand_over() {
    for lines in [1, 5, 10] {
        let queues = Queues::new(lines);
        thread::scope(|scope| {
            scope.spawn(|| queues.work());
            for (how, held) in [("beside", false), ("apart", true)] {
                let bursts = times(BURSTS, BURST, || queues.burst(held));
                show(&format!("hand over {lines} line(s), {how}"), bursts, |_| String::new());
            }
            let singles = times(SINGLES, 1, || queues.single());
            show(&format!("hand over {lines} line(s) and wait for them, on the wall"), singles, |_| String::new());
            queues.settle();
            queues.stopped.store(true, Ordering::Relaxed);
        });
    }
}

fn main() {
    println!("| ns | least | median | |");
    println!("|---|--:|--:|---|");
    memory();
    arithmetic();
    hand_over();
}
