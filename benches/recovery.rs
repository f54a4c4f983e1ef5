//! How long does it take from killing a node to the next commit?
//!
//! Three nodes on this machine keep a keyed running count of 10 thousand, or of 3 million, keys: every
//! key is written once, then records come at a steady rate below saturation. A random node is killed
//! with SIGKILL at a random moment. A third case adds a sink, whose lines are checked to be there once.
//! The times are those of the report: from the fault to the first failure noticed, the phases of the
//! slowest node's recovery, and from the fault to the first commit of the new view. The epoch is the
//! least that a commit can take; it is given beside. How far apart commits are, at the median and at
//! most, is compared between the second before the fault and the second after the first commit of the
//! new view: no failure should leave the job slower than it was.
//!
//! ```text
//! cargo bench --bench recovery [-- --quick] [-- --kills N] [-- --seed N]
//! ```

mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringfence::prelude::*;
use ringfence::{Config, Outcome};
use serde_json::Value;
use support::steady::{SHARDS, Steady};
use support::{Spread, has, mix, write_json};
use timely::worker::Worker;

/// Records per second that one worker reads once the keys are filled in.
const RATE: u64 = 50_000;

/// What is run: how many keys, for how long, with output or without.
#[derive(Clone, Copy, Debug)]
struct Case {
    keys: u64,
    steady_seconds: u64,
    epoch_ms: u64,
    lines: bool,
}

impl Case {
    fn arg(&self) -> String {
        format!("case={},{},{},{}", self.keys, self.steady_seconds, self.epoch_ms, self.lines)
    }

    fn parse(arg: &str) -> Option<Case> {
        let parts: Vec<&str> = arg.strip_prefix("case=")?.split(',').collect();
        Some(Case {
            keys: parts.first()?.parse().ok()?,
            steady_seconds: parts.get(1)?.parse().ok()?,
            epoch_ms: parts.get(2)?.parse().ok()?,
            lines: parts.get(3)?.parse().ok()?,
        })
    }

    fn steady_records(&self) -> u64 {
        3 * RATE * self.steady_seconds / SHARDS * SHARDS
    }
}

fn job(worker: &mut Worker, case: Case, out: &Path) {
    worker.dataflow::<u64, _, _>(|scope| {
        let keys = case.keys;
        let filled = per_share(move |share| (share.index..keys).step_by(share.count as usize))
            .to_stream_fenced(scope, "filled");
        let steady = Steady { keys, records: case.steady_records(), rate: RATE };
        let counts = steady.to_stream_fenced(scope, "steady").concat(filled).fold_fenced(
            "counts",
            |key: &u64| *key,
            0u64,
            move |count, key, out| {
                *count += 1;
                if case.lines {
                    out.give((key, *count));
                }
            },
        );
        if case.lines {
            counts.sink_fenced("totals", LineFiles::new(out));
        }
    });
}

/// Runs the case, as its launcher or, by its arguments, as one of its nodes.
fn execute(config: Config, case: Case, out: PathBuf) -> ringfence::Result<Outcome<()>> {
    let config = config.epoch(Duration::from_millis(case.epoch_ms));
    ringfence::execute(config, move |worker| job(worker, case, &out))
}

fn main() {
    let out_arg = |arg: String| arg.strip_prefix("out=").map(PathBuf::from);
    if let Some(case) = std::env::args().find_map(|arg| Case::parse(&arg)) {
        let out = std::env::args().find_map(out_arg).expect("a node is told where to write");
        execute(Config::local(3), case, out).expect("the node ends well");
        return;
    }
    // `cargo test` starts benches too, without this flag: one small case shows that they run.
    if !has("--bench") {
        let case = Case { keys: 1_000, steady_seconds: 1, epoch_ms: 100, lines: true };
        return run(case, 1, 50, &mut Times::default());
    }
    let number = |flag: &str| -> Option<u64> {
        std::env::args().skip_while(|arg| arg != flag).nth(1)?.parse().ok()
    };
    let kills = number("--kills").unwrap_or(if has("--quick") { 3 } else { 20 });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("--seed").unwrap_or(now.as_secs());
    println!("{kills} kills a case, seed {seed}; milliseconds: median, 90th percentile, greatest");
    let cases = [
        Case { keys: 10_000, steady_seconds: 3, epoch_ms: 100, lines: false },
        Case { keys: 3_000_000, steady_seconds: 6, epoch_ms: 100, lines: false },
        Case { keys: 10_000, steady_seconds: 3, epoch_ms: 10, lines: false },
        Case { keys: 3_000_000, steady_seconds: 6, epoch_ms: 10, lines: false },
        Case { keys: 10_000, steady_seconds: 3, epoch_ms: 100, lines: true },
    ];
    let mut figures = Vec::new();
    for case in cases {
        let mut times = Times::default();
        for kill in 0..kills {
            let chance = mix(seed.wrapping_mul(1000) + kill);
            let (node, percent) = (chance % 3, 45 + chance / 3 % 40);
            run(case, node, percent, &mut times);
        }
        figures.push(times.print(case));
    }
    match write_json("recovery", &serde_json::json!({ "seed": seed, "cases": figures })) {
        Ok(path) => println!("written to {}", path.display()),
        Err(error) => eprintln!("cannot write the figures: {error}"),
    }
}

fn run(case: Case, node: u64, percent: u64, times: &mut Times) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (out, report) = (place.path().join("out"), place.path().join("report.json"));
    let args = [case.arg(), format!("out={}", out.display())];
    let config = Config::local(3)
        .report(&report)
        .fault(&format!("kill:{node}@{percent}%"))
        .expect("a fault")
        .node_args(args);
    let outcome = execute(config, case, out.clone()).expect("the run survives");
    let records = outcome.summary.map_or(0, |summary| summary.records());
    assert_eq!(records, case.keys + case.steady_records(), "records were lost or doubled");
    if case.lines {
        check_lines(&out, records);
    }
    let text = std::fs::read_to_string(&report).expect("there is a report");
    let events: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a report is JSON")).collect();
    times.take(&events);
}

/// Every line must be there once, and as many as there were records.
fn check_lines(out: &Path, records: u64) {
    let mut seen = HashSet::new();
    for entry in out.read_dir().expect("there is output") {
        let path = entry.expect("it can be listed").path();
        for line in std::fs::read_to_string(path).expect("it can be read").lines() {
            assert!(seen.insert(line.to_owned()), "line {line:?} is there twice");
        }
    }
    assert_eq!(seen.len() as u64, records, "lines were lost");
}

/// How far the moments lie apart at which epochs were committed. All nodes tell of each, within about a
/// millisecond: what is less apart is one moment.
fn gaps(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let times: Vec<f64> = times.collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 2.0).collect()
}

/// The times of all kills of a case, by name.
#[derive(Default)]
struct Times(Vec<(&'static str, Vec<f64>)>);

impl Times {
    fn add(&mut self, name: &'static str, ms: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(ms),
            None => self.0.push((name, vec![ms])),
        }
    }

    fn take(&mut self, events: &[Value]) {
        let at = |event: &Value| event["at_ms"].as_f64().unwrap_or(0.0);
        let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
        let Some(fault) = of("fault").next().map(at) else {
            eprintln!("a run ended before its fault");
            return;
        };
        let after = |times: &mut dyn Iterator<Item = f64>| {
            times.filter(|time| *time >= fault).min_by(f64::total_cmp).map(|time| time - fault)
        };
        let detect = after(&mut of("failure").map(at));
        let in_new_view = |event: &&Value| event["view"].as_u64() >= Some(2);
        let commit = after(&mut of("commit").filter(in_new_view).map(at));
        let recovered = of("recovered").max_by(|a, b| at(a).total_cmp(&at(b)));
        let (Some(detect), Some(commit), Some(recovered)) = (detect, commit, recovered) else {
            eprintln!("a run ended before it had recovered");
            return;
        };
        self.add("detect", detect);
        for phase in ["stop", "agree", "connect", "build", "restore", "replay", "caught_up"] {
            self.add(phase, recovered["phases_ms"][phase].as_f64().unwrap_or(0.0));
        }
        self.add("kill to first commit", commit);
        let mut before: Vec<f64> = of("commit").map(at).filter(|time| *time < fault).collect();
        before.sort_by(f64::total_cmp);
        let first = fault + commit;
        let mut after: Vec<f64> =
            of("commit").filter(in_new_view).map(at).filter(|time| *time < first + 1e3).collect();
        after.sort_by(f64::total_cmp);
        let last_second = before.iter().copied().filter(|time| *time >= fault - 1e3);
        if let Some(gaps) = Spread::of(&gaps(last_second)) {
            self.add("between commits before", gaps.median);
            self.add("between commits before, longest", gaps.max);
        }
        if let Some(gaps) = Spread::of(&gaps(after.into_iter())) {
            self.add("between commits after", gaps.median);
            self.add("between commits after, longest", gaps.max);
        }
        if let Some(last) = before.last() {
            self.add("last commit before to first after", fault + commit - last);
        }
    }

    fn print(&self, case: Case) -> Value {
        let lines = if case.lines { ", with a sink" } else { "" };
        println!("\n{} keys, epochs of {} ms{lines}", case.keys, case.epoch_ms);
        let mut json = serde_json::Map::new();
        for (name, times) in &self.0 {
            let Some(spread) = Spread::of(times) else { continue };
            println!("  {name:<34} {:8.1} {:8.1} {:8.1}", spread.median, spread.p90, spread.max);
            json.insert((*name).to_owned(), spread.to_json());
        }
        serde_json::json!({
            "keys": case.keys, "epoch_ms": case.epoch_ms, "lines": case.lines, "ms": json,
        })
    }
}
