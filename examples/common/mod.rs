//! What the examples share: streams of labelled rows, real models, the replay protocol and a progress bar.
//!
//! Every example compiles this module on its own and uses only a part of it.
#![allow(dead_code, reason = "each example includes all of this module and uses a part of it")]
#![allow(unreachable_pub, reason = "an example is a binary: nothing outside can reach these items anyway")]

pub mod arguments;
pub mod data;
pub mod fault;
pub mod harm;
pub mod loop_policy;
pub mod model;
pub mod production;
pub mod progress;
pub mod protocol;
