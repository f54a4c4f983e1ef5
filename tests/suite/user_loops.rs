//! Jobs that step their worker themselves, use timers, or build the same helper twice. What must be
//! true: the same result as a plain computation, with a panic on the way and without.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringfence::Config;
use ringfence::prelude::*;

const NUMBERS: u64 = 20_000;
const KEYS: u64 = 10;

fn config() -> Config {
    Config::single().workers(2).epoch(Duration::from_millis(5))
}

/// Panics once, when `n` is half-way and `wanted`.
fn panic_once(wanted: &AtomicBool, n: u64) {
    if n > NUMBERS / 2 && wanted.swap(false, Ordering::SeqCst) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

/// Numbers that take some time to come.
fn numbers() -> impl Source<Item = u64> {
    per_share(|share| {
        (0..NUMBERS).filter(move |n| n % share.count == share.index).inspect(|n| {
            if n % 100 < 2 {
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    })
}

fn lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort_unstable();
    lines
}

fn running_counts() -> Vec<String> {
    let mut counts = BTreeMap::<u64, u64>::new();
    let line = |n: u64| {
        let count = counts.entry(n % KEYS).or_default();
        *count += 1;
        format!("{}\t{count}", n % KEYS)
    };
    let mut lines: Vec<String> = (0..NUMBERS).map(line).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_loop_on_a_probe_survives_a_panic() {
    for panics in [false, true] {
        let out = tempfile::tempdir().unwrap();
        let (totals, wanted) = (out.path().join("totals"), Arc::new(AtomicBool::new(panics)));
        let outcome = ringfence::execute(config(), move |worker| {
            let wanted = Arc::clone(&wanted);
            let probe = worker.dataflow::<u64, _, _>(|scope| {
                numbers()
                    .to_stream_fenced(scope, "numbers")
                    .fold_fenced(
                        "counts",
                        |n| n % KEYS,
                        0u64,
                        move |count, n, out| {
                            panic_once(&wanted, n);
                            *count += 1;
                            out.give((n % KEYS, *count));
                        },
                    )
                    .sink_fenced("totals", LineFiles::new(&totals))
                    .probe()
                    .0
            });
            let mut steps = 0u64;
            while !probe.done() {
                worker.step();
                steps += 1;
            }
            steps
        });
        assert!(outcome.unwrap().results.iter().all(|steps| *steps > 0));
        assert_eq!(lines(&out.path().join("totals")), running_counts(), "panics: {panics}");
    }
}

/// Each key sums what came in an epoch, and tells the sum once the epoch is complete. Epochs differ
/// from run to run; the sums of the sums do not, and a timer that fired twice or never would show.
#[test]
fn timers_fire_once_whatever_fails() {
    for panics in [false, true] {
        let out = tempfile::tempdir().unwrap();
        let (sums, wanted) = (out.path().join("sums"), Arc::new(AtomicBool::new(panics)));
        ringfence::execute(config(), move |worker| {
            let wanted = Arc::clone(&wanted);
            worker.dataflow::<u64, _, _>(|scope| {
                numbers()
                    .to_stream_fenced(scope, "numbers")
                    .stateful_fenced(
                        "sums",
                        |n| n % KEYS,
                        move |at: &mut At<'_, _, u64, _>, event, out| match event {
                            Event::Record(n) => {
                                panic_once(&wanted, n);
                                *at.state += n;
                                // One for the epoch's end, and one that comes when it has been told.
                                at.wake_at(*at.time);
                                at.wake_at(*at.time + 3);
                            }
                            Event::Timer => {
                                if *at.state > 0 {
                                    out.give((*at.key, *at.state));
                                }
                                at.remove();
                            }
                        },
                    )
                    .sink_fenced("told", LineFiles::new(&sums));
            });
        })
        .unwrap();
        let mut totals = BTreeMap::<u64, u64>::new();
        for line in lines(&out.path().join("sums")) {
            let (key, sum) = line.split_once('\t').unwrap();
            *totals.entry(key.parse().unwrap()).or_default() += sum.parse::<u64>().unwrap();
        }
        let expected: BTreeMap<u64, u64> =
            (0..KEYS).map(|key| (key, (0..NUMBERS).filter(|n| n % KEYS == key).sum())).collect();
        assert_eq!(totals, expected, "panics: {panics}");
    }
}

#[test]
fn a_helper_may_be_used_twice_under_two_prefixes() {
    let out = tempfile::tempdir().unwrap();
    let directory = out.path().to_owned();
    ringfence::execute(config(), move |worker| {
        let fence = worker.fence();
        worker.dataflow::<u64, _, _>(|scope| {
            for side in ["left", "right"] {
                fence.named(side, || {
                    numbers()
                        .to_stream_fenced(scope, "numbers")
                        .fold_fenced(
                            "counts",
                            |n| n % KEYS,
                            0u64,
                            |count, n, out| {
                                *count += 1;
                                out.give((n % KEYS, *count));
                            },
                        )
                        .sink_fenced("totals", LineFiles::new(directory.join(side)));
                });
            }
        });
        assert_eq!(fence.catalogue().len(), 6);
    })
    .unwrap();
    assert_eq!(lines(&out.path().join("left")), running_counts());
    assert_eq!(lines(&out.path().join("right")), running_counts());
}
