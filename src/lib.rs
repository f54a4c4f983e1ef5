//! Fault tolerance for timely dataflow and differential dataflow.

pub mod protocol;
pub mod register;

pub use ringfence_operators as operators;
