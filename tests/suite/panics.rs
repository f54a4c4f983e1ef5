//! Worker threads panic inside protected operators, in one process or in one of several. What must
//! still be true: the process lives, the panicked worker's state comes from a backup, and every word
//! has each number exactly once.

use crate::support::Place;

const BYTES: usize = 500_000;
const PASSES: u64 = 6;

#[track_caller]
fn survives(flags: &str, panics: usize, seed: u64) {
    let place = Place::new(BYTES, seed);
    let ran = place.word_count(flags, PASSES);
    place.assert_survived(&ran, PASSES);
    // Nothing but the panic itself prints one.
    assert_eq!(ran.stderr.matches("panicked at").count(), panics, "{ran}");
}

#[test]
fn a_worker_of_one_of_three_nodes_may_panic() {
    survives("--local 3 --fault panic:1@40%", 1, 1);
}

#[test]
fn one_of_three_workers_of_a_process_may_panic() {
    survives("-w 3 --fault panic:0@40%", 1, 2);
}

#[test]
fn the_only_worker_of_a_process_may_panic() {
    survives("-w 1 --fault panic:0@40%", 1, 3);
}

#[test]
fn workers_may_panic_again_and_again() {
    survives("-w 3 --fault panic:0@15% --fault panic:0@45% --fault panic:0@75%", 3, 4);
}

#[test]
fn a_panic_and_a_kill_may_come_together() {
    survives("--local 3 --backups 2 --fault panic:0@40% --fault kill:1@60%", 1, 5);
}
