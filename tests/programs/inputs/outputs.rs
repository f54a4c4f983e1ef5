//! Sinks that share a target, and outputs that go away while they are written.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ringfence::operators::verbs::sink::Release;
use ringfence::prelude::*;
use ringfence::{Config, Error};

use super::{LINES_SLOWLY, SLOW_US, numbered, output, slowness, wait_for_output};
use crate::support::own::{self, Test, test};
use crate::support::wait_until;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("two_sinks_on_one_directory_are_refused", one_directory),
        test("two_sinks_on_one_directory_are_refused_in_a_cluster", one_directory_in_a_cluster),
        test("two_sinks_of_the_jobs_own_on_one_target_are_refused", one_target),
        test("sinks_beside_each_other_are_none_of_that", beside_each_other),
        test("an_output_that_is_removed_is_named", || gone("remove")),
        test("an_output_that_is_renamed_is_named", || gone("rename")),
        test("a_part_of_an_output_that_is_removed_is_named", || gone("part")),
        test("a_part_of_an_output_that_is_cut_is_named", || gone("cut")),
        test("an_output_that_is_removed_once_it_is_whole_is_named", gone_when_whole),
        test("a_job_fed_by_hand_tells_of_its_output_too", gone_by_hand),
    ]
}

/// Where two sinks of a job write, and whether they are in different dataflows.
fn two_sinks(config: Config, first: &Path, second: &Path, apart: bool) -> Result<(), Error> {
    let (first, second) = (first.to_owned(), second.to_owned());
    ringfence::execute(config, move |worker| {
        let numbers = || per_share(|_share| 0..100u64);
        worker.dataflow::<u64, _, _>(|scope| {
            let stream = numbers().to_stream_fenced(scope, "numbers");
            stream.clone().sink_fenced("left", LineFiles::new(&first));
            if !apart {
                stream.sink_fenced("right", LineFiles::new(&second));
            }
        });
        if apart {
            worker.dataflow::<u64, _, _>(|scope| {
                let stream = numbers().to_stream_fenced(scope, "again");
                stream.sink_fenced("right", LineFiles::new(&second));
            });
        }
    })?;
    Ok(())
}

/// Both sinks of the job `two_sinks` write here.
pub(crate) fn two_sinks_job(place: &Path, config: Config) -> Result<(), Error> {
    two_sinks(config, &place.join("out"), &place.join("out"), false)
}

fn one_directory() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path();
    fs::create_dir(base.join("real")).unwrap();
    std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
    for (first, second) in [
        ("out", "out"),
        ("out", "./real/../out/"),
        ("real/out", "link/out"),
        ("real", "link"),
        ("out", "out/inside"),
        ("out/inside/deep", "out"),
    ] {
        // In one dataflow; in two of them for those that are one place.
        for apart in [false, true].into_iter().take(if first == second { 2 } else { 1 }) {
            let (first, second) = (base.join(first), base.join(second));
            let error = two_sinks(Config::single().workers(2), &first, &second, apart).unwrap_err();
            let text = error.to_string();
            for part in ["sink \"right\"", "sink \"left\"", "give each sink its own target"] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
        }
    }
    assert!(!base.join("out").exists(), "nothing was written");
}

fn one_directory_in_a_cluster() {
    let place = tempfile::tempdir().unwrap();
    let ran = own::start("two_sinks", place.path(), "--local 2").wait();
    ran.assert_failed(1, &["sink \"right\"", "sink \"left\"", "out"]);
    assert!(!place.path().join("out").exists(), "{ran}");
}

/// A sink of the job's own, to a table that other sinks may name, too.
struct Table(&'static str);

impl Sink<u64> for Table {
    type Position = u64;

    fn prepare(&mut self, _at: &mut u64, _rows: &[u64]) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn release(&mut self, _id: &Release, _prepared: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn target(&self) -> io::Result<Option<String>> {
        Ok(Some(format!("table:{}", self.0)))
    }
}

fn one_target() {
    let run = |left: &'static str, right: &'static str| {
        ringfence::execute(Config::single(), move |worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                let numbers = per_share(|_share| 0..10u64).to_stream_fenced(scope, "numbers");
                numbers.clone().sink_fenced("left", Table(left));
                numbers.sink_fenced("right", Table(right));
            });
        })
    };
    let text = run("totals", "totals").unwrap_err().to_string();
    assert!(text.contains("sink \"right\" would write to table:totals"), "{text}");
    run("totals", "totals of others").unwrap();
}

fn beside_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (place.path().join("out"), place.path().join("out2"));
    two_sinks(Config::single().workers(2), &first, &second, false).unwrap();
    assert_eq!((output(&first).len(), output(&second).len()), (100, 100));
}

fn gone(how: &str) {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("in.txt"), numbered(0, 7_000)).unwrap();
    let slow = |command: &mut Command| {
        command.env(SLOW_US, LINES_SLOWLY);
    };
    let mut running = own::start_with("lines", place.path(), "--local 3", slow);
    let out = place.path().join("out");
    wait_for_output(&mut running, &out);
    let part = || {
        let mut parts = out.read_dir().unwrap().map(|entry| entry.unwrap().path());
        parts.find(|path| path.metadata().unwrap().len() > 0 && !path.ends_with(MARKER)).unwrap()
    };
    match how {
        "rename" => fs::rename(&out, place.path().join("elsewhere")).unwrap(),
        "part" => fs::remove_file(part()).unwrap(),
        "cut" => fs::File::options().write(true).open(part()).unwrap().set_len(3).unwrap(),
        _ => fs::remove_dir_all(&out).unwrap(),
    }
    let ran = running.wait();
    let named = format!("{}", out.display());
    ran.assert_failed(1, &["sink \"out\"", &named, "output must not be"]);
}

const MARKER: &str = ".ringfence-unfinished";

/// One output is complete early, another goes on until there is a file.
pub(crate) fn early_job(place: &Path, config: Config) -> Result<(), Error> {
    let (early, late, go) = (place.join("early"), place.join("late"), place.join("go"));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = per_share(|share| (0..100u64).map(move |n| (share.index, n)));
            numbers.to_stream_fenced(scope, "few").sink_fenced("early", LineFiles::new(&early));
        });
        let go = go.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let ticks = per_share(move |_share| {
                let go = go.clone();
                (0..u64::MAX).take_while(move |_tick| {
                    std::thread::sleep(Duration::from_micros(50));
                    !go.exists()
                })
            });
            ticks.to_stream_fenced(scope, "ticks").sink_fenced("late", LineFiles::new(&late));
        });
    })?;
    Ok(())
}

fn gone_when_whole() {
    let place = tempfile::tempdir().unwrap();
    let running = own::start("early", place.path(), "--local 2");
    let early = place.path().join("early");
    let whole = || output(&early).values().sum::<u64>() == 200;
    wait_until("for the early output", whole);
    // Long enough for the sink to see that it is whole; if not, it is named all the same.
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_dir_all(&early).unwrap();
    fs::write(place.path().join("go"), "").unwrap();
    let ran = running.wait();
    ran.assert_failed(1, &[&early.display().to_string(), "output must not be"]);
}

/// A job that is fed round by round, and waits for each to be released.
pub(crate) fn by_hand_job(place: &Path, config: Config) -> Result<(), Error> {
    let (out, slow) = (place.join("out"), slowness());
    ringfence::execute(config, move |worker| {
        let mut input = FencedInput::<u64, u64>::new("fed");
        worker.dataflow::<u64, _, _>(|scope| {
            input.to_stream(scope).sink_fenced("out", LineFiles::new(&out));
        });
        for round in input.resume()..200 {
            for share in input.shares() {
                input.send_to(share.index, round);
            }
            input.advance_to(round + 1);
            worker.step();
            std::thread::sleep(slow);
        }
    })?;
    Ok(())
}

fn gone_by_hand() {
    let place = tempfile::tempdir().unwrap();
    let slow = |command: &mut Command| {
        command.env(SLOW_US, "10000");
    };
    let mut running = own::start_with("by_hand", place.path(), "--local 3", slow);
    let out = place.path().join("out");
    wait_for_output(&mut running, &out);
    fs::remove_dir_all(&out).unwrap();
    let ran = running.wait();
    ran.assert_failed(1, &["sink \"out\"", &out.display().to_string(), "output must not be"]);
}
