//! The operators of Ringfence: everything that runs inside a timely worker.

pub mod codec;
pub mod data;
pub mod hash;
pub mod ids;
pub mod snapshot;
pub mod state;
pub mod vault;
