//! Nodes are killed with SIGKILL: one, two at once, one after the other, in the middle of a recovery.
//! What must still be true: every word has each number exactly once, the run ends with success, the
//! survivors have agreed on a new view and replayed something, and no thread has panicked.

mod support;

use support::Place;

const BYTES: usize = 500_000;
const PASSES: u64 = 6;

#[track_caller]
fn survives(flags: &str, seed: u64) {
    let place = Place::new(BYTES, seed);
    let ran = place.word_count(flags, PASSES);
    place.assert_survived(&ran, PASSES);
    ran.assert_no_panic();
}

#[test]
fn any_node_may_die_early_or_late() {
    survives("--local 3 --fault kill:0@8%", 1);
    survives("--local 3 --fault kill:1@45%", 2);
    survives("--local 3 --fault kill:2@85%", 3);
    survives("--local 3 --fault kill:1@150ms", 4);
}

#[test]
fn nodes_may_have_several_workers() {
    survives("--local 3 -w 2 --fault kill:1@40%", 5);
}

#[test]
fn the_last_but_one_may_die() {
    survives("--local 2 --fault kill:0@50%", 6);
}

#[test]
fn two_of_five_may_die_at_the_same_moment() {
    survives("--local 5 --backups 2 --fault kill:1@40% --fault kill:3@40%", 7);
}

#[test]
fn two_of_five_may_die_one_after_the_other() {
    survives("--local 5 --backups 2 --fault kill:0@30% --fault kill:4@65%", 8);
}

#[test]
fn a_second_node_may_die_during_the_recovery() {
    for (delay_ms, seed) in [(3, 9), (12, 10), (25, 11)] {
        let flags = format!(
            "--local 3 --backups 2 --fault kill:0@200ms --fault kill:1@{}ms",
            200 + delay_ms
        );
        survives(&flags, seed);
    }
}

#[test]
fn an_undisturbed_run_stays_in_its_first_view() {
    let place = Place::new(BYTES, 12);
    let ran = place.word_count("--local 3 --no-fault", PASSES);
    ran.assert_success();
    ran.assert_no_panic();
    place.assert_exact(PASSES);
    assert!(place.events().iter().all(|event| event["number"].as_u64() <= Some(1)), "{ran}");
}

/// ```text
/// cargo test --release --test kills -- --ignored --nocapture
/// ```
#[test]
#[ignore = "60 runs of several seconds"]
fn each_of_three_nodes_may_die_at_twenty_moments() {
    let Some(input) = support::shakespeare() else { return };
    for node in 0..3 {
        for moment in 0..20 {
            let mut place = Place::new(0, 0);
            place.input.clone_from(&input);
            let flags = format!("--local 3 --fault kill:{node}@{}%", 3 + moment * 47 / 10);
            let ran = place.word_count(&flags, 20);
            place.assert_survived(&ran, 20);
            ran.assert_no_panic();
            println!("{flags}: exact after {:?}", ran.elapsed);
        }
    }
}
