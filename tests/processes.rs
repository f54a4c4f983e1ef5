//! Processes behave: whatever happens to report, terminal, register and neighbours, the job's output is
//! exact, and what went wrong is told at once and once.
//!
//! This executable is the tests, the launcher and the nodes, by its environment and arguments.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ringfence::prelude::*;
use ringfence::{Config, Error};
use support::own::{self, Test, start, start_with, test};
use support::{Ran, Running, events, of_kind, wait_until};

/// The keys of the job.
const KEYS: u64 = 100;

/// What the environment says of the job: how many numbers there are, and the pause at each.
fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// Counts numbers by key; each line is a key and how many of it there were so far.
fn count(place: &Path, config: Config) -> Result<(), Error> {
    count_into(&place.join("out"), config)
}

fn count_into(out: &Path, config: Config) -> Result<(), Error> {
    let (numbers, pause_us) = (variable("NUMBERS", 2_000), variable("PAUSE_US", 500));
    let out = out.to_owned();
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| {
                (0..numbers).filter(move |n| n % share.count == share.index).inspect(move |_| {
                    std::thread::sleep(Duration::from_micros(pause_us));
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced(
                "counts",
                |n| n % KEYS,
                0u64,
                |count, n, out| {
                    *count += 1;
                    out.give((n % KEYS, *count));
                },
            )
            .sink_fenced("totals", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

/// Asserts that each key has each number from 1 to its count once.
#[track_caller]
fn assert_exact(out: &Path, numbers: u64, ran: &Ran) {
    let mut seen = HashMap::<String, u64>::new();
    let parts =
        fs::read_dir(out).unwrap_or_else(|error| panic!("{}: {error}\n{ran}", out.display()));
    for part in parts {
        for line in fs::read_to_string(part.unwrap().path()).unwrap().lines() {
            *seen.entry(line.to_owned()).or_default() += 1;
        }
    }
    for n in 0..numbers {
        let line = format!("{}\t{}", n % KEYS, n / KEYS + 1);
        assert_eq!(seen.remove(&line), Some(1), "{line:?}\n{ran}");
    }
    assert!(seen.is_empty(), "{seen:?}\n{ran}");
}

/// How often a text has another in it.
fn times(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn commits(place: &Path) -> usize {
    of_kind(&events(&place.join("report.json")), "commit").count()
}

/// Starts a launcher that is given time enough for things to happen to it.
fn slow(place: &Path, flags: &str) -> Running {
    start_with("count", place, flags, |command| {
        command.env("NUMBERS", "6000").env("PAUSE_US", "1000");
    })
}

// Reports.

fn a_report_on_a_full_disk_ends_and_the_job_goes_on() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    for flags in ["--local 3", "-w 2"] {
        let place = place();
        std::os::unix::fs::symlink("/dev/full", place.path().join("report.json")).unwrap();
        let ran = start("count", place.path(), flags).wait();
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
        assert_eq!(times(&ran.stderr, "the report is not complete"), 1, "{ran}");
    }
}

fn a_report_whose_directory_is_gone_is_told_and_the_job_goes_on() {
    let place = place();
    let running = slow(place.path(), "--local 2");
    wait_until("for the first commits", || commits(place.path()) > 1);
    fs::remove_file(place.path().join("report.json")).unwrap();
    let ran = running.wait();
    ran.assert_success();
    assert_exact(&place.path().join("out"), 6_000, &ran);
    assert_eq!(times(&ran.stderr, "report.json was removed or replaced"), 1, "{ran}");
}

/// As with `job | head -1`, and with a terminal that has been closed.
fn closed_pipes_end_no_job() {
    for flags in ["--local 2", "-w 2"] {
        let place = place();
        let mut command = own::command("count", place.path(), flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let mut status = None;
        wait_until("for the end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let (stdout, stderr) = (String::new(), String::new());
        let ran = Ran { status: status.unwrap(), stdout, stderr, elapsed: Duration::ZERO };
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
    }
}

fn main() {
    let jobs: &[(&str, own::Job)] = &[("count", count)];
    let tests: Vec<Test> = vec![
        test(
            "a_report_on_a_full_disk_ends_and_the_job_goes_on",
            a_report_on_a_full_disk_ends_and_the_job_goes_on,
        ),
        test(
            "a_report_whose_directory_is_gone_is_told_and_the_job_goes_on",
            a_report_whose_directory_is_gone_is_told_and_the_job_goes_on,
        ),
        test("closed_pipes_end_no_job", closed_pipes_end_no_job),
    ];
    own::main(jobs, tests)
}
