//! Tests of jobs that are programs of their own: this executable is the tests, the launcher and the nodes, by its
//! environment and arguments; see `support/own.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod busy_jobs;
mod catalogue;
mod inputs;
mod processes;
mod sizes;
#[path = "../support/mod.rs"]
mod support;

use support::own::{self, Part};

fn main() {
    own::main(vec![
        Part { name: "busy_jobs", jobs: busy_jobs::JOBS, tests: busy_jobs::tests() },
        Part { name: "catalogue", jobs: catalogue::JOBS, tests: catalogue::tests() },
        Part { name: "inputs", jobs: inputs::JOBS, tests: inputs::tests() },
        Part { name: "processes", jobs: processes::JOBS, tests: processes::tests() },
        Part { name: "sizes", jobs: sizes::JOBS, tests: sizes::tests() },
    ])
}
