//! The jobs on differential dataflow on three local nodes, of which some are killed or made to panic at
//! random moments.
//!
//! What must be true of each: the changes that the protected job tells are those of the bare one, which
//! nothing happened to. `support::trials` says how they are compared.

use crate::support::data;
use crate::support::trials::{Job, Trial, survives};

const SHORT: Trial = Trial { runs: 2, latest_ms: 150, flags: "", must_hit: false };
const LONG: Trial = Trial { runs: 30, latest_ms: 1500, flags: "", must_hit: true };

const COMPONENTS: Job = Job {
    name: "dd_components",
    short: "--nodes 50 --rounds 12 --pace-ms 15",
    long: "--nodes 150 --rounds 150 --pace-ms 15",
};
const BFS: Job = Job { name: "dd_bfs", ..COMPONENTS };
const REACH: Job = Job {
    name: "dd_reach",
    short: "--nodes 20 --rounds 12 --pace-ms 15",
    long: "--nodes 40 --rounds 150 --pace-ms 15",
};
const TRIANGLES: Job = Job {
    name: "dd_triangles",
    short: "--nodes 60 --rounds 15 --pace-ms 15",
    long: "--nodes 200 --rounds 150 --pace-ms 15",
};
const DEGREES: Job = Job { name: "dd_degrees", ..TRIANGLES };
const ORDERS: Job = Job { name: "dd_orders", ..TRIANGLES };
const SHARED: Job = Job { name: "dd_shared", ..TRIANGLES };

#[track_caller]
fn survives_briefly(job: &Job) {
    survives(job, &SHORT, job.short, None);
}

#[test]
fn jobs_that_iterate() {
    survives_briefly(&COMPONENTS);
    survives_briefly(&BFS);
    survives_briefly(&REACH);
}

#[test]
fn jobs_that_join_and_count() {
    survives_briefly(&TRIANGLES);
    survives_briefly(&DEGREES);
    survives_briefly(&ORDERS);
}

#[test]
fn dataflows_that_share_an_arrangement() {
    survives_briefly(&SHARED);
}

/// Thirty runs with kills for each job: all of them, or one by its name.
///
/// ```text
/// cargo test --release --test suite -- --ignored --nocapture differential_jobs --test-threads 1
/// cargo test --release --test suite -- --ignored --nocapture differential_jobs::thirty_runs::reach
/// ```
mod thirty_runs {
    use super::*;

    macro_rules! thirty_runs {
        ($($name:ident: $job:expr),*) => { $(
            #[test]
            #[ignore = "30 runs of several seconds"]
            fn $name() {
                survives(&$job, &LONG, $job.long, None);
            }
        )* };
    }

    thirty_runs!(
        components: COMPONENTS,
        bfs: BFS,
        reach: REACH,
        triangles: TRIANGLES,
        degrees: DEGREES,
        orders: ORDERS,
        shared: SHARED
    );
}

#[test]
#[ignore = "10 runs of several seconds for each of 3 jobs"]
fn real_data_survives_ten_runs_with_kills() {
    let trial = Trial { runs: 10, ..LONG };
    if let Some(graph) = data("facebook_combined.txt") {
        for job in [COMPONENTS, BFS, DEGREES] {
            survives(&job, &trial, "--rounds 40 --pace-ms 15", Some(&graph));
        }
    }
}
