//! The simulator: whole clusters in one thread, under a seed.
//!
//! Each node has the real state machine of a member, a real vault, and for each view a real timely
//! worker with this project's operators. Only time, the network, the register's moods and the
//! outside world are simulated. A seed decides all of it: the same seed tells the same story.
//! `docs/simulator.md` says what is covered and what is not.
//!
//! | file | noun |
//! | --- | --- |
//! | `world` | the nodes of one run, what is to happen, and virtual time |
//! | `process`, `hosting` | one start of a node, and what a real node's loop does for it |
//! | `network`, `wire` | connections that delay and break; timely's allocator without sockets |
//! | `vault`, `target` | a node's vault and the job's outside world, both watched |
//! | `job`, `scenes`, `shape` | what is run, and what a seed decides beforehand |
//! | `program` | what feeds the job by hand, in a part of the runs, and where its records come from |
//! | [`faults`], `mischief` | what may go wrong, and when it does |
//! | [`plant`], `spoil` | bugs put in on purpose |
//! | `ledger` | the reports of failures, by the product's own ledger |
//! | [`conduct`] | what the processes of a run did, held against the rules |
//! | `witness`, [`verdict`] | what must hold at every step, and at the end |
//! | `trace`, `words`, `quiet` | the story, for reading and for comparing; silence for simulated panics |
//! | [`chance`] | the one source of randomness |
//! | [`run`], [`command`] | one seed; many seeds |
//! | `durable_model` | the rules of the durable tier, explored exhaustively before any code |
//! | `members` | a smaller simulation, of members alone: many more steps in the same time |

#![deny(clippy::disallowed_types)]

pub mod chance;
pub mod command;
pub mod conduct;
pub mod faults;
mod hosting;
mod job;
mod ledger;
mod mischief;
mod network;
pub mod plant;
mod process;
mod program;
mod quiet;
pub mod run;
mod scenes;
mod shape;
mod spoil;
mod target;
mod trace;
mod vault;
pub mod verdict;
mod wire;
mod witness;
mod words;
mod world;

#[cfg(test)]
mod durable_model;
#[cfg(test)]
mod members;
#[cfg(test)]
mod sim_tests;
