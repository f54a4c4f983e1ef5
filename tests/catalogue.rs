//! The same job everywhere, and first errors: what can be known when a job is built is said then, with the
//! names of both sides, and nothing waits for ever without a word.
//!
//! This executable is the tests, the launcher and the nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::path::Path;
use std::time::Duration;

use ringfence::prelude::*;
use ringfence::{Config, Error};
use support::own::{self, test};
use support::{Ran, of_kind};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concat, Inspect};

fn main() {
    own::main(
        &[
            ("difflow", difflow),
            ("diffname", diffname),
            ("difftype", difftype),
            ("diffplain", diffplain),
            ("diffshare", diffshare),
            ("difflate", difflate),
        ],
        vec![
            test("other_dataflows_on_other_nodes_end_the_job", other_dataflows_on_other_nodes),
            test("other_dataflows_on_other_workers_end_the_job", other_dataflows_on_other_workers),
            test("other_names_end_the_job", other_names),
            test("other_types_end_the_job", other_types),
            test("operators_without_protection_count", operators_without_protection_count),
            test("other_partition_counts_end_the_job", other_partition_counts),
            test("a_job_that_differs_after_a_failure_ends", a_job_that_differs_after_a_failure),
        ],
    )
}

/// Numbers 0..n over all shares, with a pause of a millisecond each.
fn numbers(n: u64) -> impl Source<Item = u64> {
    per_share(move |share| (share.index..n).step_by(share.count as usize).inspect(|_| pause(1)))
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn count(count: &mut u64, n: u64, out: &mut Give<'_, (u64, u64)>) {
    *count += 1;
    out.give((n % 100, *count));
}

/// Runs a job of one dataflow, whose builder is told the place and the worker's index.
fn run(
    place: &Path,
    config: Config,
    build: impl Fn(&Path, usize, timely::dataflow::Scope<'_, u64>) + Send + Sync + 'static,
) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let index = worker.index();
        worker.dataflow::<u64, _, _>(|scope| build(&place, index, scope));
    })?;
    Ok(())
}

/// Runs a job until it ends, in a place of its own.
fn end_of(job: &str, flags: &str) -> (tempfile::TempDir, Ran) {
    let place = tempfile::tempdir().unwrap();
    let ran = own::start(job, place.path(), flags).wait();
    (place, ran)
}

/// The number of views that a run had.
fn views(place: &Path) -> usize {
    let events = support::events(&place.join("report.json"));
    let numbers = of_kind(&events, "view").filter_map(|event| event["number"].as_u64());
    numbers.max().unwrap_or(0) as usize
}

/// Asserts that a job ended in its first view, before anything was committed, and said all of `texts`.
#[track_caller]
fn assert_refused(job: &str, flags: &str, texts: &[&str]) {
    let (place, ran) = end_of(job, flags);
    ran.assert_failed(1, texts);
    let events = support::events(&place.path().join("report.json"));
    assert_eq!(of_kind(&events, "commit").count(), 0, "{ran}");
    assert_eq!(views(place.path()), 1, "{ran}");
}

fn difflow(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        let numbers = numbers(3_000).to_stream_fenced(scope, "numbers");
        let out = LineFiles::new(place.join("out"));
        if index == 0 {
            numbers.fold_fenced("counts", |n| n % 100, 0, count).sink_fenced("out", out);
        } else {
            numbers.map(|n| (n, n)).sink_fenced("out", out);
        }
    })
}

fn other_dataflows_on_other_nodes() {
    let texts = [
        "do not build the same job",
        "each worker of node 0 has fold_fenced \"counts\"",
        "each worker of node 1 has sink_fenced \"out\"",
    ];
    assert_refused("difflow", "--local 2", &texts);
}

fn other_dataflows_on_other_workers() {
    let texts = ["do not build the same job", "fold_fenced \"counts\"", "sink_fenced \"out\""];
    assert_refused("difflow", "-w 2", &texts);
    assert_refused("difflow", "--local 2 -w 2", &texts);
}

fn diffname(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        numbers(3_000)
            .to_stream_fenced(scope, "numbers")
            .fold_fenced(&format!("counts-{index}"), |n| n % 100, 0, count)
            .sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn other_names() {
    for flags in ["--local 2", "-w 2"] {
        assert_refused("diffname", flags, &["\"counts-0\"", "\"counts-1\""]);
    }
}

fn difftype(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        let numbers = numbers(3_000).to_stream_fenced(scope, "numbers");
        let counts = match index {
            0 => numbers.fold_fenced("counts", |n| n % 100, 0, count),
            // The same name and the same records, and keys of another type.
            _ => numbers.fold_fenced("counts", |n| (n % 100) as u32, 0, count),
        };
        counts.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn other_types() {
    for flags in ["--local 2", "-w 2"] {
        assert_refused("difftype", flags, &["state \"counts\"", "u64 / ", "u32 / "]);
    }
}

fn diffplain(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        let mut counts = numbers(3_000).to_stream_fenced(scope, "numbers").fold_fenced(
            "counts",
            |n| n % 100,
            0,
            count,
        );
        if index == 1 {
            counts = counts.inspect(|_| {});
        }
        counts.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn operators_without_protection_count() {
    for flags in ["--local 2", "-w 2"] {
        let same = "sink_fenced \"out\", after ";
        assert_refused("diffplain", flags, &["do not build the same job", same]);
    }
}

fn diffshare(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        let numbers = numbers(3_000).to_stream_fenced(scope, "numbers");
        let by = Exchange::new(|n: &u64| *n);
        let pass = || {
            numbers.unary_fenced(by, "pass", |_, _| {
                |input, output| {
                    input.for_each(|capability, numbers: &mut Vec<u64>| {
                        output.session(&capability).give_iterator(numbers.drain(..));
                    });
                }
            })
        };
        let passed = scope.fence().partitions(4 + index as u32, pass);
        passed.container::<Vec<u64>>().sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn other_partition_counts() {
    assert_refused("diffshare", "--local 2", &["4 partitions of \"pass\"", "5 partitions"]);
}

/// A job that is the same everywhere, until there is a file.
fn difflate(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, index, scope| {
        let has_failed = place.join("failed").exists();
        let flag = place.join("failed");
        let mut counts = numbers(3_000).to_stream_fenced(scope, "numbers").fold_fenced(
            "counts",
            |n| n % 100,
            0,
            move |total, n, out| {
                if n == 500 && std::fs::File::create_new(&flag).is_ok() {
                    panic!("on purpose");
                }
                count(total, n, out);
            },
        );
        if has_failed && index == 1 {
            counts = counts.concat(numbers(1).to_stream_fenced(scope, "more").map(|n| (n, n)));
        }
        counts.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn a_job_that_differs_after_a_failure() {
    let (place, ran) = end_of("difflate", "--local 2");
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("\"more\""), "{ran}");
    assert_eq!(views(place.path()), 2, "{ran}");
}
