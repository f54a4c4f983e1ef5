//! Processes behave: whatever happens to report, terminal, register and neighbours, the job's output is
//! exact, and what went wrong is told at once and once.

mod ends;
mod programs;
mod reports;
mod strangers;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::own::{Job, Test, command, start, start_with, test};
use crate::support::{Ran, Running, events, free_addresses, of_kind, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence::prelude::*;
use ringfence::{Config, Error};
use timely::dataflow::ProbeHandle;

/// The keys of the job.
const KEYS: u64 = 100;

/// The numbers of a job that waits for its test, and the file that says that it need not any more.
const MANY: u64 = 60_000;
const ENOUGH: &str = "enough";

/// What the environment says of the job: how many numbers there are, and the pause at each.
fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// Counts numbers by key; each line is a key and how many of it there were so far.
fn count(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "out", config)
}

/// There is a pause at each number until a test has seen enough, and wrote a file that says so.
fn count_into(place: &Path, out: &str, config: Config) -> Result<(), Error> {
    let (numbers, pause_us) = (variable("NUMBERS", 2_000), variable("PAUSE_US", 500));
    let (out, enough) = (place.join(out), place.join(ENOUGH));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let enough = enough.clone();
            per_share(move |share| {
                let (enough, mut hurries) = (enough.clone(), false);
                (0..numbers).filter(move |n| n % share.count == share.index).inspect(move |_| {
                    hurries = hurries || enough.exists();
                    if !hurries {
                        thread::sleep(Duration::from_micros(pause_us));
                    }
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced("counts", |n| n % KEYS, 0u64, number)
            .sink_fenced("totals", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

/// Gives each number of a key the next count of that key.
pub(crate) fn number(count: &mut u64, n: u64, out: &mut Give<'_, (u64, u64)>) {
    *count += 1;
    out.give((n % KEYS, *count));
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

/// Starts a job of [`MANY`] numbers that takes its time until the test has seen [`ENOUGH`].
fn slow(place: &Path, flags: &str) -> Running {
    start_with("count", place, flags, |command| {
        command.env("NUMBERS", MANY.to_string()).env("PAUSE_US", "1000");
    })
}

/// Waits for the exact end of a slow job.
#[track_caller]
fn finish(place: &Path, running: Running) -> Ran {
    fs::write(place.join(ENOUGH), "").unwrap();
    let ran = running.wait();
    ran.assert_success();
    ran.assert_no_panic();
    assert_exact(&place.join("out"), MANY, &ran);
    ran
}

/// Kills a process that the report names.
fn kill_node(place: &Path, node: u64, signal: Signal) {
    let events = events(&place.join("report.json"));
    let started = of_kind(&events, "started").find(|event| event["node"] == node).unwrap();
    let process = started["process_id"].as_u64().unwrap();
    kill(Pid::from_raw(process as i32), signal).unwrap();
}

/// Whether a line with this text was told.
fn is_told(place: &Path, text: &str) -> bool {
    of_kind(&events(&place.join("report.json")), "message")
        .any(|event| event["text"].as_str().is_some_and(|told| told.contains(text)))
}

/// The latest view.
fn view(place: &Path) -> u64 {
    let events = events(&place.join("report.json"));
    of_kind(&events, "view").filter_map(|event| event["number"].as_u64()).max().unwrap_or(0)
}

pub(crate) const JOBS: &[(&str, Job)] = &[
    ("count", count),
    ("sleep", ends::sleep_in_the_job),
    ("twice", programs::twice),
    ("different", programs::different),
    ("parallel", programs::parallel),
    ("chatter", reports::chatter),
    ("careless", programs::careless),
    ("careful", programs::careful),
    ("skips", programs::skips),
    ("spoilt", reports::spoilt),
    ("copy", reports::copy),
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "a_report_on_a_full_disk_ends_and_the_job_goes_on",
            reports::a_report_on_a_full_disk_ends_and_the_job_goes_on,
        ),
        test(
            "a_report_whose_directory_is_gone_is_told_and_the_job_goes_on",
            reports::a_report_whose_directory_is_gone_is_told_and_the_job_goes_on,
        ),
        test("closed_pipes_end_no_job", reports::closed_pipes_end_no_job),
        test(
            "a_flood_of_hellos_changes_nothing_and_is_a_few_lines",
            strangers::a_flood_of_hellos_changes_nothing_and_is_a_few_lines,
        ),
        test(
            "hellos_for_the_next_view_keep_nobody_from_it",
            strangers::hellos_for_the_next_view_keep_nobody_from_it,
        ),
        test(
            "a_terminal_that_takes_nothing_holds_no_job_up",
            reports::a_terminal_that_takes_nothing_holds_no_job_up,
        ),
        test("a_register_that_is_away_is_waited_for", ends::a_register_that_is_away_is_waited_for),
        test(
            "a_register_that_takes_nothing_new_is_waited_for",
            ends::a_register_that_takes_nothing_new_is_waited_for,
        ),
        test(
            "a_node_that_is_asked_to_end_leaves_and_the_others_go_on",
            ends::a_node_that_is_asked_to_end_leaves_and_the_others_go_on,
        ),
        test(
            "whoever_is_asked_to_end_does_so_whatever_the_job_does",
            ends::whoever_is_asked_to_end_does_so_whatever_the_job_does,
        ),
        test(
            "a_launcher_that_is_asked_to_end_leaves_nothing_behind",
            ends::a_launcher_that_is_asked_to_end_leaves_nothing_behind,
        ),
        test(
            "a_node_that_dies_early_is_told_by_its_name",
            ends::a_node_that_dies_early_is_told_by_its_name,
        ),
        test("two_jobs_of_one_program_both_run", programs::two_jobs_of_one_program_both_run),
        test(
            "two_jobs_of_processes_by_hand_both_run",
            programs::two_jobs_of_processes_by_hand_both_run,
        ),
        test(
            "a_poisoned_lock_of_the_job_is_explained_where_it_bites",
            programs::a_poisoned_lock_of_the_job_is_explained_where_it_bites,
        ),
        test(
            "flags_behind_arguments_of_the_job_are_read",
            programs::flags_behind_arguments_of_the_job_are_read,
        ),
        test("an_unknown_host_is_told_at_once", programs::an_unknown_host_is_told_at_once),
        test(
            "an_error_is_told_once_by_the_nodes_and_once_at_the_end",
            reports::an_error_is_told_once_by_the_nodes_and_once_at_the_end,
        ),
        test(
            "percentages_only_rise_across_a_failure",
            reports::percentages_only_rise_across_a_failure,
        ),
    ]
}
