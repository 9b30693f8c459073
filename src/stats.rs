//! Pure mathematics: plain functions and small types that know no stage of the loop.
//!
//! Everything here is deterministic, free of input and output, and never panics on data.
//! A missing cell is `NaN`; whether infinities are values or missing is said at each item.

pub(crate) mod agreement;
pub(crate) mod audit;
pub(crate) mod beta;
pub(crate) mod binomial;
pub(crate) mod bins;
pub(crate) mod bootstrap;
pub(crate) mod categorical;
pub(crate) mod cbpe;
pub(crate) mod cholesky;
pub(crate) mod collapse;
pub(crate) mod confident;
pub(crate) mod covariance;
pub(crate) mod cramer_von_mises;
pub(crate) mod dawid_skene;
pub(crate) mod divergence;
pub(crate) mod ecod;
pub(crate) mod eigen;
pub(crate) mod error;
pub(crate) mod evidence;
pub(crate) mod fourier;
pub(crate) mod hypergeometric;
pub(crate) mod isolation_forest;
pub(crate) mod isotonic;
pub(crate) mod kolmogorov;
pub(crate) mod ks;
pub(crate) mod ks_known;
pub(crate) mod ks_window;
pub(crate) mod mahalanobis;
pub(crate) mod mcnemar;
pub(crate) mod metrics;
pub(crate) mod mincovdet;
pub(crate) mod minhash;
pub(crate) mod moments;
pub(crate) mod multiple;
pub(crate) mod neighbours;
mod panels;
pub(crate) mod permutation;
pub(crate) mod pooled;
pub(crate) mod quadratic_form;
pub(crate) mod quantile;
pub(crate) mod rise;
pub(crate) mod sampling;
pub(crate) mod scale;
pub(crate) mod singular;
pub(crate) mod tied_classes;
pub(crate) mod uncertainty;
pub(crate) mod wasserstein;

#[cfg(test)]
pub(crate) mod golden;
