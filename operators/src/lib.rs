//! The operators of Ringfence: everything that runs inside a timely worker.

pub mod codec;
mod commit;
pub mod data;
pub mod error;
pub mod fence;
mod frames;
pub mod generation;
pub mod hash;
pub mod ids;
pub mod prelude;
mod protect;
mod replicate;
mod route;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod stateful;
pub mod testing;
pub mod time;
pub mod vault;
pub mod worker;
