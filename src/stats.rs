//! stub until the real room lands
#![allow(dead_code)]
pub(crate) mod error;
pub(crate) mod sampling;
pub(crate) mod moments {
    use serde::{Deserialize, Serialize};
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Moments {
        n: u64,
        dim: usize,
    }
    impl Moments {
        pub(crate) fn new(dim: usize) -> Self {
            Moments { n: 0, dim }
        }
        pub(crate) fn push(&mut self, _row: &[f64]) {
            self.n += 1;
        }
        pub(crate) fn merge(&mut self, other: &Moments) -> Result<(), super::error::StatsError> {
            self.n += other.n;
            Ok(())
        }
        pub(crate) fn rows(&self) -> u64 {
            self.n
        }
        pub(crate) fn present(&self, _column: usize) -> u64 {
            self.n
        }
        pub(crate) fn mean(&self) -> Vec<f64> {
            vec![0.0; self.dim]
        }
        pub(crate) fn covariance(&self) -> ndarray::Array2<f64> {
            ndarray::Array2::eye(self.dim)
        }
    }
}
