//! The operators of Ringfence: everything that runs inside a timely worker.

pub mod ids;
