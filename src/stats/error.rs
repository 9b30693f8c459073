//! What can go wrong in `stats`.

use thiserror::Error;

/// An input that the mathematics cannot use.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub(crate) enum StatsError {
    /// Two objects differ in their number of columns.
    #[error("found {found} columns, expected {expected}: fit both on the same columns")]
    Dimensions {
        /// Columns of the first object.
        expected: usize,
        /// Columns of the second object.
        found: usize,
    },
    /// A covariance between two columns of finite variance is NaN or infinite.
    #[error("covariance of columns {row} and {column} is {value}, expected a finite number: refit on finite rows")]
    NotFinite {
        /// First column.
        row: usize,
        /// Second column.
        column: usize,
        /// The value found.
        value: f64,
    },
    /// No ridge up to the given one makes the covariance positive definite.
    #[error("covariance is not positive definite even with a relative ridge of {ridge}: it is not a covariance matrix")]
    NotPositiveDefinite {
        /// The largest relative ridge tried.
        ridge: f64,
    },
    /// A deserialised state contradicts itself.
    #[error("stored state is inconsistent: {what}; discard it and fit again")]
    State {
        /// What does not fit.
        what: &'static str,
    },
}
