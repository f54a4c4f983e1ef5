//! One process goes through many view changes, each caused by a panic of a worker. What must be true:
//! memory, threads and open files stay as they were, and the result is exact.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringfence::Config;
use ringfence::prelude::*;

const KEYS: u64 = 1000;

/// What a process holds: resident kilobytes, threads, open files.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    resident_kb: u64,
    threads: u64,
    files: u64,
}

impl Holdings {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let files = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        Holdings { resident_kb: field("VmRSS"), threads: field("Threads"), files }
    }
}

/// Runs a job of two workers that panics `panics` times; returns what the process held at each.
fn run_through(panics: u64) -> Vec<Holdings> {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let generations = Arc::new(AtomicU64::new(0));
    let out = tempfile::tempdir().unwrap();
    let (holding, directory) = (Arc::clone(&held), out.path().join("totals"));
    let config = Config::single().workers(2).epoch(Duration::from_millis(5));
    // Far more than anybody would put up with.
    let config = config.restarts(1000, Duration::from_secs(60));
    ringfence::execute(config, move |worker| {
        if worker.index() == 0 {
            generations.fetch_add(1, Ordering::SeqCst);
            holding.lock().unwrap().push(Holdings::now());
        }
        let generations = Arc::clone(&generations);
        worker.dataflow::<u64, _, _>(|scope| {
            // Ends once there have been enough panics: until then each generation reads on slowly.
            per_share(move |share| {
                (0..panics * 200).filter(move |n| n % share.count == share.index).inspect(|n| {
                    if n % 20 < 2 {
                        std::thread::sleep(Duration::from_micros(500));
                    }
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced(
                "counts",
                |n: &u64| n % KEYS,
                0u64,
                move |count, n, out| {
                    let generation = generations.load(Ordering::SeqCst);
                    if generation <= panics && n > generation * 150 {
                        std::panic::resume_unwind(Box::new("on purpose"));
                    }
                    *count += 1;
                    out.give((n, *count));
                },
            )
            .sink_fenced("totals", LineFiles::new(&directory));
        });
    })
    .unwrap();

    let mut numbers: Vec<u64> = Vec::new();
    for entry in fs::read_dir(out.path().join("totals")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        numbers.extend(text.lines().map(|l| l.split('\t').next().unwrap().parse::<u64>().unwrap()));
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..panics * 200), "{} numbers", numbers.len());
    let held = held.lock().unwrap().clone();
    assert!(held.len() as u64 > panics, "there were only {} generations", held.len());
    held
}

fn assert_flat(held: &[Holdings]) {
    // The first quarter is warm-up.
    let warm = held[held.len() / 4];
    let last = held[held.len() - 1];
    println!("{} views: warm {warm:?}, last {last:?}", held.len());
    assert!(last.threads <= warm.threads + 2, "threads grew from {warm:?} to {last:?}");
    assert!(last.files <= warm.files + 2, "open files grew from {warm:?} to {last:?}");
    let limit_kb = warm.resident_kb + warm.resident_kb / 4 + 8 * 1024;
    assert!(last.resident_kb <= limit_kb, "memory grew from {warm:?} to {last:?}");
}

#[test]
fn forty_view_changes_leave_nothing_behind() {
    assert_flat(&run_through(40));
}

/// ```text
/// cargo test --release --test suite -- --ignored --nocapture many_views
/// ```
#[test]
#[ignore = "200 view changes take a while"]
fn two_hundred_view_changes_leave_nothing_behind() {
    assert_flat(&run_through(200));
}
