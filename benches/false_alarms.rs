//! Does a machine that is busy with something else make nodes suspect each other?
//!
//! Three nodes keep a keyed count for some minutes while threads of this process keep all cores busy,
//! or while whatever else runs on the machine does. Nothing fails. What is counted: suspicions (a node
//! was silent for longer than usual, and was heard again), and changes of views, of which there must
//! be none.
//!
//! ```text
//! cargo bench --bench false_alarms [-- --minutes N] [-- --burn THREADS] [-- --suspect-ms MS]
//! ```

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringfence::prelude::*;
use ringfence::{Config, Outcome};
use serde_json::Value;
use support::steady::{SHARDS, Steady};
use support::{Spread, has, mix, write_json};
use timely::worker::Worker;

const KEYS: u64 = 1_000_000;
/// Records per second that one worker reads.
const RATE: u64 = 5_000;

fn number(flag: &str, default: u64) -> u64 {
    let mut after = std::env::args().skip_while(|arg| arg != flag);
    after.nth(1).and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// Runs the job, as its launcher or as one of its nodes.
fn execute(config: Config, records: u64) -> ringfence::Result<Outcome<()>> {
    ringfence::execute(config, move |worker: &mut Worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let steady = Steady { keys: KEYS, records, rate: RATE };
            steady.to_stream_fenced(scope, "steady").fold_fenced(
                "counts",
                |key: &u64| *key,
                0_u64,
                |count, _key, _out: &mut Give<'_, ()>| *count += 1,
            );
        });
    })
}

fn main() {
    let node = std::env::args().find_map(|arg| arg.strip_prefix("records=")?.parse().ok());
    if let Some(records) = node {
        let suspect = Duration::from_millis(number("--suspect-ms", 500));
        execute(Config::local(3).suspect_after(suspect), records).expect("the node ends well");
        return;
    }
    // `cargo test` starts benches too, without this flag; there it is enough that they start.
    if !has("--bench") {
        return;
    }
    let (minutes, threads) = (number("--minutes", 1), number("--burn", 4));
    let suspect_ms = number("--suspect-ms", 500);
    let place = tempfile::tempdir().expect("a temporary directory");
    let report = place.path().join("report.json");
    let records = (3 * RATE * 60 * minutes).next_multiple_of(SHARDS);
    let args = [format!("records={records}"), "--suspect-ms".into(), suspect_ms.to_string()];
    let over = Arc::new(AtomicBool::new(false));
    let burners: Vec<_> = (0..threads)
        .map(|burner| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut sum = burner;
                while !over.load(Ordering::Relaxed) {
                    sum = black_box(mix(sum));
                }
            })
        })
        .collect();
    let config = Config::local(3).report(&report).node_args(args);
    let outcome = execute(config, records).expect("the run ends well");
    over.store(true, Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().expect("a burner ends"));

    let counted = outcome.summary.map_or(0, |summary| summary.records());
    assert_eq!(counted, records, "records were lost or doubled");
    let text = std::fs::read_to_string(&report).expect("there is a report");
    let events: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a report is JSON")).collect();
    let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let silences: Vec<f64> =
        of("cleared").filter_map(|event| event["silent_ms"].as_f64()).collect();
    let views = of("view").filter_map(|event| event["number"].as_u64()).max().unwrap_or(0);
    let suspicions = of("suspicion").count();
    println!("{minutes} minutes, {threads} busy threads, nodes given up after {suspect_ms} ms");
    println!("suspicions: {suspicions}, failures: {}, views: {views}", of("failure").count());
    let spread = Spread::of(&silences);
    if let Some(spread) = spread {
        println!(
            "silence until heard again: median {} ms, longest {} ms",
            spread.median, spread.max
        );
    }
    let figures = serde_json::json!({
        "minutes": minutes, "busy_threads": threads, "suspect_ms": suspect_ms,
        "suspicions": suspicions, "views": views, "silent_ms": spread.map(Spread::to_json),
    });
    match write_json("false_alarms", &figures) {
        Ok(path) => println!("written to {}", path.display()),
        Err(error) => eprintln!("cannot write the figures: {error}"),
    }
    assert_eq!(views, 1, "a view changed though nothing failed");
}
