//! Jobs in two forms, bare and protected, of which the protected one runs under faults.
//!
//! What must be true of each: the lines of the protected job are those of the bare one, which nothing
//! happened to. Moments and nodes come from a seed, which a failure prints with the whole command line.

use std::fs;
use std::path::Path;

use super::{Running, events, of_kind};

/// A job, and what it is given in the short tests and in the long ones.
pub struct Job {
    pub name: &'static str,
    pub short: &'static str,
    pub long: &'static str,
}

/// How fierce a test is.
pub struct Trial {
    /// How often the job runs.
    pub runs: u64,
    /// Faults come up to so long after the first commit.
    pub latest_ms: u64,
    /// More flags of the protected form.
    pub flags: &'static str,
    /// Whether each fault must have come while the job still ran.
    pub must_hit: bool,
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

/// All lines of the files below a directory, sorted.
pub fn sorted_lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the job has written something") {
            let path = entry.expect("a directory can be listed").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a part of the output can be read");
            lines.extend(text.lines().map(str::to_owned));
        }
    }
    lines.sort_unstable();
    lines
}

/// Runs the bare form once and the protected one under faults, and compares them.
#[track_caller]
pub fn survives(job: &Job, trial: &Trial, own: &str, file: Option<&Path>) {
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
        let flags = format!("{}{}", faults(seed, run, trial.latest_ms), trial.flags);
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
