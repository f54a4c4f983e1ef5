//! Sizes: what a job may legitimately do is done whatever its size, and what is told of a failure is cut,
//! never dropped.
//!
//! What must be true: records, state, journals and results of any size come out exactly once, and no
//! text, however long, keeps a failure from being told and survived.
//!
//! This executable is the test, the launcher and the nodes; see `support/own.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence::prelude::*;
use ringfence::{Config, Error};
use serde_json::Value;
use support::own::{self, Job, long_test, start_with, test};
use support::{Ran, events, of_kind};

const KEYS: u64 = 1_000;

/// A number that a test gives to its job.
fn var(name: &str) -> u64 {
    let value = std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"));
    value.parse().unwrap_or_else(|_| panic!("{name}={value} is a number"))
}

/// The numbers below `N`, over all shares, with a pause of `US` microseconds before each.
fn numbers() -> impl Source<Item = u64> {
    let (count, pause) = (var("N"), Duration::from_micros(var("US")));
    per_share(move |share| {
        (0..count).filter(move |n| n % share.count == share.index).inspect(move |_| {
            if pause > Duration::ZERO {
                std::thread::sleep(pause);
            }
        })
    })
}

/// True once over all processes and generations.
fn once(place: &Path) -> bool {
    OpenOptions::new().write(true).create_new(true).open(place.join("once")).is_ok()
}

fn out(place: &Path) -> PathBuf {
    place.join("out")
}

/// Counts the numbers by key; once, or always, the count of number 500 panics with a long message.
fn panics(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    let (size, always) = (var("SIZE") as usize, var("ALWAYS") == 1);
    ringfence::execute(config, move |worker| {
        let place = place.clone();
        let directory = out(&place);
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .map(move |n| (n, if n == 500 { "r".repeat(size) } else { String::new() }))
                .fold_fenced(
                    "counts",
                    |(n, _)| n % KEYS,
                    0u64,
                    move |count, (n, _), out| {
                        if n == 500 && (always || once(&place)) {
                            panic!("{}", "x".repeat(size));
                        }
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// Sums up the lengths of texts of `SIZE` bytes by key.
fn documents(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .map(move |n| (n, "d".repeat(size)))
                .fold_fenced(
                    "lengths",
                    |(n, _)| n % KEYS,
                    0u64,
                    |sum, (n, text), out| {
                        *sum += text.len() as u64;
                        out.give((n % KEYS, *sum));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// The key of number 20 gets a value of `SIZE` bytes.
fn state(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "texts",
                    |n| n % KEYS,
                    String::new(),
                    move |text, n, out| {
                        if n == 20 {
                            *text = "z".repeat(size);
                        }
                        out.give((n, text.len() as u64));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// All numbers have one key, whose list grows by a text of `SIZE` bytes with each.
fn hot_key(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "list",
                    |_| 0u8,
                    Vec::<String>::new(),
                    move |list, _, out| {
                        list.push("x".repeat(size));
                        out.give(list.len() as u64);
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

const JOBS: &[(&str, Job)] =
    &[("panics", panics), ("documents", documents), ("state", state), ("hot_key", hot_key)];

/// Runs a job to its end, with numbers for its variables.
fn run(place: &Path, job: &str, flags: &str, vars: &[(&str, u64)]) -> Ran {
    let running = start_with(job, place, flags, |command| {
        command.envs(vars.iter().map(|(name, value)| (name, value.to_string())));
    });
    running.wait()
}

/// How often each line of the output is there.
fn lines(place: &Path) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for file in fs::read_dir(out(place)).unwrap() {
        for line in BufReader::new(fs::File::open(file.unwrap().path()).unwrap()).lines() {
            *lines.entry(line.unwrap()).or_default() += 1;
        }
    }
    lines
}

/// Asserts that each key has counted its numbers below `count`, `each` for each of them.
#[track_caller]
fn assert_counted(place: &Path, count: u64, each: u64) {
    let number = |n: u64| (format!("{}\t{}", n % KEYS, (n / KEYS + 1) * each), 1);
    let expected: BTreeMap<String, u64> = (0..count).map(number).collect();
    let lines = lines(place);
    let wrong = expected.iter().filter(|(line, count)| lines.get(*line) != Some(count)).count();
    assert!(lines == expected, "{wrong} of {count} lines are missing or there twice");
}

/// The last view of a run.
fn last_view(place: &Path) -> u64 {
    let events = events(&place.join("report.json"));
    events.iter().filter_map(|event| event["number"].as_u64()).max().unwrap_or(0)
}

/// The longest text in the report of a run.
fn longest_text(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(longest_text).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(longest_text).max().unwrap_or(0),
        _ => 0,
    }
}

fn a_panic_with_a_long_message_is_survived_and_told() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 3_000), ("US", 500), ("SIZE", 1_100_000), ("ALWAYS", 0)];
    let ran = run(place.path(), "panics", "--local 3", &vars);
    ran.assert_success();
    assert_counted(place.path(), 3_000, 1);
    assert_eq!(last_view(place.path()), 2, "{ran}");
    let events = events(&place.path().join("report.json"));
    let longest = events.iter().map(longest_text).max().unwrap();
    assert!(longest < 20_000, "a text of {longest} bytes was reported");
    let told = of_kind(&events, "failure")
        .any(|event| event.to_string().contains("xxxx... (cut: it has 1100000 bytes)"));
    assert!(told, "the panic's message is not told");
}

fn main() {
    own::main(
        JOBS,
        vec![test(
            "a_panic_with_a_long_message_is_survived_and_told",
            a_panic_with_a_long_message_is_survived_and_told,
        )],
    );
}
