//! A node sleeps through a view change, a process of another job
//! stands at a node's address. What must still be true: whoever does not belong is told so in a clear
//! error and ends, the others finish, and the output is exact.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::{events, of_kind, wait_until};
use nix::sys::signal::Signal;

const PASSES: u64 = 20;

#[test]
fn a_node_may_be_started_again_before_the_first_view() {
    let mut cluster = Cluster::planned("", 2, 5);
    cluster.nodes.push(cluster.node(0));
    let mut first = cluster.node(1);
    wait_until("for the first start", || {
        of_kind(&events(&cluster.report(1)), "started").count() > 0
    });
    // Time to connect; whether it has is not seen from outside, and both must do.
    std::thread::sleep(Duration::from_millis(300));
    first.kill();
    first.wait();
    cluster.nodes.extend([cluster.node(1), cluster.node(2)]);
    let (place, ran) = cluster.wait();
    for ran in &ran {
        ran.assert_success();
        ran.assert_no_panic();
    }
    place.assert_exact(2);
}

#[test]
fn a_node_that_slept_through_a_view_change_ends_and_changes_nothing() {
    let mut cluster = Cluster::start("--backups 2", PASSES, 2);
    cluster.wait_for_commits(1, 2);
    cluster.nodes[1].signal(Signal::SIGSTOP);
    cluster.nodes[2].kill();
    wait_until("for the next view", || cluster.view(0) >= 2);
    cluster.nodes[1].signal(Signal::SIGCONT);
    let (place, ran) = cluster.wait();
    ran[0].assert_success();
    ran[0].assert_no_panic();
    place.assert_exact(PASSES);
    ran[1].assert_failed(1, &["is not in view 2", "went on without it"]);
}

#[test]
fn a_node_that_sleeps_for_a_while_is_waited_for() {
    let mut cluster = Cluster::start("", PASSES, 3);
    cluster.wait_for_commits(1, 2);
    cluster.nodes[1].signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(700));
    cluster.nodes[1].signal(Signal::SIGCONT);
    let (place, ran) = cluster.wait();
    for ran in &ran {
        ran.assert_success();
        ran.assert_no_panic();
    }
    place.assert_exact(PASSES);
}

/// Nodes that hash keys differently would look for them in different places.
#[test]
fn a_node_of_another_job_or_another_key_hash_is_refused() {
    for (flags, passes) in [("", PASSES + 1), ("--key-hash sha1", PASSES)] {
        let mut cluster = Cluster::planned("--connect-timeout-ms 3000", PASSES, 4);
        cluster.nodes = (0..2).map(|process| cluster.node(process)).collect();
        let stranger = cluster.node_with(2, flags, passes);
        let (place, ran) = cluster.wait();
        stranger.wait().assert_failed(1, &["refused", "start the same program everywhere"]);
        for ran in &ran {
            ran.assert_failed(1, &["2 did not connect within 3000 ms"]);
        }
        assert!(!place.out().join("totals").exists());
    }
}
