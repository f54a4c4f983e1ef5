//! The same job everywhere, and first errors: what can be known when a job is built is said then, with the
//! names of both sides, and nothing waits for ever without a word.

mod drops;

use std::path::Path;
use std::time::Duration;

use crate::support::own::{self, Job, Test, long_test, test};
use crate::support::{Ran, events, of_kind, wait_until};
use ringfence::operators::testing::drip;
use ringfence::prelude::*;
use ringfence::{Config, Error};
use timely::dataflow::InputHandle;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::{Filter, Map};
use timely::dataflow::operators::{Concat, Input, Inspect, Leave, Probe, ToStream};

pub(crate) const JOBS: &[(&str, Job)] = &[
    ("twodf", drops::twodf),
    ("difflow", difflow),
    ("diffname", diffname),
    ("difftype", difftype),
    ("diffplain", diffplain),
    ("diffshare", diffshare),
    ("difflate", difflate),
    ("names", names),
    ("fewpartitions", fewpartitions),
    ("bombs", bombs),
    ("buildpanic", buildpanic),
    ("neverstep", neverstep),
    ("nondetkey", nondetkey),
    ("forgot", forgot),
    ("beside", beside),
];

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("other_dataflows_on_other_nodes_end_the_job", other_dataflows_on_other_nodes),
        test("other_dataflows_on_other_workers_end_the_job", other_dataflows_on_other_workers),
        test("other_names_end_the_job", other_names),
        test("other_types_end_the_job", other_types),
        test("operators_without_protection_count", operators_without_protection_count),
        test("other_partition_counts_end_the_job", other_partition_counts),
        test("a_job_that_differs_after_a_failure_ends", a_job_that_differs_after_a_failure),
        test("names_that_cannot_be_told_apart_are_refused", names_that_cannot_be_told_apart),
        test("names_are_shown_escaped_and_work", names_are_shown_escaped),
        test("fewer_partitions_than_workers_work_or_are_refused", fewer_partitions_than_workers),
        test("a_drop_that_panics_is_told_and_changes_nothing", a_drop_that_panics),
        test("a_panic_while_building_is_told_as_such", a_panic_while_building),
        test("a_closure_that_never_steps_is_told", a_closure_that_never_steps),
        test("a_key_that_changes_is_told", a_key_that_changes),
        test("inputs_without_protection_are_refused", inputs_without_protection),
        test("inputs_that_need_no_protection_are_not_refused", inputs_that_need_none),
    ];
    tests.extend(drops::tests());
    tests
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
    let events = events(&place.join("report.json"));
    let numbers = of_kind(&events, "view").filter_map(|event| event["number"].as_u64());
    numbers.max().unwrap_or(0) as usize
}

/// Asserts that a job ended in its first view, before anything was committed, and said all of `texts`.
#[track_caller]
fn assert_refused(job: &str, flags: &str, texts: &[&str]) {
    let (place, ran) = end_of(job, flags);
    ran.assert_failed(1, texts);
    let events = events(&place.path().join("report.json"));
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

/// The lines that a job has written, in order.
fn lines(place: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(place.join("out")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

/// What `count` makes of the numbers 0..n, as lines.
fn counts(n: u64) -> Vec<String> {
    let mut lines: Vec<_> = (0..n).map(|n| format!("{}\t{}", n % 100, n / 100 + 1)).collect();
    lines.sort();
    lines
}

/// Which case of a job a test means: the job's processes inherit it.
const CASE: &str = "RINGFENCE_TEST_CASE";

fn case() -> String {
    std::env::var(CASE).unwrap_or_default()
}

fn end_of_case(job: &str, case: &str, flags: &str) -> (tempfile::TempDir, Ran) {
    let place = tempfile::tempdir().unwrap();
    let ran = own::start_with(job, place.path(), flags, |command| {
        command.env(CASE, case);
    });
    (place, ran.wait())
}

fn names(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, _, scope| {
        let case = case();
        let numbers = numbers(300).to_stream_fenced(scope, "numbers");
        let fold = |name: &str| numbers.clone().fold_fenced(name, |n| n % 100, 0, count);
        let counts = match case.as_str() {
            "state" => {
                let by = Exchange::new(|n: &u64| *n);
                let wrapped = numbers.clone().unary_fenced(by, "w", |_, state| {
                    let mut sums = state.map::<u64, u64>("s");
                    move |input, output| {
                        input.for_each(|capability, numbers: &mut Vec<u64>| {
                            for n in numbers.drain(..) {
                                *sums.entry(n % 100).or_insert(0) += 1;
                                output.session(&capability).give((n, 0));
                            }
                        });
                    }
                });
                wrapped.container::<Vec<(u64, u64)>>().concat(fold("w.s"))
            }
            "timers" => {
                let sums = numbers.clone().stateful_fenced(
                    "w",
                    |n| n % 100,
                    |at, event, out| {
                        if let Event::Record(n) = event {
                            *at.state += 1u64;
                            out.give((n, *at.state));
                        }
                    },
                );
                fold("w.timers").concat(sums)
            }
            "twice" => fold("w").concat(fold("w")),
            "path" => fold("a/w").concat(scope.fence().named("a", || fold("w"))),
            "empty" => fold(""),
            "long" => fold(&"w".repeat(2_000)),
            _ => fold(&case),
        };
        counts.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn names_that_cannot_be_told_apart() {
    let cases = [
        ("state", "state \"w.s\" of operator \"w\" and operator \"w.s\" cannot be distinguished"),
        (
            "timers",
            "state \"w.timers\" of operator \"w\" and operator \"w.timers\" cannot be distinguished",
        ),
        ("twice", "two protected operators are named \"w\""),
        ("path", "two protected operators are named \"a/w\""),
        ("empty", "the name \"\" is empty"),
        ("long", "has 2000 bytes, and at most 1024 may be"),
    ];
    for (case, text) in cases {
        let (place, ran) = end_of_case("names", case, "-w 2");
        ran.assert_failed(1, &[text]);
        assert!(!ran.stderr.contains(&"w".repeat(100)), "{ran}");
        assert_eq!(views(place.path()), 1, "{ran}");
    }
}

fn names_are_shown_escaped() {
    let long = "ö".repeat(512);
    for case in ["\u{1b}[31mred\r\nnode 0: forged", long.as_str(), "..", " ", "%s/\\\"'"] {
        let (place, ran) = end_of_case("names", case, "--local 2 --fault panic:1@100ms");
        ran.assert_success();
        assert_eq!(lines(place.path()), counts(300), "{ran}");
        assert!(
            !ran.stderr.contains('\u{1b}') && !ran.stderr.contains("\nnode 0: forged"),
            "{ran}"
        );
    }
}

fn fewpartitions(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, _, scope| {
        let numbers = numbers(300).to_stream_fenced(scope, "numbers");
        let out = LineFiles::new(place.join("out"));
        match case().as_str() {
            "exchange" => {
                let counts = numbers.fold_fenced("counts", |n| n % 100, 0, count);
                counts.exchange(|(key, _)| *key).sink_fenced("out", out);
            }
            "pipeline" => {
                let passed = numbers.unary_fenced(Pipeline, "passed", |_, _| {
                    |input, output| {
                        input.for_each(|capability, numbers: &mut Vec<u64>| {
                            output.session(&capability).give_iterator(numbers.drain(..));
                        });
                    }
                });
                passed.container::<Vec<u64>>().sink_fenced("out", out);
            }
            _ => {
                let (handle, back) = scope.feedback_fenced(1);
                let rounds = numbers.concat(back);
                rounds.clone().filter(|n| *n > 300).connect_loop_fenced("turns", handle);
                rounds.sink_fenced("out", out);
            }
        }
    })
}

fn fewer_partitions_than_workers() {
    for flags in ["--partitions 2 --local 3", "--partitions 1 -w 3"] {
        let flags = format!("{flags} --fault panic:0@100ms");
        let (place, ran) = end_of_case("fewpartitions", "exchange", &flags);
        ran.assert_success();
        assert_eq!(lines(place.path()), counts(300), "{ran}");
        for case in ["pipeline", "loop"] {
            let (place, ran) = end_of_case("fewpartitions", case, &flags);
            ran.assert_failed(1, &["stay at their worker", "partitions for", "(--partitions)"]);
            assert_eq!(views(place.path()), 1, "{ran}");
        }
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb went off");
    }
}

fn bombs(place: &Path, config: Config) -> Result<(), Error> {
    run(place, config, |place, _, scope| {
        let (one, other) = (Bomb, Bomb);
        let numbers = numbers(300).to_stream_fenced(scope, "numbers");
        let counts = numbers.fold_fenced(
            "counts",
            |n| n % 100,
            0,
            move |total, n, out| {
                let _ = &one;
                count(total, n, out);
            },
        );
        let by = Exchange::new(|(key, _): &(u64, u64)| *key);
        let passed = counts.unary_fenced(by, "passed", move |_, _| {
            let bomb = Bomb;
            move |input, output| {
                let _ = &bomb;
                input.for_each(|capability, counts: &mut Vec<(u64, u64)>| {
                    output.session(&capability).give_iterator(counts.drain(..));
                });
            }
        });
        let mut passed = passed.container::<Vec<(u64, u64)>>();
        if case() == "plain" {
            passed = passed.inspect(move |_| {
                let _ = &other;
            });
        } else {
            std::mem::forget(other);
        }
        passed.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn a_drop_that_panics() {
    for flags in ["-w 2", "--local 2 --fault panic:1@100ms", "--local 2 --fault kill:1@100ms"] {
        let (place, ran) = end_of_case("bombs", "", flags);
        ran.assert_success();
        assert_eq!(lines(place.path()), counts(300), "{ran}");
        assert!(
            ran.stderr.contains("a `Drop` of \"counts\" panicked, which changes nothing"),
            "{ran}"
        );
    }
    // In an operator that is not protected it is a panic like any other, and told as that.
    let (_place, ran) = end_of_case("bombs", "plain", "-w 2");
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("a bomb went off (see --restarts)"), "{ran}");
}

fn buildpanic(_place: &Path, config: Config) -> Result<(), Error> {
    ringfence::execute(config, |_| panic!("no such table"))?;
    Ok(())
}

fn a_panic_while_building() {
    for flags in ["-w 2", "--local 2"] {
        let (_place, ran) = end_of("buildpanic", flags);
        assert_eq!(ran.status.code(), Some(1), "{ran}");
        let text = "while the dataflows were built: no such table (see --restarts)";
        assert!(ran.stderr.contains(text), "{ran}");
        assert!(ran.elapsed < Duration::from_secs(60), "{ran}");
    }
}

fn neverstep(_place: &Path, config: Config) -> Result<(), Error> {
    ringfence::execute(config, |worker| {
        while worker.index() == 1 {
            pause(100);
        }
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = numbers(300).to_stream_fenced(scope, "numbers");
            numbers.inspect_fenced("seen", |_, _| {});
        });
    })?;
    Ok(())
}

fn a_closure_that_never_steps() {
    let place = tempfile::tempdir().unwrap();
    let mut running = own::start("neverstep", place.path(), "--local 2");
    wait_until("a line that says so", || {
        assert!(!running.has_ended());
        let events = events(&place.path().join("report.json"));
        of_kind(&events, "message").any(|event| {
            let text = event["text"].as_str().unwrap_or_default();
            event["node"] == 1
                && text.starts_with("worker(s) 0 still build their dataflows after 1")
        })
    });
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(running.wait().stderr.contains("still build their dataflows"));
}

fn nondetkey(place: &Path, config: Config) -> Result<(), Error> {
    let calls = std::sync::atomic::AtomicU64::new(0);
    let calls = std::sync::Arc::new(calls);
    run(place, config, move |place, _, scope| {
        let calls = std::sync::Arc::clone(&calls);
        let key = move |_: &u64| calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let numbers = numbers(300).to_stream_fenced(scope, "numbers");
        let counts = numbers.fold_fenced("counts", key, 0, count);
        counts.sink_fenced("out", LineFiles::new(place.join("out")));
    })
}

fn a_key_that_changes() {
    let (_place, ran) = end_of("nondetkey", "--local 2");
    ran.assert_failed(1, &["\"counts\"", "does the key function give the same key"]);
}

/// A job with a forgotten input, of several kinds.
fn forgot(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let out = |name: &str| LineFiles::new(place.join(name));
        let (index, peers) = (worker.index() as u64, worker.peers() as u64);
        let mut input = InputHandle::<u64, _>::new();
        let case = case();
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let fed = match case.as_str() {
                "to_stream" => (0..300u64).to_stream(scope).container::<Vec<u64>>(),
                "behind" => {
                    let fed = scope.input_from(&mut input).container::<Vec<u64>>();
                    fed.map(|n| n + 1).filter(|n| *n > 0).exchange(|n| *n).inspect(|_| {})
                }
                "region" => {
                    let input = &mut input;
                    scope.region(|inner| inner.input_from(input).leave(scope))
                }
                "beside" => {
                    let fed = numbers(300).to_stream_fenced(scope, "numbers");
                    fed.concat(scope.input_from(&mut input))
                }
                _ => scope.input_from(&mut input).container::<Vec<u64>>(),
            };
            let (probe, counts) = fed.fold_fenced("counts", |n| n % 100, 0, count).probe();
            counts.sink_fenced("out", out("out"));
            probe
        });
        for round in 0..3 {
            for n in (0..100).filter(|n| n % peers == index) {
                input.send(n);
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
        }
    })?;
    Ok(())
}

fn inputs_without_protection() {
    for case in ["input_from", "to_stream", "behind", "region", "beside"] {
        let after = if case == "beside" { "after \"numbers\" and " } else { "" };
        let place = format!("{after}before \"counts\" an operator without inputs was built");
        let (scene, ran) = end_of_case("forgot", case, "--local 2");
        ran.assert_failed(1, &[&place, "Feed a `FencedInput`", "`scope.vouched(..)`"]);
        assert_eq!(views(scene.path()), 1, "{ran}");
    }
}

/// A job with inputs that need no protection, beside protected ones.
fn beside(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        // A dataflow of its own, before, and after.
        let look = |worker: &mut timely::worker::Worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                (0..3u64).to_stream(scope).container::<Vec<u64>>().inspect(|_| {});
            });
        };
        look(worker);
        let mut input = FencedInput::<u64, u64>::new("fed");
        worker.dataflow::<u64, _, _>(|scope| {
            let shown = scope.vouched(|scope| (0..3u64).to_stream(scope));
            shown.container::<Vec<u64>>().inspect(|_| {});
            let fed = input.to_stream(scope);
            let counts = numbers(300).to_stream_fenced(scope, "numbers").concat(fed);
            let counts = counts.fold_fenced("counts", |n| n % 100, 0, count);
            counts.sink_fenced("out", LineFiles::new(place.join("out")));
            (0..3u64).to_stream(scope).container::<Vec<u64>>().inspect(|_| {});
        });
        look(worker);
        let mut second = FencedSession::<u64, u64>::new("second");
        let mut trace = worker.dataflow::<u64, _, _>(|scope| {
            second.to_collection(scope).map(|n| (n, n)).arrange_by_key_fenced("by key").trace()
        });
        worker.dataflow::<u64, _, _>(|scope| {
            let pairs = trace.import(scope).as_collection(|n, _| *n);
            pairs.sink_fenced("pairs", LineFiles::new(place.join("pairs")));
        });
        look(worker);
    })?;
    Ok(())
}

fn inputs_that_need_none() {
    let (place, ran) = end_of_case("beside", "", "--local 2 --fault panic:1@100ms");
    ran.assert_success();
    assert_eq!(lines(place.path()), counts(300), "{ran}");
}
