//! Sources of the job's own: lists that differ, shards with nothing to say, shards that fail, none at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringfence::prelude::*;
use ringfence::{Config, Error};

use super::{assert_lines, output};
use crate::support::own::{self, Test, test};
use crate::support::{Ran, free_addresses, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("lists_of_shards_that_differ_are_refused_by_name", lists_that_differ),
        test("shards_whose_contents_differ_are_refused_by_name", contents_that_differ),
        test("a_shard_with_nothing_to_say_holds_nobody_up_and_spins_not", || idle("-w 1", 0)),
        test("nor_does_it_in_a_cluster_of_which_a_node_is_killed", || {
            idle("--local 3 --fault kill:1@1s", 2);
        }),
        test("a_shard_that_fails_is_named_with_its_source", failing),
        test("without_shards_a_job_is_done", without_shards),
        test("a_shard_that_is_listed_twice_is_named", listed_twice),
    ]
}

const SHARDS: &str = "INPUTS_SHARDS";
const VERSION: &str = "INPUTS_VERSION";
const RECORDS: u64 = 1000;

/// Shards of numbers. The shard `idle` has nothing to say until there is a file, and then one number.
struct Numbers {
    shards: Vec<String>,
    version: String,
    go: PathBuf,
}

impl Numbers {
    fn of(shards: &[&str], go: &Path) -> Self {
        let shards = shards.iter().map(|shard| (*shard).to_owned()).collect();
        Numbers { shards, version: String::new(), go: go.to_owned() }
    }
}

struct NumberReader {
    shard: String,
    next: u64,
    go: PathBuf,
    reads: u64,
    since: Instant,
}

impl Source for Numbers {
    type Item = String;
    type Position = u64;
    type Reader = NumberReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        Ok(self.shards.clone())
    }

    fn fingerprint(&self, _shard: &str) -> io::Result<Vec<u8>> {
        Ok(self.version.clone().into_bytes())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<NumberReader> {
        let (shard, go) = (shard.to_owned(), self.go.clone());
        let next = at.copied().unwrap_or(0);
        Ok(NumberReader { shard, next, go, reads: 0, since: Instant::now() })
    }
}

impl Reader for NumberReader {
    type Item = String;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<String>) -> io::Result<bool> {
        self.reads += 1;
        if self.shard == "fails" && self.next >= 100 {
            return Err(io::Error::other("no more of this"));
        }
        if self.shard == "idle" {
            // About ten looks a second are enough for an idle shard, and more at the beginning.
            let allowed = 40 + 12 * self.since.elapsed().as_secs();
            assert!(self.reads <= allowed, "read {} times, {allowed} are enough", self.reads);
            if !self.go.exists() {
                return Ok(true);
            }
            batch.push("idle 0".to_owned());
            self.next = 1;
            return Ok(false);
        }
        for _ in 0..20 {
            batch.push(format!("{} {}", self.shard, self.next));
            self.next += 1;
        }
        Ok(self.next < RECORDS)
    }

    fn position(&self) -> u64 {
        self.next
    }
}

/// The shards that the environment names, to a file each worker.
pub(crate) fn job(place: &Path, config: Config) -> Result<(), Error> {
    let shards = std::env::var(SHARDS).unwrap_or_default();
    let version = std::env::var(VERSION).unwrap_or_default();
    let (go, out) = (place.join("go"), place.join("out"));
    ringfence::execute(config, move |worker| {
        let shards: Vec<&str> = shards.split_whitespace().collect();
        let numbers = Numbers { version: version.clone(), ..Numbers::of(&shards, &go) };
        worker.dataflow::<u64, _, _>(|scope| {
            numbers
                .to_stream_fenced(scope, "numbers")
                .map(|number| {
                    std::thread::sleep(Duration::from_micros(100));
                    number
                })
                .sink_fenced("out", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

fn expected(shards: &[&str]) -> String {
    let numbers = |shard: &&str| {
        let shard = (*shard).to_owned();
        (0..RECORDS).map(move |number| format!("{shard} {number}\n"))
    };
    shards.iter().flat_map(numbers).collect()
}

/// Two nodes by hand that are given different environments.
fn two_nodes(name: &str, values: [&str; 2]) -> [Ran; 2] {
    let place = tempfile::tempdir().unwrap();
    let hosts = place.path().join("hosts");
    fs::write(&hosts, free_addresses(2).join("\n")).unwrap();
    let start = |process: usize| {
        let register = place.path().join("register").display().to_string();
        let flags = format!("-n 2 -p {process} -h {} --register {register}", hosts.display());
        own::start_with("numbers", place.path(), &flags, |command: &mut Command| {
            command.env(SHARDS, "a b c").env(name, values[process]);
        })
    };
    let nodes = [start(0), start(1)];
    let ran = nodes.map(|node| node.wait());
    assert!(output(&place.path().join("out")).is_empty());
    ran.iter().for_each(|ran| assert!(!ran.status.success(), "{ran}"));
    ran
}

fn lists_that_differ() {
    let source = "source \"numbers\"";
    let ran = two_nodes(SHARDS, ["a b c", "a x c"]);
    ran[1].assert_failed(
        1,
        &[source, "shard 1 is \"x\" here and \"b\" there", "worker 1", "worker 0"],
    );
    let ran = two_nodes(SHARDS, ["a b c", "a b"]);
    ran[1].assert_failed(1, &[source, "there are 2 shards here and 3 there: \"c\" is only there"]);
    // All say it, since the whole job ends.
    ran[0].assert_failed(1, &[source, "\"c\" is only there"]);
}

fn contents_that_differ() {
    let ran = two_nodes(VERSION, ["v1", "v2"]);
    ran[1].assert_failed(1, &["source \"numbers\"", "shard \"a\"", "\"v2\" here and was \"v1\""]);
}

fn idle(flags: &str, view: u64) {
    let place = tempfile::tempdir().unwrap();
    let busy = ["a", "b", "c"];
    let names = |command: &mut Command| {
        command.env(SHARDS, "idle a b c");
    };
    let running = own::start_with("numbers", place.path(), flags, names);
    let out = place.path().join("out");
    wait_until("for the busy shards", || output(&out).len() as u64 >= 3 * RECORDS);
    super::wait_for_view(place.path(), view);
    fs::write(place.path().join("go"), "").unwrap();
    let ran = running.wait();
    ran.assert_success();
    ran.assert_no_panic();
    assert_lines(&out, &(expected(&busy) + "idle 0\n"), &ran);
}

/// Runs the shards in this process.
fn run(shards: &[&str]) -> (tempfile::TempDir, Result<(), Error>) {
    let place = tempfile::tempdir().unwrap();
    let (go, out) = (place.path().join("go"), place.path().join("out"));
    let shards: Vec<String> = shards.iter().map(|shard| (*shard).to_owned()).collect();
    let ran = ringfence::execute(Config::single().workers(2), move |worker| {
        let shards: Vec<&str> = shards.iter().map(String::as_str).collect();
        let numbers = Numbers::of(&shards, &go);
        worker.dataflow::<u64, _, _>(|scope| {
            numbers.to_stream_fenced(scope, "numbers").sink_fenced("out", LineFiles::new(&out));
        });
    });
    (place, ran.map(drop))
}

fn failing() {
    let (_place, ran) = run(&["a", "fails"]);
    let text = ran.unwrap_err().to_string();
    for part in ["source \"numbers\"", "shard \"fails\"", "100 records had been", "no more of this"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

fn without_shards() {
    let (place, ran) = run(&[]);
    ran.unwrap();
    assert_eq!(place.path().join("out").read_dir().unwrap().count(), 0);
}

fn listed_twice() {
    let (_place, ran) = run(&["a", "b", "a"]);
    let text = ran.unwrap_err().to_string();
    assert!(
        text.contains("source \"numbers\"") && text.contains("\"a\" is listed twice"),
        "{text}"
    );
}
