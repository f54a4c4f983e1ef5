//! Does the word count stay exact under any schedule of faults?
//!
//! Each schedule is a run of four or five nodes with two backups, as processes of their own, under
//! faults drawn from its seed: kills, stops, cuts and slow connections. The output is compared with a
//! plain computation each time. A schedule is drawn from its seed alone, but what it hits depends on
//! real time: one that fails may pass when it is run again.
//!
//! ```text
//! cargo bench --bench chaos [-- --schedules N] [-- --seed S]
//! ```
//!
//! runs the seeds S to S+N-1, 200 of them by default. One that failed is run again by
//! `-- --schedules 1 --seed S`; what it left is kept.

#[path = "support/schedules.rs"]
mod schedules;
mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use support::{Spread, has, write_json};

fn main() -> ExitCode {
    if schedules::is_part_of_a_run() {
        return ExitCode::SUCCESS;
    }
    // `cargo test` starts benches too, without this flag; there it is enough that they start.
    if !has("--bench") {
        return ExitCode::SUCCESS;
    }
    let number = |flag: &str| -> Option<u64> {
        std::env::args().skip_while(|arg| arg != flag).nth(1)?.parse().ok()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = number("--seed").unwrap_or(now.as_secs() % 1_000_000 * 1_000);
    let count = number("--schedules").unwrap_or(200);
    println!("{count} schedules from seed {first}");
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let (mut view_changes, mut recoveries, mut false_alarms) = (0, 0, 0);
    let (mut times, mut failed) = (Vec::new(), Vec::new());
    for seed in first..first + count {
        let run = schedules::run(seed);
        println!("{}", run.line(seed));
        for (kind, count) in &run.faults {
            *faults.entry(kind.clone()).or_default() += count;
        }
        view_changes += run.view_changes;
        recoveries += run.recoveries;
        false_alarms += run.false_alarms;
        times.extend_from_slice(&run.fault_to_commit_ms);
        failed.extend(run.failure.is_some().then_some(seed));
    }
    println!("\n  {:<34} {count}", "schedules");
    for (kind, count) in &faults {
        println!("  {:<34} {count}", format!("faults: {kind}"));
    }
    println!("  {:<34} {view_changes}", "view changes");
    println!("  {:<34} {recoveries}", "recoveries");
    println!("  {:<34} {false_alarms}", "nodes left behind without need");
    let spread = Spread::of(&times);
    if let Some(Spread { median, p90, max, .. }) = spread {
        println!("  {:<34} {median:.0} {p90:.0} {max:.0}", "fault to commit, ms: 50 %, 90 %, max");
    }
    println!("  {:<34} {}", "failures", failed.len());
    for seed in &failed {
        println!("  again: cargo bench --bench chaos -- --schedules 1 --seed {seed}");
    }
    let figures = serde_json::json!({
        "seed": first, "schedules": count, "faults": faults, "view_changes": view_changes,
        "recoveries": recoveries, "false_alarms": false_alarms,
        "fault_to_commit_ms": spread.map(Spread::to_json), "failed": failed,
    });
    match write_json("chaos", &figures) {
        Ok(path) => println!("written to {}", path.display()),
        Err(error) => eprintln!("cannot write the figures: {error}"),
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
