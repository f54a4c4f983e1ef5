//! Nodes that have died come back: started again by the launcher or by hand, once, twice, two at once, while the
//! others still recover, and dying again before they are taken in. What must still be true: they are taken in and
//! own their share, nobody else is disturbed, and the output is exact.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::trials::sorted_lines;
use crate::support::{Place, Ran, Running, events, of_kind, wait_until};

const BYTES: usize = 500_000;
const PASSES: u64 = 30;

/// The members of the latest view.
fn members(events: &[Value]) -> Vec<u64> {
    let latest = of_kind(events, "view").max_by_key(|event| event["number"].as_u64());
    let members = latest.and_then(|event| event["members"].as_array());
    members.into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// How many partitions moved to `node`, which had just come back.
fn given_to(events: &[Value], node: u64) -> u64 {
    let takeovers = of_kind(events, "view").filter_map(|event| event["takeovers"].as_array());
    let own = takeovers.flatten().filter(|takeover| takeover["node"] == node);
    own.filter_map(|takeover| takeover["partitions"].as_u64()).max().unwrap_or(0)
}

fn restarts(events: &[Value]) -> Vec<u64> {
    of_kind(events, "restarted").filter_map(|event| event["target"].as_u64()).collect()
}

/// Runs a word count whose nodes are killed; returns what happened.
#[track_caller]
fn comes_back(flags: &str, passes: u64, seed: u64) -> (Ran, Vec<Value>) {
    let place = Place::new(BYTES, seed);
    let ran = place.word_count(flags, passes);
    place.assert_survived(&ran, passes);
    ran.assert_no_panic();
    (ran, place.events())
}

#[test]
fn the_launcher_starts_a_killed_node_again_and_it_gets_its_share() {
    for (node, seed) in [(1, 1), (0, 2), (2, 3)] {
        let flags = format!("--local 3 --fault kill:{node}@30%");
        let (ran, events) = comes_back(&flags, PASSES, seed);
        assert_eq!(restarts(&events), [node], "{ran}");
        assert_eq!(members(&events), [0, 1, 2], "{ran}");
        assert!(given_to(&events, node) > 80, "{ran}");
        assert!(ran.stderr.contains(&format!("starting node {node} again")), "{ran}");
        assert!(ran.stderr.contains(&format!("node {node} taken in")), "{ran}");
        // It is one failure, of which all else follows on purpose.
        assert_eq!(of_kind(&events, "failure_report").count(), 1, "{ran}");
        let ended = of_kind(&events, "finished").count();
        assert_eq!(ended, 3, "all three finish\n{ran}");
    }
}

#[test]
fn a_node_of_several_workers_comes_back() {
    let (ran, events) = comes_back("--local 3 -w 2 --fault kill:1@30%", PASSES, 4);
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
    assert!(given_to(&events, 1) > 80, "{ran}");
}

#[test]
fn a_node_comes_back_twice() {
    let flags = "--local 3 --fault kill:1@15% --fault kill:1@55%";
    let (ran, events) = comes_back(flags, 2 * PASSES, 5);
    assert_eq!(restarts(&events), [1, 1], "{ran}");
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
}

#[test]
fn two_nodes_come_back_at_once() {
    let flags = "--local 4 --backups 2 --fault kill:1@30% --fault kill:2@30%";
    let (ran, events) = comes_back(flags, 2 * PASSES, 6);
    let mut nodes = restarts(&events);
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 2], "{ran}");
    assert_eq!(members(&events), [0, 1, 2, 3], "{ran}");
    assert!(given_to(&events, 1) > 50 && given_to(&events, 2) > 50, "{ran}");
}

#[test]
fn one_node_comes_back_to_the_last_that_is_left() {
    let (ran, events) = comes_back("--local 2 --fault kill:0@30%", PASSES, 7);
    assert_eq!(members(&events), [0, 1], "{ran}");
    assert!(given_to(&events, 0) > 100, "{ran}");
}

/// With one backup and three nodes, three deaths one after the other are survived only by those who came back.
#[test]
fn those_who_came_back_carry_on_for_those_who_die_later() {
    let flags = "--local 3 --fault kill:0@15% --fault kill:1@45% --fault kill:2@75%";
    let (ran, events) = comes_back(flags, 3 * PASSES, 8);
    assert_eq!(restarts(&events), [0, 1, 2], "{ran}");
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
}

#[test]
fn a_node_that_slept_for_long_is_replaced_by_a_fresh_start_of_it() {
    let (ran, events) = comes_back("--local 3 --fault stop:1@15%+2s", 3 * PASSES, 9);
    assert_eq!(restarts(&events), [1], "{ran}");
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
}

#[test]
fn a_node_comes_back_through_the_proxy_of_other_faults() {
    let flags = "--local 3 --fault slow:2@100ms+500ms --fault kill:1@30%";
    let (ran, events) = comes_back(flags, PASSES, 10);
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
}

#[test]
fn the_budget_bounds_how_often() {
    let flags = "--local 3 --node-restarts 1/600 --fault kill:1@15% --fault kill:1@55%";
    let (ran, events) = comes_back(flags, 2 * PASSES, 11);
    assert_eq!(restarts(&events), [1], "{ran}");
    assert_eq!(members(&events), [0, 2], "{ran}");
    assert!(ran.stderr.contains("(see --node-restarts)"), "{ran}");
}

#[test]
fn nobody_comes_back_who_is_not_wanted() {
    let (ran, events) = comes_back("--local 3 --node-restarts 0 --fault kill:1@30%", 6, 12);
    assert_eq!(restarts(&events), [0; 0], "{ran}");
    assert_eq!(members(&events), [0, 2], "{ran}");
}

/// Jobs of other kinds, against the same jobs on bare timely and differential.
#[track_caller]
fn equals_bare(name: &str, flags: &str, own: &str, node: u64) {
    let place = tempfile::tempdir().unwrap();
    let args = |flags: &str, out: &Path| -> Vec<String> {
        let out = format!("--out={}", out.display());
        let words = flags.split_whitespace().chain(["--"]).chain(own.split_whitespace());
        words.map(str::to_owned).chain([out]).collect()
    };
    let (bare, out) = (place.path().join("bare"), place.path().join("out"));
    Running::start(&format!("{name}_bare"), &args("-w 2", &bare)).wait().assert_success();
    let report = place.path().join("report.json");
    let flags = format!("{flags} --report {}", report.display());
    let ran = Running::start(name, &args(&flags, &out)).wait();
    ran.assert_success();
    ran.assert_no_panic();
    assert!(sorted_lines(&out) == sorted_lines(&bare), "{name} differs\n{ran}");
    let events = events(&report);
    assert_eq!(restarts(&events), [node], "{ran}");
    assert_eq!(members(&events), [0, 1, 2], "{ran}");
}

#[test]
fn a_job_that_is_fed_by_hand_takes_a_node_in_again() {
    let own = "--rounds 150 --pace-ms 15";
    equals_bare("word_count_by_hand", "--local 3 --fault kill:1@300ms", own, 1);
    equals_bare("word_count_by_hand", "--local 3 --fault kill:0@300ms", own, 0);
}

#[test]
fn a_differential_job_takes_a_node_in_again() {
    equals_bare(
        "dd_reach",
        "--local 3 --fault kill:1@300ms",
        "--nodes 40 --rounds 120 --pace-ms 15",
        1,
    );
}

// By hand.

fn text_of(cluster: &Cluster, process: usize, text: &str) -> bool {
    let events = events(&cluster.report(process));
    of_kind(&events, "message").any(|event| event["text"].as_str().unwrap_or("").contains(text))
}

/// Whether process 0, or another, has told of a view with all three.
fn are_all_in(cluster: &Cluster, process: usize, view: u64) -> bool {
    let events = events(&cluster.report(process));
    let latest = of_kind(&events, "view").filter_map(|event| event["number"].as_u64()).max();
    latest > Some(view) && members(&events) == [0, 1, 2]
}

#[track_caller]
fn assert_all_finish(cluster: Cluster, passes: u64) {
    let (place, ran) = cluster.wait();
    for ran in &ran {
        ran.assert_success();
        ran.assert_no_panic();
    }
    place.assert_exact(passes);
}

#[test]
fn a_killed_process_is_started_again_by_hand_with_the_same_command() {
    for (victim, flags) in [(1, ""), (0, ""), (2, "-w 2")] {
        let mut cluster = Cluster::start(flags, PASSES, 20 + victim as u64);
        cluster.kill_after(victim, 2);
        let other = (victim + 1) % 3;
        wait_until("for the next view", || cluster.view(other) >= 2);
        cluster.nodes[victim] = cluster.node(victim);
        wait_until("to be taken in", || are_all_in(&cluster, other, 2));
        assert_all_finish(cluster, PASSES);
    }
}

#[test]
fn a_process_may_come_back_before_its_death_is_noticed_or_while_the_others_recover() {
    for (seed, pause_ms) in [(30, 0), (31, 5), (32, 30)] {
        let mut cluster = Cluster::start("--suspect-ms 3000", PASSES, seed);
        cluster.kill_after(1, 2);
        std::thread::sleep(Duration::from_millis(pause_ms));
        cluster.nodes[1] = cluster.node(1);
        wait_until("to be taken in", || are_all_in(&cluster, 0, 1));
        assert_all_finish(cluster, PASSES);
    }
}

#[test]
fn a_process_may_die_again_while_it_joins() {
    let mut cluster = Cluster::start("", PASSES, 40);
    cluster.kill_after(1, 2);
    wait_until("for the next view", || cluster.view(0) >= 2);
    for round in 0..2 {
        cluster.nodes[1] = cluster.node(1);
        wait_until("for it to ask", || {
            let events = events(&cluster.report(1));
            let texts = of_kind(&events, "message").filter_map(|event| event["text"].as_str());
            texts.filter(|text| text.contains("asking to be taken in")).count() > round
        });
        cluster.nodes[1].kill();
    }
    cluster.nodes[1] = cluster.node(1);
    let view = cluster.view(0);
    wait_until("to be taken in", || are_all_in(&cluster, 0, view.max(2)));
    assert_all_finish(cluster, PASSES);
}

#[test]
fn a_process_with_other_flags_is_not_taken_in() {
    let mut cluster = Cluster::start("", PASSES, 50);
    cluster.kill_after(1, 2);
    wait_until("for the next view", || cluster.view(0) >= 2);
    let other = cluster.node_with(1, "", PASSES + 1).wait();
    other.assert_failed(1, &["belongs to another job"]);
    let (place, ran) = cluster.wait();
    ran[0].assert_success();
    ran[2].assert_success();
    place.assert_exact(PASSES);
}

#[test]
fn who_comes_back_to_nobody_is_told_so() {
    let place = Place::new(1000, 1);
    let flags =
        format!("--connect-timeout-ms 2000 --register {}", place.path("register").display());
    let mut cluster = Cluster::start(&flags, PASSES, 51);
    cluster.wait_for_commits(0, 2);
    cluster.nodes.iter_mut().for_each(Running::kill);
    cluster.nodes.drain(..).for_each(|node| drop(node.wait()));
    let ran = cluster.node(1).wait();
    ran.assert_failed(
        1,
        &["nodes 0, 1, 2 of view", "could not be reached within 2000 ms", "is lost"],
    );
    assert!(text_of(&cluster, 1, "asking to be taken in"), "{ran}");
}
