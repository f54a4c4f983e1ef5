//! The core that decides: who owns what, who is a member, and what happens after a failure.
//!
//! Everything here is a pure function of its arguments. There is no clock, thread, socket or random
//! source: time and messages come in as values, effects go out as values, so the same code runs in
//! a node and under a simulator, and the same inputs give the same outputs.
//!
//! | file | noun |
//! | --- | --- |
//! | [`ring`] | the SHA-1 positions of workers and partitions |
//! | [`assignment`] | the table of owners and backups |
//! | [`balance`] | how a member that owns far less than its share comes to own it |
//! | [`view`] | an agreed membership, as it stands in the register |
//! | [`plan`] | the next view, computed from evidence |
//! | [`detector`] | who has been silent for too long |
//! | [`message`] | what goes into and comes out of a member |
//! | [`member`] | the state machine of one node |
//! | [`present`] | a node's part in its present view: connections, workers, evidence |
//! | [`durability`] | how the members of a view make a committed epoch durable |
//! | [`planted`] | bugs put in on purpose |
//! | [`invariants`] | what must hold between any view and its successor |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod assignment;
pub mod balance;
pub mod detector;
pub mod durability;
pub mod invariants;
pub mod member;
pub mod message;
pub mod plan;
pub mod planted;
pub mod present;
pub mod ranges;
pub mod ring;
pub mod view;

#[cfg(test)]
mod durability_tests;
#[cfg(test)]
mod present_tests;
#[cfg(test)]
mod samples_tests;
