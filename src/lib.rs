//! feedloop

#[allow(dead_code)]
mod stats;
