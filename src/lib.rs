//! feedloop
