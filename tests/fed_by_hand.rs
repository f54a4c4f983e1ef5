//! A word count that the program feeds itself, round by round, is killed and made to panic.
//!
//! What must still be true: each word of each round came out exactly once, whoever fed it, and each word
//! has each number from 1 to its count once. The program feeds no round the same way twice: each record
//! carries the process and the moment at which it was fed, so a round that was fed again though the
//! dataflow had seen it would show.
//!
//! This executable is the test, the launcher and the nodes, by its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};

use ringfence::Config;
use ringfence::prelude::*;
use serde_json::Value;

const ROUNDS: u64 = 120;
const WORDS: u64 = 40;
/// No run takes longer, or it hangs.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// One word of the input: share, round, index in the round, and who fed it.
type Fed = (u64, u64, u64, u64);

/// How many words a share has in a round; in some it has none.
fn words_of(share: u64, round: u64) -> u64 {
    match (share + round) % 5 {
        0 => 0,
        rest => 8 * rest,
    }
}

/// Which word it is.
fn word(fed: &Fed) -> u64 {
    (fed.0 * 31 + fed.1 * 17 + fed.2 * fed.2) % WORDS
}

fn main() {
    let mut args = std::env::args().skip(1);
    if let Some(place) = args.next().as_deref().and_then(|arg| arg.strip_prefix("place=")) {
        return take_part(Path::new(place), args.collect());
    }
    // The share count and the flags; the panics that people see.
    let scenarios = [
        ("nobody_fails", 3, "--local 3", 0),
        ("a_node_is_killed", 3, "--local 3 --fault kill:1@120ms", 0),
        ("the_first_node_is_killed", 3, "--local 3 --fault kill:0@200ms", 0),
        ("a_node_of_two_workers_is_killed", 6, "--local 3 -w 2 --fault kill:2@150ms", 0),
        (
            "two_are_killed_one_after_the_other",
            4,
            "--local 4 --backups 2 --fault kill:1@100ms --fault kill:3@260ms",
            0,
        ),
        (
            "two_are_killed_at_once",
            5,
            "--local 5 --backups 2 --fault kill:0@150ms --fault kill:3@150ms",
            0,
        ),
        ("a_node_is_killed_early", 3, "--local 3 --fault kill:2@1ms", 0),
        ("workers_of_one_process_panic", 3, "-w 3 --fault panic:0@80ms --fault panic:0@220ms", 2),
        ("the_only_worker_panics", 1, "-w 1 --fault panic:0@100ms", 1),
        ("a_worker_of_a_node_panics", 6, "--local 3 -w 2 --fault panic:1@150ms", 1),
    ];
    let chosen = args.next();
    for (name, shares, flags, panics) in scenarios {
        if chosen.as_deref().is_none_or(|chosen| name.contains(chosen)) {
            let elapsed = run(shares, flags, panics);
            println!("test {name} ... ok ({elapsed:?})");
        }
    }
}

/// Plays the part of a launcher or of a node.
fn take_part(place: &Path, args: Vec<String>) {
    let (records, totals) = (place.join("records"), place.join("totals"));
    let result = Config::from_args(std::iter::once("fed_by_hand".to_owned()).chain(args));
    let result = result.and_then(|(config, _)| {
        let config = config.report(place.join("report.json"));
        ringfence::execute(config, move |worker| feed_words(worker, &records, &totals))
    });
    if let Err(error) = result {
        eprintln!("{error}");
        exit(error.exit_code());
    }
}

fn feed_words(worker: &mut timely::worker::Worker, records: &Path, totals: &Path) {
    let mut input = FencedInput::<u64, Fed>::new("words");
    let probe = worker.dataflow(|scope| {
        let words = input.to_stream(scope);
        words.clone().sink_fenced("records", LineFiles::new(records));
        words
            .clone()
            .fold_fenced("counts", word, 0u64, |count, fed, out| {
                *count += 1;
                out.give((word(&fed), *count));
            })
            .sink_fenced("totals", LineFiles::new(totals));
        words.probe().0
    });
    let begun = Instant::now();
    for round in input.resume()..ROUNDS {
        for share in input.shares() {
            for index in 0..words_of(share.index, round) {
                let by = u64::from(std::process::id()) << 40 | begun.elapsed().as_nanos() as u64;
                input.send_to(share.index, (share.index, round, index, by));
            }
        }
        input.advance_to(round + 1);
        while probe.less_than(input.time()) {
            worker.step();
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Runs one scenario to its end and looks at what came out.
fn run(shares: u64, flags: &str, panics: usize) -> Duration {
    let place = tempfile::tempdir().expect("a temporary directory");
    let log = place.path().join("log");
    let file = File::create(&log).expect("a log");
    let begun = Instant::now();
    let mut launcher = Command::new(std::env::current_exe().expect("this executable"))
        .arg(format!("place={}", place.path().display()))
        .args(flags.split_whitespace())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a log"))
        .stderr(file)
        .spawn()
        .expect("a launcher");
    let status = loop {
        if let Some(status) = launcher.try_wait().expect("a child can be waited for") {
            break Some(status);
        }
        if begun.elapsed() > RUN_LIMIT {
            let _ = launcher.kill();
            let _ = launcher.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let elapsed = begun.elapsed();
    let said = fs::read_to_string(&log).unwrap_or_default();
    let check = || -> Result<(), String> {
        if !status.is_some_and(|status| status.success()) {
            return Err(format!("it ended with {status:?}"));
        }
        let seen = said.matches("panicked at").count();
        if seen != panics {
            return Err(format!("{seen} panics were seen"));
        }
        check_output(place.path(), shares)?;
        check_report(&place.path().join("report.json"), flags)
    };
    if let Err(text) = check() {
        let kept = place.keep();
        panic!("{flags}: {text}; see {}\n{said}", kept.display());
    }
    elapsed
}

fn rows(directory: &Path) -> Result<Vec<Vec<u64>>, String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        for line in fs::read_to_string(&path).map_err(|error| error.to_string())?.lines() {
            let row: Result<Vec<u64>, _> = line.split('\t').map(str::parse).collect();
            rows.push(row.map_err(|_| format!("{}: line {line:?}", path.display()))?);
        }
    }
    Ok(rows)
}

fn check_output(place: &Path, shares: u64) -> Result<(), String> {
    let mut expected: BTreeSet<(u64, u64, u64)> = (0..shares)
        .flat_map(|share| (0..ROUNDS).map(move |round| (share, round)))
        .flat_map(|(share, round)| {
            (0..words_of(share, round)).map(move |index| (share, round, index))
        })
        .collect();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for fed in &expected {
        *counts.entry(word(&(fed.0, fed.1, fed.2, 0))).or_default() += 1;
    }
    for row in rows(&place.join("records"))? {
        let &[share, round, index, _by] = &row[..] else { return Err(format!("{row:?}")) };
        if !expected.remove(&(share, round, index)) {
            return Err(format!("{row:?} came out again, or was never fed"));
        }
    }
    if let Some(missing) = expected.first() {
        return Err(format!("{} words are missing, the first is {missing:?}", expected.len()));
    }
    let mut totals: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for row in rows(&place.join("totals"))? {
        let &[word, count] = &row[..] else { return Err(format!("{row:?}")) };
        totals.entry(word).or_default().push(count);
    }
    for numbers in totals.values_mut() {
        numbers.sort_unstable();
    }
    let wanted: BTreeMap<u64, Vec<u64>> =
        counts.into_iter().map(|(word, count)| (word, (1..=count).collect())).collect();
    if totals == wanted { Ok(()) } else { Err("the counts are wrong".to_owned()) }
}

/// Every fault must have happened, and each must have cost a view.
fn check_report(report: &Path, flags: &str) -> Result<(), String> {
    let text = fs::read_to_string(report).map_err(|error| error.to_string())?;
    let events: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let (faults, planned) = (of("fault").count(), flags.matches("--fault").count());
    let view = events.iter().filter_map(|event| event["number"].as_u64()).max().unwrap_or(0);
    let replayed: u64 =
        of("recovered").filter_map(|event| event["records_replayed"].as_u64()).sum();
    println!("  {flags}: view {view}, {replayed} records replayed");
    if faults != planned || (planned > 0) != (view > 1) {
        return Err(format!("{faults} of {planned} faults have happened, the last view is {view}"));
    }
    Ok(())
}
