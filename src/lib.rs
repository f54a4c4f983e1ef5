//! Fault tolerance for timely dataflow: jobs survive the loss of workers with exactly-once output.
//!
//! A job is written as for timely, with verbs that end in `_fenced` where state or output must survive:
//!
//! ```no_run
//! use ringfence::prelude::*;
//!
//! fn main() -> ringfence::Result<()> {
//!     ringfence::execute_from_args(std::env::args(), |worker| {
//!         worker.dataflow::<u64, _, _>(|scope| {
//!             TextFiles::new(["a.txt"])
//!                 .to_stream_fenced(scope, "lines")
//!                 .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
//!                 .fold_fenced("counts", |word| word.clone(), 0u64, |count, word, out| {
//!                     *count += 1;
//!                     out.give((word, *count));
//!                 })
//!                 .sink_fenced("totals", LineFiles::new("out"));
//!         });
//!     })?;
//!     Ok(())
//! }
//! ```
//!
//! | module | noun |
//! | --- | --- |
//! | [`operators`] | everything that runs inside a timely worker |
//! | `protocol` | the pure core: ring, assignment, views, the state machine of a member |
//! | `register` | where nodes agree on views: each number can be written once |
//! | `durable` | what outlives every process: segments and manifests on a disk |
//! | `network` | how nodes communicate: handshake, control connections, data links |
//! | `runtime` | threads and processes: node, generation, launcher |
//! | [`report`] | reports of what happened, for programs and for people |
//! | [`chaos`] | injected failures |
//! | [`config`] | flags and settings |

pub use ringfence_operators as operators;

pub mod chaos;
pub mod config;
mod durable;
pub mod error;
mod network;
pub mod prelude;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod register;
pub mod report;
mod runtime;

/// What the project's simulator drives. Like everything hidden, it may change in any release.
#[doc(hidden)]
pub mod internals {
    pub use crate::runtime::{catch_up, holdings, witness};
    pub use crate::{protocol, register};
}

pub use config::{Config, Mode};
pub use error::{Error, Kind, Result};
pub use runtime::{Outcome, execute, execute_from_args};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

#[doc = include_str!("../docs/wrapping.md")]
#[cfg(doctest)]
struct WrappingDoctests;
