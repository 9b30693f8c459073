//! Suites that every implementation of a trait passes: ours, and yours.
//!
//! Call them from a test; they panic with what was broken. Behind the feature `conformance`.

mod detector;
mod store;
mod world;

pub use detector::detector;
#[cfg(test)]
pub(crate) use store::follows_the_model;
pub use store::store;
pub use world::{Noise, World};
