//! Change of a sequence of numbers, one value at a time.

mod adwin;
mod conformal_martingale;
mod cusum;
mod ddm;
mod e_detector;
mod eddm;
mod hddm_a;
mod hddm_w;
mod kswin;
mod page_hinkley;
mod stage;

use serde::{Deserialize, Serialize};

use crate::error::{BoxError, message};
use crate::stage::Snapshot;

pub use adwin::Adwin;
pub use conformal_martingale::ConformalMartingale;
pub use cusum::Cusum;
pub use ddm::Ddm;
pub use e_detector::EDetector;
pub use eddm::Eddm;
pub use hddm_a::HddmA;
pub use hddm_w::HddmW;
pub use kswin::Kswin;
pub use page_hinkley::PageHinkley;
pub use stage::{Signal, StreamDrift};

/// What a change detector says after a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing to say.
    None,
    /// A change may be coming.
    Warning,
    /// The sequence has changed.
    Drift,
}

/// Which changes matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Larger values.
    Up,
    /// Smaller values.
    Down,
    /// Either.
    Both,
}

impl Direction {
    fn up(self) -> bool {
        self != Direction::Down
    }

    fn down(self) -> bool {
        self != Direction::Up
    }
}

/// What stands behind the last verdict of a change detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangeEvidence {
    /// The statistic.
    pub statistic: f64,
    /// What it is compared with.
    pub threshold: f64,
    /// Estimated size of the change; what it is, is the detector's to say.
    pub effect: f64,
}

/// Detects change in a sequence of numbers, one at a time.
///
/// Values that are no numbers, infinite or beyond ±1e100 are ignored: they leave the state as it is. After
/// [`Change::Drift`] the next value starts the detector afresh, so that one change is not reported twice. Memory does
/// not grow with the stream. [`StreamDrift`] puts one on a signal of a pipeline.
pub trait ChangeDetector: Send + 'static {
    /// Short and stable, such as "adwin".
    fn name(&self) -> &str;

    /// Forgets the stream and takes over the values of the signal in the reference (none if it has no such values), in an
    /// order that says nothing. Detectors that compare the stream with its own past only reset.
    ///
    /// # Errors
    /// A setting is out of its range; the message says which.
    fn rebase(&mut self, baseline: &[f64]) -> Result<(), BoxError>;

    /// Looks at the next value.
    fn update(&mut self, value: f64) -> Change;

    /// The evidence behind the last verdict.
    fn evidence(&self) -> ChangeEvidence;

    /// Why it cannot see a change at present, if so.
    fn blind(&self) -> Option<String> {
        None
    }

    /// Saves what the stream left.
    ///
    /// # Errors
    /// The state cannot be written.
    fn snapshot(&self) -> Result<Snapshot, BoxError>;

    /// Takes over a saved state, after `rebase`.
    ///
    /// # Errors
    /// The state is of another format or does not fit.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError>;
}

impl<C: ChangeDetector + ?Sized> ChangeDetector for Box<C> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn rebase(&mut self, baseline: &[f64]) -> Result<(), BoxError> {
        (**self).rebase(baseline)
    }

    fn update(&mut self, value: f64) -> Change {
        (**self).update(value)
    }

    fn evidence(&self) -> ChangeEvidence {
        (**self).evidence()
    }

    fn blind(&self) -> Option<String> {
        (**self).blind()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        (**self).snapshot()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        (**self).restore(snapshot)
    }
}

/// Can a detector work with this value? Squares of larger ones overflow.
fn usable(value: f64) -> bool {
    value.abs() <= 1e100
}

/// Reports a setting that is out of its range.
fn check(holds: bool, setting: &str, found: impl std::fmt::Display, expected: &str) -> Result<(), BoxError> {
    if holds { Ok(()) } else { Err(message(format!("{setting} is {found}, {expected} is expected"))) }
}

/// A mean, value by value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    n: u64,
    value: f64,
}

impl Mean {
    fn push(&mut self, value: f64) {
        self.n += 1;
        self.value += (1.0 / self.n as f64) * (value - self.value);
    }
}

/// Mean and variance, value by value (Welford 1962).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Spread {
    mean: Mean,
    squares: f64,
}

impl Spread {
    fn push(&mut self, value: f64) {
        let before = value - self.mean.value;
        self.mean.push(value);
        self.squares += before * (value - self.mean.value);
    }

    /// With n − 1; 0 below two values.
    fn standard_deviation(&self) -> f64 {
        let free = self.mean.n.saturating_sub(1);
        if free == 0 { 0.0 } else { (self.squares / free as f64).max(0.0).sqrt() }
    }
}

/// Saves and restores the field `state`, which is all that the stream leaves in a detector.
macro_rules! state_is_all {
    ($format:expr) => {
        fn snapshot(&self) -> Result<$crate::stage::Snapshot, $crate::error::BoxError> {
            $crate::stage::Snapshot::save($format, &self.state)
        }

        fn restore(&mut self, snapshot: &$crate::stage::Snapshot) -> Result<(), $crate::error::BoxError> {
            self.state = snapshot.load($format)?;
            Ok(())
        }
    };
}
use state_is_all;

#[allow(unused)]
fn _object_safe(_: Box<dyn ChangeDetector>) {}

#[cfg(test)]
mod tests;
