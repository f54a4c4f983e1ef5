//! The classic jobs on three local nodes, of which some are killed or made to panic at random moments.
//!
//! What must be true of each: the lines of the protected job are those of the bare one, which nothing
//! happened to. Moments and nodes come from a seed, which a failure prints with the whole command line.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Running, events, of_kind};

/// A job, and what it is given in the short tests and in the long ones.
struct Job {
    name: &'static str,
    short: &'static str,
    long: &'static str,
}

/// How fierce a test is.
struct Trial {
    /// How often the job runs.
    runs: u64,
    /// Faults come up to so long after the first commit.
    latest_ms: u64,
    /// Whether each fault must have come while the job still ran.
    must_hit: bool,
}

const SHORT: Trial = Trial { runs: 2, latest_ms: 300, must_hit: false };
const LONG: Trial = Trial { runs: 30, latest_ms: 1500, must_hit: true };

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

/// The number of a place in the sequence of a seed: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
fn random(seed: u64, place: u64) -> u64 {
    let z = seed.wrapping_add((place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The flags of a run: three nodes, and what fails. Every fourth time two nodes are killed, and every
/// fourth time a worker panics before one is. Two failures in a row take two backups: the copies that the
/// first one cost may not be rebuilt yet.
fn faults(seed: u64, run: u64, latest_ms: u64) -> String {
    let number = |place: u64| random(seed ^ (run << 32), place);
    let moment = |place: u64| 20 + number(place) % latest_ms;
    let (node, next) = (number(0) % 3, (number(0) + 1 + number(1) % 2) % 3);
    match run % 4 {
        1 => format!(
            "--local 3 --backups 2 --fault kill:{node}@{}ms --fault kill:{next}@{}ms",
            moment(2),
            moment(3)
        ),
        3 => format!(
            "--local 3 --backups 2 --fault panic:{next}@{}ms --fault kill:{node}@{}ms",
            moment(2) / 2,
            moment(2) / 2 + 1 + moment(3) / 2
        ),
        _ => format!("--local 3 --fault kill:{node}@{}ms", moment(2)),
    }
}

fn args(runner: &str, own: &str, out: &Path, file: Option<&Path>) -> Vec<String> {
    let mut args: Vec<String> = runner.split_whitespace().map(str::to_owned).collect();
    args.push("--".to_owned());
    args.extend(own.split_whitespace().map(str::to_owned));
    args.push(format!("--out={}", out.display()));
    args.extend(file.map(|file| file.display().to_string()));
    args
}

/// All lines of the files directly below a directory, sorted.
fn sorted_lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).expect("the job has written something") {
        let path = entry.expect("a directory can be listed").path();
        let text = fs::read_to_string(&path).expect("a part of the output can be read");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort_unstable();
    lines
}

/// Runs the bare form once and the protected one under faults, and compares them.
#[track_caller]
fn survives(job: &Job, trial: &Trial, own: &str, file: Option<&Path>) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let bare = place.path().join("bare");
    let ran = Running::start(&format!("{}_bare", job.name), &args("-w 2", own, &bare, file)).wait();
    ran.assert_success();
    let expected = sorted_lines(&bare);
    assert!(!expected.is_empty(), "{} has no lines", job.name);
    let seed = job.name.bytes().chain(own.bytes()).fold(7, |seed, byte| random(seed, byte.into()));
    let mut hits = 0;
    for run in 0..trial.runs {
        let (out, report) =
            (place.path().join(format!("out-{run}")), place.path().join(format!("{run}.json")));
        let flags = faults(seed, run, trial.latest_ms);
        let runner = format!("{flags} --report {}", report.display());
        let ran = Running::start(job.name, &args(&runner, own, &out, file)).wait();
        let what = format!("{} {flags} -- {own}", job.name);
        assert!(ran.status.success(), "{what}\n{ran}");
        let lines = sorted_lines(&out);
        if lines != expected {
            let first = lines.iter().zip(&expected).position(|(line, wanted)| line != wanted);
            let first = first.unwrap_or(lines.len().min(expected.len()));
            panic!(
                "{what}: {} lines in place of {}; line {first} is {:?} in place of {:?}\n{ran}",
                lines.len(),
                expected.len(),
                lines.get(first),
                expected.get(first)
            );
        }
        let events = events(&report);
        let view = of_kind(&events, "view").filter_map(|event| event["number"].as_u64()).max();
        assert!(!trial.must_hit || view >= Some(2), "{what}: nothing failed, view {view:?}\n{ran}");
        hits += u64::from(view >= Some(2));
        println!("{what}: equal after {:?}, view {}", ran.elapsed, view.unwrap_or(0));
    }
    assert!(hits > 0, "no fault has hit {}", job.name);
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

/// A file of real data, where this machine has it.
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not on this machine", path.display());
    None
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
/// cargo test --release --test classic_jobs -- --ignored --nocapture --test-threads 1
/// cargo test --release --test classic_jobs -- --ignored --nocapture thirty_runs::bfs
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
