//! The policy `loop`: feedloop itself on a stream.

use std::error::Error;

use super::data::Stream;
use super::model::Kind;
use super::protocol::{Outcome, Profile};

/// Replays `stream` through a feedloop pipeline with the given promotion profile.
///
/// At most `budget` of the rows after the initial ones get a label from people, audits and second opinions included.
///
/// # Errors
/// Always, for now: this policy is not built yet.
pub fn run(
    _stream: &Stream,
    _profile: Profile,
    _budget: f64,
    _kind: Kind,
    _seed: u64,
) -> Result<Outcome, Box<dyn Error>> {
    Err("the policy 'loop' is not built yet".into())
}
