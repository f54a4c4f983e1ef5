//! A few random schedules of faults; `cargo bench --bench chaos` runs many more.

#[path = "../benches/support/schedules.rs"]
mod schedules;
#[path = "../benches/support/mod.rs"]
mod support;

/// Each of these has a kill or a silence that costs a node its place, and slowness besides.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

fn main() {
    if schedules::is_part_of_a_run() {
        return;
    }
    let runs = SEEDS.map(|seed| {
        let run = schedules::run(seed);
        println!("{}", run.line(seed));
        run
    });
    let failures: Vec<&str> = runs.iter().filter_map(|run| run.failure.as_deref()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let view_changes: u64 = runs.iter().map(|run| run.view_changes).sum();
    assert!(view_changes > 0, "no fault has cost a node its place");
}
