//! Fault tolerance for timely dataflow and differential dataflow.

pub use ringfence_operators as operators;

pub mod chaos;
pub mod config;
pub mod error;
pub mod report;
pub mod runtime;

pub use config::{Config, Mode};
pub use error::{Error, Result};
