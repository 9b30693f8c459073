//! Seeded streams of ordinary rows, shared by the benchmarks.
#![allow(dead_code, reason = "no benchmark needs all of it")]

pub(crate) mod feed;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use feedloop::chrono::DateTime;
use feedloop::uuid::Uuid;
use feedloop::{ChunkBuffer, Observation, Output, PredictionId, Reference, References, Schema, Target};
use serde::Serialize;

/// Rows of the reference that detectors and gates compare with.
pub(crate) const REFERENCE: usize = 4_096;

/// Time that the calling thread spent on a processor: on a machine shared with others, the clock on the wall measures the
/// others. Where the system does not tell it (other than Linux), the time on the wall.
pub(crate) struct ThreadTime;

impl ThreadTime {
    pub(crate) fn now() -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let told = || {
            // The count is brought up to date when the thread offers its place.
            std::thread::yield_now();
            let status = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
            status.split(' ').next()?.parse().ok()
        };
        told().map_or_else(|| START.elapsed(), Duration::from_nanos)
    }
}

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        ThreadTime::now()
    }

    fn end(&self, start: Duration) -> Duration {
        ThreadTime::now().saturating_sub(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Short runs: on a shared machine many short samples say more than one long one.
pub(crate) fn criterion() -> Criterion<ThreadTime> {
    Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500))
        .sample_size(20)
        .configure_from_args()
}

/// Numbers that are the same on every machine (splitmix64, Steele et al. 2014).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Correlated normal columns and a confident model of two classes.
pub(crate) struct Stream {
    pub(crate) schema: Arc<Schema>,
    pub(crate) noise: Noise,
    made: u64,
}

impl Stream {
    pub(crate) fn new(width: usize) -> Self {
        let schema = Schema::numeric(width, Target::classes(["no", "yes"])).expect("a valid schema");
        Stream { schema: Arc::new(schema), noise: Noise(42), made: 0 }
    }

    pub(crate) fn values(&mut self) -> Vec<f64> {
        let common = self.noise.normal();
        self.schema.value_columns().iter().map(|_| 0.5 * common + self.noise.normal()).collect()
    }

    /// The larger one lies between 0.75 and 1.
    pub(crate) fn probabilities(&mut self) -> [f64; 2] {
        let top = 0.75 + 0.25 * self.noise.uniform();
        if self.noise.uniform() < 0.5 { [top, 1.0 - top] } else { [1.0 - top, top] }
    }

    /// The next name: in v7 form, one per microsecond.
    pub(crate) fn id(&mut self) -> PredictionId {
        self.made += 1;
        let millis = 1_700_000_000_000 + self.made / 1_000;
        PredictionId::from_uuid(Uuid::from_u64_pair((millis << 16) | 0x7000, (0b10 << 62) | (self.made << 24)))
    }

    pub(crate) fn observation(&mut self) -> Observation {
        let mut observation = Observation::new(&self.schema);
        observation.id = self.id();
        observation.time = DateTime::from_timestamp_micros(1_700_000_000_000_000 + self.made as i64).expect("in range");
        observation.row.copy_values(&self.values()).expect("as wide as the schema");
        observation.set_output(Output::Probabilities(&self.probabilities()));
        observation
    }

    pub(crate) fn reference(&mut self) -> Arc<Reference> {
        let mut builder = Reference::builder(self.schema.clone());
        for _ in 0..REFERENCE {
            let row = self.observation();
            builder.push(&row.row, Some(row.output()), None).expect("as wide as the schema");
        }
        Arc::new(builder.finish())
    }

    pub(crate) fn references(&mut self) -> References {
        References::starting_with(self.reference())
    }

    /// Full chunks of fresh observations.
    pub(crate) fn chunks(&mut self, count: usize) -> Vec<ChunkBuffer> {
        let mut sequence = 0;
        let mut chunk = || {
            let mut buffer = ChunkBuffer::new(&self.schema);
            loop {
                let observation = self.observation();
                if !buffer.accepts(&observation) {
                    return buffer;
                }
                sequence += 1;
                buffer.push(sequence, &observation);
            }
        };
        (0..count).map(|_| chunk()).collect()
    }
}

macro_rules! wide {
    ($($field:ident)*) => {
        /// The host's own type: 32 numbers.
        #[derive(Serialize)]
        pub(crate) struct Wide { $($field: f64),* }

        impl Wide {
            pub(crate) fn new(values: &[f64]) -> Self {
                let mut values = values.iter().copied();
                Wide { $($field: values.next().expect("32 values")),* }
            }
        }
    };
}

wide! {
    x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11 x12 x13 x14 x15
    x16 x17 x18 x19 x20 x21 x22 x23 x24 x25 x26 x27 x28 x29 x30 x31
}
