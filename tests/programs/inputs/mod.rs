//! Inputs that are not what they were, inputs with nothing to say, files that are followed, and outputs that
//! go away. What must be true each time: the lines as of the start once each, or an error that names what
//! has changed; never other output with exit code 0.

mod edges;
mod files;
mod followed;
mod outputs;
mod shards;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::own::{Job, Test};
use crate::support::{Running, events, wait_until};
use ringfence::prelude::*;
use ringfence::{Config, Error};

pub(crate) const JOBS: &[(&str, Job)] = &[
    ("lines", lines_job),
    ("numbers", shards::job),
    ("two_sinks", outputs::two_sinks_job),
    ("early", outputs::early_job),
    ("by_hand", outputs::by_hand_job),
    ("followed", followed::job),
];

pub(crate) fn tests() -> Vec<Test> {
    let tests =
        [files::tests(), shards::tests(), outputs::tests(), edges::tests(), followed::tests()];
    tests.into_iter().flatten().collect()
}

/// How long each record takes, and where the input lies, by the environment.
const SLOW_US: &str = "INPUTS_SLOW_US";
const INPUT: &str = "INPUTS_INPUT";
/// So slow that 7,000 lines take more than a second.
const LINES_SLOWLY: &str = "500";

fn slowness() -> Duration {
    let text = std::env::var(SLOW_US).unwrap_or_default();
    Duration::from_micros(text.parse().unwrap_or(0))
}

/// Counts the lines of a file by their first eight characters, and writes each with its number.
fn lines_job(place: &Path, config: Config) -> Result<(), Error> {
    let input = std::env::var_os(INPUT).map_or_else(|| place.join("in.txt"), PathBuf::from);
    let (out, slow) = (place.join("out"), slowness());
    ringfence::execute(config, move |worker| {
        let input = input.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            TextFiles::new([input])
                .to_stream_fenced(scope, "lines")
                .map(move |line| {
                    std::thread::sleep(slow);
                    line
                })
                .fold_fenced(
                    "count",
                    |line: &String| line.chars().take(8).collect::<String>(),
                    0u64,
                    |count, line, out| {
                        *count += 1;
                        out.give((line, *count));
                    },
                )
                .sink_fenced("out", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

/// `line 00000000` and so on.
fn numbered(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("line {n:08}\n")).collect()
}

/// How often each first field stands in the files of an output.
fn output(directory: &Path) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("part-") {
            continue;
        }
        // A part that is being written may end anywhere.
        let bytes = fs::read(entry.path()).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let field = line.split('\t').next().unwrap_or_default();
            *counts.entry(field.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Asserts that an output has each of these lines once, and nothing else.
#[track_caller]
fn assert_lines(directory: &Path, expected: &str, why: &dyn std::fmt::Display) {
    let mut wanted = BTreeMap::<String, u64>::new();
    for line in expected.lines() {
        *wanted.entry(line.to_owned()).or_default() += 1;
    }
    let found = output(directory);
    let missing = wanted.iter().filter(|(line, count)| found.get(*line) < Some(*count)).count();
    let extra = found.iter().filter(|(line, count)| wanted.get(*line) < Some(*count)).count();
    assert_eq!((missing, extra), (0, 0), "missing and extra lines\n{why}");
}

/// Waits until something has come out, or the run has ended.
fn wait_for_output(running: &mut Running, directory: &Path) {
    wait_until("for the first output", || running.has_ended() || !output(directory).is_empty());
}

/// Waits until there was a view of this number.
fn wait_for_view(place: &Path, view: u64) {
    let report = place.join("report.json");
    wait_until("for the next view", || {
        let last = events(&report).iter().filter_map(|event| event["number"].as_u64()).max();
        last >= Some(view) || view == 0
    });
}
