//! Nodes are stopped with SIGSTOP and go on later. What must still be true: a short stop changes
//! nothing; after a long one the others have long gone on, and the sleeper learns that it is out and
//! ends with a clear message; and the output is exact.

use std::time::Duration;

use crate::support::{Place, Ran, left_behind, of_kind};
use serde_json::Value;

const BYTES: usize = 500_000;

fn at(event: &Value) -> f64 {
    event["at_ms"].as_f64().expect("every event has a time")
}

/// From the fault to the first commit of `view`, in milliseconds.
#[track_caller]
fn fault_to_commit_ms(events: &[Value], view: u64) -> f64 {
    let fault = of_kind(events, "fault").next().expect("a fault");
    let commits = of_kind(events, "commit").filter(|event| event["view"] == view);
    let first = commits.map(at).min_by(f64::total_cmp).expect("a commit of the next view");
    first - at(fault)
}

fn run(flags: &str, passes: u64, seed: u64) -> (Ran, Vec<Value>) {
    let place = Place::new(BYTES, seed);
    let ran = place.word_count(flags, passes);
    ran.assert_success();
    ran.assert_no_panic();
    place.assert_exact(passes);
    (ran, place.events())
}

/// Returns how long it took each time until the others had committed something without the sleeper.
fn replace_sleepers() -> Vec<f64> {
    let mut replaced = Vec::new();
    for (node, seconds, seed) in [(1, 10, 1), (0, 3, 2), (2, 3, 3)] {
        let flags = format!("--local 3 --fault stop:{node}@40%+{seconds}s");
        let (ran, events) = run(&flags, 20, seed);
        replaced.push(fault_to_commit_ms(&events, 2));
        let fault = of_kind(&events, "fault").next().expect("a fault");
        assert_eq!((&fault["kind"], fault["target"].as_u64()), (&"stop".into(), Some(node)));
        let lasted_ms = fault["until_ms"].as_f64().expect("it ends") - at(fault);
        assert!((lasted_ms - seconds as f64 * 1e3).abs() < 0.01, "{fault}");
        assert_eq!(left_behind(&events), [node], "{ran}");
        assert!(ran.stderr.contains("went on without it"), "{ran}");
        let stopped = Duration::from_secs(seconds);
        assert!(ran.elapsed > stopped, "nobody waited for the sleeper\n{ran}");
    }
    replaced
}

#[test]
fn a_node_that_is_stopped_for_long_is_replaced_and_learns_of_it() {
    // The machine may be busy with other tests: the promise is checked below.
    let replaced = replace_sleepers();
    assert!(replaced.iter().all(|ms| *ms < 4_000.0), "replaced after {replaced:?} ms");
}

/// ```text
/// cargo test --release --test suite -- --ignored --nocapture stops
/// ```
#[test]
#[ignore = "wants a machine that does nothing else"]
fn a_node_that_is_stopped_for_long_is_replaced_within_a_second() {
    let replaced = replace_sleepers();
    println!("replaced after {replaced:?} ms");
    assert!(replaced.iter().all(|ms| *ms < 1_000.0), "replaced after {replaced:?} ms");
}

#[test]
fn a_node_that_wakes_while_the_others_work_is_told_so() {
    let (ran, events) = run("--local 4 --backups 2 --fault stop:2@200ms+1500ms", 120, 3);
    assert_eq!(left_behind(&events), [2], "{ran}");
    let error = of_kind(&events, "error").next().expect("the sleeper says why it ends");
    let done = of_kind(&events, "finished").map(at).fold(f64::INFINITY, f64::min);
    assert!(at(error) < done, "it woke when all was over: nothing is proved\n{ran}");
}

#[test]
fn a_short_stop_changes_nothing() {
    let flags = "--local 3 --fault stop:1@150ms+150ms --fault stop:0@600ms+150ms";
    let (ran, events) = run(flags, 30, 4);
    assert_eq!(of_kind(&events, "fault").count(), 2, "{ran}");
    assert!(events.iter().all(|event| event["number"].as_u64() <= Some(1)), "{ran}");
}

#[test]
fn a_stopped_node_may_be_killed() {
    let flags = "--local 3 --fault stop:1@200ms+1500ms --fault kill:1@400ms";
    let (ran, events) = run(flags, 30, 5);
    assert_eq!(of_kind(&events, "fault").count(), 2, "{ran}");
    assert!(of_kind(&events, "commit").any(|event| event["view"] == 2), "{ran}");
}
