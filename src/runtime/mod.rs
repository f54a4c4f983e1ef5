//! Where threads, processes and the wall clock are.
//!
//! | file | noun |
//! | --- | --- |
//! | [`launcher`] | the parent of the node processes of `--local` |
//! | [`channel`] | what launcher and node say to each other |
//! | `lines` | what a node prints, as its launcher passes it on |
//! | `node` | the loop of one node |
//! | `generation` | worker threads and links for the time of one view |
//! | `holdings` | what a view gives to a node, and what a stopped node holds of it |
//! | `host` | where a process without a launcher tells what happens |
//! | `outlets` | report file and screen of a desk, each behind a thread and a bounded queue |
//! | `recovery`, `stopwatch` | what a recovery took |
//! | `witness` | what a node saw of a failure |
//! | `memory_kills` | whether the kernel ended a process for lack of memory |
//! | `watches`, `hang`, `link_watch` | what a node looks after: workers that hang, links that are stuck, copies that are filled |
//! | `interrupts` | signals that ask a process to end |
//! | `turns` | which of the jobs of a program a process has a part in |
//! | `strangers` | those who were refused, counted by kind |
//! | `registrar` | the thread that asks the register |
//! | `compactor` | the thread that folds deltas into replicas |
//! | `advice` | what to do about panics that come of how workers end |
//! | `wording` | what went wrong, in words and kinds |
//! | `job_hash` | what makes two processes the same job |

mod advice;
pub mod channel;
mod compactor;
mod execute;
mod generation;
mod hang;
pub mod holdings;
mod host;
mod injector;
mod interrupts;
mod job_hash;
pub mod launcher;
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
