//! The gate that keeps copies of one input from being labelled and trained on twice.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::recent::Recent;
use crate::clock::from_micros;
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::{Admission, GateContext, QualityGate};
use crate::reference::References;
use crate::sample::{Reason, Sample};
use crate::stage::{Snapshot, Stage};

const FORMAT: u32 = 1;
const CAPACITY: usize = 100_000;
/// Hexadecimal digits of one entry in a snapshot: content hash, id, microseconds.
const DIGITS: usize = 32 + 32 + 16;

/// Quarantines a sample whose input equals that of an earlier one.
///
/// Equal means equal in [`Row::content_hash`](crate::Row::content_hash): every number, category, text and timestamp. The
/// first sample passes, later ones are quarantined with the reason `duplicate` and the first one's id. The same id
/// offered again passes if it passed before. Rows of lanes that judge models ([`Lane::judges`](crate::Lane::judges))
/// always pass, as dropping them would bias the estimates; flagged copies of them do not.
///
/// Guarantee: of the last `capacity` different inputs (within `window`, counted from the first of its kind) no second
/// copy passes, up to a hash collision (about 10⁻²⁹ among 100,000 inputs). It does not hold beyond the capacity, nor
/// against somebody who forges collisions: xxh3 is no cryptographic hash. Where few columns with few values make equal
/// inputs natural, set a [`window`](Deduplicate::window) or leave this gate out: equal inputs may have different labels.
///
/// Memory: about 80 bytes per input, 100,000 inputs unless told. A snapshot takes 80 bytes per input.
#[derive(Debug, Clone, PartialEq)]
pub struct Deduplicate {
    window: Option<TimeDelta>,
    seen: Recent<First>,
    capacity: usize,
}

/// The first sample with some content.
#[derive(Debug, Clone, Copy, PartialEq)]
struct First {
    id: PredictionId,
    time: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct State {
    entries: String,
}

impl Deduplicate {
    /// Compares whole inputs, exactly.
    pub fn exact() -> Self {
        Deduplicate { window: None, seen: Recent::new(CAPACITY), capacity: CAPACITY }
    }

    /// Remembers at most so many different inputs; 100,000 unless told.
    pub fn capacity(mut self, inputs: usize) -> Self {
        self.capacity = inputs;
        self.seen.resize(inputs);
        self
    }

    /// Forgets an input so long after it came first; never unless told.
    pub fn window(mut self, window: TimeDelta) -> Self {
        self.window = Some(window);
        self
    }

    /// Number of inputs that are remembered.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn forget(&mut self, now: DateTime<Utc>) {
        let Some(window) = self.window else { return };
        while self.seen.oldest().is_some_and(|first| now.signed_duration_since(first.time) > window) {
            self.seen.forget_oldest();
        }
    }
}

impl Stage for Deduplicate {
    fn name(&self) -> &str {
        "deduplicate"
    }

    fn rebase(&mut self, _: &References) -> Result<(), BoxError> {
        if self.capacity == 0 {
            return Err(message("capacity is 0, at least 1 input must be remembered"));
        }
        match self.window {
            Some(window) if window <= TimeDelta::zero() => Err(message(format!("window is {window}, not positive"))),
            _ => Ok(()),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let mut entries = String::with_capacity(self.seen.len() * DIGITS);
        for (key, first) in self.seen.iter() {
            let (id, time) = (first.id.uuid().as_u128(), first.time.timestamp_micros());
            write!(entries, "{key:032x}{id:032x}{time:016x}")?;
        }
        Snapshot::save(FORMAT, &State { entries })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let state: State = snapshot.load(FORMAT)?;
        if !state.entries.len().is_multiple_of(DIGITS) || !state.entries.is_ascii() {
            return Err(message("the list of remembered inputs is damaged"));
        }
        let mut seen = Recent::new(self.capacity);
        for at in (0..state.entries.len()).step_by(DIGITS) {
            let part = |from: usize, to: usize| u128::from_str_radix(&state.entries[at + from..at + to], 16);
            let id = PredictionId::from_uuid(Uuid::from_u128(part(32, 64)?));
            let time = from_micros(part(64, 80)? as u64 as i64);
            seen.entry(part(0, 32)?, || First { id, time });
        }
        self.seen = seen;
        Ok(())
    }
}

impl QualityGate for Deduplicate {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        self.forget(context.now);
        let this = First { id: sample.id(), time: context.now };
        let first = self.seen.entry(sample.observation.row.content_hash(), || this).map_or(this, |first| *first);
        if first.id == this.id || sample.lane.judges() {
            return Ok(Admission::Pass);
        }
        Ok(Admission::Quarantine(Reason::new("duplicate", format!("the same input as sample {}", first.id))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::gate::testing::{at, context, id, references, valued};
    use crate::sample::Lane;
    use crate::schema::{Schema, Target};

    struct Bench {
        schema: Schema,
        references: References,
        gate: Deduplicate,
    }

    impl Bench {
        fn new(gate: Deduplicate) -> Self {
            let schema = Schema::numeric(1, Target::Value).unwrap();
            Bench { references: references(&schema), schema, gate }
        }

        fn offer_at(&mut self, seconds: i64, n: u128, value: f64, lane: Lane) -> Option<String> {
            let mut sample = valued(&self.schema, n, &[value]);
            sample.lane = lane;
            let context = GateContext { now: at(seconds), ..context(&self.schema, &self.references) };
            match self.gate.admit(&sample, &context).unwrap() {
                Admission::Pass => None,
                Admission::Quarantine(reason) => Some(format!("{reason}")),
            }
        }

        fn offer(&mut self, n: u128, value: f64) -> Option<String> {
            self.offer_at(0, n, value, Lane::Flagged)
        }
    }

    #[test]
    fn a_copy_is_quarantined_naming_the_first() {
        let mut bench = Bench::new(Deduplicate::exact());
        assert_eq!(bench.offer(1, 5.0), None);
        assert_eq!(bench.offer(2, 6.0), None);
        assert_eq!(bench.offer(3, 5.0).unwrap(), format!("duplicate: the same input as sample {}", id(1)));
        assert_eq!(bench.offer(4, f64::NAN), None);
        assert!(bench.offer(5, -f64::NAN).is_some(), "missing equals missing");
    }

    #[test]
    fn the_same_sample_offered_again_gets_the_same_verdict() {
        let mut bench = Bench::new(Deduplicate::exact());
        for _ in 0..2 {
            assert_eq!(bench.offer(1, 5.0), None);
            assert!(bench.offer(2, 5.0).is_some());
        }
    }

    #[test]
    fn rows_that_judge_models_always_pass_and_are_remembered() {
        let mut bench = Bench::new(Deduplicate::exact());
        assert_eq!(bench.offer_at(0, 1, 5.0, Lane::Random), None);
        assert_eq!(bench.offer_at(0, 2, 5.0, Lane::Random), None);
        assert_eq!(bench.offer_at(0, 3, 5.0, Lane::Comparison), None);
        assert!(bench.offer(4, 5.0).unwrap().contains(&id(1).to_string()));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten() {
        let mut bench = Bench::new(Deduplicate::exact().capacity(10));
        for n in 0..1_000 {
            assert_eq!(bench.offer(n, n as f64), None);
            assert!(bench.gate.remembered() <= 10);
        }
        assert!(bench.offer(2_000, 999.0).is_some() && bench.offer(2_001, 989.0).is_none());
    }

    #[test]
    fn an_input_is_forgotten_after_the_window() {
        let mut bench = Bench::new(Deduplicate::exact().window(TimeDelta::seconds(60)));
        assert_eq!(bench.offer_at(0, 1, 5.0, Lane::Flagged), None);
        assert!(bench.offer_at(60, 2, 5.0, Lane::Flagged).is_some());
        assert_eq!(bench.offer_at(61, 3, 5.0, Lane::Flagged), None);
        assert_eq!(bench.gate.remembered(), 1);
    }

    #[test]
    fn a_restored_gate_goes_on_as_the_saved_one() {
        let mut bench = Bench::new(Deduplicate::exact().capacity(50));
        for n in 0..70 {
            bench.offer_at(n as i64 - 2_000_000_000, n, (n % 60) as f64, Lane::Flagged);
        }
        let mut other = Deduplicate::exact().capacity(50);
        other.restore(&bench.gate.snapshot().unwrap()).unwrap();
        assert_eq!(other, bench.gate);
        let damaged = Snapshot::save(FORMAT, &State { entries: "0".repeat(81) }).unwrap();
        assert!(other.restore(&damaged).is_err() && other.restore(&Snapshot::Stateless).is_err());
        assert_eq!(other, bench.gate, "a refused state changes nothing");
    }

    #[test]
    fn settings_without_sense_are_reported_when_the_pipeline_is_built() {
        let bench = Bench::new(Deduplicate::exact());
        assert!(Deduplicate::exact().capacity(0).rebase(&bench.references).is_err());
        assert!(Deduplicate::exact().window(TimeDelta::zero()).rebase(&bench.references).is_err());
    }
}
