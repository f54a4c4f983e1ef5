//! Connections are cut and slowed down without being closed. What must still be true: what is short
//! changes nothing; a node that is cut off for long is replaced, learns it and ends, or leaves by
//! itself, or is the one that goes on; and the output is exact.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::{Place, Ran, left_behind, of_kind};
use ringfence::chaos::{Proxy, Route};
use ringfence::operators::ids::NodeId;
use serde_json::Value;

const BYTES: usize = 500_000;

fn run(flags: &str, passes: u64, seed: u64) -> (Ran, Vec<Value>) {
    let place = Place::new(BYTES, seed);
    let ran = place.word_count(flags, passes);
    ran.assert_success();
    ran.assert_no_panic();
    place.assert_exact(passes);
    let fired = of_kind(&place.events(), "fault").count();
    assert_eq!(fired, flags.matches("--fault").count(), "not every fault has happened\n{ran}");
    (ran, place.events())
}

fn view_of(events: &[Value]) -> Option<u64> {
    events.iter().filter_map(|event| event["number"].as_u64()).max()
}

#[test]
fn a_short_cut_changes_nothing() {
    let flags = "--local 3 --fault cut:1@100ms+150ms --fault cut:0@600ms+150ms";
    let (ran, events) = run(flags, 30, 1);
    assert_eq!(view_of(&events), Some(1), "{ran}");
}

#[test]
fn slowness_changes_nothing() {
    let flags = "--local 3 --fault slow:1@100ms+1s --fault slow:2@500ms+1s";
    let (ran, events) = run(flags, 40, 2);
    assert_eq!(view_of(&events), Some(1), "{ran}");
}

#[test]
fn a_node_that_is_cut_off_for_long_is_replaced_and_ends() {
    for (node, seed) in [(1, 3), (0, 4), (3, 5)] {
        let flags = format!("--local 4 --backups 2 --fault cut:{node}@30%+3s");
        let (ran, events) = run(&flags, 20, seed);
        assert_eq!(left_behind(&events), [node], "{ran}");
        assert!(ran.stderr.contains("went on without it"), "{ran}");
    }
}

/// Where each holds a copy of everything, the one that is cut off may be the faster to go on.
#[test]
fn two_nodes_that_lose_each_other_agree_on_who_goes_on() {
    let (ran, events) = run("--local 2 --fault cut:1@30%+3s", 20, 6);
    assert_eq!(left_behind(&events).len(), 1, "{ran}");
}

#[test]
fn a_cut_off_node_and_a_killed_one_are_both_replaced() {
    let flags = "--local 5 --backups 2 --fault cut:1@300ms+3s --fault kill:3@700ms";
    let (ran, events) = run(flags, 40, 7);
    assert_eq!(left_behind(&events), [1], "{ran}");
    // Until they come back.
    let without = serde_json::json!([0, 2, 4]);
    assert!(of_kind(&events, "view").any(|view| view["members"] == without), "{ran}");
}

/// Three nodes by hand, each of which sees the others through a proxy.
fn behind_a_proxy(passes: u64, seed: u64, disturb: impl FnOnce(&ringfence::chaos::ProxyHandle)) {
    let mut cluster = Cluster::planned("--backups 2", passes, seed);
    let hosts = fs::read_to_string(cluster.place.path("hosts")).expect("a hostfile");
    let addresses: Vec<SocketAddr> =
        hosts.lines().map(|line| line.parse().expect("an address")).collect();
    let nodes = (0..).map(NodeId).zip(addresses.iter().copied());
    let (proxy, handle) = Proxy::new(nodes).expect("a proxy");
    let proxy = thread::spawn(move || proxy.serve());
    for node in 0..3 {
        let seen = |peer: usize| handle.address(NodeId(node), NodeId(peer as u64));
        let lines = addresses.iter().enumerate().map(|(peer, own)| seen(peer).unwrap_or(*own));
        let lines: Vec<String> = lines.map(|address| address.to_string()).collect();
        fs::write(cluster.place.path(&format!("hosts-{node}")), lines.join("\n")).expect("a file");
    }
    cluster.own_hosts = true;
    cluster.nodes = (0..3).map(|process| cluster.node(process)).collect();
    cluster.wait_for_commits(0, 2);
    disturb(&handle);
    let (place, ran) = cluster.wait();
    assert!(ran.iter().any(|ran| ran.status.success()), "{}", ran[0]);
    for ran in &ran {
        ran.assert_no_panic();
        if !ran.status.success() {
            // Who cannot hear the other is left out, or leaves: whose turn it is depends on the moment.
            ran.assert_failed(1, &["the job goes on"]);
        }
    }
    place.assert_exact(passes);
    handle.stop();
    proxy.join().expect("it does not panic").expect("it can wait");
}

#[test]
fn a_short_one_way_cut_changes_nothing() {
    behind_a_proxy(30, 8, |proxy| {
        let route = Route { from: NodeId(1), to: NodeId(0) };
        proxy.cut_one_way(route);
        thread::sleep(Duration::from_millis(150));
        proxy.heal_one_way(route);
    });
}

#[test]
fn a_long_one_way_cut_costs_one_of_the_two_their_place() {
    for (from, to, seed) in [(1, 0, 9), (0, 2, 10)] {
        behind_a_proxy(30, seed, |proxy| {
            let route = Route { from: NodeId(from), to: NodeId(to) };
            proxy.cut_one_way(route);
            thread::sleep(Duration::from_secs(4));
            proxy.heal_one_way(route);
        });
    }
}
