//! Threads, processes and the wall clock.
//!
//! | file | noun |
//! | --- | --- |
//! | [`launcher`] | the parent of the node processes of `--local` |
//! | [`channel`] | messages between launcher and node |
//! | `lines` | what a node prints, as its launcher passes it on |
//! | `node` | the loop of one node |
//! | `catch_up` | when a generation is built and has read again what had been read before |
//! | `generation` | worker threads and links for the duration of one view |
//! | `holdings` | what a view assigns to a node, and what a stopped node holds of it |
//! | `host` | reporting in a process without a launcher |
//! | `outlets` | report file and screen of a desk, each behind a thread and a bounded queue |
//! | `recovery`, `stopwatch` | how long a recovery took |
//! | `witness` | what a node observed of a failure |
//! | `memory_kills` | whether the kernel ended a process for lack of memory |
//! | `watches`, `hang`, `link_watch` | what a node monitors: hanging workers, stuck links, the filling of copies |
//! | `interrupts` | signals that ask a process to end |
//! | `turns` | the job of a program in which a process takes part |
//! | `strangers` | refused connections, counted by kind |
//! | `registrar` | the thread that queries the register |
//! | `compactor` | the thread that folds deltas into replicas |
//! | `advice` | what to do about panics that result from how workers end |
//! | `wording` | texts and kinds of errors |
//! | `job_hash` | how two processes recognise the same job |

mod advice;
pub mod catch_up;
pub(crate) mod channel;
mod compactor;
mod execute;
mod generation;
mod hang;
pub mod holdings;
mod host;
mod injector;
mod interrupts;
mod job_hash;
pub(crate) mod launcher;
mod lines;
mod link_watch;
mod memory_kills;
mod node;
mod outlets;
mod recovery;
mod registrar;
mod stopwatch;
mod strangers;
mod turns;
mod watches;
pub mod witness;
mod wording;

pub use execute::{Outcome, execute, execute_from_args};
