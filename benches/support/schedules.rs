//! The word count under random schedules of faults, and the proof that its output is exact.
//!
//! One executable plays three parts, by its arguments: it checks runs, it is the launcher of one run,
//! and it is a node. A run that takes too long can so be ended, and one that fails ends no other.

#![allow(unreachable_pub, reason = "a bench and a test share this")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ringfence::Config;
use ringfence::internals::protocol::member::SUSPECT_MS;
use ringfence::prelude::*;
use serde_json::Value;

use super::support::{mix, rate};

const SHARDS: u64 = 64;
/// Records per second that one worker reads.
const RATE: u64 = 8_000;
/// How long the input lasts where nothing fails.
const INPUT_SECONDS: u64 = 2;
/// No run takes longer, or it hangs.
const RUN_LIMIT: Duration = Duration::from_secs(90);
/// A schedule with fewer faults than this has proved too little.
const FAULTS_MIN: usize = 3;

/// What a seed comes to.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    nodes: u64,
    workers: u64,
    epoch_ms: u64,
    every_ms: u64,
}

impl Plan {
    fn of(seed: u64) -> Plan {
        let draw = mix(seed);
        Plan {
            seed,
            nodes: 4 + draw % 2,
            workers: 1 + (draw >> 8) % 2,
            epoch_ms: [20, 50, 100][(draw >> 16) as usize % 3],
            every_ms: 150 + (draw >> 24) % 300,
        }
    }

    fn records(self) -> u64 {
        self.nodes * self.workers * RATE * INPUT_SECONDS / SHARDS * SHARDS
    }

    fn config(self, report: &Path) -> ringfence::Result<Config> {
        let config = Config::local(self.nodes as usize)
            .workers(self.workers as usize)
            .backups(2)
            .epoch(Duration::from_millis(self.epoch_ms))
            .report(report);
        config.fault(&format!("random:{}@{}ms", self.seed, self.every_ms))
    }
}

/// The word with number `n` of the input: few come often, many seldom.
fn word(n: u64) -> u64 {
    let draw = mix(n);
    (draw % 4_000) * (draw >> 32) % 4_000 / 1_000 * 1_000 + draw % (1 + (draw >> 40) % 1_000)
}

/// Numbered words at a steady rate.
struct Words {
    records: u64,
}

struct WordReader {
    shard: u64,
    next: u64,
    end: u64,
}

impl Source for Words {
    type Item = u64;
    type Position = u64;
    type Reader = WordReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..SHARDS).map(|shard| shard.to_string()).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<WordReader> {
        Ok(WordReader {
            shard: shard.parse().map_err(io::Error::other)?,
            next: at.copied().unwrap_or(0),
            end: self.records / SHARDS,
        })
    }

    fn extent(&self, _shard: &str) -> Option<u64> {
        Some(self.records / SHARDS)
    }

    fn consumed(&self, _shard: &str, position: &u64) -> u64 {
        *position
    }
}

impl Reader for WordReader {
    type Item = u64;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<u64>) -> io::Result<bool> {
        let due = rate::due(RATE, Duration::from_micros(500), self.end - self.next);
        for _ in 0..due {
            batch.push(word(self.shard * self.end + self.next));
            self.next += 1;
        }
        Ok(self.next < self.end)
    }

    fn position(&self) -> u64 {
        self.next
    }
}

/// Plays the part of a launcher or a node where the arguments say so.
pub fn is_part_of_a_run() -> bool {
    let value =
        |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
    let (Some(seed), Some(place)) = (value("schedule="), value("place=")) else { return false };
    let plan = Plan::of(seed.parse().expect("a seed is a number"));
    let (out, report) = (Path::new(&place).join("out"), Path::new(&place).join("report.json"));
    let result = plan.config(&report).and_then(|config| {
        ringfence::execute(config, move |worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                Words { records: plan.records() }
                    .to_stream_fenced(scope, "words")
                    .fold_fenced(
                        "counts",
                        |word: &u64| *word,
                        0u64,
                        |count, word, out| {
                            *count += 1;
                            out.give((word, *count));
                        },
                    )
                    .sink_fenced("totals", LineFiles::new(&out));
            });
        })
    });
    if let Err(error) = result {
        error.exit();
    }
    true
}

/// What a run under one schedule came to.
#[derive(Debug, Default)]
pub struct Run {
    pub faults: BTreeMap<String, u64>,
    pub view_changes: u64,
    pub recoveries: u64,
    /// From a fault to the first commit without the nodes that it took, in milliseconds.
    pub fault_to_commit_ms: Vec<f64>,
    /// Nodes that were left behind though no fault should have cost them their place.
    pub false_alarms: u64,
    pub elapsed: Duration,
    /// What is wrong, and where what it left is kept.
    pub failure: Option<String>,
}

/// Runs the schedule of `seed` to its end and looks at everything.
pub fn run(seed: u64) -> Run {
    let place = tempfile::tempdir().expect("a temporary directory");
    let begun = Instant::now();
    let result = launch(seed, place.path());
    let elapsed = begun.elapsed();
    let events = events(&place.path().join("report.json"));
    let mut run = Run { elapsed, ..Run::of(&events) };
    let plan = Plan::of(seed);
    let faults: u64 = run.faults.values().sum();
    let exact = result.and_then(|()| check_lines(&place.path().join("out"), plan));
    let enough = if faults as usize >= FAULTS_MIN {
        Ok(())
    } else {
        Err(format!("only {faults} faults have happened"))
    };
    if let Err(text) = exact.and(enough) {
        let kept: PathBuf = place.keep();
        run.failure = Some(format!("{plan:?}: {text}; see {}", kept.display()));
    }
    run
}

fn launch(seed: u64, place: &Path) -> Result<(), String> {
    let cannot = |error: io::Error| error.to_string();
    let log = place.join("log");
    let file = File::create(&log).map_err(cannot)?;
    let mut launcher = Command::new(std::env::current_exe().map_err(cannot)?)
        .arg(format!("schedule={seed}"))
        .arg(format!("place={}", place.display()))
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(cannot)?)
        .stderr(file)
        .spawn()
        .map_err(cannot)?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = launcher.try_wait().map_err(cannot)? {
            break status;
        }
        if begun.elapsed() > RUN_LIMIT {
            // Its nodes end with it.
            let _ = launcher.kill();
            let _ = launcher.wait();
            return Err(format!("it hangs after {RUN_LIMIT:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = fs::read(&log).map_err(cannot)?;
    let said = String::from_utf8_lossy(&said);
    if let Some(panic) = said.lines().find(|line| line.contains("panicked at")) {
        return Err(format!("a panic: {panic}"));
    }
    if !status.success() {
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("{status}: {last}"));
    }
    Ok(())
}

fn events(report: &Path) -> Vec<Value> {
    let text = fs::read_to_string(report).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Every occurrence of a word must have its number, each once.
fn check_lines(out: &Path, plan: Plan) -> Result<(), String> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    (0..plan.records()).for_each(|n| *counts.entry(word(n)).or_default() += 1);
    let mut seen: HashMap<u64, Vec<bool>> =
        counts.into_iter().map(|(word, count)| (word, vec![false; count])).collect();
    let mut lines = 0;
    for entry in fs::read_dir(out).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        for line in fs::read_to_string(&path).map_err(|error| error.to_string())?.lines() {
            lines += 1;
            let place = line
                .split_once('\t')
                .and_then(|(word, n)| Some((word.parse().ok()?, n.parse::<usize>().ok()?)))
                .and_then(|(word, n): (u64, usize)| {
                    seen.get_mut(&word)?.get_mut(n.checked_sub(1)?)
                });
            match place {
                None => return Err(format!("line {line:?} should not be there")),
                Some(true) => return Err(format!("line {line:?} is there twice")),
                Some(place) => *place = true,
            }
        }
    }
    if lines == plan.records() {
        Ok(())
    } else {
        Err(format!("{lines} lines, expected {}", plan.records()))
    }
}

impl Run {
    fn of(events: &[Value]) -> Run {
        let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
        let at = |event: &Value| event["at_ms"].as_f64().unwrap_or(0.0);
        let suspect = Duration::from_millis(SUSPECT_MS);
        let harmless_ms = suspect.as_secs_f64() * 1e3 / 3.0;
        let mut run = Run::default();
        for fault in of("fault") {
            let kind = fault["kind"].as_str().unwrap_or("unknown").to_owned();
            *run.faults.entry(kind).or_default() += 1;
        }
        let recovered: BTreeSet<u64> = of("recovered").filter_map(|e| e["view"].as_u64()).collect();
        run.recoveries = recovered.len() as u64;
        let mut views: BTreeMap<u64, (f64, BTreeSet<u64>)> = BTreeMap::new();
        for view in of("view") {
            let members = view["members"].as_array().into_iter().flatten();
            let members = members.filter_map(Value::as_u64).collect();
            views.entry(view["number"].as_u64().unwrap_or(0)).or_insert((at(view), members));
        }
        let numbers = views.iter().zip(views.values().skip(1));
        for ((number, (_, before)), (agreed, after)) in numbers {
            run.view_changes += 1;
            for node in before.difference(after) {
                // The fault that took it is the last that could have.
                let took = of("fault")
                    .filter(|fault| fault["target"].as_u64() == Some(*node) && at(fault) <= *agreed)
                    .filter(|fault| fault["kind"] != "slow")
                    .filter(|fault| match fault["until_ms"].as_f64() {
                        Some(until) => until - at(fault) >= harmless_ms,
                        None => true,
                    })
                    .map(at)
                    .max_by(f64::total_cmp);
                let Some(fault) = took else {
                    run.false_alarms += 1;
                    continue;
                };
                let commits = of("commit").filter(|e| e["view"].as_u64() > Some(*number));
                let first = commits.map(at).filter(|commit| *commit >= fault);
                run.fault_to_commit_ms.extend(first.min_by(f64::total_cmp).map(|c| c - fault));
            }
        }
        run
    }

    /// One line about it.
    pub fn line(&self, seed: u64) -> String {
        let mut text = format!("seed {seed}: {:4.1} s,", self.elapsed.as_secs_f64());
        for (kind, count) in &self.faults {
            let _ = write!(text, " {count} {kind},");
        }
        let _ = write!(text, " {} view changes", self.view_changes);
        match &self.failure {
            None => text + ", exact",
            Some(failure) => text + "\n  FAILED: " + failure,
        }
    }
}
