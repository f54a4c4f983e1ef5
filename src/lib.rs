//! Fault tolerance for timely dataflow and differential dataflow.

pub use ringfence_operators as operators;

pub mod network;
