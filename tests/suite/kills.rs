//! Nodes are killed with SIGKILL: one, two at once, one after the other, in the middle of a recovery.
//! What must still be true: every word has each number exactly once, the run ends with success, the
//! survivors have agreed on a new view and replayed something, and no thread has panicked.

use crate::support::{Place, Ran, Running, events, of_kind};

const BYTES: usize = 500_000;
const PASSES: u64 = 6;

#[track_caller]
fn survives(flags: &str, seed: u64) {
    survives_in(&Place::new(BYTES, seed), flags, PASSES);
}

#[track_caller]
fn survives_in(place: &Place, flags: &str, passes: u64) -> Ran {
    let ran = place.word_count(flags, passes);
    place.assert_survived(&ran, passes);
    ran.assert_no_panic();
    let fired = of_kind(&place.events(), "fault").count();
    assert_eq!(fired, flags.matches("--fault").count(), "not every fault has happened\n{ran}");
    ran
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
fn keys_may_be_hashed_with_sha_1() {
    let place = Place::new(BYTES, 17);
    survives_in(&place, "--local 3 --key-hash sha1 --fault kill:1@40%", PASSES);
    let events = place.events();
    let mut hashes = of_kind(&events, "started").map(|event| event["key_hash"].as_str());
    assert!(hashes.all(|hash| hash == Some("sha1")));
}

/// The example checks its own output.
#[test]
fn state_may_be_stored_in_its_memory_layout() {
    let place = tempfile::tempdir().expect("a directory");
    let report = place.path().join("report.json");
    let flags = format!("--local 3 --fault kill:1@200ms --report {}", report.display());
    let args = format!("{flags} -- --out={}", place.path().join("out").display());
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    Running::start("abomonation", &args).wait().assert_success();
    assert!(of_kind(&events(&report), "recovered").count() > 0);
}

/// Between two checkpoints many epochs pass, and all of them are undone.
#[test]
fn a_node_may_die_between_checkpoints() {
    let place = Place::new(BYTES, 16);
    let flags = "--local 3 --checkpoint-ms 250 --epoch-ms 5 --fault kill:1@40%";
    survives_in(&place, flags, 4 * PASSES);
    let events = place.events();
    let mut commits: Vec<u64> =
        of_kind(&events, "commit").filter_map(|event| event["epoch"].as_u64()).collect();
    commits.sort_unstable();
    commits.dedup();
    // The last is the end of the job.
    commits.pop();
    assert!(commits.len() >= 2, "{commits:?}");
    let apart = (commits[commits.len() - 1] - commits[0]) / (commits.len() as u64 - 1);
    assert!(apart >= 10, "checkpoints lie {apart} epochs apart: {commits:?}");
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
fn two_of_five_may_die_one_second_apart() {
    let place = Place::new(BYTES, 13);
    survives_in(&place, "--local 5 --backups 2 --fault kill:2@200ms --fault kill:3@1200ms", 25);
}

#[test]
fn two_of_three_may_die_one_after_the_other() {
    survives("--local 3 --backups 2 --fault kill:2@25% --fault kill:0@70%", 14);
}

/// With one backup, each death but the last is survived only because what it took was rebuilt.
#[test]
fn copies_that_died_with_a_node_are_rebuilt_before_the_next_one_dies() {
    let place = Place::new(BYTES, 15);
    let faults = "--fault kill:1@15% --fault kill:3@50% --fault kill:0@80%";
    let ran = survives_in(&place, &format!("--local 4 {faults}"), 40);
    let events = place.events();
    let rebuilt =
        of_kind(&events, "refilled").filter(|event| event["partitions"].as_u64() > Some(0));
    assert!(rebuilt.count() >= 3, "{ran}");
}

#[test]
fn a_second_node_may_die_during_the_recovery() {
    for (delay_ms, seed) in [(3, 9), (12, 10), (25, 11)] {
        let flags =
            format!("--local 3 --backups 2 --fault kill:0@60ms --fault kill:1@{}ms", 60 + delay_ms);
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

/// Runs the real text with these flags, twenty times over, at each of twenty moments of the run.
fn sweep(flags: impl Fn(u64) -> String) {
    let Some(input) = crate::support::shakespeare() else { return };
    for moment in 0..20 {
        let mut place = Place::new(0, 0);
        place.input.clone_from(&input);
        let flags = flags(3 + moment * 47 / 10);
        let ran = survives_in(&place, &flags, 20);
        println!("{flags}: exact after {:?}", ran.elapsed);
    }
}

/// ```text
/// cargo test --release --test suite -- --ignored --nocapture kills --test-threads 1
/// ```
#[test]
#[ignore = "60 runs of several seconds"]
fn each_of_three_nodes_may_die_at_twenty_moments() {
    for node in 0..3 {
        sweep(|percent| format!("--local 3 --fault kill:{node}@{percent}%"));
    }
}

#[test]
#[ignore = "60 runs of several seconds"]
fn each_of_three_nodes_of_two_workers_may_die_at_twenty_moments() {
    for node in 0..3 {
        sweep(|percent| format!("--local 3 -w 2 --fault kill:{node}@{percent}%"));
    }
}

#[test]
#[ignore = "20 runs of several seconds"]
fn two_of_five_may_die_at_once_at_twenty_moments() {
    sweep(|percent| {
        let (first, second) = (percent % 5, (percent % 5 + 1 + percent % 4) % 5);
        format!(
            "--local 5 --backups 2 --fault kill:{first}@{percent}% --fault kill:{second}@{percent}%"
        )
    });
}

/// The second kill comes 0 to 38 ms after the first: before, during and after its recovery.
#[test]
#[ignore = "20 runs of several seconds"]
fn a_second_node_may_die_at_twenty_moments_of_a_recovery() {
    sweep(|percent| {
        let second_ms = 500 + (percent - 3) * 10 / 47 * 2;
        format!("--local 3 --backups 2 --fault kill:0@500ms --fault kill:2@{second_ms}ms")
    });
}
