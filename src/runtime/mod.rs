//! Where threads, processes and the wall clock are.
//!
//! | file | noun |
//! | --- | --- |
//! | [`launcher`] | the parent of the node processes of `--local` |
//! | [`channel`] | what launcher and node say to each other |
//! | `node` | the loop of one node |
//! | `generation` | worker threads and links for the time of one view |
//! | `host` | where a process without a launcher tells what happens |
//! | `recovery`, `stopwatch` | what a recovery took |
//! | `witness` | what a node saw of a failure |
//! | `memory_kills` | whether the kernel ended a process for lack of memory |
//! | `hang` | workers that do not come back from what they do |
//! | `registrar` | the thread that asks the register |
//! | `compactor` | the thread that folds deltas into replicas |
//! | `wording` | what went wrong, in words and kinds |
//! | `job_hash` | what makes two processes the same job |

pub mod channel;
mod compactor;
mod execute;
mod generation;
mod hang;
mod host;
mod job_hash;
pub mod launcher;
mod memory_kills;
mod node;
mod recovery;
mod registrar;
mod stopwatch;
mod witness;
mod wording;

pub use execute::{Outcome, execute, execute_from_args};
