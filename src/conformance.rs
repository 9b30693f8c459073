//! One suite per contract, for the stages and stores of this crate and of its users.

mod store;

#[cfg(test)]
pub(crate) use store::follows_the_model;
pub use store::store;
