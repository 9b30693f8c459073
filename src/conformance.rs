//! Suites that every implementation of a trait passes: ours, and yours.
//!
//! Call them from a test; they panic with what was broken. Behind the feature `conformance`.

mod detector;
mod gate;
mod router;
mod staged;
mod store;
mod trigger;
mod world;

pub use detector::detector;
pub use gate::gate;
pub use router::router;
use staged::{annotation, broken_rows, refuses_foreign_states, restored, samples, saved, some_label};
#[cfg(test)]
pub(crate) use store::follows_the_model;
pub use store::store;
pub use trigger::trigger;
pub use world::{Noise, World};
