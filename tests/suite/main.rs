//! The tests of whole jobs on clusters of processes, in one executable: they share what is linked, and those that
//! wait run beside those that compute.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod bad_input;
mod by_hand;
mod changed_lines;
mod classic_jobs;
mod comebacks;
mod cuts;
mod differential_jobs;
mod example_support;
mod failures;
mod kills;
mod latecomers;
mod many_views;
mod panics;
mod power_cuts;
mod slow_answers;
mod stops;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod user_loops;
mod verifier;
