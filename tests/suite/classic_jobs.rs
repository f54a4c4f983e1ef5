//! The classic jobs on three local nodes, of which some are killed or made to panic at random moments.
//!
//! What must be true of each: the lines of the protected job are those of the bare one, which nothing
//! happened to. Moments and nodes come from a seed, which a failure prints with the whole command line.

use crate::support::data;
use crate::support::trials::{Job, Trial, survives};

const SHORT: Trial = Trial { runs: 2, latest_ms: 300, flags: "", must_hit: false };
const LONG: Trial = Trial { runs: 30, latest_ms: 1500, flags: "", must_hit: true };

const BY_HAND: Job = Job {
    name: "word_count_by_hand",
    short: "--rounds 25 --pace-ms 10",
    long: "--rounds 150 --pace-ms 15",
};
const DISTINCT: Job = Job { name: "distinct", ..BY_HAND };
const HASH_JOIN: Job = Job { name: "hash_join", ..BY_HAND };
const UNION_FIND: Job = Job { name: "union_find", ..BY_HAND };
const EVENT_DRIVEN: Job = Job { name: "event_driven", ..BY_HAND };
const WEATHER: Job = Job { name: "weather", ..BY_HAND };
const PAGERANK: Job = Job {
    name: "pagerank",
    short: "--nodes 200 --rounds 15 --pace-ms 10",
    long: "--rounds 150 --pace-ms 15",
};
const BFS: Job =
    Job { name: "bfs", short: "--nodes 600 --pace-ms 1", long: "--nodes 4000 --pace-ms 5" };

/// A query of NEXMark, by its flag.
fn nexmark(query: u64) -> (Job, String) {
    let job = Job {
        name: "nexmark",
        short: "--events 30000 --pace-ms 40",
        long: "--events 150000 --pace-ms 40",
    };
    (job, format!("--query {query}"))
}

#[track_caller]
fn survives_briefly(job: &Job) {
    survives(job, &SHORT, job.short, None);
}

#[test]
fn jobs_fed_by_hand() {
    survives_briefly(&BY_HAND);
    survives_briefly(&DISTINCT);
    survives_briefly(&EVENT_DRIVEN);
    survives_briefly(&WEATHER);
}

#[test]
fn jobs_with_two_inputs_or_two_steps() {
    survives_briefly(&HASH_JOIN);
    survives_briefly(&UNION_FIND);
}

#[test]
fn jobs_whose_keys_are_hashed_with_sha_1() {
    let trial = Trial { flags: " --key-hash sha1", ..SHORT };
    survives(&UNION_FIND, &trial, UNION_FIND.short, None);
    survives(&HASH_JOIN, &trial, HASH_JOIN.short, None);
}

#[test]
fn jobs_with_loops() {
    survives_briefly(&BFS);
    survives_briefly(&PAGERANK);
}

#[test]
fn queries_of_nexmark() {
    let trial = Trial { runs: 1, ..SHORT };
    for query in 1..=8 {
        let (job, flag) = nexmark(query);
        survives(&job, &trial, &format!("{} {flag}", job.short), None);
    }
}

#[test]
fn real_data() {
    let trial = Trial { runs: 1, ..SHORT };
    if let Some(graph) = data("facebook_combined.txt") {
        survives(&BFS, &trial, "--pace-ms 3", Some(&graph));
        survives(&UNION_FIND, &trial, "--rounds 25 --pace-ms 10", Some(&graph));
    }
    if let Some(weather) = data("weather.csv") {
        survives(&WEATHER, &trial, "--rounds 40 --pace-ms 10", Some(&weather));
    }
}

/// Thirty runs with kills for each job: all of them, or one by its name.
///
/// ```text
/// cargo test --release --test suite -- --ignored --nocapture classic_jobs --test-threads 1
/// cargo test --release --test suite -- --ignored --nocapture classic_jobs::thirty_runs::bfs
/// ```
mod thirty_runs {
    use super::*;

    fn survives_long(job: &Job) {
        survives(job, &LONG, job.long, None);
    }

    macro_rules! thirty_runs {
        ($($name:ident: $job:expr),*) => { $(
            #[test]
            #[ignore = "30 runs of several seconds"]
            fn $name() {
                survives_long(&$job);
            }
        )* };
    }

    thirty_runs!(
        word_count_by_hand: BY_HAND,
        distinct: DISTINCT,
        hash_join: HASH_JOIN,
        union_find: UNION_FIND,
        event_driven: EVENT_DRIVEN,
        weather: WEATHER,
        pagerank: PAGERANK,
        bfs: BFS
    );

    #[test]
    #[ignore = "30 runs of several seconds for each of 8 queries"]
    fn nexmark() {
        for query in 1..=8 {
            let (job, flag) = super::nexmark(query);
            survives(&job, &LONG, &format!("{} {flag}", job.long), None);
        }
    }
}

#[test]
#[ignore = "10 runs of several seconds for each of 4 jobs"]
fn real_data_survives_ten_runs_with_kills() {
    let trial = Trial { runs: 10, ..LONG };
    if let Some(graph) = data("facebook_combined.txt") {
        let soon = Trial { latest_ms: 300, ..trial };
        survives(&BFS, &soon, "--pace-ms 20", Some(&graph));
        survives(&UNION_FIND, &trial, "--rounds 150 --pace-ms 15", Some(&graph));
        survives(&PAGERANK, &trial, "--rounds 150 --pace-ms 15", Some(&graph));
    }
    if let Some(weather) = data("weather.csv") {
        survives(&WEATHER, &trial, "--pace-ms 8", Some(&weather));
    }
}
