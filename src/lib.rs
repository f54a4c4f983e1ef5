//! Fault tolerance for timely dataflow and differential dataflow.

pub use ringfence_operators as operators;

pub mod chaos;
pub mod error;

pub use error::{Error, Result};
