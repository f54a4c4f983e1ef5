//! A node does nothing for some seconds while the others connect to it, as on a machine that is busy
//! with something else. What must be true: it is waited for, the cluster forms, and nothing fails.
//!
//! What users saw: the others gave up the connection that the node had taken meanwhile, and the node
//! refused the next one, "node 1 is connected here already".

use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::{Place, Running, events, free_addresses, of_kind, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than one attempt to connect had been given.
const SLEEP: Duration = Duration::from_millis(3500);

#[test]
fn a_node_that_is_slow_to_answer_is_waited_for() {
    let place = Place::new(100_000, 1);
    let hosts = place.path("hosts");
    fs::write(&hosts, free_addresses(3).join("\n")).unwrap();
    let report = |process: usize| place.path(&format!("report-{process}.json"));
    let start = |process: usize| {
        let mut args = place.args(&format!("-n 3 -p {process} -h {}", hosts.display()), 1);
        args.retain(|arg| !arg.starts_with("--report"));
        args.insert(0, format!("--report={}", report(process).display()));
        Running::start("word_count", &args)
    };
    let mut running = vec![start(0)];
    let process_id = || {
        let events = events(&report(0));
        of_kind(&events, "started").next().and_then(|event| event["process_id"].as_i64())
    };
    wait_until("for node 0", || process_id().is_some());
    // It listens right after it has told that it started.
    thread::sleep(Duration::from_millis(300));
    let node_0 = Pid::from_raw(process_id().unwrap() as i32);
    assert!(!running[0].has_ended());
    kill(node_0, Signal::SIGSTOP).unwrap();
    running.extend([start(1), start(2)]);
    thread::sleep(SLEEP);
    kill(node_0, Signal::SIGCONT).unwrap();
    for (process, running) in running.into_iter().enumerate() {
        let ran = running.wait();
        ran.assert_success();
        ran.assert_no_panic();
        let events = events(&report(process));
        assert!(events.iter().all(|event| event["number"].as_u64() <= Some(1)), "{ran}");
    }
    place.assert_exact(1);
}
