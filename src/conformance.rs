//! Suites that every implementation of a trait passes: ours, and yours.
//!
//! Call them from a test; they panic with what was broken. Behind the feature `conformance`.

mod detector;
mod world;

pub use detector::detector;
pub use world::{Noise, World};
